"""Dataset versions: everything comes back as it was, and equal tables have equal bytes, wherever and whenever they are made."""

import datetime
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_iris

from mlops_nb import start_run
from mlops_nb.data.datasets import _from_arrow, _to_arrow, inspect_data, log_dataset, open_dataset
from mlops_nb.data.schema import Column, Schema, conform, infer_schema
from mlops_nb.data.splits import PARTS, split_rows
from mlops_nb.settings import ArtifactError, CorruptBlobError, DataError, MlopsError, NotFoundError, open_workspace
from mlops_nb.store.door import open_store

TABLE = """
    import numpy as np
    import pandas as pd

    random = np.random.default_rng(0)
    table = pd.DataFrame({
        "ลูกค้า": [f"K{number:04}" for number in range(400)],
        "tenure": random.integers(0, 72, 400).astype(float),
        "charges, total": random.lognormal(3, 1, 400),
        "contract": random.choice(["monthly", "yearly", None], 400),
        "senior": random.choice([True, False], 400),
        "joined": pd.Timestamp("2020-01-01") + pd.to_timedelta(random.integers(0, 10**6, 400), "min"),
        "churn": random.choice(["Yes", "No", None], 400),
    })
    table.loc[::7, ["tenure", "joined"]] = None
"""
OPTIONS = {"key": "ลูกค้า"}


def customers() -> pd.DataFrame:
    "A table with every kind of column, and gaps"
    names: dict = {}
    exec(textwrap.dedent(TABLE), names)
    return names["table"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with start_run("prepare", workspace=tmp_path) as run:
        yield run


def log(run, table, target="churn", **options):
    "A table as a version, and what went into it"
    schema = infer_schema(table, target, **options)
    conformed = conform(table, schema)
    split = split_rows(conformed, schema)
    return log_dataset(run, conformed, schema, split, "customers"), conformed, schema, split


def test_everything_comes_back(run):
    artifact, conformed, schema, split = log(run, customers(), **OPTIONS)
    dataset = open_dataset(run.use_artifact("customers:latest", type="dataset"))
    assert dataset.schema == schema
    assert dataset.split.to_dict() == split.to_dict()
    np.testing.assert_array_equal(dataset.split.parts, split.parts)
    pd.testing.assert_frame_equal(dataset.table(), conformed, check_exact=True)
    for part in PARTS:
        pd.testing.assert_frame_equal(dataset.table(part), conformed.iloc[split.rows(part)], check_exact=True)
        assert dataset.profile(part).rows == split.counts[part]
    assert len(conformed) == customers()["churn"].notna().sum()


def test_metadata_answer_what_is_asked_first(run):
    artifact, conformed, schema, split = log(run, customers(), **OPTIONS)
    assert artifact.type == "dataset"
    assert artifact.metadata["rows"] == len(conformed)
    assert artifact.metadata["parts"] == split.counts
    assert (artifact.metadata["task"], artifact.metadata["target"]) == ("binary", "churn")
    assert artifact.metadata["features"] == ["tenure", "charges, total", "contract", "senior", "joined"]
    assert artifact.metadata["split"] == split.to_dict()


def test_files_are_read_without_this_package(run):
    artifact, conformed, schema, split = log(run, customers(), **OPTIONS)
    assert sorted(file.path for file in artifact.files) == ["profile.json", "schema.json", "split.parquet", "table.parquet"]
    plain = pd.read_parquet(artifact.path("table.parquet"))
    assert list(plain.columns) == list(conformed.columns)
    assert pd.read_parquet(artifact.path("split.parquet"))["part"].value_counts().to_dict() == split.counts
    assert pq.read_schema(artifact.path("table.parquet")).metadata is None
    assert set(json.loads(artifact.path("profile.json").read_text("utf-8"))) == set(PARTS)
    assert json.loads(artifact.path("schema.json").read_text("utf-8"))["columns"][0]["name"] == "ลูกค้า"


def test_equal_bytes_in_another_process_and_folder(tmp_path):
    script = textwrap.dedent(TABLE) + textwrap.dedent("""
        import sys
        from mlops_nb import start_run
        from mlops_nb.data.datasets import log_dataset
        from mlops_nb.data.schema import conform, infer_schema
        from mlops_nb.data.splits import split_rows

        schema = infer_schema(table, "churn", key="ลูกค้า")
        conformed = conform(table, schema)
        with start_run("prepare", workspace=".") as run:
            artifact = log_dataset(run, conformed, schema, split_rows(conformed, schema), "customers")
        print(artifact.digest, *(file.digest for file in artifact.files))
        """)
    digests = set()
    others = {"PYTHONHASHSEED": "2", "OMP_NUM_THREADS": "1", "TZ": "Asia/Bangkok"}
    for name, environ in (("one", {"PYTHONHASHSEED": "1"}), ("อีก โฟลเดอร์", others)):
        (tmp_path / name).mkdir()
        done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path / name, capture_output=True, text=True, timeout=120,
                              env={**os.environ, "WANDB_MODE": "disabled", "PYTHONIOENCODING": "utf-8", **environ})
        assert done.returncode == 0, done.stderr
        digests.add(done.stdout)
    assert len(digests) == 1


def test_csv_and_parquet_of_one_table_are_one_version(run, tmp_path):
    customers().to_csv(tmp_path / "customers.csv", index=False)
    customers().to_parquet(tmp_path / "customers.parquet")
    artifacts = []
    for name in ("customers.csv", "customers.parquet"):
        found = inspect_data(tmp_path / name, "churn", **OPTIONS)
        split = split_rows(found.table, found.schema)
        artifacts.append(log_dataset(run, found.table, found.schema, split, name.replace(".", "-"), found.source))
        assert artifacts[-1].metadata["source"]["name"] == name
    tables = [{file.path: file.digest for file in artifact.files} for artifact in artifacts]
    assert tables[0]["table.parquet"] == tables[1]["table.parquet"]
    assert tables[0]["split.parquet"] == tables[1]["split.parquet"]
    assert tables[0]["profile.json"] == tables[1]["profile.json"]


def test_pandas_types_leave_no_trace(run):
    first, conformed, schema, split = log(run, customers(), **OPTIONS)
    other = conformed.convert_dtypes().astype({"tenure": "Float64"})
    other["contract"] = other["contract"].astype("category")
    other.index = other.index + 100
    assert log_dataset(run, other, schema, split, "customers").version == first.version


@pytest.mark.parametrize("keys", [
    np.arange(60), np.arange(60) * 10**16, [f"K{number}" for number in range(60)],
    pd.date_range("2026-01-01", periods=60, tz="Asia/Bangkok"),
    [datetime.date(2026, 1, 1) + datetime.timedelta(days) for days in range(60)],
], ids=["numbers", "large numbers", "texts", "times", "days"])
def test_keys_come_back_untouched(run, keys):
    table = pd.DataFrame({"key": keys, "size": np.arange(60) % 7, "y": np.arange(60.0)})
    log(run, table, "y", key="key")
    back = open_dataset(run.use_artifact("customers:latest")).table()["key"]
    assert back.tolist() == table["key"].tolist()


kinds = {
    "number": st.floats(allow_infinity=False, allow_nan=False) | st.just(np.nan),
    "boolean": st.sampled_from([0.0, 1.0, np.nan]),
    "category": st.none() | st.text(min_size=1, max_size=5),
    "date": st.none() | st.datetimes(),
}


@settings(deadline=None)
@given(st.data(), st.dictionaries(st.text(min_size=1, max_size=8), st.sampled_from(sorted(kinds)), min_size=1), st.integers(0, 20))
def test_any_conformed_table_comes_back(data, columns, count):
    types = {"category": object, "date": "datetime64[us]"}
    table = pd.DataFrame({name: pd.Series(data.draw(st.lists(kinds[kind], min_size=count, max_size=count)), dtype=types.get(kind, float))
                          for name, kind in columns.items()})
    schema = Schema(tuple(Column(name, kind) for name, kind in columns.items()), "regression", None, count)
    pd.testing.assert_frame_equal(_from_arrow(_to_arrow(table, schema), schema), table, check_exact=True)


def test_what_cannot_be_logged_is_refused(run):
    artifact, conformed, schema, split = log(run, customers(), **OPTIONS)
    with pytest.raises(DataError, match="the split is of"):
        log_dataset(run, conformed.iloc[:50], schema, split, "customers")
    with pytest.raises(NotFoundError, match="no column 'contract'"):
        log_dataset(run, conformed.drop(columns="contract"), schema, split, "customers")
    with pytest.raises(DataError, match="column 'tenure' cannot be stored"):
        log_dataset(run, conformed.assign(tenure="many"), schema, split, "customers")
    with pytest.raises(ArtifactError, match="artifact name"):
        log_dataset(run, conformed, schema, split, "my customers")


def test_artifacts_that_hold_no_dataset_are_refused(run, tmp_path):
    (tmp_path / "table.parquet").write_bytes(b"PAR1")
    artifact = run.log_artifact(tmp_path / "table.parquet", name="alone", type="files")
    with pytest.raises(ArtifactError, match=r"alone:v0 \(type files\) holds no dataset: it has no split.parquet, schema.json"):
        open_dataset(artifact)


def test_versions_are_opened_without_a_run_and_checked(run, tmp_path):
    log(run, customers(), **OPTIONS)
    store = open_store(open_workspace(tmp_path))
    dataset = open_dataset(store.artifacts.use(None, "customers"))
    blob = next(store.artifacts.blobs.path(file.digest) for file in dataset.artifact.files if file.path == "table.parquet")
    with pytest.raises(NotFoundError, match="did you mean 'train'"):
        dataset.profile("training")
    blob.chmod(0o644)
    blob.write_bytes(b"PAR1" + blob.read_bytes()[4:-1] + b"2")
    with pytest.raises(CorruptBlobError):
        dataset.table()


@pytest.mark.parametrize(("target", "options", "message"), [
    ("Churn", OPTIONS, "did you mean 'churn'"),
    ("churn", {"key": "customer"}, "no column 'customer'"),
    ("churn", {}, "looks like a key"),
    ("churn", OPTIONS | {"exclude": ["tenur"]}, "did you mean 'tenure'"),
])
def test_bad_input_is_an_error_that_a_caller_sees(tmp_path, target, options, message):
    customers().to_csv(tmp_path / "customers.csv", index=False)
    with pytest.raises(MlopsError, match=message):
        inspect_data(tmp_path / "customers.csv", target, **options)


def test_absent_file_is_named(tmp_path):
    with pytest.raises(DataError, match="custmers.csv"):
        inspect_data(tmp_path / "custmers.csv", "churn")


def test_iris_from_end_to_end(run, tmp_path):
    load_iris(as_frame=True).frame.to_csv(tmp_path / "iris.csv", index=False)
    found = inspect_data(Path(tmp_path / "iris.csv"), "target")
    split = split_rows(found.table, found.schema)
    dataset = open_dataset(log_dataset(run, found.table, found.schema, split, "iris", found.source, {"asked by": "botanist"}))
    assert dataset.artifact.metadata["asked by"] == "botanist"
    assert dataset.schema.classes == (0, 1, 2)
    assert dataset.profile("test").column("target").categories == {"0": 10, "1": 10, "2": 10}
