"""Foreign W&B runs, and W&B runs that notebooks made by themselves."""

import os
import subprocess
import sys
import textwrap

import nbformat
import pytest

from mlops_nb.experiments.runner import run_notebook
from mlops_nb.settings import TrackingError, open_workspace
from mlops_nb.store.door import open_store
from mlops_nb.store.journal import read_journal
from mlops_nb.store.imports import import_wandb
from mlops_nb.store.refill import incomplete_runs, refill
from mlops_nb.store.wandb_history import history_of, read_wandb_file


@pytest.fixture
def store(tmp_path):
    return open_store(open_workspace(tmp_path / "workspace"))


@pytest.fixture(autouse=True)
def workspace_folder(tmp_path):
    (tmp_path / "workspace").mkdir()


def run_wandb(folder, source: str) -> None:
    "Run a script that uses wandb alone."
    environ = {**os.environ, "WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    subprocess.run([sys.executable, "-c", textwrap.dedent(source)], cwd=folder, env=environ, capture_output=True, timeout=120)


def test_foreign_runs_are_taken_in_once(store, tmp_path):
    run_wandb(tmp_path, """
        import wandb
        run = wandb.init(project="older", name="first", config={"rate": 0.1, "layers": [8, 16]}, tags=["old"])
        for step in range(5):
            run.log({"loss": 1 / (step + 1), "nan": float("nan")})
        run.summary["best"] = 0.2
        run.finish()
        second = wandb.init(project="older", name="second")
        second.log({"loss": 9.0})
        second.finish(exit_code=1)
        """)
    first, second = import_wandb(store, tmp_path / "wandb")
    assert (first.name, second.name) == ("first", "second")
    assert (first.status, first.project, first.tags) == ("finished", "older", ("imported", "old"))
    assert first.parameters == {"rate": 0.1, "layers": [8, 16]}
    assert first.metrics["loss"] == 0.2 and first.metrics["best"] == 0.2 and first.metrics["nan"] != first.metrics["nan"]
    assert (second.status, second.metrics) == ("failed", {"loss": 9.0})
    assert 0 <= first.duration_s < 60
    rows = [row["loss"] for row in read_journal(store.runs.folder(first.id) / "journal.jsonl") if "loss" in row]
    assert rows == [1, 0.5, 1 / 3, 0.25, 0.2]
    assert import_wandb(store, tmp_path / "wandb") == []
    files = sorted(tmp_path.glob("wandb/*/*.wandb"))
    assert refill(store, second.id) == "complete"
    store.runs.delete(first.id)
    store.runs.delete(second.id)
    assert sorted(tmp_path.glob("wandb/*/*.wandb")) == files and len(files) >= 2  # foreign files are not ours to move or delete


def test_a_foreign_run_that_was_killed_is_taken_in_as_killed(store, tmp_path):
    run_wandb(tmp_path, """
        import os, time, wandb
        run = wandb.init(project="p")
        for _ in range(3000):
            run.log({"loss": 1.0})
        time.sleep(2)
        os.kill(os.getpid(), 9)
        """)
    [record] = import_wandb(store, tmp_path / "wandb")
    assert record.status == "killed"


def test_artifacts_of_wandb_alone_come_into_the_catalog(store, tmp_path):
    notebook = own_wandb(tmp_path, """
from pathlib import Path
Path("data.csv").write_text("a,b")
artifact = wandb.Artifact("thing", "dataset", metadata={"rows": 1})
artifact.add_file("data.csv")
run.log_artifact(artifact, aliases=["best"])
run.log({"table": wandb.Table(columns=["a"], data=[[1]])})
run.finish()
""")
    record = run_notebook(store, notebook, cwd=tmp_path)
    thing = store.artifacts.use(None, "thing:best")
    assert (thing.type, thing.metadata, thing.run_id, thing.path().read_text()) == ("dataset", {"rows": 1}, record.id, "a,b")
    assert [each.name for each in store.artifacts.versions()] == ["thing"]


def test_a_bad_file_among_good_ones_is_left_out(store, tmp_path):
    run_wandb(tmp_path, "import wandb\nrun = wandb.init(project='p')\nrun.log({'loss': 1.0})\nrun.finish()")
    (tmp_path / "wandb" / "run-bad.wandb").write_bytes(b"garbage")
    assert [each.metrics["loss"] for each in import_wandb(store, tmp_path / "wandb")] == [1.0]


def test_a_damaged_file_is_named(store, tmp_path):
    (tmp_path / "run-x.wandb").write_bytes(b"not a run")
    with pytest.raises(TrackingError, match=r"run-x\.wandb"):
        import_wandb(store, tmp_path / "run-x.wandb")
    with pytest.raises(TrackingError, match="no W&B run files"):
        import_wandb(store, tmp_path / "workspace")
    assert store.runs.list() == []


def own_wandb(folder, *sources):
    "A notebook that uses wandb alone."
    cells = [nbformat.v4.new_code_cell(each) for each in ("import wandb\nrun = wandb.init()", *sources)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), folder / "own.ipynb")
    return folder / "own.ipynb"


def test_own_wandb_run_without_finish_is_complete(store, tmp_path):
    record = run_notebook(store, own_wandb(tmp_path, "for _ in range(3): run.log({'loss': 0.5})"))
    assert (record.status, record.wandb_state, record.journal_rows, record.metrics["loss"]) == ("finished", "complete", 3, 0.5)


def test_own_wandb_run_of_a_killed_kernel_keeps_its_wandb_file(store, tmp_path):
    notebook = own_wandb(tmp_path, "for _ in range(3): run.log({'loss': 0.5})", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    record = run_notebook(store, notebook)
    assert record.status == "killed" and record.wandb_path
    assert [each for each in read_wandb_file(record.wandb_path) if each["type"] == "run"]


def test_refill_can_be_repeated(store):
    run = store.runs.create(project="p", name="n", parameters={"a": 1}, wandb_state="open")
    folder = store.runs.folder(run.id)
    (folder / "journal.jsonl").write_text("".join(f'{{"_step":{step},"_timestamp":{1e9 + step},"loss":{step}}}\n' for step in range(50)))
    store.runs.finish(run.id, "killed", wandb_state="incomplete")
    assert [each.id for each in incomplete_runs(store)] == [run.id]
    for _ in range(2):
        assert refill(store, run.id) == "complete"
        assert [row["loss"] for row in history_of(read_wandb_file(store.runs.get(run.id).wandb_path))] == list(range(50))
    assert incomplete_runs(store) == []
