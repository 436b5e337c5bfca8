"""`fit`: equal to a loop by hand, stopped anywhere and resumed with the same bits, and clear about what it refuses."""
import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

from mlops_nb import start_run
from mlops_nb.settings import TrainingError
from mlops_nb.training.batches import Blocks
from mlops_nb.training.distributed import Group
from mlops_nb.training.loop import fit, weigh
from mlops_nb.training.nonfinite import NonFiniteLossError
from mlops_nb.training.plan import make_plan
from mlops_nb.training.state import State

ROWS, BATCH = 130, 16


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Run:
    "What `fit` needs of a run"
    def __init__(self, folder):
        self.checkpoint_dir, self.rows, self.summary, self.step = Path(folder), [], {}, 0

    def log(self, row, step):
        self.rows.append((step, dict(row)))


def data(rows=ROWS):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, 6, generator=generator)
    return x, (x[:, :1] * 2 - x[:, 1:2]).squeeze(1)


def network(dropout=0.3):
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 1))


def loss(model, x, y):
    return F.mse_loss(model(x)[:, 0], y)


def validate(model):
    x, y = data()
    return {"validation_loss": loss(model, x, y), "error": (model(x)[:, 0] - y).abs().mean()}


def train(model=None, optimizer=None, source=None, schedule=None, **options):
    model = model or network()
    optimizer = (optimizer or (lambda weights: torch.optim.AdamW(weights, lr=0.01)))(model.parameters())
    options = {"epochs": 3, "batch_size": BATCH, "progress": False} | options
    if schedule:
        options["schedule"] = schedule(optimizer)
    return model, fit(model, source or data(), options.pop("loss", loss), optimizer, **options)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


# As by hand


@pytest.mark.parametrize("schedule", [
    None,
    lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=27),
    lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 9),
    lambda optimizer: lr_scheduler.SequentialLR(optimizer, [
        lr_scheduler.LinearLR(optimizer, total_iters=4), lr_scheduler.ExponentialLR(optimizer, 0.9)], milestones=[4]),
])
@pytest.mark.parametrize("clip_norm", [None, 0.1])
def test_bits_of_a_loop_by_hand(schedule, clip_norm):
    model, trained = train(schedule=schedule, clip_norm=clip_norm)
    hand = network()
    optimizer = torch.optim.AdamW(hand.parameters(), lr=0.01)
    steps = schedule and schedule(optimizer)
    torch.manual_seed(0)
    hand.train()
    for epoch in range(3):
        for x, y in Blocks(data(), BATCH).epoch(epoch):
            optimizer.zero_grad()
            loss(hand, x, y).backward()
            if clip_norm: nn.utils.clip_grad_norm_(hand.parameters(), clip_norm)
            optimizer.step()
            if steps: steps.step()
    assert same(model, hand)
    assert trained.steps == 27 and trained.epochs == 3 and trained.stopped == "epochs"
    assert not model.training


def test_schedules_after_epochs_and_on_a_plateau():
    rates = []
    train(schedule=lambda optimizer: lr_scheduler.StepLR(optimizer, 2, gamma=0.1), schedule_every="epoch", epochs=4,
          on_epoch=lambda state: rates.append(state.learning_rate))
    assert rates == pytest.approx([0.01, 0.001, 0.001, 0.0001])
    rates.clear()
    train(schedule=lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5), epochs=4,
          validate=lambda model: {"validation_loss": 1.0}, on_epoch=lambda state: rates.append(state.learning_rate))
    assert rates == pytest.approx([0.01, 0.005, 0.0025, 0.00125])


def plain():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1)).double()


@pytest.mark.parametrize("rows", [128, 130, 137])
def test_accumulated_batches_are_one_large_batch(rows):
    x, y = (part.double() for part in data(rows))
    one, _ = train(plain(), source=(x, y), batch_size=64, clip_norm=1.0)
    four, trained = train(plain(), source=(x, y), batch_size=16, accumulate=4, clip_norm=1.0)
    assert trained.steps == 3 * math.ceil(rows / 64)
    for a, b in zip(one.parameters(), four.parameters()):
        assert torch.allclose(a, b, atol=1e-12, rtol=0)
    assert trained.phases.rows == 3 * rows


@pytest.mark.parametrize("rows, ranks", [(1, 2), (2, 3), (7, 2), (8, 2)])
def test_shares_of_processes_weigh_as_their_rows(rows, ranks):
    "The mean over the processes, as DistributedDataParallel takes it, is the mean over the rows"
    values = torch.arange(1.0, rows + 1).requires_grad_()
    total = 0
    for rank in range(ranks):
        (part,) = Blocks((values,), rows, shuffle=False, rank=rank, ranks=ranks).epoch(0)
        model = network()
        plan = make_plan(model, (torch.zeros(rows),), loss, torch.optim.SGD(model.parameters()), epochs=1, group=Group(rank, ranks))
        total += weigh(State(plan, current=part), part[0].mean(), rows)
    assert total.item() / ranks == pytest.approx(values.mean().item())


def test_loss_of_an_epoch_is_the_mean_over_its_rows():
    x, y = data()
    model = network(0)
    _, trained = train(model, lambda weights: torch.optim.SGD(weights, lr=0.0), epochs=1, source=(x, y), batch_size=48)
    model.train()
    expected = sum(loss(model, a, b).item() * len(a) for a, b in Blocks((x, y), 48).epoch(0)) / len(x)
    assert trained.history[0]["train_loss"] == pytest.approx(expected)


@pytest.mark.parametrize("source", [
    data(), TensorDataset(*data()), DataLoader(TensorDataset(*data()), BATCH, shuffle=True),
    [{"x": x, "y": y} for x, y in zip(*(part.split(BATCH) for part in data()))],
])
def test_every_source_learns(source):
    given = (lambda model, batch: loss(model, **batch)) if isinstance(source, list) else loss
    _, trained = train(source=source, loss=given, epochs=8)
    assert trained.history[-1]["train_loss"] < trained.history[0]["train_loss"] / 2


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precision_learns_and_resumes(tmp_path, precision):
    whole, trained = train(precision=precision, epochs=4, clip_norm=1.0)
    assert trained.history[-1]["train_loss"] < trained.history[0]["train_loss"]
    stop(tmp_path, 14, precision=precision, epochs=4, clip_norm=1.0)
    again, resumed = train(run=Run(tmp_path), precision=precision, epochs=4, clip_norm=1.0)
    assert resumed.resumed_at_step == 14 and same(whole, again)


# Best, patience, callbacks


def test_best_weights_are_the_result():
    errors = iter([3.0, 1.0, 2.0, 0.5, 0.9, float("nan")])
    kept = []
    model, trained = train(epochs=6, validate=lambda model: {"validation_loss": next(errors)},
                           on_epoch=lambda state: kept.append({name: value.clone() for name, value in state.model.state_dict().items()}))
    assert trained.best["epoch"] == 4 and trained.best["validation_loss"] == 0.5
    assert all(torch.equal(value, kept[3][name]) for name, value in model.state_dict().items())
    last, _ = train(epochs=6, keep_best=False)
    assert all(torch.equal(value, kept[5][name]) for name, value in last.state_dict().items())


@pytest.mark.parametrize("mode, values, stops", [
    ("min", [5, 4, 4, 4, 3], 4), ("max", [1, 2, 2, 2, 9], 4), ("min", [5, 4.95, 4.9, 4.85, 1], 3)])
def test_patience(mode, values, stops):
    values = iter(values)
    _, trained = train(epochs=5, patience=2, mode=mode, monitor="score", min_delta=0.4, validate=lambda model: {"score": next(values)})
    assert (trained.epochs, trained.stopped) == (stops, "patience")


def test_patience_ends_where_nothing_is_ever_a_number():
    _, trained = train(epochs=9, patience=3, validate=lambda model: {"validation_loss": float("nan")})
    assert (trained.epochs, trained.best) == (3, {})


def test_callbacks_see_the_state_and_stop():
    seen = []

    def look(state):
        assert state.model.training and state.loss > 0 and state.learning_rate == 0.01
        seen.append((state.epoch, state.batch, state.step))
        return state.step == 11
    _, trained = train(on_step=[look, lambda state: None])
    assert seen[-1] == (1, 2, 11) and len(seen) == 11
    assert (trained.steps, trained.epochs, trained.stopped) == (11, 1, "callback")
    _, trained = train(on_epoch=lambda state: state.metrics["epoch"] == 2)
    assert (trained.epochs, trained.stopped) == (2, "callback")


def test_validation_is_without_gradients_and_in_evaluation_mode():
    def look(model):
        assert not model.training and not torch.is_grad_enabled()
        return {"validation_loss": torch.tensor(0.5, dtype=torch.float64), "count": 3}
    _, trained = train(validate=look, epochs=1)
    assert json.dumps(trained.history) and trained.history[0]["validation_loss"] == 0.5


# Seeds and determinism


def test_seed_decides_and_none_leaves_generators_as_they_are():
    one, _ = train(seed=1)
    again, _ = train(seed=1)
    other, _ = train(seed=2)
    assert same(one, again) and not same(one, other)
    model = network()
    torch.manual_seed(11)
    random.seed(11)
    expected = random.random()
    random.seed(11)
    train(model, seed=None)
    assert random.random() == expected
    torch.manual_seed(11)
    assert same(model, train(seed=None)[0]) is False  # network() seeds with 3


def test_deterministic_switch_is_put_back(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)

    def check(state):
        assert torch.are_deterministic_algorithms_enabled() and torch.backends.cudnn.deterministic
    train(deterministic=True, on_step=check, epochs=1)
    with pytest.raises(ZeroDivisionError):
        train(deterministic=True, on_step=lambda state: 1 / 0)
    assert not torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.deterministic


# Stopped and resumed


class Stop(BaseException):
    "As a kill: nothing of `fit` runs after it"


def stop(folder, step, **options):
    "Train with a checkpoint after each step, and leave in the middle"
    def leave(state):
        if state.step == step + 1: raise Stop
    with pytest.raises(Stop):
        train(run=Run(folder), checkpoint_every_s=0, on_step=leave, **options)


OPTIMIZERS = {
    "adamw": None, "sgd": lambda weights: torch.optim.SGD(weights, lr=0.01, momentum=0.9, nesterov=True),
    "rmsprop": lambda weights: torch.optim.RMSprop(weights, lr=0.001), "adagrad": lambda weights: torch.optim.Adagrad(weights),
    "amsgrad": lambda weights: torch.optim.Adam(weights, amsgrad=True),
}
SCHEDULES = {
    "none": {}, "one cycle": {"schedule": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=27)},
    "milestones": {"schedule": lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [5, 12])},
    "lambda": {"schedule": lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step)},
    "sequence": {"schedule": lambda optimizer: lr_scheduler.SequentialLR(optimizer, [
        lr_scheduler.ConstantLR(optimizer), lr_scheduler.CosineAnnealingLR(optimizer, 20)], milestones=[7])},
    "plateau": {"schedule": lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer, patience=0), "validate": validate},
}


@pytest.mark.parametrize("step", [1, 9, 13, 26])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_resumed_is_unresumed(tmp_path, optimizer, step):
    options = {"optimizer": OPTIMIZERS[optimizer], "validate": validate}
    whole, trained = train(**options)
    stop(tmp_path, step, **options)
    again, resumed = train(run=Run(tmp_path), **options)
    assert resumed.resumed_at_step == step
    assert same(whole, again)
    assert (resumed.history, resumed.best, resumed.steps) == (trained.history, trained.best, trained.steps)


def test_monitors_and_patience_go_on(tmp_path):
    values = {1: 1.0, 2: 2.0, 3: 3.0}
    options = {"epochs": 9, "patience": 2, "on_epoch": ()}

    def measured():
        count = iter(values.values())
        return lambda model: {"validation_loss": next(count)}
    stop(tmp_path, 12, validate=measured(), **options)
    late = iter([2.0, 3.0])
    _, resumed = train(run=Run(tmp_path), validate=lambda model: {"validation_loss": next(late)}, **options)
    assert (resumed.epochs, resumed.stopped, resumed.best["epoch"]) == (3, "patience", 1)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("accumulate", [1, 3])
def test_resumed_is_unresumed_with_a_schedule(tmp_path, schedule, accumulate):
    options = SCHEDULES[schedule] | {"accumulate": accumulate, "epochs": 3}
    whole, _ = train(**options)
    stop(tmp_path, 5, **options)
    again, _ = train(run=Run(tmp_path), **options)
    assert same(whole, again)


@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_is_unresumed_with_a_loader(tmp_path, workers):
    def source():
        return DataLoader(TensorDataset(*data()), BATCH, shuffle=True, num_workers=workers)
    whole, _ = train(source=source(), epochs=2)
    stop(tmp_path, 12, source=source(), epochs=2)
    again, _ = train(run=Run(tmp_path), source=source(), epochs=2)
    assert same(whole, again)


def test_what_is_drawn_after_fit_is_the_same_after_a_resume(tmp_path):
    def draws():
        return random.random(), np.random.rand(), torch.rand(()).item()
    train()
    expected = draws()
    stop(tmp_path, 20)
    train(run=Run(tmp_path))
    assert draws() == expected
    train(run=Run(tmp_path))  # had ended
    assert draws() == expected


def test_ended_training_is_not_repeated(tmp_path):
    first = Run(tmp_path)
    model, trained = train(run=first, validate=validate)

    def never(*arguments):
        raise AssertionError
    run = Run(tmp_path)
    again, resumed = train(run=run, validate=never, on_step=never, loss=never)
    assert same(model, again) and resumed.history == trained.history and resumed.best == trained.best
    assert resumed.phases.steps == 27
    assert [row["epoch"] for _, row in run.rows] == [1, 2, 3]


def test_more_epochs_go_on_from_the_last_weights(tmp_path):
    whole, _ = train(epochs=5, validate=validate)
    train(run=Run(tmp_path), epochs=3, validate=validate)
    more, trained = train(run=Run(tmp_path), epochs=5, validate=validate)
    assert same(whole, more) and trained.resumed_at_step == 27


def test_fits_of_a_run_are_counted(tmp_path):
    run = Run(tmp_path)
    train(run=run)
    train(run=run, epochs=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fit-1.pt", "fit-2.pt"]


@pytest.mark.parametrize("change, words", [
    ({"batch_size": 8}, "batch_size"), ({"seed": 4}, "seed"), ({"source": data(50)}, "rows"), ({"model": plain()}, "parameter"),
    ({"optimizer": OPTIMIZERS["sgd"]}, "optimizer"), ({"accumulate": 2}, "accumulate"),
])
def test_checkpoint_of_another_training_is_refused(tmp_path, change, words):
    stop(tmp_path, 5)
    with pytest.raises(TrainingError, match=words):
        train(run=Run(tmp_path), **change)


# Rows of the run


def test_rows(tmp_path):
    run = Run(tmp_path)
    _, trained = train(run=run, log_every=5, validate=validate)
    steps = [(step, row) for step, row in run.rows if "epoch" not in row]
    epochs = [(step, row) for step, row in run.rows if "epoch" in row]
    assert [step for step, _ in steps] == [5, 10, 15, 20, 25] and [step for step, _ in epochs] == [9, 18, 27]
    assert [step for step, _ in run.rows] == sorted(step for step, _ in run.rows)
    assert {"loss", "learning_rate", "time/data_ms", "time/forward_ms", "time/backward_ms", "time/optimizer_ms", "time/step_ms",
            "time/unexplained_share", "rows_per_s"} <= set(steps[0][1])
    assert {"train_loss", "validation_loss", "error", "time/epoch_s", "time/validation_s"} <= set(epochs[0][1])
    assert run.summary["time/forward_share"] > 0 and run.summary["best_epoch"] == trained.best["epoch"]
    quiet = Run(tmp_path / "quiet")
    train(run=quiet, log_every=None)
    assert all("epoch" in row for _, row in quiet.rows)


def test_a_second_fit_counts_on_in_a_real_run(tmp_path, caplog):
    run = start_run(workspace=tmp_path)
    for _ in range(2):
        train(run=run, epochs=2, log_every=5)
    run.finish()
    assert "comes after step" not in caplog.text
    rows = [json.loads(line) for line in (run.folder / "journal.jsonl").read_text().splitlines()]
    assert [row["_step"] for row in rows if "epoch" in row] == [9, 18, 27, 36]


def test_resumed_run_has_all_epochs(tmp_path):
    stop(tmp_path, 20)
    run = Run(tmp_path)
    train(run=run)
    assert [(step, row["epoch"]) for step, row in run.rows if "epoch" in row] == [(9, 1), (18, 2), (27, 3)]


# Refused


@pytest.mark.parametrize("options, words", [
    ({"epochs": 0}, "epochs is 0"), ({"epochs": True}, "epochs is True"), ({"batch_size": 2.5}, "batch_size is 2.5"),
    ({"accumulate": 0}, "accumulate"),
    ({"clip_norm": 0}, "clip_norm is 0; allowed is a number above 0"), ({"patience": 0}, "patience is 0"),
    ({"precision": "int8"}, "'bfloat16'"),
    ({"mode": "best"}, "mode is 'best'"), ({"schedule_every": "batch"}, "schedule_every"), ({"log_every": 0}, "log_every"),
    ({"on_step": [3]}, "on_step holds 3"), ({"validate": 3}, "validate is a int"), ({"patience": 2}, "no validate"),
    ({"min_delta": -1}, "min_delta"), ({"device": "cuda:99"}, "cuda:99"), ({"seed": "x"}, "seed is 'x'"), ({"loss": 3}, "loss is a int"),
])
def test_arguments_are_checked_before_the_first_step(options, words):
    with pytest.raises(TrainingError) as found:
        train(**options)
    assert words in str(found.value)


def test_parts_that_do_not_belong_together():
    model, other = network(), network()
    with pytest.raises(TrainingError, match="no parameter of this model"):
        fit(model, data(), loss, torch.optim.SGD(other.parameters(), lr=0.1), epochs=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = lr_scheduler.ExponentialLR(torch.optim.SGD(model.parameters(), lr=0.1), 0.9)
    with pytest.raises(TrainingError, match="another optimizer"):
        fit(model, data(), loss, optimizer, epochs=1, schedule=schedule)
    with pytest.raises(TrainingError, match="torch.nn.Module"):
        fit(loss, data(), loss, optimizer, epochs=1)
    with pytest.raises(TrainingError, match="one of torch's"):
        fit(model, data(), loss, model.parameters(), epochs=1)


@pytest.mark.parametrize("given, words", [
    (lambda model, x, y: 3.0, "loss is a float"), (lambda model, x, y: model(x)[:, 0], "has the shape (16,)"),
    (lambda model, x, y: loss(model, x, y).detach(), "depends on no weight"),
])
def test_loss_that_is_none(given, words):
    with pytest.raises(TrainingError) as found:
        train(loss=given)
    assert words in str(found.value)


def test_loss_that_is_not_finite_never_reaches_the_weights():
    x, y = data()
    x[77] = float("nan")
    model = network()
    with pytest.raises(NonFiniteLossError, match="row"):
        train(model, source=(x, y))
    assert all(value.isfinite().all() for value in model.parameters())


def test_shapes_and_labels_are_named():
    x, y = data()
    with pytest.raises(TrainingError, match="5"):
        train(source=(x[:, :5], y))
    with pytest.raises(TrainingError, match="130|the same shape"):
        train(loss=lambda model, x, y: F.mse_loss(model(x), y))
    model = nn.Linear(6, 3)
    labels = torch.arange(ROWS) % 3
    labels[100] = 3
    with pytest.raises(TrainingError, match="100"):
        train(model, source=(x, labels), loss=lambda model, x, y: F.cross_entropy(model(x), y))


def test_loader_that_gives_nothing_and_metric_that_is_missing():
    class Empty:
        def __iter__(self):
            return iter(())
    with pytest.raises(TrainingError, match="gave no batches"):
        train(source=Empty())
    with pytest.raises(TrainingError, match="validation_loss"):
        train(validate=lambda model: {"valid_loss": 1.0})
    with pytest.raises(TrainingError, match="dictionary"):
        train(validate=lambda model: 1.0)
    train(validate=lambda model: {"valid_loss": 1.0}, keep_best=False, epochs=1)


def test_other_errors_stay_what_they_are():
    with pytest.raises(ZeroDivisionError):
        train(loss=lambda model, x, y: 1 / 0)
