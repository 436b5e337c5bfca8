"A workspace with two evaluated versions of a model, an explanation of one, and a paired comparison of both."
import contextlib
import io

from churn import log_models, write_settings
from mlops_nb.data.datasets import open_dataset
from mlops_nb.evaluation.comparison import compare_models
from mlops_nb.evaluation.comparison_records import log_comparison
from mlops_nb.evaluation.costs import CostMatrix, cheapest_threshold
from mlops_nb.evaluation.cases import make_case
from mlops_nb.evaluation.details import make_details, save_details
from mlops_nb.evaluation.evaluations import Plan
from mlops_nb.evaluation.explanation_records import log_explanations
from mlops_nb.evaluation.explanations import explain
from mlops_nb.evaluation.gates import gate
from mlops_nb.evaluation.operating import point_at
from mlops_nb.evaluation.robustness import truth_of
from mlops_nb.settings import open_workspace
from mlops_nb.store.door import open_store
from mlops_nb.store.session import start_run
from mlops_nb.training.models import load_model

NASTY = "<img src=x onerror=alert(1)>"
OBJECTIVES = f"""[[goal]]
name = "keep"
title = "Keep customers {NASTY}"
owner = "Malee"
reason = "A customer who leaves costs a year's fees."
cost_of_missing = 50000

[[goal.objective]]
name = "told apart"
metric = "test_roc_auc"
at_least = 0.8
cost_of_miss = 20000

[[goal.objective]]
name = "rarely wrong"
metric = "test_accuracy"
at_least = 0.95
cost_of_miss = 700

[[goal.objective]]
name = "women and men alike"
metric = "fairness_gender_demographic_parity_difference"
at_most = 0.3
role = "guardrail"

[[goal.objective]]
name = "rings"
metric = "calls_per_customer"
measured_in = "campaign"
at_most = 2
"""


def fill(root):
    "The store of a workspace whose champion is churn:v0, in production, beside the newer churn:v1"
    write_settings(root)
    (root / "objectives.toml").write_text(OBJECTIVES)
    store = open_store(open_workspace(root))
    for shift in (-0.5, 1.5):
        with start_run("train", workspace=store.workspace) as run:
            log_models(run, 1200, churn=(shift, 1.0))
        evaluate(store, "churn:latest")
    store.artifacts.alias("churn:v0", "production")
    compare(store)
    return store


def evaluate(store, model, resamples=50):
    with start_run("evaluate", workspace=store.workspace) as run, contextlib.redirect_stderr(io.StringIO()):
        found = gate(store, model, plan=Plan(resamples=resamples, slices=("gender", "senior"), fairness=("gender",)), run=run)
        run.log({"baseline_linear_test_accuracy": 0.71})
        predictor, data = load_model(run.use_artifact(model)), open_dataset(run.use_artifact("customers:latest"))
        test = data.table("test")
        case = make_case("binary", truth_of(test, predictor.signature), predictor.outputs(test), 0.5)
        cheapest = cheapest_threshold(case, CostMatrix(false_positive=1, false_negative=5), resamples=50)
        folder = store.workspace.root / f"details {run.id}"
        folder.mkdir()
        save_details(make_details(found.evaluation.model, points=(point_at(case, requirement="as now"),), cheapest=cheapest), folder)
        run.log_artifact(folder, "churn-evaluation", "evaluation", metadata={"model": found.evaluation.model})
    return found


def keep_explanation(store, model):
    with start_run("explain", workspace=store.workspace) as run:
        predictor = load_model(run.use_artifact(model))
        test = open_dataset(run.use_artifact("customers:latest")).table("test").head(60)
        log_explanations(run, {"attribution": explain(predictor, test)}, "churn-explanation", predictor.artifact.reference)


def compare(store):
    with start_run("compare", workspace=store.workspace) as run:
        test = open_dataset(run.use_artifact("customers:latest")).table("test")
        one, other = (load_model(run.use_artifact(f"churn:v{version}")) for version in (0, 1))
        outputs = [each.outputs(test) for each in (one, other)]
        found = compare_models("binary", truth_of(test, one.signature), *outputs, metrics=["accuracy", "roc_auc"],
                               names=("churn:v0", "churn:v1"), resamples=50)
        log_comparison(run, found)
