"""`kill -9` at any moment of a training: it is begun again until it is done, and ends with the bits of one that nobody killed."""
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

SCRIPT = textwrap.dedent("""
    import sys, time, torch
    from pathlib import Path
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset
    from mlops_nb.training.loop import fit

    class Run:
        def __init__(self): self.checkpoint_dir, self.summary, self.step = Path(sys.argv[1]), {}, 0
        def log(self, row, step): pass

    torch.set_num_threads(1)
    torch.manual_seed(1)
    x = torch.randn(300, 8)
    y = (x[:, 0] > x[:, 1]).long()
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.4), nn.Linear(32, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=6 * 19)
    data = DataLoader(TensorDataset(x, y), 16, shuffle=True) if sys.argv[3] == "loader" else (x, y)
    def loss(model, x, y): return nn.functional.cross_entropy(model(x), y)
    def show(state):
        print(state.step, flush=True)
        time.sleep(float(sys.argv[4]))
    trained = fit(model, data, loss, optimizer, epochs=6, batch_size=16, schedule=schedule, run=Run(), on_step=show,
                  validate=lambda model: {"validation_loss": loss(model, x, y)}, checkpoint_every_s=0)
    torch.save(model.state_dict() | {"history": trained.history}, sys.argv[2])
""")


def begin(folder: Path, kind: str, pause: float) -> subprocess.Popen:
    folder.mkdir(exist_ok=True)
    script = folder / "train.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(folder / "checkpoints"), str(folder / "end.pt"), kind, str(pause)]
    (folder / "checkpoints").mkdir(exist_ok=True)
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def finish(folder: Path, kind: str) -> dict:
    process = begin(folder, kind, 0)
    process.communicate(timeout=300)
    assert process.returncode == 0
    return torch.load(folder / "end.pt")


def train_with_kills(folder: Path, kind: str, kills: int, dice: random.Random) -> tuple[dict, list[int]]:
    "The end of a training that was killed this often, and the steps at which that happened."
    killed = []
    for left in range(kills, 0, -1):
        process = begin(folder, kind, 0.002)
        last, wanted = 0, None
        for line in process.stdout:
            last = int(line)
            if wanted is None:
                wanted = dice.randint(last, last + max(1, (110 - last) // left))
            if last >= wanted:
                time.sleep(dice.uniform(0, 0.006))  # also within a checkpoint, an epoch's end or a step
                process.send_signal(signal.SIGKILL)
                break
        process.stdout.close()
        assert process.wait(timeout=60) == -signal.SIGKILL
        killed.append(last)
    return finish(folder, kind), killed


def check(tmp_path, kind, kills, seed):
    expected = finish(tmp_path / "whole", kind)
    found, killed = train_with_kills(tmp_path / "killed", kind, kills, random.Random(seed))
    assert len(killed) == kills
    assert found.pop("history") == expected.pop("history")
    for name, value in expected.items():
        assert torch.equal(found[name], value), (name, killed)
    assert not [path for path in (tmp_path / "killed" / "checkpoints").iterdir() if path.suffix == ".pt" and path.name != "fit-1.pt"]


def test_three_kills_change_no_bit(tmp_path):
    check(tmp_path, "loader", 3, seed=1)


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["blocks", "loader"])
def test_twenty_kills_change_no_bit(tmp_path, kind):
    check(tmp_path, kind, 20, seed=2)
