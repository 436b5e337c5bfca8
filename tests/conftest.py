"""What all tests share: an environment of their own, the programs outside Python, an empty catalog on both databases."""
import os

import pytest
import sqlalchemy as sa
import system_packages
from private_postgresql import private_postgresql


LONGEST = ("test_template_tabular", "test_template_digits", "test_models")  # whole pipelines: begun first, so that no worker waits for them


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.stem not in LONGEST)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    "Settings of the caller's shell do not reach into a test"
    for name in list(os.environ):
        if name.startswith(("MLOPS_NB_", "WANDB_")):
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


@pytest.fixture(params=["sqlite", "postgresql"])
def catalog(request, tmp_path):
    "An empty catalog; a test that takes it holds on both databases"
    from mlops_nb.store.catalog import Catalog

    if request.param == "sqlite":
        return Catalog(f"sqlite:///{tmp_path}/what? 100%#.db")
    url = request.getfixturevalue("postgresql_url")
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.execute(sa.text("DROP SCHEMA public CASCADE"))
        connection.execute(sa.text("CREATE SCHEMA public"))
    return Catalog(url)


@pytest.fixture
def runs(catalog, tmp_path):
    from mlops_nb.store.runs import RunStore

    return RunStore(catalog, tmp_path / "runs")


@pytest.fixture
def artifacts(catalog, tmp_path):
    from mlops_nb.store.blobs import BlobStore
    from mlops_nb.store.versions import ArtifactStore

    return ArtifactStore(catalog, BlobStore(tmp_path / "blobs"), tmp_path / "artifacts")
