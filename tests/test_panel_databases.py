"The questions of panels on both databases: whoever moves a catalog to a server sees the same runs, lineage and objectives there."

import big_catalog
import pytest
import sqlalchemy as sa

from mlops_nb.settings import open_workspace
from mlops_nb.store.door import open_store
from mlops_nb.widgets.data_table import Query
from mlops_nb.widgets.evaluated_versions import champions, evaluated_versions, newest_measurement, state_of
from mlops_nb.widgets.lineage_starts import first_start, suggest
from mlops_nb.widgets.lineage_view import Question, affected_by, record_of
from mlops_nb.widgets.lineage_view import answer as lineage_of
from mlops_nb.widgets.objectives_start import goals_or_none
from mlops_nb.widgets.objectives_view import look
from mlops_nb.widgets.run_columns import GROUPS, answer, asked_metrics
from mlops_nb.widgets.views import find_view

OBJECTIVES = """[[goal]]
name = "g"
owner = "o"
reason = "r"
[[goal.objective]]
metric = "test_roc_auc"
measured_in = "train"
at_least = 0.8
"""


@pytest.fixture(scope="module")
def stores(tmp_path_factory, new_database):
    "The same 400 runs on SQLite and on PostgreSQL"
    with new_database() as server:
        found = {}
        for kind in ("sqlite", "postgresql"):
            root = tmp_path_factory.mktemp(kind)
            catalog = f"catalog = {server}\n" if kind == "postgresql" else ""
            (root / "settings.ini").write_text(f"[workspace]\nproject = digits\n{catalog}[wandb]\nmode = disabled\n")
            (root / "objectives.toml").write_text(OBJECTIVES)
            (root / ".mlops").mkdir()
            workspace = open_workspace(root)
            big_catalog.fill(workspace.catalog_url, pipelines=8)
            found[kind] = open_store(workspace)
        yield found
        found["postgresql"].catalog._engine.dispose()


QUERIES = [Query(), Query(first=100, rows=10), Query(sort="metrics.test_roc_auc"), Query(sort="params.learning_rate", ascending=True),
           Query(filter="name = 'train' and metrics.test_roc_auc > 0.8"), Query(filter="params.model = 'mlp'", sort="duration"),
           *(Query(group=name) for name, _ in GROUPS), Query(group="params.model")]


@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_pages_of_runs_are_the_same(stores, query):
    pages = [answer(each, query, "metrics.test_roc_auc") for each in stores.values()]
    assert pages[0].rows and pages[0] == pages[1]


def test_lineages_are_the_same(stores):
    def ask(store):
        start = first_start(store)
        graph = lineage_of(store, Question(start))
        named = [suggest(store, text) for text in ("model", "churn-0-model:", "100%")]
        records = [record_of(store, graph, each.id) for each in graph.nodes]
        return start, graph, named, records, affected_by(store, graph.root), find_view("lineage").static(store)

    found = [ask(each) for each in stores.values()]
    assert len(found[0][1].nodes) > 5 and all(found[0][3]) and found[0][2][0]
    for one, other in zip(*found):
        assert one == other


def test_objectives_are_the_same(stores):
    def ask(store):
        (goal,) = goals_or_none(store)
        record, measured = newest_measurement(store, goal.objectives[0])
        best = champions(store)
        parts = look(store, best[0].reference, text="latest"), asked_metrics(store), state_of(store)[:4]
        faces = find_view("objectives").static(store), find_view("runs").static(store)
        return best, evaluated_versions(store, "v1"), record.id, measured, parts, *faces

    found = [ask(each) for each in stores.values()]
    assert found[0][0] and found[0][1] and "0.8" in found[0][5]
    for one, other in zip(*found):
        assert one == other


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_version_that_is_evaluated_each_night_takes_no_more_questions(stores, kind):
    "Its evidence is read at once, however many runs used it"
    store, asked = stores[kind], []
    reference = champions(store, 1)[0].reference
    look(store, reference)
    sa.event.listen(store.catalog._engine, "before_cursor_execute", lambda *arguments: asked.append(arguments[2]))
    look(store, reference)
    before = len(asked)
    for number in range(8):
        run = store.runs.create(id=f"{kind[:3]}night{number}", project="p", name="evaluate").id
        store.artifacts.use(run, reference)
        (store.workspace.root / "note.txt").write_text(str(number))
        store.artifacts.log(run, "nightly", "evaluation", {"note.txt": store.workspace.root / "note.txt"})
        store.runs.finish(run, "finished")
    asked.clear()
    look(store, reference)
    assert len(asked) <= before + 2
