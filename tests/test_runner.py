"""Who owns the W&B run, and what becomes of the record, whatever the notebook does or suffers."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import psutil
import pytest
from waiting import wait_until

from mlops_nb.experiments.runner import run_notebook
from mlops_nb.settings import KernelError, NotebookError, ParameterError, StoreError, open_workspace
from mlops_nb.store.door import open_store
from mlops_nb.store.journal import read_journal
from mlops_nb.store.wandb_history import find_wandb_files, history_of, read_wandb_file


@pytest.fixture
def store(tmp_path):
    return open_store(open_workspace(tmp_path))


def write(path: Path, *sources: str, tags: tuple = ()) -> Path:
    "A notebook of code cells; the first one gets the tags."
    cells = [nbformat.v4.new_code_cell(each, metadata={"tags": list(tags) if index == 0 else []}) for index, each in enumerate(sources)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


def rows(record) -> list[tuple]:
    "Step and loss of each row in the run's W&B file."
    return [(row["_step"], row["loss"]) for row in history_of(read_wandb_file(record.wandb_path)) if "loss" in row]


def wandb_files(store, record) -> list[Path]:
    "The W&B files of a run."
    return [each for each in find_wandb_files(store.workspace.store_dir / "wandb") if each.stem == f"run-{record.id}"]


LOG_TEN = "from mlops_nb import start_run\nrun = start_run()\nfor step in range(10): run.log({'loss': 1 / (step + 1)}, step=step)"


def test_start_run_attaches_to_the_runners_run(store, tmp_path):
    notebook = write(tmp_path / "train.ipynb", "epochs: int = 3", LOG_TEN, "run.summary['recall'] = 0.9", tags=("parameters",))
    record = run_notebook(store, notebook, parameters={"epochs": 5})
    assert [each.id for each in store.runs.list()] == [record.id]
    assert (record.status, record.parameters, record.wandb_state) == ("finished", {"epochs": 5}, "complete")
    assert record.metrics == {"loss": 0.1, "recall": 0.9}
    assert rows(record) == [(step, 1 / (step + 1)) for step in range(10)] and len(wandb_files(store, record)) == 1
    [config] = [each["run"]["config"]["update"] for each in read_wandb_file(record.wandb_path) if each["type"] == "run"][:1]
    assert config["epochs"] == 5


def test_own_wandb_init_lands_on_the_same_run(store, tmp_path):
    notebook = write(tmp_path / "own.ipynb", "import wandb\nrun = wandb.init(config={'a': 1})",
                     "for step in range(4): run.log({'loss': 1 / (step + 1)})", "print(run.id)\nrun.finish()")
    record = run_notebook(store, notebook)
    assert record.id in nbformat.read(store.runs.folder(record.id) / "notebook.ipynb", 4).cells[2].outputs[0].text
    assert (record.status, record.wandb_state, record.metrics["loss"], record.journal_rows) == ("finished", "complete", 0.25, 4)
    assert rows(record) == [(step, 1 / (step + 1)) for step in range(4)] and len(wandb_files(store, record)) == 1


def test_both_share_one_wandb_run(store, tmp_path):
    notebook = write(tmp_path / "both.ipynb", "import wandb\nown = wandb.init()", "from mlops_nb import start_run\nrun = start_run()",
                     "run.log({'loss': 0.5})", "assert own.id == run.id")
    record = run_notebook(store, notebook)
    assert (record.status, record.wandb_state, rows(record)) == ("finished", "complete", [(0, 0.5)])
    assert len(wandb_files(store, record)) == 1


def test_neither_gets_a_wandb_run_with_parameters_status_and_system_use(store, tmp_path):
    samples = f"{store.runs.root}/{{os.environ['MLOPS_NB_RUN']}}/system.jsonl"
    wait = f"import os, time\nwhile len(open(f{samples!r}).readlines()) < 5: time.sleep(0.1)"
    notebook = write(tmp_path / "plain.ipynb", "n = 3", wait, tags=("parameters",))
    record = run_notebook(store, notebook, parameters={"n": 7})
    records = read_wandb_file(record.wandb_path)
    config = next(each["run"]["config"]["update"] for each in records if each["type"] == "run")
    assert (record.status, record.wandb_state, config["n"], record.metrics) == ("finished", "complete", 7, {})
    assert record.hardware["samples"] >= 5 and record.hardware["memory_bytes_peak"] > 1_000_000
    text = json.dumps([each for each in records if each["type"] == "summary"])
    assert "system/memory_bytes_peak" in text and "mlops_nb/status" in text and '"finished"' in text
    assert len([row for row in history_of(records) if "system/memory_bytes" in row]) >= 5


def test_failed_notebook_is_kept_with_its_error(store, tmp_path):
    notebook = write(tmp_path / "bad.ipynb", LOG_TEN, "1 / 0", "print('never')")
    record = run_notebook(store, notebook, tmp_path / "out.ipynb")
    assert (record.status, record.wandb_state) == ("failed", "complete")
    assert (record.error["name"], record.error["cell_index"]) == ("ZeroDivisionError", 1)
    assert rows(record)[-1] == (9, 0.1)
    assert any(each["type"] == "exit" and each["exit"]["exit_code"] == 1 for each in read_wandb_file(record.wandb_path))
    assert (tmp_path / "out.ipynb").read_bytes() == (store.runs.folder(record.id) / "notebook.ipynb").read_bytes()


def test_killed_kernel_loses_no_row(store, tmp_path):
    notebook = write(tmp_path / "kill.ipynb", LOG_TEN, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "print('never')")
    record = run_notebook(store, notebook)
    assert (record.status, record.journal_rows, record.metrics, record.wandb_state) == ("killed", 10, {"loss": 0.1}, "complete")
    assert rows(record) == [(step, 1 / (step + 1)) for step in range(10)]
    assert record.error["cell_index"] == 1 and "SIGKILL" in record.error["message"]


def test_killed_wandb_core_leaves_the_notebook_running(store, tmp_path):
    kill = ("import psutil\nfor child in psutil.Process().children(recursive=True):\n"
            "    if 'wandb-core' in child.name(): child.kill(); child.wait()")
    more = "for step in range(10, 20): run.log({'loss': 1 / (step + 1)}, step=step)"
    notebook = write(tmp_path / "core.ipynb", LOG_TEN, kill, more, "run.finish()")
    record = run_notebook(store, notebook)
    assert (record.status, record.wandb_state, record.journal_rows) == ("finished", "complete", 20)
    assert rows(record) == [(step, 1 / (step + 1)) for step in range(20)]


def test_second_start_run_begins_another_run(store, tmp_path):
    notebook = write(tmp_path / "two.ipynb", LOG_TEN, "second = start_run('second')\nsecond.log({'loss': 0.01})")
    record = run_notebook(store, notebook)
    child = store.runs.get("second")
    assert (child.parent_id, child.status, child.metrics, child.wandb_state) == (record.id, "finished", {"loss": 0.01}, "complete")
    assert (record.status, record.metrics, len(store.runs.list())) == ("finished", {"loss": 0.1}, 2)


def runner(folder: Path, notebook: Path) -> subprocess.Popen:
    "A runner in a process of its own."
    code = ("import sys; from mlops_nb.store.door import open_store; from mlops_nb.experiments.runner import run_notebook; "
            "record = run_notebook(open_store(), sys.argv[1]); print(record.status)")
    command, environ = [sys.executable, "-c", code, str(notebook)], {**os.environ, "MLOPS_NB_WORKSPACE": str(folder)}
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ)


def logged_ten(store):
    "The run's record, once its ten rows are in the journal."
    records = store.runs.list()
    return records and len(read_journal(store.runs.folder(records[0].id) / "journal.jsonl")) == 10 and records[0]


def test_killed_runner_is_settled_and_takes_the_kernel_along(store, tmp_path):
    notebook = write(tmp_path / "long.ipynb", LOG_TEN, "import time\ntime.sleep(600)")
    process = runner(tmp_path, notebook)
    record = wait_until(lambda: logged_ten(store), 60)
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    settled = store.runs.get(record.id)
    assert (settled.status, settled.journal_rows, settled.wandb_state) == ("killed", 10, "incomplete")
    assert settled.ended_at >= settled.started_at
    wait_until(lambda: not [each for each in family if each.is_running() and each.status() != psutil.STATUS_ZOMBIE], 60)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_runner_records_cancelled(store, tmp_path, number):
    begun = tmp_path / "begun"
    notebook = write(tmp_path / "long.ipynb", LOG_TEN, f"import time\nopen({str(begun)!r}, 'w')\ntime.sleep(600)")
    process = runner(tmp_path, notebook)
    record = wait_until(lambda: begun.exists() and logged_ten(store), 60)
    process.send_signal(number)
    process.communicate(timeout=60)
    ended = store.runs.get(record.id)
    assert (ended.status, ended.journal_rows, ended.wandb_state) == ("cancelled", 10, "complete")
    cells = nbformat.read(store.runs.folder(record.id) / "notebook.ipynb", 4).cells
    assert [cell.metadata.papermill.status for cell in cells if cell.cell_type == "code"] == ["completed", "failed"]


def test_two_runners_in_one_workspace(store, tmp_path):
    notebook = write(tmp_path / "train.ipynb", LOG_TEN)
    both = [runner(tmp_path, notebook) for _ in range(2)]
    assert [each.communicate(timeout=120)[0].strip() for each in both] == ["finished", "finished"]
    records = store.runs.list()
    assert len(records) == 2 and all(each.wandb_state == "complete" and len(rows(each)) == 10 for each in records)


def test_refused_requests_leave_nothing_behind(store, tmp_path):
    notebook = write(tmp_path / "plain.ipynb", "print(1)")
    (tmp_path / "text.ipynb").write_text("not a notebook")
    with pytest.raises(NotebookError):
        run_notebook(store, tmp_path / "text.ipynb")
    with pytest.raises(NotebookError):
        run_notebook(store, tmp_path / "missing.ipynb")
    with pytest.raises(ParameterError):
        run_notebook(store, notebook, parameters={"n": 1})
    with pytest.raises(KernelError):
        run_notebook(store, notebook, kernel_name="fortran")
    with pytest.raises(StoreError):
        run_notebook(store, notebook, tmp_path / "missing" / "out.ipynb")
    with pytest.raises(KernelError):
        run_notebook(store, notebook, cwd=tmp_path / "missing")
    assert store.runs.list() == [] and not store.workspace.runs_dir.exists()


def test_record_knows_notebook_code_environment_and_host(store, tmp_path):
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *identity, "commit", "-q", "--allow-empty", "-m", "first"], cwd=tmp_path, check=True)
    notebook = write(tmp_path / "plain.ipynb", "print(1)")
    record = run_notebook(store, notebook)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()
    assert (record.code_commit, record.notebook, len(record.notebook_digest)) == (commit, "plain.ipynb", 64)
    assert record.code_changes and record.environment_digest and record.host_info["cpu_count"] >= 1
    assert store.blobs.read_bytes(record.notebook_blob) == notebook.read_bytes()
