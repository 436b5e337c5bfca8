"Columns: equal values from texts, types and mixtures of them; forms of dates"
import datetime as dt
import math
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_nb.data.columns import (
    DATE_PARTS,
    ISO,
    MISSING_WORDS,
    date_parts,
    is_missing,
    say_rows,
    to_booleans,
    to_dates,
    to_numbers,
    to_texts,
)
from mlops_nb.data.date_forms import detect_date_formats
from mlops_nb.settings import DataError

NOTHING = (None, float("nan"), np.nan, pd.NA, pd.NaT, np.datetime64("NaT"), Decimal("NaN"), "", " \t", "\u00a0")


@pytest.mark.parametrize("nothing", [*NOTHING, *MISSING_WORDS, *(f" {word} " for word in MISSING_WORDS)])
@pytest.mark.parametrize("other", ["x", 1, True, dt.date(2024, 4, 3)])
def test_missing_in_every_reading(nothing, other):
    values = [nothing, other]
    assert is_missing(values).tolist() == [True, False]
    assert to_texts(values)[0] is None and to_texts(values)[1] is not None
    for read in (to_numbers, to_booleans, to_dates):
        found, bad = read(values)
        assert (np.isnat(found) if found.dtype.kind == "M" else np.isnan(found))[0] and 0 not in bad


@pytest.mark.parametrize("values, texts", [
    ([1, 1.0, "1", "1.0", np.int8(1), np.float32(1), Decimal(1), Decimal("1.0"), b"1"], "1"),
    ([True, "true", "TRUE", np.bool_(True)], "True"),
    ([1e16, "1e+16", 10**16], "10000000000000000"),
    ([0.1, np.float32(0.1), "0.1"], "0.1"),
    ([-0.0, 0, "-0.0"], "0"),
    (["01"], "01"), (["1.10"], "1.10"), (["1e3"], "1e3"), ([" a b "], "a b"), (["infinity"], "infinity"),
    ([dt.date(2024, 4, 3), dt.datetime(2024, 4, 3), pd.Timestamp("2024-04-03"), "2024-04-03"], "2024-04-03"),
])
def test_one_text_for_equal_values(values, texts):
    assert set(to_texts(values)) == {texts}
    assert {to_texts([each])[0] for each in values} == {texts}


@pytest.mark.parametrize("text, number", [
    ("1", 1), ("-1", -1), ("+1.5", 1.5), (".5", 0.5), ("5.", 5), ("1e3", 1000), ("1E-3", 0.001), (" 7 ", 7), ("1e-400", 0),
    ("inf", math.inf), ("-Infinity", -math.inf), ("1e999", math.inf), ("9" * 400, math.inf),
    ("1_000", None), ("0x10", None), ("1,5", None), ("1 5", None), ("--1", None), ("e5", None), (".", None), ("١٢", None), ("1.2.3", None),
    ("12%", None), ("True", None), ("1\n2", None), ("\ud800", None),
])
def test_numbers_in_texts(text, number):
    (found,), bad = to_numbers([text])
    assert (found == number and not len(bad)) if number is not None else (math.isnan(found) and bad.tolist() == [0])


def test_a_decimal_comma_is_of_texts_only():
    assert to_numbers(["1,5", 2.5, Decimal("3.5"), "4"], decimal=",")[0].tolist() == [1.5, 2.5, 3.5, 4]
    assert to_numbers(pd.Series([1.5]), decimal=",")[0].tolist() == [1.5]
    assert to_numbers(["1.5"], decimal=",")[1].tolist() == [0]


@pytest.mark.parametrize("dtype", ["float64", "float32", "Int64", "Float64", "category", object, "string", "str",
                                   pd.ArrowDtype(pa.int64()), pd.ArrowDtype(pa.string()), pd.ArrowDtype(pa.decimal128(5, 0))])
def test_every_type_of_pandas_reads_alike(dtype):
    plain = pd.Series([1, 0, None, 1], index=[7, 7, 3, 1])
    if str(dtype) in ("string", "str") or dtype == pd.ArrowDtype(pa.string()):
        plain = pd.Series(["1", "0", None, "1"], index=plain.index)
    if dtype == pd.ArrowDtype(pa.decimal128(5, 0)):
        plain = pd.Series([Decimal(1), Decimal(0), None, Decimal(1)], index=plain.index)
    values = plain.astype(dtype)
    for read in (to_numbers, to_booleans):
        found, bad = read(values)
        np.testing.assert_array_equal(found, [1, 0, np.nan, 1])
        assert found.flags.writeable and not len(bad)
    assert is_missing(values).tolist() == [False, False, True, False]
    if "decimal" not in str(dtype):
        assert to_texts(values).tolist() == ["1", "0", None, "1"]


@pytest.mark.parametrize("empty", [[], np.array([]), pd.Series([], dtype="str"), pd.Series([], dtype="datetime64[us]"), ()])
def test_no_values(empty):
    assert to_texts(empty).shape == is_missing(empty).shape == (0,)
    for read in (to_numbers, to_booleans, to_dates):
        assert [each.shape for each in read(empty)] == [(0,), (0,)]
    assert detect_date_formats(empty) == ()
    assert all(part.shape == (0,) for part in date_parts(to_dates(empty)[0]).values())


@pytest.mark.parametrize("value, expected", [
    ("2024-04-03", "2024-04-03T00:00:00.000000"), ("2024-04-03T10:00:00Z", "2024-04-03T10:00:00.000000"),
    ("2024-04-03 10:00:00.123456789", "2024-04-03T10:00:00.123456"), ("2024-04-03T10:00+07:00", "2024-04-03T03:00:00.000000"),
    (pd.Timestamp("2024-04-03 10:00", tz="Asia/Bangkok"), "2024-04-03T03:00:00.000000"),
    (dt.date(2024, 4, 3), "2024-04-03T00:00:00.000000"),
    (dt.datetime(2024, 4, 3, tzinfo=dt.timezone(dt.timedelta(hours=-1))), "2024-04-03T01:00:00.000000"),
    (np.datetime64("2024-04-03"), "2024-04-03T00:00:00.000000"),
])
def test_dates_are_utc(value, expected):
    for values in ([value], pd.Series([value]), [value, None], pd.Series([value, "2020-01-01"], dtype=object)):
        found, bad = to_dates(values)
        assert str(found[0]) == expected and found.dtype == "datetime64[us]" and not len(bad)


@pytest.mark.parametrize("value", ["2024-02-30", "soon", "03/04/2024", "2024-13-01", True, "2024-04-03 25:00"])
def test_no_dates(value):
    assert to_dates([value, "2024-04-03"])[1].tolist() == [0]


@pytest.mark.parametrize("values", [[20240403], ["20240403"], pd.Series([20240403.0, None]), pd.Series([20240403, None], dtype="Int64")])
def test_dates_as_whole_numbers(values):
    assert str(to_dates(values, "%Y%m%d")[0][0])[:10] == "2024-04-03"


def test_a_format_that_is_none():
    with pytest.raises(DataError, match="%Q.*strptime"):
        to_dates(["2024"], "%Q")


@pytest.mark.parametrize("format", ["%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%Y/%m/%d", "%d-%m-%Y", "%d %b %Y", "%d-%b-%y", "%B %d, %Y",
                                    "%d/%m/%y %H:%M", "%m/%d/%Y %I:%M:%S %p", "%d.%m.%Y %H:%M:%S"])
def test_forms_of_dates(format):
    dates = pd.date_range("2021-01-05 03:20:00", periods=60, freq="37h")
    texts = dates.strftime(format)
    assert detect_date_formats(texts) == (format,)
    expected = pd.to_datetime(pd.Series(texts), format=format).to_numpy("datetime64[us]")
    np.testing.assert_array_equal(to_dates(texts, format)[0], expected)


@pytest.mark.parametrize("values, formats", [
    (["01/02/2024", "03/04/2024"], ("%d/%m/%Y", "%m/%d/%Y")), (["01-02-2024", "3-4-2024"], ("%d-%m-%Y", "%m-%d-%Y")),
    (["04/04/2024"] * 3, ("%d/%m/%Y",)), (["2024-04-03", "05/06/2024"] * 3, (ISO, "%d/%m/%Y")),
    (["2024-04-03", "2024-04-04", "soon"], (ISO,)), (["2024-04-03", "soon", "later"], ()), (["10.0.0.1", "10.0.0.2"], ()),
    (["0812345678"], ()), (["2019-20", "2020-21"], ()), (["12 Main Street 5"], ()), ([], ()), ([" ", None], ()),
])
def test_what_a_form_leaves_open(values, formats):
    assert detect_date_formats(values) == formats


def test_date_parts():
    parts = date_parts(to_dates(["2024-12-31 23:59", None])[0])
    assert tuple(parts) == DATE_PARTS
    assert [part[0] for part in parts.values()] == [2024, 12, 31, 1, 366, 23, 59]
    assert all(math.isnan(part[1]) and part.dtype == np.float64 for part in parts.values())


def test_rows_in_messages():
    assert say_rows([1, 2]) == "row 1, row 2"
    assert say_rows(np.array([3]), ["x" * 100]) == f"row 3 ('{'x' * 36}...)"
    assert say_rows(range(1, 1001), ["a"] * 5).endswith("row 5 ('a') and 995 more")


@given(st.lists(st.one_of(st.none(), st.floats(allow_nan=False), st.integers(-2**53, 2**53)), min_size=1))
@settings(max_examples=200, deadline=None)
def test_numbers_survive_their_texts(values):
    expected = np.array([math.nan if each is None else float(each) for each in values])
    texts = [None if each is None else repr(each) for each in values]
    for same in (values, texts, pd.Series(expected), pd.Series(expected).astype("Float64")):
        found, bad = to_numbers(same)
        np.testing.assert_array_equal(found, expected)
        assert not len(bad)


ANYTHING = st.one_of(st.none(), st.text(), st.integers(), st.floats(), st.booleans(), st.dates(), st.datetimes(),
                     st.decimals(allow_nan=False), st.binary())


@given(st.lists(ANYTHING))
@settings(max_examples=200, deadline=None)
def test_any_mixture_is_read(values):
    missing, texts = is_missing(values), to_texts(values)
    assert [each is None for each in texts] == missing.tolist()
    assert to_texts(texts).tolist() == texts.tolist()  # a text stays what it is
    assert [to_texts([each])[0] for each in values] == texts.tolist()  # whatever stands beside it
    for read in (to_numbers, to_booleans, to_dates):
        found, bad = read(values)
        unknown = np.isnat(found) if found.dtype.kind == "M" else np.isnan(found)
        assert set(np.flatnonzero(unknown)) == set(np.flatnonzero(missing)) | set(bad)
        assert not set(np.flatnonzero(missing)) & set(bad)
