"""Make a catalog like that of a team after some years: 100,000 runs, 300,000 artifacts, 800,000 edges, the same ones every time.

The rows go straight into the tables, for a run each would take hours. `python tools/big_catalog.py sqlite:////tmp/big/catalog.db` makes one
to try things on; benchmarks/lineage.py measures with it.
"""

import argparse
import hashlib
import json
import random
import sqlite3
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing

import sqlalchemy as sa

from mlops_nb.store import tables
from mlops_nb.store.catalog import Catalog
from mlops_nb.store.values import metric_rows, parameter_rows

SWEEPS = (6, 8, 12, 24, 36, 46, 60, 96)  # trainings of one pipeline: 36 on average
EVALUATED = 6  # of each sweep, the best ones; each is evaluated and explained
VERSIONS = 10  # of a team's data: so many pipelines, one after the other
CHAINED = 5  # each fifth team makes its data from its earlier data; the others fetch it anew
PIPELINES = 2_000  # of 50 runs, 150 artifacts and 400 edges on average
FIRST_DAY = 1_735_689_600.0  # 2025-01-01
DAY_S = 86_400.0
INGEST = ("raw", "reference", "ingest-report", "rules")  # what each kind of run logs
PREPARE = ("train-data", "validation-data", "test-data", "schema", "profile", "encoder", "weights", "leak-report")
TRAIN, EVALUATE, EXPLAIN = ("model", "checkpoint", "curves"), ("evaluation", "predictions", "fairness"), ("explanation", "attributions")
TYPES = {"model": "model", "checkpoint": "model", "encoder": "model", "evaluation": "evaluation", "explanation": "explanation"}
WORDS = ("churn", "fraud", "demand", "digits", "returns", "wine", "income", "claims")
COLUMNS = {
    table.name: [column.name for column in table.c]
    for table in (
        tables.runs,
        tables.tags,
        tables.run_metrics,
        tables.run_parameters,
        tables.environments,
        tables.groups,
        tables.group_runs,
        tables.artifacts,
        tables.artifact_files,
        tables.aliases,
        tables.edges,
    )
}
HOST_INFO = {
    "hostname": "node-7",
    "os": "Linux-6.1.0-x86_64",
    "cpu_model": "AMD EPYC",
    "cpu_count": 16,
    "memory_bytes": 137438953472,
    "gpus": [{"name": "NVIDIA H200", "memory_bytes": 150754820096}],
}


def digest(
    *words: object,
) -> str:  # like a sha256 of content
    "The same digest for the same words"
    return hashlib.sha256("/".join(map(str, words)).encode()).hexdigest()


class Generator:
    "Rows of a catalog, drawn from one seed; `pipelines` says how large it is"

    def __init__(
        self,
        pipelines: int = PIPELINES,
        seed: int = 7,
    ):
        self.pipelines, self.random = pipelines, random.Random(seed)
        self.rows = defaultdict(list)  # table -> rows that nobody has taken yet
        self.counts = defaultdict(int)  # table -> rows so far
        self.starts = defaultdict(list)  # kind -> ids or references, for questions about the lineage
        self.ids, self.now, self.versions, self.sizes = set(), FIRST_DAY, {}, []

    def add(self, table: str, **values) -> None:
        "One row"
        self.rows[table].append(tuple(map(values.get, COLUMNS[table])))
        self.counts[table] += 1

    def new_id(self) -> str:
        "Like the id of a run"
        while (found := "".join(self.random.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=8))) in self.ids:
            pass
        self.ids.add(found)
        return found

    def run(self, name: str, project: str, group: str, parameters: dict, metrics: dict, duration_s: float, **more) -> str:
        "A run with its metrics and parameters; gives back its id"
        run_id, status = self.new_id(), self.random.choices(("finished", "failed", "killed"), (96, 3, 1))[0]
        self.now += self.random.expovariate(1 / 480)
        hardware = {"samples": 120, "cpu_percent_mean": 412.5, "memory_bytes_peak": 4_294_967_296, "gpu_0_utilization_percent_mean": 71.25}
        self.add(
            "runs",
            id=run_id,
            project=project,
            name=name,
            notebook=f"notebooks/{name}.ipynb",
            notebook_digest=digest(name, project),
            notebook_blob=digest("blob", name, project),
            status=status,
            created_at=self.now,
            started_at=self.now,
            ended_at=self.now + duration_s,
            lease_expires_at=self.now + 60,
            host="node-7/boot/pid:[4026531836]",
            pid=4711,
            process_started_at=36177.25,
            host_info=json.dumps(HOST_INFO),
            group_id=group,
            step=name,
            parameters=json.dumps(parameters),
            metrics=json.dumps(metrics),
            hardware=json.dumps(hardware),
            code_commit=digest("commit", int(self.now // DAY_S))[:40],
            code_digest=digest("code", project),
            environment_digest=digest("environment", int(self.now // DAY_S) // 30),
            error="null",
            journal_rows=80,
            wandb_state="complete",
            attempt=more.pop("attempt", 1),
            request=json.dumps({"kernel_name": "python3", "parameters": parameters}),
            **more,
        )
        for table, rows in (("run_metrics", metric_rows(run_id, metrics)), ("run_parameters", parameter_rows(run_id, parameters))):
            for row in rows:
                self.add(table, **row)
        for tag, share in (("best", 0.02), ("paper", 0.005), ("nightly", 0.2)):
            if self.random.random() < share:
                self.add("tags", run_id=run_id, tag=tag)
        self.starts[f"run {name}"].append(f"run/{run_id}")
        return run_id

    def log(self, run_id: str, team: str, kinds: tuple[str, ...]) -> dict[str, int]:  # kind -> id of the artifact version
        "Versions that a run makes"
        made = {}
        for kind in kinds:
            name, artifact_id = f"{team}-{kind}", self.counts["artifacts"] + 1
            version = self.versions[name] = self.versions.get(name, -1) + 1
            content = digest(name, version)
            self.add(
                "artifacts",
                id=artifact_id,
                type=TYPES.get(kind, "dataset"),
                name=name,
                version=version,
                digest=content,
                size_bytes=48_213,
                wandb_digest=content[:32],
                metadata='{"rows": 48213}',
                run_id=run_id,
                created_at=self.now,
            )
            self.add("artifact_files", artifact_id=artifact_id, path=f"{kind}.bin", digest=content, size_bytes=48_213)
            self.add(
                "edges", run_id=run_id, artifact_id=artifact_id, relation="logged", requested=f"{name}:v{version}", created_at=self.now
            )
            self.starts[kind].append(f"{name}:v{version}")
            made[kind] = artifact_id
        return made

    def use(self, run_id: str, team: str, things: list[tuple[str, int]]) -> None:
        "Edges to what a run uses: kind and id"
        for kind, artifact_id in things:
            self.add(
                "edges", run_id=run_id, artifact_id=artifact_id, relation="used", requested=f"{team}-{kind}:latest", created_at=self.now
            )

    def prepare(self, team: str, project: str, group: str, before: dict[str, int]) -> dict[str, int]:  # kind -> id
        "Fetch data and prepare it; `before` is what it is compared with"
        draw = self.random
        ingest = self.run("ingest", project, group, {"source": "warehouse", "day": int(self.now // DAY_S)}, {"rows": 48_213}, 90.0)
        if before:
            self.use(ingest, team, [(kind, before[kind]) for kind in INGEST])
        made = self.log(ingest, team, INGEST)
        prepare = self.run("prepare", project, group, {"test_share": 0.2, "seed": draw.randrange(10)}, {"rows": 48_213, "leaks": 0}, 60.0)
        self.use(
            prepare, team, [(kind, made[kind]) for kind in INGEST] + [(kind, before[kind]) for kind in ("profile", "encoder") if before]
        )
        for step, run_id in (("ingest", ingest), ("prepare", prepare)):
            self.add("group_runs", group_id=group, step=step, run_id=run_id, reused=False, added_at=self.now)
        return made | self.log(prepare, team, PREPARE)

    def sweep(
        self, team: str, project: str, group: str, data: dict[str, int], trainings: int, model: int | None
    ) -> list[tuple[float, str, dict]]:
        "Train often on the same data; the first training of all goes on from an earlier model"
        draw, done, earlier = self.random, [], None
        for number in range(trainings):
            parameters = {
                "learning_rate": round(10 ** draw.uniform(-4, -1), 6),
                "epochs": draw.choice((8, 16, 32)),
                "seed": number,
                "model": draw.choices(("mlp", "linear", "boosted"), (6, 1, 3))[0],
                "hidden": draw.choice((32, 64, 128, 256)),
                "dropout": round(draw.uniform(0, 0.5), 3),
                "optimizer": {"name": "adam", "weight_decay": draw.choice((0.0, 1e-4))},
            }
            score = min(0.999, max(0.5, draw.gauss(0.82, 0.05)))
            metrics = {
                "epoch": parameters["epochs"],
                "train_loss": round(1.2 - score, 5),
                "validation_loss": round(1.25 - score, 5),
                "test_roc_auc": round(score, 5),
                "test_average_precision": round(score * 0.7, 5),
                "latency_p95_ms": round(draw.uniform(0.1, 2), 3),
            }
            again = {"attempt": 2, "resumed_from": earlier, "first_attempt": earlier} if earlier and draw.random() < 0.01 else {}
            run_id = self.run("train", project, group, parameters, metrics, draw.uniform(60, 3_600), **again)
            self.use(run_id, team, [(kind, data[kind]) for kind in ("train-data", "validation-data", "schema", "profile", "encoder")])
            if number == 0 and model:
                self.use(run_id, team, [("model", model)])
            done.append((score, run_id, self.log(run_id, team, TRAIN)))
            earlier = None if again else run_id
        return sorted(done, key=lambda each: -each[0])

    def judge(self, team: str, project: str, group: str, data: dict[str, int], model: dict[str, int], score: float) -> None:
        "Evaluate a model and explain it"
        metrics = {
            "test_roc_auc": round(score, 5),
            "test_roc_auc_lower": round(score - 0.02, 5),
            "test_roc_auc_upper": round(score + 0.02, 5),
            "recall": round(score * 0.95, 5),
        }
        for name, kinds, measured in (("evaluate", EVALUATE, metrics), ("explain", EXPLAIN, {"features": 12})):
            run_id = self.run(name, project, group, {"threshold": 0.5, "seed": 0}, measured, 120.0)
            self.use(
                run_id, team, [("model", model["model"])] + [(kind, data[kind]) for kind in ("test-data", "schema", "profile", "encoder")]
            )
            self.log(run_id, team, kinds)

    def pipeline(self, number: int, state: dict) -> None:
        "One execution of a pipeline with a sweep in it; `state` is what its team has so far"
        team_number = number // VERSIONS
        project = WORDS[team_number % len(WORDS)]
        team, group = f"{project}-{team_number}", self.new_id()
        self.add("groups", id=group, name=project, created_at=self.now)
        chained = team_number % CHAINED == 0
        data = self.prepare(team, project, group, state.get("last" if chained else "first", {}))
        state["first"], state["last"] = state.get("first", data), data
        self.sizes = self.sizes or self.random.sample(SWEEPS, len(SWEEPS))
        done = self.sweep(team, project, group, data, self.sizes.pop(), state.get("model"))
        for score, _, model in done[:EVALUATED]:
            self.judge(team, project, group, data, model, score)
        state["model"] = done[0][2]["model"]

    def batches(self) -> Iterator[dict[str, list[tuple]]]:  # table -> rows; in an order that foreign keys allow
        "All rows, a few pipelines at a time"
        for month in range(60):
            self.add(
                "environments",
                digest=digest("environment", int(FIRST_DAY // DAY_S) // 30 + month),
                python="3.12.4",
                platform="linux",
                packages=json.dumps({f"package-{each}": f"1.{month}.{each}" for each in range(200)}),
            )
        state = {}
        for number in range(self.pipelines):
            if number % VERSIONS == 0:
                state = {}  # another team
            self.pipeline(number, state)
            if number % 100 == 99:
                yield self.take()
        yield self.take()

    def take(self) -> dict[str, list[tuple]]:
        "The rows since the last time"
        taken, self.rows = self.rows, defaultdict(list)
        return {name: taken[name] for name in COLUMNS if taken[name]}


LATEST = """INSERT INTO aliases (name, alias, artifact_id)
SELECT a.name, 'latest', a.id FROM artifacts a JOIN (SELECT name, max(version) AS version FROM artifacts GROUP BY name) b
ON a.name = b.name AND a.version = b.version"""


def fill_sqlite(
    catalog: Catalog,  # an empty one
    generator: Generator,
) -> None:
    "Fill a catalog on SQLite; its indexes are made at the end, which takes a third of the time"
    with closing(sqlite3.connect(catalog.path)) as connection:
        connection.executescript("PRAGMA synchronous=OFF; PRAGMA cache_size=-500000; PRAGMA foreign_keys=OFF")
        indexes = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL").fetchall()
        for name, _ in indexes:
            connection.execute(f'DROP INDEX "{name}"')
        for batch in generator.batches():
            for table, rows in batch.items():
                places = ", ".join("?" * len(COLUMNS[table]))
                connection.executemany(f"INSERT INTO {table} ({', '.join(COLUMNS[table])}) VALUES ({places})", rows)
        connection.execute(LATEST)
        for _, statement in indexes:
            connection.execute(statement)
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def fill_postgresql(
    catalog: Catalog,  # an empty one
    generator: Generator,
) -> None:
    "Fill a catalog on PostgreSQL with COPY; its indexes are made at the end"
    with catalog.write() as connection:
        indexes = connection.exec_driver_sql("""SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND indexname NOT IN
            (SELECT conname FROM pg_constraint)""").all()
        for name, _ in indexes:
            connection.exec_driver_sql(f'DROP INDEX "{name}"')
        cursor = connection.connection.cursor()
        cursor.execute("SET session_replication_role = replica")  # foreign keys hold by construction
        for batch in generator.batches():
            for table, rows in batch.items():
                with cursor.copy(f"COPY {table} ({', '.join(COLUMNS[table])}) FROM STDIN") as copy:
                    for row in rows:
                        copy.write_row(row)
        connection.exec_driver_sql(LATEST)
        connection.exec_driver_sql("SELECT setval(pg_get_serial_sequence('artifacts', 'id'), (SELECT max(id) FROM artifacts))")
        for _, statement in indexes:
            connection.exec_driver_sql(statement)
    engine = sa.create_engine(catalog.url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql("VACUUM ANALYZE")  # what the server does by itself within a minute or so


def fill(
    url: str,  # SQLAlchemy URL of a catalog that does not exist yet, or of an empty database
    pipelines: int = PIPELINES,
    seed: int = 7,
) -> Generator:  # what was drawn: counts, and where questions can start
    "Make a catalog and fill it"
    catalog, generator = Catalog(url), Generator(pipelines, seed)
    with catalog.read():
        pass
    (fill_sqlite if catalog.path else fill_postgresql)(catalog, generator)
    return generator


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", help="such as sqlite:////tmp/big/catalog.db; there must be nothing yet")
    parser.add_argument("--pipelines", type=int, default=PIPELINES, help=f"of 50 runs on average (default: {PIPELINES})")
    options = parser.parse_args()
    begin = time.perf_counter()
    print(json.dumps(fill(options.url, options.pipelines).counts | {"seconds": round(time.perf_counter() - begin, 1)}, indent=2))


if __name__ == "__main__":
    sys.exit(main())
