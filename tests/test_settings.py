"Settings, the workspace and the error tree: matrices of what a person can get wrong"
import pickle
import subprocess
import sys

import pytest

from mlops_nb.settings import (
    CorruptBlobError,
    MissingExtraError,
    MlopsError,
    NotFoundError,
    SettingsError,
    StoreError,
    WorkspaceError,
    find_workspace,
    load_settings,
    open_workspace,
    require,
)

LONG_FOLDER = "ห้องทดลอง ลายมือ " + "x" * 60 + "/" + "งาน ที่สอง " + "y" * 60


@pytest.fixture(autouse=True)
def no_workspace_named(monkeypatch): monkeypatch.delenv("MLOPS_NB_WORKSPACE", raising=False)


def write(folder, text, encoding="utf-8"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder/"settings.ini").write_text(text, encoding=encoding)
    return folder


@pytest.mark.parametrize("text, line, said", [
    ("project = digits\n", 1, "begin with [workspace]"),
    ("[workspace]\nproject\n", 2, "neither `key = value` nor a [section]"),
    ("[workspace]\n\n[workspace\nproject = x\n", 3, "neither"),
    ("[workspace]\nproject = a\n# x\nproject = b\n", 4, "'project' appears twice in [workspace]"),
    ("[workspace]\n[wandb]\n[workspace]\n", 3, "section [workspace] appears twice"),
    ("[workspace]\n\nprojet = x\n", 3, "unknown key 'projet' in [workspace]; did you mean 'project'?"),
    ("[workspace]\nproject = a/b\n", 2, "a name without /"),
    ("[workspace]\ncurrency = euro\n", 2, "three capital letters"),
    ("[workspace]\nstore =\n", 2, "a folder"),
    ("[workspace]\ncatalog = mysql://me:secret@host/x\n", 2, "'mysql://***@host/x' is not allowed"),
    ("[workspace]\n# [wandb]\n[wandb]\n# mode = x\n\nmode = of\n", 6, "'offline' or 'online' or 'disabled'"),
    ("[wandb]\nbase_url = wandb.example.org\n", 2, "the URL of a W&B server"),
    ("[wandb]\nentity = team\n    and another\n", 2, "one line of text"),
    ("[kernels]\nwarm = maybe\n", 2, "true or false"),
    ("[experiments]\nworkers = 0\n", 2, "a whole number from 1 on"),
    ("[experiments]\nworkers = 2.5\n", 2, "a whole number from 1 on"),
    ("[experiments]\nworkers = -1\n", 2, "a whole number from 1 on"),
    ("[experiments]\nexecutor = cluster\n", 2, "'local' or 'dask'"),
    ("[workspace]\n\n[Kernels]\nwarm = no\n", 3, "unknown section [Kernels]; did you mean 'kernels'?"),
    ("[workspace]\n[experiment]\n", 2, "did you mean 'experiments'?"),
])
def test_a_wrong_file_is_named_with_its_line(tmp_path, text, line, said):
    with pytest.raises(SettingsError) as caught: load_settings(write(tmp_path, text), environ={})
    assert str(caught.value).startswith(f"{tmp_path/'settings.ini'}, line {line}: ")
    assert said in str(caught.value) and "secret" not in str(caught.value)


def test_an_undecodable_file_is_named_with_its_line(tmp_path):
    write(tmp_path, "[workspace]\n\nproject = café\n", encoding="latin-1")
    with pytest.raises(SettingsError, match=r"settings.ini, line 3: byte 0xe9 is not UTF-8"): load_settings(tmp_path, environ={})


def test_an_unreadable_file_is_named(tmp_path):
    (tmp_path/"settings.ini").mkdir()
    with pytest.raises(SettingsError, match="settings.ini: cannot be read"): load_settings(tmp_path, environ={})


def test_defaults(tmp_path):
    (tmp_path/"digits #2").mkdir()
    settings = load_settings(tmp_path/"digits #2", environ={})
    assert settings.workspace.project == "digits -2"
    assert (settings.workspace.store, settings.workspace.catalog) == (".mlops", "sqlite:///.mlops/catalog.db")
    assert (settings.wandb.mode, settings.kernels.warm, settings.experiments.workers) == ("offline", True, 2)
    assert load_settings(write(tmp_path, "[workspace]\nstore = elsewhere"), environ={}).workspace.catalog == "sqlite:///elsewhere/catalog.db"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_any_usual_text_file(tmp_path, encoding, newline):
    text = ("; all of it\n[workspace]\nProject = ตัวเลข 手写\n"
            "catalog = postgresql+psycopg://me:50%off%(x)s#1@host/db # shared\n[serving]\nport = 80\n")
    settings = load_settings(write(tmp_path, text.replace("\n", newline), encoding), environ={}).workspace
    assert settings.project == "ตัวเลข 手写"
    assert settings.catalog == "postgresql+psycopg://me:50%off%(x)s#1@host/db"
    assert "50%" not in repr(settings)


@pytest.mark.parametrize("text, names", [("torch, numpy", ("torch", "numpy")), ("", ()), ("\n  torch\n  numpy\n", ("torch", "numpy"))])
def test_preloaded_libraries(tmp_path, text, names):
    assert load_settings(write(tmp_path, f"[kernels]\npreload = {text}\n"), environ={}).kernels.preload == names


def test_what_other_programs_write_is_left_alone(tmp_path):
    text = "[DEFAULT]\nmode = online\n[future]\nkey = value\n[wandb]\nentity = a;b ; c\n"
    settings = load_settings(write(tmp_path, text), environ={})
    assert (settings.wandb.mode, settings.wandb.entity) == ("offline", "a;b ; c")


def test_environment_over_file_over_default(tmp_path):
    write(tmp_path, "[workspace]\nproject = file\n[wandb]\nmode = disabled\nentity = file\n")
    environ = {"WANDB_PROJECT": "wandb", "WANDB_MODE": "online", "WANDB_ENTITY": "", "MLOPS_NB_WANDB_MODE": "offline",
               "MLOPS_NB_WORKSPACE_CURRENCY": "THB", "WANDB_BASE_URL": "http://localhost:8080"}
    settings = load_settings(tmp_path, environ)
    assert (settings.workspace.project, settings.workspace.currency) == ("wandb", "THB")
    assert (settings.wandb.mode, settings.wandb.entity, settings.wandb.base_url) == ("offline", "file", "http://localhost:8080")


def test_a_wrong_variable_is_named(tmp_path):
    with pytest.raises(SettingsError, match="WANDB_MODE = 'shared' is not allowed; it can be 'offline'"):
        load_settings(tmp_path, {"WANDB_MODE": "shared"})


def test_a_variable_replaces_a_wrong_value(tmp_path):
    write(tmp_path, "[experiments]\nworkers = many\n")
    assert load_settings(tmp_path, {"MLOPS_NB_EXPERIMENTS_WORKERS": "3"}).experiments.workers == 3


def test_the_nearest_workspace_is_found(tmp_path):
    root = write(tmp_path/LONG_FOLDER, "[workspace]\n")
    inner = root/"notebooks"/"deep"
    inner.mkdir(parents=True)
    (inner/"train.ipynb").write_text("{}")
    write(root/"notebooks", "[DEFAULT]\nlib_name = of another program\n")
    for start in (root, inner, inner/"train.ipynb", str(inner)): assert find_workspace(start).root == root
    workspace = find_workspace(inner)
    assert workspace.runs_dir == root/".mlops/runs" and workspace.catalog_url == f"sqlite:///{root}/.mlops/catalog.db"


def test_a_folder_with_a_store_is_a_workspace(tmp_path):
    (tmp_path/".mlops").mkdir()
    assert find_workspace(tmp_path).root == tmp_path


def test_the_current_folder_is_the_default(tmp_path, monkeypatch):
    monkeypatch.chdir(write(tmp_path, "[workspace]\n"))
    assert find_workspace().root == tmp_path


def test_no_workspace(tmp_path):
    with pytest.raises(WorkspaceError, match="mlops-nb init"): find_workspace(tmp_path)
    write(tmp_path, "[DEFAULT]\n")
    with pytest.raises(WorkspaceError, match=r"has no section \[workspace\]"): find_workspace(tmp_path)
    with pytest.raises(WorkspaceError, match="does not exist"): open_workspace(tmp_path/"nowhere")
    assert open_workspace(tmp_path).root == tmp_path
    assert list(tmp_path.iterdir()) == [tmp_path/"settings.ini"]


def test_a_broken_workspace_is_not_passed_over(tmp_path):
    write(tmp_path, "[workspace]\n")
    with pytest.raises(SettingsError, match="line 2"): find_workspace(write(tmp_path/"inner", "[workspace]\nnonsense\n"))


def test_the_environment_names_the_workspace(tmp_path, monkeypatch):
    named, other = tmp_path/"named", write(tmp_path/"other", "[workspace]\n")
    named.mkdir()
    monkeypatch.chdir(other)
    monkeypatch.setenv("MLOPS_NB_WORKSPACE", str(named))
    assert find_workspace().root == open_workspace().root == named
    assert find_workspace(other).root == other
    monkeypatch.setenv("MLOPS_NB_WORKSPACE", str(tmp_path/"gone"))
    with pytest.raises(WorkspaceError, match="MLOPS_NB_WORKSPACE is '.*gone'"): find_workspace()


@pytest.mark.parametrize("catalog, url", [
    ("sqlite:///my catalog.db", "sqlite:///{root}/my catalog.db"), ("sqlite:////tmp/x.db", "sqlite:////tmp/x.db"),
    ("sqlite:///:memory:", "sqlite:///:memory:"), ("sqlite://", "sqlite://"), ("postgresql://host/db", "postgresql://host/db"),
    ("sqlite+pysqlite:///x.db", "sqlite+pysqlite:///{root}/x.db"),
])
def test_catalog_url(tmp_path, catalog, url):
    write(tmp_path, f"[workspace]\ncatalog = {catalog}\n")
    assert find_workspace(tmp_path).catalog_url == url.format(root=tmp_path)


def test_store_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path/"home"))
    assert find_workspace(write(tmp_path, "[workspace]\nstore = ~/store\n")).store_dir == tmp_path/"home/store"
    workspace = find_workspace(write(tmp_path, "[workspace]\nstore = /data/store\n"))
    assert (str(workspace.store_dir), workspace.catalog_url) == ("/data/store", "sqlite:////data/store/catalog.db")


def test_one_error_tree():
    assert issubclass(CorruptBlobError, StoreError) and issubclass(StoreError, MlopsError)
    assert MlopsError.exit_status == 2


def test_not_found_travels_between_processes():
    error = pickle.loads(pickle.dumps(NotFoundError("run", "abcd1235", ["abcd1234", "zzzz0000"])))
    assert str(error) == "no run 'abcd1235'; did you mean 'abcd1234'?" and error.candidates == ("abcd1234", "zzzz0000")


def test_a_missing_extra_names_its_command(tmp_path, monkeypatch):
    with pytest.raises(MissingExtraError, match=r"pip install 'mlops_nb\[dask\]'"): require("no_such_module", "dask")
    (tmp_path/"broken_module.py").write_text("import another_missing_module")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="another_missing_module"): require("broken_module", "dask")


def test_importing_settings_is_light():
    heavy = {"pydantic", "numpy", "wandb", "torch", "papermill", "sqlalchemy", "asyncio"}
    code = f"import sys, mlops_nb.settings; print(sorted({heavy!r} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
