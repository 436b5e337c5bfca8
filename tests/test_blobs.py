"""What a notebook should not show of the blobs: full disks, damage, races and kills."""
import errno, fcntl, hashlib, io, os, pathlib, signal, stat, subprocess, sys, threading, time

import pytest
from hypothesis import given, settings, strategies as st

from mlops_nb.settings import CorruptBlobError, NotFoundError, StoreError, StoreFullError
from mlops_nb.store.blobs import Blob, BlobStore, keep_blob, link_or_copy
from mlops_nb.store.files import clear_leftovers

LONG = "โฟลเดอร์ ที่มี ชื่อยาวมาก/" * 5 # 130 letters


def sha256(data): return hashlib.sha256(data).hexdigest()
def files(folder): return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def store(tmp_path): return BlobStore(tmp_path/LONG/"blobs")


@pytest.fixture
def small_disk(tmp_path):
    "A file system of one megabyte"
    folder = tmp_path/"small disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], capture_output=True)
    if mounted.returncode: pytest.skip("needs the right to mount")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@settings(derandomize=True, database=None, deadline=None, max_examples=25)
@given(st.binary(max_size=3 << 10))
def test_what_is_put_is_read(tmp_path_factory, data):
    store = BlobStore(tmp_path_factory.getbasetemp()/"property")
    blob = store.put_bytes(data)
    assert blob == Blob(sha256(data), len(data)) == store.verify(blob.digest)
    assert store.read_bytes(blob.digest) == data and blob.digest in store


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_sizes_around_the_buffer(store, tmp_path, size):
    source = tmp_path/"data.bin"
    source.write_bytes(data := os.urandom(size))
    blob = store.put_file(source)
    assert blob == Blob(sha256(data), size)
    assert store.read_bytes(blob.digest) == data
    assert store.materialize(blob.digest, tmp_path/"out.bin").read_bytes() == data


def test_a_blob_is_one_read_only_file(store, tmp_path):
    source = tmp_path/"ข้อมูล 1.csv"
    source.write_bytes(b"x" * 100_000)
    digests = {store.put_file(source).digest for _ in range(3)} | {store.put_bytes(b"x" * 100_000).digest}
    assert len(digests) == 1 and len(files(store.folder)) == 1
    assert stat.S_IMODE(store.path(digests.pop()).stat().st_mode) == 0o444
    assert sum(path.stat().st_blocks * 512 for path in store.folder.rglob("*") if path.is_file()) <= 1.1 * 100_000


def test_the_users_file_may_change_afterwards(store, tmp_path):
    source = tmp_path/"data.csv"
    source.write_bytes(b"before")
    blob = store.put_file(source)
    with source.open("r+b") as file: file.write(b"after!")
    assert store.read_bytes(blob.digest) == b"before"
    assert source.stat().st_nlink == 1 and os.access(source, os.W_OK)


@pytest.mark.parametrize("name", [b"\xff\xfe.bin", "น้ำ.bin".encode(), b" leading space", b"new\nline", b"-rf"])
def test_strange_names(tmp_path, name):
    folder = pathlib.Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xe9 store"))
    folder.mkdir()
    source = folder/os.fsdecode(name)
    source.write_bytes(b"data")
    store = BlobStore(folder/"blobs")
    blob = store.put_file(source)
    assert store.materialize(blob.digest, folder/"out"/os.fsdecode(name)).read_bytes() == b"data"


# Bad input

def test_what_cannot_be_put(store, tmp_path):
    (tmp_path/"train.csv").touch()
    os.mkfifo(tmp_path/"pipe")
    with pytest.raises(NotFoundError, match="train.csv"): store.put_file(tmp_path/"trian.csv")
    with pytest.raises(NotFoundError): store.put_file(tmp_path/"no folder"/"train.csv")
    with pytest.raises(StoreError, match="is a folder"): store.put_file(tmp_path)
    with pytest.raises(StoreError, match="not an ordinary file"): store.put_file(tmp_path/"pipe")
    with pytest.raises(StoreError, match="cannot read"): store.put_file(tmp_path/"train.csv"/"part")
    assert not store.folder.exists()


@pytest.mark.parametrize("digest", ["", "abc", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "\n", None, 5])
def test_what_is_no_digest(store, tmp_path, digest):
    for ask in (store.path, store.verify, store.read_bytes, store.remove, store.__contains__):
        with pytest.raises(StoreError, match="not the digest"): ask(digest)
    with pytest.raises(StoreError, match="not the digest"): store.materialize(digest, tmp_path/"out")


def test_an_unknown_blob(store):
    assert "0" * 64 not in store and list(store.digests()) == []
    for ask in (store.path, store.verify, store.read_bytes):
        with pytest.raises(StoreError, match="was removed, or belongs to another store"): ask("0" * 64)
    store.remove("0" * 64)


def test_the_store_cannot_be_a_file(tmp_path):
    (tmp_path/"file").touch()
    with pytest.raises(StoreError, match="cannot store a file"): BlobStore(tmp_path/"file").put_bytes(b"data")


# No space

def test_a_full_disk(small_disk, tmp_path):
    store = BlobStore(small_disk/"blobs")
    kept = store.put_bytes(b"x" * 400_000)
    source = tmp_path/"large.bin"
    source.write_bytes(b"y" * 2_000_000)
    with pytest.raises(StoreFullError, match="No space left.*free some space"): store.put_file(source)
    with pytest.raises(StoreFullError): keep_blob(store.folder, io.BytesIO(b"z" * 900_000))
    assert files(small_disk) == [f"blobs/{kept.digest[:2]}/{kept.digest}"]
    assert store.read_bytes(kept.digest) == b"x" * 400_000
    assert store.put_bytes(b"small").digest in store


def test_a_full_disk_at_the_target(small_disk, store):
    blob = store.put_bytes(b"y" * 2_000_000)
    (small_disk/"model.pt").write_bytes(b"older")
    with pytest.raises(StoreFullError): store.materialize(blob.digest, small_disk/"model.pt")
    assert files(small_disk) == ["model.pt"] and (small_disk/"model.pt").read_bytes() == b"older"


def test_a_read_only_disk(small_disk):
    store = BlobStore(small_disk/"blobs")
    blob = store.put_bytes(b"data")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(StoreError, match="Read-only file system"): store.put_bytes(b"more")
    with pytest.raises(StoreError, match="Read-only file system"): store.remove(blob.digest)
    assert store.read_bytes(blob.digest) == b"data"


@pytest.mark.parametrize("number, kind", [
    (errno.ENOSPC, StoreFullError), (errno.EDQUOT, StoreFullError), (errno.EACCES, StoreError), (errno.EIO, StoreError)])
@pytest.mark.parametrize("step", ["fsync", "replace", "fchmod"])
def test_a_disk_that_fails_late(store, monkeypatch, number, kind, step):
    def fail(*_): raise OSError(number, os.strerror(number))
    monkeypatch.setattr(os, step, fail)
    with pytest.raises(kind) as raised: store.put_bytes(b"data")
    assert type(raised.value) is kind and os.strerror(number) in str(raised.value)
    monkeypatch.undo()
    assert files(store.folder) == [] and sha256(b"data") not in store


LIMITED = """
import resource, sys
from mlops_nb.store.blobs import BlobStore
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
BlobStore(sys.argv[1]).put_bytes(b"x" * 5000)
"""


def test_a_limit_on_the_size_of_files(store):
    done = subprocess.run([sys.executable, "-c", LIMITED, store.folder], capture_output=True, text=True)
    assert "StoreError" in done.stderr and "File too large" in done.stderr
    assert files(store.folder) == []


# Damage

def flip(data): return bytes([data[0] ^ 1]) + data[1:]


@pytest.mark.parametrize("damage", [flip, lambda data: data[:-1], lambda data: data + b"x", lambda data: b""],
                         ids=["flip", "shorter", "longer", "empty"])
def test_damage_is_found_and_healed(store, tmp_path, damage):
    data = b"weights" * 1000
    blob = store.put_bytes(data)
    path = store.path(blob.digest)
    path.chmod(0o644)
    path.write_bytes(damage(data))
    for ask in (store.path, store.verify, store.read_bytes, lambda digest: store.materialize(digest, tmp_path/"out.pt")):
        with pytest.raises(CorruptBlobError) as raised: ask(blob.digest)
        assert blob.digest in str(raised.value) and str(path) in str(raised.value)
    assert not (tmp_path/"out.pt").exists()
    assert store.put_bytes(data) == blob
    assert store.read_bytes(blob.digest) == data and len(files(store.folder)) == 1


def test_damage_after_a_check_is_found(store):
    blob = store.put_bytes(b"weights")
    path = store.path(blob.digest)
    os.utime(path, (1e9, 1e9)) # old enough to count as checked
    store.path(blob.digest)
    path.chmod(0o644)
    path.write_bytes(b"Weights")
    with pytest.raises(CorruptBlobError): store.path(blob.digest)


def test_damage_that_leaves_no_trace_in_the_time_is_found(store):
    blob = store.put_bytes(b"weights")
    path = store.path(blob.digest)
    time_ns = path.stat().st_mtime_ns
    path.chmod(0o644)
    path.write_bytes(b"Weights")
    os.utime(path, ns=(time_ns, time_ns)) # as if within one tick of the file system's clock
    with pytest.raises(CorruptBlobError): store.path(blob.digest)


def test_a_large_blob_is_read_once(store, monkeypatch):
    blob = store.put_bytes(b"weights")
    os.utime(store.path(blob.digest), (1e9, 1e9))
    store.path(blob.digest)
    monkeypatch.setattr(store, "verify", lambda digest: pytest.fail("read again"))
    assert store.path(blob.digest).read_bytes() == b"weights"


# Handing out

def test_materialize_replaces_in_one_step(store, tmp_path):
    blob, target = store.put_bytes(b"new"), tmp_path/"deep"/"folder"/"model.pt"
    target.parent.mkdir(parents=True)
    target.write_bytes(b"old")
    for _ in range(2): assert store.materialize(blob.digest, target) == target # the second time it is the same file already
    assert target.read_bytes() == b"new" and os.listdir(target.parent) == ["model.pt"]
    target.unlink()
    assert store.read_bytes(blob.digest) == b"new"


def test_materialize_onto_a_folder(store, tmp_path):
    (tmp_path/"model"/"inside").mkdir(parents=True)
    with pytest.raises(StoreError, match="cannot write 'model'"): store.materialize(store.put_bytes(b"new").digest, tmp_path/"model")
    assert sorted(os.listdir(tmp_path/"model")) == ["inside"]


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP])
def test_without_hard_links_it_is_a_copy(store, tmp_path, monkeypatch, number):
    def fail(*_, **__): raise OSError(number, os.strerror(number))
    monkeypatch.setattr(os, "link", fail)
    blob = store.put_bytes(b"data")
    target = store.materialize(blob.digest, tmp_path/"out")
    assert target.read_bytes() == b"data" and not target.samefile(store.path(blob.digest))
    assert stat.S_IMODE(target.stat().st_mode) == 0o444


def test_a_copy_is_checked(store, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *_: os.stat("/no such file"))
    blob = store.put_bytes(b"data")
    path = store.path(blob.digest)
    path.chmod(0o644)
    path.write_bytes(b"DATA")
    with pytest.raises(CorruptBlobError, match="changed while it was read"): link_or_copy(path, tmp_path/"out")


def test_another_file_system(small_disk, store):
    assert store.materialize(store.put_bytes(b"data").digest, small_disk/"out").read_bytes() == b"data"


def test_cloned_content_is_hashed_as_it_was_cloned(store, tmp_path, monkeypatch):
    source = tmp_path/"data.bin"
    source.write_bytes(b"data")
    def clone(target, request, origin):
        os.pwrite(target, os.pread(origin, 100, 0), 0)
        source.write_bytes(b"DATA") # too late to matter
    monkeypatch.setattr(fcntl, "ioctl", clone)
    blob = store.put_file(source)
    assert blob == Blob(sha256(b"data"), 4) and store.read_bytes(blob.digest) == b"data"


def test_digests_are_in_order_and_nothing_else(store):
    expected = sorted(store.put_bytes(bytes([number])).digest for number in range(20))
    (store.folder/"ab").mkdir(exist_ok=True)
    (store.folder/"ab"/"note.txt").touch()
    (store.folder/"README").touch()
    assert list(store.digests()) == expected
    for digest in expected[:10]: store.remove(digest)
    assert list(store.digests()) == expected[10:]


# Races and kills

PUTTING = """
import sys
from mlops_nb.store.blobs import BlobStore
store = BlobStore(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for number in range(20): print(store.put_bytes(bytes([number]) * 200_000).digest, flush=True)
"""


def putting(folder):
    return subprocess.Popen([sys.executable, "-c", PUTTING, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_two_processes_put_the_same_at_once(store):
    both = [putting(store.folder) for _ in range(2)]
    for process in both: assert process.stdout.readline() == "ready\n"
    for process in both: process.stdin.write("go\n"); process.stdin.flush()
    first, second = (process.communicate()[0].split() for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert first == second and sorted(first) == list(store.digests())
    assert len(files(store.folder)) == 20
    for digest in first: store.verify(digest)


def test_many_threads_put_and_read_the_same(store, tmp_path):
    barrier, failed = threading.Barrier(8), []
    def work(number):
        try:
            barrier.wait()
            for _ in range(10):
                blob = store.put_bytes(b"the same" * 1000)
                assert store.read_bytes(blob.digest) == b"the same" * 1000
                assert store.materialize(blob.digest, tmp_path/"shared.bin").is_file()
        except Exception as error: failed.append(error)
    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert failed == [] and len(files(store.folder)) == 1


KILLED = """
import os, signal, sys
from mlops_nb.store import blobs
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
class Source:
    reads = 0
    def readinto(self, buffer):
        self.reads += 1
        if sys.argv[2] == "read" and self.reads == 3: die()
        buffer[:1000] = b"x" * 1000
        return 1000 if self.reads < 6 else 0
    def fileno(self): raise OSError
if sys.argv[2] == "after": blobs.keep_blob(blobs.Path(sys.argv[1]), Source()); die()
if sys.argv[2] != "read": setattr(os, sys.argv[2], die)
blobs.keep_blob(blobs.Path(sys.argv[1]), Source())
"""


@pytest.mark.parametrize("moment", ["read", "fchmod", "fsync", "replace", "after"])
def test_kill_in_a_put(store, moment):
    done = subprocess.run([sys.executable, "-c", KILLED, store.folder, moment])
    assert done.returncode == -signal.SIGKILL
    digest = sha256(b"x" * 5000)
    assert list(store.digests()) == ([digest] if moment == "after" else [])
    assert len(files(store.folder)) == 1
    assert store.put_bytes(b"x" * 5000).digest == digest
    store.verify(digest)


def test_kill_at_any_moment_leaves_only_whole_blobs(store):
    for delay_s in (0.0, 0.005, 0.02, 0.05):
        process = putting(store.folder)
        process.stdin.write("go\n"); process.stdin.flush()
        assert process.stdout.readline() and process.stdout.readline() # it is ready, and the first blob is in the store
        time.sleep(delay_s)
        process.kill(); process.wait(); process.stdin.close(); process.stdout.close()
        for digest in store.digests(): store.verify(digest)
    assert sha256(bytes(200_000)) in store


def test_leftovers_go_when_they_are_old(store):
    subprocess.run([sys.executable, "-c", KILLED, store.folder, "fsync"])
    leftover = next((store.folder/"incoming").iterdir())
    store.put_bytes(b"data")
    assert leftover.exists() # somebody may still be writing it
    os.utime(leftover, (1e9, 1e9))
    BlobStore(store.folder).put_bytes(b"more data")
    assert not leftover.exists()
    assert clear_leftovers(store.folder/"no such folder") == 0
