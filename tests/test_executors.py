"""One contract for every place where trials run; what happens when a process, a worker, a scheduler or the sweep itself is killed."""
import contextlib
import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from operator import truediv
from pathlib import Path

import executor_tasks as tasks
import pytest
import sqlalchemy as sa
from clusters import HERE, Cluster, free_port, open_on
from notebooks import write_notebook
from waiting import exists, wait_until

from mlops_nb.experiments.executors import open_executor
from mlops_nb.experiments.local_executor import LocalExecutor
from mlops_nb.experiments.resources import Resources, fitting_workers, read_memory, thread_environ, visible_gpus
from mlops_nb.experiments.trial_worker import LostWorkerError, StoppedTaskError
from mlops_nb.settings import ExecutorError, MissingExtraError, open_workspace
from mlops_nb.store.door import open_store

@pytest.fixture(scope="module")
def shared_cluster(tmp_path_factory):
    "Two workers, for tests that leave them alive"
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    for _ in range(2):
        cluster.add_worker()
    yield cluster
    cluster.end()


@pytest.fixture
def own_cluster(tmp_path):
    "For tests that kill or start workers"
    (tmp_path / "cluster").mkdir()
    cluster = Cluster(tmp_path / "cluster")
    yield cluster
    cluster.end()


@pytest.fixture(params=["local", "dask"])
def executor(request, store):
    "Two places of one processor"
    made = LocalExecutor(2) if request.param == "local" else open_on(store, request.getfixturevalue("shared_cluster"), 2)
    yield made
    made.cancel_running()
    made.shutdown(cancel_futures=True)


def wide(function, *arguments, **options):
    "As on a machine with four processors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mlops_nb.experiments.executors.machine_resources", lambda: Resources(4, 10**10))
        return function(*arguments, **options)


def begun(folder, count=1):
    "Process ids of tasks that have begun"
    return wait_until(lambda: len(found := [int(each.suffix[1:]) for each in Path(folder).glob("*.*[0-9]")]) >= count and found)


# --- the contract


def test_each_task_has_its_result_and_at_most_two_run_at_once(executor, tmp_path):
    assert executor.workers == 2 and "2 trials at a time" in executor.description and "\n" not in executor.description
    futures = [executor.submit(tasks.stay, tmp_path, number, 0.2) for number in range(6)]
    spans = [future.result(60) for future in futures]
    together = [sum(began <= moment < ended for began, ended, _ in spans) for moment, _, _ in spans]
    assert max(together) == 2 and len({pid for _, _, pid in spans}) == 2
    assert [executor.submit(math.sqrt, each).result(60) for each in (4, 9)] == [2, 3]
    assert list(executor.map(math.sqrt, [1, 16])) == [1, 4]


def test_a_task_runs_in_the_main_thread_of_a_process_with_threads_as_declared(executor):
    pid, session, _, main = executor.submit(tasks.place).result(60)
    assert main and session == pid != os.getpid()
    assert executor.submit(tasks.environ, *thread_environ(Resources())).result(60) == thread_environ(Resources())


def test_what_a_task_raises_is_raised_and_costs_nobody_else_anything(executor):
    bad, good = executor.submit(truediv, 1, 0), executor.submit(truediv, 1, 2)
    with pytest.raises(ZeroDivisionError) as caught:
        bad.result(60)
    assert "Traceback" in caught.value.__notes__[0] and good.result(60) == 0.5
    with pytest.raises(ExecutorError, match="the error that the task raised, .*salt and pepper.* cannot be sent back"):
        executor.submit(tasks.raise_odd).result(60)
    with pytest.raises(ExecutorError, match="what the task returned, TextIOWrapper, cannot be sent back"):
        executor.submit(tasks.give_file).result(60)
    with pytest.raises(ExecutorError, match="left with status 7"):
        executor.submit(sys.exit, 7).result(60)


@pytest.mark.parametrize("function, arguments", [(lambda: 1, ()), (math.sqrt, (threading.Lock(),))], ids=["function", "argument"])
def test_what_cannot_be_sent_is_refused_at_once(executor, function, arguments):
    with pytest.raises(ExecutorError, match="cannot be sent to a worker"):
        executor.submit(function, *arguments)


@pytest.mark.parametrize("task, arguments, how", [
    (tasks.die, (), "was killed by SIGKILL"), (tasks.die, (signal.SIGSEGV,), "was killed by SIGSEGV"),
    (tasks.leave, (3,), "ended with status 3")])
def test_a_process_that_dies_costs_its_own_task_only(executor, tmp_path, task, arguments, how):
    other = executor.submit(tasks.stay, tmp_path, "other", 1)
    lost = executor.submit(task, *arguments)
    after = [executor.submit(math.sqrt, each) for each in (1, 4, 9)]
    with pytest.raises(LostWorkerError, match=how):
        lost.result(60)
    assert len(other.result(60)) == 3 and [each.result(60) for each in after] == [1, 2, 3]
    assert executor.workers == 2


def test_running_tasks_are_asked_to_end_and_those_that_wait_are_done(executor, tmp_path):
    running = [executor.submit(tasks.stay, tmp_path, number) for number in range(2)]
    waiting = executor.submit(math.sqrt, 4)
    pids = begun(tmp_path, 2)
    wait_until(lambda: all(each.running() for each in running))
    assert not running[0].cancel()
    executor.cancel_running()
    for each in running:
        with pytest.raises(StoppedTaskError, match="ended by SIGTERM"):
            each.result(60)
    assert waiting.result(60) == 2
    assert executor.submit(tasks.place).result(60)[0] not in pids  # an import may have been broken off in these


def test_a_task_that_waits_can_be_dropped_alone_and_with_the_executor(executor, tmp_path):
    running = [executor.submit(tasks.stay, tmp_path, number, 1) for number in range(2)]
    waiting = [executor.submit(tasks.stay, tmp_path, f"dropped{number}") for number in range(4)]
    begun(tmp_path, 2)
    wait_until(lambda: all(each.running() for each in running))
    assert waiting[0].cancel() and waiting[0].cancelled()
    executor.shutdown(cancel_futures=True)
    assert [len(each.result(0)) for each in running] == [3, 3] and all(each.cancelled() for each in waiting)
    assert not list(tmp_path.glob("dropped*"))
    with pytest.raises(ExecutorError, match="was shut down"):
        executor.submit(math.sqrt, 4)


def test_its_processes_end_with_it(executor, tmp_path):
    futures = [executor.submit(tasks.stay, tmp_path, number, 0.5) for number in range(2)]
    executor.shutdown(wait=False)
    executor.shutdown()
    pids = [each.result(0)[2] for each in futures]
    wait_until(lambda: not any(map(exists, pids)))


def test_notebooks_are_tracked_runs_and_are_cancelled(executor, store, tmp_path):
    wait = "import time, os\nopen('begun.' + str(os.getpid()), 'w').close()\nfor _ in range(600 * slow): time.sleep(0.1)"
    log = "from mlops_nb import start_run\nstart_run().log({'loss': 0.5})"
    notebook = write_notebook(tmp_path / "train.ipynb", "slow: int = 0", wait, log)
    run_id, status = executor.submit(tasks.run, tmp_path, notebook).result(120)
    assert status == "finished" and store.runs.get(run_id).metrics["loss"] == 0.5
    for each in tmp_path.glob("begun.*"):
        each.unlink()
    running = executor.submit(tasks.run, tmp_path, notebook, slow=1)
    begun(tmp_path)
    executor.cancel_running()
    run_id, status = running.result(60)
    assert status == store.runs.get(run_id).status == "cancelled"


# --- what is killed


OWNER = """
import sys
from pathlib import Path
import executor_tasks as tasks
from mlops_nb.experiments.executors import open_executor
from mlops_nb.settings import open_workspace
from mlops_nb.store.door import open_store
root, kind, address = sys.argv[1:]
executor = open_executor(open_store(open_workspace(root)), workers=1, executor=kind, scheduler=address)
for number in range(3): executor.submit(tasks.stay, root, number)
input()
"""


@pytest.mark.parametrize("kind", ["local", "dask", "local cluster"])
def test_no_task_outlives_a_killed_sweep(store, tmp_path, request, kind):
    address = request.getfixturevalue("shared_cluster").address if kind == "dask" else ""
    arguments = [sys.executable, "-c", OWNER, str(tmp_path), kind.split()[-1].replace("cluster", "dask"), address]
    owner = subprocess.Popen(arguments, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(HERE)}, stdin=subprocess.PIPE)
    try:
        pids = begun(tmp_path, 2 if kind == "dask" else 1)
    finally:
        owner.kill()
        owner.wait()
    if kind != "dask":  # there the process waits for others, and only its task ends
        wait_until(lambda: not any(map(exists, pids)))
        return
    with open_executor(store, scheduler=address) as executor:
        assert executor.submit(math.sqrt, 4).result(60) == 2  # the place is free again
    assert len(list(tmp_path.glob("[0-9].*"))) == 2  # and the third task has never begun


def test_a_worker_that_is_lost_costs_the_task_that_it_ran_and_none_that_waits(store, tmp_path, own_cluster):
    first = own_cluster.add_worker()
    executor = open_on(store, own_cluster)
    running, waiting = executor.submit(tasks.stay, tmp_path, "running"), executor.submit(math.sqrt, 4)
    [pid] = begun(tmp_path)
    own_cluster.kill(first)
    assert wait_until(lambda: executor.workers == 0)
    own_cluster.add_worker()
    with pytest.raises(LostWorkerError, match="Dask worker that ran the task has gone"):
        running.result(60)
    assert waiting.result(60) == 2 and len(list(tmp_path.glob("running.*"))) == 1
    wait_until(lambda: not exists(pid))
    executor.shutdown()


def test_a_scheduler_that_is_lost_loses_its_tasks_and_says_so(store, tmp_path, own_cluster):
    own_cluster.add_worker()
    executor = open_on(store, own_cluster)
    futures = [executor.submit(tasks.stay, tmp_path, number) for number in range(2)]
    [pid] = begun(tmp_path)
    own_cluster.kill("scheduler-1")
    for each in futures:
        with pytest.raises(LostWorkerError, match="connection to the Dask scheduler was lost"):
            each.result(60)
    with pytest.raises(ExecutorError, match="the Dask scheduler .* has gone; start it again"):
        executor.submit(math.sqrt, 4)
    assert executor.workers == 0 and executor.description
    wait_until(lambda: not exists(pid))
    executor.cancel_running()
    executor.shutdown()


# --- what does not fit, or is not there


def test_declared_resources_keep_large_tasks_apart(store, tmp_path, own_cluster):
    own_cluster.add_worker("--nthreads", "4", "--resources", "CPU=4 MEMORY=8e9")
    with open_on(store, own_cluster, resources=Resources(cpus=2, memory_bytes=10**9)) as executor:
        spans = [each.result(60) for each in [executor.submit(tasks.stay, tmp_path, number, 0.3) for number in range(4)]]
        assert executor.workers == max(sum(began <= moment < ended for began, ended, _ in spans) for moment, _, _ in spans) == 2
        assert executor.submit(tasks.environ, "OMP_NUM_THREADS").result(60) == {"OMP_NUM_THREADS": "2"}
    with pytest.raises(ExecutorError, match=r"no worker of .* has as much: tcp://\S+ has 4 processors and 8 GB.*--resources \"CPU=9"):
        open_executor(store, scheduler=own_cluster.address, resources=Resources(cpus=9))


def test_workers_share_an_undeclared_machine_without_oversubscribing(store, tmp_path, own_cluster):
    own_cluster.add_worker("--nthreads", "4")
    with open_on(store, own_cluster, resources=Resources(cpus=2)) as executor:
        spans = [each.result(60) for each in [executor.submit(tasks.stay, tmp_path, number, 0.3) for number in range(4)]]
        assert executor.workers == max(sum(began <= moment < ended for began, ended, _ in spans) for moment, _, _ in spans) == 2


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_workers_with_another_catalog_are_named(tmp_path, own_cluster, request, database):
    with contextlib.ExitStack() as stack:
        root = tmp_path / "workspace"
        root.mkdir()
        catalog = "" if database == "sqlite" else stack.enter_context(request.getfixturevalue("new_database")())
        (root / "settings.ini").write_text("[workspace]\n" + (f"catalog = {catalog}\n" if catalog else ""))
        store = open_store(open_workspace(root))
        if catalog:
            assert sa.make_url(store.catalog.url).get_backend_name() == "postgresql"
        own_cluster.add_worker()
        with open_on(store, own_cluster) as executor:
            if catalog:
                notebook = write_notebook(root / "train.ipynb", "x = 1")
                assert store.runs.get(executor.submit(tasks.run, root, notebook).result(120)[0]).status == "finished"
            own_cluster.add_worker(MLOPS_NB_WORKSPACE_CATALOG=f"sqlite:///{tmp_path}/other.db")
            wait_until(lambda: len(executor.cluster.workers) == 2)
            message = r"the Dask worker tcp://\S+ on \S+ uses another catalog, sqlite:///.*other.db. Give every worker"
            with pytest.raises(ExecutorError, match=message):  # also of a worker that joins later
                executor.submit(math.sqrt, 4)
        with pytest.raises(ExecutorError, match=message):
            open_executor(store, scheduler=own_cluster.address)
        assert not list(store.workspace.store_dir.glob("check-*"))
        store.catalog._engine.dispose()


def test_workers_without_the_folder_are_named(tmp_path, own_cluster, store, monkeypatch):
    own_cluster.add_worker()
    monkeypatch.setattr("mlops_nb.experiments.cluster_check.left_word", lambda store: contextlib.nullcontext("another folder"))
    with pytest.raises(ExecutorError, match=r"Dask worker tcp://\S+ on \S+ has another folder at .*such as `catalog = postgresql"):
        open_on(store, own_cluster)


def test_a_scheduler_that_is_not_there_is_named_with_how_to_start_one(store, own_cluster):
    nobody = f"tcp://127.0.0.1:{free_port()}"
    with pytest.raises(ExecutorError, match=f"no Dask scheduler answers at '{nobody}'.*dask scheduler.*dask worker {nobody}"):
        open_executor(store, scheduler=nobody)
    wait_until(lambda: socket.socket().connect_ex(("127.0.0.1", int(own_cluster.address.rpartition(":")[2]))) == 0)
    with pytest.raises(ExecutorError, match=f"has no workers; start one on each machine with: dask worker {own_cluster.address}"):
        open_executor(store, scheduler=own_cluster.address)


def test_dask_is_an_extra(store, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingExtraError, match=re.escape("pip install 'mlops_nb[dask]'")):
        open_executor(store, executor="dask")


def test_settings_say_what_is_usual(tmp_path):
    (tmp_path / "settings.ini").write_text("[workspace]\n[experiments]\nexecutor = dask\nscheduler = tcp://127.0.0.1:9\nworkers = 3\n")
    store = open_store(open_workspace(tmp_path))
    with pytest.raises(ExecutorError, match="no Dask scheduler answers at 'tcp://127.0.0.1:9'"):
        open_executor(store)
    assert wide(open_executor, store, executor="local").workers == 3
    assert wide(open_executor, store, executor="local", workers=9).workers == 4
    assert wide(open_executor, store, executor="local", workers=9, resources=Resources(cpus=2)).workers == 2
    with pytest.raises(ExecutorError, match="executor = 'slurm' is not known"):
        open_executor(store, executor="slurm")


# --- resources


@pytest.mark.parametrize("each, machine, fit", [
    (Resources(), Resources(8, 10**10), 8), (Resources(cpus=3), Resources(8, 10**10), 2),
    (Resources(memory_bytes=4 * 10**9), Resources(8, 10**10), 2),
    (Resources(gpus=1), Resources(8, 10**10, 3), 3), (Resources(cpus=8, gpus=1), Resources(8, 10**10, 3), 1)])
def test_no_more_fit_than_the_scarcest_allows(each, machine, fit):
    assert fitting_workers(100, each, machine) == fit and fitting_workers(1, each, machine) == 1


@pytest.mark.parametrize("each, message", [
    (Resources(cpus=9), "a trial wants 9 processors, but this machine has 8"),
    (Resources(gpus=1), "a trial wants 1 GPU, but this machine has 0"),
    (Resources(memory_bytes=2 * 10**10), "a trial wants 20 GB of memory, but this machine has 10 GB")])
def test_what_never_fits_is_refused(each, message):
    with pytest.raises(ExecutorError, match=message):
        fitting_workers(2, each, Resources(8, 10**10))


@pytest.mark.parametrize("wrong", [{"cpus": 0}, {"cpus": 1.5}, {"cpus": True}, {"memory_bytes": -1}, {"gpus": -1}, {"gpus": "1"}])
def test_amounts_are_whole_numbers(wrong):
    with pytest.raises(ExecutorError, match="cannot be used; allowed is a whole number, at least [01]"):
        Resources(**wrong)


def test_memory_is_read_as_people_write_it():
    assert [read_memory(each) for each in ("2GB", "2 gb", "512M", "1KiB", "1.5g", 7, "7")] == [2e9, 2e9, 512e6, 1024, 1.5e9, 7, 7]
    for wrong in ("", "GB", "-1GB", "2 PB", "1e9", "two"):
        with pytest.raises(ExecutorError, match="is no amount of memory"):
            read_memory(wrong)


def test_gpus_are_named_as_the_driver_does_and_divided(monkeypatch):
    names = {"a": b"GPU-a", "b": "GPU-b", "b1": "MIG-b1", "b2": "MIG-b2"}
    answers = {"nvmlDeviceGetUUID": names.get, "nvmlDeviceGetMigMode": lambda handle: (handle == "b", 0),
               "nvmlDeviceGetMaxMigDeviceCount": lambda handle: 3}
    module = "mlops_nb.experiments.resources"
    monkeypatch.setattr(f"{module}.gpu_handles", lambda pid: ("a", "b"))
    monkeypatch.setattr(f"{module}.ask_gpu", lambda question, handle: answers[question](handle))
    monkeypatch.setattr(f"{module}._mig_handle", lambda handle, number: ["b1", "b2", None][number])
    assert visible_gpus({}) == ("GPU-a", "MIG-b1", "MIG-b2")
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "1"}) == ("1",)
    with LocalExecutor(2, Resources(gpus=1), environ=os.environ | {"CUDA_VISIBLE_DEVICES": "9"}) as executor:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        futures = [executor.submit(tasks.environ, "CUDA_VISIBLE_DEVICES") for _ in range(6)]
        seen = {each.result(60)["CUDA_VISIBLE_DEVICES"] for each in futures}
    assert seen <= {"GPU-a", "MIG-b1"}
