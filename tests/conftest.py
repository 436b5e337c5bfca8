"""What all tests share: an environment without the caller's own settings, and the programs outside Python."""
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
import system_packages


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
    owner = "postgres" if os.geteuid() == 0 else None  # the server refuses to run as root
    folder = Path(tempfile.mkdtemp(prefix="mlops-nb-pg-"))
    if owner:
        shutil.chown(folder, owner)

    def call(program, *arguments):
        environ = dict(os.environ, LC_ALL="C.UTF-8")
        command = [f"{programs}/{program}", "-D", str(folder / "data"), *arguments]
        subprocess.run(command, user=owner, cwd=folder, env=environ, check=True, stdout=subprocess.DEVNULL)

    try:
        call("initdb", "--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8")
        call("pg_ctl", "start", "-w", "-l", str(folder / "log"), "-o", f"-c listen_addresses='' -c fsync=off -k {folder}")
        yield f"postgresql+psycopg://postgres@/postgres?host={folder}"
        call("pg_ctl", "stop", "-m", "immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
