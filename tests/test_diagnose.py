"""Planted bottlenecks: what `diagnose` calls them, and what it predicts against what the real loop then measures"""
import copy
import json
import random
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from mlops_nb.settings import HardwareSettings, Settings, TrainingError, Workspace
from mlops_nb.training.diagnosis import Diagnosis, diagnose
from mlops_nb.training.loader_remedies import in_memory, processors, why_not_in_memory
from mlops_nb.training.plan import make_plan
from mlops_nb.training.turns import Loop, take_turns, using_threads

WITHIN = 0.25 # of what is measured, relative
TRIES = 3 # on a machine that others use, too


@pytest.fixture(autouse=True)
def one_thread():
    with using_threads(1): yield


def cross_entropy(model, x, y): return nn.functional.cross_entropy(model(x), y)
def network(d=20, h=64): return nn.Sequential(nn.Linear(d, h), nn.ReLU(), nn.Linear(h, h), nn.ReLU(), nn.Linear(h, 2))
def table(n=8000, d=20): return torch.randn(n, d), torch.randint(2, (n,))


class SlowFiles(Dataset):
    def __len__(self): return 1000
    def __getitem__(self, index):
        time.sleep(0.002)
        return torch.full((20,), float(index)), index % 2


class Calculated(Dataset):
    def __len__(self): return 1000
    def __getitem__(self, index):
        value = 0
        for each in range(4000): value = (value*31 + each + index) % 1009
        return torch.full((20,), float(value)), index % 2


def slow_collate(samples):
    rows = [[float(value) + 0.0*step for value in x for step in range(3)][::3] for x, _ in samples]
    return torch.tensor(rows), torch.tensor([y for _, y in samples])


def row_by_row(model, x, y):
    scores, total = model(x), 0
    for row, label in zip(scores, y): total = total - torch.log_softmax(row, 0)[label]
    return total/len(y)


class ManySmall(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers, self.last = nn.ModuleList(nn.Linear(8, 8) for _ in range(60)), nn.Linear(8, 2)
    def forward(self, x):
        for layer in self.layers: x = torch.tanh(layer(x)) + x
        return self.last(x)


class Elementwise(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1000))
    def forward(self, x):
        for _ in range(6): x = torch.relu(x*self.weight + 0.1)
        return x[:, :2]


class Embedded(nn.Module):
    def __init__(self):
        super().__init__()
        self.vectors, self.last = nn.Embedding(100_000, 32), nn.Linear(32, 2)
    def forward(self, x): return self.last(self.vectors(x).mean(1))


class Sleepy(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = network()
    def forward(self, x):
        time.sleep(0.005)
        return self.inner(x)


def wide(): return nn.Sequential(nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 2))
def convolutions(): return nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1, stride=2), nn.ReLU(),
                                         nn.Flatten(), nn.Linear(64*256, 2))


def found(model, data, right, loss=cross_entropy, seconds=1.0, **options) -> Diagnosis:
    "A diagnosis; another one where the machine was too busy for the first to be right"
    for _ in range(TRIES):
        torch.manual_seed(0)
        diagnosis = diagnose(model, data, loss, torch.optim.AdamW(model.parameters()), seconds=seconds, **options)
        if right(diagnosis): break
    else: pytest.fail(f"\n{diagnosis}")
    return diagnosis


def first_proven(diagnosis): return next((each for each in diagnosis.remedies if each.measured is not None), None)
def well_predicted(verdict, remedy=""):
    def right(each):
        proven = first_proven(each) if each.verdict == verdict else None
        return proven is not None and remedy in proven.name and abs(proven.error) <= WITHIN
    return right


LISTS = [(x.tolist(), int(y)) for x, y in zip(*table(1000))]

def busy(*values, name): return pytest.param(*values, id=name, marks=pytest.mark.soak)


@pytest.mark.parametrize("dataset, options", [
    pytest.param(SlowFiles(), {"batch_size": 16}, id="sleep"), busy(Calculated(), {"batch_size": 32}, name="python"),
    busy(LISTS, {"batch_size": 64, "collate_fn": slow_collate}, name="collate"),
    busy(TensorDataset(*table()), {"batch_size": 256}, name="per-sample")])
def test_a_slow_loader_is_named_and_kept_in_memory(dataset, options):
    found(network(), DataLoader(dataset, shuffle=True, **options), well_predicted("data-bound", "in memory"), try_remedies=1)


@pytest.mark.soak
def test_workers_are_recommended_for_a_disk_that_waits():
    class Stream(SlowFiles):
        def __getitem__(self, index): return super().__getitem__(index)[0] + torch.randn(20), index % 2
    found(network(), DataLoader(Stream(), 16), well_predicted("data-bound", "worker"), try_remedies=1)


@pytest.mark.soak
def test_workers_are_not_recommended_for_a_table():
    def right(each): return all(remedy.gain <= first_proven(each).gain for remedy in each.remedies if "worker" in remedy.name)
    diagnosis = found(network(), DataLoader(TensorDataset(*table()), 256, shuffle=True), right, try_remedies=1)
    assert "in_memory" in diagnosis.advice[0]


def test_a_callback_at_each_step_is_host_bound():
    def slow(state): time.sleep(0.004)
    diagnosis = found(network(), table(), well_predicted("host-bound", "call back"), on_step=slow)
    assert "callbacks" in diagnosis.message and "every(50, callback)" in diagnosis.remedies[0].change


def test_rows_of_a_diagnosis_do_not_reach_the_run(tmp_path):
    class NoRun:
        checkpoint_dir, summary = tmp_path, {}
        def log(self, row, step=None): raise AssertionError("a diagnosis writes no row into the run")
    model = network()
    diagnosis = diagnose(model, table(), cross_entropy, torch.optim.SGD(model.parameters()), run=NoRun(), log_every=1, seconds=0.5,
                         try_remedies=0)
    assert diagnosis.phases.seconds["logging"] > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.soak
def test_a_python_loop_in_the_loss_is_host_bound_and_its_prediction_holds():
    def right(each): return each.verdict == "host-bound" and "loss" in each.remedies[0].name and _mended(each, network, network, row_by_row)
    diagnosis = found(network(), table(), right, loss=row_by_row, try_remedies=0)
    assert "row_by_row" in diagnosis.message


def test_waiting_inside_of_the_model_is_host_bound_and_its_prediction_holds():
    def right(each): return each.verdict == "host-bound" and "waiting" in each.remedies[0].name and _mended(each, Sleepy, network)
    diagnosis = found(Sleepy(), table(), right, try_remedies=0)
    assert diagnosis.shares["waiting"] > 0.5


def _mended(diagnosis, slow_model, quick_model, slow_loss=cross_entropy):
    "Whether the fault, once mended by hand, gives what was predicted"
    loops = []
    for make, loss in ((slow_model, slow_loss), (quick_model, cross_entropy)):
        model = make()
        loops.append(Loop(make_plan(model, table(), loss, torch.optim.AdamW(model.parameters(), lr=0.0), epochs=1)))
    slow, quick = take_turns(loops, 1.0)
    return abs(diagnosis.remedies[0].predicted/(slow.value/quick.value) - 1) <= WITHIN


@pytest.mark.soak
def test_thousands_of_small_operations_are_host_bound():
    data = torch.randn(4000, 8), torch.randint(2, (4000,))
    found(ManySmall(), data, well_predicted("host-bound", "batches of"), batch_size=4, try_remedies=1)


@pytest.mark.soak
@pytest.mark.parametrize("make, data, options", [
    (Elementwise, lambda: (torch.randn(4096, 1000), torch.randint(2, (4096,))), {"batch_size": 1024}),
    (Embedded, lambda: (torch.randint(100_000, (8000, 20)), torch.randint(2, (8000,))), {})], ids=["elementwise", "embedding"])
def test_moving_memory_is_memory_bound(make, data, options):
    def right(each): return each.verdict in ("memory-bound", "under-used") and each.shares["memory"] > 0.5
    found(make(), data(), right, try_remedies=0, **options)


def spare():
    "How many times as fast more threads are, while others use this machine"
    a = torch.randn(768, 768)
    def seconds():
        began = time.perf_counter()
        for _ in range(10): _ = a @ a
        return time.perf_counter() - began
    times = []
    for _ in range(9):
        one = seconds()
        with using_threads(processors()): times.append(one/seconds())
    return sorted(times)[4]


@pytest.mark.soak
def test_convolutions_are_compute_bound_and_there_is_nothing_to_gain(monkeypatch):
    monkeypatch.setattr("mlops_nb.training.step_remedies.processors", lambda: 1) # of which one thread uses all
    def right(each):
        kept = [remedy for remedy in each.remedies if not remedy.changes_results]
        return each.verdict == "compute-bound" and all(remedy.gain < 1.1 for remedy in kept)
    data = torch.randn(512, 3, 32, 32), torch.randint(2, (512,))
    diagnosis = found(convolutions(), data, right, batch_size=64)
    assert diagnosis.advice[-1].startswith("Stop")


@pytest.mark.soak
def test_a_single_thread_is_under_used_where_more_would_help():
    def right(each):
        if spare() < 1.5: return each.verdict != "under-used"  # a single processor, or one that others use
        return each.verdict == "under-used" and abs(first_proven(each).error) <= WITHIN
    found(wide(), (torch.randn(4096, 1024), torch.randint(2, (4096,))), right, batch_size=512)


def test_it_leaves_everything_as_it_was():
    model = network().eval()
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=3) # shorter than the diagnosis
    kept, state, rate = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict()), schedule.get_last_lr()
    data = table(2000)
    drawn = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate(), torch.get_num_threads()
    diagnose(model, data, cross_entropy, optimizer, schedule=schedule, seconds=0.3, try_remedies=1)
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    assert all(each.grad is None for each in model.parameters()) and not model.training
    assert optimizer.state_dict() == state and schedule.get_last_lr() == rate
    assert torch.equal(torch.get_rng_state(), drawn[0])
    assert (np.random.get_state()[1].tolist(), random.getstate(), torch.get_num_threads()) == drawn[1:]


def test_it_says_what_it_costs_and_fits_a_terminal(tmp_path):
    model = network()
    workspace = Workspace(tmp_path, Settings(hardware=HardwareSettings(cost_per_hour=36.0)))
    diagnosis = diagnose(model, table(2000), cross_entropy, torch.optim.AdamW(model.parameters()), epochs=5, seconds=0.3, try_remedies=0,
                         workspace=workspace)
    assert diagnosis.cost.run == pytest.approx(5*diagnosis.cost.epoch) and 0 <= diagnosis.cost.idle <= diagnosis.cost.run
    assert max(map(len, str(diagnosis).splitlines())) <= 80
    assert diagnosis.verdict in diagnosis._repr_html_() and len(diagnosis.figure().axes) == 2
    assert json.loads(json.dumps(diagnosis.to_dict()))["verdict"] == diagnosis.verdict
    class Run: summary = {}
    diagnosis.log(Run)
    assert Run.summary["diagnosis/verdict"] == diagnosis.verdict


def test_what_cannot_be_kept_in_memory():
    class Endless(IterableDataset):
        def __iter__(self): return iter(torch.randn(100, 3))
    class Ragged(Dataset):
        def __len__(self): return 10
        def __getitem__(self, index): return torch.zeros(index + 1)
    def pad(samples): return nn.utils.rnn.pad_sequence(samples, batch_first=True)
    assert "stream" in why_not_in_memory(DataLoader(Endless()))
    assert "rows of equal shape" in why_not_in_memory(DataLoader(Ragged(), collate_fn=pad))
    weighted = torch.utils.data.WeightedRandomSampler([1.0]*10, 10)
    assert "WeightedRandomSampler" in why_not_in_memory(DataLoader(TensorDataset(torch.zeros(10)), sampler=weighted))
    with pytest.raises(TrainingError, match="go on with the DataLoader"): in_memory(DataLoader(Endless()))


def test_a_model_that_cannot_be_copied():
    model = network()
    model.extra = model[0].weight*2 # the result of an operation cannot be copied
    with pytest.raises(TrainingError, match="works on copies"):
        diagnose(model, table(100), cross_entropy, torch.optim.SGD(model.parameters()), seconds=0.1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("kind", ["small batches", "large product", "loader"])
def test_on_a_gpu(kind):
    make, data, options = {"small batches": (ManySmall, (torch.randn(4000, 8), torch.randint(2, (4000,))), {"batch_size": 16}),
                           "large product": (wide, (torch.randn(65536, 1024), torch.randint(2, (65536,))), {"batch_size": 8192}),
                           "loader": (network, DataLoader(SlowFiles(), 32), {})}[kind]
    right = {"small batches": ("host-bound", "under-used"), "loader": ("data-bound",),
             "large product": ("compute-bound", "memory-bound", "under-used", "transfer-bound")}[kind]
    diagnosis = found(make().cuda(), data, lambda each: each.verdict in right, **options)
    assert diagnosis.limits.parts.device > 0 and (diagnosis.mfu is None or 0 < diagnosis.mfu < 1)
