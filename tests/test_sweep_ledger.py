"""What a sweep keeps of its trials: guardrails, failures, kills between two lines, costs, and why it ends."""
import fcntl
from collections import Counter
from concurrent.futures import Future

import pytest
from notebooks import write_notebook

from mlops_nb.experiments import sweep_study, sweeps
from mlops_nb.experiments.diminishing_returns import expected_gain
from mlops_nb.experiments.sweep_file import read_sweep
from mlops_nb.experiments.sweep_program import check_program
from mlops_nb.experiments.sweep_ledger import SweepLedger
from mlops_nb.experiments.sweep_limits import Price, SweepLimits
from mlops_nb.experiments.sweep_progress import read_progress
from mlops_nb.experiments.sweep_record import create_sweep, hold, is_held, list_sweeps
from mlops_nb.experiments.sweep_study import SweepStudy
from mlops_nb.experiments.trials import TrialResult
from mlops_nb.settings import SweepError, open_workspace
from mlops_nb.store.door import open_store

FILE = """
program: train.ipynb
method: {method}
metric: {{name: loss, goal: minimize}}
parameters:
  x: {{min: 0.0, max: 1.0}}
  width: {{values: [8, 16, 32]}}
"""
OBJECTIVES = """
[[goal]]
name = "fraud"
owner = "payments"
reason = "chargebacks"
cost_of_missing = 50000
[[goal.objective]]
metric = "recall"
measured_in = "evaluate"
at_least = 0.8
[[goal.objective]]
metric = "latency_p95_ms"
measured_in = "evaluate"
at_most = 20
role = "guardrail"
"""


@pytest.fixture
def folder(tmp_path):
    write_notebook(tmp_path / "train.ipynb", "x: float = 0.1\nwidth: int = 8\nopt = {'name': 'adam', 'momentum': 0.9}", "pass")
    (tmp_path / "settings.ini").write_text("[workspace]\nproject = sweeps\n")
    return tmp_path


def begin(folder, text=FILE, method="random", more=""):
    (folder / "sweep.yaml").write_text(text.format(method=method) + more)
    return create_sweep(open_store(open_workspace(folder)), read_sweep(folder / "sweep.yaml", root=folder))


def finished(trial, value, **metrics):
    return TrialResult(trial.number, "finished", f"run{trial.number}", {"loss": value, "recall": value} | metrics, 60.0)


def use_objectives(folder, method="bayes"):
    (folder / "objectives.toml").write_text(OBJECTIVES)
    return begin(folder, FILE.replace("metric: {{name: loss, goal: minimize}}", "objectives: use"), method)


# ---- guardrails


def test_bayes_learns_from_trials_that_failed_or_did_not_measure_a_guardrail(folder):
    sweep = use_objectives(folder)
    ledger = SweepLedger(sweep, 1)
    for number in range(14):
        trial = ledger.next_trial()
        if number == 3: ledger.tell(TrialResult(number, "failed", error="ValueError: no"))
        elif number == 5: ledger.tell(finished(trial, 0.5))
        else: ledger.tell(finished(trial, trial.parameters["x"], latency_p95_ms=10 + 20 * trial.parameters["x"]))
        if number == 11: ledger = SweepLedger(sweep, 1)  # resumed
    assert Counter(each.state for each in ledger.trials.values()) == {"finished": 13, "failed": 1}
    assert ledger.trials[5].constraints == {} and ledger.trials[3].constraints == {}
    assert ledger.trials[4].constraints == {"latency_p95_ms": pytest.approx(20 * ledger.trials[4].parameters["x"] - 10)}


def test_the_objectives_are_those_of_the_beginning(folder):
    sweep = use_objectives(folder)
    (folder / "objectives.toml").write_text(OBJECTIVES.replace("at_most = 20", "at_most = 2").replace("recall", "precision"))
    assert sweep.aims.metrics == ("recall",) and sweep.aims.guardrails[0][1].at_most == 20
    (folder / "objectives.toml").unlink()
    assert sweep.aims.metrics == ("recall",)


@pytest.mark.parametrize("more, problem", [("objectives: use", "needs"), ("budget: {money: 3}", "set cost_per_hour")])
def test_what_could_not_end_is_not_begun(folder, more, problem):
    text = FILE.replace("metric: {{name: loss, goal: minimize}}", "") if "use" in more else FILE
    with pytest.raises(SweepError, match=problem) as error: begin(folder, text, more=more + "\n")
    assert "sweep.yaml" in str(error.value) and list_sweeps(open_store(open_workspace(folder))) == []


# ---- failures


def test_a_value_that_is_not_finite_is_one_failure(folder):
    ledger = SweepLedger(begin(folder), 1)
    assert ledger.tell(finished(ledger.next_trial(), float("nan"))) == ""
    assert ledger.tell(finished(ledger.next_trial(), 0.3)) == ""
    assert [each.state for each in ledger.ended()] == ["failed", "finished"]


@pytest.mark.parametrize("metrics, said", [({"lss": 0.3}, "lss"), ({"loss": "low"}, "it is 'low'")])
def test_a_metric_that_nobody_logs_ends_the_sweep(folder, metrics, said):
    ledger = SweepLedger(begin(folder), 1)
    useless = ledger.tell(TrialResult(ledger.next_trial().number, "finished", "run0", metrics))
    assert "logged no number as 'loss'" in useless and said in useless


def test_failures_for_the_same_reason_count_together(folder):
    ledger = SweepLedger(begin(folder), 1)
    for peak in (0.10, 0.34, 0.2, 0.3, 0.4):
        ledger.tell(TrialResult(ledger.next_trial().number, "killed", error=f"the kernel ended; its memory peaked at {peak} GiB"))
    assert ledger.next_trial() is None
    assert ledger.reason == "the first 5 trials failed, all of them with: the kernel ended; its memory peaked at 0.1 GiB"


def test_a_trial_that_was_half_told_when_the_process_was_killed_counts_once(folder, monkeypatch):
    sweep = begin(folder, method="bayes")
    ledger = SweepLedger(sweep, 2)
    first, second = ledger.next_trial(), ledger.next_trial()
    ledger.tell(finished(first, 0.2))

    def killed(*arguments): raise KeyboardInterrupt
    monkeypatch.setattr(ledger.study.study, "tell", killed)
    with pytest.raises(KeyboardInterrupt): ledger.tell(TrialResult(second.number, "failed", error="ValueError: no"))
    again = SweepLedger(sweep, 2)
    assert [each.number for each in again.pending] == [second.number] and len(again.ended()) == 1
    again.tell(finished(second, 0.5))
    ended = SweepLedger(sweep, 2).ended()
    assert [(each.number, each.state, each.values) for each in ended] == [(0, "finished", (0.2,)), (1, "finished", (0.5,))]


def test_a_failed_trial_is_retried_once_also_after_a_kill(folder):
    sweep = begin(folder)
    ledger = SweepLedger(sweep, 1)
    ledger.tell(TrialResult(ledger.next_trial().number, "failed", error="ValueError: no"))
    ledger.study.retry(0)  # and then it was killed
    again = SweepLedger(sweep, 1)
    again.retry_failed()
    assert again.next_trial().retry_of == 0 and again.next_trial().retry_of is None


# ---- the end


def test_a_signal_that_comes_while_limits_are_looked_at_is_heard(folder, monkeypatch):
    ledger = SweepLedger(begin(folder), 1)

    def reason(*arguments):
        ledger.reason = "interrupted by SIGINT"
        return ""
    monkeypatch.setattr(SweepLimits, "reason", reason)
    assert ledger.next_trial() is None and ledger.reason == "interrupted by SIGINT"


def test_a_plateau_with_an_outlier_has_an_expected_gain():
    for values in ([0.9] * 159 + [0.95], [0.9] * 400 + [0.95, 0.951]):
        gain = expected_gain(values, 10, "maximize")
        assert 0 <= gain.lower <= gain.upper and 0 <= gain.expected < 0.05


def test_cost_is_what_it_was_when_a_trial_ended(folder):
    (folder / "settings.ini").write_text("[workspace]\nproject = sweeps\n[hardware]\ncost_per_hour = 60\n")
    sweep = begin(folder)
    ledger = SweepLedger(sweep, workers=2)
    for _ in range(2): ledger.tell(finished(ledger.next_trial(), 0.3))  # a minute each, two at a time
    assert ledger.progress({}).cost == pytest.approx(1.0)
    assert SweepLedger(sweep, workers=4).progress({}).cost == pytest.approx(1.0)
    ledger.save()
    assert read_progress(sweep).cost == pytest.approx(1.0)
    cluster = SweepLedger(sweep, workers=40, machines=10)
    assert cluster.limits.price == Price(60.0, "EUR", 4.0)


def test_retries_are_not_counted_as_planned_trials(folder):
    ledger = SweepLedger(begin(folder, more="run_cap: 2\n"), 1)
    for _ in range(2): ledger.tell(TrialResult(ledger.next_trial().number, "failed", error="ValueError: no"))
    ledger.retry_failed()
    ledger.tell(finished(ledger.next_trial(), 0.3))
    progress = ledger.progress({})
    assert (progress.done, progress.planned, len(progress.trials)) == (2, 2, 4) and progress.eta_s >= 0


# ---- the grid, the lock


def test_a_grid_in_a_drawn_order_is_gone_through_once(folder, monkeypatch):
    text = FILE.replace("{{min: 0.0, max: 1.0}}", "{{values: [0.1, 0.2, 0.3]}}")
    sweep = begin(folder, text, "grid", "stop: {next: 5, min_gain: 0.001}\n")
    study, points = SweepStudy(sweep, sweep.aims), []
    for number in range(9):
        points.append(tuple(study.ask().parameters.values()))
        if number == 4: study = SweepStudy(sweep, sweep.aims)  # resumed
    assert len(set(points)) == 9 and points != sorted(points) and study.ask() is None
    monkeypatch.setattr(sweep_study, "MOST_DRAWN", 8)
    with pytest.raises(SweepError, match="9 points are more than 8"): SweepStudy(sweep, sweep.aims).ask()


def test_who_looks_whether_a_sweep_is_held_keeps_nobody_from_it(folder):
    sweep = begin(folder)
    with hold(sweep): assert is_held(sweep)
    assert not is_held(sweep)
    with (sweep.folder / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)  # as `is_held` does for a moment
        with pytest.raises(SweepError, match="is being worked on"), hold(sweep): pass
    with hold(sweep): pass


# ---- running trials


class Waiting:
    "An executor whose tasks never end"
    workers = 1

    def submit(self, function, request): return Future()


def test_a_trial_that_runs_again_is_watched_in_its_new_attempt(folder, monkeypatch):
    sweep = begin(folder, more="early_terminate: {type: hyperband, min_iter: 1}\n")
    work, watched, known = sweeps.SweepWork(sweep, Waiting()), [], iter(["old", "new", "new"])
    monkeypatch.setattr(sweeps, "trial_runs", lambda store, sweep_id: {"trial-00000": next(known)})
    monkeypatch.setattr(work._watch, "look", lambda running, ended: watched.append(list(running)))
    work._begin(work.next_trial())
    for _ in range(3): work._look()
    assert watched == [["old"], ["new"], ["new"]]


# ---- nested parameters


def test_nested_parameters_that_leave_out_a_part_of_a_default_are_refused(folder):
    (folder / "sweep.yaml").write_text(FILE.format(method="random") + "  opt: {parameters: {momentum: {min: 0.0, max: 1.0}}}\n")
    config = read_sweep(folder / "sweep.yaml", root=folder)
    with pytest.raises(SweepError, match="has name besides; give it: name: {value: ...}"): check_program(config)
    (folder / "sweep.yaml").write_text(config.text.replace("{momentum:", "{name: {value: sgd}, momentum:"))
    check_program(read_sweep(folder / "sweep.yaml", root=folder))


def test_names_of_parameters_are_pythons(folder):
    write_notebook(folder / "train.ipynb", "ความกว้าง = 3", "pass")
    (folder / "sweep.yaml").write_text("program: train.ipynb\nmethod: random\nparameters:\n  ความกว้าง: {values: [1, 2]}\n")
    check_program(read_sweep(folder / "sweep.yaml", root=folder))


def test_a_notebook_is_no_sweep_file(folder):
    with pytest.raises(SweepError, match="program: train.ipynb"): read_sweep(folder / "train.ipynb", root=folder)


def test_how_many_trials_were_asked_for_the_last_time_is_remembered(folder):
    sweep = begin(folder, more="run_cap: 30\n")
    ledger = SweepLedger(sweep, 1, runs=3)
    ledger.tell(finished(ledger.next_trial(), 0.3))
    ledger.save()
    assert read_progress(sweep).planned == 3
    SweepLedger(sweep, 1).save()
    assert read_progress(sweep).planned == 30
