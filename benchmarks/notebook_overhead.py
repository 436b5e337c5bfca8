"""What it costs to run a notebook that imports the usual libraries and then does nothing: stock papermill beside mlops_nb.

Both sides take turns in one run, so that what else the machine does meets both alike; what is compared are medians.
papermill runs without its progress bar, which only helps it. Each case that measures time begins with runs that do not count: they fill
the disk's cache, and start the servers of warm kernels and commands.
"""
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

from run_all import make_parser, tell

SCRIPTS = Path(sys.executable).parent  # the commands of this environment
IMPORTS = """\
import torch
import wandb
import pandas
import sklearn
import sklearn.linear_model
import matplotlib.pyplot
import captum
import captum.attr
"""
TRACKED = """\
run = wandb.init(mode="offline", project="p", dir={folder!r}, settings=wandb.Settings(quiet=True, silent=True))
run.log({{"a": 1}})
run.finish()
"""
PAUSE_S = 1.5  # after which the pool of ready kernels is full again; also before papermill's turn, which the filling would slow down
IN_A_ROW = 5  # runs of one sample of `back_to_back`
KERNELS = 8  # alive at once in `memory_8_kernels`
BATCH, BATCH_STOCK, WORKERS = 60, 12, 2  # runs of a batch; papermill's own, unless --full
START_TIMEOUT_S = 120  # for servers and kernels
PACKAGES = ("papermill", "nbclient", "jupyter_client", "ipykernel", "torch", "wandb", "pandas", "scikit-learn", "matplotlib", "captum")


# ---- what runs in the worker processes, which import their side before anything is measured


def import_stock() -> None:
    import papermill  # noqa: F401


def import_ours() -> None:
    import mlops_nb.experiments.engine  # noqa: F401


def run_stock(
    notebook: str,
    output: str,
) -> None:
    "Run a notebook as papermill's API does"
    import papermill

    papermill.execute_notebook(notebook, output, progress_bar=False)


def run_ours(
    notebook: str,
    output: str,
) -> None:
    "Run a notebook as the API of mlops_nb does"
    from mlops_nb.experiments.engine import execute

    execution = execute(notebook, output)
    if execution.status != "finished":
        raise RuntimeError(f"{notebook} is {execution.status}: {execution.error}")


SIDES = {"stock": (import_stock, run_stock), "ours": (import_ours, run_ours)}  # what is imported at first, what is measured


def time_runs(
    side: str,  # "stock" or "ours"
    notebook: str,
    output: str,
    count: int,  # runs, one straight after the other
) -> float:  # seconds for all of them
    "Time runs in this process"
    run = SIDES[side][1]
    begin = time.perf_counter()
    for _ in range(count):
        run(notebook, output)
    return time.perf_counter() - begin


def is_warm(
    notebook: str,
    output: str,
) -> bool:
    "Whether `execute` takes its kernels from the fork server; otherwise both sides have stock ones"
    from mlops_nb.experiments.engine import execute

    names = []
    execute(notebook, output, on_kernel_start=lambda pid: names.append(Path(f"/proc/{pid}/comm").read_text().strip()))
    return names == ["mlops-kernel"]


def import_libraries() -> None:
    exec(IMPORTS, {})


def time_imports() -> float:  # seconds
    "Time the notebook's code in this process, which has imported it all"
    begin = time.perf_counter()
    exec(compile(IMPORTS, "cell", "exec"), {})
    return time.perf_counter() - begin


def proportional_size(
    pid: int,
) -> int:  # bytes; a page that n processes share counts 1/n
    "The memory of one process (PSS)"
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024


def top_of(
    pid: int,  # of a kernel
    below: str | None = None,  # stop under the process of this name
):  # a psutil.Process
    "The highest process that is there for a kernel: itself, its guardian, or the fork server"
    import psutil

    top = psutil.Process(pid)
    for parent in top.parents():
        if not parent.name().startswith("mlops-") or parent.name() == below:
            break
        top = parent
    return top


def tree(
    tops: Sequence,  # of psutil.Process
) -> set[int]:  # process ids
    "Processes and all that is below them"
    return {each.pid for top in tops for each in (top, *top.children(recursive=True))}


def weigh(
    pids: Sequence[int],  # of the kernels
) -> tuple[int, int]:  # bytes of all processes concerned; of them, those of the pool: kernels that wait, and their guardians
    "The memory of kernels and of all that is there for them"
    everything = tree([top_of(pid) for pid in pids])
    in_use = tree([top_of(pid, below="mlops-server") for pid in pids]) | {top_of(pid).pid for pid in pids}
    sizes = {pid: proportional_size(pid) for pid in everything}
    return sum(sizes.values()), sum(size for pid, size in sizes.items() if pid not in in_use)


def start_kernel(
    warm: bool,
):  # a KernelManager
    "Start a kernel of this environment"
    from jupyter_client import KernelManager

    manager = KernelManager(kernel_name="python3")
    if warm:
        manager.kernel_spec.metadata["kernel_provisioner"] = {"provisioner_name": "mlops-nb", "config": {}}
    manager.start_kernel()
    return manager


@contextmanager
def connected(
    manager,  # a KernelManager
) -> Iterator:  # a client
    "A client of a kernel that is ready"
    client = manager.blocking_client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=START_TIMEOUT_S)
        yield client
    finally:
        client.stop_channels()


def measure_memory(
    warm: bool,
) -> tuple[int, int]:  # bytes: of all, of the pool
    "The memory of kernels that live at once, after the imports"
    managers = [start_kernel(warm) for _ in range(KERNELS)]
    try:
        with ExitStack() as stack:
            for client in [stack.enter_context(connected(manager)) for manager in managers]:
                reply = client.execute(IMPORTS, reply=True, timeout=START_TIMEOUT_S)
                if reply["content"]["status"] != "ok":
                    raise RuntimeError(f"the imports fail: {reply['content']}")
            time.sleep(PAUSE_S)  # a pool that is not full would count for too little
            return weigh([manager.provisioner.pid for manager in managers])
    finally:
        for manager in managers:
            manager.shutdown_kernel(now=True)


# ---- servers of warm kernels and commands; only those of this benchmark, which has a TMPDIR of its own


def server_folders(
    folder: Path,  # TMPDIR
) -> list[Path]:
    "The folders of fork servers"
    return sorted(folder.glob("mlops-nb-*/*/"))


def wait_for_servers(
    folder: Path,  # TMPDIR
) -> None:
    "Wait until every server that is being started answers, or has refused to"
    deadline = time.monotonic() + START_TIMEOUT_S
    while not all((each / "server").exists() or (each / "refused").exists() for each in server_folders(folder)):
        if time.monotonic() > deadline:
            raise TimeoutError(f"a fork server below {folder} does not start; see the files named log")
        time.sleep(0.1)


def stop_servers(
    folder: Path,  # TMPDIR
) -> None:  # when they and their children have ended
    "End the fork servers"
    import psutil

    ended = []
    for lock in folder.glob("mlops-nb-*/*/lock"):
        words = lock.read_text().split()
        if not words or not psutil.pid_exists(int(words[0])):
            continue
        server = psutil.Process(int(words[0]))
        if server.name() == "mlops-server":  # the number could be somebody else's by now
            ended += [server, *server.children(recursive=True)]
            server.terminate()
    psutil.wait_procs(ended, timeout=20)
    for each in server_folders(folder):
        shutil.rmtree(each, ignore_errors=True)


# ---- the cases


@dataclass(frozen=True)
class Samples:
    "What one case has measured"
    stock: list[float]  # one number per repeat
    ours: list[float]
    more: dict  # further facts


class Bench:
    "Notebooks, worker processes, and how often each case is repeated"

    def __init__(
        self,
        folder: Path,  # TMPDIR, and the workspace in which everything runs
        stack: ExitStack,  # ends the workers
        repeats: int,
        batch_repeats: int,
        full: bool,  # whether papermill's batches are as long as ours
    ):
        self.folder, self.stack, self.repeats, self.batch_repeats, self.full = folder, stack, repeats, batch_repeats, full
        self.heavy = write_notebook(folder / "heavy.ipynb", IMPORTS)
        self.tracked = write_notebook(folder / "tracked.ipynb", IMPORTS + TRACKED.format(folder=str(folder)))
        self._workers = {}

    def worker(
        self,
        side: str,  # "stock" or "ours"
        number: int = 0,
    ) -> ProcessPoolExecutor:  # with one process, which is kept
        "The worker process of a side"
        key = side, number
        if key not in self._workers:
            self._workers[key] = self.stack.enter_context(one_process(SIDES[side][0]))
        return self._workers[key]

    def run(
        self,
        side: str,  # "stock" or "ours"
        notebook: Path,
        count: int = 1,  # one straight after the other
        number: int = 0,  # of the worker
    ) -> float:  # seconds in all, measured in the worker
        "Run a notebook through an API"
        output = self.folder / f"{side}-{number}.ipynb"
        return self.worker(side, number).submit(time_runs, side, str(notebook), str(output), count).result()


def one_process(
    prepare: Callable[[], None],  # called in it at first
) -> ProcessPoolExecutor:
    "A process to call functions in; a fresh interpreter, and nothing of this one"
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=prepare)


def write_notebook(
    path: Path,
    code: str,  # of its one cell
) -> Path:  # the same
    "Make a notebook for this environment's kernel"
    import nbformat

    kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells = [nbformat.v4.new_code_cell(code)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernelspec, "language_info": {"name": "python"}}), path)
    return path


def take_turns(
    repeats: int,
    stock: Callable[[], float],
    ours: Callable[[], float],
) -> tuple[list[float], list[float]]:  # what they returned
    "Stock, ours, stock, ours ..., with a pause before each"
    found = [], []
    for _ in range(repeats):
        for call, samples in zip((stock, ours), found):
            time.sleep(PAUSE_S)
            samples.append(call())
    return found


def compare_runs(
    bench: Bench,
    notebook: Path,
    count: int = 1,  # runs of one sample, one straight after the other
) -> Samples:  # seconds for one run
    "Compare the two APIs"
    for side in SIDES:
        bench.run(side, notebook)
    def sample(side): return bench.run(side, notebook, count) / count
    return Samples(*take_turns(bench.repeats, lambda: sample("stock"), lambda: sample("ours")), {"runs_per_sample": count})


def heavy_run(bench: Bench) -> Samples: return compare_runs(bench, bench.heavy)
def back_to_back(bench: Bench) -> Samples: return compare_runs(bench, bench.heavy, IN_A_ROW)
def tracked_run(bench: Bench) -> Samples: return compare_runs(bench, bench.tracked)


def time_command(
    command: Sequence[str | Path],  # program and arguments
    folder: Path,  # where it runs, and where what it prints goes
) -> float:  # seconds
    "Time a command in a fresh process"
    log = folder / "command.log"  # no pipe: it would be waited for until the last process has closed it
    with log.open("wb") as file:
        begin = time.perf_counter()
        status = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=file, stderr=file, check=False).returncode
        took_s = time.perf_counter() - begin
    if status:
        raise RuntimeError(f"{command} ends with status {status}: {log.read_text(errors='replace')[-2000:]}")
    return took_s


def cli_run(bench: Bench) -> Samples:
    "Compare the two commands, each in a fresh process; ours also keeps a record of the run"
    stock = [SCRIPTS / "papermill", bench.heavy, bench.folder / "command-stock.ipynb"]
    ours = [SCRIPTS / "mlops-nb", "run", bench.heavy, bench.folder / "command-ours.ipynb"]
    for command in (stock, ours, ours):  # the first of ours leaves the server of commands behind, the second uses it
        time_command(command, bench.folder)
        wait_for_servers(bench.folder)
    return Samples(*take_turns(bench.repeats, lambda: time_command(stock, bench.folder), lambda: time_command(ours, bench.folder)), {})


def run_batch(
    bench: Bench,
    side: str,  # "stock" or "ours"
    count: int,  # runs
) -> float:  # seconds
    "Run a notebook many times in worker processes, each of which takes the next run when it is done with one"
    turns = iter(range(count))  # gives each number out once, also to two threads
    def work(number):
        for _ in turns:
            bench.run(side, bench.heavy, number=number)
    begin = time.perf_counter()
    with ThreadPoolExecutor(WORKERS) as threads:
        list(threads.map(work, range(WORKERS)))
    return time.perf_counter() - begin


def batch_60x2(bench: Bench) -> Samples:
    """Compare batches. Both sides have two worker processes: papermill's API changes the process's folder and is not for threads.

    The time of papermill's batch grows with its length, so that a shorter one is measured and scaled up."""
    stock_runs = BATCH if bench.full else BATCH_STOCK
    for side in SIDES:
        run_batch(bench, side, WORKERS)
    def stock(): return run_batch(bench, "stock", stock_runs) * BATCH / stock_runs
    more = {"runs": BATCH, "workers": WORKERS, "stock_runs": stock_runs}
    if stock_runs != BATCH:
        more["note"] = f"papermill's batches have {stock_runs} runs, scaled to {BATCH}; --full measures all"
    return Samples(*take_turns(bench.batch_repeats, stock, lambda: run_batch(bench, "ours", BATCH)), more)


def memory_8_kernels(bench: Bench) -> Samples:  # MiB
    """Compare the memory of kernels (summed PSS); ours with fork server, guardians and pool.

    Each side is alone when it is weighed: pages of libraries that the other one had mapped too would count for less."""
    pool = []
    def weigh_side(side):
        stop_servers(bench.folder)
        total, waiting = bench.worker(side).submit(measure_memory, side == "ours").result()
        if side == "ours":
            pool.append(waiting / 2**20)
        return total / 2**20
    samples = take_turns(bench.repeats, lambda: weigh_side("stock"), lambda: weigh_side("ours"))
    return Samples(*samples, {"pool_mib": round(statistics.median(pool), 1)})


def distance_to_limit(bench: Bench) -> Samples:  # the limit stands in stock's place
    "Compare with the same code in an interpreter that has imported it all"
    with one_process(import_libraries) as limit:
        bench.run("ours", bench.heavy)
        return Samples(*take_turns(bench.repeats, lambda: limit.submit(time_imports).result(), lambda: bench.run("ours", bench.heavy)), {})


@dataclass(frozen=True)
class Case:
    "What is measured, and how many times better ours has to be"
    measure: Callable[[Bench], Samples]
    target: float | None
    aim: float | None = None  # what would be good
    unit: str = "s"
    peer: str = "stock"  # the other side


CASES = {
    "heavy_run": Case(heavy_run, 12, 20),
    "back_to_back": Case(back_to_back, 9),
    "cli_run": Case(cli_run, 6, 10),
    "tracked_run": Case(tracked_run, 8),
    "batch_60x2": Case(batch_60x2, 8),
    "memory_8_kernels": Case(memory_8_kernels, 2, unit="MiB"),
    "distance_to_limit": Case(distance_to_limit, None, peer="limit"),
}


# ---- results


def quartiles(
    samples: list[float],
) -> list[float]:  # the lower and the upper one
    "Between which half of the samples lie"
    if len(samples) < 2:
        return samples * 2
    lower, _, upper = statistics.quantiles(samples, n=4, method="inclusive")
    return [lower, upper]


def side_results(
    name: str,  # "stock", "limit" or "ours"
    unit: str,
    samples: list[float],
) -> dict:  # median, quartiles and samples
    "What one side came to"
    def short(values): return [round(each, 6) for each in values]
    median = round(statistics.median(samples), 6)
    return {f"{name}_{unit}": median, f"{name}_quartiles": short(quartiles(samples)), f"{name}_samples": short(samples)}


def case_results(
    case: Case,
    found: Samples,
) -> dict:
    "What a case came to"
    unit, peer, ours = case.unit.lower(), statistics.median(found.stock), statistics.median(found.ours)
    both = side_results(case.peer, unit, found.stock) | side_results("ours", unit, found.ours)
    if case.target is None:
        return both | {f"distance_{unit}": round(ours - peer, 6), "unit": case.unit} | found.more
    verdict = {"ratio": round(peer / ours, 3), "target": case.target, "aim": case.aim, "met": peer / ours >= case.target, "unit": case.unit}
    return both | verdict | found.more


def machine(
    bench: Bench,
) -> dict:
    "Where and how it was measured"
    from mlops_nb.store.system import host_info

    host = {key: value for key, value in host_info().items() if key in ("os", "cpu_model", "cpu_count", "memory_bytes")}
    how = {"repeats": bench.repeats, "batch_repeats": bench.batch_repeats, "pause_s": PAUSE_S}
    versions = {name: version(name) for name in PACKAGES}
    return host | how | {"python": platform.python_version(), "packages": versions, "load_before": os.getloadavg()}


def prepare_environment(
    folder: Path,  # a short path: sockets are made below it
) -> None:
    "Change this process and those that it starts: no settings of the caller, compiled modules as users have them, servers of our own"
    for name in [name for name in os.environ if name.startswith(("MLOPS_NB_", "WANDB_", "PYTHONDONTWRITEBYTECODE"))]:
        del os.environ[name]
    os.environ |= {"TMPDIR": str(folder), "MLOPS_NB_KERNELS_IDLE_S": "3600", "WANDB_MODE": "offline"}
    (folder / "settings.ini").write_text("[workspace]\nproject = overhead\n", encoding="utf-8")
    os.chdir(folder)


def run_cases(
    folder: Path,  # an empty one
    names: Sequence[str],
    **options,  # of `Bench`
) -> dict[str, dict]:  # case -> results, and "machine"
    "Measure cases, and leave nothing behind"
    with ExitStack() as stack:
        stack.callback(stop_servers, folder)  # after the workers, which end their kernels
        bench = Bench(folder, stack, **options)
        about, results = machine(bench), {}
        about["warm_kernels"] = bench.worker("ours").submit(is_warm, str(bench.heavy), str(folder / "first.ipynb")).result()
        if not about["warm_kernels"]:
            print("execute() takes stock kernels here: both sides do the same", file=sys.stderr)
        for name in names:
            print(f"{name} ...", file=sys.stderr, flush=True)
            results[name] = case_results(CASES[name], CASES[name].measure(bench))
        return results | {"machine": about | {"load_after": os.getloadavg()}}


def show_more(
    results: dict[str, dict],
) -> None:
    "Print what the table has no column for"
    for name, found in results.items():
        if name == "machine":
            continue
        spread = [f"{key.removesuffix('_quartiles')} {low:.3g}-{high:.3g}" for key, (low, high) in
                  ((key, value) for key, value in found.items() if key.endswith("_quartiles"))]
        facts = [f"{key} {found[key]}" for key in ("aim", "distance_s", "pool_mib", "note") if found.get(key) is not None]
        print(f"{name}: {'; '.join([f'quartiles {spread[0]}, {spread[1]}', *facts])}")
    print(f"machine: {json.dumps(results['machine'])}")


def main():
    parser = make_parser(__doc__, CASES)
    parser.add_argument("--repeats", type=int, default=7, help="samples of each side per case (default: 7)")
    parser.add_argument("--batch-repeats", type=int, default=7, help="the same for batches (default: 7)")
    parser.add_argument("--full", action="store_true", help="measure papermill's batches at full length, too")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="overhead-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        before = Path.cwd()
        prepare_environment(Path(folder))
        options = {"repeats": given.repeats, "batch_repeats": given.batch_repeats, "full": given.full}
        results = run_cases(Path(folder), given.only, **options)
        os.chdir(before)
    tell(results, "notebook_overhead", given.json, show_more)


if __name__ == "__main__":
    main()
