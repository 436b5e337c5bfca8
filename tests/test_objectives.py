"Objectives and the reading of TOML: what a person can get wrong, and every case of the check"
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_nb.objectives import (
    Cost,
    Goal,
    Measurement,
    Objective,
    ObjectivesReport,
    check_objective,
    check_objectives,
    measurement_from,
    read_objectives,
)
from mlops_nb.settings import ObjectivesError
from mlops_nb.text_files import toml_line

FILE = """[[goal]]
name = "sorting"
owner = "Somchai"
reason = '''
[[goal]]
name = "inside a text"
'''
cost_of_missing = 12_000

[[goal.objective]]
metric = "recall"
at_least = 0.95

[[goal.objective]]
metric = "latency_ms"
at_most = 5

[[goal]]
name = "ที่สอง"
owner = "王"
reason = "r"
objective = [{metric = "recall", at_least = 0.5, role = "guardrail"}]
"""


def read(tmp_path, text, currency="THB", encoding="utf-8"):
    path = tmp_path/"objectives.toml"
    path.write_text(text, encoding=encoding)
    return read_objectives(path, currency)


def test_goals_in_the_order_of_the_file(tmp_path):
    first, second = read(tmp_path, FILE, encoding="utf-8-sig")
    assert (first.name, first.cost_of_missing, first.currency, second.owner) == ("sorting", 12000.0, "THB", "王")
    assert [each.name for each in first.objectives] == ["recall", "latency_ms"]
    assert second.objectives == (Objective("recall", "recall", at_least=0.5, role="guardrail"),)


@pytest.mark.parametrize("old, new, line, said", [
    ('owner = "Somchai"', "owner = Somchai", 3, "Invalid value: owner = Somchai"),
    ("'''\ncost", "\ncost", 4, "reason = '''"),
    ('owner = "Somchai"', 'name = "again"', 3, "Cannot overwrite a value"),
    ("cost_of_missing = 12_000", "cost_of_missing = -1", 8, "a number from 0 on"),
    ("cost_of_missing = 12_000", "cost_of_missing = true", 8, "a finite number"),
    ("cost_of_missing", "cost_of_missnig", 8, "did you mean 'cost_of_missing'?"),
    ('owner = "Somchai"', "", 1, "[[goal]] lacks 'owner', a text in quotes"),
    ('owner = "Somchai"', 'owner = ""', 3, "[[goal]] lacks 'owner'"),
    ('metric = "recall"\n', "", 10, "[[goal.objective]] lacks 'metric'"),
    ("at_least = 0.95", "", 10, "objective 'recall' needs either at_least or at_most, and has neither"),
    ("at_least = 0.95", "at_least = 0.95\n\nat_most = 1", 14, "has both"),
    ("at_least = 0.95", "at_least = nan", 12, "at_least = nan in [[goal.objective]]; allowed is a finite number"),
    ("at_least = 0.95", "at_least = -inf", 12, "a finite number"),
    ("at_least = 0.95", 'at_least = "0.95"', 12, "a finite number"),
    ("at_least = 0.95", "at_least = 2020-01-01", 12, "a finite number"),
    ("at_least = 0.95", "at_leest = 0.95", 12, "did you mean 'at_least'"),
    ("at_most = 5", "at_most = 5\nrole = 'goal'", 17, "'target' or 'guardrail'"),
    ("at_most = 5", "at_most = 5\nbasis = 'bound'", 17, "'auto' or 'point' or 'interval'"),
    ("at_most = 5", "at_most = 5\ncost_of_miss = -3", 17, "a number from 0 on"),
    ("at_most = 5", "at_most = 5\nname = 'recall'", 17, "there are two of the name 'recall'"),
    ('"latency_ms"', '"recall"', 14, "there are two of the name 'recall'"),
    ('name = "ที่สอง"', 'name = "sorting"', 19, "there are two of the name 'sorting'"),
    ('role = "guardrail"', 'rolle = "guardrail"', 22, "did you mean 'role'?"),
    ('objective = [{metric = "recall", at_least = 0.5, role = "guardrail"}]', "objective = []", 22, "lacks 'objective'"),
    ('objective = [{metric = "recall", at_least = 0.5, role = "guardrail"}]', "objective = 5", 22, "a list of tables"),
    ("[[goal]]\nname = \"ที่สอง\"", "[goal2]\nname = \"ที่สอง\"", 18, "unknown key 'goal2' in objectives.toml; did you mean 'goal'?"),
])
def test_a_wrong_file_is_named_with_its_line(tmp_path, old, new, line, said):
    assert FILE.count(old) == 1
    with pytest.raises(ObjectivesError) as caught: read(tmp_path, FILE.replace(old, new))
    assert str(caught.value).startswith(f"{tmp_path/'objectives.toml'}, line {line}: ") and said in str(caught.value)


@pytest.mark.parametrize("text, said", [
    ("", "line 1: objectives.toml lacks 'goal'"), ("goal = 5", "line 1: goal = 5"), ("goal = [1]", "a list of tables"),
    ("x = " + "[" * 5000, "line 1: nested too deeply"), ("a = 1" + "0" * 5000, "line 1: "), ("[[goal]\nx = 1\n", "line 1: "),
])
def test_a_hopeless_file_is_named(tmp_path, text, said):
    with pytest.raises(ObjectivesError, match="objectives.toml, line 1: ") as caught: read(tmp_path, text)
    assert said in str(caught.value)


def test_windows_line_ends(tmp_path):
    (tmp_path/"objectives.toml").write_bytes(FILE.replace("at_most", "at_mots").replace("\n", "\r\n").encode())
    with pytest.raises(ObjectivesError, match="line 16: unknown key 'at_mots'"): read_objectives(tmp_path/"objectives.toml", "EUR")
    (tmp_path/"objectives.toml").write_bytes(FILE.replace("at_most", "at_most =").replace("\n", "\r\n").encode())
    with pytest.raises(ObjectivesError, match="line 16: Invalid value: at_most = = 5$"): read_objectives(tmp_path/"objectives.toml", "EUR")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ObjectivesError, match="objectives.toml: cannot be read"): read_objectives(tmp_path/"objectives.toml", "EUR")


@given(st.lists(st.tuples(st.sampled_from(["1", '"""\n[[step]]\nx = 1\n"""', "[\n1,\n\n2]", "{a = {b = 1}}", "'#'"]), st.integers(0, 2)),
                min_size=1, max_size=6))
def test_the_line_of_every_value(statements):
    text, lines = "", []
    for number, (value, blank) in enumerate(statements):
        text += "# = \n" * blank
        lines.append(text.count("\n") + 1)
        text += f"[[step]]\n\nkey = {value}\n" if number % 2 else f"[[step]]\n# key = 1\nkey = {value}\n"
    for number, line in enumerate(lines):
        assert toml_line(text, "step", number, "key") == line + 2
        assert toml_line(text, "step", number, "missing") == line


AT_LEAST, AT_MOST = {"at_least": 0.9}, {"at_most": 0.9}

@pytest.mark.parametrize("threshold, basis, measurement, status, compared, value", [
    (AT_LEAST, "auto", Measurement(0.9), "met", "point value", 0.9),
    (AT_LEAST, "auto", Measurement(0.89), "missed", "point value", 0.89),
    (AT_LEAST, "auto", Measurement(0.95, 0.89, 0.99), "missed", "lower bound", 0.89),
    (AT_LEAST, "auto", Measurement(0.95, None, 0.99), "met", "point value", 0.95),
    (AT_LEAST, "point", Measurement(0.95, 0.89, 0.99), "met", "point value", 0.95),
    (AT_LEAST, "interval", Measurement(0.95, 0.91, 0.99), "met", "lower bound", 0.91),
    (AT_LEAST, "interval", Measurement(0.95), "not measured", "lower bound", None),
    (AT_LEAST, "auto", None, "not measured", "point value", None),
    (AT_LEAST, "auto", Measurement(-math.inf), "missed", "point value", -math.inf),
    (AT_MOST, "auto", Measurement(0.9), "met", "point value", 0.9),
    (AT_MOST, "auto", Measurement(0.8, 0.7, 0.95), "missed", "upper bound", 0.95),
    (AT_MOST, "auto", Measurement(0.8, 0.7), "met", "point value", 0.8),
    (AT_MOST, "auto", Measurement(math.inf), "missed", "point value", math.inf),
])
def test_the_check_of_an_objective(threshold, basis, measurement, status, compared, value):
    objective = Objective("x", "x", basis=basis, cost_of_miss=7, **threshold)
    check = check_objective(Goal("g", "o", "r", (objective,)), objective, measurement)
    assert (check.status, check.basis, check.value, check.passed) == (status, compared, value, status == "met")
    assert check.cost == Cost(7 if status == "missed" else 0, "EUR")
    assert check.margin is None if value is None else (check.margin >= 0) == check.passed
    json.dumps(ObjectivesReport((check,)).to_dict(), allow_nan=False)


@pytest.mark.parametrize("objective, measurement, said", [
    (Objective("recall", "recall", at_least=0.95), Measurement(0.9499999),
     "recall missed: point value 0.9499999, required is at least 0.95"),
    (Objective("rows", "rows", at_least=1000000), Measurement(1234567.0),
     "rows met: point value 1,234,567, required is at least 1,000,000"),
    (Objective("p99", "p99", at_most=5, unit="ms", cost_of_miss=1234.5), Measurement(6.25),
     "p99 missed: point value 6.25 ms, required is at most 5 ms; costs 1,234.50 EUR"),
    (Objective("p99", "ms", "evaluate", at_most=5), None, "p99 not measured: log 'ms' in evaluate"),
    (Objective("p99", "ms", at_most=5, basis="interval"), Measurement(1), "p99 not measured: log 'ms' with its upper bound in the run"),
])
def test_the_message_of_a_check(objective, measurement, said):
    assert check_objective(Goal("g", "o", "r", (objective,)), objective, measurement).message == said


def test_the_metrics_of_a_run():
    metrics = {"a": 1, "b": math.nan, "c": "high", "d": True, "e": 0.5, "e_lower": math.nan, "e_upper": 0.6, "f": {"max": 1}}
    assert measurement_from(metrics, "a") == Measurement(1.0)
    assert measurement_from(metrics, "e") == Measurement(0.5, None, 0.6)
    assert [measurement_from(metrics, each) for each in "bcdfz"] == [None] * 5


def test_what_the_misses_cost():
    first, second = Objective("a", "a", at_least=1, cost_of_miss=10), Objective("b", "b", at_least=1, cost_of_miss=20)
    guardrail = Objective("c", "c", at_most=1, cost_of_miss=40, role="guardrail")
    goals = (Goal("g", "o", "r", (first, second, guardrail), cost_of_missing=100, currency="THB"),
             Goal("h", "o", "r", (guardrail,), cost_of_missing=1000, currency="THB"))
    def cost(a, b, c): return check_objectives(goals, lambda each: {"a": a, "b": b, "c": c}[each.metric]).cost
    good, low, high = Measurement(1), Measurement(0), Measurement(2)
    assert cost(good, good, good) == Cost(0, "THB")
    assert cost(low, low, good) == Cost(130, "THB")
    assert cost(good, low, high) == Cost(20 + 100 + 40 + 40, "THB")
    assert cost(good, None, good) == Cost(0, "THB")


def test_the_report_passes_only_whole():
    objectives = tuple(Objective(name, name, at_least=1) for name in "abc")
    def report(**values): return check_objectives((Goal("g", "o", "r", objectives, title="a|b"),), lambda each: values.get(each.metric))
    good = report(a=Measurement(1), b=Measurement(1), c=Measurement(1))
    assert good.passed and good.message == "3 of 3 objectives met"
    bad = report(a=Measurement(0), b=Measurement(1))
    assert not bad.passed and bad.message == "1 of 3 objectives met; missed: a; not measured: c"
    table = bad._repr_markdown_().split("\n")
    assert {line.replace("\\|", "").count("|") for line in table[:5]} == {10} and table[-1].startswith("**Not passed:**")
    assert not ObjectivesReport(()).passed
