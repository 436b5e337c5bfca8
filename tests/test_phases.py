"""Where the time went: what is planted in a phase is found in that phase, and the rest is told."""
import time

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from mlops_nb.training.loop import fit
from mlops_nb.training.phases import PHASES, PhaseClock, Phases, time_row

NAP_S = 0.01
STEPS = 12


def nap():
    time.sleep(NAP_S)


class Slow(Dataset):
    def __len__(self):
        return STEPS

    def __getitem__(self, index):
        nap()
        return torch.zeros(3), torch.zeros(())


class SlowBackward(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        return x * 1

    @staticmethod
    def backward(context, gradient):
        nap()
        return gradient


class SlowOptimizer(torch.optim.SGD):
    def step(self, closure=None):
        nap()
        return super().step(closure)


class SlowRun:
    "Takes rows slowly"
    def __init__(self, folder):
        self.summary, self.checkpoint_dir, self.rows, self.step = {}, folder, [], 0

    def log(self, row, step):
        nap()
        self.rows.append((step, row))


def loss(model, x, y):
    return (model(x)[:, 0] - y).square().mean()


def slow_loss(model, x, y):
    nap()
    return loss(model, x, y)


def slow_backward(model, x, y):
    return SlowBackward.apply(loss(model, x, y))


def slow_validation(model):
    time.sleep(STEPS * NAP_S)
    return {"validation_loss": 1.0}


def trained(tmp_path, plant):
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    data = torch.zeros(STEPS, 3), torch.zeros(STEPS)
    options = {"epochs": 1, "batch_size": 1, "progress": False}
    kind = torch.optim.SGD
    chosen = loss
    if plant == "data": data = DataLoader(Slow(), batch_size=1)
    if plant == "forward": chosen = slow_loss
    if plant == "backward": chosen = slow_backward
    if plant == "optimizer": kind = SlowOptimizer
    if plant == "callbacks": options["on_step"] = lambda state: nap()
    if plant == "validation": options["validate"] = slow_validation
    if plant == "logging": options |= {"run": SlowRun(tmp_path), "log_every": 1}
    return fit(model, data, chosen, kind(model.parameters(), lr=0.1), **options)


@pytest.mark.parametrize("plant", ["data", "forward", "backward", "optimizer", "logging", "validation", "callbacks"])
def test_planted_delay_is_found_in_its_phase(tmp_path, plant):
    phases = trained(tmp_path, plant).phases
    assert max(phases.seconds, key=phases.seconds.get) == plant
    assert phases.seconds[plant] >= 0.8 * STEPS * NAP_S  # a row is written while the next step begins
    assert phases.steps == phases.rows == STEPS


def test_phases_sum_to_the_wall_clock():
    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 1))
    began = time.monotonic()
    data = torch.zeros(4000, 20), torch.zeros(4000)
    phases = fit(model, data, loss, torch.optim.SGD(model.parameters(), lr=0.1), epochs=3, batch_size=100, progress=False).phases
    assert phases.wall_s <= time.monotonic() - began
    assert 0 <= phases.unexplained_share < 0.25
    assert sum(phases.seconds.values()) + phases.unexplained_s == pytest.approx(phases.wall_s)
    assert sum(phases.shares.values()) + phases.unexplained_share == pytest.approx(1)
    assert phases.rows == 12_000 and phases.steps == 120


def test_what_is_not_marked_stays_unexplained():
    clock = PhaseClock()
    time.sleep(0.03)
    clock.skip()
    time.sleep(0.01)
    clock.mark("data")
    time.sleep(0.02)  # after the last mark
    phases = clock.report()
    assert phases.unexplained_s >= 0.05
    assert 0.01 <= phases.seconds["data"] < phases.wall_s - 0.05 + 1e-3


def test_unknown_phase_is_refused():
    with pytest.raises(KeyError):
        PhaseClock().mark("thinking")


def test_laps_add_up_to_the_report():
    clock = PhaseClock()
    laps = []
    for steps in (3, 4):
        for phase in PHASES:
            clock.mark(phase)
        clock.steps += steps
        laps.append(clock.lap())
    total = clock.report()
    assert [lap.steps for lap in laps] == [3, 4]
    for phase in PHASES:
        assert sum(lap.seconds[phase] for lap in laps) == pytest.approx(total.seconds[phase])


def test_dictionary_and_pictures():
    phases = Phases(2.0, dict.fromkeys(PHASES, 0.2), {name: 0.1 for name in PHASES}, steps=10, rows=100)
    assert Phases(**phases.to_dict()) == phases
    assert "unexplained" in str(phases) and "10.0%" in str(phases)
    assert "<td>forward</td><td>20.000</td><td>10.0%</td><td>10.000</td>" in phases._repr_html_()
    row = time_row(phases)
    assert row["time/forward_ms"] == pytest.approx(20) and row["time/gpu_forward_ms"] == pytest.approx(10)
    assert row["time/step_ms"] == pytest.approx(200) and row["rows_per_s"] == pytest.approx(50)
    assert row["time/unexplained_share"] == pytest.approx(0.1)
    empty = Phases(0.0, dict.fromkeys(PHASES, 0.0), None, 0, 0)
    assert time_row(empty) == {} and empty.step_ms == empty.rows_per_s == empty.unexplained_share == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_times_are_those_of_the_gpu():
    clock = PhaseClock("cuda")
    x = torch.randn(4096, 4096, device="cuda")
    torch.cuda.synchronize()
    clock.start()
    for _ in range(20):
        x @ x
        clock.mark("forward")
    phases = clock.report()
    assert phases.device_seconds["forward"] > phases.seconds["forward"]
