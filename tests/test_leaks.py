"""Leaks: every way in which a column can know the answer is found, and honest tables stay unharmed."""

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine

from mlops_nb.data.datasets import inspect_data
from mlops_nb.data.leaks import Leak, check_leaks, find_leaks
from mlops_nb.data.schema import conform, infer_schema
from mlops_nb.settings import DataError

COUNT = 1500
random = np.random.default_rng(0)
number = random.lognormal(2, 2, COUNT)
label = random.choice(["a", "b", "c"], COUNT, p=[0.6, 0.3, 0.1])
half = np.where(random.random(COUNT) < 0.2, "yes", "no")


def leaks_of(columns: dict, target, **options) -> tuple[Leak, ...]:
    "The leaks of a table with two columns of noise"
    noise = np.random.default_rng(1)
    unrelated = {"noise": noise.normal(size=len(target)), "shop": noise.choice(list("uvwxyz"), len(target))}
    table = pd.DataFrame({**unrelated, **columns, "y": target})
    schema = infer_schema(table, "y", **options)
    return find_leaks(conform(table, schema), schema)


@pytest.mark.parametrize(("column", "target"), [
    (number, number),
    (5 - 3 * number, number),
    (np.log(number), number),
    (number * random.normal(1, 0.001, COUNT), number),
    (label, label),
    (pd.Series(label).map({"a": "3.", "b": "1.", "c": "2."}), label),
    (pd.Series(label).map({"a": 2, "b": 7, "c": 1}) + random.normal(0, 0.1, COUNT), label),
    ([f"{each}{digit}" for each, digit in zip(half, random.integers(0, 90, COUNT))], half),
    (pd.Series(pd.Timestamp("2026-01-01") + pd.to_timedelta(random.integers(0, 90, COUNT), "D")).where(half == "yes"), half),
    (pd.Series(random.normal(size=COUNT)).where(half == "no"), half),
    (half == "yes", half),
    (np.where(random.random(COUNT) < 0.001, half[::-1], half), half),
], ids=["copy", "other unit", "logarithm", "rounded", "label", "code", "number of a class", "90 codes", "date only of some",
        "number only of some", "boolean", "nearly always"])
def test_a_column_that_knows_the_answer(column, target):
    [leak] = leaks_of({"told": column}, target)
    assert leak.columns == ("told",)
    assert leak.score >= 0.99
    assert "'told' alone predicts 'y' almost perfectly" in leak.message


@pytest.mark.parametrize(("load", "task"), [
    (load_iris, "auto"), (load_wine, "auto"), (load_breast_cancer, "auto"), (load_digits, "auto"), (load_diabetes, "regression")])
def test_honest_tables_stay_unharmed(load, task):
    table = load(as_frame=True).frame
    schema = infer_schema(table, "target", task=task)
    assert find_leaks(conform(table, schema), schema) == ()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [20, 40, 200])
def test_chance_is_no_leak(seed, count):
    noise = np.random.default_rng(seed)
    target = np.where(np.arange(count) < max(3, count // 20), "rare", "usual")
    assert leaks_of({f"x{number}": noise.normal(size=count) for number in range(10)}, target) == ()
    assert leaks_of({f"x{number}": noise.normal(size=count) for number in range(10)}, noise.normal(size=count)) == ()


def test_row_number_of_a_sorted_table_is_a_leak():
    table = load_iris(as_frame=True).frame.assign(Id=np.arange(1, 151))
    schema = infer_schema(table, "target")
    assert [leak.columns for leak in find_leaks(conform(table, schema), schema)] == [("Id",)]
    schema = infer_schema(table, "target", key="Id")
    assert find_leaks(conform(table, schema), schema) == ()


def test_time_is_known_beforehand():
    days = pd.date_range("2026-01-01", periods=COUNT, freq="h")
    level = np.sin(np.arange(COUNT) / 100)
    assert leaks_of({"day": days}, level, time="day") == ()
    assert [leak.columns for leak in leaks_of({"day": days}, level)] == [("day",)]


def test_summands_are_found_together():
    net, tax, fee = random.gamma(2, 50, COUNT), random.gamma(2, 20, COUNT), random.gamma(2, 30, COUNT)
    [leak] = leaks_of({"net": net, "fee": fee, "size": net * 2 + random.normal(0, 80, COUNT), "tax": tax}, net + tax - fee)
    assert leak.columns == ("net", "fee", "tax")
    assert leak.message == "columns 'net' - 'fee' + 'tax' add up to 'y' (R2 1.000)"


def test_summands_are_found_beside_a_copy_and_with_gaps():
    members, guests = random.poisson(100, COUNT) * 1.0, random.poisson(60, COUNT) * 1.0
    guests[::7] = np.nan
    total = members + np.nan_to_num(guests)
    found = leaks_of({"copy": total / 1000, "members": members, "guests": guests, "twice": members}, total)
    assert ("copy",) in [leak.columns for leak in found]
    assert any(set(leak.columns) in ({"members", "guests"}, {"twice", "guests"}) for leak in found)


def test_a_law_is_no_leak():
    length, width = random.normal(50, 10, COUNT), random.normal(20, 4, COUNT)
    assert leaks_of({"length": length, "width": width}, 3 * length + 5 * width) == ()


def test_only_the_rows_that_are_given_are_looked_at():
    told = np.where(np.arange(COUNT) < 1000, number, random.permutation(number))
    table = pd.DataFrame({"told": told, "y": number})
    schema = infer_schema(table, "y")
    assert [leak.columns for leak in find_leaks(table, schema, np.arange(1000))] == [("told",)]
    assert find_leaks(table, schema, np.arange(1000, COUNT)) == ()


def test_check_names_what_is_left():
    single, several = Leak(("ended on",), 1.0, "roc_auc", "A"), Leak(("casual", "registered"), 1.0, "r2", "B")
    with pytest.raises(DataError, match=r"^A; B\. .*\(--exclude 'ended on' casual registered\).*\(--keep 'ended on' casual registered\)$"):
        check_leaks([single, several])
    with pytest.raises(DataError, match=r"^B\. .*--exclude registered\)"):
        check_leaks([single, several], keep=["ended on", "casual"])
    check_leaks([single, several], keep=["ended on", "casual", "registered"])
    check_leaks(())


def public(name, *arguments):
    return pytest.param(name, *arguments, marks=pytest.mark.public_table(name))


@pytest.mark.parametrize(("name", "target", "options", "expected"), [
    public("telco_churn.csv", "Churn", {"key": "customerID"}, []),
    public("electricity.csv", "class", {}, []),
    public("bike_sharing_hourly.csv", "cnt", {"time": "dteday", "exclude": ["casual", "registered", "instant"]}, []),
    public("bike_sharing_hourly.csv", "cnt", {"time": "dteday"}, [("casual", "registered")]),
    public("bike_sharing_hourly.csv", "cnt", {}, [("casual", "registered")]),
])
def test_public_tables(public_tables, name, target, options, expected):
    found = inspect_data(public_tables / name, target, **options)
    assert [leak.columns for leak in find_leaks(found.table, found.schema)] == expected
