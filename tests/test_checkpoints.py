"""What a notebook should not show of checkpoints: kills, full disks, damage of every byte, foreign files."""
import io, os, pickle, random, signal, subprocess, sys, time, zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mlops_nb.settings import MlopsError, StoreError, StoreFullError, TrainingError
from mlops_nb.training.checkpoints import (CheckpointError, Due, bare_model, check_same, describe_model, keep_random_states,
                                           load_checkpoint, random_states, save_checkpoint, set_random_states)

LONG = "โฟลเดอร์ ที่มี ชื่อยาวมาก/" * 5


def small(width=8): return nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 3))
def names(folder): return sorted(each.name for each in folder.iterdir())


def message(call, kind=CheckpointError):
    with pytest.raises(kind) as caught: call()
    return str(caught.value)


@pytest.fixture
def path(tmp_path): return tmp_path/LONG/"fit-1.pt"


def test_everything_a_training_keeps_comes_back(path):
    model = small()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=9)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    for _ in range(3):
        model(torch.randn(16, 4)).square().mean().backward()
        optimizer.step(); schedule.step()
    plateau.step(np.float64(0.3))
    save_checkpoint(path, {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(),
                           "plateau": plateau.state_dict(), "best": float("inf"), "history": [{"loss": np.float32(0.5), "epoch": 1}],
                           "large": 2**80, "none": None, "nested": (1, ["a", {"b"}], b"c", 1j),
                           "kinds": [torch.float64, torch.device("cpu")]})
    state = load_checkpoint(path)
    fresh = small()
    other = torch.optim.AdamW(fresh.parameters(), lr=1e-3)
    fresh.load_state_dict(state["model"]); other.load_state_dict(state["optimizer"])
    for ours, theirs in zip(fresh.state_dict().values(), model.state_dict().values()): assert torch.equal(ours, theirs)
    for ours, theirs in zip(other.state.values(), optimizer.state.values()):
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert state["schedule"] == schedule.state_dict() and state["plateau"] == plateau.state_dict()
    assert (state["best"], state["large"], state["none"]) == (float("inf"), 2**80, None)
    assert state["nested"] == (1, ["a", {"b"}], b"c", 1j) and state["kinds"] == [torch.float64, torch.device("cpu")]
    assert state["history"] == [{"loss": 0.5, "epoch": 1}] and type(state["history"][0]["loss"]) is float
    assert isinstance(state["model"], OrderedDict) and state["model"]._metadata["1"] == {"version": 2} # of the batch normalisation
    assert names(path.parent) == ["fit-1.pt"]


def test_other_programs_read_it(path):
    save_checkpoint(path, {"weight": torch.arange(5)})
    assert torch.load(path, weights_only=True)["weight"].tolist() == [0, 1, 2, 3, 4]
    assert zipfile.ZipFile(path).testzip() is None


def test_a_view_does_not_bring_its_whole_tensor(path):
    save_checkpoint(path, {"rows": torch.zeros(1_000_000)[:10], "columns": torch.arange(12.).reshape(3, 4)[:, 1]})
    assert path.stat().st_size < 10_000 and load_checkpoint(path)["columns"].tolist() == [1, 5, 9]


class Thing: "What only its own code can read back"


@pytest.mark.parametrize("value, place", [
    (Thing(), "state['schedule']"), ({"a": [0, Thing()]}, "state['schedule']['a'][1]"), (np.zeros(3), "state['schedule']"),
    (Path("a"), "state['schedule']"), (lambda: 0, "state['schedule']"), ({Thing(): 1}, "the key")])
def test_what_could_not_be_read_is_not_written(path, value, place):
    save_checkpoint(path, {"step": 1})
    text = message(lambda: save_checkpoint(path, {"schedule": value}))
    assert place in text and "holds tensors, numbers, texts" in text and "turn it into one of these" in text
    assert load_checkpoint(path) == {"step": 1} and names(path.parent) == ["fit-1.pt"]


def test_each_byte_counts(path):
    save_checkpoint(path, {"weight": torch.randn(3, 3), "step": 7})
    whole = path.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        assert "cannot be used" in message(lambda: load_checkpoint(path)), place


def test_each_length_counts(path):
    save_checkpoint(path, {"weight": torch.randn(30, 30), "step": 7})
    whole = path.read_bytes()
    for length in [*range(0, len(whole), 37), *range(len(whole) - 60, len(whole))]:
        path.write_bytes(whole[:length])
        text = message(lambda: load_checkpoint(path))
        assert str(path) in text and "remove it to train from the beginning" in text
        if length > 4: assert f"ends early, after {length} bytes" in text or "its end " in text, text
    path.write_bytes(whole + b"\0")
    assert "cannot be used" in message(lambda: load_checkpoint(path))


class Runs:
    def __init__(self, path): self.path = path
    def __reduce__(self): return os.mkdir, (str(self.path),)


def test_reading_runs_no_code(tmp_path):
    "Neither a plain pickle, nor one that was given our own mark"
    import mlops_nb.training.checkpoints as room
    for write in (lambda file: pickle.dump(Runs(tmp_path/"ran"), file), lambda file: torch.save({"model": Runs(tmp_path/"ran")}, file),
                  lambda file: room._write({"model": Runs(tmp_path/"ran")}, file)):
        with (tmp_path/"fit-1.pt").open("wb") as file: write(file)
        assert "cannot be used" in message(lambda: load_checkpoint(tmp_path/"fit-1.pt"))
        assert not (tmp_path/"ran").exists()
    assert "more than tensors and plain values (UnpicklingError)" in message(lambda: load_checkpoint(tmp_path/"fit-1.pt"))


def test_foreign_files_are_named(tmp_path):
    path = tmp_path/"fit-1.pt"
    buffer = io.BytesIO()
    torch.save({"model": {}}, buffer)
    for content, answer in [(b"", "it is empty"), (b"\x89PNG", "a file of another kind"), (b"a,b\n1,2\n" * 99, "a file of another kind"),
                            (buffer.getvalue(), "another program wrote it"), (buffer.getvalue()[:-9], "it ends early, after")]:
        path.write_bytes(content)
        assert answer in message(lambda: load_checkpoint(path))


def test_a_later_form_is_not_taken_for_damage(path):
    save_checkpoint(path, {"step": 1})
    path.write_bytes(path.read_bytes().replace(b"checkpoint 1 crc", b"checkpoint 2 crc"))
    assert "a later version of mlops_nb" in message(lambda: load_checkpoint(path))


def test_what_is_not_there_and_what_is_a_folder(path):
    assert load_checkpoint(path) is None and load_checkpoint(path.parent/"x"/"fit-2.pt") is None
    path.mkdir(parents=True)
    assert "read the checkpoint" in message(lambda: load_checkpoint(path), StoreError)


def run(code, *arguments, **options):
    "A Python program of its own"
    arguments = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)


FULL = """
import resource, sys, torch
from mlops_nb.settings import StoreError
from mlops_nb.training.checkpoints import load_checkpoint, save_checkpoint
save_checkpoint(sys.argv[1], {"step": 1})
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
for size in (49_700, 50_000, 1_000_000): # too large in the last block, in the tensor, and by far
    try: save_checkpoint(sys.argv[1], {"step": 2, "weight": torch.zeros(size)})
    except StoreError as error: print(type(error).__name__, error)
    else: raise SystemExit("it was written")
    assert load_checkpoint(sys.argv[1]) == {"step": 1}
"""


def test_a_disk_that_takes_no_more_keeps_the_old_one(path):
    program = run(FULL, path)
    text, _ = program.communicate(timeout=120)
    assert program.returncode == 0, text
    assert text.count("File too large") == 3 and "write the checkpoint in" in text and names(path.parent) == ["fit-1.pt"]


def test_a_full_disk(tmp_path):
    folder = tmp_path/"small disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], capture_output=True)
    if mounted.returncode: pytest.skip("needs the right to mount")
    try:
        save_checkpoint(folder/"fit-1.pt", {"step": 1})
        text = message(lambda: save_checkpoint(folder/"fit-1.pt", {"weight": torch.zeros(1_000_000)}), StoreFullError)
        assert "No space left on device" in text and "free some space" in text
        assert load_checkpoint(folder/"fit-1.pt") == {"step": 1} and names(folder) == ["fit-1.pt"]
    finally: subprocess.run(["umount", "-l", folder], check=True)


def test_a_folder_that_may_not_be_written(path, monkeypatch):
    "Root may write everywhere, so the system's answer is given here"
    save_checkpoint(path, {"step": 1})
    if os.geteuid():
        path.parent.chmod(0o500)
    else:
        opened = Path.open
        def refuse(self, mode="r", *rest, **more):
            if self.suffix == ".part": raise PermissionError(13, "Permission denied")
            return opened(self, mode, *rest, **more)
        monkeypatch.setattr(Path, "open", refuse)
    try: text = message(lambda: save_checkpoint(path, {"step": 2}), StoreError)
    finally: path.parent.chmod(0o700)
    assert "Permission denied" in text and "may read and write there" in text and load_checkpoint(path) == {"step": 1}


WRITER = """
import sys, torch
from mlops_nb.training.checkpoints import load_checkpoint, save_checkpoint
before = load_checkpoint(sys.argv[1])
print(before["step"] if before else 0, flush=True)
step = before["step"] if before else 0
while True:
    step += 1
    save_checkpoint(sys.argv[1], {"step": step, "weight": torch.full((200_000,), step)})
    print(step, flush=True)
"""


def test_killed_at_any_moment(path):
    "What stands under the name is the last one that was finished, or the next, whole"
    generator = random.Random(0)
    for _ in range(4):
        writer = run(WRITER, path)
        writer.stdout.readline(); writer.stdout.readline()
        time.sleep(generator.random()*0.05)
        writer.send_signal(signal.SIGKILL)
        told = [int(line) for line in writer.communicate()[0].split()]
        state = load_checkpoint(path)
        assert (state["weight"] == state["step"]).all()
        if told: assert state["step"] - told[-1] in (0, 1)


def test_what_a_killed_writer_left_is_cleared_away(path):
    save_checkpoint(path, {"step": 1})
    old, young = path.parent/".1-aa.part", path.parent/".2-bb.part"
    old.write_bytes(b"x"); young.write_bytes(b"x")
    os.utime(old, (0, 0))
    save_checkpoint(path, {"step": 2})
    assert names(path.parent) == [".2-bb.part", "fit-1.pt"]


def draws(): return [random.random(), random.gauss(0, 1), float(np.random.normal()), *torch.randn(3).tolist(), *torch.rand(17).tolist()]


def test_random_numbers_go_on(path):
    random.gauss(0, 1); np.random.normal(); torch.randn(5) # each has kept half of a pair
    save_checkpoint(path, random_states())
    expected = draws() + draws()
    set_random_states(load_checkpoint(path))
    with keep_random_states(): assert draws() == expected[:len(expected)//2]
    with pytest.raises(ZeroDivisionError), keep_random_states(): draws(); 1/0 # noqa: B018
    assert draws() + draws() == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_random_numbers_of_gpus_go_on(path):
    save_checkpoint(path, random_states("cuda"))
    expected = torch.rand(9, device="cuda").tolist()
    torch.rand(5, device="cuda")
    set_random_states(load_checkpoint(path), "cuda")
    assert torch.rand(9, device="cuda").tolist() == expected
    set_random_states(load_checkpoint(path), "cpu") # from GPU to CPU: theirs are left alone


FACTS = {"batch_size": 256, "seed": 0, "rows": 1000, "data": [[[1000, 4], "float32"], [[1000], "int64"]]}


def saved(path, model, facts=FACTS):
    save_checkpoint(path, {"parameters": describe_model(model), "facts": facts})
    return load_checkpoint(path)


def test_the_same_training_goes_on(path):
    state = saved(path, small())
    check_same(state, small(), FACTS)
    check_same(state, torch.compile(small()), dict(reversed(FACTS.items())))
    assert bare_model(torch.compile(small())).__class__ is nn.Sequential


@pytest.mark.parametrize("other, answers", [
    (lambda: small(9), ["'0.weight' has shape (8, 4) in it, and (9, 4) in this model"]),
    (lambda: small().double(), ["'0.weight' is float32 in it, and float64 in this model"]),
    (lambda: small()[:2], ["'3.weight' of shape (3, 8)", "this model has none of that name"]),
    (lambda: nn.Sequential(*small(), nn.Linear(3, 2)), ["this model has the parameter '4.weight' of shape (2, 3)"])])
def test_another_model_is_refused(path, other, answers):
    state = saved(path, small())
    text = message(lambda: check_same(state, other(), FACTS, path))
    assert all(answer in text for answer in answers) and str(path) in text and "give `fit` what it was made with" in text


@pytest.mark.parametrize("other, answer", [
    ({"batch_size": 128}, "batch_size was 256 in it, and is 128 now"), ({"seed": None}, "seed was 0 in it, and is None now"),
    ({"rows": 999}, "rows was 1000 in it, and is 999 now"), ({"data": [[[1000, 4], "float32"]]}, "data was [["),
    ({"ranks": 2}, "ranks was 'not set' in it, and is 2 now")])
def test_other_facts_are_refused(path, other, answer):
    state = saved(path, small())
    text = message(lambda: check_same(state, small(), FACTS | other, path))
    assert answer in text and "remove it or begin a new run" in text


def test_a_fact_that_is_no_longer_known(path):
    state = saved(path, small(), FACTS | {"ranks": 2})
    assert "ranks was 2 in it, and is 'not set' now" in message(lambda: check_same(state, small(), FACTS))


def test_writing_takes_its_share_of_the_time():
    now = 0.0
    due = Due(10, 0.05, lambda: now)
    written = 0
    for _ in range(10_000):
        now += 1
        if due():
            with due.measured(): now += 3
            written += 3
    assert 0.045 < written/now < 0.0503
    assert issubclass(CheckpointError, TrainingError) and issubclass(TrainingError, MlopsError)


def test_a_cheap_one_comes_as_often_as_it_may():
    now = 0.0
    due = Due(0, 1, lambda: now)
    assert due()
    with due.measured(): now += 3
    assert due()
