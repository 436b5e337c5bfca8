"""A team's catalog: a server that is away, refuses or comes back; older and copied catalogs; clocks and users that cannot be relied on."""

import gc
import json
import logging
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path
from unittest.mock import patch

import nbformat
import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mlops_nb import start_run
from mlops_nb.cli import main
from mlops_nb.commands.catalog import line_for_settings
from mlops_nb.settings import MissingExtraError, StoreError, open_workspace
from mlops_nb.store import tables
from mlops_nb.store.artifacts import list_files
from mlops_nb.store.blobs import BlobStore
from mlops_nb.store.catalog import REVISION, Catalog
from mlops_nb.store.catalog_copy import copy_catalog
from mlops_nb.store.connections import CatalogLostError, ReadOnlyCatalogError
from mlops_nb.store.door import open_store
from mlops_nb.store.runs import RunStore, settle
from mlops_nb.store.schema_versions import _migrate
from mlops_nb.store.versions import ArtifactStore
from waiting import wait_until

BOTH = ["sqlite", "postgresql"]


@pytest.fixture
def server(new_database):
    "The URL of an empty database on the server, in UTF-8 and with a person's order of letters where the server has one."
    with new_database(more="LOCALE_PROVIDER icu ICU_LOCALE 'en-US' LOCALE 'C.UTF-8'") as url:
        yield url


@pytest.fixture(params=BOTH)
def url(request, tmp_path):
    "The URL of an empty catalog."
    return f"sqlite:///{tmp_path}/แคตตาล็อก 100%.db" if request.param == "sqlite" else request.getfixturevalue("server")


@pytest.fixture
def runs(url, tmp_path):
    return RunStore(Catalog(url), tmp_path / "runs")


def test_a_catalog_that_nobody_uses_any_more_leaves_no_connection(server):
    engine = sa.create_engine(server, poolclass=sa.NullPool)

    def connections():
        with engine.connect() as connection:
            return connection.exec_driver_sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'left'").scalar()

    catalog = Catalog(f"{server}{'&' if '?' in server else '?'}application_name=left")
    with catalog.read():
        pass
    assert connections() == 1
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        del catalog
        gc.collect()
    wait_until(lambda: connections() == 0)
    assert not [each for each in said if issubclass(each.category, ResourceWarning)]


def execute(url, *statements):
    "Statements by a driver of their own, outside the package."
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        return [connection.exec_driver_sql(each) for each in statements]


# Migration

def make_old(url, revision):
    "A catalog of an earlier schema with two runs in it."
    with patch("mlops_nb.store.catalog.REVISION", revision):
        with Catalog(url).write() as connection:
            for run_id in ("a1b2c3d4", "e5f6a7b8"):
                connection.execute(sa.text(
                    "INSERT INTO runs (id, project, name, status, created_at, parameters, metrics, hardware) VALUES "
                    f"""('{run_id}', 'p', 'n', 'failed', 1e9, '{{"model": {{"width": 8}}}}', '{{"loss": 0.5, "bad": "NaN"}}', '{{}}')"""))


def backups(catalog):
    "The copies that migrations kept: (name, rows)."
    if catalog.path:
        found = sorted(catalog.path.parent.glob("*.before-*"))
        return [(each.name, sqlite3.connect(each).execute("SELECT count(*) FROM runs").fetchone()[0]) for each in found]
    with catalog.read() as connection:
        names = [each for each in sa.inspect(connection).get_schema_names() if each.startswith("mlops_nb_before_")]
        return [(name, connection.exec_driver_sql(f"SELECT count(*) FROM {name}.runs").scalar()) for name in names]


@pytest.mark.parametrize("revision", ["0001", "0002"])
def test_an_older_catalog_is_kept_and_migrated(url, tmp_path, revision, caplog):
    make_old(url, revision)
    catalog = Catalog(url)
    with caplog.at_level(logging.WARNING, "mlops_nb"):
        records = RunStore(catalog, tmp_path / "runs").list()
    assert {each.id: each.parameters for each in records} == dict.fromkeys(("a1b2c3d4", "e5f6a7b8"), {"model": {"width": 8}})
    with catalog.read() as connection:
        assert connection.execute(sa.select(tables.run_metrics.c.name, tables.run_metrics.c.value)).all() == [("loss", 0.5)] * 2
        assert connection.execute(sa.select(tables.run_parameters.c.name, tables.run_parameters.c.number)).all() == [("model.width", 8)] * 2
    [(name, rows)] = backups(catalog)
    assert rows == 2 and name in caplog.text and f"from schema {revision} to {REVISION}" in caplog.text


def test_two_that_open_an_old_catalog_migrate_it_once(url):
    make_old(url, "0002")
    gate, opened = threading.Barrier(3), []

    def read():
        gate.wait()
        with Catalog(url).read() as connection:
            opened.append(connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar())

    threads = [threading.Thread(target=read) for _ in range(3)]
    [each.start() for each in threads]
    [each.join(timeout=60) for each in threads]
    assert opened == [REVISION] * 3 and len(backups(Catalog(url))) == 1


def _migrate_and_fail(connection, revision):
    "All statements of the migration, and then a failure before its end."
    _migrate(connection, revision)
    raise RuntimeError("half-way")


def test_a_migration_that_fails_leaves_the_old_catalog(url):
    make_old(url, "0001")
    catalog = Catalog(url)
    with patch("mlops_nb.store.schema_versions._migrate", side_effect=_migrate_and_fail), pytest.raises(RuntimeError, match="half-way"):
        catalog.read().__enter__()
    with patch("mlops_nb.store.catalog.REVISION", "0001"), Catalog(url).read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM runs").scalar() == 2
        assert not sa.inspect(connection).has_table("run_metrics")
        assert "attempt" not in [each["name"] for each in sa.inspect(connection).get_columns("runs")]
    assert len(RunStore(Catalog(url), Path("runs")).list()) == 2


def test_a_full_disk_leaves_the_old_catalog(tmp_path):
    url = f"sqlite:///{tmp_path}/catalog.db"
    make_old(url, "0002")
    full = OSError(28, "No space left on device")
    with patch("mlops_nb.store.schema_versions._flush", side_effect=full), pytest.raises(StoreError, match="space"):
        Catalog(url).read().__enter__()
    assert sorted(each.name for each in tmp_path.iterdir() if "-wal" not in each.name and "-shm" not in each.name) == ["catalog.db"]
    assert len(RunStore(Catalog(url), tmp_path / "runs").list()) == 2


def test_a_second_migration_in_the_same_second_overwrites_nothing(tmp_path):
    url = f"sqlite:///{tmp_path}/catalog.db"
    make_old(url, "0001")
    for revision in ("0002", "0003"):
        with patch("mlops_nb.store.catalog.REVISION", revision), \
                patch("mlops_nb.store.schema_versions._names", return_value=["k-1", "k-2"]):
            Catalog(url).read().__enter__()
    versions = [sqlite3.connect(tmp_path / name).execute("SELECT version_num FROM alembic_version").fetchone() for name in ("k-1", "k-2")]
    assert versions == [("0001",), ("0002",)]


# Servers that refuse

def test_what_a_server_refuses_is_one_clear_error(server, tmp_path):
    execute(server, "CREATE ROLE reader LOGIN PASSWORD 'tulip'", "CREATE ROLE writer LOGIN PASSWORD 'tulip'")
    try:
        Catalog(server).read().__enter__()
        execute(server, "GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
        reader = RunStore(Catalog(str(sa.make_url(server).set(username="reader"))), tmp_path / "runs")
        RunStore(Catalog(server), tmp_path / "runs").create(project="p", name="n", host="other", lease_expires_at=1.0)
        assert [each.status for each in reader.list()] == ["running"]  # it should be settled, which a reader may not do
        with pytest.raises(ReadOnlyCatalogError, match="permission denied for table runs; it can only be read"):
            reader.create(project="p", name="n")
        make_old_schema = "UPDATE alembic_version SET version_num = '0002'"
        execute(server, make_old_schema)
        with pytest.raises(StoreError, match="permission denied for database .*; it has schema 0002 .* GRANT CREATE"):
            Catalog(reader.catalog.url).read().__enter__()
        execute(server, "UPDATE alembic_version SET version_num = '0003'")
    finally:
        execute(server, "DROP OWNED BY reader", "DROP ROLE reader", "DROP ROLE writer")


@pytest.mark.parametrize("change, message", [
    ({"database": "nowhere"}, 'database "nowhere" does not exist'),
    ({"username": "nobody"}, 'role "nobody" does not exist'),
    ({"query": {"host": "/tmp/no such folder"}}, "cannot be used: connection"),
    ({"host": "127.0.0.1", "port": 9, "query": {}}, "127.0.0.1"),
    ({"drivername": "postgresql+pigeon"}, "needs a driver"),
])
def test_a_server_that_is_not_there_is_named_without_its_password(postgresql_url, change, message):
    url = sa.make_url(postgresql_url).set(password="tulip").set(**change).render_as_string(hide_password=False)
    with pytest.raises(StoreError, match=message) as caught, Catalog(url).read():
        pass
    assert "tulip" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_driver_names_its_installation(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'mlops_nb\[postgresql\]'"), Catalog("postgresql://ada@db/ml").read():
        pass


def test_another_schema_of_the_server_is_used(server, tmp_path):
    url = f"{server}&options=-csearch_path%3Dml"
    with pytest.raises(StoreError, match="make that schema first"):
        Catalog(url).read().__enter__()
    execute(server, "CREATE SCHEMA ml")
    make_old(url, "0002")
    assert len(RunStore(Catalog(url), tmp_path / "runs").list()) == 2
    with Catalog(server).read() as connection:
        assert sa.inspect(connection).has_table("runs", schema="ml")
        assert connection.exec_driver_sql("SELECT count(*) FROM public.runs").scalar() == 0


# A server that goes away and comes back

class Door:
    "A port before the server's socket that can be shut, which ends all connections through it."

    def __init__(self, url):
        host = sa.make_url(url).query["host"]
        self.socket_path, self.open, self.pairs, self.lock = f"{host}/.s.PGSQL.5432", True, [], threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = sa.make_url(url).set(host="127.0.0.1", port=self.listener.getsockname()[1], query={}).render_as_string()
        self.thread = threading.Thread(target=self._accept, daemon=True)
        self.thread.start()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            with self.lock:
                if not self.open:
                    client.close()
                    continue
                server = socket.socket(socket.AF_UNIX)
                server.connect(self.socket_path)
                self.pairs += [client, server]
            for pair in ((client, server), (server, client)):
                threading.Thread(target=self._carry, args=pair, daemon=True).start()

    def _carry(self, source, target):
        try:
            while data := source.recv(65536):
                target.sendall(data)
        except OSError:
            pass
        for each in (source, target):
            each.close()

    def shut(self):
        with self.lock:
            self.open = False
            for each in self.pairs:
                try:
                    each.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def close(self):
        "For good. A listener that is closed while a thread waits on it would go on listening."
        self.shut()
        self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join(10)
        self.listener.close()


@pytest.fixture
def door(server):
    door = Door(server)
    yield door
    door.close()


@pytest.fixture
def team(door, tmp_path, monkeypatch):
    "A workspace whose catalog is behind the door, without W&B for speed."
    monkeypatch.setenv("WANDB_MODE", "disabled")
    (tmp_path / "settings.ini").write_text(f"[workspace]\ncatalog = {door.url}\n")
    return open_workspace(tmp_path)


def test_a_run_goes_on_while_the_server_is_away(team, door, tmp_path):
    run = start_run("train", workspace=team)
    door.shut()
    run.log({"loss": 0.5})
    run.config.update({"epochs": 8})
    run.summary["best"] = 0.25
    with patch("mlops_nb.store.run_writer.PATIENCE_S", 0.3):
        run.finish()
    with pytest.raises(CatalogLostError):
        open_store(team).runs.list()
    door.open = True
    record = open_store(team).runs.get(run.id)
    assert (record.status, record.metrics, record.parameters) == ("finished", {"loss": 0.5, "best": 0.25}, {"epochs": 8})
    assert not (run.folder / "ending.json").exists()


def test_a_run_waits_for_a_server_that_comes_back(team, door):
    run = start_run("train", workspace=team)
    door.shut()
    threading.Timer(0.5, lambda: setattr(door, "open", True)).start()
    run.finish(status="cancelled")
    assert open_store(team).runs.get(run.id).status == "cancelled"


# Several computers

def test_leases_decide_between_computers(server, tmp_path):
    runs = RunStore(Catalog(server), tmp_path / "runs")
    with patch("mlops_nb.store.snapshot.host_identity", return_value="another computer"):
        lost, living = (runs.create(project="p", name=name) for name in ("lost", "living"))
    with patch("time.time", return_value=time.time() + 3600):  # this computer's clock is wrong; the server's is not
        assert settle(runs) == []
    with runs.catalog.write() as connection:
        connection.execute(tables.runs.update().where(tables.runs.c.id == lost.id).values(lease_expires_at=runs.catalog.clock() - 1))
    assert settle(runs) == [lost.id]
    assert {each.name: each.status for each in runs.list()} == {"lost": "killed", "living": "running"}


def test_commands_work_on_a_server(server, tmp_path):
    folder, environ = tmp_path / "workspace", {**os.environ, "WANDB_MODE": "disabled", "MLOPS_NB_CATALOG": ""}
    folder.mkdir()
    (folder / "settings.ini").write_text(f"[workspace]\ncatalog = {server}\n[kernels]\nwarm = false\n")
    cell = "from mlops_nb import start_run\nrun = start_run()\nrun.log({'loss': 0.5})\nrun.log_artifact('settings.ini', name='data')"
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    content = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)], metadata={"kernelspec": kernel})
    nbformat.write(content, folder / "train.ipynb")
    environ.pop("MLOPS_NB_CATALOG")

    def call(*words):
        command = [sys.executable, "-c", "from mlops_nb.cli import main; main()", *words]
        return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=120)

    done = call("run", "train.ipynb")
    assert done.returncode == 0, done.stderr
    [record] = json.loads(call("runs", "list", "--json").stdout)
    assert (record["status"], record["metrics"]) == ("finished", {"loss": 0.5})
    assert "train" in call("lineage", "data").stdout
    assert "schema" in call("doctor").stdout
    copied = call("catalog", "copy", f"sqlite:///{folder}/back.db")
    assert copied.returncode == 0 and "1 of them runs" in copied.stdout
    (folder / "settings.ini").write_text("[workspace]\ncatalog = postgresql://ada:tulip@127.0.0.1:9/ml\n")
    for words in (["runs", "list"], ["doctor"], ["doctor", "--json"]):
        refused = call(*words)
        assert refused.returncode == (2 if words[0] == "runs" else 1) and "tulip" not in refused.stdout + refused.stderr


# Copies

def test_a_catalog_is_copied_whole_there_and_back(server, tmp_path):
    start, team, back = Catalog(f"sqlite:///{tmp_path}/start.db"), Catalog(server), Catalog(f"sqlite:///{tmp_path}/back.db")
    runs, blobs = RunStore(start, tmp_path / "runs"), BlobStore(tmp_path / "blobs")
    artifacts = ArtifactStore(start, blobs, tmp_path / "artifacts")
    run = runs.create(project="p", name="ชื่อ", parameters={"fill": float("nan"), "n": 10**30}, tags=["b", "A"], request={"fill": "NaN"})
    path = tmp_path / "data.txt"
    path.write_text("1")
    artifacts.log(run.id, "data", "dataset", list_files(path), ("best",))
    runs.finish(run.id, "finished", metrics={"loss": float("inf")})
    counts = copy_catalog(start, team)
    assert copy_catalog(team, back) == counts and counts["runs"] == 1
    records = [RunStore(each, tmp_path / "runs").get(run.id) for each in (start, team, back)]
    assert repr(records[0]) == repr(records[1]) == repr(records[2])
    path.write_text("2")
    assert ArtifactStore(team, blobs, tmp_path / "artifacts").log(run.id, "data", "dataset", list_files(path)).version == "v1"
    with pytest.raises(StoreError, match="rows already"):
        copy_catalog(back, team)


@pytest.mark.parametrize("url, line", [
    ("sqlite:///c 2.db", "catalog = sqlite:///{}/c 2.db\n"),
    ("sqlite:////{}/c2.db", None),
])
def test_a_copy_is_named_so_that_it_is_found_from_anywhere(tmp_path, monkeypatch, url, line):
    (tmp_path / "settings.ini").write_text("[workspace]\nproject = p\n")
    runs = open_store(open_workspace(tmp_path)).runs
    runs.finish(runs.create(project="p", name="kept").id, "finished")
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    monkeypatch.setenv("COLUMNS", "80")
    url = url.format(str(tmp_path / "sub").lstrip("/"))
    done = CliRunner().invoke(main, ["catalog", "copy", url])
    assert done.exit_code == 0, done.output
    setting = done.stdout.split("[workspace]:\n")[1]
    assert line is None or setting == line.format(tmp_path / "sub")
    (tmp_path / "settings.ini").write_text(f"[workspace]\n{setting}")
    assert [each.name for each in open_store(open_workspace(tmp_path)).runs.list()] == ["kept"]


def test_the_line_for_the_settings_holds_no_password():
    line, secret = line_for_settings("postgresql+psycopg://ada:tulip@db/ml?sslpassword=tulip&sslmode=require")
    assert (line, secret) == ("catalog = postgresql+psycopg://ada@db/ml?sslmode=require", True)


# Clocks, users and values

def test_the_latest_run_is_the_last_one_also_when_the_clock_steps_back(runs):
    now = time.time()
    for number, moment in enumerate((now, now - 3600, now - 3600, now - 1800)):
        with patch("time.time", return_value=moment):
            runs.create(project="p", name=f"run {number}")
            assert runs.get("latest").name == f"run {number}"
    with patch("time.time", return_value=now - 7200):
        runs.finish(runs.get("latest").id, "finished")
    assert [each.name for each in runs.list()] == [f"run {number}" for number in (3, 2, 1, 0)]
    assert runs.get("latest").duration_s == 0


def test_versions_keep_their_order_when_the_clock_steps_back(runs, tmp_path):
    artifacts = ArtifactStore(runs.catalog, BlobStore(tmp_path / "blobs"), tmp_path / "artifacts")
    run, now = runs.create(project="p", name="n"), time.time()
    for number in range(3):
        (tmp_path / "a.txt").write_text(str(number))
        with patch("time.time", return_value=now - 1000 * number):
            assert artifacts.log(run.id, "data", "dataset", list_files(tmp_path / "a.txt")).version == f"v{number}"
        assert artifacts.use(None, "data:latest").version == f"v{number}"


READER = """
import os, sys
from pathlib import Path
import sqlalchemy.dialects.sqlite
from mlops_nb.store.catalog import Catalog
from mlops_nb.store.runs import RunStore
os.setgid(65534); os.setuid(65534)  # after the imports: Python itself may lie in a folder of root's
runs = RunStore(Catalog(f"sqlite:///{sys.argv[1]}/catalog.db"), Path(sys.argv[1]) / "runs")
print([each.name for each in runs.list()])
try: runs.annotate(runs.list()[0].id, "no")
except Exception as error: print(type(error).__name__, error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_a_catalog_that_cannot_be_written_is_read():
    folder = Path(tempfile.mkdtemp(prefix="read only ? "))
    try:
        folder.chmod(0o755)
        runs = RunStore(Catalog(f"sqlite:///{folder}/catalog.db"), folder / "runs")
        runs.create(project="p", name="kept", host="another computer", lease_expires_at=1.0)
        (folder / "catalog.db").chmod(0o644)
        before = sorted(each.name for each in folder.iterdir())
        done = subprocess.run([sys.executable, "-c", READER, str(folder)], capture_output=True, text=True, cwd="/", timeout=60)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("['kept']\nReadOnlyCatalogError ") and "only be read" in done.stdout
        assert sorted(each.name for each in folder.iterdir()) == before
    finally:
        shutil.rmtree(folder)


ANY = st.characters(exclude_categories=())  # halves of characters, too
numbers = st.integers() | st.floats() | st.booleans() | st.integers(10**300, 10**400)
texts = st.text(ANY, max_size=40) | st.text(ANY, min_size=3000, max_size=3100)
names = texts.filter(lambda text: len(text) < 100)
values = st.dictionaries(names, numbers | texts | st.none() | st.lists(numbers, max_size=3), max_size=4)


@pytest.fixture
def pair(server, tmp_path):
    "The runs of an SQLite and of a PostgreSQL catalog."
    return [RunStore(Catalog(url), tmp_path / "runs") for url in (f"sqlite:///{tmp_path}/catalog.db", server)]


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate], derandomize=True)
@given(name=names, parameters=values, metrics=values, tags=st.sets(st.text(max_size=8), max_size=3))
def test_both_databases_keep_the_same(pair, name, parameters, metrics, tags):
    seen = []
    for runs in pair:
        run = runs.create(project="p", name=name, parameters=parameters, tags=tags)
        runs.finish(run.id, "finished", metrics=metrics)
        record = runs.get(run.id)
        with runs.catalog.read() as connection:
            rows = [sorted(map(repr, connection.execute(sa.select(*list(table.c)[1:]).where(table.c.run_id == run.id)).all()))
                    for table in (tables.run_metrics, tables.run_parameters)]
        seen.append(repr((record.name, record.parameters, record.metrics, record.tags, rows, runs.get(name or run.id).name)))
    assert seen[0] == seen[1]
