"""The same notebook under papermill's own engine and under this package's: all is the same, apart from named truths."""
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import nbformat
import papermill
import pytest
from nbclient.exceptions import CellTimeoutError
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_raw_cell

PYTHON = {"name": "python3", "display_name": "Python 3", "language": "python"}
WIDGET = """from IPython.display import display
import ipywidgets
slider = ipywidgets.IntSlider(value=3)
display(slider)
slider.value = 5
output = ipywidgets.Output()
display(output)
with output: print("inside")"""

# The only allowed differences: what papermill's engine says, and the truth.
TRUTHS = {
    "never ran": "cells that never ran are pending; papermill: completed where nothing failed",
    "clean exit": "a cell that ends the notebook with sys.exit(0) has completed; papermill: failed, and the notebook with it",
    "joined streams": "pieces of one stream that follow each other are one output, as in JupyterLab",
    "no answer is an answer": "a dead kernel and a time limit leave an error output in the cell, which has failed; papermill: completed",
    "progress is the notebook's": "the notebook's end_time and duration are there in both, with other values",
}


def code(source, *tags, **metadata):
    return new_code_cell(source, metadata={"tags": list(tags), **metadata} if tags else metadata)


def language(name, kernel, *cells):
    return new_notebook(cells=list(cells), metadata={"kernelspec": {"name": kernel, "display_name": kernel, "language": name}})


def python(*cells):
    return new_notebook(cells=[code(each) if isinstance(each, str) else each for each in cells], metadata={"kernelspec": PYTHON})


PARAMETERS = code("n: int = 1\nname = 'a'", "parameters")
OLDER = code("# Parameters\nn = 7\n", "injected-parameters")

# What a notebook may hold that runs to its end: together in one, since every kernel takes its time to start
CELLS = [
    new_markdown_cell("# Title"), new_raw_cell("raw"), "", "   ", "x = 6", "x * 7", "_ + 1, In[1], Out[2]", "print(x); x",
    code("print('skipped')", "skip-execution"), code("1", "keep", custom={"a": 1}, collapsed=True), "#papermill_description=Load\n1",
    "%%capture captured\nprint('hidden')", "print(captured.stdout)", "!echo from the shell", "!exit 3", "_exit_code",
    "from IPython.display import *\ndisplay(HTML('<b>x</b>'))\ndisplay(JSON({'a': [1, 2]}))\ndisplay(Markdown('*x*'), metadata={'a': 1})",
    "h = display('first', display_id='d')\nprint('between')", "h.update('second')", "display('third', display_id='d')",
    "h.update('fourth')",
    "print('old')\nclear_output()\nprint('new')", "print('old')\nclear_output(wait=True)\nprint('new')",
    "print('kept')\nclear_output(wait=True)",
    "import sys\nprint('out', flush=True)\nprint('err', file=sys.stderr, flush=True)\nprint('out again', flush=True)",
    "for i in range(5): print(i, flush=True)", "for i in range(20_000): print('line', i)", "'x' * 200_000",
    "for i in range(3): print(f'\\r{i}', end='', flush=True)", WIDGET, "slider.value",
    "%matplotlib inline\nimport matplotlib.pyplot as plt\nplt.plot([1, 2]);", "import asyncio\nawait asyncio.sleep(0.01)\nprint('woke')",
]

# name -> notebook, options for papermill
NOTEBOOKS = {
    "all kinds of cells": (python(*CELLS), {}),
    "parameters, report mode": (python(PARAMETERS, new_markdown_cell("text"), "print(n, name)"),
                                {"parameters": {"n": 3, "name": "b'\"\\"}, "report_mode": True}),
    "parameters, injected again, one unknown": (python(PARAMETERS, OLDER, "n"), {"parameters": {"n": 3, "m": 4}}),
    "parameters, no cell for them": (python("print(m)"), {"parameters": {"m": 3}}),
    "prepare only": (python(PARAMETERS, "n"), {"parameters": {"n": 3}, "prepare_only": True}),
    "no saves between cells": (python("print(1)", "print(2)"), {"request_save_on_cell_execute": False}),
    "exit": (python("1", "import sys\nsys.exit()", "print('never')"), {}),
    "exit 0": (python("1", "import sys\nsys.exit(0)", "print('never')"), {}),
    "exit 1": (python("1", "import sys\nsys.exit(1)", "print('never')"), {}),
    "exit with a text": (python("raise SystemExit('no data')", "print('never')"), {}),
    "broken": (python(new_markdown_cell("# Title"), "print('before')", "1 / 0", "print('never')"), {}),
    "broken by parameters": (python(PARAMETERS, "1 / (n - 3)"), {"parameters": {"n": 3}}),
    "broken syntax": (python("x = (", "print('never')"), {}),
    "line magic that fails": (python("%nosuchmagic", "print('never')"), {}),
    "cell magic that fails": (python("%%nosuchmagic\nx", "print('never')"), {}),
    "keyboard interrupt": (python("print('a')\nraise KeyboardInterrupt", "print('never')"), {}),
    "own exception": (python("class Wrong(Exception): pass", "raise Wrong('ผิด <b>')"), {}),
    "raises-exception": (python(code("1 / 0", "raises-exception"), "print('after')"), {}),
    "raises-exception, then broken": (python(code("1 / 0", "raises-exception"), "[][1]", "print('never')"), {}),
    "input": (python("input('name? ')", "print('never')"), {}),
    "another language": (language("echo", "echo", code("x=1", "parameters"), code("hello"), code("fail now"), code("never")), {}),
    "other kernel than the notebook's": (language("echo", "python3", code("print(1)")), {"kernel_name": "echo"}),
    "language mismatch": (language("R", "python3", code("print(1)")), {}),
}

ECHO_KERNEL = """
from ipykernel.kernelapp import IPKernelApp
from ipykernel.kernelbase import Kernel
class EchoKernel(Kernel):
    implementation = implementation_version = banner = "echo"
    language_info = {"name": "echo", "mimetype": "text/plain", "file_extension": ".txt"}
    def do_execute(self, code, silent, *arguments, **options):
        if code.startswith("fail"):
            error = {"ename": "Failure", "evalue": code, "traceback": [f"Failure: {code}"]}
            self.send_response(self.iopub_socket, "error", error)
            return {"status": "error", "execution_count": self.execution_count, **error}
        if not silent: self.send_response(self.iopub_socket, "stream", {"name": "stdout", "text": code + chr(10)})
        return {"status": "ok", "execution_count": self.execution_count, "payload": [], "user_expressions": {}}
IPKernelApp.launch_instance(kernel_class=EchoKernel)
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    "A folder with the echo kernel installed"
    folder = tmp_path / "jupyter" / "kernels" / "echo"
    folder.mkdir(parents=True)
    (tmp_path / "echo.py").write_text(ECHO_KERNEL)
    command = [sys.executable, str(tmp_path / "echo.py"), "-f", "{connection_file}"]
    (folder / "kernel.json").write_text(json.dumps({"argv": command, "display_name": "Echo", "language": "echo"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(notebook, folder, engine, **options):
    "The executed notebook, and the error that papermill raised"
    folder.mkdir(exist_ok=True)
    source, output = folder / "source.ipynb", folder / "executed.ipynb"
    source.write_text(notebook if isinstance(notebook, str) else nbformat.writes(notebook))
    for _ in range(3):  # a stock kernel of ipykernel 7 sometimes does not see a request: https://github.com/ipython/ipykernel/issues/1554
        bounds = {} if engine else {"execution_timeout": 60, **options}
        try:
            papermill.execute_notebook(source, output, engine_name=engine, progress_bar=False, **options | bounds)
            error = None
        except Exception as problem:
            error = problem
        if engine or "execution_timeout" in options or not isinstance(error, CellTimeoutError):
            break
    return json.loads(output.read_text()) if output.exists() else None, error


VOLATILE = [(r"\x1b\[[0-9;]*m", ""), (r"0x[0-9a-f]{6,}", "0x"), (r"ipykernel_\d+/\d+\.py", "ipykernel"), (r"\b[0-9a-f]{32}\b", "ID"),
            (r"[\d.]+ [nµm]?s\b", "TIME"), (r"/(stock|ours)/", "/")]


def steady(text):
    for pattern, replacement in VOLATILE:
        text = re.sub(pattern, replacement, text)
    return text


def plain(value):
    "A tree of JSON without times, addresses and ids"
    if isinstance(value, dict):
        return {steady(key): plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return plain("".join(value)) if value and all(isinstance(each, str) for each in value) else [plain(each) for each in value]
    return steady(value) if isinstance(value, str) else value


def joined(outputs):
    "TRUTHS: joined streams"
    found = []
    for each in map(plain, outputs):
        if found and each["output_type"] == "stream" and found[-1].get("name") == each["name"]:
            found[-1] = {**each, "text": found[-1]["text"] + each["text"]}
        else:
            found.append(each)
    return found


def cell_view(cell):
    metadata = cell["metadata"]
    view = {"type": cell["cell_type"], "source": plain(cell["source"]), "count": cell.get("execution_count"), "keys": sorted(metadata),
            "papermill": sorted(metadata.get("papermill", {})), "timing": sorted(metadata.get("execution", {})),
            "kept": plain({key: each for key, each in metadata.items() if key not in ("papermill", "execution")})}
    if cell["cell_type"] == "code":
        view["outputs"] = joined(cell["outputs"])
    return view


def notebook_view(notebook):
    metadata = dict(notebook["metadata"])
    own = metadata.pop("papermill")
    widgets = metadata.pop("widgets", {}).get("application/vnd.jupyter.widget-state+json", {}).get("state", {}).values()
    metadata.get("language_info", {}).pop("version", None)
    named = ("parameters", "default_parameters", "environment_variables", "version", "input_path", "output_path")
    facts = {key: plain(own[key]) for key in named}
    return {"metadata": plain(metadata), "papermill": sorted(own), **facts, "nbformat": (notebook["nbformat"], notebook["nbformat_minor"]),
            "widgets": Counter(json.dumps(plain(each["state"].get("value")), sort_keys=True) + each["model_name"] for each in widgets),
            "cells": [cell_view(each) for each in notebook["cells"]]}


def states(notebook):
    return [each["metadata"].get("papermill", {}).get("status") for each in notebook["cells"]]


def error_view(error):
    if error is None:
        return None
    facts = ("cell_index", "exec_count", "source", "ename", "evalue", "traceback")
    return type(error).__name__, {fact: plain(getattr(error, fact)) for fact in facts if hasattr(error, fact)}


def expected_states(notebook, stock):
    "What papermill's engine says of each cell, corrected by TRUTHS"
    counts = [each.get("execution_count") if each["cell_type"] == "code" else None for each in notebook["cells"]]
    outputs = [output for each in notebook["cells"] for output in each.get("outputs", [])]
    errors = [[each["ename"], each["evalue"]] for each in outputs if each["output_type"] == "error"]
    clean = errors and errors[-1] in (["SystemExit", ""], ["SystemExit", "0"])
    corrected = ["completed" if each == "failed" and clean else each for each in stock]  # clean exit
    if "failed" not in stock:
        return corrected
    last = max(index for index, each in enumerate(stock) if each == "failed")
    return [("pending" if index > last and counts[index] is None and each is not None else each) for index, each in enumerate(corrected)]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks(name, place):
    notebook, options = NOTEBOOKS[name]
    (stock, stock_error), (ours, our_error) = [run(notebook, place / folder, engine, **options)
                                               for folder, engine in (("stock", None), ("ours", "mlops-nb"))]
    assert error_view(our_error) == error_view(stock_error)
    if stock is None:
        assert ours is None
        return
    nbformat.validate(nbformat.from_dict(ours))
    assert notebook_view(ours) == notebook_view(stock)
    if name != "prepare only":
        assert states(ours) == expected_states(stock, states(stock))


@pytest.mark.parametrize("minor", [0, 4, 5])
def test_formats(minor, place):
    cell = {"cell_type": "code", "metadata": {}, "source": "print(6 * 7)", "outputs": [], "execution_count": None}
    cell |= {"id": "a1"} if minor == 5 else {}
    text = json.dumps({"nbformat": 4, "nbformat_minor": minor, "metadata": {"kernelspec": PYTHON}, "cells": [cell]})
    check_text(text, place)


def test_format_3(place):
    cell = {"cell_type": "code", "collapsed": False, "input": ["print(6 * 7)"], "language": "python", "metadata": {}, "outputs": []}
    metadata = {"name": "", "kernelspec": PYTHON}
    text = json.dumps({"nbformat": 3, "nbformat_minor": 0, "metadata": metadata, "worksheets": [{"cells": [cell]}]})
    check_text(text, place)


def check_text(text, place):
    (stock, _), (ours, _) = run(text, place / "stock", None), run(text, place / "ours", "mlops-nb")
    assert notebook_view(ours) == notebook_view(stock)
    assert states(ours) == states(stock) == ["completed"]


@pytest.mark.parametrize("source, error", [("import os\nprint('said')\nos._exit(3)", "DeadKernelError"),
                                           ("import time\nprint('said')\ntime.sleep(60)", "CellTimeoutError")])
def test_ends_that_papermill_hides(source, error, place):
    "TRUTHS: no answer is an answer"
    options = {"execution_timeout": 1} if "Timeout" in error else {}
    (stock, stock_error), (ours, our_error) = [run(python("1", source, "print('never')"), place / folder, engine, **options)
                                               for folder, engine in (("stock", None), ("ours", "mlops-nb"))]
    assert type(our_error).__name__ == type(stock_error).__name__ == error
    assert states(ours) == ["completed", "failed", "pending"] != states(stock)
    assert [each["ename"] for each in ours["cells"][1]["outputs"] if each["output_type"] == "error"][-1] == error
    assert ours["cells"][1]["outputs"][0]["text"] == ["said\n"]


@pytest.mark.parametrize("source", ["1 / 0", "import os; os._exit(3)"])
def test_the_command(source, place):
    "Exit status of papermill's command; its last write leaves a whole file and nothing else"
    (place / "source.ipynb").write_text(nbformat.writes(python(source)))
    found = {}
    for engine in ("nbclient", "mlops-nb"):
        folder = place / engine
        folder.mkdir()
        command = [sys.executable, "-m", "papermill", "--engine", engine, "--no-progress-bar", "../source.ipynb", "executed.ipynb"]
        found[engine] = subprocess.run(command, cwd=folder, capture_output=True).returncode
        assert os.listdir(folder) == ["executed.ipynb"]
    assert found["mlops-nb"] == found["nbclient"]


def test_the_command_stopped_by_a_signal(place):
    "The file is whole and tells what happened, and the command ends as papermill does"
    notebook = python("print('one')", "open('started', 'w'); import time; time.sleep(60)", "print('never')")
    (place / "source.ipynb").write_text(nbformat.writes(notebook))
    command = [sys.executable, "-m", "papermill", "--engine", "mlops-nb", "--no-progress-bar", "source.ipynb", "executed.ipynb"]
    process = subprocess.Popen(command, cwd=place, stderr=subprocess.DEVNULL)
    while not Path(place, "started").exists():
        assert process.poll() is None
        signal.sigtimedwait([], 0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == -signal.SIGTERM
    assert states(json.loads((place / "executed.ipynb").read_text())) == ["completed", "failed", "pending"]
