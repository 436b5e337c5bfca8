"""Pages, totals and groups of runs: what the database gives is what plain Python makes of the whole list, on SQLite and on PostgreSQL."""

import random
from collections import Counter

import pytest

from mlops_nb.settings import NotFoundError
from mlops_nb.store.filters import FilterError
from mlops_nb.store.run_pages import PINNED, filter_of_group, run_groups, run_page

MODELS = ["mlp", "it's 100%", "0.5", 0.5, True, None]
FILTERS = ["", "metrics.recall > 0.4", "params.model = 'mlp' or tags = 'best'", "not status = 'failed' and metrics.recall < 0.9"]


@pytest.fixture
def filled(runs):
    "Thirty runs of which anything may be missing, three of them pinned"
    draw = random.Random(4)
    for number in range(30):
        model, tags = draw.choice(MODELS), [tag for tag in ("best", "ชุด") if draw.random() < 0.3] + [PINNED] * (number in (3, 11, 25))
        runs.insert(
            {
                "id": f"run{number:05}",
                "project": "p",
                "name": draw.choice(["train", "evaluate"]),
                "status": draw.choice(["finished", "failed"]),
                "created_at": float(draw.randrange(8)),
                "hardware": {},
                "parameters": {} if model is None else {"model": model},
                "metrics": {"recall": draw.random()} if draw.random() < 0.8 else {},
            },
            tuple(tags),
        )
    return runs


@pytest.mark.parametrize("sort", ["", "metrics.recall", "params.model", "name", "duration"])
@pytest.mark.parametrize("filter", FILTERS)
def test_pages_are_pieces_of_the_whole_list_with_pinned_runs_first(filled, filter, sort):
    whole = filled.list(filter=filter or None, sort=sort or None, ascending=True)
    wanted = [each.id for each in sorted(whole, key=lambda each: PINNED not in each.tags)]
    assert wanted
    for rows in (4, 7, 50):
        found = []
        for first in range(0, len(wanted) + rows, rows):
            page = run_page(filled, first, rows, filter, sort, ascending=True)
            assert page.total == len(wanted) and len(page.records) <= rows
            found += [each.id for each in page.records]
        assert found == wanted


@pytest.mark.parametrize("by", ["params.model", "tags", "status", "name"])
@pytest.mark.parametrize("filter", FILTERS)
def test_groups_are_those_of_the_whole_list(filled, by, filter):
    def values(record):
        if by == "tags":
            return list(record.tags) or [None]
        if by != "params.model":
            return [getattr(record, by)]
        value = record.parameters.get("model")
        return [None if value is None else value if isinstance(value, str) else str(value).lower()]

    records = filled.list(filter=filter or None)
    pairs = [(value, record) for record in records for value in values(record)]
    wanted = Counter(value for value, _ in pairs)
    page = run_groups(filled, by, filter=filter, metric="recall")
    assert {each.value: each.runs for each in page.groups} == wanted
    assert (page.total, page.runs) == (len(wanted), len(pairs))
    for group in page.groups:
        measured = [record.metrics["recall"] for value, record in pairs if value == group.value and "recall" in record.metrics]
        if not measured:
            assert group.least is group.mean is group.most is None
            continue
        assert (group.least, group.most) == (min(measured), max(measured))
        assert group.mean == pytest.approx(sum(measured) / len(measured))


@pytest.mark.parametrize("by", ["status", "name", "tags"])
def test_the_filter_of_a_group_finds_its_runs(filled, by):
    for group in run_groups(filled, by, filter=FILTERS[1]).groups:
        runs = run_page(filled, filter=filter_of_group(by, group.value, FILTERS[1]), rows=100)
        assert runs.total == group.runs


def test_pages_of_groups_come_in_the_order_that_is_asked_for(filled):
    whole = run_groups(filled, "params.model", metric="recall", sort="most", ascending=True).groups
    assert [each.most for each in whole] == sorted(each.most for each in whole)
    assert run_groups(filled, "params.model", first=1, rows=2, metric="recall", sort="most", ascending=True).groups == whole[1:3]


def test_what_cannot_be_asked_is_refused(filled):
    with pytest.raises(FilterError, match="no order by their tags"):
        run_page(filled, sort="tags")
    with pytest.raises(FilterError, match="allowed are params.NAME, tags, status"):
        run_groups(filled, "metrics.recall")
    with pytest.raises(NotFoundError, match="did you mean 'model'"):
        run_groups(filled, "params.modle")
    assert len(run_page(filled, rows=10**9).records) == 30
