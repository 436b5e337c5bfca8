"""The Home notebook where no widget lives: through papermill and through nbconvert, with 10,000 runs."""
import json
import subprocess
import sys
from pathlib import Path

import big_catalog
import nbformat
import pytest
from mlops_nb.settings import open_workspace
from mlops_nb.store.door import open_store
from mlops_nb.widgets.home import write_home
from mlops_nb.widgets.views import known_views

LARGEST_BYTES = 1_000_000


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    "A workspace with 10,000 runs"
    folder = tmp_path_factory.mktemp("a workspace")
    (folder / "settings.ini").write_text("[workspace]\nproject = digits\n[wandb]\nmode = disabled\n")
    found = open_workspace(folder)
    (folder / ".mlops").mkdir()
    assert big_catalog.fill(found.catalog_url, pipelines=200).counts["runs"] > 9_000
    return found


def outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def check_outputs(notebook, views):
    found = outputs(notebook)
    assert [each.output_type for each in found] == ["execute_result"] * len(views)
    assert all(set(each.data) == {"text/plain", "text/html"} for each in found) and "widgets" not in notebook.metadata
    assert [view.name for view, each in zip(views, found) if "<script" in each.data["text/html"]] == []
    assert {view.name: len(each.data["text/html"]) for view, each in zip(views, found) if len(each.data["text/html"]) > 150_000} == {}


def test_static_faces_stand_in_what_papermill_and_nbconvert_make(workspace, tmp_path):
    home, views = write_home(workspace), [each for each in known_views() if each.place]
    executed = tmp_path / "executed.ipynb"
    subprocess.run([Path(sys.executable).with_name("papermill"), "-k", "python3", home.name, executed], cwd=workspace.root, check=True,
                   capture_output=True, timeout=200)
    check_outputs(nbformat.read(executed, 4), views)
    subprocess.run([sys.executable, "-m", "nbconvert", "--to", "html", "--output", "executed.html", executed], cwd=tmp_path, check=True,
                   capture_output=True, timeout=200)
    page = (tmp_path / "executed.html").read_text()
    empty = nbformat.v4.new_notebook(cells=[])
    (tmp_path / "empty.ipynb").write_text(nbformat.writes(empty))
    subprocess.run([sys.executable, "-m", "nbconvert", "--to", "html", "empty.ipynb"], cwd=tmp_path, check=True, capture_output=True,
                   timeout=200)
    ours = len(page) - len((tmp_path / "empty.html").read_text())  # nbconvert's own style alone takes 300 KB
    assert len(page) < LARGEST_BYTES and ours < LARGEST_BYTES / 2
    assert "widget state" not in page.lower() and "jupyter-widget" not in page.replace("jupyter-widgets", "")


def test_nbconvert_executes_it_too(workspace, tmp_path):
    home, views = write_home(workspace), [each for each in known_views() if each.place]
    command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--ExecutePreprocessor.kernel_name=python3",
               "--output-dir", tmp_path, "--output", "executed.ipynb", home.name]
    subprocess.run(command, cwd=workspace.root, check=True, capture_output=True, timeout=200)
    check_outputs(nbformat.read(tmp_path / "executed.ipynb", 4), views)


def test_no_view_is_without_an_answer_in_an_empty_workspace(tmp_path):
    store = open_store(open_workspace(tmp_path))
    for view in known_views():
        html = view.static(store)
        assert "<" in html and "Traceback" not in html, view.name
        json.dumps(html)
