"""What a store survives: `kill -9` at any moment, a full disk, a store that can only be read, and a clock that steps back."""
import errno
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest.mock import patch

import pytest
import sqlalchemy as sa
from survival import Member, check_all, run_and_kill
from waiting import wait_until

from mlops_nb.settings import StoreError, StoreFullError, open_workspace
from mlops_nb.store.connections import ReadOnlyCatalogError
from mlops_nb.store.door import open_store
from mlops_nb.store.inspection import inspect_store
from mlops_nb.store.journal import read_journal
from mlops_nb.store.late_endings import keep_ending
from mlops_nb.store.runs import settle
from mlops_nb.store.session import start_run


@pytest.fixture(params=["sqlite", "postgresql"])
def folder(request, tmp_path):
    "A workspace whose catalog is on one of the two."
    if request.param == "sqlite":
        yield tmp_path
        return
    with request.getfixturevalue("new_database")() as url:
        (tmp_path / "settings.ini").write_text(f"[workspace]\ncatalog = {url}\n")
        yield tmp_path


@pytest.fixture(autouse=True)
def without_wandb(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")


def problems(store):
    return [problem.message for part in inspect_store(store) for problem in part.problems]


# Killed processes

def test_processes_that_are_killed_lose_nothing(folder, monkeypatch):
    found = check_all(folder, run_and_kill(folder, ["disabled"] * 3, kills=7, pause_s=0.3), monkeypatch)
    assert found["acknowledged"] > 20


# A full disk

@pytest.fixture
def small_disk(tmp_path):
    "A file system of two megabytes, or an ordinary folder for who may not mount one."
    disk = tmp_path / "small disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", disk], capture_output=True).returncode == 0
    yield disk
    if mounted:
        subprocess.run(["umount", "-l", disk], check=True)


@contextmanager
def full(disk, catalog):
    "No byte more can be written; an ordinary folder only seems to be full."
    if os.path.ismount(disk):
        with (disk / "filler").open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(4096)):
                pass
        try:
            yield
        finally:
            (disk / "filler").unlink()
        return

    def no_space(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def limit(connection, _record):
        connection.execute("PRAGMA max_page_count=1")

    sa.event.listen(catalog._engine, "connect", limit)
    with patch("os.write", no_space), patch("mlops_nb.store.blobs.clone_file", no_space):
        yield
    sa.event.remove(catalog._engine, "connect", limit)


def test_a_full_disk_is_one_clear_error_and_what_was_acknowledged_stays(small_disk):
    workspace, large = open_workspace(small_disk), small_disk.parent / "large.bin"
    large.write_bytes(os.urandom(100_000))
    store, run, steps = open_store(workspace), start_run("train", workspace=workspace), []
    for helper in run._helpers:
        helper.stop()  # so that nobody else takes the last bytes
    run.log({"loss": 1.0}, step=0)
    kept = run.log_artifact(large, name="kept", aliases=["best"])
    dead = store.runs.create(project="p", name="dead", pid=2**22 + 1)
    with full(small_disk, run.store.catalog):
        with pytest.raises(StoreFullError, match="free some space"):
            for step in range(1, 1000):
                run.log({"loss": 0.5, "text": "x" * 4000}, step=step)
                steps.append(step)
        large.write_bytes(os.urandom(100_000))
        with pytest.raises(StoreFullError):
            run.log_artifact(large, name="more")
        with pytest.raises(StoreFullError):
            for number in range(1000):
                run.store.runs.annotate(run.id, f"{number}" * 4000)
        assert kept.path().stat().st_size == 100_000
        if os.path.ismount(small_disk):
            with pytest.raises(StoreFullError):
                run.finish()
    run.log({"loss": 0.25}, step=1000)
    assert run.log_artifact(large, name="more").version == "v0"
    run.finish()
    record = store.runs.get(run.id)
    assert (record.status, record.metrics["loss"], store.runs.get(dead.id).status) == ("finished", 0.25, "killed")
    assert [row["_step"] for row in read_journal(run.folder / "journal.jsonl")] == [0, *steps, 1000]
    assert store.artifacts.use(None, "kept:best") == kept and not list((store.blobs.folder / "incoming").iterdir())
    assert problems(store) == []


@pytest.mark.parametrize("error", [StoreFullError, StoreError, ReadOnlyCatalogError])
def test_who_asks_gets_an_answer_where_a_dead_run_cannot_be_settled(folder, error):
    runs = open_store(open_workspace(folder)).runs
    dead = runs.create(project="p", name="dead", pid=2**22 + 1)
    with patch("mlops_nb.store.runs.sum_up", side_effect=error("no")) as asked:
        assert (runs.get(dead.id).status, asked.called) == ("running", True)
    assert runs.get(dead.id).status == "killed"


# A store that can only be read

@contextmanager
def read_only(folder):
    "Nobody may write in a folder: mounted so where this user may do that, else by permissions, which bind everybody but root."
    if subprocess.run(["mount", "--bind", folder, folder], capture_output=True).returncode == 0:
        try:
            subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
            yield
        finally:
            subprocess.run(["umount", "-l", folder], check=True)
        return
    modes = {path: path.stat().st_mode for path in [folder, *folder.rglob("*")]}
    for path, mode in modes.items():
        path.chmod(mode & 0o555)
    try:
        yield
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


KILLED_IN_SQLITE = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("UPDATE runs SET note = 'in the log' WHERE id = 'endedaaa'")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_store_that_can_only_be_read_answers(folder):
    store = open_store(open_workspace(folder))
    store.runs.create(project="p", name="before", status="finished")
    writer = Member("write", "w0", folder)
    wait_until(lambda: store.artifacts.versions("shared"), timeout_s=60)
    writer.kill()
    store.runs.create(id="endedaaa", project="p", name="ended", pid=2**22 + 1)
    keep_ending(store.runs.folder("endedaaa"), {"status": "finished", "ended_at": 1.0})
    on_server = store.catalog.path is None
    if not on_server:
        subprocess.run([sys.executable, "-c", KILLED_IN_SQLITE, store.catalog.path])
        assert store.catalog.path.with_name("catalog.db-wal").stat().st_size
    with read_only(store.workspace.store_dir):
        reader = open_store(open_workspace(folder))
        assert on_server or reader.runs.get("endedaaa").note == "in the log"
        assert reader.runs.get("endedaaa").status == ("finished" if on_server else "running")
        assert ("running" in {each.status for each in reader.runs.list()}) != on_server
        assert reader.artifacts.versions("shared")[0].blob_paths() and problems(reader) == []
        with pytest.raises(StoreError, match="Read-only|only be read|cannot be made|Permission"):
            start_run("refused", workspace=open_workspace(folder))
    assert "running" not in {each.status for each in store.runs.list()} and store.runs.get("endedaaa").status == "finished"
    assert problems(store) == []


# A clock that steps back

def test_a_clock_that_steps_back_in_a_run_confuses_nothing(folder):
    workspace, clock, source = open_workspace(folder), time.time, folder / "data.csv"
    store, run = open_store(workspace), start_run("train", workspace=workspace)

    def log(step):
        source.write_text(str(step))
        run.log({"loss": 1 / (step + 1)}, step=step)
        return run.log_artifact(source, name="data").version

    versions = [log(0), log(1)]
    with patch("time.time", lambda: clock() - 3600):
        versions += [log(2), log(3)]
        assert store.artifacts.use(run.id, "data:latest").version == "v3"
        store.runs.renew(run.id)
        with patch("mlops_nb.store.snapshot.host_identity", return_value="another computer"):
            assert settle(store.runs) == []  # the lease has not run out, for whoever asks
        assert (settle(store.runs), store.runs.get(run.id).status) == ([], "running")
        run.finish()
        later = start_run("later", workspace=workspace)
        assert [each.name for each in store.runs.list()] == ["later", "train"] and store.runs.get("latest").id == later.id
        later.finish()
    record = store.runs.get(run.id)
    assert (versions, record.status, record.journal_rows) == (["v0", "v1", "v2", "v3"], "finished", 4)
    assert record.duration_s >= 0 and record.metrics == {"loss": 0.25}
    assert [row["_step"] for row in read_journal(run.folder / "journal.jsonl")] == [0, 1, 2, 3]
    moves = [each.version for each in store.artifacts.alias_history("data") if each.alias == "latest"]
    assert moves == versions and problems(store) == []


# What a deep look finds

def damage(store, artifact, what):
    "Something that no process of mlops_nb does."
    if what == "blob":
        path = next(iter(artifact.blob_paths().values()))
        path.chmod(0o644)
        path.write_text("other")
    elif what == "lost blob":
        store.blobs.remove(artifact.files[0].digest)
    elif what == "laid-out file":
        artifact.path().unlink()
        store.artifacts.folder(artifact).joinpath("data.csv").write_text("other")
    elif what == "link":
        (store.artifacts.folder(artifact) / "link").symlink_to("/etc/passwd")
    elif what == "run folder":
        shutil.rmtree(store.runs.folder(artifact.run_id))
    elif what == "journal":
        (store.runs.folder(artifact.run_id) / "journal.jsonl").write_text("")
    elif what == "stray file":
        (store.runs.root / "notes.txt").write_text("")
    else:
        with sqlite3.connect(store.catalog.path) as connection:
            connection.execute(what)


@pytest.mark.parametrize("what, message", [
    ("blob", "data:v0 data.csv"), ("lost blob", "no blob"), ("laid-out file", "is not what was logged"), ("link", "is a link"),
    ("run folder", "has no folder"), ("journal", "logged 1 row, and 0 are left"), ("stray file", "is not the folder of a run"),
    ("DELETE FROM runs", "edges: 1 row of a run_id that is not there"), ("DELETE FROM artifact_files", "has 0 files"),
    ("DELETE FROM aliases", "data:latest is not where it was moved last"),
    ("UPDATE artifacts SET removed_at = 1", "which was removed all the same"),
    ("UPDATE artifacts SET digest = 'other'", "do not make its digest"),
])
def test_a_deep_look_finds_each_kind_of_damage(tmp_path, what, message):
    (tmp_path / "data.csv").write_text("data")
    with start_run("prepare", workspace=tmp_path) as run:
        run.log({"rows": 4})
        artifact = run.log_artifact(tmp_path / "data.csv")
        artifact.path()
    store = open_store(open_workspace(tmp_path))
    store.runs.create(project="p", name="other")
    assert problems(store) == []
    damage(store, artifact, what)
    found = [problem for part in inspect_store(store) for problem in part.problems]
    assert message in " ".join(each.message for each in found) and all(each.advice for each in found)


def test_doctor_says_it_in_80_columns_and_by_its_status(tmp_path, monkeypatch):
    monkeypatch.setenv("MLOPS_NB_WORKSPACE", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "data.csv").write_text("data")
    with start_run("prepare", workspace=tmp_path) as run:
        artifact = run.log_artifact(tmp_path / "data.csv")
    program = Path(sys.executable).with_name("mlops-nb")
    sound = subprocess.run([program, "doctor", "--deep"], capture_output=True, text=True)
    damage(open_store(open_workspace(tmp_path)), artifact, "blob")
    unseen = subprocess.run([program, "doctor"], capture_output=True, text=True)
    found = subprocess.run([program, "doctor", "--deep"], capture_output=True, text=True)
    assert (sound.returncode, unseen.returncode, found.returncode) == (0, 0, 1), found.stdout + found.stderr
    digest = artifact.files[0].digest
    assert any(line.rstrip().endswith(f"mlops-nb lineage sha256:{digest[:12]}") for line in found.stdout.splitlines())
    assert digest[:16] not in found.stdout
    assert "data:v0 data.csv" in found.stdout and "gc finds 0 versions" in sound.stdout
    assert all(len(line) <= 80 for line in (sound.stdout + found.stdout).splitlines())
