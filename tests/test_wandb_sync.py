"""`mlops-nb sync` and W&B online, with the real wandb and a loopback server: it holds what the catalog holds, and nothing twice."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import sqlalchemy as sa
from wandb_server import IMPATIENT, WandbServer

from mlops_nb.settings import TrackingError, open_workspace
from mlops_nb.store import sync as store_sync, tables
from mlops_nb.store.door import open_store
from mlops_nb.store.record import LIVE
from mlops_nb.store.refill import wandb_rows
from mlops_nb.store.replay import news_of_aliases, remember_link, replay_aliases
from mlops_nb.store.upload_order import Shelf
from mlops_nb.store.upload_status import upload_status
from mlops_nb.store.wandb_history import find_wandb_files
from mlops_nb.store.uploads import COMPLETE, UPLOADED, Place, UploadLog, edges_of_runs, last_moves
from mlops_nb.store.wandb_client import server_of

PROGRAM = "from mlops_nb.cli import main; main(prog_name='mlops-nb')"


@pytest.fixture
def server():
    with WandbServer() as server:
        yield server
        server.mend()
        assert [each for each in server.unknown if "otel" not in each] == []


def inherited() -> dict[str, str]:
    "The environment without W&B's variables, but for the folder of its settings."
    return {key: value for key, value in os.environ.items() if not key.startswith("WANDB_") or key == "WANDB_CONFIG_DIR"}


def a_home(folder: Path) -> dict[str, str]:
    "A home of one's own, in which W&B has its usual places."
    return {"HOME": str(folder), "NETRC": str(folder / ".netrc"), "WANDB_CONFIG_DIR": str(folder / ".config" / "wandb")}


def run_script(folder: Path, source: str, check: bool = True, **environ) -> subprocess.CompletedProcess:
    "Run Python code as a script of a workspace, offline unless told otherwise."
    script = folder / "script.py"
    script.write_text(textwrap.dedent(source))
    environ = {**inherited(), "WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false", **environ}
    done = subprocess.run([sys.executable, str(script)], cwd=folder, capture_output=True, text=True, timeout=120, env=environ)
    script.unlink()
    assert done.returncode == 0 or not check, done.stderr
    return done


def sync_environ(server: WandbServer, **more) -> dict[str, str]:
    return {**inherited(), **server.environ, **IMPATIENT, "COLUMNS": "80", **more}


def begin_sync(folder: Path, server: WandbServer, *arguments: str, **environ) -> subprocess.Popen:
    command = [sys.executable, "-c", PROGRAM, "sync", *arguments]
    environ = sync_environ(server, **environ)
    return subprocess.Popen(command, cwd=folder, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def sync(folder: Path, server: WandbServer, *arguments: str, status: int | None = 0, **environ) -> subprocess.CompletedProcess:
    "Call `mlops-nb sync`."
    process = begin_sync(folder, server, *arguments, **environ)
    printed, said = process.communicate(timeout=180)
    assert status is None or process.returncode == status, (process.returncode, printed, said)
    assert "Traceback" not in said, said
    return subprocess.CompletedProcess(process.args, process.returncode, printed, said)


PIPELINE = """
    import os, sys
    from pathlib import Path
    from mlops_nb import open_store, start_run
    def write(name, text):
        Path(name).write_text(text)
        return name
    def once(number):
        os.environ["MLOPS_NB_GROUP"] = f"group{number}"
        with start_run("prepare", config={"seed": number}, tags=["night"]) as run:
            print("preparing", number)
            run.log({"rows": 100 * number})
            run.log_artifact(write("digits.csv", f"digits {number}"), name="digits", type="dataset", metadata={"rows": number})
        with start_run("train", config={"rate": 0.1, "layers": [8, 16]}) as run:
            run.use_artifact("digits:latest")
            for step in range(20): run.log({"loss": 1 / (step + number), "val": {"loss": step}, "nan": float("nan")}, step=2 * step)
            run.summary["best"] = 0.25
            model = run.log_artifact(write("model.pt2", f"model {number}"), name="model", type="model", aliases=["candidate"])
        with start_run("evaluate") as run:
            run.use_artifact("model:latest"); run.use_artifact("digits:latest")
            run.log({"recall": 0.9 + number / 100})
            run.log_artifact(write("evaluation.json", "the same every time"), name="evaluation", type="evaluation")
            run.link_artifact(model, "models/digits", ["production"])
    for number in (1, 2): once(number)
    store = open_store()
    store.artifacts.alias("model:v1", "best"); store.artifacts.alias("model:v0", "best"); store.artifacts.alias("digits:v0", "checked")
    """

ODDITIES = """
    import os
    from pathlib import Path
    from mlops_nb import open_store, start_run
    import wandb
    store = open_store()
    def write(name, text):
        Path(name).write_text(text)
        return name
    try:
        with start_run("failing") as run:
            run.log({"loss": 1.0})
            raise ValueError("labels out of range")
    except ValueError: pass
    with start_run("media") as run:
        run.log({"table": wandb.Table(columns=["a"], data=[[1]]), "loss": 0.5})
    with start_run("again") as run:
        run.log({"loss": 0.5}, step=3); run.log({"recall": 0.5}, step=3); run.log({"loss": 0.1}, step=1); run.log({"loss": 0.2}, step=4)
        run.log_artifact(write("digits.csv", "digits 1"), name="digits", type="dataset")
    with start_run("old") as run: run.log_artifact(write("old.txt", "old"), name="old", type="dataset")
    with start_run("user of old") as user: user.use_artifact("old")
    store.runs.delete(run.id)
    first, second = (store.runs.create(project="digits", name=name) for name in ("first of two", "second of two"))
    for number, run in enumerate((first, second, first)):
        store.artifacts.log(run.id, "shared", "dataset", {"shared.txt": Path(write("shared.txt", str(number)))})
    for run in (first, second): store.runs.finish(run.id, "finished", wandb_state="disabled")
    Path("data").mkdir()
    with start_run("refers") as run:
        run.log_reference(write("data/here.csv", "here"), name="inside")
        run.log_reference("https://data.example.org/outside.csv", name="outside", checksum="5f" * 32)
        run.use_artifact("inside")
    store.runs.create(project="digits", name="live", host="another machine", lease_expires_at=4e9)
    """

KILLED = """
    import os, signal
    from mlops_nb import start_run
    run = start_run("killed")
    for step in range(300): run.log({"loss": 1 / (step + 1)}, step=step)
    os.kill(os.getpid(), signal.SIGKILL)
    """

DISABLED = """
    from mlops_nb import start_run
    with start_run("disabled", config={"a": 1}) as run:
        for step in range(3): run.log({"loss": step})
    """

FOREIGN = """
    import sys, wandb
    from pathlib import Path
    Path("foreign.csv").write_text("a,b")
    run = wandb.init(project="older", name="foreign", config={"rate": 0.1})
    for step in range(5): run.log({"loss": step})
    artifact = wandb.Artifact("foreign", "dataset")
    artifact.add_file("foreign.csv")
    run.log_artifact(artifact, aliases=["theirs"])
    run.finish()
    """


THEIRS = """
    import wandb
    from pathlib import Path
    from wandb.sdk.artifacts.artifact_manifest_entry import ArtifactManifestEntry
    run = wandb.init(project="digits", name="foreign")
    mixed, bucket = wandb.Artifact("mixed", "dataset"), wandb.Artifact("bucket", "dataset")
    mixed.add_file("foreign.csv", name="copied.csv")
    mixed.add_reference(Path("foreign.csv").resolve().as_uri(), name="stays.csv")
    bucket.manifest.add_entry(ArtifactManifestEntry(path="far.csv", digest="etag", ref="s3://bucket/far.csv", size=3))
    for each in (mixed, bucket): run.log_artifact(each).wait()
    run.finish()
    """


def make_workspace(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "settings.ini").write_text("[workspace]\nproject = digits\n")
    return folder


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory):
    "A workspace in which a pipeline ran twice, offline."
    folder = make_workspace(tmp_path_factory.mktemp("with spaces ไทย") / "pipeline")
    run_script(folder, PIPELINE)
    return folder


@pytest.fixture(scope="session")
def everything(pipeline, tmp_path_factory):
    "The same, and all that makes an upload hard."
    folder, elsewhere = copy_workspace(pipeline, tmp_path_factory.mktemp("everything") / "workspace"), tmp_path_factory.mktemp("elsewhere")
    with ThreadPoolExecutor() as meanwhile:
        foreign = meanwhile.submit(run_script, elsewhere, FOREIGN)
        run_script(folder, ODDITIES)
        run_script(folder, KILLED, check=False)
        run_script(folder, DISABLED, WANDB_MODE="disabled")
        foreign.result()
    command = [sys.executable, "-c", PROGRAM, "import", "wandb", str(elsewhere / "wandb")]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder


def copy_workspace(source: Path, target: Path) -> Path:
    shutil.copytree(source, target, symlinks=True)
    return target


def plain(row: dict) -> str:
    "A row without what W&B adds, and without its media."
    kept = {key: value for key, value in row.items() if key != "_runtime" and not (isinstance(value, dict) and "_type" in value)}
    return json.dumps(json.loads(json.dumps(kept), parse_int=float), sort_keys=True)  # W&B writes 1.0 as 1


def said(server: WandbServer) -> dict:
    "All that a server holds, but for ids and times of its own."
    names = {version.id: f"{version.name}:v{version.version}" for version in server.versions}
    runs = {run.path: {
        "name": run.name, "group": run.group, "tags": sorted(run.tags), "state": run.state, "config": run.config,
        "summary": {key: value for key, value in run.summary.items() if not key.startswith("_")},
        "rows": [plain(row) for row in run.rows], "output": [line.split(" ", 1)[-1] for line in run.output], "files": sorted(run.files),
        "used": sorted(names[each] for each in run.uses), "logged": sorted(names[each] for each in run.logged if each in names),
    } for run in server.runs.values()}  # fmt: skip
    found = {f"{each.project}/{names[each.id]}": each for each in server.versions}
    versions = {name: (each.digest, sorted(each.aliases), each.run) for name, each in found.items()}
    links = sorted((names[version], target, sorted(aliases)) for version, target, aliases in server.links)
    return json.loads(json.dumps({"runs": runs, "versions": versions, "links": links}))


def check_held(held: dict, expected: dict) -> None:
    assert held["runs"].keys() == expected["runs"].keys()
    for path, run in expected["runs"].items():
        for key, value in run.items():
            assert json.dumps(held["runs"][path][key], sort_keys=True) == json.dumps(value, sort_keys=True), (run["name"], key)
    assert (held["versions"], held["links"]) == (expected["versions"], expected["links"])


def check_runs(store, server: WandbServer) -> None:
    records = [each for each in store.runs.list() if each.status not in LIVE]
    assert {f"ada/{each.project}/{each.id}" for each in records} == set(server.runs)
    for record in records:
        run = server.runs[f"ada/{record.project}/{record.id}"]
        expected = (record.name, record.group_id, "finished" if record.status == "finished" else "failed")
        assert (run.name, run.group, run.state) == expected and set(record.tags) <= set(run.tags)
        assert record.parameters.items() <= run.config.items()
        rows = [plain(row) for row in wandb_rows(store.runs.folder(record.id))] if record.journal_rows else []
        assert not record.journal_rows or [plain(row) for row in run.rows] == rows, record.name
        for name, value in record.metrics.items():
            there = run.summary.get(name, run.summary.get(name.split(".")[0]))
            there = there.get(name.split(".")[1]) if isinstance(there, dict) and "." in name else there
            assert there == value or value != value, (record.name, name)


def check_versions(store, server: WandbServer) -> None:
    there = {(each.name, each.version): each for each in server.versions if each.type != "run_table"}
    here = {(each.name, int(each.version[1:])): each for each in store.artifacts.versions()}
    assert set(there) == set(here)
    for key, artifact in here.items():
        version = there[key]
        assert version.digest == artifact.wandb_digest and version.type == artifact.type and version.metadata == artifact.metadata
        assert version.aliases - {"latest"} == set(artifact.aliases) - {"latest"}, key
        blobs = {path: blob.read_bytes() for path, blob in artifact.blob_paths().items()}
        assert {path: data for path, (_, data) in version.files.items()} == blobs
        assert set(version.references) == {each.path for each in artifact.references}


def check_edges(store, server: WandbServer) -> None:
    names = {version.id: (version.name, version.version) for version in server.versions if version.type != "run_table"}
    catalog = {each.row_id: (each.name, int(each.version[1:])) for each in store.artifacts.versions()}
    ids = {each.id for each in store.runs.list()}
    wanted = {(each.run_id, each.relation, catalog[each.artifact_id]) for each in edges_of_runs(store.catalog, ids)}
    there = {(run.id, "used", names[each]) for run in server.runs.values() for each in run.uses}
    there |= {(run.id, "logged", names[each]) for run in server.runs.values() for each in run.logged if each in names}
    assert there == wanted


def check_home(folder: Path) -> None:
    "Whether W&B's address and key were left out of the files of whoever calls."
    assert [path for path in folder.rglob("*") if path.name in ("settings", ".netrc")] == []


def check_same(folder: Path, server: WandbServer) -> None:
    "Whether the server holds the same runs, histories, versions, aliases and edges as the catalog."
    store = open_store(open_workspace(folder))
    check_runs(store, server)
    check_versions(store, server)
    check_edges(store, server)


@pytest.fixture(scope="module")
def undisturbed(pipeline, tmp_path_factory):
    "The pipeline's workspace after one sync that nothing disturbed, and its server."
    folder = copy_workspace(pipeline, tmp_path_factory.mktemp("undisturbed") / "workspace")
    (folder.parent / "home").mkdir()
    with WandbServer() as server:
        sync(folder, server, **a_home(folder.parent / "home"))
        check_same(folder, server)
        yield folder, server
        assert [each for each in server.unknown if "otel" not in each] == []


@pytest.fixture(scope="module")
def expected(undisturbed):
    "What a server holds after a sync that nothing disturbed."
    return said(undisturbed[1])


@pytest.fixture(scope="module")
def moved(everything, tmp_path_factory):
    "A copy elsewhere of all that makes an upload hard, synced while the original is away; its server, what was printed, and W&B's files."
    folder = copy_workspace(everything, tmp_path_factory.mktemp("โฟลเดอร์ used once") / "workspace")
    before = {path: path.read_bytes() for path in find_wandb_files(folder / ".mlops")}
    hidden = everything.rename(everything.with_name("away"))
    with WandbServer() as server:
        printed = sync(folder, server).stdout
        hidden.rename(everything)
        yield folder, server, printed, before
        assert [each for each in server.unknown if "otel" not in each] == []


def test_an_offline_workspace_that_was_copied_is_uploaded_whole(moved):
    folder, server, printed, before = moved
    check_same(folder, server)
    store = open_store(open_workspace(folder))
    assert "still go on" in printed and max(map(len, printed.splitlines())) <= 80 + 8
    assert {path: path.read_bytes() for path in find_wandb_files(folder / ".mlops")} == before
    prepare = server.runs[f"ada/digits/{store.runs.list()[-1].id}"]
    assert prepare.name == "prepare" and [line.split(" ", 1)[-1] for line in prepare.output] == ["preparing 1"]
    assert any(run.stream("wandb-events.jsonl") for run in server.runs.values())  # W&B's own hardware samples
    old = next(each for each in server.versions if each.name == "old")
    assert old.run not in {each.id for each in store.runs.list()}
    assert len(server.runs[f"ada/digits/{store.runs.get('killed').id}"].rows) == 300
    assert {target for _, target, _ in server.links} == {"ada/models/digits"}
    assert [sorted(aliases) for _, _, aliases in server.links] == [[], ["latest", "production"]]


def test_references_keep_their_digest_wherever_the_workspace_lies(moved, everything):
    folder, server, *_ = moved
    inside, outside = (next(each for each in server.versions if each.name == name) for name in ("inside", "outside"))
    assert inside.references == {"here.csv": (folder / "data" / "here.csv").as_uri()}
    assert outside.references == {"outside.csv": "https://data.example.org/outside.csv"}
    store = open_store(open_workspace(everything))
    assert store.artifacts.use(None, "inside").wandb_digest == inside.digest and inside.files == outside.files == {}


def test_a_sync_leaves_the_users_own_settings_of_wandb_alone(undisturbed):
    check_home(undisturbed[0].parent / "home")


def test_what_is_uploaded_is_not_sent_again(moved, monkeypatch):
    folder, server, *_ = moved
    store = open_store(open_workspace(folder))
    assert "0 differences" in sync(folder, server, "--verify").stdout
    held, requests = said(server), len(server.requests)
    assert "Nothing" in sync(folder, server).stdout
    assert said(server) == held and len(server.requests) - requests < 10  # what is known is not asked again
    with monkeypatch.context() as clock:
        clock.setattr(time, "time", lambda: 1e9)  # a clock that went back
        store.artifacts.alias("model:v1", "best")
    store.runs.tag(store.runs.get("killed").id, add=("later",))
    assert "artifact model: alias best" in sync(folder, server, "--verify", status=1).stdout
    assert "aliases of model" in " ".join(sync(folder, server, "--status").stdout.split())
    sync(folder, server)
    [model] = [each for each in server.versions if (each.name, each.version) == ("model", 1)]
    assert model.aliases == {"best", "candidate", "latest"}


@pytest.mark.soak
def test_a_workspace_without_what_wandb_staged(everything, server, tmp_path):
    folder = copy_workspace(everything, tmp_path / "workspace")
    shutil.rmtree(folder / ".mlops" / "wandb-data", ignore_errors=True)
    sync(folder, server)
    check_same(folder, server)


CUTS = [("UpsertBucket", 2, False), ("upload", 3, False), ("CommitArtifact", 0, True), ("file_stream", 2, False), ("UseArtifact", 0, True)]
MORE = ("CreateArtifact", "CreateArtifactManifest", "CreateArtifactFiles", "CommitArtifact", "file_stream", "UpsertBucket", "Run",
        "AddAliases", "RunInputArtifacts", "LinkArtifact")  # fmt: skip
MORE_CUTS = [(name, number, lost) for name in MORE for number in (0, 1) for lost in (False, True)]


def cut_off(server, folder, operation, after, lost, then=None):
    "A sync whose connection is cut at a point, and from then on refused, or answered by a proxy."
    server.cut(after=after, operation=operation, lose_answer=lost, then=then)
    assert "Nothing is lost" in sync(folder, server, status=2).stderr
    server.mend()


def test_a_sync_that_was_cut_off_five_times_is_started_again(pipeline, server, tmp_path, expected):
    folder = copy_workspace(pipeline, tmp_path / "workspace")
    for number, point in enumerate(CUTS):  # the first one is refused to the end, which costs the client's whole patience
        cut_off(server, folder, *point, then=404 if number else None)
    sync(folder, server)
    check_held(said(server), expected)


@pytest.mark.soak
@pytest.mark.parametrize("operation,after,lost", MORE_CUTS)
def test_a_sync_that_was_cut_off_anywhere(pipeline, server, tmp_path, expected, operation, after, lost):
    folder = copy_workspace(pipeline, tmp_path / "workspace")
    cut_off(server, folder, operation, after, lost)
    sync(folder, server)
    check_held(said(server), expected)


def wait_for(server: WandbServer, process: subprocess.Popen, operation: str, times: int) -> None:
    deadline, times = time.monotonic() + 60, times + server.mutations(operation)
    while server.mutations(operation) < times and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)


def wait_for_silence(server: WandbServer) -> None:
    "What a killed sync had started may go on for a while."
    heard, deadline = -1, time.monotonic() + 60
    while heard != len(server.requests) and time.monotonic() < deadline:
        heard = len(server.requests)
        time.sleep(2)


def test_a_sync_that_was_killed_is_started_again(pipeline, server, tmp_path, expected):
    folder = copy_workspace(pipeline, tmp_path / "workspace")
    for number, operation, times in ((signal.SIGKILL, "CommitArtifact", 1), (signal.SIGINT, "file_stream", 1)):
        wait_for_silence(server)
        process = begin_sync(folder, server)
        wait_for(server, process, operation, times)
        process.send_signal(number)
        printed, complained = process.communicate(timeout=60)
        assert process.returncode == (130 if number == signal.SIGINT else -number), (printed, complained)
    sync(folder, server)
    check_held(said(server), expected)
    assert not (folder / ".mlops" / "wandb-uploads").exists()


@pytest.mark.soak
@pytest.mark.parametrize("requests", range(0, 90, 6))
def test_a_sync_that_was_killed_anywhere(pipeline, server, tmp_path, expected, requests):
    folder = copy_workspace(pipeline, tmp_path / "workspace")
    process = begin_sync(folder, server)
    deadline = time.monotonic() + 60
    while len(server.requests) < requests and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.communicate(timeout=60)
    sync(folder, server)
    check_held(said(server), expected)


@pytest.mark.soak
def test_two_syncs_at_once(pipeline, server, tmp_path, expected):
    folder = copy_workspace(pipeline, tmp_path / "workspace")
    both = [begin_sync(folder, server) for _ in range(2)]
    printed = [each.communicate(timeout=180) for each in both]
    assert [each.returncode for each in both] == [0, 0], printed
    check_held(said(server), expected)
    assert sorted("Nothing" in output for output, _ in printed) == [False, True] or any("waiting" in error for _, error in printed)


@pytest.mark.soak
def test_one_run_first(pipeline, server, tmp_path, expected):
    folder = copy_workspace(pipeline, tmp_path / "workspace")
    store = open_store(open_workspace(folder))
    last = store.runs.get("evaluate")
    printed = sync(folder, server, last.id).stdout
    assert set(server.runs) == {f"ada/digits/{last.id}"} and "wait for" in printed.replace("\n", " ")
    lines = json.loads(sync(folder, server, "--status", "--json").stdout)
    assert {each["run_id"]: each["upload"] for each in lines}[last.id] == "uploaded"
    assert sum(each["upload"] == "not uploaded" for each in lines) == 5
    sync(folder, server)
    assert said(server)["runs"].keys() == expected["runs"].keys()
    assert all(said(server)["runs"][path]["used"] == run["used"] for path, run in expected["runs"].items())
    assert "0 differences" in sync(folder, server, "--verify").stdout


def online(server: WandbServer, **more) -> dict[str, str]:
    return {**server.environ, **IMPATIENT, "WANDB_MODE": "online", "WANDB_FINISH_TIMEOUT": "20", **more}


def test_online_comes_to_the_same_without_a_sync(server, tmp_path, expected):
    folder = make_workspace(tmp_path / "workspace")
    (tmp_path / "home").mkdir()
    run_script(folder, PIPELINE, **online(server), **a_home(tmp_path / "home"))
    check_home(tmp_path / "home")
    store = open_store(open_workspace(folder))
    assert {each.wandb_state for each in store.runs.list()} == {"complete"}
    check_runs(store, server)
    check_edges(store, server)
    sync(folder, server)  # what moved after the last run
    check_same(folder, server)
    by_name = [
        sorted((run["name"], run["group"], len(run["rows"]), run["used"], run["logged"]) for run in held["runs"].values())
        for held in (said(server), expected)
    ]
    assert by_name[0] == by_name[1]


NOTEBOOK = ["""
    from pathlib import Path
    from mlops_nb import start_run
    run = start_run(config={"rate": 0.1})
    Path("digits.csv").write_text("image,label")
    digits = run.log_artifact("digits.csv", name="digits", aliases=["checked"])
    """, """
    for step in range(10): run.log({"loss": 1 / (step + 1)}, step=step)
    run.use_artifact("digits:checked")
    run.link_artifact(digits, "models/digits")
    """]


def test_a_notebook_that_is_run_online(server, tmp_path):
    folder = make_workspace(tmp_path / "workspace")
    (folder / "settings.ini").write_text(f"[workspace]\nproject = digits\n[wandb]\nmode = online\nbase_url = {server.url}\n")
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells = [nbformat.v4.new_code_cell(textwrap.dedent(each)) for each in NOTEBOOK]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), folder / "train.ipynb")
    environ = {key: value for key, value in sync_environ(server).items() if key not in ("WANDB_MODE", "WANDB_BASE_URL")}
    done = subprocess.run([sys.executable, "-c", PROGRAM, "run", "train.ipynb"], cwd=folder, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    check_same(folder, server)
    [record] = open_store(open_workspace(folder)).runs.list()
    assert (record.status, record.wandb_state, record.journal_rows) == ("finished", "complete", 10)
    assert [target for _, target, _ in server.links] == ["ada/models/digits"]
    assert "Nothing" in sync(folder, server).stdout


def test_artifacts_of_others_are_fetched(expected, undisturbed, tmp_path):
    _, server = undisturbed
    (tmp_path / "foreign.csv").write_text("a,b")
    run_script(tmp_path, THEIRS, **online(server))
    folder = make_workspace(tmp_path / "mine")
    (folder / "settings.ini").write_text("[workspace]\nproject = mine\n")
    run_script(folder, """
        from mlops_nb import open_store, start_run
        with start_run("uses") as run:
            model = run.use_artifact("ada/digits/model:best")
            assert (model.type, model.path().read_text(), model.run_id) == ("model", "model 1", None)
            assert run.use_artifact("digits/digits:v0").path().read_text() == "digits 1"
            mixed = run.use_artifact("ada/digits/mixed:latest")
            assert mixed.path("copied.csv").read_text() == mixed.path("stays.csv").read_text() == "a,b"
            assert [each.path for each in mixed.references] == ["stays.csv"]
            assert [(each.alias, each.run_id) for each in open_store().artifacts.alias_history("model")] == [("latest", run.id)]
        with start_run("refuses") as run:
            for wanted, error in (("ada/digits/nothing", "NotFoundError"), ("nothing", "NotFoundError"),
                                  ("ada/digits/bucket:latest", "ArtifactError")):
                try: run.use_artifact(wanted)
                except Exception as found: assert type(found).__name__ == error, found
                else: raise AssertionError(wanted)
            try: run.use_artifact("ada/digits/model:v1", type="dataset")
            except Exception as found: assert "is of type 'model'" in str(found)
        """, **online(server))
    store = open_store(open_workspace(folder))
    uses = server.runs[f"ada/mine/{store.runs.get('uses').id}"].uses
    assert sorted(each.name for each in server.versions if each.id in uses) == ["digits", "mixed", "model"]
    assert [each.project for each in server.versions if each.project == "mine"] == []  # nothing is uploaded again
    assert "0 differences" in sync(folder, server, "--verify").stdout


def test_a_server_that_is_lost_during_a_run(server, tmp_path):
    folder = make_workspace(tmp_path / "workspace")
    server.cut(after=1, operation="file_stream")
    done = run_script(folder, """
        import time
        from mlops_nb import start_run
        with start_run("train") as run:
            for step in range(40):
                run.log({"loss": 1 / (step + 1)}, step=step)
                time.sleep(0.05)
            print("trained to the end")
        """, **online(server, WANDB_FINISH_TIMEOUT="2"))
    assert "trained to the end" in done.stdout and "mlops-nb sync" in done.stderr
    store = open_store(open_workspace(folder))
    [record] = store.runs.list()
    assert (record.status, record.wandb_state, record.journal_rows) == ("finished", "complete", 40)  # here all is whole
    [line] = json.loads(sync(folder, server, "--status", "--json").stdout)
    assert line["upload"] not in ("uploaded", "complete"), line
    assert len(server.runs[f"ada/digits/{record.id}"].rows) < 40
    server.mend()
    sync(folder, server)
    check_same(folder, server)
    assert store.runs.get(record.id).wandb_state == "complete"


@pytest.mark.soak
def test_no_key_no_network_and_a_refused_key(pipeline, server, tmp_path):
    folder = copy_workspace(pipeline, tmp_path / "workspace")
    alone = {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc"), "WANDB_API_KEY": ""}
    assert "no W&B key" in sync(folder, server, status=2, **alone).stderr
    server.fail(401, times=100)
    assert "refused the key" in " ".join(sync(folder, server, status=2).stderr.split())
    server.mend()
    server.cut(after=0)
    refused = " ".join(sync(folder, server, status=2).stderr.split())
    assert "check the network" in refused and "Nothing is lost" in refused
    server.mend()
    assert server.runs == {} and server.versions == []
    status = sync(folder, server, "--status").stdout
    assert status.count("not uploaded") == 6 and status.splitlines()[-1].startswith("6 runs wait; to upload to http")
    assert "the run: here there is one, there none" in " ".join(sync(folder, server, "--verify", status=1).stdout.split())


@pytest.fixture
def store(tmp_path):
    return open_store(open_workspace(make_workspace(tmp_path / "workspace")))


def log_text(store, run_id: str, name: str, text: str):
    path = store.workspace.root / f"{name}.txt"
    path.write_text(text)
    return store.artifacts.log(run_id, name, "dataset", {path.name: path})


def place_of(store) -> Place:
    return Place(server_of(store.workspace), "ada", "digits")


def add_uploaded(store, count: int) -> None:
    "Runs that were uploaded with a version each, whose aliases moved since."
    for number in range(count):
        run = store.runs.create(project="digits", name=f"run {number}")
        version = log_text(store, run.id, f"data{number}", str(number))
        store.runs.finish(run.id, "finished", wandb_state="disabled", journal_rows=0)
        log = UploadLog(store.catalog)
        log.remember_run(run.id, place_of(store), COMPLETE, 0)
        log.remember_version(version.row_id, place_of(store), "v0", "id", last_moves(store.catalog, version.name)[version.name])
        store.artifacts.alias(version.reference, "best")


def count_statements(ask) -> int:
    "How many statements the databases are sent meanwhile."
    said = []
    def note(connection, cursor, statement, *rest): said.append(statement)  # fmt: skip
    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        ask()
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)
    return len(said)


def test_the_status_of_many_runs_takes_as_many_statements_as_that_of_few(store):
    add_uploaded(store, 3)
    few = count_statements(lambda: upload_status(store))
    add_uploaded(store, 27)
    found = []
    assert count_statements(lambda: found.extend(upload_status(store))) == few > 0
    assert [(each.upload, each.versions_there, len(each.aliases_waiting)) for each in found] == [(COMPLETE, 1, 1)] * 30


class FakeServer:
    "A server that has versions, and remembers what it was told."

    def __init__(self, store, rows=()):
        self.server, self.entity, self.linked, self.moved = server_of(store.workspace), "ada", [], []
        self.held = {}
        for artifact in map(store.artifacts.by_row, rows):
            found = SimpleNamespace(id=f"id{artifact.row_id}", version=artifact.version, digest=Shelf(store, self).digest(artifact.row_id))
            found.aliases = []
            self.held.setdefault(artifact.name, []).append(found)

    def run(self, project, run_id):
        return SimpleNamespace(state="finished", row_count=0, used=lambda: [], logged=lambda: sum(self.held.values(), []))

    def versions(self, project, type, name):
        return self.held.get(name, [])

    def find(self, path):
        return None

    def log(self, run, version):
        raise AssertionError("it is there already")

    use = log

    def link(self, version, target, aliases):
        self.linked.append((version.version, target))

    def set_aliases(self, version, add, gone):
        self.moved.append((version.version, add, gone))


def test_an_alias_that_moved_while_the_clock_went_back_is_told(store, monkeypatch):
    run = store.runs.create(project="digits", name="prepare")
    version = log_text(store, run.id, "digits", "a")
    store.runs.finish(run.id, "finished", wandb_state="disabled", journal_rows=0)
    shelf = Shelf(store, FakeServer(store, [version.row_id]))
    shelf.log.remember_run(run.id, place_of(store), COMPLETE, 0)
    replay_aliases(shelf, "digits", "digits", "dataset")
    assert news_of_aliases(shelf) == [] and upload_status(store)[0].aliases_waiting == ()
    monkeypatch.setattr(time, "time", lambda: 1e9)
    store.artifacts.alias(version.reference, "best")
    assert news_of_aliases(shelf) == [("digits", "digits", "dataset")] and upload_status(store)[0].aliases_waiting == ("digits",)
    replay_aliases(shelf, "digits", "digits", "dataset")
    assert shelf.client.moved == [("v0", ["best"], [])] and news_of_aliases(shelf) == []


def test_a_version_that_came_later_is_told_of_earlier_moves(store):
    run = store.runs.create(project="digits", name="prepare")
    first, second = (log_text(store, run.id, "digits", text) for text in "ab")
    store.artifacts.alias(second.reference, "best")
    replay_aliases(Shelf(store, FakeServer(store, [first.row_id])), "digits", "digits", "dataset")
    shelf = Shelf(store, FakeServer(store, [first.row_id, second.row_id]))
    assert news_of_aliases(shelf) == []
    shelf.remember(second.row_id, "digits", shelf.find(second.row_id, "digits"))
    assert news_of_aliases(shelf) == [("digits", "digits", "dataset")]


def test_a_link_whose_version_was_cleared_away_keeps_nothing_else_back(store, monkeypatch):
    run, after = (store.runs.create(project="digits", name=name) for name in ("first", "after"))
    gone, kept = (log_text(store, run.id, name, name) for name in ("gone", "kept"))
    for each in (gone, kept):
        remember_link(store.runs.folder(run.id), each.reference, f"models/{each.name}")
    remember_link(store.runs.folder(after.id), kept.reference, "models/after")
    with store.catalog.write() as connection:
        of_it = tables.artifacts.c.id == gone.row_id
        connection.execute(tables.edges.delete().where(tables.edges.c.artifact_id == gone.row_id))
        connection.execute(tables.artifacts.update().where(of_it).values(removed_at=time.time()))
    for each in (run, after):
        store.runs.finish(each.id, "finished", wandb_state="disabled", journal_rows=0)
    server = FakeServer(store, [kept.row_id])
    monkeypatch.setattr(store_sync, "connect", lambda workspace: server)
    result = store_sync.sync(store)
    assert sorted(server.linked) == [("v0", "models/after"), ("v0", "models/kept")]
    assert result.waiting == {} and "gone:v0 was removed" in result.impossible[run.id][0] and list(result.impossible) == [run.id]
    found = {each.name: (each.upload, each.edges_waiting) for each in upload_status(store)}
    assert found == {"first": (UPLOADED, 1), "after": (COMPLETE, 0)}


def test_a_link_that_the_server_refuses_keeps_nothing_else_back(store, monkeypatch):
    class Strict(FakeServer):
        def link(self, version, target, aliases):
            if target == "models/forbidden": raise TrackingError("W&B could not take a link (no such collection)")
            super().link(version, target, aliases)

    run, after = (store.runs.create(project="digits", name=name) for name in ("first", "after"))
    kept = log_text(store, run.id, "kept", "kept")
    for each, target in ((run, "models/forbidden"), (run, "models/kept"), (after, "models/after")):
        remember_link(store.runs.folder(each.id), kept.reference, target)
    for each in (run, after): store.runs.finish(each.id, "finished", wandb_state="disabled", journal_rows=0)
    server = Strict(store, [kept.row_id])
    monkeypatch.setattr(store_sync, "connect", lambda workspace: server)
    result = store_sync.sync(store)
    assert sorted(server.linked) == [("v0", "models/after"), ("v0", "models/kept")]
    [why] = result.impossible[run.id]
    assert why.startswith("kept:v0 into models/forbidden: W&B could not") and list(result.impossible) == [run.id]
    assert {each.name: each.upload for each in upload_status(store)} == {"first": UPLOADED, "after": COMPLETE}
    def nobody(self, *arguments): raise TrackingError("W&B could not read a run (connection lost)")
    monkeypatch.setattr(Strict, "run", nobody)
    with pytest.raises(TrackingError, match="connection lost"): store_sync.sync(store)
