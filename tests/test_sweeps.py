"""Sweeps as people run them, and what happens to them: signals, kills, notebooks that fail, others at the same time."""
import json
import os
import random
import re
import signal
import subprocess
from collections import Counter

import psutil
import pytest
from commands import PROGRAM, call, invoke, read, refuse
from notebooks import write_notebook
from waiting import exists, wait_until

from mlops_nb.experiments.executors import open_executor
from mlops_nb.experiments.local_executor import LocalExecutor
from mlops_nb.experiments.sweep_file import read_sweep
from mlops_nb.experiments.sweep_progress import read_progress
from mlops_nb.experiments.sweep_record import SweepState, create_sweep, find_sweep, write_state
from mlops_nb.experiments.sweep_results import open_results
from mlops_nb.experiments.sweeps import run_sweep
from mlops_nb.experiments.trials import TrialRequest, run_trial, trial_runs
from mlops_nb.settings import SweepError, open_workspace
from mlops_nb.store.door import open_store
from mlops_nb.store.source import describe_source

TRAIN = """
import time
from mlops_nb import start_run
run = start_run()
for epoch in range(epochs):
    run.log({"loss": (x - 0.3) ** 2 + 1 / (epoch + 1), "latency_ms": 10 * x})
    time.sleep(pause_s)
"""
FILE = """
program: train.ipynb
method: random
metric: {name: loss, goal: minimize}
parameters:
  x: {min: 0.0, max: 1.0}
  pause_s: {value: 0.0}
run_cap: 3
"""


@pytest.fixture
def folder(tmp_path):
    "A workspace in a folder with a space in its name; W&B has tests of its own"
    folder = tmp_path / "a workspace"
    write_notebook(folder / "train.ipynb", "x: float = 0.1\nepochs: int = 2\npause_s: float = 0.0", TRAIN)
    (folder / "settings.ini").write_text("[workspace]\nproject = sweeps\n[wandb]\nmode = disabled\n")
    (folder / "sweep.yaml").write_text(FILE)
    return folder


def rewrite(folder, old, new, name="sweep.yaml"):
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new))


def begin(folder, **options):
    "A sweep of the folder's file"
    store = open_store(open_workspace(folder))
    return create_sweep(store, read_sweep(folder / "sweep.yaml", root=folder), **options)


def work_on(sweep, workers=1, **options):
    "The sweep worked on in processes that end with it"
    with LocalExecutor(workers) as executor:
        return run_sweep(sweep, executor, **options)


def states(found):
    return Counter(each["state"] for each in found["trials"])


def start_command(folder, *words):
    "A command in the background, which leads a process group of its own as in a terminal"
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("MLOPS_NB_", "WANDB_"))}
    return subprocess.Popen([PROGRAM, *map(str, words)], cwd=folder, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            start_new_session=True)


# ---- as people use it


def test_a_sweep_from_the_command_line(folder):
    found = read(folder, "sweep", "sweep.yaml", "--workers", 2)
    assert found["counts"] == {"finished": 3} and found["reason"] == "3 trials, as planned"
    assert found["best"]["values"] == [min(each["values"][0] for each in found["trials"])]
    store = open_store(open_workspace(folder))
    runs = store.runs.list(group_id=found["sweep"])
    assert {each.id for each in runs} == {each["run_id"] for each in found["trials"]}
    by_id = {each.id: each for each in runs}
    for trial in found["trials"]:
        record = by_id[trial["run_id"]]
        assert record.parameters == {"x": trial["parameters"]["x"], "epochs": 2, "pause_s": 0.0}
        assert record.metrics["loss"] == trial["values"][0] and "sweep-sweep" in record.tags
    assert read(folder, "sweep", "status")["trials"] == found["trials"]
    assert [each["id"] for each in read(folder, "sweep", "list")] == [found["sweep"]]
    text = call(folder, "sweep", "status", found["sweep"][:5])
    assert "3 of 3 trials: 3 finished" in text and f"best: trial {found['best']['number']}, loss" in text
    more = read(folder, "sweep", "resume", "-n", 4)
    assert more["trials"][:3] == found["trials"] and len(more["trials"]) == 4


def test_the_same_seed_gives_the_same_trials(folder):
    rewrite(folder, "random", "bayes")
    found = [work_on(begin(folder)) for _ in range(2)]
    assert [each.parameters for each in found[0].trials] == [each.parameters for each in found[1].trials]
    assert [each.values for each in found[0].trials] == [each.values for each in found[1].trials]
    rewrite(folder, "run_cap", "seed: 7\nrun_cap")
    assert work_on(begin(folder)).trials[0].parameters != found[0].trials[0].parameters


def test_a_grid_is_gone_through_once(folder):
    rewrite(folder, "random", "grid")
    rewrite(folder, "x: {min: 0.0, max: 1.0}", "x: {values: [0.1, 0.3]}\n  epochs: {values: [1, 2]}")
    rewrite(folder, "run_cap: 3", "")
    end = work_on(begin(folder), workers=2)
    pairs = [(each.parameters["x"], each.parameters["epochs"]) for each in end.trials]
    assert sorted(pairs) == [(0.1, 1), (0.1, 2), (0.3, 1), (0.3, 2)] and end.counts == {"finished": 4}
    assert end.best.parameters == {"x": 0.3, "epochs": 2}


def test_nested_parameters_reach_the_notebook_as_dictionaries(folder):
    train = "from mlops_nb import start_run\nstart_run().log({'loss': optimizer['rate'] * optimizer['decay']['power']})"
    write_notebook(folder / "train.ipynb", "optimizer = {}", train)
    nested = "optimizer:\n    parameters:\n      rate: {min: 1.0, max: 2.0}\n      decay: {parameters: {power: {values: [1, 2]}}}"
    rewrite(folder, "x: {min: 0.0, max: 1.0}\n  pause_s: {value: 0.0}", nested)
    end = work_on(begin(folder), runs=1)
    values = end.trials[0].parameters
    assert end.trials[0].values == (values["optimizer.rate"] * values["optimizer.decay.power"],)


def test_objectives_are_optimised_within_guardrails(folder):
    objective = '[[goal.objective]]\nmetric = "{}"\nmeasured_in = "train"\nat_most = {}\nrole = "{}"\n'
    goal = '[[goal]]\nname = "g"\nowner = "o"\nreason = "r"\n'
    (folder / "objectives.toml").write_text(goal + objective.format("loss", 0.6, "target") + objective.format("latency_ms", 2, "guardrail"))
    rewrite(folder, "metric: {name: loss, goal: minimize}", "objectives: use")
    rewrite(folder, "random", "grid")
    rewrite(folder, "x: {min: 0.0, max: 1.0}", "x: {values: [0.1, 0.3, 0.15]}")
    end = work_on(begin(folder), workers=2)
    assert min(end.trials, key=lambda each: each.values).parameters == {"x": 0.3}, "the best of all is too slow"
    assert end.best.parameters == {"x": 0.15} and [each.feasible for each in end.trials] == [True, False, True]
    text = call(folder, "sweep", "status")
    assert "misses a guardrail (latency_ms)" in text


def test_several_targets_give_no_single_best(folder):
    objective = '[[goal.objective]]\nmetric = "{}"\nmeasured_in = "train"\nat_most = {}\n'
    goal = '[[goal]]\nname = "g"\nowner = "o"\nreason = "r"\n'
    (folder / "objectives.toml").write_text(goal + objective.format("loss", 0.6) + objective.format("latency_ms", 2))
    rewrite(folder, "metric: {name: loss, goal: minimize}", "objectives: use")
    rewrite(folder, "random", "bayes")
    end = work_on(begin(folder), workers=2, runs=2)
    assert end.best is None and all(len(each.values) == 2 for each in end.trials)


def test_trials_that_fall_behind_are_pruned(folder):
    rewrite(folder, "random", "grid")
    rewrite(folder, "x: {min: 0.0, max: 1.0}\n  pause_s: {value: 0.0}",
            "x: {values: [0.3, 1.0, 0.9]}\n  epochs: {value: 40}\n  pause_s: {value: 0.1}")
    rewrite(folder, "run_cap: 3", "early_terminate: {type: hyperband, min_iter: 3}")
    end = work_on(begin(folder))
    assert [each.state for each in end.trials] == ["finished", "pruned", "pruned"], [each.error for each in end.trials]
    store = open_store(open_workspace(folder))
    pruned = store.runs.get(end.trials[1].run_id)
    assert pruned.status == "pruned" and pruned.error["name"] == "TrialPruned" and 3 <= pruned.journal_rows < 40
    assert "0.3" not in str(pruned.parameters["x"]) and end.best.number == 0


# ---- what people do wrong


@pytest.mark.parametrize("old, new, message", [
    ("name: loss", "name: los", "no number as 'los'; did you mean 'loss'?"),
    ("x: {min: 0.0, max: 1.0}", "y: {min: 0.0, max: 1.0}", "has no parameter 'y'"),
    ("min: 0.0, max: 1.0", "min: 1.0, max: 0.0", "line 6"),
    ("min: 0.0, max: 1.0", "distribution: unifrm, min: 0, max: 1", "did you mean 'uniform'"),
    ("program: train.ipynb", "program: trian.ipynb", "did you mean 'train.ipynb'"),
    ("random", "rndom", "'random'")])
def test_mistakes_are_named(folder, old, new, message):
    rewrite(folder, old, new)
    status, output, errors = invoke(folder, "sweep", "sweep.yaml")
    text = " ".join((output + errors).split())
    assert status == (1 if "los" in new and "loss" not in new else 2) and message in text, text
    assert status == 1 or not read(folder, "sweep", "list"), "nothing was begun"


def test_a_notebook_that_always_fails_is_not_tried_for_ever(folder):
    write_notebook(folder / "train.ipynb", "x: float = 0.1\npause_s: float = 0.0", "raise KeyError('Churn')")
    rewrite(folder, "run_cap: 3", "run_cap: 30\nmax_failures: 3")
    found = json.loads(call(folder, "sweep", "sweep.yaml", "--workers", 1, "--json", allowed=(1,)))
    assert found["counts"] == {"failed": 3} and found["reason"] == "the first 3 trials failed, all of them with: KeyError: 'Churn'"
    assert "3  KeyError: 'Churn'" in call(folder, "sweep", "status")
    mended = "from mlops_nb import start_run\nstart_run().log({'loss': x})"
    write_notebook(folder / "train.ipynb", "x: float = 0.1\npause_s: float = 0.0", mended)
    again = read(folder, "sweep", "retry-failed", "-n", 3)
    assert again["counts"] == {"failed": 3, "finished": 3} and again["done"] == again["planned"] == 3
    assert "trials and 3 retries: 3 finished, 3 failed" in call(folder, "sweep", "status")
    assert [each["retry_of"] for each in again["trials"]] == [None] * 3 + [0, 1, 2]
    assert [each["parameters"] for each in again["trials"][3:]] == [each["parameters"] for each in again["trials"][:3]]


def test_some_failures_are_a_result(folder):
    write_notebook(folder / "train.ipynb", "x: float = 0.1\npause_s: float = 0.0",
                   "from mlops_nb import start_run\nassert x < 0.5, 'too large'\nstart_run().log({'loss': x})")
    rewrite(folder, "random", "grid")
    rewrite(folder, "x: {min: 0.0, max: 1.0}", "x: {values: [0.1, 0.9, 0.2]}")
    found = read(folder, "sweep", "sweep.yaml")
    assert found["counts"] == {"finished": 2, "failed": 1} and found["best"]["parameters"]["x"] == 0.1
    assert found["trials"][1]["error"] == "AssertionError: too large"


def test_failures_that_differ_in_numbers_have_one_cause(folder):
    train = "raise MemoryError(f'{x:.4f} GiB were asked for, and of the 16.0 GiB of this machine no more than 2.0 GiB is free for it')"
    write_notebook(folder / "train.ipynb", "x: float = 0.1\npause_s: float = 0.0", train)
    call(folder, "sweep", "sweep.yaml", allowed=(1,))
    lines = call(folder, "sweep", "status").split("Failed  Cause")[1]
    found = " ".join(lines.split())
    assert "3 MemoryError" in found and "free for it" in found and "…" not in found, "one cause, to its last word"
    assert list(open_results(workspace=open_workspace(folder)).failures.trials) == [3]


def test_money_needs_a_price(folder):
    rewrite(folder, "run_cap: 3", "budget: {money: 1.0}")
    assert "set cost_per_hour" in refuse(folder, "sweep", "sweep.yaml")


def test_a_sweep_that_is_not_there(folder):
    for command in ("status", "stop", "resume", "retry-failed"):
        assert "there are no sweeps yet; begin one with: mlops-nb sweep FILE" in refuse(folder, "sweep", command)
    begin(folder)
    assert "no sweep 'nobody'" in refuse(folder, "sweep", "resume", "nobody")
    assert "nothing to stop" in refuse(folder, "sweep", "stop")


def test_a_sweep_without_a_metric_has_trials_and_no_best(folder):
    rewrite(folder, "metric: {name: loss, goal: minimize}\n", "")
    found = read(folder, "sweep", "sweep.yaml")
    assert found["counts"] == {"finished": 3} and found["best"] is None and [each["values"] for each in found["trials"]] == [[]] * 3
    head, *lines = next(part for part in call(folder, "sweep", "status").split("\n\n") if part.startswith("Trial")).splitlines()
    assert head.split() == ["Trial", "Run", "Status", "Took", "Parameters"]
    assert all(line.split()[2] == "finished" and line.split()[4] == "s" and "x 0." in line for line in lines[:3]), lines
    results = open_results(workspace=open_workspace(folder))
    for ask in (results.draw_history, results.draw_parallel, results.draw_importance, results.draw_pareto, results.importance):
        with pytest.raises(SweepError, match="after no metric"): ask()


def test_what_is_shown_fits_into_80_columns(folder):
    parameters = "learning_rate: float = 0.1\nx: float = 0.1\nseed: int = 0\noptimizer: dict = {}\npause_s: float = 0.0"
    write_notebook(folder / "train.ipynb", parameters, "from mlops_nb import start_run\nstart_run().log({'loss': x})")
    rewrite(folder, "x: {min: 0.0, max: 1.0}", "learning_rate: {values: [0.125]}\n  seed: {values: [4]}\n  x: {min: 0.0, max: 1.0}\n"
            "  optimizer: {parameters: {momentum_of_it: {values: [0.875]}}}")
    text = call(folder, "sweep", "sweep.yaml")
    assert max(map(len, text.splitlines())) <= 80
    rows = [line for line in text.splitlines() if " finished " in line and "trials" not in line]
    assert len(rows) == 3 and all(re.search(r"s  x 0\.\d+, learning_rate 0\.125 \+2$", line.rstrip()) for line in rows), rows
    best = " ".join(text[text.index("best: trial"):].split())
    assert all(word in best for word in ("loss 0.", "x 0.", "learning_rate 0.125", "seed 4", "optimizer.momentum_of_it 0.875"))


def test_a_long_reason_leaves_room_for_the_names(folder):
    sweep = begin(folder)
    write_state(sweep, SweepState(reason="the first 5 trials failed, all of them with: " + "a long story " * 20))
    text = call(folder, "sweep", "list")
    head, line, = text.strip().splitlines()
    assert head.split() == ["Sweep", "Name", "Age", "Ended"] and line.startswith(f"{sweep.id}  sweep") and line.rstrip().endswith("…")
    assert len(line) <= 80


# ---- stopping, and going on


SLOW = "pause_s: {value: 0.0}", "pause_s: {value: 1.5}"


def test_the_first_interrupt_lets_running_trials_end(folder):
    rewrite(folder, *SLOW)
    work = start_command(folder, "sweep", "sweep.yaml", "--workers", 1, "--json")
    sweep = wait_until(lambda: running_sweep(folder, work))
    os.kill(work.pid, signal.SIGINT)
    output, errors = work.communicate(timeout=120)
    found = json.loads(output)
    assert work.returncode == 130 and found["reason"] == "interrupted by SIGINT", errors
    assert found["counts"] == {"finished": 1} and f"go on with: mlops-nb sweep resume {sweep.id}" in errors
    assert read(folder, "sweep", "resume")["counts"] == {"finished": 3}
    assert len(trial_runs(sweep.store, sweep.id)) == len(sweep.store.runs.list(group_id=sweep.id)) == 3


def test_the_second_interrupt_stops_now_and_nothing_is_lost(folder):
    rewrite(folder, *SLOW)
    work = start_command(folder, "sweep", "sweep.yaml", "--workers", 1, "--json")
    sweep = wait_until(lambda: running_sweep(folder, work))
    os.kill(work.pid, signal.SIGINT)
    wait_until(lambda: "interrupted" in (work_reason(sweep) or "interrupted"))
    os.kill(work.pid, signal.SIGINT)
    output, errors = work.communicate(timeout=120)
    assert work.returncode == 130, errors
    first = json.loads(output)
    assert states(first)["open"] <= 1 and not first["at_work"]
    text = call(folder, "sweep", "status")
    assert "running" not in text and ("1 to run again" in text) == (states(first)["open"] == 1)
    end = read(folder, "sweep", "resume")
    assert end["counts"] == {"finished": 3} and [each["parameters"] for each in end["trials"][:1]] == [first["trials"][0]["parameters"]]


def test_a_sweep_is_stopped_from_another_terminal(folder):
    rewrite(folder, *SLOW)
    work = start_command(folder, "sweep", "sweep.yaml", "--workers", 1, "--json")
    wait_until(lambda: running_sweep(folder, work))
    status, output, errors = invoke(folder, "sweep", "resume")
    assert status == 2 and "is being worked on by process" in errors and not output and errors.startswith("Error:"), errors
    assert read(folder, "sweep", "status")["at_work"]
    call(folder, "sweep", "stop", "--now")
    output, errors = work.communicate(timeout=120)
    assert json.loads(output)["reason"] == "somebody asked it to stop", errors
    assert read(folder, "sweep", "resume")["counts"] == {"finished": 3}


def test_going_on_says_only_what_is_new(folder):
    _, _, errors = invoke(folder, "sweep", "sweep.yaml")
    assert errors.count("\ntrial ") == 3
    status, _, errors = invoke(folder, "sweep", "resume", "-n", 4)
    lines = [line for line in errors.splitlines() if line.startswith(("trial ", "3 of 4 trials: 3 finished"))]
    assert status == 0 and len(lines) == 2 and lines[0].startswith("3 of 4") and lines[1].startswith("trial 3 "), errors


def test_a_sweep_is_found_by_its_file_and_goes_on_as_it_began(folder):
    (folder / "other.yaml").write_text(FILE)
    first = begin(folder)
    store = open_store(open_workspace(folder))
    create_sweep(store, read_sweep(folder / "other.yaml", root=folder))
    assert read(folder, "sweep", "status", "sweep.yaml")["sweep"] == first.id
    assert "no sweep was begun with settings.ini" in refuse(folder, "sweep", "status", "settings.ini")
    rewrite(folder, "run_cap: 3", "run_cap: 1")
    status, output, errors = invoke(folder, "sweep", "resume", "sweep.yaml", "--json")
    assert json.loads(output)["counts"] == {"finished": 3} and json.loads(output)["sweep"] == first.id
    assert f"sweep.yaml has changed since sweep {first.id} began" in errors and "mlops-nb sweep sweep.yaml" in errors


def running_sweep(folder, work):
    "The latest sweep, once a trial of it has a run that logs; a command that has ended says why instead"
    assert work.poll() is None, work.communicate()
    if not (folder / ".mlops" / "sweeps").is_dir(): return None
    store = open_store(open_workspace(folder))
    found = [each for each in (folder / ".mlops" / "sweeps").iterdir() if (each / "request.json").exists()]
    if not found or not trial_runs(store, found[0].name): return None
    run_id = next(iter(trial_runs(store, found[0].name).values()))
    journal = store.runs.folder(run_id) / "journal.jsonl"
    return find_sweep(store, found[0].name) if journal.exists() and journal.stat().st_size else None


def work_reason(sweep):
    return json.loads((sweep.folder / "state.json").read_text())["reason"] if (sweep.folder / "state.json").exists() else ""


# ---- kills


def test_a_worker_that_is_killed_costs_no_trial(folder):
    rewrite(folder, *SLOW)
    work = start_command(folder, "sweep", "sweep.yaml", "--workers", 1, "--json")
    sweep = wait_until(lambda: running_sweep(folder, work))
    worker = next(each for each in psutil.Process(work.pid).children(recursive=True) if "trial_worker" in " ".join(each.cmdline()))
    worker.kill()
    output, errors = work.communicate(timeout=180)
    found = json.loads(output)
    assert found["counts"] == {"finished": 3} and "runs again" in errors
    first = sweep.store.runs.get(found["trials"][0]["run_id"])
    assert first.attempt == 2 and [each.status for each in sweep.store.runs.attempts(first)] == ["killed", "finished"]


def test_the_sweep_is_killed_and_goes_on(folder):
    rewrite(folder, *SLOW)
    work = start_command(folder, "sweep", "sweep.yaml", "--workers", 2, "--json")
    sweep = wait_until(lambda: running_sweep(folder, work))
    below = psutil.Process(work.pid).children(recursive=True)
    work.kill()
    work.communicate()
    wait_until(lambda: not any(exists(each.pid) for each in below if "trial_worker" in " ".join(cmdline(each))))
    asked = [each.parameters for each in read_progress(sweep).trials]
    text = " ".join(call(folder, "sweep", "status").split())
    assert "nobody works on it" in text and "running" not in text and f"go on with: mlops-nb sweep resume {sweep.id}" in text
    end = read(folder, "sweep", "resume", "--workers", 2)
    assert end["counts"] == {"finished": 3} and [each["parameters"] for each in end["trials"][:len(asked)]] == asked
    check_each_trial_counts_once(sweep, 3)


def cmdline(process):
    try: return process.cmdline()
    except psutil.Error: return []


def check_each_trial_counts_once(sweep, trials):
    "Each trial has one run that counts, which has ended well, and its metrics are the trial's"
    members, found = trial_runs(sweep.store, sweep.id), read_progress(sweep).trials
    assert len(members) == len(found) == trials and {each.state for each in found} == {"finished"}
    for each in found:
        record = sweep.store.runs.get(each.run_id)
        assert members[f"trial-{each.number:05d}"] == each.run_id and record.status == "finished"
        assert record.metrics["loss"] == each.values[0] and record.parameters["x"] == each.parameters["x"]
    finished = [each for each in sweep.store.runs.list(group_id=sweep.id) if each.status == "finished"]
    assert len(finished) == trials, "no trial was run to its end twice"


def test_an_attempt_that_the_group_does_not_know_is_followed(folder):
    "A worker that was killed between making a record and joining the group"
    sweep = begin(folder)
    source = describe_source(sweep.store, folder / "train.ipynb")
    killed = source | {"status": "killed", "group_id": sweep.id, "step": "trial-00000", "project": "sweeps", "name": "train-0"}
    first = sweep.store.runs.create(**killed)
    sweep.store.runs.join(first)
    sweep.store.runs.create(**killed, attempt=2, resumed_from=first.id, first_attempt=first.id)
    request = TrialRequest(str(folder), sweep.id, 0, "train.ipynb", {"x": 0.2, "pause_s": 0.0})
    result = run_trial(request)
    assert result.status == "finished" and sweep.store.runs.get(result.run_id).attempt == 3


@pytest.mark.soak
def test_twenty_kills_lose_nothing(folder):
    "The sweep and its workers are killed at random moments; in the end each trial has exactly one result"
    rewrite(folder, "pause_s: {value: 0.0}", "pause_s: {value: 0.4}")
    rewrite(folder, "run_cap: 3", "run_cap: 24")
    draw, kills = random.Random(1), 0
    sweep = begin(folder)
    while kills < 20:
        work = start_command(folder, "sweep", "resume", sweep.id, "--workers", 2, "--json")
        try: work.wait(timeout=draw.uniform(1.0, 9.0))
        except subprocess.TimeoutExpired: pass
        workers = [each for each in psutil.Process(work.pid).children(recursive=True) if "trial_worker" in " ".join(cmdline(each))] \
            if work.poll() is None else []
        victim = draw.choice([None, *workers])
        if work.poll() is None:
            (victim or psutil.Process(work.pid)).kill()
            kills += 1
            if victim: work.terminate()
        work.communicate(timeout=120)
        if len(read_progress(sweep).trials) >= 24 and not read_progress(sweep).counts["open"]:
            rewrite_cap(sweep, 12)
    end = read(folder, "sweep", "resume", sweep.id, "--workers", 2)
    check_each_trial_counts_once(sweep, len(end["trials"]))


def rewrite_cap(sweep, more):
    "There is more to do while there are kills left"
    file = sweep.folder / "sweep.yaml"
    cap = sweep.config.run_cap
    file.write_text(file.read_text().replace(f"run_cap: {cap}", f"run_cap: {cap + more}"))


def test_open_executor_takes_the_workspace_settings(folder):
    (folder / "settings.ini").write_text("[workspace]\nproject = sweeps\n[wandb]\nmode = disabled\n[experiments]\nworkers = 1\n")
    with open_executor(open_store(open_workspace(folder))) as executor:
        assert executor.workers == 1
