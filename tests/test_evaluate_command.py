"`mlops-nb evaluate` and the pytest plugin: verdicts, exit statuses, files for CI servers, and what they refuse"
import json
import os
import subprocess
import sys
from xml.etree import ElementTree

import pytest
import torch
from commands import call, invoke, read, refuse
from test_gates import Scorer, customers

from mlops_nb.data.datasets import log_dataset, open_dataset
from mlops_nb.data.schema import conform, infer_schema
from mlops_nb.data.splits import split_rows
from mlops_nb.store.session import start_run
from mlops_nb.training.encoder import Encoder
from mlops_nb.training.models import log_model
from mlops_nb.training.signature import fit_signature, to_tensors

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
    (root / "settings.ini").write_text("[workspace]\nproject = churn\n[wandb]\nmode = disabled\n")
    torch.set_num_threads(1)
    with start_run("train", workspace=root) as run:
        table = customers(2000)
        schema = infer_schema(table, "leaves", key=["customer"])
        table = conform(table, schema)
        log_dataset(run, table, schema, split_rows(table, schema), "customers")
        rows = open_dataset(run.use_artifact("customers:latest")).table("train")
        signature = fit_signature(rows, schema)
        encoder = Encoder(signature, *to_tensors(rows, signature))
        log_model(run, "churn", encoder, Scorer(encoder.feature_columns, {"tenure": -2.5}, -0.5), signature)
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
                               "--junit", tmp_path / "ci" / "gate.xml")
    found = json.loads(output)
    assert status == 1 and not found["passed"] and found["cost"] == 700
    first = found["verdicts"][0]
    assert first["status"] == "missed" and first["basis"] == "lower bound" and first["margin"] < 0
    assert first["lower"] < first["point"] < first["upper"]
    suite = ElementTree.parse(tmp_path / "ci" / "gate.xml").getroot()[0]
    assert (suite.get("name"), suite.get("failures")) == ("churn:v0", "1")
    assert "costs 700 EUR" in suite.find("testcase/failure").get("message")


def test_without_a_gate_nobody_is_judged(folder):
    (folder / "objectives.toml").write_text(IMPOSSIBLE)
    found = read(folder, "evaluate", "churn", "--resamples", "20", "--slice", "gender", "--fairness", "senior")
    assert found["metrics"]["test_recall_lower"] <= found["metrics"]["test_recall"] and found["artifact"].startswith("churn-evaluation:v")
    assert {each["slice"] for each in found["slices"]} >= {"gender = f", "gender = m"}
    assert "fairness_senior_equalized_odds_difference" in found["metrics"]
    assert "95% interval" in call(folder, "evaluate", "churn", "--resamples", "20")


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


def test_tests_of_objectives_stand_beside_others(folder, tmp_path):
    (tmp_path / "settings.ini").write_text("[workspace]\nproject = churn\n")
    (tmp_path / "objectives.toml").write_text(OBJECTIVES)
    (tmp_path / "test_own.py").write_text("def test_own(): pass\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    status, output = pytest_of(tmp_path, "-q")
    assert status == 0 and "1 passed" in output
    status, output = pytest_of(tmp_path, "-q", "--mlops-model", "churn", "--collect-only")
    assert "test_own" in output and "5 tests collected" in output
    status, output = pytest_of(tmp_path, "-q", "--mlops-model", "churn", "-k", "apart")
    assert status == 1 and "no artifact 'churn'" in output and "4 deselected" in output
    (tmp_path / "objectives.toml").unlink()
    status, output = pytest_of(tmp_path, "-q", "--mlops-model", "churn")
    assert status == 2 and "objectives.toml: cannot be read" in output
