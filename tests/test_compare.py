"""What differs between two runs, and the sentence about the cause."""

import json

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from mlops_nb.cli import main
from mlops_nb.comparison import compare_runs, say_causes
from mlops_nb.store import tables
from mlops_nb.store.artifacts import list_files


@pytest.fixture
def make(store, tmp_path):
    "A function that makes a finished run."

    def make(id, data="1", code="WIDTH = 8\n", packages=None, metrics=None, **values):
        folder = tmp_path / "files"
        folder.mkdir(exist_ok=True)
        (folder / "data.csv").write_text(data)
        (folder / "same.csv").write_text("same")
        listing = json.dumps({"net.py": store.blobs.put_bytes(code.encode()).digest}).encode()
        values |= {"code_blob": (blob := store.blobs.put_bytes(listing).digest), "code_digest": blob, "notebook_digest": "n"}
        packages = {"torch": "2.9"} if packages is None else packages
        digest = json.dumps(packages)
        with store.catalog.write() as connection:
            if not connection.execute(sa.select(tables.environments).where(tables.environments.c.digest == digest)).first():
                connection.execute(tables.environments.insert().values(digest=digest, python="3.11", platform="Linux", packages=packages))
        store.runs.create(id=id, project="p", name="train", environment_digest=digest, **values)
        store.artifacts.log(id, "digits", "dataset", list_files(folder))
        store.artifacts.use(id, "digits")
        (tmp_path / "net").write_text(id)
        store.artifacts.log(id, "net", "model", list_files(tmp_path / "net"))
        store.runs.finish(id, "finished", metrics=metrics or {})
        return store.runs.get(id)

    return make


def causes(store, *records):
    return say_causes(compare_runs(store, records))


def test_each_cause_is_named(store, make):
    first = make("a0000000", parameters={"rate": 0.1})
    assert causes(store, first, make("b0000000", parameters={"rate": 0.1})) == (
        "Data, code, parameters and packages are the same; what differs comes from chance, time or the machine.")
    other = make("c0000000", parameters={"rate": 0.2}, code="WIDTH = 9\n", packages={"torch": "2.8", "numpy": "2"})
    assert causes(store, first, other) == "Data is the same; code, parameter `rate` and 2 packages differ."
    newer = make("d0000000", parameters={"rate": 0.1}, data="2")
    assert causes(store, first, newer) == "Code, parameters and packages are the same; data differs."


def test_one_run_is_not_compared_with_itself(store, make):
    first = make("a0000000", metrics={"recall": 0.8})
    assert causes(store, first, first) == "These are the same run: a0000000."


def test_versions_that_were_asked_for_are_headers(store, make, monkeypatch):
    make("a0000000"), make("b0000000")
    monkeypatch.setenv("MLOPS_NB_WORKSPACE", str(store.workspace.root))
    headers, names = CliRunner().invoke(main, ["runs", "compare", "net:v0", "net:latest"]).stdout.splitlines()[:2]
    assert (headers.split(), names.split()) == (["net:v0", "net:latest"], ["train", "train"])
    headers, ids = CliRunner().invoke(main, ["runs", "compare", "a000", "b0000000"]).stdout.splitlines()[:2]
    assert (headers.split(), ids.split()) == (["train", "train"], ["a0000000", "b0000000"])


def test_files_code_and_metrics(store, make):
    first, second = make("a0000000", metrics={"recall": 0.8}), make("b0000000", data="2", code="WIDTH = 9\n", metrics={"recall": 0.9})
    found = compare_runs(store, [first, second]).to_dict()
    assert found["file_changes"] == {"digits": {"data.csv": "changed"}}
    assert found["code_changes"]["Python files"][-2:] == ["-WIDTH = 8", "+WIDTH = 9"]
    assert found["metric_changes"]["recall"] == {"absolute": pytest.approx(0.1), "percent": pytest.approx(12.5)}
    assert found["differences"]["artifacts"]["net"] == ["v0", "v1"]


def test_models_stand_for_the_runs_that_made_them(store, make):
    make("a0000000", metrics={"recall": 0.8}), make("b0000000", metrics={"recall": 0.9})
    result = CliRunner().invoke(main, ["runs", "compare", "net:v0", "net:v1", "--json"])
    assert [run["id"] for run in json.loads(result.stdout)["runs"]] == ["a0000000", "b0000000"]
    shown = CliRunner().invoke(main, ["runs", "compare", "net:v0", "net:v1"]).stdout
    assert "+0.1 (+12.5 %)" in shown and "Data, code, parameters and packages are the same" in " ".join(shown.split())
    assert CliRunner().invoke(main, ["runs", "compare", "net:v0", "net:v9"]).exit_code == 2


def bare(store, id, uses=(), **values):
    "A finished run of which little is recorded."
    store.runs.create(id=id, project="p", name="train")
    for each in uses:
        store.artifacts.use(id, each)
    store.runs.finish(id, "finished", **values)
    return store.runs.get(id)


def test_data_that_was_not_recorded_is_not_the_same(store, make):
    make("a0000000")
    first, second, third = bare(store, "b0000000"), bare(store, "c0000000"), bare(store, "d0000000", ["digits"])
    for pair in ((first, second), (second, third), (third, first)):
        assert causes(store, *pair) == "Parameters are the same; data, code and packages were not recorded."


def test_several_versions_of_one_name(store, make):
    make("a0000000"), make("b0000000", data="2")
    both, one = bare(store, "c0000000", ["digits:v0", "digits:v1"]), bare(store, "d0000000", ["digits:v1"])
    found = compare_runs(store, [both, one])
    assert (found.file_changes, found.differences["data"]) == ({"digits": {"data.csv": "changed"}}, {"digits": ("v0, v1", "v1")})
    for number in range(9):
        make(f"e000000{number}", data=f"more {number}")
    many = bare(store, "f0000000", ["digits:v10", "digits:v9", "digits:v2"])
    assert compare_runs(store, [many, one]).differences["data"]["digits"][0] == "v2, v9, v10"


def test_no_number_is_no_difference(store):
    runs = [bare(store, id, metrics={"loss": float("nan"), "recall": 0.5}) for id in ("a0000000", "b0000000")]
    found = compare_runs(store, runs)
    assert (found.differences["metrics"], found.equal["metrics"]) == ({}, 2)
