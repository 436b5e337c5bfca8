"""Clusters of Dask as users start them: a scheduler and workers, each a process in a folder of its own, on loopback."""
import os
import socket
import subprocess
import sys
from pathlib import Path

from waiting import wait_until

from mlops_nb.experiments.executors import open_executor

HERE = Path(__file__).parent
DASK = Path(sys.executable).with_name("dask")


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class Cluster:
    "A scheduler and workers of Dask as a user starts them, each in a folder of its own"

    def __init__(self, folder):
        self.folder, self.address, self.processes, self._count = folder, f"tcp://127.0.0.1:{free_port()}", {}, 0
        self.start("scheduler", "--host", "127.0.0.1", "--port", self.address.rpartition(":")[2], "--no-dashboard")

    def start(self, kind, *arguments, **environ):
        self._count += 1
        name = f"{kind}-{self._count}"
        place = self.folder / name
        place.mkdir()
        own = {"PYTHONPATH": str(HERE), "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "3s"}
        with open(place / "log", "w") as log:
            command = [DASK, kind, *arguments]
            self.processes[name] = subprocess.Popen(command, cwd=place, env=os.environ | own | environ, stdout=log, stderr=log)
        return name

    def add_worker(self, *arguments, **environ):
        "Begin a worker of one place; it is not there yet"
        return self.start("worker", self.address, "--nworkers", "1", "--nthreads", "1", "--no-dashboard", "--no-nanny",
                          "--host", "127.0.0.1", *arguments, **environ)

    def kill(self, name):
        self.processes[name].kill()
        self.processes[name].wait()

    def end(self):
        for each in self.processes.values():
            each.kill()
        for each in self.processes.values():
            each.wait()


def open_on(store, cluster, workers=1, **options):
    "An executor on a cluster, once so many workers are there"
    def opened():
        executor = open_executor(store, scheduler=cluster.address, **options)
        if len(executor.cluster.workers) >= workers:
            return executor
        executor.shutdown()
        return None
    return wait_until(opened)
