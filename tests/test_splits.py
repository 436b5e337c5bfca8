"""Splits of any table: every row in one part, nothing that belongs together cut, and the same again from the same seed."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine

from mlops_nb.data.datasets import inspect_data
from mlops_nb.data.schema import Column, Schema, conform, infer_schema
from mlops_nb.data.splits import PARTS, split_rows
from mlops_nb.settings import DataError

shares = st.tuples(st.floats(0.05, 0.45), st.floats(0.05, 0.45))
seeds = st.integers(0, 2**32 - 1)


def schema_of(task: str, **roles: str) -> Schema:
    "A schema of a target `y` and the columns of `roles`, role -> kind"
    target = Column("y", "number" if task == "regression" else "category", "target")
    columns = (target, *(Column(role, kind, role) for role, kind in roles.items()))
    return Schema(columns, task, None if task == "regression" else (), 0)


def part_of(split) -> np.ndarray:
    "The part of each row, from the rows of each part; fails where a row is in two or in none"
    rows = np.concatenate([split.rows(part) for part in PARTS])
    assert sorted(rows) == list(range(len(split.parts)))
    assert split.counts == {part: len(split.rows(part)) for part in PARTS}
    assert min(split.counts.values()) > 0
    return split.parts


def wanted(split) -> dict[str, int]:
    "How many rows each part was to have"
    count = len(split.parts)
    validation, test = round(count * split.validation_share), round(count * split.test_share)
    return {"train": count - validation - test, "validation": validation, "test": test}


@settings(deadline=None)
@given(st.integers(20, 400), shares, seeds)
def test_random_shares_are_exact(count, share, seed):
    table = pd.DataFrame({"y": np.arange(count, dtype=float)})
    split = split_rows(table, schema_of("regression"), "random", *share, seed)
    part_of(split)
    assert split.counts == wanted(split)
    np.testing.assert_array_equal(split.parts, split_rows(table, schema_of("regression"), "random", *share, seed).parts)


@settings(deadline=None)
@given(st.lists(st.integers(3, 60), min_size=2, max_size=8), shares, seeds)
def test_stratified_shares_are_exact_within_one_row(counts, share, seed):
    names = np.repeat([f"class {number}" for number in range(len(counts))], counts)
    table = pd.DataFrame({"y": np.random.default_rng(seed).permutation(names)})
    if len(table) < 20:
        return
    split = split_rows(table, schema_of("multiclass"), "stratified", *share, seed)
    parts = part_of(split)
    for number, count in enumerate(counts):
        chosen = parts[(table["y"] == f"class {number}").to_numpy()]
        for part, size in wanted(split).items():
            got, share_of_class = int((chosen == PARTS.index(part)).sum()), count * size / len(table)
            assert got >= 1
            assert part == "train" or abs(got - share_of_class) <= 1 or count <= 6, (part, got, share_of_class)
    np.testing.assert_array_equal(parts, split_rows(table, schema_of("multiclass"), "stratified", *share, seed).parts)


@settings(deadline=None)
@given(st.lists(st.integers(1, 30), min_size=3, max_size=60).filter(lambda sizes: sum(sizes) >= 20), shares, seeds)
def test_groups_are_never_cut(sizes, share, seed):
    groups = np.random.default_rng(seed).permutation(np.repeat([f"group {number}" for number in range(len(sizes))], sizes))
    table = pd.DataFrame({"y": np.arange(len(groups), dtype=float), "group": groups})
    split = split_rows(table, schema_of("regression", group="category"), "auto", *share, seed)
    parts = part_of(split)
    assert split.method == "grouped"
    assert pd.Series(parts).groupby(groups).nunique().max() == 1
    if len(sizes) > 12:
        for part, size in wanted(split).items():
            assert abs(split.counts[part] - size) <= max(sizes), part
    again = split_rows(table, schema_of("regression", group="category"), "auto", *share, seed)
    np.testing.assert_array_equal(parts, again.parts)


@settings(deadline=None)
@given(st.lists(st.integers(1, 20), min_size=3, max_size=60).filter(lambda sizes: sum(sizes) >= 20), shares, seeds)
def test_times_are_never_cut(sizes, share, seed):
    days = np.datetime64("2026-01-01", "us") + np.repeat(np.arange(len(sizes)), sizes).astype("timedelta64[D]")
    times = np.random.default_rng(seed).permutation(days)
    table = pd.DataFrame({"y": np.arange(len(times), dtype=float), "time": times})
    split = split_rows(table, schema_of("regression", time="date"), "auto", *share, seed)
    part_of(split)
    train, validation, test = (times[split.rows(part)] for part in PARTS)
    assert train.max() < validation.min() and validation.max() < test.min()
    for part in ("validation", "test"):
        assert abs(split.counts[part] - wanted(split)[part]) <= 2 * max(sizes), part


@pytest.mark.parametrize("seed", range(5))
def test_grouped_classes_are_in_every_part(seed):
    random = np.random.default_rng(seed)
    groups = random.integers(0, 60, 1000)
    table = pd.DataFrame({"y": np.where(random.random(1000) < 0.03, "rare", "usual"), "group": groups.astype(str)})
    split = split_rows(table, schema_of("binary", group="category"), seed=seed)
    assert pd.crosstab(table["y"], split.parts).to_numpy().min() > 0
    assert abs(split.counts["test"] - 200) < 40


@pytest.mark.parametrize("load", [load_iris, load_wine, load_breast_cancer, load_digits, load_diabetes])
@pytest.mark.parametrize("arrangement", ["as shipped", "sorted by its target", "sorted twice"])
def test_no_table_of_things_is_split_in_order(load, arrangement):
    table = load(as_frame=True).frame
    if arrangement != "as shipped":
        table = table.sort_values("target", kind="stable")
    if arrangement == "sorted twice":
        table = pd.concat([table, table])
    schema = infer_schema(table, "target")
    split = split_rows(conform(table, schema), schema)
    assert split.method == ("random" if load is load_diabetes else "stratified")


@pytest.mark.parametrize("kind", ["number", "classes"])
@pytest.mark.parametrize("direction", [1, -1])
def test_a_log_is_split_in_its_order(kind, direction):
    noise = np.random.default_rng(0).normal(size=3000)
    level = np.convolve(noise, np.ones(10), "valid")[::direction]
    values = level if kind == "number" else np.where(level > 0, "high", "low")
    split = split_rows(pd.DataFrame({"y": values}), schema_of("regression" if kind == "number" else "binary"))
    assert split.method == "order"
    assert (np.diff(split.parts) >= 0).all()
    assert "order of time" in split.note


def test_a_statement_with_the_newest_rows_first_is_split_backwards():
    table = pd.DataFrame({"y": np.convolve(np.random.default_rng(0).normal(size=3000), np.ones(10), "valid")})
    table["booked"] = pd.date_range("2026-01-01", periods=len(table), freq="h")[::-1].floor("D")
    schema = infer_schema(table, "y")
    split = split_rows(conform(table, schema), schema)
    assert (split.method, split.parts[0], split.parts[-1]) == ("order", 2, 0)
    assert split.note.endswith("the first test, the last train, as booked falls")


def test_a_table_sorted_by_a_feature_is_no_log():
    random = np.random.default_rng(0)
    age = np.sort(random.uniform(18, 90, 4000))
    ill = np.where(random.random(4000) < (age - 18) / 80, "yes", "no")
    assert split_rows(pd.DataFrame({"y": ill}), schema_of("binary")).method == "stratified"
    cost = age * 10 + random.normal(0, 100, 4000)
    assert split_rows(pd.DataFrame({"y": cost}), schema_of("regression")).method == "random"


def test_a_log_without_a_class_in_its_newest_rows_says_so():
    level = np.convolve(np.random.default_rng(0).normal(size=3000), np.ones(10), "valid")
    names = np.where(level > 0, "on", "off").astype(object)
    names[:300] = "broken"
    split = split_rows(pd.DataFrame({"y": names}), schema_of("multiclass"))
    assert split.method == "stratified"
    assert "'broken' is missing in validation" in split.note


@pytest.mark.parametrize(("options", "message"), [
    ({"validation_share": 0}, "validation_share = 0; allowed is a share between 0 and 1"),
    ({"test_share": float("nan")}, "test_share = nan"),
    ({"test_share": 1.5}, "test_share = 1.5"),
    ({"validation_share": 0.5, "test_share": 0.5}, "leave nothing to train on"),
    ({"test_share": 0.001}, "none would be left for test"),
    ({"method": "time"}, "needs a time column"),
    ({"method": "grouped"}, "needs a group column"),
    ({"method": "sorted"}, "allowed is 'auto' or 'random'"),
    ({"method": "order"}, "would be missing in"),
    ({"seed": -1}, "seed = -1"),
])
def test_what_cannot_be_split_is_refused(options, message):
    table = pd.DataFrame({"y": np.repeat(["a", "b"], 50)})
    with pytest.raises(DataError, match=message):
        split_rows(table, schema_of("binary"), **options)


def test_small_tables_are_refused():
    with pytest.raises(DataError, match="the table has 4 rows"):
        split_rows(pd.DataFrame({"y": [1.0, 2, 3, 4]}), schema_of("regression"))
    with pytest.raises(DataError, match="class 'b' has 2 rows"):
        split_rows(pd.DataFrame({"y": ["a"] * 20 + ["b"] * 2}), schema_of("binary"))
    with pytest.raises(DataError, match="there are 2 groups"):
        split_rows(pd.DataFrame({"y": np.arange(20.0), "group": ["a", "b"] * 10}), schema_of("regression", group="category"))
    with pytest.raises(DataError, match="there are 2 different times"):
        split_rows(pd.DataFrame({"y": np.arange(20.0), "time": [1.0, 2.0] * 10}), schema_of("regression", time="number"))
    with pytest.raises(DataError, match="stratified split needs classes"):
        split_rows(pd.DataFrame({"y": np.arange(20.0)}), schema_of("regression"), "stratified")


def test_missing_times_are_named():
    times = np.arange(30.0)
    times[[3, 7, 8, 9, 10, 11]] = np.nan
    with pytest.raises(DataError, match=r"column 'time' has no time in row 4, row 8, row 9, row 10, row 11 and 1 more"):
        split_rows(pd.DataFrame({"y": np.arange(30.0), "time": times}), schema_of("regression", time="number"))


@pytest.mark.public_table("electricity.csv")
def test_electricity_is_split_in_its_order(public_tables):
    found = inspect_data(public_tables / "electricity.csv", "class")
    split = split_rows(found.table, found.schema)
    assert split.method == "order" and "seem to be in order of time" in split.note
    assert split.counts == {"train": 29453, "validation": 6797, "test": 9062}


@pytest.mark.public_table("telco_churn.csv")
def test_telco_is_stratified(public_tables):
    found = inspect_data(public_tables / "telco_churn.csv", "Churn", key="customerID")
    split = split_rows(found.table, found.schema)
    assert split.method == "stratified"
    assert pd.crosstab(found.table["Churn"], split.parts, normalize="columns").loc["Yes"].to_numpy() == pytest.approx(0.2654, abs=0.001)


@pytest.mark.public_table("bike_sharing_hourly.csv")
def test_bike_days_are_not_cut(public_tables):
    found = inspect_data(public_tables / "bike_sharing_hourly.csv", "cnt", time="dteday", exclude=["casual", "registered", "instant"])
    split = split_rows(found.table, found.schema)
    assert split.method == "time"
    assert pd.Series(split.parts).groupby(found.table["dteday"]).nunique().max() == 1
    assert split.counts["test"] == pytest.approx(17379 * 0.2, abs=24)


def test_rows_sorted_by_shop_are_in_no_order_of_time():
    random = np.random.default_rng(0)
    shops = np.repeat([f"shop {number:02}" for number in range(20)], 50)
    sales = np.repeat(random.normal(size=20) * 5, 50) + random.normal(size=1000)
    table = pd.DataFrame({"shop": shops, "size": random.normal(size=1000), "sales": sales})
    schema = infer_schema(table, "sales")
    split = split_rows(conform(table, schema), schema)
    assert split.method == "random" and "blocks of shop" in split.note
