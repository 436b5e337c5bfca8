"Slices, worst slices, operating points and costs: what they measure, what they find, and what they refuse"
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as scikit

from mlops_nb.evaluation.cases import make_case
from mlops_nb.evaluation.costs import CostMatrix, cheapest_threshold, cost
from mlops_nb.evaluation.metrics import metrics_of
from mlops_nb.evaluation.operating import confusion, operating_points, point_at, threshold_for
from mlops_nb.evaluation.slices import make_slices, slice_metrics
from mlops_nb.evaluation.worst_slices import joint_bounds, worst_slices
from mlops_nb.settings import DataError, NotFoundError


def customers(rows=2_000, seed=0):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({
        "contract": rng.choice(["monthly", "yearly", "two years", "rare"], rows, p=[0.5, 0.3, 0.19, 0.01]),
        "tenure": rng.integers(0, 72, rows).astype(float), "senior": rng.random(rows) < 0.2,
        "signed": pd.Timestamp("2021-03-01") + pd.to_timedelta(rng.integers(0, 1400, rows), unit="D")})
    table.loc[:40, "tenure"] = np.nan
    risk = rng.beta(1, 3, rows)
    return table, make_case("binary", rng.random(rows) < risk, risk)


@pytest.mark.parametrize("column", ["contract", "tenure", "senior", "signed"])
def test_the_slices_of_a_column_are_a_partition(column):
    table, _ = customers()
    rows = np.stack([each.rows for each in make_slices(table, column)])
    assert (rows.sum(0) == 1).all() and (rows.sum(1) > 0).all()


def test_names_say_what_a_slice_is():
    table, _ = customers()
    found = {each.name: each for each in make_slices(table, ["tenure", "signed", "senior", "tenure < 6 and contract == 'monthly'"])}
    assert found["tenure is missing"].count == 41
    first = next(name for name in found if name.startswith("tenure <= "))
    assert (found[first].rows == (table.tenure <= float(first.split()[-1]))).all()
    assert (found["signed in 2022"].rows == (table.signed.dt.year == 2022)).all()
    assert (found["senior = True"].rows == table.senior).all()
    assert (found["tenure < 6 and contract == 'monthly'"].rows == ((table.tenure < 6) & (table.contract == "monthly"))).all()


@pytest.mark.parametrize("values", [
    [1, 1, 1, 1], [None, None, None], ["a", None, "a"], [True, None, False], [1.0, np.inf, -np.inf, 2.0, 5.0, 6.0],
    pd.to_datetime(["2024-01-01", None, "2024-02-01"]), pd.Categorical(["a", "b", None]), list(range(50)), list(map(str, range(50))),
    pd.array([1, None, 3], dtype="Int64"), pd.array([True, None], dtype="boolean"),
])
def test_any_column_can_be_cut(values):
    table = pd.DataFrame({"column": values})
    rows = np.stack([each.rows for each in make_slices(table, "column")])
    assert (rows.sum(0) == 1).all()


def test_slices_have_the_numbers_of_their_rows():
    table, case = customers()
    slices = make_slices(table, "contract")
    found = slice_metrics(case, slices, ["roc_auc", "recall"], resamples=50)
    assert list(found.slice.unique()) == ["all rows", *(each.name for each in slices)]
    for each in slices:
        value = found[(found.slice == each.name) & (found.metric == "roc_auc")].iloc[0]
        assert value.value == pytest.approx(scikit.roc_auc_score(case.truth[each.rows], case.output[each.rows, 0]))
        assert value.rows == each.count and value.lower <= value.value <= value.upper
    assert (found.note[found.rows < 30] != "").all() and (found.note[found.rows > 300] == "").all()


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_small_slices_say_so_and_never_fail(task):
    rng = np.random.default_rng(0)
    truth = rng.normal(size=200) if task == "regression" else rng.integers(0, 2 if task == "binary" else 3, 200)
    output = {"binary": rng.random(200), "multiclass": rng.dirichlet(np.ones(3), 200), "regression": truth}[task]
    table = pd.DataFrame({"row": np.arange(200), "truth": truth})
    slices = make_slices(table, ["row < 3", "row < 1", "row < 0", "truth == truth[0]"])
    found = slice_metrics(make_case(task, truth, output), slices, resamples=20)
    assert len(found) == 5 * len(metrics_of(task))
    assert found[found.slice == "row < 3"].note.str.startswith("3 rows, fewer than 30").all()
    assert found[found.slice == "row < 0"].value.isna().all()


@pytest.mark.parametrize(("by", "error", "message"), [
    ("contrct", NotFoundError, "did you mean 'contract'"), ("tenure <", DataError, "slice 'tenure <' cannot be computed"),
    ("tenur < 3", DataError, "cannot be computed"), ("tenure * 2", DataError, "gives float64 and not true or false")])
def test_refused_slices(by, error, message):
    with pytest.raises(error, match=message):
        make_slices(customers(50)[0], by)


def test_slices_of_another_table_are_refused():
    table, case = customers(100)
    with pytest.raises(DataError, match="is of 50 rows and the case of 100"):
        slice_metrics(case, make_slices(table[:50], "senior"))
    with pytest.raises(DataError, match="the table has no rows"):
        make_slices(table[:0], "senior")


@pytest.mark.parametrize("metric", ["roc_auc", "log_loss", "accuracy"])
def test_the_planted_slice_is_found(metric):
    table, case = customers(6_000)
    lost = ((table.contract == "monthly") & (table.tenure <= 17)).to_numpy()
    output = np.where(lost, 1 - case.output[:, 0], case.output[:, 0])
    found = worst_slices(make_case("binary", case.truth, output), table, metric)
    assert found.worse[0] and "tenure <= " in found.slice[0]
    best = found[found.worse].iloc[0]
    assert best.lower > 0 and best.gap == pytest.approx((best.rest - best.value) * (-1 if metric == "log_loss" else 1))
    assert any("contract = monthly" in name for name in found.slice[found.worse])


def test_nothing_is_found_where_there_is_nothing():
    "Of 30 honest models hardly one has a slice that is worse by chance: all tests of a search hold together"
    wrong = 0
    for seed in range(30):
        table, case = customers(1_500, seed)
        wrong += worst_slices(case, table, "accuracy", ["senior", "signed"], depth=1, resamples=50, seed=seed).worse.any()
    assert wrong <= 5


def test_a_long_table_is_searched_in_a_part_and_measured_in_the_rest(monkeypatch):
    table, case = customers(4_000)
    monkeypatch.setattr("mlops_nb.evaluation.worst_slices._SEARCHED", 500)
    found = worst_slices(case, table, columns=["contract", "senior"])
    assert found.attrs["method"].startswith("found in 500 rows, measured in 3,500 others")
    assert found.rows.max() > 500


@given(st.floats(-5, 5), st.floats(0.01, 3), st.integers(1, 40), st.integers(1, 500), st.sampled_from([0.8, 0.95, 0.99]))
def test_interval_and_p_value_say_the_same(gap, spread, tests, rows, level):
    "Both are Student's, for as many tests: 0 is outside the one just where the other is below 1 - level"
    draws = gap + spread * np.array([-1.0, 0.0, 1.0, np.nan])
    lower, upper, p_value = joint_bounds(gap, draws, level, tests, rows)
    student = stats.t(max(1, rows - 1), gap, spread)
    assert (lower, upper) == pytest.approx((student.ppf((1 - level) / (2 * tests)), student.isf((1 - level) / (2 * tests))))
    assert p_value == pytest.approx(min(1, 2 * tests * student.sf(gap + abs(gap))))
    if abs(p_value - (1 - level)) > 1e-9:
        assert (lower > 0 or upper < 0) == (p_value < 1 - level)


def test_draws_that_do_not_differ_prove_something_of_many_rows_alone():
    for rows, proven in ((1, False), (3, False), (30, True)):
        lower, upper, p_value = joint_bounds(1.0, np.ones(50), 0.95, 2, rows)
        assert (lower > 0, p_value < 0.05, lower + upper) == (proven, proven, pytest.approx(2))
        assert upper - 1 == pytest.approx(stats.t(max(1, rows - 1)).isf(0.0125) / rows**0.5)  # a sign test's error
    assert joint_bounds(0.0, np.zeros(50), 0.95, 2, 30) == (0, 0, 1)
    for gap, draws in ((np.nan, np.ones(9)), (1.0, np.full(9, np.nan)), (1.0, np.ones(1))):
        assert np.isnan(joint_bounds(gap, draws, 0.95, 2, 30)).all()


@pytest.mark.parametrize("metric", ["accuracy", "log_loss"])
@pytest.mark.parametrize("seed", range(6))
def test_no_slice_is_worse_that_may_be_as_good(metric, seed):
    "Slices that are a little worse, where the tests do not agree by themselves"
    table, case = customers(3_000, seed)
    rng = np.random.default_rng(seed)
    output = np.where(rng.random(3_000) < np.where(table.contract == "monthly", 0.12, 0.04), 1 - case.output[:, 0], case.output[:, 0])
    found = worst_slices(make_case("binary", case.truth, output), table, metric, level=0.8, seed=seed)
    assert len(found) and (found.worse == (found.lower > 0)).all() and (found.worse == ((found.p_value < 0.2) & (found.gap > 0))).all()
    assert "Bonferroni, two-sided" in found.attrs["method"]


@pytest.mark.parametrize(("values", "names"), [
    ([0.0, 1.0, 1.0], ["x = 1", "x = 0"]), ([0.0, None, 1.0, 1.0], ["x = 1", "x = 0", "x is missing"]),
    (np.array([0, 1, 1], np.float32), ["x = 1", "x = 0"]), (pd.Categorical([2.0, 3.0, 3.0]), ["x = 3", "x = 2"]),
    ([0, 1, 1], ["x = 1", "x = 0"]), ([0.5, 1.0, 1.0], ["x = 1.0", "x = 0.5"]), ([1e300, 2.0, 2.0], ["x = 2", f"x = {int(1e300)}"]),
    ([True, False, True], ["x = True", "x = False"]), (pd.array([1, None, 1], dtype="Int64"), ["x = 1", "x is missing"])])
def test_whole_numbers_have_no_decimals(values, names):
    assert [each.name for each in make_slices(pd.DataFrame({"x": values}), "x")] == names


def test_operating_points_are_those_of_scikit_learn():
    _, case = customers(500)
    table = operating_points(case, most=10_000)
    for line in table.iloc[::50].itertuples():
        answer = case.output[:, 0] >= line.threshold
        found = scikit.confusion_matrix(case.truth, answer, labels=[0, 1])
        assert found.tolist() == [[line.true_negatives, line.false_positives], [line.false_negatives, line.true_positives]]
        assert line.recall == pytest.approx(scikit.recall_score(case.truth, answer))
        assert line.precision == pytest.approx(scikit.precision_score(case.truth, answer, zero_division=0))
    assert len(table) == len(np.unique(case.output)) + 1


@pytest.mark.parametrize(("promise", "best"), [
    ({"name": "recall", "at_least": 0.8}, "precision"), ({"name": "precision", "at_least": 0.5}, "recall"),
    ({"name": "false_positive_rate", "at_most": 0.1}, "recall"), ({"name": "recall", "at_least": 0.9}, "positive_share")])
def test_the_threshold_is_the_best_of_all_that_keep_the_promise(promise, best):
    _, case = customers(600)
    point, every = threshold_for(case, **promise, best=best), operating_points(case, most=10_000)
    values = every[promise["name"]]
    kept = every[values >= promise["at_least"]] if "at_least" in promise else every[values <= promise["at_most"]]
    assert point.rates[best] == pytest.approx(kept[best].min() if best == "positive_share" else kept[best].max())
    assert point.rates["recall"] == pytest.approx(scikit.recall_score(case.truth, case.output[:, 0] >= point.threshold))
    assert all(lower <= point.rates[name] <= upper for name, (lower, upper) in point.intervals.items())
    assert json.loads(json.dumps(point.to_dict()))["threshold"] == point.threshold


def test_refused_operating_points():
    _, case = customers(100)
    for options, message in (({}, "not neither"),
                             ({"at_least": 0.5, "at_most": 0.6}, "not both"), ({"at_least": 8}, "allowed is a share from 0 to 1")):
        with pytest.raises(DataError, match=message):
            threshold_for(case, "recall", **options)
    with pytest.raises(NotFoundError, match="did you mean 'precision'"):
        threshold_for(case, "recall", at_least=0.5, best="precison")
    with pytest.raises(DataError, match="give a name for each"):
        confusion(case, ("one",))
    with pytest.raises(DataError, match="a regression has no confusion"):
        confusion(make_case("regression", [1, 2], [1, 2]))


def test_confusion_of_several_classes():
    rng = np.random.default_rng(0)
    truth, output = rng.integers(0, 3, 90), rng.dirichlet(np.ones(4), 90)
    found = confusion(make_case("multiclass", truth, output), "abcd")
    assert (found.to_numpy() == scikit.confusion_matrix(truth, output.argmax(1), labels=range(4))).all()


def test_costs_are_counted_and_the_cheapest_threshold_is_the_cheapest():
    _, case = customers(800)
    matrix = CostMatrix(true_positive=-10, false_positive=5, false_negative=40, true_negative=1)
    every = operating_points(case, most=10_000)
    costs = every[["true_positives", "false_positives", "false_negatives", "true_negatives"]] @ np.array(matrix.values)
    found = cheapest_threshold(case, matrix)
    assert found.cost.total == pytest.approx(costs.min()) and found.saved == pytest.approx(cost(case, matrix).total - costs.min())
    assert found.lower <= found.saved <= found.upper and found.cost.lower <= found.cost.total <= found.cost.upper
    assert json.loads(json.dumps(found.to_dict()))["saved"] == pytest.approx(found.saved)
    assert cost(case, matrix).metrics()["cost_per_row"] == pytest.approx(cost(case, matrix).total / 800)


def test_intervals_of_a_fixed_threshold_are_those_of_drawn_rows():
    "As everywhere: Wilson's"
    from mlops_nb.evaluation.metrics import bootstrap
    _, case = customers(1_000)
    point = point_at(case, 0.5)
    found = bootstrap("binary", case.truth, case.output, ["precision", "recall", "f1"], resamples=5)
    for name in ("precision", "recall", "f1"):
        assert point.rates[name] == pytest.approx(found[name])
        assert point.intervals[name] == pytest.approx((found[f"{name}_lower"], found[f"{name}_upper"]))


@pytest.mark.parametrize("values", [{"false_positive": 1}, {"false_positive": 1, "false_negative": 0}, {"false_positive": np.nan}])
def test_refused_costs(values):
    with pytest.raises(DataError):
        CostMatrix(**values)


def test_columns_that_pandas_cannot_read_have_slices(tmp_path):
    table = pd.DataFrame({"อายุ": [1, 5], "Total charges": [2.0, 3.0], "age": [1, 2], "note": ["อายุ", "x"]})
    for expression, rows in (("`อายุ` > 2", [False, True]), ("อายุ > 0 and age < 2", [True, False]), ("note == 'อายุ'", [True, False]),
                             ("Total charges > 2.5 and `อายุ` > 2", [False, True])):
        assert make_slices(table, expression)[0].rows.tolist() == rows
    for expression in (f"age.to_csv('{tmp_path}/x')", "age.values", "abs(age) > 1"):
        with pytest.raises(DataError, match="allowed are comparisons"):
            make_slices(table, expression)
    assert not list(tmp_path.iterdir())


def test_a_slice_and_a_point_where_all_rows_are_right_are_not_certain():
    case = make_case("binary", [0, 1] * 4, [0.1, 0.9] * 4)
    found = slice_metrics(case, (), ["recall", "roc_auc", "f1"], resamples=50)
    assert (found.lower < 0.85).all() and (found.upper == 1).all()
    assert point_at(case).intervals["recall"] == pytest.approx((0.5101, 1), abs=1e-4)
