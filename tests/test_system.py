"""What a notebook should not show of the system: GPUs that are not there, children that come and go, and processes that die."""
import contextlib, json, os, signal, subprocess, sys
from types import ModuleType, SimpleNamespace

import pytest
from waiting import wait_until

from mlops_nb.store import system
from mlops_nb.store.system import (HardwareSampler, Meter, gpu_handles, host_info, mean_and_peak, network_counters, read_samples,
                                   sample_gpus, sampling_pause_s, summarize_hardware, tree_counters)

SAMPLED = """
import os, sys, time
from mlops_nb.store.system import HardwareSampler
HardwareSampler(os.getpid(), sys.argv[1], 0.01).start()
time.sleep(60)
"""
SPENDS = "import time, sys\nend = time.process_time() + float(sys.argv[1])\nwhile time.process_time() < end: pass"


@pytest.fixture
def path(tmp_path): return tmp_path/"งาน ของ ฉัน"/"system.jsonl"


@pytest.fixture
def child():
    processes = []
    def start(*command):
        processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True))
        return processes[-1]
    yield start
    for process in processes:
        with contextlib.suppress(ProcessLookupError): os.killpg(process.pid, signal.SIGKILL) # and its children
        process.communicate()


class NVMLError(Exception): pass


@pytest.fixture
def two_gpus(monkeypatch):
    "NVML with one GPU that tells all, and one that is a part of a GPU and tells only its memory"
    def refuse(*_): raise NVMLError("Not Supported")
    def tell(whole): return lambda handle: whole if handle == "gpu 0" else refuse()
    fake = ModuleType("pynvml")
    fake.__dict__.update(
        NVMLError=NVMLError, nvmlInit=lambda: None, nvmlDeviceGetCount=lambda: 2, nvmlDeviceGetHandleByIndex=lambda index: f"gpu {index}",
        nvmlDeviceGetName=tell(b"NVIDIA H200"), nvmlDeviceGetUtilizationRates=tell(SimpleNamespace(gpu=0, memory=3)),
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(used=5 << 30, total=140 << 30), nvmlDeviceGetPowerUsage=tell(310_500))
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    gpu_handles.cache_clear()
    yield fake
    gpu_handles.cache_clear()


# GPUs

def test_gpus_tell_what_they_can(two_gpus):
    assert sample_gpus() == [
        {"index": 0, "utilization_percent": 0, "memory_bytes": 5 << 30, "power_watts": 310.5},
        {"index": 1, "utilization_percent": None, "memory_bytes": 5 << 30, "power_watts": None}]
    assert host_info()["gpus"] == [{"name": "NVIDIA H200", "memory_bytes": 140 << 30}, {"name": None, "memory_bytes": 140 << 30}]


def test_gpus_in_the_summary(two_gpus, path):
    used = HardwareSampler(os.getpid(), path).start().stop()
    assert used["gpu_0_utilization_percent_mean"] == 0 and used["gpu_0_power_watts_peak"] == 310.5
    assert used["gpu_1_memory_bytes_mean"] == 5 << 30
    assert not any(name.startswith(("gpu_1_utilization", "gpu_1_power")) for name in used)


@pytest.mark.parametrize("failing", ["nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex"])
def test_a_driver_that_fails_means_no_gpus(two_gpus, monkeypatch, failing, caplog):
    def refuse(*_): raise NVMLError("Driver Not Loaded")
    monkeypatch.setattr(two_gpus, failing, refuse)
    assert sample_gpus() == [] and host_info()["gpus"] == [] and not caplog.records


def test_no_pynvml_means_no_gpus(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    gpu_handles.cache_clear()
    assert sample_gpus() == []
    gpu_handles.cache_clear()


# The tree

def test_children_and_theirs_count(child):
    parent = child("sh", "-c", "sh -c 'sleep 60 & sleep 60' & wait")
    wait_until(lambda: tree_counters(parent.pid)["processes"] >= 4)
    alone = child("sleep", "60")
    assert tree_counters(parent.pid)["memory_bytes"] > tree_counters(alone.pid)["memory_bytes"]


def test_work_of_children_that_are_over_counts(child, tmp_path):
    shell = child("sh")
    meter = Meter(shell.pid)
    assert meter.sample()["cpu_percent"] is None
    write = f"import os; file = open({str(tmp_path/'data.bin')!r}, 'wb'); file.write(bytes(8 << 20)); os.fsync(file.fileno())"
    shell.stdin.write(f"'{sys.executable}' -c '{SPENDS}' 0.2; '{sys.executable}' -c \"{write}\"; echo done\n".encode()); shell.stdin.flush()
    assert shell.stdout.readline() == b"done\n"
    sample = meter.sample()
    assert sample["processes"] == 1
    assert sample["cpu_percent"] / 100 * sample["runtime_s"] > 0.15
    if os.stat(tmp_path).st_dev == os.stat("/").st_dev: # not in a file system that is in memory
        assert sample["disk_written_bytes"] >= 8 << 20


def test_a_child_that_leaves_the_tree_takes_nothing_back(monkeypatch):
    used = iter([(1.0, 100), (5.0, 500), (2.0, 200), (3.0, 300)]) # after the second sample a child with three seconds is gone
    def counters(pid): return dict(zip(("cpu_s", "disk_read_bytes"), next(used)), disk_written_bytes=0, processes=1, memory_bytes=1)
    monkeypatch.setattr(system, "tree_counters", counters)
    meter = Meter(os.getpid())
    samples = [meter.sample() for _ in range(4)]
    assert [sample["disk_read_bytes"] for sample in samples] == [0, 400, 400, 500]
    assert samples[2]["cpu_percent"] == 0 and samples[3]["cpu_percent"] > 0


def test_the_root_is_gone(child):
    process = child("sleep", "60")
    meter = Meter(process.pid)
    assert meter.sample()["processes"] == 1
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert meter.sample() is None # dead, though its parent has not taken note yet
    process.wait()
    assert meter.sample() is None


def test_processes_that_end_while_they_are_counted(monkeypatch):
    import psutil
    class Gone(psutil.Process):
        def memory_info(self): raise psutil.NoSuchProcess(self.pid)
    monkeypatch.setattr(psutil.Process, "children", lambda self, recursive: [Gone(os.getpid())])
    assert tree_counters(os.getpid())["processes"] == 1


def test_disk_counters_that_are_refused(monkeypatch):
    import psutil
    def refuse(self): raise psutil.AccessDenied(self.pid)
    monkeypatch.setattr(psutil.Process, "io_counters", refuse)
    assert tree_counters(os.getpid())["disk_read_bytes"] == 0


def test_the_loopback_is_no_network(monkeypatch):
    import psutil
    traffic = [("lo", 1000, 1000), ("eth0", 5, 7), ("ib0", 10, 20)]
    counters = {name: SimpleNamespace(bytes_recv=received, bytes_sent=sent) for name, received, sent in traffic}
    monkeypatch.setattr(psutil, "net_io_counters", lambda pernic: counters)
    assert network_counters() == {"network_received_bytes": 15, "network_sent_bytes": 27}


# The sampler

def test_the_sampler_follows_a_process(child, path):
    process = child(sys.executable, "-c", SPENDS, "60")
    sampler = HardwareSampler(process.pid, path, interval_s=0.02).start()
    wait_until(lambda: len(read_samples(path)) >= 5)
    used = sampler.stop()
    samples = read_samples(path)
    assert used == summarize_hardware(samples) and used["samples"] == len(samples)
    assert used["cpu_percent_peak"] > 0 and used["memory_bytes_mean"] > 1 << 20
    assert set(samples[0]) == {"timestamp", "runtime_s", "cpu_percent", "memory_bytes", "processes", "disk_read_bytes",
                               "disk_written_bytes", "network_received_bytes", "network_sent_bytes", "gpus"}
    assert samples[0]["runtime_s"] == 0 and [sample["runtime_s"] for sample in samples] == sorted(sample["runtime_s"] for sample in samples)
    assert sampler.stop() == used


def test_the_shortest_run_has_samples(path):
    assert HardwareSampler(os.getpid(), path, interval_s=60).start().stop()["samples"] == 2


def test_five_seconds_have_five_samples_at_least():
    runtime_s, samples = 0, 1
    while runtime_s < 5: runtime_s += sampling_pause_s(runtime_s, 0.5, cost_s=10); samples += 1
    assert samples - 1 >= 5


def test_a_killed_sampler_leaves_its_samples(path):
    process = subprocess.Popen([sys.executable, "-c", SAMPLED, path])
    wait_until(lambda: len(read_samples(path)) >= 3)
    process.kill(); process.wait()
    assert summarize_hardware(read_samples(path))["samples"] >= 3


def test_the_sampler_ends_with_its_process(child, path):
    process = child("sleep", "60")
    sampler = HardwareSampler(process.pid, path, interval_s=0.01).start()
    wait_until(lambda: read_samples(path))
    process.kill(); process.wait()
    sampler._thread.join(timeout=10)
    assert not sampler._thread.is_alive()
    assert sampler.stop()["samples"] >= 1


def test_a_process_that_never_was(path): assert HardwareSampler(2**22 + 1, path).start().stop() == {"samples": 0}


def test_a_sampler_that_was_not_started(path): assert HardwareSampler(os.getpid(), path).stop() == {"samples": 0}


def test_a_full_disk_ends_the_sampling_and_not_the_run(caplog):
    sampler = HardwareSampler(os.getpid(), "/dev/full").start()
    sampler._thread.join(timeout=10)
    assert "no longer recorded" in caplog.text and "No space left" in caplog.text


# Sums

@pytest.mark.parametrize("times_s, values, mean, peak", [
    ([0], [3], 3, 3), ([0, 9], [1, 3], 2, 3), ([0, 1, 4], [None, 10, 50], 40, 50), ([0, 0], [1, 3], 2, 3), ([0, 1, 2], [0, None, 4], 2, 4),
    ([0, 1, 2, 9], [0, 0, 0, 10], 7, 10)])
def test_means_are_over_time(times_s, values, mean, peak):
    assert mean_and_peak(times_s, values, "load") == {"load_mean": mean, "load_peak": peak}


@pytest.mark.parametrize("times_s, values", [([], []), ([0], [None]), ([0, 1], [None, None])])
def test_nothing_known_is_nothing_claimed(times_s, values): assert mean_and_peak(times_s, values, "load") == {}


def test_the_host_as_json():
    host = host_info()
    assert list(host) == ["hostname", "os", "cpu_model", "cpu_count", "memory_bytes", "gpus"]
    assert host["cpu_count"] >= 1 and host["memory_bytes"] > 1 << 28 and json.loads(json.dumps(host)) == host


def test_no_heavy_module_comes_along():
    heavy = "{'torch', 'numpy', 'wandb', 'psutil', 'pynvml', 'subprocess'}"
    code = f"import sys, mlops_nb.store.system, mlops_nb.store.snapshot; print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
