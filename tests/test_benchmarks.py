"""Benchmarks stay able to run: the catalog that they measure with, small, on both databases, and the questions that they ask."""

import sys
from importlib.util import find_spec

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


@pytest.fixture
def evaluation(monkeypatch):
    "The module benchmarks/evaluation.py"
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import evaluation

    yield evaluation
    torch.set_num_threads(threads)
    for name in ("evaluation", "run_all"):
        sys.modules.pop(name, None)


def test_every_case_of_evaluation_can_be_asked_for(evaluation, capsys):
    options = evaluation.parse(["--json", "--only", "bootstrap_metrics", "--repeats", "1"])
    assert (options.only, options.repeats, options.json) == (["bootstrap_metrics"], 1, True)
    assert evaluation.parse([]).only == ["drift_356k_x_50", "bootstrap_metrics", "permutation_importance", "integrated_gradients"]
    with pytest.raises(SystemExit):
        evaluation.parse(["--only", "bootstrap"])
    assert "bootstrap_metrics" in capsys.readouterr().err


def test_sides_take_turns_at_being_first(evaluation):
    order = []
    turns = evaluation.take_turns({"ours": lambda: order.append("ours"), "peer": lambda: order.append("peer")}, 2)
    assert order == ["ours", "peer", "peer", "ours"] and {name: len(each) for name, each in turns.items()} == {"ours": 2, "peer": 2}
    found = evaluation.compare([1.0, 2.0, 4.0], [10.0, 40.0, 40.0], 10)
    assert (found["ours"], found["peer"], found["ratio"], found["met"]) == (2.0, 40.0, 10.0, True)  # the median of the three ratios
    assert not evaluation.compare([1.0], [9.9], 10)["met"]


def check_extrapolated(found, factor, words):
    "A peer that is timed on a part says so, and is the part times the factor"
    assert found["peer"] == pytest.approx(found["peer_measured_s"][0] * factor, rel=1e-3) and found["peer_is"] == words


def test_bootstrap_measures_what_scikit_learn_does(evaluation, capsys):
    found = evaluation.bootstrap_metrics(1, rows=4000, resamples=10, timed=2)
    assert found["largest_difference"] < 1e-9 and (found["target"], found["slices"]) == (50, 20)
    check_extrapolated(found, 5, "timed on 2 resamples and extrapolated to 10")
    evaluation.tell({"bootstrap_metrics": found}, "evaluation", False, evaluation.show_facts)
    assert "peer_is timed on 2 resamples and extrapolated to 10" in capsys.readouterr().out


def test_bootstrap_is_not_timed_where_the_numbers_differ(evaluation, monkeypatch):
    true = evaluation.weighted_metrics
    monkeypatch.setattr(evaluation, "weighted_metrics", lambda *given: [value + 1e-6 for value in true(*given)])
    with pytest.raises(RuntimeError, match="the same draw differs"):
        evaluation.bootstrap_metrics(1, rows=4000, resamples=10, timed=2)


def test_permutations_lose_what_scikit_learn_says_they_lose(evaluation):
    found = evaluation.permutation_importance(1, rows=4000)
    assert (found["target"], found["rows"], found["columns"], found["shuffles"]) == (3, 4000, 20, 2) and found["ratio_on_arrays"] > 0


def test_gradients_are_those_of_captum_row_by_row(evaluation):
    found = evaluation.integrated_gradients(1, rows=200, timed=20)
    assert found["worst_relative_delta"] < 0.05
    check_extrapolated(found, 10, "timed on 20 rows and extrapolated to 200")


@pytest.fixture
def drifted(evaluation):
    "Two tables of the benchmark, small, and what is said about them"
    from mlops_nb.data.drift import drift

    reference, current = evaluation.make_table(3000, 0), evaluation.make_table(2500, 1, evaluation.SHIFT)
    return reference, current, drift(reference, current, evaluation.schema_of(reference))


def by_hand(reference, current, report, evaluation):
    "What Evidently 0.7.23 computes, by SciPy: PSI of the cells, 0.0001 in empty ones; Wasserstein in deviations, or Jensen-Shannon"
    import numpy as np
    import pandas as pd
    from scipy.spatial.distance import jensenshannon
    from scipy.stats import wasserstein_distance

    def shares(before, after):
        counts = pd.concat([each.value_counts(normalize=True) for each in (before, after)], axis=1).fillna(0)
        return counts.to_numpy().T

    cells, psi, chosen = [evaluation.in_cells(report, each) for each in (reference, current)], {}, {}
    for name in cells[0]:
        before, after = np.where((found := shares(cells[0][name], cells[1][name])) == 0, 0.0001, found)
        psi[name] = float(np.sum((before - after) * np.log(before / after)))
    for name in reference:
        sides = reference[name], current[name]
        is_text = name.startswith("category")
        chosen[name] = jensenshannon(*shares(*sides)) if is_text else wasserstein_distance(*sides) / np.std(sides[0])
    return psi, chosen


def test_drift_of_the_benchmark_is_known_before_it_is_timed(drifted, evaluation):
    reference, current, report = drifted
    assert reference.shape == (3000, 50) and 0 < len(report.drifted) < 50
    psi, chosen = by_hand(reference, current, report, evaluation)
    evaluation.check_statistics(report, psi, chosen)
    for wrong in ({"psi": psi | {"category level_4": psi["category level_4"] + 0.01}}, {"chosen": chosen | {"category_3": 0.5}}):
        with pytest.raises(RuntimeError, match=r"level_4: PSI|category_3: its own statistic"):
            evaluation.check_statistics(report, **{"psi": psi, "chosen": chosen} | wrong)


if find_spec("evidently"):  # it is in the environment of benchmarks only
    def test_drift_is_that_of_evidently(evaluation, drifted):
        reference, current, report = drifted
        evaluation.check_drift(reference, current, evaluation.schema_of(reference))
        found = evaluation.drift_356k_x_50(1, rows=3000)
        assert (found["target"], found["rows"], found["columns"]) == (100, 3000, 50)


def test_a_sweep_is_measured_beside_the_loop_that_people_write(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import sweep

    monkeypatch.setattr(sweep, "IMPORTS", "import time, wandb")  # the heavy ones take most of a minute
    try:
        found = sweep.one_second_60x2(work_s=0.0, trials=2, stock_trials=2)
        assert found["ours"] > 0 and found["peer"] > 0 and found["ratio"] == pytest.approx(found["ours"] / found["peer"])
        found = sweep.thousand_trials(trials=14, last=2)
        assert found["ours"] > 0 and found["unit"] == "ms"
    finally:
        for name in ("sweep", "run_all"):
            sys.modules.pop(name, None)


@pytest.fixture
def panels(monkeypatch):
    "The module benchmarks/widgets.py"
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import widgets

    yield widgets
    for name in ("widgets", "run_all"):
        sys.modules.pop(name, None)


def test_each_row_is_matched_with_its_own_point(panels):
    "One that comes late, or with the next one, or never, counts as long as it was waited for"
    logged, drawn = [0.0, 6.0, 12.0, 18.0, 24.0], [3.0, 6.5, 18.5, 18.5]
    samples, judge, facts = panels.waits(logged, drawn, seen=1)
    assert samples == [0.5, 6.5, 0.5, panels.PATIENCE_S] and judge(samples) == panels.PATIENCE_S and facts["not_drawn"] == 1
    with pytest.raises(RuntimeError, match="no row was logged"):
        panels.waits([0.0], [3.0], seen=1)


def test_a_pause_of_either_thread_belongs_to_its_act(panels):
    done = [("quiet", 0.0, 5.0), ("paging", 5.0, 7.0), ("sorting", 7.0, 9.0), ("paging", 9.0, 11.0)]
    costs = {"turns": [(1.0, 1.01), (5.5, 5.53), (8.0, 8.4)], "heard": [(5.1, 5.2, 5.21), (9.5, 9.6, 9.8)]}
    found = panels.costs_of(done, costs)
    assert found["quiet"] == {"loop": 10.0, "widgets": 0.0, "callbacks": 0.0}
    assert found["paging"] == {"loop": 30.0, "widgets": 300.0, "callbacks": 200.0} and found["sorting"]["loop"] == 400.0
