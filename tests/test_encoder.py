"""What the encoder makes of numbers with holes and of codes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_nb.settings import DataError
from mlops_nb.training.encoder import Encoder, embedding_size, quantile_bins
from mlops_nb.training.signature import InputColumn, Signature

NOTHING = torch.zeros(4, 0, dtype=torch.int64)


def signature(numbers=(), vocabularies=()):
    columns = [InputColumn(f"n{each}", "number") for each in range(numbers)] if numbers else []
    columns += [InputColumn(f"c{each}", "category", vocabulary=tuple(f"v{code}" for code in range(size)))
                for each, size in enumerate(vocabularies)]
    return Signature("regression", "y", None, (), tuple(columns))


def column(*values):
    return torch.tensor(values, dtype=torch.float32)[:, None]


def test_values_of_a_small_table():
    x = column(1, 2, float("nan"), 5)
    features = Encoder(signature(1), x, NOTHING, bins=2)(x, NOTHING).numpy()
    filled = np.array([1, 2, 2, 5])  # the median stands in
    np.testing.assert_allclose(features[:, 0], (filled - 2.5) / filled.std(), rtol=1e-6)
    assert features[:, 1].tolist() == [0, 0, 1, 0]
    np.testing.assert_allclose(features[:, 2], np.clip((filled - 1) / 1, 0, 1))  # from 1 to the median 2
    np.testing.assert_allclose(features[:, 3], np.clip((filled - 2) / 3, 0, 1))


def test_a_hole_where_training_had_none_has_no_flag():
    encoder = Encoder(signature(1), column(1, 2, 3, 4), NOTHING)
    assert encoder.feature_columns == ("n0",) * (1 + 3)
    with_hole = encoder(column(float("nan")), NOTHING[:1])
    assert torch.equal(with_hole, encoder(column(2.5), NOTHING[:1]))


def test_two_values_and_constants_get_no_bins():
    x = torch.tensor([[0.0, 7.0], [1.0, 7.0], [1.0, 7.0]])
    encoder = Encoder(signature(2), x, NOTHING[:3])
    assert encoder.feature_columns == ("n0", "n1")
    assert torch.isfinite(encoder(torch.tensor([[1e30, -1e30]]), NOTHING[:1])).all()


def test_values_outside_of_the_training_range_stay_in_the_bins():
    encoder = Encoder(signature(1), column(*range(100)), torch.zeros(100, 0, dtype=torch.int64), bins=4)
    assert encoder(column(-1e6), NOTHING[:1])[0, 1:].tolist() == [0, 0, 0, 0]
    assert encoder(column(1e6), NOTHING[:1])[0, 1:].tolist() == [1, 1, 1, 1]


def test_bins_hold_about_equal_counts():
    values = np.random.default_rng(0).lognormal(0, 2, 1000).astype(np.float32)[:, None]
    found = quantile_bins(values, 10)
    counts, _ = np.histogram(values, np.append(found["bin_edge"], values.max()))
    assert len(counts) == 10 and counts.min() >= 99
    assert quantile_bins(np.full((5, 1), np.nan, dtype=np.float32), 10)["bin_edge"].size == 0
    assert quantile_bins(values, 0)["bin_edge"].size == 0


def test_flags_up_to_ten_codes_and_vectors_above():
    sizes = torch.tensor([[0, 0], [9, 10]])
    encoder = Encoder(signature(0, (9, 10)), torch.zeros(2, 0), sizes)
    assert encoder.feature_columns == ("c0",) * 9 + ("c1",) * embedding_size(11)
    features = encoder(torch.zeros(2, 0), sizes)
    assert features[0].abs().sum() == 0  # the unknown
    assert features[1, :9].tolist() == [0] * 8 + [1] and features[1, 9:].abs().min() > 0


def test_seeded_alike_and_trained():
    x, codes = torch.randn(50, 2), torch.randint(0, 31, (50, 1))
    encoders = []
    for _ in range(2):
        torch.manual_seed(3)
        encoders.append(Encoder(signature(2, (30,)), x, codes))
    assert torch.equal(encoders[0](x, codes), encoders[1](x, codes))
    assert [name for name, _ in encoders[0].named_parameters()] == ["vectors.0.weight"]
    encoders[0](x, codes).sum().backward()
    assert encoders[0].vectors[0].weight.grad[0].abs().sum() == 0


def test_no_rows():
    with pytest.raises(DataError, match="there are none"):
        Encoder(signature(1), torch.zeros(0, 1), NOTHING[:0])
    encoder = Encoder(signature(1), column(1, 2, 3, 4), NOTHING)
    assert encoder(torch.zeros(0, 1), NOTHING[:0]).shape == (0, len(encoder.feature_columns))


numbers = st.one_of(st.just(float("nan")), st.floats(-(2.0**99), 2.0**99, width=32), st.integers(-3, 3).map(float))


@settings(derandomize=True, database=None, deadline=None, max_examples=60)
@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=30), st.lists(st.tuples(numbers, numbers), max_size=10))
def test_features_are_finite_and_belong_to_columns(train, later):
    x, later = (torch.tensor(each, dtype=torch.float32).reshape(-1, 2) for each in (train, later))
    encoder = Encoder(signature(2), x, torch.zeros(len(x), 0, dtype=torch.int64))
    for each in (x, later):
        features = encoder(each, torch.zeros(len(each), 0, dtype=torch.int64))
        assert features.shape == (len(each), len(encoder.feature_columns))
        assert torch.isfinite(features).all()
