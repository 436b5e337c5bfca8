"""What all tests share: an environment of their own, the programs outside Python, an empty catalog on both databases, public tables."""
import os
import shutil
import signal
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import hypothesis
import pytest
import sqlalchemy as sa
import system_packages
from lab_pages import browser, lab, page  # noqa: F401
from private_postgresql import private_postgresql

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in what a shell starts in the background; what tests start inherits it
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in each run, however slow the machine is
hypothesis.settings.register_profile("tests", derandomize=True, database=None, deadline=None)
hypothesis.settings.load_profile("tests")

# Begun first, the longest before the others, so that no worker is still at one of them when the others are done
LONGEST = ("test_template_automl", "test_sweeps", "test_template_tabular", "test_executors", "test_kill_matrix",
           "test_warm_kernels", "test_models", "test_template_digits", "test_papermill_parity", "test_engine", "test_wandb_sync",
           "test_reproduce", "test_many_runs", "test_cli", "test_wheel")
PLACES = {name: place for place, name in enumerate(LONGEST)}

TABLES = Path(os.environ.get("TABLES") or Path(__file__).parents[2] / "shared" / "data")  # public tables, where somebody has put them


def is_possible(item):
    "Whether the public tables are here that a test is about; generated ones and those of scikit-learn cover the same code"
    return all((TABLES / name).exists() for mark in item.iter_markers("public_table") for name in mark.args)


def pytest_collection_modifyitems(config, items):
    absent = [item for item in items if not is_possible(item)]
    if absent:
        config.hook.pytest_deselected(items=absent)
    items[:] = sorted(filter(is_possible, items), key=lambda item: PLACES.get(item.path.stem, len(PLACES)))


@pytest.fixture(scope="session")
def public_tables():
    "The folder of public tables; a test that reads one is marked `public_table(name)`"
    return TABLES


@pytest.fixture(scope="session", autouse=True)
def wandb_config_folder(tmp_path_factory):
    "W&B's settings of whoever runs the tests are neither read nor written"
    with pytest.MonkeyPatch.context() as session:
        session.setenv("WANDB_CONFIG_DIR", str(tmp_path_factory.mktemp("wandb-config")))
        yield


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    "Settings of the caller's shell do not reach into a test"
    for name in list(os.environ):
        if name.startswith(("MLOPS_NB_", "WANDB_")) and name != "WANDB_CONFIG_DIR":
            monkeypatch.delenv(name)
    monkeypatch.setenv("MPLBACKEND", "Agg")


@pytest.fixture(scope="session")
def chromium():
    "Path of a Chromium, for `playwright.chromium.launch(executable_path=chromium)`"
    return system_packages.CHROMIUM.find() or pytest.skip(system_packages.CHROMIUM.how_to_get)


@pytest.fixture(scope="session")
def postgresql_url():
    "SQLAlchemy URL of an empty PostgreSQL server, which listens on a socket of its own and goes with the tests"
    programs = system_packages.POSTGRESQL.find() or pytest.skip(system_packages.POSTGRESQL.how_to_get)
    with private_postgresql(programs) as url:
        yield url


@pytest.fixture(scope="session")
def new_database(postgresql_url):
    "`with new_database(template, more) as url`: a database of one's own on the server; `more` is SQL"
    engine, numbers = sa.create_engine(postgresql_url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool), count()

    @contextmanager
    def make(template="template0", more=""):
        name = f"test{next(numbers)}"
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name} TEMPLATE {template} {more}")
        yield str(sa.make_url(postgresql_url).set(database=name))
        with engine.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")

    return make


@pytest.fixture(scope="session")
def empty_file(tmp_path_factory):
    "An empty catalog on SQLite. Copies of it are there at once, migrations take a tenth of a second"
    return migrated(f"sqlite:///{tmp_path_factory.mktemp('empty')}/catalog.db").path


@pytest.fixture(scope="session")
def empty_database(new_database):
    "The name of a database with an empty catalog, to be copied"
    with new_database() as url:
        migrated(url)
        yield sa.make_url(url).database


def migrated(url):
    from mlops_nb.store.catalog import Catalog

    catalog = Catalog(url)
    with catalog.read():
        pass
    catalog._engine.dispose()
    return catalog


@pytest.fixture(params=["sqlite", "postgresql"])
def catalog(request, tmp_path):
    "An empty catalog; a test that takes it holds on both databases"
    from mlops_nb.store.catalog import Catalog

    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("empty_file"), tmp_path / "what? 100%#.db")
        yield Catalog(f"sqlite:///{tmp_path}/what? 100%#.db")
        return
    with request.getfixturevalue("new_database")(request.getfixturevalue("empty_database")) as url:
        yield Catalog(url)


@pytest.fixture
def runs(catalog, tmp_path):
    from mlops_nb.store.runs import RunStore

    return RunStore(catalog, tmp_path / "runs")


@pytest.fixture
def artifacts(catalog, tmp_path):
    from mlops_nb.store.blobs import BlobStore
    from mlops_nb.store.versions import ArtifactStore

    return ArtifactStore(catalog, BlobStore(tmp_path / "blobs"), tmp_path / "artifacts")


@pytest.fixture
def store(tmp_path, monkeypatch):
    "The store of a workspace without runs, which is the current folder"
    from mlops_nb.settings import open_workspace
    from mlops_nb.store.door import open_store

    (tmp_path / "settings.ini").write_text("[workspace]\nproject = digits\n")
    monkeypatch.chdir(tmp_path)
    return open_store(open_workspace(tmp_path))
