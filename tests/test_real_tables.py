"""The template `tabular` on real tables, whole: minutes each, so part of `make soak`.

The tables are public (tests/test_template_tabular.py covers the same code on data that scikit-learn brings along); they are
looked for in `../shared/data` beside the repository, or in the folder that TABLES names.
"""
import pytest
from commands import call, read
from conftest import TABLES
from test_template_tabular import runs_of

pytestmark = pytest.mark.soak


def workspace_about(folder, name, *options):
    call(folder, "init", "work", "--template", "tabular", "--data", TABLES / name, *options)
    return folder / "work"


def steps(workspace, *arguments):
    return {step["step"]: step["run"] for step in read(workspace, "run", *arguments)["steps"]}


@pytest.mark.public_table("telco_churn.csv")
def test_churn_over_five_splits(tmp_path):
    workspace = workspace_about(tmp_path, "telco_churn.csv", "--target", "Churn", "--key", "customerID")
    found = [steps(workspace, "-p", "prepare.seed", seed)["evaluate"]["metrics"]["test_roc_auc"] for seed in range(5)]
    print("churn:", [round(each, 4) for each in found], "mean", round(sum(found) / 5, 4))
    assert sum(found) / 5 >= 0.835


@pytest.mark.public_table("bike_sharing_hourly.csv")
def test_bike_rentals_on_the_last_fifth_in_time(tmp_path):
    options = ["--target", "cnt", "--time", "dteday", "--exclude", "casual", "registered", "instant"]
    workspace = workspace_about(tmp_path, "bike_sharing_hourly.csv", *options)
    metrics = steps(workspace)["evaluate"]["metrics"]
    print("bike rentals:", round(metrics["test_r2"], 4))
    assert metrics["test_r2"] >= 0.85


@pytest.mark.public_table("electricity.csv")
def test_electricity_needs_no_option_but_the_target(tmp_path):
    workspace = workspace_about(tmp_path, "electricity.csv", "--target", "class")
    assert {run["status"] for run in steps(workspace).values()} == {"finished"}
    metrics = runs_of(workspace)["evaluate"]["metrics"]
    print("electricity:", round(metrics["test_roc_auc"], 4))
    assert metrics["test_roc_auc"] > 0.8
    prepared = call(workspace, "runs", "logs", runs_of(workspace)["prepare"]["id"])
    assert "Split(order: " in prepared


@pytest.mark.public_table("telco_churn.csv")
def test_churn_from_the_table_to_a_card_in_one_run(tmp_path):
    "Gates with intervals, worst slices, fairness by two columns, explanations with checks, and a card that says all of it"
    workspace = workspace_about(tmp_path, "telco_churn.csv", "--target", "Churn", "--key", "customerID")
    prices = ("-p", "evaluate.cost_false_positive", 50, "-p", "evaluate.cost_false_negative", 400)
    runs = steps(workspace, "-y", "evaluate.sensitive: [gender, SeniorCitizen]", "-y", "explain.slices: [SeniorCitizen]", *prices)
    assert {name: run["status"] for name, run in runs.items()} == dict.fromkeys(
        ("prepare", "train", "evaluate", "explain", "card"), "finished")
    metrics = runs["evaluate"]["metrics"]
    for name in ("test_roc_auc", "fairness_gender_demographic_parity_difference", "fairness_SeniorCitizen_equalized_odds_difference"):
        assert metrics[f"{name}_lower"] <= metrics[name] <= metrics[f"{name}_upper"], name
    (model,) = {each["name"] for each in read(workspace, "lineage", "telco_churn-model:latest")["nodes"] if each["kind"] == "model"}
    call(workspace, "card", model, "card.md")
    card = {part.partition("\n")[0]: part for part in (workspace / "card.md").read_text(encoding="utf-8").split("\n## ")}
    assert not [title for title, text in card.items() if "Not evaluated" in text]
    for title, words in {
        "Decision": ["objectives met", "lower bound", " to 0."], "Metrics": ["test_roc_auc", "test_recall"],
        "Slices": ["The worst slices", "p-values", "SeniorCitizen = 1"],
        "Operating points": ["recall at least 0.8", "They cost least from"],
        "Fairness": ["gender", "Female", "SeniorCitizen", "demographic parity"], "Robustness": ["missing values"],
        "Explanations": ["completeness", "randomisation", "agreement", "influence by slice", "SeniorCitizen = 1"],
        "Lineage": ["```mermaid", model], "Data": ["7,043"]}.items():
        for word in words:
            assert word in card[title], (title, word)
