"""Charts of runs without a browser: what is asked, what is made for it, and what becomes of runs that go."""
import threading

import pytest
from mlops_nb.store.journal import Journal
from mlops_nb.store.run_curves import Thinned
from mlops_nb.widgets.feed import Feed
from mlops_nb.widgets.run_answers import Asked, CurveAnswers, ImportanceAnswers
from mlops_nb.widgets.run_charts import CurvesPanel, RunCharts
from mlops_nb.widgets.run_columns import answer, run_columns
from mlops_nb.widgets.runs_view import RunsPanel, SeenColumns, tag_runs
from mlops_nb.widgets.data_table import Query
from waiting import wait_until


def begin_run(store, name="train", steps=3, metrics=("loss",), status="finished", **parameters):
    record = store.runs.create(project="digits", name=name, parameters=parameters)
    journal = Journal(store.runs.folder(record.id) / "journal.jsonl")
    for step in range(steps):
        journal.append({"_step": step, "_timestamp": record.created_at + step} | {each: 1 / (1 + step) for each in metrics})
    if status != "running":
        store.runs.finish(record.id, status)
    return record.id


def still_charts(store, **options):
    "Charts whose feed is not started"
    return RunCharts(store, follow=lambda ask, tell: Feed(ask, tell, print), **options)


def test_only_the_drawn_metric_becomes_curves(store, monkeypatch):
    ids = [begin_run(store, metrics=[f"m{each}" for each in range(40)]) for _ in range(3)]
    made, points = [], Thinned.points.fget
    monkeypatch.setattr(Thinned, "points", property(lambda self: made.append(self) or points(self)))
    found = CurveAnswers(store).answer(Asked(tuple(ids)))
    assert len(found["menus"]["metric"][0]) == 40
    assert len(made) == len(found["chart"]["series"]) == 3


def test_what_somebody_picks_while_an_answer_is_under_way_stays(store):
    charts = still_charts(store)
    charts.show([begin_run(store, metrics=["loss", "f1"])])
    charts.tell(charts.answer())
    late = charts.answer()
    charts.menus.metric.value = "f1"
    charts.tell(late)
    assert charts.menus.metric.value == "f1"
    charts.tell(charts.answer())
    assert charts.chart.y_title == "f1"


def test_a_pick_is_not_taken_for_the_answer_that_fills_menus_in_another_thread(store):
    charts = still_charts(store)
    charts.show([begin_run(store, metrics=["loss", "f1"])])
    charts.tell(charts.answer())
    charts.menus.x.observe(lambda _: picking.start() or picking.join(), "value")  # in the middle of filling
    picking = threading.Thread(target=lambda: setattr(charts.menus.metric, "value", "f1"))
    charts.menus.fill({"x": (["step", "seconds"], "seconds")})
    assert charts.menus.picked == "f1"


def test_a_run_that_is_deleted_is_dropped_with_one_note(store):
    ids = [begin_run(store) for _ in range(3)]
    charts, gone = still_charts(store), []
    charts.lose = gone.append
    charts.show(ids)
    charts.tell(charts.answer())
    store.runs.delete(ids[1])
    for _ in range(2):
        charts.tell(charts.answer())
        assert f"1 run that was shown is no longer there: {ids[1]}." in charts.note.value
        assert [each["id"] for each in charts.chart.series] == [ids[0], ids[2]]
    assert gone == [{ids[1]}]
    store.runs.delete(ids[0])
    store.runs.delete(ids[2])
    charts.tell(charts.answer())
    assert "3 runs that were shown are no longer there" in charts.note.value and charts.chart.layout.display == "none"
    charts.show([begin_run(store)])
    charts.tell(charts.answer())
    assert charts.note.value == ""


@pytest.fixture
def panel(store):
    found = RunsPanel(store, every_s=0.1)
    yield found
    found.close()


def test_a_chosen_run_that_is_deleted_is_chosen_no_longer(store, panel):
    ids = [begin_run(store, rate=each) for each in range(3)]
    panel.table.selected = ids[:2]
    wait_until(lambda: "rate" in panel.comparison.value)
    store.runs.delete(ids[0])
    tag_runs(store, ids, ("best",))
    panel.charts.feed.hurry()
    wait_until(lambda: panel.table.selected == [ids[1]] and panel.comparison.value == "")
    wait_until(lambda: f"no longer there: {ids[0]}" in panel.charts.note.value)
    assert panel.problems.value == ""
    assert {each.id for each in store.runs.list(tag="best")} == set(ids[1:])


def test_an_importance_follows_the_filter_of_the_table(store, panel):
    ids = [begin_run(store, name="wide" if each % 3 else "narrow", rate=each / 7) for each in range(30)]
    for number, run_id in enumerate(ids):
        store.runs.update(run_id, metrics={"loss": number / 30})
    panel.table.selected = ids[:2]
    panel.charts.menus.kind.value, panel.charts.menus.among.value = "importance", "filter"
    wait_until(lambda: "among 30 runs" in panel.charts.bars.value)
    panel.table.query = {**panel.table.query, "filter": "name = 'narrow'"}
    wait_until(lambda: "among 10 runs" in panel.charts.bars.value)
    panel.table.query = {**panel.table.query, "filter": "name = 'narrow"}
    wait_until(lambda: "not understood" in panel.charts.note.value)
    assert panel.problems.value == ""  # the table says it at the filter
    panel.table.query = {**panel.table.query, "filter": ""}
    wait_until(lambda: "among 30 runs" in panel.charts.bars.value)


def test_an_importance_of_very_many_runs_says_which(store, monkeypatch):
    monkeypatch.setattr("mlops_nb.widgets.run_answers.MOST_POINTS", 10)
    for number in range(12):
        store.runs.update(begin_run(store, rate=number / 7), metrics={"loss": number / 12})
    found = ImportanceAnswers(store).answer(Asked(among="filter"))
    assert "among 10 runs" in found["bars"] and found["note"] == "The newest 10 of 12 runs count."


def test_curves_without_runs_are_of_the_newest_run(store):
    panel = CurvesPanel(store)
    panel.close()
    panel.charts.feed._thread.join(20)
    assert panel.charts.answer()["note"] == "No run is chosen."
    for name in ("first", "second"):
        run_id = begin_run(store, name)
        assert [each["id"] for each in panel.charts.answer()["chart"]["series"]] == [run_id]


def test_a_live_run_is_read_on_for_its_row(store, monkeypatch):
    "And its metrics are columns before it has ended"
    run_id = begin_run(store, status="running", steps=50)
    read = []
    decode = __import__("mlops_nb.store.growing_journal", fromlist=["decode_row"]).decode_row
    monkeypatch.setattr("mlops_nb.store.growing_journal.decode_row", lambda line: read.append(line) or decode(line))
    live = panel_curves(store)
    assert answer(store, Query(), live=live).rows[0]["metrics.loss"] == 1 / 50
    Journal(store.runs.folder(run_id) / "journal.jsonl").append({"loss": 0.001})
    assert answer(store, Query(), live=live).rows[0]["metrics.loss"] == 0.001
    assert len(read) == 51


def panel_curves(store):
    from mlops_nb.store.run_curves import RunCurves
    return RunCurves(store.runs)


def test_metrics_of_a_live_run_are_columns(store, panel):
    begin_run(store, status="running")
    panel._names.hurry()
    wait_until(lambda: "metrics.loss" in [each["name"] for each in panel.table.columns])
    wait_until(lambda: [each.get("metrics.loss") for each in panel.table.page["rows"]] == [1 / 3])


def test_groups_are_told_apart(store):
    "Runs without a value, and those whose value is the word for that"
    for optimizer in ({}, {"optimizer": "None"}, {"optimizer": "none"}, {"optimizer": "(none)"}):
        begin_run(store, **optimizer)
    rows = answer(store, Query(group="params.optimizer")).rows
    assert len({each["id"] for each in rows}) == 4
    assert run_columns(())


def insert_run(store, id, metrics, tags=(), **parameters):
    store.runs.insert({"id": id, "project": "digits", "name": "train", "status": "finished", "hardware": {}, "parameters": parameters,
                       "created_at": float(int(id[-1])), "metrics": metrics}, tags)


def shown_names(columns):
    return [each.name for each in columns if each.shown]


def test_runs_without_what_objectives_ask_for_show_metrics_of_their_own(store):
    for number in range(4):
        insert_run(store, f"judged0{number}", {"recall": 0.9, "f1": 0.8, "precision": 0.7})
    insert_run(store, "trained4", {"epoch": 3, "time/fit": 2.0, "loss": 0.1, "accuracy": 0.9})
    records, asked = store.runs.list(), ["recall", "f1", "precision", "cost"]
    shown = shown_names(run_columns(records, asked))
    assert [each for each in shown if each.startswith("metrics")] == [f"metrics.{each}" for each in (*asked[:3], "accuracy", "loss")]
    seen = [each for each in records if each.id == "trained4"]
    shown = shown_names(run_columns(records, asked, seen))  # nothing empty: the evaluations are on another page
    assert [each for each in shown if each.startswith("metrics")] == ["metrics.accuracy", "metrics.loss"]


def test_columns_stay_where_they_are_when_a_run_is_added(store):
    for number in range(3):
        insert_run(store, f"trained{number}", {"loss": 0.1 * number}, rate=number)
    seen = SeenColumns(store)
    before = shown_names(seen.find(Query(), {}))
    assert "tags" not in before
    insert_run(store, "judged09", {"recall": 0.9, "f1": 0.8}, ("good",), depth=3, rate=7)
    after = shown_names(seen.find(Query(), {}))
    assert after[:len(before)] == before and {"metrics.recall", "metrics.f1", "tags"} <= set(after[len(before):])
    assert "name" in shown_names(seen.find(Query(filter="metrics.reca >"), {}))  # a question that is wrong


def test_what_was_done_with_tags_is_told(store):
    for number in range(2):
        insert_run(store, f"trained{number}", {"loss": 0.1})
    panel = RunsPanel(store)
    for action, said in (("tag", "2 runs tagged good"), ("untag", "2 runs no longer tagged good")):
        panel.table._take(panel.table, {"action": action, "ids": ["trained0", "trained1"], "text": "good"}, [])
        wait_until(lambda said=said: panel.table.told == said)
        assert len(store.runs.list(tag="good")) == 2 * (action == "tag")
    panel.close()
