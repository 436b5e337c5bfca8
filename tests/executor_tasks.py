"""What tests send to executors: functions of a module, which a worker finds by name."""
import os
import signal
import time
from pathlib import Path


def stay(folder, name, duration_s=60.0):
    "Says that it has begun, by a file that holds its process; when it began and ended"
    began = time.monotonic()
    path = Path(folder) / f"{name}.{os.getpid()}"
    path.write_text(str(os.getpid()))
    time.sleep(duration_s)
    return began, time.monotonic(), os.getpid()


def die(number=signal.SIGKILL):
    os.kill(os.getpid(), number)
    time.sleep(60)


def leave(status):
    os._exit(status)


class Odd(Exception):
    "An error that does not survive its way back"

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


def raise_odd():
    raise Odd("salt", "pepper")


def give_file():
    return open(os.devnull)


def environ(*names):
    return {name: os.environ.get(name) for name in names}


def place():
    "Where the task runs: process, its session, the folder, the main thread"
    import threading

    return os.getpid(), os.getsid(0), os.getcwd(), threading.current_thread() is threading.main_thread()


def run(root, notebook, **parameters):
    "Id and status of a tracked run"
    from mlops_nb.experiments.runner import run_notebook
    from mlops_nb.settings import open_workspace
    from mlops_nb.store.door import open_store

    record = run_notebook(open_store(open_workspace(root)), notebook, parameters=parameters, cwd=root)
    return record.id, record.status
