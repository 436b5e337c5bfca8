"""Processes that write, read and clear away until they are killed, what was acknowledged to them, and what must be true afterwards.

They are forked from a process that has everything imported, so that kills hit what they do and not their start."""
import hashlib
import json
import multiprocessing
import os
import random
import subprocess
import sys
import time
from collections import defaultdict
from itertools import count
from pathlib import Path

import sqlalchemy as sa

from mlops_nb import doctor
from mlops_nb.settings import StoreError, open_workspace
from mlops_nb.store import garbage, tables
from mlops_nb.store.artifacts import list_files
from mlops_nb.store.door import open_store
from mlops_nb.store.journal import read_journal
from mlops_nb.store.kept_code import read_code
from mlops_nb.store.session import start_run
from waiting import wait_until

GRACE_S = 20  # a blob that was put so long ago and has no row yet is one of a killed process, also where 10 processes share 2 cores


# What the processes do

def write(name, workspace, acknowledge):
    "Runs, one after the other: rows, files, folders, inputs, aliases; some are deleted again."
    store, generator, sources, finished = open_store(workspace), random.Random(os.urandom(8)), workspace.root / "sources" / name, []
    sources.mkdir(parents=True, exist_ok=True)
    while True:
        run = start_run(name, config={"seed": generator.random()}, tags=["soak"], workspace=workspace)
        acknowledge("run", run.id)
        for round_number in range(generator.randrange(1, 4)):
            for step in range(10 * round_number, 10 * round_number + 10):
                run.log({"loss": 1 / (step + 1), "text": "ก" * generator.randrange(200)}, step=step)
                acknowledge("row", run.id, step)
            log_file(run, name, sources, generator, acknowledge)
            log_folder(run, name, sources, generator, acknowledge)
            use(run, generator, acknowledge)
        run.summary["best"] = 0.5
        run.finish()
        acknowledge("finished", run.id)
        finished.append(run.id)
        if len(finished) > 2:
            doomed = finished.pop(generator.randrange(len(finished)))
            acknowledge("deleting", doomed)
            store.runs.delete(doomed)


def log_file(run, name, sources, generator, acknowledge):
    "A version of an artifact of one's own, which takes two aliases along, and one of which others log versions, too."
    path = sources / "model.bin"
    path.write_bytes(generator.randbytes(generator.randrange(200_000)))
    artifact = run.log_artifact(path, name=f"model-{name}", type="model", aliases=["best"])
    acknowledge("artifact", run.id, artifact.reference, digests_of(path))
    acknowledge("alias", artifact.name, "best", artifact.version)
    path = sources / "common.bin"
    path.write_bytes(bytes([generator.randrange(20)]) * 1000)
    artifact = run.log_artifact(path, name="common")
    acknowledge("artifact", run.id, artifact.reference, digests_of(path))


def log_folder(run, name, sources, generator, acknowledge):
    "A folder under a name that all share; an alias is moved to it afterwards."
    folder = sources / "folder"
    for each in ("a.csv", "ข้อมูล/b.csv"):
        (folder / each).parent.mkdir(parents=True, exist_ok=True)
        (folder / each).write_bytes(generator.randbytes(500))
    artifact = run.log_artifact(folder, name="shared", type="dataset")
    acknowledge("artifact", run.id, artifact.reference, digests_of(folder))
    run.store.artifacts.alias(artifact.reference, f"of-{name}")
    acknowledge("alias", "shared", f"of-{name}", artifact.version)


def use(run, generator, acknowledge):
    "The newest version of something, read."
    for name in ("shared", "common"):
        artifact = run.use_artifact(f"{name}:latest")
        folder = artifact.download()
        acknowledge("used", run.id, artifact.reference, {each.path: digest_of(folder / each.path) for each in artifact.files})


def read(name, workspace, acknowledge):
    "Ask for runs, which settles the dead ones, and for files, which checks them."
    store, generator = open_store(workspace), random.Random(os.urandom(8))
    while True:
        store.runs.list(limit=20)
        for artifact in generator.sample(found := store.artifacts.versions(limit=50), min(5, len(found))):
            try:
                artifact.download()
            except StoreError:
                if store.artifacts.by_row(artifact.row_id).removed_at is None:
                    raise
        acknowledge("read")
        time.sleep(0.1)


def clear(name, workspace, acknowledge):
    "Clear away what nobody needs."
    store = open_store(workspace)
    while True:
        gone = garbage.collect(store, garbage.plan(store, grace_s=GRACE_S), grace_s=GRACE_S)
        acknowledge("cleared", len(gone.versions), len(gone.blobs), len(gone.leftovers))
        time.sleep(0.3)


def digest_of(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digests_of(path):
    return {name: digest_of(source) for name, source in list_files(path).items()}


def live(role, name, folder, mode):
    "The life of one process."
    os.environ |= {"WANDB_MODE": mode, "WANDB_SILENT": "true"}
    os.dup2(os.open(folder / "said" / f"{name}.errors", os.O_WRONLY | os.O_APPEND | os.O_CREAT), 2)
    descriptor = os.open(folder / "said" / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, b"\n")  # a kill may have cut the last line, where it reached into another page of the file
    {"write": write, "read": read, "clear": clear}[role](
        name, open_workspace(folder), lambda *words: os.write(descriptor, json.dumps(words).encode() + b"\n"))


# Starting and killing them

class Member:
    "A process that is started again whenever it was killed."
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([
        "mlops_nb.doctor", "mlops_nb.store.session", "mlops_nb.store.garbage", "sqlalchemy.dialects.sqlite", "psycopg", "wandb"])

    def __init__(self, role, name, folder, mode="disabled"):
        self.name, self.arguments, self.said = name, (role, name, folder, mode), folder / "said" / name
        self.said.parent.mkdir(exist_ok=True)
        self.start()

    def start(self):
        self.process = self.context.Process(target=live, args=self.arguments, daemon=True)
        self.process.start()

    def has_begun(self):
        self.check()
        return self.said.exists() and self.said.stat().st_size > 1

    def check(self):
        errors = self.said.with_name(f"{self.name}.errors")
        assert self.process.exitcode is None, f"{self.name} ended by itself: {errors.read_text()[-3000:]}"

    def kill(self):
        self.check()
        self.process.kill()
        self.process.join()


def run_and_kill(folder, modes, kills, pause_s, seed=0):
    "Writers, a reader and one that clears away, of which one is killed every now and then, and in the end all."
    generator = random.Random(seed)
    open_store(open_workspace(folder)).runs.create(project="p", name="before", status="finished")  # gc refuses a catalog that knows nothing
    members = [Member("write", f"w{number}", folder, mode) for number, mode in enumerate(modes)]
    members += [Member("read", "reader", folder), Member("clear", "gc", folder)]
    try:
        wait_until(lambda: all(each.has_begun() for each in members), timeout_s=60)
        for _ in range(kills):
            time.sleep(generator.uniform(0, 2 * pause_s))
            victim = generator.choice(members)
            victim.kill()
            victim.start()
        for each in members:
            each.kill()
    finally:
        for each in members:
            each.process.kill()
    return [words for each in members for line in each.said.read_bytes().splitlines() if (words := whole(line))]


def whole(line):
    "What a line says, or None where it is empty or cut."
    try:
        return json.loads(line)
    except ValueError:
        return None


# What must be true afterwards

class Promises:
    "What was acknowledged."

    def __init__(self, said):
        self.rows, self.moves = defaultdict(list), defaultdict(list)
        self.deleted = {words[0] for kind, *words in said if kind == "deleting"}
        self.finished = {words[0] for kind, *words in said if kind == "finished"} - self.deleted
        self.runs = {words[0] for kind, *words in said if kind == "run"} - self.deleted
        for kind, *words in said:
            if kind == "row":
                self.rows[words[0]].append(words[1])
            if kind == "alias":
                self.moves[tuple(words[:2])].append(words[2])
        self.edges = [(kind, *words) for kind, *words in said if kind in ("artifact", "used")]
        self.contents = {}  # a version that two were told of has one content
        for _, _, reference, digests in self.edges:
            assert self.contents.setdefault(reference, digests) == digests

    def check(self, store):
        "Nothing that was acknowledged is lost."
        for run_id in self.runs:
            self.check_run(store, run_id)
        kept = {reference for _, run_id, reference, _ in self.edges if run_id not in self.deleted}
        for reference in kept:
            artifact = store.artifacts.use(None, reference)
            assert {each.path: digest_of(artifact.path(each.path)) for each in artifact.files} == self.contents[reference]
        for (name, alias), versions in self.moves.items():
            history = (each.version for each in store.artifacts.alias_history(name) if each.alias == alias)
            assert all(version in history for version in versions)  # in this order
        edges, versions = tables.edges.c, tables.artifacts.c
        query = sa.select(edges.relation, edges.run_id, versions.name, versions.version).join(
            tables.artifacts, versions.id == edges.artifact_id)
        with store.catalog.read() as connection:
            drawn = set(map(tuple, connection.execute(query)))
        for kind, run_id, reference, _ in self.edges:
            name, _, version = reference.rpartition(":v")
            assert run_id in self.deleted or ("used" if kind == "used" else "logged", run_id, name, int(version)) in drawn

    def check_run(self, store, run_id):
        "All rows are there, at most the one that was on its way besides, and the record says how many."
        record = store.runs.get(run_id)
        rows = read_journal(store.runs.folder(run_id) / "journal.jsonl")
        steps = [row["_step"] for row in rows if "_summary" not in row]
        assert steps == list(range(len(steps))) and 0 <= len(steps) - len(self.rows[run_id]) <= 1
        assert (record.journal_rows, record.tags) == (len(steps), ("soak",))
        assert record.status == "finished" if run_id in self.finished else record.status in ("killed", "finished")
        if record.status == "finished":
            assert record.metrics["best"] == 0.5


def needed_digests(store):
    "Blobs that rows of the catalog name, found without the help of the code that clears away."
    runs, files, versions = tables.runs.c, tables.artifact_files, tables.artifacts.c
    of_files = sa.select(files.c.digest).join(tables.artifacts, versions.id == files.c.artifact_id).where(versions.removed_at.is_(None))
    with store.catalog.read() as connection:
        found = set(connection.execute(of_files).scalars())
        rows = connection.execute(sa.select(runs.code_blob, runs.notebook_blob, runs.diff_blob)).all()
    listed = {digest for row in rows for digest in read_code(store.blobs, row.code_blob).values()}
    return found | {digest for row in rows for digest in row if digest} | listed


def check_versions(store):
    "Versions of a name count on without a gap, and no number is there twice."
    with store.catalog.read() as connection:
        found = connection.execute(sa.select(tables.artifacts.c.name, tables.artifacts.c.version)).all()
    numbers = defaultdict(list)
    for name, version in found:
        numbers[name].append(version)
    for each in numbers.values():
        assert sorted(each) == list(range(len(each)))
    return {name: len(each) for name, each in numbers.items()}


def examine(folder):
    "What `mlops-nb doctor --deep` says."
    environ = {**os.environ, "MLOPS_NB_WORKSPACE": str(folder), "COLUMNS": "80"}
    command = [Path(sys.executable).with_name("mlops-nb"), "doctor", "--deep", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environ)
    found = json.loads(done.stdout or "{}")
    assert done.returncode == 0, done.stderr + "\n".join(str(each) for each in found.get("findings", ()) if each["status"] == "fail")
    return {each["name"]: each["message"] for each in found["findings"]}


def check_all(folder, said, monkeypatch):
    "Nothing is lost, everything is sound, and what is left over goes."
    store, promises = open_store(open_workspace(folder)), Promises(said)
    before = examine(folder)
    promises.check(store)
    monkeypatch.setattr(garbage, "LEFTOVER_S", 0)  # as if a day had passed
    found, orphans = garbage.plan(store, grace_s=0), set(store.blobs.digests()) - needed_digests(store)
    assert orphans <= {each.digest for each in found.blobs}
    garbage.collect(store, found, grace_s=0)
    assert garbage.plan(store, grace_s=0).is_empty and set(store.blobs.digests()) == needed_digests(store)
    with store.catalog.read() as connection:
        runs = set(connection.execute(sa.select(tables.runs.c.id)).scalars())
    assert {each.name for each in store.runs.root.iterdir()} == runs
    assert not [path for part in ("blobs", "artifacts", "runs") for path in (store.workspace.store_dir / part).rglob("*.part")]
    after = doctor.examine(folder, deep=True)
    assert after.passed, after.findings
    promises.check(store)
    counts = check_versions(store)
    check_that_it_goes_on(store, counts)
    cleared = [sum(words[number] for kind, *words in said if kind == "cleared") for number in range(3)]
    return {"acknowledged": len(said), "deleted runs": len(promises.deleted), "versions": sum(counts.values()),
            "cleared beside (versions, blobs, leftovers)": cleared, "orphans": len(orphans), "leftovers": len(found.leftovers),
            **{name: before[name] for name in ("catalog", "rows", "blobs", "laid-out files", "runs", "unneeded", "W&B files")}}


def check_that_it_goes_on(store, counts):
    "The next versions have the next numbers."
    run, source = store.runs.create(project="p", name="after"), store.workspace.root / "after.txt"
    for number, name in zip(count(), counts, strict=False):
        source.write_text(f"after {number}")
        kind = "model" if name.startswith("model") else "dataset"
        assert store.artifacts.log(run.id, name, kind, list_files(source)).version == f"v{counts[name]}"
    store.runs.finish(run.id, "finished")
