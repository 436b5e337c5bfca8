"""How long a person waits for mlops_nb to start: medians over fresh processes, the interpreter's own start included.

There is no rival to compare with, so each peer is the target in seconds, and a ratio of 1 or more meets it.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from run_all import show

COMMAND = Path(sys.executable).parent / "mlops-nb"  # the console script of this environment
TARGETS_S = {"import": 0.15, "start_run_import": 0.35, "cli_help": 0.4, "runs_list": 0.6}
RUNS = 20  # what `runs list` has to list
MAKE_RUNS = f"""
from mlops_nb import start_run
for index in range({RUNS}):
    with start_run(name=f"run-{{index}}", config={{"learning_rate": 0.1 / (index + 1)}}) as run:
        run.log({{"loss": 1 / (index + 1)}}, step=0)
        run.summary["recall"] = index / {RUNS}
"""


def environ(
    **settings: str,  # variables to set
) -> dict[str, str]:
    "This environment without the caller's own settings, and with compiled modules, as users have them"
    left_out = ("MLOPS_NB_", "WANDB_", "PYTHONDONTWRITEBYTECODE")
    return {name: value for name, value in os.environ.items() if not name.startswith(left_out)} | settings


def make_workspace(
    folder: Path,  # an empty folder
) -> None:
    "Make a workspace that holds finished runs"
    (folder / "settings.ini").write_text("[workspace]\nproject = startup\n", encoding="utf-8")
    command = [sys.executable, "-c", MAKE_RUNS]
    subprocess.run(command, cwd=folder, env=environ(WANDB_MODE="disabled"), check=True, stdout=subprocess.DEVNULL)


def measure(
    command: Sequence[str | Path],  # program and arguments
    folder: Path,  # where it runs
    repeats: int,  # processes to time, after one that warms the disk's cache
) -> float:  # median wall time in seconds
    "Time a command in fresh processes"
    times = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        subprocess.run(command, cwd=folder, env=environ(), check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - begin)
    return statistics.median(times[1:])


def run_cases(
    repeats: int,  # processes per case
) -> dict[str, dict]:  # case -> {"ours", "peer", "ratio", "unit", "target", "met"}
    "Measure every case in a workspace of its own"
    commands = {
        "import": [sys.executable, "-c", "import mlops_nb"],
        "start_run_import": [sys.executable, "-c", "from mlops_nb import start_run"],
        "cli_help": [COMMAND, "--help"],
        "runs_list": [COMMAND, "runs", "list"],
    }
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        make_workspace(Path(folder))
        for case, command in commands.items():
            ours, peer = measure(command, Path(folder), repeats), TARGETS_S[case]
            ratio = peer / ours
            results[case] = {"ours": round(ours, 4), "peer": peer, "ratio": round(ratio, 3), "unit": "s", "target": 1.0, "met": ratio >= 1}
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--repeats", type=int, default=11, help="fresh processes per case (default: 11)")
    options = parser.parse_args()
    results = run_cases(options.repeats)
    print(json.dumps(results, indent=2)) if options.json else show(results, "startup")


if __name__ == "__main__":
    main()
