"Baselines: the form of their outputs, the same inputs as the model's, and tables of every kind"
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression

from mlops_nb.evaluation.baselines import fit_baselines
from mlops_nb.evaluation.metrics import bootstrap, evaluate
from mlops_nb.settings import DataError
from mlops_nb.training.signature import InputColumn, Signature, target_tensor

AGE, CITY = InputColumn("age", "number"), InputColumn("city", "category", vocabulary=("Lampang", "Phrae"))
DAY = InputColumn("day", "date", format="ISO8601", parts=("month", "weekday"))


def table(rows=300, seed=0):
    rng = np.random.default_rng(seed)
    found = pd.DataFrame({"age": rng.normal(40, 9, rows), "city": rng.choice(["Lampang", "Phrae", "Tak"], rows),
                          "day": pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 366, rows), "D")})
    found["pay"] = 3 * found["age"] + 20 * (found["city"] == "Phrae") + rng.normal(size=rows)
    found["leaves"] = np.where(found["pay"] > 130, "Yes", "No")
    found["level"] = np.digitize(found["pay"], [110, 140]).astype(str)
    return found


def signature(task, columns=(AGE, CITY, DAY)):
    target, classes = {"binary": ("leaves", ("No", "Yes")), "multiclass": ("level", ("0", "1", "2")), "regression": ("pay", None)}[task]
    return Signature(task, target, classes, (), columns)


@pytest.mark.parametrize(("task", "names", "width"), [("binary", ["majority", "linear"], 1), ("multiclass", ["majority", "linear"], 3),
                                                      ("regression", ["mean", "linear"], 1)])
def test_outputs_are_what_metrics_take(task, names, width):
    train, test = table(), table(120, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("error", RuntimeWarning)
        warnings.simplefilter("error", FutureWarning)
        simple, linear = fit_baselines(train, test, signature(task))
    truth = target_tensor(test, signature(task)).numpy()
    assert [simple.name, linear.name] == names and linear.description
    assert simple.outputs.shape == linear.outputs.shape == (120, width)
    assert (simple.outputs == simple.outputs[0]).all()
    assert bootstrap(task, truth, simple.outputs, resamples=5)
    [name] = {"regression": ["r2"]}.get(task, ["roc_auc"])
    assert evaluate(task, truth, linear.outputs)[name] > 0.95 > 0.51 > evaluate(task, truth, simple.outputs)[name]


def test_the_simple_one_knows_the_training_rows_alone():
    train, test = table(), table(120, seed=1)
    assert fit_baselines(train, test, signature("binary"))[0].outputs[0, 0] == pytest.approx((train["leaves"] == "Yes").mean())
    assert fit_baselines(train, test, signature("regression"))[0].outputs[0, 0] == pytest.approx(train["pay"].mean())


def test_the_linear_one_is_a_line():
    train, test = table(), table(50, seed=1)
    expected = LinearRegression().fit(train[["age"]], train["pay"]).predict(test[["age"]])
    found = fit_baselines(train, test, signature("regression", (AGE,)))[1].outputs[:, 0]
    np.testing.assert_allclose(found, expected, rtol=0.01)


def test_missing_and_unseen_values():
    train, test = table(), table(50, seed=1)
    train.loc[::3, "age"] = np.nan
    train.loc[::5, "city"] = None
    test.loc[::2, "age"], test.loc[::2, "city"], test.loc[1, "day"] = np.nan, "Bangkok", pd.NaT
    for task in ("binary", "multiclass", "regression"):
        for baseline in fit_baselines(train, test, signature(task)):
            assert np.isfinite(baseline.outputs).all()


@pytest.mark.parametrize("columns", [(AGE,), (CITY,), (DAY,)])
def test_columns_of_one_kind(columns):
    for task in ("binary", "multiclass", "regression"):
        assert len(fit_baselines(table(), table(7, seed=1), signature(task, columns))[1].outputs) == 7


def test_a_column_without_any_value_in_training():
    train = table().assign(age=np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("error", RuntimeWarning)
        warnings.simplefilter("error", FutureWarning)
        assert np.isfinite(fit_baselines(train, table(9), signature("binary"))[1].outputs).all()


def test_many_categories_stay_sparse():
    rng = np.random.default_rng(0)
    names = [f"street {each}" for each in range(900)]
    train = table(2000).assign(street=rng.choice(names, 2000))
    columns = (AGE, InputColumn("street", "category", vocabulary=tuple(names)))
    assert fit_baselines(train, train, signature("binary", columns))[1].outputs.shape == (2000, 1)


def test_a_class_that_training_lacks_has_no_probability():
    train = table()
    found = fit_baselines(train[train["level"] != "1"], table(20, seed=1), signature("multiclass"))
    for baseline in found:
        assert (baseline.outputs[:, 1] == 0).all()
        np.testing.assert_allclose(baseline.outputs.sum(1), 1)


def test_texts_and_types_give_the_same():
    train, test = table(), table(50, seed=1)
    ours = fit_baselines(train, test, signature("binary"))
    theirs = fit_baselines(train.astype(str), test.astype(str)[["city", "day", "age"]], signature("binary"))
    for one, other in zip(ours, theirs):
        np.testing.assert_allclose(one.outputs, other.outputs, rtol=1e-6)


def test_refused():
    train = table()
    with pytest.raises(DataError, match="all training rows are of class 'Yes'"):
        fit_baselines(train[train["leaves"] == "Yes"], train, signature("binary"))
    with pytest.raises(DataError, match="the training table has no rows"):
        fit_baselines(train[:0], train, signature("binary"))
    with pytest.raises(DataError, match="lacks 1 of the model's 3 columns: 'age'"):
        fit_baselines(train, train.drop(columns="age"), signature("binary"))
