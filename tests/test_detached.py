"""Commands launched from a notebook: they outlive its kernel, are cancelled from anywhere, and leave no secret behind."""
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from jupyter_client import KernelManager
from mlops_nb.experiments import detached, servers
from mlops_nb.experiments.processes import process_name
from mlops_nb.settings import StoreError, StoreFullError, open_workspace
from mlops_nb.store.door import open_store
from notebooks import write_notebook
from waiting import exists, wait_until

SECRET = "s3cr3t-ก-value-that-nobody-may-see"
LAUNCH = """
import subprocess
from mlops_nb.experiments.detached import launch
from mlops_nb.store.door import open_store
left = subprocess.Popen(["sleep", "300"], start_new_session=True).pid # what every other process of a kernel comes to
begun = launch(open_store(), {words}, program={program!r})
print(left, begun.id)
"""


@pytest.fixture(autouse=True)
def private(monkeypatch):
    "Fork servers of these tests' own, which end with them"
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp", ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", None)
        monkeypatch.delenv("MPLBACKEND")
        for name, value in {"PRELOAD": "json", "IDLE_S": "60", "POOL": "1"}.items():
            monkeypatch.setenv(f"MLOPS_NB_KERNELS_{name}", value)
        yield
        servers.stop_servers()
        tempfile.tempdir = None


@pytest.fixture
def here(tmp_path):
    "The store of a workspace; what was launched in it ends with the test"
    (tmp_path / "settings.ini").write_text("[workspace]\nproject = digits\n[wandb]\nmode = disabled\n")
    store = open_store(open_workspace(tmp_path))
    yield store
    for each in detached.list_launches(store):
        if each.alive:
            os.kill(each.process.pid, signal.SIGKILL)


class Kernel:
    "A kernel and its client: forked, guarded, or as Jupyter itself starts one"

    def __init__(self, kind, folder):
        self.manager = KernelManager()
        given = {"provisioner_name": "mlops-nb", "config": {"warm": kind == "warm"}}
        self.manager.kernel_spec.metadata["kernel_provisioner"] = given if kind != "plain" else {"provisioner_name": "local-provisioner"}
        environ = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
        self.manager.start_kernel(env=environ, cwd=str(folder))
        self.connect()

    def connect(self):
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def say(self, code):
        "What a cell prints"
        outputs = []
        self.client.execute_interactive(code, timeout=60, output_hook=outputs.append)
        return "".join(each["content"].get("text") or str(each["content"].get("traceback", "")) for each in outputs)

    @property
    def pid(self):
        return int(self.say("import os; print(os.getpid())"))

    def close(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


def kill(kernel):
    os.kill(kernel.pid, signal.SIGKILL)
    wait_until(lambda: not kernel.manager.is_alive())


def restart(kernel):
    kernel.client.stop_channels()
    kernel.manager.restart_kernel(now=False)
    kernel.connect()


def shut_down(kernel):
    kernel.manager.shutdown_kernel(now=False)


@pytest.mark.parametrize("end", [kill, restart, shut_down])
@pytest.mark.parametrize("kind", ["warm", "guarded", "plain"])
def test_a_launch_outlives_its_kernel(here, kind, end):
    kernel = Kernel(kind, here.workspace.root)
    try:
        left, found = kernel.say(LAUNCH.format(words=["run"], program="signal:pause")).split()
        end(kernel)
        if kind != "plain":  # a guardian has done its work, in which it found what else the kernel had started
            wait_until(lambda: not exists(int(left)))
        begun = detached.find_launch(here, found)
        assert begun.status == "running" and process_name(begun.process.pid) == "mlops-detached"
    finally:
        kernel.close()
    assert detached.find_launch(here, found).status == "running"
    if exists(int(left)):
        os.kill(int(left), signal.SIGKILL)


def test_a_launch_outlives_whoever_has_the_kernel(here):
    "As when JupyterLab is killed"
    owner = ("import sys; sys.path.insert(0, sys.argv[1]); from test_detached import *\n"
             "kernel = Kernel('warm', sys.argv[2]); print(kernel.say(sys.argv[3]), kernel.pid, flush=True); signal.pause()")
    given = str(Path(__file__).parent), str(here.workspace.root), LAUNCH.format(words=["run"], program="signal:pause")
    words = [sys.executable, "-c", owner, *given]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        left, found = server.stdout.readline().split()
        kernel = int(server.stdout.readline())
        server.kill()
    wait_until(lambda: not exists(int(left)) and not exists(kernel))
    assert detached.find_launch(here, found).status == "running"


@pytest.mark.parametrize("warm", ["true", "false"])
def test_a_run_ends_well_without_the_kernel_that_began_it(here, monkeypatch, warm):
    monkeypatch.setenv("MLOPS_NB_KERNELS_WARM", warm)
    write_notebook(here.workspace.root / "train.ipynb", "epochs: int = 1", "open('begun', 'w').close()",
                   "import os, time\nwhile not os.path.exists('go on'): time.sleep(0.05)", "print(epochs, 'epochs')")
    kernel = Kernel("warm" if warm == "true" else "guarded", here.workspace.root)
    words = ["run", "train.ipynb", "-p", "epochs", "3", "--log-output"]
    try:
        left, found = kernel.say(LAUNCH.format(words=words, program=detached.PROGRAM)).split()
        wait_until((here.workspace.root / "begun").exists)
        kill(kernel)
        wait_until(lambda: not exists(int(left)))
    finally:
        kernel.close()
    (here.workspace.root / "go on").touch()
    begun = wait_until(lambda: (now := detached.find_launch(here, found)).status != "running" and now)
    assert (begun.status, begun.exit_status, begun.command) == ("finished", 0, tuple(words))
    assert "3 epochs" in detached.read_tail(begun.log)
    (record,) = here.runs.list()
    assert (record.status, record.pid, record.process_started_at) == ("finished", begun.process.pid, begun.process.started_at)


def test_cancelling_interrupts_the_run(here):
    write_notebook(here.workspace.root / "train.ipynb", "open('begun', 'w').close()", "import time; time.sleep(300)", tags=())
    begun = detached.launch(here, ["run", "train.ipynb"])
    wait_until((here.workspace.root / "begun").exists)
    assert detached.cancel(begun) == signal.SIGINT
    ended = wait_until(lambda: (now := detached.find_launch(here, begun.id)).status != "running" and now)
    assert (ended.status, ended.exit_status, here.runs.get("latest").status) == ("cancelled", 130, "cancelled")


def test_a_launch_that_does_not_listen_is_ended_harder(here):
    (here.workspace.root / "deaf.py").write_text(
        "import signal, sys\ndef main():\n    signal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "    print('deaf', flush=True)\n    while True: signal.pause()\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(here.workspace.root))
        begun = detached.launch(here, ["sweep", "x"], program="deaf:main")
    wait_until(lambda: "deaf" in detached.read_tail(begun.log))
    assert [detached.cancel(begun) for _ in range(3)] == [signal.SIGINT, signal.SIGTERM, signal.SIGKILL]
    ended = wait_until(lambda: (now := detached.find_launch(here, begun.id)).status != "running" and now)
    assert (ended.status, ended.exit_status, ended.cancels) == ("cancelled", None, 3)


def test_a_killed_launch_is_said_to_be_killed(here):
    begun = detached.launch(here, ["run"], program="signal:pause")
    os.kill(begun.process.pid, signal.SIGKILL)
    assert wait_until(lambda: (now := detached.find_launch(here, begun.id)).status != "running" and now).status == "killed"


BROKEN = {"cut short": ("request.json", '{"command": ["ru'), "of another kind": ("request.json", "[1, 2]"),
          "without its command": ("request.json", '{"created_at": 5}'),
          "with a word as command": ("request.json", '{"command": "run", "created_at": 5}'),
          "of an odd end": ("ended.json", '{"exit_status": "well"}'), "of an odd process": ("process.json", '{"pid": 5}'),
          "no text": ("cancels.json", b"\xff\xfe"), "a folder": ("cancels.json", None), "missing": ("request.json", "")}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_record_is_listed_and_says_so(here, how):
    well, broken = (detached.launch(here, ["run"], program="signal:pause") for _ in range(2))
    name, content = BROKEN[how]
    path = broken.folder / name
    path.unlink(missing_ok=True)
    if content is None:
        path.mkdir()
    elif content:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    (detached.launches_folder(here) / "notes.txt").write_text("of a person")
    found = {each.id: each for each in detached.list_launches(here)}
    assert set(found) == {well.id, broken.id} and (found[well.id].status, found[well.id].problem) == ("running", "")
    assert found[broken.id].status == "unknown" and name in found[broken.id].problem and str(broken.folder) in found[broken.id].problem
    with pytest.raises(StoreError, match="is broken"):
        detached.cancel(broken)
    os.kill(broken.process.pid, signal.SIGKILL)


def test_a_launch_is_ended_also_where_nothing_can_be_written(here, monkeypatch):
    def is_full(*_):
        raise StoreFullError("no space is left")

    begun = detached.launch(here, ["run"], program="signal:pause")
    monkeypatch.setattr(detached, "write_whole", is_full)
    with pytest.raises(StoreFullError):
        detached.cancel(begun)
    wait_until(lambda: detached.find_launch(here, begun.id).status != "running")
    with pytest.raises(StoreFullError):
        detached.launch(here, ["run"], program="signal:pause")
    assert [each.name for each in detached.launches_folder(here).iterdir()] == [begun.id]


def test_what_is_being_removed_is_not_listed(here):
    begun = detached.launch(here, ["run"], program="signal:pause")
    os.kill(begun.process.pid, signal.SIGKILL)
    wait_until(lambda: detached.find_launch(here, begun.id).status == "killed")
    half = begun.folder.with_name(f".old-{begun.id}")
    begun.folder.rename(half)
    assert detached.list_launches(here) == []
    detached.tidy(here)
    assert not half.exists()


def test_a_secret_is_nowhere(here):
    shown = "assert api_token.get_secret_value().endswith('may-see')\nprint(api_token.get_secret_value())"
    cells = "from pydantic import SecretStr\napi_token: SecretStr", shown, "import time; time.sleep(1)"
    write_notebook(here.workspace.root / "train.ipynb", *cells)
    seen, ended = set(), threading.Event()

    def watch():
        while not ended.wait(0.02):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    seen.add(path.read_bytes())
                except OSError:
                    continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        begun = detached.launch(here, ["run", "train.ipynb", "--log-output"], {"api_token": SECRET})
        done = wait_until(lambda: (now := detached.find_launch(here, begun.id)).status != "running" and now)
    finally:
        ended.set()
        watcher.join()
    assert done.status == "finished", detached.read_tail(done.log)
    assert any(b"mlops_nb.experiments.detached_process" in each for each in seen)
    assert not [each for each in seen if b"s3cr3t" in each]
    files = [path for folder in (here.workspace.root, Path(os.environ["TMPDIR"])) for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 5 and not [path for path in files if b"s3cr3t" in path.read_bytes()]
    assert not any("s3cr3t" in value for value in os.environ.values())


def test_the_environment_of_a_kernel_stays_there(here, monkeypatch):
    for name in ("MLOPS_NB_RUN", "WANDB_SERVICE", "JPY_PARENT_PID", "FORCE_COLOR"):
        monkeypatch.setenv(name, "of the kernel")
    begun = detached.launch(here, ["run"], program="signal:pause")
    environ = Path(f"/proc/{begun.process.pid}/environ").read_bytes().split(b"\0")
    assert not [each for each in environ if each.endswith(b"of the kernel")]
    assert f"MLOPS_NB_WORKSPACE={here.workspace.root}".encode() in environ
