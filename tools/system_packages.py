"""The programs outside Python that tests ask for, and their installation where this machine allows it.

A test asks by naming a fixture of tests/conftest.py; run as a script, this installs with apt-get what is asked for and missing.
Where it cannot, it says how, and those tests are skipped.
"""
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent / "tests"


def find_chromium() -> str | None:  # path of the program
    "The Chromium or Chrome of this machine"
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next(filter(None, map(shutil.which, names)), None)


def find_postgresql() -> str | None:  # folder with `initdb` and `pg_ctl`
    "The newest PostgreSQL server of this machine; Debian keeps it off the PATH"
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name.split(".")[0]), reverse=True)
    on_path = shutil.which("initdb")
    found = [str(path) for path in folders if (path / "initdb").exists()]
    return found[0] if found else str(Path(on_path).resolve().parent) if on_path else None


@dataclass(frozen=True)
class SystemPackage:
    "A program that some tests need"
    package: str  # name of the Debian package
    fixture: str  # the fixture of tests/conftest.py that hands it to a test
    find: Callable[[], str | None]  # where it is, or None

    @property
    def how_to_get(self) -> str:
        return f"{self.package} is not installed; on Debian and Ubuntu: apt-get install {self.package}"


CHROMIUM = SystemPackage("chromium", "chromium", find_chromium)
POSTGRESQL = SystemPackage("postgresql", "postgresql_url", find_postgresql)


def is_asked_for(
    needed: SystemPackage,
) -> bool:
    "Whether any test names the fixture"
    return any(needed.fixture in path.read_text(encoding="utf-8") for path in TESTS.rglob("test_*.py"))


def main():
    missing = [needed for needed in (CHROMIUM, POSTGRESQL) if is_asked_for(needed) and not needed.find()]
    if not missing:
        return print("All programs that the tests ask for are here.")
    if os.geteuid() == 0 and shutil.which("apt-get"):
        quiet = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
        names = [needed.package for needed in missing]
        for command in (["apt-get", "-qq", "update"], ["apt-get", "-qq", "install", "-y", "--no-install-recommends", *names]):
            print("+", *command, flush=True)
            subprocess.run(command, env=quiet, check=False, stdout=subprocess.DEVNULL)
    for needed in missing:
        print(f"{needed.package}: installed" if needed.find() else f"Skipping its tests: {needed.how_to_get}")


if __name__ == "__main__":
    sys.exit(main())
