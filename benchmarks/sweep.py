"""What a sweep costs beside the work of its trials: `mlops-nb`'s own sweep beside the loop that people write with papermill and W&B.

Both sides run the same notebook, which imports the usual libraries, works for so many seconds and logs a metric, with two trials at a time.
The loop has two worker processes which have imported papermill, takes random configurations and runs the notebook with W&B offline; ours
searches, records, samples the hardware and tracks besides. What the loop does costs the same for each trial, so that it runs fewer of them.
"""
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from run_all import forget_environment, machine, make_parser, show_facts, tell

WORKERS = 2
TRIALS, STOCK_TRIALS, LAST = 60, 12, 100  # of ours; of the loop; of a thousand, those that are timed
IMPORTS = """\
import time
import torch
import wandb
import pandas
import sklearn.linear_model
import matplotlib.pyplot
import captum.attr
"""
WORK = """\
until = time.perf_counter() + {work_s}
while time.perf_counter() < until: time.sleep(0.01)
loss = (x - 0.3) ** 2
"""
OURS = "from mlops_nb import start_run\nstart_run().log({'loss': loss})"
STOCK = """\
run = wandb.init(mode="offline", project="sweep", dir=folder, config={"x": x}, settings=wandb.Settings(quiet=True, silent=True))
run.log({"loss": loss})
run.finish()
"""


def write_notebook(
    path: Path,
    parameters: str,  # code of the cell tagged `parameters`
    *cells: str,  # code of the others
) -> Path:  # the same
    "Make a notebook for this environment's kernel"
    import nbformat

    kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    tagged = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(cells=[tagged, *map(nbformat.v4.new_code_cell, cells)])
    notebook.metadata |= {"kernelspec": kernelspec, "language_info": {"name": "python"}}
    nbformat.write(notebook, path)
    return path


# ---- the loop that people write


def import_papermill() -> None:
    import papermill  # noqa: F401


def run_stock(
    notebook: str,
    output: str,
    parameters: dict,
) -> None:
    "One trial as papermill's API runs it"
    import papermill

    papermill.execute_notebook(notebook, output, parameters, progress_bar=False)


def time_stock(
    folder: Path,
    work_s: float,
    trials: int,
) -> float:  # seconds in all
    "A random search over stock papermill and W&B"
    notebook = write_notebook(folder / "stock.ipynb", "x = 0.0\nfolder = '.'", IMPORTS, WORK.format(work_s=work_s), STOCK)
    with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn"), initializer=import_papermill) as pool:
        for each in [pool.submit(import_papermill) for _ in range(WORKERS)]:
            each.result()
        draw = random.Random(0)
        begin = time.perf_counter()
        asked = [pool.submit(run_stock, str(notebook), str(folder / f"stock-{number}.ipynb"), {"x": draw.random(), "folder": str(folder)})
                 for number in range(trials)]
        for each in asked:
            each.result()
        return time.perf_counter() - begin


# ---- ours


def make_sweep(
    folder: Path,  # becomes a workspace
    work_s: float,
    trials: int,
    method: str = "random",
):  # a `Sweep`
    "A sweep over one parameter"
    from mlops_nb.experiments.sweep_file import read_sweep
    from mlops_nb.experiments.sweep_record import create_sweep
    from mlops_nb.settings import open_workspace
    from mlops_nb.store.door import open_store

    folder.mkdir(exist_ok=True)
    (folder / "settings.ini").write_text("[workspace]\nproject = sweep\n")
    write_notebook(folder / "trial.ipynb", "x: float = 0.0", IMPORTS, WORK.format(work_s=work_s), OURS)
    names = [f"  x{number}: {{min: 0.0, max: 1.0}}" for number in range(4)] if trials > 500 else []
    file = folder / "sweep.yaml"
    file.write_text("\n".join([f"program: trial.ipynb\nmethod: {method}\nmetric: {{name: loss}}\nrun_cap: {trials}\nparameters:",
                               "  x: {min: 0.0, max: 1.0}", *names]) + "\n")
    store = open_store(open_workspace(folder))
    return create_sweep(store, read_sweep(file, root=folder), workers=WORKERS)


def time_ours(
    folder: Path,
    work_s: float,
    trials: int,
) -> float:  # seconds in all
    "The same search as a sweep"
    from mlops_nb.experiments.executors import open_executor
    from mlops_nb.experiments.sweeps import run_sweep

    sweep = make_sweep(folder, work_s, trials)
    with open_executor(sweep.store, workers=WORKERS) as executor:
        begin = time.perf_counter()
        end = run_sweep(sweep, executor)
        took_s = time.perf_counter() - begin
    if end.counts != {"finished": trials}:
        raise RuntimeError(f"the sweep ended with {dict(end.counts)}: {[each.error for each in end.trials if each.error][:1]}")
    return took_s


class AtOnce(Executor):
    "Answers each trial at once, as a notebook that costs nothing would"
    workers, description = WORKERS, "nothing is run"

    def submit(self, function, request):
        from mlops_nb.experiments.trials import TrialResult

        future = Future()
        loss = sum((value - 0.3) ** 2 for value in request.parameters.values())
        future.set_result(TrialResult(request.number, "finished", f"run{request.number}", {"loss": loss}, 1.0))
        return future

    def cancel_running(self): pass


# ---- the cases


def compare(
    work_s: float,  # of each trial
    trials: int = TRIALS,  # of ours
    stock_trials: int = STOCK_TRIALS,
) -> dict[str, float]:  # seconds for one trial, times WORKERS, without its work: ours, peer
    "Ours and the loop, one after the other, each after a short one that fills caches and starts servers"
    with tempfile.TemporaryDirectory(prefix="bench ") as name:
        folder = Path(name)
        time_stock(folder, 0.0, WORKERS)
        stock_s = time_stock(folder, work_s, stock_trials) * WORKERS / stock_trials
        time_ours(folder / "first", 0.0, WORKERS)
        ours_s = time_ours(folder / "ours", work_s, trials) * WORKERS / trials
    return {"ours": ours_s, "peer": stock_s, "trials": trials, "peer_trials": stock_trials, "workers": WORKERS, "work_s": work_s}


def overhead_per_trial(
    work_s: float = 10.0,
    **options,  # of `compare`
) -> dict:
    "Seconds that a trial costs besides its work"
    found = compare(work_s, **options)
    ours, peer = found["ours"] - work_s, found["peer"] - work_s
    facts = {"limit": 0.7, "peer_is": f"papermill and W&B, {found['peer_trials']} trials"}
    return found | facts | {"ours": ours, "peer": peer, "ratio": peer / ours, "unit": "s", "target": 10.0,
                            "met": ours <= 0.7 and peer / ours >= 10.0}


def one_second_60x2(
    work_s: float = 1.0,
    **options,  # of `compare`
) -> dict:
    "Trials in a minute"
    found = compare(work_s, **options)
    ours, peer = (60 * WORKERS / found[side] for side in ("ours", "peer"))
    return found | {"ours": ours, "peer": peer, "ratio": ours / peer, "unit": "trials/min", "target": 4.0, "met": ours / peer >= 4.0,
                    "peer_is": f"papermill and W&B, {found['peer_trials']} trials"}


def thousand_trials(
    trials: int = 1000,
    last: int = LAST,  # those that are timed
    limit_ms: float = 50.0,
) -> dict:
    "What choosing, recording and telling a trial costs when there are many; the peer is the target"
    from mlops_nb.experiments.sweeps import run_sweep

    with tempfile.TemporaryDirectory(prefix="bench ") as name:
        sweep = make_sweep(Path(name) / "many", 0.0, trials, method="bayes")
        run_sweep(sweep, AtOnce(), runs=trials - last)
        begin = time.perf_counter()
        end = run_sweep(sweep, AtOnce(), runs=trials)
        took_ms = 1000 * (time.perf_counter() - begin) / last
    if end.counts != {"finished": trials}:
        raise RuntimeError(f"the sweep ended with {dict(end.counts)}")
    return {"ours": took_ms, "peer": limit_ms, "ratio": limit_ms / took_ms, "unit": "ms", "target": 1.0, "met": took_ms <= limit_ms,
            "peer_is": "the target"}


PACKAGES = ("papermill", "wandb", "optuna", "torch", "mlops_nb")
CASES: dict[str, Callable[..., dict]] = {each.__name__: each for each in (overhead_per_trial, one_second_60x2, thousand_trials)}


def main():
    options = make_parser(__doc__, CASES).parse_args()
    forget_environment("MLOPS_NB_", "WANDB_")
    os.environ["WANDB_SILENT"] = "true"
    about, results = machine(PACKAGES), {}
    for name in options.only:
        print(f"{name} ...", file=sys.stderr, flush=True)
        results[name] = CASES[name]()
    tell(results | {"machine": about | {"load_after": os.getloadavg()}}, "sweep", options.json, show_facts)


if __name__ == "__main__":
    sys.exit(main())
