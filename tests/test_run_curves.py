"""What a notebook should not show of curves: journals that grow, are broken off, are very long, or are replaced."""
import json
import math
import os
import random

import pytest
from hypothesis import given, settings, strategies as st
from mlops_nb.settings import StoreError
from mlops_nb.store import growing_journal, run_curves
from mlops_nb.store.journal import Journal
from mlops_nb.store.run_curves import MOST_POINTS, Curve, JournalCurves, RunCurves, Thinned


@pytest.fixture
def path(tmp_path):
    return tmp_path / "งาน ของ ฉัน" / "journal.jsonl"


def values_of(curves, name="loss"):
    return [value for _, _, value in curves.curves[name].points]


def write_rows(path, values, mode="wb"):
    path.parent.mkdir(exist_ok=True)
    with path.open(mode) as file:
        file.writelines(b'{"loss":%.3f,"_step":%d,"_timestamp":%d}\n' % (value, step, 1000 + step) for step, value in enumerate(values))


def test_only_what_was_appended_is_read(path, monkeypatch):
    read = []
    decode = growing_journal.decode_row
    monkeypatch.setattr(growing_journal, "decode_row", lambda line: read.append(line) or decode(line))
    journal, curves = Journal(path), JournalCurves(path)
    for step in range(5):
        journal.append({"_step": step, "loss": 1 / (1 + step)})
        assert curves.update()
        assert not curves.update()
    assert len(read) == 5
    assert values_of(curves) == [1 / (1 + step) for step in range(5)]


def test_a_journal_may_come_later(path):
    curves = JournalCurves(path)
    assert not curves.update()
    Journal(path).append({"loss": 0.5})
    assert curves.update()
    assert curves.curves["loss"].points == [(0, None, 0.5)]  # without a step, rows count


@pytest.mark.parametrize("cut", [1, 9, 30])
def test_half_a_line_is_read_when_it_is_whole(path, cut):
    line = json.dumps({"_step": 1, "loss": 0.25, "note": "ไทย"}, ensure_ascii=False).encode() + b"\n"
    Journal(path).append({"_step": 0, "loss": 0.5})
    curves = JournalCurves(path)
    with path.open("ab", buffering=0) as file:
        file.write(line[:cut])
        curves.update()
        assert values_of(curves) == [0.5]
        file.write(line[cut:])
    assert curves.update()
    assert values_of(curves) == [0.5, 0.25]


def test_a_line_that_is_broken_off_in_the_middle_is_passed_over(path):
    write_rows(path, [0.5])
    with path.open("ab") as file:
        file.write(b'{"_step": 1, "los\n[1]\n\n{"_step": 2, "loss": 0.1}\n')
    curves = JournalCurves(path)
    curves.update()
    assert values_of(curves) == [0.5, 0.1]


@pytest.mark.parametrize("how", ["shorter", "as long", "longer, in place"])
def test_a_journal_that_is_replaced_is_read_from_its_beginning(path, how):
    write_rows(path, [1.0, 2.0, 3.0])
    curves = JournalCurves(path)
    curves.update()
    new = {"shorter": [9.0], "as long": [9.0, 8.0, 7.0], "longer, in place": [9.0, 8.0, 7.0, 6.0]}[how]
    if "in place" in how:
        write_rows(path, new, "r+b")
    else:
        write_rows(path.with_name("new"), new)
        os.replace(path.with_name("new"), path)
    assert curves.update()
    assert values_of(curves) == new


def test_a_million_rows_become_a_thousand_points_with_their_extremes(path):
    values = [math.sin(step / 50_000) + step % 7 / 100 for step in range(1_000_000)]
    values[123_456], values[765_432] = 50.0, -50.0
    write_rows(path, values)
    with path.open("ab") as file:
        file.write(b'{"loss":"NaN","_step":1000000}\n{"loss":0.125,"_step":1000001,"_timestamp":5000}\n')
    curves = JournalCurves(path)
    looks = 1
    while curves.update():
        looks += 1
    points = curves.curves["loss"].points
    assert curves.rows == 1_000_002 and looks > 1
    assert MOST_POINTS / 4 < len(points) <= MOST_POINTS
    assert (123_456, 124_456, 50.0) in points and (765_432, 766_432, -50.0) in points
    assert (1_000_000, None, None) in points
    assert points[0][0] == 0 and points[-1] == (1_000_001, 5000, 0.125)
    assert [step for step, _, _ in points] == sorted(step for step, _, _ in points)


@settings(max_examples=40)
@given(st.lists(st.integers(0, 2500), max_size=4), st.integers(0, 99), st.sampled_from([0.0, 0.002, 0.5, 1.0]))
def test_a_curve_keeps_its_ends_and_extremes_however_it_grows(sizes, seed, gaps):
    thinned, values, chance = Thinned(), [], random.Random(seed)
    for size in sizes:
        piece = [None if chance.random() < gaps else chance.gauss(0, 1) for _ in range(size)]
        thinned.add([(len(values) + at, None, value) for at, value in enumerate(piece)])
        values += piece
    points = thinned.points
    known = [value for value in values if value is not None]
    assert len(points) <= MOST_POINTS
    assert all(values[step] == value for step, _, value in points)
    assert [step for step, _, _ in points] == sorted({step for step, _, _ in points})
    if values:
        assert points[0][0] == 0 and points[-1][0] == len(values) - 1
    if known:
        assert {min(known), max(known)} <= {value for _, _, value in points}
    if len(values) <= 900:
        assert len(points) == len(values)


def test_what_is_not_finite_is_a_gap(path):
    path.parent.mkdir()
    path.write_bytes(b'{"loss":"NaN"}\n{"loss":"-Infinity"}\n{"loss":1' + b"0" * 400 + b'}\n{"loss":true}\n{"loss":"words"}\n{"loss":1}\n')
    curves = JournalCurves(path)
    curves.update()
    assert values_of(curves) == [None, None, None, 1]


def test_what_cannot_be_read_is_said(path):
    path.mkdir(parents=True)
    with pytest.raises(StoreError, match="journal"):
        JournalCurves(path).update()


def test_curves_of_several_runs(runs):
    "On both databases; steps of threads come in order, and seconds count from the start"
    first, second = (runs.create(project="digits", name=name, started_at=1000.0) for name in ("a", "b"))
    for step in (1, 0, 2):
        row = {"_step": step, "_timestamp": 1010.0 + step, "val": {"loss": step / 2}, "system/cpu": 3}
        Journal(runs.folder(first.id) / "journal.jsonl").append(row)
    curves = RunCurves(runs)
    curves.look([first.id, second.id, first.id, "gone"])
    assert curves.names == ["val.loss"]
    assert list(curves.records) == [first.id, second.id]
    assert curves.curve(first.id, "val.loss") == Curve([0, 1, 2], [0.0, 0.5, 1.0])
    assert curves.curve(first.id, "val.loss", "seconds") == Curve([10.0, 11.0, 12.0], [0.0, 0.5, 1.0])
    assert curves.curve(second.id, "val.loss") == curves.curve("gone", "val.loss") == Curve([], [])
    runs.finish(first.id, "finished")
    curves.look([first.id])
    assert curves.records[first.id].status == "finished" and list(curves.records) == [first.id]


def test_a_run_without_a_journal_gives_what_there_is(runs, monkeypatch, tmp_path):
    "Its history in W&B's own file, which is read once; or else the last values"
    imported, bare, empty = (runs.create(project="digits", name=name, started_at=1000.0) for name in ("imported", "bare", "empty"))
    file, nothing = tmp_path / "run-x.wandb", tmp_path / "run-y.wandb"
    file.touch()
    nothing.touch()
    runs.finish(empty.id, "finished", wandb_path=str(nothing))
    runs.finish(imported.id, "finished", wandb_path=str(file), metrics={"loss": 0.1})
    runs.finish(bare.id, "finished")
    runs.update(bare.id, metrics={"loss": 0.2})
    asked = []
    rows = [{"_step": step, "_timestamp": 1001.0 + step, "loss": 1 / (step + 1)} for step in range(3)]
    history = [{"type": "history", "history": {"item": row}} for row in rows]
    monkeypatch.setattr(run_curves, "read_wandb_file", lambda path: asked.append(path) or (history if path == file else []))
    curves = RunCurves(runs)
    for _ in range(3):
        curves.look([imported.id, bare.id, empty.id])
    assert asked == [file, nothing]
    assert curves.curve(empty.id, "loss") == Curve([], [])
    assert curves.curve(imported.id, "loss", "seconds") == Curve([1.0, 2.0, 3.0], [1.0, 0.5, 1 / 3])
    assert curves.curve(bare.id, "loss").y == [0.2]


def test_a_look_ends_when_its_time_is_over_and_the_next_one_goes_on(runs):
    "Each step takes something, so that a look without any time comes to an end, too"
    ids = [runs.create(project="digits", name=name).id for name in ("a", "b")]
    for id in ids:
        write_rows(runs.folder(id) / "journal.jsonl", [float(step) for step in range(60_000)])
    curves, looks = RunCurves(runs), 1
    assert not curves.look(ids, 0.0)
    assert 0 < curves.count(ids[0], "loss") < 60_000
    while not curves.look(ids, 0.0):
        looks += 1
        assert looks < 20
    assert [curves.count(id, "loss") for id in ids] == [60_000, 60_000]
    assert values_of(curves._journals[ids[1]])[-1] == 59_999.0


def test_a_journal_that_goes_while_it_is_read_is_not_waited_for(path):
    write_rows(path, [1.0] * 60_000)
    curves = JournalCurves(path)
    curves.update(0.0)
    assert curves.behind
    path.unlink()
    assert not curves.update() and not curves.behind


def test_values_are_counted_and_last_ones_told_without_a_curve(runs, monkeypatch):
    run = runs.create(project="digits", name="a")
    journal = Journal(runs.folder(run.id) / "journal.jsonl")
    for step in range(5):
        journal.append({"loss": 1.0 / (1 + step), "f1": math.nan, "note": "words"})
    journal.append({"_summary": {"best": {"f1": 0.9}, "note": "words"}})
    curves = RunCurves(runs)
    curves.look([run.id])
    monkeypatch.setattr(Thinned, "points", property(lambda _: pytest.fail("a curve was made")))
    assert [curves.count(run.id, name) for name in ("loss", "f1", "note", "best.f1")] == [5, 5, 0, 0]
    assert curves.last(run.id) == {"loss": 0.2, "f1": None, "best.f1": 0.9}
