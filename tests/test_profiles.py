"""Profiles: right for any values, the same through JSON, and enough for the usual measures of drift without the rows."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_iris

from mlops_nb.data.profiles import Profile, make_profile
from mlops_nb.data.schema import Column, Schema, conform, infer_schema
from mlops_nb.settings import NotFoundError

finite = st.floats(allow_nan=False, allow_infinity=False)


def schema_of(**kinds: str) -> Schema:
    "A schema of features, name -> kind, and a target `y`"
    return Schema((*(Column(name, kind) for name, kind in kinds.items()), Column("y", "number", "target")), "regression", None, 0)


def profile_of(values, kind: str):
    "The profile of one column of values"
    series = pd.Series(values, dtype=object if kind == "category" else None)
    table = pd.DataFrame({"x": series, "y": np.zeros(len(series))})
    return make_profile(table, schema_of(x=kind)).column("x")


@settings(deadline=None)
@given(st.lists(finite | st.none(), min_size=1, max_size=200))
def test_numbers_of_any_size(values):
    known = np.array([each for each in values if each is not None], dtype=float)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        profile = profile_of(np.array(values, dtype=float), "number")
    assert (profile.count, profile.missing) == (len(known), len(values) - len(known))
    assert json.loads(json.dumps(profile.to_dict(), allow_nan=False)) == profile.to_dict()
    if len(known):
        assert sum(profile.counts) == profile.count
        assert len(profile.counts) == len(profile.edges) - 1
        assert (profile.minimum, profile.maximum) == (known.min(), known.max())
        assert (profile.quantiles[0], profile.quantiles[-1]) == pytest.approx((known.min(), known.max()))
        assert list(profile.quantiles) == sorted(profile.quantiles)
        assert (profile.distinct, profile.zeros) == (len(np.unique(known)), (known == 0).sum())


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200))
def test_numbers_are_those_of_numpy(values):
    profile = profile_of(values, "number")
    assert profile.mean == pytest.approx(np.mean(values))
    assert profile.standard_deviation == pytest.approx(np.std(values), abs=1e-6)
    np.testing.assert_allclose(profile.quantiles, np.quantile(values, np.arange(101) / 100), atol=1e-6)


def test_an_outlier_does_not_squeeze_the_bins():
    values = np.append(np.random.default_rng(0).normal(size=1000), 1e9)
    profile = profile_of(values, "number")
    assert len(profile.counts) == 30
    assert np.count_nonzero(profile.counts) == 30
    assert profile.edges[-1] < 5


@pytest.mark.parametrize(("values", "counts"), [([7.0] * 5, (5,)), ([0.0] * 999 + [3.0], (999, 1))])
def test_columns_of_nearly_one_value(values, counts):
    profile = profile_of(values, "number")
    assert (profile.counts[0], profile.counts[-1])[: len(counts)] == counts
    assert sum(profile.counts) == len(values)


@settings(deadline=None)
@given(st.lists(st.none() | st.text(max_size=3), max_size=400))
def test_categories(values):
    profile = profile_of(values, "category")
    known = [each for each in values if each is not None]
    assert profile.missing == len(values) - len(known)
    assert sum(profile.categories.values()) + profile.other == len(known)
    assert profile.distinct == len(set(known))
    assert list(profile.categories.values()) == sorted(profile.categories.values(), reverse=True)
    assert all(known.count(name) == count for name, count in profile.categories.items())


def test_only_the_most_frequent_categories_are_kept():
    profile = profile_of([f"code {number}" for number in range(300)] + ["code 7"] * 3, "category")
    assert (len(profile.categories), profile.other, profile.distinct) == (200, 100, 300)
    assert next(iter(profile.categories.items())) == ("code 7", 4)


def test_booleans_have_both_counts():
    assert profile_of([1.0, 1.0, np.nan], "boolean").categories == {"False": 0, "True": 2}


@settings(deadline=None)
@given(st.lists(st.datetimes() | st.none(), min_size=1, max_size=100))
def test_dates_of_any_year(values):
    dates = np.array(values, dtype="datetime64[us]")
    profile = profile_of(dates, "date")
    known = dates[~np.isnat(dates)]
    assert profile.missing == np.isnat(dates).sum()
    if len(known):
        assert (np.datetime64(profile.minimum, "us"), np.datetime64(profile.maximum, "us")) == (known.min(), known.max())
        assert sum(profile.counts) == len(known)
        assert list(profile.edges) == sorted(profile.edges)


def test_profile_is_enough_for_drift():
    random = np.random.default_rng(0)
    before, after = random.normal(0, 1, 20_000), random.normal(0.5, 1, 20_000)
    from scipy.stats import ks_2samp, wasserstein_distance
    quantiles = profile_of(before, "number").quantiles
    assert np.max(abs(np.interp(np.sort(after), quantiles, np.arange(101) / 100) - np.arange(20_000) / 20_000)) == pytest.approx(
        ks_2samp(before, after).statistic, abs=0.01)
    assert np.mean(abs(np.subtract(profile_of(after, "number").quantiles, quantiles))) == pytest.approx(
        wasserstein_distance(before, after), abs=0.01)


def test_page_shows_hostile_names_as_text():
    table = pd.DataFrame({"<script>alert(1)</script>": ["<b>x</b>", "y"] * 20, "y": np.arange(40.0)})
    schema = infer_schema(table, "y")
    page = make_profile(conform(table, schema), schema)._repr_html_()
    assert "<script>" not in page and "<b>" not in page
    assert "&lt;script&gt;" in page


def test_rows_and_json():
    table = load_iris(as_frame=True).frame
    schema = infer_schema(table, "target")
    conformed = conform(table, schema)
    profile = make_profile(conformed, schema, np.arange(50))
    assert profile.rows == 50
    assert profile.column("target").categories == {"0": 50}
    assert Profile.from_dict(json.loads(json.dumps(profile.to_dict()))) == profile
    with pytest.raises(NotFoundError, match="sepal length"):
        make_profile(conformed.drop(columns="sepal length (cm)"), schema)
