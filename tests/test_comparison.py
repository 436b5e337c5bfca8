"Two models on the same rows: published tests, gains, regressions; and how long a model takes"
import json
import time

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from mlops_nb.evaluation.comparison import compare_models
from mlops_nb.evaluation.latency import measure_latency, percentile_bounds
from mlops_nb.evaluation.metrics import metrics_of, paired_gain
from mlops_nb.evaluation.paired_tests import delong, delong_areas, mcnemar
from mlops_nb.evaluation.slices import make_slices
from mlops_nb.settings import DataError, NotFoundError

# Albumin, total protein, Krebs-Goplerud score and benefit of 43 patients: DeLong et al. (1988), as printed in the SAS/STAT User's Guide,
# "The LOGISTIC Procedure", example "Comparing Receiver Operating Characteristic Curves"
PATIENTS = np.array("""
3.0 5.8 10 0 3.2 6.3 5 1 3.9 6.8 3 1 2.8 4.8 6 0 3.2 5.8 3 1 0.9 4.0 5 0 2.5 5.7 8 0 1.6 5.6 5 1 3.8 5.7 5 1 3.7 6.7 6 1 3.2 5.4 4 1
3.8 6.6 6 1 4.1 6.6 5 1 3.6 5.7 5 1 4.3 7.0 4 1 3.6 6.7 4 0 2.3 4.4 6 1 4.2 7.6 4 0 4.0 6.6 6 0 3.5 5.8 6 1 3.8 6.8 7 1 3.0 4.7 8 0
4.5 7.4 5 1 3.7 7.4 5 1 3.1 6.6 6 1 4.1 8.2 6 1 4.3 7.0 5 1 4.3 6.5 4 1 3.2 5.1 5 1 2.6 4.7 6 1 3.3 6.8 6 0 1.7 4.0 7 0 3.7 6.1 5 1
3.3 6.3 7 1 4.2 7.7 6 1 3.5 6.2 5 1 2.9 5.7 9 0 2.1 4.8 7 1 2.8 6.2 8 0 4.0 7.0 7 1 3.3 5.7 6 1 3.7 6.9 5 1 3.6 6.6 5 1
""".split(), float).reshape(-1, 4)


def by_definition(truth, outputs):
    "DeLong et al. (1988), section 2: components V10 and V01 over all pairs, and S = S10 / m + S01 / n"
    pairs = [(output[truth][:, None] > output[~truth]) + (output[truth][:, None] == output[~truth]) / 2 for output in outputs]
    above, below = np.stack([each.mean(1) for each in pairs]), np.stack([each.mean(0) for each in pairs])
    return above.mean(1), np.cov(above) / above.shape[1] + np.cov(below) / below.shape[1]


def test_delong_on_the_patients_of_its_paper():
    albumin, protein, score, benefit = PATIENTS.T
    truth, outputs = benefit == 1, np.stack([albumin, 10 - score, protein])
    areas, covariance = delong_areas(truth, outputs)
    expected = by_definition(truth, outputs)
    assert areas == pytest.approx(expected[0]) and covariance == pytest.approx(expected[1])
    found, variance = delong(truth, 10 - score, protein), expected[1][1, 1] + expected[1][2, 2] - 2 * expected[1][1, 2]
    assert found.difference == pytest.approx(expected[0][2] - expected[0][1])
    assert found.statistic == pytest.approx(found.difference / variance**0.5)
    assert found.p_value == pytest.approx(stats.chi2.sf(found.difference**2 / variance, 1))


def test_delong_of_a_published_area():
    "Hanley and McNeil (1982), table I; area, DeLong's standard error and bounds as Stata's manual prints them, [R] roctab"
    scans = np.array([33, 6, 6, 11, 2, 3, 2, 2, 11, 33])
    truth, rating = np.repeat(np.arange(10) >= 5, scans), np.repeat(np.tile(np.arange(1, 6), 2), scans)
    [area], [[variance]] = delong_areas(truth, rating)
    assert (f"{area:.4f}", f"{variance**0.5:.4f}") == ("0.8932", "0.0307")
    assert [f"{bound:.5f}" for bound in stats.norm.interval(0.95, area, variance**0.5)] == ["0.83295", "0.95339"]


@pytest.mark.parametrize("seed", range(5))
def test_delong_with_ties_is_what_pairs_say(seed):
    rng = np.random.default_rng(seed)
    truth, outputs = rng.random(60) < 0.4, rng.integers(0, 6, (2, 60)) / 5
    areas, covariance = delong_areas(truth, outputs)
    expected = by_definition(truth, outputs)
    assert areas == pytest.approx(expected[0]) and covariance == pytest.approx(expected[1])
    assert areas == pytest.approx([roc_auc_score(truth, each) for each in outputs])


def test_delong_of_equal_models_and_of_perfect_ones():
    truth, output = np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.8, 0.9])
    assert delong(truth, output, output).p_value == 1
    assert delong(truth, output, 1 - output).p_value == 0 # no variance at all, and all the difference there is
    for bad in ([0, 0, 0, 1], [1, 1, 1, 1]):
        with pytest.raises(DataError, match="at least two of each"):
            delong(bad, output, output)


def test_delong_holds_its_level():
    "Two models that are equally good: one in twenty differs"
    rng, wrong = np.random.default_rng(0), 0
    for _ in range(400):
        truth = rng.random(200) < 0.4
        wrong += delong(truth, *(truth + rng.normal(size=(2, 200)))).differs()
    assert 8 <= wrong <= 36


def test_mcnemar_of_published_examples():
    "Agresti, Categorical Data Analysis (1990), page 350, as R's mcnemar.test prints it; and the binomial distribution itself"
    found = mcnemar(150, 86, 1_600)
    assert (f"{found.statistic:.3f}", f"{found.p_value:.3e}") == ("16.818", "4.115e-05")
    assert found.difference == pytest.approx(-0.04)
    assert mcnemar(12, 12).method.startswith("exact") and mcnemar(12, 13).method.startswith("chi-squared")
    for first, second in ((0, 5), (3, 11), (10, 10), (24, 0)):
        expected = min(1, 2 * stats.binom.cdf(min(first, second), first + second, 0.5))
        assert mcnemar(first, second).p_value == pytest.approx(expected)
    with pytest.raises(DataError, match="counts from 0 on that fit in rows"):
        mcnemar(5, 5, rows=9)


def two_models(rows=3_000, seed=0):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"contract": rng.choice(["monthly", "yearly"], rows), "tenure": rng.integers(0, 72, rows)})
    risk = rng.beta(0.5, 1, rows)
    return table, rng.random(rows) < risk, np.clip(risk + rng.normal(0, 0.3, rows), 0, 1), risk, rng


def test_a_gain_is_the_paired_gain():
    _, truth, champion, challenger, _ = two_models(800)
    found = compare_models("binary", truth, champion, challenger, resamples=200)
    assert [each.metric for each in found.gains] == [each.name for each in metrics_of("binary")]
    single = paired_gain("binary", truth, challenger, champion, resamples=200)
    gain = found.gain()
    assert (gain.gain, gain.lower, gain.upper) == pytest.approx(single)
    assert gain.verdict == "better" and gain.probability_better == 1 and found.passed
    assert all(each.gain > 0 for each in found.gains if each.metric in ("log_loss", "calibration_error", "accuracy"))


def test_better_overall_and_worse_for_some():
    table, truth, champion, risk, rng = two_models()
    lost = ((table.contract == "monthly") & (table.tenure < 12)).to_numpy()
    challenger = np.where(lost, rng.random(len(table)), risk)
    slices = make_slices(table, ["contract", "tenure", "contract == 'monthly' and tenure < 12", "tenure < 0"])
    found = compare_models("binary", truth, champion, challenger, slices, names=("v3", "v4"), resamples=300)
    assert found.gain().verdict == "better" and not found.passed
    assert [each.slice for each in found.regressions][0] == "contract == 'monthly' and tenure < 12"
    assert found.message.startswith("v4 against v3: better overall") and "worse for contract == 'monthly'" in found.message
    assert found.regressions[0].upper < 0 and next(each for each in found.slices if each.rows == 0).note
    page = found._repr_html_()
    assert "McNemar" in page and "DeLong" in page and "contract = monthly" in page
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["passed"] is False


def test_html_is_escaped():
    table, truth, champion, challenger, _ = two_models(200)
    table["contract"] = "<script>"
    found = compare_models("binary", truth, champion, challenger, make_slices(table, "contract"), names=("<a>", "b"), resamples=20)
    assert "<script>" not in found._repr_html_() and "<a>" not in found._repr_html_()


def test_two_equal_models_differ_in_nothing():
    "Over 40 pairs of models that are equally good, hardly any slice is a regression, and the probabilities spread around a half"
    worse, better = 0, []
    for seed in range(40):
        table, truth, _, risk, rng = two_models(600, seed)
        outputs = [np.clip(risk + rng.normal(0, 0.2, 600), 0, 1) for _ in range(2)]
        found = compare_models("binary", truth, *outputs, make_slices(table, ["contract", "tenure"]), ["roc_auc"], resamples=100, seed=seed)
        worse += bool(found.regressions)
        better.append(found.gain().probability_better)
    assert worse <= 6 and 0.3 < np.mean(better) < 0.7


@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_other_tasks(task):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 300) if task == "multiclass" else rng.normal(size=300)
    noise = rng.dirichlet(np.ones(3), 300) if task == "multiclass" else truth + rng.normal(size=300) * 3
    better = (noise + np.eye(3)[truth]) / 2 if task == "multiclass" else truth + rng.normal(size=300)
    found = compare_models(task, truth, noise, better, resamples=50)
    assert found.passed and [each.name for each in found.tests] == (["McNemar"] if task == "multiclass" else [])


def test_refused_comparisons():
    with pytest.raises(DataError, match="different numbers of classes"):
        compare_models("multiclass", [0, 1], np.full((2, 2), 0.5), np.full((2, 3), 1 / 3))
    with pytest.raises(DataError, match="truth has 2 rows and output 3"):
        compare_models("binary", [0, 1], [0.1, 0.2], [0.1, 0.2, 0.3])
    with pytest.raises(NotFoundError, match="no metric of a binary task 'rmse'"):
        compare_models("binary", [0, 1], [0.1, 0.2], [0.1, 0.2], metrics="rmse")
    with pytest.raises(DataError, match="give rows of every class"):
        compare_models("binary", [0, 0], [0.1, 0.2], [0.1, 0.2], metrics="roc_auc")
    one_class = compare_models("binary", [0, 0, 0], [0.1, 0.2, 0.6], [0.1, 0.2, 0.3], resamples=20)
    assert one_class.primary == "accuracy" and [each.name for each in one_class.tests] == ["McNemar"]


class Sleeper:
    "A model that notes what it was asked"
    def __init__(self): self.sizes, self.indexes = [], []
    def outputs(self, table):
        self.sizes.append(len(table))
        self.indexes.append(table.index[0])
        time.sleep(0.001)


def test_latency_measures_the_outputs_of_a_model():
    model, table = Sleeper(), pd.DataFrame({"x": range(500)})
    found = measure_latency(model, table, batch_size=7, calls=60, warmup=3)
    assert model.sizes == [7] * 63 and len(set(model.indexes)) > 20
    assert 1 <= found.p50_ms <= found.p95_ms <= found.p99_ms and found.rows_per_s < 7_000
    metrics = found.metrics("serving_")
    assert metrics["serving_latency_p95_ms"] == found.p95_ms and "serving_latency_p99_ms_upper" not in metrics
    assert metrics["serving_latency_p50_ms_lower"] <= found.p50_ms <= metrics["serving_latency_p50_ms_upper"]
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["batch_size"] == 7
    assert "7 rows" in found.message


def test_a_batch_may_be_longer_than_the_table():
    model = Sleeper()
    measure_latency(model, pd.DataFrame({"x": [1, 2, 3]}), batch_size=8, calls=2, warmup=0)
    assert model.sizes == [8, 8]


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_bounds_of_a_percentile_hold_it(share):
    rng = np.random.default_rng(0)
    bounds = np.array([percentile_bounds(np.sort(rng.gamma(2, size=300)), share)[1:] for _ in range(800)])
    true = stats.gamma.ppf(share, 2)
    assert 0.935 < ((bounds[:, 0] <= true) & (true <= bounds[:, 1])).mean() < 0.98
