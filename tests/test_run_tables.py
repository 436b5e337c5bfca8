"""Tables of runs and of a lineage on narrow pages: what one copies stays whole."""

import io

import pytest
from rich.cells import cell_len

from mlops_nb.lineage_table import lineage_table
from mlops_nb.run_tables import runs_table
from mlops_nb.store.lineage_graph import Edge, Lineage, Node
from mlops_nb.store.record import RunRecord
from mlops_nb.wording import console

NOW = 1_772_366_400.0


def printed(table, width):
    page = console(width=width, file=io.StringIO())
    page.print(table)
    return page.file.getvalue().splitlines()


def run(id, name, status, age_s, took_s, tags, parameters):
    start = NOW - age_s
    metrics = {"validation_accuracy": 0.97312, "worst_digit_recall": 0.9}
    return RunRecord(id, "digits", name, status, start, started_at=start, ended_at=start + took_s, tags=tags, parameters=parameters,
                     metrics=metrics)


@pytest.mark.parametrize("width, asked", [(width, asked) for width in (72, 80, 100, 140) for asked in (False, True)])
def test_id_status_age_and_duration_stay_whole(width, asked):
    records = [run("k3j9x0aa", "train", "finished", 210, 63, ("reproduction",), {"learning_rate": 0.003, "epochs": 12}),
               run("p5q6r7s8", "evaluation", "cancelled", 750, 630, (), {"learning_rate": 0.001, "epochs": 14})]
    columns = {"validation_accuracy": ["0.9731", "0.9731"]} if asked else None
    lines = printed(runs_table(records, now=NOW, width=width, asked=columns), width)
    assert len(lines) == 3 and all(cell_len(line) <= width for line in lines)
    assert all(word in lines[1] for word in ("k3j9x0aa", "train", "finished", "3 min", "1 min 3 s")), lines
    assert all(word in lines[2] for word in ("p5q6r7s8", "evaluation", "cancelled", "12 min", "10 min 30 s")), lines
    assert ("reproduction" in lines[1]) == (width == 140 or width == 100 and not asked)


def test_no_runs_are_an_empty_table():
    assert runs_table([], now=NOW).row_count == 0


def node(kind, name, **details):
    return Node(f"{kind}/{name}", kind, name, "4f2a91c07d3b" * 5, {"created_at": "2026-03-01T11:55:00.000+00:00", **details})


@pytest.mark.parametrize("width", (80, 100, 120))
def test_a_lineage_keeps_versions_and_ids(width):
    data = node("evaluation", "evaluation-of-handwritten-digits:v12", version="v12")
    made = node("run", "evaluate-all-postcodes (a1b2c3d4)")
    graph = Lineage(data.id, (data, made), (Edge(data.id, made.id, "generated_by"),))
    lines = printed(lineage_table(graph, width, now=NOW), width)
    assert len(lines) == 3 and all(cell_len(line) <= width for line in lines)
    assert "v12" in lines[1] and "(a1b2c3d4)" in lines[1] and "(a1b2c3d4)" in lines[2]
    assert all(line.rstrip().endswith("5 min") for line in lines[1:])
    assert ("4f2a91c07d3b" in lines[1]) == (width >= 100)
