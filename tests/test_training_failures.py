"""What `fit` says when a training cannot go on: what happened, the value, what is allowed, and what to do."""
import copy, pickle, subprocess, sys, warnings
from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mlops_nb.settings import TrainingError
from mlops_nb.training.first_batch import FirstBatch, can_watch, check_all_labels
from mlops_nb.training.memory import (OutOfMemoryError, free_memory, is_out_of_memory, keep_training, largest_batch, limit_memory,
                                      out_of_memory_error, take_rows, trial_step)
from mlops_nb.training.mismatch import MismatchError, check_device, check_labels, explain_mismatch
from mlops_nb.training.nonfinite import NonFiniteLossError, find_nonfinite, nonfinite_error

NAN, INF = float("nan"), float("inf")
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def classify(model, x, y): return F.cross_entropy(model(x), y)
def regress(model, x, y): return F.mse_loss(model(x), y)


def classes(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(20, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(), nn.Sequential(nn.Linear(64, 10)))


def rows(count=64): return torch.randn(count, 20), torch.randint(10, (count,))


def weights(model): return {name: value.clone() for name, value in model.state_dict().items()}
def unchanged(model, before): return all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# ---- a loss that is not finite

def test_a_layer_that_overflows():
    model, batch = classes(), rows()
    with torch.no_grad(): model[4][0].weight.fill_(3e38)
    answer = find_nonfinite(model, classify, batch)
    assert answer.startswith("4.0 (Linear): output has ") and "its input is finite" in answer


def test_looking_leaves_no_trace():
    model, batch = classes(), rows()
    with torch.no_grad(): model[0].weight[0, 0] = NAN
    before, state = weights(model), torch.get_rng_state()
    answer = find_nonfinite(model, classify, batch)
    assert "0 (Linear): its parameter '0.weight' has 1 of 1280" in answer and "1 of the model's 6 parameters" in answer
    assert torch.equal(state, torch.get_rng_state()) and model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items() if name != "0.weight")
    assert not any(module._forward_hooks for module in model.modules())


@dataclass
class Output: logits: torch.Tensor


Pair = namedtuple("Pair", "mean spread")


@pytest.mark.parametrize("wrap", [tuple, list, lambda two: {"a": two[0], "b": {"c": two[1]}}, lambda two: Pair(*two),
                                  lambda two: Output(two[1])])
def test_outputs_of_every_form(wrap):
    class Layer(nn.Module):
        def forward(self, x): return wrap([x, x.clone().fill_(NAN)])

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Layer()
        def forward(self, x):
            self.inner(x)
            return x

    answer = find_nonfinite(Whole(), lambda model, x: model(x).sum()*NAN, (torch.ones(3),))
    assert answer.startswith("inner (Layer): output has 3 of ") and "its input is finite" in answer


def test_a_layer_that_is_used_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared = nn.Linear(4, 4, bias=False)
            nn.init.constant_(self.shared.weight, 1e20)
        def forward(self, x): return self.shared(self.shared(x))

    answer = find_nonfinite(Twice(), lambda model, x: model(x).mean(), (torch.ones(2, 4),))
    assert answer.startswith("shared (Linear, use 2): output has 8 of 8 values that are not finite (8 infinite)")


def test_what_begins_between_layers():
    class Between(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(20, 8), nn.Linear(8, 10)
        def forward(self, x): return self.second((self.first(x) - 100).log())

    error = nonfinite_error(Between(), classify, rows(), NAN, 3, 0, 3)
    assert "second (Linear): input has 512 of 512" in str(error) and "between them" in error.layer and "a logarithm" in str(error)


def test_rows_with_gaps_are_named():
    x, y = rows()
    x[17, 3] = INF
    error = nonfinite_error(classes(), classify, (x, y), NAN, 41, 2, 9)
    assert "tensor 0 of the batch has 1 of 1280 values that are not finite (1 infinite), the first in row 17, column 3" in str(error)
    assert "leave these rows out" in str(error) and "0 (Linear) is the first layer" in str(error)


def test_gaps_that_a_layer_fills_are_no_cause():
    class Fill(nn.Module):
        def forward(self, x): return x.nan_to_num()

    model, (x, y) = nn.Sequential(Fill(), nn.Linear(20, 10)), rows()
    x[5, 1] = NAN
    with torch.no_grad(): model[1].weight.fill_(3e38)
    answer = find_nonfinite(model, classify, (x, y))
    assert answer.startswith("1 (Linear): output has ")


def test_a_mask_of_minus_infinity_is_told_from_the_nan_it_makes():
    class Mask(nn.Module):
        def forward(self, x): return x.masked_fill(torch.ones_like(x, dtype=torch.bool), -INF)

    answer = find_nonfinite(nn.Sequential(Mask(), nn.Softmax(1), nn.Linear(20, 10)), classify, rows())
    assert answer.startswith("0 (Mask)") and "the first NaN is in the output of 1 (Softmax)" in answer


def test_the_loss_itself():
    error = nonfinite_error(classes(), lambda model, x, y: classify(model, x, y)/(y > 99).sum(), rows(), INF, 0, 0, 0)
    assert "every layer gives finite values, and the loss function makes inf of them" in str(error) and "a division by zero" in str(error)


def test_targets_with_gaps():
    model, (x, _) = nn.Linear(20, 1), rows()
    y = torch.zeros(64, 1)
    y[9] = NAN
    assert "tensor 1 of the batch has 1 of 64 values" in find_nonfinite(model, regress, (x, y))


def test_what_does_not_come_again():
    answer = find_nonfinite(classes(), classify, rows())
    assert answer.startswith("computed again it is ") and "random numbers" in answer
    def fails(model, x, y): raise RuntimeError("gone")
    assert "could not be computed again (RuntimeError: gone)" in find_nonfinite(classes(), fails, rows())


def test_the_error_says_everything_and_travels():
    model = classes()
    with torch.no_grad():
        for each in model.parameters(): each.fill_(NAN)
    error = nonfinite_error(model, classify, rows(), NAN, step=412, epoch=2, index=12, steps_since=3)
    text = str(error)
    for part in ("the loss is nan at step 412 (epoch 2, batch 12)", "allowed are finite numbers", "'0.weight'",
                 "6 of the model's 6 parameters", "was read 3 steps later", "What to do: a step before this one broke it",
                 "clip_norm=1.0"): assert part in text
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, NonFiniteLossError) and str(again) == text and isinstance(error, TrainingError)
    assert (again.step, again.epoch, again.batch, again.layer) == (412, 2, 12, error.layer)


def test_compiled_models_are_looked_at_without_compiling():
    model = classes()
    with torch.no_grad(): model[0].weight.fill_(3e38)
    assert find_nonfinite(torch.compile(model), classify, rows()).startswith("0 (Linear): output has ")


# ---- memory

def test_words_for_it():
    for words in ("CUDA out of memory. Tried to allocate 20.00 MiB", "CUDA error: out of memory", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED",
                  "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes."):
        assert is_out_of_memory(RuntimeError(words))
    assert is_out_of_memory(MemoryError()) and is_out_of_memory(torch.OutOfMemoryError("x out of memory"))
    assert not is_out_of_memory(ValueError("out of memory")) and not is_out_of_memory(RuntimeError("size mismatch"))


@pytest.mark.parametrize("limit", [0, 1, 2, 7, 100, 255])
@pytest.mark.parametrize("size", [1, 2, 3, 100, 256, 100_000])
def test_the_largest_within_a_tenth(monkeypatch, limit, size):
    monkeypatch.setattr("mlops_nb.training.memory.release_memory", lambda: None)
    tried = []
    def step(count):
        tried.append(count)
        if count > limit: raise MemoryError
    found, best = largest_batch(step, size), min(limit, size - 1)
    assert found <= best and best - found <= max(1, 0.1*found) if best else found == 0
    assert len(tried) < 30 and size not in tried


def test_other_errors_of_a_trial_are_raised():
    with pytest.raises(ZeroDivisionError): largest_batch(lambda count: 1/0, 10)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("steps", [0, 3])
def test_trials_leave_no_trace(kind, steps):
    model, batch = classes(), rows()
    optimizer = kind(model.parameters(), lr=0.1)
    trial = trial_step(model, classify, optimizer, batch)
    for _ in range(steps): trial(32)
    before, state, numbers = weights(model), copy.deepcopy(optimizer.state_dict()), torch.get_rng_state()
    with pytest.raises(MemoryError), keep_training(model, optimizer):
        trial(16)
        assert not unchanged(model, before)
        raise MemoryError
    assert unchanged(model, before) and torch.equal(numbers, torch.get_rng_state())
    after = optimizer.state_dict()
    assert after["param_groups"] == state["param_groups"] and after["state"].keys() == state["state"].keys()
    assert all(torch.equal(after["state"][key][name], each) if isinstance(each, torch.Tensor) else after["state"][key][name] == each
               for key, values in state["state"].items() for name, each in values.items())


def test_rows_of_every_form_of_batch():
    part, = take_rows(({"a": torch.zeros(9, 2), "b": [torch.zeros(9), Pair(torch.zeros(9), "text")], "c": torch.tensor(3.)},), 4, "cpu")
    assert part["a"].shape == (4, 2) and part["b"][0].shape == part["b"][1].mean.shape == (4,) and part["c"].dim() == 0


LIMITED = """
import resource, sys, torch
from torch.nn import functional as F
from mlops_nb.training.memory import is_out_of_memory, out_of_memory_error
torch.set_num_threads(1)
class Wide(torch.nn.Linear):
    def forward(self, x): return super().forward(x).repeat(1, 2000).cos()
model = Wide(20, 10)
optimizer = torch.optim.Adam(model.parameters())
before = [each.clone() for each in model.parameters()]
def loss(model, x): return model(x).square().mean()
loss(model, torch.randn(2, 20)).backward()
used = int(open("/proc/self/statm").read().split()[0])*4096
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 29), resource.RLIM_INFINITY))
batch = torch.randn(20_000, 20), # some 1.6 GB for each intermediate
try: loss(model, *batch).backward()
except Exception as error:
    assert is_out_of_memory(error), repr(error)
    problem = out_of_memory_error(error, model, loss, optimizer, batch, step=5)
assert resource.getrlimit(resource.RLIMIT_AS)[0] == used + (1 << 29)
assert all(torch.equal(now, then) for now, then in zip(model.parameters(), before)) and not optimizer.state
print(problem.fits, problem)
loss(model, batch[0][:problem.fits]).backward()
"""


def test_a_cpu_with_little_memory():
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    fits, _, text = done.stdout.partition(" ")
    assert 500 < int(fits) < 7000
    for part in ("out of memory at step 5 with a batch of 20000 rows", "can't allocate memory", "accumulate=",
                 f"give batch_size={fits}, the largest that fits"): assert part in text


def test_the_machines_memory_is_never_used_up(tmp_path):
    with limit_memory(), pytest.raises(RuntimeError, match="can't allocate memory"):
        torch.empty(int(free_memory()*1.5), dtype=torch.uint8)
    torch.empty(1 << 20)
    for name, text in (("memory.max", "1000000\n"), ("memory.current", "900000\n"),
                       ("memory.stat", "active_file 7\ninactive_file 50000\n")):
        (tmp_path/name).write_text(text)
    assert free_memory(tmp_path) == 150_000
    (tmp_path/"memory.max").write_text("max\n")
    assert free_memory(tmp_path) > 1 << 20 and free_memory(tmp_path/"none") > 1 << 20


class TooWide(nn.Linear):
    def forward(self, x):
        if len(x) > self.most: torch.empty(1 << 52)
        return super().forward(x)


@pytest.mark.parametrize("most, part", [(30, "give batch_size=3"), (0, "not even one row fits")])
def test_the_advice(most, part):
    model, batch = TooWide(20, 10), rows()
    model.most, optimizer = most, torch.optim.AdamW(model.parameters())
    with pytest.raises(RuntimeError) as caught: classify(model, *batch)
    error = out_of_memory_error(caught.value, model, classify, optimizer, batch, 7)
    assert part in str(error) and error.batch_size == 64 and (28 <= error.fits <= 30 if most else error.fits == 0)
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, OutOfMemoryError) and again.fits == error.fits
    untried = out_of_memory_error(caught.value, model, classify, optimizer, batch, 7, trial=False)
    assert untried.fits is None and "try half of it" in str(untried)


@on_gpu
def test_a_gpu_with_little_memory():
    model = nn.Sequential(nn.Linear(20, 4096), nn.ReLU(), nn.Linear(4096, 10)).cuda()
    optimizer = torch.optim.Adam(model.parameters())
    free = torch.cuda.mem_get_info()[0]
    size = int(free/4096/4*1.5)
    batch = torch.randn(size, 20, device="cuda"), torch.randint(10, (size,), device="cuda")
    before = weights(model)
    try: classify(model, *batch).backward()
    except RuntimeError as problem: error = out_of_memory_error(problem, model, classify, optimizer, batch, 0)
    assert size/20 < error.fits < size and unchanged(model, before) and not optimizer.state
    classify(model, *(each[:error.fits] for each in batch)).backward()


# ---- what does not fit together

def explained(loss, model, *batch, backward=False):
    "What is said about a batch, and torch's own error as its cause"
    try:
        value = loss(model, *batch)
        if backward: value.backward()
    except Exception as error:
        problem = explain_mismatch(error, model, batch)
        assert problem is None or problem.__cause__ is error
        return str(problem)
    raise AssertionError("nothing was wrong")


def test_labels_out_of_range():
    x, y = rows()
    for label, advice in ((12, "give the model's last layer 13 outputs, or correct the labels"), (-1, "number the classes from 0 on")):
        y[37] = label
        text = explained(classify, classes(), x, y)
        assert f"label {label} in row 37 is out of range (1 of 64 labels are)" in text and "allowed are 0 to 9" in text and advice in text
    assert "subtract 1 from them" in explained(classify, classes(), torch.randn(10, 20), torch.arange(1, 11))


def test_labels_that_are_left_out_are_allowed():
    check_labels(torch.tensor([0, 9, -100]), 10)
    check_labels(torch.tensor([0, 9, 255]), 10, 255)
    with pytest.raises(MismatchError, match="label -100 in row 1"): check_labels(torch.tensor([0, -100]), 10, 255)
    with pytest.raises(MismatchError, match="label 12 in row 1005"): check_labels(torch.tensor([0, 12]), 10, first_row=1004)


def test_codes_out_of_range():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(8, 10))
    codes = torch.tensor([[0, 1], [4, 9], [2, 2]])
    text = explained(classify, model, codes, torch.zeros(3, dtype=torch.int64))
    for part in ("code 9 in row 1, column 1 is out of range (1 of 6 codes are)", "layer 0, Embedding(5, 4) has 5 rows",
                 "allowed are 0 to 4", "give it 10 rows"): assert part in text


class Inline(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(7))
    def forward(self, x): return x + self.weight


@pytest.mark.parametrize("model, x, parts", [
    (nn.Sequential(nn.Linear(20, 64), nn.Sequential(nn.Linear(32, 10))), (8, 20), ["layer 1.0, Linear(in_features=32",
     "input (8, 64) float32", "weight (10, 32)", "it takes rows of 32 values and was given 64"]),
    (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()), (8, 1, 5, 5), ["layer 0, Conv2d(3, 4", "input (8, 1, 5, 5)", "it takes 3 channels"]),
    (nn.Sequential(nn.Linear(20, 8), nn.BatchNorm1d(9)), (8, 20), ["layer 1, BatchNorm1d(9", "input (8, 8) float32", "running_mean (9,)"]),
    (nn.Sequential(nn.LayerNorm(9)), (8, 20), ["layer 0, LayerNorm((9,)", "input (8, 20)"]),
    (nn.Sequential(Inline()), (8, 20), ["layer 0, Inline()", "x (8, 20) float32", "weight (7,)"]),
    (nn.Sequential(nn.BatchNorm1d(20)), (1, 20), ["layer 0, BatchNorm1d(20", "leaves no single row"])])
def test_shapes_and_the_layer_that_they_meet_in(model, x, parts):
    text = explained(lambda model, x: model(x).sum(), model, torch.randn(*x))
    for part in [*parts, "what to do"]: assert part in text, text


def test_shapes_of_the_loss():
    x, y = rows()
    text = explained(classify, classes(), x, y[1:])
    for part in ("cross_entropy: Expected input batch_size (64)", "input (64, 10) float32", "target (63,) int64", "as many targets"):
        assert part in text
    binary = explained(lambda model, x, y: F.binary_cross_entropy_with_logits(model(x), y), nn.Linear(20, 1), x, torch.ones(64))
    assert "input (64, 1) float32" in binary and "target (64,) float32" in binary and "output.squeeze(1)" in binary


def test_types():
    x, y = rows()
    assert "target (64,) float32" in (text := explained(classify, classes(), x, y.float())) and ".long()" in text
    assert "layer 0, Linear" in (text := explained(classify, classes(), x.double(), y)) and "input (64, 20) float64" in text
    def binary_loss(model, x, y): return F.binary_cross_entropy_with_logits(model(x).squeeze(1), y)
    binary = explained(binary_loss, nn.Linear(20, 1), x, y % 2, backward=True)
    assert "int64" in binary and ".float()" in binary


def test_what_users_raise_themselves_is_left_alone():
    def strict(model, x, y): raise ValueError("the size of x is odd")
    assert explained(strict, classes(), *rows()) == "None"
    class Strict(nn.Module):
        def forward(self, x):
            if x.dim() != 3:
                raise ValueError(
                    "the shape of x is odd")
    assert explained(classify, Strict(), *rows()) == "None"
    assert explain_mismatch(KeyError("shape"), classes(), rows()) is None
    assert explain_mismatch(RuntimeError("something else"), classes(), rows()) is None


@pytest.mark.parametrize("loss", [
    regress, lambda model, x, y: F.l1_loss(model(x), y), lambda model, x, y: nn.HuberLoss()(model(x), y),
    lambda model, x, y: (model(x) - y).square().mean(), lambda model, x, y: (y - model(x)).abs().mean(),
    lambda model, x, y: torch.sub(model(x), y).square().mean()])
def test_a_silent_broadcast(loss):
    model, (x, _) = nn.Linear(20, 1), rows()
    y = torch.randn(64)
    with pytest.raises(MismatchError) as caught, FirstBatch((x, y)): loss(model, x, y)
    for part in ("(64, 1) float32", "(64,) float32", "(64, 64)", "output.squeeze(1), or target.unsqueeze(1)"):
        assert part in str(caught.value)


def test_right_losses_pass_the_watch_unchanged():
    model, (x, y), value = classes().eval(), rows(), torch.randn(64)
    def everything(model, x, y, value):
        output = model(x)
        pairs = output[:, :1] - output[:, 0] # of a ranking loss: all against all
        numbers = F.mse_loss(output[:, 0], value) + pairs.abs().mean() + (output[:, 0] - value).sum()
        return numbers + F.cross_entropy(output, y) + nn.NLLLoss()(output, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with FirstBatch((x, y, value)) as first: watched = everything(model, x, y, value)
    assert torch.equal(watched, everything(model, x, y, value)) and first.classes == {1: (10, -100)}


def test_all_labels_are_checked_once_their_classes_are_known():
    model, (x, y) = classes(), rows()
    with FirstBatch(({"x": x, "y": y},)) as first: F.cross_entropy(model(x), y, ignore_index=3)
    assert first.classes == {1: (10, 3)}
    y[50] = 10
    with pytest.raises(MismatchError, match="label 10 in row 50"): check_all_labels(({"x": x, "y": y},), first.classes)


def test_the_watch_sees_labels_before_they_are_used():
    x, y = rows()
    y[3] = 10
    with pytest.raises(MismatchError, match="label 10 in row 3 .*allowed are 0 to 9"), FirstBatch((x, y)): classify(classes(), x, y)
    model = nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(8, 10))
    codes = torch.tensor([[0, 5]])
    with pytest.raises(MismatchError, match="code 5 in row 0, column 1"), FirstBatch((codes, y[:1])): classify(model, codes, y[:1])


def test_compiled_models_are_not_watched():
    assert can_watch(classes(), classify) and not can_watch(nn.Sequential(torch.compile(classes())), classify)
    assert not can_watch(classes(), torch.compile(classify))


@on_gpu
def test_labels_on_a_gpu_are_seen_before_they_end_it():
    model, (x, y) = classes().cuda(), rows()
    y[3] = 10
    batch = x.cuda(), y.cuda()
    with pytest.raises(MismatchError, match="label 10 in row 3"), FirstBatch(batch): classify(model, *batch)
    assert torch.ones(3, device="cuda").sum().item() == 3 # it can still be used


# ---- devices

@pytest.mark.parametrize("device", ["cuda:99", "gpu", "cuda:x", 3.5, "meta"])
def test_devices_that_are_not_there(device):
    with pytest.raises(TrainingError) as caught: check_device(device)
    assert f"device is {str(device)!r}, and there are: cpu" in str(caught.value) and "device=None" in str(caught.value)
    if not torch.cuda.is_available(): assert f"torch {torch.__version__} sees no GPU" in str(caught.value)


def test_devices_that_are_there():
    assert check_device("cpu") == check_device(torch.device("cpu")) == torch.device("cpu")
    assert check_device().type == ("cuda" if torch.cuda.is_available() else "cpu")


# ---- all of it through `fit`

def train(model, data, loss=classify, **options):
    "A short training; what `fit` says against it"
    from mlops_nb.training.loop import fit
    optimizer = torch.optim.Adam(model.parameters(), lr=options.pop("lr", 1e-3))
    with pytest.raises(TrainingError) as caught:
        fit(model, data, loss, optimizer, **{"epochs": 2, "batch_size": 32, "shuffle": False, "progress": False} | options)
    return caught.value


def test_fit_stops_at_the_row_with_a_gap():
    x, y = rows(128)
    x[70, 3] = NAN # the third batch
    error = train(classes(), (x, y))
    assert isinstance(error, NonFiniteLossError) and (error.step, error.epoch, error.batch) == (2, 1, 3)
    assert "the first in row 6, column 3" in str(error)


def test_fit_stops_where_weights_overflow():
    error = train(nn.Linear(20, 1), (torch.randn(128, 20)*1e10, torch.ones(128, 1)), regress, lr=1e30, epochs=5)
    assert isinstance(error, NonFiniteLossError) and "lower the learning rate" in str(error) and error.step >= 1


def test_fit_finds_the_batch_size_that_fits():
    model = TooWide(20, 10)
    model.most = 20
    before = weights(model)
    error = train(model, rows(128))
    assert isinstance(error, OutOfMemoryError) and error.batch_size == 32 and 18 <= error.fits <= 20
    assert f"give batch_size={error.fits}" in str(error) and unchanged(model, before)


def test_fit_names_the_row_of_the_data_with_a_wrong_label():
    x, y = rows(128)
    y[100] = 12 # not in the first batch
    error = train(classes(), (x, y))
    assert isinstance(error, MismatchError) and "label 12 in row 100 is out of range (1 of 128 labels are)" in str(error)
    y[3] = 12 # in the first batch, too: still the data's own row
    assert "label 12 in row 3 is out of range (2 of 128" in str(train(classes(), (x, y)))


def test_fit_does_not_train_on_a_broadcast():
    x, _ = rows(128)
    error = train(nn.Linear(20, 1), (x, torch.randn(128)), regress)
    assert isinstance(error, MismatchError) and "(32, 1) float32 and (32,) float32" in str(error)


def test_fit_names_the_layer_that_does_not_fit():
    error = train(nn.Sequential(nn.Linear(20, 64), nn.Linear(32, 10)), rows(128))
    assert "layer 1, Linear(in_features=32" in str(error) and "input (32, 64)" in str(error) and isinstance(error.__cause__, RuntimeError)


def test_fit_names_the_devices_that_there_are():
    assert "there are: cpu" in str(train(classes(), rows(128), device="cuda:99"))


@pytest.mark.parametrize("data", [(torch.zeros(0, 20), torch.zeros(0, dtype=torch.int64)), []])
def test_fit_refuses_no_data(data):
    text = str(train(classes(), data))
    assert any(word in text for word in ("empty", "no rows", "no batches")), text


class Run:
    "As much of a run as `fit` needs"
    def __init__(self, folder): self.checkpoint_dir, self.summary, self.rows, self.step = folder, {}, [], 0
    def log(self, row, step=None): self.rows.append((step, row))


def test_fit_refuses_a_checkpoint_of_another_training(tmp_path):
    from mlops_nb.training.checkpoints import CheckpointError
    from mlops_nb.training.loop import fit
    def again(model, data=None, **options):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        options = {"epochs": 1, "batch_size": 32, "progress": False} | options
        return fit(model, data or rows(128), classify, optimizer, run=Run(tmp_path), **options)

    again(classes())
    assert [each.name for each in tmp_path.iterdir()] == ["fit-1.pt"] and again(classes()).steps == 4
    for change, part in ((lambda: again(nn.Linear(20, 10)), "it has the parameter '0.weight' of shape (64, 20)"),
                         (lambda: again(classes(), batch_size=16), "batch_size was 32 in it, and is 16 now"),
                         (lambda: again(classes(), rows(120)), "rows was 128 in it, and is 120 now"),
                         (lambda: again(classes(), seed=1), "seed was 0 in it, and is 1 now")):
        with pytest.raises(CheckpointError) as caught: change()
        assert part in str(caught.value) and "fit-1.pt" in str(caught.value)
    whole = (tmp_path/"fit-1.pt").read_bytes()
    (tmp_path/"fit-1.pt").write_bytes(whole[:-100])
    with pytest.raises(CheckpointError, match="remove it to train from the beginning"): again(classes())
