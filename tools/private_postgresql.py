"""A PostgreSQL server of one's own: a cluster in a temporary folder, on a socket that nobody else sees, gone with its `with` block."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def private_postgresql(
    programs: str,  # folder with `initdb` and `pg_ctl`; see system_packages.POSTGRESQL
) -> Iterator[str]:  # SQLAlchemy URL of an empty database
    "A server that runs as long as the `with` block; its user is `postgres` where this one is root, for the server refuses to run as root"
    owner = "postgres" if os.geteuid() == 0 else None
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
        try:
            yield f"postgresql+psycopg://postgres@/postgres?host={folder}"
        finally:
            call("pg_ctl", "stop", "-m", "immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
