"""A sweep on two Dask workers with a catalog on PostgreSQL, and what is left of it where the scheduler or a worker is killed."""
import math
import os
import random
from concurrent.futures import Future

import pytest
from clusters import Cluster, open_on
from test_sweeps import FILE, TRAIN, check_each_trial_counts_once, rewrite
from notebooks import write_notebook

from mlops_nb.experiments.local_executor import LocalExecutor
from mlops_nb.experiments.sweep_file import read_sweep
from mlops_nb.experiments.sweep_progress import read_progress
from mlops_nb.experiments.sweep_record import create_sweep
from mlops_nb.experiments.sweeps import MOST_LOSSES, run_sweep
from mlops_nb.experiments.trial_worker import LostExecutorError, LostWorkerError
from mlops_nb.settings import ExecutorError, open_workspace
from mlops_nb.store.door import open_store


@pytest.fixture
def team(tmp_path, new_database):
    "A workspace whose catalog is on PostgreSQL"
    folder = tmp_path / "a workspace"
    write_notebook(folder / "train.ipynb", "x: float = 0.1\nepochs: int = 2\npause_s: float = 0.0", TRAIN)
    (folder / "sweep.yaml").write_text(FILE)
    with new_database() as url:
        (folder / "settings.ini").write_text(f"[workspace]\nproject = sweeps\ncatalog = {url}\n[wandb]\nmode = disabled\n")
        yield folder


@pytest.fixture
def cluster(tmp_path):
    (tmp_path / "cluster").mkdir()
    found = Cluster(tmp_path / "cluster")
    yield found
    found.end()


def begin(folder):
    store = open_store(open_workspace(folder))
    return create_sweep(store, read_sweep(folder / "sweep.yaml", root=folder))


def test_two_workers_in_folders_of_their_own_bring_what_one_machine_brings(team, cluster):
    for _ in range(2): cluster.add_worker()
    sweep, alone = begin(team), begin(team)
    with open_on(sweep.store, cluster, 2) as executor:
        assert executor.workers == 2 and "dashboard: http" in executor.description
        end = run_sweep(sweep, executor)
    with LocalExecutor(1) as executor: other = run_sweep(alone, executor)
    assert end.counts == other.counts == {"finished": 3}
    assert [(each.parameters, each.values) for each in end.trials] == [(each.parameters, each.values) for each in other.trials]
    check_each_trial_counts_once(sweep, 3)


def test_the_scheduler_is_killed_and_the_sweep_goes_on_with_another_one(team, cluster, tmp_path):
    rewrite(team, "pause_s: {value: 0.0}", "pause_s: {value: 1.0}")
    cluster.add_worker()
    sweep = begin(team)
    def kill(progress):
        if any(progress.runs.values()): cluster.kill("scheduler-1")
    with open_on(sweep.store, cluster) as executor, pytest.raises(ExecutorError, match=f"mlops-nb sweep resume {sweep.id}"):
        run_sweep(sweep, executor, on_progress=kill)
    (tmp_path / "second").mkdir()
    second = Cluster(tmp_path / "second")
    second.add_worker()
    try:
        with open_on(sweep.store, second) as executor: end = run_sweep(sweep, executor)
    finally: second.end()
    assert end.counts == {"finished": 3}
    check_each_trial_counts_once(sweep, 3)


def test_a_worker_is_killed_and_its_trial_runs_on_the_other_one(team, cluster):
    rewrite(team, "pause_s: {value: 0.0}", "pause_s: {value: 1.0}")
    names = [cluster.add_worker() for _ in range(2)]
    sweep, killed = begin(team), []
    def kill(progress):
        if all(progress.runs.values()) and len(progress.runs) == 2 and not killed: killed.append(cluster.kill(names[0]))
    with open_on(sweep.store, cluster, 2) as executor: end = run_sweep(sweep, executor, on_progress=kill)
    assert killed and end.counts == {"finished": 3}
    check_each_trial_counts_once(sweep, 3)


class Losing(LocalExecutor):
    "Loses so many answers"

    def __init__(self, error, count):
        super().__init__(1)
        self.errors = [error] * count

    def submit(self, function, /, *arguments, **named):
        if not self.errors:
            return super().submit(function, *arguments, **named)
        lost = Future()
        lost.set_exception(self.errors.pop()("lost"))
        return lost


@pytest.mark.parametrize("error, state", [(LostWorkerError, "failed"), (LostExecutorError, "finished")])
def test_a_trial_that_loses_workers_has_failed_and_none_is_blamed_for_a_scheduler(team, error, state):
    rewrite(team, "run_cap: 3", "run_cap: 1")
    with Losing(error, MOST_LOSSES) as executor: end = run_sweep(begin(team), executor)
    assert end.counts == {state: 1}


def test_what_is_done_is_not_done_again_where_its_worker_is_lost_later(team, cluster):
    "Dask computes what it holds again as soon as the worker that had it is lost"
    name, folder = cluster.add_worker(), team / "made by a task"
    with open_on(open_store(open_workspace(team)), cluster) as executor:
        done = executor.submit(os.mkdir, folder)  # the caller may keep its future
        assert done.result() is None and folder.exists()
        folder.rmdir()
        cluster.kill(name)
        cluster.add_worker()
        assert executor.submit(math.sqrt, 4).result() == 2
    assert not folder.exists()


@pytest.mark.soak
def test_twenty_kills_of_workers_and_schedulers_lose_nothing(team, tmp_path):
    "Workers and schedulers are killed at random moments; in the end each trial has exactly one result"
    rewrite(team, "pause_s: {value: 0.0}", "pause_s: {value: 0.3}")
    rewrite(team, "run_cap: 3", "run_cap: 40")
    draw, kills, sweep, round_number = random.Random(2), 0, begin(team), 0
    while kills < 20:
        round_number += 1
        (tmp_path / f"cluster {round_number}").mkdir()
        cluster = Cluster(tmp_path / f"cluster {round_number}")
        names = [cluster.add_worker() for _ in range(2)]
        moments = sorted(draw.uniform(2, 20) for _ in range(MOST_LOSSES - 1))  # a trial that loses more workers in one session has failed
        begun = read_progress(sweep).time_s
        def strike(progress, moments=moments, cluster=cluster, names=names, begun=begun):
            nonlocal kills
            if moments and progress.time_s - begun > moments[0] and kills < 20:
                moments.pop(0)
                kills += 1
                victim = draw.choice(["scheduler-1", *names])
                cluster.kill(victim)
                if victim in names: names[names.index(victim)] = cluster.add_worker()
                else: moments.clear()  # this session is over
        try:
            with open_on(sweep.store, cluster, 2) as executor: run_sweep(sweep, executor, on_progress=strike)
        except ExecutorError: pass
        finally: cluster.end()
        if not read_progress(sweep).counts["open"] and len(read_progress(sweep).trials) >= sweep.config.run_cap:
            file = sweep.folder / "sweep.yaml"
            file.write_text(file.read_text().replace(f"run_cap: {sweep.config.run_cap}", f"run_cap: {sweep.config.run_cap + 12}"))
    with LocalExecutor(2) as executor: end = run_sweep(sweep, executor)
    check_each_trial_counts_once(sweep, len(end.trials))
