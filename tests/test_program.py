"""`mlops-nb` in a forked process: for a person and a shell it is the same program."""
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import pytest
from mlops_nb.experiments import servers
from mlops_nb.experiments.processes import children_of, process_name

PROGRAM = str(Path(sys.executable).with_name("mlops-nb"))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "A folder with a notebook, and the environment of commands, whose server is there"
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as sockets:
        root = tmp_path_factory.mktemp("a workspace")
        cells = [nbformat.v4.new_code_cell("seconds = 0", metadata={"tags": ["parameters"]}),
                 nbformat.v4.new_code_cell("import time\nopen('runs', 'a').write('x')\ntime.sleep(seconds)\nprint('done')")]
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), root / "a.ipynb")
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("MLOPS_NB_", "PYTEST_"))}
        environ |= {"TMPDIR": sockets, "WANDB_MODE": "disabled", "MLOPS_NB_KERNELS_PRELOAD": "json", "MLOPS_NB_KERNELS_IDLE_S": "100"}
        subprocess.run([PROGRAM, "run", "a.ipynb"], cwd=root, env=environ, check=True, capture_output=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tempfile, "tempdir", sockets)
            deadline = time.monotonic() + 60
            while "commands" not in [each.serves for each in servers.find_servers() if each.processes]:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield root, environ
            servers.stop_servers()


def runners(environ):
    return [pid for server in servers.find_servers() if server.serves == "commands"
            for pid in children_of(server.pid) if process_name(pid) == "mlops-run"]


def start(place, *arguments, command=("run", "a.ipynb"), before=(), **options):
    root, environ = place
    (root / "runs").write_text("")
    process = subprocess.Popen([*before, PROGRAM, *command, *arguments], cwd=root, env=environ, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    deadline = time.monotonic() + 30
    while not (root / "runs").read_text():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    return process


def test_it_is_forked(place):
    before = set(runners(place[1]))
    process = start(place, "-p", "seconds", "1")
    (ours,) = before & set(runners(place[1]))
    assert b"mlops-nb\0run\0a.ipynb" not in Path(f"/proc/{ours}/cmdline").read_bytes()  # a fork of the server
    words, _ = process.communicate(timeout=30)
    assert process.returncode == 0 and "finished" in words


def test_a_repetition_is_forked(place):
    root, environ = place
    first = [PROGRAM, "run", "a.ipynb", "-p", "seconds", "1", "--json"]
    done = subprocess.run(first, cwd=root, env=environ, capture_output=True, check=True)
    before = set(runners(environ))
    process = start(place, command=("reproduce", json.loads(done.stdout)["id"]))
    (ours,) = before & set(runners(environ))
    assert b"mlops-nb\0reproduce" not in Path(f"/proc/{ours}/cmdline").read_bytes()  # a fork of the server
    words, _ = process.communicate(timeout=30)
    assert process.returncode == 0 and "1 run: 1 identical." in words


def test_a_killed_process_is_not_run_again(place):
    before = set(runners(place[1]))
    process = start(place, "-p", "seconds", "30")
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL
    assert (place[0] / "runs").read_text() == "x"


def test_what_nohup_ignores_stays_ignored(place):
    process = start(place, "-p", "seconds", "2", before=["nohup"], stdin=subprocess.DEVNULL)
    process.send_signal(signal.SIGHUP)
    words, _ = process.communicate(timeout=30)
    assert process.returncode == 0 and "finished" in words


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_are_handed_on(place, number):
    process = start(place, "-p", "seconds", "30")
    process.send_signal(number)
    words, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + number and "cancelled" in words


def test_more_open_files_than_a_terminal_has(place):
    root, environ = place
    command = ["bash", "-c", f"'{PROGRAM}' run a.ipynb -f <(echo 'seconds: 0')"]
    done = subprocess.run(command, cwd=root, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_bad_input_is_refused_in_one_line(place):
    root, environ = place
    done = subprocess.run([PROGRAM, "run", "missing.ipynb"], cwd=root, env=environ, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("Error: ") and done.stderr.count("\n") == 1


def test_a_closed_standard_output(place):
    root, environ = place
    done = subprocess.run(["bash", "-c", f"'{PROGRAM}' run a.ipynb >&- 2>&-"], cwd=root, env=environ)
    assert done.returncode == 0
