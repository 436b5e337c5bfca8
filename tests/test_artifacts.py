"""Artifacts under attack: names, paths, links, damage, full and read-only disks; references, and clearing away while others write."""

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import zipfile
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_nb.settings import ArtifactError, CorruptBlobError, StoreError, StoreFullError, open_workspace
from mlops_nb.store import garbage, needed, tables
from mlops_nb.store.artifacts import check_alias, check_entry, check_name, check_type, list_files
from mlops_nb.store.artifact_reader import safe_place
from mlops_nb.store.catalog import Catalog
from mlops_nb.store.catalog_copy import copy_catalog
from mlops_nb.store.door import open_store
from mlops_nb.store.garbage import collect, plan
from mlops_nb.store.kept_code import LARGEST_BYTES, keep_code
from mlops_nb.store.references import refer, to_path, to_uri
from mlops_nb.store.session import start_run
from mlops_nb.store.verification import verify


@pytest.fixture
def store(tmp_path):
    return open_store(open_workspace(tmp_path))


@pytest.fixture
def run(store):
    return store.runs.create(project="p", name="prepare")


@pytest.fixture
def small_disk(tmp_path):
    "A file system of one megabyte."
    folder = tmp_path / "small disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def write(path: Path, text: str = "data") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def log(store, run, text, name="data", **options):
    return store.artifacts.log(run.id, name, "dataset", list_files(write(store.workspace.root / "data.txt", text)), **options)


def delete(store, run):
    store.runs.finish(run.id, "finished")
    store.runs.delete(run.id)


# Names and paths

@settings(derandomize=True, database=None, deadline=None, max_examples=200)
@given(st.text(max_size=30))
def test_a_path_stays_inside_or_is_refused(path):
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder, "base")
        try: target = safe_place(base, check_entry(path))
        except StoreError: return
        assert target.resolve().is_relative_to(base.resolve()) and target != base


@settings(derandomize=True, database=None, deadline=None, max_examples=200)
@given(st.text(max_size=30))
def test_names_types_and_aliases_are_refused_or_plain(text):
    for check in (check_name, check_type, check_alias):
        try: checked = check(text)
        except ArtifactError: continue
        assert checked == text and text.isprintable() and not set(text) & set("/:\\\0\n") or check is check_alias and "\\" in text


@pytest.mark.parametrize("path", ["../a", "/a", "a/../../b", "a\\b", "..", ".", "", "a//b", "a/", "./a", "a\0b", "a\udce9"])
def test_paths_that_are_refused(store, run, path):
    with pytest.raises(ArtifactError, match="inside an artifact"):
        store.artifacts.log(run.id, "data", "dataset", {path: write(store.workspace.root / "a")})


def test_a_file_and_a_folder_of_one_name_are_refused(store, run):
    source = write(store.workspace.root / "a")
    with pytest.raises(ArtifactError, match="is a file and the folder of"):
        store.artifacts.log(run.id, "data", "dataset", {"a": source, "a-b": source, "a/b": source})


def test_unicode_file_names_come_back(store, run, tmp_path):
    names = ["ข้อมูล.csv", "数据/表 1.csv", "e\u0301.txt", "é.txt", "\u202etxt.exe", "x" * 200]
    files = {name: write(tmp_path / "in" / str(index), name) for index, name in enumerate(names)}
    artifact = store.artifacts.log(run.id, "data", "dataset", files)
    out = artifact.download(tmp_path / "out")
    assert {name: (out / name).read_text() for name in names} == {name: name for name in names}


@pytest.mark.parametrize("column, value", [
    ("path", "../../evil"), ("path", "/tmp/evil-mlops"), ("path", "a/../../../evil"), ("digest", "../../etc")])
def test_a_tampered_row_writes_nothing_outside(store, run, tmp_path, column, value):
    artifact = log(store, run, "data")
    with store.catalog.write() as connection: connection.execute(tables.artifact_files.update().values({column: value}))
    before = {path for path in tmp_path.rglob("*") if "artifacts" not in path.parts}
    for folder in (None, tmp_path / "artifacts-out"):
        with pytest.raises(StoreError): store.artifacts.by_row(artifact.row_id).download(folder)
    assert {path for path in tmp_path.rglob("*") if "artifacts" not in path.parts and path.name != "artifacts-out"} == before
    assert not Path("/tmp/evil-mlops").exists()


def test_a_tampered_name_writes_nothing_outside(store, run):
    artifact = log(store, run, "data")
    with store.catalog.write() as connection: connection.execute(tables.artifacts.update().values(name="../../evil"))
    with pytest.raises(ArtifactError, match="artifact name"): store.artifacts.by_row(artifact.row_id).path()


def test_links_lead_nowhere(store, run, tmp_path):
    artifact = store.artifacts.log(run.id, "data", "dataset", {"sub/a.txt": write(tmp_path / "a.txt")})
    outside = tmp_path / "outside"
    outside.mkdir()
    (store.workspace.store_dir / "artifacts").symlink_to(outside)
    with pytest.raises(ArtifactError, match="a link on the way"): artifact.path()
    out = tmp_path / "out"
    out.mkdir()
    (out / "sub").symlink_to(outside)
    with pytest.raises(ArtifactError, match="a link on the way"): artifact.download(out)
    assert not list(outside.iterdir())
    delete(store, run)
    with store.catalog.write() as connection: connection.execute(tables.aliases.delete())
    write(outside / "data" / "v0" / "precious")
    collect(store, plan(store, grace_s=0), grace_s=0)
    assert (outside / "data" / "v0" / "precious").exists()


def test_links_that_lead_in_a_circle_are_one_clear_error(store, run, tmp_path):
    artifact = store.artifacts.log(run.id, "data", "dataset", {"sub/a.txt": write(tmp_path / "a.txt")})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sub").symlink_to(tmp_path / "out" / "sub")
    with pytest.raises(StoreError, match="out/sub"): artifact.download(tmp_path / "out")


def test_a_folder_is_taken_whole_or_not_at_all(tmp_path):
    folder, elsewhere = tmp_path / "data", write(tmp_path / "elsewhere" / "b.csv").parent
    write(folder / "a.csv")
    assert list(list_files(folder)) == ["a.csv"]
    for target, why in ((elsewhere, "to a folder"), (folder / "nothing", "to nothing")):
        (folder / "part").symlink_to(target)
        with pytest.raises(ArtifactError, match=f"part is a link {why}"): list_files(folder)
        (folder / "part").unlink()
    os.mkfifo(folder / "pipe")
    with pytest.raises(ArtifactError, match="pipe is neither"): list_files(folder)


def test_metadata_that_are_kept_as_a_list_are_the_same(store, run, caplog):
    with caplog.at_level(logging.WARNING):
        for _ in range(2): log(store, run, "1", metadata={"shape": (1, 2), 3: float("nan")})
        assert not caplog.text
        log(store, run, "1", metadata={"shape": (1, 3)})
    assert "its metadata stay" in caplog.text


def test_aliases_of_a_version_are_found_by_an_index(store):
    with store.catalog.read() as connection:
        for table in ("aliases", "alias_moves"):
            [*_, plan] = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN SELECT * FROM {table} WHERE artifact_id = 1").one()
            assert "USING INDEX" in plan


def test_archives_stay_closed(store, run, tmp_path):
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive: archive.writestr("../../evil.txt", "evil")
    artifact = store.artifacts.log(run.id, "archive", "dataset", list_files(tmp_path / "evil.zip"))
    assert artifact.path().read_bytes() == (tmp_path / "evil.zip").read_bytes()
    assert not list(tmp_path.rglob("evil.txt"))


# Disks

def test_damage_is_found_named_and_not_served(store, run, tmp_path):
    artifact = log(store, run, "right")
    [blob] = artifact.blob_paths().values()
    blob.chmod(0o644)
    blob.write_text("wrong")
    for use in (artifact.path, lambda: artifact.download(tmp_path / "out"), artifact.blob_paths):
        with pytest.raises(CorruptBlobError, match=artifact.files[0].digest): use()
    assert not list((tmp_path / "out").rglob("*.txt"))
    assert [each.where for each in verify(store).damages] == [("data:v0 data.txt",)]
    log(store, run, "right")  # heals
    assert verify(store).passed


def test_code_that_is_missing_or_corrupted_is_found(store, tmp_path):
    code = write(tmp_path / "features.py", "print(1)")
    write(tmp_path / "table.py", "#" * (LARGEST_BYTES + 1))  # too large to be kept, which is no damage
    run = store.runs.create(project="p", name="n", code_blob=keep_code(store.blobs, tmp_path))
    assert verify(store).passed
    [blob] = [store.blobs.path(each) for each in store.blobs.digests() if store.blobs.read_bytes(each) == b"print(1)"]
    blob.chmod(0o644)
    blob.write_text("print(2)")
    assert [each.where for each in verify(store).damages] == [(f"run {run.id}",)]
    keep_code(store.blobs, tmp_path)  # heals
    assert verify(store).passed and code.read_text() == blob.read_text()
    blob.unlink()
    assert [each.digest for each in verify(store).damages] == [blob.name]


def test_a_full_disk_leaves_nothing_behind(small_disk):
    store = open_store(open_workspace(small_disk))
    run = store.runs.create(project="p", name="n")
    kept = log(store, run, "small")
    large = small_disk.parent / "large"
    large.write_bytes(os.urandom(2 << 20))
    with pytest.raises(StoreFullError): store.artifacts.log(run.id, "large", "dataset", list_files(large))
    assert [each.name for each in store.artifacts.versions()] == ["data"] and kept.path().read_text() == "small"
    assert not list((store.blobs.folder / "incoming").iterdir())


def test_a_store_that_cannot_be_written_can_be_opened(tmp_path, monkeypatch):
    store = open_store(open_workspace(tmp_path))
    store.runs.create(project="p", name="n")
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    assert open_store(open_workspace(tmp_path)).artifacts.versions() == []


# References

@settings(derandomize=True, database=None, deadline=None, max_examples=100)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1,
               max_size=20).filter(lambda name: name not in (".", "..")))
def test_any_path_becomes_a_uri_and_back(name):
    for path in (Path("/home/me") / name, Path("/data") / name):
        assert to_path(to_uri(path, Path("/home/me")), Path("/home/me")) == path


def test_a_moved_workspace_takes_its_references_along(tmp_path):
    first = tmp_path / "งาน 1"
    write(first / "data" / "a b.csv", "1,2")
    store = open_store(open_workspace(first))
    run = store.runs.create(project="p", name="n")
    artifact = store.artifacts.log(run.id, "data", "dataset", {}, references=refer(first / "data", first))
    assert [each.reference for each in artifact.files] == ["file:data/a%20b.csv"] and not list(store.blobs.digests())
    second = first.rename(tmp_path / "second")
    moved = open_store(open_workspace(second)).artifacts.use(None, "data")
    assert moved.path() == second / "data" / "a b.csv"
    write(second / "data" / "a b.csv", "1,3")
    with pytest.raises(ArtifactError, match=artifact.files[0].digest): moved.path()
    (second / "data" / "a b.csv").unlink()
    with pytest.raises(ArtifactError, match="is not there any more"): moved.path()


def test_a_copy_and_a_reference_are_two_versions(store, run, tmp_path):
    copied = log(store, run, "data")
    referred = store.artifacts.log(run.id, "data", "dataset", {}, references=refer(tmp_path / "data.txt", tmp_path))
    assert (copied.version, referred.version) == ("v0", "v1") and copied.files[0].digest == referred.files[0].digest
    assert log(store, run, "data").version == "v0"


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *_): pass

    def do_GET(self):
        if self.path != "/broken.csv": return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Length", "100")
        self.end_headers()
        self.wfile.write(b"half")


@pytest.fixture
def site(tmp_path):
    folder = tmp_path / "site"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_urls_are_read_once_checked_and_kept(store, run, site, tmp_path):
    folder, url = site
    write(folder / "a.csv", "1,2")
    artifact = store.artifacts.log(run.id, "data", "dataset", {}, references=refer(f"{url}/a.csv"))
    assert (artifact.size_bytes, artifact.files[0].path) == (3, "a.csv")
    path = artifact.path()
    assert path.read_text() == "1,2" and path.is_relative_to(store.workspace.store_dir / "artifacts")
    write(folder / "a.csv", "1,3")
    assert artifact.path() == path  # kept
    path.unlink()
    with pytest.raises(ArtifactError, match="has changed"): artifact.path()
    with pytest.raises(ArtifactError, match="broke off after 4 of 100 bytes"): refer(f"{url}/broken.csv")
    with pytest.raises(ArtifactError, match="404"): refer(f"{url}/none.csv")


def test_runs_log_references(tmp_path, site, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    folder, url = site
    write(folder / "a.csv", "1,2")
    digest = "33f26450bb1ac8e4d3b5e35a4a7a5d1cf0a3f1a5bbb2ac9f0ae40ac7ecbcc18b"
    with start_run("refer", workspace=tmp_path) as run:
        here = run.log_reference(folder / "a.csv", name="here", aliases="best", metadata={"rows": 1})
        with pytest.raises(ArtifactError, match="has changed"): run.log_reference(folder / "a.csv", name="wrong", checksum=digest)
        there = run.log_reference(f"{url}/none.csv", name="there", checksum=f"sha256:{digest.upper()}")
        for refused in ("s3://bucket/key", "ftp://host/a", "https://me:secret@host/a", "file://host/a"):
            with pytest.raises(ArtifactError): run.log_reference(refused, name="refused")
    assert here.aliases == ("best", "latest") and here.path() == folder / "a.csv"
    assert there.files[0].digest == digest
    assert {each.name for each in open_store(open_workspace(tmp_path)).artifacts.versions()} == {"here", "there"}


@pytest.mark.parametrize("name", ["X-Amz-Signature", "X-Amz-Security-Token", "token", "api_key", "key", "sig", "Password",
                                  "AWSAccessKeyId", "X-Goog-Credential"])
def test_a_url_that_opens_for_whoever_has_it_is_refused(name):
    for mark in "?#":
        with pytest.raises(ArtifactError, match="checksum") as caught: refer(f"https://host/a.csv{mark}v=1&{name}=tulip", checksum="0" * 64)
        assert "tulip" not in str(caught.value) and name in str(caught.value)


@pytest.mark.parametrize("url", ["http://[bad", "https://", "http://[::1/a"])
def test_what_is_no_url_is_one_clear_error(url):
    with pytest.raises(ArtifactError, match="it looks like https://"): refer(url, checksum="0" * 64)


# Clearing away

class Lock:
    "Says whether the catalog's write lock is held."

    def __init__(self, catalog, monkeypatch):
        self.held, begin = False, catalog.write

        @contextmanager
        def write():
            with begin() as connection:
                self.held = True
                try: yield connection
                finally: self.held = False

        monkeypatch.setattr(catalog, "write", write)

    def watch(self, monkeypatch, owner, name, seen):
        function = getattr(owner, name)

        def watched(*arguments, **options):
            seen.append((name, self.held))
            return function(*arguments, **options)

        monkeypatch.setattr(owner, name, watched)


def test_nothing_slow_is_done_while_others_wait(store, run, tmp_path, monkeypatch):
    listing = store.blobs.put_bytes(json.dumps({"a.py": store.blobs.put_bytes(b"code").digest}).encode()).digest
    store.runs.create(project="p", name="other", code_blob=listing)
    for text in "12": log(store, run, text).path()
    delete(store, run)
    store.artifacts.versions("data")[1].path()
    found, seen, lock = plan(store, grace_s=0), [], Lock(store.catalog, monkeypatch)
    lock.watch(monkeypatch, garbage.shutil, "rmtree", seen)
    lock.watch(monkeypatch, needed, "read_code", seen)
    collect(store, found, grace_s=0)
    assert seen == [("rmtree", False), ("read_code", False)] and plan(store, grace_s=0).is_empty


def test_what_was_cleared_away_is_put_again_while_nobody_waits(store, run, monkeypatch):
    begin, cleared, seen = store.catalog.write, [], []

    def clear_once_and_begin():
        if not cleared: cleared.extend(map(store.blobs.remove, list(store.blobs.digests())))
        return begin()

    monkeypatch.setattr(store.catalog, "write", clear_once_and_begin)
    lock = Lock(store.catalog, monkeypatch)
    lock.watch(monkeypatch, store.blobs, "put_file", seen)
    assert log(store, run, "data").path().read_text() == "data"
    assert cleared and seen == [("put_file", False), ("put_file", False)]


def test_a_catalog_that_was_copied_clears_nothing(store, run, tmp_path):
    copy = Catalog(f"sqlite:///{tmp_path}/copy.db")
    with pytest.raises(StoreError, match=f"runs are going on.*{run.id}"): copy_catalog(store.catalog, copy, store.workspace.store_dir)
    log(store, run, "1")
    log(store, run, "2")
    delete(store, run)
    before = plan(store, grace_s=0)
    assert [each.reference for each in before.versions] == ["data:v0"]
    copy_catalog(store.catalog, copy, store.workspace.store_dir)
    (tmp_path / "settings.ini").write_text(f"[workspace]\ncatalog = {copy.url}\n")
    team = open_store(open_workspace(tmp_path))
    model = log(team, team.runs.create(project="p", name="train"), "3", name="model")
    for clear in (lambda: plan(store, grace_s=0), lambda: collect(store, before, grace_s=0)):
        with pytest.raises(StoreError, match="belong to its copy .*copy.db"): clear()
    assert model.path().read_text() == "3" and len(team.artifacts.versions()) == 3
    collect(team, plan(team, grace_s=0), grace_s=0)
    assert {each.reference for each in team.artifacts.versions()} == {"data:v1", "model:v0"} and verify(team).passed


def test_a_copy_that_fails_changes_nothing(store, run, tmp_path):
    delete(store, run)
    copy = Catalog(f"sqlite:///{tmp_path}/copy.db")
    log(store, run := store.runs.create(project="p", name="n"), "1")
    store.runs.finish(run.id, "finished")
    with copy.write() as connection: connection.execute(tables.groups.insert().values(id="g", name="g", created_at=0.0))
    with pytest.raises(StoreError, match="rows already"): copy_catalog(store.catalog, copy, store.workspace.store_dir)
    assert plan(store, grace_s=0).is_empty


def test_files_that_cannot_be_removed_are_one_clear_error(store, run, monkeypatch):
    write(store.runs.root / run.id / "journal.jsonl")
    store.runs.finish(run.id, "finished")

    def refuse(path): raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(garbage.shutil, "rmtree", refuse)
    with pytest.raises(StoreError, match="Permission denied"): store.runs.delete(run.id)
    (store.blobs.folder / "incoming").mkdir(parents=True)
    write(store.blobs.folder / "incoming" / f"{'a' * 64}.gone")  # its folder was taken away
    with pytest.raises(StoreError, match="bring back"): collect(store, garbage.Garbage())


def test_what_is_needed_stays(store, tmp_path):
    first, second = (store.runs.create(project="p", name=name, notebook_blob=store.blobs.put_bytes(name.encode()).digest)
                     for name in ("one", "two"))
    versions = [log(store, first, text) for text in ("1", "2", "3", "4")]
    store.artifacts.alias("data:v0", "best")
    store.artifacts.use(second.id, "data:v1")
    versions[2].path()
    delete(store, first)
    assert plan(store).blobs == () and plan(store).waiting == 2  # too young
    found = plan(store, grace_s=0)
    assert [each.reference for each in found.versions] == ["data:v2"] and {each.size_bytes for each in found.blobs} == {1, 3}
    assert plan(store, older_than_s=1000, grace_s=0).versions == ()
    store.artifacts.use(second.id, "data:v2")  # after the plan was made
    gone = collect(store, found, grace_s=0)
    assert gone.versions == () and [each.size_bytes for each in gone.blobs] == [3]  # the notebook of the deleted run
    delete(store, second)
    collect(store, plan(store, grace_s=0), grace_s=0)
    assert sorted(each.version for each in store.artifacts.versions("data")) == ["v0", "v3"]
    assert len(list(store.blobs.digests())) == 2 and verify(store).passed and plan(store, grace_s=0).is_empty


def test_leftovers_of_killed_processes_go(store, run):
    keep, orphan, young = (store.runs.root / name for name in (run.id, "orphan12", "young123"))
    for folder in (keep, orphan, young): write(folder / "journal.jsonl")
    part = write(store.blobs.folder / "incoming" / ".1-ab.part")
    for path in (orphan / "journal.jsonl", orphan, keep / "journal.jsonl", keep, part): os.utime(path, (1e9, 1e9))
    assert {each.path for each in plan(store).leftovers} == {orphan, part}
    collect(store, plan(store))
    assert (keep.exists(), orphan.exists(), young.exists(), part.exists()) == (True, False, True, False)


def test_a_catalog_that_knows_nothing_clears_nothing(store):
    store.blobs.put_bytes(b"data")
    with pytest.raises(StoreError, match="knows no runs"): plan(store, grace_s=0)


def test_a_blob_that_was_half_removed_comes_back(store, run):
    artifact = log(store, run, "data")
    [blob] = artifact.blob_paths().values()
    os.replace(blob, store.blobs.folder / "incoming" / f"{blob.name}.gone")  # as a killed process leaves it
    collect(store, plan(store, grace_s=0), grace_s=0)
    assert artifact.path().read_text() == "data"


def test_a_blob_that_goes_while_it_is_logged_is_put_again(store, run, tmp_path, monkeypatch):
    begin = store.catalog.write

    def clear_away_and_begin():
        for digest in list(store.blobs.digests()): store.blobs.remove(digest)
        return begin()

    monkeypatch.setattr(store.catalog, "write", clear_away_and_begin)
    assert log(store, run, "data").path().read_text() == "data"

    def change_and_begin():
        write(tmp_path / "data.txt", "changed")
        return clear_away_and_begin()

    monkeypatch.setattr(store.catalog, "write", change_and_begin)
    with pytest.raises(ArtifactError, match="was changed while it was logged"): log(store, run, "other")


KILLED = """
import os, signal, sys
from mlops_nb.settings import open_workspace
from mlops_nb.store import garbage
from mlops_nb.store.door import open_store
store, moment, calls = open_store(open_workspace(sys.argv[1])), int(sys.argv[2]), 0
def count(function):
    def counted(*args, **options):
        global calls
        calls += 1
        if calls == moment: os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **options)
    return counted
found = garbage.plan(store, grace_s=0)
os.replace, os.unlink, os.rmdir = map(count, (os.replace, os.unlink, os.rmdir))
garbage.shutil.rmtree = count(garbage.shutil.rmtree)
garbage._remove_blobs = count(garbage._remove_blobs)
garbage.collect(store, found, grace_s=0)
"""


@pytest.mark.parametrize("moment", range(1, 9))
def test_killed_at_any_moment_a_second_one_finishes(store, run, moment):
    other = store.runs.create(project="p", name="other")
    for number in range(4): log(store, run if number < 2 else other, str(number)).path()
    delete(store, run)
    done = subprocess.run([sys.executable, "-c", KILLED, store.workspace.root, str(moment)], capture_output=True, text=True)
    assert done.returncode in (-signal.SIGKILL, 0), done.stderr
    collect(store, plan(store, grace_s=0), grace_s=0)
    assert plan(store, grace_s=0).is_empty and verify(store).passed
    assert {each.version: each.path().read_text() for each in store.artifacts.versions()} == {"v2": "2", "v3": "3"}
    assert len(list(store.blobs.digests())) == 2 and not list((store.blobs.folder / "incoming").iterdir())


WRITER = """
import sys
from pathlib import Path
from mlops_nb.settings import open_workspace
from mlops_nb.store.artifacts import list_files
from mlops_nb.store.door import open_store
store, source = open_store(open_workspace(sys.argv[1])), Path(sys.argv[2])
for number in range(25):
    run = store.runs.create(project="p", name="n")
    source.write_text(str(number % 3))
    store.artifacts.log(run.id, "data", "dataset", list_files(source))
    store.runs.finish(run.id, "finished")
    if number % 2: store.runs.delete(run.id)
"""


def test_clearing_away_beside_writers_loses_nothing(store, tmp_path):
    store.runs.create(project="p", name="n")
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, tmp_path, tmp_path / f"{name}.txt"], stderr=subprocess.PIPE, text=True)
               for name in "ab"]
    while any(each.poll() is None for each in writers): collect(store, plan(store, grace_s=0), grace_s=0)
    assert [each.communicate()[1] for each in writers] == ["", ""]
    assert verify(store).passed
    numbers = [int(each.version[1:]) for each in store.artifacts.versions("data", removed=True)]
    assert sorted(numbers) == list(range(len(numbers)))
    for artifact in store.artifacts.versions("data"): assert artifact.path().read_text() in "012"
