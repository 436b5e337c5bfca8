"""Attempts: an older catalog comes along, inputs and checkpoints stay, and what cannot be resumed is said in one line."""

import json
import math
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import nbformat
import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from notebooks import write_notebook

from mlops_nb.cli import main
from mlops_nb.experiments.attempts import changes_since, find_resumable, run_attempts
from mlops_nb.settings import NotebookError, NotFoundError, StoreError, open_workspace
from mlops_nb.store import tables
from mlops_nb.store.artifacts import list_files
from mlops_nb.store.blobs import BlobStore
from mlops_nb.store.catalog import REVISION, Catalog
from mlops_nb.store.door import open_store
from mlops_nb.store.folders import checkpoint_folder
from mlops_nb.store.lineage import trace
from mlops_nb.store.runs import RunStore
from mlops_nb.store.source import describe_source
from mlops_nb.store.wandb_history import read_wandb_file
from mlops_nb.store.versions import ArtifactStore

REQUEST = {"parameters": {}, "kernel": None, "cwd": ".", "output": None}


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    "The URL of an empty database"
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/แคตตาล็อก 100%.db"
        return
    with request.getfixturevalue("new_database")() as found:
        yield found


@pytest.fixture
def runs(url, tmp_path):
    return RunStore(Catalog(url), tmp_path / "runs")


@pytest.fixture
def artifacts(runs, tmp_path):
    return ArtifactStore(runs.catalog, BlobStore(tmp_path / "blobs"), tmp_path / "artifacts")


@pytest.fixture
def store(tmp_path, monkeypatch):
    "The store of a workspace without W&B, for speed."
    monkeypatch.setenv("MLOPS_NB_WORKSPACE", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path)
    return open_store(open_workspace(tmp_path))


def call(*arguments):
    return CliRunner().invoke(main, [str(each) for each in arguments])


# An older catalog

def old_row(connection, run_id):
    "A run as the first version of the schema has it."
    connection.execute(sa.text(
        "INSERT INTO runs (id, project, name, status, created_at, parameters, metrics, hardware) "
        f"VALUES ('{run_id}', 'digits', 'train', 'failed', 1e9, '{{\"epochs\": 8}}', '{{\"loss\": \"NaN\"}}', '{{}}')"))
    connection.execute(sa.text(f"INSERT INTO tags (run_id, tag) VALUES ('{run_id}', 'paper')"))


@pytest.fixture
def old(url, monkeypatch):
    "A catalog of revision 0001 with a run in it."
    with monkeypatch.context() as patched:
        patched.setattr("mlops_nb.store.catalog.REVISION", "0001")
        catalog = Catalog(url)
        with catalog.write() as connection:
            old_row(connection, "a1b2c3d4")
        with catalog.read() as connection:
            assert "attempt" not in [each["name"] for each in sa.inspect(connection).get_columns("runs")]
    return catalog


def test_an_older_catalog_comes_along_with_its_rows(old, tmp_path):
    runs = RunStore(Catalog(old.url), tmp_path / "runs")
    [record] = runs.list()
    assert (record.id, record.parameters, record.tags, math.isnan(record.metrics["loss"])) == ("a1b2c3d4", {"epochs": 8}, ("paper",), True)
    assert (record.attempt, record.resumed_from, record.first_id, record.request) == (1, None, "a1b2c3d4", None)
    second = runs.create(project="digits", name="train", attempt=2, resumed_from=record.id, first_attempt=record.id)
    with old.write() as connection:  # a process with the version before is still writing
        old_row(connection, "e5f6a7b8")
    assert [each.id for each in runs.attempts(second)] == ["a1b2c3d4", second.id]
    assert [each.id for each in runs.attempts(runs.get("e5f6a7b8"))] == ["e5f6a7b8"]


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_an_older_catalog_is_copied_aside_once_and_whole(old):
    holder = sqlite3.connect(old.path)
    assert holder.execute("SELECT count(*) FROM runs").fetchone() == (1,)  # now the newest rows stay in the write-ahead log
    with old.write() as connection:
        old_row(connection, "e5f6a7b8")
    opened, gate = [], threading.Barrier(2)

    def upgrade():
        gate.wait()
        with Catalog(old.url).read() as connection:
            opened.append(connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar())

    threads = [threading.Thread(target=upgrade) for _ in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(timeout=60)
    holder.close()
    assert opened == [REVISION] * 2
    [copy] = old.path.parent.glob(f"{old.path.name}.before-*")
    with sqlite3.connect(copy) as before:
        assert before.execute("SELECT version_num FROM alembic_version").fetchone() == ("0001",)
        assert before.execute("SELECT id FROM runs ORDER BY id").fetchall() == [("a1b2c3d4",), ("e5f6a7b8",)]


# Records

def begin_next(runs, earlier, **values):
    "The next attempt of a run, without a notebook."
    link = {"attempt": earlier.attempt + 1, "resumed_from": earlier.id, "first_attempt": earlier.first_id}
    return runs.create(project=earlier.project, name=earlier.name, **link, **values)


def test_what_was_asked_for_comes_back_exactly(runs):
    given = {"text": "NaN", "number": math.inf, "ชื่อ": "ทดสอบ \udce9 \0", "large": 10**40, "nested": [{"a": None}, 1e-300]}
    run = runs.create(project="p", name="n", request=REQUEST | {"parameters": given})
    assert runs.get(run.id).request["parameters"] == given
    assert type(runs.get(run.id).request["parameters"]["text"]) is str


def test_an_attempt_is_begun_once(runs, tmp_path):
    first = runs.create(project="p", name="n", status="failed")
    second = begin_next(runs, first, status="failed")
    with pytest.raises(StoreError, match="attempt 2 of run .* was begun by another process"):
        begin_next(runs, first)
    assert sorted(each.name for each in (tmp_path / "runs").iterdir()) == sorted([first.id, second.id])
    assert begin_next(runs, second).attempt == 3


def test_checkpoints_stay_as_long_as_an_attempt(runs, tmp_path):
    first = runs.create(project="p", name="n", status="failed")
    (checkpoint_folder(runs.root, first) / "deep").mkdir(parents=True)
    (runs.folder(first.id) / "journal.jsonl").write_text("{}\n")
    second = begin_next(runs, first, status="failed")
    third = begin_next(runs, second, status="failed")
    runs.delete(second.id)
    runs.delete(first.id)
    assert [each.name for each in runs.folder(first.id).iterdir()] == ["checkpoints"]
    assert runs.attempts(third) == (third,) and checkpoint_folder(runs.root, third) == checkpoint_folder(runs.root, first)
    runs.delete(third.id)
    assert list((tmp_path / "runs").iterdir()) == []


# Inputs

def log(artifacts, run, folder, text):
    "A new version of `digits`."
    (folder / "digits.csv").write_text(text)
    return artifacts.log(run.id, "digits", "dataset", list_files(folder / "digits.csv"))


def test_a_later_attempt_uses_what_an_earlier_one_used(runs, artifacts, tmp_path):
    source, first, other = (runs.create(project="p", name=name) for name in ("source", "train", "other"))
    child = runs.create(project="p", name="child", parent_id=first.id)
    log(artifacts, source, tmp_path, "one")
    assert artifacts.use(first.id, "digits:latest").version == artifacts.use(child.id, "digits:v0").version == "v0"
    log(artifacts, source, tmp_path, "two")
    second = begin_next(runs, first)
    third = begin_next(runs, second)
    assert artifacts.use(third.id, "digits").version == "v0"  # `digits` is `digits:latest`, and attempt 2 did not come so far
    assert artifacts.use(runs.create(project="p", name="child", parent_id=third.id).id, "digits:latest").version == "v0"
    assert artifacts.use(second.id, "digits:v1").version == "v1"
    assert artifacts.use(other.id, "digits:latest").version == "v1"
    assert artifacts.use(None, "digits:latest").version == "v1"
    log(artifacts, third, tmp_path, "its own")
    assert artifacts.use(third.id, "digits:latest").version == "v2"  # what it has just logged itself
    upstream = {node.id for node in trace(runs.catalog, f"run/{third.id}", "upstream").nodes}
    assert {f"run/{first.id}", f"run/{second.id}", "dataset/digits:v0"} <= upstream
    assert f"run/{third.id}" in {node.id for node in trace(runs.catalog, f"run/{first.id}", "downstream").nodes}


def test_lineage_survives_a_deleted_attempt(runs):
    first = runs.create(project="p", name="n", status="failed")
    second = begin_next(runs, first, status="failed")
    third = begin_next(runs, second)
    runs.delete(second.id)
    assert trace(runs.catalog, f"run/{third.id}").to_dict()["edges"] == []


def test_a_group_keeps_what_an_earlier_attempt_of_its_step_logged(runs, artifacts, tmp_path):
    with runs.catalog.write() as connection:
        connection.execute(tables.groups.insert(), [{"id": each, "name": "p", "created_at": 0.0} for each in ("g1", "g2")])
    first = runs.create(project="p", name="prepare", group_id="g1", step="prepare", status="failed")
    runs.join(first)
    log(artifacts, first, tmp_path, "of the group")
    second = begin_next(runs, first, group_id="g1", step="prepare")
    runs.join(second)
    log(artifacts, runs.create(project="p", name="elsewhere"), tmp_path, "newer, of another run")
    assert [each.id for each in runs.list(group_id="g1")] == [second.id]
    assert artifacts.use(None, "digits:latest", group_id="g1").version == "v0"
    assert artifacts.use(None, "digits:latest", group_id="g2").version == "v1"


# What can be resumed

def ended(store, notebook="train.ipynb", status="failed", **values):
    "The record of a run of a notebook, made without running it."
    path = store.workspace.root / notebook
    values = {"request": REQUEST, "status": status, "project": "p", "name": path.stem} | values
    return store.runs.create(**describe_source(store, path), **values)


def test_what_cannot_be_resumed_is_refused_in_one_line(store, tmp_path):
    write_notebook(tmp_path / "train.ipynb", "epochs = 8")
    (tmp_path / "train.py").write_text("epochs = 8")
    write_notebook(tmp_path / "gone.ipynb", "epochs = 8")
    finished, running, gone = ended(store, status="finished"), ended(store, status="running"), ended(store, "gone.ipynb")
    script, by_hand = ended(store, "train.py", request=None), ended(store, request=None)
    inside = ended(store, request=None, parent_id=finished.id)
    (tmp_path / "gone.ipynb").unlink()
    expected = {finished.id: "is finished", running.id: "is running", gone.id: "does not exist any more",
                script.id: "start its script again", by_hand.id: "mlops-nb run train.ipynb",
                inside.id: f"mlops-nb resume {finished.id}", "nobody": "run 'nobody'"}
    for reference, words in expected.items():
        result = call("resume", reference)
        assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (2, "", 1), result.output
        assert words in result.stderr
    message = str(pytest.raises(NotebookError, find_resumable, store, gone.id).value)
    assert nbformat.read(message.partition("cp ")[2].split()[0], 4).cells[0].source == "epochs = 8"  # its content
    assert len(store.runs.list()) == 6
    with pytest.raises(NotFoundError):
        find_resumable(store, "nobody")


def test_the_last_attempt_is_the_one_that_counts(store, tmp_path):
    write_notebook(tmp_path / "train.ipynb", "epochs = 8")
    first = ended(store)
    assert find_resumable(store, first.id[:5]).id == first.id
    second = ended(store, status="killed", attempt=2, resumed_from=first.id, first_attempt=first.id)
    assert find_resumable(store, first.id).id == find_resumable(store, "latest").id == second.id
    third = ended(store, status="running", attempt=3, resumed_from=second.id, first_attempt=first.id)
    with pytest.raises(StoreError, match=f"attempt 3 of run {first.id}, which is run {third.id}, is running"):
        find_resumable(store, first.id)
    store.runs.finish(third.id, "finished")
    with pytest.raises(StoreError, match=f"attempt 3 of run {first.id}, which is run {third.id}, is finished"):
        find_resumable(store, first.id)


def test_a_run_of_another_computer_is_resumed_when_its_lease_ended(store, tmp_path):
    write_notebook(tmp_path / "train.ipynb", "epochs = 8")
    alive = ended(store, status="running", host="another computer", lease_expires_at=time.time() + 60)
    with pytest.raises(StoreError, match="is running"):
        find_resumable(store, alive.id)
    store.runs.update(alive.id, lease_expires_at=time.time() - 1)
    assert find_resumable(store, alive.id).status == "killed"


def test_changes_are_named(store, tmp_path, caplog):
    path = write_notebook(tmp_path / "train.ipynb", "epochs = 8", "rate = 0.1", "print(rate)")
    (tmp_path / "helper.py").write_text("WORD = 'one'")
    first = ended(store)
    assert changes_since(store, first) == []
    write_notebook(path, "epochs = 9", "rate = 0.1", "print(rate, epochs)")
    (tmp_path / "helper.py").write_text("WORD = 'two'")
    assert changes_since(store, first) == ["train.ipynb (cells 1, 3)", "Python files of the workspace"]
    run_attempts(store, lambda earlier: earlier, earlier=first)
    assert f"attempt 1 (run {first.id}): train.ipynb (cells 1, 3); Python files of the workspace; attempt 2" in caplog.text
    write_notebook(path, "epochs = 9")
    assert changes_since(store, first)[0] == "train.ipynb (3 cells then, 1 now)"
    store.runs.update(first.id, environment_digest="0" * 64)
    assert changes_since(store, store.runs.get(first.id))[2] == "Python, or its packages"


@pytest.mark.parametrize(("endings", "started"), [
    (("failed", "killed", "finished"), 3), (("failed",) * 5, 4), (("failed", "cancelled"), 2), (("finished",), 1), (("refused",), 1)])
def test_attempts_in_a_row_end_where_another_one_is_no_use(store, tmp_path, endings, started):
    write_notebook(tmp_path / "train.ipynb", "epochs = 8")
    given = []

    def start(earlier):
        given.append(earlier)
        ending = endings[len(given) - 1]
        link = earlier and {"attempt": earlier.attempt + 1, "resumed_from": earlier.id, "first_attempt": earlier.first_id}
        error = {"name": "DataError" if ending == "refused" else "ValueError", "message": ""}
        return ended(store, status="failed" if ending == "refused" else ending, error=error, **(link or {}))

    retried = []
    last = run_attempts(store, start, retries=3, on_retry=retried.append)
    assert (last.attempt, len(given), len(retried)) == (started, started, started - 1)
    assert [each.id for each in store.runs.attempts(last)] == [each.id for each in (*given[1:], last)]


# With a kernel

ONCE = """
from mlops_nb import start_run
run = start_run()
mark = run.checkpoint_dir / "mark"
first = not mark.exists()
mark.write_text(mark.read_text() + "x" if not first else "x")
text = run.use_artifact("digits:latest").path().read_text()
if first: raise ValueError("out of luck")
run.log({"attempts": len(mark.read_text()), "size": len(text)})
"""


def test_retries_end_with_a_whole_run(store, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    log(store.artifacts, store.runs.create(project="p", name="source"), tmp_path, "12345")
    write_notebook(tmp_path / "train.ipynb", "epochs: int = 8", ONCE)
    result = call("run", "train.ipynb", "out.ipynb", "-y", "epochs: 3", "--tag", "night", "--retries", "2", "--json")
    record = json.loads(result.stdout)
    assert (result.exit_code, record["status"], record["attempt"], record["metrics"]) == (0, "finished", 2, {"attempts": 2, "size": 5})
    assert "train, attempt 1: failed" in result.stderr and "train, attempt 2: running" in result.stderr
    first, second = store.runs.attempts(store.runs.get(record["id"]))
    assert (first.status, record["resumed_from"], record["first_attempt"]) == ("failed", first.id, first.id)
    assert second.request == first.request
    assert second.request["parameters"] == {"epochs": 3} and second.request["output"] == "out.ipynb"
    assert (first.tags, second.tags) == (("night",), ("night",))
    assert (tmp_path / "out.ipynb").read_bytes() == (store.runs.folder(second.id) / "notebook.ipynb").read_bytes()
    told = [each["run"] for each in read_wandb_file(second.wandb_path) if each["type"] == "run"]
    config = {key: value for each in told for key, value in each.get("config", {}).get("update", {}).items()}
    assert told[0]["run_group"] == first.id
    assert (config["mlops_nb/attempt"], config["mlops_nb/resumed_from"], config["epochs"]) == (2, first.id, 3)
    page = call("runs", "show", second.id).stdout
    assert f"2 of 2, resumed from {first.id}" in page and "attempt 2" in page.splitlines()[0]
    assert f"1 of 2, resumed by {second.id}" in call("runs", "show", first.id).stdout
    assert "train #2" in call("runs", "list").stdout
    shown = json.loads(call("runs", "show", first.id, "--json").stdout)
    assert [(each["id"], each["status"]) for each in shown["attempts"]] == [(first.id, "failed"), (second.id, "finished")]


def test_a_killed_runner_is_resumed_right_then(store, tmp_path):
    log(store.artifacts, store.runs.create(project="p", name="source"), tmp_path, "1")
    work = ONCE.replace('raise ValueError("out of luck")', 'import time; run.log({"waiting": 1}); time.sleep(600)')
    write_notebook(tmp_path / "long.ipynb", "epochs = 8", work)
    (tmp_path / "sub").mkdir()
    code = ("import sys; from mlops_nb.store.door import open_store; from mlops_nb.experiments.runner import run_notebook; "
            "run_notebook(open_store(), sys.argv[1], parameters={'epochs': 3}, cwd='sub')")
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "long.ipynb")], stdin=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not (found := [each for each in store.runs.list() if each.name == "long"]) or \
            not (store.runs.folder(found[0].id) / "journal.jsonl").exists():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.1)
    log(store.artifacts, store.runs.create(project="p", name="source"), tmp_path, "22")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    result = call("resume", "long", "--json")
    record = json.loads(result.stdout)
    assert (result.exit_code, record["attempt"], record["parameters"]) == (0, 2, {"epochs": 3})
    assert record["metrics"] == {"attempts": 2, "size": 1}  # `latest` moved, its input did not
    assert record["request"]["cwd"] == "sub" and store.runs.get(found[0].id).status == "killed"


STEPS = """
name = "numbers"
[[step]]
name = "prepare"
notebook = "prepare.ipynb"
[[step]]
name = "train"
notebook = "train.ipynb"
parameters = { epochs = 3 }
"""
PREPARE = """
from pathlib import Path
from mlops_nb import start_run
run = start_run()
mark = run.checkpoint_dir / "mark"
if not mark.exists():
    Path("digits.csv").write_text("12345")
    run.log_artifact("digits.csv", name="digits")
    mark.write_text("logged")
    1 / 0
"""


def test_steps_are_tried_again_and_resumed(store, tmp_path, caplog):
    (tmp_path / "pipeline.toml").write_text(STEPS)
    write_notebook(tmp_path / "prepare.ipynb", "size = 1", PREPARE)
    write_notebook(tmp_path / "train.ipynb", "epochs = 8", ONCE.replace("if first", "if first or epochs < 3"))
    done = json.loads(call("run", "--retries", "1", "--json").stdout)
    prepare, train = [each["run"] for each in done["steps"]]
    assert [(each["status"], each["attempt"]) for each in (prepare, train)] == [("finished", 2), ("finished", 2)]
    assert train["metrics"] == {"attempts": 2, "size": 5}
    again = json.loads(call("run", "--json").stdout)
    assert [each["status"] for each in again["steps"]] == ["unchanged", "unchanged"]
    stopped = json.loads(call("run", "-y", "train.epochs: 2", "--json").stdout)
    assert [each["status"] for each in stopped["steps"]] == ["unchanged", "failed"]
    write_notebook(tmp_path / "train.ipynb", "epochs = 8", ONCE)
    result = call("resume", stopped["steps"][1]["run"]["id"])
    resumed = store.runs.get("latest")
    assert (result.exit_code, "mlops-nb run\n" in result.stdout) == (0, True)
    assert "train.ipynb (cell 2); attempt 2" in caplog.text
    assert (resumed.group_id, resumed.step, resumed.parameters) == (stopped["group"], "train", {"epochs": 2})
    assert resumed.id in [each.id for each in store.runs.list(group_id=stopped["group"])]
    borrowed = json.loads(call("run", "-y", "train.epochs: 2", "--json").stdout)
    assert [(each["status"], each["run"]["id"]) for each in borrowed["steps"]][1] == ("unchanged", resumed.id)
