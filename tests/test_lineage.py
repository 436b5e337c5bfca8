"""The lineage of anything, both ways, on SQLite and on PostgreSQL: places to start from, circles, limits, drawings."""

import json
import random

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from mlops_nb.cli import main
from mlops_nb.lineage_figure import lineage_figure, save_figure
from mlops_nb.lineage_table import lineage_rows, say_affected
from mlops_nb.lineage_tree import node_line
from mlops_nb.settings import ArtifactError, NotFoundError, StoreError, open_workspace
from mlops_nb.store import resolution, tables
from mlops_nb.store.artifacts import list_files
from mlops_nb.store.catalog import Catalog
from mlops_nb.store.door import open_store
from mlops_nb.store.lineage import trace
from mlops_nb.store.lineage_graph import SURROUNDINGS, Edge, Lineage, Node, lineage_mermaid

AROUND = ("executed", "ran_code", "ran_in")  # relations to what stands around a run


@pytest.fixture
def make(runs, artifacts, tmp_path):
    "A function that makes a run which uses and logs."

    def make(id, uses=(), logs=(), **values):
        runs.create(id=id, project="p", name=id.rstrip("0"), **values)
        for each in uses:
            artifacts.use(id, each)
        for name, kind in logs:
            (tmp_path / "file").write_text(f"{name} {id}")
            artifacts.log(id, name, kind, {"file": tmp_path / "file", "same": tmp_path / "same"})
        runs.finish(id, "finished")

    (tmp_path / "same").write_text("the same in all")
    return make


@pytest.fixture
def chain(make):
    make("prepare0", logs=[("data", "dataset")], code_commit="c" * 40, notebook="prepare.ipynb", notebook_digest="n")
    make("train000", ["data"], [("net", "model")], parameters={"rate": 0.1})
    make("evaluate", ["net", "data"], [("scores", "evaluation")])


def ids(graph):
    return {node.id for node in graph.nodes}


EVERYTHING = {"run/prepare0", "run/train000", "run/evaluate", "dataset/data:v0", "model/net:v0", "evaluation/scores:v0"}


def test_every_way_to_name_a_place(catalog, artifacts, chain):
    net = artifacts.use(None, "net")
    own = next(each.digest for each in net.files if each.path == "file")
    digests = net.digest, net.digest[:8].upper(), own[:9]
    for each in ("net", "net:v0", "net:latest", "model/net:v0", *(f"sha256:{digest}" for digest in digests)):
        assert trace(catalog, each).root == "model/net:v0", each
    for each in ("train000", "run/train000", "train", "train0"):
        assert trace(catalog, each).root == "run/train000", each
    with pytest.raises(NotFoundError, match="did you mean 'net'"):
        trace(catalog, "nte")
    for wrong in ("sha256:12", "sha256:xxxxxxxxxx"):
        with pytest.raises(ArtifactError, match="at least 8"):
            trace(catalog, wrong)
    with pytest.raises(NotFoundError):
        trace(catalog, "sha256:" + "0" * 64)
    with pytest.raises(NotFoundError, match="upstream"):
        trace(catalog, "net", "upstrem")


def test_an_alias_alone_and_a_file_of_a_run_are_answered(catalog, artifacts, runs, chain):
    artifacts.alias("net:v0", "champion")
    with pytest.raises(NotFoundError, match="net:champion") as error:
        trace(catalog, "champion")
    assert error.value.candidates == ("net:champion",)
    notebook = artifacts.blobs.put_bytes(b"a notebook").digest
    runs.create(id="held0000", project="p", name="held", notebook_blob=notebook)
    with pytest.raises(ArtifactError, match="mlops-nb lineage held0000"):
        trace(catalog, f"sha256:{notebook[:12]}")


def test_both_ways_and_what_stands_around_a_run(catalog, chain):
    graph = trace(catalog, "net")
    assert ids(graph) >= EVERYTHING
    assert Edge("run/evaluate", "dataset/data:v0", "used") in graph.edges  # from downstream to upstream
    assert graph.node("run/train000").details["parameters"] == {"rate": 0.1}
    assert {relation for relation, _ in graph.sources("run/prepare0")} >= {"executed", "ran_code"}
    assert ids(trace(catalog, "net", "upstream")) & EVERYTHING == {"model/net:v0", "run/train000", "dataset/data:v0", "run/prepare0"}
    assert ids(trace(catalog, "net", "downstream")) & EVERYTHING == {"model/net:v0", "run/evaluate", "evaluation/scores:v0"}
    assert "parameters" not in trace(catalog, "net", values=False).node("run/train000").details


def test_a_file_in_several_versions_is_the_root(catalog, artifacts, chain):
    digest = next(each.digest for each in artifacts.use(None, "net").files if each.path == "same")
    graph = trace(catalog, f"sha256:{digest[:12]}", "downstream")
    assert graph.root == f"file/sha256:{digest}"
    assert {each.id for _, each in graph.results(graph.root)} == {"dataset/data:v0", "model/net:v0", "evaluation/scores:v0"}


def test_attempts_and_repeated_runs_are_related(catalog, make, chain):
    make("again000", reproduces="train000")
    make("resumed0", resumed_from="train000", attempt=2, first_attempt="train000")
    assert {"run/again000", "run/resumed0"} <= ids(trace(catalog, "data", "downstream"))
    assert Edge("run/again000", "run/train000", "reproduces") in trace(catalog, "again000", "upstream").edges
    assert "dataset/data:v0" in ids(trace(catalog, "resumed0", "upstream"))


def test_releases_and_predictions_are_found_both_ways(catalog, chain):
    with catalog.write() as connection:
        row = connection.execute(sa.select(tables.artifacts.c.id).where(tables.artifacts.c.name == "net")).scalar()
        node = {"digest": None, "created_at": 5.0}
        connection.execute(tables.nodes.insert(), [
            {"id": "live-1", "kind": "release", "name": "live", "details": {"stage": "production"}, **node},
            {"id": "p-1", "kind": "prediction", "name": "first prediction", "details": {}, **node}])
        names = ("start_kind", "start_id", "end_kind", "end_id", "relation", "created_at")
        connection.execute(tables.links.insert(), [dict(zip(names, each, strict=True)) for each in (
            ("node", "live-1", "artifact", str(row), "releases", 5.0), ("node", "p-1", "node", "live-1", "served_by", 6.0))])
    assert {"release/live-1", "prediction/p-1"} <= ids(trace(catalog, "data", "downstream"))
    up = trace(catalog, "p-1", "upstream")
    assert (up.root, trace(catalog, "prediction/p-1").root) == ("prediction/p-1", "prediction/p-1")
    assert {"release/live-1", "model/net:v0", "run/train000", "dataset/data:v0"} <= ids(up)
    assert Edge("release/live-1", "model/net:v0", "releases") in up.edges
    assert up.node("release/live-1").details["stage"] == "production"
    near = trace(catalog, "p-1", "upstream", depth=1)
    assert ids(near) == {"prediction/p-1", "release/live-1"}


def test_circles_end(catalog, make, artifacts):
    make("first000", logs=[("net", "model")])
    artifacts.use("first000", "net")
    for depth in (None, 50):
        graph = trace(catalog, "net", depth=depth)
        assert ids(graph) == {"run/first000", "model/net:v0"} and len(graph.edges) == 2


def test_in_the_database_and_step_by_step_are_the_same(catalog, chain):
    for name in ("data", "net", "evaluate"):
        for direction in ("upstream", "downstream", "both"):
            graph = trace(catalog, name, direction)
            assert graph.truncated is False
            walked = trace(catalog, name, direction, depth=100)
            assert (graph.nodes, graph.edges) == (walked.nodes, walked.edges)


def draw_graph(draw):
    "Rows of runs, artifacts, edges, nodes and links, drawn at random; with circles, and numbers that are not finite."
    names = [f"run{number:05d}" for number in range(40)]
    runs = [{"id": name, "project": "p", "name": "n", "status": "finished", "created_at": float(number // 3), "hardware": {},
             "parameters": {"rate": draw.choice([0.1, float("nan"), "NaN", None]), "deep": {"list": [1, "ก"]}},
             "metrics": {"loss": draw.random()}, "code_commit": draw.choice([None, "c"]),
             "notebook": draw.choice([None, "a.ipynb", "b/a.ipynb"]), "notebook_digest": draw.choice("xy"),
             **{before: draw.choice([None] * 9 + names[:number]) for before in ("resumed_from", "reproduces", "parent_id")}}
            for number, name in enumerate(names)]
    artifacts = [{"id": number, "type": draw.choice(["dataset", "model"]), "name": f"a{number}", "version": 0, "digest": f"{number:064x}",
                  "size_bytes": 1, "metadata": draw.choice([{}, {"rows": number}]), "created_at": float(number)} for number in range(1, 31)]
    ends = {(draw.choice(names), draw.randint(1, 30), draw.choice(["used", "logged"])) for _ in range(70)}
    edges = [{"run_id": run, "artifact_id": artifact, "relation": relation, "requested": asked, "created_at": float(draw.randint(1, 9))}
             for run, artifact, relation in sorted(ends) for asked in draw.choice([["a"], ["a", "b"]])]
    nodes = [{"id": f"n{number}", "kind": "release", "name": "live", "details": {}, "created_at": 1.0} for number in range(4)]
    links = [{"start_kind": "node", "start_id": f"n{number}", "end_kind": kind, "end_id": end, "relation": "serves", "created_at": 1.0}
             for number in range(4) for kind, end in (("artifact", str(draw.randint(1, 30))), ("run", draw.choice(names)))]
    return {"runs": runs, "artifacts": artifacts, "edges": edges, "nodes": nodes, "links": links}


def steps_of(rows):
    "All edges of the graph, as the ids that a lineage has, from what came later to what it came from."
    artifact = {each["id"]: f"{each['type']}/{each['name']}:v0" for each in rows["artifacts"]}
    for each in rows["runs"]:
        for before, relation in (("resumed_from", "resumed_from"), ("reproduces", "reproduces"), ("parent_id", "began_by")):
            if each[before]: yield f"run/{each['id']}", f"run/{each[before]}", relation
    for each in rows["edges"]:
        pair = f"run/{each['run_id']}", artifact[each["artifact_id"]]
        yield (*pair, "used") if each["relation"] == "used" else (*reversed(pair), "generated_by")
    for each in rows["links"]:
        end = f"run/{each['end_id']}" if each["end_kind"] == "run" else artifact[int(each["end_id"])]
        yield f"release/{each['start_id']}", end, "serves"


def reached_by(steps, start, direction):
    "What plain Python finds."
    found, front = {start}, [start]
    ways = [(here, there) if direction == "upstream" else (there, here) for here, there, _ in steps]
    while front:
        front = list({there for here, there in ways if here in front} - found)
        found |= set(front)
    return found


@pytest.mark.parametrize("has_links", [True, False])
def test_the_database_finds_what_python_finds(catalog, has_links):
    draw = random.Random(11)
    rows = draw_graph(draw)
    if not has_links: rows |= {"links": []}
    with catalog.write() as connection:
        for name, each in rows.items():
            if each: connection.execute(tables.metadata.tables[name].insert(), each)
    steps = set(steps_of(rows))
    starts = [f"run/{each['id']}" for each in rows["runs"]] + [f"{each['type']}/{each['name']}:v0" for each in rows["artifacts"]]
    for start in draw.sample(starts, 25) + ["release/n1"]:
        both = {way: reached_by(steps, start, way) for way in ("upstream", "downstream")}
        for direction, expected in (*both.items(), ("both", both["upstream"] | both["downstream"])):
            graph = trace(catalog, start, direction)
            assert {each.id for each in graph.nodes if each.kind not in SURROUNDINGS} == expected, (start, direction)
            drawn = [(each.start, each.end, each.relation) for each in graph.edges if each.relation not in AROUND]
            assert len(drawn) == len(set(drawn)) and set(drawn) == {each for each in steps if {*each[:2]} <= expected}
            walked = trace(catalog, start, direction, depth=100)
            assert str((graph.nodes, graph.edges)) == str((walked.nodes, walked.edges)), (start, direction) # nan is not itself
    for each in rows["runs"]:
        details = trace(catalog, f"run/{each['id']}", depth=0).node(f"run/{each['id']}").details
        rate = float("nan") if each["parameters"]["rate"] == "NaN" else each["parameters"]["rate"]  # in JSON the word means the number
        assert str(details["parameters"]) == str(each["parameters"] | {"rate": rate}) and details["metrics"] == each["metrics"]


def test_many_consumers_are_cut_at_the_newest(catalog, make):
    make("prepare0", logs=[("data", "dataset")])
    with catalog.write() as connection:
        row = {"project": "p", "name": "n", "status": "finished", "parameters": {}, "metrics": {}, "hardware": {}}
        connection.execute(tables.runs.insert(), [row | {"id": f"r{number:07d}", "created_at": float(number)} for number in range(3000)])
        connection.execute(tables.edges.insert(), [
            {"run_id": f"r{number:07d}", "artifact_id": 1, "relation": "used", "requested": asked, "created_at": float(number)}
            for number in range(3000) for asked in ("data", "data:latest")])  # asked for twice, drawn once
    graph = trace(catalog, "data", "downstream", limit=501)
    found = sorted(each for each in ids(graph) if each.startswith("run/"))
    assert (graph.truncated, len(found), found[0], found[-1]) == (True, 500, "run/r0002500", "run/r0002999")
    whole = trace(catalog, "data", "downstream", limit=3001)
    assert (whole.truncated, len(ids(whole))) == (False, 3001)
    assert len(ids(trace(catalog, "data", "downstream"))) == 3001
    assert "run/prepare0" in ids(trace(catalog, "data", limit=10))  # both ways share the limit
    assert say_affected(graph).startswith("At least 500 runs are affected")


STRANGE = 'a "b" [c] (d) {e} | <f> `g` #h; ```end``` %%{init}%% ตัวเลข 数字 \n end'


def test_a_drawing_of_any_name(tmp_path):
    nodes = (Node("dataset/x:v0", "dataset", STRANGE, "4f"), Node("run/a", "run", f"{STRANGE} (a)", None, {"status": "failed"}))
    graph = Lineage("dataset/x:v0", nodes, (Edge("run/a", "dataset/x:v0", "used"),), True)
    lines = lineage_mermaid(graph).splitlines()
    assert (lines[0], lines[1], lines[-1]) == ("```mermaid", "flowchart LR", "```")
    for line in lines[2:4]:
        label = line.split('"')[1]
        assert line.count('"') == 2 and not set(label.replace("<br/>", "")) & set('[](){}|<>`%')
    for suffix in ("svg", "png"):
        save_figure(lineage_figure(graph), tmp_path / f"x.{suffix}")
        assert (tmp_path / f"x.{suffix}").stat().st_size > 1000


def test_the_command(tmp_path, monkeypatch):
    (tmp_path / "settings.ini").write_text("[workspace]\nproject = p\n")
    monkeypatch.chdir(tmp_path)
    store = open_store(open_workspace(tmp_path))
    for id, uses, logs, kind in (("prepare0", None, "data", "dataset"), ("train000", "data", "net", "model")):
        store.runs.create(id=id, project="p", name=id)
        if uses:
            store.artifacts.use(id, uses)
        (tmp_path / logs).write_text(logs)
        store.artifacts.log(id, logs, kind, list_files(tmp_path / logs))
        store.runs.finish(id, "finished")

    def call(*arguments):
        return CliRunner().invoke(main, ["lineage", *arguments])

    first = call("data", "--downstream").stdout.splitlines()
    assert first[0].startswith("1 run and 1 model are affected; the newest: model net:v0, ")
    data = json.loads(call("data", "--downstream", "--json").stdout)
    assert (data["affected"], data["truncated"], data["root"]) == ({"run": 1, "model": 1}, False, "dataset/data:v0")
    assert json.loads(call("data", "--limit", "2", "--json").stdout)["truncated"]
    assert "more, further away" in call("data", "--limit", "2").stdout
    table = call("net", "--table").stdout
    assert "made by" in table and max(map(len, table.splitlines())) <= 80
    assert call("net", "--mermaid").stdout.startswith("```mermaid\nflowchart LR\n")
    assert call("net", "--figure", "net.svg").exit_code == 0 and "<svg" in (tmp_path / "net.svg").read_text()
    assert (call("net", "--figure", "net.bmp").exit_code, call("net", "--json", "--mermaid").exit_code) == (2, 2)


def test_runs_inside_runs_are_found_both_ways(catalog, make):
    make("prepare0", logs=[("raw", "dataset")])
    make("outer000", ["raw"])
    make("inner000", logs=[("mod", "model")], parent_id="outer000")
    for depth in (None, 50):
        assert {"run/outer000", "run/inner000", "model/mod:v0"} <= ids(trace(catalog, "raw", "downstream", depth))
        up = trace(catalog, "mod", "upstream", depth)
        assert {"run/inner000", "run/outer000", "dataset/raw:v0"} <= ids(up)
        assert Edge("run/inner000", "run/outer000", "began_by") in up.edges
    assert "-. began .->" in lineage_mermaid(up)
    assert str(node_line(up, up.node("run/inner000"))) == "inner (inner000)  began by outer (outer000)"
    assert [row["made_by"] for row in lineage_rows(up) if row["name"] == "inner (inner000)"] == ["outer (outer000)"]


def test_two_names_of_one_content_are_no_file(catalog, runs, artifacts, tmp_path):
    runs.create(id="prepare0", project="p", name="prepare")
    (tmp_path / "same").write_text("the same")
    one, two = (artifacts.log("prepare0", name, "dataset", {"same": tmp_path / "same"}) for name in ("one", "two"))
    assert one.digest == two.digest
    graph = trace(catalog, f"sha256:{one.digest[:12]}")
    assert graph.root == f"content/sha256:{one.digest}"
    assert {(relation, each.id) for relation, each in graph.results(graph.root)} == {
        ("has_content", "dataset/one:v0"), ("has_content", "dataset/two:v0")}
    with pytest.raises(NotFoundError, match="single version.*(one|two):v0"):
        artifacts.use(None, f"sha256:{one.digest[:12]}")
    with pytest.raises(NotFoundError, match=f"did you mean 'sha256:{one.digest[:12]}'"):  # the nearest, as everywhere
        trace(catalog, f"sha256:{one.digest[:11]}{'0' if one.digest[11] != '0' else '1'}")


def test_a_link_that_names_a_version_does_no_harm(catalog, chain):
    with catalog.write() as connection:
        connection.execute(tables.nodes.insert().values(id="live-1", kind="release", name="live", details={}, created_at=5.0))
        ends = {"start_kind": "node", "start_id": "live-1", "end_kind": "artifact", "end_id": "net:v0"}
        connection.execute(tables.links.insert().values(relation="releases", created_at=5.0, **ends))
    for depth in (None, 50):
        assert ids(trace(catalog, "live-1", "upstream", depth)) == {"release/live-1"}


def test_the_nearest_names_are_looked_for_without_the_lock(catalog, artifacts, chain, monkeypatch):
    looked, look = [], resolution.unknown_error

    def look_freely(connection, reference):
        with Catalog(catalog.url).write() as other:  # would wait for the lock, and give up
            looked.append(other.execute(sa.select(tables.runs.c.id).limit(1)).scalar())
        return look(connection, reference)

    monkeypatch.setattr(resolution, "unknown_error", look_freely)
    for ask in (lambda: artifacts.use("prepare0", "nte"), lambda: artifacts.alias("nte", "best"), lambda: artifacts.unalias("nte", "best")):
        with pytest.raises(NotFoundError, match="did you mean 'net'"):
            ask()
    assert len(looked) == 3


def test_a_picture_that_cannot_be_written(tmp_path):
    graph = Lineage("run/a", (Node("run/a", "run", "train (a)", None),), ())
    with pytest.raises(StoreError, match="cannot be written"):
        save_figure(lineage_figure(graph), tmp_path / "no folder" / "a.svg")
