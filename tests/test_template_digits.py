"""The template `digits`: what `mlops-nb init` copies runs as it is, and says what it should."""
import json
import os
import re
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
from commands import call, read

from mlops_nb.objectives import read_objectives
from mlops_nb.settings import load_settings

TEMPLATE = Path(__file__).parents[1] / "nbs" / "templates" / "digits"
STEPS = ("prepare", "train", "evaluate", "explain")


def read_notebook(path):
    return nbformat.read(path, as_version=4)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    "A workspace made of the template, in a folder with a space and Thai letters, after one run of its pipeline"
    folder = tmp_path_factory.mktemp("digits") / "my ตัวเลข"
    call(folder.parent, "init", str(folder), "--template", "digits")
    call(folder, "run")
    return folder


@pytest.fixture(scope="module")
def runs(workspace):
    "The run of each step"
    return {Path(run["notebook"]).stem: run for run in read(workspace, "runs", "list")}


def executed(workspace, run):
    return read_notebook(workspace / ".mlops" / "runs" / run["id"] / "notebook.ipynb")


def outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


# As it is kept


@pytest.mark.parametrize("step", STEPS)
def test_notebook_is_clean_and_its_parameters_are_explained(step):
    notebook = read_notebook(TEMPLATE / "notebooks" / f"{step}.ipynb")
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.cells[0].source.startswith("# ")
    assert outputs(notebook) == []
    (parameters,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    for line in parameters.source.splitlines():
        assert re.fullmatch(r"\w+: (int|float|str|bool) = .+  # .+", line), line


def test_configuration_is_what_the_package_reads():
    settings = load_settings(TEMPLATE, environ={})
    assert (settings.workspace.project, settings.workspace.currency) == ("digits", "EUR")
    assert settings.wandb.mode == "offline"
    (goal,) = read_objectives(TEMPLATE / "objectives.toml", "EUR")
    assert goal.owner and goal.reason and goal.cost_of_missing > 0
    requirements = {each.metric: (each.role, each.at_least, each.at_most) for each in goal.objectives}
    assert requirements["recall"] == ("target", 0.95, None)
    assert {role for role, *_ in requirements.values()} == {"target", "guardrail"}


def test_pipeline_names_notebooks_and_parameters_that_exist():
    pipeline = tomllib.loads((TEMPLATE / "pipeline.toml").read_text(encoding="utf-8"))["step"]
    assert tuple(step["name"] for step in pipeline) == STEPS
    for step in pipeline:
        notebook = read_notebook(TEMPLATE / step["notebook"])
        (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
        assert set(step.get("parameters", {})) <= set(re.findall(r"^\w+", cell.source, re.MULTILINE))


# As it is copied


def test_init_copies_the_template(workspace):
    files = {path.relative_to(TEMPLATE) for path in TEMPLATE.rglob("*") if path.is_file() and ".ipynb_checkpoints" not in path.parts}
    for file in files:
        target = ".gitignore" if file.name == "gitignore" else file
        assert (workspace / target).read_bytes() == (TEMPLATE / file).read_bytes()
    assert ".mlops/" in (workspace / ".gitignore").read_text(encoding="utf-8").splitlines()


# As it runs


def test_every_step_finishes(runs):
    assert {step: run["status"] for step, run in runs.items()} == dict.fromkeys(STEPS, "finished")


@pytest.mark.parametrize("step", STEPS)
def test_executed_notebook_reads_as_a_report(workspace, runs, step):
    shown = outputs(executed(workspace, runs[step]))
    assert not [output for output in shown if output.output_type == "error"]
    assert [output for output in shown if "image/png" in output.get("data", {})]
    errors = "".join(output.text for output in shown if output.output_type == "stream" and output.name == "stderr")
    assert not re.search("Warning|Glyph|findfont", errors), errors


def test_training_logs_every_epoch(workspace, runs):
    journal = (workspace / ".mlops" / "runs" / runs["train"]["id"] / "journal.jsonl").read_text(encoding="utf-8")
    rows = [row for row in map(json.loads, journal.splitlines()) if "epoch" in row]
    assert [row["epoch"] for row in rows] == list(range(1, len(rows) + 1))
    assert [row["_step"] for row in rows] == [rows[0]["_step"] * row["epoch"] for row in rows]  # steps of the optimizer
    assert 0 <= rows[0]["time/validation_s"] < rows[0]["time/epoch_s"]
    assert rows[-1]["train_loss"] < rows[0]["train_loss"] / 5
    assert {"train_loss", "validation_loss", "validation_accuracy"} <= set(rows[0])


def test_model_is_good_and_its_interval_holds_the_value(runs):
    metrics = runs["evaluate"]["metrics"]
    assert metrics["recall"] >= 0.97
    assert metrics["recall_lower"] < metrics["recall"] < metrics["recall_upper"] <= 1
    assert metrics["worst_digit_recall"] <= metrics["recall"]
    assert 0 <= metrics["calibration_error"] < 0.1
    assert 0 < metrics["latency_p50_ms"] <= metrics["latency_p95_ms"]


def test_explanations_add_up(runs):
    assert 0 <= runs["explain"]["metrics"]["worst_completeness_error"] < 0.05


def test_objectives_are_checked_and_recall_is_met(workspace, runs):
    "Latency depends on what else this machine does, so it may be missed"
    report = json.loads(call(workspace, "objectives", "check", runs["evaluate"]["id"], "--json", allowed=(0, 1)))
    status = {check["metric"]: check["status"] for check in report["checks"]}
    assert status.pop("latency_p95_ms") != "not measured"
    assert status == {"recall": "met", "worst_digit_recall": "met"}


def test_lineage_reaches_from_explanation_and_evaluation_to_the_data(workspace):
    graph = read(workspace, "lineage", "digits-model:latest")
    names = {node["id"]: node["name"].partition(":")[0] for node in graph["nodes"]}
    assert {"digits", "digits-model", "digits-evaluation", "digits-explanation"} <= set(names.values())


def test_equal_parameters_give_equal_bytes(workspace, runs, tmp_path):
    "Dataset and model, from another folder: neither holds a time or a path"
    call(tmp_path, "init", "again", "--template", "digits")
    for step in ("prepare", "train"):
        call(tmp_path / "again", "run", f"notebooks/{step}.ipynb", *(["-p", "channels", "8"] if step == "train" else []))
    for artifact in ("digits:latest", "digits-model:latest"):
        assert digest_of(tmp_path / "again", artifact) == digest_of(workspace, artifact)


def digest_of(workspace, artifact):
    name = artifact.partition(":")[0]
    nodes = read(workspace, "lineage", artifact)["nodes"]
    (digest,) = {node["digest"] for node in nodes if node["name"].partition(":")[0] == name and node["kind"] not in ("run", "notebook")}
    return digest


def test_model_holds_no_path_of_this_machine(workspace):
    blobs = [path for path in (workspace / ".mlops" / "blobs").rglob("*") if path.is_file()]
    models = [blob.read_bytes() for blob in blobs if b"model/models/model.json" in blob.read_bytes()]
    assert models
    for model in models:
        assert b"ipykernel" not in model and os.fsencode(sys.prefix) not in model
