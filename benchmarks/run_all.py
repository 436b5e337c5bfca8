"""Run every benchmark of this folder and print one table: `make bench`, or `python benchmarks/run_all.py NAME ...`."""
import json
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


def amounts(
    found: dict,  # of a case
) -> tuple[float, float]:  # ours, the peer's
    "What is compared: `ours` and `peer`, or names that say more, with the unit: `ours_s`, and `stock_s` or `limit_s`"
    unit = found["unit"].lower()
    peer = next(name for name in ("peer", f"stock_{unit}", f"limit_{unit}") if name in found)
    return found["ours" if "ours" in found else f"ours_{unit}"], found[peer]


def row(
    found: dict,  # of a case
) -> list[str]:
    "The cells of a case behind its name; one without a target has no ratio"
    cells = [*(f"{each:.3g}" for each in amounts(found)), found["unit"]]
    if found.get("target") is None:
        return cells
    return [*cells, f"{found['ratio']:.2f}", f"{found['target']:.2f}", "[green]met[/]" if found["met"] else "[red]missed[/]"]


def show(
    results: dict[str, dict],  # case -> {"ours", "peer", "unit"}, and {"ratio", "target", "met"} where it has a target; "machine" -> facts
    title: str,  # of the table
) -> None:
    "Print cases as a table; `ratio` is how many times better ours is than the peer"
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for heading in ("case", "ours", "peer", "unit", "ratio", "target", ""):
        table.add_column(heading, justify="left" if heading in ("case", "unit", "") else "right")
    for case, found in results.items():
        if case != "machine":
            table.add_row(case, *row(found))
    Console().print(table)


def run_benchmark(
    script: Path,  # a benchmark; prints one JSON object
) -> dict[str, dict] | None:  # its cases, or None where it failed
    "Run one benchmark in a process of its own"
    print(f"{script.name} ...", file=sys.stderr, flush=True)
    finished = subprocess.run([sys.executable, script, "--json"], stdout=subprocess.PIPE, text=True, check=False)
    if finished.returncode:
        print(f"{script.name} failed with exit status {finished.returncode}", file=sys.stderr)
        return None
    return json.loads(finished.stdout)


def main():
    names = sys.argv[1:] or [path.stem for path in sorted(FOLDER.glob("*.py")) if path != Path(__file__).resolve()]
    found = {name: run_benchmark(FOLDER / f"{name}.py") for name in names}
    for name, results in found.items():
        if results:
            show(results, name)
    return 1 if None in found.values() else 0


if __name__ == "__main__":
    sys.exit(main())
