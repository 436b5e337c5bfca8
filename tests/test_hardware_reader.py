"""The hardware panel without a browser: what a look costs, and what is shown when the run changes."""
import random

import pytest
from mlops_nb.store import growing_journal
from mlops_nb.store.journal import Journal
from mlops_nb.store.system import summarize_hardware
from mlops_nb.widgets.hardware_curves import MOST, HardwareSamples
from mlops_nb.widgets.hardware_phases import MOST_KEPT, MOST_SHOWN, TrainingPhases
from mlops_nb.widgets.hardware_reader import HardwareReader
from mlops_nb.widgets.hardware_view import HardwarePanel
from waiting import wait_until


def begin_run(store, name, samples, status="finished", **record):
    run = store.runs.create(project="digits", name=name, started_at=1000.0, **record)
    journal = Journal(store.runs.folder(run.id) / "system.jsonl")
    for each in samples:
        journal.append(each)
    if status != "running":
        store.runs.finish(run.id, status)
    return run.id, journal


def sample(second, **more):
    return {"timestamp": 1000.0 + second, "runtime_s": float(second), "cpu_percent": 100.0, "memory_bytes": 1e9, "gpus": []} | more


def test_a_look_reads_only_what_was_appended(store, monkeypatch):
    run_id, samples = begin_run(store, "long", map(sample, range(5000)), status="running", host_info={"cpu_count": 2})
    journal = Journal(store.runs.folder(run_id) / "journal.jsonl")
    for step in range(500):
        journal.append({"_timestamp": 1000.0 + step, "time/data_ms": 9.0, "diagnosis/verdict": "data-bound"})
    reader = HardwareReader(store)
    while not (found := reader.measure("latest")).whole:
        pass
    read, decode = [], growing_journal.decode_row
    monkeypatch.setattr(growing_journal, "decode_row", lambda line: read.append(line) or decode(line))
    assert reader.measure("latest") is found
    samples.append(sample(5000, memory_bytes=7e9))
    journal.append({"_timestamp": 1600.0, "diagnosis/verdict": "compute-bound"})
    after = reader.measure("latest")
    assert len(read) == 2
    assert "data-bound" in found.findings and "compute-bound" in after.findings
    memory = next(each for each in after.curves if each.chart == "Memory").to_series()
    assert memory["y"][-1] == 7.0 and len(memory["x"]) <= MOST + 2


def test_units_and_axes_are_those_of_the_run_that_is_shown(store):
    one, _ = begin_run(store, "known", [sample(0), sample(1)], host_info={"cpu_count": 4})
    other, _ = begin_run(store, "unknown", [sample(0), sample(1, cpu_percent=350.0)])
    panel = HardwarePanel(store, one)
    try:
        wait_until(lambda: panel.charts.children)
        chart = panel.charts.children[0]
        assert (chart.y_title, chart.y_range) == ("Processor, % of 4 cores", [0.0, 100.0])
        panel.run.value = other
        wait_until(lambda: chart.y_title == "Processor, % of one core")
        assert chart.y_range == [] and chart.series[0]["y"][-1] == 350.0
    finally:
        panel.close()


def test_a_run_that_is_deleted_is_said_to_be_gone_and_others_can_be_chosen(store):
    one, _ = begin_run(store, "one", [sample(0), sample(1)])
    other, _ = begin_run(store, "other", [sample(0), sample(1)])
    panel = HardwarePanel(store, one)
    try:
        wait_until(lambda: panel.charts.children)
        store.runs.delete(one)
        panel.now.hurry()
        wait_until(lambda: f"Run {one} is no longer there" in panel.headline.value)
        assert panel.charts.children == () and panel.findings.value == "" and panel.problems.value == ""
        panel.menu.hurry()
        panel.run.value = other
        wait_until(lambda: f"other {other}: finished" in panel.headline.value and panel.charts.children)
    finally:
        panel.close()


@pytest.mark.parametrize("count", [0, 1, 2, 40])
def test_means_are_those_of_the_summary(tmp_path, count):
    chance = random.Random(count)
    def gpu(): return [{"index": 1, "utilization_percent": chance.random() * 100}]
    seconds = sorted(chance.sample(range(1000), count))
    samples = [sample(second, cpu_percent=chance.choice([None, 50.0, 300.0]), gpus=gpu()) for second in seconds]
    found, journal = HardwareSamples(tmp_path / "system.jsonl"), Journal(tmp_path / "system.jsonl")
    for each in samples:
        journal.append(each)
        found.update()
    wanted, names = summarize_hardware(samples), ("cpu_percent_mean", "gpu_1_utilization_percent_mean")
    assert found.means.now == pytest.approx({name: wanted[name] for name in names if name in wanted})


def test_of_very_many_stretches_the_longest_are_kept(tmp_path):
    found, at = TrainingPhases(tmp_path / "journal.jsonl"), 1000.0
    rows = []
    for number in range(5 * MOST_KEPT):
        at += 50 if number == 77 else 1
        rows.append({"_timestamp": at, ("time/data_ms" if number % 2 else "time/forward_ms"): 1.0})
    found.take(rows)
    bands = found.bands(1000.0)
    assert len(bands) == MOST_SHOWN and len(found._stretches) <= MOST_KEPT
    assert {"start": 77.0, "end": 127.0, "name": "data", "kind": "data"} in bands
    assert [each["start"] for each in bands] == sorted(each["start"] for each in bands)


def test_strange_samples_are_no_end_of_it(tmp_path):
    "Of another program, or of a machine whose clock jumped"
    found = HardwareSamples(tmp_path / "system.jsonl")
    found.take([{}, {"runtime_s": 5.0, "gpus": None}, {"runtime_s": 3.0, "cpu_percent": float("nan")}, {"timestamp": 9.0}])
    assert all(each.to_series()["x"] for each in found.curves(None))
