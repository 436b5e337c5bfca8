"""Folds of the rows that a logged dataset leaves open: what judges is newer than what was learned from, and no row is a test row."""
import numpy as np
import pandas as pd
import pytest

from mlops_nb import start_run
from mlops_nb.data.datasets import log_dataset, open_dataset
from mlops_nb.data.schema import conform, infer_schema
from mlops_nb.data.splits import split_rows
from mlops_nb.evaluation.cross_validation import make_folds, open_rows


@pytest.fixture
def logged(tmp_path, monkeypatch):
    "Logs a table with its split, and opens it as a notebook does"
    monkeypatch.setenv("MLOPS_NB_WORKSPACE", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "disabled")

    def log(table, method="auto", **roles):
        schema = infer_schema(table, "level", **roles)
        conformed = conform(table, schema)
        with start_run(workspace=tmp_path) as run:
            return open_dataset(log_dataset(run, conformed, schema, split_rows(conformed, schema, method), "levels"))
    return log


def levels(newest_first):
    "A level that drifts, with the day of each row"
    table = pd.DataFrame({"level": np.convolve(np.random.default_rng(0).normal(size=3009), np.ones(10), "valid")})
    table["seen"] = pd.date_range("2026-01-01", periods=len(table), freq="h").floor("D")
    return table[::-1].reset_index(drop=True) if newest_first else table


@pytest.mark.parametrize("newest_first", [False, True], ids=["oldest first", "newest first"])
def test_folds_of_rows_in_order_go_forward_in_time(logged, newest_first):
    data = logged(levels(newest_first))
    assert data.split.method == "order" and data.split.parts[0] == (2 if newest_first else 0)
    table, split = open_rows(data)
    assert table.seen.max() <= data.table("test").seen.min()
    folds = make_folds(table, data.schema, split, 5)
    for fold in folds:
        seen = [table.seen[rows] for rows in (fold.train, fold.validation, fold.judge)]
        assert seen[0].max() <= seen[1].min() and seen[1].max() <= seen[2].min()
    judged = np.concatenate([fold.judge for fold in folds])
    assert len(set(judged)) == len(judged) and table.seen[judged].max() == table.seen.max()
    assert sorted([*folds[0].known, *judged]) == list(range(len(table)))


@pytest.mark.parametrize("newest_first", [False, True], ids=["oldest first", "newest first"])
def test_folds_by_a_time_column_do_not_depend_on_the_order_of_rows(logged, newest_first):
    data = logged(levels(newest_first), time="seen")
    table, split = open_rows(data)
    assert split.method == "time" and table.seen.max() < data.table("test").seen.min()
    for fold in make_folds(table, data.schema, split, 5):
        assert table.seen[fold.known].max() < table.seen[fold.judge].min()
