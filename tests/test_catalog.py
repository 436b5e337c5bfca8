"""One contract for the catalog, runs and artifacts, on SQLite and on PostgreSQL; and what SQLite's file survives."""

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from mlops_nb.settings import ArtifactError, CatalogVersionError, NotFoundError, StoreError, open_workspace
from mlops_nb.store import tables
from mlops_nb.store.artifacts import list_files
from mlops_nb.store.blobs import BlobStore
from mlops_nb.store.catalog import Catalog
from mlops_nb.store.door import Store
from mlops_nb.store.garbage import collect, plan
from mlops_nb.store.lineage import trace
from mlops_nb.store.references import refer
from mlops_nb.store.runs import RunStore, settle
from mlops_nb.store.versions import ArtifactStore


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_runs_are_kept_found_and_deleted(runs):
    first = runs.create(project="p", name="first", parameters={"rate": 0.1, "ชื่อ": "ทดสอบ"}, tags=["a", "b"])
    second = runs.create(project="p", name="100%_second")
    runs.finish(first.id, "finished")
    assert [each.name for each in runs.list()] == ["100%_second", "first"]
    assert [each.name for each in runs.list(tag="a")] == [each.name for each in runs.list(status="finished")] == ["first"]
    assert runs.get(first.id).parameters == {"rate": 0.1, "ชื่อ": "ทดสอบ"}
    assert runs.get(second.id[:5]).id == runs.get("100%_second").id == second.id
    with pytest.raises(NotFoundError, match="did you mean 'first'"):
        runs.get("frist")
    with pytest.raises(NotFoundError):
        runs.get("%")
    with pytest.raises(StoreError, match="is running"):
        runs.delete(second.id)
    runs.delete(first.id)
    assert [each.name for each in runs.list()] == ["100%_second"]


def test_odd_values_come_back_and_spoil_nothing(runs):
    odd = {"nan": float("nan"), "inf": float("-inf"), "text": "caf\udce9 \0", "nested": {"ข": [1.5, None]}}
    run = runs.create(project="p", name="caf\udce9", parameters=odd)
    runs.finish(run.id, "failed", error={"message": "caf\udce9"}, metrics=odd)
    [record] = runs.list()
    assert record.metrics["nan"] != record.metrics["nan"] and record.metrics["inf"] == float("-inf")
    assert record.parameters["nested"] == {"ข": [1.5, None]} and record.name.startswith("caf")


def test_long_foreign_ids_are_kept(runs):
    assert runs.create(project="p", name="n", id="my-resnet50-run-2024-01").id == runs.get("my-resnet50").id


def test_only_one_process_claims_a_run(runs):
    run = runs.create(project="p", name="n")
    assert runs.claim(run.id).id == run.id
    assert runs.claim(run.id) is None


def test_a_settled_run_that_lives_again_is_running(runs):
    run = runs.create(project="p", name="n", host="another computer", lease_expires_at=time.time() - 1)
    assert settle(runs) == [run.id]
    runs.renew(run.id)
    assert runs.get(run.id).status == "running"
    runs.finish(run.id, "finished")
    runs.renew(run.id)
    assert runs.get(run.id).status == "finished"


def test_versions_aliases_and_types(runs, artifacts, tmp_path):
    run = runs.create(project="p", name="n")
    versions = [artifacts.log(run.id, "data", "dataset", list_files(write(tmp_path, "a.txt", text))) for text in ("1", "2", "1")]
    assert [each.version for each in versions] == ["v0", "v1", "v0"]
    assert artifacts.use(None, "data").version == "v0"  # the content that was logged last
    artifacts.alias("data:v1", "best")
    assert artifacts.use(None, "data:best").version == "v1"
    with pytest.raises(ArtifactError, match="is of type 'dataset'"):
        artifacts.log(run.id, "data", "model", list_files(tmp_path / "a.txt"))
    with pytest.raises(ArtifactError, match="is of type 'dataset'"):
        artifacts.use(run.id, "data", type="model")
    for name in ("../evil", "a/b", "", "a" * 129, "ชุด"):
        with pytest.raises(ArtifactError, match="artifact name"):
            artifacts.log(run.id, name, "dataset", list_files(tmp_path / "a.txt"))
    for path in ("../evil", "/etc/passwd", "a/../../b", ""):
        with pytest.raises(ArtifactError, match="inside an artifact"):
            artifacts.log(run.id, "data", "dataset", {path: tmp_path / "a.txt"})


def test_folders_are_taken_whole_and_links_out_are_refused(runs, artifacts, tmp_path):
    run = runs.create(project="p", name="n")
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    write(folder, "a.txt", "a")
    write(folder / "sub", "ข.txt", "b")
    artifact = artifacts.log(run.id, "data", "dataset", list_files(folder))
    assert [each.path for each in artifact.files] == ["a.txt", "sub/ข.txt"]
    out = artifact.download(tmp_path / "out")
    assert (out / "sub" / "ข.txt").read_text() == "b"
    (folder / "link").symlink_to("/etc/hostname")
    with pytest.raises(ArtifactError, match="link out of"):
        list_files(folder)


def test_a_damaged_blob_is_named_and_never_served(runs, artifacts, tmp_path):
    run = runs.create(project="p", name="n")
    artifact = artifacts.log(run.id, "data", "dataset", list_files(write(tmp_path, "a.txt", "right")))
    [blob] = [each for each in (tmp_path / "blobs").rglob("*") if each.is_file()]
    blob.chmod(0o644)
    blob.write_text("wrong")
    with pytest.raises(StoreError, match=artifact.files[0].digest[:12]):
        artifacts.use(None, "data").path()


def test_alias_moves_are_remembered(runs, artifacts, tmp_path):
    run = runs.create(project="p", name="n")
    for text in "121":
        artifacts.log(run.id, "data", "dataset", list_files(write(tmp_path, "a.txt", text)))
    artifacts.alias("data:v1", "best")
    artifacts.alias("data:v1", "best")  # is there already: no move
    assert artifacts.unalias("data:v1", "best").aliases == ()
    moves = [(each.alias, each.version, each.run_id) for each in artifacts.alias_history("data")]
    assert moves == [("latest", "v0", run.id), ("latest", "v1", run.id), ("latest", "v0", run.id), ("best", "v1", None), ("best", None,
                                                                                                                          None)]
    for change in (artifacts.alias, artifacts.unalias):
        with pytest.raises(ArtifactError, match="logged last"):
            change("data:v1", "latest")
    with pytest.raises(ArtifactError, match="has no alias 'best'"):
        artifacts.unalias("data:v0", "best")


def test_a_repetition_moves_no_alias(runs, artifacts, tmp_path):
    run = runs.create(project="p", name="n")
    repetition = runs.create(project="p", name="n", reproduces=run.id)
    child = runs.create(project="p", name="n", parent_id=repetition.id)
    artifacts.log(run.id, "data", "dataset", list_files(write(tmp_path, "a.txt", "1")))
    for number, each in ((2, repetition), (3, child)):
        logged = artifacts.log(each.id, "data", "dataset", list_files(write(tmp_path, "a.txt", str(number))), aliases=("best",))
        assert logged.aliases == ()
    assert artifacts.use(None, "data").version == "v0"
    assert [each.alias for each in artifacts.alias_history("data")] == ["latest"]


def test_versions_are_found_by_digest_and_filtered(runs, artifacts, tmp_path):
    run = runs.create(project="p", name="n")
    first, second = (artifacts.log(run.id, "Data_1", "dataset", list_files(write(tmp_path, "a.txt", text))) for text in "12")
    other = artifacts.log(run.id, "net", "model", {"b.txt": tmp_path / "a.txt"}, aliases=("best",))
    assert artifacts.use(None, f"sha256:{first.digest[:8]}").version == "v0"
    assert artifacts.use(None, f"sha256:{first.files[0].digest.upper()}").version == "v0"
    with pytest.raises(NotFoundError, match="single version"):
        artifacts.use(None, f"sha256:{second.files[0].digest}")  # in two artifacts
    for wrong in ("sha256:1234", "sha256:zzzzzzzzzz"):
        with pytest.raises(ArtifactError, match="is no digest"):
            artifacts.use(None, wrong)
    with pytest.raises(NotFoundError):
        artifacts.use(None, "data\0\udce9")

    def found(**filters): return [each.reference for each in artifacts.versions(**filters)]
    assert found(pattern="data_*") == found(pattern="DATA_") == found(type="dataset") == ["Data_1:v1", "Data_1:v0"]
    assert found(pattern="data?1", limit=1) == ["Data_1:v1"] and found(pattern="%") == found(pattern="da_a*") == []
    assert found(alias="best") == [other.reference] and found(alias="latest", type="dataset") == ["Data_1:v1"]


def test_what_nobody_needs_goes_and_its_number_is_not_used_again(catalog, runs, artifacts, tmp_path):
    store = Store(open_workspace(tmp_path), catalog, artifacts.blobs, runs, artifacts)
    run, other = (runs.create(project="p", name=name, notebook_blob=artifacts.blobs.put_bytes(name.encode()).digest) for name in "ab")
    for text in ("1", "2", "3"):
        artifacts.log(run.id, "data", "dataset", list_files(write(tmp_path, "a.txt", text)))
    artifacts.use(other.id, "data:v1")
    runs.finish(run.id, "finished")
    runs.delete(run.id)
    found = plan(store, grace_s=0)
    assert [each.reference for each in found.versions] == ["data:v0"] and len(found.blobs) == 2  # its file, and a notebook
    assert replace(collect(store, found, grace_s=0), kept=found.kept) == found and plan(store, grace_s=0).is_empty
    with pytest.raises(ArtifactError, match="data:v0 was removed on 20"):
        artifacts.use(None, "data:v0")
    assert [each.version for each in artifacts.versions("data")] == ["v2", "v1"]
    assert [bool(each.removed_at) for each in artifacts.versions("data", removed=True)] == [False, False, True]
    again = artifacts.log(other.id, "data", "dataset", list_files(write(tmp_path, "a.txt", "1")))
    assert again.version == "v3" and again.path().read_text() == "1"
    with catalog.write() as connection:
        connection.execute(tables.aliases.delete())
        connection.execute(tables.links.insert().values(
            start_kind="node", start_id="release-1", end_kind="artifact", end_id=str(again.row_id), relation="released", created_at=0.0))
    runs.finish(other.id, "finished")
    runs.delete(other.id)
    assert [each.reference for each in plan(store, grace_s=0).versions] == ["data:v1", "data:v2"]  # a release holds v3


def test_references_are_kept_without_a_copy(runs, artifacts, tmp_path):
    run = runs.create(project="p", name="n")
    source = write(tmp_path, "a.txt", "1")
    artifact = artifacts.log(run.id, "data", "dataset", {}, references=refer(source))
    assert artifacts.use(None, "data").files == artifact.files and artifact.path() == source and not list(artifacts.blobs.digests())


def test_lineage_reaches_through_the_graph(catalog, runs, artifacts, tmp_path):
    prepare, train, evaluate = (runs.create(project="p", name=name, notebook=f"{name}.ipynb", notebook_digest=name, code_commit="c" * 40)
                                for name in ("prepare", "train", "evaluate"))
    artifacts.log(prepare.id, "data", "dataset", list_files(write(tmp_path, "d.txt", "d")))
    artifacts.use(train.id, "data")
    artifacts.log(train.id, "net", "model", list_files(write(tmp_path, "m.txt", "m")))
    artifacts.use(evaluate.id, "net")
    artifacts.log(evaluate.id, "scores", "evaluation", list_files(write(tmp_path, "e.txt", "e")))
    graph = trace(catalog, "net:latest").to_dict()
    seen, front = {"evaluation/scores:v0"}, ["evaluation/scores:v0"]
    while front:
        node = front.pop()
        following = {edge["to"] for edge in graph["edges"] if edge["from"] == node} - seen
        seen |= following
        front += following
    kinds = {node["id"]: node["kind"] for node in graph["nodes"]}
    assert {kinds[each] for each in seen} == {"evaluation", "run", "model", "dataset", "notebook", "code"}
    assert trace(catalog, f"run/{train.id}").root == trace(catalog, train.id).root == f"run/{train.id}"
    with pytest.raises(NotFoundError, match="did you mean 'net'"):
        trace(catalog, "nte")


def _log_versions(url, root, name):
    "In a process of its own: a run that logs ten versions of a shared name."
    catalog = Catalog(url)
    runs, artifacts = RunStore(catalog, root / "runs"), ArtifactStore(catalog, BlobStore(root / "blobs"), root / "artifacts")
    run = runs.create(project="p", name=name)
    for number in range(10):
        path = write(root, f"{name}-{number}.txt", f"{name} {number}")
        artifacts.log(run.id, "shared", "dataset", list_files(path))
    runs.finish(run.id, "finished")


def test_writers_at_once_lose_nothing(catalog, runs, artifacts, tmp_path):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_log_versions, args=(catalog.url, tmp_path, f"writer{number}")) for number in range(4)]
    for each in writers:
        each.start()
    for each in writers:
        each.join(timeout=120)
    assert [each.exitcode for each in writers] == [0] * 4
    versions = artifacts.versions("shared")
    assert sorted(int(each.version[1:]) for each in versions) == list(range(40))
    assert [each.status for each in runs.list()] == ["finished"] * 4


def test_a_newer_catalog_is_refused(catalog):
    with catalog.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(CatalogVersionError, match="upgrade mlops_nb"), Catalog(catalog.url).read():
        pass


def test_a_file_that_is_no_catalog_is_named(tmp_path):
    path = write(tmp_path, "catalog.db", "this is not a database, and it is long enough to be read as one" * 20)
    with pytest.raises(StoreError, match="cannot be used: file is not a database"), Catalog(f"sqlite:///{path}").read():
        pass


def test_a_full_disk_is_a_clear_error_and_loses_nothing(tmp_path):
    catalog = Catalog(f"sqlite:///{tmp_path}/catalog.db")
    runs = RunStore(catalog, tmp_path / "runs")
    runs.create(project="p", name="kept")

    def limit(connection, _record):
        connection.execute("PRAGMA max_page_count=1")  # SQLite's own way to be full

    sa.event.listen(catalog._engine, "connect", limit)
    with pytest.raises(StoreError, match="no disk space left"):
        for number in range(200):
            runs.create(project="p", name=f"more {number}", note="x" * 4000)
    assert "kept" in [each.name for each in RunStore(Catalog(catalog.url), tmp_path / "runs").list()]


KILLED_WRITER = """
import sys
from pathlib import Path
from mlops_nb.store.catalog import Catalog
from mlops_nb.store.runs import RunStore
runs = RunStore(Catalog(sys.argv[1]), Path(sys.argv[2]))
while True:
    print(runs.create(project="p", name="n", note="x" * 2000).id, flush=True)
"""


def test_acknowledged_runs_survive_kill_9(tmp_path):
    url = f"sqlite:///{tmp_path}/catalog.db"
    acknowledged = set()
    for _ in range(5):
        process = subprocess.Popen([sys.executable, "-c", KILLED_WRITER, url, str(tmp_path / "runs")], stdout=subprocess.PIPE, text=True)
        lines = [process.stdout.readline() for _ in range(20)]
        os.kill(process.pid, signal.SIGKILL)
        acknowledged |= {line.strip() for line in [*lines, *process.stdout.readlines()] if line.endswith("\n")}
        process.wait()
    with Catalog(url).read() as connection:
        assert acknowledged <= set(connection.execute(sa.select(tables.runs.c.id)).scalars())
    assert sqlite3.connect(tmp_path / "catalog.db").execute("PRAGMA integrity_check").fetchone() == ("ok",)
