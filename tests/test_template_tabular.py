"""The template `tabular`: from a table and a target to an evaluated, explained model, and what it refuses."""
import json
import re
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from commands import call, read, refuse
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine

from mlops_nb.objectives import read_objectives
from mlops_nb.settings import load_settings

TEMPLATE = Path(__file__).parents[1] / "nbs" / "templates" / "tabular"
STEPS = ("prepare", "train", "evaluate", "explain", "card")
QUICK = ("-p", "evaluate.resamples", 50, "-p", "evaluate.latency_calls", 20)  # `binary` takes the defaults


def tumours():
    "569 tumours with every kind of column, gaps, and a key; the target is what scikit-learn says of them"
    data = load_breast_cancer(as_frame=True)
    random = np.random.default_rng(0)
    table = data.data[["mean radius", "mean texture", "worst concavity", "area error"]].round(4).astype(object)
    table.insert(0, "case", [f"C{number:04d}" for number in random.permutation(len(table))])
    table["clinic"] = random.choice(["Nord", "Süd", "กรุงเทพ", "rare"], len(table), p=[0.5, 0.3, 0.195, 0.005])
    table["smoker"] = random.choice(["yes", "no", ""], len(table))
    table["seen"] = pd.date_range("2021-01-01", periods=len(table), freq="17h").strftime("%Y-%m-%d")
    table.loc[random.random(len(table)) < 0.1, "mean texture"] = " "
    return table.assign(diagnosis=np.where(data.target == 1, "benign", "malignant"))


def init(folder, table, target, *options, name="my ตาราง"):
    "A workspace about a table, in a folder with a space and Thai letters"
    table.to_csv(folder / "table of mine.csv", index=False)
    call(folder, "init", folder / name, "--template", "tabular", "--data", "table of mine.csv", "--target", target, *options)
    return folder / name


def make(*arguments, parameters=()):
    "The same, after one run of its pipeline"
    made = init(*arguments)
    call(made, "run", *parameters)
    return made


@pytest.fixture(scope="module")
def binary(tmp_path_factory):
    return make(tmp_path_factory.mktemp("binary"), tumours(), "diagnosis", "--key", "case", "--positive", "malignant")


@pytest.fixture(scope="module")
def multiclass(tmp_path_factory):
    frame = load_wine(as_frame=True).frame.sample(frac=1, random_state=0)
    return make(tmp_path_factory.mktemp("multiclass"), frame, "target", parameters=QUICK)


@pytest.fixture(scope="module")
def regression(tmp_path_factory):
    frame = load_diabetes(as_frame=True).frame.sample(frac=1, random_state=0)
    return make(tmp_path_factory.mktemp("regression"), frame, "target", parameters=QUICK)


@pytest.fixture(params=["binary", "multiclass", "regression"])
def workspace(request):
    return request.getfixturevalue(request.param)


def runs_of(workspace):
    return {Path(run["notebook"]).stem: run for run in read(workspace, "runs", "list")}


def executed(workspace, run):
    return nbformat.read(workspace / ".mlops" / "runs" / run["id"] / "notebook.ipynb", as_version=4)


def outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


# As it is kept


@pytest.mark.parametrize("step", [*STEPS, "predict"])
def test_notebook_is_clean_and_its_parameters_are_explained(step):
    notebook = nbformat.read(TEMPLATE / "notebooks" / f"{step}.ipynb", as_version=4)
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.cells[0].source.startswith("# ")
    assert outputs(notebook) == []
    (parameters,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    for line in parameters.source.splitlines():
        assert re.fullmatch(r"\w+: (int|float|str|bool|list|dict) = .+  # .+", line), line


# As it is filled


def test_init_fills_every_gap(workspace):
    for path in workspace.rglob("*"):
        if path.is_file() and ".mlops" not in path.parts:
            assert "{{" not in path.read_text(encoding="utf-8"), path
    assert not list(workspace.glob("objectives.*.toml")) and not (workspace / "takes_data").exists()
    assert load_settings(workspace, environ={}).workspace.project == "table-of-mine"
    (goal,) = read_objectives(workspace / "objectives.toml", "EUR")
    assert {each.role for each in goal.objectives} == {"target", "guardrail"}


def test_answers_stand_in_the_notebook(binary):
    notebook = nbformat.read(binary / "notebooks" / "prepare.ipynb", as_version=4)
    (parameters,) = [cell.source for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    assert 'data: str = "../table of mine.csv"  # ' in parameters
    assert 'target: str = "diagnosis"  # ' in parameters and 'key: list = ["case"]  # ' in parameters


# As it runs


def test_every_step_finishes_and_reads_as_a_report(workspace):
    runs = runs_of(workspace)
    assert {step: run["status"] for step, run in runs.items()} == dict.fromkeys(STEPS, "finished")
    for run in runs.values():
        shown = outputs(executed(workspace, run))
        form = "text/html" if run["name"] == "card" else "image/png"
        assert [output for output in shown if form in output.get("data", {})], run["name"]
        errors = "".join(output.text for output in shown if output.output_type == "stream" and output.name == "stderr")
        assert not re.search("Warning|Glyph|findfont", errors), errors


@pytest.mark.parametrize("task, metric, least", [
    ("binary", "test_roc_auc", 0.95), ("multiclass", "test_roc_auc", 0.97), ("regression", "test_r2", 0.3)])
def test_model_is_good_and_its_interval_holds_the_value(request, task, metric, least):
    metrics = runs_of(request.getfixturevalue(task))["evaluate"]["metrics"]
    assert metrics[metric] >= least
    assert metrics[f"{metric}_lower"] <= metrics[metric] <= metrics[f"{metric}_upper"]
    assert 0 < metrics["latency_p50_ms"] <= metrics["latency_p95_ms"]
    trivial = "mean" if task == "regression" else "majority"
    assert metrics[f"gain_over_{trivial}_lower"] > 0 and f"baseline_linear_{metric}" in metrics


def test_explanations_add_up(workspace):
    metrics = runs_of(workspace)["explain"]["metrics"]
    assert 0 <= metrics["worst_convergence_delta"] < 0.01
    assert metrics["agreement"] > 0 and metrics["failed_explanation_checks"] >= 0


def test_every_objective_is_measured(workspace):
    report = json.loads(call(workspace, "objectives", "check", "--json", allowed=(0, 1)))
    assert "not measured" not in {check["status"] for check in report["checks"]}


def test_training_stops_early_and_keeps_the_best(binary):
    run = runs_of(binary)["train"]
    journal = (binary / ".mlops" / "runs" / run["id"] / "journal.jsonl").read_text(encoding="utf-8")
    losses = [row["validation_loss"] for row in map(json.loads, journal.splitlines()) if "epoch" in row]
    assert len(losses) < run["parameters"]["epochs"]
    assert run["metrics"]["best_validation_loss"] <= min(losses) + 1e-4


def test_lineage_reaches_from_explanation_and_evaluation_to_the_data(workspace):
    graph = read(workspace, "lineage", "table-of-mine-model:latest")
    names = {node["name"].partition(":")[0] for node in graph["nodes"]}
    assert {"table-of-mine" + each for each in ("", "-model", "-model-evaluation", "-evaluation", "-explanation", "-card")} <= names


def card_of(workspace):
    "The Markdown form of the newest card: title of a section -> its text"
    files = {each["path"]: each["digest"] for each in read(workspace, "artifacts", "show", "table-of-mine-card")["files"]}
    assert set(files) == {"model_card.html", "model_card.md"}
    parts = blob(workspace, files["model_card.md"]).split("\n## ")
    return {part.partition("\n")[0]: part for part in parts}


def blob(workspace, digest):
    (path,) = (workspace / ".mlops" / "blobs").rglob(f"*{digest[4:]}")
    return path.read_text(encoding="utf-8")


def test_card_says_everything_that_was_measured(workspace):
    card = card_of(workspace)
    measured = [title for title, text in card.items() if "Not evaluated" in text]
    assert measured == ["Fairness"], "nobody named groups"
    assert "not measured" not in card["Decision"]
    for title, words in {"Decision": ["lower bound"], "Metrics": ["test rows"], "Slices": ["p-values"], "Robustness": ["missing values"],
                         "Explanations": ["completeness", "agreement", "Permutation"], "Data": ["table-of-mine:v0"],
                             "Purpose": ["Intended use"]}.items():
        for word in words:
            assert word in card[title], (title, word)


def test_groups_and_prices_reach_the_card(binary):
    more = ("-p", "cost_false_positive", 1, "-p", "cost_false_negative", 5, "-y", "sensitive: [smoker]")
    call(binary, "run", "notebooks/evaluate.ipynb", "-p", "resamples", 50, "-p", "latency_calls", 20, *more)
    call(binary, "run", "notebooks/card.ipynb")
    card = card_of(binary)
    assert "demographic parity" in card["Fairness"] and "smoker" in card["Slices"]
    assert "recall at least 0.8" in card["Operating points"] and "They cost least from" in card["Operating points"]
    metrics = next(run for run in read(binary, "runs", "list") if run["name"] == "evaluate")["metrics"]
    assert metrics["fairness_smoker_demographic_parity_difference_lower"] <= metrics["fairness_smoker_demographic_parity_difference"]


def test_second_run_changes_nothing_and_a_changed_file_is_read_again(multiclass):
    assert {step["status"] for step in read(multiclass, "run", *QUICK)["steps"]} == {"unchanged"}
    table = multiclass.parent / "table of mine.csv"
    before = table.read_bytes()
    try:
        table.write_bytes(before.replace(b"\n", b"\r\n"))
        status = {step["step"]: step["status"] for step in read(multiclass, "run", *QUICK)["steps"]}
        assert status.pop("prepare") == "finished" and set(status.values()) == {"unchanged"}, "other line ends are the same table"
    finally:
        table.write_bytes(before)


def test_equal_data_give_equal_bytes(binary, tmp_path):
    "Dataset and model, from another folder: neither holds a time or a path"
    again = init(tmp_path, tumours(), "diagnosis", "--key", "case", "--positive", "malignant", name="again")
    for step in ("prepare", "train"):
        call(again, "run", f"notebooks/{step}.ipynb")
    for artifact in ("table-of-mine:latest", "table-of-mine-model:latest"):
        assert digest_of(again, artifact) == digest_of(binary, artifact)


def digest_of(workspace, artifact):
    name = artifact.partition(":")[0]
    nodes = read(workspace, "lineage", artifact)["nodes"]
    (digest,) = {node["digest"] for node in nodes if node["name"].partition(":")[0] == name and node["kind"] not in ("run", "notebook")}
    return digest


# As it predicts


def test_predict_gives_keys_back_and_takes_any_order(binary, tmp_path):
    new = tumours().drop(columns="diagnosis").sample(50, random_state=1)
    new = new[list(reversed(new.columns))].assign(extra=1)
    new.loc[new.index[0], "clinic"] = "never seen"
    new.to_csv(tmp_path / "new.csv", index=False)
    call(binary, "run", "notebooks/predict.ipynb", "-p", "data", tmp_path / "new.csv", "-p", "output", tmp_path / "out.csv")
    found = pd.read_csv(tmp_path / "out.csv")
    assert found["case"].tolist() == new["case"].tolist()
    assert set(found["prediction"]) <= {"benign", "malignant"}


@pytest.mark.parametrize("change, words", [
    (lambda table: table.drop(columns=["smoker", "mean radius"]), ["smoker", "mean radius"]),
    (lambda table: table.assign(**{"mean radius": "wide"}), ["mean radius", "'wide'", "row 1"]),
])
def test_predict_refuses_another_table(binary, tmp_path, change, words):
    change(tumours().head(3)).to_csv(tmp_path / "new.csv", index=False)
    error = json.loads(refuse(binary, "run", "notebooks/predict.ipynb", "-p", "data", tmp_path / "new.csv", "--json"))["error"]
    assert error["name"] == "DataError"
    for word in words:
        assert word in error["message"]
