"""Groups of runs: what is skipped, what is run again, and that two groups never mix."""

import threading
from pathlib import Path

import nbformat
import pytest

from mlops_nb.experiments.pipeline_file import override, read_pipeline
from mlops_nb.experiments.pipelines import run_pipeline
from mlops_nb.settings import open_workspace
from mlops_nb.store.door import open_store

PREPARE = """
from pathlib import Path
from mlops_nb import start_run
import helper, os, tempfile
run = start_run()
path = Path(tempfile.mkdtemp()) / "number.txt"
path.write_text(f"{number} {Path('data.csv').read_text()} {helper.WORD}")
run.log_artifact(path, name="number")
"""
TRAIN = """
from mlops_nb import start_run
run = start_run()
text = run.use_artifact("number:latest").path().read_text()
run.log({"result": int(text.split()[0]) * factor})
"""


def write(path: Path, *sources: str) -> None:
    "A notebook whose first cell is tagged `parameters`."
    cells = [nbformat.v4.new_code_cell(each, metadata={"tags": ["parameters"] if index == 0 else []}) for index, each in enumerate(sources)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    write(tmp_path / "prepare.ipynb", "number = 20", PREPARE)
    write(tmp_path / "train.ipynb", "factor = 2", TRAIN)
    (tmp_path / "data.csv").write_text("a")
    (tmp_path / "helper.py").write_text("WORD = 'one'")
    (tmp_path / "pipeline.toml").write_text("""
        name = "numbers"
        [[step]]
        name = "prepare"
        notebook = "prepare.ipynb"
        inputs = ["*.csv"]
        [[step]]
        name = "train"
        notebook = "train.ipynb"
        """)
    return open_store(open_workspace(tmp_path))


def run(store, force=False, **parameters):
    "Statuses of the steps, and the result of the last one."
    pipeline = read_pipeline(store.workspace.pipeline_path, store.workspace.root)
    if parameters:
        pipeline = override(pipeline, parameters, lambda step: {"prepare": ["number"], "train": ["factor"]}[step.name])
    result = run_pipeline(store, pipeline, force=force)
    return [each.status for each in result.steps], result.steps[-1].record and result.steps[-1].record.metrics.get("result")


def test_only_what_changed_runs_again(store, tmp_path):
    assert run(store) == (["finished", "finished"], 40)
    assert run(store) == (["unchanged", "unchanged"], 40)
    assert run(store, factor=3) == (["unchanged", "finished"], 60)
    assert run(store, number=30) == (["finished", "finished"], 60)
    assert run(store) == (["unchanged", "unchanged"], 40)  # the first runs are still true in a group of their own
    (tmp_path / "data.csv").write_text("b")
    assert run(store) == (["finished", "finished"], 40)
    (tmp_path / "helper.py").write_text("WORD = 'two'")
    assert run(store)[0] == ["finished", "finished"]
    assert run(store, force=True)[0] == ["finished", "finished"]


def test_a_notebook_that_was_run_and_saved_is_unchanged(store, tmp_path):
    run(store)
    notebook = nbformat.read(tmp_path / "train.ipynb", 4)
    notebook.cells[0].execution_count = 7
    notebook.cells[1].outputs = [nbformat.v4.new_output("stream", text="seen")]
    nbformat.write(notebook, tmp_path / "train.ipynb")
    assert run(store)[0] == ["unchanged", "unchanged"]
    notebook.cells[1].source += "\n# changed"
    nbformat.write(notebook, tmp_path / "train.ipynb")
    assert run(store)[0] == ["unchanged", "finished"]


def test_a_step_whose_output_is_gone_runs_again(store):
    run(store)
    [artifact] = store.artifacts.versions("number")
    store.blobs.remove(artifact.files[0].digest)
    assert run(store)[0][0] == "finished"


def test_the_first_failure_stops_the_group(store, tmp_path):
    write(tmp_path / "prepare.ipynb", "number = 20", "1 / 0")
    statuses, result = run(store)
    assert (statuses, result) == (["failed", "not run"], None)


def test_a_failed_step_is_never_reused(store, tmp_path):
    write(tmp_path / "train.ipynb", "factor = 2", TRAIN + "\nfrom pathlib import Path\nassert Path('allowed').exists()")
    assert run(store)[0] == ["finished", "failed"]
    (tmp_path / "allowed").write_text("")
    assert run(store)[0] == ["unchanged", "finished"]


def test_a_second_run_of_a_notebook_belongs_to_the_group(store, tmp_path):
    begin = "from mlops_nb import start_run\nstart_run()\nsecond = start_run('second')\n"
    write(tmp_path / "prepare.ipynb", "number = 20", begin + PREPARE.replace("run = start_run()", "run = second"))
    assert run(store, number=1) == (["finished", "finished"], 2)
    assert run(store, number=100) == (["finished", "finished"], 200)
    assert run(store, number=1, factor=5) == (["unchanged", "finished"], 5)  # not the other group's 100
    assert len(store.runs.list(group_id=store.runs.get("latest").group_id)) == 3


def test_every_way_to_name_an_input_counts(store, tmp_path):
    pinned = TRAIN + "\nrun.use_artifact('number:v0')"
    write(tmp_path / "train.ipynb", "factor = 2", pinned)
    assert run(store)[0] == ["finished", "finished"]
    assert run(store, number=30)[0] == ["finished", "finished"]  # `latest` moved, `v0` did not


def test_two_groups_at_once_never_mix(store, tmp_path):
    write(tmp_path / "train.ipynb", "factor = 2", "import time\ntime.sleep(2)", TRAIN)
    results = {}
    threads = [threading.Thread(target=lambda number=number: results.update({number: run(store, number=number)})) for number in (1, 100)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(timeout=120)
    assert results == {1: (["finished", "finished"], 2), 100: (["finished", "finished"], 200)}
