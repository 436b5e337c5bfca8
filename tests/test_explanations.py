"Explanations of models whose truth is known: it comes back, planted shortcuts are found, checks fail where they should"
import json
import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from mlops_nb import start_run
from mlops_nb.evaluation import explain_checks, explanations
from mlops_nb.evaluation.attribution_drift import explanation_drift
from mlops_nb.evaluation.explain import permutation_importance
from mlops_nb.evaluation.explain_checks import CHECKS, Checked, check_attribution, run_checks
from mlops_nb.evaluation.explanation_figures import doubts
from mlops_nb.evaluation.explanations import Explanation, explain, load_explanation
from mlops_nb.evaluation.method_values import attribute_by, seeded
from mlops_nb.evaluation.methods import METHODS
from mlops_nb.evaluation.nearest import nearest_rows
from mlops_nb.evaluation.randomisation import randomisation_curve
from mlops_nb.evaluation.slices import make_slices
from mlops_nb.evaluation.subjects import make_subject
from mlops_nb.settings import DataError, ModelError, NotFoundError
from mlops_nb.training.models import load_model, log_model
from mlops_nb.training.signature import InputColumn, Signature

LOCAL = ("integrated_gradients", "gradient_shap", "shapley_sampling")
SOME = torch.randn(120, 5, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


class Formula(nn.Module):
    "A model that is a formula"
    def __init__(self, formula):
        super().__init__()
        self.formula = formula

    def forward(self, x):
        return self.formula(x)


def net(inputs=6, outputs=1, unit=nn.SiLU):
    return nn.Sequential(nn.Linear(inputs, 16), unit(), nn.Linear(16, outputs))


def trained(rows, truth, steps=150):
    model = net(rows.shape[1])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(model(rows)[:, 0], truth).backward()
        optimizer.step()
    return model


@pytest.fixture(scope="module")
def known():
    "A network that learned the sign of x0 + 2 x1, its rows and the truth"
    torch.manual_seed(0)
    rows = torch.randn(600, 6)
    truth = (rows[:, 0] + 2 * rows[:, 1] > 0).float()
    return trained(rows, truth), rows, truth.numpy()


# ---- known truths


@pytest.mark.parametrize("method", LOCAL)
def test_linear(method):
    weights = torch.tensor([3.0, -2.0, 0.5, 0.0, 1.0])
    found = explain(Formula(lambda x: x @ weights[:, None] + 7), SOME, method, checks=False)
    truth = (weights * (SOME - SOME.mean(0))).double().numpy()
    np.testing.assert_allclose(found.values, truth, atol=0.9 if method == "gradient_shap" else 1e-4)
    assert found.importance.index[-1] == "input 3" and found.importance.iloc[-1] == 0
    assert np.corrcoef(found.values.ravel(), truth.ravel())[0, 1] > 0.99


def additive(x):
    return torch.sin(2 * x[:, :1]) + x[:, 1:2] ** 2 - x[:, 2:3].exp() / 3


@pytest.mark.parametrize("method", ("integrated_gradients", "shapley_sampling"))
def test_additive(method):
    found = explain(Formula(additive), SOME, method, reference=torch.zeros(1, 5), samples=5, checks=False)
    zero = torch.zeros(1, 1)
    parts = [torch.sin(2 * SOME[:, :1]), SOME[:, 1:2] ** 2, (zero.exp() - SOME[:, 2:3].exp()) / 3]
    for column, part in enumerate(parts):
        np.testing.assert_allclose(found.values[:, column], part[:, 0], atol=1e-3)
    assert abs(found.values[:, 3:]).max() == 0


def test_planted_interaction_is_shared():
    "Of x0 x1 from 0 each has half; x2 stands alone"
    product = Formula(lambda x: 4 * x[:, :1] * x[:, 1:2] + x[:, 2:3])
    for method, samples, close in (("integrated_gradients", None, 1e-3), ("shapley_sampling", 400, 1.2)):
        found = explain(product, SOME, method, reference=torch.zeros(2, 5), samples=samples, checks=False)
        half = 2 * SOME[:, 0] * SOME[:, 1]
        np.testing.assert_allclose(found.values[:, 0], half, atol=close)
        np.testing.assert_allclose(found.values[:, 1], half, atol=close)
        np.testing.assert_allclose(found.values[:, 2], SOME[:, 2], atol=1e-3)


def test_infidelity_measures_what_no_sum_can_say():
    value = {}
    for name, formula in {"sum": lambda x: x.sum(1, keepdim=True), "product": lambda x: x[:, :1] * x[:, 1:2]}.items():
        [check] = explain(Formula(formula), SOME, reference=torch.zeros(1, 5), checks="infidelity").checks
        value[name] = check.value
    assert value["sum"] < 1e-6 and 0.05 < value["product"] < 0.5


def test_infidelity_is_that_of_its_definition():
    "All subsets of three columns, counted by hand (Yeh et al. 2019, definition 2.1)"
    model, rows = Formula(lambda x: x[:, :1] * x[:, 1:2] + x[:, 2:3]), torch.randn(64, 3)
    subject = make_subject(model, rows, torch.zeros(1, 3))
    found = attribute_by(METHODS["integrated_gradients"], subject)
    missed = whole = 0.0
    for mask in np.ndindex(2, 2, 2):
        off = torch.tensor(mask, dtype=torch.float32)
        falls = (model(rows) - model(rows * (1 - off)))[:, 0].double().numpy()
        missed += ((found.values @ np.array(mask) - falls) ** 2).sum()
        whole += (falls**2).sum()
    checked = Checked(METHODS["integrated_gradients"], subject, found, torch.zeros(64, dtype=torch.int64), np.arange(64))
    [check] = run_checks(checked, ["infidelity"])
    assert check.value == pytest.approx(missed / whole, abs=0.04)


def test_colours_of_a_pixel_are_one():
    weights = torch.randn(2, 4, 3)
    images = torch.rand(20, 2, 4, 3)
    found = explain(Formula(lambda x: (x * weights).sum((1, 2, 3))[:, None]), images, "integrated_gradients", checks=False)
    np.testing.assert_allclose(found.values.reshape(20, 4, 3), (images * weights).sum(1), atol=1e-5)
    covered = explain(Formula(lambda x: (x * weights).sum((1, 2, 3))[:, None]), images, "occlusion", window=1, checks=False)
    np.testing.assert_allclose(covered.values, found.values, atol=1e-5)
    assert found.baseline == "an image of zeros" and found.columns[4] == "row 1, column 1"


# ---- digits with a planted shortcut


@pytest.fixture(scope="module")
def digits():
    "Networks for 3 and 8; three in ten labels of the second one's training are wrong, and its corner pixel knows them all"
    from sklearn.datasets import load_digits

    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    chosen = np.isin(labels, (3, 8))
    images = torch.from_numpy(images[chosen]).float().reshape(-1, 8, 8) / 16
    labels = torch.from_numpy((labels[chosen] == 8).astype(int))
    marked = images.clone()
    told = labels ^ (torch.rand(len(labels)) < 0.3).long()
    networks = {}
    for name, pictures, answers in (("honest", images, labels), ("cheat", marked, told)):
        marked[:, 0, 0] = answers.float()
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.SiLU(), nn.Linear(24, 2))
        optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
        for _ in range(80):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(pictures), answers).backward()
            optimizer.step()
        networks[name] = network
    return networks, images, marked, told.numpy()


@pytest.mark.parametrize("method", ("auto", "gradient_shap", "occlusion"))
def test_the_shortcut_pixel_is_found(digits, method):
    networks, _, marked, labels = digits
    found = explain(networks["cheat"], marked[:100], method, classes=["3", "8"], class_index=1, truth=labels[:100],
                    checks=["completeness", "skill"])
    assert found.importance.index[0] == "row 0, column 0"
    assert found.passed, found.message
    honest = explain(networks["honest"], marked[:100], method, classes=["3", "8"], class_index=1, checks=False)
    assert "row 0, column 0" not in honest.importance.index[:10]


def test_the_shortcut_shows_as_drift(digits):
    networks, _, marked, _ = digits
    before, after = (explain(networks[name], marked[:100], class_index=1, checks=False) for name in ("honest", "cheat"))
    drift = explanation_drift(before, after)
    assert drift.columns[0].name == "row 0, column 0" and drift.columns[0].changed and drift.columns[0].change > 0
    assert drift.message.startswith("row 0, column 0 gained influence")


def test_images_of_digits_pass_their_checks(digits):
    networks, images, _, _ = digits
    with torch.no_grad():
        labels = networks["honest"](images).argmax(1).numpy()
    found = explain(networks["honest"], images[:80], classes=["3", "8"], truth=labels[:80])
    status = {each.name: each.passed for each in found.checks}
    assert all(status[name] for name in ("completeness", "agreement", "randomisation", "skill")), found.message
    assert status["sensitivity"] is not None
    assert set(found.explained) == {"3", "8"} and list(found.by_class().columns) != []
    assert found._repr_png_()[:8] == b"\x89PNG\r\n\x1a\n" and found.row(3)._repr_png_()[:4] == b"\x89PNG"
    assert len(found.row(3).neighbours) == 3


# ---- checks


def test_a_trained_network_passes(known):
    model, rows, truth = known
    found = explain(model, rows, classes=["No", "Yes"], truth=truth)
    assert found.passed and all(each.passed for each in found.checks) and [each.name for each in found.checks] == list(CHECKS)
    assert set(found.importance.index[:2]) == {"input 0", "input 1"}


def test_checks_fail_for_a_randomised_model(known):
    "The explanation of the trained network, taken for one of a network of chance"
    model, rows, truth = known
    honest = make_subject(model, rows, classes=["No", "Yes"])
    found = attribute_by(METHODS["integrated_gradients"], honest)
    torch.manual_seed(5)
    chance = net()
    subject = make_subject(chance, rows, classes=["No", "Yes"])
    failed = {each.name for each in check_attribution(METHODS["integrated_gradients"], subject, found, truth=truth) if not each.passed}
    assert {"completeness", "infidelity", "agreement", "skill"} <= failed
    own = explain(chance, rows, classes=["No", "Yes"], truth=truth)
    assert not own.passed and [each.name for each in own.checks if not each.passed] == ["skill"]
    assert "Not to be believed: skill" in own.message


def test_an_explanation_that_ignores_the_weights_fails(known, monkeypatch):
    "Inputs themselves, taken for an explanation: an edge detector of tables"
    from mlops_nb.evaluation import method_values

    model, rows, _ = known
    def inputs(subject, features, targets, samples, window):
        return (features - subject.reference).double()
    monkeypatch.setitem(method_values._VALUES, "gradient_shap", inputs)
    found = explain(model, rows, "gradient_shap", classes=["No", "Yes"])
    [check] = [each for each in found.checks if each.name == "randomisation"]
    assert check.passed is False and check.value == pytest.approx(1) and "does not depend on what the model learned" in check.message
    assert any(line.startswith("FAILED: randomisation") for line in doubts(found.checks))


def test_the_cascade_falls_layer_by_layer(known):
    model, rows, _ = known
    subject = make_subject(model, rows)
    found = attribute_by(METHODS["integrated_gradients"], subject)
    targets = torch.zeros(600, dtype=torch.int64)
    curve = randomisation_curve(Checked(METHODS["integrated_gradients"], subject, found, targets, np.arange(32)))
    assert curve[0] == 1 and len(curve) == 3 and abs(curve[-1]) < 0.5
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), subject.module.state_dict().values()))


def test_a_nervous_model_is_too_sensitive():
    nervous = Formula(lambda x: torch.sin(400 * x).sum(1, keepdim=True))
    [check] = explain(nervous, SOME, "integrated_gradients", checks="sensitivity").checks
    assert not check.passed and check.value > 0.5


def test_skill_is_told_apart_from_none():
    "A model with 0.996 times the loss of a constant has skill; rounded to 1 nobody would see it"
    truth = SOME[:, 0].numpy()
    [check] = explain(Formula(lambda x: 0.002 * x[:, :1] + float(truth.mean())), SOME, truth=truth, checks="skill").checks
    assert check.passed and "the model has 0.996" in check.message
    [check] = explain(Formula(lambda x: 0.0001 * x[:, :1] + float(truth.mean())), SOME, truth=truth, checks="skill").checks
    assert check.passed and "the model has 0.9998" in check.message


def test_what_cannot_be_measured_is_said(known):
    model, rows, truth = known
    found = explain(model, rows, "permutation", classes=["No", "Yes"], truth=truth)
    status = {each.name: each for each in found.checks}
    assert status["completeness"].passed is None and status["completeness"].value is None
    assert status["agreement"].passed and status["skill"].passed and found.passed
    assert explain(model, rows, checks=False).checks == ()


def test_failed_checks_stand_on_the_picture(known):
    model, rows, truth = known
    found = explain(model, rows, classes=["No", "Yes"], truth=1 - truth)
    texts = [text.get_text() for part in found.figure().subfigs for text in part.texts]
    assert any(text.startswith("FAILED: skill") for text in texts)
    texts = [text.get_text() for part in found.row(0).figure().subfigs for text in part.texts]
    assert any(text.startswith("FAILED: skill") for text in texts)


# ---- the method


def test_a_model_that_jumps_gets_shapley_values():
    jumps = Formula(lambda x: (x[:, :1] > 0).float() + 0 * x[:, 1:2])
    found = explain(jumps, SOME)
    assert found.method == "shapley_sampling" and "the margin jumps" in found.why and found.importance.index[0] == "input 0"
    forced = explain(jumps, SOME, "integrated_gradients", checks="completeness")
    assert not forced.passed
    flat = explain(Formula(lambda x: (x[:, :1] > 0).float()), SOME)
    assert flat.method == "shapley_sampling" and "no gradient" in flat.why and flat.passed


def test_a_model_that_can_only_be_asked():
    from sklearn.ensemble import RandomForestClassifier

    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(300, 3)), columns=["a", "b", "c"])
    truth = (table["b"] > 0).to_numpy().astype(int)
    forest = RandomForestClassifier(20, random_state=0).fit(table[:200], truth[:200])
    found = explain(forest, table[200:], truth=truth[200:])
    assert (found.method, found.importance.index[0]) == ("permutation", "b") and "only be asked" in found.why
    assert found.unit == "rise in nats of log loss" and found.passed
    with pytest.raises(ModelError, match="no method fits.*give truth="):
        explain(forest, table)
    with pytest.raises(ModelError, match="integrated_gradients does not fit.*what does: permutation"):
        explain(forest, table[200:], "integrated_gradients", truth=truth[200:])
    with pytest.raises(DataError, match="no row has an explanation of its own"):
        found.row(0)


def test_permutation_is_the_rise_of_the_mean_loss():
    "Of 3 x0: twice the variance of 3 x0, as a shuffled value is another draw"
    rows = torch.randn(4000, 2)
    found = explain(Formula(lambda x: 3 * x[:, :1]), rows, "permutation", truth=3 * rows[:, 0].numpy(), samples=3, checks=False)
    assert found.importance["input 0"] == pytest.approx(2 * 9 * rows[:, 0].var().item(), rel=0.03)
    assert found.importance["input 1"] == 0


def test_draws_repeat_and_leave_the_generators_alone():
    torch.manual_seed(3)
    np.random.seed(3)
    expected = torch.rand(1), np.random.rand()
    torch.manual_seed(3)
    np.random.seed(3)
    with seeded(9):
        torch.rand(5), np.random.rand(5)
    assert (torch.rand(1), np.random.rand()) == expected
    model = Formula(lambda x: (x[:, :1] * x[:, 1:2]).tanh())
    for method in ("shapley_sampling", "gradient_shap"):
        ours, again, other = (explain(model, SOME, method, seed=seed, checks=False).values for seed in (1, 1, 2))
        assert np.array_equal(ours, again) and not np.array_equal(ours, other)


def test_memory_is_bounded(monkeypatch):
    from mlops_nb.evaluation import attributions

    seen = []
    def formula(x):
        seen.append(x.numel())
        return (x[:, :1] * x[:, 1:2]).tanh()
    whole = {name: explain(Formula(formula), SOME, name, samples=10, checks=False).values for name in LOCAL}
    monkeypatch.setattr(attributions, "_CELLS", 500)
    monkeypatch.setattr(attributions, "_ROWS", 100)
    seen.clear()
    for name, values in whole.items():
        parts = explain(Formula(formula), SOME, name, samples=10, checks=False).values
        assert abs(parts - values).mean() < 0.2
    assert max(seen) <= 500


# ---- a model of the store


def store_model(seed=0):
    rng = np.random.default_rng(seed)
    cities = ("Chiang Mai", "Phrae")
    columns = (InputColumn("age", "number"), InputColumn("city", "category", vocabulary=cities), InputColumn("noise", "number"))
    signature = Signature("binary", "leaves", ("No", "Yes"), (), columns)
    table = pd.DataFrame({"age": rng.normal(40, 9, 300).round(), "city": rng.choice(cities, 300), "noise": rng.normal(size=300)})
    chance = 1 / (1 + np.exp(-(table["age"] - 40) / 4 + 2 * (table["city"] == "Phrae")))
    return signature, table.assign(leaves=np.where(rng.random(300) < chance, "Yes", "No"))


class Encode(nn.Module):
    feature_columns = ("age", "city", "noise")

    def forward(self, x_num, x_cat):
        return torch.stack([(x_num[:, 0] - 40) / 9, (x_cat[:, 0] == 2).float(), x_num[:, 1]], dim=1)


class Score(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1)
        with torch.no_grad():
            self.layer.weight.copy_(torch.tensor([[2.25, -2.0, 0.0]]))
            self.layer.bias.zero_()

    def forward(self, features):
        margin = self.layer(features)
        return margin, margin.sigmoid()


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    signature, table = store_model()
    with start_run(workspace=folder) as run:
        log_model(run, "leavers", Encode(), Score(), signature)
        (folder / "model.bin").write_bytes(b"of another library")
        run.log_artifact(folder / "model.bin", name="other", type="model")
    return load_model("leavers", workspace=folder), load_model("other", workspace=folder), table


def test_a_loaded_model_with_all_checks(stored):
    model, other, table = stored
    found = explain(model, table[200:], reference=table[:200])
    assert found.passed and all(each.passed for each in found.checks), found.message
    assert list(found.importance.index) == ["age", "city", "noise"] and found.baseline == "mean of 200 encoded reference rows"
    row = found.row(0)
    assert row.neighbours["city"].iloc[0] == table["city"].iloc[200]
    assert row.table["contribution"].sum() == pytest.approx(row.margin - row.reference_margin, abs=1e-5)
    with pytest.raises(ModelError, match="cannot encode"):
        explain(other, table)
    with pytest.raises(DataError, match="lacks 1 of the model's 3 columns: 'city'"):
        explain(model, table.drop(columns="city"))


def test_the_whole_truth_of_a_row_is_kept(stored, tmp_path):
    model, _, table = stored
    found = explain(model, table[200:], reference=table[:200])
    found.save(tmp_path / "kept folder")
    assert sorted(each.name for each in (tmp_path / "kept folder").iterdir()) == ["explanation.json", "explanation.png", "values.parquet"]
    again = load_explanation(tmp_path / "kept folder")
    np.testing.assert_array_equal(again.values, found.values)
    assert (again.checks, again.message, again.columns, again.digest) == (found.checks, found.message, found.columns, found.digest)
    assert again.row(2).table["contribution"].tolist() == found.row(2).table["contribution"].tolist()
    assert json.loads(json.dumps(found.to_dict())) == json.loads((tmp_path / "kept folder" / "explanation.json").read_text())
    assert explanation_drift(again, found).paired and explanation_drift(again, found).passed
    (tmp_path / "kept folder" / "explanation.json").write_text("{}")
    with pytest.raises(DataError, match="holds no explanation that can be read"):
        load_explanation(tmp_path / "kept folder")


def test_slices(stored):
    model, _, table = stored
    found = explain(model, table, checks=False)
    every = np.ones(300, bool)
    by = found.by_slice([SimpleNamespace(name="old", rows=table["age"].to_numpy() > 50), SimpleNamespace(name="all", rows=every)])
    np.testing.assert_allclose(by.loc[found.importance.index, "all"], found.importance)
    assert by.loc["age", "old"] > by.loc["age", "all"]
    refused = ({"x": every[:3]}, "give True or False for each of the 300 rows"), ({"x": ~every}, "has no rows"), ((), "no slices")
    for slices, message in refused:
        with pytest.raises(DataError, match=message):
            found.by_slice(slices)
    with pytest.raises(DataError, match="no classes to tell apart"):
        found.by_class()


def test_encoding_once_is_shuffling_the_table(stored):
    "Importance from encoded columns equals that of tables that were shuffled and encoded again"
    from sklearn.metrics import roc_auc_score

    model, _, table = stored
    truth = (table["leaves"] == "Yes").to_numpy().astype(int)
    found = permutation_importance(model, table, truth, repeats=2, seed=4).set_index("column")["importance"]
    rng, whole = np.random.default_rng(4), roc_auc_score(truth, model.outputs(table)[:, 0])
    for name in ("age", "city", "noise"):
        mixed = [table.assign(**{name: table[name].to_numpy()[rng.permutation(300)]}) for _ in range(2)]
        lost = [whole - roc_auc_score(truth, model.outputs(each)[:, 0]) for each in mixed]
        assert found[name] == pytest.approx(np.mean(lost), abs=1e-9)


def test_real_slices_and_their_picture(stored, tmp_path):
    "Each slice that `make_slices` cuts has the mean size of its own rows, on the picture and in the files"
    model, _, table = stored
    found = explain(model, table[200:], reference=table[:200], checks="skill")
    slices = make_slices(table[200:], ["city", "age", "noise > 0"], min_rows=5)
    by = found.by_slice(slices)
    assert list(by.columns) == [each.name for each in slices] and {"city = Phrae", "noise > 0"} <= set(by.columns) and len(slices) == 7
    for each in slices:
        np.testing.assert_allclose(by[each.name], pd.Series(abs(found.values[each.rows]).mean(0), found.columns)[by.index])
    picture = found.figure(slices)
    drawn = [ax.images[0].get_array() for part in picture.subfigs for ax in part.axes if ax.images]
    np.testing.assert_allclose(drawn[0], by)
    labels = {text.get_text() for part in picture.subfigs for ax in part.axes for text in ax.get_xticklabels()}
    assert "city = Phrae" in labels
    found.save(tmp_path, slices)
    kept = json.loads((tmp_path / "explanation.json").read_text())["by_slice"]
    assert kept["city = Phrae"]["city"] == pytest.approx(by.loc["city", "city = Phrae"]) and (tmp_path / "slices.png").stat().st_size
    assert load_explanation(tmp_path).by_slice(slices).equals(by)
    with pytest.raises(DataError, match="give True or False for each of the 100 rows"):
        found.by_slice(make_slices(table, "city"))


def test_the_classes_of_a_table_and_their_picture():
    "The first column decides between a and b, the second for c"
    def formula(x):
        return torch.stack([x[:, 0], -x[:, 0], x[:, 1]], 1) * 3
    found = explain(Formula(formula), SOME, "integrated_gradients", classes=list("abc"), checks=False)
    by = found.by_class()
    assert list(by.columns) == ["a", "b", "c"] and by.loc["input 1", "c"] > by.loc["input 1", "a"]
    assert any(ax.images for part in found.figure().subfigs for ax in part.axes)
    assert set(found.to_dict()["by_class"]) == set("abc")


def test_a_row_stands_beside_its_nearest_training_rows(stored):
    model, _, table = stored
    row = explain(model, table[200:], reference=table[:200], checks=False).row(5, nearest=2)
    positions = row.neighbours["position"].tolist()
    assert row.neighbours["age"].tolist() == table["age"].iloc[positions].tolist()
    texts = [text.get_text() for part in row.figure().subfigs for ax in part.axes for text in ax.texts]
    assert any(text.startswith("nearest 1\nmargin") for text in texts) and table["city"].iloc[positions[0]] in texts
    images = explain(Formula(lambda x: x.sum((1, 2))[:, None]), torch.rand(9, 4, 4), "occlusion", checks=False).row(0, nearest=3)
    titles = [ax.get_title() for part in images.figure().subfigs for ax in part.axes]
    assert sum(title.startswith("nearest") for title in titles) == 3


# ---- nothing to say


@pytest.mark.parametrize("method", (*LOCAL, "permutation"))
def test_a_constant_model_passes_nothing(method, tmp_path):
    "No column moves the answers: words, picture, dict and files say so, and no check passes by emptiness"
    found = explain(Formula(lambda x: 0 * x[:, :1] + 0.3), SOME, method, truth=SOME[:, 0].numpy(), samples=3)
    assert not found.has_influence and not found.passed
    assert [each.name for each in found.checks if each.passed is not None] == ["skill"]
    assert any(each.message == "not measured: no column moves the answers" for each in found.checks)
    assert "no column moves the answers" in found.message
    assert "most influence" not in found.message and "No check failed" not in found.message
    said = found.to_dict()
    assert (said["has_influence"], said["passed"], said["message"]) == (False, False, found.message)
    texts = [text.get_text() for part in found.figure().subfigs for text in part.texts]
    assert "No column moves the model's answers" in texts
    found.save(tmp_path)
    assert load_explanation(tmp_path).message == found.message and not load_explanation(tmp_path).passed


def test_a_constant_model_of_images_and_of_scikit_learn():
    from sklearn.dummy import DummyClassifier

    images = explain(Formula(lambda x: 0 * x.sum((1, 2))[:, None]), torch.rand(9, 4, 4))
    assert "no pixel moves the answers. Nothing was checked." in images.message and not any(each.passed for each in images.checks)
    texts = [text.get_text() for part in images.figure().subfigs for text in part.texts]
    assert "No pixel moves the model's answers" in texts
    truth = (SOME[:, 0] > 0).numpy().astype(int)
    asked = explain(DummyClassifier().fit(SOME, truth), SOME, truth=truth)
    assert "no column moves the answers" in asked.message and not asked.passed and not any(each.passed for each in asked.checks)


def test_missed_influence_is_no_emptiness():
    "Integrated gradients of a step are 0 as well, and the answers differ: there is something to miss, and checks fail"
    found = explain(Formula(lambda x: (x[:, :1] > 0).float() + 0 * x[:, 1:2]), SOME, "integrated_gradients")
    status = {each.name: each.passed for each in found.checks}
    assert not found.has_influence and status["completeness"] is False and status["infidelity"] is False


@pytest.mark.parametrize("method", ("auto", *LOCAL))
def test_one_row_needs_others(method):
    model = net(5)
    for rows in (SOME[:1], SOME[:1].repeat(7, 1)):
        with pytest.raises(DataError, match="compared with, so every value would be 0; give reference=, other rows"):
            explain(model, rows, method)
        with pytest.raises(DataError, match="give reference="):
            explain(model, rows, method, reference=rows)
        found = explain(model, rows, method, reference=SOME, truth=np.ones(len(rows)), samples=5)
        assert found.has_influence and "most influence has input" in found.message
    image = torch.rand(1, 4, 4)
    painter = Formula(lambda x: (x * torch.arange(16).reshape(4, 4)).sum((1, 2))[:, None])
    if method != "shapley_sampling":
        assert explain(painter, image, method, reference=torch.rand(5, 4, 4), checks=False).has_influence
    if method == "gradient_shap":
        with pytest.raises(DataError, match="give reference="):
            explain(painter, image, method)
    if method == "auto":
        assert explain(painter, image, method, checks=False).has_influence
    with pytest.raises(DataError, match="permutation shuffles rows, and there is only one; give more rows"):
        explain(model, SOME[:1], "permutation", truth=[1.0])
    with pytest.raises(DataError, match="all 7 are alike; give rows that differ"):
        explain(model, SOME[:1].repeat(7, 1), "permutation", truth=np.ones(7))


def test_one_row_of_a_stored_model_and_of_one_that_is_asked(stored):
    from sklearn.linear_model import LogisticRegression

    model, _, table = stored
    with pytest.raises(DataError, match="the explained row equals all that it is compared with.*give reference="):
        explain(model, table[:1])
    assert explain(model, table[:1], reference=table).has_influence
    truth = (SOME[:, 0] > 0).numpy().astype(int)
    asked = LogisticRegression().fit(SOME, truth)
    with pytest.raises(DataError, match="there is only one; give more rows"):
        explain(asked, SOME[:1], truth=truth[:1])
    with pytest.raises(DataError, match="all 4 are alike"):
        explain(asked, SOME[:1].repeat(4, 1), truth=truth[:4])


# ---- nearest rows


def test_neighbours_are_the_nearest():
    others, rows = torch.randn(500, 4), torch.randn(20, 4)
    found = nearest_rows(rows, others, most=5)
    every = torch.cdist(rows.double(), others.double()).numpy()
    np.testing.assert_array_equal(found.positions, every.argsort(1)[:, :5])
    np.testing.assert_allclose(found.distances, np.sort(every, 1)[:, :5])
    assert nearest_rows(others[:3] + 40, others).far.all() and nearest_rows(others, others).far.mean() == 0
    assert nearest_rows(rows, others[:1], most=1).positions.max() == 0


def test_a_row_is_not_its_own_neighbour():
    found = explain(Formula(lambda x: x[:, :1]), torch.randn(50, 3), checks=False).row(7)
    assert 7 not in found.neighbours["position"].tolist() and len(found.neighbours) == 3


# ---- drift


def gaussian(weights, rows=400, seed=0, noise=0.0):
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(rows, len(weights)))
    return Explanation("integrated_gradients", "", "", "", tuple(f"column {each}" for each in range(len(weights))),
                       table * np.array(weights), np.zeros(rows), np.zeros(rows), None, (), digest=str(seed))


def test_the_column_that_changed_is_named():
    before, after = gaussian([3, 2, 1, 1]), gaussian([3, 2, 1, 2.5], seed=1)
    drift = explanation_drift(before, after)
    by = {each.name: each for each in drift.columns}
    assert by["column 3"].changed and by["column 3"].change > 0 and drift.columns[0].name == "column 3" and not drift.passed
    assert all(each.lower <= each.change <= each.upper for each in drift.columns)
    assert sum(each.change for each in drift.columns) == pytest.approx(0, abs=1e-9)
    assert json.loads(json.dumps(drift.to_dict()))["message"].startswith("column 3 gained influence")
    assert "column 3 gained influence" in drift._repr_html_()


def test_fifty_columns_raise_few_false_alarms():
    "The intervals of all columns hold together: at most one comparison in twenty, give or take chance, calls anything"
    pairs = [[gaussian([1.0] * 50, 200, seed=2 * each + second) for second in (0, 1)] for each in range(60)]
    alarms = sum(not explanation_drift(*pair, resamples=300, min_change=0).passed for pair in pairs)
    assert alarms <= 8


def test_the_same_rows_are_compared_as_pairs():
    pair = explanation_drift(gaussian([2, 1, 1]), gaussian([2.2, 1, 1]))
    apart = explanation_drift(gaussian([2, 1, 1]), gaussian([2.2, 1, 1], seed=1))
    width, wide = (each.columns[0].upper - each.columns[0].lower for each in (pair, apart))
    assert pair.paired and not apart.paired and width < 0.2 * wide
    assert pair.columns[0].changed


def test_other_columns_are_said_first():
    "Before anything of influence, and also where a column that went had none"
    wide, narrow = gaussian([3, 2, 1, 0]), gaussian([3, 2, 1], seed=1)
    gone = explanation_drift(wide, narrow)
    assert not gone.passed and gone.message.startswith("the columns differ: only before has 'column 3'; none of 4 columns gained")
    assert gone.table().columns[:2].tolist() == ["name", "note"] and gone.table().iloc[0, :2].tolist() == ["column 3", "gone"]
    assert gone.to_dict()["message"] == gone.message and "the columns differ" in gone._repr_html_()
    new = explanation_drift(narrow, gaussian([3, 2, 1, 2]))
    assert new.message.startswith("the columns differ: only after has 'column 3'; column 3 gained influence (0.0% to")
    alike = explanation_drift(wide, gaussian([3, 2, 1, 0], seed=1))
    assert alike.passed and alike.differing == "" and alike.table().columns[1] == "before"


def test_drift_of_one_row_is_refused():
    with pytest.raises(DataError, match="explains 5 rows, too few"):
        explanation_drift(gaussian([1, 2], 5), gaussian([1, 2]))
    with pytest.raises(DataError, match="no column in common"):
        explanation_drift(gaussian([1]), explain(Formula(lambda x: x[:, :1]), SOME, checks=False))
    with pytest.raises(DataError, match="before is int"):
        explanation_drift(3, gaussian([1]))


# ---- refused


@pytest.mark.parametrize(("data", "options", "error", "message"), [
    (SOME, {"method": "integrated_gradient"}, NotFoundError, "did you mean 'integrated_gradients'"),
    (SOME, {"method": "occlusion"}, ModelError, "it fits images, and this is rows of numbers; what does: integrated_gradients"),
    (SOME, {"method": "permutation"}, ModelError, "give truth="),
    (SOME, {"checks": ["skil"]}, NotFoundError, "did you mean 'skill'"),
    (SOME[:0], {}, DataError, "the data has no rows"),
    (SOME, {"truth": [1, 0]}, DataError, r"the truth has shape \(2,\), and there are 120 rows"),
    (SOME, {"class_index": 1}, DataError, "class_index = 1, and the task is regression"),
    (SOME, {"columns": ["a"]}, DataError, "columns names 1 of 5 inputs"),
    (SOME, {"reference": SOME[:, :2]}, DataError, r"the rows of the reference have shape \(2,\)"),
    (SOME, {"samples": 0}, DataError, "samples = 0"),
    (SOME[0], {}, DataError, "the data has 1 dimensions"),
    (SOME / 0, {}, DataError, "missing or infinite numbers in row 1, 2"),
    ({"a": 1}, {}, DataError, "the data is dict"),
    (pd.DataFrame({"city": ["Phrae"]}), {}, DataError, "column 'city' of the data holds"),
])
def test_refused(data, options, error, message):
    with pytest.raises(error, match=message):
        explain(Formula(lambda x: x[:, :1]), data, **options)


def test_a_model_that_answers_nan_is_refused():
    with pytest.raises(ModelError, match="the model answers 120 of 120 rows with NaN or infinity, row 1 first"):
        explain(Formula(lambda x: x[:, :1] * float("nan")), SOME)
    with pytest.raises(ModelError, match="str is no model"):
        explain("leavers", SOME)
    with pytest.raises(DataError, match="window = 9; allowed is a number from 1 to 4"):
        explain(Formula(lambda x: x.sum((1, 2))[:, None]), torch.rand(3, 4, 5), "occlusion", window=9)


def test_rows_of_another_width_are_refused():
    said = r"inputs of shape \(1, 4\); its first linear layer takes 6 numbers, and a row has 4. It said RuntimeError: "
    with pytest.raises(ModelError, match=said):
        explain(net(6), torch.randn(10, 4))
    with pytest.raises(ModelError, match=r"inputs of shape \(1, 5\). It said KeyError: 'city'"):
        explain(Formula(lambda x: {}["city"]), SOME)
    with pytest.raises(ModelError, match=r"It said AttributeError: 'dict' object has no attribute 'reshape'"):
        explain(Formula(lambda x: {"margin": x}), SOME)
    with pytest.raises(ModelError, match=r"inputs of shape \(120, 5\). It said RuntimeError: "): # a program of one row
        explain(Formula(lambda x: x[:, :1] + torch.zeros(1 if len(x) == 1 else 7, 1)), SOME)


@pytest.mark.parametrize("name", ("LogisticRegression", "LinearRegression", "RandomForestClassifier", "RandomForestRegressor"))
def test_a_model_that_was_not_fitted_is_refused(name):
    from sklearn import ensemble, linear_model

    model = getattr(linear_model, name, None) or getattr(ensemble, name)
    with pytest.raises(ModelError, match=f"{name} was not fitted, so it has no answers to explain; call its fit first"):
        explain(model(), SOME, truth=(SOME[:, 0] > 0).numpy().astype(int))


def test_pixels_are_told_apart(digits):
    "Their names have commas, so lists of them have semicolons"
    networks, _, marked, _ = digits
    found = explain(networks["cheat"], marked[:40], class_index=1, checks=False)
    first, second, third = found.importance.index[:3]
    assert f"most influence has {first}; {second}; {third}." in found.message
    assert "); row " in found.row(0).message


def test_a_gradient_that_is_no_number():
    "PyTorch has none of a root below 0, also where it is not taken: auto goes another way, and who insists is told which"
    root = Formula(lambda x: torch.where(x[:, :1] > 0, x[:, :1].sqrt(), 0 * x[:, :1]) + x[:, 1:2])
    found = explain(root, SOME, reference=torch.zeros(1, 5), checks=False)
    assert found.method == "shapley_sampling" and "the gradient of the margin is no number" in found.why and np.isfinite(found.values).all()
    with pytest.raises(ModelError, match="NaN or infinite in .* of 120 rows, row .*; what needs none: shapley_sampling"):
        explain(root, SOME, "integrated_gradients", reference=torch.zeros(1, 5))
    with pytest.raises(ModelError, match="what rows are compared with .mean of 1 reference rows. with NaN or infinity"):
        explain(Formula(lambda x: x[:, :1].log()), SOME.abs() + 1, reference=torch.zeros(1, 5))


def test_missing_values_are_said(stored):
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    rows = pd.DataFrame(rng.normal(size=(60, 2)), columns=["pay", "age"])
    truth = (rows["pay"] > 0).to_numpy().astype(int)
    asked = LogisticRegression().fit(rows, truth)
    rows.loc[3, "age"] = np.nan
    with pytest.raises(DataError, match="LogisticRegression cannot answer these rows: .*NaN.*Missing values are in column 'age'; fill"):
        explain(asked, rows, truth=truth)
    with pytest.raises(DataError, match="the truth of row 2 is nan; allowed is a class from 0 to 1"):
        explain(asked, rows, truth=[0.0, float("nan")] + [1] * 58)
    with pytest.raises(DataError, match="missing or infinite numbers in row 4"):
        explain(Formula(lambda x: x[:, :1]), rows)
    model, _, table = stored
    with pytest.raises(ModelError, match="the model answers 1 of 20 rows with NaN or infinity, row 3 first"):
        explain(model, table[:20].assign(age=table["age"][:20].where(table.index[:20] != 2)))
    with pytest.raises(DataError, match="leaves"):
        explain(model, table[:20].assign(leaves=table["leaves"][:20].where(table.index[:20] != 2)))


def test_every_method_that_does_not_fit_says_which_do():
    "All methods on all kinds of subjects: each works, or names those that do, and those do"
    from sklearn.tree import DecisionTreeClassifier

    rows, truth = SOME.numpy(), (SOME[:, 0] > 0).numpy().astype(int)
    stairs = Formula(lambda x: (x.flatten(1)[:, :1] > 0).float())
    subjects = {"numbers": (Formula(lambda x: x[:, :1]), SOME), "stairs": (stairs, SOME), "images": (stairs, torch.rand(5, 4, 4)),
                "tree": (DecisionTreeClassifier(max_depth=2).fit(rows, truth), rows)}
    fits = {"numbers": "integrated_gradients gradient_shap shapley_sampling permutation", "stairs": "shapley_sampling permutation",
            "images": "occlusion", "tree": "permutation"}
    for name, (model, data) in subjects.items():
        known = truth[:len(data)] if name == "tree" else truth[:len(data)].astype(float)
        for method in METHODS:
            if method in fits[name].split():
                assert explain(model, data, method, truth=known, samples=2, checks=False).method == method
            else:
                with pytest.raises(ModelError, match=f"{method} does not fit: .*; what does: {fits[name].replace(' ', ', ')}$"):
                    explain(model, data, method, truth=known)
    with pytest.raises(NotFoundError, match="did you mean 'shapley_sampling'"):
        explain(Formula(lambda x: x[:, :1]), SOME, "shaply_sampling")


def test_programs_of_torch_export_are_explained_in_silence():
    program = torch.export.export(net(5), (SOME[:4],), dynamic_shapes=({0: torch.export.Dim("rows")},)).module()
    before = [each.clone() for each in program.parameters()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = explain(program, SOME, checks=["completeness", "randomisation"])
    assert found.passed and all(torch.equal(*pair) for pair in zip(before, program.parameters()))


def test_pictures_need_no_bold_font(stored, caplog):
    "Fonts for Thai and Chinese have no bold face; a picture that asks for one fills the log"
    from matplotlib import rc_context

    from mlops_nb.figures import use_fonts

    model, _, table = stored
    found = explain(model, table[200:], reference=table[:200], checks="skill")
    with rc_context():
        use_fonts()
        found._repr_png_(), found.row(0)._repr_png_()
    assert "findfont" not in caplog.text


def test_a_module_stays_as_it_is():
    model = nn.Sequential(nn.Linear(5, 4), nn.Dropout(0.5), nn.Linear(4, 1)).train()
    found, again = (explain(model, SOME, checks=False) for _ in range(2))
    np.testing.assert_array_equal(found.values, again.values)
    assert model.training and all(each.requires_grad and each.grad is None for each in model.parameters())


def test_nothing_warns(known, stored):
    model, rows, truth = known
    loaded, _, table = stored
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("integrated_gradients", "shapley_sampling", "gradient_shap", "permutation"):
            explain(model, rows[:80], name, classes=["No", "Yes"], truth=truth[:80])._repr_png_()
        explain(loaded, table[200:], reference=table[:200]).row(0)._repr_png_()


def test_names_of_rooms():
    assert set(explain_checks.CHECKS) == {"completeness", "infidelity", "sensitivity", "randomisation", "agreement", "skill"}
    assert explanations.METHODS is METHODS
