"""The template `automl`: from a table and a target to the model that suits it, with a leaderboard, by somebody who is no expert."""
import json
import re
import subprocess
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from commands import PROGRAM, call, read, refuse
from sklearn.datasets import load_diabetes
from test_template_tabular import outputs, runs_of, tumours

from mlops_nb import load_model
from mlops_nb.evaluation.cross_validation import make_folds, open_rows
from mlops_nb.experiments.acceptance import accept_parameters
from mlops_nb.run_tables import leading_metrics
from mlops_nb.settings import ParameterError, SweepError, open_workspace
from mlops_nb.store.door import open_store

TEMPLATE = Path(__file__).parents[1] / "nbs" / "templates" / "automl"
QUICK = ("-p", "search.minutes", 5, "-p", "search.most", 2, "-p", "search.folds", 2)


def init(folder, table, target, *options):
    table.to_csv(folder / "table of mine.csv", index=False)
    call(folder, "init", "my ตาราง", "--template", "automl", "--data", "table of mine.csv", "--target", target, *options)
    return folder / "my ตาราง"


@pytest.fixture(scope="module")
def binary(tmp_path_factory):
    made = init(tmp_path_factory.mktemp("binary"), tumours(), "diagnosis", "--key", "case", "--positive", "malignant")
    call(made, "run", *QUICK, "-p", "evaluate.resamples", 50, "-p", "evaluate.latency_calls", 20, allowed=(0, 1))
    return made


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    made = init(tmp_path_factory.mktemp("trees"), load_diabetes(as_frame=True).frame.sample(frac=1, random_state=0), "target")
    call(made, "run", "notebooks/prepare.ipynb")
    call(made, "run", "notebooks/search.ipynb", "-y", "families: [trees]", "-p", "minutes", 0.05, "-p", "folds", 2)
    return made


# As it is kept


@pytest.mark.parametrize("name", ["search", "candidate"])
def test_notebook_is_clean_and_its_parameters_are_explained(name):
    notebook = nbformat.read(TEMPLATE / "notebooks" / f"{name}.ipynb", as_version=4)
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.cells[0].source.startswith("# ") and outputs(notebook) == []
    (parameters,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    for line in parameters.source.splitlines():
        assert re.fullmatch(r"\w+: (int|float|str|bool|dict|Annotated\[.+\]|Literal\[.+\]|list\[.+\]) = .+  # .+", line), line


@pytest.mark.parametrize(("given", "message"), [
    ({"minutes": 0}, "minutes = 0: allowed is a number, above 0"),
    ({"minutes": -1}, "minutes = -1: allowed is a number, above 0"),
    ({"folds": 1}, "folds = 1: allowed is a whole number, at least 2"),
    ({"most": -3}, "most = -3: allowed is a whole number, at least 0"),
    ({"families": ["forest"]}, "families[0] = 'forest': allowed is 'linear' or 'trees' or 'network'"),
])
def test_parameters_that_make_no_search_are_refused(given, message):
    notebook = nbformat.read(TEMPLATE / "notebooks" / "search.ipynb", as_version=4)
    with pytest.raises(ParameterError, match=re.escape(message)):
        accept_parameters(notebook, given)


def test_init_takes_the_other_files_from_tabular(tmp_path):
    made = init(tmp_path, tumours(), "diagnosis", "--key", "case")
    names = {each.stem for each in (made / "notebooks").iterdir()}
    assert names == {"prepare", "search", "candidate", "evaluate", "explain", "card", "predict"}
    for path in made.rglob("*"):
        assert not path.is_file() or "{{" not in path.read_text(encoding="utf-8"), path
    assert (made / "settings.ini").is_file() and (made / "objectives.toml").is_file() and not (made / "extends").exists()
    assert "search.minutes" in (made / "README.md").read_text(encoding="utf-8")
    assert 'target: str = "diagnosis"' in json.dumps(json.loads((made / "notebooks/prepare.ipynb").read_text())).replace('\\"', '"')
    assert "needs --data and --target" in refuse(tmp_path, "init", "other", "--template", "automl")


# As it runs


def test_every_step_finishes_and_every_family_is_on_the_leaderboard(binary):
    runs = runs_of(binary)
    assert {name: runs[name]["status"] for name in ("prepare", "search", "evaluate", "explain", "card")} == dict.fromkeys(
        ("prepare", "search", "evaluate", "explain", "card"), "finished")
    artifact = open_store(open_workspace(binary)).artifacts.use(None, "table-of-mine-leaderboard:latest")
    board = pd.read_csv(artifact.path("leaderboard.csv"))
    assert set(board.family) == {"linear", "trees", "network"}
    assert board.roc_auc.is_monotonic_decreasing and board.candidates.sum() == 3 + 2
    assert board.family[0] in artifact.metadata["message"] and "interval" in artifact.metadata["message"]


def test_the_chosen_candidate_is_the_model(binary):
    store = open_store(open_workspace(binary))
    model = load_model("table-of-mine-model:latest", binary)
    about = model.artifact.metadata
    candidates = [each for each in read(binary, "runs", "list") if Path(each["notebook"]).stem == "candidate"]
    scores = {each["id"]: store.runs.get(each["id"]).metrics["score"] for each in candidates}
    assert len(scores) == 5 and about["candidate"] == max(scores, key=scores.get)
    assert about["metrics"]["cross_validation_roc_auc"] == pytest.approx(max(scores.values()))
    said = model.predict(tumours())
    assert list(said.columns) == ["case", "prediction", "probability_malignant"]
    assert (said.prediction == tumours().diagnosis).mean() > 0.85


def test_runs_are_told_by_their_scores(binary):
    store = open_store(open_workspace(binary))
    board = pd.read_csv(store.artifacts.use(None, "table-of-mine-leaderboard:latest").path("leaderboard.csv"))
    for each in read(binary, "runs", "list"):
        metrics, notebook = store.runs.get(each["id"]).metrics, Path(each["notebook"]).stem
        if notebook == "candidate":
            assert list(leading_metrics(metrics))[:2] == ["roc_auc", "log_loss"] and metrics["roc_auc"] == metrics["score"]
        if notebook == "search":
            assert list(leading_metrics(metrics))[:3] == [f"{family}_roc_auc" for family in board.family]
            assert metrics["roc_auc"] == max(board.roc_auc) == metrics[f"{metrics['chosen']}_roc_auc"] and metrics["minutes_used"] > 0


def test_the_search_does_not_look_at_the_test_rows(binary):
    from mlops_nb.data.datasets import open_dataset

    data = open_dataset(open_store(open_workspace(binary)).artifacts.use(None, "table-of-mine:latest"))
    table, split = open_rows(data)
    assert set(table.case) == set(data.table("train").case) | set(data.table("validation").case)
    folds = make_folds(table, data.schema, split, 5)
    assert sorted(row for fold in folds for row in fold.judge) == list(range(len(table)))
    for each in read(binary, "runs", "list"):
        if Path(each["notebook"]).stem in ("search", "candidate"):
            source = (binary / ".mlops" / "runs" / each["id"] / "notebook.ipynb").read_text(encoding="utf-8")
            assert 'table(\\"test\\")' not in source


def test_trees_are_explained_without_a_gradient(trees):
    model = load_model("table-of-mine-model:latest", trees)
    assert model.artifact.metadata["family"] == "trees"
    call(trees, "run", "notebooks/explain.ipynb", "-p", "rows", 100)
    artifact = open_store(open_workspace(trees)).artifacts.use(None, "table-of-mine-explanation:latest")
    assert artifact.metadata["method"] == "shapley_sampling, permutation"
    assert artifact.metadata["worst_convergence_delta"] < 0.01


def test_a_candidate_is_an_experiment_of_its_own(trees):
    call(trees, "run", "notebooks/candidate.ipynb", "-p", "family", "linear", "-y", "settings: {penalty: 10.0}", "-p", "folds", 2)
    (newest, *_) = read(trees, "runs", "list")
    assert {"score", "fold_0", "fold_1", "other", "time_s"} <= set(open_store(open_workspace(trees)).runs.get(newest["id"]).metrics)


def test_a_candidate_that_always_fails_is_said_to(trees):
    from mlops_nb.experiments.model_search import ModelSearch, search_models

    program = trees / "notebooks" / "candidate.ipynb"
    search = ModelSearch(program, {"linear": {}}, {"dataset": "nothing:latest"}, time_s=1, workers=1)
    with pytest.raises(SweepError, match="no family could be judged: .*nothing"):
        search_models(open_store(open_workspace(trees)), search)


# On a real table


@pytest.mark.soak
@pytest.mark.public_table("telco_churn.csv")
def test_telco_is_predicted_as_well_as_by_hand(tmp_path, public_tables):
    "Five minutes of search, compared with the network of the template `tabular` on the same test rows"
    found, data = {}, public_tables / "telco_churn.csv"
    for template, makes, options in (("tabular", "train", ()), ("automl", "search", ("-p", "minutes", "5"))):
        call(tmp_path, "init", template, "--template", template, "--data", data, "--target", "Churn", "--key", "customerID")
        began = time.time()
        for notebook in ("prepare", makes, "evaluate"):
            words = ["run", f"notebooks/{notebook}.ipynb", *(options if notebook == makes else ())]
            done = subprocess.run([PROGRAM, *words], cwd=tmp_path / template, capture_output=True, text=True, timeout=900)
            assert done.returncode in (0, 1), done.stdout + done.stderr
        metrics = runs_of(tmp_path / template)["evaluate"]["metrics"]
        found[template] = metrics["test_roc_auc"]
        print(template, f"{time.time() - began:.0f} s", {name: round(metrics[name], 4) for name in ("test_roc_auc", "test_log_loss")})
    assert found["automl"] > found["tabular"] - 0.005
