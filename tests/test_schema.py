"Schemas: kinds, roles, targets; what is refused; and one schema for a CSV file, typed columns and Parquet"

import datetime as dt
import json
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlops_nb.data.columns import ISO
from mlops_nb.data.schema import Schema, conform, infer_schema
from mlops_nb.data.tables import read_data
from mlops_nb.settings import DataError, NotFoundError

COUNT = 60
NUMBERS = np.random.default_rng(0).normal(size=COUNT)


def table(**columns):
    return pd.DataFrame({"amount": NUMBERS, "y": ["no", "yes"] * (COUNT // 2), **columns})


def kind_of(values, **options):
    return infer_schema(table(x=values), "y", **options).column("x")


def repeated(*values):
    return [values[place % len(values)] for place in range(COUNT)]


@pytest.mark.parametrize(
    "values, kind",
    [
        (repeated("1", "2.5", " "), "number"),
        (repeated(1, 2, 3), "number"),
        (repeated(1, 2), "number"),
        (repeated("inf", "1", "2"), DataError),
        (repeated(Decimal("1.5"), Decimal(2), None), "number"),
        (repeated("0", "1"), "boolean"),
        (repeated(0.0, 1.0, None), "boolean"),
        (repeated(True, False), "boolean"),
        (repeated("Yes", "no", "NO", None), "boolean"),
        (repeated("t", "F"), "boolean"),
        (repeated("Y", None), "category"),
        (repeated("yes", "true"), "category"),
        (repeated("M", "F"), "category"),
        (repeated("a", None), "category"),
        (repeated("1", "b", "c"), "category"),
        (repeated("1", "b"), DataError),
        (repeated(1, "2", "b"), DataError),
        (repeated("2024-04-03", "2024-04-04"), "date"),
        (repeated("01", "02"), "category"),
        (repeated("0", "2", "0.5"), "number"),
        (repeated(dt.date(2024, 4, 3), None, dt.date(2024, 4, 4)), "date"),
        (pd.date_range("2024", periods=COUNT, tz="Asia/Bangkok"), "date"),
        (repeated("25/12/2024", "01/02/2024"), "date"),
        (repeated("03/04/2024", "01/02/2024"), DataError),
        (repeated("$1.50", "$2"), DataError),
        (repeated("12%", "15 %"), DataError),
        (repeated("1,5", "2,5"), DataError),
        (repeated("1.10.2", "1.9.0"), "category"),
        (pd.Categorical(repeated("u", "v")), "category"),
        (pd.Categorical(repeated(3, 4)), "number"),
        (pd.array(repeated(1, None, 0), dtype="boolean"), "boolean"),
        (pd.array(repeated(1, None, 7), dtype="Int64"), "number"),
        (repeated(dt.time(1), dt.time(2, 30)), "category"),
    ],
)
def test_kinds(values, kind):
    if kind is DataError:
        with pytest.raises(DataError, match="'x'"):
            kind_of(values)
    else:
        assert kind_of(values).kind == kind


REFUSED = {
    "mixed": (repeated(*"12345", "six"), "10 of 60 values are no number: row 6 \\('six'\\), row 12 .* and 5 more.*--kind x category"),
    "infinite": ([1.5, np.inf, -np.inf, *range(COUNT - 3)], "2 of 60 values are infinite: row 2 \\(inf\\), row 3 \\(-inf\\)"),
    "empty": ([" "] * COUNT, "empty in all rows.*--exclude x"),
    "nothing": ([None] * COUNT, "empty in all rows"),
    "free text": ([f"remark {place}" for place in range(COUNT)], "60 different texts in 60 rows.*--key x.*--exclude x.*--kind x category"),
    "lists": ([[1, 2]] * COUNT, "lists or records"),
    "records": ([{"a": 1}] * COUNT, "lists or records"),
    "arrays": ([np.arange(2)] * COUNT, "lists or records"),
    "bytes": ([b"\xff", b"a"] * 30, "bytes"),
    "durations": (pd.to_timedelta(range(COUNT), unit="h"), "durations"),
    "complex": (np.arange(COUNT) + 1j, "complex"),
    "no such day": (repeated("2024-02-28", "2024-02-29", "2024-02-30"), "20 of 60 values are no date.*row 3 \\('2024-02-30'\\)"),
    "two forms": (repeated("2024-02-28", "2024-02-29", "25/12/2024", "26/12/2024"), "several forms, ISO8601 and %d/%m/%Y"),
    "day or month": (repeated("03/04/2024", "01/02/2024"), "%d/%m/%Y or %m/%d/%Y.*--date-format x %d/%m/%Y"),
}


@pytest.mark.parametrize("values, message", REFUSED.values(), ids=[*REFUSED])
def test_a_column_that_is_refused_can_be_left_out(values, message):
    frame = table(x=values)
    with pytest.raises(DataError, match=f"(?s)column 'x'.*{message}"):
        infer_schema(frame, "y")
    schema = infer_schema(frame, "y", exclude="x")
    assert schema.column("x").role == "excluded" and conform(frame, schema).columns.tolist() == ["amount", "y"]


def test_categories():
    many = pd.DataFrame(
        {
            "x": [f"k{place}" for place in range(60_000)],
            "few": [f"k{place % 1000}" for place in range(60_000)],
            "n": np.arange(60_000) % 7,
            "y": [*"ab"] * 30_000,
        }
    )
    with pytest.raises(DataError, match="'x' has 60,000 different texts in 60,000 rows"):
        infer_schema(many, "y")
    schema = infer_schema(many, "y", key="x")
    assert schema.column("few").distinct == 1000 and schema.keys[0].name == "x"
    assert infer_schema(many, "y", kinds={"x": "category"}).column("x").distinct == 60_000
    short = pd.DataFrame({"x": [f"k{place}" for place in range(50)], "y": [*"ab"] * 25})
    assert infer_schema(short, "y").column("x").kind == "category"


def test_all_columns_that_leave_something_open_are_named():
    frame = table(**{f"text{place}": [f"remark {row}" for row in range(COUNT)] for place in range(8)})
    with pytest.raises(DataError) as caught:
        infer_schema(frame, "y")
    lines = str(caught.value).split("\n")
    assert len(lines) == 6 and "'text4'" in lines[4] and lines[5] == "and 3 more columns"


def test_kinds_that_are_given():
    assert kind_of(repeated("1", "2", "x"), kinds={"x": "category"}).distinct == 3
    assert kind_of(repeated(0, 1), kinds={"x": "number"}).kind == "number"
    assert kind_of(repeated(1, 1, None), kinds={"x": "boolean"}).kind == "boolean"
    assert kind_of(repeated("20240403", "20240404"), formats={"x": "%Y%m%d"}).format == "%Y%m%d"
    assert kind_of(repeated("2024-04-03", "2024-04-04"), kinds={"x": "date"}).format == ISO
    for options, message in [
        ({"kinds": {"x": "number"}}, "row 1 \\('a'\\)"),
        ({"kinds": {"x": "boolean"}}, "no yes or no"),
        ({"kinds": {"x": "date"}}, "no date in a form"),
        ({"formats": {"x": "%d/%m/%Y"}}, "no date of the form %d/%m/%Y"),
        ({"formats": {"x": "%Q"}}, "'%Q' is no format"),
        ({"kinds": {"x": "int"}}, "'int'.*'number' or 'category'"),
    ]:
        with pytest.raises(DataError, match=message):
            kind_of(repeated("a", "b"), **options)


def test_notes():
    frame = table(
        constant=["x"] * COUNT, some=["x", None] * 30, row=range(1, COUNT + 1), long=[str(10**30 + place) for place in range(COUNT)]
    )
    schema = infer_schema(frame, "y")
    assert [(each.name, each.role) for each in schema.columns if each.note] == [
        ("constant", "excluded"),
        ("row", "feature"),
        ("long", "excluded"),
    ]
    assert schema.column("some").role == "feature"
    assert "row number" in schema.column("row").note and "digits" in schema.column("long").note


@pytest.mark.parametrize(
    "options",
    [
        {"target": "Y_"},
        {"key": "amuont"},
        {"key": ["amount", "z"]},
        {"time": "when"},
        {"group": "who"},
        {"exclude": ["x"]},
        {"kinds": {"x": "number"}},
        {"formats": {"x": "%Y"}},
    ],
)
def test_wrong_names(options):
    with pytest.raises(NotFoundError, match="no column"):
        infer_schema(table(), **{"target": "y", **options})


@pytest.mark.parametrize(
    "options",
    [
        {"key": "y"},
        {"exclude": "y"},
        {"time": "y"},
        {"group": "y"},
        {"key": "amount", "exclude": "amount"},
        {"key": "amount", "time": "amount"},
        {"time": "amount", "group": "amount"},
        {"group": "amount", "exclude": ["amount"]},
    ],
)
def test_two_roles(options):
    with pytest.raises(DataError, match="cannot be both .* and "):
        infer_schema(table(), "y", **options)


def test_no_feature():
    with pytest.raises(
        DataError, match="no column is left to predict 'y' from; there are: 'amount' \\(excluded\\), 'y' \\(target\\), 'c' \\(constant\\)"
    ):
        infer_schema(table(c=1), "y", exclude="amount")
    with pytest.raises(DataError, match="no column is left"):
        infer_schema(table()[["y"]], "y")


@pytest.mark.parametrize(
    "wrong, message",
    [
        ([1, 2], "not a list"),
        (pd.DataFrame({"y": []}), "no rows"),
        (pd.DataFrame([[1, 2]], columns=["y", "y"]), "more than once"),
        (pd.DataFrame({0: [1], "y": [2]}), "not 0"),
    ],
)
def test_no_table(wrong, message):
    with pytest.raises(DataError, match=message):
        infer_schema(wrong, "y")


def test_keys():
    frame = table(
        one=[f"k{place}" for place in range(COUNT)],
        twin=[f"k{place % 59}" for place in range(COUNT)],
        half=[f"k{place // 2}" for place in range(COUNT)],
        side=repeated(1, 2),
        gap=["", *range(1, COUNT)],
    )
    exclude = ["one", "twin", "half", "side", "gap"]
    schema = infer_schema(frame, "y", key=["half", "side"], exclude=["one", "twin", "gap"])
    assert [each.name for each in schema.keys] == ["half", "side"] and "half" not in [each.name for each in schema.features]
    assert conform(frame, schema)["side"].tolist() == frame["side"].tolist()
    for key, message in [
        ("twin", "2 rows.*row 1 \\('k0'\\), row 60 \\('k0'\\)"),
        ("gap", "missing in 1 row: row 1"),
        (["side"], "60 rows.* and 55 more"),
        (["twin", "gap"], "key \\('twin', 'gap'\\) is missing"),
    ]:
        with pytest.raises(DataError, match=message):
            infer_schema(frame, "y", key=key, exclude=[each for each in exclude if each not in key])


def test_time_and_group():
    frame = table(day=pd.date_range("2024", periods=COUNT).astype(str), who=repeated(*range(7)))
    schema = infer_schema(frame, "y", time="day", group="who")
    assert (schema.time.name, schema.time.kind, schema.group.name, schema.group.kind) == ("day", "date", "who", "category")
    assert [each.name for each in schema.features] == ["amount", "day"]
    assert conform(frame, schema)["who"].tolist()[:2] == ["0", "1"]
    ordered = infer_schema(frame, "y", time="day", exclude="day")
    assert ordered.time.name == "day" and [each.name for each in ordered.features] == ["amount", "who"]
    assert conform(frame, ordered)["day"].dtype == "datetime64[us]"
    for when in (repeated("early", "late", "later"), repeated(0, 1)):
        with pytest.raises(DataError, match="time 'when' is a (category|boolean)"):
            infer_schema(frame.assign(when=when), "y", time="when")
    with pytest.raises(DataError, match="group 'who' is missing in 1 row: row 60"):
        infer_schema(frame.assign(who=[*"ab"] * 29 + ["a", None]), "y", group="who")


@pytest.mark.parametrize(
    "values, options, task, classes",
    [
        (repeated("no", "yes"), {}, "binary", ("no", "yes")),
        (repeated("no", "yes"), {"positive": "no"}, "binary", ("yes", "no")),
        (repeated("Yes", "No"), {}, "binary", ("No", "Yes")),
        (repeated("up", "down"), {}, "binary", ("down", "up")),
        (repeated("1", "0"), {}, "binary", (0, 1)),
        (repeated(1.0, 0.0), {}, "binary", (0, 1)),
        (repeated(True, False), {}, "binary", (False, True)),
        (repeated("False", "true"), {}, "binary", (False, True)),
        (repeated(0, 1), {"positive": 0}, "binary", (1, 0)),
        (repeated(2, 10), {}, "binary", (2, 10)),
        (repeated("t", "f"), {}, "binary", ("f", "t")),
        (repeated("01", "02"), {}, "binary", ("01", "02")),
        (repeated(0.5, 1.5), {}, "binary", (0.5, 1.5)),
        (repeated(True, False), {"positive": False}, "binary", (True, False)),
        (repeated("a", "b", "c"), {}, "multiclass", ("a", "b", "c")),
        (repeated(10, 9, 8), {}, "multiclass", (8, 9, 10)),
        (repeated(*range(20)), {}, "multiclass", tuple(range(20))),
        (repeated("1", "2", "x"), {"kinds": {"y": "category"}}, "multiclass", ("1", "2", "x")),
        (repeated(*range(20)), {"task": "regression"}, "regression", None),
        (repeated(*range(20)), {"kinds": {"y": "number"}}, "regression", None),
        (repeated(0, 1), {"task": "regression"}, "regression", None),
        ([*range(COUNT)], {}, "regression", None),
        (repeated(0.5, 1, 2), {}, "regression", None),
        (repeated(0.5, 1, 2), {"task": "multiclass"}, "multiclass", (0.5, 1, 2)),
    ],
)
def test_targets(values, options, task, classes):
    frame = table(y=values)
    schema = infer_schema(frame, "y", **options)
    assert (schema.task, schema.classes) == (task, classes)
    assert [*map(type, schema.classes or ())] == [*map(type, classes or ())]
    found = conform(frame, schema)["y"]
    assert found.dtype == np.float64 if task == "regression" else set(found) == {str(each) for each in classes}


TARGETS = {
    "missing": (["?"] * COUNT, {}, "missing in every row"),
    "one class": (["x"] * COUNT, {}, "one value 'x'"),
    "one number": ([7] * COUNT, {}, "one value"),
    "one number, regression": ([7.5] * COUNT, {"task": "regression"}, "one value"),
    "rare": ([*"ab"] * 29 + ["c", "d"], {}, "'c' \\(1\\), 'd' \\(1\\) have fewer"),
    "too many": ([f"c{place % 110}" for place in range(COUNT)], {"task": "binary"}, "60 classes: its task is multiclass"),
    "infinite": ([np.inf, *range(COUNT - 1)], {}, "infinite: row 1"),
    "text": (repeated("a", "b"), {"task": "regression"}, "60 of 60 values.*row 1 \\('a'\\)"),
    "mixed": (["x", *range(COUNT - 1)], {}, "row 1 \\('x'\\)"),
    "dates": (pd.date_range("2024", periods=COUNT).astype(str), {}, "holds dates"),
    "lists": ([[1]] * COUNT, {}, "lists"),
    "task": (repeated(0, 1), {"task": "classification"}, "'auto' or 'binary'"),
    "multiclass": (repeated(0, 1), {"task": "multiclass"}, "its task is binary"),
    "positive of three": (repeated(*"abc"), {"positive": "a"}, "3 classes; positive='a' is for two"),
    "positive of numbers": (NUMBERS, {"positive": "a"}, "is a number"),
}


@pytest.mark.parametrize("values, options, message", TARGETS.values(), ids=[*TARGETS])
def test_targets_that_are_refused(values, options, message):
    with pytest.raises(DataError, match=f"'y'.*{message}|task.*{message}"):
        infer_schema(table(y=values), "y", **options)


def test_more_than_a_hundred_classes():
    frame = pd.DataFrame({"x": np.arange(400) % 9, "y": [f"c{place % 101}" for place in range(400)]})
    with pytest.raises(DataError, match="101 classes, more than 100"):
        infer_schema(frame, "y")
    with pytest.raises(NotFoundError, match="no class 'Yes'; did you mean 'yes'"):
        infer_schema(table(), "y", positive="Yes")


def test_rows_without_a_target_are_left_out_and_rows_keep_their_numbers():
    frame = table(y=[None, "", "no", "yes"] * 15, x=[None, *repeated("1", "2", "3")[1:]])
    schema = infer_schema(frame, "y")
    assert (schema.rows, schema.target.missing, schema.target.note) == (30, 30, "30 rows without it left out")
    assert schema.column("x").missing == 0
    found = conform(frame, schema)
    assert found.index.tolist() == [*range(30)] and found["y"].tolist() == ["no", "yes"] * 15
    assert found["amount"].tolist() == [*NUMBERS.reshape(-1, 4)[:, 2:].ravel()]
    broken = frame.assign(x=["z", "z", "z", *["1"] * 57])
    with pytest.raises(DataError, match="1 of 30 values is no number: row 3 \\('z'\\)"):
        conform(broken, schema)


def test_conforming():
    frame = table(flag=repeated("Yes", "no", None), c=repeated("u", " v ", "?"), day=repeated("2024-04-03", None), key=range(COUNT))
    schema = infer_schema(frame, "y", key="key")
    found = conform(frame[frame.columns[::-1]].assign(extra=1).set_index(pd.Index(range(100, 100 + COUNT))), schema)
    assert found.columns.tolist() == ["amount", "y", "flag", "c", "day", "key"]
    assert found["c"].tolist()[:3] == ["u", "v", None] and found["c"].dtype == object
    np.testing.assert_array_equal(found["flag"][:3], [1, 0, np.nan])
    assert found["day"].dtype == "datetime64[us]" and found["key"].tolist() == [*range(COUNT)]
    pd.testing.assert_frame_equal(conform(found, schema), found)
    for wrong, message in [
        (frame.drop(columns=["c", "flag"]), "(?s)no column 'flag'.*no column 'c'"),
        (frame.assign(y="maybe"), "no class: row 1 \\('maybe'\\)"),
        (frame.assign(flag="perhaps"), "'flag'.*row 1"),
        (frame.assign(day="soon"), "'day'.*ISO8601"),
        (frame[:0], "no rows"),
    ]:
        with pytest.raises(DataError, match=message):
            conform(wrong, schema)


def test_records():
    schema = infer_schema(table(c=repeated("<b>", "&"), d=repeated("2024-04-03", "2024-04-04")), "y", time="d")
    assert Schema.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema
    html = schema._repr_html_()
    assert "<b>" not in html.replace("<tbody>", "") and "ISO8601" in html and "60 rows" in html
    with pytest.raises(NotFoundError, match="did you mean 'amount'"):
        schema.column("amuont")
    numbers = infer_schema(table(y=NUMBERS), "y")
    assert Schema.from_dict(json.loads(json.dumps(numbers.to_dict()))) == numbers and numbers.classes is None


WORDS = st.sampled_from(["red", "green", "Bangkok, Thailand", "ไทย", 'a"b', "01", "1.10", "x\ny"])
KINDS = {
    "number": st.floats(allow_nan=False, allow_infinity=False),
    "whole": st.integers(-(2**53), 2**53),
    "boolean": st.booleans(),
    "category": WORDS,
    "date": st.datetimes(dt.datetime(1700, 1, 1), dt.datetime(2250, 1, 1)),
    "day": st.dates(dt.date(1700, 1, 1), dt.date(2250, 1, 1)),
}


@st.composite
def typed_tables(draw):
    count = draw(st.integers(6, 20))
    columns = {}
    for place, kind in enumerate(draw(st.lists(st.sampled_from([*KINDS]), min_size=1, max_size=5))):
        gaps = draw(st.booleans())
        cell = st.none() | KINDS[kind] if gaps else KINDS[kind]
        columns[f"{kind}{place}"] = draw(st.lists(cell, min_size=count, max_size=count))
    labels = draw(st.sampled_from([["no", "yes"], [0, 1], [False, True], ["a", "b", "c"]]))
    frame = pd.DataFrame(
        {name: pd.Series(values, dtype="float64" if name.startswith("number") else None) for name, values in columns.items()}
    )
    return frame.assign(target=[labels[place % len(labels)] for place in range(count)])


@given(typed_tables())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_csv_parquet_and_typed_columns_are_one_table(tmp_path, frame):
    frame.to_csv(tmp_path / "table.csv", index=False)
    frame.to_parquet(tmp_path / "table.parquet")
    tables = [frame, read_data(tmp_path / "table.csv")[0], read_data(tmp_path / "table.parquet")[0]]
    outcomes = []
    for each in tables:
        try:
            schema = infer_schema(each, "target")
            outcomes.append((schema.to_dict(), conform(each, schema)))
        except DataError as error:
            outcomes.append((str(error).partition(": row ")[0].partition("such as")[0], None))
    for schema, found in outcomes[1:]:
        assert schema == outcomes[0][0]
        if found is not None:
            pd.testing.assert_frame_equal(found, outcomes[0][1])


@pytest.mark.public_table("telco_churn.csv")
def test_telephone_customers(public_tables):
    frame, source = read_data(public_tables / "telco_churn.csv")
    schema = infer_schema(frame, "Churn", key="customerID")
    assert (schema.task, schema.classes, schema.rows, source.separator) == ("binary", ("No", "Yes"), 7043, ",")
    assert (schema.column("TotalCharges").kind, schema.column("TotalCharges").missing) == ("number", 11)
    assert {each.kind for each in schema.features} == {"number", "boolean", "category"} and len(schema.features) == 19
    assert int(conform(frame, schema)["TotalCharges"].isna().sum()) == 11
    with pytest.raises(DataError, match="--key customerID"):
        infer_schema(frame, "Churn")


@pytest.mark.public_table("bike_sharing_hourly.csv")
def test_bicycles(public_tables):
    frame, _ = read_data(public_tables / "bike_sharing_hourly.csv")
    schema = infer_schema(frame, "cnt", time="dteday", exclude=("casual", "registered", "instant"))
    assert (schema.task, schema.time.kind, schema.time.distinct, len(schema.features)) == ("regression", "date", 731, 13)
    assert "row number" in infer_schema(frame, "cnt").column("instant").note


@pytest.mark.public_table("electricity.csv")
def test_electricity(public_tables):
    frame, _ = read_data(public_tables / "electricity.csv")
    schema = infer_schema(frame, "class")
    assert (schema.task, schema.classes, schema.rows) == ("binary", (0, 1), 45_312)
    assert all(each.kind == "number" for each in schema.features)


def test_codes_keep_their_zeros_and_one_odd_value_changes_nothing():
    assert kind_of(repeated("01067", "99999")).note == "digits with leading zeros: taken for codes"
    assert kind_of([f"{place / 7:.3f}" for place in range(COUNT - 1)] + ["00"]).kind == "number"


@pytest.mark.parametrize("name", ["target", "key"])
def test_a_column_named_prediction_is_refused(name):
    frame = table(x=range(COUNT)).rename(columns={"y": "prediction"} if name == "target" else {"x": "prediction"})
    with pytest.raises(DataError, match="rename the column"):
        infer_schema(frame, "prediction" if name == "target" else "y", key="prediction" if name == "key" else ())
