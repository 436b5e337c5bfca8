"""Notebooks that end well, fail, die and are cancelled: what is said of them, what is saved, what is left running."""
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from unittest.mock import patch

import nbformat
import psutil
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from mlops_nb.experiments import cells, client, kernels, recorder, whole_files
from mlops_nb.experiments.engine import Execution, execute
from mlops_nb.settings import KernelError, NotebookError, ParameterError, StoreError, StoreFullError


@pytest.fixture
def write(tmp_path):
    "Writes a notebook: text that begins with # is a markdown cell, `(tag, code)` a tagged cell"
    def write(*cells, name="notebook.ipynb", **metadata):
        nodes = []
        for cell in cells:
            tag, source = cell if isinstance(cell, tuple) else (None, cell)
            if source.startswith("# "):
                nodes.append(new_markdown_cell(source))
            else:
                nodes.append(new_code_cell(source, metadata={"tags": [tag]} if tag else {}))
        nbformat.write(new_notebook(cells=nodes, metadata=metadata), tmp_path / name)
        return tmp_path / name
    return write


@pytest.fixture
def install_kernel(tmp_path, monkeypatch):
    "Installs a kernel with the given command"
    def install(name, language, *command):
        folder = tmp_path / "jupyter" / "kernels" / name
        folder.mkdir(parents=True)
        (folder / "kernel.json").write_text(json.dumps({"argv": command, "display_name": name, "language": language}))
        monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    return install


@pytest.fixture
def output(tmp_path):
    return tmp_path / "executed.ipynb"


def read(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def states(notebook):
    return [cell.metadata.papermill["status"] for cell in notebook.cells if "papermill-error-cell-tag" not in cell.metadata.tags]


def printed(notebook):
    return "".join(output.text for cell in notebook.cells for output in cell.get("outputs", []) if output.output_type == "stream")


def running(pids):
    "Those of some process ids whose process has not ended"
    return [pid for pid in map(int, pids) if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


def test_parameters_and_report_mode_are_papermills(write, output):
    notebook = write("# Training", ("parameters", "epochs = 10\nname = ''"), "print(epochs * 2, name)")
    execution = execute(notebook, output, {"epochs": 3, "name": 'ชื่อ "quoted"\\'}, report_mode=True)
    assert (execution.status, execution.error) == ("finished", None)
    executed = read(output)
    assert printed(executed) == '6 ชื่อ "quoted"\\\n'
    assert states(executed) == ["completed"] * 4
    assert [cell.metadata.jupyter["source_hidden"] for cell in executed.cells if cell.cell_type == "code"] == [True] * 3
    assert executed.metadata.papermill["parameters"]["epochs"] == 3
    assert executed.metadata.papermill["output_path"] == str(output)
    assert executed.metadata.papermill["exception"] is None


def test_progress_and_the_kernels_process(write, output):
    steps, pids = [], []
    notebook = write("# One", "# papermill_description=Loading\nimport os; os.getpid()".replace("# ", "#", 1), "2")
    execute(notebook, output, on_progress=lambda *step: steps.append(step),
            on_kernel_start=lambda pid: pids.append((pid, psutil.pid_exists(pid))))
    assert steps == [(0, 3, ""), (1, 3, ""), (1, 3, "Loading"), (2, 3, ""), (2, 3, ""), (3, 3, "")]
    assert pids == [(int(read(output).cells[1].outputs[0].data["text/plain"]), True)]
    assert not psutil.pid_exists(pids[0][0])


def test_outputs_are_printed_as_they_come(write, output, capsys):
    execute(write("import sys; print('loss 0.5'); print('careful', file=sys.stderr); 6 * 7"), output, log_output=True)
    seen = capsys.readouterr()
    assert seen.out == "loss 0.5\n42\n"
    assert "careful\n" in seen.err


def test_a_failing_cell(write, output):
    notebook = write("# Training", ("parameters", "epochs = 10"), "print('before')", "# Then", "loss = 1 / (epochs - 3)", "print('never')")
    execution = execute(notebook, output, {"epochs": 3})
    error = execution.error
    assert execution.status == "failed"
    assert (error.cell_index, error.execution_count, error.cell_source) == (4, 4, "loss = 1 / (epochs - 3)")
    assert (error.name, error.message) == ("ZeroDivisionError", "division by zero")
    assert "----> 1 loss = 1 / (epochs - 3)" in error.traceback and "\x1b" not in error.traceback
    executed = read(output)
    assert states(executed) == ["completed"] * 5 + ["failed", "pending"]
    assert "papermill-error-cell" in executed.cells[0].source
    assert executed.metadata.papermill["exception"] is True
    again = execute(output, output)  # an executed notebook is a notebook; its marks do not count, its injected cell does
    assert (again.status, again.error.cell_index) == ("failed", 7)
    assert read(output).cells[0].metadata.tags == ["papermill-error-cell-tag"]
    assert sum("papermill-error-cell-tag" in cell.metadata.tags for cell in read(output).cells) == 2


def test_a_failure_in_the_injected_cell_is_one_of_the_parameters_cell(write, output):
    with patch("papermill.parameterize.parameterize_notebook", side_effect=_inject_nonsense):
        execution = execute(write("# Training", ("parameters", "epochs = 10"), "epochs"), output, {"epochs": 3})
    assert (execution.error.cell_index, execution.error.name) == (1, "NameError")


def _inject_nonsense(notebook, *arguments, **options):
    notebook.cells.insert(2, new_code_cell("unknown_name", metadata={"tags": ["injected-parameters"], "papermill": {}}))
    return notebook


def test_a_failing_cell_without_an_error_output(write, output):
    execution = execute(write("%nosuchmagic", "1"), output)
    assert execution.status == "failed"
    assert execution.error.cell_index == 0 and "nosuchmagic" in str(execution.error) + execution.error.traceback + printed(read(output))
    assert states(read(output)) == ["failed", "pending"]


@pytest.mark.parametrize("code, status", [("import sys; sys.exit(0)", "finished"), ("import sys; sys.exit()", "finished"),
                                          ("import sys; sys.exit(1)", "failed")])
def test_a_clean_early_end(write, output, code, status):
    execution = execute(write("1", code, "print('never')"), output)
    assert execution.status == status
    assert states(read(output)) == ["completed", "completed" if status == "finished" else "failed", "pending"]


def test_an_error_that_is_allowed(write, output):
    execution = execute(write(("raises-exception", "1 / 0"), "print('after')"), output)
    assert (execution.status, execution.error) == ("finished", None)
    assert states(read(output)) == ["completed", "completed"]
    assert len(read(output).cells) == 2


def test_a_killed_kernel(write, output, tmp_path):
    dying = "import os, time\nprint('two', flush=True)\ntime.sleep(0.3)\nos.kill(os.getpid(), 9)"
    execution = execute(write("print('one')", dying, "print('never')"), output)
    assert execution.status == "killed"
    assert (execution.error.cell_index, execution.error.execution_count, execution.error.name) == (1, 2, "DeadKernelError")
    assert "SIGKILL" in execution.error.message
    executed = read(output)
    assert states(executed) == ["completed", "failed", "pending"]
    assert printed(executed) == "one\ntwo\n"
    assert "SIGKILL" in executed.cells[-2].outputs[-1].evalue
    assert executed.metadata.papermill["exception"] is True
    assert sorted(os.listdir(tmp_path)) == ["executed.ipynb", "notebook.ipynb"]


@pytest.mark.parametrize("code, words", [("import ctypes; ctypes.string_at(0)", "SIGSEGV"), ("import os; os._exit(3)", "exit status 3")])
def test_other_deaths(write, output, code, words):
    execution = execute(write(code, "1"), output)
    assert execution.status == "killed"
    assert words in execution.error.message
    assert states(read(output)) == ["failed", "pending"]


def test_a_death_after_the_last_cell(write, output):
    original = cells.CellClient.run_cells

    async def run_and_kill(self):
        await original(self)
        os.kill(self.watch.kernel.pid, signal.SIGKILL)

    with patch.object(cells.CellClient, "run_cells", run_and_kill):
        execution = execute(write("1"), output)
    assert execution.status == "killed"
    assert states(read(output)) == ["completed"]
    assert str(execution.error).startswith("DeadKernelError: the kernel was killed by SIGKILL")


def test_exit_handlers_run_though_children_are_left(write, output, tmp_path):
    code = """import atexit, subprocess, time
child = subprocess.Popen(["sleep", "100"])
@atexit.register
def upload():
    time.sleep(0.5)
    open("uploaded", "w").write(str(child.poll()))"""
    assert execute(write(code), output, cwd=tmp_path).status == "finished"
    assert (tmp_path / "uploaded").read_text() == "None"


def test_kernels_have_environments_and_folders_of_their_own(write, tmp_path, monkeypatch):
    monkeypatch.setenv("STAGE", "runner")
    monkeypatch.chdir(tmp_path)
    notebook = write("import os; print(os.environ.get('STAGE'), os.path.basename(os.getcwd()), os.environ.get('PATH') is not None)")
    before, results = dict(os.environ), {}

    def run(name):
        (tmp_path / name).mkdir()
        environ = {**before, "STAGE": name}
        results[name] = execute(notebook.name, f"{name}.ipynb", kernel_environ=environ, cwd=name).status
        assert environ == {**before, "STAGE": name}

    threads = [threading.Thread(target=run, args=[name]) for name in ("first", "second")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {"first": "finished", "second": "finished"}
    assert [printed(read(f"{name}.ipynb")) for name in ("first", "second")] == ["first first True\n", "second second True\n"]
    assert dict(os.environ) == before and os.getcwd() == str(tmp_path)
    assert execute(notebook.name, "third.ipynb").status == "finished"
    assert printed(read("third.ipynb")) == f"runner {tmp_path.name} True\n"


def test_a_long_path_with_spaces_thai_letters_and_braces(write, tmp_path):
    folder = tmp_path / ("โฟลเดอร์ งาน {x} " + "ก" * 50) / ("ข" * 60)
    folder.mkdir(parents=True)
    notebook = write(("parameters", "x = 1"), "print(x)").rename(folder / ("สมุด " + "บ" * 60 + ".ipynb"))
    assert len(str(notebook)) > 150
    assert execute(notebook, folder / "ผล {x}.ipynb", {"x": 2}, cwd=folder).status == "finished"
    assert printed(read(folder / "ผล {x}.ipynb")) == "2\n"
    assert sorted(os.listdir(folder)) == sorted([notebook.name, "ผล {x}.ipynb"])


def test_an_older_format_is_upgraded(tmp_path, output):
    cell = {"cell_type": "code", "collapsed": False, "input": ["print(6 * 7)"], "language": "python", "metadata": {}, "outputs": []}
    path = tmp_path / "old.ipynb"
    path.write_text(json.dumps({"nbformat": 3, "nbformat_minor": 0, "metadata": {"name": ""}, "worksheets": [{"cells": [cell]}]}))
    assert execute(path, output).status == "finished"
    assert printed(read(output)) == "42\n"
    assert read(output).nbformat == 4


ECHO_KERNEL = """
from ipykernel.kernelapp import IPKernelApp
from ipykernel.kernelbase import Kernel
class EchoKernel(Kernel):
    implementation = implementation_version = banner = "echo"
    language_info = {"name": "bash", "mimetype": "text/plain", "file_extension": ".sh"}
    def do_execute(self, code, silent, *arguments, **options):
        if not silent: self.send_response(self.iopub_socket, "stream", {"name": "stdout", "text": code})
        return {"status": "ok", "execution_count": self.execution_count, "payload": [], "user_expressions": {}}
IPKernelApp.launch_instance(kernel_class=EchoKernel)
"""


def test_another_language(write, output, install_kernel, tmp_path, caplog):
    (tmp_path / "echo.py").write_text(ECHO_KERNEL)
    install_kernel("echo", "bash", sys.executable, str(tmp_path / "echo.py"), "-f", "{connection_file}")
    notebook = write(("parameters", "epochs=10"), "fit $epochs", kernelspec={"name": "echo", "display_name": "Echo", "language": "bash"})
    pids = []
    assert execute(notebook, output, {"epochs": 3}, on_kernel_start=pids.append).status == "finished"
    assert printed(read(output)) == "epochs=10# Parameters\nepochs=3\nfit $epochs"
    assert "cannot be checked: epochs" in caplog.text
    assert not psutil.pid_exists(pids[0])


def test_an_empty_notebook(write, output):
    assert execute(write(), output).status == "finished"
    assert read(output).cells == []


@pytest.mark.parametrize("options, error, message", [
    ({"kernel_name": "nosuch"}, KernelError, "'nosuch' is not installed; installed are: .*python3.*ipykernel install"),
    ({"parameters": {"epoch": 1}}, ParameterError, "did you mean 'epochs'"),
    ({"cwd": "no/such"}, KernelError, "'no/such' is not a folder"),
    ({"output": "no/such/executed.ipynb"}, StoreError, "cannot save the notebook"),
    ({"output": "."}, StoreError, "not a regular file"),
    ({"output": "/dev/null"}, StoreError, "cannot save the notebook"),
    ({"output": "x" * 300 + ".ipynb"}, StoreError, "cannot save the notebook"),
    ({"notebook": __file__}, NotebookError, "test_engine.py: not a notebook"),
])
def test_what_cannot_run_leaves_the_older_output(write, output, options, error, message):
    output.write_text("older")
    call = {"notebook": write(("parameters", "epochs = 1")), "output": output} | options
    with pytest.raises(error, match=message):
        execute(**call)
    assert output.read_text() == "older"
    assert sorted(os.listdir(output.parent)) == ["executed.ipynb", "notebook.ipynb"]


@pytest.mark.parametrize("command", [["/no/such/python", "-m", "ipykernel"], [sys.executable, "-c", "raise SystemExit(1)"]])
def test_a_kernel_that_does_not_start(write, output, install_kernel, command):
    install_kernel("broken", "python", *command)
    output.write_text("older")
    with pytest.raises(KernelError, match="the kernel 'broken' does not start"):
        execute(write("1"), output, kernel_name="broken")
    assert output.read_text() == "older"


def test_a_kernel_that_never_answers_is_ended(write, output, install_kernel):
    install_kernel("broken", "python", sys.executable, "-c", "import time; time.sleep(60)")
    pids = []
    with pytest.raises(KernelError, match="does not start"):
        execute(write("1"), output, kernel_name="broken", start_timeout_s=1, on_kernel_start=pids.append)
    assert len(pids) == 1 and not psutil.pid_exists(pids[0])


def test_a_callback_that_fails_leaves_no_kernel(write, output):
    pids = []

    def fail(pid):
        pids.append(pid)
        raise LookupError("of the caller")

    with pytest.raises(LookupError, match="of the caller"):
        execute(write("1"), output, on_kernel_start=fail)
    assert not psutil.pid_exists(pids[0])


def test_a_full_disk_keeps_the_last_whole_notebook(write, output):
    wait = "import time; time.sleep(1)"  # in which the notebook is saved, however busy the machine is
    notebook, pids = write("print('one')", wait, "print('two')", wait, "print('three')"), []
    original = whole_files.os.replace

    def replace(temporary, target):
        if '"two' in Path(temporary).read_text():
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(temporary, target)

    with patch.object(whole_files.os, "replace", replace), pytest.raises(StoreFullError, match="No space left on device"):
        execute(notebook, output, on_kernel_start=pids.append)
    assert not psutil.pid_exists(pids[0])
    assert printed(read(output)) == "one\n"
    assert sorted(os.listdir(output.parent)) == ["executed.ipynb", "notebook.ipynb"]


def test_an_output_keeps_its_link_has_the_usual_mode_and_takes_any_text(write, output, tmp_path):
    target = tmp_path / "elsewhere.ipynb"
    target.write_text("older")
    output.symlink_to(target)
    notebook = write("# half a letter: HALF", "1")
    notebook.write_text(notebook.read_text().replace("HALF", "\\ud800"))
    assert execute(notebook, output).status == "finished"
    assert output.is_symlink() and read(target).cells[0].source == "# half a letter: \ud800"
    mask = os.umask(0)
    os.umask(mask)
    assert target.stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666, 0o444])
def test_a_replaced_file_keeps_its_permissions(tmp_path, mode):
    target, seen = tmp_path / "out.ipynb", []
    target.write_text("old")
    target.chmod(mode)
    original = whole_files.os.fsync

    def fsync(descriptor):
        seen.append(os.fstat(descriptor).st_mode & 0o777)
        original(descriptor)

    with patch.object(whole_files.os, "fsync", fsync):
        whole_files.write_whole(target, "new")
    assert (target.read_text(), target.stat().st_mode & 0o777, seen) == ("new", mode, [mode])
    assert os.listdir(tmp_path) == ["out.ipynb"]


def test_a_file_with_two_names_stays_one_file(tmp_path):
    target, second = tmp_path / "out.ipynb", tmp_path / "second.ipynb"
    target.write_text("old, and longer than the new one")
    second.hardlink_to(target)
    whole_files.check_output(target)
    whole_files.papermill_writer(str(target))("new", True)
    assert (second.read_text(), target.samefile(second)) == ("new", True)
    assert sorted(os.listdir(tmp_path)) == ["out.ipynb", "second.ipynb"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
@pytest.mark.parametrize("owner", [(12345, -1), (-1, 12345)])
def test_a_file_of_another_owner_stays_his(tmp_path, owner):
    target = tmp_path / "out.ipynb"
    target.write_text("old")
    os.chown(target, *owner)
    before = target.stat()
    whole_files.check_output(target)
    whole_files.write_whole(target, "new")
    after = target.stat()
    assert target.read_text() == "new"
    assert (after.st_ino, after.st_uid, after.st_gid) == (before.st_ino, before.st_uid, before.st_gid)


def test_an_output_that_cannot_be_written_in_place_is_said_before(tmp_path):
    target, refused = tmp_path / "out.ipynb", PermissionError(errno.EACCES, "Permission denied")
    target.write_text("old")
    with patch.object(whole_files, "_as_before", return_value=False), patch("builtins.open", side_effect=refused), \
            pytest.raises(StoreError, match="Permission denied"):
        whole_files.check_output(target)
    with patch.object(whole_files, "_as_before", return_value=False), patch.object(Path, "open", autospec=True) as opened, \
            pytest.raises(StoreError, match="out.ipynb.*Permission denied"):
        original = open
        opened.side_effect = lambda path, mode: original(path, mode) if mode == "xb" else (_ for _ in ()).throw(refused)
        whole_files.write_whole(target, "new")
    assert target.read_text() == "old" and os.listdir(tmp_path) == ["out.ipynb"]


def test_a_recorder_opens_nothing_else(tmp_path):
    "The path of the runner's memory may by now be another file"
    other, memory = tmp_path / "weights.bin", recorder.Recorder()
    other.write_bytes(b"kept")
    code = "import sys\nclass Stream:\n    _buffers, name = {}, 'stdout'\n    def flush(self): pass\n    def write(self, text): pass\n"
    code += "sys.stdout = Stream()\nEXEC\nsys.stdout._buffers[frozenset({'msg_id': '1'}.items())].write('printed')"
    with other.open("ab") as file:
        wrong = memory.code.replace(f"/fd/{memory._parts[0]}\\'", f"/fd/{file.fileno()}\\'")
        assert wrong != memory.code
        subprocess.run([sys.executable, "-c", code.replace("EXEC", wrong)], stderr=subprocess.DEVNULL)
        assert other.read_bytes() == b"kept" and memory.missing("1", {}) == []
        subprocess.run([sys.executable, "-c", code.replace("EXEC", memory.code)], check=True)
    assert memory.missing("1", {}) == [{"name": "stdout", "text": "printed"}]
    memory.close()


def test_text_that_a_dying_kernel_had_not_sent(write, output):
    dying = "import os, sys\nfor step in range(50): print('step', step)\nsys.stderr.write('careful')\nos.kill(os.getpid(), 9)"
    assert execute(write("print('one')", dying), output).status == "killed"
    cell = read(output).cells[-1]
    steps = "".join(f"step {step}\n" for step in range(50))
    assert {each.name: each.text for each in cell.outputs[:-1]} == {"stdout": steps, "stderr": "careful"}


@pytest.mark.parametrize("ended, likely", [
    ((-9, 31, 32), True), ((-9, 1, 32, True), True), ((1, 31, 32), True),
    ((-9, 28, 32), False), ((-9,), False), ((None,), False), ((0, 31, 32), False)])
def test_what_a_death_tells_of_memory(ended, likely):
    assert ("likely out of memory" in cells.describe_death(kernels.KernelExit(*ended))) == likely


def test_a_cell_over_its_time_is_interrupted(write, output, tmp_path):
    slow = "import time\nprint('begun')\ntry: time.sleep(60)\nfinally: open('saved', 'w')"
    execution = execute(write("1", slow, "print('never')"), output, cell_timeout_s=0.5, cwd=tmp_path)
    assert (execution.status, execution.error.cell_index, execution.error.name) == ("failed", 1, "CellTimeoutError")
    assert execution.error.message == "the cell ran longer than its limit of 0.5 s, and was interrupted"
    executed = read(output)
    assert states(executed) == ["completed", "failed", "pending"]
    assert printed(executed) == "begun\n"
    assert [each.ename for each in executed.cells[-2].outputs if each.output_type == "error"] == ["KeyboardInterrupt", "CellTimeoutError"]
    assert (tmp_path / "saved").exists()


def test_a_cell_that_does_not_listen_to_its_limit_is_killed(write, output, monkeypatch):
    monkeypatch.setattr(kernels.KernelProcess.__init__, "__defaults__", (0.3,))
    deaf = "import time, signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nprint('begun')\nwhile True: time.sleep(1)"
    pids = []
    execution = execute(write(deaf, "print('never')", execution_timeout=1), output, on_kernel_start=pids.append)
    assert (execution.status, execution.error.name) == ("failed", "CellTimeoutError")
    assert execution.error.message.startswith("the cell ran longer than its limit of 1 s; it did not listen to an interrupt")
    assert states(read(output)) == ["failed", "pending"] and printed(read(output)) == "begun\n"
    assert not psutil.pid_exists(pids[0])


def test_a_notebook_over_its_time(write, output):
    execution = execute(write(*["import time; time.sleep(0.7)"] * 60), output, cell_timeout_s=60, timeout_s=3)
    assert execution.status == "failed"
    assert execution.error.message.startswith("the notebook ran longer than its limit of 3 s")
    assert states(read(output)).index("failed") < 59 and states(read(output))[-1] == "pending"


def test_nothing_that_is_printed_is_lost_while_the_runner_is_held_up(write, output, tmp_path):
    code, held, original = "print('begin', flush=True)\nfor line in range(20000): print(line, flush=True)", [], NotebookClient.output

    def slow(self, *arguments):
        if not held: held.append(time.sleep(3))
        return original(self, *arguments)

    with patch.object(NotebookClient, "output", slow): execution = execute(write(code), output, cwd=tmp_path)
    assert execution.status == "finished" and held, execution.error
    assert printed(read(output)) == "begin\n" + "".join(f"{line}\n" for line in range(20000))


def test_outputs_are_in_the_file_while_a_cell_runs_and_saves_are_few(write, output, tmp_path):
    waiting = """import pathlib, time
print("quiet")
saved = pathlib.Path("executed.ipynb") # which may come late, where saving is slow
while not saved.exists() or "quiet\\\\n" not in saved.read_text().replace('print(', ''): time.sleep(0.05)
for line in range(2000): print(line, flush=True)"""
    saves, original = [], whole_files.os.replace
    with patch.object(whole_files.os, "replace", lambda *names: (saves.append(names), original(*names))):
        execution = execute(write(waiting), output, cwd=tmp_path, cell_timeout_s=60)
    assert execution.status == "finished", execution.error
    assert printed(read(output)) == "quiet\n" + "".join(f"{line}\n" for line in range(2000))
    assert len(saves) <= 6 + execution.duration_s


def test_secrets_are_masked_wherever_they_are_shown(write, output, tmp_path, capsys):
    secret = "correct-horse-<&>'battery"
    shows = """import sys
secret = sys.mlops_nb_secrets["TOKEN"]
print(secret); print(secret[:9], end="", flush=True); print(secret[9:], flush=True)
print(repr(secret), file=sys.stderr)"""
    execution = execute(write(shows, "secret", "raise ValueError(secret)"), output, secrets={"token": secret}, log_output=True)
    assert (execution.status, execution.error.message) == ("failed", "**********")
    text = output.read_text() + "".join(capsys.readouterr()) + str(execution)
    assert "**********" in text and "horse" not in text and "battery" not in text


def test_a_notebook_that_has_its_parameters_already(write, output):
    source = nbformat.read(write(("parameters", "epochs = 10"), "1 / (epochs - 3)"), as_version=4)
    given = nbformat.reads(nbformat.writes(source), as_version=4)
    given.cells.insert(1, new_code_cell("epochs = 3", metadata={"tags": ["injected-parameters"]}))
    before = nbformat.writes(given)
    execution = execute(given, output, source=source, input_path="train.ipynb")
    assert (execution.status, execution.error.cell_index) == ("failed", 1)
    assert nbformat.writes(given) == before
    assert read(output).metadata.papermill["input_path"] == os.path.abspath("train.ipynb")


def test_many_runs_leave_nothing_in_the_process(write, output):
    def size():
        with open("/proc/self/smaps_rollup") as file:
            return int(next(line for line in file if line.startswith("Private_Dirty")).split()[1]), len(os.listdir("/proc/self/fd"))

    notebook = write("1")
    for _ in range(12):
        execute(notebook, output)
    memory_kb, descriptors = size()
    for _ in range(20):
        execute(notebook, output)
    assert size()[1] <= descriptors and threading.active_count() < 20
    assert size()[0] - memory_kb < 20 * 100  # an execution that stayed as a whole would be some MB


def test_everything_that_a_notebook_started_is_gone(write, output):
    code = """import os, subprocess
print(os.getpid())
print(subprocess.Popen(["sleep", "100"]).pid)
print(subprocess.Popen(["sleep", "100"], start_new_session=True).pid)
print(subprocess.Popen(["sleep", "100"], env={}).pid)
print(subprocess.getoutput("setsid sleep 100 > /dev/null 2>&1 & echo $!"))"""
    assert execute(write(code), output).status == "finished"
    pids = printed(read(output)).split()
    assert len(pids) == 5 and running(pids) == []


RUNNER = """
import sys
from mlops_nb.experiments.engine import execute
execution = execute(sys.argv[1], sys.argv[2], cwd=".")
print(execution.status, "|", execution.error, flush=True)
"""

STARTED = """import os, signal, subprocess, sys, time
print("before", flush=True)
child = subprocess.Popen(["sleep", "100"], start_new_session=True)
open("started.tmp", "w").write(f"{os.getpid()} {child.pid}")
os.rename("started.tmp", "started")
"""


def cancel(write, folder, code, *signals, after=lambda: None):
    "Runs a notebook in a process of its own, sends it signals once the first cell's code runs; returns its exit status and what it printed"
    notebook = write("print('one')", STARTED + code, "print('never')")
    command = [sys.executable, "-c", RUNNER, notebook.name, "executed.ipynb"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    started = folder / "started"
    while not started.exists():
        assert process.poll() is None
        threading.Event().wait(0.02)
    for number in signals:
        process.send_signal(number)
        after()
    words, _ = process.communicate(timeout=60)
    assert running(started.read_text().split()) == []
    return process.returncode, words


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_cancelled_notebook(write, tmp_path, number):
    status, words = cancel(write, tmp_path, "time.sleep(100)", number)
    assert status == 0
    assert words == f"cancelled | cell 1 (In [2]): Cancelled: cancelled by {number.name}\n"
    executed = read(tmp_path / "executed.ipynb")
    assert states(executed) == ["completed", "failed", "pending"]
    assert printed(executed) == "one\nbefore\n"
    assert "KeyboardInterrupt" in [output.get("ename") for cell in executed.cells for output in cell.get("outputs", [])]


def test_a_cancelled_notebook_may_save_its_work(write, tmp_path):
    code = "try: time.sleep(100)\nexcept KeyboardInterrupt: print('saved')"
    status, words = cancel(write, tmp_path, code, signal.SIGTERM)
    assert (status, words.split()[0]) == (0, "cancelled")
    executed = read(tmp_path / "executed.ipynb")
    assert states(executed) == ["completed", "completed", "pending"]
    assert printed(executed) == "one\nbefore\nsaved\n"


def test_a_notebook_that_does_not_listen_is_killed(write, tmp_path):
    def wait_for_deafness():
        while not (tmp_path / "deaf").exists():
            threading.Event().wait(0.02)

    code = "open('deaf', 'w')\nwhile True:\n    try: time.sleep(100)\n    except KeyboardInterrupt: pass"
    status, words = cancel(write, tmp_path, code, signal.SIGINT, signal.SIGINT, after=wait_for_deafness)
    assert (status, words) == (0, "cancelled | cell 1 (In [2]): Cancelled: cancelled by SIGINT\n")
    executed = read(tmp_path / "executed.ipynb")
    assert states(executed) == ["completed", "failed", "pending"]
    assert printed(executed) == "one\nbefore\n"


@pytest.mark.parametrize("moment", ["save", "after the last cell", "start"])
def test_cancelled_at_other_moments(write, output, moment):
    sent, original = [], whole_files.os.replace

    def send():
        if not sent:
            sent.append(os.kill(os.getpid(), signal.SIGTERM))

    notebook = write("print('one')", "print('two')")
    options = {"on_kernel_start": lambda _: send()} if moment == "start" else {}
    if moment == "after the last cell":
        options["on_progress"] = lambda done, count, _: send() if done == count else None
    with patch.object(whole_files.os, "replace", lambda *names: (send() if moment == "save" else None, original(*names))):
        execution = execute(notebook, output, **options)
    assert execution.status == "cancelled"
    assert states(read(output))[-1] == ("completed" if moment == "after the last cell" else "pending")
    assert execution.error.message == "cancelled by SIGTERM"


def test_cancelled_before_the_kernel_started(write, output):
    with patch.object(client.KernelClient, "create_kernel_manager", autospec=True, side_effect=_cancel_first):
        execution = execute(write("1"), output)
    assert execution.status == "cancelled"
    assert states(read(output)) == ["pending"]


create_kernel_manager = client.KernelClient.create_kernel_manager


def _cancel_first(self):
    self.watch.kernel.cancel(signal.SIGTERM)
    return create_kernel_manager(self)


def test_handlers_are_put_back_and_ignored_signals_stay_ignored(write, output):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    try:
        execute(write("1"), output, on_kernel_start=lambda _: os.kill(os.getpid(), signal.SIGHUP))
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == handlers
    finally:
        signal.signal(signal.SIGHUP, before)
    assert states(read(output)) == ["completed"]


def test_a_running_loop_is_no_obstacle(write, output):
    import asyncio

    async def run() -> Execution:
        return execute(write("print('one')"), output)

    assert asyncio.run(run()).status == "finished"


@pytest.mark.parametrize("first", ["papermill", "mlops_nb.experiments.papermill_engine"])
def test_papermill_finds_the_engine_whatever_is_imported_first(write, output, first):
    information = output.parent / "installed-1.dist-info"
    information.mkdir()
    (information / "entry_points.txt").write_text("[papermill.engine]\nmlops-nb = mlops_nb.experiments.engine:MlopsEngine\n")
    notebook = write("print('one')", kernelspec={"name": "python3", "display_name": "Python 3", "language": "python"})
    code = f"import sys, {first}, papermill; papermill.execute_notebook(*sys.argv[1:], engine_name='mlops-nb', progress_bar=False)"
    environ = {**os.environ, "PYTHONPATH": str(output.parent)}
    subprocess.run([sys.executable, "-c", code, notebook, output], check=True, env=environ)
    assert printed(read(output)) == "one\n"


def test_the_light_rooms_import_nothing_heavy():
    code = ("import sys, mlops_nb.experiments.engine, mlops_nb.experiments.parameters; "
            "print({'papermill', 'nbformat', 'nbclient', 'jupyter_client', 'psutil'} & set(sys.modules))")
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "set()\n"


def test_no_sockets_are_left(write, output, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "t"))
    Path(tmp_path / "t").mkdir()
    assert execute(write("1"), output).status == "finished"
    assert [name for name in os.listdir(tmp_path / "t") if name != f"mlops-nb-{os.geteuid()}"] == []  # the fork server's folder stays
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("long" * 20)))
    Path(tmp_path / ("long" * 20)).mkdir()
    assert execute(write("1"), output).status == "finished"
    assert [name for name in os.listdir(tmp_path / ("long" * 20)) if name != f"mlops-nb-{os.geteuid()}"] == []
