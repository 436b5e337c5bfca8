"""A model artifact: the same bytes for the same training, the same predictions everywhere, and nothing that runs code."""

import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from mlops_nb.data.schema import Column, Schema
from mlops_nb.settings import CorruptBlobError, DataError, ModelError, NotFoundError
from mlops_nb.store.session import start_run
from mlops_nb.training.encoder import Encoder
from mlops_nb.training.models import FORMAT, FilesModel, Model, load_model, log_model
from mlops_nb.training.signature import InputColumn, Signature, fit_signature, to_tensors


class Scorer(torch.nn.Module):
    "A small network; `outputs` says what follows the margin."

    def __init__(self, width, task, classes=1):
        super().__init__()
        self.task = task
        self.layers = torch.nn.Sequential(torch.nn.Linear(width, 16), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(16, classes))

    def forward(self, features):
        margin = self.layers(features)
        if self.task == "regression":
            return margin, margin * 100 + 1000
        return margin, torch.sigmoid(margin) if self.task == "binary" else torch.softmax(margin, dim=1)


COLUMNS = (InputColumn("tenure", "number"), InputColumn("charge", "number"), InputColumn("paperless", "boolean"),
           InputColumn("contract", "category", vocabulary=("Month", "Year"), missing=True),
           InputColumn("city", "category", vocabulary=tuple(f"city {each}" for each in range(20))))
CLASSES = {"binary": ("No", "Yes"), "multiclass": (1, 2, 3), "regression": None}


def make_signature(task="binary", keys=("id",)):
    return Signature(task, "churn", CLASSES[task], keys, COLUMNS)


def make_table(rows, seed=0):
    generator = np.random.default_rng(seed)
    tenure = generator.normal(30, 10, rows)
    tenure[generator.random(rows) < 0.1] = np.nan
    return pd.DataFrame({
        "id": np.arange(rows) + 10**15, "tenure": tenure, "charge": generator.lognormal(3, 1, rows),
        "paperless": generator.integers(0, 2, rows).astype(float),
        "contract": generator.choice(np.array(["Month", "Year", None], dtype=object), rows),
        "city": generator.choice([f"city {each}" for each in range(25)], rows)})


def make_modules(signature, table, seed=0):
    torch.manual_seed(seed)
    tensors = to_tensors(table, signature)
    encoder = Encoder(signature, *tensors)
    scorer = Scorer(len(encoder.feature_columns), signature.task, len(signature.classes or ()) if signature.task == "multiclass" else 1)
    optimizer = torch.optim.Adam([*encoder.parameters(), *scorer.parameters()], lr=0.01)
    target = torch.nan_to_num(tensors.x_num[:, :1], 30.0) / 30
    for _ in range(3):
        optimizer.zero_grad()
        (scorer(encoder(*tensors))[0] - target).square().mean().backward()
        optimizer.step()
    return encoder, scorer


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    "A workspace that does without W&B"
    folder = tmp_path_factory.mktemp("a workspace")
    (folder / "settings.ini").write_text("[workspace]\n[wandb]\nmode = disabled\n")
    return folder


@pytest.fixture
def run(root):
    with start_run("train", workspace=root) as run:
        yield run


@pytest.fixture(scope="module")
def trained(root):
    "Signature, modules and artifact of a model for each task"
    torch.set_num_threads(1)
    found = {}
    with start_run("train", workspace=root) as run:
        for task in CLASSES:
            signature = make_signature(task)
            modules = make_modules(signature, make_table(400))
            found[task] = signature, *modules, log_model(run, f"churn-{task}", *modules, signature)
    return found


# The same training, the same bytes

TRAINING = """
import torch
torch.set_num_threads(1)
from mlops_nb import start_run
from mlops_nb.training.models import log_model
from test_models import make_modules, make_signature, make_table

signature = make_signature()
with start_run("train", workspace=".") as run:
    print(log_model(run, "churn", *make_modules(signature, make_table(400)), signature).digest)
"""


def test_same_training_same_digest(tmp_path):
    digests = []
    for name, hash_seed in (("first", "1"), ("ที่สอง, with blanks", "2")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "settings.ini").write_text("[workspace]\n[wandb]\nmode = disabled\n")
        (folder / "train.py").write_text(TRAINING)
        environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "PYTHONHASHSEED": hash_seed}
        done = subprocess.run([sys.executable, "train.py"], cwd=folder, env=environ, capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, done.stderr
        digests.append(done.stdout.strip())
    assert len(digests[0]) == 64 and digests[0] == digests[1]
    another = make_modules(make_signature(), make_table(400), seed=1)
    with start_run("train", workspace=tmp_path / "first") as run:
        assert log_model(run, "churn", *another, make_signature()).digest != digests[0]


def test_nothing_of_the_machine_is_in_the_files(trained, root):
    for *_, artifact in trained.values():
        for file in artifact.files:
            path = artifact.path(file.path)
            parts = zipfile.ZipFile(path) if path.suffix == ".pt2" else None
            content = b"".join(parts.read(each) for each in parts.namelist()) if parts else path.read_bytes()
            for trace in (bytes(root), sys.prefix.encode(), os.path.expanduser("~").encode() + b"/", b".py", b"test_models", b"/tmp"):
                assert trace not in content, (file.path, trace)


# The same predictions

@pytest.mark.parametrize("task", CLASSES)
def test_programs_equal_modules_for_each_batch_size(trained, task):
    signature, encoder, scorer, artifact = trained[task]
    model = load_model(artifact)
    x_num, x_cat = to_tensors(make_table(1000, seed=5), signature)
    encoder.eval(), scorer.eval()
    with torch.inference_mode():
        for rows in (*range(1, 70), *(power + more for power in (128, 256, 512) for more in (-1, 0, 1)), 999, 1000):
            part = x_num[:rows], x_cat[:rows]
            features = model.encode(*part)
            expected = encoder(*part)
            torch.testing.assert_close(features, expected, rtol=1e-6, atol=1e-6)
            for ours, theirs in zip(model.score(features), scorer(expected)):
                torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("task", CLASSES)
def test_parts_of_a_table_are_predicted_as_the_whole(trained, task):
    model, table = load_model(trained[task][3]), make_table(60, seed=6)
    whole = model.outputs(table)
    for batch_size in (1, 7, 59, 60, 61):
        np.testing.assert_allclose(model.outputs(table, batch_size), whole, rtol=2e-6, atol=1e-6)
    assert whole.shape == model.margins(table).shape == (60, 3 if task == "multiclass" else 1)
    with pytest.raises(DataError, match="row 52 "):
        model.predict(table.assign(tenure=table["tenure"].astype(object).where(table.index != 51, "?!")), batch_size=20)
    with pytest.raises(ModelError, match="batch_size is 0"):
        model.predict(table, batch_size=0)


SERVER = """
import pickle, struct, sys
watching, events = False, []
def watch(event, arguments):
    if watching and event.startswith("pickle."): events.append(str(arguments))
sys.addaudithook(watch)

import torch
torch.set_num_threads(1)
from mlops_nb.training.models import load_model
from mlops_nb.training.signature import to_tensors
assert "mlops_nb.training.encoder" not in sys.modules

def refuse(*arguments, **named): raise AssertionError("something is unpickled")
unpicklers = [(pickle, "load"), (pickle, "loads"), (torch, "load"), (torch.serialization, "load"), (torch._C, "_pickle_load_obj")]
originals = [getattr(*each) for each in unpicklers]

def answer(workspace, reference, tables):
    global watching
    watching = True
    for place, name in unpicklers: setattr(place, name, refuse)
    model = load_model(reference, workspace=workspace)
    found = []
    for table in tables:
        tensors = to_tensors(table, model.signature)
        features = model.encode(*tensors)
        found.append([each.detach().numpy() for each in (*tensors, features, *model.score(features))] + [model.predict(table)])
    for (place, name), original in zip(unpicklers, originals): setattr(place, name, original)
    watching = False
    return found, events

while size := sys.stdin.buffer.read(8):
    question = pickle.loads(sys.stdin.buffer.read(struct.unpack("<q", size)[0]))
    data = pickle.dumps(answer(*question))
    sys.stdout.buffer.write(struct.pack("<q", len(data)) + data)
    sys.stdout.buffer.flush()
"""


@pytest.fixture(scope="module")
def fresh_process(tmp_path_factory):
    "A process that knows only where a model is; call it with workspace, reference and tables"
    folder = tmp_path_factory.mktemp("fresh")
    (folder / "server.py").write_text(SERVER)
    process = subprocess.Popen([sys.executable, "server.py"], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(*question):
        data = pickle.dumps(question)
        process.stdin.write(struct.pack("<q", len(data)) + data)
        process.stdin.flush()
        size = process.stdout.read(8)
        assert size, "the process ended"
        return pickle.loads(process.stdout.read(struct.unpack("<q", size)[0]))

    yield ask
    process.stdin.close()
    process.wait(timeout=30)


def test_nothing_is_unpickled(trained, root, fresh_process):
    for task, (*_, artifact) in trained.items():
        [(*_, predicted)], events = fresh_process(root, artifact.reference, [make_table(20)])
        assert events == []
        pd.testing.assert_frame_equal(predicted, load_model(artifact).predict(make_table(20)), rtol=1e-6), task


WORDS = ["tenure", "prix €", "น้ำหนัก", "a.month", "with blank", "index", "self", "class", '"quoted"', "0", "x_num"]
NAMES = st.lists(st.sampled_from(WORDS), min_size=1, max_size=5, unique=True)
TEXTS = ["Month", "Year", "é", "ไทย", "1", "01", "1.10", "True", "a,b;c", "'", "x" * 300]


@st.composite
def values(draw, kind, rows):
    "One conformed column"
    if kind == "number":
        element = st.one_of(st.none(), st.integers(-5, 5), st.floats(-(2.0**40), 2.0**40, width=32), st.floats(0, 1))
        return pd.Series(draw(st.lists(element, min_size=rows, max_size=rows)), dtype="float64")
    if kind == "boolean":
        return pd.Series(draw(st.lists(st.sampled_from([0.0, 1.0, None]), min_size=rows, max_size=rows)), dtype="float64")
    if kind == "date":
        seconds = st.one_of(st.none(), st.integers(0, 2_000_000_000), st.integers(0, 20_000).map(lambda day: day * 86400))
        drawn = draw(st.lists(seconds, min_size=rows, max_size=rows))
        return pd.Series([pd.NaT if each is None else pd.Timestamp(each, unit="s") for each in drawn], dtype="datetime64[us]")
    return pd.Series(draw(st.lists(st.sampled_from([*TEXTS, None]), min_size=rows, max_size=rows)), dtype=object)


@st.composite
def problems(draw):
    "A training table with its schema, and later tables with the same columns, some of whose categories are new"
    names = draw(NAMES)
    kinds = {name: draw(st.sampled_from(["number", "category", "boolean", "date"])) for name in names}
    train = pd.DataFrame({name: draw(values(kind, 24)) for name, kind in kinds.items()})
    task = draw(st.sampled_from(list(CLASSES)))
    schema = Schema((Column("the key", "", "key"), *(Column(name, kind) for name, kind in kinds.items()), Column("y", "number", "target")),
                    task, CLASSES[task], 24)
    later = []
    for _ in range(draw(st.integers(1, 3))):
        rows = draw(st.integers(0, 9))
        table = pd.DataFrame({name: draw(values(kind, rows)) for name, kind in kinds.items()})
        for name, kind in kinds.items():
            if kind == "category":
                table[name] = table[name].where(table[name] != "Month", "never seen")
        later.append(table)
    return train, schema, later


@st.composite
def disguises(draw, table):
    "The same table in another form: texts or types, another order, more columns, a key, another index, columns or records"
    changed = table.copy()
    for name in table:
        missing = draw(st.sampled_from(["", " ", "NA", "null", None]))
        if draw(st.booleans()):
            texts = [missing if pd.isna(each) else f" {each}" if draw(st.booleans()) else str(each) for each in table[name]]
            changed[name] = pd.Series(texts, dtype=object)
    changed["the key"] = pd.Series(range(len(table)), dtype="int64") + 2**60
    changed["another"] = pd.Series([object()] * len(table), dtype=object).astype(str)
    index = pd.Index([f"row {each // 2}" for each in range(len(table))], dtype=object)
    changed = changed[draw(st.permutations(list(changed)))].set_index(index)
    form = draw(st.sampled_from(["frame", "columns", "records"]))
    return changed if form == "frame" else changed.to_dict("list" if form == "columns" else "records")


@settings(derandomize=True, database=None, deadline=None, max_examples=8,
          suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much,
                                 HealthCheck.data_too_large, HealthCheck.large_base_example])
@given(problem=problems(), data=st.data())
def test_any_table_in_training_and_in_a_fresh_process(run, root, fresh_process, problem, data):
    train, schema, later = problem
    try:
        signature = fit_signature(train, schema, min_count=2)
    except DataError:
        assume(False)
    torch.manual_seed(0)
    encoder = Encoder(signature, *to_tensors(train, signature))
    scorer = Scorer(len(encoder.feature_columns), schema.task, 3 if schema.task == "multiclass" else 1).eval()
    artifact = log_model(run, "any", encoder, scorer, signature)
    model, tables = load_model(artifact), [data.draw(disguises(each)) for each in later]
    answers, events = fresh_process(root, artifact.reference, tables)
    assert events == []
    for plain, disguised, (x_num, x_cat, *fresh, predicted) in zip(later, tables, answers):
        tensors = to_tensors(plain, signature)
        np.testing.assert_array_equal(x_num, tensors.x_num)
        np.testing.assert_array_equal(x_cat, tensors.x_cat)
        with torch.inference_mode():
            features = encoder(*tensors)
            expected = [features, *scorer(features)]
            loaded = [model.encode(*tensors), *model.score(model.encode(*tensors))]
        for theirs, ours, trained in zip(fresh, loaded, expected):
            np.testing.assert_allclose(theirs, trained, rtol=1e-6, atol=1e-6)
            np.testing.assert_allclose(ours, trained, rtol=1e-6, atol=1e-6)
        pd.testing.assert_frame_equal(predicted, model.predict(disguised), rtol=1e-6)


# What a prediction looks like

@pytest.mark.parametrize("task, columns", [("binary", ["prediction", "probability_Yes"]), ("regression", ["prediction"]),
                                           ("multiclass", ["prediction", "probability_1", "probability_2", "probability_3"])])
def test_predictions(trained, task, columns):
    model, table = load_model(trained[task][3]), make_table(50, seed=7).set_index(pd.Index(range(500, 450, -1), name="row"))
    predicted, output = model.predict(table), model.outputs(table)
    assert list(predicted) == ["id", *columns]
    pd.testing.assert_index_equal(predicted.index, table.index)
    if task == "binary":
        assert predicted["prediction"].tolist() == ["Yes" if each >= 0.5 else "No" for each in output[:, 0]]
        assert predicted["probability_Yes"].tolist() == output[:, 0].tolist()
    elif task == "multiclass":
        assert predicted["prediction"].dtype == np.int64
        assert predicted["prediction"].tolist() == (output.argmax(axis=1) + 1).tolist()
        np.testing.assert_allclose(predicted[columns[1:]].sum(axis=1), 1, rtol=1e-6)
    else:
        assert predicted["prediction"].tolist() == output[:, 0].tolist()


@pytest.mark.parametrize("key", [
    pd.Series([2**62 + 1, 2, 3]), pd.Series(["007", "", None], dtype=object), pd.Series([1, None, 3], dtype="Int64"),
    pd.Series(pd.to_datetime(["2024-01-01T10:00+07:00"] * 3)), pd.Categorical(["b", "a", "b"]), pd.Series([1.5, np.nan, 2])])
def test_keys_are_untouched(trained, key):
    table = make_table(3).assign(id=key).set_index(pd.Index(["x", "x", "y"]))
    before = table.copy(deep=True)
    predicted = load_model(trained["binary"][3]).predict(table)
    pd.testing.assert_series_equal(predicted["id"], before["id"])
    pd.testing.assert_frame_equal(table, before)
    predicted["id"] = None
    pd.testing.assert_frame_equal(table, before)


def test_a_key_may_be_a_feature_too(run):
    signature = make_signature(keys=("city", "id"))
    model = load_model(log_model(run, "twice", *make_modules(signature, make_table(100)), signature))
    assert list(model.predict(make_table(4))) == ["city", "id", "prediction", "probability_Yes"]
    assert list(model.predict(make_table(4).drop(columns="id"))) == ["city", "prediction", "probability_Yes"]


def test_booleans_stay_booleans(run):
    signature = Signature("binary", "churn", (False, True), (), COLUMNS)
    model = load_model(log_model(run, "booleans", *make_modules(signature, make_table(100)), signature))
    predicted = model.predict(make_table(4))
    assert predicted["prediction"].dtype == bool and list(predicted) == ["prediction", "probability_True"]


def test_empty_tables(trained):
    for *_, artifact in trained.values():
        model = load_model(artifact)
        full = model.predict(make_table(2))
        empty = model.predict(make_table(2).iloc[:0])
        assert len(empty) == 0 and empty.dtypes.equals(full.dtypes)
        assert list(model.predict([])) == list(full)[1:]


def test_a_model_is_found_and_its_use_recorded(trained, root):
    model = load_model("churn-binary:v0", workspace=root)
    assert isinstance(model, Model) and (model.task, model.classes) == ("binary", ("No", "Yes"))
    assert len(model.feature_columns) == model.encode(*to_tensors(make_table(2), model.signature)).shape[1]
    assert {*model.feature_columns} == {each.name for each in COLUMNS}
    assert model.artifact.metadata["classes"] == ["No", "Yes"]
    with start_run("evaluate", workspace=root) as evaluation:
        load_model("churn-binary", run=evaluation)
        load_model(trained["regression"][3], run=evaluation)
        assert [each.name for _, each in evaluation.store.artifacts.edges_of(evaluation.id)] == ["churn-binary", "churn-regression"]
    with pytest.raises(NotFoundError, match="did you mean 'churn-binary'"):
        load_model("churn-binari", workspace=root)
    with pytest.raises(NotFoundError, match="churn-binary:v9"):
        load_model("churn-binary:v9", workspace=root)


def test_score_is_differentiable_and_the_weights_are_fixed(trained):
    model = load_model(trained["binary"][3])
    features = model.encode(*to_tensors(make_table(5), model.signature)).requires_grad_(True)
    model.score(features)[0].sum().backward()
    assert features.grad.abs().sum() > 0
    assert not any(each.requires_grad for each in (*model.encode.parameters(), *model.score.parameters()))


def test_columns_of_one_kind_only(run):
    for columns, table in ((COLUMNS[:2], make_table(50)), (COLUMNS[3:], make_table(50)), (COLUMNS[3:4], make_table(50))):
        signature = Signature("binary", "churn", ("No", "Yes"), (), columns)
        encoder = Encoder(signature, *to_tensors(table, signature))
        scorer = Scorer(len(encoder.feature_columns), "binary").eval()
        model = load_model(log_model(run, "kinds", encoder, scorer, signature))
        with torch.inference_mode():
            expected = scorer(encoder(*to_tensors(table, signature)))[1].numpy()
        np.testing.assert_allclose(model.outputs(table), expected, rtol=1e-6, atol=1e-6)


# Bad input

@pytest.mark.parametrize("change, message", [
    (lambda table: table.drop(columns=["tenure", "city"]), "lacks 2 of the model's 5 columns: 'tenure'.*'city'"),
    (lambda table: table.assign(tenure="many"), "'tenure'.*row 1 \\('many'\\).*and 5 more"),
    (lambda table: table.assign(tenure=pd.Timestamp("2024-01-01")), "'tenure'.* no number"),
    (lambda table: table.assign(charge=[1, 2, np.inf, *range(7)]), "'charge'.* infinite: row 3"),
    (lambda table: table.assign(paperless="perhaps"), "'paperless'"), (lambda table: "table.csv", "not str"),
    (lambda table: pd.concat([table, table], axis=1), "more than one column 'id'")])
def test_tables_that_do_not_fit(trained, change, message):
    with pytest.raises(DataError, match=message):
        load_model(trained["binary"][3]).predict(change(make_table(10)))


def test_an_artifact_of_another_type(run, root, tmp_path):
    (tmp_path / "data.csv").write_text("a\n1\n")
    run.log_artifact(tmp_path / "data.csv", "numbers", "dataset")
    with pytest.raises(ModelError, match="numbers:v0 is of type 'dataset', not 'model'"):
        load_model("numbers", workspace=root)


def test_a_scikit_learn_model_says_what_it_cannot(run, root, tmp_path):
    import joblib
    from sklearn.linear_model import LogisticRegression

    joblib.dump(LogisticRegression().fit([[0.0], [1.0]], [0, 1]), tmp_path / "model.joblib")
    run.log_artifact(tmp_path, "logistic", "model")
    model = load_model("logistic", workspace=root)
    assert isinstance(model, FilesModel) and model.files == ("model.joblib",)
    assert joblib.load(model.path("model.joblib")).predict([[2.0]]) == [1]
    for name in model.cannot:
        with pytest.raises(ModelError, match=f"logistic:v0 cannot {name}: .*model.joblib.* log_model .*model.path\\('model.joblib'\\)"):
            getattr(model, name)(make_table(1))
    with pytest.raises(NotFoundError, match="model.pkl"):
        model.path("model.pkl")
    with pytest.raises(AttributeError, match="no 'predictt'"):
        model.predictt  # noqa: B018


def test_truncated_and_foreign_programs(trained, run, tmp_path):
    folder = trained["binary"][3].download(tmp_path / "model")
    whole = (folder / "score.pt2").read_bytes()
    for name, content in (("truncated", whole[:-200]), ("empty", b""), ("pickled", pickle.dumps({"weights": [1]}))):
        (folder / "score.pt2").write_bytes(content)
        with pytest.raises(ModelError, match="score.pt2 is no program that PyTorch .* can read"):
            load_model(run.log_artifact(folder, name, "model"))
    (folder / "score.pt2").unlink()
    partial = load_model(run.log_artifact(folder, "partial", "model"))
    with pytest.raises(ModelError, match="without score.pt2"):
        partial.predict(make_table(1))


def test_a_blob_that_changed(run, root, trained):
    artifact = log_model(run, "bitrot", *make_modules(make_signature(), make_table(60), seed=9), make_signature())
    blob = artifact.blob_paths()["encode.pt2"]
    blob.chmod(0o644)
    content = bytearray(blob.read_bytes())
    content[300] ^= 1
    blob.write_bytes(content)
    with pytest.raises(CorruptBlobError):
        load_model("bitrot", workspace=root)


@pytest.mark.parametrize("change, message", [
    ({"format": FORMAT + 1}, f"has format {FORMAT + 1}; this mlops_nb reads formats up to {FORMAT}: upgrade"),
    ({"format": "x"}, "not what log_model writes"), ({"columns": [{"name": "a"}]}, "not what log_model writes"),
    ({"columns": None}, "not what log_model writes"), (None, "not what log_model writes"), ([], "not what log_model writes")])
def test_signatures_of_other_versions(trained, run, tmp_path, change, message):
    folder = trained["binary"][3].download(tmp_path / "model")
    content = json.loads((folder / "signature.json").read_text())
    text = "{" if change is None else json.dumps({**content, **change} if isinstance(change, dict) else change)
    (folder / "signature.json").write_text(text)
    with pytest.raises(ModelError, match=message):
        load_model(run.log_artifact(folder, "other", "model"))


def test_modules_that_are_not_logged(run):
    signature = make_signature()
    encoder, scorer = make_modules(signature, make_table(50))

    class Noisy(Scorer):
        def forward(self, features):
            margin = self.layers(features)
            return margin + torch.rand_like(margin), margin

    class Alone(Scorer):
        def forward(self, features):
            return self.layers(features)

    width = len(encoder.feature_columns)
    for module, message in ((Noisy(width, "binary"), "differs from Noisy by"), (Alone(width, "binary"), "a tuple of margin and output"),
                            (Scorer(width, "binary", 2), "gives rows of \\[\\(2,\\), \\(2,\\)\\]; a binary model"),
                            (Scorer(width + 1, "binary"), "no tensor program")):
        with pytest.raises(ModelError, match=message):
            log_model(run, "refused", encoder, module, signature)
    with pytest.raises(NotFoundError):
        load_model("refused", run=run)
    assert scorer.training and encoder.training  # both as they were


def test_load_model_at_the_top_of_the_package():
    import mlops_nb

    assert mlops_nb.load_model is load_model
