"Draws: exactly multinomial; the same weights give scikit-learn's numbers; intervals hold what is true as often as they say"
import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as scikit

from mlops_nb.evaluation import replicates
from mlops_nb.evaluation.cases import make_case
from mlops_nb.evaluation.drawing import draw_multinomial
from mlops_nb.evaluation.metrics import bootstrap, bounds_of, metrics_of, paired_gain
from mlops_nb.evaluation.replicates import resample, row_order
from mlops_nb.evaluation.resampling import draw_counts, prepare, take_rows

SEVEN = ("roc_auc", "average_precision", "accuracy", "precision", "recall", "f1", "log_loss")


def by_scikit(truth, output, weights):
    "The seven metrics of weighted rows"
    answer, weighted = (output >= 0.5).astype(int), {"sample_weight": weights}
    shares = scikit.precision_recall_fscore_support(truth, answer, average="binary", zero_division=0, **weighted)[:3]
    return [scikit.roc_auc_score(truth, output, **weighted), scikit.average_precision_score(truth, output, **weighted),
            scikit.accuracy_score(truth, answer, **weighted), *shares, scikit.log_loss(truth, output, **weighted)]


def customers(rows, seed=0, decimals=None):
    rng = np.random.default_rng(seed)
    risk = rng.beta(1, 3, rows)
    truth = rng.random(rows) < risk
    return make_case("binary", truth, risk if decimals is None else risk.round(decimals)), rng


@pytest.mark.parametrize("rows", [900, 12_000])
@pytest.mark.parametrize("decimals", [None, 2])
def test_the_same_weights_give_the_numbers_of_scikit_learn(rows, decimals):
    "For all rows and for slices that overlap, with and without ties, few rows and many"
    case, rng = customers(rows, decimals=decimals)
    slices = [rng.random(rows) < share for share in (0.5, 0.1)]
    [found] = resample([case], SEVEN, 3, seed=11, slices=slices)
    order = row_order(case)
    ordered = take_rows(case, order)
    counts = draw_counts(np.random.default_rng(11), ordered, 3)
    for place, rows_of in enumerate([slice(None), *(each[order] for each in slices)]):
        for draw, weights in enumerate(counts):
            expected = by_scikit(ordered.truth[rows_of], ordered.output[rows_of, 0], weights[rows_of])
            assert found[:, place, draw] == pytest.approx(expected, rel=1e-10, abs=1e-12)


def test_models_share_their_draws():
    case, rng = customers(11_000)
    other = make_case("binary", case.truth, rng.random(11_000))
    both, alone = resample([case, other], ["roc_auc"], 4, seed=2), resample([case, case], ["roc_auc"], 4, seed=2)
    assert (both[0] == alone[0]).all() and (alone[0] == alone[1]).all() and (both[1] < both[0]).all()


def test_threads_and_parts_do_not_change_what_is_drawn(monkeypatch):
    case, _ = customers(11_000)
    alone = resample([case], ["roc_auc", "f1"], 12, seed=4, cells=40_000)
    monkeypatch.setattr(replicates, "_WORTH", 1)
    assert (resample([case], ["roc_auc", "f1"], 12, seed=4, cells=40_000) == alone).all()


@pytest.mark.parametrize("rows", [9_000, 20_000])
def test_counts_are_multinomial(rows):
    "The sum is fixed, a row's count is binomial, and two rows keep each other back"
    counts = draw_multinomial(np.random.default_rng(0), rows, 300)
    assert (counts.sum(1, dtype=int) == rows).all()
    found = np.bincount(counts.astype(int).ravel(), minlength=7)
    expected = stats.binom.pmf(np.arange(6), rows, 1 / rows)
    assert found[:6] / counts.size == pytest.approx(expected, abs=4 * np.sqrt(0.25 / counts.size))
    tenth = counts[:, : rows // 10].sum(1, dtype=int)
    assert tenth.mean() == pytest.approx(rows / 10, abs=4 * np.sqrt(rows * 0.09 / 300))
    assert tenth.std() == pytest.approx(np.sqrt(rows * 0.09), rel=0.15)
    chunks = counts.reshape(300, 10, -1).sum(2, dtype=int).astype(float)
    assert np.corrcoef(chunks.T)[np.triu_indices(10, 1)].mean() == pytest.approx(-1 / 9, abs=0.02)


def test_a_part_of_the_table_that_counts_share_is_decided_by_more_digits():
    "Without them, the probabilities of large counts would be multiples of 1 / 65,536"
    counts = np.concatenate([draw_multinomial(np.random.default_rng(seed), 1_000_000, 2).ravel() for seed in range(10)])
    found, expected = np.bincount(counts, minlength=10), stats.poisson.pmf(np.arange(10), 1) * counts.size
    assert found[7:10] == pytest.approx(expected[7:10], abs=4 * expected[7] ** 0.5)
    assert abs(found[:6] - expected[:6]).max() < 4 * expected[:6].max() ** 0.5


@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_every_task_has_its_metrics_in_slices(task):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 400) if task == "multiclass" else rng.normal(size=400)
    output = rng.dirichlet(np.ones(3), 400) if task == "multiclass" else truth + rng.normal(size=400)
    case, half = make_case(task, truth, output), rng.random(400) < 0.5
    names = [each.name for each in metrics_of(task)]
    [found] = resample([case], names, 5, seed=1, slices=[half, np.zeros(400, bool)])
    counts = draw_counts(np.random.default_rng(1), case, 5)
    for name, values in prepare(take_rows(case, half), names)(counts[:, half]).items():
        assert found[names.index(name), 1] == pytest.approx(values)
    assert np.isnan(found[:, 2]).all()


def test_a_draw_without_a_class_has_no_area_and_no_warning(recwarn):
    case = make_case("binary", [0, 1, 0, 1, 1], [0.1, 0.2, 0.3, 0.4, 0.5])
    found = prepare(case, [each.name for each in metrics_of("binary")])(np.array([[1, 0, 3, 0, 0], [0, 1, 0, 1, 1], [0] * 5, [1] * 5]))
    assert np.isnan(found["roc_auc"]).tolist() == [True, True, True, False]
    assert found["accuracy"][[0, 3]].tolist() == [1, 0.6] and np.isnan(found["accuracy"][2])
    assert found["precision"][:2].tolist() == [0, 1]
    assert not recwarn.list


def test_bounds_leave_out_draws_without_a_value():
    assert bounds_of(0.5, np.array([0.4, np.nan, 0.6]), 0.5) == pytest.approx((0.4, 0.6))
    assert np.isnan(bounds_of(0.5, np.array([np.nan]), 0.5)).all()


def coverage(names, simulations, rows, resamples):
    "How often the interval of each metric holds what two million rows have"
    whole, _ = customers(2_000_000, seed=99)
    values = prepare(whole, names)(np.ones((1, 2_000_000)))
    held = dict.fromkeys(names, 0)
    for seed in range(simulations):
        case, _ = customers(rows, seed)
        found = bootstrap("binary", case.truth, case.output, names, resamples, 1_000_000 + seed)  # no stream of the case's own
        for name in names:
            held[name] += found[f"{name}_lower"] <= values[name][0] <= found[f"{name}_upper"]
    return {name: count / simulations for name, count in held.items()}


def test_coverage():
    "Of 500 intervals at 95 %; the standard error of a share is 1 %"
    found = coverage(["roc_auc", "accuracy", "log_loss"], 500, 600, 200)
    assert all(0.93 <= share <= 0.97 for share in found.values()), found


@pytest.mark.soak
def test_coverage_of_seven_metrics():
    "Of 4,000 intervals at 95 %"
    found = coverage(list(SEVEN), 4_000, 1_000, 1_000)
    assert all(0.93 <= share <= 0.97 for share in found.values()), found


def test_bounds_of_shares_are_those_that_are_published():
    "Newcombe (1998), Statistics in Medicine 17, 857-872, table I, Wilson's without continuity correction"
    for yes, rows, bounds in ((81, 263, (0.2553, 0.3662)), (15, 148, (0.0624, 0.1605)), (0, 20, (0, 0.1611)), (1, 29, (0.0061, 0.1718))):
        truth = np.arange(rows) < yes
        found = bootstrap("binary", truth, np.ones(rows), ["accuracy", "precision"], resamples=2)
        for name in ("accuracy", "precision"):
            assert (found[f"{name}_lower"], found[f"{name}_upper"]) == pytest.approx(bounds, abs=5e-5)


@pytest.mark.parametrize(("positives", "recall"), [(20, 0.95), (50, 0.95), (100, 0.99)])
def test_a_gate_passes_a_recall_by_chance_as_rarely_as_it_says(positives, recall):
    rng, passed = np.random.default_rng(0), 0
    for _ in range(300):
        output = np.r_[rng.random(positives) < recall, np.zeros(20)]
        passed += bootstrap("binary", np.arange(positives + 20) < positives, output, "recall", resamples=2)["recall_lower"] > recall
    assert passed / 300 < 0.05


def test_a_gate_passes_an_area_by_chance_as_rarely_as_it_says():
    rng, passed, truth = np.random.default_rng(0), 0, np.arange(20) < 10
    for _ in range(200):
        output = stats.norm.cdf(rng.normal(truth * stats.norm.ppf(0.97) * 2**0.5))
        passed += bootstrap("binary", truth, output, "roc_auc", resamples=2)["roc_auc_lower"] > 0.97
    assert passed / 200 < 0.05


def test_a_gain_without_draws_that_differ_is_not_certain():
    better, worse = [0.1, 0.9] * 4, [0.9, 0.1] * 4
    found = paired_gain("binary", [0, 1] * 4, better, worse, "accuracy", resamples=50)
    assert found.value == 1 and found.lower < 0.7
    assert paired_gain("binary", [0, 1] * 4, better, better, "accuracy", resamples=50) == (0, 0, 0)
