"""What a notebook is, and which parameters it is run with: by papermill's rules, where papermill has one."""
import base64
import json
from unittest.mock import patch

import nbformat
import pytest
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_notebook
from papermill import cli

from mlops_nb.experiments.given_texts import papermill_value, untyped_value
from mlops_nb.experiments.parameters import check_parameters, load_notebook, parameter_names, read_parameters
from mlops_nb.settings import NotebookError, ParameterError

numbers = st.from_regex(r"[-+]?[0-9_]{0,4}\.?[0-9]{0,3}(e[-+]?[0-9]{1,3})?", fullmatch=True)


def notebook_with(source, **metadata):
    return new_notebook(cells=[new_code_cell(source, metadata={"tags": ["parameters"]})], metadata=metadata)


@given(st.one_of(st.text(max_size=8), numbers))
@example("True")
@example("true")
@example("None")
@example("nan")
@example("-inf")
@example(" 7 ")
@example("1_000")
@example("๗")
def test_types_are_papermills(text):
    assert repr(papermill_value(text)) == repr(cli._resolve_type(text))


def test_order_is_papermills(tmp_path):
    file = tmp_path / "ค่า ที่ใช้.yaml"
    file.write_text("{a: 1, b: 1, c: 1, d: 1, day: 2024-01-31}")
    encoded = base64.b64encode(b"{a: 0, b: 0, c: 0, d: 0, e: 0}").decode()
    flags = ["-r", "d", "4", "-p", "c", "3", "-p", "d", "3", "-y", "{b: 2, c: 2, d: 2}", "-f", str(file), "-b", encoded]
    with patch("papermill.cli.execute_notebook") as execute:
        result = CliRunner().invoke(cli.papermill, ["in.ipynb", "out.ipynb", *flags])
    assert result.exit_code == 0, result.output
    ours = read_parameters([("c", "3"), ("d", "3")], [("d", "4")], [file], ["{b: 2, c: 2, d: 2}"], [encoded])
    assert untyped_value(ours) == execute.call_args.kwargs["parameters"]
    assert untyped_value(ours) == {"a": 1, "b": 2, "c": 3, "d": "4", "e": 0, "day": "2024-01-31"}


@pytest.mark.parametrize("flags, message", [
    ({"yaml_texts": ["{a: 1"]}, "is not YAML"),
    ({"yaml_texts": ["[1, 2]"]}, "mapping of names to values"),
    ({"yaml_texts": ["epochs"]}, "mapping of names to values"),
    ({"yaml_texts": ["{1: 2}"]}, "mapping of names to values"),
    ({"yaml_texts": ["!!python/object/apply:os.system ['true']"]}, "is not YAML"),
    ({"base64_texts": ["a"]}, "is not base64"),
    ({"base64_texts": ["ค่า"]}, "is not base64"),
    ({"base64_texts": [base64.b64encode(b"\x80\xff\x00").decode()]}, "is not YAML"),
    ({"yaml_texts": ["{a: 1, a: 2}"]}, "-y .* the key 'a' is there twice"),
    ({"yaml_texts": ["{a: {1: 1, true: 2}}"]}, "is there twice"),
    ({"yaml_texts": ["{a: &a [1], b: *a}"]}, "anchors and aliases"),
    ({"yaml_texts": ["&a {b: 1}"]}, "anchors and aliases"),
    ({"base64_texts": [base64.b64encode(b"{a: &a [*a]}").decode()]}, "-b .* anchors and aliases"),
    ({"yaml_texts": ["{a: " + "[" * 5000]}, "-y .* is nested too deeply"),
    ({"yaml_texts": ["{a: 1.0e+999}"]}, "too large"),
    ({"yaml_texts": ["{a: !!int ''}"]}, "is not YAML"),
    ({"yaml_texts": ["{a: !!bool x}"]}, "is not YAML"),
    ({"files": ["missing.yaml"]}, "missing.yaml: cannot be read"),
    ({"files": ["."]}, "cannot be read"),
])
def test_unreadable_parameters(flags, message):
    with pytest.raises(ParameterError, match=message):
        read_parameters(**flags)


def test_a_malformed_file_is_named(tmp_path):
    path = tmp_path / "values.yaml"
    path.write_text("epochs: 1\n  layers: [\n")
    with pytest.raises(ParameterError, match=r"values\.yaml is not YAML.*\n?.*line 2"):
        read_parameters(files=[path])


def test_an_exploding_file_is_refused(tmp_path):
    path = tmp_path / "laughs.yaml"
    levels = [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, 12)]
    path.write_text("\n".join(["a0: &a0 lol", *levels]))
    with pytest.raises(ParameterError, match=r"laughs\.yaml .*anchors and aliases"):
        read_parameters(files=[path])
    path.write_text('{"lr": 1, "lr": 2}')
    with pytest.raises(ParameterError, match=r"laughs\.yaml .*'lr' is there twice"):
        read_parameters(files=[path])


def test_infinity_that_is_meant_is_taken():
    assert read_parameters(yaml_texts=["{a: .inf, b: -.INF, c: 1.5}"]) == {"a": float("inf"), "b": -float("inf"), "c": 1.5}


def test_empty_yaml_gives_nothing(tmp_path):
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    assert read_parameters(files=[tmp_path / "empty.yaml"], yaml_texts=[""]) == {}


@pytest.mark.parametrize("content", [
    "", "epochs = 10", "[]", "{}", "null", "7", '"text"', '{"cells": []', '{"nbformat": 4}', '{"nbformat": 99, "cells": []}',
    '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": 3}',
    '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [{"cell_type": "code", "source": ""}]}',
    '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": ["print()"]}',
    "[" * 100_000,
])
def test_not_a_notebook(tmp_path, content):
    path = tmp_path / "งาน.ipynb"
    path.write_text(content)
    with pytest.raises(NotebookError, match="งาน.ipynb: not a notebook"):
        load_notebook(path)


def test_no_text_at_all(tmp_path):
    (tmp_path / "image.ipynb").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(NotebookError, match="image.ipynb, line 1"):
        load_notebook(tmp_path / "image.ipynb")
    with pytest.raises(NotebookError, match="cannot be read"):
        load_notebook(tmp_path)


def test_older_and_newer_formats_are_read(tmp_path):
    path = tmp_path / "old.ipynb"
    cell = {"cell_type": "code", "collapsed": False, "input": ["x = 1\n", "x"], "language": "python", "metadata": {}, "outputs": []}
    path.write_text(json.dumps({"nbformat": 3, "nbformat_minor": 0, "metadata": {}, "worksheets": [{"cells": [cell]}]}))
    assert load_notebook(path).cells[0].source == "x = 1\nx"
    assert load_notebook(path).nbformat == 4
    nbformat.write(new_notebook(nbformat_minor=9), path)
    assert load_notebook(path).cells == []


@pytest.mark.parametrize("source, names", [
    ("lr: float = 0.1  # default = 0.1", {"lr"}),
    ("a = b = 1", {"a", "b"}),
    ("same = 1 == 1", {"same"}),
    ("layers = [\n    32, # first = 32\n    16,\n]", {"layers"}),
    ("width, (height, *rest) = 1, (2, 3)", {"width", "height", "rest"}),
    ("import os\ndef f(x): return x\nclass C: y = 1\nseed = 1", {"seed"}),
    ("if True:\n    deep = 1", {"deep"}),
    ("ชั้น = 3", {"ชั้น"}),
    ("%matplotlib inline\n!ls\nn = 1", {"n"}),
    ("token: str", {"token"}),
    ("# nothing yet", set()),
])
def test_names_of_python(source, names):
    assert parameter_names(notebook_with(source)) == names


def test_code_that_python_cannot_read_is_only_warned_about(caplog):
    notebook = notebook_with("epochs = = 1")
    assert parameter_names(notebook) is None
    check_parameters(notebook, {"epochs": 1})
    assert "cannot be checked: epochs" in caplog.text


def test_another_language_is_only_warned_about(caplog):
    notebook = notebook_with("epochs <- 1", kernelspec={"name": "ir", "display_name": "R", "language": "R"})
    with patch("mlops_nb.experiments.parameters.installed_kernels", return_value={"ir": "R"}), \
         patch("mlops_nb.experiments.kernels.installed_kernels", return_value={"ir": "R"}):
        check_parameters(notebook, {"epochs": 1})
    assert "cannot be checked: epochs" in caplog.text


def test_unknown_parameter_names_the_nearest():
    with pytest.raises(ParameterError, match="no parameter 'epoch'; did you mean 'epochs'"):
        check_parameters(notebook_with("epochs = 1\nseed = 2"), {"seed": 1, "epoch": 2})


def test_no_parameters_cell():
    notebook = new_notebook(cells=[new_code_cell("epochs = 1", metadata={"tags": ["injected-parameters"]})])
    check_parameters(notebook, {})
    with pytest.raises(ParameterError, match="no cell tagged 'parameters', so it cannot take 'epochs'"):
        check_parameters(notebook, {"epochs": 1})
