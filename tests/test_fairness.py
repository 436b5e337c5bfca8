"Fairness equals fairlearn's, robustness finds planted weaknesses, risks say where they are wrong"
import json
import re
from datetime import date
from types import SimpleNamespace

import fairlearn.metrics as fairlearn
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import binomtest

from mlops_nb.evaluation.cases import make_case
from mlops_nb.evaluation.fairness import Fairness, fairness, fairness_measures, group_labels, split_metric
from mlops_nb.evaluation.group_gaps import draw_rates, gap_bounds
from mlops_nb.evaluation.risks import Risk, RisksError, read_risks, risks_of
from mlops_nb.evaluation.robustness import Probe, Robustness, apply_probe, make_probes, robustness
from mlops_nb.evaluation.slices import make_slices
from mlops_nb.settings import DataError, MissingExtraError, NotFoundError, open_workspace
from mlops_nb.training.signature import InputColumn, Signature, to_tensors


def drawn(seed, rows=400, groups=3):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, rows)
    return truth, np.clip(0.5 + 0.2 * (2 * truth - 1) + rng.normal(0, 0.3, rows), 0, 1), rng.choice(list("abcde")[:groups], rows)


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1), st.integers(2, 5))
def test_every_gap_of_two_classes_is_fairlearns(seed, groups):
    truth, output, labels = drawn(seed, groups=groups)
    case = make_case("binary", truth, output)
    found = fairness(case, pd.DataFrame({"group": labels}), resamples=20, min_rows=1)
    for gap in found.gaps:
        ours = getattr(fairlearn, gap.measure, None)
        if ours is None: continue
        assert gap.value == pytest.approx(ours(truth, case.answer, sensitive_features=labels), abs=1e-12), gap.measure
        assert gap.lower <= gap.value <= gap.upper
    rates = fairlearn.MetricFrame(metrics={"selection_rate": fairlearn.selection_rate,
                                           "false_positive_rate": fairlearn.false_positive_rate},
                                  y_true=truth, y_pred=case.answer, sensitive_features=labels).by_group
    for name in rates:
        values = found.table().xs(name, level="rate")["value"].droplevel(0)
        np.testing.assert_allclose(values[rates.index], rates[name], atol=1e-12)


def test_gaps_of_several_classes_are_those_of_the_worst_one():
    rng = np.random.default_rng(0)
    truth, labels = rng.integers(0, 3, 900), rng.choice(["a", "b"], 900)
    output = rng.dirichlet([1, 1, 1], 900) + 0.8 * np.eye(3)[truth]
    output[labels == "b", 0] += 0.3
    case = make_case("multiclass", truth, output / output.sum(1, keepdims=True))
    found = {gap.measure: gap for gap in fairness(case, {"group": labels}, resamples=50).gaps}
    each = [fairlearn.demographic_parity_difference(truth == one, case.answer == one, sensitive_features=labels) for one in range(3)]
    assert found["demographic_parity_difference"].value == pytest.approx(max(each), abs=1e-12)
    each = [fairlearn.equalized_odds_ratio(truth == one, case.answer == one, sensitive_features=labels) for one in range(3)]
    assert found["equalized_odds_ratio"].value == pytest.approx(min(each), abs=1e-12)


def test_gaps_of_values_are_fairlearns():
    rng = np.random.default_rng(0)
    truth, labels = rng.normal(100, 20, 600), rng.choice(["a", "b"], 600)
    case = make_case("regression", truth, truth + rng.normal(0, 5, 600) * np.where(labels == "b", 3, 1))
    found = fairness(case, {"group": labels}, resamples=200)
    errors = pd.Series(abs(case.answer - truth)).groupby(labels).mean()
    assert found.metrics["fairness_group_mae_difference"] == pytest.approx(errors["b"] - errors["a"])
    assert found.metrics["fairness_group_mae_difference_lower"] > 5
    assert "fairness_group_mean_prediction_ratio" not in found.metrics


PEOPLE = { # rows and rate of each group
    "alike": ([300, 300], [0.3, 0.3]), "apart": ([300, 300], [0.3, 0.5]), "few and many": ([60, 1000], [0.35, 0.2]),
    "nearly all": ([50, 500], [0.9, 0.6]), "three": ([200] * 3, [0.3, 0.4, 0.5]), "five alike": ([200] * 5, [0.3] * 5),
    "two and three": ([200] * 5, [0.3, 0.3, 0.3, 0.5, 0.5]), "of all sizes": ([500, 300, 100, 60, 40], [0.2, 0.25, 0.3, 0.3, 0.35])}


def coverage(rows, rates, how, simulations, resamples=400):
    "How often an interval of `fairness` holds the true gap of the selection rates"
    rng, held = np.random.default_rng(0), 0
    true = max(rates) - min(rates) if how == "difference" else min(rates) / max(rates)
    labels = np.repeat([f"group {place}" for place in range(len(rows))], rows)
    for seed in range(simulations):
        output = (rng.random(len(labels)) < np.repeat(rates, rows)).astype(float)
        case = make_case("binary", np.tile([0, 1], len(labels))[:len(labels)], output)
        [gap] = fairness(case, {"group": labels}, [f"demographic_parity_{how}"], resamples, seed).gaps
        held += gap.lower <= true <= gap.upper
    return held / simulations


@pytest.mark.parametrize("people", ["alike", "apart"])
def test_intervals_hold_the_true_gap(people):
    "Of 150; the standard error of a share is 2 %"
    assert 0.89 <= coverage(*PEOPLE[people], "difference", 150, 200) <= 0.99


@pytest.mark.soak
@pytest.mark.parametrize("how", ["difference", "ratio"])
@pytest.mark.parametrize("people", PEOPLE)
def test_coverage_of_1000_intervals(people, how):
    "93 to 97 % of two groups; of more groups the intervals may be wider than they need, and never narrower"
    found = coverage(*PEOPLE[people], how, 1_000)
    print(f"fairness {how} {people}: {found:.3f}")
    assert 0.93 <= found <= (0.97 if len(PEOPLE[people][0]) == 2 else 1), found


@pytest.mark.soak
@pytest.mark.parametrize("measure", ["mae_difference", "mae_ratio"])
def test_coverage_of_1000_intervals_of_distances(measure):
    "Two groups whose errors are normal, with standard deviations of 1 and 1.5"
    rng, held, labels = np.random.default_rng(0), 0, np.repeat(["a", "b"], 200)
    spread = np.sqrt(2 / np.pi) * np.array([1, 1.5])
    true = spread[1] - spread[0] if measure.endswith("difference") else spread[0] / spread[1]
    for seed in range(1_000):
        truth = rng.normal(size=400)
        case = make_case("regression", truth, truth + rng.normal(size=400) * np.repeat([1, 1.5], 200))
        [gap] = fairness(case, {"group": labels}, [measure], 400, seed).gaps
        held += gap.lower <= true <= gap.upper
    print(f"fairness {measure}: {held / 1_000:.3f}")
    assert 930 <= held <= 970


def test_bounds_are_as_far_as_those_of_drawn_rows():
    "Of two groups that are far apart the interval is as wide as the quantiles of a bootstrap that draws rows"
    rng, labels = np.random.default_rng(3), np.repeat(["a", "b"], 400)
    case = make_case("binary", rng.integers(0, 2, 800), (rng.random(800) < np.repeat([0.2, 0.6], 400)).astype(float))
    [gap] = fairness(case, {"group": labels}, ["demographic_parity_difference"], resamples=4000).gaps
    def once(rows): return abs(np.diff([case.answer[rows][labels[rows] == each].mean() for each in "ab"]))[0]
    lower, upper = np.quantile([once(rng.integers(800, size=800)) for _ in range(4000)], [0.025, 0.975])
    assert (gap.lower, gap.upper) == pytest.approx((lower, upper), abs=0.008)


@pytest.mark.parametrize(("yes", "people"), [(0, 40), (40, 40), (13, 50), (300, 1_000)])
def test_draws_of_a_rate_have_its_error_with_one_more_yes_and_one_more_no(yes, people):
    centre, draws = draw_rates(np.array([[yes]]), np.array([[people]]), 20_000)
    rate = (yes + 1) / (people + 2)
    assert centre == pytest.approx((yes + 1.5) / (people + 3)) and draws.mean() == pytest.approx(centre[0, 0], abs=0.003)
    assert draws.std() == pytest.approx((rate * (1 - rate) * (people + 2)) ** 0.5 / (people + 3), rel=0.04)


@pytest.mark.parametrize("how", ["difference", "ratio"])
@pytest.mark.parametrize("people", PEOPLE)
def test_gaps_of_the_draws_hold_the_true_gap(people, how):
    "Of 150 tests, whatever the groups are; the standard error of a share is 2 %"
    rows, rates = (np.array(each) for each in PEOPLE[people])
    rng, held = np.random.default_rng(0), 0
    true = max(rates) - min(rates) if how == "difference" else min(rates) / max(rates)
    for seed in range(150):
        lower, upper = gap_bounds(*draw_rates(rng.binomial(rows, rates)[None], rows[None], 200, seed), how, 0.95)
        held += lower <= true <= upper
        assert lower >= 0 and (how == "difference" or upper <= 1)
    assert held >= 0.9 * 150


@pytest.mark.parametrize("how", ["difference", "ratio"])
def test_groups_that_cannot_be_the_widest_pair_do_not_count(how):
    centre = np.array([[0.1, 0.5, 0.5, 0.9]])
    draws = centre + np.random.default_rng(0).normal(0, 0.01, (500, 1, 4))
    assert gap_bounds(centre, draws, how, 0.95) == gap_bounds(centre[:, [0, 3]], draws[..., [0, 3]], how, 0.95)


def test_the_worst_of_several_rates_counts():
    "As with equalized odds: the second rate is far apart, the first is not"
    centre = np.array([[0.5, 0.5], [0.2, 0.6]])
    draws = centre + np.random.default_rng(0).normal(0, 0.02, (2_000, 2, 2))
    lower, upper = gap_bounds(centre, draws, "difference", 0.95)
    assert (lower, upper) == pytest.approx((0.4 - 1.96 * 0.02 * 2**0.5, 0.4 + 1.96 * 0.02 * 2**0.5), abs=0.006)
    assert gap_bounds(centre[:1], draws[:, :1], "difference", 0.95)[0] == 0 == 1 - gap_bounds(centre[:1], draws[:, :1], "ratio", 0.95)[1]


def test_rates_that_never_vary_have_intervals():
    "No one of 40 in the one group, everybody of 40 in the other"
    case = make_case("binary", np.tile([0, 1], 40), np.repeat([0.0, 1.0], 40))
    found = fairness(case, {"group": np.repeat(["a", "b"], 40)}, resamples=500)
    gaps = {each.measure: each for each in found.gaps}
    parity, ratio = gaps["demographic_parity_difference"], gaps["demographic_parity_ratio"]
    assert (parity.value, parity.upper) == (1, 1) and 0.8 < parity.lower < 0.98
    assert ratio.value == ratio.lower == 0 and 0.01 < ratio.upper < 0.3
    rate = next(each for each in found.rates if (each.group, each.rate) == ("a", "selection_rate"))
    assert (rate.value, rate.lower) == (0, 0) and rate.upper == pytest.approx(binomtest(0, 40).proportion_ci(method="wilson").high)


def test_small_groups_and_empty_rates_are_named_and_left_out():
    truth = np.concatenate([np.tile([0, 1], 200), np.zeros(50), [1, 1]])
    labels = np.repeat(["a", "b", "never", "rare"], [200, 200, 50, 2])
    found = fairness(make_case("binary", truth, np.linspace(0, 1, 452)), {"group": labels}, resamples=20)
    gaps = {gap.measure: gap for gap in found.gaps}
    assert gaps["demographic_parity_difference"].groups == ("a", "b", "never")
    assert gaps["equal_opportunity_difference"].groups == ("a", "b")
    assert gaps["equal_opportunity_difference"].note == "left out: never (50 rows), rare (2 rows)"
    assert {each.note for each in found.rates if each.group == "rare"} == {"fewer than 30 rows"}
    assert "nothing to divide by" in {each.note for each in found.rates if each.group == "never"}


def test_one_group_has_no_gap():
    found = fairness(make_case("binary", [0, 1] * 40, np.full(80, 0.7)), {"group": ["a"] * 80}, resamples=5)
    assert found.metrics == {} and found.gaps[0].note.startswith("fewer than two groups of ") and "fewer than two groups" in found.message
    again = json.loads(json.dumps(found.to_dict()))
    assert Fairness.from_dict(again).gaps[0].note.startswith("fewer than two groups of ")


@pytest.mark.parametrize("values, groups", [
    (pd.Series([0.0, 1.0, np.nan, 1.0], name="x"), ["0", "1", "missing", "1"]),
    (pd.Series(["ไทย", None, "x = y"], name="x", dtype=object), ["ไทย", "missing", "x = y"]),
    (pd.Series([True, False], name="is senior"), ["True", "False"]),
])
def test_groups_of_a_column(values, groups):
    assert list(group_labels(values)) == groups


def test_slices_and_groups_have_the_same_names():
    table = pd.DataFrame({"senior": [0.0, 1.0, 1.0, np.nan], "contract": ["a", "b", "b", None]})
    for name in table:
        slices = {each.name for each in make_slices(table, name, min_rows=1)}
        assert slices == {f"{name} is missing" if each == "missing" else f"{name} = {each}" for each in group_labels(table[name])}


def test_numbers_are_cut_and_no_row_is_lost():
    labels = group_labels(pd.Series(np.arange(100.0) * 1.5, name="age"))
    assert len(set(labels)) == 4 and (labels != "").all()


def test_what_is_wrong_is_said(monkeypatch):
    case, table = make_case("binary", [0, 1] * 40, np.full(80, 0.7)), pd.DataFrame({"group": ["a", "b"] * 40})
    with pytest.raises(DataError, match="the groups have 79 rows and the case 80"): fairness(case, table.tail(79))
    with pytest.raises(DataError, match="resamples = 0"): fairness(case, table, resamples=0)
    with pytest.raises(NotFoundError, match="did you mean 'mae_difference'"): split_metric("fairness_age_mae_diference", "regression")
    with pytest.raises(NotFoundError): split_metric("fairness_mae_difference", "regression")
    for task in ("binary", "multiclass", "regression"):
        for name in fairness_measures(task): assert split_metric(f"fairness_a_b_{name}", task) == ("a_b", name)
    monkeypatch.setitem(__import__("sys").modules, "fairlearn.metrics", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'mlops_nb\[fairness\]'"): fairness(case, table)


# Robustness

SIGNATURE = Signature("binary", "leaves", ("No", "Yes"), (), (
    InputColumn("tenure", "number"), InputColumn("charge", "number"), InputColumn("paperless", "boolean"),
    InputColumn("since", "date", format="ISO8601", parts=("month",)),
    InputColumn("contract", "category", vocabulary=("Month", "Year"), missing=True)))


def customers(rows=600, seed=0):
    rng = np.random.default_rng(seed)
    found = pd.DataFrame({"tenure": rng.uniform(0, 72, rows), "charge": rng.normal(70, 20, rows),
                          "paperless": rng.integers(0, 2, rows).astype(float),
                          "since": pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 366, rows), "D"),
                          "contract": rng.choice(np.array(["Month", "Year"], dtype=object), rows)})
    return found.assign(leaves=np.where(rng.random(rows) < outputs(found)[:, 0], "Yes", "No"))


def outputs(table):
    x_num, x_cat = (each.numpy() for each in to_tensors(table, SIGNATURE))
    return expit(-0.1 * (np.nan_to_num(x_num[:, :1], nan=36) - 36) + 2.0 * (x_cat == 1) - 1)


MODEL = SimpleNamespace(signature=SIGNATURE, outputs=outputs)


@pytest.mark.parametrize("probe", make_probes(SIGNATURE), ids=lambda probe: probe.name)
def test_a_probe_spoils_its_columns_and_no_others(probe):
    table = customers()
    before = table.copy()
    spoiled = apply_probe(probe, table)
    pd.testing.assert_frame_equal(table, before)
    changed = {name for name in table if not spoiled[name].equals(table[name])}
    assert changed == set(probe.columns)
    to_tensors(spoiled, SIGNATURE)  # what is spoiled can still be read


def test_planted_weaknesses_are_found():
    found = robustness(MODEL, customers(), names=["roc_auc", "accuracy"])
    by_name = {(each.probe, each.metric): each for each in found.drops}
    assert by_name["charge x 1000", "roc_auc"].drop == 0 == by_name["charge x 1000", "roc_auc"].upper
    assert by_name["tenure x 1000", "accuracy"].lower > 0.05
    assert by_name["unseen categories in 10%", "roc_auc"].drop > 0
    assert found.worst("units", "accuracy").probe.startswith("tenure")
    assert set(found.metrics) >= {"robustness_missing_values_roc_auc_drop", "robustness_units_accuracy_drop_upper"}
    assert Robustness.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_a_drop_is_positive_where_less_is_better():
    found = robustness(MODEL, customers(), [Probe("units", ("tenure",), 1000)], names="log_loss")
    assert found.drops[0].after > found.drops[0].before and found.drops[0].lower > 0


def test_large_tables_are_sampled_and_text_columns_of_other_kinds_spared():
    assert robustness(MODEL, customers(2000), make_probes(SIGNATURE, ["paperless"]), most_rows=500, resamples=5).rows == 500
    assert [each.kind for each in make_probes(SIGNATURE, ["since"])] == ["missing values"]
    with pytest.raises(DataError, match="share = 2"): make_probes(SIGNATURE, share=2)


def fragile(table):
    "Gives no probability where the charge is unknown"
    return np.where(table["charge"].isna().to_numpy()[:, None], np.nan, outputs(table))


def test_a_probe_that_gets_no_finite_output_is_said_and_is_the_worst():
    found = robustness(SimpleNamespace(signature=SIGNATURE, outputs=fragile), customers(), names=["roc_auc", "accuracy"], resamples=20)
    lost = [each for each in found.drops if each.kind == "missing values"]
    assert [each.metric for each in lost] == ["roc_auc", "accuracy"]
    assert np.isnan([value for each in lost for value in (each.after, each.drop, each.lower, each.upper)]).all()
    assert re.fullmatch(r"no finite output for \d\d of 600 rows with missing values in 10%", lost[0].note)
    assert lost[0].before == found.worst("noise", "roc_auc").before and found.worst("missing values", "roc_auc") is lost[0]
    assert "robustness_noise_roc_auc_drop" in found.metrics
    assert not any(name.startswith("robustness_missing_values") for name in found.metrics)
    assert "no finite output" in found.message and found.table().kind[0] == "missing values" and "no finite output" in found._repr_html_()
    again = Robustness.from_dict(json.loads(json.dumps(found.to_dict())))
    assert np.isnan(again.drops[0].drop) and again.message == found.message


def test_a_model_that_gives_nothing_for_the_rows_as_they_are_is_refused():
    broken = SimpleNamespace(signature=SIGNATURE, outputs=lambda table: outputs(table) * np.nan)
    with pytest.raises(DataError, match="output has row 1: nan"): robustness(broken, customers(), resamples=5)
    with pytest.raises(NotFoundError, match="did you mean 'roc_auc'"): robustness(MODEL, customers(), names="roc_acu")
    with pytest.raises(NotFoundError, match="did you mean 'tenure'"): make_probes(SIGNATURE, ["tenur"])


# Risks

RISKS = """[[model]]
name = "churn"
intended_use = "Call customers."

[[model.risk]]
name = "unfair"
harm = "Some are called less."
status = "accepted"
reviewer = "Malee"
date = 2025-03-01
mitigation = "Watched each month."
"""


@pytest.mark.parametrize("old, new, line, said", [
    ('status = "accepted"', 'status = "done"', 8, "allowed is 'open' or 'mitigated' or 'accepted'"),
    ("date = 2025-03-01", "", 8, "is accepted and has no date"),
    ('reviewer = "Malee"', 'reviewer = " "', 8, "is accepted and has no reviewer"),
    ("2025-03-01", "2099-03-01", 10, "is in the future"),
    ("2025-03-01", '"soon"', 10, "is no day"),
    ("harm", "harms", 7, "did you mean 'harm'"),
    ("intended_use", "intent", 3, "unknown key 'intent'"),
    ('"Call customers."', "5", 3, "allowed is a text in quotes"),
    ("[[model.risk]]", "[[model.risks]]", 5, "did you mean 'risk'"),
])
def test_a_wrong_register_says_where(tmp_path, old, new, line, said):
    path = tmp_path / "risks.toml"
    path.write_text(RISKS.replace(old, new))
    with pytest.raises(RisksError) as error: read_risks(path)
    assert f"line {line}: " in str(error.value) and said in str(error.value)


def test_names_are_unique(tmp_path):
    path = tmp_path / "risks.toml"
    path.write_text(RISKS + RISKS)
    with pytest.raises(RisksError, match="line 13: there are two models of the name 'churn'"): read_risks(path)
    path.write_text(RISKS + RISKS.partition("\n\n")[2])
    with pytest.raises(RisksError, match="line 13: there are two risks of the name 'unfair'"): read_risks(path)


def test_a_decision_can_run_out(tmp_path):
    path = tmp_path / "risks.toml"
    path.write_text(RISKS + "review_by = 2025-12-31\n")
    register = risks_of(open_workspace(tmp_path), "churn")
    assert [register.passed(day) for day in (date(2025, 12, 31), date(2026, 1, 1))] == [True, False]
    assert "open: unfair" in register.message(date(2026, 1, 1)) and "| unfair |" in register._repr_markdown_()
    assert Risk("a", "b").is_open(date(2025, 1, 1))


def test_no_register_is_said(tmp_path):
    workspace = open_workspace(tmp_path)
    assert "there is no risks.toml" in risks_of(workspace, "churn")
    (tmp_path / "risks.toml").write_text(RISKS)
    assert "did you mean 'churn'" in risks_of(workspace, "chrun")
