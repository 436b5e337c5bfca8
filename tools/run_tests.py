"""Every check of `make test`, in order. All run, also after one failed; the last line counts them together with pytest's tests."""
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from tree import ROOT, changes, tree_digests

SCRIPTS = Path(sys.prefix) / "bin"
PYTEST = "Tests (pytest)"
WORKERS = min(4, os.cpu_count() or 1)
TEST_WORKERS = WORKERS + 1  # tests also wait for processes that they have started


def steps(
    report: Path,  # where pytest writes its counts
) -> list[tuple[str, list]]:  # title and command, in order
    "What `make test` runs"
    notebooks = ["--skip-folder-re", r"^[_.]|^templates$", "--n-workers", str(WORKERS), "--timing"]
    return [
        ("Programs that tests need", [sys.executable, "tools/system_packages.py"]),
        ("Export and clean leave no difference", [sys.executable, "tools/export.py", "--check"]),
        ("README.md is current", [sys.executable, "tools/readme.py", "--check"]),
        ("Style (ruff)", [SCRIPTS / "ruff", "check", "mlops_nb", "tests", "benchmarks", "tools"]),
        ("Floors (import-linter)", [SCRIPTS / "lint-imports"]),
        ("Notebooks (nbdev-test)", [SCRIPTS / "nbdev-test", *notebooks]),
        (PYTEST, [SCRIPTS / "pytest", "-n", str(TEST_WORKERS), "--dist", "loadfile", "--no-loadscope-reorder", f"--junitxml={report}",
                  "--durations=20", "--durations-min=5"]),
    ]


def step_environ(
    folder: str,  # for temporary files, and so for the sockets of kernels
) -> dict[str, str]:
    "This environment without the settings that would reach into tests, its scripts first on the PATH"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLOPS_NB_", "WANDB_"))}
    return {**kept, "PATH": f"{SCRIPTS}{os.pathsep}{kept.get('PATH', os.defpath)}", "TMPDIR": folder}


def run_step(
    title: str,  # shown above the step's own output
    command: list,  # program and arguments
    folder: str,  # for temporary files
) -> bool:  # whether it passed
    "Run one step and show its time"
    print(f"\n=== {title}", flush=True)
    begin = time.monotonic()
    passed = subprocess.run(list(map(str, command)), cwd=ROOT, env=step_environ(folder), check=False).returncode == 0
    print(f"--- {'passed' if passed else 'FAILED'} in {time.monotonic() - begin:.0f} s", flush=True)
    return passed


def stop_kernels(
    folder: str,  # for temporary files of the tests
) -> list[str]:  # processes that are still there
    "End the processes that kernels were forked from; with them, everything is to end"
    subprocess.run([SCRIPTS / "mlops-nb", "kernels", "stop"], env=step_environ(folder), stdout=subprocess.DEVNULL, check=True)
    time.sleep(3)  # for what leaves by itself
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if any(folder in word for word in words):
            found.append(f"process {path.parent.name}: {' '.join(words)[:200]}")
    return found


def left_behind(
    before: dict[str, str],  # the tree before the tests
    had_store: bool,  # whether the repository had a store of its own before
    processes: list[str],  # that have not ended
) -> bool:  # whether the tests left the tree as they found it
    "Name what the tests changed or forgot"
    print("\n=== Tests leave nothing behind")
    found = changes(before, tree_digests()) + ([] if had_store or not (ROOT / ".mlops").exists() else ["new .mlops"]) + processes
    print(*(f"  {line}" for line in found or ["nothing"]), sep="\n")
    return not found


def test_counts(
    report: Path,  # pytest's JUnit file
) -> tuple[int, int]:  # passed and failed; (0, 0) where pytest did not come that far
    "Count pytest's tests, without the skipped ones"
    if not report.exists():
        return 0, 0
    suites = ElementTree.parse(report).getroot().iter("testsuite")
    counts = [[int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")] for suite in suites]
    tests, failures, errors, skipped = map(sum, zip(*counts, strict=True))
    return tests - failures - errors - skipped, failures + errors


def main():
    before, had_store = tree_digests(), (ROOT / ".mlops").exists()
    with tempfile.TemporaryDirectory(prefix="mlops-nb-test-", ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o755)  # PostgreSQL runs as another user
        report = Path(folder) / "report.xml"
        results = {title: run_step(title, command, folder) for title, command in steps(report)}
        passed, failed = test_counts(report)
        processes = stop_kernels(folder)
    results["Tests leave nothing behind"] = left_behind(before, had_store, processes)
    checks = [result for title, result in results.items() if title != PYTEST or not (passed or failed)]
    passed, failed = passed + sum(checks), failed + len(checks) - sum(checks)
    print("\n=== Summary", *(f"{'passed' if result else 'FAILED'}  {title}" for title, result in results.items()), sep="\n")
    print(f"{passed} passed, {failed} failed")
    return 0 if all(results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
