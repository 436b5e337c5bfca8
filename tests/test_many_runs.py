"""Many runs, several at a time and thousands in one process: none fails, nothing of them is left, and memory does not grow."""
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest
from mlops_nb.experiments import servers
from mlops_nb.experiments.engine import execute
from mlops_nb.experiments.processes import process_name

CELLS = ("number = 0", "import os\nprint(number, os.getcwd(), open('/proc/self/comm').read(), end='')")
POOL = 2  # kernels that wait


def run_one(folder, number):
    "One run in a folder of its own; what was wrong with it, None where nothing was"
    place = folder / f"run {number}"
    place.mkdir()
    try:
        done = execute(folder / "notebook.ipynb", place / "out.ipynb", {"number": number}, cwd=place)
    except Exception:  # the other runs go on
        return f"run {number}: {traceback.format_exc()}"
    cells = nbformat.read(place / "out.ipynb", 4).cells
    said = "".join(output.get("text", "") for cell in cells for output in cell.outputs)
    right = done.status == "finished" and said == f"{number} {place} mlops-kernel\n" and os.listdir(place) == ["out.ipynb"]
    return None if right else f"run {number}: {done.status}, {done.error}, {said!r}, {os.listdir(place)}"


def held():
    "What this process holds of the system"
    return {"descriptors": len(os.listdir("/proc/self/fd")), "threads": len(os.listdir("/proc/self/task"))}


def memory_kb():
    "The memory that this process has, exactly; other files of /proc round"
    gc.collect()
    with open("/proc/self/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Rss:"))


def several_at_a_time(folder, first, last, threads):
    "The runs of these numbers; what was wrong, and what the process holds before and after"
    before = held()
    with ThreadPoolExecutor(threads) as pool:
        wrong = list(filter(None, pool.map(lambda number: run_one(folder, number), range(first, last))))
    gc.collect()
    return {"wrong": wrong, "before": before, "after": held()}


def one_after_the_other(folder, before, after, traced=False):
    "Memory after some runs and after further ones; where it was asked for, if `traced`"
    wrong = list(filter(None, (run_one(folder, number) for number in range(before))))
    sizes = [memory_kb()]
    if traced:
        tracemalloc.start(12)
    first = traced and tracemalloc.take_snapshot()
    for number in range(before, before + after):
        wrong += filter(None, [run_one(folder, number)])
        if (number + 1 - before) % max(1, after // 10) == 0:
            sizes.append(memory_kb())
    top = tracemalloc.take_snapshot().compare_to(first, "traceback")[:8] if traced else []
    return {"wrong": wrong, "sizes_kb": sizes, "top": [f"{each}\n" + "\n".join(each.traceback.format()) for each in top]}


@pytest.fixture
def place(tmp_path, monkeypatch):
    "A folder with a notebook; kernels come from a server that only this test uses"
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    cells[0].metadata.tags = ["parameters"]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "notebook.ipynb")
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as sockets:  # a socket's path is short
        for name, value in {"TMPDIR": sockets, "MLOPS_NB_KERNELS_PRELOAD": "json", "MLOPS_NB_KERNELS_POOL": f"{POOL}",
                            "MLOPS_NB_KERNELS_IDLE_S": "60"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("PYTEST_CURRENT_TEST")  # kernels look for it
        monkeypatch.setattr(tempfile, "tempdir", None)
        yield tmp_path
        servers.stop_servers()
    tempfile.tempdir = None


def in_processes(place, function, *many_arguments, limit_s):
    "What a function returns that is called in new processes, all at once; they print nothing, unless they hang"
    code = ("import faulthandler, json, pathlib, sys, test_many_runs as tests\n"
            f"faulthandler.dump_traceback_later({limit_s}, exit=True)\n"
            "place, *rest = json.loads(sys.argv[1])\n"
            f"print(json.dumps(tests.{function.__name__}(pathlib.Path(place), *rest)))")
    commands = [[sys.executable, "-c", code, json.dumps([str(place), *each])] for each in many_arguments]
    said = [(place / f"said {number}").open("w+") for number, _ in enumerate(commands)]
    options = {"cwd": Path(__file__).parent, "stdout": subprocess.PIPE, "text": True}
    started = [subprocess.Popen(command, stderr=file, **options) for command, file in zip(commands, said, strict=True)]
    try:
        answers = [each.communicate()[0] for each in started]
    finally:
        for each in started:
            each.kill()  # where the test was interrupted
    for file, process in zip(said, started, strict=True):
        with file:
            file.seek(0)
            assert (process.returncode, file.read()) == (0, "")
    return [json.loads(each) for each in answers]


def processes_of(sockets):
    "Names of the processes that have to do with these kernels"
    def mentions(pid):
        try:
            return any(os.fsencode(sockets) in Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ"))
        except OSError:
            return False
    found = [int(each) for each in os.listdir("/proc") if each.isdigit() and int(each) != os.getpid()]
    return sorted(filter(None, [process_name(pid) for pid in found if mentions(pid)]))


def wait_for(expected, look, timeout_s=30):
    "Waits until that is seen which is expected"
    deadline = time.monotonic() + timeout_s
    while (found := look()) != expected and time.monotonic() < deadline:
        time.sleep(0.05)
    assert found == expected


def check_leftovers():
    "Only the server is there, and the kernels in stock; then nothing at all"
    sockets = tempfile.gettempdir()
    wait_for(["mlops-guard"] * POOL + ["mlops-kernel"] * POOL + ["mlops-server"], lambda: processes_of(sockets))
    assert os.listdir(sockets) == [f"mlops-nb-{os.geteuid()}"]
    (folder,) = Path(sockets, f"mlops-nb-{os.geteuid()}").iterdir()
    assert sorted(each.name[0] for each in folder.iterdir()) == sorted(["k"] * POOL + ["l", "l", "s", "s"])  # lock, log, start, server
    assert (folder / "log").read_text() == ""
    assert servers.stop_servers() == 1
    wait_for([], lambda: processes_of(sockets))
    wait_for(["lock", "log", "start"], lambda: sorted(os.listdir(folder)))
    assert (folder / "log").read_text() == "asked to end\n"


def check_runs(place, runs, processes, threads):
    "Runs that go on at the same time disturb neither each other nor this machine"
    share, began = runs // processes, time.monotonic()
    shares = [(each * share, (each + 1) * share, threads) for each in range(processes)]
    reports = in_processes(place, several_at_a_time, *shares, limit_s=120 + 2 * runs)
    wrong = [problem for each in reports for problem in each["wrong"]]
    print(f"\n{runs} runs, {processes} x {threads} at a time: {len(wrong)} wrong, {time.monotonic() - began:.0f} s, {reports[0]}")
    assert not wrong, f"{len(wrong)} of {runs} runs: " + "\n".join(wrong[:20])
    assert len(list(place.glob("run */out.ipynb"))) == runs
    for each in reports:
        assert all(each["after"][name] <= each["before"][name] + 4 for name in each["before"]), each
    check_leftovers()


def check_memory(place, before, after, most_kb):
    "Memory per run, after the first ones"
    (report,) = in_processes(place, one_after_the_other, (before, after), limit_s=120 + 2 * (before + after))
    sizes, growth_kb = report["sizes_kb"], (report["sizes_kb"][-1] - report["sizes_kb"][0]) / after
    print(f"\n{before} + {after} runs: {growth_kb:.1f} KB more with each run; KB after the first ones and so on: {sizes}")
    assert not report["wrong"], f"{len(report['wrong'])} of {before + after} runs: " + "\n".join(report["wrong"][:20])
    if growth_kb > most_kb:
        (place / "traced").mkdir()
        os.link(place / "notebook.ipynb", place / "traced/notebook.ipynb")
        (traced,) = in_processes(place / "traced", one_after_the_other, (20, 60, True), limit_s=600)
        pytest.fail(f"{growth_kb:.1f} KB more with each run, {most_kb} are allowed; kept by 60 runs:\n" + "\n\n".join(traced["top"]))
    check_leftovers()


def test_several_runs_at_a_time(place):
    check_runs(place, 32, processes=1, threads=8)


def test_many_runs_in_one_process(place):
    check_memory(place, 20, 40, most_kb=100)


@pytest.mark.soak
@pytest.mark.parametrize(("processes", "threads"), [(1, 8), (8, 1)], ids=["threads", "processes"])
def test_1600_runs_8_at_a_time(place, processes, threads):
    check_runs(place, 1600, processes, threads)


@pytest.mark.soak
def test_3000_runs_in_one_process(place):
    check_memory(place, 100, 2900, most_kb=20)
