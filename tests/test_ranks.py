"""A notebook in several processes: one tracked run, one model, and one reason where it ends badly."""
import json

import nbformat
import psutil
import pytest
import torch
from commands import call, refuse
from notebooks import write_notebook

from mlops_nb.experiments.runner import run_notebook
from mlops_nb.settings import open_workspace
from mlops_nb.store.door import open_store

TRAIN = """
import os, torch
from torch import nn
from mlops_nb import start_run
from mlops_nb.training.loop import fit
run = start_run()
torch.manual_seed(0)
x = torch.randn(203, 6, dtype=torch.float64)
y = x[:, 0] * x[:, 1]
model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1)).double()
def loss(model, x, y): return nn.functional.mse_loss(model(x)[:, 0], y)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
trained = fit(model, (x, y), loss, optimizer, epochs=4, batch_size=32, run=run, log_every=5,
              validate=lambda model: {"validation_loss": loss(model, x, y)})"""
LOG = """
torch.save([each.detach() for each in model.parameters()], "weights.pt")
artifact = run.log_artifact("weights.pt", name="weights", type="model")
print("rank", os.environ.get("RANK"), artifact.reference)
run.finish()"""


@pytest.fixture
def store(tmp_path):
    return open_store(open_workspace(tmp_path))


def weights(store, record):
    artifact = next(each for relation, each in store.artifacts.edges_of(record.id) if relation == "logged")
    return torch.load(artifact.path("weights.pt"), weights_only=True)


def test_two_ranks_train_what_one_process_trains(store, tmp_path):
    notebook = write_notebook(tmp_path / "train.ipynb", TRAIN, LOG)
    alone = run_notebook(store, notebook, cwd=tmp_path)
    together = run_notebook(store, notebook, cwd=tmp_path, processes=2)
    assert (alone.status, together.status) == ("finished", "finished"), together.error
    assert len(store.runs.list()) == 2, "the second rank has no run of its own"
    assert alone.metrics.keys() == together.metrics.keys()
    for ours, theirs in zip(weights(store, alone), weights(store, together), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    folder = store.runs.folder(together.id)
    second = nbformat.read(folder / "rank-1.ipynb", 4)
    assert second.cells[-1].outputs[0].text == "rank 1 weights:v1\n"
    assert together.wandb_state == "complete"


def test_a_failing_rank_is_named_and_ends_the_others(store, tmp_path):
    notebook = write_notebook(tmp_path / "train.ipynb", "import os, time", "if os.environ['RANK'] == '1': int('seven')", "time.sleep(300)")
    record = run_notebook(store, notebook, cwd=tmp_path, processes=2)
    assert record.status == "failed"
    assert (record.error["name"], record.error["cell_index"]) == ("ValueError", 1)
    assert record.error["message"].startswith("rank 1 of 2: invalid literal")
    assert record.duration_s < 200


def test_a_killed_rank_takes_the_others_along(store, tmp_path):
    dies = "if os.environ['RANK'] == '1': os.kill(os.getpid(), 9)"
    tell = "open(f\"pid-{os.environ['RANK']}\", 'w').write(str(os.getpid()))"
    train = TRAIN.replace("trained = fit(", f"{tell}\ndef die(state):\n    if state.step == 5:\n        {dies}\ntrained = fit(")
    train = train.replace("run=run,", "run=run, on_step=die,")
    record = run_notebook(store, write_notebook(tmp_path / "train.ipynb", train), cwd=tmp_path, processes=2)
    assert record.status == "killed"
    assert record.error["message"].startswith("rank 1 of 2: ") and "SIGKILL" in record.error["message"]
    for rank in range(2):
        assert not psutil.pid_exists(int((tmp_path / f"pid-{rank}").read_text()))


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_training_is_resumed_to_the_same_bits(store, tmp_path, processes):
    die = """
def die(state):
    with open("steps", "a") as file: file.write(f"{state.step}\\n")
    if state.step == 23 and os.environ.get("RANK", "0") == str(RANKS - 1) and not os.path.exists("killed"):
        open("killed", "w").close()
        os.kill(os.getpid(), 9)
trained = fit(""".replace("RANKS", str(processes))
    train = TRAIN.replace("trained = fit(", die).replace("run=run,", "run=run, on_step=die, checkpoint_every_s=0,")
    notebook = write_notebook(tmp_path / "train.ipynb", train, LOG)
    (tmp_path / "killed").touch()
    whole = run_notebook(store, notebook, cwd=tmp_path, processes=processes)
    (tmp_path / "killed").unlink()
    killed = run_notebook(store, notebook, cwd=tmp_path, processes=processes)
    assert (whole.status, killed.status) == ("finished", "killed")
    (tmp_path / "steps").unlink()
    call(tmp_path, "resume", killed.id)
    resumed = store.runs.list()[0]
    assert (resumed.status, resumed.resumed_from, resumed.request["processes"]) == ("finished", killed.id, processes)
    assert min(map(int, (tmp_path / "steps").read_text().split())) > 20, "it went on from its checkpoint"
    for ours, theirs in zip(weights(store, resumed), weights(store, whole), strict=True):
        assert torch.equal(ours, theirs)


def test_the_command(store, tmp_path):
    write_notebook(tmp_path / "train.ipynb", "import os\nprint('rank', os.environ['RANK'], 'of', os.environ['WORLD_SIZE'])")
    record = json.loads(call(tmp_path, "run", "train.ipynb", "--nproc", "3", "--json"))
    assert record["status"] == "finished" and record["request"]["processes"] == 3
    said = [nbformat.read(path, 4).cells[0].outputs[0].text for path in
            (store.runs.folder(record["id"]) / name for name in ("notebook.ipynb", "rank-1.ipynb", "rank-2.ipynb"))]
    assert said == [f"rank {rank} of 3\n" for rank in range(3)]
    assert "--nproc is for a notebook" in refuse(tmp_path, "run", "--nproc", "2")
