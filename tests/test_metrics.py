"Metrics: equal to scikit-learn's for any input, also when rows are counted; intervals; what is refused"
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as scikit
from sklearn.calibration import calibration_curve

from mlops_nb.evaluation.cases import TASKS, make_case
from mlops_nb.evaluation.metrics import (
    METRICS,
    bootstrap,
    calibration_table,
    evaluate,
    metrics_of,
    paired_gain,
    primary_metric,
)
from mlops_nb.evaluation.resampling import counted_metric, draw_counts
from mlops_nb.settings import DataError, NotFoundError


@st.composite
def cases(draw):
    "A task, truth with every class, outputs with ties and certainties, weights, and a threshold"
    task, rows = draw(st.sampled_from(TASKS)), draw(st.integers(8, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    weights, threshold = rng.integers(0, 4, rows), draw(st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0]))
    if task == "regression":
        truth = rng.normal(draw(st.sampled_from([0, 1e3])), draw(st.sampled_from([0.1, 10])), rows)
        return task, truth, truth + rng.normal(size=rows), weights + 1, threshold
    classes = 2 if task == "binary" else draw(st.integers(2, 5))
    truth = rng.permutation(np.arange(rows) % classes)
    weights[[np.flatnonzero(truth == each)[0] for each in range(classes)]] = 1  # every class counts
    if task == "binary":
        return task, truth, draw(st.sampled_from([rng.random(rows), rng.integers(0, 5, rows) / 4])), weights, threshold
    output = rng.integers(0, 4, (rows, classes)) + draw(st.sampled_from([0, 0.25]))
    output = np.where(output.sum(1, keepdims=True) > 0, output, 1)
    return task, truth, output / output.sum(1, keepdims=True), weights, threshold


def by_scikit(task, truth, output, threshold, weights=None):
    "Every metric, asked for as scikit-learn's own documentation does"
    weighted = {"sample_weight": weights}
    if task == "regression":
        return {"mae": scikit.mean_absolute_error(truth, output, **weighted), "r2": scikit.r2_score(truth, output, **weighted),
                "rmse": scikit.root_mean_squared_error(truth, output, **weighted)}
    if task == "binary":
        answer, average = (output >= threshold).astype(int), {"average": "binary"}
        ranked = {"roc_auc": scikit.roc_auc_score(truth, output, **weighted),
                  "average_precision": scikit.average_precision_score(truth, output, **weighted)}
    else:
        answer, average, labels = output.argmax(1), {"average": "macro"}, range(output.shape[1])
        each = [(truth == label, output[:, label]) for label in labels]
        ranked = {"roc_auc": np.mean([scikit.roc_auc_score(*pair, **weighted) for pair in each]),
                  "average_precision": np.mean([scikit.average_precision_score(*pair, **weighted) for pair in each])}
    shares = [scikit.precision_recall_fscore_support(truth, answer, zero_division=0, **average, **weighted)]
    return ranked | dict(zip(("precision", "recall", "f1"), shares[0])) | {
        "accuracy": scikit.accuracy_score(truth, answer, **weighted), "log_loss": scikit.log_loss(truth, output, **weighted)}


@settings(max_examples=60, deadline=None)
@given(cases())
def test_equal_to_scikit_learn(case):
    task, truth, output, weights, threshold = case
    found = evaluate(task, truth, output, threshold=threshold)
    assert found.keys() == {each.name for each in metrics_of(task)}
    for name, value in by_scikit(task, truth, output, threshold).items():
        assert found[name] == pytest.approx(value, rel=1e-9, abs=1e-9), name


@settings(max_examples=60, deadline=None)
@given(cases())
def test_counting_rows_equals_weighting_and_repeating_them(case):
    task, truth, output, weights, threshold = case
    checked, counts = make_case(task, truth, output, threshold), np.stack([np.ones(len(truth)), weights])
    repeated = np.repeat(np.arange(len(truth)), weights)
    again = evaluate(task, truth[repeated], output[repeated], threshold=threshold)
    for name, value in by_scikit(task, truth, output, threshold, weights).items():
        once, weighted = counted_metric(name, checked, counts)
        assert once == pytest.approx(evaluate(task, truth, output, name, threshold)[name], rel=1e-9, abs=1e-9), name
        assert weighted == pytest.approx(value, rel=1e-9, abs=1e-9), name
        assert weighted == pytest.approx(again[name], rel=1e-9, abs=1e-9), name
    if task != "regression":  # scikit-learn has no calibration error
        weighted = counted_metric("calibration_error", checked, counts)[1]
        assert weighted == pytest.approx(again["calibration_error"], rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("task", TASKS)
def test_scikit_learn_is_asked_for_every_metric(task):
    rng = np.random.default_rng(0)
    truth = rng.normal(size=30) if task == "regression" else np.arange(30) % (2 if task == "binary" else 3)
    output = {"binary": rng.random(30), "multiclass": rng.dirichlet(np.ones(3), 30), "regression": truth + rng.normal(size=30)}[task]
    asked = by_scikit(task, truth, output, 0.5, rng.random(30)).keys()
    assert asked == {each.name for each in metrics_of(task)} - {"calibration_error"}


@pytest.mark.parametrize("task", TASKS)
def test_weights_need_not_be_whole(task):
    rng = np.random.default_rng(1)
    truth = rng.normal(size=200) if task == "regression" else np.arange(200) % (2 if task == "binary" else 4)
    output = {"binary": rng.random(200), "multiclass": rng.dirichlet(np.ones(4), 200), "regression": truth + rng.normal(size=200)}[task]
    weights = rng.gamma(1, size=200)
    for name, value in by_scikit(task, truth, output, 0.5, weights).items():
        [found] = counted_metric(name, make_case(task, truth, output), weights[None])
        assert found == pytest.approx(value, rel=1e-9), name


@settings(max_examples=60, deadline=None)
@given(cases())
def test_calibration_error_is_the_one_of_naeini(case):
    task, truth, output, weights, threshold = case
    if task == "regression":
        return
    errors = []
    for label, column in enumerate(output.T) if task == "multiclass" else [(1, output)]:
        true = truth == label
        share, promised = calibration_curve(true, column, n_bins=10)
        position = np.searchsorted(np.linspace(0, 1, 11)[1:-1], column)
        rows = np.bincount(position, minlength=10)
        errors.append((rows[rows > 0] * abs(share - promised)).sum() / len(truth))
        table = calibration_table(true, column)
        assert (table["rows"].to_numpy() == rows).all()
        np.testing.assert_allclose(table["share"].dropna(), share)
        np.testing.assert_allclose(table["probability"].dropna(), promised)
    assert evaluate(task, truth, output, "calibration_error")["calibration_error"] == pytest.approx(np.mean(errors))


def test_every_metric_of_the_table_can_be_had_and_no_other():
    names = {each.name for task in TASKS for each in metrics_of(task)}
    assert names == METRICS.keys()
    assert [primary_metric(task) for task in TASKS] == ["roc_auc", "roc_auc", "r2"]
    assert not any(METRICS[name].higher_is_better for name in ("log_loss", "calibration_error", "mae", "rmse"))


def test_no_warning_reaches_the_caller():
    "Nothing answered positive, probabilities in float32, certain and wrong"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = bootstrap("binary", [0, 1, 0, 1], np.array([[0], [0.1], [0.2], [0]], np.float32))
        probabilities = np.random.default_rng(0).dirichlet(np.ones(3), 30).astype(np.float32)
        bootstrap("multiclass", np.arange(30) % 3, probabilities)
    assert found["precision"] == found["recall"] == found["f1"] == 0
    assert np.isfinite(list(found.values())).all()


def customers(rows=1400, seed=3):
    rng = np.random.default_rng(seed)
    probability = rng.beta(1, 3, rows)
    return (rng.random(rows) < probability).astype(int), probability


def test_bootstrap_names_the_bounds_and_repeats_itself():
    truth, output = customers()
    found = bootstrap("binary", truth, output, prefix="test_")
    assert found == bootstrap("binary", truth, output[:, None], prefix="test_")
    assert found != bootstrap("binary", truth, output, prefix="test_", seed=1)
    assert len(found) == 3 * len(metrics_of("binary"))
    for name, value in evaluate("binary", truth, output).items():
        assert found[f"test_{name}"] == value
        assert found[f"test_{name}_lower"] <= value <= found[f"test_{name}_upper"]
        assert found[f"test_{name}_lower"] < found[f"test_{name}_upper"]


def test_a_wider_level_is_a_wider_interval():
    truth, output = customers()
    narrow, wide = (bootstrap("binary", truth, output, "roc_auc", level=level) for level in (0.5, 0.99))
    assert wide["roc_auc_lower"] < narrow["roc_auc_lower"] < narrow["roc_auc_upper"] < wide["roc_auc_upper"]


def test_the_interval_covers_what_is_true():
    "The accuracy of a coin is a half: about 95 % of the intervals must hold it"
    rng, held = np.random.default_rng(0), 0
    for seed in range(200):
        found = bootstrap("binary", rng.integers(0, 2, 300), rng.random(300), "accuracy", seed=seed)
        held += found["accuracy_lower"] <= 0.5 <= found["accuracy_upper"]
    assert 180 <= held <= 198


def test_many_rows_are_drawn_in_parts(monkeypatch):
    truth, output = customers(200)
    whole = bootstrap("binary", truth, output, resamples=50)
    monkeypatch.setattr("mlops_nb.evaluation.metrics._CELLS", 1000)
    parts = bootstrap("binary", truth, output, resamples=50)
    assert parts["roc_auc"] == whole["roc_auc"]
    assert parts["roc_auc_lower"] == pytest.approx(whole["roc_auc_lower"], abs=0.03)


@pytest.mark.parametrize("truth", [np.array([1] + [0] * 40), np.repeat([0, 1, 2], [30, 1, 2]), np.arange(12)])
def test_every_draw_has_every_class(truth):
    classes = truth.max() + 1
    output = np.full((len(truth), classes), 1 / classes) if classes > 2 else np.full(len(truth), 0.5)
    case = make_case("binary" if classes == 2 else "multiclass", truth, output)
    counts = draw_counts(np.random.default_rng(0), case, 300)
    assert (counts.sum(1) == len(truth)).all()
    assert all((counts[:, truth == each].sum(1) > 0).all() for each in range(classes))
    assert len(np.unique(counts, axis=0)) > 1 or classes == len(truth)


def test_every_draw_of_values_has_two_that_differ():
    case = make_case("regression", [1, 1, 2], [1, 1, 2])
    counts = draw_counts(np.random.default_rng(0), case, 200)
    assert ((counts[:, 2] > 0) & (counts[:, 2] < 3)).all()
    alike = make_case("regression", [1, 1], [1, 1])
    assert draw_counts(np.random.default_rng(0), alike, 5).sum() == 10


@pytest.mark.parametrize(("metric", "sign"), [("roc_auc", 1), ("log_loss", 1)])
def test_gain_is_positive_for_the_better_model(metric, sign):
    truth, output = customers()
    worse = np.random.default_rng(0).permutation(output)
    gain = paired_gain("binary", truth, output, worse, metric)
    assert 0 < gain.lower <= gain.value <= gain.upper
    back = paired_gain("binary", truth, worse, output, metric)
    assert back == pytest.approx((-gain.value, -gain.upper, -gain.lower))
    assert paired_gain("binary", truth, output, output, metric) == (0, 0, 0)


def test_gain_by_default_of_the_primary_metric():
    truth = np.arange(20.0)
    gain = paired_gain("regression", truth, truth + 1, truth * 0)
    expected = evaluate("regression", truth, truth + 1)["r2"] - evaluate("regression", truth, truth * 0)["r2"]
    assert gain.value == pytest.approx(expected)


@pytest.mark.parametrize(("task", "truth", "output", "message"), [
    ("binary", [0, 1], [0.1], "truth has 2 rows and output 1"),
    ("binary", [], [], "truth has no rows"),
    ("binary", [0, np.nan], [0.1, 0.2], "truth has row 2: nan; allowed is a finite number"),
    ("binary", ["no", "yes"], [0.1, 0.2], "truth is not numeric"),
    ("binary", [0, 2], [0.1, 0.2], "truth has row 2: 2.0; allowed is a class from 0 to 1"),
    ("binary", [0, 1], [0.1, np.inf], "output has row 2: inf"),
    ("binary", [0, 1], [0.1, np.nan], "output has row 2: nan; allowed is a finite number"),
    ("binary", [0, 1], [-0.1, 0.2], "output has row 1: -0.1; allowed is a probability from 0 to 1"),
    ("binary", [0, 1], [0.1, 1.0000001], "output has row 2: 1.0000001"),
    ("multiclass", [0, 1], [[0.5, 0.5], [np.nan, 0.5]], "output has row 2: nan 0.5"),
    ("regression", [1, 2], [1, None], "output has row 2: nan"),
    ("binary", [0] * 7 + [1], [7.0] * 8, r"row 1: 7.0, .*row 5: 7.0 and 3 more; allowed is a probability"),
    ("binary", [0, 1], [[0.1, 0.9], [0.2, 0.8]], "output has 2 columns; give a binary task the probability of the positive"),
    ("binary", [[0], [1]], [0.1, 0.2], "truth has 2 dimensions; give it 1"),
    ("binary", [0, 0], [0.1, 0.2], "no row of class 1, so there is no roc_auc and no average_precision"),
    ("multiclass", [0, 1], [0.1, 0.2], "output has 1 column; give a multiclass task one for each class"),
    ("multiclass", [0, 1], [[0.1, 0.7], [0.2, 0.8]], "the sum of the probabilities has row 1: 0.7"),
    ("multiclass", [0, 1], [[0.1, 0.7, 0.2], [0.2, 0.8, 0]], "no row of class 2"),
    ("regression", [1, 1], [1, 2], "every value of the truth is 1, so there is no r2"),
    ("regression", [1, 2], [[1, 2], [3, 4]], "output has 2 columns; give a regression one"),
])
def test_refused(task, truth, output, message):
    for call in (evaluate, bootstrap):
        with pytest.raises(DataError, match=message):
            call(task, truth, output)


def test_what_needs_no_class_stays_available():
    assert evaluate("multiclass", [0, 1], [[0.8, 0.1, 0.1], [0.2, 0.8, 0]], "accuracy") == {"accuracy": 1}
    assert bootstrap("binary", [1, 1], [0.8, 0.2], ["accuracy"])["accuracy"] == 0.5
    assert evaluate("regression", [1, 1], [1, 2], ["mae"]) == {"mae": 0.5}


@pytest.mark.parametrize(("options", "message"), [
    ({"resamples": 0}, "resamples = 0"), ({"level": 1}, "level = 1"), ({"level": 95}, "level = 95")])
def test_refused_plans(options, message):
    with pytest.raises(DataError, match=message):
        bootstrap("binary", [0, 1], [0.1, 0.9], **options)
    with pytest.raises(DataError, match=message):
        paired_gain("binary", [0, 1], [0.1, 0.9], [0.2, 0.8], **options)


def test_unknown_names():
    with pytest.raises(NotFoundError, match="did you mean 'log_loss'"):
        evaluate("binary", [0, 1], [0.1, 0.9], ["logloss"])
    with pytest.raises(NotFoundError, match="no metric of a regression task 'f1'"):
        bootstrap("regression", [0, 1], [0.1, 0.9], "f1")
    with pytest.raises(NotFoundError, match="no task 'ranking'"):
        primary_metric("ranking")
    with pytest.raises(DataError, match="different numbers of classes"):
        paired_gain("multiclass", [0, 1], np.full((2, 2), 0.5), np.full((2, 4), 0.25))
