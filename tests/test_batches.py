"""Data as batches: every row once, in an order of the seed and the epoch alone, from the middle as from the beginning."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from mlops_nb.settings import TrainingError
from mlops_nb.training import batches as room
from mlops_nb.training.batches import Blocks, Loaded, batches_of, in_groups
from mlops_nb.training.shares import rows_of

SIZES = {"rows": st.integers(1, 200), "batch_size": st.integers(1, 70), "seed": st.integers(-5, 5), "number": st.integers(0, 5)}


def read(source, number=0, skip=0):
    return [tuple(part.tolist() for part in batch) for batch in source.epoch(number, skip)]


@given(**SIZES, shuffle=st.booleans(), block=st.integers(1, 4000))
@settings(max_examples=100, deadline=None)
def test_every_row_once_and_together(rows, batch_size, seed, number, shuffle, block):
    before, room.BLOCK_BYTES = room.BLOCK_BYTES, block
    try:
        x = torch.arange(rows)
        found = list(Blocks((x, x[:, None] * 10.0), batch_size, shuffle, seed).epoch(number))
    finally:
        room.BLOCK_BYTES = before
    assert [len(a) for a, _ in found] == [len(part) for part in x.split(batch_size)]
    joined = torch.cat([a for a, _ in found])
    assert sorted(joined.tolist()) == x.tolist()
    assert shuffle or joined.tolist() == x.tolist()
    assert torch.equal(torch.cat([b for _, b in found])[:, 0], joined * 10.0)


@given(**SIZES, data=st.data())
@settings(max_examples=60, deadline=None)
def test_order_depends_on_seed_and_epoch_alone_and_skip_is_a_cut(rows, batch_size, seed, number, data):
    def blocks():
        return Blocks((torch.arange(rows),), batch_size, seed=seed)
    first = blocks()
    read(first, number + 1)
    torch.manual_seed(data.draw(st.integers(0, 99)))
    state = torch.get_rng_state()
    whole = read(first, number)
    skip = data.draw(st.integers(0, len(first)))
    assert read(blocks(), number) == whole
    assert read(blocks(), number, skip) == whole[skip:]
    assert torch.equal(torch.get_rng_state(), state)
    assert len(first) == len(whole)


@given(rows=st.integers(1, 100), batch_size=st.integers(1, 40), ranks=st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_processes_divide_each_batch(rows, batch_size, ranks):
    x = torch.arange(rows)
    whole = list(Blocks((x,), batch_size).epoch(2))
    parts = [list(Blocks((x,), batch_size, rank=rank, ranks=ranks).epoch(2)) for rank in range(ranks)]
    for batch, *shares in zip(whole, *parts, strict=True):
        counts = [rows_of(share)[0] for share in shares]
        assert {rows_of(share)[1] for share in shares} == {len(batch[0])}
        assert sum(counts) == len(batch[0]) and max(counts) - min(counts) <= 1
        assert all(len(share[0]) == max(1, count) for share, count in zip(shares, counts))
        assert [value for share, count in zip(shares, counts) for value in share[0][:count].tolist()] == batch[0].tolist()


def test_two_epochs_and_two_seeds_have_other_orders():
    orders = {str(read(Blocks((torch.arange(50),), 50, seed=seed), number)) for seed in range(4) for number in range(4)}
    assert len(orders) == 16


def test_what_is_written_into_a_batch_does_not_reach_the_data():
    for shuffle in (True, False):
        x = torch.arange(20.0)
        for (batch,) in Blocks((x,), 4, shuffle).epoch(0):
            batch.zero_()
        assert x.tolist() == list(range(20))


class Noisy(Dataset):
    "Rows that are augmented with whatever the worker draws"
    def __len__(self):
        return 23

    def __getitem__(self, index):
        return index, torch.rand(()), np.random.rand()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("generator", [None, 7])
def test_loader_resumes_exactly(workers, generator):
    def loader():
        made = torch.Generator().manual_seed(generator) if generator else None
        return Loaded(DataLoader(Noisy(), 5, shuffle=True, num_workers=workers, generator=made), seed=3)

    def values(number, skip=0):  # NumPy's state in this process is part of a checkpoint; in a worker it follows its seed
        return [[a.tolist(), b.tolist()] + ([c.tolist()] if workers else []) for a, b, c in loader().epoch(number, skip)]

    torch.manual_seed(1)
    whole = values(2)
    torch.manual_seed(2)
    assert values(2) == whole
    assert values(2, skip=3) == whole[3:]
    assert values(1) != whole


def test_loader_leaves_the_models_random_numbers_alone_whatever_the_workers():
    drawn = []
    for workers in (0, 2):
        torch.manual_seed(5)
        for _ in Loaded(DataLoader(Noisy(), 5, shuffle=True, num_workers=workers)).epoch(0):
            drawn.append(torch.rand(1).item())
    assert drawn[:5] == drawn[5:]


def test_sampler_that_draws_as_it_goes_resumes_exactly():
    class Stream:
        def __len__(self):
            return 9

        def __iter__(self):
            last = 0.0
            for _ in range(9):
                last += torch.rand(()).item()
                yield torch.tensor([last])

    whole = []
    for batch in Loaded(Stream()).epoch(0):
        torch.rand(7)  # dropout
        whole.append(batch[0].item())
    assert [batch[0].item() for batch in Loaded(Stream()).epoch(0, skip=4)] == whole[4:]


class Endless(IterableDataset):
    def __iter__(self):
        return iter(torch.arange(7.0))


def test_stream_without_a_length():
    loaded = batches_of(DataLoader(Endless(), batch_size=3))
    assert [len(batch[0]) for batch in loaded.epoch(0)] == [3, 3, 1]


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_batches_of_a_loader_are_divided(ranks):
    loader = DataLoader(TensorDataset(torch.arange(10), torch.arange(10.0)), batch_size=4, shuffle=True)
    whole = read(Loaded(loader))
    parts = [list(Loaded(loader, rank=rank, ranks=ranks).epoch(0)) for rank in range(ranks)]
    for batch, *shares in zip(whole, *parts, strict=True):
        found = [value for share in shares for value in share[0][:rows_of(share)[0]].tolist()]
        assert found == batch[0]


@pytest.mark.parametrize("data", [
    (np.zeros((6, 2)), np.zeros(6)), torch.zeros(6, 2), (torch.zeros(6, 2),), TensorDataset(torch.zeros(6), torch.ones(6)),
])
def test_data_in_memory(data):
    blocks = batches_of(data, batch_size=4)
    assert isinstance(blocks, Blocks) and blocks.rows == 6 and len(blocks) == 2
    assert all(isinstance(part, torch.Tensor) for batch in blocks.epoch(0) for part in batch)


@pytest.mark.parametrize("batch, rows", [
    ((torch.zeros(3, 2),), 3), (({"a": torch.zeros(4)},), 4), (([torch.zeros(5)], torch.zeros(5)), 5),
    ((torch.tensor(1.0), torch.zeros(2)), 2),
])
def test_rows_of_nested_batches(batch, rows):
    assert rows_of(batch) == (rows, rows)


def test_dictionaries_are_batches():
    (batch,) = Loaded([{"x": torch.zeros(2), "name": "two"}], ranks=2, rank=1).epoch(0)
    assert batch[0]["x"].shape == (1,) and batch[0]["name"] == "two" and rows_of(batch) == (1, 2)


@pytest.mark.parametrize("data, words", [
    ((), "no rows"), ((torch.zeros(0, 3), torch.zeros(0)), "no rows"), ((torch.zeros(3), torch.zeros(4)), "[3, 4] rows"),
    ((torch.zeros(3), "labels"), "part 1 of the data is a str"), ((torch.tensor(1.0),), "part 0"), (3, "a int gives no batches"),
    (iter([1]), "only once"), ([torch.zeros(3), torch.zeros(3)], "as a tuple"), ([], "is empty"),
    ((np.array(["a", "b"]),), "cannot become tensors"), (Noisy(), "DataLoader(dataset"),
    (DataLoader(Noisy(), batch_size=64, drop_last=True), "is empty"),
])
def test_refused(data, words):
    with pytest.raises(TrainingError) as found:
        batches_of(data)
    assert words in str(found.value)


def test_groups_keep_the_last_short_one():
    assert [len(group) for group in in_groups(range(7), 3)] == [3, 3, 1]
    assert list(in_groups(range(2), 1)) == [(0,), (1,)]
