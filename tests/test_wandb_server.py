"""The W&B server of the tests, with wandb's own client: what it sends is answered, and what went wrong on the way is as with W&B."""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from wandb_server import IMPATIENT, WandbServer
from wandb_server.documents import Document, UnknownField

ROWS = [{"loss": 1 / (step + 1)} for step in range(20)]


@pytest.fixture(scope="module")
def server():
    with WandbServer() as server:
        yield server


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("wandb ไทย")


@pytest.fixture(autouse=True)
def environ(clean_environment, monkeypatch, server, folder):
    "One server for all tests here, and nothing that it cannot answer"
    places = {f"WANDB_{place}_DIR": str(folder / place.lower()) for place in ("CACHE", "DATA", "ARTIFACT", "CONFIG")}
    for name, value in {**server.environ, **IMPATIENT, **places, "WANDB_DIR": str(folder)}.items():
        monkeypatch.setenv(name, value)
    yield
    server.mend()
    assert server.unknown == []


@pytest.fixture(scope="module")
def service():
    "wandb, started anew with this module's environment, and ended with it"
    import wandb

    wandb.teardown()
    yield wandb
    wandb.teardown()


@pytest.fixture
def wandb(environ, service):
    return service


def dataset(wandb, path: Path, **options):
    artifact = wandb.Artifact("digits", "dataset", **options)
    artifact.add_file(str(path), name="data.csv")
    return artifact


def losses(run) -> list[float]:
    return [row["loss"] for row in run.rows]


def sync(*arguments, environ=None) -> str:
    "What `wandb sync` says"
    command = [sys.executable, "-m", "wandb", "sync", *map(str, arguments)]
    environ = {**os.environ, "WANDB_SILENT": "false", **(environ or {})}
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, env=environ)
    return answer.stdout + answer.stderr


def ask(server, query: str, **variables) -> tuple[int, dict]:
    body = json.dumps({"query": query, "variables": variables}).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{server.url}/graphql", body)) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_a_run_arrives_whole(server, wandb):
    options = {"config": {"rate": 0.1, "layers": [8, 16]}, "tags": ["a"], "group": "g", "job_type": "fit", "notes": "n"}
    with wandb.init(project="whole", id="one", name="first", **options) as run:
        for row in ROWS:
            run.log(row)
        run.summary["best"] = 0.05
    kept = server.runs["ada/whole/one"]
    assert losses(kept) == [row["loss"] for row in ROWS] and [row["_step"] for row in kept.rows] == list(range(20))
    assert (kept.name, kept.tags, kept.group, kept.job_type, kept.notes, kept.state) == ("first", ["a"], "g", "fit", "n", "finished")
    assert kept.config == {"rate": 0.1, "layers": [8, 16]} and kept.summary["best"] == 0.05 and kept.resumed == 0
    assert {"config.yaml", "wandb-summary.json", "wandb-metadata.json"} <= set(kept.files)

    api = wandb.Api()
    public = api.run("ada/whole/one")
    assert [row["loss"] for row in public.scan_history()] == losses(kept)
    assert [row["loss"] for row in public.history(keys=["loss"], pandas=False)] == losses(kept)
    assert (public.name, public.state, public.config, public.summary["best"]) == ("first", "finished", kept.config, 0.05)
    assert [run.id for run in api.runs("ada/whole", filters={"$and": [{"config.rate": 0.1}, {"state": "finished"}]})] == ["one"]
    assert len(api.runs("ada/whole", filters={"summary_metrics.best": {"$gt": 1}})) == 0
    public.tags.append("b")
    public.update()
    assert kept.tags == ["a", "b"] and kept.resumed == 0


def test_a_run_that_is_resumed_goes_on_where_it_was(server, wandb):
    wandb.init(project="resumed", id="one", config={"rate": 0.1}).finish(exit_code=1)
    assert server.runs["ada/resumed/one"].state == "failed"
    for part in (ROWS[:8], ROWS[8:]):
        with wandb.init(project="resumed", id="one", resume="allow") as run:
            for row in part:
                run.log(row)
    kept = server.runs["ada/resumed/one"]
    assert losses(kept) == [row["loss"] for row in ROWS] and kept.config == {"rate": 0.1}
    assert (kept.state, kept.resumed) == ("finished", 2)


def test_versions_aliases_and_edges(server, wandb, tmp_path):
    path = tmp_path / "ข้อมูล.csv"
    path.write_text("a,b\n")
    with wandb.init(project="versions", id="writer") as run:
        first, again = (run.log_artifact(dataset(wandb, path, metadata={"rows": 1}), aliases=["best"]).wait() for _ in range(2))
        path.write_text("c,d\n")
        second = run.log_artifact(dataset(wandb, path)).wait()
    assert first.id == again.id and (first.version, second.version) == ("v0", "v1")
    v0, v1 = (version for version in server.versions if version.project == "versions")
    assert (v0.aliases, v1.aliases, v0.metadata) == ({"best"}, {"latest"}, {"rows": 1})
    assert (v0.files["data.csv"][1], v1.files["data.csv"][1]) == (b"a,b\n", b"c,d\n")
    assert server.runs["ada/versions/writer"].logged == [v0.id, v1.id] and v0.run == "writer"

    with wandb.init(project="versions", id="reader") as run:
        for name in ("digits:latest", "digits:v0", "digits:best"):
            run.use_artifact(name)
    assert server.runs["ada/versions/reader"].uses == [v1.id, v0.id]

    api = wandb.Api()
    artifact = api.artifact("ada/versions/digits:v1")
    artifact.aliases.append("best")
    artifact.save()
    assert (v0.aliases, v1.aliases) == (set(), {"latest", "best"})
    assert Path(artifact.download(root=str(tmp_path / "down")), "data.csv").read_bytes() == b"c,d\n"
    artifact.verify(root=str(tmp_path / "down"))
    assert [used.name for used in api.run("ada/versions/reader").used_artifacts()] == ["digits:v1", "digits:v0"]
    assert artifact.logged_by().id == "writer" and [run.id for run in artifact.used_by()] == ["reader"]
    assert [version.name for version in api.artifacts("dataset", "ada/versions/digits")] == ["digits:v1", "digits:v0"]
    assert api.artifact_exists("ada/versions/digits:best") and not api.artifact_exists("ada/versions/digits:v2")

    for _ in range(2):
        artifact.link("ada/shelf/best digits", aliases=["live"])
    assert server.links == [(v1.id, "ada/shelf/best digits", {"latest", "live"})]
    assert api.artifact("ada/shelf/best digits:live").digest == v1.digest


def test_the_public_api_draws_edges_once(server, wandb, tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("edges")
    with wandb.init(project="edges", id="one") as run:
        run.log_artifact(dataset(wandb, path)).wait()
    wandb.init(project="edges", id="two").finish()
    api = wandb.Api()
    artifact = api.artifact("ada/edges/digits:latest")
    for _ in range(2):
        api.run("ada/edges/two").use_artifact(artifact)
        api.run("ada/edges/two").log_artifact(artifact, aliases=["kept"])
    [version] = [version for version in server.versions if version.project == "edges"]
    two = server.runs["ada/edges/two"]
    assert (two.uses, two.logged, version.aliases, version.run) == ([version.id], [version.id], {"latest", "kept"}, "one")
    assert two.state == "finished"


def test_references_are_kept_as_references(server, wandb, tmp_path):
    path = tmp_path / "big.csv"
    path.write_text("far away")
    artifact = wandb.Artifact("far", "dataset")
    artifact.add_reference(path.as_uri(), name="big.csv")
    with wandb.init(project="references") as run:
        run.log_artifact(artifact).wait()
    [version] = [version for version in server.versions if version.name == "far"]
    assert (version.references, version.files) == ({"big.csv": path.as_uri()}, {})


def test_values_of_every_kind(server, wandb, tmp_path):
    import numpy as np

    (tmp_path / "note.txt").write_text("note")
    with wandb.init(project="kinds", id="one") as run:
        image, table = wandb.Image(np.zeros((2, 2, 3), "uint8")), wandb.Table(columns=["a"], data=[[1], [2]])
        run.log({"loss": float("nan"), "top": float("inf"), "image": image, "table": table})
        run.save(str(tmp_path / "note.txt"), base_path=str(tmp_path))
        run.alert("title", "text")
    kept = server.runs["ada/kinds/one"]
    [row] = kept.rows
    assert row["loss"] != row["loss"] and row["top"] == float("inf") and row["table"]["nrows"] == 2
    assert row["image"]["path"] in kept.files and kept.files["note.txt"] == b"note" and kept.alerts == [("title", "text", "INFO")]
    api = wandb.Api()
    assert list(api.run("ada/kinds/one").scan_history(keys=["top"])) == [{"_step": 0, "top": "Infinity"}]
    assert api.artifact("ada/kinds/run-one-table:latest").get("table").data == [[1], [2]]


@pytest.fixture
def offline_run(wandb, tmp_path):
    "Folder of an offline run with 20 rows and a version"
    path = tmp_path / "data.csv"
    path.write_text("offline")
    project = tmp_path.name.replace("_", "-")
    with wandb.init(project=project, id="one", name="first", config={"rate": 0.1}, mode="offline", dir=str(tmp_path)) as run:
        for row in ROWS:
            run.log(row)
        run.log_artifact(dataset(wandb, path, metadata={"rows": 1}), aliases=["best"])
    [folder] = (tmp_path / "wandb").glob("offline-run-*")
    return folder


def project_of(folder: Path) -> str:
    return folder.parent.parent.name.replace("_", "-")


def test_an_offline_run_is_synced_once(server, offline_run):
    assert "Finished syncing" in sync(offline_run)
    kept = server.runs[f"ada/{project_of(offline_run)}/one"]
    [version] = [version for version in server.versions if version.project == kept.project]
    assert losses(kept) == [row["loss"] for row in ROWS] and (kept.name, kept.state) == ("first", "finished")
    assert (version.aliases, version.metadata, version.run) == ({"best", "latest"}, {"rows": 1}, "one")
    assert "No runs to sync" in sync(offline_run)
    assert len(kept.rows) == 20 and kept.resumed == 0

    sync("--no-skip-synced", offline_run)  # what wandb does then: the version is found again, the history begins after what is there
    assert losses(kept) == 2 * [row["loss"] for row in ROWS] and kept.resumed == 1
    assert [version] == [version for version in server.versions if version.project == kept.project]


@pytest.mark.parametrize(
    "operation, lose_answer", [("UpsertBucket", False), ("file_stream", True), ("CommitArtifact", True), ("upload", False)]
)
def test_what_a_cut_line_left_out_is_mended(server, wandb, offline_run, operation, lose_answer):
    path = f"ada/{project_of(offline_run)}/one"
    server.cut(after=0, operation=operation, lose_answer=lose_answer)
    assert "ERROR" in sync(offline_run)  # though its exit status is 0
    server.mend()
    done = len(server.runs[path].rows) if path in server.runs else 0
    with wandb.init(project=project_of(offline_run), id="one", resume="allow") as run:
        for row in ROWS[done:]:
            run.log(row)
        run.log_artifact(dataset(wandb, offline_run.parent.parent / "data.csv"), aliases=["best"]).wait()
    kept = server.runs[path]
    [version] = [version for version in server.versions if version.project == kept.project]
    assert losses(kept) == [row["loss"] for row in ROWS] and kept.state == "finished"
    assert version.aliases == {"best", "latest"} and kept.logged[-1] == version.id


def test_a_failure_is_tried_again(server, wandb, tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("failure")
    server.fail(500, "CommitArtifact")
    with wandb.init(project="failures") as run:
        run.log_artifact(dataset(wandb, path)).wait()
    assert len([version for version in server.versions if version.project == "failures"]) == 1


def test_what_is_unknown_is_said(server):
    status, answer = ask(server, "query Strange { project(name: $p, entityName: null) { id } colour }")
    assert status == 400 and "colour" in answer["errors"][0]["message"] and server.unknown.pop()
    status, answer = ask(server, 'query Strange { viewer { username(in: "capitals") } }')
    assert status == 400 and "username" in server.unknown.pop()
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"{server.url}/elsewhere")
    assert server.unknown.pop() == "GET /elsewhere"
    assert ask(server, 'query Lost { artifact(id: "none") { id } }') == (200, {"data": None, "errors": [{"message": "no artifact none"}]})


def test_bytes_that_are_not_what_was_announced_are_refused(server):
    request = urllib.request.Request(f"{server.url}/upload/blobs/{'0' * 32}", b"other bytes", method="PUT")
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(request)
    assert raised.value.code == 404 and server.state.blobs.get("0" * 32) is None


def test_a_cut_line_is_reset_until_it_is_mended(server):
    server.cut(after=1, operation="Viewer")
    query = "query Viewer { viewer { username } }"
    assert ask(server, query) == (200, {"data": {"viewer": {"username": "ada"}}})
    for _ in range(2):
        with pytest.raises(ConnectionError):
            ask(server, query)
    server.mend()
    assert ask(server, query)[0] == 200


def test_a_proxy_answers_behind_a_cut_line(server):
    server.cut(after=0, then=404)
    with pytest.raises(ConnectionError):
        urllib.request.urlopen(f"{server.url}/files/mine")
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(f"{server.url}/files/mine")
    assert raised.value.code == 404 and server.unknown == []
    server.mend()
    assert ask(server, "query Viewer { viewer { username } }")[0] == 200


def test_a_folder_keeps_what_the_server_knows(tmp_path):
    mutation = 'mutation M { upsertBucket(input: {name: "one", modelName: "p", config: "{}"}) { inserted bucket { name } } }'
    for inserted in (True, False):
        with WandbServer(tmp_path / "state") as server:
            assert ask(server, mutation)[1]["data"]["upsertBucket"] == {"inserted": inserted, "bucket": {"name": "one"}}


def test_documents_give_exactly_what_is_selected():
    text = """query Q($yes: Boolean = true, $name: String) { a: thing(name: $name) { ...F ... on Other { no } skipped @skip(if: $yes) } }
              fragment F on Thing { id @include(if: $yes) parts { id } parts { size } }"""
    parts = [{"id": 1, "size": 2, "more": 3}]
    root = {"thing": lambda name: {"__typename": "Thing", "id": name, "parts": parts}}
    assert Document(text, {"name": "n"}).execute(root) == {"a": {"id": "n", "parts": [{"id": 1, "size": 2}]}}
    assert Document(text, {"yes": False}).execute({"thing": lambda name: None}) == {"a": None}
    with pytest.raises(UnknownField, match="skipped"):
        Document(text, {"yes": False}).execute(root)
