"""Benchmarks stay able to run: the catalog that they measure with, small, on both databases, and the questions that they ask."""

import sys

import pytest
import sqlalchemy as sa
from big_catalog import COLUMNS, Generator, fill
from tree import ROOT

from mlops_nb.store import tables
from mlops_nb.store.catalog import Catalog
from mlops_nb.store.resolution import resolve


@pytest.fixture
def lineage(monkeypatch):
    "The module benchmarks/lineage.py"
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import lineage

    yield lineage
    for name in ("lineage", "run_all"):
        sys.modules.pop(name, None)


def test_the_large_catalog_has_the_size_that_is_promised():
    generator = Generator(8)
    batches = list(generator.batches())
    counts = {name: sum(len(batch.get(name, ())) for batch in batches) for name in COLUMNS}
    assert (counts["runs"], counts["artifacts"]) == (8 * 50, 8 * 150) and counts["edges"] >= 8 * 400
    assert counts["run_parameters"] and counts["run_metrics"] and counts["tags"]


@pytest.fixture(params=["sqlite", "postgresql"])
def small_catalog(request, tmp_path):
    "A catalog of 400 runs, and what it was made with"
    url = f"sqlite:///{tmp_path}/catalog.db"
    if request.param == "postgresql":
        server = request.getfixturevalue("postgresql_url")
        with sa.create_engine(server, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool).connect() as connection:
            connection.exec_driver_sql("DROP DATABASE IF EXISTS benchmark")
            connection.exec_driver_sql("CREATE DATABASE benchmark")
        url = server.replace("/postgres?", "/benchmark?")
    return Catalog(url), fill(url, 8)


def test_the_catalog_can_be_used(small_catalog, lineage, tmp_path):
    catalog, generator = small_catalog
    for case in ("upstream_sqlite", "downstream_sqlite"):
        found = lineage.trace_case(case, catalog, generator.starts, 4)
        assert found["nodes_median"] > 3 and found["unit"] == "ms"
    assert set(lineage.list_case(catalog, tmp_path / "runs", 1)["median_ms_by_filter"]) == {question[0] for question in lineage.QUESTIONS}
    with catalog.read() as connection:
        assert (
            resolve(connection, "churn-0-model:latest")
            == connection.execute(sa.select(sa.func.max(tables.artifacts.c.id)).where(tables.artifacts.c.name == "churn-0-model")).scalar()
        )


def test_each_case_says_what_it_is_measured_against(lineage):
    assert set(lineage.TARGET_MS) < set(lineage.CASES)
    found = lineage.against_target("runs_list", [1.0, 2.0, 30.0])
    assert (found["ours"], found["peer"], found["ratio"], found["met"], found["p95_ms"]) == (2.0, 50, 25.0, True, 30.0)


@pytest.fixture
def training(monkeypatch):
    "The module benchmarks/training.py"
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import training

    with training.one_thread():
        yield training
    for name in ("training", "run_all"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", ["tabular", "digits"])
def test_every_side_trains_for_the_same_number_of_steps(training, name):
    work = getattr(training, name)(epochs=2, rows=600)
    sides = {
        "bare": lambda: training.time_bare(work),
        "clock": lambda: training.time_clocked(work),
        "ours": lambda: training.time_fit(work, None),
        "usual": lambda: training.time_fit(work, None, training.usual_loader(work)),
    }
    turns = training.take_turns(work, sides, 1)
    assert {side: [turn.steps for turn in found] for side, found in turns.items()} == dict.fromkeys(sides, [work.steps])
    assert len(training.BlockLoader(work)) == work.steps / work.epochs


def test_a_side_that_trains_less_is_no_rival(training):
    work = training.tabular(epochs=1, rows=600)
    for turn in (training.Turn((1.0, 1.0, 1.0), work.steps - 1, 0.5), training.Turn((1.0, 1.0, 1.0), work.steps, float("nan"))):
        with pytest.raises(RuntimeError, match="bare made"):
            training.check_turn("bare", turn, work)


def test_speeds_and_costs_are_those_of_pairs(training):
    work = training.tabular(epochs=1, rows=600)
    def turns(*seconds): return [training.Turn((each, each / 2, each / 4), work.steps, 0.5) for each in seconds]
    found = training.compare(work, turns(1.0, 2.0, 4.0), turns(2.0, 2.0, 6.0), 1.2, 1.1)
    assert (found["ours"], found["ratio"], found["cpu_ratio"]) == (300, 1.5, 1.5)
    assert (found["lower"], found["upper"], found["met"]) == (1.0, 2.0, False)  # the median is above its target, its bound is not
    assert training.compare(work, turns(1.0), turns(2.0))["met"] is None
    costs = training.compare_costs(work, {"bare": turns(1.0, 2.0), "ours": turns(1.01, 2.02), "traceml": turns(1.2, 2.4)})
    assert (costs["ours"], costs["peer"], costs["met"]) == (0.01, 0.2, True) and costs["ratio"] > 1
