"""Filters and sorts: what the database answers is what plain Python finds in the records, on SQLite and on PostgreSQL."""

import json
import math
import random
import re
import time

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlops_nb.settings import MlopsError, NotFoundError
from mlops_nb.store.catalog import Catalog
from mlops_nb.store.filters import AllOf, AnyOf, Comparison, Field, FilterError, Not, Value, read_field, read_filter
from mlops_nb.store.record import ENDED
from mlops_nb.store.runs import RunStore
from mlops_nb.store.search import FEW, search
from mlops_nb.store.values import as_number, flatten

NOW = 2_000_000_000.0
TEXTS = ["", "mlp", "MLP", "m%p", "m_p", "m*p", "[a]", "x?", "a'b", 'a"b', "ชุด", "0.5", "true", "'; DROP TABLE runs; --", "a\\b", "100%"]
NUMBERS = [-1.0, 0.0, 0.5, 1.0, 2.0, 1e300, math.inf]
METRICS, PARAMETERS, TAGS = ["recall", "test/roc auc", "loss"], ["rate", "model", "optimizer.name", "it's"], ["best", "Best", "a%", "ชุด"]


def values_of_a_run(draw: random.Random, number: int) -> dict:
    "A run of which anything may be missing"

    def some(names, value):
        return {name: value() for name in names if draw.random() < 0.7}

    parameters = some(["rate", "model", "it's"], lambda: draw.choice([*TEXTS, *NUMBERS, True, False, None, 3, [1, 2]]))
    if draw.random() < 0.5:
        parameters["optimizer"] = {"name": draw.choice(TEXTS)}
    started = draw.choice([None, 100.0, 200.5, NOW + 5])
    return {
        "id": f"{draw.randrange(36**4):05}{number:03}",
        "project": "p",
        "name": draw.choice(TEXTS[1:]),
        "status": draw.choice(ENDED),
        "parameters": parameters,
        "metrics": some(METRICS, lambda: draw.choice([*NUMBERS, math.nan, "text"])),
        "notebook": draw.choice([None, "a.ipynb", "B.ipynb"]),
        "group_id": draw.choice([None, "g1"]),
        "step": draw.choice([None, *TEXTS]),
        "created_at": float(draw.randrange(5)),
        "hardware": {},
        "started_at": started,
        "ended_at": draw.choice([None, 300.0, 150.0]),
        "tags": [tag for tag in TAGS if draw.random() < 0.3],
    }


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def runs(request, tmp_path_factory):
    "A store of runs, made once for all questions"
    folder = tmp_path_factory.mktemp("search")
    if request.param == "postgresql":
        url = request.getfixturevalue("postgresql_url")
        engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        with engine.connect() as connection:
            connection.exec_driver_sql("CREATE DATABASE search")
        catalog = Catalog(url.replace("/postgres?", "/search?"))
    else:
        catalog = Catalog(f"sqlite:///{folder}/catalog.db")
    store, draw = RunStore(catalog, folder / "runs"), random.Random(1)
    for number in range(40):
        values = values_of_a_run(draw, number)
        store.insert({key: value for key, value in values.items() if key != "tags"}, tuple(values["tags"]))
    return store


@pytest.fixture(scope="module")
def records(runs):
    return runs.list()


# ---- the same in plain Python


def seen(record, field):
    "What a record has in a field: pairs of text and number"
    if field.source == "tags":
        return [(tag, None) for tag in record.tags]
    if field.source == "metrics":
        number = as_number(record.metrics.get(field.name))
        return [] if number is None else [(None, number)]
    if field.source == "params":
        found = dict(flatten(record.parameters))
        if field.name not in found:
            return []
        value = found[field.name]
        return [(value if isinstance(value, str) else json.dumps(value), as_number(value))]
    if field.name == "duration":
        value = None if record.started_at is None else max(0.0, (NOW if record.ended_at is None else record.ended_at) - record.started_at)
    else:
        value = getattr(
            record, {"created": "created_at", "started": "started_at", "ended": "ended_at", "group": "group_id"}.get(field.name, field.name)
        )
    return [] if value is None else [(value, None) if isinstance(value, str) else (None, value)]


def fits_pattern(text, pattern, capitals):
    words = "".join({"%": ".*", "_": "."}.get(each, re.escape(each)) for each in pattern)
    return re.fullmatch(words, text, re.DOTALL | (0 if capitals else re.IGNORECASE)) is not None


def fits(comparison, text, number):
    "Whether one value fits"
    operator = comparison.operator
    for value in comparison.values:
        if operator in ("like", "ilike"):
            found = text is not None and fits_pattern(text, value.text, operator == "like")
        elif operator in ("=", "in"):
            found = value.text is not None and value.text == text or value.number is not None and value.number == number
        else:
            found = (
                value.number is not None
                and number is not None
                and {">": number > value.number, ">=": number >= value.number, "<": number < value.number, "<=": number <= value.number}[
                    operator
                ]
            )
        if found:
            return True
    return False


def holds(part, record):
    "Whether a record fits a filter"
    if isinstance(part, AllOf):
        return all(holds(each, record) for each in part.parts)
    if isinstance(part, AnyOf):
        return any(holds(each, record) for each in part.parts)
    if isinstance(part, Not):
        return not holds(part.part, record)
    found = [fits(part, *each) for each in seen(record, part.field)]
    if part.field.source == "tags":
        return not any(found) if part.negated else any(found)
    return bool(found) and found[0] != part.negated


def in_order(records, field, ascending):
    "Records sorted: those without a value last, numbers before texts, the newest first among equals"
    newest = sorted(sorted(records, key=lambda each: each.id), key=lambda each: -each.created_at)

    def value(each):
        return next(iter(seen(each, field)), None)

    def text(each):
        return (value(each)[0] or "") if field.source == "params" or isinstance(value(each)[0], str) else ""

    having = sorted([each for each in newest if value(each)], key=text, reverse=not ascending)
    numbered = sorted([each for each in having if value(each)[1] is not None], key=lambda each: value(each)[1], reverse=not ascending)
    return numbered + [each for each in having if value(each)[1] is None] + [each for each in newest if not value(each)]


# ---- filters as texts


def quoted(text):
    return "'" + text.replace("'", "''") + "'"


FIELDS = (
    [f"metrics.{quoted(name)}" for name in METRICS]
    + [f"params.{quoted(name)}" for name in PARAMETERS]
    + ["tags", "metrics.recall", "param.rate"]
    + ["id", "name", "status", "notebook", "group", "step", "created", "started", "ended", "duration", "attempt"]
)
numbers = st.sampled_from([str(each) for each in NUMBERS if math.isfinite(each)] + ["1e-1", "+2", ".5", "150", "1e999"])
texts = st.sampled_from(TEXTS + TAGS + ["a.ipynb", "g1", "%", "m%", "_LP", "%.ipynb", "[1, 2]", "null"]).map(quoted)


@st.composite
def comparisons(draw):
    name = draw(st.sampled_from(FIELDS))
    kind = read_field(name).kind
    operator = draw(
        st.sampled_from(
            {
                "number": ["=", "!=", ">", ">=", "<", "<=", "in", "not in"],
                "text": ["=", "!=", "like", "ILIKE", "in", "NOT IN", "not like"],
                "time": ["=", "!=", ">", ">=", "<", "<="],
                "any": ["=", "!=", ">", "<=", "in", "not in", "LIKE", "not ilike"],
            }[kind]
        )
    )
    if name == "status":
        values = st.sampled_from(ENDED).map(quoted)
    elif kind == "any" and operator in (">", "<="):
        values = numbers
    elif kind == "any":
        values = texts if "like" in operator.lower() else st.one_of(numbers, texts, st.sampled_from(["true", "False", "'0.5'"]))
    else:
        values = texts if kind == "text" else numbers
    if operator.lower().endswith("in"):
        return f"{name} {operator} ({', '.join(draw(st.lists(values, min_size=1, max_size=3)))})"
    return f"{name} {operator} {draw(values)}"


filters = st.recursive(
    comparisons(),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from([" and ", " AND ", " or "]), inner).map("".join),
        inner.map("not ({})".format),
        inner.map("({})".format),
    ),
    max_leaves=6,
)
sorts = st.one_of(st.none(), st.sampled_from(FIELDS).filter(lambda each: each != "tags"))


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.one_of(st.none(), filters),
    sort=sorts,
    ascending=st.booleans(),
    limit=st.one_of(st.none(), st.integers(1, 10)),
    first=st.one_of(st.just(0), st.integers(1, 40)),
    few=st.sampled_from([0, 5, FEW]),
)
def test_the_database_finds_what_python_finds(runs, records, text, sort, ascending, limit, first, few):
    part, field = read_filter(text) if text else None, read_field(sort) if sort else Field("attributes", "created")
    part_of_all = [record for record in records if part is None or holds(part, record)]
    with pytest.MonkeyPatch.context() as patch, runs.catalog.read() as connection:
        patch.setattr("mlops_nb.store.search.FEW", few)
        found = search(connection, part, field, ascending, limit, now=NOW, first=first)
    wanted = [record.id for record in in_order(part_of_all, field, ascending)][first:][:limit]
    assert found == wanted


def test_texts_never_become_sql(runs, records):
    statements = []
    for text in ["'; DROP TABLE runs; --", "x' OR '1'='1", "\0", "\udce9", "%s", ":name", "%(x)s"]:
        part = Comparison(Field("params", text), "in", (Value(text, 1.0),))
        for each in (
            part,
            Comparison(Field("tags", "tags"), "like", (Value(text),)),
            Comparison(Field("attributes", "name"), "ilike", (Value(text),)),
        ):
            with runs.catalog.read() as connection:
                sa.event.listen(connection, "before_cursor_execute", lambda *values: statements.append(values[2]))
                try:
                    search(connection, each, now=NOW)
                except NotFoundError:
                    pass
    assert statements and not any("DROP" in each or "'1'" in each for each in statements)
    assert len(runs.list()) == len(records)


def test_a_name_that_no_run_has_is_an_error(runs):
    for options in ({"filter": "metrics.recal > 0.9"}, {"filter": "tags = 'best' or not metrics.recal > 0.9"}, {"sort": "metrics.recal"}):
        with pytest.raises(NotFoundError, match="no metric 'recal'; did you mean 'recall'"):
            runs.list(**options)
    with pytest.raises(NotFoundError, match="no parameter 'optimizer.nam'; did you mean 'optimizer.name'"):
        runs.list(filter="params.optimizer.nam = 'adam'")


def test_nothing_was_measured_yet(tmp_path):
    store = RunStore(Catalog(f"sqlite:///{tmp_path}/catalog.db"), tmp_path / "runs")
    assert store.list(filter="metrics.recall > 0.9", sort="params.rate") == []


def test_usual_questions_and_a_filter_hold_together(runs, records):
    found = runs.list(status="failed", tag="best", notebook="ipynb", group_id=None, filter="attempt = 1", brief=True)
    assert {each.id for each in found} == {each.id for each in records if each.status == "failed" and "best" in each.tags and each.notebook}
    assert all(each.hardware is None and each.request is None for each in found)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.one_of(
        st.text(max_size=60),
        st.lists(
            st.sampled_from(
                ["metrics.a", "params.'x y'", "tags", "(", ")", "and", "or", "not", "in", "=", ">", "'t'", "1", ",", "like", "'"]
            ),
            max_size=12,
        ).map(" ".join),
    )
)
def test_any_text_is_a_filter_or_an_error_that_says_where(text):
    try:
        read_filter(text)
    except FilterError as error:
        assert isinstance(error, MlopsError) and ("character" in str(error)) and ("expected" in str(error) or "is no field" in str(error))


@pytest.mark.parametrize(
    "text", ["(" * 10_000, "not " * 10_000, " and ".join(["tags = 'a'"] * 1_000), f"params.a in ({', '.join(['1'] * 100_000)})"]
)
def test_endless_filters_are_refused(text):
    with pytest.raises(FilterError, match="at most"):
        read_filter(text)


def test_as_many_comparisons_as_are_allowed_can_be_asked(runs, records):
    many = " or ".join(f"params.model in ({', '.join(['1'] * 900)})" for _ in range(30)) + "".join(
        " and (tags = 'a' or attempt = 1)" for _ in range(30)
    )
    assert len(runs.list(filter=many)) <= len(records)
    deep = "(" * 48 + "attempt = 1" + ")" * 48
    assert len(runs.list(filter=deep)) == len(records)


def test_times_are_local_unless_they_say_otherwise(monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Bangkok")
    time.tzset()
    try:
        assert read_filter("created > '2026-11-01'").values == read_filter("created > '2026-10-31T17:00Z'").values
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(("text", "same"), [
    ("'20261101'", "'2026-11-01'"), ("'2026'", "'2026-01-01'"), ("'20261101T120000'", "'2026-11-01T12:00'"),
    ("'1790000000.5'", "1790000000.5"), ("'1790000000'", "1790000000")])
def test_a_date_in_quotes_is_no_number_of_seconds(text, same):
    assert read_filter(f"created > {text}").values == read_filter(f"created > {same}").values
