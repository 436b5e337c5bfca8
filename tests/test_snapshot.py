"""What a notebook should not show of the snapshot: repositories in every state, strange files and reused process numbers."""
import logging, multiprocessing, os, subprocess, sys
from dataclasses import replace

import pytest

from mlops_nb.settings import NotFoundError, StoreError
from mlops_nb.store import snapshot
from mlops_nb.store.snapshot import (CodeState, ProcessIdentity, code_state, environment, file_digest, files_digest, git_changes,
                                     installed_packages, is_alive, process_identity, process_start, python_files)


def git(folder, *arguments):
    command = ["git", "-C", folder, "-c", "user.name=Ada", "-c", "user.email=ada@example.com", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path/"งาน ของ ฉัน"
    folder.mkdir()
    (folder/"net.py").write_text("layers = 2\n")
    return folder


@pytest.fixture
def repository(folder):
    git(folder, "init", "-q")
    (folder/".gitignore").write_text(".mlops/\n")
    git(folder, "add", "."); git(folder, "commit", "-qm", "first")
    return folder


# Code

def test_without_git(folder, monkeypatch):
    assert code_state(folder) == CodeState(None, None, code_state(folder).digest)
    monkeypatch.setenv("PATH", "")
    assert code_state(folder).commit is None


def test_before_the_first_commit(folder):
    git(folder, "init", "-q")
    state = code_state(folder)
    assert state.commit is None and state.changes_digest


def test_a_clean_repository(repository):
    state = code_state(repository)
    assert state.commit == git(repository, "rev-parse", "HEAD") and state.changes_digest is None
    (repository/".mlops").mkdir()
    (repository/".mlops"/"catalog.db").write_bytes(b"ignored")
    assert code_state(repository) == state


def edit(folder): (folder/"net.py").write_text("layers = 3\n")
def delete(folder): (folder/"net.py").unlink()
def new(folder): (folder/"ใหม่ file.py").write_text("new = 1\n")
def nested(folder): (folder/"a"/"b").mkdir(parents=True); (folder/"a"/"b"/"deep.py").touch()
def executable(folder): (folder/"net.py").chmod(0o755)
def link(folder): (folder/"link.py").symlink_to("nowhere")
def not_utf8(folder): (folder/os.fsdecode(b"\xff.py")).write_bytes(b"\xff")
def rename(folder): git(folder, "mv", "net.py", "network.py")
def data(folder): (folder/"digits.csv").write_text("7\n")


CHANGES = [edit, delete, new, nested, executable, link, not_utf8, rename, data]


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_shows(repository, change):
    clean = code_state(repository)
    change(repository)
    changed = code_state(repository)
    assert changed.commit == clean.commit and changed.changes_digest
    assert (changed.digest == clean.digest) == (change is data)
    assert code_state(repository) == changed
    git(repository, "add", "-A")
    assert code_state(repository) == changed # staged or not, it is the same code
    git(repository, "commit", "-qm", "second")
    assert code_state(repository) == CodeState(git(repository, "rev-parse", "HEAD"), None, changed.digest)


def test_each_change_has_a_digest_of_its_own(repository):
    digests = set()
    for change in CHANGES:
        change(repository)
        digests.add(code_state(repository).changes_digest)
        git(repository, "reset", "-q", "--hard"); git(repository, "clean", "-fdq")
    assert len(digests) == len(CHANGES)


def test_a_conflict_is_a_change(repository):
    git(repository, "checkout", "-qb", "other"); edit(repository); git(repository, "commit", "-qam", "other")
    git(repository, "checkout", "-q", "-"); (repository/"net.py").write_text("layers = 9\n"); git(repository, "commit", "-qam", "mine")
    with pytest.raises(subprocess.CalledProcessError): git(repository, "merge", "other")
    assert code_state(repository).changes_digest


def test_changes_count_in_the_whole_repository_and_code_in_the_workspace(repository):
    (repository/"demo").mkdir()
    (repository/"demo"/"plot.py").write_text("size = 1\n")
    git(repository, "add", "."); git(repository, "commit", "-qm", "demo")
    before = code_state(repository/"demo")
    edit(repository)
    after = code_state(repository/"demo")
    assert before.changes_digest is None and after.changes_digest and after.digest == before.digest


def test_a_worktree(repository, tmp_path):
    git(repository, "worktree", "add", "-q", tmp_path/"tree")
    assert code_state(tmp_path/"tree") == code_state(repository)


def test_inside_a_git_hook_it_is_still_this_repository(repository, tmp_path, monkeypatch):
    state = code_state(repository)
    other = tmp_path/"other"
    other.mkdir(); git(other, "init", "-q")
    monkeypatch.setenv("GIT_DIR", str(other/".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other/".git"/"index"))
    assert code_state(repository) == state


def test_a_held_index_lock_does_not_matter(repository):
    state = code_state(repository)
    (repository/".git"/"index.lock").touch()
    assert code_state(repository) == state


def test_looking_changes_nothing(repository):
    os.utime(repository/"net.py", (1e9, 1e9)) # git would note the new time in its index
    index = (repository/".git"/"index").read_bytes()
    code_state(repository)
    assert (repository/".git"/"index").read_bytes() == index


def test_a_broken_repository_is_named(repository, caplog):
    (repository/".git"/"config").write_text("[core\n")
    with caplog.at_level(logging.WARNING, "mlops_nb"): assert code_state(repository).commit is None
    assert "config" in caplog.text


def test_no_folder(tmp_path):
    with pytest.raises(NotFoundError, match="folder"): code_state(tmp_path/"none")


def test_git_answers():
    assert git_changes("") == (None, [])
    assert git_changes("# branch.oid (initial)\0? a b.py\0") == (None, ["a b.py"])
    entries = ["# branch.oid 12ab", "u UU N... 100644 100644 100644 100644 1 2 3 both changed.py",
               "1 .D N... 100644 100644 000000 1 1 gone.py"]
    assert git_changes("\0".join(entries)) == ("12ab", ["both changed.py", "gone.py"])


# Files

def test_tools_and_hidden_folders_are_not_code(folder):
    for name in (".venv/a.py", "env/pyvenv.cfg", "env/lib/b.py", "node_modules/c.py", "__pycache__/d.py", "wandb/run/files/code/e.py",
                 "lib/site-packages/f.py", "package/g.py", "h.txt"):
        (folder/name).parent.mkdir(parents=True, exist_ok=True)
        (folder/name).touch()
    assert python_files(folder) == ["net.py", "package/g.py"]


def test_names_and_contents_cannot_be_confused(folder):
    (folder/"a").write_text("b"); (folder/"b").write_text("a"); (folder/"c").write_text("a")
    digests = [files_digest(folder, names) for names in ([], ["a"], ["b"], ["a", "b"], ["a", "c"], ["gone"])]
    assert len(set(digests)) == len(digests)


def test_large_files_are_not_read(folder):
    with (folder/"data.bin").open("wb") as file: file.truncate(10 << 30)
    os.utime(folder/"data.bin", (1e9, 1e9))
    first = files_digest(folder, ["data.bin", "net.py"])
    os.utime(folder/"data.bin", (1e9, 2e9))
    assert files_digest(folder, ["data.bin", "net.py"]) != first


def test_all_files_share_one_limit(folder, monkeypatch):
    for number in range(5): (folder/f"{number}.bin").write_bytes(b"x" * 100)
    read = []
    digest = snapshot.file_digest
    monkeypatch.setattr(snapshot, "file_digest", lambda path: read.append(path.name) or digest(path))
    files_digest(folder, [f"{number}.bin" for number in range(5)], limit_bytes=250)
    assert read == ["0.bin", "1.bin"]


def test_pipes_folders_and_links_do_not_stop_it(folder):
    os.mkfifo(folder/"pipe")
    (folder/"loop").symlink_to("nowhere")
    digests = {files_digest(folder, [name]) for name in ("pipe", "loop", "gone", "net.py", ".")}
    (folder/"loop").unlink(); (folder/"loop").symlink_to("elsewhere")
    assert len(digests | {files_digest(folder, ["loop"])}) == 6


def test_file_digests(folder):
    assert file_digest(folder/"net.py") == file_digest(str(folder/"net.py"))
    with pytest.raises(NotFoundError, match="did you mean"): file_digest(folder/"nets.py")
    with pytest.raises(StoreError, match="is a folder"): file_digest(folder)


# Packages

def test_packages_are_those_of_importlib():
    from importlib.metadata import distributions
    expected = {}
    for each in distributions(): expected.setdefault(each.metadata["Name"], each.version)
    assert installed_packages() == expected
    assert environment() is environment()


def test_equal_environments_have_equal_digests(tmp_path):
    ask = "from mlops_nb.store.snapshot import environment; print(environment().digest)"
    for seed in "12":
        environ = os.environ | {"PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, cwd=tmp_path, env=environ)
        assert done.stdout.strip() == environment().digest


def test_a_new_package_changes_the_digest_and_a_broken_one_does_not(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    before = installed_packages()
    (tmp_path/"broken-1.0.dist-info").mkdir()
    assert installed_packages() == before
    (tmp_path/"digits_net-2.0.dist-info").mkdir()
    (tmp_path/"digits_net-2.0.dist-info"/"METADATA").write_text("Metadata-Version: 2.1\nName: digits-net\nVersion: 2.0\n\nName: not this\n")
    assert installed_packages() == dict(sorted((before | {"digits-net": "2.0"}).items()))
    (tmp_path/"psutil-0.1.dist-info").mkdir()
    (tmp_path/"psutil-0.1.dist-info"/"METADATA").write_text("Name: psutil\nVersion: 0.1\n")
    assert installed_packages()["psutil"] == "0.1" # found first


# Processes

def test_a_process_knows_itself():
    me = process_identity()
    assert me == process_identity(os.getpid()) and is_alive(me) is True


def test_death_and_a_reused_number():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = process_identity(child.pid)
    assert is_alive(identity) is True
    assert is_alive(replace(identity, started_at=identity.started_at - 0.01)) is False
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert is_alive(identity) is False # dead, though its parent has not taken note yet
    child.communicate()
    assert is_alive(identity) is False
    with pytest.raises(StoreError, match=str(child.pid)): process_identity(child.pid)


def test_a_fork_is_another_process():
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe()
    child = context.Process(target=lambda: send.send(process_identity()))
    child.start(); child.join()
    assert receive.recv() != process_identity()


@pytest.mark.parametrize("name", ["a) b", "Z", "x) Z ("])
def test_a_process_with_a_strange_name(name, tmp_path):
    program = tmp_path/name
    program.symlink_to("/bin/sleep")
    child = subprocess.Popen([program, "60"])
    try: assert is_alive(process_identity(child.pid)) is True
    finally: child.kill(); child.wait()


@pytest.mark.parametrize("host", ["", "elsewhere", "vm/00000000-0000-0000-0000-000000000000/pid:[1]"])
def test_another_host_cannot_be_judged(host): assert is_alive(ProcessIdentity(host, os.getpid(), 1.0)) is None


def test_no_such_process(): assert process_start(2**22 + 1) is None
