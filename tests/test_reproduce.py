"""Runs that are repeated: what is identical, what is not and where, and what cannot be repeated."""
import io
import json
import math
import zipfile

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from notebooks import write_notebook

from mlops_nb.cli import main
from mlops_nb.evaluation.measurements import find_group
from mlops_nb.experiments.equality import find_differences, is_time
from mlops_nb.experiments.file_differences import array_differences, file_differences
from mlops_nb.experiments.reproduce import reproduce
from mlops_nb.experiments.runner import run_notebook
from mlops_nb.experiments.verdict import inner_runs
from mlops_nb.settings import ParameterError, StoreError, open_workspace
from mlops_nb.store.artifacts import list_files
from mlops_nb.store.door import open_store

PARAMETERS = "rate: float = 0.1\nseed: int | None = 0"
TRAIN = """
import json, random, time
from pathlib import Path
from mlops_nb import start_run
from rates import FACTOR
run = start_run()
random.seed(seed)
size = len(run.use_artifact("digits:latest").path().read_text())
loss = random.random()
for epoch in range(3):
    loss *= FACTOR * rate
    run.log({"loss": loss, "size": size, "epoch_s": time.perf_counter(), "gap": float("nan")})
Path("model.json").write_text(json.dumps({"weights": [1, loss], "fit_seconds": time.perf_counter()}))
run.log_artifact("model.json", name="model", type="model", aliases=["candidate"])
run.summary["own"] = json.loads(run.use_artifact("model:latest").path().read_text())["weights"][1]
"""


@pytest.fixture
def store(tmp_path, monkeypatch):
    "The store of a workspace without W&B, for speed; in a folder with a space and Thai letters."
    root = tmp_path / "my ตัวเลข"
    (root / "sub").mkdir(parents=True)
    monkeypatch.setenv("MLOPS_NB_WORKSPACE", str(root))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(root)
    (root / "rates.py").write_text("FACTOR = 0.5")
    write_notebook(root / "train.ipynb", PARAMETERS, TRAIN)
    store = open_store(open_workspace(root))
    log(store, "digits", "12345")
    return store


def log(store, name, text):
    "A new version of a data set, by a run of its own."
    source = store.runs.create(project="digits", name="source", status="finished")
    (store.workspace.root / f"{name}.txt").write_text(text)
    return store.artifacts.log(source.id, name, "dataset", list_files(store.workspace.root / f"{name}.txt"))


def train(store, **options):
    root = store.workspace.root
    record = run_notebook(store, root / "train.ipynb", cwd=root, **options)
    assert record.status == "finished", record.error
    return record


def call(*arguments):
    return CliRunner().invoke(main, [str(each) for each in arguments])


# With a kernel


def test_a_run_is_repeated_as_it_was_whatever_changed_since(store):
    original = train(store, parameters={"rate": 0.2}, tags=("night",))
    log(store, "digits", "1234567")  # `digits:latest` has moved
    aliases = {each.reference: each.aliases for each in store.artifacts.versions()}
    write_notebook(store.workspace.root / "train.ipynb", PARAMETERS.replace("0.1", "0.7"), "1 / 0")  # another default, and a mistake
    found = reproduce(store, original)
    assert found.verdict.status == "identical", found.message
    assert found.verdict.compared == {"endings": 1, "rows": 9, "metrics": 4, "artifacts": 1}
    assert found.verdict.left_out == ("epoch_s", "model: model.json, fit_seconds")
    assert found.conditions.to_dict() == {"inputs": ["digits:v0"], "changed": {
        "notebook": ["train.ipynb has changed since; it runs as it was"], "code": [], "packages": [], "machine": []}}
    again = found.record
    assert (again.reproduces, again.tags, again.parameters, again.group_id) == (original.id, ("reproduction",), original.parameters, None)
    assert (again.notebook_blob, again.request["parameters"]) == (original.notebook_blob, {"rate": 0.2})
    used = [artifact.reference for relation, artifact in store.artifacts.edges_of(again.id) if relation == "used"]
    assert used == ["digits:v0", "model:v1"]  # its own model, not the one that `latest` is
    assert {each.reference: each.aliases for each in store.artifacts.versions()} == {"model:v1": (), **aliases}
    assert [store.runs.get(each).id for each in ("train", again.id, again.id[:7])] == [original.id, again.id, again.id]
    assert store.runs.get("latest").name == "source"  # what logged the newer version


def test_a_group_is_repeated_in_order_and_stays_as_it_is(store):
    root = store.workspace.root
    write_notebook(root / "prepare.ipynb", "text: str = '123'", "from pathlib import Path\nfrom mlops_nb import start_run\n"
                   "run = start_run()\nPath('digits.txt').write_text(text)\nrun.log_artifact('digits.txt', name='digits')")
    (root / "pipeline.toml").write_text("""
        name = "digits"
        [[step]]
        name = "prepare"
        notebook = "prepare.ipynb"
        [[step]]
        name = "train"
        notebook = "train.ipynb"
        """)
    group = json.loads(call("run", "--json").stdout)
    second = json.loads(call("run", "-p", "prepare.text", "12345678", "--json").stdout)
    assert second["passed"]
    result = call("reproduce", group["group"], "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [(each["name"], each["verdict"]) for each in found] == [("prepare", "identical"), ("train", "identical")]
    assert found[1]["inputs"] == ["digits:v1"]
    members = [step["run"]["id"] for step in group["steps"]]
    assert sorted(each.id for each in store.runs.list(group_id=group["group"])) == sorted(members)
    assert find_group(store, "latest") == second["group"]  # the newest, since what ran after it are repetitions
    named = call("reproduce", "train", "--discard", "--json")
    assert json.loads(named.stdout)[0]["original"] == second["steps"][1]["run"]["id"]
    assert store.artifacts.use(None, "digits").version == "v2"  # what the second group made
    assert json.loads(call("run", "--json").stdout)["steps"][0]["status"] == "unchanged"


@pytest.mark.parametrize(("change", "place", "step"), [("code", "loss", 0), ("seed", "loss", 0), ("data", "size", 0)])
def test_what_differs_is_named_with_its_place(store, change, place, step):
    root = store.workspace.root
    if change == "data":  # what a notebook reads without telling anybody
        write_notebook(root / "train.ipynb", PARAMETERS, TRAIN.replace('run.use_artifact("digits:latest").path()', "Path('table.csv')"))
        (root / "table.csv").write_text("12345")
    original = train(store, parameters={"seed": None if change == "seed" else 3})
    if change == "code":
        (root / "rates.py").write_text("FACTOR = 0.500001")
    if change == "data":
        (root / "table.csv").write_text("1")
    result = call("reproduce", original.id, "--json")
    [found] = json.loads(result.stdout)
    first = found["differences"][0]
    assert (result.exit_code, found["verdict"], first["place"], first["step"]) == (1, "different", place, step)
    if change == "code":
        assert found["changed"]["code"] == ["rates.py (changed)"] and "rates.py (changed)" in result.stderr
        assert {each["place"] for each in found["differences"]} == {"loss", "own", "model: model.json, weights[1]"}
        assert call("reproduce", original.id, "--tolerance", "1e-4").exit_code == 0
        refused = call("reproduce", original.id, "--strict")
        assert refused.exit_code == 2 and "rates.py (changed)" in refused.output
        ignored = reproduce(store, original, ignored=("loss", "own"))
        assert [each.place for each in ignored.verdict.differences] == ["model: model.json, weights[1]"]
    else:
        shown = call("reproduce", original.id, "--discard")
        assert shown.exit_code == 1 and "1 run: 1 different." in shown.stdout and max(map(len, shown.stdout.splitlines())) <= 80


def test_nothing_runs_where_something_is_missing(store):
    original, other = train(store), train(store, parameters={"rate": 0.3})
    count = len(store.runs.list())
    [digits] = store.artifacts.versions("digits")
    blob = store.blobs.path(digits.files[0].digest)
    kept = blob.read_bytes()
    for spoil in (lambda: blob.write_bytes(b"54321"), blob.unlink):
        blob.chmod(0o644)
        spoil()
        result = call("reproduce", other.id, original.id)
        assert result.exit_code == 2 and "its input digits:v0" in result.output and "nothing was run" in result.output
    blob.write_bytes(kept)
    (store.workspace.root / "inner").mkdir()
    inside = run_notebook(store, store.workspace.root / "train.ipynb", cwd=store.workspace.root / "inner")
    count += 1
    (store.workspace.root / "inner").rmdir()
    assert "the folder in which it ran" in call("reproduce", other.id, inside.id).output
    store.blobs.remove(original.notebook_blob)
    with pytest.raises(StoreError, match=r"its notebook train\.ipynb"):
        reproduce(store, original)
    assert len(store.runs.list()) == count


def test_runs_in_a_run_are_compared_and_use_what_they_used(store):
    inner = ("import random\nfrom mlops_nb import start_run\nrandom.seed(seed)\nstart_run()\nfor name in ('a', 'b'):\n"
             "    with start_run(name) as run:\n        size = len(run.use_artifact('digits').path().read_text())\n"
             "        run.log({'x': random.random(), 'size': size})")
    write_notebook(store.workspace.root / "train.ipynb", PARAMETERS, inner)
    seeded, drawn = train(store), train(store, parameters={"seed": None})
    log(store, "digits", "1")
    found = reproduce(store, seeded)
    assert (found.verdict.status, found.verdict.compared["metrics"]) == ("identical", 4), found.message
    verdict = reproduce(store, drawn).verdict
    assert [each.place for each in verdict.differences] == ["a: x", "b: x"]
    newest = store.runs.get("b").id, store.runs.get("latest").name
    assert newest == (inner_runs(store, drawn)[-1].id, "source")  # what a repetition began is no newest run either


def test_a_failure_can_be_repeated(store):
    source = "from mlops_nb import start_run\nstart_run().log({'x': 1})"
    write_notebook(store.workspace.root / "train.ipynb", PARAMETERS, source, "open('gone')")
    original = run_notebook(store, store.workspace.root / "train.ipynb", cwd=store.workspace.root)
    assert (original.status, reproduce(store, original).verdict.status) == ("failed", "identical")
    (store.workspace.root / "gone").write_text("")
    verdict = reproduce(store, original).verdict
    assert (verdict.first.place, verdict.first.reproduced) == ("status", "finished")


def test_a_repetition_is_not_resumed(store):
    path = write_notebook(store.workspace.root / "train.ipynb", PARAMETERS, "open('input')")
    (store.workspace.root / "input").write_text("")
    original = train(store)
    (store.workspace.root / "input").unlink()
    again = reproduce(store, original).record
    path.unlink()  # what there is of the notebook is what was kept
    count = len(store.runs.list())
    refused = call("resume", again.id)
    assert refused.exit_code == 2 and f"repeats run {original.id}" in refused.stderr and f"mlops-nb reproduce {again.id}" in refused.stderr
    assert again.status == "failed" and len(store.runs.list()) == count
    (store.workspace.root / "input").write_text("")
    assert call("reproduce", again.id).exit_code == 0  # what the message says to do


def test_a_secret_is_asked_for_again(store, monkeypatch):
    write_notebook(store.workspace.root / "train.ipynb", "from pydantic import SecretStr\nhub_token: SecretStr",
                   "from mlops_nb import start_run\nstart_run().log({'length': len(hub_token.get_secret_value())})")
    monkeypatch.setenv("HUB_TOKEN", "correct horse battery")
    original = train(store)
    monkeypatch.delenv("HUB_TOKEN")
    with pytest.raises(ParameterError, match="HUB_TOKEN"):
        reproduce(store, original)
    monkeypatch.setenv("HUB_TOKEN", "another secret")
    assert reproduce(store, original).verdict.first.place == "length"


# Without a kernel


@pytest.mark.parametrize(("columns", "reason"), [
    ({"parent_id": "a1b2c3d4"}, "reproduce that one: mlops-nb reproduce a1b2c3d4"),
    ({"notebook": "train.py"}, "by a script or at a prompt"),
    ({"request": None}, "run it anew: mlops-nb run train.ipynb"),
    ({"status": "running"}, "wait for its end"),
    ({"status": "killed"}, "mlops-nb resume"),
    ({"status": "killed", "reproduces": "a1b2c3d4"}, "run it anew: mlops-nb run train.ipynb"),  # that run was deleted
])
def test_what_cannot_be_repeated_says_why(store, columns, reason):
    blob = store.blobs.put_file(store.workspace.root / "train.ipynb").digest
    whole = {"status": "finished", "notebook": "train.ipynb", "notebook_blob": blob, "request": {"parameters": {}}}
    record = store.runs.create(project="digits", name="train", **whole | columns)
    result = call("reproduce", record.id)
    assert result.exit_code == 2 and reason in result.output
    assert "nothing can be reproduced here" in call("reproduce", "--all").output


def test_bad_calls(store):
    assert call("reproduce").exit_code == call("reproduce", "train", "--all").exit_code == call("reproduce", "nobody").exit_code == 2


@pytest.mark.parametrize("name", [
    "fit_s", "latency_ms_p95", "val/latency_p50_ms_lower", "train_runtime", "eval_samples_per_second", "_wandb", "system/cpu", "epoch_s",
    "latency_p50_ms", "latency_p95_ms", "fit.seconds", "mean_fit_time", "throughput_images_per_second"])
def test_times_are_told_by_what_is_timed_and_their_unit(name):
    assert is_time(name)


@pytest.mark.parametrize("name", [
    "s", "loss", "seconds_error", "class", "recall_max", "ms_marco", "แม่นยำ", "时间", "", "rmse_minutes", "mae_seconds", "loss_s",
    "class_us",
    "predicted_minutes", "trip_duration_minutes", "mae_latency_ms", "visitors_per_minute", "_target", "created_at", "per_second", "test_s"])
def test_results_are_no_times(name):
    assert not is_time(name)


@pytest.mark.parametrize(("then", "now", "places"), [
    (1, 1.0, []), (True, 1, [""]), (None, 0, [""]), ([1, [2]], [1, [3]], ["[1][0]"]), ({"a": 1}, {"b": 1}, ["a", "b"]),
    (float("nan"), float("nan"), []), ({"_type": "table-file"}, {"_type": "image-file"}, ["_type"]),
    ("1", 1, [""]), ([1], [1, 2], ["length"])])
def test_values(then, now, places):
    assert [each.place for each in find_differences(then, now)] == places


def save(folder, content, name):
    path = folder / "blob"
    if name.endswith(".npz"):
        np.savez(path.with_suffix(".npz"), **content)
        path.with_suffix(".npz").replace(path)
    elif name.endswith(".parquet"):
        pd.DataFrame(content).to_parquet(path)
    elif name.endswith(".csv"):
        pd.DataFrame(content).to_csv(path, index=False)
    else:
        path.write_bytes(content)
    return path


def archive(content, damage=False, flags=0, method=None):
    "A zip archive of one member; what is said of it may be wrong."
    kept = io.BytesIO()
    with zipfile.ZipFile(kept, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("model/data", content * 1000)
    found = bytearray(kept.getvalue())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = found.index(signature) + offset
        found[at] |= flags
        if method is not None:
            found[at + 2] = method
    if damage:
        found[40:44] = b"\xff" * 4
    return bytes(found)


@pytest.mark.parametrize(("name", "then", "now", "place"), [
    ("a.npz", {"x": np.arange(6.0).reshape(2, 3)}, {"x": np.array([[0, 1, 2], [3, 4, 5.5]])}, "x[1, 2]"),
    ("a.npz", {"x": np.arange(3)}, {"x": np.arange(3.0)}, "x type"),
    ("a.npz", {"x": np.array([None])}, {"x": np.array(["x"], object)}, "byte"),  # is never unpickled
    ("a.parquet", {"city": ["上海", None], "fit_s": [1, 2]}, {"city": ["上海", "กรุงเทพ"], "fit_s": [1, 2]}, "city[1]"),
    ("a.parquet", {"x": [1], "fit_s": [1]}, {"x": [1], "fit_s": [2]}, "fit_s[0]"),  # a column is data, whatever its name
    ("a.csv", {"_target": [1.0], "x": [1]}, {"_target": [2.0], "x": [1]}, "_target[0]"),
    ("a.json", b'{"x": 1, "n": 1%b}' % (b"0" * 400), b'{"x": 1, "n": 2%b}' % (b"0" * 400), "n"),
    ("a.json", b"[" * 200_000 + b"]" * 200_000, b"[" * 200_000 + b"1" + b"]" * 200_000, "byte 200000"),
    ("a.json", b'{"id": 9007199254740992}', b'{"id": 9007199254740993}', "id"),
    ("a.pt", archive(b"one", damage=True), archive(b"two"), "byte"),
    ("a.pt", archive(b"one", flags=1), archive(b"two"), "byte"),  # encrypted
    ("a.pt", archive(b"one", method=97), archive(b"two"), "byte"),  # a way of packing that Python does not know
    ("a.csv", {"x": [1.0, 2.0], "y": ["a", "b"]}, {"x": [1.0, 2.0], "y": ["a", "c"]}, "y[1]"),
    ("a.csv", {"x": [1.0]}, {"x": [1.0, 2.0]}, "x shape"),
    ("a.pt2", b"no archive", b"no archive at all", "byte 10"),
    ("a.txt", b"same" * 300_000, b"same" * 300_000 + b"x", "byte 1200000"),
])
def test_files(tmp_path, name, then, now, place):
    (tmp_path / "now").mkdir()
    found = file_differences(save(tmp_path, then, name), save(tmp_path / "now", now, name), name)
    assert len(found) == 1 and found[0].place.startswith(place)


def test_times_in_json_are_told_once_and_do_not_count(tmp_path):
    paths = [tmp_path / each for each in ("then", "now")]
    for number, path in enumerate(paths):
        path.write_text(json.dumps({"folds": [{"fit_s": number, "rmse_minutes": 1}] * 3, "latency": {"latency_ms": number}}))
    found = file_differences(*paths, "a.json")
    assert [(each.place, each.counts) for each in found] == [("folds[].fit_s", False), ("latency.latency_ms", False)]
    paths[1].write_text(paths[1].read_text().replace('"rmse_minutes": 1', '"rmse_minutes": 2', 1))
    assert [each.place for each in file_differences(*paths, "a.json") if each.counts] == ["folds[0].rmse_minutes"]


@pytest.mark.parametrize("kind", ["f4", "f8", "i8", "u1", object])
def test_arrays_are_close_where_their_elements_are(kind):
    values = [0, 1, 100, 101, 120] if kind in ("i8", "u1") else [0.0, -1.0, 1.0, 1.001, math.inf, -math.inf, math.nan, 1e30]
    for then in values:
        for now in values:
            pair = [np.array([5, each], kind) for each in (then, now)]
            same = then == now or math.isnan(then) and math.isnan(now)
            expected = [] if same else [math.isclose(*(float(each[1]) for each in pair), rel_tol=0.01)]
            assert [each.close for each in array_differences({"x": pair[0]}, {"x": pair[1]}, 0.01)] == expected, (then, now)


def test_millions_of_close_elements_take_no_step_each(monkeypatch):
    monkeypatch.setattr("mlops_nb.experiments.file_differences.is_close", lambda *_: pytest.fail("looked at one by one"))
    then = np.full((1000, 1000), 2.0)
    now = then * (1 + 1e-9)
    assert [(each.place, each.close) for each in array_differences({"x": then}, {"x": now}, 1e-6)] == [("x[0, 0]", True)]
    now[999, 7] = 3
    [found] = array_differences({"x": then}, {"x": now}, 1e-6)
    assert (found.place, found.original, found.reproduced, found.close) == ("x[999, 7]", 2.0, 3.0, False)
