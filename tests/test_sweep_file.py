"The sweep's file: W&B's distributions, grids and keys, what a person can get wrong, and whether the notebook takes it"
import json
import math
import pickle
import random

import nbformat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_nb.experiments.durations import read_duration
from mlops_nb.experiments.sweep_distributions import examples, make_distribution
from mlops_nb.experiments.sweep_file import read_sweep
from mlops_nb.experiments.sweep_program import check_program
from mlops_nb.experiments.sweep_kinds import KINDS, SweepSettingError, read_kind, spelling
from mlops_nb.experiments.sweep_settings import Hyperband
from mlops_nb.experiments.sweep_spaces import make_space
from mlops_nb.experiments.yaml_files import parse_yaml
from mlops_nb.settings import SweepError

# What `HyperParameter(...).ppf` of W&B's package sweeps 0.3.0 returns at these shares of the probability
SHARES = (0.0503, 0.3303, 0.7003, 0.9903)
QUANTILES = [
    ({"min": 1, "max": 8}, "int_uniform", [1, 3, 6, 8]),
    ({"min": -3, "max": 3}, "int_uniform", [-3, -1, 1, 3]),
    ({"min": 0, "max": 0.5}, "uniform", [0.02515, 0.16515, 0.35015, 0.49515]),
    ({"distribution": "uniform", "min": 1, "max": 4}, "uniform", [1.1509, 1.9909, 3.1009, 3.9709]),
    ({"distribution": "q_uniform", "min": 0, "max": 10}, "q_uniform", [1.0, 3.0, 7.0, 10.0]),
    ({"distribution": "q_uniform", "min": 0, "max": 10, "q": 2}, "q_uniform", [0, 4, 8, 10]),
    ({"distribution": "q_uniform", "min": 0.05, "max": 1.1, "q": 0.1}, "q_uniform", [0.1, 0.4, 0.8, 1.1]),
    ({"distribution": "log_uniform", "min": -5, "max": 0}, "log_uniform", [0.008665, 0.035137, 0.223465, 0.952657]),
    ({"distribution": "log_uniform_values", "min": 1e-5, "max": 0.1}, "log_uniform_values", [1.6e-05, 0.00021, 0.006327, 0.091453]),
    ({"distribution": "q_log_uniform", "min": 0, "max": 4}, "q_log_uniform", [1.0, 4.0, 16.0, 53.0]),
    ({"distribution": "q_log_uniform_values", "min": 1, "max": 100, "q": 5}, "q_log_uniform_values", [0, 5, 25, 95]),
    ({"distribution": "inv_log_uniform", "min": -2, "max": 3}, "inv_log_uniform", [0.064024, 0.259629, 1.651196, 7.039239]),
    ({"distribution": "inv_log_uniform_values", "min": 0.5, "max": 100}, "inv_log_uniform_values",
     [0.652697, 2.8774, 20.435314, 94.990464]),
    ({"distribution": "normal"}, "normal", [-1.641952, -0.439085, 0.525264, 2.337754]),
    ({"distribution": "normal", "mu": 5, "sigma": 0.1}, "normal", [4.835805, 4.956092, 5.052526, 5.233775]),
    ({"distribution": "q_normal", "mu": 3, "sigma": 4, "q": 0.5}, "q_normal", [-3.5, 1.0, 5.0, 12.5]),
    ({"distribution": "log_normal", "mu": 1, "sigma": 0.5}, "log_normal", [1.19605, 2.182471, 3.534712, 8.748455]),
    ({"distribution": "q_log_normal", "mu": 2, "q": 3}, "q_log_normal", [0, 6, 12, 78]),
    ({"distribution": "beta", "a": 2, "b": 5}, "beta", [0.063056, 0.194164, 0.360524, 0.707597]),
    ({"distribution": "beta"}, "beta", [0.0503, 0.3303, 0.7003, 0.9903]),
    ({"distribution": "q_beta", "a": 0.5, "b": 0.5, "q": 0.1}, "q_beta", [0.0, 0.2, 0.8, 1.0]),
    ({"values": [16, 32, 64]}, "categorical", [16, 16, 64, 64]),
    ({"values": ["a", "b", None]}, "categorical", ["a", "a", None, None]),
    ({"values": ["x", "y", "z"], "probabilities": [0.5, 0.0, 0.5]}, "categorical_w_probabilities", ["x", "x", "z", "z"]),
    ({"value": [1]}, "constant", [[1], [1], [1], [1]]),
]


def latent_at(distribution, share):
    "The latent that a share of a uniform draw stands for"
    latent = distribution.latent
    if latent is None: return None
    if hasattr(latent, "choices"): return int(share * len(latent.choices))
    if isinstance(latent.low, int): return latent.low + int(share * (latent.high - latent.low + 1))
    if latent.log: return math.exp(math.log(latent.low) + share * (math.log(latent.high) - math.log(latent.low)))
    return latent.low + share * (latent.high - latent.low)


@pytest.mark.parametrize("given, kind, quantiles", QUANTILES, ids=lambda each: json.dumps(each) if isinstance(each, dict) else "")
def test_values_are_distributed_as_with_wandb(given, kind, quantiles):
    distribution = make_distribution(given)
    assert distribution.kind == kind
    values = [distribution.value(latent_at(distribution, share)) for share in SHARES]
    for value, expected in zip(values, quantiles):
        assert type(value) is type(expected)
        assert value == expected or isinstance(value, float) and value == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_all_kinds_are_compared_with_wandb():
    assert {kind for _, kind, _ in QUANTILES} == set(KINDS)


def test_a_random_sampler_follows_the_distribution():
    import optuna
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = make_space({"n": {"distribution": "normal"}, "p": {"values": ["a", "b"], "probabilities": [0.2, 0.8]},
                        "i": {"min": 1, "max": 4}})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [space.flat(study.ask(space.latents()).params) for _ in range(1500)]
    assert sorted(each["n"] for each in drawn)[750] == pytest.approx(0, abs=0.1)
    assert sum(each["p"] == "a" for each in drawn) / 1500 == pytest.approx(0.2, abs=0.04)
    assert [sum(each["i"] == n for each in drawn) / 1500 for n in range(1, 5)] == pytest.approx([0.25] * 4, abs=0.04)


KEYS = {"min": [0, 1, -1, 0.5, "1e-3", None, math.inf, "x"], "max": [0, 1, 2.0, 10, 1e300, 10**12, True], "q": [1, 0.1, 0, -1],
        "mu": [0, 1.5, 800], "sigma": [1, 0, 300.0], "a": [1, 0, 2], "b": [0.5], "values": [[1, 2, 4], [], ["a", 1], 3, [True, 1, 1.0]],
        "value": [None, {"k": [1]}],
        "probabilities": [[0.5, 0.5], [1], [0.2, 0.3, 0.5], [-1, 2], "half"], "distribution": [*KINDS, "foo", 3], "odd": [1]}
SETTINGS = st.lists(st.sampled_from(sorted(KEYS)), unique=True, max_size=5).flatmap(
    lambda keys: st.fixed_dictionaries({key: st.sampled_from(KEYS[key]) for key in keys}))
KIND_SETTINGS = st.sampled_from(sorted(KINDS)).flatmap(
    lambda kind: st.fixed_dictionaries({key: st.sampled_from(KEYS[key]) for key in KINDS[kind]})
    .map(lambda each: each | {"distribution": kind}))


@settings(max_examples=200, deadline=None)
@given(SETTINGS | KIND_SETTINGS, st.floats(0.001, 0.999))
def test_settings_are_refused_or_can_be_sampled_and_read_back(given, share):
    try: distribution = make_distribution(given)
    except SweepSettingError as problem:
        assert set(problem.keys) <= {*given, *range(9)}
        return
    value = distribution.value(latent_at(distribution, share))
    json.dumps(value)
    back = distribution.value(distribution.latent_of(value))
    assert spelling(back) == spelling(value) or back == pytest.approx(value, rel=1e-5)
    for each in examples(distribution): assert distribution.latent is None or distribution.latent._contains(distribution.latent_of(each))
    assert distribution.count is None or distribution.count > 0


@pytest.mark.parametrize("given, key, words", [
    ({"min": 5, "max": 1}, "min", "min 5 is above max 1"), ({"min": 2, "max": 2}, "min", "give value: 2"),
    ({"distribution": "log_uniform_values", "min": 0, "max": 1}, "min", "min 0 has to be above 0"),
    ({"distribution": "log_uniform", "min": 0, "max": 1000}, "distribution", "exponents of e"),
    ({"distribution": "int_uniform", "min": 0.5, "max": 3}, "min", "allowed is a whole number"),
    ({"distribution": "lognormal"}, "distribution", "did you mean 'log_normal'"), ({"values": []}, "values", "at least one value"),
    ({"values": "ab"}, "values", "allowed is a list"),
    ({"values": [1, 2], "probabilities": [0.5]}, "probabilities", "1 probabilities for 2 values"),
    ({"values": [1, 2], "probabilities": [0.5, 0.4]}, "probabilities", "add up to 0.9"),
    ({"values": [1, 2], "probabilities": [1.5, -0.5]}, "probabilities", "probability 1.5"),
    ({"min": 0.0, "max": 1.0, "q": 0.1}, "q", "q_uniform"), ({"distribution": "q_normal", "q": 0}, "q", "q 0 has to be above 0"),
    ({"distribution": "uniform", "min": 1}, None, "uniform lacks 'max'"), ({"min": "low", "max": 1}, "min", "allowed is a finite number"),
    ({"distribution": "log_normal", "sigma": 200}, "mu", "too large"), ({}, None, "nothing does not tell"),
    ({"distribution": "q_uniform", "min": 0, "max": 1e300, "q": 1}, "q", "too fine"),
    ({"min": -1e308, "max": 1e308}, "min", "too far apart")])
def test_refusals_of_settings(given, key, words):
    with pytest.raises(SweepSettingError, match="(?s).*" + words.replace("(", r"\(")) as refused: read_kind(given)
    assert refused.value.keys[:1] == ((key,) if key else ())
    assert pickle.loads(pickle.dumps(refused.value)).keys == refused.value.keys


def test_values_of_another_space_are_refused():
    choices, whole = make_distribution({"values": [1, 2, 4]}), make_distribution({"min": 1, "max": 8})
    never = make_distribution({"values": ["a", "b"], "probabilities": [1, 0]})
    even, constant = make_distribution({"distribution": "q_uniform", "min": 0, "max": 9, "q": 2}), make_distribution({"value": 1})
    scale = make_distribution({"distribution": "log_uniform_values", "min": 1, "max": 9})
    for distribution, value in ((choices, 3), (choices, "1"), (choices, True), (whole, 9), (whole, 2.5), (whole, True), (whole, "2"),
                                (whole, math.nan), (never, "b"), (even, 3), (scale, 0.5), (constant, 2)):
        with pytest.raises(SweepError, match="cannot come from"): distribution.latent_of(value)
    assert (choices.latent_of(2.0), whole.latent_of(3.0)) == (1, 3)


def test_a_value_can_be_changed_without_changing_the_space():
    distribution = make_distribution({"values": [[1], [2]]})
    distribution.value(0).append(9)
    assert distribution.value(0) == [1]


# What `grid_search_next_runs` of W&B's package sweeps 0.3.0 suggests, in its order
GRID = {"b": {"values": ["x", "y", "x"]}, "a": {"min": 1, "max": 2},
        "c": {"parameters": {"z": {"distribution": "q_uniform", "min": 0.0, "max": 0.3, "q": 0.1}, "k": {"value": 9}}},
        "a-b": {"values": [1, True]}}


def test_the_grid_is_that_of_wandb():
    space = make_space(GRID)
    points = [space.values(each) for each in space.grid()]
    assert space.size == len(points) == 24
    assert points[:4] == [{"a": 1, "a-b": 1, "b": "x", "c": {"k": 9, "z": 0.0}}, {"a": 1, "a-b": 1, "b": "x", "c": {"k": 9, "z": 0.1}},
                          {"a": 1, "a-b": 1, "b": "x", "c": {"k": 9, "z": 0.2}}, {"a": 1, "a-b": 1, "b": "y", "c": {"k": 9, "z": 0.0}}]
    assert points[6]["a-b"] is True and points[-1] == {"a": 2, "a-b": True, "b": "y", "c": {"k": 9, "z": 0.2}}
    assert [space.values(space.latents_of(each)) for each in points] == points


@pytest.mark.parametrize("low, high, step, values", [(0, 1, 0.25, [0.0, 0.25, 0.5, 0.75]), (0, 10, 3, [0, 3, 6, 9]), (2, 8, 2, [2, 4, 6])])
def test_quantised_grids_end_below_the_maximum_as_with_wandb(low, high, step, values):
    distribution = make_distribution({"distribution": "q_uniform", "min": low, "max": high, "q": step})
    assert [distribution.value(each) for each in distribution.grid()] == values
    assert distribution.count == len(values)


def test_the_digest_is_of_what_is_meant():
    meant = make_space(GRID).digest
    assert make_space(dict(reversed(GRID.items()))).digest == meant
    assert make_space(GRID | {"a": {"distribution": "int_uniform", "max": 2.0, "min": "1"}}).digest == meant
    for other in ({"a": {"min": 1, "max": 3}}, {"b": {"values": ["y", "x"]}}, {"d": {"value": 1}}, {"a": {"values": [1, 2]}}):
        assert make_space(GRID | other).digest != meant
    assert make_space({"a": {"min": 0.0, "max": 1}}).digest == make_space({"a": {"distribution": "uniform", "min": 0, "max": 1}}).digest
    assert make_space({"a": {"values": [1, 1.5]}}).digest == make_space({"a": {"values": [1.0, 1.5]}}).digest
    assert make_space({"a": {"values": [1]}}).digest != make_space({"a": {"values": [True]}}).digest


@pytest.mark.parametrize("part, bands", [({"min_iter": 3}, (3, 9, 27)), ({"max_iter": 27, "s": 2}, (3, 9)),
                                         ({"max_iter": 5, "s": 2, "eta": 2}, (1, 2)), ({"min_iter": 1, "eta": 1.5}, (1, 1, 2, 3, 5)),
                                         ({"max_iter": 27, "s": 9, "min_iter": 2}, (1, 3, 9))])
def test_bands_are_those_of_wandb(part, bands):
    assert Hyperband(**part).bands[:len(bands)] == bands and Hyperband(**part).strict


FILE = """program: train.ipynb
method: bayes
metric: {name: loss, goal: minimize}
parameters:
  lr:
    distribution: log_uniform_values
    min: 1e-5
    max: 0.1
  width:
    values: [16, 32]
  model:
    parameters:
      depth: {min: 1, max: 4}
early_terminate: {type: hyperband, min_iter: 3}
objectives: false
budget: {time: 2h, money: 5.0, runs: 100}
stop: {next: 5, min_gain: 0.001, price: 1000.0}
resources: {cpus: 2, memory: 2GB}
timeout: 1h
run_cap: 50
"""


@pytest.fixture
def root(tmp_path):
    root = tmp_path/("งาน ที่สอง " + "x" * 60)
    root.mkdir()
    write_notebook(root, "lr: float = 0.1\nwidth: int = 8\nmodel: dict[str, int] = {}")
    return root


def write_notebook(root, source, tags=("parameters",)):
    cell = nbformat.v4.new_code_cell(source, metadata={"tags": list(tags)})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), root/"train.ipynb")


def read(root, text, name="sweep.yaml", encoding="utf-8"):
    (root/name).write_text(text, encoding=encoding)
    return read_sweep(root/name)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_all_of_a_file(root, encoding):
    config = read(root, FILE.replace("\n", "\r\n") if encoding == "utf-8-sig" else FILE, encoding=encoding)
    check_program(config)
    assert config.program == (root/"train.ipynb").resolve() and config.metric.goal == "minimize" and config.hyperband.strict
    assert (config.budget.time_s, config.budget.money, config.budget.runs, config.most_trials) == (7200.0, 5.0, 100, 50)
    assert (config.stop.next_trials, config.stop.min_gain, config.stop.price, config.timeout_s) == (5, 0.001, 1000.0, 3600.0)
    assert (config.resources.cpus, config.resources.memory_bytes, config.resources.gpus) == (2, 2_000_000_000, 0)
    assert (config.seed, config.max_failures, config.retries, config.objectives, config.notes) == (0, 5, 0, False, ())
    assert config.space.names == ("lr", "width", "model.depth")
    assert pickle.loads(pickle.dumps(config)) == config


def test_json_is_yaml_too(root):
    text = json.dumps({"program": "train.ipynb", "method": "grid", "parameters": {"width": {"values": [1, 2]}}})
    assert read(root, text, "sweep.json").most_trials == 2


def test_the_program_is_looked_for_in_the_workspace_too(root):
    (root/"sweeps").mkdir()
    (root/"sweeps"/"sweep.yaml").write_text(FILE, encoding="utf-8")
    assert read_sweep(root/"sweeps"/"sweep.yaml", root=root).program == (root/"train.ipynb").resolve()
    with pytest.raises(SweepError, match="line 1: program 'train.ipynb' does not exist in"): read_sweep(root/"sweeps"/"sweep.yaml")


def test_keys_without_effect_are_said(root):
    config = read(root, FILE + "command: [python]\nproject: digits\nentity: me\ncontroller: {type: local}\nkind: sweep\napiVersion: v1\n"
                  .replace("min_iter: 3", "min_iter: 3, max_iter: 9, s: 1"))
    assert [note.split(" ")[0] for note in config.notes] == ["'command'", "'controller'", "'entity'", "'project'"]
    assert "(line 21)" in config.notes[0]


@pytest.mark.parametrize("old, new, line, words", [
    ("run_cap", "runcap", 20, "did you mean 'run_cap'"), ("bayes", "baise", 2, "did you mean 'bayes'"),
    ("method: bayes", "method: grid", 6, "lr: a grid cannot go through"),
    ("metric: {name: loss, goal: minimize}\n", "", 2, "method bayes needs"),
    ("name: loss, ", "", 3, "metric lacks 'name'"), ("goal: minimize", "goal: down", 3, "'minimize' or 'maximize'"),
    ("min: 1e-5", "min: 1", 7, "min 1 is above max 0.1"), ("min: 1e-5", "min: 0", 7, "above 0"),
    ("log_uniform_values", "loguniform", 6, "log_uniform"),
    ("[16, 32]", "[]", 10, "at least one value"),
    ("    max: 0.1\n", "    max: 0.1\n    max: 1\n", 9, "'max' is there twice, first in line 8"),
    ("  width:", "\twidth:", 9, "tabs"), ("  width:", "   width:", 9, "indent"), ("type: hyperband", "type: median", 14, "'hyperband'"),
    ("time: 2h", "time: 2 fortnights", 16, "a time such as"), ("next: 5", "nxt: 5", 17, "did you mean 'next'"),
    ("cpus: 2", "cpus: many", 18, "whole number"),
    ("2GB", "two", 18, "2GB"), ("timeout: 1h", "timeout: 0", 19, "above 0"), ("objectives: false", "objectives: maybe", 15, "use"),
    ("program: train.ipynb", "program: trian.ipynb", 1, "did you mean 'train.ipynb'"), ("train.ipynb", "train.py", 1, "no notebook"),
    ("program: train.ipynb\n", "", 1, "lacks 'program'"), ("method: bayes\n", "", 1, "lacks 'method'"),
    ("method: bayes", "method: custom", 2, "W&B's server"),
    ("run_cap: 50", "job: x", 20, "'job' needs W&B's server"), ("run_cap: 50", "scheduler: {engine: ax}", 20, "Optuna"),
    ("run_cap: 50", "metrics: []", 20, "objectives: use"), ("run_cap: 50", "image_uri: x", 20, "program:"),
    ("run_cap: 50", "kind: job", 20, "'sweep'"),
    ("run_cap: 50", "run_cap: 0", 20, "at least 1"), ("depth: {min: 1", "depth: {min: 9", 13, "model.depth: min 9 is above max 4"),
    ("{min: 1, max: 4}", "3", 13, "{value: 3}"),
    ("    values: [16, 32]", "    value: 1\n    values: [1]", 10, "unknown key 'value' of categorical")])
def test_refusals_name_the_line(root, old, new, line, words):
    with pytest.raises(SweepError) as refused: read(root, FILE.replace(old, new, 1))
    assert f"sweep.yaml, line {line}: " in str(refused.value) and words in str(refused.value)


@pytest.mark.parametrize("part", ["early_terminate: {type: hyperband, min_iter: 3}", "stop: auto"])
def test_rules_need_an_aim(root, part):
    text = "program: train.ipynb\nmethod: random\nparameters: {width: {values: [1]}}\n" + part
    with pytest.raises(SweepError, match="line 4: .* needs what the sweep is after"): read(root, text)
    assert read(root, text + "\nobjectives: use").objectives
    assert read(root, text.replace(part, "stop: never")).stop is None


@pytest.mark.parametrize("source, line, words", [
    ("rate: float = 0.1\nwidth: int = 8\nmodel: dict = {}", 5, "train.ipynb has no parameter 'lr'; there are: rate, width, model"),
    ("lr: float = 0.1\nwidht: int = 8\nmodel: dict = {}", 9, "has no parameter 'width'; did you mean 'widht'?"),
    ("lr: int = 1\nwidth: int = 8\nmodel: dict = {}", 5, "the notebook refuses lr = "),
    ("from typing import Literal\nlr: float = 1\nwidth: Literal[16, 64] = 16\nmodel: dict = {}", 9, "the notebook refuses width = 32"),
    ("lr: float = 0.1\nwidth: int = 8\nmodel: dict[str, str] = {}", 13, "the notebook refuses model['depth'] = 1"),
    ("lr: float = 0.1\nwidth: int = 8\nmodel: dict = {}\ndata: str", 4, "needs the parameter 'data', which has no default"),
    ("from pydantic import SecretStr\nlr: SecretStr\nwidth = 1\nmodel = 1", 5, "lr is a secret")])
def test_the_notebook_is_asked(root, source, line, words):
    config = read(root, FILE)
    write_notebook(root, source)
    with pytest.raises(SweepError) as refused: check_program(config)
    assert f"sweep.yaml, line {line}: " in str(refused.value) and words in str(refused.value)


def test_all_that_the_notebook_refuses_is_said_at_once(root):
    config = read(root, FILE)
    write_notebook(root, "a = 1")
    with pytest.raises(SweepError) as refused: check_program(config)
    assert len(str(refused.value).split("\n")) == 3


def test_a_notebook_that_cannot_be_read_is_named(root):
    config = read(root, FILE)
    write_notebook(root, "lr = 1", tags=())
    with pytest.raises(SweepError, match="line 1: train.ipynb: .*parameters"): check_program(config)
    (root/"train.ipynb").write_text("no notebook", encoding="utf-8")
    with pytest.raises(SweepError, match="line 1: train.ipynb: .*not a notebook"): check_program(config)


def test_a_notebook_without_types_takes_any_value(root):
    write_notebook(root, "lr = 0.1\nwidth = 8\nmodel = {}")
    check_program(read(root, FILE))


def test_a_resumed_sweep_is_read_from_what_it_began_with(root):
    config = read(root, FILE)
    (root/"sweep.yaml").write_text("method: grid", encoding="utf-8")
    assert read_sweep(root/"sweep.yaml", text=config.text) == config


ODD_LINES = ["\t", "- 1", "x", "&a", "*b", "? [", "<<: 3", "!!set {a}", "'", "{", "%", "---", "...", "a: |"]


@pytest.mark.parametrize("seed", range(6))
def test_broken_files_are_refused_and_nothing_else(root, seed):
    generator = random.Random(seed)
    for _ in range(40):
        lines = FILE.split("\n")
        for _ in range(generator.randint(1, 3)):
            place = generator.randrange(len(lines))
            match generator.randrange(5):
                case 0: del lines[place]
                case 1: lines.insert(place, generator.choice(ODD_LINES))
                case 2: lines[place] = " " * generator.randrange(4) + lines[place]
                case 3: lines[place] = lines[place].replace(":", generator.choice(["", ": :", ": -", ": !!int", ": null #"]), 1)
                case _: lines[place] = lines[place][:generator.randrange(len(lines[place]) + 1)]
        try: read(root, "\n".join(lines))
        except SweepError as problem: assert "sweep.yaml, line " in str(problem)


@pytest.mark.parametrize("text, value", [
    ("1e-3", 1e-3), ("'1e-3'", "1e-3"), ("1:30", "1:30"), ("2024-05-01", "2024-05-01"), ("0x10", 16), ("yes", True), ("~", None),
    ("-5", -5),
    ("3.0", 3.0), ("v1e3", "v1e3"), ("1_000", 1000)])
def test_scalars(tmp_path, text, value):
    found = parse_yaml(f"key: {text}", tmp_path/"a.yaml", SweepError).content["key"]
    assert found == value and type(found) is type(value)


def test_aliases_cannot_fill_the_memory(tmp_path):
    lines = [f"{name}: &{name} [{', '.join([f'*{before}'] * 8)}]" for before, name in zip("abcdefg", "bcdefgh")]
    text = "\n".join(["a: &a [1, 1, 1, 1, 1, 1, 1, 1]", *lines])
    with pytest.raises(SweepError, match="more than 100,000 values"): parse_yaml(text, tmp_path/"a.yaml", SweepError)


@pytest.mark.parametrize("text, seconds", [
    ("2h", 7200), ("1h 30min", 5400), ("1h30m", 5400), ("90 min", 5400), ("0.5 days", 43200), (0, 0), ("10", 10)])
def test_durations(text, seconds):
    assert read_duration(text) == seconds
