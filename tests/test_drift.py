"""Drift: the statistics of SciPy and Evidently, profiles that are never too sure, few false alarms, and tables as they come."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import chi2, chi2_contingency, fisher_exact, ks_2samp, wasserstein_distance
from sklearn.datasets import load_breast_cancer

from mlops_nb.data.cells import bins_of, count_bins
from mlops_nb.data.distributions import distances, distribution_from, distribution_of, share_below
from mlops_nb.data.drift import MINIMA, drift
from mlops_nb.data.drift_reports import DriftReport
from mlops_nb.data.drift_statistics import (
    chi_squared,
    distance_by_chance,
    distance_p_value,
    holm,
    jensen_shannon,
    pool_cells,
    population_stability,
    share_p_value,
    stability_by_chance,
    unseen_p_value,
)
from mlops_nb.data.profiles import Profile, make_profile
from mlops_nb.data.schema import Column, Schema, conform, infer_schema
from mlops_nb.settings import DataError, NotFoundError

counts = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), min_size=1, max_size=40).filter(
    lambda cells: all(map(sum, zip(*cells, strict=True)))
)
numbers = st.lists(  # nothing so small that a float has no digits left for it
    st.floats(-1e6, 1e6).map(lambda value: round(value, 9)) | st.integers(-3, 3).map(float), min_size=1, max_size=150
)


def schema_of(**kinds: str) -> Schema:
    "A schema of features, name -> kind, and a target `y`"
    return Schema((*(Column(name, kind) for name, kind in kinds.items()), Column("y", "number", "target")), "regression", None, 0)


def profile_of(table: pd.DataFrame, **kinds: str) -> Profile:
    return make_profile(table.assign(y=0.0), schema_of(**kinds))


def column_of(values, kind: str = "number"):
    "A column as its profile remembers it"
    return distribution_from(profile_of(pd.DataFrame({"x": values}), x=kind).column("x"))


def rows_of(values, kind: str = "number"):
    return distribution_of("x", kind, pd.Series(values))


def evidently_psi(reference, current):
    """PSI of categories as Evidently 0.7.23 computes it: src/evidently/legacy/calculations/stattests/psi.py, with the shares of
    get_binned_data in utils.py beside it, which fills a share of zero on each side by itself"""
    shares = []
    for values in (reference, current):
        found = pd.Series(values).value_counts()
        share = np.array([found.get(name, 0) / len(values) for name in sorted({*reference, *current})])
        smallest = share[share != 0].min()
        share[share == 0] = smallest / 10**6 if smallest <= 0.0001 else 0.0001
        shares.append(share)
    p, q = shares
    return np.sum((p - q) * np.log(p / q))


# ---- statistics


@settings(deadline=None)
@given(counts)
def test_cells_are_compared_as_scipy_does(cells):
    reference, current = np.array(cells).T
    p, q = reference / reference.sum(), current / current.sum()
    assert jensen_shannon(reference, current) == pytest.approx(np.nan_to_num(jensenshannon(p, q)), abs=1e-6)
    pooled = pool_cells(reference, current)
    statistic, freedom, p_value = chi_squared(reference, current)
    assert freedom == pooled.shape[1] - 1 and (pooled.sum(axis=1) == [reference.sum(), current.sum()]).all()
    if freedom:
        told = chi2_contingency(pooled, correction=False)
        assert (statistic, p_value) == pytest.approx((told.statistic, told.pvalue), abs=1e-9)
        assert told.expected_freq.min() >= 5 - 1e-9
    assert population_stability(reference, current) >= -1e-12


@settings(deadline=None)
@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=80), st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=80))
def test_population_stability_is_that_of_evidently(reference, current):
    found = drift(pd.DataFrame({"x": reference}), pd.DataFrame({"x": current}), schema_of(x="category"), columns="x").column("x")
    assert found.psi == pytest.approx(evidently_psi(reference, current))


def test_population_stability_of_very_rare_cells_is_that_of_evidently():
    reference, current = ["a"] * 99_998 + ["b"] * 2, ["a"] * 50_000 + ["c"] * 50_000
    cells = np.array([[99_998, 2, 0], [50_000, 0, 50_000]])
    assert population_stability(*cells) == pytest.approx(evidently_psi(reference, current))


@pytest.mark.parametrize(("n", "m"), [(5, 7), (300, 40), (3000, 5000), (40_000, 30_000)])
def test_distances_are_tested_as_scipy_does(n, m):
    random = np.random.default_rng(n)
    for shift in (0.0, 0.02, 0.2):
        values, others = random.normal(size=n), random.normal(shift, 1, m)
        told = ks_2samp(values, others, method="asymp")
        assert distance_p_value(told.statistic, n, m) == pytest.approx(told.pvalue, rel=0.02, abs=1e-12)


def test_what_chance_reaches_is_a_quantile():
    assert distance_p_value(distance_by_chance(5000, 4000, 0.01), 5000, 4000) == pytest.approx(0.01, rel=0.05)
    assert stability_by_chance(1000, 4000, 30, 0.01) == pytest.approx((1 / 1000 + 1 / 4000) * chi2.isf(0.01, 29))
    assert stability_by_chance(10, 10, 1) == 0 and distance_by_chance(1, 1) == 1


@settings(deadline=None)
@given(st.integers(0, 50), st.integers(50, 500), st.integers(0, 50), st.integers(50, 500))
def test_shares_are_tested_as_scipy_does(missing, n, later, m):
    cells, share = [[missing, n - missing], [later, m - later]], (missing + later) / (n + m)
    if share in (0, 1):
        assert share_p_value(missing, n, later, m) == 1
    elif min(n, m) * min(share, 1 - share) < 5:
        assert share_p_value(missing, n, later, m) == fisher_exact(cells).pvalue
    else:
        assert share_p_value(missing, n, later, m) == pytest.approx(chi2_contingency(cells, correction=False).pvalue, abs=1e-12)


def test_new_values_are_expected_where_most_occur_once():
    assert unseen_p_value(0, 1000, 20, 1000) < 1e-4
    assert unseen_p_value(900, 1000, 850, 1000) > 0.01
    assert unseen_p_value(0, 10, 1, 1000) > 0.1  # ten rows have not seen much


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), max_size=20))
def test_holm_is_between_the_plain_and_the_bonferroni_correction(p_values):
    adjusted, levels = holm(p_values, 0.05)
    for p_value, found, level in zip(p_values, adjusted, levels, strict=True):
        assert p_value <= found <= min(1, p_value * len(p_values)) + 1e-12 and 0.05 / len(p_values) <= level <= 0.05
    assert [adjusted[place] for place in np.argsort(p_values)] == sorted(adjusted)


def test_holm_by_hand():
    "The sorted p-values times 4, 3, 2 and 1 are 0.04, 0.06, 0.06 and 0.05: no later one is smaller than one before it"
    adjusted, levels = holm([0.03, 0.01, 0.05, 0.02], 0.05)
    assert adjusted == pytest.approx([0.06, 0.04, 0.06, 0.06]) and levels == pytest.approx([0.05 / 2, 0.05 / 4, 0.05, 0.05 / 3])
    assert holm([0.01, 0.04, 0.03, 0.005])[0] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8])[0] == [1, 1] and holm([]) == ([], [])


# ---- rows and profiles


@pytest.mark.filterwarnings("ignore:divide by zero")  # SciPy's own, of two samples of one row
@settings(deadline=None)
@given(numbers, numbers)
def test_rows_are_compared_as_scipy_does(values, others):
    ks, wasserstein = distances(rows_of(values), rows_of(others))
    assert ks == pytest.approx(ks_2samp(values, others, method="asymp").statistic, abs=1e-9)
    assert wasserstein == pytest.approx(wasserstein_distance(values, others), rel=1e-9, abs=1e-6)


@settings(deadline=None)
@given(numbers, numbers)
def test_a_profile_is_never_too_sure(values, others):
    exact = distances(rows_of(values), rows_of(others))[0]
    for one, other in ((column_of(values), rows_of(others)), (rows_of(values), column_of(others)), (column_of(values), column_of(others))):
        assert distances(one, other)[0] <= exact + 1e-9
    places = np.unique(np.concatenate([values, others]))
    for side in ("left", "right"):
        lower, upper = share_below(column_of(values), places, side)
        share = share_below(rows_of(values), places, side)[0]
        assert (lower <= share + 1e-9).all() and (share <= upper + 1e-9).all()


@pytest.mark.parametrize("draw", ["normal", "lognormal", "integers", "constant with a tail"])
def test_a_profile_is_near_the_rows(draw):
    def values(seed, shift):
        random = np.random.default_rng(seed)
        if draw == "integers":
            return random.poisson(3 + shift, 30_000).astype(float)
        if draw == "constant with a tail":
            return np.where(random.random(30_000) < 0.6 - shift / 5, 0.0, random.exponential(2, 30_000))
        return getattr(random, draw)(shift, 1, 30_000)

    before, after = values(0, 0.0), values(1, 0.4)
    told = ks_2samp(before, after).statistic, wasserstein_distance(before, after)
    for one, other in ((column_of(before), rows_of(after)), (column_of(before), column_of(after))):
        found = distances(one, other)
        assert told[0] - 0.021 <= found[0] <= told[0] + 1e-12
        assert found[1] == pytest.approx(told[1], rel=0.1)


def test_bins_are_those_of_the_profile():
    values = np.random.default_rng(0).lognormal(3, 1, 5000)
    kept, rows = column_of(values), rows_of(values)
    np.testing.assert_allclose(bins_of(rows), bins_of(kept))
    np.testing.assert_allclose(count_bins(rows, bins_of(kept)), kept.counts)
    np.testing.assert_allclose(count_bins(kept, bins_of(kept)), kept.counts)
    assert np.abs(count_bins(kept, bins_of(kept) * 1.01) - count_bins(rows, bins_of(kept) * 1.01)).max() <= 50  # a percentile


@pytest.mark.parametrize("value", [0.0, -7.5])
def test_one_value(value):
    same, other = pd.DataFrame({"x": [value] * 200}), pd.DataFrame({"x": [value + 1] * 300})
    for reference in (same, profile_of(same, x="number")):
        assert drift(reference, same, columns="x").passed
        found = drift(reference, other, columns="x").column("x")
        assert found.drifted and found.ks == 1 and found.wasserstein == pytest.approx(1)


# ---- reports


def customers(rows, seed, shift=0.0):
    "All kinds of columns; `shift` moves each a little"
    random = np.random.default_rng(seed)
    days = random.integers(0, 365, rows) + int(200 * shift)
    table = pd.DataFrame({
        "income": random.lognormal(10 + shift / 2, 0.6, rows), "children": random.poisson(1.5 + shift, rows).astype(float),
        "city": random.choice(["Bangkok", "Köln", "Lyon", "เชียงใหม่"], rows, p=np.array([4, 3, 2, 1 + 6 * shift]) / (10 + 6 * shift)),
        "member": random.choice(["yes", "no"], rows, p=[0.3 + shift / 2, 0.7 - shift / 2]),
        "since": (pd.Timestamp("2024-01-01") + pd.to_timedelta(days, "D")).strftime("%Y-%m-%d"),
        "churn": random.choice(["yes", "no"], rows)})
    table.loc[random.random(rows) < 0.05 + shift / 3, "children"] = np.nan
    return table


@pytest.fixture(scope="module")
def reference():
    "A table, its schema and its profile"
    table = customers(4000, 0)
    schema = infer_schema(table, "churn")
    return table, schema, make_profile(conform(table, schema), schema)


def test_every_kind_that_moved_is_found(reference):
    table, schema, profile = reference
    later = customers(3000, 1, 0.5)
    for before, after in ((profile, later), (table, later), (profile, conform(later, schema)),
                          (profile, make_profile(conform(later, schema), schema)), (table, make_profile(conform(later, schema), schema))):
        report = drift(before, after, schema)
        assert not report.passed
        assert {each.name for each in report.drifted} == {"income", "children", "city", "member", "since"}
        assert {each.name: each.kind for each in report.columns} == {each.name: each.kind for each in profile.columns}
        assert report.message.startswith("5 of 6 columns drifted (4,000 and 3,000 rows)")
        assert (report.rows_reference, report.rows_current) == (4000, 3000)
    assert report.column("since").wasserstein == pytest.approx(100, rel=0.05)  # days


def test_raw_and_conformed_rows_are_the_same(reference):
    _, schema, profile = reference
    later = customers(500, 2, 0.1)
    assert drift(profile, later, schema).columns == drift(profile, conform(later, schema), schema).columns


@pytest.mark.parametrize("rows", [8, 40, 300, 3000])
def test_false_alarms_are_as_rare_as_promised(reference, rows):
    table, schema, profile = reference
    for before in (profile, table):
        reports = [drift(before, customers(rows, 100 + seed), schema, thresholds=dict.fromkeys(MINIMA, 0.0)) for seed in range(40)]
        assert sum(not report.passed for report in reports) <= 2


def test_a_drift_that_matters_is_found_as_soon_as_rows_allow(reference):
    _, schema, profile = reference
    found = {rows: drift(profile, customers(rows, 3, 0.3), schema) for rows in (10, 300, 3000)}
    assert found[10].passed and not found[300].passed and not found[3000].passed
    assert "too few rows to tell" in found[10].message and found[10].unseen and not found[3000].unseen


def test_a_difference_that_is_certain_but_small_is_no_drift():
    random = np.random.default_rng(0)
    tables = [pd.DataFrame({"x": random.normal(shift, 1, 200_000)}) for shift in (0, 0.05)]
    report = drift(*tables)
    assert report.passed and report.column("x").ks_p_value < 1e-9
    assert not drift(*tables, thresholds={"ks": 0.01}).passed


def test_parts_of_a_real_table():
    table = load_breast_cancer(as_frame=True).frame
    halves = np.random.default_rng(0).permutation(len(table)).reshape(-1)[:568].reshape(2, 284)
    assert drift(*(table.iloc[half] for half in halves)).passed
    apart = drift(table[table["target"] == 0].drop(columns="target"), table[table["target"] == 1].drop(columns="target"))
    assert len(apart.drifted) > 20 and apart.column("mean radius").drifted


def test_missing_values_drift():
    before = pd.DataFrame({"x": np.arange(400.0), "y": np.arange(400.0)})
    after = before.assign(x=before["x"].where(before.index % 2 == 0), y=np.nan)
    for reference in (before, make_profile(before, schema_of(x="number"))):
        report = drift(reference, after, schema_of(x="number"))
        assert [report.column(name).statistic for name in "xy"] == ["missing_share", "missing_share"]
        assert (report.column("x").missing_after, report.column("y").missing_after, report.column("y").ks) == (0.5, 1.0, None)
    empty = pd.DataFrame({"x": [np.nan] * 50})
    report = drift(empty, empty)
    assert report.passed and "missing share 0, under" in report.column("x").message
    assert not drift(empty, before[["x"]]).passed


def test_new_categories_are_named():
    before, after = pd.DataFrame({"x": ["web"] * 500 + ["shop"] * 500}), pd.DataFrame({"x": ["web"] * 480 + ["shop"] * 480 + ["app"] * 40})
    for reference in (before, profile_of(before, x="category")):
        found = drift(reference, after, columns="x", thresholds={"psi": None}).column("x")
        assert found.drifted and found.new_categories == ("app",) and found.new_share == 0.04
        assert "share of new categories 0.04, over 0.01; new: app" in found.message


def test_names_that_nearly_all_occur_once_are_no_drift():
    names = [f"street {number}" for number in np.random.default_rng(0).integers(0, 100_000, 4000)]
    before, after = (pd.DataFrame({"x": names[half]}) for half in (slice(2000), slice(2000, None)))
    for reference in (before, profile_of(before, x="category")):
        assert drift(reference, after, columns="x", thresholds={"psi": None}).passed
    assert drift(profile_of(before, x="category"), after).column("x").new_categories == ()  # the profile does not know them all


def test_values_of_several_types_are_the_same_categories():
    before, after = pd.DataFrame({"x": ["1", "2", "True"] * 50}), pd.DataFrame({"x": [1, 2.0, True] * 50}, dtype=object)
    schema = schema_of(x="category")
    assert drift(before, after, schema, columns="x").column("x").psi == pytest.approx(0, abs=1e-12)
    assert drift(before, before.astype("category"), schema, columns="x").column("x").psi == pytest.approx(0, abs=1e-12)


def test_thresholds_of_a_caller(reference):
    table, schema, profile = reference
    later = customers(3000, 1, 0.5)
    assert drift(profile, later, schema, thresholds=dict.fromkeys(MINIMA, 100)).passed
    report = drift(profile, later, schema, thresholds={name: None for name in MINIMA} | {"income": {"wasserstein": 1000}})
    assert [(each.name, each.statistic) for each in report.drifted] == [("income", "wasserstein")]
    assert not report.column("city").checks and not report.column("city").drifted
    assert drift(profile, later, schema, columns=["city", "income"]).table()["column"].tolist() == ["city", "income"]


def test_a_report_survives_json(reference):
    table, schema, profile = reference
    report = drift(profile, customers(300, 5, 0.4), schema)
    text = json.dumps(report.to_dict(), allow_nan=False)
    assert DriftReport.from_dict(json.loads(text)) == report
    assert json.loads(text)["passed"] is False and json.loads(text)["columns"][0]["message"]
    assert len(report.table()) == 6 and report.table()["psi"].between(0, 100).all()


def test_a_page_shows_hostile_names_as_text():
    names = ["<script>alert(1)</script>"], ["<b>new</b>"]
    tables = [pd.DataFrame({"<i>x</i>": name * 100}) for name in names]
    page = drift(*tables)._repr_html_()
    assert "<script>" not in page and "<b>" not in page and "<i>" not in page and "&lt;i&gt;x" in page


# ---- bad input


def test_a_target_may_be_missing_and_other_columns_may_not(reference):
    table, schema, profile = reference
    later = customers(300, 5)
    for known in (schema, None):
        report = drift(profile, later.drop(columns="churn").assign(since=pd.to_datetime(later["since"]), more=1), known)
        assert report.left_out == ("churn",) and len(report.columns) == 5
        with pytest.raises(DataError, match="the current data has no column 'income'; did you mean 'incomes'"):
            drift(profile, later.rename(columns={"income": "incomes"}), known)
    with pytest.raises(DataError, match="no column 'churn'"):
        drift(profile, later.drop(columns="churn"), schema, columns=["churn"])
    with pytest.raises(DataError, match="no column 'churn'"):
        drift(table, later.drop(columns="churn"))
    with pytest.raises(DataError, match="and 1 more"):
        drift(table, pd.DataFrame({"z": [1.0]}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.head(0), "the current data: the table has no rows"),
        (lambda table: table.assign(income="much"), "the current data: column 'income': 300 of 300 values are no number: row 1 .'much'"),
        (lambda table: table.assign(income=np.where(table.index == 7, np.inf, 1.0)), "1 of 300 values is infinite: row 8"),
        (lambda table: table.assign(income=np.where(table.index == 7, 1e300, 1.0)), "too large for 32 bits: row 8"),
        (lambda table: table.assign(member="perhaps"), "no yes or no"),
        (lambda table: table.assign(since="soon"), "no date"),
        (lambda table: table.assign(city=[["a"]] * 300), "lists or records"),
        (lambda table: pd.concat([table, table["city"]], axis=1), "column 'city' appears more than once"),
        (lambda table: table.to_numpy(), "the current data: a table is a pandas.DataFrame, not a ndarray"),
    ],
)
def test_tables_that_cannot_be_compared(reference, change, message):
    _, schema, profile = reference
    with pytest.raises(DataError, match=message):
        drift(profile, change(customers(300, 5)), schema)


def test_other_bad_input(reference):
    table, schema, profile = reference
    with pytest.raises(NotFoundError, match="no column 'incom'; did you mean 'income'"):
        drift(profile, table, schema, columns="incom")
    with pytest.raises(NotFoundError, match="no column 'incom'; did you mean 'income'"):
        drift(profile, table, schema, thresholds={"incom": {"psi": 1}})
    with pytest.raises(NotFoundError, match="no statistic 'kss'; did you mean 'ks'"):
        drift(profile, table, schema, thresholds={"kss": 1})
    with pytest.raises(DataError, match="threshold of ks is -1"):
        drift(profile, table, schema, thresholds={"ks": -1})
    for level in (0, 1, 5):
        with pytest.raises(DataError, match=f"level is {level}"):
            drift(profile, table, schema, level=level)
    with pytest.raises(DataError, match="the reference profile is of no rows"):
        drift(make_profile(conform(table, schema).head(0), schema), table, schema)
    with pytest.raises(DataError, match="column 'x' is a number in the reference and a category now"):
        drift(*(profile_of(pd.DataFrame({"x": values}), x=kind) for values, kind in (([1.0, 2.0], "number"), (["a", "b"], "category"))))
