"""The wheel, built and used as a user has it: in an environment of its own, outside the repository."""
import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import nbformat
import pytest
from tree import ROOT, copy_tree


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    "The wheel, built from the source archive, which is built from the project's files"
    source, built = copy_tree(tmp_path_factory.mktemp("source") / "mlops_nb"), tmp_path_factory.mktemp("built")
    subprocess.run([sys.executable, "-m", "build", "--no-isolation", "--outdir", built, source], check=True, stdout=subprocess.DEVNULL)
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def scripts(wheel, tmp_path_factory):
    "Folder of the scripts of a fresh environment with the wheel; the dependencies are those of this environment"
    environment = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (packages,) = (environment / "lib").glob("python*/site-packages")
    # A path in a .pth file is not searched for .pth files itself, so this environment's editable mlops_nb stays out of sight.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    python = environment / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, "--force-reinstall", "--ignore-installed", wheel], check=True)
    return environment / "bin"


def call(*command, folder):
    "Run a program outside the repository and give back what it prints"
    environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    finished = subprocess.run(list(map(str, command)), cwd=folder, env=environ, check=False, text=True, capture_output=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def test_wheel_holds_the_package_and_its_templates(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    folder = ROOT / "nbs" / "templates"
    templates = {f"mlops_nb/templates/{path.relative_to(folder)}" for path in folder.rglob("*") if path.is_file()}
    assert templates - names == {name for name in templates if ".ipynb_checkpoints" in name}
    assert {"gitignore"} <= {Path(name).name for name in templates}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "mlops_nb").rglob("*.py")}
    assert modules == {name for name in names if name.endswith(".py")}


def test_import_finds_the_wheel(scripts, tmp_path):
    location = call(scripts / "python", "-c", "import mlops_nb; print(mlops_nb.__file__)", folder=tmp_path)
    assert Path(location.strip()).is_relative_to(scripts.parent)


def test_papermill_finds_the_engine(scripts, tmp_path):
    code = "from papermill.engines import papermill_engines as e; print(e.get_engine('mlops-nb').__module__)"
    assert call(scripts / "python", "-c", code, folder=tmp_path) == "mlops_nb.experiments.engine\n"


def test_command_makes_a_workspace_and_runs_a_notebook_in_it(scripts, tmp_path):
    command, workspace = scripts / "mlops-nb", tmp_path / "ทดลอง digits"
    assert "init" in call(command, "--help", folder=tmp_path)
    call(command, "init", workspace, "--template", "digits", folder=tmp_path)
    assert {"settings.ini", "objectives.toml", "pipeline.toml", ".gitignore"} <= {path.name for path in workspace.iterdir()}
    cells = [nbformat.v4.new_code_cell("number = 1", metadata={"tags": ["parameters"]}), nbformat.v4.new_code_cell("print(number * 2)")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), workspace / "double.ipynb")
    call(command, "run", "double.ipynb", "doubled.ipynb", "-p", "number", "21", folder=workspace)
    assert "42" in (workspace / "doubled.ipynb").read_text(encoding="utf-8")
    (run,) = json.loads(call(command, "runs", "list", "--json", folder=workspace))
    assert (run["status"], run["parameters"]) == ("finished", {"number": 21})
