"""What all tests share: an environment without the caller's own settings, and the programs outside Python."""
import os

import pytest
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
