"""What memory costs: questions to a catalog of 100,000 runs, 300,000 artifacts and 800,000 edges, and what tracking adds to W&B.

Where there is no rival, the peer is the target in milliseconds, and a ratio of 1 or more meets it. Where there is one, both sides take
turns in one run. The catalog is the same one every time (tools/big_catalog.py); making it takes about a minute for each database. MLflow is
asked for 10,000 runs with the same metrics, parameters and tags; its tables are filled directly, it is asked through its own client.
"""

import argparse
import os
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager
from multiprocessing import get_context
from pathlib import Path

from run_all import forget_environment, make_parser, tell

sys.path.append(str(Path(__file__).resolve().parent.parent / "tools"))
import big_catalog
import system_packages
from private_postgresql import private_postgresql

TARGET_MS = {"upstream_sqlite": 10, "downstream_sqlite": 10, "upstream_postgresql": 10, "runs_list": 50}
STARTS = {"upstream": ("model", "evaluation", "explanation", "run train"), "downstream": ("raw", "train-data", "model", "run prepare")}
QUESTIONS = (  # filter, sort, whether ascending; as the CLI asks: the first 30
    (
        "metrics.test_roc_auc > 0.85 and params.model = 'mlp' and status = 'finished' and tags = 'best' and created > '2026-01-01'",
        "metrics.test_roc_auc",
        False,
    ),
    ("metrics.test_roc_auc > 0.85 and params.model = 'mlp' and status = 'finished'", "metrics.test_roc_auc", False),
    ("metrics.test_roc_auc > 0.9 and params.model = 'linear'", "metrics.latency_p95_ms", True),
    ("status = 'failed' and name = 'train'", "metrics.validation_loss", True),
    ("params.learning_rate < 0.001 and params.optimizer.name = 'adam'", "metrics.test_roc_auc", False),
    ("tags = 'paper' and metrics.recall > 0.8", "created", False),
    ("tags = 'nightly' and not params.model = 'mlp'", "params.learning_rate", False),
    ("name like 'eval%' or metrics.latency_p95_ms < 0.2", "metrics.test_roc_auc", False),
)
PAGE = 30  # runs of a question
MLFLOW_PIPELINES = 200  # 10,000 runs
OURS_TO_MLFLOW = (
    "metrics.test_roc_auc > {bound} and params.model = '{model}' and status = 'finished' and tags = 'nightly'",
    "metrics.test_roc_auc > {bound} and params.model = '{model}' and attributes.status = 'FINISHED' and tags.nightly = 'true'",
)
MLFLOW_PAGE = 1000  # what MLflow's `search_runs` gives unless told otherwise
LOG_COST, START_FINISH_S = 1.15, 0.15  # at most so many times W&B's own cost; at most so much above it
TURN = 50  # rows
ROW = {"epoch": 3, "train_loss": 0.4125, "validation_loss": 0.4531, "validation_accuracy": 0.8912, "learning_rate": 0.001}


def rounded(value: float) -> float:
    return float(f"{value:.4g}")


def percentile(
    samples: Sequence[float],
    share: float,  # 0.95 for the 95th
) -> float:
    "The sample that so many lie below"
    return sorted(samples)[min(len(samples) - 1, int(share * len(samples)))]


def clock(
    call: Callable,
    *arguments,
    **options,
) -> tuple[float, object]:  # milliseconds, and what it returned
    "Time one call"
    begin = time.perf_counter()
    found = call(*arguments, **options)
    return (time.perf_counter() - begin) * 1000, found


def against_target(
    case: str,
    samples_ms: Sequence[float],
    **facts,
) -> dict:
    "The result of a case whose peer is its target"
    ours, peer = statistics.median(samples_ms), TARGET_MS[case]
    return {
        "ours": rounded(ours),
        "peer": peer,
        "ratio": round(peer / ours, 3),
        "unit": "ms",
        "target": 1.0,
        "met": ours <= peer,
        "p95_ms": rounded(percentile(samples_ms, 0.95)),
        "samples": len(samples_ms),
        **facts,
    }


# ---- questions to the catalog


def trace_case(
    case: str,
    catalog,  # a Catalog that is open
    starts: dict[str, list[str]],  # kind -> references
    count: int,  # questions
) -> dict:
    "Time the lineage of things that people ask for, each kind equally often"
    from mlops_nb.store.lineage import trace

    direction, draw, samples, nodes = case.partition("_")[0], random.Random(3), [], []
    kinds = STARTS[direction]
    trace(catalog, draw.choice(starts[kinds[0]]), direction)  # imports, and the first connection
    for number in range(count):
        reference = draw.choice(starts[kinds[number % len(kinds)]])
        took, found = clock(trace, catalog, reference, direction)
        samples.append(took)
        nodes.append(len(found.nodes))
    each = {kind: rounded(statistics.median(samples[place :: len(kinds)])) for place, kind in enumerate(kinds)}
    return against_target(case, samples, nodes_median=statistics.median(nodes), nodes_p95=percentile(nodes, 0.95), median_ms_by_start=each)


def list_case(
    catalog,  # a Catalog that is open
    folder: Path,  # of run folders
    repeats: int,  # rounds through all questions
) -> dict:
    "Time a page of runs with a filter and a sort, as `mlops-nb runs list` shows it"
    from mlops_nb.store.runs import RunStore

    store, samples = RunStore(catalog, folder), {question: [] for question in QUESTIONS}
    for _ in range(repeats):
        for question in QUESTIONS:
            text, sort, ascending = question
            took, _ = clock(store.list, filter=text, sort=sort, ascending=ascending, limit=PAGE, brief=True)
            samples[question].append(took)
    medians = {question[0]: rounded(statistics.median(found)) for question, found in samples.items()}
    return against_target("runs_list", [each for found in samples.values() for each in found], median_ms_by_filter=medians)


def sqlite_cases(
    names: Sequence[str],
    folder: Path,
    options: argparse.Namespace,
) -> Iterator[tuple[str, dict]]:
    "The cases on SQLite"
    from mlops_nb.store.catalog import Catalog

    url = f"sqlite:///{folder}/catalog.db"
    took, generator = clock(lambda: big_catalog.fill(url, options.pipelines))
    catalog, facts = Catalog(url), size_of(generator, took)
    for case in names:
        found = (
            list_case(catalog, folder / "runs", max(1, options.questions // len(QUESTIONS)))
            if case == "runs_list"
            else trace_case(case, catalog, generator.starts, options.questions)
        )
        yield case, found | facts


def postgresql_cases(
    names: Sequence[str],
    options: argparse.Namespace,
) -> Iterator[tuple[str, dict]]:
    "The cases on PostgreSQL"
    from mlops_nb.store.catalog import Catalog

    programs = system_packages.POSTGRESQL.find()
    if not programs:
        print(f"{', '.join(names)}: left out. {system_packages.POSTGRESQL.how_to_get}", file=sys.stderr)
        return
    with private_postgresql(programs) as url:
        took, generator = clock(lambda: big_catalog.fill(url, options.pipelines))
        for case in names:
            yield case, trace_case(case, Catalog(url), generator.starts, options.questions) | size_of(generator, took)


def size_of(generator, took_ms: float) -> dict:
    return {table: generator.counts[table] for table in ("runs", "artifacts", "edges")} | {"made_in_s": round(took_ms / 1000, 1)}


# ---- MLflow


def fill_mlflow(
    source: Path,  # our catalog
    client,  # an MlflowClient of an empty store
    target: Path,  # its SQLite file
) -> str:  # id of the experiment
    "Copy runs into MLflow's tables: metrics with their history of one row, parameters as text, tags with the value `true`"
    experiment = client.create_experiment("runs", artifact_location=f"file://{target.parent}/artifacts")
    with closing(sqlite3.connect(target)) as connection:
        connection.execute("ATTACH ? AS ours", (str(source),))
        connection.execute(
            """INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time,
            end_time,
            source_version, lifecycle_stage, artifact_uri, experiment_id) SELECT id, name, 'UNKNOWN', '', '', 'ada', upper(status),
            CAST(started_at * 1000 AS INTEGER), CAST(ended_at * 1000 AS INTEGER), '', 'active',
            'file:///artifacts/' || id, ? FROM ours.runs""",
            (experiment,),
        )
        for table, columns in (
            ("metrics", "key, value, timestamp, run_uuid, step, is_nan"),
            ("latest_metrics", "key, value, timestamp, run_uuid, step, is_nan"),
        ):
            connection.execute(f"INSERT INTO {table} ({columns}) SELECT name, value, 1735689600000, run_id, 0, 0 FROM ours.run_metrics")
        connection.execute("INSERT INTO params (key, value, run_uuid) SELECT name, text, run_id FROM ours.run_parameters")
        connection.execute("INSERT INTO tags (key, value, run_uuid) SELECT tag, 'true', run_id FROM ours.tags")
        connection.execute("INSERT INTO tags (key, value, run_uuid) SELECT 'mlflow.runName', name, id FROM ours.runs")
        connection.execute("ANALYZE main")  # statistics for MLflow's tables; ours stay without, as they are in use
        connection.commit()
    return experiment


def mlflow_case(
    folder: Path,
    options: argparse.Namespace,
) -> dict:
    "Time the same question to MLflow and to mlops_nb, each on SQLite, taking turns"
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "MLFLOW_LOGGING_LEVEL": "WARNING"}
    from mlflow.tracking import MlflowClient

    from mlops_nb.store.catalog import Catalog
    from mlops_nb.store.runs import RunStore

    big_catalog.fill(f"sqlite:///{folder}/ours.db", min(options.pipelines, MLFLOW_PIPELINES))
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = fill_mlflow(folder / "ours.db", client, folder / "mlflow.db")
    store = RunStore(Catalog(f"sqlite:///{folder}/ours.db"), folder / "runs")
    pages = {page: compare_pages(client, experiment, store, page, options.repeats) for page in (MLFLOW_PAGE, PAGE)}
    ours, peer = (statistics.median(pages[MLFLOW_PAGE][side]) for side in ("ours", "mlflow"))
    small = {side: rounded(statistics.median(pages[PAGE][side])) for side in ("ours", "mlflow")}
    return {
        "ours": rounded(ours),
        "peer": rounded(peer),
        "ratio": round(peer / ours, 2),
        "unit": "ms",
        "target": 10.0,
        "met": peer / ours >= 10,
        "p95_ms": rounded(percentile(pages[MLFLOW_PAGE]["ours"], 0.95)),
        "samples": options.repeats,
        f"page_of_{PAGE}": small | {"ratio": round(small["mlflow"] / small["ours"], 2)},
    }


def said_by_mlflow(run) -> tuple[str, dict, dict, list[str]]:
    "Id, metrics, parameters and tags of a run as MLflow returns it"
    return run.info.run_id, run.data.metrics, run.data.params, sorted(tag for tag in run.data.tags if tag != "mlflow.runName")


def said_by_ours(record) -> tuple[str, dict, dict, list[str]]:
    "The same of one of our records, with the parameters as MLflow was given them"
    from mlops_nb.store.values import parameter_rows

    return record.id, record.metrics, {row["name"]: row["text"] for row in parameter_rows(record.id, record.parameters)}, list(record.tags)


def compare_pages(
    client,  # an MlflowClient
    experiment: str,  # its id
    store,  # a RunStore
    page: int,  # runs at most
    repeats: int,
) -> dict[str, list[float]]:  # side -> milliseconds
    "Ask both sides the same, in turns, and see that they answer the same"
    samples = {"ours": [], "mlflow": []}
    for number in range(repeats + 1):
        question = {"bound": round(0.75 + number % 5 / 100, 2), "model": ("mlp", "boosted")[number % 2]}
        ours, theirs = (text.format(**question) for text in OURS_TO_MLFLOW)
        took_mlflow, found = clock(client.search_runs, [experiment], theirs, order_by=["metrics.test_roc_auc DESC"], max_results=page)
        took_ours, records = clock(store.list, filter=ours, sort="metrics.test_roc_auc", limit=page, brief=True)
        said = list(map(said_by_mlflow, found)), list(map(said_by_ours, records))
        if said[0] != said[1]:
            raise RuntimeError(f"{ours}: MLflow and mlops_nb answer differently: {said}")
        if number:  # the first one imports and connects
            samples["mlflow"].append(took_mlflow)
            samples["ours"].append(took_ours)
    return samples


# ---- W&B: what runs in the worker processes, one for each side


def begin_ours(folder: str):
    from mlops_nb import start_run

    return start_run("train", config={"learning_rate": 0.001}, workspace=folder)


def begin_wandb(folder: str):
    import wandb

    return wandb.init(
        project="bench",
        name="train",
        config={"learning_rate": 0.001},
        mode="offline",
        dir=folder,
        settings=wandb.Settings(silent=True),
        reinit="create_new",
    )


BEGIN = {"wandb": begin_wandb, "ours": begin_ours}


def time_log(
    folder: str,
    turns: int,
) -> dict[str, list[float]]:  # side -> microseconds for one call, one for each turn
    "Time `run.log` of two open runs in one process, in turns whose order is drawn"
    runs, samples = {side: begin(f"{folder}/{side}") for side, begin in BEGIN.items()}, {side: [] for side in BEGIN}
    for run in runs.values():
        for _ in range(1000):
            run.log(ROW)
    draw = random.Random(0)
    for _ in range(turns):
        for side in draw.sample(sorted(runs), k=2):
            log = runs[side].log
            log(ROW)  # what the other side left behind in caches and queues
            begin = time.perf_counter()
            for step in range(TURN):
                log({**ROW, "train_loss": 0.4 / (step + 1)})
            samples[side].append((time.perf_counter() - begin) / TURN * 1e6)
            time.sleep(0.005)  # W&B's service writes what it has
    for run in reversed(runs.values()):
        run.finish()
    return samples


def time_start_finish(
    side: str,
    folder: str,
    calls: int,  # rows between beginning and end
) -> float:  # seconds
    "Time the beginning and the end of a run; the rows between them do not count"
    begin = time.perf_counter()
    run = BEGIN[side](folder)
    started = time.perf_counter()
    for _ in range(calls):
        run.log(ROW)
    logged = time.perf_counter()
    run.finish()
    return time.perf_counter() - logged + started - begin


def make_workspaces(
    folder: Path,
) -> None:
    "A folder for each side"
    for side in BEGIN:
        (folder / side).mkdir(parents=True, exist_ok=True)
        (folder / side / "settings.ini").write_text("[workspace]\nproject = bench\n", encoding="utf-8")


@contextmanager
def workers(
    folder: Path,
) -> Iterator[Callable]:  # call(side, function, *arguments)
    "A process for each side, kept warm, in a folder of its own"
    pools = {side: ProcessPoolExecutor(1, mp_context=get_context("spawn")) for side in BEGIN}
    make_workspaces(folder)
    try:
        yield lambda side, function, *arguments: pools[side].submit(function, side, str(folder / side), *arguments).result()
    finally:
        for pool in pools.values():
            pool.shutdown()


def take_turns(
    folder: Path,
    function: Callable,
    calls: int,
    repeats: int,
) -> dict[str, list[float]]:  # side -> samples
    "W&B, ours, W&B, ours ...; the first turn of each imports and starts W&B's service, and does not count"
    samples = {side: [] for side in BEGIN}
    with workers(folder) as call:
        for number in range(repeats + 1):
            for side in ("wandb", "ours"):
                took = call(side, function, calls)
                if number:
                    samples[side].append(took)
    return samples


def log_case(
    folder: Path,
    options: argparse.Namespace,
) -> dict:
    "Compare the cost of `run.log`: the median over pairs of turns, which share a process, W&B's service and the machine's moods"
    make_workspaces(folder)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        samples = pool.submit(time_log, str(folder), options.rounds * options.calls // TURN).result()
    costs = sorted(ours / peer for ours, peer in zip(samples["ours"], samples["wandb"], strict=True))
    cost = statistics.median(costs)
    return {
        "ours": rounded(statistics.median(samples["ours"])),
        "peer": rounded(statistics.median(samples["wandb"])),
        "ratio": round(1 / cost, 3),
        "unit": "us",
        "target": round(1 / LOG_COST, 3),
        "met": cost <= LOG_COST,
        "cost": round(cost, 3),
        "cost_quartiles": [round(percentile(costs, share), 3) for share in (0.25, 0.75)],
        "pairs": len(costs),
    }


def start_finish_case(
    folder: Path,
    options: argparse.Namespace,
) -> dict:
    "Compare beginning and ending a run; the ratio is between what is allowed, W&B's time and a little, and ours"
    samples = take_turns(folder, time_start_finish, 5, options.rounds * 2)
    ours, peer = (statistics.median(samples[side]) for side in ("ours", "wandb"))
    return {
        "ours": rounded(ours),
        "peer": rounded(peer),
        "difference_s": rounded(ours - peer),
        "allowed_difference_s": START_FINISH_S,
        "unit": "s",
        "ratio": round((peer + START_FINISH_S) / ours, 3),
        "target": 1.0,
        "met": ours - peer <= START_FINISH_S,
        "samples": samples,
    }


# ---- all of it


def run_cases(
    names: Iterable[str],
    options: argparse.Namespace,  # pipelines, questions, repeats, rounds, calls
) -> dict[str, dict]:  # case -> {"ours", "peer", "ratio", "unit", "target", "met"} and facts
    "Measure cases, and leave nothing behind"
    names, results = list(names), {}
    alone = {"mlflow_search": mlflow_case, "log_call": log_case, "run_start_finish": start_finish_case}
    with tempfile.TemporaryDirectory(prefix="lineage-", ignore_cleanup_errors=True) as folder:
        before = {
            "sqlite": [each for each in names if each in TARGET_MS and not each.endswith("postgresql")],
            "postgresql": [each for each in names if each.endswith("postgresql")],
        }
        if before["sqlite"]:
            results |= sqlite_cases(before["sqlite"], Path(folder), options)
        if before["postgresql"]:
            results |= postgresql_cases(before["postgresql"], options)
        for name in [each for each in names if each in alone]:
            print(f"{name} ...", file=sys.stderr, flush=True)
            (Path(folder) / name).mkdir()
            results[name] = alone[name](Path(folder) / name, options)
    return results


CASES = (*TARGET_MS, "mlflow_search", "log_call", "run_start_finish")


def parse(
    arguments: Sequence[str] | None = None,  # default: those of this process
) -> argparse.Namespace:
    parser = make_parser(__doc__, CASES)
    parser.add_argument(
        "--pipelines", type=int, default=big_catalog.PIPELINES, help="size of the catalog, 50 runs each (default: %(default)s)"
    )
    parser.add_argument("--questions", type=int, default=200, help="per case (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=20, help="questions to MLflow (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each side against W&B (default: %(default)s)")
    parser.add_argument("--calls", type=int, default=3000, help="rows of one turn (default: %(default)s)")
    return parser.parse_args(arguments)


def main():
    options = parse()
    forget_environment("MLOPS_NB_", "WANDB_")
    tell(run_cases(options.only, options), "lineage", options.json)


if __name__ == "__main__":
    main()
