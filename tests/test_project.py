"""The project holds together: dependencies said once, floors kept, generated files detected as stale, hooks that leave no trace."""
import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import export
import nbformat
import pins
import pytest
import readme
import run_tests
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tree import ROOT, changes, copy_tree, tree_digests, tree_files

SCRIPTS = Path(sys.prefix) / "bin"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PIN_LINES = [line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
PINS = {canonicalize_name(name): version for name, _, version in (line.partition(";")[0].partition("==") for line in PIN_LINES)}


@pytest.fixture
def project_copy(tmp_path):
    "A copy of the project to break, in a folder with a space and Thai letters"
    return copy_tree(tmp_path / "โครงการ copy")


def run(*command, folder, **environ):
    "Run a program and give back its exit status and everything it printed"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    finished = subprocess.run(
        list(map(str, command)), cwd=folder, env={**inherited, **environ}, check=False, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )
    return finished.returncode, finished.stdout


# Dependencies

def test_environment_yml_equals_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, _, packages = environment["dependencies"]
    assert python == "python" + PROJECT["requires-python"]
    assert packages["pip"] == PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]


def test_constraints_pin_the_whole_tree():
    installed = {canonicalize_name(name): version for name, version in pins.installed_tree().items()}
    assert installed.items() <= PINS.items(), "constraints.txt is not what is installed here; see tools/pins.py"
    only_elsewhere = {canonicalize_name(line.partition("==")[0]) for line in PIN_LINES if ";" in line}
    assert PINS.keys() - installed.keys() <= only_elsewhere
    assert PINS["torch"] == "2.13.0"


def test_constraints_name_versions_only():
    exact = re.compile(r'[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*(; python_version == "[0-9.]+")?')
    assert [line for line in PIN_LINES if not exact.fullmatch(line)] == []


@pytest.mark.parametrize("line", pins.declared())
def test_ranges_admit_the_pinned_version(line):
    wanted = Requirement(line)
    assert wanted.specifier.contains(PINS[canonicalize_name(wanted.name)])


def imported_roots(source):
    "The top-level packages that a module imports, also inside functions"
    nodes = list(ast.walk(ast.parse(source)))
    plain = {name.name.partition(".")[0] for node in nodes if isinstance(node, ast.Import) for name in node.names}
    return plain | {node.module.partition(".")[0] for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}


def test_package_imports_only_what_it_declares():
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "mlops_nb").rglob("*.py")]
    third_party = set().union(*map(imported_roots, sources)) - set(sys.stdlib_module_names) - {"mlops_nb"}
    extras = [line for name, lines in PROJECT["optional-dependencies"].items() if name != "dev" for line in lines]
    declared = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"] + extras}
    owners = packages_distributions()
    undeclared = {root for root in third_party if not declared & {canonicalize_name(owner) for owner in owners.get(root, [])}}
    assert undeclared == set()


# Rooms and floors

def test_notebooks_export_into_the_room_of_their_folder():
    for path in sorted((ROOT / "nbs").glob("[0-9]*_*/**/*.ipynb")):
        room = path.relative_to(ROOT / "nbs").parts[0].partition("_")[2]
        source = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)
        target = re.search(r"^#\|\s*default_exp\s+(\S+)", source, re.MULTILINE)
        assert room == "interface" or target and target[1].startswith(f"{room}."), path.name


@pytest.mark.parametrize(("module", "line", "broken"), [
    ("settings.py", "def f():\n    from .store import catalog\n", "A module imports only from lower floors BROKEN"),
    ("objectives.py", "def f():\n    import wandb\n", "Only the store's own rooms for W&B import wandb BROKEN"),
    ("stray.py", "", "A module imports only from lower floors BROKEN"),
])
def test_import_linter_holds_the_floors(project_copy, module, line, broken):
    with open(project_copy / "mlops_nb" / module, "a", encoding="utf-8") as source:
        source.write("\n" + line)
    status, output = run(SCRIPTS / "lint-imports", "--no-cache", folder=project_copy)
    assert status == 1
    assert broken in output


# Generated files

def test_check_names_stale_and_orphaned_modules(project_copy):
    with open(project_copy / "mlops_nb" / "settings.py", "a", encoding="utf-8") as module:
        module.write("\nstale = True\n")
    orphan = "# AUTOGENERATED! DO NOT EDIT! File to edit: ../nbs/orphan.ipynb.\n"
    (project_copy / "mlops_nb" / "orphan.py").write_text(orphan, encoding="utf-8")
    found = export.check(project_copy)
    assert "changed mlops_nb/settings.py" in found
    assert "gone mlops_nb/orphan.py" in found


def test_check_names_a_notebook_that_is_not_clean(project_copy):
    path = project_copy / "nbs" / "00_settings.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[-1].metadata["collapsed"] = True
    nbformat.write(notebook, path)
    assert "changed nbs/00_settings.ipynb" in export.check(project_copy)


def make_index(folder):
    "An index notebook with a figure, links, and a cell that the README leaves out"
    figure = {"image/png": "iVBORw0KGgo=", "text/plain": "<Figure>"}
    cells = [
        nbformat.v4.new_code_cell("#| default_exp nothing"),
        nbformat.v4.new_markdown_cell("# Title\n\n[Blobs](1_store/10_blobs.ipynb), [log](../CHANGELOG.md), [W&B](https://wandb.ai)"),
        nbformat.v4.new_code_cell("#| eval: false\nfigure", outputs=[nbformat.v4.new_output("display_data", figure)]),
    ]
    (folder / "nbs").mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "nbs" / "index.ipynb")


def test_readme_of_an_index_notebook(tmp_path):
    make_index(tmp_path)
    made = readme.readme_files(tmp_path)
    text = made["README.md"].decode()
    assert "[Blobs](nbs/1_store/10_blobs.ipynb), [log](CHANGELOG.md), [W&B](https://wandb.ai)" in text
    assert "```python\nfigure\n```" in text
    assert "#|" not in text
    (image,) = made.keys() - {"README.md"}
    assert image.startswith("docs/readme/") and f"]({image})" in text


# Tools

def test_changes_names_what_differs():
    assert changes({"a": "1", "b": "1", "c": "1"}, {"a": "1", "b": "2", "d": "1"}) == ["changed b", "gone c", "new d"]


def test_tree_without_git_is_the_same(project_copy):
    assert tree_files(project_copy) == tree_files()


def test_counts_come_from_pytest(tmp_path):
    report = tmp_path / "report.xml"
    report.write_text('<testsuites><testsuite tests="9" failures="2" errors="1" skipped="3"/></testsuites>', encoding="utf-8")
    assert run_tests.test_counts(report) == (3, 3)
    assert run_tests.test_counts(tmp_path / "none.xml") == (0, 0)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed; on Debian and Ubuntu: apt-get install git")
def test_git_hooks_leave_no_trace_outside_the_clone(project_copy, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text("[user]\n\tname = Tester\n\temail = tester@example.org\n", encoding="utf-8")
    environ = {"HOME": str(home), "GIT_CONFIG_NOSYSTEM": "1"}
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
        assert run("git", *command, folder=project_copy, **environ) == (0, "")
    before = tree_digests(home)
    status, output = run(sys.executable, "tools/install_hooks.py", folder=project_copy, **environ)
    assert (status, output) == (0, "Git hooks for notebooks are installed in this clone.\n")
    assert run("git", "status", "--porcelain", folder=project_copy, **environ) == (0, "")
    assert tree_digests(home) == before

    (project_copy / "nbs" / "00_settings.ipynb").write_text("{}", encoding="utf-8")
    for path in (os.environ["PATH"], "/usr/bin:/bin"):
        assert run("git", "diff", folder=project_copy, PATH=path, **environ)[0] == 0
