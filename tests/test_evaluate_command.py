"`mlops-nb evaluate` and the pytest plugin: verdicts, exit statuses, files for CI servers, and what they refuse"
import json
import os
import subprocess
import sys
from xml.etree import ElementTree

import pytest
from churn import customers, log_models, write_settings
from commands import call, invoke, read, refuse

from mlops_nb.store.session import start_run

OBJECTIVES = """[[goal]]
name = "keep"
owner = "Malee"
reason = "A customer who leaves costs a year's fees."

[[goal.objective]]
name = "told apart"
metric = "test_roc_auc"
at_least = 0.8

[[goal.objective]]
name = "men and women alike"
metric = "fairness_gender_demographic_parity_difference"
at_most = 0.3

[[goal.objective]]
name = "in time"
metric = "latency_p95_ms"
at_most = 10_000
unit = "ms"
"""
IMPOSSIBLE = OBJECTIVES.replace("at_least = 0.8", "at_least = 0.999\ncost_of_miss = 700")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "A workspace with a model whose path has a space and Thai letters"
    root = tmp_path_factory.mktemp("ลูกค้า a workspace")
    write_settings(root)
    with start_run("train", workspace=root) as run:
        log_models(run, 2000, churn=(-0.5, 1.0))
    return root


@pytest.fixture(autouse=True)
def goals(folder):
    "Objectives that the model meets"
    (folder / "objectives.toml").write_text(OBJECTIVES)


def test_a_gate_that_passes(folder):
    status, output, _ = invoke(folder, "evaluate", "churn:latest", "--gate", "--resamples", "50")
    assert status == 0, output
    for said in ("told apart", "lower bound", "upper bound", "in time", "3 of 3 objectives met", "Kept as churn-evaluation:v0"):
        assert said in output
    assert output.index("Evaluated: churn:v0 on customers:v0, test rows") < output.index("told apart")


def test_a_gate_that_fails_says_what_it_costs(folder, tmp_path):
    (folder / "objectives.toml").write_text(IMPOSSIBLE)
    status, output, _ = invoke(folder, "evaluate", "churn", "--gate", "--resamples", "50", "--json",
                               "--junit", tmp_path / "gate.xml")
    found = json.loads(output)
    assert status == 1 and not found["passed"] and found["cost"] == 700
    first = found["verdicts"][0]
    assert first["status"] == "missed" and first["basis"] == "lower bound" and first["margin"] < 0
    assert first["lower"] < first["point"] < first["upper"]
    suite = ElementTree.parse(tmp_path / "gate.xml").getroot()[0]
    assert (suite.get("name"), suite.get("failures")) == ("churn:v0", "1")
    assert "costs 700 EUR" in suite.find("testcase/failure").get("message")


def test_without_a_gate_nobody_is_judged(folder):
    (folder / "objectives.toml").write_text(IMPOSSIBLE)
    found = read(folder, "evaluate", "churn", "--resamples", "20", "--slice", "gender", "--fairness", "senior")
    assert found["metrics"]["test_recall_lower"] <= found["metrics"]["test_recall"] and found["artifact"].startswith("churn-evaluation:v")
    assert {each["slice"] for each in found["slices"]} >= {"gender = f", "gender = m"}
    assert "fairness_senior_equalized_odds_difference" in found["metrics"]
    assert "95% interval" in call(folder, "evaluate", "churn", "--resamples", "20")


def test_what_was_asked_for_is_printed(folder, tmp_path):
    asked = ("evaluate", "churn", "--resamples", "20", "--slice", "gender", "--fairness", "senior", "--robustness")
    for more in ((), ("--gate",)):
        output = invoke(folder, *asked, *more)[1]
        for said in ("roc_auc by slice", "gender = f", "senior = 1: selection_rate", "Widest gap: senior:", "Robustness: of"):
            assert said in output, (said, more)
    assert "by slice" not in call(folder, "evaluate", "churn", "--resamples", "20")


def test_rows_without_a_label_are_counted(folder, tmp_path):
    table = customers(100, seed=3)
    table.loc[::2, "leaves"] = None
    table.to_csv(tmp_path / "nolabels.csv", index=False)
    output = call(folder, "evaluate", "churn", "--data", tmp_path / "nolabels.csv", "--resamples", "20")
    assert "Warning (labels): 50 of 100 rows have no value of 'leaves'" in " ".join(output.split())
    table.assign(leaves=None).to_csv(tmp_path / "none.csv", index=False)
    assert "no rows with a value of 'leaves'" in refuse(folder, "evaluate", "churn", "--data", tmp_path / "none.csv")


def test_a_report_without_a_folder_is_refused_before_anything_is_measured(folder, tmp_path):
    before = len(outcomes(folder))
    assert "there is no folder" in refuse(folder, "evaluate", "churn", "--gate", "--junit", tmp_path / "ci" / "gate.xml")
    assert not (tmp_path / "ci").exists() and len(outcomes(folder)) == before


def test_data_that_is_no_good_is_said_first_and_fails_a_strict_gate(folder, tmp_path):
    customers(90, seed=9).assign(charge=5.0).to_csv(tmp_path / "few.csv", index=False)
    arguments = ("evaluate", "churn", "--data", tmp_path / "few.csv", "--gate", "--resamples", "20")
    (folder / "objectives.toml").write_text(OBJECTIVES.replace("at_least = 0.8", "at_least = 0.1").replace("at_most = 0.3", "at_most = 1"))
    status, output, _ = invoke(folder, *arguments)
    assert status == 0 and output.index("Warning (size): 90 rows") < output.index("told apart") and "Warning (drift)" in output
    assert invoke(folder, *arguments, "--strict")[0] == 1


def test_what_makes_no_sense_ends_with_status_2(folder, tmp_path):
    assert "did you mean 'churn'" in refuse(folder, "evaluate", "chrun")
    assert "add --gate" in refuse(folder, "evaluate", "churn", "--strict")
    assert "allowed is a number between 0 and 1" in refuse(folder, "evaluate", "churn", "--threshold", "50")
    assert "no part 'tset'; did you mean 'test'" in refuse(folder, "evaluate", "churn", "--part", "tset")
    assert "column to group people by 'gendre'" in refuse(folder, "evaluate", "churn", "--fairness", "gendre")
    customers(40).drop(columns="tenure").to_csv(tmp_path / "other.csv", index=False)
    assert "'tenure'" in refuse(folder, "evaluate", "churn", "--data", tmp_path / "other.csv")
    (folder / "objectives.toml").write_text(OBJECTIVES.replace("at_least", "at_leest"))
    assert "line 9: unknown key 'at_leest'" in refuse(folder, "evaluate", "churn", "--gate")
    (folder / "objectives.toml").unlink()
    assert "objectives.toml does not exist" in refuse(folder, "evaluate", "churn", "--gate")


def outcomes(folder):
    "How the runs of evaluations ended"
    return [run["status"] for run in read(folder, "runs", "list") if run["name"] == "evaluate"]


@pytest.mark.parametrize("name, content, said", [
    ("empty.csv", "", "empty.csv"), ("header.csv", "tenure,charge,gender,senior,leaves\n", "header.csv"),
    ("picture.csv", "\x89PNG\r\n\x1a\n\x00\x00", "picture.csv"), ("broken.parquet", "no parquet", "broken.parquet"),
    ("nowhere.csv", None, "nowhere.csv"), ("notes.txt", "hello", "notes.txt")])
def test_a_file_that_is_no_table_is_named(folder, tmp_path, name, content, said):
    if content is not None:
        (tmp_path / name).write_bytes(content.encode("latin-1"))
    message = refuse(folder, "evaluate", "churn", "--data", tmp_path / name, "--gate")
    assert said in message and "Traceback" not in message
    assert "running" not in outcomes(folder)


@pytest.mark.parametrize("model, data, said", [
    ("nan-model", None, "no finite output for"), ("sure-model", None, "allowed is a probability from 0 to 1"),
    ("churn:champion", None, "champion"), ("churn", "customers:champion", "champion"), ("customers", None, "'dataset', not 'model'"),
    ("churn", "customer:latest", "did you mean 'customers")])
def test_models_and_data_that_cannot_be_evaluated(folder, model, data, said):
    with start_run("train", workspace=folder) as run:
        log_models(run, 2000, **{"nan-model": (-0.5, float("nan")), "sure-model": (-0.5, 1.2)})
    message = refuse(folder, "evaluate", model, *(("--data", data) if data else ()), "--resamples", "20")
    assert said in message and "Traceback" not in message, message
    assert "running" not in outcomes(folder)


@pytest.mark.parametrize("gated", [(), ("--gate",)])
def test_a_model_of_files_is_refused_before_a_run_is_begun(folder, gated):
    with start_run("train", workspace=folder) as run:
        run.log_artifact(folder / "settings.ini", "table", "model")
    before = outcomes(folder)
    message = refuse(folder, "evaluate", "table", *gated)
    assert "evaluate one that log_model wrote" in message and outcomes(folder) == before


def test_an_unknown_metric_is_not_measured_and_its_nearest_name_is_given(folder):
    (folder / "objectives.toml").write_text(OBJECTIVES.replace("test_roc_auc", "test_rocauc"))
    status, output, _ = invoke(folder, "evaluate", "churn", "--gate", "--resamples", "20")
    assert status == 1 and "not measured" in output and "did you mean 'test_roc_auc'" in output
    (folder / "objectives.toml").write_text(OBJECTIVES.replace("demographic_parity", "demografic_parity"))
    assert "did you mean 'demographic_parity_difference'" in refuse(folder, "evaluate", "churn", "--gate")


def test_a_gate_alone_makes_a_card(folder, tmp_path):
    "Without a template: the command's own record has all that the card needs"
    (folder / "objectives.toml").write_text(IMPOSSIBLE)
    assert invoke(folder, "evaluate", "churn", "--gate", "--resamples", "20", "--slice", "gender")[0] == 1
    call(folder, "card", "churn", tmp_path / "card.html")
    text = call(folder, "card", "churn")
    assert "churn:v0 does not pass" in text and "told apart" in text and "gender = f" in text and "customers:v0, test rows" in text
    assert "```mermaid" in text and "<svg" in (tmp_path / "card.html").read_text(encoding="utf-8")


JUNIT = {"testsuites": (set(), {"testsuite"}), "testsuite": ({"name", "tests", "errors", "skipped", "failures"}, {"testcase"}),
         "testcase": ({"classname", "name", "time"}, {"failure", "system-out"}),
         "failure": ({"message"}, set()), "system-out": (set(), set())}


def test_the_junit_file_has_the_form_that_servers_read(folder, tmp_path):
    "Elements, attributes and counts as in the schema of Ant's JUnit task, with names that XML has to escape"
    (folder / "objectives.toml").write_text(IMPOSSIBLE.replace("told apart", "told <apart> & more"), encoding="utf-8")
    assert invoke(folder, "evaluate", "churn", "--gate", "--resamples", "20", "--junit", tmp_path / "gate.xml")[0] == 1
    root = ElementTree.parse(tmp_path / "gate.xml").getroot()
    for element in root.iter():
        attributes, children = JUNIT[element.tag]
        assert set(element.attrib) == attributes and {each.tag for each in element} <= children, element.tag
    suite = root[0]
    assert int(suite.get("tests")) == len(suite) == 5 and int(suite.get("failures")) == len(suite.findall("testcase/failure")) == 1
    assert suite[0].get("name") == "told <apart> & more" and all(float(case.get("time")) >= 0 for case in suite)


def pytest_of(folder, *arguments):
    "Exit status and output of pytest in the workspace"
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("MLOPS_NB_", "WANDB_", "PYTEST_"))}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", *arguments]
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


def test_each_objective_is_a_test(folder, tmp_path):
    (folder / "objectives.toml").write_text(IMPOSSIBLE)
    status, output = pytest_of(folder, "--mlops-model", "churn:latest", "-v", f"--junitxml={tmp_path}/tests.xml")
    assert status == 1, output
    assert "objectives.toml::keep: told apart FAILED" in output and "objectives.toml::keep: men and women alike PASSED" in output
    assert "1 failed, 3 passed" in output and "told apart missed: lower bound" in output and "churn:v0 does not pass" in output
    assert "Traceback" not in output and "costs 700 EUR" in output
    cases = {case.get("name"): len(case) for case in ElementTree.parse(tmp_path / "tests.xml").iter("testcase")}
    assert cases["keep: told apart"] == 1 and cases["keep: in time"] == 0


def test_the_plugin_works_from_another_folder(folder, tmp_path):
    "The root of the tests is the workspace, wherever pytest is called"
    status, output = pytest_of(tmp_path, "-q", "--rootdir", folder, folder, "--mlops-model", "churn:latest")
    assert status == 0 and "4 passed" in output, output
    status, output = pytest_of(tmp_path, "-q", "--mlops-model", "churn:latest")
    assert status == 2 and "mlops-nb init" in output, "a folder without a workspace"


def test_tests_of_objectives_stand_beside_others(folder, tmp_path):
    (tmp_path / "settings.ini").write_text("[workspace]\nproject = churn\n[wandb]\nmode = disabled\n")
    (tmp_path / "objectives.toml").write_text(OBJECTIVES)
    (tmp_path / "test_own.py").write_text("def test_own(): pass\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    status, output = pytest_of(tmp_path, "-q")
    assert status == 0 and "1 passed" in output
    status, output = pytest_of(tmp_path, "-q", "--mlops-model", "churn")
    assert status == 4 and output.count("no artifact 'churn'") == 1, "one error, and no test of it"
    with start_run("train", workspace=tmp_path) as run:
        run.log_artifact(tmp_path / "objectives.toml", "churn", "model")
    status, output = pytest_of(tmp_path, "-q", "--mlops-model", "churn", "--collect-only")
    assert "test_own" in output and "5 tests collected" in output
    status, output = pytest_of(tmp_path, "-q", "--mlops-model", "churn", "-k", "apart")
    assert status == 1 and "is a model of files" in output and "4 deselected" in output
    (tmp_path / "objectives.toml").unlink()
    status, output = pytest_of(tmp_path, "-q", "--mlops-model", "churn")
    assert status == 2 and "objectives.toml: cannot be read" in output
