"What the next trials would bring, and whether that is worth their cost"
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_nb.experiments.diminishing_returns import AUTOMATIC_SHARE, LEAST_TRIALS, expected_gain, fit_tail, recent_values, weigh_gain
from mlops_nb.settings import SweepError


def sample(seed, count, exponent=2.0):
    "Values that end at 1"
    return 1 - np.random.default_rng(seed).random(count) ** (1 / exponent)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.floats(1e-3, 1e4), st.floats(-100, 100))
def test_the_unit_of_the_metric_does_not_matter(seed, scale, shift):
    values = sample(seed, 30)
    plain, scaled = expected_gain(values, 10), expected_gain(values * scale + shift, 10)
    assert scaled.expected == pytest.approx(plain.expected * scale, rel=1e-3)
    assert scaled.probability_of_any == pytest.approx(plain.probability_of_any, rel=1e-3)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(10, 60))
def test_a_loss_is_a_metric_turned_round(seed, count):
    values = sample(seed, count)
    threshold = values.max() + 0.01
    up = expected_gain(values, 10, "maximize", threshold=threshold)
    down = expected_gain(-values, 10, "minimize", threshold=-threshold)
    assert (down.expected, down.lower, down.upper) == pytest.approx((up.expected, up.lower, up.upper))
    assert down.probability_to_reach == pytest.approx(up.probability_to_reach) and down.best == -up.best


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000))
def test_more_trials_gain_more_and_none_gain_nothing(seed):
    values = sample(seed, 25)
    gains = [expected_gain(values, count).expected for count in (0, 1, 5, 25, 100)]
    assert gains[0] == pytest.approx(0) and gains == sorted(gains)


@pytest.mark.parametrize("values", [[], [None] * 30, [0.5] * (LEAST_TRIALS - 1), [math.nan, math.inf, None] * 5 + [0.1, 0.2]])
def test_too_few_values_tell_nothing_and_stop_nothing(values):
    gain = expected_gain(values, 10, threshold=2.0)
    assert not gain.known and "too few" in gain.message and gain.probability_to_reach == 0.0
    assert weigh_gain(gain, min_gain=100.0).passed and weigh_gain(gain, price=1.0, cost_per_trial=1e9).passed
    assert json.loads(json.dumps(weigh_gain(gain).evidence))["expected"] is None


def test_a_constant_metric_gains_nothing():
    decision = weigh_gain(expected_gain([0.7] * 20, 10), min_gain=0.001)
    assert decision.stops and decision.gain.expected == decision.gain.spread == 0.0 and weigh_gain(decision.gain).stops


def test_the_automatic_rule_goes_on_where_nothing_is_known_and_stops_a_converged_sweep():
    converged = [*sample(0, 30), *[0.999] * 40]
    assert weigh_gain(expected_gain(converged, 10, method="bayes")).stops
    assert weigh_gain(expected_gain(sample(0, 15), 10)).passed


def test_failed_trials_make_a_gain_less_likely():
    values = sample(3, 40)
    failing = [each for value in values for each in (value, None)]
    assert expected_gain(failing, 10).probability_of_any < 0.7 * expected_gain(values, 10).probability_of_any
    assert expected_gain(failing, 10).trials == 80


def test_what_is_reached_already_is_certain():
    assert expected_gain(sample(0, 30), 10, threshold=-5.0).probability_to_reach == 1.0
    assert expected_gain(sample(0, 30), 10, threshold=1e6).probability_to_reach == 0.0
    assert expected_gain([3.0], 10, "minimize", threshold=3.5).probability_to_reach == 1.0


@pytest.mark.parametrize("count, exponent", [(15, 2.0), (40, 1.0), (40, 4.0), (100, 2.0)])
def test_the_chance_of_any_gain_is_the_one_that_needs_no_model(count, exponent):
    chances = [expected_gain(sample(seed, count, exponent), 10).probability_of_any for seed in range(30)]
    assert np.mean(chances) == pytest.approx(10 / (count + 10), rel=0.3)


@pytest.mark.parametrize("exponent, most", [(1.0, 5.0), (2.0, 2.5), (4.0, 2.0)]) # one or two parameters matter: it stops late, never early
def test_what_is_expected_comes(exponent, most):
    drawn = np.stack([sample(seed, 50, exponent) for seed in range(100)])
    gains = [expected_gain(each[:40], 10) for each in drawn]
    came = np.maximum(drawn[:, 40:].max(axis=1) - drawn[:, :40].max(axis=1), 0)
    assert 0.6 < np.mean([each.expected for each in gains]) / came.mean() < most
    assert np.mean([each.lower <= value <= each.upper for each, value in zip(gains, came)]) > 0.85


def test_the_tail_never_ends_below_the_best_value():
    for seed in range(30):
        values = sample(seed, 30)
        tail = fit_tail(values)
        assert tail.threshold + tail.ends.min() > values.max() and tail.weights.sum() == pytest.approx(1)


def test_a_learning_sampler_is_judged_by_its_later_half():
    values = np.arange(100.0)
    assert recent_values(values, "bayes").tolist() == list(range(50, 100))
    assert len(recent_values(values[:40], "bayes")) == 30 and len(recent_values(values[:20], "bayes")) == 20
    assert len(recent_values(values, "random")) == len(recent_values(values, "grid")) == 100


def test_every_answer_that_is_given_must_be_kept():
    gain = expected_gain(sample(0, 30), 10)
    dear, cheap = {"price": 1.0, "cost_per_trial": 1e6}, {"price": 1e6, "cost_per_trial": 1.0}
    small, large = {"min_gain": gain.expected / 2}, {"min_gain": gain.expected * 2}
    outcomes = [weigh_gain(gain, **need, **money).passed for need in (small, large) for money in (dear, cheap)]
    assert outcomes == [False, True, False, False]
    assert weigh_gain(gain, **cheap).least_gain is None
    assert weigh_gain(gain).least_gain == pytest.approx(AUTOMATIC_SHARE * gain.spread)


def test_an_objective_that_is_reached_spares_nothing_more():
    missed = expected_gain(sample(0, 30), 10, threshold=sample(0, 30).max() + 0.001)
    reached = expected_gain(sample(0, 30), 10, threshold=0.1)
    worth = [weigh_gain(each, cost_of_miss=100.0, cost_per_trial=0.1) for each in (missed, reached)]
    assert worth[0].worth == pytest.approx(100 * missed.probability_to_reach) and worth[0].passed
    assert worth[1].worth == 0.0 and worth[1].stops


def test_the_reason_names_the_numbers():
    message = weigh_gain(expected_gain(sample(0, 200), 10), price=10, min_gain=0.1, cost_per_trial=2.5, currency="THB").message
    assert message.startswith("stops: 10 more trials") and "25 THB" in message and "more than 0.1 is required" in message


def test_a_price_without_a_cost_says_where_to_set_it():
    gain = expected_gain(sample(0, 30), 10)
    for given_price in ({"price": 3.0}, {"cost_of_miss": 3.0}):
        with pytest.raises(SweepError, match=r"3\.0.*\[hardware\].*min_gain"): weigh_gain(gain, **given_price)
