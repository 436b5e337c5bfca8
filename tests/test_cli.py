"""The command line: what it prints, how it ends, and what it does with bad input."""
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import pytest
from click.testing import CliRunner
from notebooks import write_notebook
from rich.cells import cell_len
from waiting import wait_until

from mlops_nb import scaffold
from mlops_nb.cli import main
from mlops_nb.settings import WorkspaceError, open_workspace
from mlops_nb.store.artifacts import list_files
from mlops_nb.store.door import open_store

PROGRAM = Path(sys.executable).with_name("mlops-nb")
GOAL = """
[[goal]]
name = "mail"
owner = "Head of mail operations"
reason = "A misread postcode sends a letter to the wrong town."
[[goal.objective]]
metric = "recall"
measured_in = "evaluate"
at_least = 0.9
"""
READING = ("runs list", "runs show latest", "runs compare latest latest", "runs logs latest", "lineage latest", "doctor")


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    "A workspace whose path has blanks, Thai letters and brackets; the current folder. W&B is off, for speed"
    root = tmp_path / "งาน ของฉัน [red]"
    root.mkdir()
    (root / "settings.ini").write_text("[workspace]\nproject = test\n\n[wandb]\nmode = disabled\n")
    monkeypatch.chdir(root)
    monkeypatch.setenv("COLUMNS", "80")
    return root


@pytest.fixture
def store(workspace):
    return open_store(open_workspace(workspace))


def call(*arguments, **options):
    return CliRunner().invoke(main, [str(each) for each in arguments], prog_name="mlops-nb", **options)


def read(*arguments):
    "The JSON that a command prints"
    result = call(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refused(result, *words):
    "Bad input: status 2, one line, nothing on standard output"
    assert result.exit_code == 2, (result.exit_code, result.output, result.exception)
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ") and "Traceback" not in line
    for word in words:
        assert word in line


def finished(store, id, name="train", **columns):
    run = store.runs.create(id=id, project="test", name=name, **columns)
    store.runs.finish(run.id, "finished", **({"metrics": columns["metrics"]} if "metrics" in columns else {}))
    return run


# Help


def commands(group=main, path=()):
    for name, command in group.commands.items():
        yield (*path, name)
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("path", [(), *commands()], ids=" ".join)
def test_every_command_has_help_of_80_columns(path, flag, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    result = call(*path, flag)
    assert result.exit_code == 0 and result.stdout.startswith("Usage: mlops-nb")
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80 and not [line for line in lines[1:] if line.endswith("...")]


def test_version():
    import mlops_nb

    assert call("--version").stdout.split()[-1] == mlops_nb.__version__


def test_help_imports_nothing_heavy():
    heavy = {"sqlalchemy", "rich", "pandas", "numpy", "papermill", "nbformat", "wandb", "torch", "jupyter_client", "pydantic"}
    code = f"import sys, mlops_nb.cli; print(sorted({heavy!r} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# init


def test_init_makes_a_workspace_and_says_what_to_try(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call("init", "my digits")
    assert result.exit_code == 0 and "cd 'my digits'" in result.stdout and "mlops-nb run" in result.stdout
    assert open_workspace(tmp_path / "my digits").settings.workspace.project == "digits"
    assert (tmp_path / "my digits" / ".gitignore").exists() and not (tmp_path / "my digits" / "gitignore").exists()


@pytest.mark.parametrize("arguments, words", [
    (["new", "--template", "digit"], ["did you mean 'digits'?"]),
    (["full"], ["already holds README.md"]),
    (["full/README.md"], ["is a file"]),
    (["full/README.md/below"], ["is a file"]),
    (["clash"], ["already holds notebooks"]),
])
def test_init_refuses_and_leaves_everything_as_it_was(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "README.md").write_text("mine")
    (tmp_path / "clash").mkdir()
    (tmp_path / "clash" / "notebooks").write_text("a file where a folder should be")
    before = sorted(tmp_path.rglob("*"))
    refused(call("init", *arguments), *words)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("exists", [True, False])
def test_init_that_breaks_off_leaves_nothing(tmp_path, monkeypatch, exists):
    target = tmp_path / "new"
    if exists:
        target.mkdir()
        (target / "mine.txt").write_text("mine")
    before, moved = sorted(tmp_path.rglob("*")), []
    rename = Path.rename

    def breaking(self, other):
        moved.append(other)
        if len(moved) == (4 if exists else 1):
            raise OSError(5, "Input/output error")
        return rename(self, other)

    monkeypatch.setattr(Path, "rename", breaking)
    with pytest.raises(WorkspaceError, match="Input/output error"):
        scaffold.init_workspace(target)
    assert sorted(tmp_path.rglob("*")) == before


# run


def test_run_keeps_and_copies_the_executed_notebook(workspace):
    write_notebook(workspace / "add.ipynb", "a = 1\nb = 'x'", "print(a, b)")
    result = call("run", "add.ipynb", "out.ipynb", "-p", "a", "2", "-r", "b", "3", "--tag", "first")
    assert result.exit_code == 0, result.output
    assert "finished" in result.stdout and "out.ipynb" in result.stdout
    (run,) = read("runs", "list")
    assert (run["parameters"], run["tags"], run["status"]) == ({"a": 2, "b": "3"}, ["first"], "finished")
    assert nbformat.read("out.ipynb", 4).cells[-1].outputs[0].text == "2 3\n"
    assert (workspace / ".mlops" / "runs" / run["id"] / "notebook.ipynb").read_bytes() == (workspace / "out.ipynb").read_bytes()


def test_run_takes_parameters_in_all_of_papermills_ways(workspace):
    write_notebook(workspace / "five.ipynb", "a = b = c = d = e = 0", "")
    (workspace / "values.yaml").write_text("d: 4\na: 0")
    flags = ["-p", "a", "1", "-r", "b", "2", "-y", "c: 3", "-f", "values.yaml", "-b", "ZTogNQ=="]
    assert json.loads(call("run", "five.ipynb", *flags, "--json").stdout)["parameters"] == {"a": 1, "b": "2", "c": 3, "d": 4, "e": 5}


def test_run_that_fails_says_where_and_why(workspace):
    write_notebook(workspace / "fail.ipynb", "n = 0", "print('before')", "1 / n", "print('never')")
    result = call("run", "fail.ipynb", "out.ipynb")
    assert result.exit_code == 1
    assert "cell 3, In [3]: ZeroDivisionError: division by zero" in result.stdout and "----> 1 1 / n" in result.stdout
    assert "never" not in Path("out.ipynb").read_text().replace("print('never')", "")
    shown = call("runs", "logs", "latest").stdout
    assert "before" in shown and "never" not in shown and "ZeroDivisionError" in shown
    assert [cell["status"] for cell in read("runs", "logs", "latest")] == ["completed", "completed", "failed", "pending"]


def test_run_whose_kernel_is_killed_ends_with_1(workspace):
    write_notebook(workspace / "die.ipynb", "import os", "os.kill(os.getpid(), 9)")
    result = call("run", "die.ipynb")
    assert result.exit_code == 1 and "killed by SIGKILL" in result.stdout.replace("\n", " ")
    assert read("runs", "list")[0]["status"] == "killed"


def test_output_of_cells_goes_to_standard_output_but_not_between_json(workspace):
    write_notebook(workspace / "say.ipynb", "n = 1", "print('said', n)")
    assert "said 1" in call("run", "say.ipynb", "--log-output").stdout
    result = call("run", "say.ipynb", "--log-output", "--json")
    assert json.loads(result.stdout)["status"] == "finished" and "said 1" in result.stderr


def test_run_in_a_folder_that_is_no_workspace_makes_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    write_notebook(tmp_path / "plain.ipynb", "1 + 1", tags=())
    assert call("run", "plain.ipynb").exit_code == 0
    assert [run["notebook"] for run in read("runs", "list")] == ["plain.ipynb"]


# pipeline


@pytest.fixture
def pipeline(workspace):
    write_notebook(workspace / "first.ipynb", "size = 2", "print(size)")
    write_notebook(workspace / "second.ipynb", "rate = 1", "1 / rate")
    text = 'name = "two"\n[[step]]\nname = "first"\nnotebook = "first.ipynb"\n[[step]]\nname = "second"\nnotebook = "second.ipynb"\n'
    (workspace / "pipeline.toml").write_text(text)
    return workspace


def test_pipeline_runs_what_changed_and_stops_at_the_first_failure(pipeline):
    result = call("run")
    assert result.exit_code == 0 and "first: finished" in result.stderr and "2 steps" in result.stdout
    assert [step["status"] for step in read("run")["steps"]] == ["unchanged", "unchanged"]
    assert [step["status"] for step in read("run", "-p", "size", "3")["steps"]] == ["finished", "unchanged"]
    assert [step["status"] for step in read("run", "--force", "--tag", "again")["steps"]] == ["finished", "finished"]
    assert len(read("runs", "list", "--tag", "again")) == 2
    write_notebook(pipeline / "first.ipynb", "size = 2", "raise ValueError('no data')")
    result = call("run")
    assert result.exit_code == 1 and "ValueError: no data" in result.stdout and "not run" in result.stdout
    result = call("run", "--json")
    assert [step["status"] for step in json.loads(result.stdout)["steps"]] == ["failed", "not run"]


def test_pipeline_takes_parameters_of_a_step(pipeline):
    steps = {step["step"]: step["run"] for step in read("run", "-p", "second.rate", "4")["steps"]}
    assert (steps["first"]["parameters"], steps["second"]["parameters"]) == ({"size": 2}, {"rate": 4})
    group = steps["first"]["group_id"]
    assert {run["id"] for run in read("runs", "list", "--group", group)} == {run["id"] for run in steps.values()}


@pytest.mark.parametrize("arguments, words", [
    (["-p", "rat", "1"], ["did you mean 'rate'?"]),
    (["-p", "second.rat", "1"], ["did you mean 'rate'?"]),
    (["-p", "secnd.rate", "1"], ["did you mean 'second'?"]),
    (["-k", "nope"], ["'nope' is not installed"]),
])
def test_pipeline_refuses_before_it_runs(pipeline, arguments, words):
    refused(call("run", *arguments), *words)
    assert read("runs", "list") == []


def test_a_bad_notebook_in_the_chain_is_found_before_the_first_step_runs(pipeline):
    (pipeline / "second.ipynb").write_text("{}")
    refused(call("run"), "second.ipynb")
    assert read("runs", "list") == []


# bad input


@pytest.mark.parametrize("arguments, words", [
    (["missing.ipynb"], ["missing.ipynb", "No such file"]),
    (["settings.ini"], ["settings.ini", "not a notebook"]),
    (["."], ["cannot be read"]),
    (["plain.ipynb", "-p", "n", "1"], ["no cell tagged 'parameters'"]),
    (["tagged.ipynb", "-p", "epoch", "1"], ["no parameter 'epoch'", "did you mean 'epochs'?"]),
    (["tagged.ipynb", "-f", "missing.yaml"], ["missing.yaml"]),
    (["tagged.ipynb", "-y", "[1, 2"], ["is not YAML"]),
    (["tagged.ipynb", "-b", "a"], ["base64"]),
    (["tagged.ipynb", "-k", "nope"], ["'nope' is not installed", "python3"]),
    (["kernel.ipynb"], ["'julia-9' is not installed", "python3"]),
    (["tagged.ipynb", "missing/out.ipynb"], ["missing/out.ipynb", "No such file"]),
    (["tagged.ipynb", "--cwd", "missing"], ["missing"]),
    ([], ["pipeline.toml does not exist"]),
])
def test_run_refuses_bad_input_and_leaves_no_run(workspace, arguments, words):
    write_notebook(workspace / "plain.ipynb", "n = 1", tags=())
    write_notebook(workspace / "tagged.ipynb", "epochs = 1")
    write_notebook(workspace / "kernel.ipynb", "1", kernel={"name": "julia-9", "display_name": "Julia", "language": "julia"})
    before = sorted(path.name for path in workspace.iterdir())
    refused(call("run", *arguments), *words)
    assert [path for path in sorted(path.name for path in workspace.iterdir()) if path != ".mlops"] == before
    assert read("runs", "list") == []


@pytest.mark.parametrize("command", ["run", "runs list", "lineage x", "objectives check latest"])
def test_malformed_settings_name_file_and_line(workspace, command):
    (workspace / "settings.ini").write_text("[workspace]\nproject = test\nstor = here\n")
    refused(call(*command.split()), "settings.ini, line 3", "did you mean 'store'?")


@pytest.mark.parametrize("text, line", [("[[goal]\n", 1), (GOAL.replace('"Head of mail operations"', "7"), 4)])
def test_malformed_objectives_name_file_and_line(workspace, store, text, line):
    finished(store, "a1b2c3d4")
    (workspace / "objectives.toml").write_text(text)
    refused(call("objectives", "check", "latest"), f"objectives.toml, line {line}")
    assert call("runs", "list").exit_code == 0  # other commands warn, and go on


@pytest.mark.parametrize("text, words", [
    ('[[step]]\nname = "a"\nnotebook = "a.ipynb"\n', ["pipeline.toml, line 3", "does not exist"]),
    ('[[step]\n', ["pipeline.toml, line 1"]),
    ('[[step]]\nname = "a"\nnotbook = "a"\n', ["pipeline.toml, line 3", "did you mean 'notebook'?"]),
])
def test_malformed_pipeline_names_file_and_line(workspace, text, words):
    (workspace / "pipeline.toml").write_text(text)
    refused(call("run"), *words)


@pytest.mark.parametrize("store_path, words", [("/proc/mlops", ["/proc/mlops"]), ("taken", ["is not a folder"])])
def test_a_store_that_cannot_be_used_is_named(workspace, store_path, words):
    (workspace / "taken").write_text("a file")
    (workspace / "settings.ini").write_text(f"[workspace]\nstore = {store_path}\n")
    write_notebook(workspace / "plain.ipynb", "1")
    refused(call("run", "plain.ipynb"), *words)
    refused(call("runs", "list"), *words)


def test_a_workspace_without_permission_is_named(workspace):
    write_notebook(workspace / "plain.ipynb", "1")
    workspace.chmod(0o500)
    powerless = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []  # root may write everywhere
    try:
        command, settings = [*powerless, PROGRAM, "run", "plain.ipynb"], environ(MLOPS_NB_KERNELS_WARM="false")
        done = subprocess.run(command, env=settings, capture_output=True, text=True)
    finally:
        workspace.chmod(0o700)
    assert done.returncode == 2 and done.stderr.startswith("Error: ") and ".mlops" in done.stderr and "Traceback" not in done.stderr


def test_a_corrupted_blob_is_named(workspace, store):
    for id, text in (("a1b2c3d4", "one"), ("k3j9x0aa", "two")):
        (workspace / "train.py").write_text(text)
        blob = store.blobs.put_file(workspace / "train.py").digest
        finished(store, id, notebook="train.py", notebook_digest=blob, notebook_blob=blob)
    path = next(path for path in (workspace / ".mlops" / "blobs").rglob("*") if path.is_file() and path.read_text() == "one")
    path.chmod(0o644)
    path.write_text("bad")
    refused(call("runs", "compare", "a1b2", "k3j9"), path.name[:8])


def test_a_catalog_in_another_database_is_refused(workspace):
    refused(call("catalog", "copy", "mysql://x/y"), "MySQL is not supported")


def test_a_catalog_of_a_newer_version_is_refused(workspace, store):
    finished(store, "a1b2c3d4")
    with sqlite3.connect(workspace / ".mlops" / "catalog.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    refused(call("runs", "list"), "9999", "upgrade mlops_nb")
    findings = {each["name"]: each for each in json.loads(call("doctor", "--json").stdout)["findings"]}
    assert findings["catalog"]["status"] == "fail"


@pytest.mark.parametrize("arguments, words", [
    (["runs", "show", "trian"], ["no run 'trian'", "did you mean 'train'?"]),
    (["runs", "delete", "a1b2c3d4", "k4", "--yes"], ["no run 'k4'"]),
    (["runs", "logs", "train"], ["has no executed notebook"]),
    (["runs", "open", "train", "--no-browser"], ["has no executed notebook"]),
    (["runs", "list", "--status", "finish"], ["did you mean 'finished'"]),
    (["lineage", "digts"], ["did you mean 'digits'?"]),
    (["lineage", "digits:lastest"], ["did you mean 'digits:latest'"]),
    (["objectives", "check", "train"], ["objectives.toml does not exist"]),
    (["import", "wandb", "."], ["no W&B run files"]),
    (["import", "wandb", "missing"], ["no W&B run files"]),
])
def test_unknown_names_are_answered_with_the_nearest(workspace, store, arguments, words):
    finished(store, "a1b2c3d4")
    (workspace / "digits.csv").write_text("1")
    store.artifacts.log("a1b2c3d4", "digits", "dataset", list_files(workspace / "digits.csv"))
    refused(call(*arguments), *words)
    assert [run["id"] for run in read("runs", "list")] == ["a1b2c3d4"]


def test_reading_outside_of_a_workspace_says_how_to_make_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(call("runs", "list"), "mlops-nb init")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["runs compare latest", "run x.ipynb --force", "run --cwd .", "runs show"])
def test_wrong_usage_ends_with_2(workspace, command):
    result = call(*command.split())
    assert result.exit_code == 2 and "Error: " in result.stderr and result.stdout == ""


# reading


@pytest.mark.parametrize("command", READING)
def test_json_is_pure_and_pages_fit_80_columns(workspace, command):
    write_notebook(workspace / "nan.ipynb", "n = 1", "from mlops_nb import start_run\nstart_run().log({'loss': float('nan'), 'ชื่อ': 1})")
    assert call("run", "nan.ipynb").exit_code == 0
    json.loads(call(*command.split(), "--json").stdout, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    shown = call(*command.split()).stdout
    assert shown and max(map(cell_len, shown.splitlines())) <= 80


def test_list_shows_what_matters_and_filters(workspace, store):
    (workspace / "objectives.toml").write_text(GOAL)
    finished(store, "a1b2c3d4", "evaluate [red]", notebook="evaluate.ipynb", metrics={"recall": 0.97, "accuracy": 0.99})
    store.runs.create(id="b1b2c3d4", project="test", name="live")
    shown = call("runs", "list").stdout
    assert "recall 0.97" in shown and "evaluate [red]" in shown and "running" in shown
    assert [run["id"] for run in read("runs", "list", "--notebook", "evaluate")] == ["a1b2c3d4"]
    assert [run["id"] for run in read("runs", "list", "--status", "running")] == ["b1b2c3d4"]
    assert [run["id"] for run in read("runs", "list", "--limit", "1")] == ["b1b2c3d4"]
    keys = {"id", "notebook", "status", "parameters", "metrics", "started_at", "duration_s", "wandb_path"}
    assert keys <= set(read("runs", "list")[0])


def test_an_empty_workspace_says_what_to_do(workspace):
    assert "mlops-nb run" in call("runs", "list").stdout
    assert read("runs", "list") == []


def test_tag_note_and_delete(workspace, store):
    finished(store, "a1b2c3d4")
    finished(store, "k3j9x0aa")
    assert call("runs", "tag", "a1b2", "best", "paper").exit_code == 0
    assert call("runs", "tag", "a1b2", "paper", "--remove").exit_code == 0
    assert call("runs", "note", "a1b2", "the one in the report").exit_code == 0
    assert (store.runs.get("a1b2c3d4").tags, store.runs.get("a1b2c3d4").note) == (("best",), "the one in the report")
    assert call("runs", "delete", "a1b2", "k3j9", input="n\n").exit_code == 1
    assert len(store.runs.list()) == 2
    assert call("runs", "delete", "a1b2", "k3j9", input="y\n").exit_code == 0
    assert store.runs.list() == [] and not (workspace / ".mlops" / "runs" / "a1b2c3d4").exists()


def test_open_writes_a_page_and_prints_where(workspace):
    write_notebook(workspace / "say.ipynb", "n = 1", "print('said', n)")
    call("run", "say.ipynb")
    path = Path(call("runs", "open", "latest", "--no-browser").stdout.strip())
    assert path.is_absolute() and "said 1" in path.read_text(encoding="utf-8")


def test_objectives_end_with_1_where_they_are_missed_or_not_measured(workspace, store):
    (workspace / "objectives.toml").write_text(GOAL)
    finished(store, "a1b2c3d4", "train", metrics={"recall": 0.99})
    result = call("objectives", "check", "train", "--json")
    assert (result.exit_code, json.loads(result.stdout)["checks"][0]["status"]) == (1, "not measured")
    finished(store, "b1b2c3d4", "evaluate", metrics={"recall": 0.95})
    assert read("objectives", "check", "evaluate")["passed"]
    finished(store, "c1b2c3d4", "evaluate", metrics={"recall": 0.85})
    assert call("objectives", "check", "c1b2").exit_code == 1


def test_lineage_in_each_direction(workspace, store):
    (workspace / "digits.csv").write_text("1")
    finished(store, "a1b2c3d4", "prepare")
    store.artifacts.log("a1b2c3d4", "digits", "dataset", list_files(workspace / "digits.csv"))
    finished(store, "b1b2c3d4", "train")
    store.artifacts.use("b1b2c3d4", "digits")

    def runs(*arguments):
        return sorted(node["id"] for node in read("lineage", *arguments)["nodes"] if node["kind"] == "run")

    assert runs("digits:latest") == runs("prepare") == ["run/a1b2c3d4", "run/b1b2c3d4"]
    assert (runs("digits", "--upstream"), runs("digits", "--downstream")) == (["run/a1b2c3d4"], ["run/b1b2c3d4"])
    assert set(read("lineage", "digits")) == {"nodes", "edges", "root", "truncated"}
    assert "made from" in call("lineage", "digits").stdout and "led to" not in call("lineage", "digits", "--upstream").stdout


def test_doctor_finds_and_fixes(workspace, store, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = store.runs.create(id="a1b2c3d4", project="test", name="train", wandb_state="open")
    (store.runs.folder(run.id) / "journal.jsonl").write_text('{"_step": 0, "_timestamp": 1.0, "_runtime": 0.0, "loss": 0.5}\n')
    store.runs.finish(run.id, "killed", wandb_state="incomplete")
    findings = {each["name"]: each for each in read("doctor")["findings"]}
    assert (findings["W&B files"]["status"], findings["W&B files"]["advice"]) == ("warn", "mlops-nb doctor --fix")
    result = call("doctor", "--fix", "--json")
    assert [each["status"] for each in json.loads(result.stdout)["fixed"]] == ["ok"]
    assert {each["name"]: each["status"] for each in read("doctor")["findings"]}["W&B files"] == "ok"
    assert [run["id"] for run in read("import", "wandb", ".mlops/wandb")] == []


def test_doctor_works_where_nothing_else_does(workspace):
    (workspace / "settings.ini").write_text("[workspace]\nproject\n")
    result = call("doctor")
    assert result.exit_code == 1 and "settings.ini, line 2" in " ".join(result.stdout.split())


# processes


def environ(**settings):
    return {name: value for name, value in os.environ.items() if not name.startswith(("MLOPS_NB_", "WANDB_"))} | settings


@pytest.mark.parametrize("signal_number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_cancels_the_run_and_logs_show_it_live(workspace, signal_number, status):
    waiting = "import time, pathlib\npathlib.Path('here').touch()\ntime.sleep(60)"
    write_notebook(workspace / "wait.ipynb", "print('begun')", waiting, "print('never')")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([PROGRAM, "run", "wait.ipynb"], cwd=workspace, env=environ(), **pipes)
    try:
        wait_until((workspace / "here").exists, 60)
        def is_shown():  # where saving is slow, the file follows the kernel after a while
            cells = read("runs", "logs", "latest")
            return (cells[0]["text"], cells[1]["status"]) == ("begun", "running")
        wait_until(is_shown, 60)
        process.send_signal(signal_number)
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == status, errors
    assert "cancelled" in output and "Traceback" not in errors
    assert read("runs", "list")[0]["status"] == "cancelled"


def test_a_refusal_of_a_real_process_has_no_traceback(workspace):
    done = subprocess.run([PROGRAM, "run", "settings.ini"], cwd=workspace, env=environ(), capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "") and re.fullmatch(r"Error: [^\n]+\n", done.stderr)


def http_status(url):
    "Of an answer; None where nobody listens yet"
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except urllib.error.URLError:
        return None


def test_lab_listens_on_this_computer_only_and_asks_for_a_token(workspace):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [PROGRAM, "lab", "--no-browser", "--allow-root", f"--ServerApp.port={port}"]
    process = subprocess.Popen(command, cwd=workspace, env=environ(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        for line in process.stderr:
            if found := re.search(r"http://(?:127.0.0.1|localhost):(\d+)/lab/tree/Home.ipynb\?token=(\w+)", line):
                break  # at the port, or at the next one where another process has taken it meanwhile
        port, token = found.groups()
        assert len(token) >= 32
        url = f"http://127.0.0.1:{port}/api/contents"
        assert wait_until(lambda: http_status(url), 60) == 403
        with urllib.request.urlopen(f"{url}?token={token}", timeout=30) as answer:
            assert "settings.ini" in {each["name"] for each in json.load(answer)["content"]}
    finally:
        process.terminate()
        process.communicate(timeout=30)


def test_the_check_after_a_pipeline_judges_what_it_showed(workspace):
    log = "from mlops_nb import start_run\nrun = start_run()\nrun.log({'recall': depth / 5.5})"
    write_notebook(workspace / "train.ipynb", "depth = 5", log)
    (workspace / "pipeline.toml").write_text('[[step]]\nname = "evaluate"\nnotebook = "train.ipynb"\n')
    (workspace / "objectives.toml").write_text(GOAL)
    assert call("run").exit_code == 0 and call("objectives", "check").exit_code == 0
    bad = json.loads(call("run", "-p", "depth", "1", "--json").stdout)["group"]
    assert call("objectives", "check", "latest").exit_code == 1
    assert "unchanged" in call("run").output and call("objectives", "check").exit_code == 0  # the good run is borrowed
    assert call("objectives", "check", bad).exit_code == 1
    assert call("run", "-p", "depth", "1").exit_code == 0 and call("objectives", "check").exit_code == 1


def test_a_notebook_is_recorded_in_its_own_workspace(workspace, tmp_path, monkeypatch):
    write_notebook(workspace / "plain.ipynb", "1")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert call("run", workspace / "plain.ipynb").exit_code == 0
    assert not (elsewhere / ".mlops").exists() and (workspace / ".mlops").exists()
    write_notebook(elsewhere / "own.ipynb", "1")
    assert "No workspace here: recording in ./.mlops" in call("run", "own.ipynb").stderr


def test_a_terminal_without_the_letters_is_no_reason_to_fail(workspace):
    write_notebook(workspace / "plain.ipynb", "print('ทดสอบ …')")
    settings = environ(PYTHONIOENCODING="ascii", MLOPS_NB_KERNELS_WARM="false")
    for arguments in (["run", "plain.ipynb"], ["runs", "list"], ["runs", "logs", "latest"]):
        done = subprocess.run([PROGRAM, *arguments], capture_output=True, timeout=60, env=settings)
        assert done.returncode == 0 and b"Traceback" not in done.stderr
