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


# WFNS grade, S100b, NDKA and a poor outcome of 113 patients after a haemorrhage: Turck et al., Intensive Care Medicine 36 (2010), 107-115,
# as the data set aSAH of the R package pROC 1.18.0 has them
BLEEDINGS = np.array("""
1 0.13 3.01 0  1 0.14 8.54 0  1 0.1 8.09 0  1 0.04 10.42 0  3 0.13 17.4 1  2 0.1 12.75 1  5 0.47 6 0  4 0.16 13.2 1  1 0.18 15.54 0
2 0.1 6.01 0  5 0.12 15.96 1  2 0.1 17.86 0  5 0.44 5.18 1  5 0.71 8.9 1  1 0.04 13.41 0  2 0.08 20.75 0  5 0.49 11.6 1
2 0.04 16.11 0  2 0.07 32.37 1  5 0.33 54.82 1  2 0.09 32.41 1  1 0.09 49.94 0  1 0.07 40.34 1  1 0.11 9.47 0  1 0.07 6.29 0
2 0.17 12.53 0  1 0.07 6.54 0  2 0.11 6.3 0  1 0.13 80.3 0  1 0.19 12.8 0  3 0.05 9.8 0  4 0.16 9.81 0  2 0.41 9.85 1  1 0.14 18.21 0
4 0.34 5.03 0  5 0.35 14.04 1  4 0.48 21.93 1  1 0.09 8.02 0  4 0.96 7.42 1  2 0.25 8.38 1  5 0.5 6.59 0  5 0.46 9.63 0
1 0.16 13.12 0  1 0.07 7.96 0  2 0.43 14.34 0  4 0.45 41.43 0  1 0.11 7.63 0  1 0.08 7.06 0  2 0.09 12.59 0  5 0.86 13.56 1
5 0.52 3.87 1  2 0.08 9.44 0  1 0.06 7.66 0  2 0.13 12.98 0  5 2.07 419.19 1  1 0.1 27.19 0  2 0.14 22.27 0  2 0.15 9.95 0
2 0.07 21.22 1  1 0.06 11.73 0  5 0.77 10.4 1  1 0.05 58.83 0  1 0.09 6.39 0  2 0.3 11.09 1  5 0.03 12.22 1  2 0.09 13.67 1
1 0.04 17.21 0  4 0.23 22.63 1  5 0.7 12.9 1  2 0.09 9.7 0  4 0.27 21.57 1  4 0.71 8.23 1  1 0.08 72.57 1  4 0.26 15.54 1
1 0.08 10.51 0  2 0.16 10.6 0  1 0.09 14.57 0  4 0.13 5.19 1  2 0.1 9.63 1  1 0.08 4.61 0  2 0.11 21.48 1  3 0.33 17.3 0
2 0.11 12.71 0  4 0.28 9.44 0  2 0.07 11.07 0  1 0.1 19.46 0  4 0.32 10.83 0  5 0.22 5.37 1  1 0.07 11.97 0  1 0.05 7.75 0
5 0.24 9.83 0  4 0.38 10.55 0  2 0.1 28.49 0  2 0.15 8.53 0  1 0.08 12.57 0  1 0.14 12.9 0  1 0.1 46.83 0  3 0.07 11.68 0
1 0.04 12.67 0  2 0.19 9.01 0  5 0.56 9.57 1  2 0.14 34.06 1  2 0.58 11.72 1  5 0.32 14.26 1  5 0.82 47.61 1  5 0.74 11.67 1
2 0.15 24.58 0  4 0.47 10.33 0  4 0.17 13.87 0  5 0.44 15.89 1  1 0.15 22.43 0  1 0.5 6.79 0  1 0.48 13.45 0
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


@pytest.mark.parametrize(("first", "second", "statistic", "p_value", "bounds"), [
    ("s100b", "wfns", 2.20898359144091, 0.0271757822291882, (0.0104061769564846, 0.174214419249478)),
    ("ndka", "wfns", 2.79777591868904, 0.00514557970691098, (0.0634011709339876, 0.3600405634833566)),
    ("s100b", "ndka", -1.39077002573558, 0.164295175223054, (-0.2876917446341914, 0.0488706064228094))])
def test_delong_of_published_pairs(first, second, statistic, p_value, bounds):
    """Robin et al., "pROC", BMC Bioinformatics 12 (2011), 77: `roc.test` of these patients, to the digits of the package's own tests

    (github.com/xrobin/pROC, tests/testthat/test-roc.test.R, "roc.test statistic and p are as expected with defaults")
    """
    patients = dict(zip(("wfns", "s100b", "ndka", "outcome"), BLEEDINGS.T, strict=True))
    assert (len(BLEEDINGS), patients["outcome"].sum()) == (113, 41)
    found = delong(patients["outcome"], patients[first], patients[second])
    assert (found.statistic, found.p_value) == pytest.approx((statistic, p_value), rel=1e-10)
    assert (found.lower, found.upper) == pytest.approx(bounds, rel=1e-10)


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


@pytest.mark.parametrize(("first", "second", "exact_below", "statistic", "p_value"), [
    # Agresti, Categorical Data Analysis (1990), page 350: 794, 86, 150 and 570 of 1,600 people; `mcnemar.test` of R's manual
    (86, 150, 25, 16.817796610169, 4.1145622813e-05),
    # Raschka, mlxtend's user guide, "McNemar's test for classifier comparisons", scenario B
    (25, 15, 25, 2.025, 0.154728923485),
    # the same package's tests, mlxtend/evaluate/tests/test_mcnemar_test.py: test_defaults and test_exact
    (121, 59, 25, 20.672222222222221, 5.4500948254271171e-06), (121, 59, 1_000, 121, 4.4344492637555101e-06),
    # Fay, "Exact McNemar's Test and Matching Confidence Intervals", vignette of the R package exact2x2: 21, 9, 2 and 12
    (9, 2, 25, 9, 0.0654296875), (9, 2, 0, 3.2727272727, 0.0704404)])
def test_mcnemar_of_published_examples(first, second, exact_below, statistic, p_value):
    found = mcnemar(first, second, exact_below=exact_below)
    assert (found.statistic, found.p_value) == pytest.approx((statistic, p_value), rel=1e-6)
    assert found.method.startswith("exact") == (exact_below > first + second)
    assert mcnemar(second, first, exact_below=exact_below).p_value == pytest.approx(found.p_value)


def test_mcnemar_is_the_binomial_distribution_where_few_rows_differ():
    assert mcnemar(150, 86, 1_600).difference == pytest.approx(-0.04)
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
    assert all(each.upper < 0 for each in found.regressions) and any(each.lower > 0 and each.p_value < 0.05 for each in found.slices)
    assert found.regressions[0].upper < 0 and next(each for each in found.slices if each.rows == 0).note
    page = found._repr_html_()
    assert "McNemar" in page and "DeLong" in page and "contract = monthly" in page
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["passed"] is False


def test_a_regression_is_a_loss_that_its_interval_shows():
    "Losses of all sizes, of which some are within reach of chance"
    for seed in range(8):
        table, truth, _, risk, rng = two_models(1_500, seed)
        challenger = np.where((table.tenure < 36) & (rng.random(1_500) < 0.25), rng.random(1_500), risk)
        slices = make_slices(table, ["tenure", "contract", "tenure < 3", "tenure < 12 and contract == 'yearly'"])
        found = compare_models("binary", truth, risk, challenger, slices, ["accuracy"], resamples=200, seed=seed)
        for each in found.slices:
            assert each.worse == (each.upper < 0) == (each.gain < 0 and each.p_value < 0.05)
            assert each.lower <= each.gain <= each.upper
        assert [each.upper for each in found.slices] == sorted(each.upper for each in found.slices)


def test_three_rows_prove_no_regression():
    truth = np.tile([0, 1], 100)
    champion, challenger = np.where(truth == 1, 0.9, 0.1), np.where(truth == 1, 0.8, 0.2)
    challenger[:3] = 1 - champion[:3]
    found = compare_models("binary", truth, champion, challenger, make_slices(pd.DataFrame({"row": range(200)}), "row < 3"), ["accuracy"])
    [each] = found.slices
    assert (each.rows, each.champion, each.challenger, each.worse) == (3, 1, 0, False) and each.lower < 0 < each.upper
    assert each.note.startswith("3 rows, fewer than 30")


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
