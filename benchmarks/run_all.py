"""Run every benchmark of this folder and print one table: `make bench`, or `python benchmarks/run_all.py NAME ...`."""
import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
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


def show_facts(
    results: dict[str, dict],  # as of `show`
    shown: tuple[str, ...] = ("ours", "peer", "ratio", "unit", "target", "met", "samples"),  # what the table has
) -> None:
    "Print what the table has no column for"
    for name, found in results.items():
        facts = [f"{key} {value}" for key, value in found.items() if key not in shown]
        print(f"{name}: {'; '.join(facts)}")


def machine(
    packages: Iterable[str],  # whose versions are told
    **options,  # of this measurement
) -> dict:
    "Where and how it was measured"
    from mlops_nb.store.system import host_info

    host = {key: value for key, value in host_info().items() if key in ("os", "cpu_model", "cpu_count", "memory_bytes")}
    versions = {}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return host | options | {"python": platform.python_version(), "packages": versions, "load_before": os.getloadavg()}


def make_parser(
    description: str,  # a text whose first line says what is measured
    cases: Iterable[str],
) -> argparse.ArgumentParser:
    "What every benchmark takes"
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--only", nargs="+", choices=cases, default=list(cases), metavar="NAME", help=f"some of: {', '.join(cases)}")
    return parser


def forget_environment(
    *prefixes: str,
) -> None:
    "What is measured has the settings of a benchmark, not of who runs it"
    for name in [name for name in os.environ if name.startswith(prefixes)]:
        del os.environ[name]


def tell(
    results: dict[str, dict],  # as of `show`
    title: str,
    as_json: bool,
    show_more: Callable[[dict], None] = lambda results: None,  # prints what the table has no column for
) -> None:
    "Print what was measured"
    if as_json:
        print(json.dumps(results, indent=2))
    else:
        show(results, title)
        show_more(results)


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
            show_facts({case: {"peer": found["peer_is"]} for case, found in results.items() if "peer_is" in found}, ())
    return 1 if None in found.values() else 0


if __name__ == "__main__":
    sys.exit(main())
