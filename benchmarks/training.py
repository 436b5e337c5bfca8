"""How fast `fit` trains beside a loop of one's own, Lightning and PyTorch's DataLoader, and what measuring the steps of a training costs.

Each case is made of pairs: both sides train the same model anew, on the same rows, with the same optimizer, for the same number of steps,
one after the other on one thread, and take turns at going first. `ratio` is the median over the pairs, `lower` the lower bound of its
95 % bootstrap interval; `cpu_ratio` and `thread_cpu_ratio` say the same in CPU time of the process and of its main thread, which others on
the machine disturb less. Of `fit` all of it counts, with its measuring, its checkpoints and an offline run that gets a row every 50 steps.
Of the bare loop only the loop counts, and of Lightning only the time between `on_train_start` and `on_train_end`; its Trainer is
`barebones`, its fastest form: no logger, no checkpoints, no progress bar.

`measuring_cost` puts our PhaseClock into the bare loop, with as many marks as `fit` makes and a lap every 50 steps; and TraceML as its own
guide has it: `traceml_ai.init()`, which patches forward, backward and optimizer, and `traceml_ai.trace_step(model)` around each step, in a
process of its own because the patches stay. Its server and the samplers that send to it are left out: a runtime that does nothing is
registered before `init`, as `traceml run` registers its own. What they would have read is taken off its queues between the turns.
"""

import argparse
import gc
import logging
import math
import os
import random
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from run_all import forget_environment, machine, make_parser, show_facts, tell

PAIRS = 30
LOG_EVERY = 50  # steps between rows
LEARNING_RATE = 1e-3
SHORT_TURNS = 20  # of `measuring_cost`, for each pair of another case
COST = 0.02  # of a bare step: what measuring may add to it
MARKS = ("data", "transfer", "forward", "backward", "optimizer", "logging")
CLOCKS = (time.perf_counter, time.process_time, time.thread_time)  # the time that passes; CPU time of all threads; of the main one
PACKAGES = ("torch", "lightning", "traceml-ai", "wandb", "numpy")


# ---- what is trained


@dataclass(frozen=True)
class Work:
    "What every side of a case trains"
    make: Callable[[], Any]  # a model
    loss: Callable[..., Any]  # loss(model, x, y)
    tensors: tuple  # x, y
    batch_size: int
    epochs: int

    @property
    def rows(self) -> int:
        return len(self.tensors[0]) * self.epochs

    @property
    def steps(self) -> int:
        return math.ceil(len(self.tensors[0]) / self.batch_size) * self.epochs

    def start(self) -> tuple[Any, Any]:  # a model with the same weights each time, and its optimizer
        import torch

        torch.manual_seed(0)
        model = self.make()
        return model, torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)


def tabular(
    epochs: int = 10,
    rows: int = 60_000,
) -> Work:
    "A table of 20 numbers a row, and a small network with one hidden layer"
    import torch
    from torch import nn
    from torch.nn import functional

    torch.manual_seed(1)
    x = torch.randn(rows, 20)
    y = x[:, :4].sum(1) + torch.randn(rows)
    def make(): return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 1))
    def loss(model, x, y): return functional.mse_loss(model(x)[:, 0], y)
    return Work(make, loss, (x, y), 256, epochs)


def digits(
    epochs: int = 10,
    rows: int = 4 * 1437,
) -> Work:
    "The network of the digits template, and images of the size of its own; four times as many, so that a turn is not over at once"
    import torch
    from torch import nn
    from torch.nn import functional

    class Reader(nn.Module):
        def __init__(self, channels=8, dropout=0.3):
            super().__init__()
            self.strokes = nn.Sequential(nn.Conv2d(1, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU())
            self.joints = nn.Sequential(nn.Conv2d(channels, 2 * channels, 3, padding=1), nn.BatchNorm2d(2 * channels), nn.ReLU())
            self.digits = nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(dropout), nn.Linear(2 * channels * 4 * 4, 10))

        def forward(self, images):
            return self.digits(self.joints(self.strokes(images.unsqueeze(1) / 16)))

    torch.manual_seed(1)
    x, y = torch.rand(rows, 8, 8) * 16, torch.randint(0, 10, (rows,))
    def loss(model, x, y): return functional.cross_entropy(model(x), y)
    return Work(Reader, loss, (x, y), 64, epochs)


# ---- the sides


@dataclass(frozen=True)
class Turn:
    "One training of one side"
    times: tuple[float, ...]  # seconds, of each of CLOCKS
    steps: int  # of the optimizer
    loss: float  # the last one


def now() -> tuple[float, ...]:
    return tuple(clock() for clock in CLOCKS)


def since(begin: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(late - early for late, early in zip(now(), begin))


def time_bare(
    work: Work,
) -> Turn:
    "A loop as people write it"
    import torch

    model, optimizer = work.start()
    (x, y), steps, begin = work.tensors, 0, now()
    for _ in range(work.epochs):
        model.train()
        for rows in torch.randperm(len(x)).split(work.batch_size):
            loss = work.loss(model, x[rows], y[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            steps += 1
    return Turn(since(begin), steps, loss.item())


def time_clocked(
    work: Work,
) -> Turn:
    "The bare loop with our clock in it"
    import torch

    from mlops_nb.training.phases import PhaseClock, time_row

    model, optimizer = work.start()
    (x, y), steps, begin = work.tensors, 0, now()
    clock = PhaseClock()
    for _ in range(work.epochs):
        model.train()
        for rows in torch.randperm(len(x)).split(work.batch_size):
            clock.mark("data")
            batch = x[rows], y[rows]
            clock.mark("data")
            clock.mark("transfer")
            loss = work.loss(model, *batch)
            optimizer.zero_grad(set_to_none=True)
            clock.mark("forward")
            loss.backward()
            clock.mark("backward")
            optimizer.step()
            steps += 1
            clock.steps += 1
            clock.rows += len(rows)
            clock.mark("optimizer")
            if steps % LOG_EVERY == 0:
                time_row(clock.lap())
            clock.mark("logging")
    return Turn(since(begin), steps, loss.item())


def time_fit(
    work: Work,
    run: Any,  # a run
    data: Any = None,  # default: the tensors
) -> Turn:
    "`fit` as it comes"
    from mlops_nb.training.loop import fit

    model, optimizer = work.start()
    begin = now()
    trained = fit(model, data or work.tensors, work.loss, optimizer, epochs=work.epochs, batch_size=work.batch_size, run=run,
                  log_every=LOG_EVERY, progress=False)
    times = since(begin)
    if not all(trained.phases.seconds[name] for name in MARKS):
        raise RuntimeError(f"fit did not measure its steps: {trained.phases}")
    return Turn(times, trained.steps, trained.history[-1]["train_loss"])


def usual_loader(
    work: Work,
):  # a DataLoader
    "What most people give their rows with"
    from torch.utils.data import DataLoader, TensorDataset

    return DataLoader(TensorDataset(*work.tensors), batch_size=work.batch_size, shuffle=True)


class BlockLoader:
    "The batches of `fit`, for Lightning: an iterable that gives the next epoch each time"

    def __init__(self, work: Work):
        from mlops_nb.training.batches import Blocks

        self.blocks, self.epoch = Blocks(work.tensors, work.batch_size), -1

    def __len__(self):
        return len(self.blocks)

    def __iter__(self):
        self.epoch += 1
        return self.blocks.epoch(self.epoch)


def time_lightning(
    work: Work,
    loader: Any,
) -> Turn:
    "Lightning's loop, without its preparation"
    import lightning

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # what hardware there is, once for each turn
    warnings.filterwarnings("ignore", module="lightning")  # advice about the workers of loaders
    model, optimizer = work.start()

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = model

        def training_step(self, batch, number):
            self.last = work.loss(self.model, *batch)
            return self.last

        def configure_optimizers(self): return optimizer
        def on_train_start(self): self.begin = now()
        def on_train_end(self): self.times = since(self.begin)

    module = Module()
    trainer = lightning.Trainer(accelerator="cpu", devices=1, max_epochs=work.epochs, barebones=True)
    trainer.fit(module, loader)
    return Turn(module.times, trainer.global_step, module.last.item())


# ---- TraceML, in a process of its own


def start_traceml() -> None:
    "Prepare this process: TraceML's tracing of steps, without its server and samplers"
    import torch

    torch.set_num_threads(1)
    import traceml_ai
    from traceml_ai.runtime import lifecycle

    lifecycle._register_active_runtime_handle(lifecycle.RuntimeHandle(lifecycle.NoOpRuntime()))
    found = traceml_ai.init(on_missing_aggregator="raise")
    if found.disabled or not found.patch_forward:
        raise RuntimeError(f"TraceML does not trace: {found}")


def time_traceml(
    rows: int,  # of `tabular`
) -> Turn:
    "The bare loop with TraceML around each step"
    import torch
    import traceml_ai
    from traceml_ai.instrumentation import step_events

    work = tabular(epochs=1, rows=rows)
    model, optimizer = work.start()
    (x, y), steps, begin = work.tensors, 0, now()
    for _ in range(work.epochs):
        model.train()
        for rows in torch.randperm(len(x)).split(work.batch_size):
            with traceml_ai.trace_step(model):
                loss = work.loss(model, x[rows], y[rows])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            steps += 1
    times = since(begin)
    batches = step_events.drain_step_time_batches()
    step_events.drain_step_memory_events()
    if len(batches) != steps or len({event.name for event in batches[-1].events}) < 4:
        raise RuntimeError(f"TraceML traced {len(batches)} of {steps} steps, the last one as {batches[-1:]}")
    return Turn(times, steps, loss.item())


@contextmanager
def traceml_process() -> Iterator[Callable[[int], Turn]]:
    "Calls `time_traceml` in a fresh interpreter"
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=start_traceml) as pool:
        yield lambda rows: pool.submit(time_traceml, rows).result()


# ---- pairs


def check_turn(
    side: str,
    turn: Turn,
    work: Work,
) -> Turn:  # the same
    "The side did what it was to do. Raises `RuntimeError`"
    if turn.steps != work.steps or not math.isfinite(turn.loss):
        raise RuntimeError(f"{side} made {turn.steps} steps of {work.steps}, and its last loss is {turn.loss}")
    return turn


def take_turns(
    work: Work,
    sides: dict[str, Callable[[], Turn]],
    pairs: int,
) -> dict[str, list[Turn]]:  # side -> turns
    "Each side once in each round, the first of one round last in the next; a round before them does not count"
    found, order = {side: [] for side in sides}, list(sides)
    gc.collect()
    gc.freeze()  # what is there by now need not be looked through before each turn
    for number in range(pairs + 1):
        for side in order:
            gc.collect()
            turn = check_turn(side, sides[side](), work)
            if number:
                found[side].append(turn)
        order = [*order[1:], order[0]]
    return found


def ratios(
    ours: Sequence[Turn],
    peer: Sequence[Turn],
    clock: int = 0,  # of CLOCKS
) -> list[float]:  # one for each pair
    "How many times as fast ours is"
    return [theirs.times[clock] / mine.times[clock] for mine, theirs in zip(ours, peer)]


def interval(
    values: Sequence[float],
    resamples: int = 2000,
) -> tuple[float, float]:  # 95 %
    "Bootstrap interval of the median, the same one each time"
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(values, k=len(values))) for _ in range(resamples))
    return medians[int(0.025 * resamples)], medians[int(0.975 * resamples) - 1]


def compare(
    work: Work,
    ours: Sequence[Turn],
    peer: Sequence[Turn],
    target: float | None = None,  # of the median
    lower_target: float | None = None,  # of the interval's lower bound
) -> dict:
    "The result of a case that compares rows per second"
    each = ratios(ours, peer)
    ratio, (lower, upper) = statistics.median(each), interval(each)
    def speed(turns): return float(f"{work.rows / statistics.median(turn.times[0] for turn in turns):.4g}")
    found = {"ours": speed(ours), "peer": speed(peer), "ratio": round(ratio, 3), "unit": "rows/s", "target": target,
             "met": None if target is None else ratio >= target and lower >= (lower_target or 0)}
    cpu = {name: round(statistics.median(ratios(ours, peer, clock)), 3) for clock, name in enumerate(("cpu_ratio", "thread_cpu_ratio"), 1)}
    bounds = {"lower": round(lower, 3), "upper": round(upper, 3)} | ({} if lower_target is None else {"lower_target": lower_target})
    return found | bounds | cpu | {"pairs": len(each), "steps": work.steps, "samples": [round(value, 4) for value in each]}


def compare_costs(
    work: Work,
    turns: dict[str, list[Turn]],  # of bare, ours and traceml
) -> dict:
    "The result of `measuring_cost`; its ratio is between a step that costs what it may and one with our clock"
    def shares(side, clock): return [1 / each - 1 for each in ratios(turns[side], turns["bare"], clock)]
    def cost(side, clock=0): return round(statistics.median(shares(side, clock)), 5)
    step_us = statistics.median(turn.times[0] for turn in turns["bare"]) / work.steps * 1e6
    ours, peer, (lower, upper) = cost("ours"), cost("traceml"), interval(shares("ours", 0))
    found = {"ours": ours, "peer": peer, "ratio": round((1 + COST) / (1 + ours), 4), "unit": "share", "target": 1.0, "met": ours <= COST}
    more = {"allowed": COST, "lower": round(lower, 5), "upper": round(upper, 5)}
    for clock, name in enumerate(("cpu", "thread_cpu"), 1):
        more |= {f"{name}_ratio": round((1 + COST) / (1 + cost("ours", clock)), 4)}
        more |= {f"{name}_cost": cost("ours", clock), f"{name}_cost_peer": cost("traceml", clock)}
    micro = {"bare_step_us": round(step_us, 1), "ours_us": round(ours * step_us, 2), "peer_us": round(peer * step_us, 2)}
    samples = [round(each, 5) for each in shares("ours", 0)]
    return found | more | micro | {"pairs": len(samples), "steps": work.steps, "samples": samples}


# ---- the cases


def loop_case(work: Work, run: Any, pairs: int) -> dict:
    "`fit` against the bare loop"
    turns = take_turns(work, {"ours": lambda: time_fit(work, run), "bare": lambda: time_bare(work)}, pairs)
    return compare(work, turns["ours"], turns["bare"], 0.97, 0.95)


def tabular_loop(run: Any, pairs: int) -> dict: return loop_case(tabular(), run, pairs)
def digits_loop(run: Any, pairs: int) -> dict: return loop_case(digits(), run, pairs)


def vs_lightning_blocks(run: Any, pairs: int) -> dict:
    "Both read the same blocks"
    work = tabular(epochs=5)
    turns = take_turns(work, {"ours": lambda: time_fit(work, run), "lightning": lambda: time_lightning(work, BlockLoader(work))}, pairs)
    return compare(work, turns["ours"], turns["lightning"], 1.2)


def vs_lightning_default(run: Any, pairs: int) -> dict:
    "Each with what its users usually give it"
    work = tabular(epochs=3)
    turns = take_turns(work, {"ours": lambda: time_fit(work, run), "lightning": lambda: time_lightning(work, usual_loader(work))}, pairs)
    return compare(work, turns["ours"], turns["lightning"], 3.0)


def vs_dataloader(run: Any, pairs: int) -> dict:
    "`fit` twice: what the blocks are worth"
    work = tabular(epochs=3)
    turns = take_turns(work, {"ours": lambda: time_fit(work, run), "usual": lambda: time_fit(work, run, usual_loader(work))}, pairs)
    return compare(work, turns["ours"], turns["usual"])


def measuring_cost(run: Any, pairs: int) -> dict:
    "What measuring adds to a step: our clock, and TraceML; many short turns, as it is little"
    work = tabular(epochs=1, rows=60 * 256)
    with traceml_process() as traceml:
        sides = {"bare": lambda: time_bare(work), "ours": lambda: time_clocked(work), "traceml": lambda: traceml(work.rows)}
        return compare_costs(work, take_turns(work, sides, pairs * SHORT_TURNS))


CASES = {
    "tabular_loop": tabular_loop,
    "digits_loop": digits_loop,
    "vs_lightning_blocks": vs_lightning_blocks,
    "vs_lightning_default": vs_lightning_default,
    "vs_dataloader": vs_dataloader,
    "measuring_cost": measuring_cost,
}


# ---- all of it


@contextmanager
def one_thread() -> Iterator[None]:
    "PyTorch computes with the calling thread alone"
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def run_cases(
    names: Sequence[str],
    pairs: int,
) -> dict[str, dict]:  # case -> {"ours", "peer", "ratio", "unit", "target", "met"} and facts, and "machine"
    "Measure cases, each with a run of its own, and leave nothing behind"
    from mlops_nb import start_run

    about, results = machine(PACKAGES, pairs=pairs, threads=1), {}
    with one_thread(), tempfile.TemporaryDirectory(prefix="training-", ignore_cleanup_errors=True) as folder:
        (Path(folder) / "settings.ini").write_text("[workspace]\nproject = training\n\n[wandb]\nmode = offline\n", encoding="utf-8")
        for name in names:
            print(f"{name} ...", file=sys.stderr, flush=True)
            with start_run(name, workspace=folder) as run:
                results[name] = CASES[name](run, pairs)
    return results | {"machine": about | {"load_after": os.getloadavg()}}


def parse(
    arguments: Sequence[str] | None = None,  # default: those of this process
) -> argparse.Namespace:
    parser = make_parser(__doc__, CASES)
    parser.add_argument("--pairs", type=int, default=PAIRS, help="turns of each side that count (default: %(default)s)")
    return parser.parse_args(arguments)


def main():
    options = parse()
    forget_environment("MLOPS_NB_", "WANDB_", "TRACEML_")
    os.environ["WANDB_SILENT"] = "true"
    tell(run_cases(options.only, options.pairs), "training", options.json, show_facts)


if __name__ == "__main__":
    main()
