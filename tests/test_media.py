"Tables and figures of a run: kept in its folder, told to W&B, written anew from the journal, and what they refuse"
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from churn import log_models
from matplotlib.figure import Figure
from test_gates import GOAL

from mlops_nb.data.datasets import open_dataset
from mlops_nb.evaluation.evaluations import Plan
from mlops_nb.evaluation.explanation_records import log_explanations
from mlops_nb.evaluation.explanations import explain
from mlops_nb.evaluation.gates import gate
from mlops_nb.settings import TrackingError, open_workspace
from mlops_nb.store.door import open_store
from mlops_nb.store.media import media_path, read_table
from mlops_nb.store.refill import refill
from mlops_nb.store.run_media import media_of
from mlops_nb.store.session import start_run
from mlops_nb.store.wandb_history import history_of, read_wandb_file
from mlops_nb.training.models import load_model

PNG = bytes.fromhex("89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6260f8ffff3f0300050001ff"
                    "0a2db4000000000049454e44ae426082")


@pytest.fixture
def store(tmp_path):
    "Offline, in a folder with a space and Thai letters"
    root = tmp_path / "my ตาราง"
    root.mkdir()
    return open_store(open_workspace(root))


def wandb_of(store, run_id):
    "Media of W&B's file, name -> its entry; and the names of its artifacts by type"
    path = Path(store.runs.get(run_id).wandb_path)
    records = read_wandb_file(path)
    media = {}
    for name, value in (pair for row in history_of(records) for pair in row.items()):
        if "." in name and not name.startswith("_"):  # W&B's reader writes nested values with dots
            media.setdefault(name.rpartition(".")[0], {})[name.rpartition(".")[2]] = value
    artifacts = {each["artifact"]["type"]: each["artifact"]["name"] for each in records if each["type"] == "artifact"}
    return media, artifacts, path.parent / "files"


def plot():
    figure = Figure((2, 1))
    figure.subplots().plot([1, 2])
    return figure


def test_tables_and_figures_reach_wandb_with_their_bytes(store):
    table = pd.DataFrame({"slice": ["ถนน", "a|b"], "recall": [0.5, np.nan], "rows": np.array([3, 40]), "seen": [True, False]})
    with start_run("evaluate", workspace=store.workspace) as run:
        run.log({"recall": 0.5})
        run.log_table("evaluation/slices", table)
        run.log_figure("evaluation/picture", plot(), step=7)
        run.log_figure("bytes", PNG)
    media, _, files = wandb_of(store, run.id)
    assert {name: each["_type"] for name, each in media.items()} == {
        "evaluation/slices": "table-file", "evaluation/picture": "image-file", "bytes": "image-file"}
    there = json.loads((files / media["evaluation/slices"]["path"]).read_text(encoding="utf-8"))
    assert there["columns"] == list(table.columns) and there["data"] == [["ถนน", 0.5, 3, True], ["a|b", None, 40, False]]
    kept = media_of(run.folder)
    for name in ("evaluation/picture", "bytes"):
        assert (files / media[name]["path"]).read_bytes() == media_path(run.folder, kept[name]).read_bytes()
    pd.testing.assert_frame_equal(read_table(run.folder, kept["evaluation/slices"]), table, check_dtype=False)
    assert store.runs.get(run.id).metrics == {"recall": 0.5} and store.runs.get(run.id).wandb_state == "complete"


def test_what_wandb_lost_is_written_anew_without_what_is_gone(store):
    with start_run("evaluate", workspace=store.workspace) as run:
        run.log_table("kept", pd.DataFrame({"a": [1]}))
        run.log_figure("lost", PNG)
    before = wandb_of(store, run.id)[0]
    media_path(run.folder, media_of(run.folder)["lost"]).unlink()
    assert refill(store, run.id) == "complete"
    after = wandb_of(store, run.id)[0]
    assert set(after) == {"kept"} and after["kept"]["sha256"] == before["kept"]["sha256"]


def test_without_wandb_the_folder_has_all(tmp_path):
    (tmp_path / "settings.ini").write_text("[wandb]\nmode = disabled\n")
    with start_run("evaluate", workspace=tmp_path) as run:
        run.log_table("t", pd.DataFrame({"a": [np.inf, np.nan]}).rename_axis("row"))
    assert read_table(run.folder, media_of(run.folder)["t"])["a"].tolist()[0] == np.inf
    assert read_table(run.folder, media_of(run.folder)["t"]).columns.tolist() == ["row", "a"]


@pytest.mark.parametrize("verb, value, said", [
    ("log_table", [[1]], "allowed is a pandas DataFrame"), ("log_table", pd.DataFrame({"a": range(10_001)}), "10,001 rows"),
    ("log_figure", b"<svg/>", "is no PNG"), ("log_figure", 3, "is of type int"), ("log_figure", "nowhere.png", "cannot be read")])
def test_what_is_refused_leaves_no_row(store, verb, value, said):
    with start_run("evaluate", workspace=store.workspace) as run:
        with pytest.raises(TrackingError, match=said):
            getattr(run, verb)("name", value)
    assert store.runs.get(run.id).journal_rows == 0 and store.runs.get(run.id).status == "finished"
    with pytest.raises(TrackingError, match="is finished"):
        run.log_table("name", pd.DataFrame())


def test_evaluations_and_explanations_are_tables_figures_and_artifacts_of_wandb(store):
    torch.set_num_threads(1)
    with start_run("train", workspace=store.workspace) as run:
        log_models(run, 900, churn=(-0.5, 1.0))
        data = open_dataset(run.use_artifact("customers:latest"))
    found = gate(store, "churn", plan=Plan(resamples=20, slices=("gender",)), goals=(GOAL,))
    record = next(each for each in store.runs.list() if each.name == "evaluate")
    media, artifacts, _ = wandb_of(store, record.id)
    tables = [f"evaluation/{each}" for each in ("metrics", "data", "slices", "fairness", "groups", "robustness")] + ["gate/verdicts"]
    assert {name for name, each in media.items() if each["_type"] == "table-file"} == set(tables)
    assert {name for name, each in media.items() if each["_type"] == "image-file"} == {"evaluation/picture", "gate/picture"}
    assert artifacts["evaluation"] == "churn-evaluation"
    verdicts = read_table(store.runs.folder(record.id), media_of(store.runs.folder(record.id))["gate/verdicts"])
    assert verdicts["status"].tolist() == [each.check.status for each in found.verdicts] and verdicts["lower"].notna().all()
    with start_run("explain", workspace=store.workspace) as run:
        model, rows = load_model("churn", run=run), data.table("test")
        explanation = explain(model, rows, reference=data.table("train"), checks=["completeness"])
        log_explanations(run, {"attribution": explanation}, "churn-explanation", model.artifact.reference,
                         {"f": (rows["gender"] == "f").to_numpy(dtype=bool)})
    media, artifacts, _ = wandb_of(store, run.id)
    assert artifacts["explanation"] == "churn-explanation"
    assert {name: each["_type"] for name, each in media.items()} == {
        "explanation/attribution": "table-file", "explanation/attribution_checks": "table-file",
        "explanation/attribution_picture": "image-file", "explanation/attribution_by_slice": "image-file"}
