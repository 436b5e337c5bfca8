"""The one way from a table to tensors: what is learned from the training rows, and what any later table becomes."""

import json
from datetime import date
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
import torch

from mlops_nb.data.schema import Column, Schema, conform, infer_schema
from mlops_nb.settings import DataError
from mlops_nb.training.signature import InputColumn, Signature, fit_signature, target_tensor, to_frame, to_tensors

SIGNATURE = Signature("binary", "churn", ("No", "Yes"), ("id",), (
    InputColumn("tenure", "number"), InputColumn("paperless", "boolean"),
    InputColumn("contract", "category", vocabulary=("1", "Two year"), missing=True),
    InputColumn("since", "date", format="%d/%m/%Y", parts=("month", "weekday"))))


def table(**changes):
    return pd.DataFrame({"tenure": ["1", "", "72.5"], "paperless": ["Yes", "no", None], "contract": ["Two year", "1", ""],
                         "since": ["01/02/2024", "", "31/12/2023"], "id": ["a", "b", "c"], **changes})


def equal(first, second):
    return all(torch.equal(torch.nan_to_num(a, -77), torch.nan_to_num(b, -77)) for a, b in zip(first, second))


def test_names():
    assert SIGNATURE.numbers == ("tenure", "paperless", "since.month", "since.weekday")
    assert SIGNATURE.number_columns == ("tenure", "paperless", "since", "since")
    assert (SIGNATURE.codes, SIGNATURE.sizes, SIGNATURE.outputs) == (("contract",), (4,), ("prediction", "probability_Yes"))
    three = Signature("multiclass", "y", (0, 1, 2), (), ())
    assert three.outputs == ("prediction", "probability_0", "probability_1", "probability_2")
    assert Signature("regression", "y", None, (), ()).outputs == ("prediction",)


def test_json():
    assert Signature.from_dict(json.loads(json.dumps(SIGNATURE.to_dict()))) == SIGNATURE


def test_values():
    x_num, x_cat = to_tensors(table(), SIGNATURE)
    nan = float("nan")
    expected = [[1, 1, 2, 3], [nan, 0, nan, nan], [72.5, nan, 12, 6]]
    np.testing.assert_array_equal(x_num.numpy(), np.array(expected, dtype=np.float32))
    assert x_cat.tolist() == [[2], [1], [3]]
    assert (x_num.dtype, x_cat.dtype) == (torch.float32, torch.int64)


@pytest.mark.parametrize("other", [
    table().iloc[:, ::-1], table(extra=[object()] * 3), table().set_index("id"), table().to_dict("list"), table().to_dict("records"),
    table().set_index(pd.Index([7, 7, 7])), table().astype("category"), table().astype("string"),
    table(tenure=[1, None, 72.5], paperless=[True, False, None], contract=["Two year", 1, None],
          since=pd.to_datetime(["2024-02-01", None, "2023-12-31"])),
    table(tenure=[Decimal(1), None, Decimal("72.5")], paperless=pd.array([1, 0, None], dtype="Int8"),
          since=[date(2024, 2, 1), None, date(2023, 12, 31)]),
    table(tenure=pd.array([1, None, 72.5], dtype="float64[pyarrow]"), contract=pd.Categorical(["Two year", "1", None])),
    table(contract=["Two year", 1.0, float("nan")]), tuple(table().to_dict("records"))])
def test_other_forms_of_the_same_table(other):
    assert equal(to_tensors(other, SIGNATURE), to_tensors(table(), SIGNATURE))


def test_unknown_and_missing_categories():
    codes = to_tensors(table(contract=["One year", "two year", None]), SIGNATURE).x_cat
    assert codes.tolist() == [[0], [0], [3]]
    plain = Signature("binary", "y", (0, 1), (), (InputColumn("contract", "category", vocabulary=("1",)),))
    assert to_tensors(table(contract=["1", None, "x"]), plain).x_cat.tolist() == [[1], [0], [0]]


@pytest.mark.parametrize("empty", [table().iloc[:0], [], {name: [] for name in table()}, {}])
def test_empty_tables(empty):
    assert [tuple(each.shape) for each in to_tensors(empty, SIGNATURE)] == [(0, 4), (0, 1)]


def test_records_that_lack_a_value():
    records = table().to_dict("records")
    del records[1]["tenure"]
    assert equal(to_tensors(records, SIGNATURE), to_tensors(table(), SIGNATURE))


def test_whole_numbers_stay_whole_beside_missing_ones():
    frame = to_frame([{**each, "id": key} for each, key in zip(table().to_dict("records"), (2**60 + 1, None, 3))], SIGNATURE)
    assert frame["id"].tolist()[0] == 2**60 + 1


@pytest.mark.parametrize("wrong, message", [
    (table().drop(columns=["tenure", "since"]), "lacks 2 of the model's 4 columns: 'tenure'.*'since'"),
    (table().rename(columns={"contract": "Contract"}), "'contract' \\(did you mean 'Contract'"),
    (table(tenure=["1", "two", "3"]), "'tenure'.* no number: row 2 \\('two'\\)"),
    (table(tenure=["1", "2", "-inf"]), "'tenure'.* infinite: row 3"),
    (table(tenure=[1e39, 1, 2]), "'tenure'.* too large for 32 bits: row 1 "),
    (table(tenure=pd.to_datetime(["2024-01-01"] * 3)), "'tenure'.* no number: row 1"),
    (table(paperless=["Yes", "maybe", "No"]), "'paperless'.* row 2 \\('maybe'\\)"),
    (table(since=["2024-02-01", "", "31/12/2023"]), "'since'.* of the form %d/%m/%Y: row 1"),
    (table(contract=[["a"], "b", "c"]), "'contract' holds lists"),
    (table(contract=pd.to_datetime(["2024-01-01"] * 3)), "'contract' holds datetime64.*, and the model knows texts such as"),
    (pd.concat([table(), table()[["tenure"]]], axis=1), "more than one column 'tenure'"),
    (pd.concat([table(), table()[["id"]]], axis=1), "more than one column 'id'"),
    ("table.csv", "not str 'table.csv'"), (table()["tenure"], "not Series"), (None, "not NoneType"), ([1, 2], "not list"),
    ({"tenure": 1}, "give each a list"), ({"tenure": [1], "contract": [1, 2]}, "do not make a table"), ([{}], "lacks 4 of"),
])
def test_bad_input(wrong, message):
    with pytest.raises(DataError, match=message):
        to_tensors(wrong, SIGNATURE)


def test_rows_are_counted_from_the_first_row_of_the_whole_table():
    with pytest.raises(DataError, match="row 102 \\('two'\\)"):
        to_tensors(table(tenure=["1", "two", "3"]), SIGNATURE, first_row=101)
    many = {"tenure": ["?!"] * 20, **{name: [""] * 20 for name in ("paperless", "contract", "since")}}
    with pytest.raises(DataError, match="row 5 .* and 15 more"):
        to_tensors(many, SIGNATURE)


def fit(columns: dict, min_count=2, **roles):
    frame = pd.DataFrame({**columns, "y": ([0.0, 1.0, 2.0] * 10)[:len(next(iter(columns.values())))]})
    kinds = {"f": "number", "O": "category", "M": "date"}
    schema = Schema(tuple(Column(name, "number" if name == "y" else kinds[frame[name].dtype.kind], "target" if name == "y" else
                                 roles.get(name, "feature")) for name in frame), "regression", None, len(frame))
    return fit_signature(frame, schema, min_count)


def objects(*values):
    return pd.Series(values, dtype=object)


def test_rare_categories_become_unknown():
    fitted = fit({"a": objects("x", "x", "b", "b", "rare", None)})
    assert fitted.columns == (InputColumn("a", "category", vocabulary=("b", "x")),)
    assert fit({"a": objects("x", "x", None, None)}).columns[0].missing
    assert fit({"a": objects("x", "y", "z", "z")}).columns[0].vocabulary == ("z",)


@pytest.mark.parametrize("constant", [
    pd.Series([7.0] * 4), pd.Series([np.nan] * 4), objects("x", "x", "x", "x"), objects(*[None] * 4), objects("a", "b", "c", "d"),
    pd.Series(pd.to_datetime(["2024-01-01"] * 4)), pd.Series([1e9, 1e9 + 1, 1e9, 1e9 + 1])])  # the last in float32
def test_columns_that_do_not_vary_are_left_out(constant):
    assert [each.name for each in fit({"a": constant, "b": pd.Series([1.0, 2, 3, 4])}).columns] == ["b"]
    with pytest.raises(DataError, match="none of the 1 features varies in the 4 training rows"):
        fit({"a": constant})


def test_a_number_that_is_missing_or_one_value_varies():
    assert fit({"a": pd.Series([7.0, np.nan, 7.0])}).numbers == ("a",)


def test_date_parts_that_vary():
    dates = pd.Series(pd.to_datetime(["2024-01-31", "2024-02-29", None]))
    assert fit({"a": dates}).numbers == ("a.month", "a.day", "a.weekday", "a.day_of_year")


@pytest.mark.parametrize("name, task, classes", [("prediction", "regression", None), ("probability_b", "binary", ("a", "b")),
                                                 ("probability_2", "multiclass", (1, 2, 3))])
def test_keys_named_like_outputs(name, task, classes):
    columns = (Column(name, "", "key"), Column("x", "number"), Column("y", "number", "target"))
    frame = pd.DataFrame({name: [1, 2, 3], "x": [1.0, 2, 3], "y": [0.0, 1, 2]})
    with pytest.raises(DataError, match=f"key column '{name}' has the name of a column that predictions have"):
        fit_signature(frame, Schema(columns, task, classes, 3))


def test_numpy_classes_become_json():
    columns = (Column("x", "number"), Column("y", "category", "target"))
    frame = pd.DataFrame({"x": [1.0, 2, 3], "y": ["0", "1", "1"]})
    signature = fit_signature(frame, Schema(columns, "binary", (np.int64(0), np.int64(1)), 3))
    assert json.loads(json.dumps(signature.to_dict()))["classes"] == [0, 1]


@pytest.mark.parametrize("labels, task", [(["no", "yes", "Yes", "no "], "binary"), ([True, False, True, True], "binary"),
                                          ([0, 1, 2, 2], "multiclass"), ([0.5, 1.25, 7, 8], "regression")])
def test_targets(labels, task):
    frame = pd.DataFrame({"x": range(40), "y": [*labels] * 10})
    frame["y"] = frame["y"].replace({"Yes": "yes", "no ": "no"}) if task == "binary" else frame["y"]
    schema = infer_schema(frame, "y", task=task)
    conformed = conform(frame, schema)
    signature = fit_signature(conformed, schema)
    target = target_tensor(conformed, signature)
    assert target.dtype == (torch.int64 if task == "multiclass" else torch.float32)
    shown = [signature.classes[int(each)] for each in target] if task != "regression" else target.tolist()
    assert shown == frame["y"].tolist()
    assert torch.equal(target_tensor(frame.astype(str), signature), target)


def test_targets_that_do_not_fit():
    with pytest.raises(DataError, match="'churn': row 2 \\('Perhaps'\\), row 3 \\(None\\); allowed is one of 'No', 'Yes'"):
        target_tensor(pd.DataFrame({"churn": ["No", "Perhaps", None]}, dtype=object), SIGNATURE)
    regression = Signature("regression", "y", None, (), ())
    with pytest.raises(DataError, match="'y': row 2 .*allowed is a number"):
        target_tensor(pd.DataFrame({"y": ["1", ""]}), regression)
    with pytest.raises(DataError, match="'y'.* infinite: row 1"):
        target_tensor(pd.DataFrame({"y": [np.inf]}), regression)
    with pytest.raises(DataError, match="lacks 1 of"):
        target_tensor(pd.DataFrame({"x": [1]}), regression)


@pytest.mark.parametrize("values", [[1.5, 2.0], [1, 2], [True, False]])
def test_numbers_are_no_texts(values):
    plain = Signature("binary", "y", (0, 1), (), (InputColumn("contract", "category", vocabulary=("One year", "Two year")),))
    with pytest.raises(DataError, match="'contract' holds .*, and the model knows texts such as One year, Two year"):
        to_tensors(pd.DataFrame({"contract": values}), plain)
