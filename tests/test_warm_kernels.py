"""Warm kernels: forked from a process that has imported the libraries, and no notebook can tell."""
import ast
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from jupyter_client import KernelManager
from mlops_nb.experiments import servers, warm_start
from mlops_nb.experiments.processes import children_of, process_name
from waiting import exists, wait_until

LIGHT = "json"  # preloaded in tests that need no library


@pytest.fixture(scope="module")
def sockets():
    "A folder for sockets that only these tests use; short, since a socket's path is"
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as folder:
        yield folder


@pytest.fixture(autouse=True)
def private(sockets, monkeypatch):
    "Servers of these tests' own, which end with them"
    monkeypatch.setenv("TMPDIR", sockets)
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.delenv("MPLBACKEND")
    yield
    servers.stop_servers()
    tempfile.tempdir = None


class Kernel:
    "A kernel and its client"

    def __init__(self, warm=True, preload=LIGHT, cwd=None, **given):
        self.manager = KernelManager()
        self.manager.kernel_spec.metadata["kernel_provisioner"] = {"provisioner_name": "mlops-nb", "config": {"warm": warm}}
        # ipykernel captures less where this variable is set
        environ = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
        environ |= {"MLOPS_NB_KERNELS_PRELOAD": preload, "MLOPS_NB_KERNELS_IDLE_S": "60", "MLOPS_NB_KERNELS_POOL": "1", **given}
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environ.items():
                patch.setenv(name, value)
            self.manager.start_kernel(env=environ, cwd=cwd)
        self.connect()

    def connect(self):
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def run(self, code, timeout=60):
        "What a cell prints and shows; its error, if any, as the last entry"
        outputs = []
        self.client.execute_interactive(code, timeout=timeout, output_hook=outputs.append)
        return outputs

    def say(self, expression):
        "The value of an expression of literals"
        (output,) = (each for each in self.run(f"print(repr({expression}), end='')") if each["msg_type"] == "stream")
        return ast.literal_eval(output["content"]["text"])

    @property
    def process(self):
        return self.manager.provisioner.process

    def close(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


def test_a_kernel_has_its_own_folder_environment_and_arguments(tmp_path):
    folder = tmp_path / "a folder ก"
    folder.mkdir()
    with Kernel(cwd=str(folder), MINE="ก\udc80", TZ="Asia/Bangkok") as kernel:
        assert kernel.say("__import__('os').getcwd()") == str(folder)
        assert kernel.say("__import__('os').environ['MINE']") == "ก\udc80"
        assert kernel.say("__import__('subprocess').run(['pwd'], capture_output=True, text=True).stdout") == f"{folder}\n"
        assert kernel.say("__import__('time').strftime('%z')") == "+0700"
        assert '' in kernel.say("__import__('sys').path")
        assert kernel.say("__import__('sys').argv[0]").endswith("ipykernel_launcher.py")
        assert kernel.say("__import__('tempfile').gettempdir()") == os.environ["TMPDIR"]


def test_two_at_once_start_one_server():
    kernels = []
    threads = [threading.Thread(target=lambda: kernels.append(Kernel())) for _ in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    found = servers.find_servers()
    for each in kernels:
        each.close()
    assert len(kernels) == 3 and len(found) == 1 and found[0].serves == "kernels"


def test_random_numbers_are_fresh():
    code = "(__import__('random').random(), __import__('numpy').random.rand(), __import__('torch').rand(1).item())"
    with Kernel(preload="numpy torch") as one, Kernel(preload="numpy torch") as two:
        assert len(servers.find_servers()) == 1
        assert all(a != b for a, b in zip(one.say(code), two.say(code), strict=True))


def test_nothing_of_the_server_is_open_in_a_kernel():
    with Kernel() as kernel:
        (server,) = servers.find_servers()
        own = f"{server.pid}"
        sockets_of_server = {os.readlink(f"/proc/{own}/fd/{fd}") for fd in os.listdir(f"/proc/{own}/fd")}
        files = {os.readlink(f"/proc/{kernel.process.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{kernel.process.pid}/fd")}
        assert not {each for each in files & sockets_of_server if each.startswith(("socket:", "anon_inode:")) or each.endswith("lock")}
        assert kernel.say("len(__import__('os').sched_getaffinity(0))") == len(os.sched_getaffinity(0))


def test_interrupt_and_restart():
    with Kernel() as kernel:
        kernel.client.execute("import time\nprint('begun')\nfor _ in range(600): time.sleep(0.1)")
        wait_until(lambda: kernel.client.get_iopub_msg(timeout=60)["msg_type"] == "stream")
        kernel.manager.interrupt_kernel()
        reply = kernel.client.get_shell_msg(timeout=60)
        assert reply["content"]["ename"] == "KeyboardInterrupt"
        kernel.run("x = 1")
        before = kernel.process.pid
        kernel.manager.restart_kernel(now=False)
        kernel.client.wait_for_ready(timeout=60)  # the same client: JupyterLab keeps its connection
        assert kernel.say("'x' in dir()") is False
        assert kernel.process.pid != before and not exists(before)


@pytest.mark.parametrize("warm", [True, False], ids=["warm", "stock"])
def test_a_kernel_takes_its_children_along(warm):
    with Kernel(warm=warm) as kernel:
        pids = kernel.say("[__import__('subprocess').Popen(['sleep', '300'], start_new_session=new).pid for new in (False, True)]")
        pids += [kernel.process.pid, *children_of(kernel.process.pid)]
        os.kill(kernel.process.pid, signal.SIGKILL)
        wait_until(lambda: not any(map(exists, pids)))
        assert kernel.process.poll() == -signal.SIGKILL
        assert kernel.process.exit.peak_memory_bytes > 10e6


@pytest.mark.parametrize("warm", [True, False], ids=["warm", "stock"])
def test_a_kernel_ends_with_its_owner(warm, tmp_path):
    code = (f"from test_warm_kernels import Kernel\nkernel = Kernel(warm={warm})\n"
            "child = kernel.say(\"__import__('subprocess').Popen(['sleep', '300'], start_new_session=True).pid\")\n"
            "kernel.client.execute('while True: pass')\n"
            "print(kernel.process.pid, child, flush=True)\ninput()")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    owner = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parent, **pipes)
    pids = [int(each) for each in owner.stdout.readline().split()]
    owner.kill()
    owner.wait()
    wait_until(lambda: not any(map(exists, pids)))


def test_a_kernel_outlives_its_server_and_the_server_its_kernels():
    with Kernel() as kernel:
        (server,) = servers.find_servers()
        with Kernel() as second:
            os.kill(second.process.pid, signal.SIGSEGV)
            wait_until(lambda: second.process.poll() is not None)
            assert second.process.poll() == -signal.SIGSEGV
        assert servers.find_servers()[0].pid == server.pid
        kernels = [each for each in children_of(server.pid) if process_name(each) == "mlops-kernel"]
        waiting = [each for each in kernels if each != kernel.process.pid]
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: not exists(server.pid) and not any(map(exists, waiting)))
        assert kernel.say("1 + 1") == 2
        wait_until(lambda: not list(Path(warm_start.socket_folder()).glob("*/server")))
    with Kernel() as third:
        assert third.say("2") == 2


def test_a_server_ends_when_idle():
    with Kernel(MLOPS_NB_KERNELS_IDLE_S="1"):
        time.sleep(1.5)
        assert len(servers.find_servers()) == 1  # its kernel is in use
    wait_until(lambda: not servers.find_servers())
    wait_until(lambda: not [*Path(warm_start.socket_folder()).glob("*/k*"), *Path(warm_start.socket_folder()).glob("*/server")])


def test_a_server_restarts_when_a_library_changes(tmp_path):
    module = tmp_path / "library_of_mine.py"
    module.write_text("version = 1")
    given = {"preload": "library_of_mine", "PYTHONPATH": str(tmp_path)}
    with Kernel(**given) as kernel:
        assert kernel.say("'library_of_mine' in __import__('sys').modules")
        assert kernel.say("__import__('library_of_mine').version") == 1
        module.write_text("version = 22")
        with Kernel(**given) as second:
            assert second.say("__import__('library_of_mine').version") == 22
        assert kernel.say("__import__('library_of_mine').version") == 1  # it goes on


@pytest.mark.parametrize(("source", "kept"), [
    ("import threading, time; threading.Thread(target=time.sleep, args=(60,), daemon=True).start()", False),
    ("print('hello')", False),
    ("import warnings; warnings.warn('old')", False),
    ("raise ValueError('broken')", False),
    ("import sys; stream = sys.stderr", True),
], ids=["thread", "prints", "warns", "broken", "keeps a stream"])
def test_a_library_that_is_not_for_importing_early(tmp_path, source, kept):
    (tmp_path / "odd_library.py").write_text(source)
    with Kernel(preload="odd_library", PYTHONPATH=str(tmp_path)) as kernel:
        assert kernel.say("'odd_library' in __import__('sys').modules") is kept
        if kept:
            outputs = kernel.run("import odd_library\nprint('seen', file=odd_library.stream)")
            streams = [each["content"] for each in outputs if each["msg_type"] == "stream"]
            assert [(each["name"], each["text"]) for each in streams] == [("stderr", "seen\n")]


def test_modules_are_found_where_a_stock_kernel_finds_them(tmp_path, monkeypatch, caplog):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "module_of_mine.py").write_text("place = 'src'")
    with Kernel(cwd=str(tmp_path), PYTHONPATH="src") as kernel:  # relative to the notebook's folder
        assert kernel.say("__import__('module_of_mine').place") == "src"
    (tmp_path / "yaml.py").write_text("place = 'here'")
    with Kernel(cwd=str(tmp_path), preload="yaml") as kernel:
        assert kernel.say("__import__('yaml').place") == "here"
    assert "PYTHONPATH has a relative folder" in caplog.text and "'yaml' in the notebook's folder" in caplog.text


def test_settings_that_cannot_be_read_give_a_stock_kernel(tmp_path, caplog):
    (tmp_path / "settings.ini").write_text("[workspace]\n[kernels]\nwarm = perhaps\n")
    with Kernel(cwd=str(tmp_path)) as kernel:
        assert kernel.say("__import__('os').getppid()") and process_name(kernel.process.pid) != "mlops-kernel"
    assert "the settings cannot be read" in caplog.text


def test_a_warm_kernel_can_be_restarted_as_a_stock_one(monkeypatch):
    with Kernel() as kernel:
        kernel.manager.provisioner.warm = False
        kernel.manager.restart_kernel(now=False)
        kernel.client.wait_for_ready(timeout=60)
        assert kernel.say("1 + 1") == 2 and process_name(kernel.process.pid) != "mlops-kernel"


def test_a_stopped_server_does_not_stop_anybody(monkeypatch):
    monkeypatch.setattr(warm_start, "ANSWER_TIMEOUT_S", 1)
    with Kernel():
        (server,) = servers.find_servers()
        os.kill(server.pid, signal.SIGSTOP)
        try:
            with Kernel() as second:
                assert second.say("1 + 1") == 2
        finally:
            os.kill(server.pid, signal.SIGCONT)


def test_a_server_whose_children_end_at_once_gives_up(tmp_path):
    (tmp_path / "breaks_forks.py").write_text("import os\nos.register_at_fork(after_in_child=lambda: os._exit(3))")
    with Kernel(preload="breaks_forks", PYTHONPATH=str(tmp_path)) as kernel:
        assert kernel.say("1 + 1") == 2 and process_name(kernel.process.pid) != "mlops-kernel"


def test_temporary_folders_are_a_kernels_own(tmp_path):
    (tmp_path / "makes_a_folder.py").write_text("import tempfile\nfolder = tempfile.TemporaryDirectory('of-mine')")
    given = {"preload": "makes_a_folder", "PYTHONPATH": str(tmp_path)}
    with Kernel(**given) as one:
        first = one.say("__import__('makes_a_folder').folder.name")
        with Kernel(**given) as two:
            second = two.say("__import__('makes_a_folder').folder.name")
        assert first != second and first.endswith("of-mine") and os.path.isdir(first)


def test_an_openmp_region_in_an_import_is_found_out(tmp_path):
    (tmp_path / "computes.py").write_text("import torch\ntorch.ones(1 << 20).exp().sum()")
    with Kernel(preload="computes", PYTHONPATH=str(tmp_path)) as kernel:
        assert kernel.say("'computes' in __import__('sys').modules") is False
        assert kernel.run("import torch\nprint(torch.ones(1 << 20).sum().item())")[-2]["content"]["text"] == "1048576.0\n"


def test_files_are_written_and_exit_handlers_run(tmp_path):
    kernel = Kernel(cwd=str(tmp_path))
    kernel.run("import atexit\natexit.register(lambda: open('handler', 'w').write('ran'))\n"
               "class Last:\n    def __del__(self): open('deleted', 'w').write('yes')\nlast = Last()\n"
               "file = open('open file', 'w')\nfile.write('text')\n"
               "import json\njson.hidden = open('hidden', 'w')\njson.hidden.write('text')")
    kernel.client.stop_channels()
    kernel.manager.shutdown_kernel()
    assert {each.name: each.read_text() for each in tmp_path.iterdir()} == {
        "handler": "ran", "deleted": "yes", "open file": "text", "hidden": "text"}


def test_a_foreign_folder_is_not_trusted(sockets, monkeypatch):
    folder = Path(sockets, "mlops-nb-12345")
    folder.mkdir(mode=0o755)
    with monkeypatch.context() as patch, pytest.raises(PermissionError, match="not a folder of this user alone"):
        patch.setattr(warm_start.os, "geteuid", lambda: 12345)
        warm_start.socket_folder()
    folder.rmdir()


def test_what_a_killed_server_left_is_swept(sockets):
    with Kernel() as kernel:
        old = Path(warm_start.socket_folder(), "0123456789ab")
        old.mkdir()
        for name in ("lock", "start"):
            (old / name).touch()
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(old / "server"))
        warm_start.sweep(warm_start.socket_folder(), older_than_s=0)
        assert not old.exists() and kernel.say("1") == 1


def test_of_too_many_servers_one_that_begins_stays(tmp_path):
    with ExitStack() as stack:
        servers = {}
        for at in range(warm_start.MOST_SERVERS + 2):  # the first ones were asked longest ago
            folder, process = tmp_path / str(at), subprocess.Popen(["sleep", "300"])
            stack.callback(process.kill)
            folder.mkdir()
            lock = stack.enter_context(open(folder / "lock", "w"))
            lock.write(str(process.pid))
            lock.flush()
            fcntl.flock(lock, fcntl.LOCK_EX)
            os.utime(folder / "lock", (at, at))
            servers[at] = process
            if at == 0: fcntl.flock(stack.enter_context(open(folder / "start", "w")), fcntl.LOCK_EX)  # somebody waits for it
            if at != 1: (folder / "server").touch()  # 1 is started for later
        warm_start.sweep(str(tmp_path), older_than_s=1e9)
        assert [servers[at].wait(20) for at in (2, 3, 4)] == [-signal.SIGTERM] * 3
        assert [at for at, each in servers.items() if each.poll() is None] == [0, 1, 5, 6, 7]


LIBRARIES = "torch wandb numpy pandas sklearn matplotlib captum"
NOTEBOOK = [  # what a notebook may look at; the same on stock and warm kernels
    "import sys; print(sys.flags, sys.path, sys.argv[0], __name__, sys.stdout.encoding, type(sys.stdout))",
    "import logging; print(logging.getLogger().handlers, logging.getLogger().level)\nlogging.warning('shown')",
    "import warnings; print(warnings.filters[:2]); warnings.warn('careful')",
    "import os, signal; print(signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), os.umask(0o022))",
    "import threading; print(threading.main_thread() is threading.current_thread())",
    "import torch, numpy, random\ntorch.manual_seed(0); numpy.random.seed(0); random.seed(0)\n"
    "print(torch.rand(2), numpy.random.rand(2), random.random(), torch.get_num_threads())",
    "x = torch.arange(1 << 20).float()\nprint((x @ x).item(), torch.linalg.svd(torch.eye(64))[1].sum().item())",
    "from sklearn.ensemble import HistGradientBoostingClassifier\nfrom sklearn.datasets import load_iris\n"
    "data = load_iris(return_X_y=True)\nprint(HistGradientBoostingClassifier(max_iter=5, random_state=0).fit(*data).score(*data))",
    "from torch.utils.data import DataLoader\nprint([batch.tolist() for batch in DataLoader(list(range(6)), batch_size=3, num_workers=2)])",
    "import multiprocessing\nwith multiprocessing.get_context('fork').Pool(2) as pool: print(pool.map(abs, [-1, -2]))",
    "from concurrent.futures import ProcessPoolExecutor\nspawn = multiprocessing.get_context('spawn')\n"
    "with ProcessPoolExecutor(2, mp_context=spawn) as pool: print(list(pool.map(abs, [-3])))",
    "import pandas\npandas.DataFrame({'a': [1, 2]})",
    "import matplotlib, matplotlib.pyplot as plt\nprint(matplotlib.get_backend(), matplotlib.rcParams['figure.dpi'])\nplt.plot([1, 2]);",
    "fig, ax = plt.subplots(); ax.bar([1], [2]); None",
    "%matplotlib inline\nplt.figure(figsize=(1, 1)); plt.show()",
    "import subprocess; subprocess.run(['echo', 'from a program']); os.write(2, b'native\\n'); None",
    "!echo from the shell",
    "import captum.attr, wandb\nprint(wandb.run)",
    "print('wandb' in get_ipython().magics_manager.magics['cell'])",
    "import asyncio\nawait asyncio.sleep(0)\nprint('awaited')",
    "program = torch.export.export(torch.nn.Linear(2, 1), (torch.ones(1, 2),))\nprint(program.module()(torch.zeros(1, 2)).shape)",
    "1 / 0",
]


def shown(outputs):
    "Outputs without what differs between two runs of one kernel"
    kept = []
    for each in outputs:
        content = each["content"]
        if each["msg_type"] == "stream":
            if kept and kept[-1][0] == content["name"]:
                kept[-1] = (content["name"], kept[-1][1] + content["text"])
            else:
                kept.append((content["name"], content["text"]))
        elif each["msg_type"] in ("execute_result", "display_data"):
            kept.append((each["msg_type"], sorted(content["data"]), content["data"].get("text/html"), content["data"].get("image/png")))
        elif each["msg_type"] == "error":
            kept.append(("error", content["ename"], content["evalue"]))
    return [re.sub(r"ipykernel_\d+/\d+", "CELL", repr(each)) for each in sorted(kept, key=repr)]


def test_a_notebook_cannot_tell_a_warm_kernel_from_a_stock_one(tmp_path):
    results = {}
    for warm in (False, True):
        with Kernel(warm=warm, preload=LIBRARIES, cwd=str(tmp_path)) as kernel:
            assert kernel.say("'torch' in __import__('sys').modules") is warm
            results[warm] = [shown(kernel.run(code, timeout=120)) for code in NOTEBOOK]
    for code, stock, forked in zip(NOTEBOOK, results[False], results[True], strict=True):
        assert stock == forked, code


def test_the_kernel_is_offered_by_jupyter():
    spec = json.loads((Path(sys.prefix) / "share/jupyter/kernels/mlops-nb/kernel.json").read_text())
    assert spec["metadata"]["kernel_provisioner"]["provisioner_name"] == "mlops-nb"
