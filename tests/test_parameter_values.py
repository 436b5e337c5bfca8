"""Values on their way into a notebook: what goes in comes out equal, and nothing in it is ever run."""
import datetime as dates
import decimal
import enum
import json
import math
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Annotated, Literal

import pytest
from annotated_types import Ge
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_notebook

from mlops_nb.experiments.acceptance import Accepted, accept_parameters, inject_parameters
from mlops_nb.experiments.conversion import Refused, convert
from mlops_nb.experiments.given_texts import GivenText
from mlops_nb.experiments.kept_values import keep_values, read_kept
from mlops_nb.experiments.literals import literal, to_record
from mlops_nb.experiments.notebook_parameters import read_signature
from mlops_nb.settings import ParameterError, StoreError

ATTACK = "x'\"\"\"); __import__('mlops_nb_sentinel'); ('\n\r\u2028%%bash\n!touch ran ?"
IMPORTS = """
import datetime, datetime as dt, enum, math, pathlib, typing
from datetime import date, datetime as moment
from pathlib import Path
from typing import Annotated, Any, List, Literal, Optional, Union
import annotated_types
from annotated_types import Ge, Interval
from pydantic import Field, PositiveInt, SecretStr
class Color(str, enum.Enum):
    RED = "red"
    BLUE = "blau"
Rate = Annotated[float, Interval(gt=0, le=1)]
"""

texts = st.one_of(st.text(st.characters(), max_size=20), st.sampled_from([
    ATTACK, "\ud800", "\udcff\u2028", "{x}", "${x}", "$(x)", "\\", "?", "%x"]))
numbers = st.one_of(st.integers(), st.sampled_from([4299, 5000, 21000]).map(lambda digits: -(10 ** digits)), st.floats())
paths = texts.filter(lambda text: "\0" not in text).map(Path)
moments = st.datetimes(timezones=st.one_of(st.none(), st.just(dates.timezone(dates.timedelta(hours=5, minutes=45)))))
hashable = st.one_of(st.none(), st.booleans(), numbers, texts, st.binary(max_size=9), paths, st.dates(), moments, st.times())
keys = hashable.filter(lambda value: value == value)
values = st.recursive(hashable, lambda inner: st.one_of(
    st.lists(inner, max_size=4), st.lists(inner, max_size=3).map(tuple), st.dictionaries(keys, inner, max_size=3),
    st.sets(keys, max_size=3), st.frozensets(keys, max_size=3)), max_leaves=12)


def same(one, other):
    "Equal, of the same type, with NaN equal to NaN"
    if isinstance(one, dates.date | dates.time):
        return type(one) is type(other) and one == other
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return (math.isnan(one) and math.isnan(other)) or (one == other and math.copysign(1, one) == math.copysign(1, other))
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return len(one) == len(other) and all(same(each, other[key]) for key, each in one.items())
    return one == other


def notebook_with(source, imports=IMPORTS):
    cells = [new_code_cell(imports), new_code_cell(source, metadata={"tags": ["parameters"]})]
    return new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})


def run(notebook):
    "What a notebook's cells leave behind, run one after another in one namespace; IPython's own translation comes before"
    from IPython.core.inputtransformer2 import TransformerManager
    space = {}
    for cell in notebook.cells:
        exec(TransformerManager().transform_cell(cell.source), space)
    return space


@given(values)
@example(ATTACK)
@example([float("nan"), -0.0, float("-inf"), ()])
def test_literals_give_equal_values(value):
    source = literal(value)
    assert "\n" not in source
    assert same(eval(source), value)


@settings(max_examples=60, deadline=None)
@given(values)
@example({ATTACK: [ATTACK, Path(ATTACK.replace("\0", ""))]})
def test_what_goes_in_comes_out(value):
    notebook = notebook_with("value = 1\nother = 2")
    space = run(inject_parameters(notebook, accept_parameters(notebook, {"value": value})))
    assert same(space["value"], value)
    assert space["other"] == 2
    assert "mlops_nb_sentinel" not in sys.modules


@given(values)
def test_records_are_json(value):
    json.dumps(to_record(value))


@settings(max_examples=60)
@given(st.one_of(st.integers(), st.floats(allow_nan=False), st.booleans(), st.text(max_size=9), st.none()))
def test_typed_texts_come_back(value):
    kind = {int: int, float: float, bool: bool, str: str, type(None): int | None}[type(value)]
    assert same(convert(kind, GivenText(value if isinstance(value, str) else str(value))), value)


def test_in_a_real_kernel():
    "Many values at once; the kernel compares them with what was sent on another way"
    from base64 import b64encode
    from pickle import dumps

    from nbclient import NotebookClient
    given_values = {"text": ATTACK, "nan": float("nan"), "inf": -float("inf"), "large": 10 ** 5000,
                    "nested": {1: [(), {"a": {2, 3}}], None: b"\0"},
                    "path": Path("a b/ค่า's"), "day": dates.date(2024, 1, 31), "empty": [set(), frozenset(), {}, (), ""], "half": "\ud800x"}
    notebook = notebook_with("\n".join(f"{name} = None" for name in given_values))
    executable = inject_parameters(notebook, accept_parameters(notebook, given_values))
    compare = f"import base64, pickle\nsent = pickle.loads(base64.b64decode({b64encode(dumps(given_values)).decode()!r}))\n"
    compare += "assert sent.pop('large') == large\n"
    compare += "assert repr({name: globals()[name] for name in sent}) == repr(sent)\nprint('all', len(sent), 'equal')"
    executable.cells.append(new_code_cell(compare))
    NotebookClient(executable, timeout=60, kernel_name="python3").execute()
    assert executable.cells[-1].outputs[0].text == f"all {len(given_values) - 1} equal\n"


@pytest.mark.parametrize("annotation, text, expected", [
    ("int", "10", 10), ("int", "1e5", 100000), ("int", " 7 ", 7), ("float", "1", 1.0), ("float", "-inf", -math.inf),
    ("bool", "no", False), ("bool", "1", True), ("bool", "True", True), ("str", "01234", "01234"), ("str", "None", "None"),
    ("'str'", "1", "1"),
    ("Path", "a b/c", Path("a b/c")), ("pathlib.Path", "x", Path("x")), ("date", "2024-01-31", dates.date(2024, 1, 31)),
    ("datetime.date", "2024-01-31", dates.date(2024, 1, 31)), ("moment", "2024-01-31", dates.datetime(2024, 1, 31)),
    ("dt.datetime", "2024-01-31T12:00Z", dates.datetime(2024, 1, 31, 12, tzinfo=dates.UTC)),
    ("Literal['adam', 'sgd', 3]", "3", 3), ("Literal['3', 3]", "3", "3"), ("Literal[True, None]", "None", None),
    ("Optional[int]", "None", None), ("int | None", "5", 5), ("typing.Optional[str]", "5", "5"), ("Union[int, str]", "5", 5),
    ("int | str", "x", "x"),
    ("list[int]", "[1, 2]", [1, 2]), ("List[str]", "[01234, yes]", ["01234", "yes"]), ("list", "[1, a, null]", [1, "a", None]),
    ("dict[str, float]", '{"a": 1e-3}', {"a": 1e-3}), ("dict", "{1: x}", {1: "x"}),
    ("dict[int, list[date]]", "{1: [2024-01-31]}", {1: [dates.date(2024, 1, 31)]}),
    ("tuple[int, str]", "[1, 2]", (1, "2")), ("tuple[float, ...]", "[1, 2, .nan]", None), ("set[int]", "[1, 1]", {1}),
    ("Annotated[int, Ge(1)]", "1", 1), ("Annotated[int, Field(ge=1, description='help')]", "3", 3), ("Rate", "1", 1.0),
    ("PositiveInt", "1", 1),
    ("list[Rate]", "[0.5]", [0.5]), ("Any", "1e3", 1000.0), ("typing.Final[int]", "3", 3), ("annotated_types.Annotated[int, 3]", "x", "x"),
])
def test_texts_become_what_the_annotation_says(annotation, text, expected):
    notebook = notebook_with(f"value: {annotation} = ...  # help")
    accepted = accept_parameters(notebook, {"value": GivenText(text)})
    if expected is not None or text == "None":
        assert same(accepted.values["value"], expected)
    space = run(inject_parameters(notebook, accepted)) if not annotation.startswith("annotated_types.Annotated") else accepted.values
    assert repr(space["value"]) == repr(accepted.values["value"])
    json.dumps(accepted.recorded)


@pytest.mark.parametrize("annotation, value, allowed", [
    ("int", GivenText("abc"), "'abc': allowed is a whole number"), ("int", 1.5, "1.5: allowed is"), ("int", True, "True: allowed is"),
    ("int", GivenText("1.5"), "allowed is a whole number"), ("float", True, "a number"), ("str", 668, "a text"),
    ("bool", GivenText("maybe"), "true or false"),
    ("date", 20240131, "a date such as"), ("date", GivenText("31.1.2024"), "a date such as"),
    ("Color", GivenText("green"), "'red' or 'blau'"),
    ("Literal['adam', 'sgd']", GivenText("Adam"), "'adam' or 'sgd'"),
    ("list[int]", GivenText("[1, x]"), r"value\[1\] = 'x': allowed is a whole number"),
    ("dict[str, int]", GivenText("{a: b}"), r"value\['a'\] = 'b'"), ("list[int]", GivenText("1, 2"), "a list such as"),
    ("tuple[int, int]", [1], "a list of 2"),
    ("Annotated[int, Ge(1)]", GivenText("0"), "a whole number, at least 1"), ("Rate", 1.5, "a number, above 0, at most 1"),
    ("Optional[int]", GivenText("x"), "a whole number or None"), ("Annotated[str, Field(min_length=2)]", "a", "of length at least 2"),
    ("PositiveInt", 0, "above 0"),
    ("list[int]", GivenText("[" * 5000), "a list such as"), ("int", GivenText("nan"), "whole number"), ("float", 10 ** 400, "a number"),
])
def test_what_is_refused(annotation, value, allowed):
    with pytest.raises(ParameterError, match=allowed):
        accept_parameters(notebook_with(f"value: {annotation} = ..."), {"value": value})


def test_integers_beyond_what_python_prints():
    notebook = notebook_with("n: int = 1\nbound: Annotated[int, Ge(1)] = 1\nmode: Literal[1, 2] = 1\nrate: float = 1.0")
    accepted = accept_parameters(notebook, {"n": GivenText("9" * 5000)})
    assert accepted.values == {"n": 10 ** 5000 - 1}
    assert accept_parameters(notebook, {"n": accepted.recorded["n"]}).values == accepted.values
    for name in ("bound", "mode", "rate"):
        with pytest.raises(ParameterError, match=f"{name} = an integer of 16610 bits: allowed is"):
            accept_parameters(notebook, {name: -(10 ** 5000)})


def test_an_enum_is_read_from_where_it_is_defined(tmp_path):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("raise SystemError('run')\n")
    kinds = "import enum\nraise SystemError('run')\nclass Kind(enum.Enum):\n    SMALL = 1\n    LARGE = enum.auto()\n"
    (tmp_path / "package" / "kinds.py").write_text(kinds)
    (tmp_path / "facade.py").write_text("from package.kinds import Kind as Kind\n")
    notebook = notebook_with("import facade as f\nkind: f.Kind = f.Kind.SMALL\ncolor: Color = Color.RED\ncolors: list[Color] = []")
    accepted = accept_parameters(notebook, {"kind": GivenText("2"), "color": "BLUE", "colors": GivenText("[red, BLUE]")}, folder=tmp_path)
    assert accepted.recorded == {"kind": 2, "color": "blau", "colors": ["red", "blau"]}
    source = inject_parameters(notebook, accepted).cells[2].source
    assert source == "# Parameters\nkind = f.Kind.LARGE\ncolor = Color.BLUE\ncolors = [Color.RED, Color.BLUE]\n"
    assert "package" not in sys.modules and "facade" not in sys.modules


@pytest.mark.parametrize("imports, parameter, written", [
    ("from pathlib import Path", "data: Path = Path('x')", "Path('new')"),
    ("import pathlib as p", "data: p.Path = p.Path('x')", "p.Path('new')"),
    ("from pathlib import *", "data: Path", "Path('new')"),
    ("import pathlib", "Path = 3\ndata: pathlib.Path", "pathlib.Path('new')"),
    ("from pathlib import Path", "data: Path\nPath = 3", "__import__(\"pathlib\").Path('new')"),
    ("try:\n    from pathlib import Path\nexcept ImportError: pass", "data: Path", "Path('new')"),
])
def test_names_are_those_of_the_notebook(imports, parameter, written):
    notebook = notebook_with(parameter, imports)
    assert f"data = {written}" in inject_parameters(notebook, accept_parameters(notebook, {"data": "new"})).cells[2].source


def test_a_parameter_that_hides_its_own_type():
    notebook = notebook_with("date: date = date(2024, 1, 31)\nfloat: float = 1.0")
    space = run(inject_parameters(notebook, accept_parameters(notebook, {"date": "2025-02-28", "float": "inf"})))
    assert (space["date"], space["float"]) == (dates.date(2025, 2, 28), math.inf)


@pytest.mark.parametrize("annotation", [
    "np.ndarray", "Callable[[int], int]", "Missing", "make()", "list[Missing]", "'not python ('", "Loop", "Literal[1.5]"])
def test_what_only_running_would_tell_takes_any_value(annotation, caplog):
    notebook = notebook_with(f"value: {annotation} = None", IMPORTS + "\nLoop = Loop\n")
    assert accept_parameters(notebook, {"value": GivenText("10")}).values == {"value": 10}
    assert f"the annotation {annotation} can only be understood" in caplog.text


def test_defaults_help_and_order():
    signature = read_signature(notebook_with('''
%matplotlib inline
text: str = "a # b"  # with a hash
sizes: list[int] = [
    32,  # first
    16,
]  # of the layers
folder = Path("x")
low = high = 8 * 1024
a, b = 1, 2
import os
late: int
late = 5
if True: deep = 1
described: Annotated[int, Field(description="said inside")] = 3
computed: int = len("abc")
'''))
    assert [(each.name, each.help) for each in signature if each.help][:2] == [
        ("text", "with a hash"), ("sizes", "of the layers")]
    assert signature.defaults() == {"text": "a # b", "sizes": [32, 16], "low": 8192, "high": 8192, "late": 5, "described": 3}
    assert {each.name for each in signature} == {
        "text", "sizes", "folder", "low", "high", "a", "b", "late", "deep", "described", "computed"}
    assert not any(each.required for each in signature)
    assert signature.find("described").help == "said inside"
    assert signature.json_schema()["properties"]["computed"] == {"title": "computed", "type": "integer"}


def test_all_mistakes_are_said_at_once():
    notebook = notebook_with("epochs: int = 1\nrate: Rate = 0.1\ndata: Path")
    with pytest.raises(ParameterError) as caught:
        accept_parameters(notebook, {"epoch": 1, "epochs": "many", "rate": 2})
    lines = str(caught.value).split("\n")
    assert lines == ["the notebook has no parameter 'epoch'; did you mean 'epochs'?", "epochs = 'many': allowed is a whole number",
                     "rate = 2: allowed is a number, above 0, at most 1",
                     "the notebook needs the parameter 'data' (a path); give it with -p data VALUE"]


def test_untyped_parameters_follow_papermill():
    notebook = notebook_with("n = 1\nname = 'x'")
    accepted = accept_parameters(notebook, {"n": GivenText("1e3"), "name": GivenText("None")})
    assert accepted.values == {"n": 1000.0, "name": None}
    assert accept_parameters(notebook, {"n": "007"}).values == {"n": "007"}


def test_no_parameters_cell():
    notebook = new_notebook(cells=[new_code_cell("1")])
    assert accept_parameters(notebook, {}) == Accepted((accepted := accept_parameters(notebook, {})).values, {}, {}, accepted.signature)
    assert inject_parameters(notebook, accepted) == notebook
    with pytest.raises(ParameterError, match="no cell tagged 'parameters'"):
        accept_parameters(notebook, {"n": 1})


def test_names_never_become_code():
    notebook = notebook_with("epochs = = 1")
    accepted = accept_parameters(notebook, {"x = 1; import os; y": 1})
    with pytest.raises(ParameterError, match="is no name of a parameter"):
        inject_parameters(notebook, accepted)


def test_numpy_values():
    numpy = pytest.importorskip("numpy")
    notebook = notebook_with("n: int = 1\nrate: float = 1.0\nsizes: list[int] = []\nany = 1")
    given_values = {"n": numpy.int64(3), "rate": numpy.float32(0.5), "sizes": numpy.arange(3), "any": numpy.float64(2.5)}
    space = run(inject_parameters(notebook, accept_parameters(notebook, given_values)))
    assert same([space[name] for name in given_values], [3, 0.5, [0, 1, 2], 2.5])


def test_the_model_agrees_with_the_conversion():
    signature = read_signature(notebook_with("n: Annotated[int, Ge(1)] = 1\nmode: Literal['a', 'b'] = 'a'\ndays: list[date] = []"))
    model = signature.model()
    assert model(n=3, days=["2024-01-31"]).model_dump(by_alias=True) == {"n": 3, "mode": "a", "days": [dates.date(2024, 1, 31)]}
    with pytest.raises(ValueError, match="2 validation errors"):
        model(n=0, mode="c")
    assert issubclass(Refused, ValueError) and convert(Annotated[int, Ge(1)], 1) == 1 and convert(Literal["a"], "a") == "a"


def test_nothing_heavy_is_imported_with_the_package():
    code = "import sys, mlops_nb.experiments.acceptance\n"
    code += "print([each for each in ('pydantic', 'IPython', 'papermill', 'nbformat', 'yaml') if each in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


class Size(enum.IntEnum):
    SMALL = 1


def test_members_of_a_callers_own_enum():
    notebook = notebook_with("import enum\nclass Size(enum.IntEnum):\n    SMALL = 1\nsize: Size = Size.SMALL\nplain = 0")
    accepted = accept_parameters(notebook, {"size": Size.SMALL, "plain": Size.SMALL})
    assert "size = Size.SMALL\nplain = 1\n" in inject_parameters(notebook, accepted).cells[2].source


@pytest.mark.parametrize("annotation, text", [
    ("int", "1_000"), ("int", "๑๒"), ("int", "1__0e1"), ("int", "1_0e1"), ("int", "+-1"), ("int", ""), ("float", "1_0.5"), ("float", "๑.๕"),
    ("float", "1e999"), ("float", "-1e400"), ("float", "9" * 400), ("float", "0x10"),
    ("Path", ""), ("Optional[Path]", ""), ("list[float]", "[1, 1e999]"),
    ("list", "[1e999]"), ("dict", "{a: 1.0e+999}"), ("list[int]", "[1_0]"),
    ("dict[str, int]", '{"a": 1, "a": 2}'), ("dict", "{a: 1, a: 2}"), ("list", "[{a: {b: 1, b: 1}}]"),
    ("dict[int, str]", "{1: x, 1e0: y}"),
    ("list", "[&a [1], *a]"), ("dict", "{a: &a 1}"), ("list", "[" * 100_000), ("dict", "{a: " * 5000), ("list", "[" * 95 + "]" * 95),
    ("dict", "{a: !!int ''}"), ("dict", "{a: !!bool x}"),
])
def test_texts_that_are_refused(annotation, text):
    with pytest.raises(ParameterError, match="^value"):
        accept_parameters(notebook_with(f"value: {annotation} = None"), {"value": GivenText(text)})


@pytest.mark.parametrize("kind, text, value", [
    (int, "+5", 5), (int, "007", 7), (int, "10.0", 10), (int, "0x1F", 31), (float, "+1.", 1.0),
    (float, ".5", 0.5), (float, "1E5", 1e5), (float, "Infinity", math.inf), (float, "-.Inf", -math.inf), (float, ".NaN", math.nan),
    (list[float], "[-.inf, 1e-3]", [-math.inf, 1e-3]), (list, "[NaN, Infinity, 010]", [math.nan, math.inf, 8]),
    (dict, '{"*a": 1, "<<": 2, "{x": 3, "\\"q": 4}', {"*a": 1, "<<": 2, "{x": 3, '"q': 4}),
])
def test_texts_that_are_taken(kind, text, value):
    assert same(convert(kind, GivenText(text)), value)
    assert convert(int, GivenText("9" * 5000)) == 10 ** 5000 - 1


def test_a_refusal_says_what_a_type_cannot():
    for kind, text, words in (
            (dict, "{a: 1, a: 2}", "key 'a' is there twice"), (list, "[&x 1, *x]", "anchors"), (Path, "", "an empty text is no path")):
        with pytest.raises(Refused, match=words):
            convert(kind, GivenText(text))


class Plain(enum.Enum):
    ONE = 1


@pytest.mark.parametrize("value, kind", [
    (object(), "builtins.object"), (range(3), "builtins.range"), (Plain.ONE, "test_parameter_values.Plain"),
    ([{"a": object()}], "builtins.object"),
    (print, "builtins.builtin_function_or_method"), (memoryview(b"x"), "builtins.memoryview"),
])
def test_a_value_without_a_literal_is_refused(value, kind):
    with pytest.raises(ParameterError, match=f"^value: a value of type .*{kind} cannot be written"):
        accept_parameters(notebook_with("value = 1"), {"value": value})
    with pytest.raises(ParameterError, match=f"^value: a value of type .*{kind} cannot be written"):
        inject_parameters(notebook_with("value = = 1"), Accepted({"value": value}))


def test_values_of_other_libraries_are_exact_or_refused():
    numpy, pandas = pytest.importorskip("numpy"), pytest.importorskip("pandas")
    for value in (pandas.Timestamp(1), pandas.NaT, pandas.Timedelta(1), pandas.Series([1]), numpy.datetime64(1, "ns"),
                  numpy.timedelta64(1, "ns"), numpy.longdouble(1) / 3, numpy.array([object()]), numpy.array(["2024"], dtype="M8[ns]"),
                  numpy.ma.array([1], mask=[True])):
        with pytest.raises(ParameterError, match="^value: a value of type .* cannot be written"):
            accept_parameters(notebook_with("value = 1"), {"value": value})
    with pytest.raises(ParameterError, match="allowed is a list"):
        accept_parameters(notebook_with("value: list = []"), {"value": numpy.array([1], dtype="M8[ns]")})
    for value in (numpy.float32(0.1), numpy.bool_(True), numpy.complex64(1j), numpy.uint64(2 ** 64 - 1), numpy.str_("x"),
                  numpy.array(["a"])):
        assert same(eval(literal(value)), value.tolist())


exact = st.one_of(
    values, st.decimals(allow_nan=False), st.uuids(), st.timedeltas(), st.complex_numbers(allow_nan=False), st.binary().map(bytearray))


@given(exact)
@example(decimal.Decimal("1.10"))
@example(uuid.UUID(int=7))
@example({"__literal__": "1"})
@example(2 ** 1024)
@example([(1, {2}), {3: dates.date(2024, 1, 31)}])
def test_kept_values_are_given_again_equal(value):
    notebook = notebook_with("value = 1")
    first = accept_parameters(notebook, {"value": value})
    kept = json.loads(json.dumps(keep_values(first.values)))
    again = accept_parameters(notebook, read_kept(kept))
    assert same(again.values["value"], value)
    assert keep_values(again.values) == json.loads(json.dumps(kept)) or value != value or "nan" in str(kept).lower()
    assert same(eval(literal(value)), value)


@pytest.mark.parametrize("annotation, value", [
    ("int | str", 1 << 1100), ("Union[str, date]", dates.date(2024, 1, 31)), ("Color", "blau"),
    ("dict[Color, set[int]]", {"red": {1}}),
    ("tuple[int, Path]", (1, Path("a"))), ("Optional[float]", math.inf), ("dict[int, date]", {1: dates.date(2024, 1, 31)}),
    ("str", "01234"),
])
def test_kept_typed_values_are_given_again_equal(annotation, value):
    notebook = notebook_with(f"value: {annotation} = None")
    first = accept_parameters(notebook, {"value": value})
    again = accept_parameters(notebook, read_kept(json.loads(json.dumps(keep_values(first.values)))))
    written = [inject_parameters(notebook, each).cells[2].source for each in (first, again)]
    assert written[0] == written[1] and again.recorded == first.recorded


def test_a_damaged_record_is_no_code():
    for source in ("__import__('os').system('true')", "exit()", "open('x')", "[", "1 + 1", "datetime.date.fromisoformat('x')", "name",
                   "(" * 500, 3):
        with pytest.raises(StoreError, match="record's value of 'a' is damaged"):
            read_kept({"a": {"__literal__": source}})


def test_values_nested_without_end_are_refused():
    endless, deep = [], ()
    endless.append(endless)
    for _ in range(5000):
        deep = (deep,)
    for source in ("value = 1", "value: list = []"):
        for value in (endless, deep, [deep]):
            with pytest.raises(ParameterError, match="^value"):
                accept_parameters(notebook_with(source), {"value": value})
