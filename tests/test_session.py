"""What `start_run` promises when things go wrong: processes killed, W&B's service gone, two at once, a full disk."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from mlops_nb.settings import ArtifactError, NotFoundError, TrackingError, open_workspace
from mlops_nb.store.door import open_store
from mlops_nb.store.journal import read_journal
from mlops_nb.store.session import start_run
from mlops_nb.store.refill import refill
from mlops_nb.store.wandb_history import find_wandb_files, history_of, read_wandb_file


@pytest.fixture
def store(tmp_path):
    return open_store(open_workspace(tmp_path))


def run_script(folder: Path, source: str, **environ) -> subprocess.CompletedProcess:
    "Run Python code as a script in `folder`."
    script = folder / "script.py"
    script.write_text(textwrap.dedent(source))
    command, environ = [sys.executable, str(script)], {**os.environ, **environ}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, env=environ)


def history(record) -> list[dict]:
    "The rows in the run's W&B file; `_runtime` is W&B's own."
    rows = history_of(read_wandb_file(record.wandb_path))
    return [{key: value for key, value in row.items() if key != "_runtime"} for row in rows]


def journal(store, record) -> list[dict]:
    "The rows in the run's journal."
    return [row for row in read_journal(store.runs.folder(record.id) / "journal.jsonl") if "_summary" not in row]


def test_killed_process_loses_no_row(store, tmp_path):
    done = run_script(tmp_path, """
        import os, signal
        from mlops_nb import start_run
        run = start_run("train")
        for step in range(300):
            run.log({"loss": 1 / (step + 1)}, step=step)
        os.kill(os.getpid(), signal.SIGKILL)
        """)
    assert done.returncode == -signal.SIGKILL
    [record] = store.runs.list()
    assert (record.status, record.journal_rows, record.wandb_state) == ("killed", 300, "incomplete")
    assert record.metrics == {"loss": 1 / 300}
    assert len(history(record)) < 300  # what W&B's file lost
    assert refill(store, record.id) == "complete"
    [record] = store.runs.list()
    assert history(record) == journal(store, record) and len(journal(store, record)) == 300


def test_killed_wandb_core_does_not_stop_training(store, tmp_path):
    done = run_script(tmp_path, """
        import psutil
        from mlops_nb import start_run
        with start_run("train") as run:
            for step in range(200):
                run.log({"loss": 1 / (step + 1)}, step=step)
                if step == 100:
                    for child in psutil.Process().children(recursive=True):
                        if "wandb-core" in child.name():
                            child.kill(); child.wait()
        print("trained to the end")
        """)
    assert done.returncode == 0, done.stderr
    assert "trained to the end" in done.stdout
    assert "W&B could not take a row" in done.stderr and "Traceback" not in done.stderr
    [record] = store.runs.list()
    assert (record.status, record.journal_rows, record.wandb_state) == ("finished", 200, "complete")
    assert history(record) == journal(store, record)


def test_history_equals_the_journal(store):
    with start_run("train", workspace=store.workspace) as run:
        for step in (0, 1, 5, 6):
            run.log({"epoch": step, "loss": 1 / (step + 3), "name": f"step {step}"}, step=step)
        run.log({"loss": 0.1})
    record = store.runs.get(run.id)
    assert history(record) == journal(store, record) and len(history(record)) == 5
    assert [row["_step"] for row in history(record)] == [0, 1, 5, 6, 7]
    assert any(each["type"] == "stats" for each in read_wandb_file(record.wandb_path))


@pytest.mark.parametrize("steps", [[None] * 4, [0, 0, None, None], [None, 5, None, None], [None, None, 7, 9], [None, 1, 1, None]])
def test_wandb_gets_the_steps_of_the_journal(store, steps):
    def metrics(row): return {key: value for key, value in row.items() if key.startswith("row")}

    with start_run("train", workspace=store.workspace) as run:
        for number, step in enumerate(steps): run.log({f"row {number}": number}, step=step)
    record, expected = store.runs.get(run.id), {}
    for row in journal(store, record): expected.setdefault(row["_step"], {}).update(metrics(row))
    assert {row["_step"]: metrics(row) for row in history(record)} == expected and len(expected) == len(history(record))


def test_exception_in_a_script_is_recorded(store, tmp_path):
    done = run_script(tmp_path, """
        from mlops_nb import start_run
        run = start_run(config={"epochs": 3})
        run.log({"loss": 1.0})
        raise ValueError("labels out of range")
        """)
    assert done.returncode == 1 and "labels out of range" in done.stderr
    [record] = store.runs.list()
    assert (record.status, record.error["name"], record.error["message"]) == ("failed", "ValueError", "labels out of range")
    assert (record.name, record.notebook, record.parameters) == ("script", "script.py", {"epochs": 3})
    assert any(each["type"] == "exit" and each["exit"]["exit_code"] == 1 for each in read_wandb_file(record.wandb_path))


def test_unfinished_script_is_finished_at_its_end(store, tmp_path):
    assert run_script(tmp_path, "from mlops_nb import start_run\nstart_run().log({'loss': 1.0})").returncode == 0
    [record] = store.runs.list()
    assert (record.status, record.wandb_state, record.duration_s > 0) == ("finished", "complete", True)


def test_sys_exit_with_a_status_fails_a_with_block(store, tmp_path):
    run_script(tmp_path, "import sys\nfrom mlops_nb import start_run\nwith start_run('bad'): sys.exit(3)")
    run_script(tmp_path, "import sys\nfrom mlops_nb import start_run\nwith start_run('good'): sys.exit(0)")
    assert {each.name: each.status for each in store.runs.list()} == {"bad": "failed", "good": "finished"}


def test_live_readers_see_every_row_at_once(store):
    with start_run("live", workspace=store.workspace) as run:
        for step in range(5):
            run.log({"loss": 1 / (step + 1)})
            assert len(read_journal(run.folder / "journal.jsonl")) == step + 1
        [record] = store.runs.list()
        assert (record.status, record.id) == ("running", run.id)


def test_two_processes_log_one_artifact_name(store, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent("""
        import pathlib, sys
        from mlops_nb import start_run
        with start_run(sys.argv[1]) as run:
            for number in range(5):
                path = pathlib.Path(f"{sys.argv[1]}-{number}.txt")
                path.write_text(f"{sys.argv[1]} {number}")
                run.log_artifact(path, name="shared")
        """))
    both = [subprocess.Popen([sys.executable, str(script), name], cwd=tmp_path) for name in ("first", "second")]
    assert [each.wait(timeout=120) for each in both] == [0, 0]
    versions = store.artifacts.versions("shared")
    assert sorted(int(each.version[1:]) for each in versions) == list(range(10))
    assert len({each.digest for each in versions}) == 10
    assert sum("latest" in each.aliases for each in versions) == 1


def test_a_logged_file_costs_its_size_once(store, tmp_path, monkeypatch):
    staging = tmp_path / "staging"
    monkeypatch.setenv("WANDB_DATA_DIR", str(staging))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    size, source = 8_000_000, tmp_path / "weights.bin"
    source.write_bytes(os.urandom(size))

    def used() -> int:
        found = [each.lstat() for each in tmp_path.rglob("*") if each.is_file() and each != source]
        files = {(status.st_dev, status.st_ino): status for status in found}
        return sum(status.st_blocks * 512 for status in files.values())

    with start_run("train", workspace=store.workspace) as run:
        before = used()
        artifact = run.log_artifact(source, name="weights", type="model")
        run.log_artifact(source, name="weights", type="model")
        artifact.download()
    assert used() - before <= 1.1 * size


def test_changing_the_logged_file_changes_no_version(store, tmp_path):
    source = tmp_path / "model.txt"
    source.write_text("first")
    with start_run("train", workspace=store.workspace) as run:
        first = run.log_artifact(source, name="model", type="model")
        with source.open("r+") as file:  # in place, as torch.save does
            file.write("other")
        second = run.log_artifact(source, name="model", type="model")
        assert (first.path().read_text(), second.path().read_text()) == ("first", "other")


def test_a_wandb_artifact_can_be_logged(store, tmp_path):
    import wandb

    (tmp_path / "data.csv").write_text("a,b\n")
    artifact = wandb.Artifact("table", "dataset", metadata={"rows": 0})
    artifact.add_file(str(tmp_path / "data.csv"), name="raw/data.csv")
    with start_run("prepare", workspace=store.workspace) as run:
        logged = run.log_artifact(artifact)
    assert ([each.path for each in logged.files], logged.type, logged.metadata) == (["raw/data.csv"], "dataset", {"rows": 0})
    remote = wandb.Artifact("elsewhere", "dataset")
    remote.add_reference("http://127.0.0.1/data.csv", checksum=False)
    with start_run("prepare", workspace=store.workspace) as run, pytest.raises(ArtifactError, match="cannot be read"):
        run.log_artifact(remote)


def test_unknown_artifact_names_the_nearest(store, tmp_path):
    (tmp_path / "x.txt").write_text("x")
    with start_run("one", workspace=store.workspace) as run:
        run.log_artifact(tmp_path / "x.txt", name="digits")
        with pytest.raises(NotFoundError, match="did you mean 'digits'"):
            run.use_artifact("digit")


def test_disabled_wandb_writes_no_wandb_file(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    store = open_store(open_workspace(tmp_path))
    with start_run("train", workspace=store.workspace) as run:
        run.log({"loss": 0.5})
    [record] = store.runs.list()
    assert (record.status, record.wandb_state, record.wandb_path, record.metrics) == ("finished", "disabled", None, {"loss": 0.5})
    assert find_wandb_files(tmp_path) == []


def test_odd_values_are_kept(store):
    import numpy
    import torch

    row = {"nan": float("nan"), "inf": float("inf"), "numpy": numpy.float32(0.5), "torch": torch.tensor(0.25), "text": "ok", "flag": True}
    with start_run("odd", workspace=store.workspace) as run:
        run.log(row)
        with pytest.raises(TypeError, match="takes a dictionary"):
            run.log(0.5)
    metrics = store.runs.get(run.id).metrics
    assert metrics["nan"] != metrics["nan"] and metrics["inf"] == float("inf")
    assert {key: metrics[key] for key in ("numpy", "torch", "text", "flag")} == {"numpy": 0.5, "torch": 0.25, "text": "ok", "flag": True}
    assert json.dumps(store.runs.get(run.id).to_dict())


def test_hardware_is_sampled_and_summed_up(store):
    import time

    with start_run("busy", workspace=store.workspace) as run:
        end = time.monotonic() + 2.5
        while time.monotonic() < end:
            sum(range(1000))
    hardware = store.runs.get(run.id).hardware
    assert hardware["samples"] >= 3 and hardware["cpu_percent_peak"] > 10 and hardware["memory_bytes_peak"] > 1_000_000
    summary = [each["summary"] for each in read_wandb_file(store.runs.get(run.id).wandb_path) if each["type"] == "summary"]
    assert any("system/memory_bytes_peak" in json.dumps(each) for each in summary)


def test_long_workspace_path_with_spaces_and_thai_letters(tmp_path):
    folder = tmp_path / "โครงการ ทดสอบ"
    folder = folder / ("ยาว " * 40)[: 150 - len(str(folder)) - 1]
    folder.mkdir(parents=True)
    assert len(str(folder)) >= 140
    (folder / "x.txt").write_text("x")
    with start_run("ทดสอบ", workspace=folder) as run:
        run.log({"loss": 1.0})
        assert run.log_artifact(folder / "x.txt", name="x").path().read_text() == "x"
    record = open_store(open_workspace(folder)).runs.get("ทดสอบ")
    assert (record.status, record.wandb_state, [row["loss"] for row in history(record)]) == ("finished", "complete", [1.0])


def test_a_restarted_kernel_leaves_a_settled_record(store, tmp_path):
    from jupyter_client.manager import start_new_kernel

    notebook = tmp_path / "explore.ipynb"
    notebook.write_text('{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}')
    environ = {**os.environ, "JPY_SESSION_NAME": str(notebook)}  # as Jupyter Server sets it
    manager, client = start_new_kernel(cwd=str(tmp_path), env=environ)
    try:
        client.execute_interactive("from mlops_nb import start_run\nrun = start_run()\nrun.log({'loss': 0.5})", timeout=60)
        [record] = store.runs.list()
        assert (record.status, record.name, record.notebook) == ("running", "explore", "explore.ipynb")
        manager.restart_kernel()
        client.wait_for_ready(timeout=60)
        [record] = store.runs.list()
        assert record.status == "finished" and record.wandb_state == "complete" and record.metrics == {"loss": 0.5}
        client.execute_interactive("from mlops_nb import start_run\nrun = start_run()\nrun.log({'loss': 0.1})\n1 / 0", timeout=60)
        manager.restart_kernel(now=True)  # SIGKILL
        assert sorted(each.status for each in store.runs.list()) == ["finished", "killed"]
        client.wait_for_ready(timeout=60)
        client.execute_interactive("from mlops_nb import start_run\nfirst = start_run('a')\nsecond = start_run('b')", timeout=60)
        assert (store.runs.get("a").status, store.runs.get("b").status) == ("finished", "running")
    finally:
        client.stop_channels()
        manager.shutdown_kernel()
    assert store.runs.get("b").status == "finished"


def test_how_a_script_ends_is_how_its_run_ends(store, tmp_path):
    start = "import os, signal, sys\nfrom mlops_nb import start_run\nrun = start_run('{}')\nrun.log({{'loss': 1.0}})\n"
    for name, end in (("good", "sys.exit(0)"), ("bad", "sys.exit(3)"), ("stopped", "raise KeyboardInterrupt"), ("said", "run.finish(1)")):
        run_script(tmp_path, start.format(name) + end, WANDB_MODE="disabled")
    statuses = {each.name: each.status for each in store.runs.list()}
    assert statuses == {"good": "finished", "bad": "failed", "stopped": "cancelled", "said": "failed"}


def test_online_without_a_key_goes_on_offline_and_never_asks(store, tmp_path):
    import pty

    script = tmp_path / "script.py"
    script.write_text("from mlops_nb import start_run\nwith start_run('train') as run: run.log({'loss': 0.5})\n")
    terminal, stdin = pty.openpty()  # W&B asks for a key where a person could answer
    try:
        environ = {**os.environ, "WANDB_MODE": "online", "HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc")}
        command = [sys.executable, str(script)]
        done = subprocess.run(command, cwd=tmp_path, stdin=stdin, capture_output=True, text=True, timeout=90, env=environ)
    finally:
        os.close(terminal)
        os.close(stdin)
    assert done.returncode == 0 and "kept offline" in done.stderr
    [record] = store.runs.list()
    assert (record.status, record.wandb_state, [row["loss"] for row in history(record)]) == ("finished", "complete", [0.5])


@pytest.mark.parametrize("way", ["", ', reinit="create_new"'])
def test_the_users_own_wandb_run_is_left_alone(store, tmp_path, way):
    done = run_script(tmp_path, f"""
        import wandb
        own = wandb.init(project="mine", id="mineabc1", mode="offline"{way})
        own.log({{"a": 1}})
        from mlops_nb import start_run
        with start_run("train") as run:
            run.log({{"loss": 0.5}})
        own.log({{"a": 2}})
        own.finish()
        """)
    assert done.returncode == 0, done.stderr
    [record] = store.runs.list()
    assert (record.wandb_state, [row["loss"] for row in history(record)]) == ("complete", [0.5])
    [own] = [each for each in find_wandb_files(tmp_path / "wandb") if "mineabc1" in each.name]
    assert [row["a"] for row in history_of(read_wandb_file(own))] == [1, 2]


def test_a_forked_child_has_a_run_of_its_own(store, tmp_path):
    done = run_script(tmp_path, """
        import multiprocessing
        from mlops_nb import start_run
        run = start_run("parent")
        run.log({"loss": 1.0})
        def work():
            with start_run("child") as child:
                child.log({"loss": 0.25})
        process = multiprocessing.get_context("fork").Process(target=work)
        process.start()
        process.join()
        run.log({"loss": 0.5})
        run.finish()
        """)
    assert done.returncode == 0, done.stderr
    found = {each.name: (each.status, each.wandb_state, [row["loss"] for row in history(each)]) for each in store.runs.list()}
    assert found == {"parent": ("finished", "complete", [1.0, 0.5]), "child": ("finished", "complete", [0.25])}


def test_a_finished_run_takes_no_more(store):
    with start_run("train", workspace=store.workspace) as run:
        run.log({"loss": 0.5})
    calls = (run.log, {"loss": 0.1}), (run.summary.update, {"a": 1}), (run.config.update, {"a": 1}), (run.use_artifact, "x")
    for late in (lambda call=call, argument=argument: call(argument) for call, argument in calls):
        with pytest.raises(TrackingError, match="begin another with start_run"):
            late()
    run.finish()
    with start_run("other", workspace=store.workspace) as run, pytest.raises(TrackingError, match="ends as finished"):
        run.finish(status="done")


def test_an_interrupted_finish_can_be_repeated(store, monkeypatch):
    run = start_run("train", workspace=store.workspace)
    run.log({"loss": 0.5})
    finish = run._wandb.finish

    def interrupted(exit_code):
        monkeypatch.setattr(run._wandb, "finish", finish)
        raise KeyboardInterrupt

    monkeypatch.setattr(run._wandb, "finish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.finish()
    assert store.runs.get(run.id).status == "finished"
    run.finish()
    assert store.runs.get(run.id).wandb_state == "complete"


def test_values_that_wandb_refuses_do_not_end_its_run(store, tmp_path):
    (tmp_path / "a.txt").write_text("a")
    with start_run("odd", workspace=store.workspace, tags="base") as run:
        run.log({1: 0.5, "object": object()})
        run.log({"val": {"loss": 0.3}})
        many = {f"key{number}": number for number in range(150)}
        assert run.log_artifact(tmp_path / "a.txt", name="many", aliases="best", metadata=many).aliases == ("best", "latest")
        run.log({"loss": 0.1})
    record = store.runs.get(run.id)
    assert (record.wandb_state, record.tags, record.metrics["loss"], record.metrics["val.loss"]) == ("complete", ("base",), 0.1, 0.3)
    assert history(record)[-1]["loss"] == 0.1


def test_config_and_summary_take_what_wandb_takes(store):
    from argparse import Namespace

    with start_run("train", workspace=store.workspace, config={"rate": 0.1}) as run:
        run.config.update(Namespace(epochs=3))
        run.config.setdefault("seed", 7)
        run.summary |= {"recall": 0.9}
        assert (run.config.rate, run.config["epochs"], dict(run.summary)) == (0.1, 3, {"recall": 0.9})
    record = store.runs.get(run.id)
    assert (record.parameters, record.metrics) == ({"rate": 0.1, "epochs": 3, "seed": 7}, {"recall": 0.9})
