"Explanations: known truths come back, convergence is checked, memory is bounded, planted columns are found"
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mlops_nb import start_run
from mlops_nb.evaluation import attributions
from mlops_nb.evaluation.explain import attribute, explain_row, permutation_importance
from mlops_nb.settings import DataError, ModelError, NotFoundError
from mlops_nb.training.encoder import Encoder
from mlops_nb.training.models import load_model, log_model
from mlops_nb.training.signature import InputColumn, Signature, target_tensor, to_tensors

STREETS = tuple(f"street {each}" for each in range(30))
COLUMNS = (InputColumn("age", "number"), InputColumn("city", "category", vocabulary=("Lampang", "Phrae")),
           InputColumn("day", "date", format="ISO8601", parts=("month", "day")),
           InputColumn("street", "category", vocabulary=STREETS), InputColumn("noise", "number"))
TASKS = {"binary": ("leaves", ("No", "Yes")), "multiclass": ("level", ("low", "middle", "high")), "regression": ("pay", None)}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def table(rows=200, seed=0):
    rng = np.random.default_rng(seed)
    found = pd.DataFrame({"age": rng.normal(40, 9, rows), "city": rng.choice(["Lampang", "Phrae"], rows),
                          "day": pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 366, rows), "D"),
                          "street": rng.choice(STREETS, rows), "noise": rng.normal(size=rows)})
    found.loc[::10, "age"] = np.nan
    return found.assign(pay=found["age"].fillna(40) + 30 * (found["city"] == "Phrae"))


class Scorer(nn.Module):
    "A network for any task"
    def __init__(self, features, task, unit=nn.SiLU):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(features, 32), unit(), nn.Linear(32, 3 if task == "multiclass" else 1))
        self.task = task

    def forward(self, features):
        margin = self.layers(features)
        return margin, {"binary": margin.sigmoid(), "multiclass": margin.softmax(1), "regression": margin.clone()}[self.task]


def model_of(task, scorer=None, **options):
    "A stand-in for a loaded model, with the encoder that models have"
    target, classes = TASKS[task]
    signature = Signature(task, target, classes, (), COLUMNS)
    encoder = Encoder(signature, *to_tensors(table(), signature)).eval()
    scorer = scorer or Scorer(len(encoder.feature_columns), task, **options)
    return SimpleNamespace(task=task, classes=classes, signature=signature, encode=encoder, score=scorer,
                           feature_columns=encoder.feature_columns)


def features_of(model, rows):
    with torch.no_grad():
        return model.encode(*to_tensors(rows, model.signature)).double().numpy()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["binary", "regression"]))
def test_a_linear_model_comes_back(seed, task):
    model = model_of(task)
    weights = torch.from_numpy(np.random.default_rng(seed).normal(size=(len(model.feature_columns), 1)).astype(np.float32))
    model.score = lambda features: (features @ weights - 3, (features @ weights - 3).sigmoid())
    rows, others = table(17, seed=1), table(50, seed=2)
    found = attribute(model, rows, others)
    truth = weights[:, 0].double().numpy() * (features_of(model, rows) - features_of(model, others).mean(0))
    owners = np.array(model.feature_columns)
    for column, values in zip(found.columns, found.values.T):
        np.testing.assert_allclose(values, truth[:, owners == column].sum(1), atol=1e-4)
    assert found.converged and (found.steps == 64).all() and found.values.dtype == np.float64


def test_an_ignored_column_gets_nothing_and_each_column_one_value():
    model = model_of("binary")
    ignored = torch.tensor([name in ("noise", "day") for name in model.feature_columns])
    with torch.no_grad():
        model.score.layers[0].weight[:, ignored] = 0
    found = attribute(model, table(), table())
    assert found.columns == ("age", "city", "day", "street", "noise") and found.values.shape == (200, 5)
    assert (found.values[:, [2, 4]] == 0).all() and (found.values[:, [0, 1, 3]] != 0).any(0).all()
    assert list(found.importance.index)[-2:] == ["day", "noise"] and found.importance.is_monotonic_decreasing


@pytest.mark.parametrize("unit", [nn.SiLU, nn.ReLU])
@pytest.mark.parametrize("task", TASKS)
def test_deltas_are_under_one_percent_of_the_difference(task, unit):
    found = attribute(model_of(task, unit=unit), table(300, seed=1), table())
    assert found.converged and found.worst_relative_delta <= 0.01
    large = abs(found.differences) > 0.01 * abs(found.values).sum(1)
    assert large.mean() > 0.95 and (abs(found.deltas[large]) <= 0.01 * abs(found.differences[large])).all()
    np.testing.assert_allclose(found.values.sum(1), found.differences + found.deltas)


def test_only_rows_that_need_them_take_more_steps():
    kinked = model_of("regression", lambda features: ((margin := (features[:, :1] - 0.3).relu()), margin))
    rough, fine = (attribute(kinked, table(), table(), steps=2, most_steps=most) for most in (2, 8192))
    assert not rough.converged and set(rough.steps) == {2}
    assert fine.converged and fine.steps.min() == 2 < fine.steps.max() <= 8192
    done = fine.steps == 2
    np.testing.assert_allclose(fine.values[done], rough.values[done])
    assert (rough.relative_deltas[~done] > 0.01).all()


def test_a_row_like_the_reference():
    model, rows = model_of("binary"), table(20)
    found = attribute(model, rows, rows.iloc[[3]])
    assert (found.values[3] == 0).all() and found.converged and (found.steps == 64).all()
    nothing = model_of("binary", lambda features: (features[:, :1] * 0, features[:, :1] * 0 + 0.5))
    assert attribute(nothing, rows, table()).worst_relative_delta == 0


def test_columns_that_speak_against_each_other():
    "The difference is almost zero; what was said is not"
    found = attributions.Attribution(("a", "b"), np.array([[5.0, -4.999], [5.0, -4.9], [2.0, 2.0]]), np.array([1.0, 1.0, 5.1]), np.ones(3),
                                     np.array([64, 64, 64]), "reference", "unit")
    np.testing.assert_allclose(found.deltas, [0.001, 0.1, -0.1])
    np.testing.assert_allclose(found.relative_deltas, [0.001 / 0.09999, 0.1 / 0.099, 0.1 / 4.1])
    assert not found.converged


def test_what_float32_cannot_tell_apart_is_no_delta():
    found = attributions.Attribution(("a",), np.array([[0.0]]), np.array([1000.0001]), np.array([1000.0]), np.array([64]),
                                     "reference", "unit")
    assert found.converged


def test_classes_are_compared_with_their_average():
    model = model_of("multiclass")
    rows = table(40, seed=1)
    each = [attribute(model, rows, table(), class_index=index) for index in range(3)]
    np.testing.assert_allclose(sum(one.values for one in each), 0, atol=1e-5)
    predicted = attribute(model, rows, table())
    with torch.no_grad():
        chosen = model.score(model.encode(*to_tensors(rows, model.signature)))[0].argmax(1).numpy()
    assert list(predicted.classes) == [model.classes[index] for index in chosen]
    np.testing.assert_allclose(predicted.values, np.stack([one.values for one in each])[chosen, np.arange(40)], atol=1e-5)
    assert set(each[2].classes) == {"high"}
    shifted = SimpleNamespace(**vars(model) | {"score": lambda features: (model.score(features)[0] + features[:, :1] * 9, None)})
    np.testing.assert_allclose(attribute(shifted, rows, table()).values, predicted.values, atol=1e-4)


def test_units():
    rows = table(5)
    assert attribute(model_of("binary"), rows, rows).unit == "log-odds of Yes"
    assert attribute(model_of("multiclass"), rows, rows).unit == "log-odds of the predicted class against the average class"
    assert attribute(model_of("multiclass"), rows, rows, class_index=0).unit == "log-odds of low against the average class"
    found = attribute(model_of("regression"), rows, table())
    assert (found.unit, found.reference) == ("pay", "mean of 200 encoded reference rows")
    linked = model_of("regression", lambda features: (features[:, :1], features[:, :1].exp()))
    assert attribute(linked, rows, rows).unit == "log of pay"
    linked = model_of("regression", lambda features: (features[:, :1], features[:, :1] ** 3))
    assert attribute(linked, rows, rows).unit == "pay, before the model's link"


def test_few_points_are_held_at_a_time(monkeypatch):
    seen = []
    def score(features):
        seen.append(features.numel())
        return features.sum(1, keepdim=True).tanh(), None
    model = model_of("binary", score)
    whole = attribute(model, table(600, seed=1), table())
    assert max(seen) <= attributions._CELLS
    monkeypatch.setattr(attributions, "_CELLS", 50 * len(model.feature_columns))
    monkeypatch.setattr(attributions, "_ROWS", 50)
    seen.clear()
    parts = attribute(model, table(600, seed=1), table())
    assert max(seen) <= attributions._CELLS
    np.testing.assert_allclose(parts.values, whole.values, atol=1e-5)
    np.testing.assert_allclose(parts.differences, whole.differences, atol=1e-6)


@pytest.mark.parametrize(("options", "message"), [
    ({"table": table(0)}, "the table has no rows"), ({"reference_table": table(0)}, "the reference table has no rows"),
    ({"steps": 0}, "steps = 0; allowed is a number from 1"), ({"steps": 9000}, "most_steps = 8192"),
    ({"class_index": 1}, "class_index = 1, and the task is binary"),
    ({"table": table().drop(columns="age")}, "lacks 1 of the model's 5 columns"),
])
def test_refused(options, message):
    with pytest.raises(DataError, match=message):
        attribute(**{"model": model_of("binary"), "table": table(), "reference_table": table()} | options)


def test_refused_class():
    with pytest.raises(DataError, match="class_index = 3; allowed is a number from 0 to 2"):
        attribute(model_of("multiclass"), table(), table(), class_index=3)


def test_a_model_that_jumps_is_given_up_soon():
    "A gradient of zero, but for the jump, which no step sees"
    jumps = model_of("regression", lambda features: ((margin := (features[:, :1] > 0).float() + 0 * features[:, :1]), margin))
    found = attribute(jumps, table(100, seed=1), table())
    assert not found.converged and found.steps.max() == 128 and (found.values == 0).all()


def test_a_model_without_a_gradient():
    steps = model_of("regression", lambda features: ((margin := (features[:, :1] > 0).float()), margin))
    with pytest.raises(ModelError, match="no gradient.*permutation_importance needs none"):
        attribute(steps, table(), table())
    rows = table()
    truth = (features_of(steps, rows)[:, 0] > 0) + np.arange(200) / 1000
    assert permutation_importance(steps, rows, truth)["column"][0] == "age"


def test_one_row():
    model, rows = model_of("binary"), table(30, seed=1)
    rows.index = range(100, 130)
    found = attribute(model, rows, table())
    whole, short = explain_row(found, rows, row=4), explain_row(found, rows, row=4, most=2)
    assert whole["contribution"].sum() == pytest.approx(short["contribution"].sum()) == pytest.approx(found.values[4].sum())
    assert abs(whole["contribution"]).is_monotonic_decreasing and len(whole) == 5
    assert list(short["column"]) == [*whole["column"][:2], "3 other columns"]
    assert dict(zip(whole["column"], whole["value"]))["street"] == rows["street"].iloc[4]
    signs = {"for": 1, "against": -1, "": 0}
    assert [signs[each] for each in whole["speaks"]] == list(np.sign(whole["contribution"]))
    assert len(explain_row(found, rows, row=4, most=9)) == 5
    with pytest.raises(DataError, match="row = 30; allowed is a position from 0 to 29"):
        explain_row(found, rows, row=30)
    with pytest.raises(DataError, match="the table has 5 rows and the attribution 30"):
        explain_row(found, rows.head())


def test_the_planted_column_is_found():
    rows = table(500)
    planted = model_of("regression", lambda features: (None, 7 * features[:, :1]))
    truth = 7 * features_of(planted, rows)[:, 0]
    found = permutation_importance(planted, rows, truth)
    assert list(found.columns) == ["column", "importance", "lower", "upper"]
    assert found["column"][0] == "age" and found["importance"][0] > 1.5
    assert (found.loc[1:, ["importance", "lower", "upper"]] == 0).all(axis=None)
    assert (found["lower"] <= found["importance"]).all() and (found["importance"] <= found["upper"]).all()
    pd.testing.assert_frame_equal(found, permutation_importance(planted, rows, truth))
    errors = permutation_importance(planted, rows, truth, metric="mae")
    assert errors["column"][0] == "age" and errors["importance"][0] > 5


def test_the_inputs_of_a_column_move_together():
    "Few pairs of month and day are among these dates, so this model breaks where they are torn apart"
    model, rows = model_of("binary"), table(100)
    days = {tuple(each) for each in to_tensors(rows, model.signature).x_num[:, 1:3].tolist()}
    def encode(x_num, x_cat):
        known = [float(tuple(each) in days) for each in x_num[:, 1:3].tolist()]
        return torch.stack([torch.tensor(known), (x_cat[:, 0] == 2).float()], dim=1)
    model.encode, model.feature_columns = encode, ("day", "city")
    model.score = lambda features: (None, features[:, :1] * (0.2 + 0.6 * features[:, 1:]))
    found = permutation_importance(model, rows, rows["city"] == "Phrae").set_index("column")["importance"]
    assert found["city"] > 0.4 and (found.drop("city") == 0).all()


def test_a_date_counts_by_its_parts():
    rows = table()
    months = model_of("regression", lambda features: (None, features[:, 1:2]))
    assert months.feature_columns[:3] == ("age", "day", "day")
    found = permutation_importance(months, rows, features_of(months, rows)[:, 1])
    assert found["column"][0] == "day" and found["importance"][0] > 1.5


def test_long_tables_are_sampled(monkeypatch):
    seen = []
    model = model_of("regression", lambda features: (seen.append(len(features)), features[:, :1]))
    truth = features_of(model, table(300))[:, 0]
    assert permutation_importance(model, table(300), truth, repeats=1, most_rows=100)["column"][0] == "age"
    assert set(seen) == {100}


def test_importance_refuses():
    model = model_of("binary")
    with pytest.raises(NotFoundError, match="no metric of a binary task 'r2'"):
        permutation_importance(model, table(), np.arange(200) % 2, metric="r2")
    with pytest.raises(DataError, match="the table has 200 rows and the truth 3"):
        permutation_importance(model, table(), [0, 1, 1])
    with pytest.raises(DataError, match="repeats = 0"):
        permutation_importance(model, table(), np.arange(200) % 2, repeats=0)


def test_a_loaded_model_is_explained_without_its_code(tmp_path):
    made = model_of("binary")
    with start_run(workspace=tmp_path) as run:
        log_model(run, "leavers", made.encode, made.score, made.signature)
        (tmp_path / "model.bin").write_bytes(b"of another library")
        run.log_artifact(tmp_path / "model.bin", name="other", type="model")
    loaded, rows = load_model("leavers", workspace=tmp_path), table(30, seed=1)
    found, expected = attribute(loaded, rows, table()), attribute(made, rows, table())
    np.testing.assert_allclose(found.values, expected.values, atol=1e-5)
    assert found.converged
    np.testing.assert_allclose(found.margins, loaded.margins(rows)[:, 0], atol=1e-6)
    truth = target_tensor(rows.assign(leaves=np.where(rows["pay"] > 50, "Yes", "No")), loaded.signature).numpy()
    assert len(permutation_importance(loaded, rows, truth)) == 5
    files = load_model("other", workspace=tmp_path)
    with pytest.raises(ModelError, match="cannot encode"):
        attribute(files, rows, rows)
    with pytest.raises(ModelError, match="cannot encode"):
        permutation_importance(files, rows, truth)
