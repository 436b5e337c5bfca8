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
