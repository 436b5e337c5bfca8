"A gate decides by the unfavourable bound, says first what is wrong with the data, and leaves a record"
import json
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from churn import customers, log_models, write_settings

from mlops_nb.evaluation.data_checks import check_overlap, check_size, row_digests, rows_needed
from mlops_nb.evaluation.evaluating import evaluate_model, find_data, read_evaluation
from mlops_nb.evaluation.evaluations import Evaluation, Plan
from mlops_nb.evaluation.gates import decide, gate
from mlops_nb.objectives import Goal, Objective
from mlops_nb.settings import DataError, ModelError, NotFoundError, ObjectivesError, open_workspace
from mlops_nb.store.door import open_store
from mlops_nb.store.session import start_run
from mlops_nb.training.models import load_model
from mlops_nb.training.signature import InputColumn, Signature


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    "A workspace with a dataset, a model, one that gives more than 1, and one that gives NaN"
    root = tmp_path_factory.mktemp("a workspace")
    write_settings(root)
    with start_run("train", workspace=root) as run:
        log_models(run, 3000, **{"churn": (-0.5, 1.0), "too-sure": (-0.5, 1.2), "broken": (0.0, float("nan"))})
        (root / "weights.bin").write_bytes(b"1")
        run.log_artifact(root / "weights.bin", "files-only", "model")
    return open_store(open_workspace(root))


GOAL = Goal("keep", "Malee", "r", (
    Objective("told apart", "test_roc_auc", at_least=0.8), Objective("found", "test_recall", at_least=0.1, cost_of_miss=500),
    Objective("alike", "fairness_gender_equal_opportunity_difference", at_most=0.3),
    Objective("sturdy", "robustness_noise_roc_auc_drop", at_most=0.1),
    Objective("better than nothing", "gain_over_majority", at_least=0.1)), currency="EUR")


def test_a_gate_measures_what_the_objectives_name(store):
    found = gate(store, "churn:latest", plan=Plan(resamples=100), goals=(GOAL,))
    assert found.passed and found.exit_status == 0, found.message
    assert [each.measured_by for each in found.verdicts] == ["evaluate"] * 5
    for verdict in found.verdicts:
        assert verdict.check.basis in ("lower bound", "upper bound")
        assert verdict.measurement.lower <= verdict.measurement.value <= verdict.measurement.upper
        assert verdict.check.value == (verdict.measurement.upper if verdict.check.objective.at_least is None else verdict.measurement.lower)
    row = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert row["passed"] and row["artifact"] == "churn-evaluation:v0"
    assert {"point", "lower", "upper", "margin", "cost"} <= row["verdicts"][0].keys()
    record = next(each for each in store.runs.list() if each.name == "evaluate")
    assert {(relation, each.type) for relation, each in store.artifacts.edges_of(record.id)} == {
        ("used", "model"), ("used", "dataset"), ("logged", "evaluation")}
    assert record.metrics["test_roc_auc"] == found.evaluation.metrics["test_roc_auc"]
    kept = read_evaluation(store.artifacts.use(None, "churn-evaluation:v0"))
    assert kept.to_dict() == found.evaluation.to_dict()
    again = evaluate_model(store, "churn", plan=Plan(resamples=100), wanted=[each.metric for each in GOAL.objectives])[1]
    assert again.reference == "churn-evaluation:v0"


def test_an_objective_of_the_same_run_is_checked_alike(store):
    "What the gate said, `objectives check` says of the run that it left"
    from mlops_nb.evaluation.measurements import check_run
    record = next(each for each in store.runs.list() if each.name == "evaluate")
    assert check_run(store, record, (GOAL,)).passed


def evaluation(metrics, **options):
    return Evaluation("churn:v0", "d", "binary", "leaves", 100, {}, metrics, **options)


@pytest.mark.parametrize("objective, status", [
    (Objective("a", "recall", at_least=0.75), "missed"), (Objective("a", "recall", at_least=0.75, basis="point"), "met"),
    (Objective("a", "test_recall", at_least=0.7), "met"), (Objective("a", "recal", at_least=0.7), "not measured"),
    (Objective("a", "latency_p95_ms", at_most=5), "met")])
def test_bounds_decide(objective, status):
    metrics = {"test_recall": 0.8, "test_recall_lower": 0.7, "test_recall_upper": 0.9}
    found = decide((Goal("g", "o", "r", (objective,)),), evaluation(metrics, timings={"latency_p95_ms": 4}))
    assert found.verdicts[0].check.status == status and found.passed == (status == "met")
    if status == "not measured": assert "churn:v0 has no 'recal': did you mean 'test_recall'?" in found.verdicts[0].message


def test_no_objectives_do_not_pass(store):
    assert not decide((), evaluation({})).passed and decide((), evaluation({})).message == "churn:v0 is not judged: there are no objectives"
    with pytest.raises(ObjectivesError, match="objectives.toml"): gate(store, "churn")


def test_junit_is_read_by_others():
    goal = Goal("g & co", "o", "r", (Objective("a < b", "recall", at_least=0.7), Objective("c", "accuracy", at_least=0.5)))
    suite = ElementTree.fromstring(decide((goal,), evaluation({"test_recall": 0.5, "test_accuracy": 0.9})).to_junit())[0]
    assert (suite.get("tests"), suite.get("failures")) == ("4", "1")
    assert {case.get("name"): case.find("failure") is not None for case in suite} == {
        "a < b": True, "c": False, "no open risk": False, "no warning about the data": False}


# The data

def test_a_file_of_training_rows_is_noticed(store, tmp_path):
    rows = find_data(store, load_model("churn", store.workspace), part="train").table.head(200)
    rows.to_csv(tmp_path / "seen.csv", index=False)
    found, _ = evaluate_model(store, "churn", tmp_path / "seen.csv", plan=Plan(resamples=20))
    [overlap] = [each for each in found.warnings if each.check == "overlap"]
    assert overlap.evidence["seen"] == 200 and "200 of 200 rows (100.0%) are training rows" in overlap.message


def test_new_rows_are_no_overlap_and_drift_is_said(store, tmp_path):
    moved = customers(800, seed=5).assign(charge=lambda table: table["charge"] + 60)
    moved.to_parquet(tmp_path / "moved.parquet")
    found, _ = evaluate_model(store, "churn", tmp_path / "moved.parquet", plan=Plan(resamples=20, width=0.05))
    warnings = {each.check: each for each in found.warnings}
    assert warnings.keys() == {"drift", "size"} and warnings["drift"].evidence["drifted"] == ["charge"]
    assert "takes 1,537" in warnings["size"].message


def test_rows_alike_by_chance_are_no_leak():
    rng = np.random.default_rng(0)
    def few(rows): return pd.DataFrame({"a": rng.choice(["x", "y"], rows), "b": rng.integers(0, 3, rows)})
    found = check_overlap(few(2000), few(300), ["a", "b"])
    assert found.passed and found.evidence["seen"] == 300


def test_digests_do_not_depend_on_how_a_table_is_held():
    table = pd.DataFrame({"a": [1, 2, 3], "b": ["x", None, "z"], "c": [True, False, True]})
    other = pd.DataFrame({"c": [1.0, 0.0, 1.0], "b": np.array(["x", None, "z"], dtype=object), "a": [1.0, 2.0, 3.0]})
    np.testing.assert_array_equal(row_digests(table, ["a", "b", "c"]), row_digests(other, ["a", "b", "c"]))
    assert len(set(row_digests(table, ["a", "b", "c"]))) == 3


def test_rows_needed_make_the_interval_that_narrow():
    assert 2 * 1.959964 * (0.25 / rows_needed(0.05)) ** 0.5 <= 0.05 < 2 * 1.959964 * (0.25 / (rows_needed(0.05) - 1)) ** 0.5
    signature = Signature("binary", "y", ("No", "Yes"), (), (InputColumn("a", "number"),))
    assert not check_size(np.r_[np.zeros(200), np.ones(5)], signature).passed
    with pytest.raises(DataError, match="width = 2"): Plan(width=2)


# Bad input

def test_one_class_only_leaves_the_rest_measured(store, tmp_path):
    table = customers(400, seed=2)
    table[table["leaves"] == "Yes"].to_csv(tmp_path / "leavers.csv", index=False)
    found = gate(store, "churn", tmp_path / "leavers.csv", plan=Plan(resamples=20), goals=(GOAL,))
    statuses = {each.check.objective.name: each for each in found.verdicts}
    assert statuses["told apart"].check.status == "not measured" and "no row of class No" in statuses["told apart"].message
    assert statuses["found"].measurement is not None and not found.passed
    assert "no row of class No" in statuses["better than nothing"].message


@pytest.mark.parametrize("model, data, error, said", [
    ("too-sure", None, DataError, "allowed is a probability from 0 to 1"),
    ("broken", None, DataError, "gives no finite output for 600 of 600 rows, the first is row 1"),
    ("files-only", None, ModelError, "is a model of files and cannot predict"),
    ("chrun", None, NotFoundError, "did you mean 'churn'"),
    ("churn", "custmers:latest", NotFoundError, "did you mean 'customers'"),
    ("churn", "nowhere.csv", DataError, "nowhere.csv"),
])
def test_bad_input_is_refused(store, model, data, error, said):
    with pytest.raises(error) as found: evaluate_model(store, model, data, plan=Plan(resamples=10))
    assert said in str(found.value)


def test_other_columns_are_named(store, tmp_path):
    customers(100).rename(columns={"tenure": "tenures"}).drop(columns="leaves").to_csv(tmp_path / "other.csv", index=False)
    with pytest.raises(DataError) as found: evaluate_model(store, "churn", tmp_path / "other.csv")
    assert "'tenure', did you mean 'tenures'?" in str(found.value) and "'leaves' (the target)" in str(found.value)


def test_a_file_needs_no_columns_that_the_model_does_not_take(store, tmp_path):
    table = customers(300, seed=3)
    table.drop(columns="customer").to_csv(tmp_path / "new.csv", index=False)
    assert evaluate_model(store, "churn", str(tmp_path / "new.csv"), plan=Plan(resamples=10))[0].rows == 300


def test_unknown_groups_and_gaps_are_refused(store):
    with pytest.raises(NotFoundError, match="did you mean 'gender'"):
        evaluate_model(store, "churn", plan=Plan(fairness=("gendre",), resamples=10))
    with pytest.raises(NotFoundError, match="did you mean 'demographic_parity_difference'"):
        evaluate_model(store, "churn", wanted=["fairness_gender_demografic_parity_difference"])
    with pytest.raises(NotFoundError, match="no part 'tests'"): evaluate_model(store, "churn", part="tests")


def test_open_risks_fail_a_gate(store):
    path = store.workspace.root / "risks.toml"
    path.write_text('[[model]]\nname = "churn"\nintended_use = "Call customers."\n'
                    '[[model.risk]]\nname = "unfair"\nharm = "Some are called less."\nstatus = "open"\n')
    try: found = gate(store, "churn", plan=Plan(resamples=20), goals=(Goal("g", "o", "r", GOAL.objectives[:1]),))
    finally: path.unlink()
    assert found.report.passed and not found.passed and "open risks: unfair" in found.message
