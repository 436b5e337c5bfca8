"""Trees as tensors: the same decisions as scikit-learn's, on random tables and on those that are made to mislead."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from mlops_nb.settings import DataError
from mlops_nb.training.families import FAMILIES, fit_family
from mlops_nb.training.signature import InputColumn, Signature
from mlops_nb.training.tree_encoder import TreeEncoder, TreeTable
from mlops_nb.training.trees import Trees, round_down

TASKS = ("binary", "multiclass", "regression", "poisson")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def grown(task, codes=2, rows=600, seed=0, holes=0.1, **options):
    "A table with codes in front and numbers with holes behind, and trees of it"
    random = np.random.default_rng(seed)
    table = np.column_stack([*random.integers(0, 12, (codes, rows)), *random.normal(size=(3, rows)).round(1)]).astype(np.float32)
    signal = np.nan_to_num(table[:, codes]) + np.sin(table[:, 0] * 5) + 0.3 * random.normal(size=rows)
    table[:, codes:][random.random((rows, 3)) < holes] = np.nan
    target = {"binary": signal > 0, "multiclass": np.digitize(signal, [-0.7, 0.7]), "regression": signal, "poisson": np.exp(signal)}[task]
    options = {"max_iter": 25, "max_depth": 7, "random_state": 0, "categorical_features": list(range(codes)) or None} | options
    if task in ("binary", "multiclass"):
        return table, HistGradientBoostingClassifier(**options).fit(table, target)
    return table, HistGradientBoostingRegressor(loss="poisson" if task == "poisson" else "squared_error", **options).fit(table, target)


def margins(estimator, table):
    "As scikit-learn gives them, before any link"
    return np.asarray(estimator._raw_predict(table.astype(np.float64)))


def assert_same(estimator, table):
    ours, theirs = Trees(estimator)(torch.from_numpy(table)).numpy(), margins(estimator, table)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    if theirs.shape[1] > 1:
        assert (ours.argmax(1) == theirs.argmax(1)).all()


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("codes", [0, 2])
def test_training_rows(task, codes):
    table, estimator = grown(task, codes)
    assert_same(estimator, table)


@pytest.mark.parametrize("task", TASKS)
def test_values_on_and_beside_every_threshold(task):
    table, estimator = grown(task)
    forest, random = Trees(estimator), np.random.default_rng(1)
    cuts = np.unique(forest.threshold[torch.isfinite(forest.threshold)].numpy())
    edges = random.choice(cuts, (3000, table.shape[1]))
    step = random.integers(-1, 2, edges.shape)
    moved = np.where(step > 0, np.nextafter(edges, np.float32(np.inf)), np.where(step < 0, np.nextafter(edges, np.float32(-np.inf)), edges))
    moved[:, :2] = random.integers(0, 12, (3000, 2))
    assert_same(estimator, moved.astype(np.float32))


@pytest.mark.parametrize("task", TASKS)
def test_missing_and_foreign_codes(task):
    table, estimator = grown(task)
    asked = np.repeat(table[:40], 6, axis=0)
    asked[:, 0] = np.tile([0, 11, 12, 500, -1, np.nan], 40)
    assert_same(estimator, asked)
    assert_same(estimator, np.full((3, table.shape[1]), np.nan, dtype=np.float32))
    far = table[:3].copy()
    far[:, 2:] = np.array([[np.inf], [-np.inf], [3e38]])  # codes are never infinite, and scikit-learn refuses them
    assert_same(estimator, far)


def test_no_holes_in_training_and_holes_later():
    table, estimator = grown("binary", holes=0.0)
    table[::3, 3] = np.nan
    assert_same(estimator, table)


def test_codes_with_gaps_and_a_stump_without_a_split():
    table, _ = grown("regression")
    table[:, 0] *= 7
    estimator = HistGradientBoostingRegressor(max_iter=10, categorical_features=[0, 1]).fit(table, np.nan_to_num(table[:, 2]))
    assert_same(estimator, table)
    assert_same(HistGradientBoostingRegressor(max_iter=3).fit(table[:, 2:], np.ones(len(table))), table[:, 2:])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), leaves=st.integers(2, 40), task=st.sampled_from(TASKS))
def test_any_forest(seed, leaves, task):
    table, estimator = grown(task, rows=200, seed=seed, max_iter=4, max_leaf_nodes=leaves, min_samples_leaf=3, max_depth=None)
    assert_same(estimator, table)


@given(st.lists(st.floats(allow_nan=False, width=64), min_size=1, max_size=20), st.floats(allow_nan=False, width=32))
def test_rounded_thresholds_decide_alike(thresholds, value):
    thresholds, value = np.array(thresholds), np.float32(value)
    assert ((value <= round_down(thresholds)) == (np.float64(value) <= thresholds)).all()


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_table_of_features_is_the_table(seed):
    random = np.random.default_rng(seed)
    sizes = random.integers(1, 9, 3)
    columns = (InputColumn("a", "number"), InputColumn("b", "number"),
               *(InputColumn(f"c{place}", "category", vocabulary=tuple("ABCDEFGHI"[:size])) for place, size in enumerate(sizes)))
    x_num = torch.from_numpy(random.normal(size=(50, 2)).astype(np.float32))
    x_num[torch.from_numpy(random.random((50, 2)) < 0.2)] = float("nan")
    x_cat = torch.from_numpy(np.column_stack([random.integers(0, size + 1, 50) for size in sizes]))
    encoder = TreeEncoder(Signature("binary", "y", ("no", "yes"), (), columns), x_num, x_cat)
    features = encoder(x_num, x_cat)
    assert torch.isfinite(features).all() and features.shape[1] == len(encoder.feature_columns)
    np.testing.assert_equal(TreeTable(encoder)(features).numpy(), torch.cat([x_cat.float(), x_num], dim=1).numpy())


def small_table(task, rows=240):
    from mlops_nb.data.schema import conform, infer_schema
    import pandas as pd

    random = np.random.default_rng(0)
    frame = pd.DataFrame({"size": random.normal(size=rows), "town": random.choice(["Bern", "Uri", "Zug"], rows)})
    signal = frame["size"] + (frame.town == "Zug") + 0.3 * random.normal(size=rows)
    frame.loc[random.random(rows) < 0.1, "size"] = np.nan
    frame["target"] = {"binary": np.where(signal > 0, "yes", "no"), "multiclass": np.digitize(signal, [-0.5, 0.8]).astype(str),
                       "regression": signal}[task]
    schema = infer_schema(frame, "target", task=task)
    return conform(frame, schema), schema


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_a_model_that_loads(tmp_path, monkeypatch, family, task):
    from mlops_nb import load_model, start_run
    from mlops_nb.training.models import log_model

    monkeypatch.setenv("MLOPS_NB_WORKSPACE", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    table, schema = small_table(task)
    fitted = fit_family(family, table[:160], schema, {"min_count": 1}, validation=table[160:200])
    with start_run(workspace=tmp_path) as run:
        logged = log_model(run, "small", fitted.encoder, fitted.scorer, fitted.signature)
    outputs = fitted.outputs(table[200:])
    np.testing.assert_allclose(load_model(logged, tmp_path).outputs(table[200:]), outputs, atol=1e-5)
    assert outputs.shape == (40, 3 if task == "multiclass" else 1)


def test_a_class_without_rows_is_named():
    table, schema = small_table("multiclass")
    with pytest.raises(DataError, match="no training row is of class 2"):
        fit_family("trees", table[table.target != "2"], schema)
