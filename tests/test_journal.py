"""What a notebook should not show of the journal: kills, threads, full disks and strange values."""
import decimal, errno, fractions, json, logging, math, os, pathlib, signal, subprocess, sys, threading, time
from datetime import datetime

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from mlops_nb.settings import StoreError, StoreFullError
from mlops_nb.store.journal import NON_FINITE, Journal, decode_row, encode_row, read_journal, summarize, to_jsonable

KILLED = """
import os, signal, sys
from mlops_nb.store.journal import Journal
journal = Journal(sys.argv[1])
for step in range(int(sys.argv[2])):
    journal.append({"_step": step, "loss": 0.1})
    os.write(1, b".") # acknowledged
os.kill(os.getpid(), signal.SIGKILL)
"""

LOGGING = """
import sys
from mlops_nb.store.journal import Journal
journal = Journal(sys.argv[1])
journal.append({"who": "ready"})
sys.stdin.readline()
for step in range(500): journal.append({"_step": step, "who": sys.argv[2], "text": "x" * 200})
"""


@pytest.fixture
def path(tmp_path): return tmp_path/"งาน ของ ฉัน"/"runs"/"q7k2m9xa"/"journal.jsonl"


@pytest.mark.parametrize("count", [1, 2, 1000])
def test_every_acknowledged_row_survives_sigkill(path, count):
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), str(count)], stdout=subprocess.PIPE)
    assert done.returncode == -signal.SIGKILL
    assert len(done.stdout) == count
    assert [row["_step"] for row in read_journal(path)] == list(range(count))


def test_many_threads_append_whole_lines(path):
    journal, barrier = Journal(path), threading.Barrier(16)
    def log(who):
        barrier.wait()
        for step in range(200): journal.append({"_step": step, "who": who, "text": "ข้อความ" * 20})
    threads = [threading.Thread(target=log, args=(who,)) for who in range(16)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    rows = read_journal(path)
    assert len(rows) == 16 * 200
    for who in range(16): assert [row["_step"] for row in rows if row["who"] == who] == list(range(200))


def test_processes_append_whole_lines(path):
    processes = [subprocess.Popen([sys.executable, "-c", LOGGING, str(path), who], stdin=subprocess.PIPE) for who in "ab"]
    while len(read_journal(path)) < 2 and not any(process.poll() for process in processes): time.sleep(0.01)
    for process in processes: process.stdin.close() # both have the file open: go
    assert [process.wait() for process in processes] == [0, 0]
    rows = read_journal(path)
    assert len(rows) == 1002
    for who in "ab": assert [row["_step"] for row in rows if row["who"] == who] == list(range(500))


def test_closing_while_others_append_loses_nothing(path):
    journal, stop = Journal(path), threading.Event()
    def close():
        while not stop.is_set(): journal.close()
    closer = threading.Thread(target=close)
    closer.start()
    for step in range(300): journal.append({"_step": step})
    stop.set(); closer.join()
    assert [row["_step"] for row in read_journal(path)] == list(range(300))


@pytest.mark.parametrize("torn", ['{"_step": 1, "loss": 0.', '{"_step": 1, "name": "ไท'.encode()[:-1], '{', '12', '\x00\x00\x00'])
def test_a_torn_last_line_is_left_out_in_silence(path, torn, caplog):
    Journal(path).append({"_step": 0})
    with path.open("ab") as file: file.write(torn if isinstance(torn, bytes) else torn.encode())
    assert read_journal(path) == [{"_step": 0}]
    assert not caplog.records


def test_a_torn_line_in_the_middle_is_named(path, caplog):
    Journal(path).append({"_step": 0})
    with path.open("ab") as file: file.write(b'{"_step": 1, "los')
    Journal(path).append({"_step": 2})
    with caplog.at_level(logging.WARNING, "mlops_nb"): assert read_journal(path) == [{"_step": 0}, {"_step": 2}]
    assert "line 2" in caplog.text


def test_each_prefix_of_a_journal_reads_as_the_rows_that_are_whole(path):
    journal = Journal(path)
    for step in range(3): journal.append({"_step": step, "name": "ตัวเลข", "loss": math.nan})
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        assert data[:length].count(b"\n") <= len(read_journal(path)) <= data[:length + 1].count(b"\n")


def test_a_full_disk_is_an_error_and_the_next_row_is_whole(path, monkeypatch):
    journal, write = Journal(path), os.write
    journal.append({"_step": 0})
    def half(descriptor, data):
        if data.startswith((b'{"_step":1', b"\n")): return write(descriptor, data[:len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(os, "write", half)
    with pytest.raises(StoreFullError, match="No space left.*free some space"): journal.append({"_step": 1, "loss": 0.5})
    monkeypatch.undo()
    journal.append({"_step": 2})
    assert read_journal(path) == [{"_step": 0}, {"_step": 2}]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full is Linux only")
def test_a_device_without_space(tmp_path):
    with pytest.raises(StoreFullError): Journal("/dev/full").append({"_step": 0})


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path/"file").touch()
    with pytest.raises(StoreError, match="cannot write the journal"): Journal(tmp_path/"file"/"journal.jsonl").append({})
    with pytest.raises(StoreError, match="cannot read the journal"): read_journal(tmp_path)


def test_no_file_no_rows(tmp_path):
    assert read_journal(tmp_path/"journal.jsonl") == []
    Journal(tmp_path/"journal.jsonl").close()
    assert not (tmp_path/"journal.jsonl").exists()


def test_a_path_that_is_not_utf8(tmp_path):
    path = pathlib.Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe journal.jsonl"))
    Journal(path).append({"_step": 0})
    assert read_journal(path) == [{"_step": 0}]


def test_an_empty_journal_after_close_goes_on(path):
    journal = Journal(path)
    journal.append({"_step": 0}); journal.close(); journal.append({"_step": 1}); journal.close()
    assert [row["_step"] for row in read_journal(path)] == [0, 1]


texts = st.text().filter(lambda text: text not in NON_FINITE)
json_values = st.recursive(st.none() | st.booleans() | st.integers(-2**70, 2**70) | st.floats() | texts,
                           lambda each: st.lists(each, max_size=4) | st.dictionaries(st.text(), each, max_size=4), max_leaves=20)


def same(one, other):
    if isinstance(one, float) and math.isnan(one): return isinstance(other, float) and math.isnan(other)
    if isinstance(one, list): return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict): return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    return type(one) is type(other) and one == other


@settings(derandomize=True, database=None, deadline=None)
@given(st.dictionaries(st.text(), json_values, max_size=6))
def test_what_is_logged_is_read(row):
    line = encode_row(row)
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    assert same(row, decode_row(line))


class Awkward:
    "Looks like an array, a number and a date, and is none"
    shape = property(lambda self: (1,))
    def item(self): raise RuntimeError("no data")
    def __getattr__(self, name): raise AttributeError(name)


class Image:
    _log_type = "image-file"


def circle():
    row = {}
    row |= {"again": row, "wide": [row] * 100}
    return row


@pytest.mark.parametrize("value, expected", [
    (np.float32(0.5), 0.5), (np.float64(0.5), 0.5), (np.int64(3), 3), (np.bool_(True), True), (np.float16("nan"), "NaN"),
    (np.float64("inf"), "Infinity"), (np.longdouble(0.5), 0.5), (np.array(2), 2), (np.array([2.5]), 2.5),
    (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
    (np.array([1, np.inf]), [1.0, "Infinity"]), (np.array([]), []), (np.arange(33), {"_type": "numpy.ndarray", "shape": [33]}),
    (np.datetime64("2026-05-01"), "2026-05-01"), (np.complex64(1j), {"_type": "complex"}), (np.float32, {"_type": "type"}),
    (decimal.Decimal("0.5"), 0.5), (decimal.Decimal("sNaN"), {"_type": "decimal.Decimal"}),
    (fractions.Fraction(10**400), {"_type": "fractions.Fraction"}),
    (10**5000, {"_type": "int"}), ({1, }, [1]), (range(3), [0, 1, 2]), ((1, 2), [1, 2]), ({1: "a"}, {"1": "a"}),
    (b"\xff", {"_type": "bytes"}),
    (pathlib.Path("ภาพ 1.png"), "ภาพ 1.png"), (datetime(2026, 5, 1, 12), "2026-05-01T12:00:00"), (datetime, {"_type": "type"}),
    (object(), {"_type": "object"}), (Awkward(), {"_type": f"{__name__}.Awkward", "shape": [1]}), (Image(), {"_type": "image-file"}),
], ids=lambda value: type(value).__name__)
def test_any_value_becomes_json(value, expected):
    assert to_jsonable(value) == expected
    assert json.loads(encode_row({"value": value})) == {"value": expected}


def test_rows_that_plain_json_refuses():
    assert decode_row(encode_row({("a", 1): 2, "half": "\ud800"})) == {"('a', 1)": 2, "half": "\ud800"}
    assert decode_row(encode_row(circle())) == {"again": {"_type": "dict"}, "wide": [{"_type": "dict"}] * 100}
    deep = []
    for _ in range(5000): deep = [deep]
    assert str(decode_row(encode_row({"deep": deep}))).count("[") == 15


def test_torch_values():
    torch = pytest.importorskip("torch")
    assert to_jsonable(torch.tensor(0.5, requires_grad=True)) == 0.5
    assert to_jsonable(torch.tensor([1.5], dtype=torch.bfloat16)) == 1.5
    assert to_jsonable(torch.ones(2, 2)) == [[1.0, 1.0], [1.0, 1.0]]
    assert to_jsonable(torch.zeros(3, 40)) == {"_type": "torch.Tensor", "shape": [3, 40]}
    assert to_jsonable(torch.zeros(1, device="meta")) == {"_type": "torch.Tensor", "shape": [1]}


def test_wandb_media_keep_their_name():
    wandb = pytest.importorskip("wandb")
    assert to_jsonable(wandb.Table(columns=["a"], data=[[1]])) == {"_type": "table"}
    assert to_jsonable(wandb.Histogram([1, 2, 3])) == {"_type": "histogram"}


def test_the_summary_is_the_last_word():
    rows = [{"_step": 0, "_timestamp": 1.0, "loss": 0.9, "val": {"recall": 0.5, "deep": {"f1": 0.4}}},
            {"_summary": {"loss": 0.1, "best": {"recall": 0.5}}},
            {"_step": 1, "loss": 0.4, "image": {"_type": "image-file"}}, {"_summary": {"recall": math.nan}}]
    summary = summarize(rows)
    assert math.isnan(summary.pop("recall"))
    assert summary == {"loss": 0.4, "val.recall": 0.5, "val.deep.f1": 0.4, "best.recall": 0.5, "image": {"_type": "image-file"}}
    assert summarize([]) == {}


def test_no_heavy_module_comes_along():
    heavy = "{'torch', 'numpy', 'wandb', 'psutil', 'pynvml', 'pandas'}"
    code = f"import sys, mlops_nb.store.journal, mlops_nb.store.blobs; print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
