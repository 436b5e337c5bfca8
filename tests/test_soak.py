"""Long tests, run by `make soak`: many processes, killed at random moments, and nothing that was acknowledged is lost."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlops_nb.settings import open_workspace
from mlops_nb.store.door import open_store
from mlops_nb.store.journal import read_journal
from mlops_nb.store.refill import incomplete_runs, refill
from mlops_nb.store.wandb_history import history_of, read_wandb_file
from survival import check_all, run_and_kill
from waiting import wait_until

WRITER = """
import sys
from pathlib import Path
from mlops_nb import start_run
name, folder = sys.argv[1], Path(sys.argv[2])
run = start_run(name, workspace=folder)
print("run", run.id, flush=True)
for step in range(100_000):
    run.log({"loss": 1 / (step + 1)}, step=step)
    print("row", step, flush=True)
    if step % 20 == 0:
        path = folder / f"{name}.bin"
        path.write_bytes(f"{name} {step}".encode() * 1000)
        print("artifact", run.log_artifact(path, name=f"data-{name}").reference, flush=True)
"""


def start_writer(folder: Path, name: str) -> tuple[subprocess.Popen, Path]:
    "A process that logs and says what was acknowledged, into a file that outlives it."
    said = folder / f"{name}.said"
    with said.open("w") as file:
        command = [sys.executable, "-c", WRITER, name, str(folder)]
        environ = {**os.environ, "WANDB_MODE": "offline"}
        return subprocess.Popen(command, stdout=file, stderr=subprocess.DEVNULL, env=environ), said


def acknowledged(said: Path) -> tuple[str | None, int, list[str]]:
    "Run id, rows and artifacts that a writer saw acknowledged."
    lines = [line.split() for line in said.read_text().splitlines() if len(line.split()) == 2]
    ids = [value for kind, value in lines if kind == "run"]
    return ids[0] if ids else None, sum(kind == "row" for kind, _ in lines), [value for kind, value in lines if kind == "artifact"]


@pytest.mark.soak
def test_200_kills_lose_nothing_that_was_acknowledged(tmp_path, monkeypatch):
    modes = ["offline"] * 2 + ["disabled"] * 6
    found = check_all(tmp_path, run_and_kill(tmp_path, modes, kills=200, pause_s=0.5), monkeypatch)
    assert found["acknowledged"] > 2000
    print(*(f"{name}: {value}" for name, value in found.items()), sep="\n")


@pytest.mark.soak
def test_wandb_gets_what_killed_runs_logged(tmp_path, kills=16, longest_s=10):
    generator = random.Random(0)
    store = open_store(open_workspace(tmp_path))
    store.runs.list()  # makes the catalog
    said = []
    for batch in range(kills // 4):
        writers = [start_writer(tmp_path, f"w{batch}-{number}") for number in range(4)]
        said += [each[1] for each in writers]
        if batch % 2:  # the others may also be killed while they begin
            for each in said[-4:]:
                wait_until(lambda path=each: acknowledged(path)[1], timeout_s=180)
        time.sleep(generator.uniform(0.8, longest_s))
        for process, _ in writers:
            time.sleep(generator.uniform(0, 0.2))
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
    records = {each.id: each for each in store.runs.list()}
    assert {each.status for each in records.values()} == {"killed"}
    seen = [acknowledged(each) for each in said]
    assert sum(rows for _, rows, _ in seen) > 100
    for run_id, rows, artifacts in seen:
        if run_id is None:
            continue
        journal = [row for row in read_journal(store.runs.folder(run_id) / "journal.jsonl") if "_summary" not in row]
        assert [row["_step"] for row in journal[:rows]] == list(range(rows))
        assert len(journal) - rows <= 1  # at most the row that was on its way
        for reference in artifacts:
            store.artifacts.use(None, reference).path()
    for digest in store.blobs.digests():
        store.blobs.verify(digest)
    for record in incomplete_runs(store):
        assert refill(store, record.id) == "complete"
        path = store.runs.get(record.id).wandb_path
        rows = [row for row in history_of(read_wandb_file(path)) if "loss" in row]  # a run without any has its hardware samples
        assert len(rows) == records[record.id].journal_rows
