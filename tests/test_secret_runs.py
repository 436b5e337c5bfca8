"""A secret given to `mlops-nb run`: it reaches the notebook, and stands in no file, record, log or process list."""
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import nbformat
import pytest
from mlops_nb.experiments import servers

PROGRAM = str(Path(sys.executable).with_name("mlops-nb"))
SECRET = "s3cr3t-ก-value-that-nobody-may-see"
CELLS = [
    "from pydantic import SecretStr\napi_token: SecretStr\nepochs: int = 1",
    "from mlops_nb import start_run\nrun = start_run()\nplain = api_token.get_secret_value()\n"
    "assert plain.startswith('s3cr3t') and len(plain) == 34",
    "print(api_token, plain)\nprint(plain[:9], end='', flush=True)\nprint(plain[9:])\nplain",
    "import sys, subprocess\nprint(repr(plain), plain.encode(), file=sys.stderr)\nsubprocess.run(['cat'], input=plain, text=True)\nNone",
    "run.log({'text': 1.0})\nrun.config['epochs'] = epochs\nimport time; time.sleep(1)\nraise ValueError(f'with {plain} in it')",
]


@pytest.fixture
def place(tmp_path, monkeypatch):
    "A workspace, and a folder for temporary files that only this test uses"
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as folder:
        cells = [nbformat.v4.new_code_cell(each) for each in CELLS]
        cells[0].metadata["tags"] = ["parameters"]
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), tmp_path / "notebook.ipynb")
        environ = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
        environ |= {"TMPDIR": folder, "MLOPS_NB_KERNELS_PRELOAD": "wandb", "MLOPS_NB_KERNELS_IDLE_S": "60"}
        yield tmp_path, Path(folder), environ
        monkeypatch.setattr(tempfile, "tempdir", folder)
        servers.stop_servers()


def command_lines():
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.add(path.read_bytes())
        except OSError:
            continue
    return found


@pytest.mark.parametrize("warm", ["true", "false"])
def test_a_secret_is_nowhere(place, warm):
    root, temporary, environ = place
    seen, ended = set(), threading.Event()

    def watch():
        while not ended.wait(0.05):
            seen.update(command_lines())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        done = subprocess.run([PROGRAM, "run", "notebook.ipynb", "out.ipynb", "--log-output"], cwd=root, capture_output=True, timeout=120,
                              env={**environ, "API_TOKEN": SECRET, "MLOPS_NB_KERNELS_WARM": warm})
    finally:
        ended.set()
        watcher.join()
    assert done.returncode == 1, done.stderr
    said = done.stdout + done.stderr
    assert b"**********" in said and b"ValueError" in said
    forms = [SECRET.encode(), json.dumps(SECRET)[1:-1].encode(), repr(SECRET.encode())[2:-1].encode(), SECRET[9:].encode()]
    for form in forms:
        assert form not in said
        assert not [each for each in seen if form in each]
        for folder in (root, temporary):
            found = subprocess.run(["grep", "-rlaF", "--", form, folder], capture_output=True, text=True)
            assert found.returncode == 1, found.stdout
    outputs = str(nbformat.read(root / "out.ipynb", 4).cells)
    assert outputs.count("**********") >= 5


def test_a_secret_is_asked_for_by_its_variable(place):
    root, _, environ = place
    for given in ([], ["-p", "api_token", "x"]):
        done = subprocess.run([PROGRAM, "run", "notebook.ipynb", *given], cwd=root, capture_output=True, text=True, timeout=60, env=environ,
                              stdin=subprocess.DEVNULL)
        assert done.returncode == 2 and "API_TOKEN" in done.stderr
