"Which configuration comes next, and which trial ends early"
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
import torch

from mlops_nb.experiments.hyperband import should_stop
from mlops_nb.experiments.recorded_sweeps import read_recorded, replay
from mlops_nb.experiments.sampling import GAUSSIAN_TRIALS, LEARNING_TRIALS, learner, make_sampler, spread_point, trial_seed
from mlops_nb.experiments.sweep_spaces import make_space
from mlops_nb.settings import SweepError

RECORDED = Path(__file__).parents[1] / "nbs" / "5_experiments" / "recorded"
CONTINUOUS = {
    "lr": {"min": 1e-4, "max": 1.0, "distribution": "log_uniform_values"}, "width": {"min": 8, "max": 64},
    "decay": {"min": 0.0, "max": 0.5}, "noise": {"mu": 0.0, "sigma": 1.0, "distribution": "normal"},
    "batch": {"min": 16, "max": 128, "q": 16, "distribution": "q_uniform"}}
PARAMETERS = {"lr": {"values": [0.0001, 0.001, 0.01, 0.1, 1.0]}, "width": {"values": [8, 16, 32, 64]}, "epochs": {"value": 3},
              "optimizer": {"parameters": {"name": {"values": ["sgd", "adam"]}, "momentum": {"values": [0.0, 0.3, 0.6, 0.9]}}}}


@pytest.fixture(autouse=True)
def quiet():
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def loss(values):
    return (np.log10(values["lr"]) + 2) ** 2 + values["optimizer"]["momentum"] + (values["optimizer"]["name"] == "sgd")


def go_on(study, trials, space, method="bayes", seed=0, **settings):
    "So many trials more"
    for number in range(len(study.trials), len(study.trials) + trials):
        study.sampler = make_sampler(method, space, seed, number, trials_so_far=number, **settings)
        trial = study.ask(fixed_distributions=dict(sorted(space.latents().items())))
        study.tell(trial, loss(space.values(trial.params)))
    return study


def params(study): return [each.params for each in study.trials]


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_an_interrupted_sweep_goes_on_as_it_would_have(method):
    space = make_space(PARAMETERS)
    whole = go_on(optuna.create_study(), 13, space, method)
    resumed = optuna.create_study()
    resumed.add_trials(whole.trials[:11])
    assert params(go_on(resumed, 2, space, method)) == params(whole)


def test_the_same_holds_where_tpe_has_taken_over():
    space = make_space(PARAMETERS)
    whole = go_on(go_on(optuna.create_study(), GAUSSIAN_TRIALS, space, "random"), 3, space)
    resumed = optuna.create_study()
    resumed.add_trials(whole.trials[:GAUSSIAN_TRIALS + 1])
    assert params(go_on(resumed, 2, space)) == params(whole)


def test_the_order_of_the_file_does_not_matter():
    turned = dict(reversed(PARAMETERS.items()))
    studies = [go_on(optuna.create_study(), LEARNING_TRIALS + 1, make_space(each)) for each in (PARAMETERS, turned)]
    assert params(studies[0]) == params(studies[1])


def test_other_seeds_and_other_trials_draw_otherwise():
    space = make_space(PARAMETERS)
    drawn = [params(go_on(optuna.create_study(), 5, space, "random", seed)) for seed in (0, 1, -1)]
    assert len({str(each) for sweep in drawn for each in sweep}) > 10
    assert 0 <= trial_seed(2 ** 63, 10 ** 9) < 2 ** 32


def test_the_first_trials_of_bayes_lie_evenly_in_the_space():
    space = make_space(CONTINUOUS | PARAMETERS["optimizer"]["parameters"])
    for seed in range(5):
        points = [space.flat(spread_point(space, seed, number)) for number in range(LEARNING_TRIALS)]
        for name, middle in (("lr", 0.01), ("width", 36), ("decay", 0.25), ("noise", 0.0), ("batch", 72)):
            assert 4 <= sum(each[name] < middle for each in points) <= 6, name
        assert {each["name"] for each in points} == {"sgd", "adam"} and {each["momentum"] for each in points} == {0.0, 0.3, 0.6, 0.9}
        study = optuna.create_study()
        study.sampler = make_sampler("bayes", space, seed, 3, trials_so_far=0)
        assert study.ask(fixed_distributions=space.latents()).params == spread_point(space, seed, 3)


def test_the_method_decides_and_then_the_number_of_trials():
    space = make_space(PARAMETERS)

    def name(method, trials, **settings): return type(make_sampler(method, space, 0, trials, trials_so_far=trials, **settings)).__name__

    assert name("random", 500) == "RandomSampler"
    assert name("bayes", GAUSSIAN_TRIALS - 1) == name("bayes", LEARNING_TRIALS, objectives=2) == "GPSampler"
    assert name("bayes", GAUSSIAN_TRIALS) == name("bayes", LEARNING_TRIALS, pruning=True) == "TPESampler"
    assert (learner(20, 0), learner(21, 0)) == ("gaussian process", "tpe")
    for method in ("grid", "Bayes", "custom"):
        with pytest.raises(SweepError, match=f"'{method}'.*random and bayes.*grid"): name(method, 0)


def test_a_space_of_constants_is_searched_without_complaint():
    space = make_space({"epochs": {"value": 3}})
    for method in ("random", "bayes"):
        study = optuna.create_study()
        for number in range(LEARNING_TRIALS + 2):
            study.sampler = make_sampler(method, space, 0, number, trials_so_far=number)
            study.tell(study.ask(fixed_distributions=space.latents()), 1.0)
        assert params(study) == [{}] * (LEARNING_TRIALS + 2)


@pytest.mark.parametrize("trials", [LEARNING_TRIALS + 1, GAUSSIAN_TRIALS + 1])
def test_several_objectives_and_a_guardrail(trials):
    space, study = make_space(PARAMETERS), optuna.create_study(directions=["minimize", "maximize"])
    for number in range(LEARNING_TRIALS + 2):
        study.sampler = make_sampler("bayes", space, 0, number, trials_so_far=trials, objectives=2)
        trial = study.ask(fixed_distributions=space.latents())
        values = space.values(trial.params)
        trial.set_constraint("width", values["width"] - 32.0)
        study.tell(trial, [loss(values), float(values["width"])])
    assert all(space.values(each.params)["width"] <= 32 for each in study.best_trials)


def test_running_trials_are_kept_away_from():
    space, study = make_space(PARAMETERS), go_on(optuna.create_study(), LEARNING_TRIALS + 2, make_space(PARAMETERS))
    asked = []
    for number in range(LEARNING_TRIALS + 2, LEARNING_TRIALS + 5):
        study.sampler = make_sampler("bayes", space, 0, number, trials_so_far=LEARNING_TRIALS + 2)
        asked.append(study.ask(fixed_distributions=space.latents()).params)
    assert len({str(each) for each in asked}) == 3


# what W&B's own `hyperband_stop_runs` (package sweeps 0.2.0) decides: losses of five trials, of which the middle three still run
DOCUMENTED = [[10, 9], [10, 10], [10, 8, 8], [10, 7, 7], [10, 6, 6]]


def decide(position, histories, goal="minimize", bands=(1, 2), eta=2, strict=False):
    others = [each for place, each in enumerate(histories) if place != position]
    return should_stop(histories[position], others, SimpleNamespace(bands=bands, eta=eta, strict=strict), goal)


def test_hyperband_ends_the_trial_that_wandb_documents():
    assert [decide(position, DOCUMENTED).stops for position in (1, 2, 3)] == [True, False, False]
    upside_down = [[-each for each in values] for values in DOCUMENTED]
    assert [decide(position, upside_down, "maximize").stops for position in (1, 2, 3)] == [True, False, False]
    assert (decide(1, upside_down, "maximize").value, decide(1, upside_down, "maximize").threshold) == (-10, -8)


def test_hyperband_passes_whoever_comes_first_and_leaves_out_what_is_no_number():
    assert decide(0, [[9.0] * 3, [1.0], []], bands=(3,)).passed
    assert decide(0, [[9.0], [1.0] * 3], bands=(2, 4)).band is None
    diverged = decide(0, [[9.0, float("nan"), "x", None, True, 9.0], [1.0, float("inf"), 1.0], [2.0, 2.0]], bands=(1, 2))
    assert (diverged.band, diverged.compared, diverged.stops, diverged.threshold) == (2, 3, True, 2.0)


def test_hyperband_strict_compares_at_the_band():
    falling = [[0.9, 0.4], [0.5, 0.6], [0.5, 0.7], [0.4, 0.8]]
    assert decide(0, falling, "maximize").passed and decide(0, falling, "maximize", strict=True).stops


@pytest.mark.soak
@pytest.mark.parametrize("name", ["digits", "telco"])
def test_bayes_needs_half_the_trials_of_random(name):
    table, seeds, trials = read_recorded(RECORDED / f"{name}.csv"), range(20), 60

    def reached(method, seed, count): return np.maximum.accumulate(table.values[replay(table, method, seed, count)])

    needed = []
    for seed in seeds:
        found = reached("bayes", seed, trials // 2) >= reached("random", seed, trials)[-1]
        needed.append(found.argmax() + 1 if found.any() else trials)
    assert np.median(needed) <= trials / 2
