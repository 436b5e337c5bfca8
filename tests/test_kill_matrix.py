"""Whatever kills whichever process at whatever moment: the record is true, the notebook is whole, nothing is left.

The matrix is pairwise: each signal meets each victim and each moment, and each victim each moment. What a kernel does to itself, it does
while a cell runs; each of the other moments has one such deed. All cases are run by `make soak`. Runners are forked from a nursery, a
process that has imported what a runner needs. Where a moment is too short to be hit from outside, the runner itself strikes.
"""
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from importlib import import_module
from itertools import combinations, product
from pathlib import Path
from typing import NamedTuple

import nbformat
import pytest
from waiting import exists, wait_until

from mlops_nb.experiments import servers
from mlops_nb.experiments.attempts import find_resumable
from mlops_nb.experiments.processes import process_name
from mlops_nb.settings import StoreError, open_workspace
from mlops_nb.store.door import open_store
from mlops_nb.store.journal import read_journal
from mlops_nb.store.wandb_history import history_of, read_wandb_file

SETTINGS = "[workspace]\nproject = matrix\n[kernels]\npreload = json\npool = 1\nidle_s = 60\n"
CASE_S, SETTLED_S = 120, 30  # for a case; until nothing is left of what dies
CELL_S = 1.5  # the limit that an endless loop meets
PROGRAM = str(Path(sys.executable).with_name("mlops-nb"))
DATA_BYTES = 800_000_000  # the memory that a process may have where it is to run out

DEEDS = {  # what a kernel does to itself
    "MemoryError": "while True: hoard.append(b'x' * 20_000_000)",
    "high memory": "try:\n        while True: hoard.append(b'x' * 1_000_000)\n    except MemoryError: os.kill(os.getpid(), signal.SIGKILL)",
    "os._exit": "os._exit(3)",
    "endless loop": "Path('loops').touch()\n    while True: pass",
}
SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGSEGV": signal.SIGSEGV, "SIGINT": signal.SIGINT}
VICTIMS, MOMENTS = ("kernel", "runner", "fork server", "wandb-core"), ("before", "during", "after", "save")

FIRST = '''
import json, os, signal, subprocess, time
from pathlib import Path
from ipykernel.connect import get_connection_file
from mlops_nb import start_run
from mlops_nb.experiments.processes import children_of, process_name

run, acknowledged, hoard = start_run(), open("acknowledged", "w"), []
def log(step):
    run.log({{"value": step * 10}}, step=step)
    print(step, file=acknowledged, flush=True)
def parent(pid): return int(Path(f"/proc/{{pid}}/stat").read_text().rpartition(")")[2].split()[1])
def deed(*_):
    {deed}
signal.signal(signal.SIGUSR1, deed)
sleeper, guardian = subprocess.Popen(["sleep", "300"], start_new_session=True), os.getppid()
[core] = [each for each in children_of(os.getpid()) if process_name(each).startswith("wandb-core")]
pids = {{"kernel": os.getpid(), "fork server": parent(guardian), "wandb-core": core, "guardian": guardian, "sleeper": sleeper.pid}}
Path("pids.part").write_text(json.dumps(pids | {{"folder": str(Path(get_connection_file()).parent)}}))
Path("pids.part").rename("pids")
log(0)
print("first")
'''
SECOND = '''
print("second begins", flush=True)
log(1)
Path("reached").touch()
end = time.monotonic() + 100
while not Path("go").exists() and time.monotonic() < end: time.sleep(0.01)
log(2)
print("second ends")
'''


class Case(NamedTuple):
    cause: str
    victim: str
    moment: str


def pairwise(cases):
    "A small part of the cases, in which every pair of properties occurs that occurs in all of them"
    def pairs(case): return set(combinations(enumerate(case), 2))
    left, chosen = set().union(*map(pairs, cases)), []
    while left:
        chosen.append(max(cases, key=lambda case: len(pairs(case) & left)))
        left -= pairs(chosen[-1])
    return chosen


ALL = [Case(*each) for each in (*product(["SIGKILL", "SIGTERM", "SIGSEGV"], VICTIMS, MOMENTS), *product(DEEDS, ["kernel"], MOMENTS))]
SIGNALLED = [case for case in ALL if case.cause not in DEEDS]
DEEDS_AND_MOMENTS = {*product(DEEDS, ["during"]), *zip(DEEDS, MOMENTS)}
ITSELF = [case for case in ALL if (case.cause, case.moment) in DEEDS_AND_MOMENTS]
USUAL = {*pairwise(SIGNALLED), *ITSELF}
MATRIX = [pytest.param(case, marks=() if case in USUAL else pytest.mark.soak, id=" ".join(case)) for case in ALL]


# In the runner


def nursery():
    "Forks a runner for each line of its input, and says its process id and how it ended"
    from mlops_nb.program import PRELOAD

    for each in PRELOAD:
        import_module(each)
    print("ready", flush=True)
    for line in sys.stdin:
        if (pid := os.fork()) == 0:
            sys.exit(be_runner(**json.loads(line)))
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def be_runner(case, folder, environ):
    "Runs the notebook of a case, and strikes where it is to be from inside; the result is the exit status"
    from mlops_nb.commands.run_notebook import exit_status
    from mlops_nb.experiments.runner import run_notebook

    case = Case(*case)
    os.environ.clear()
    os.environ.update(environ)
    tempfile.tempdir = None
    os.chdir(folder)
    with open("printed", "wb") as printed:
        os.dup2(printed.fileno(), 1)
        os.dup2(printed.fileno(), 2)
    if case.cause in ("MemoryError", "high memory"):
        for kind, limit in ((resource.RLIMIT_DATA, DATA_BYTES), (resource.RLIMIT_STACK, 1 << 20)):
            resource.setrlimit(kind, (limit, resource.getrlimit(kind)[1]))
    arrange(case)
    return exit_status(run_notebook(open_store(open_workspace(folder)), "victim.ipynb", cell_timeout_s=CASE_S))


def arrange(case):
    "Sees to it that the case's moment is hit exactly, once"
    from mlops_nb.experiments.cell_states import ExecutionManager

    start, complete, replace = ExecutionManager.cell_start, ExecutionManager.cell_complete, os.replace

    def cell_start(self, cell, index, **options):
        if index > 0 and case.cause == "endless loop":
            self.watch.cell_timeout_s = CELL_S
        start(self, cell, index, **options)
        if case.moment in ("before", "after") and index == 1:  # the file says that the cell has begun
            wait_until(lambda: self.save_if_due() or not self.changed, CASE_S)  # saves are not more frequent than they may be
        if case.moment == "before" and index == 1:
            strike(case)

    def cell_complete(self, cell, index, **options):
        complete(self, cell, index, **options)
        if case.moment == "after" and index == 1:
            strike(case)

    def replaced(source, target):
        if case.moment == "save" and Path(target).name == "notebook.ipynb" and not Path("struck").exists():
            if "second begins" in texts(json.loads(Path(source).read_text())["cells"][1]):
                strike(case)
        replace(source, target)

    ExecutionManager.cell_start, ExecutionManager.cell_complete, os.replace = cell_start, cell_complete, replaced


def strike(case):
    "Kills the victim, and waits until it is dead or has done what it is made to do"
    pid = ({"runner": os.getpid()} | json.loads(Path("pids").read_text()))[case.victim]
    Path("struck").touch()
    os.kill(pid, SIGNALS.get(case.cause, signal.SIGUSR1))
    stays = case.victim == "runner" or case.cause == "MemoryError" and case.moment in ("during", "save")
    wait_until(lambda: stays or not exists(pid) or Path("loops").exists(), CASE_S)


def texts(cell):
    "What a cell has printed, without warnings"
    return "".join("".join(each["text"]) for each in cell["outputs"] if each.get("name") == "stdout")


# Around it


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "A short folder for the sockets of these tests; in the end there are none, and no process that knows it"
    tmp_path_factory.getbasetemp()
    with tempfile.TemporaryDirectory(prefix="m", dir="/tmp") as folder:
        before, tempfile.tempdir = tempfile.tempdir, folder
        yield folder
        servers.stop_servers()
        tempfile.tempdir = before
        wait_until(lambda: not any(folder.encode() in command(each) for each in os.listdir("/proc") if each.isdigit()), CASE_S)
        assert not sockets_below(folder) and not list(Path(folder).glob("mlops-nb-*/*/k*"))


def sockets_below(folder):
    paths = [os.path.join(place, name) for place, _, names in os.walk(folder) for name in names]
    return [each for each in paths if Path(each).is_socket()]


def command(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.fixture(autouse=True)
def limited(place, monkeypatch):
    "A time limit, and the sockets' folder"
    def stop(*_): raise TimeoutError(f"the case takes longer than {CASE_S} s")
    monkeypatch.setattr(tempfile, "tempdir", place)
    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(CASE_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)


@pytest.fixture(scope="module")
def runners(place):
    command = [sys.executable, "-c", "from test_kill_matrix import nursery; nursery()"]
    with subprocess.Popen(command, cwd=Path(__file__).parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        yield process
        process.stdin.close()


@pytest.fixture
def environ(place):
    "Of a runner"
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")} | {"TMPDIR": place}


@pytest.fixture
def workspace(tmp_path):
    (tmp_path / "settings.ini").write_text(SETTINGS)
    yield tmp_path
    for each in working_in(tmp_path):  # after a test that failed
        os.kill(each, signal.SIGKILL)


def write(folder, cause=None):
    "The notebook that is going to be struck"
    first = FIRST.format(deed=DEEDS.get(cause, "pass"))
    cells = [nbformat.v4.new_code_cell(each) for each in (first, SECOND, "log(3)\nprint('third')", "print('fourth')")]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), folder / "victim.ipynb")


def executed(folder):
    "The executed notebook of the only run there is, as it is at this moment"
    [path] = (folder / ".mlops/runs").glob("*/notebook.ipynb")
    return json.loads(path.read_text())


def working_in(folder):
    "Processes whose folder it is"
    def works(pid):
        try:
            return os.readlink(f"/proc/{pid}/cwd").startswith(str(folder))
        except OSError:
            return False
    return [int(each) for each in os.listdir("/proc") if each.isdigit() and works(each)]


def left(folder, pids):
    "Processes and sockets of a run that are still there; the fork server and its other kernels are not"
    known = [name for name in ("kernel", "guardian", "sleeper", "wandb-core", "runner") if exists(pids[name])]
    servers_own = f"{tempfile.gettempdir()}/mlops-nb-{os.geteuid()}/"
    sockets = [each for each in sockets_below(tempfile.gettempdir()) if not each.startswith(servers_own)]
    return known + working_in(folder) + sockets + [each for each in [pids["folder"]] if os.path.exists(each)]


def check_left(folder, pids):
    try:
        wait_until(lambda: not left(folder, pids), SETTLED_S)
    except AssertionError:
        assert left(folder, pids) == []


class End(NamedTuple):
    "How a case is to end"
    status: str
    states: str # of the four cells, by their first letters
    words: str # of the record's error
    exit_status: int # of the runner


def expected(case):
    between, dying = case.moment in ("before", "after"), "ccfp" if case.moment == "after" else "cfpp"
    words = {"high memory": "likely out of memory", "os._exit": "exit status 3", "endless loop": f"longer than its limit of {CELL_S:g} s",
             "MemoryError": "exit status 1" if between else "MemoryError"}.get(case.cause, case.cause)
    if case.victim in ("fork server", "wandb-core"):
        return End("finished", "cccc", "None", 0)
    if case.victim == "runner" and case.cause in ("SIGTERM", "SIGINT"): # between cells it goes into effect after the one that has begun
        return End("cancelled", "ccpp" if between else dying, f"cancelled by {case.cause}", 128 + SIGNALS[case.cause])
    if case.victim == "runner": # nobody was left to write: the next reader did
        return End("killed", "cfpp", "RunnerDied", -SIGNALS[case.cause])
    failed = case.cause == "endless loop" or case.cause == "MemoryError" and not between
    return End("failed" if failed else "killed", dying, words, 1)


def check(case, folder, exit_status):
    "Compares what is there after a case with what is to be there"
    end, store = expected(case), open_store(open_workspace(folder))
    [record] = store.runs.list()
    path = store.runs.folder(record.id) / "notebook.ipynb"
    nbformat.validate(nbformat.read(path, 4))
    cells = [cell for cell in executed(folder)["cells"] if "papermill-error-cell-tag" not in cell["metadata"]["tags"]]
    states = "".join(cell["metadata"]["papermill"]["status"][0] for cell in cells)
    assert (record.status, states, exit_status) == (end.status, end.states, end.exit_status)
    assert end.words in str(record.error)
    if "f" in states:
        assert record.error["cell_index"] == states.index("f")
    check_texts(case, states, [texts(cell) for cell in cells])
    check_rows(folder, record, path.with_name("journal.jsonl"))
    if record.status == "finished":
        pytest.raises(StoreError, find_resumable, store, record.id).match("is finished")
    else:
        assert find_resumable(store, record.id).id == record.id


def check_texts(case, states, printed):
    "What was printed is there: all of a cell that completed, and of the one that was struck all up to the strike"
    whole = ["first\n", "second begins\nsecond ends\n", "third\n", "fourth\n"]
    struck = "" if case.moment == "before" else "second begins\n"
    unsaved = case.victim == "runner" and expected(case).status == "killed" # what came after the last save
    for state, text, each in zip(states, printed, whole, strict=True):
        assert text == {"c": each, "p": "", "f": text if unsaved else struck if each is whole[1] else ""}[state]
    if (case.victim, case.moment) == ("runner", "during"): # it had been saved
        assert printed[1].startswith(struck)


def check_rows(folder, record, journal):
    "Each row that was acknowledged is there, also in W&B's file"
    rows = [row["value"] for row in read_journal(journal) if "_summary" not in row]
    acknowledged = [int(each) * 10 for each in (folder / "acknowledged").read_text().split()]
    assert rows[:len(acknowledged)] == acknowledged and record.journal_rows == len(rows) <= len(acknowledged) + 1
    assert record.wandb_state == ("incomplete" if record.error and record.error["name"] == "RunnerDied" else "complete")
    if record.wandb_state == "complete":
        assert [row["value"] for row in history_of(read_wandb_file(record.wandb_path)) if "value" in row] == rows


@pytest.mark.parametrize("case", MATRIX)
def test_kill(case, runners, environ, workspace):
    write(workspace, case.cause)
    if case.moment in ("before", "after"):
        (workspace / "go").touch()
    print(json.dumps({"case": case, "folder": str(workspace), "environ": environ}), file=runners.stdin, flush=True)
    runner, goes_on = int(runners.stdout.readline()), case.victim in ("fork server", "wandb-core")
    wait_until((workspace / ("reached" if case.moment == "during" else "struck")).exists, CASE_S)
    pids = json.loads((workspace / "pids").read_text()) | {"runner": runner}
    if case.moment == "during":
        if case.victim == "runner":
            wait_until(lambda: "second begins" in texts(executed(workspace)["cells"][1]), CASE_S)
        os.kill(pids[case.victim], SIGNALS.get(case.cause, signal.SIGUSR1))
    if goes_on:
        wait_until(lambda: not exists(pids[case.victim]), CASE_S)
        (workspace / "go").touch()
    exit_status = int(runners.stdout.readline())
    check_left(workspace, pids)
    check(case, workspace, exit_status)


@pytest.fixture
def commands(environ, workspace):
    "A server of commands, which the first command starts"
    def found(): return any(each.serves == "commands" and each.processes for each in servers.find_servers())
    if not found():
        subprocess.run([PROGRAM, "run", "missing.ipynb"], cwd=workspace, env=environ, capture_output=True)
    wait_until(found, CASE_S)


@pytest.mark.parametrize("cause", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_killed_command(cause, commands, environ, workspace):
    case = Case(cause, "runner", "during")
    write(workspace)
    with (workspace / "printed").open("wb") as printed:
        command = subprocess.Popen([PROGRAM, "run", "victim.ipynb"], cwd=workspace, env=environ, stdout=printed, stderr=printed)
    wait_until((workspace / "reached").exists, CASE_S)
    [record] = open_store(open_workspace(workspace)).runs.list()
    assert process_name(record.pid) == "mlops-run" and record.pid != command.pid
    wait_until(lambda: "second begins" in texts(executed(workspace)["cells"][1]), CASE_S)
    command.send_signal(SIGNALS[cause])
    exit_status = command.wait()
    check_left(workspace, json.loads((workspace / "pids").read_text()) | {"runner": record.pid})
    check(case, workspace, exit_status)
