"The pipeline file: what a person can get wrong, the order of the steps, and overridden parameters"
import os

import pytest

from mlops_nb.experiments.pipeline_file import input_files, override, read_pipeline
from mlops_nb.settings import NotFoundError, ParameterError, PipelineError

FILE = """name = "digits"

[[step]]
name = "prepare"
notebook = "notebooks/prepare.ipynb"

[[step]]
name = "train"
notebook = "notebooks/train.ipynb"
kernel = "python3"
[step.parameters]
epochs = 5
layers = [{ width = 8, since = 2024-05-01 }]

[[step]]
name = "evaluate"
notebook = "notebooks/evaluate.ipynb"
needs = [
    "prepare",
    "train",
]
"""


@pytest.fixture
def root(tmp_path):
    root = tmp_path/("งาน ที่สอง " + "x" * 60)
    (root/"notebooks").mkdir(parents=True)
    for name in ("prepare", "train", "evaluate"): (root/"notebooks"/f"{name}.ipynb").touch()
    (tmp_path/"outside.ipynb").touch()
    return root


def read(root, text, encoding="utf-8"):
    (root/"pipeline.toml").write_text(text, encoding=encoding)
    return read_pipeline(root/"pipeline.toml", root)


def chain(**needs):
    "A file with these steps, in this order"
    lines = [f'[[step]]\nname = "{name}"\nnotebook = "notebooks/train.ipynb"\n' + ("" if each is None else f"needs = {each}\n")
             for name, each in needs.items()]
    return "".join(lines)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_steps_with_their_parameters(root, encoding):
    pipeline = read(root, FILE, encoding)
    assert (pipeline.name, pipeline.root, [step.name for step in pipeline.steps]) == ("digits", root, ["prepare", "train", "evaluate"])
    train = pipeline.step("train")
    assert train.parameters == {"epochs": 5, "layers": [{"width": 8, "since": "2024-05-01"}]}
    assert (train.needs, train.kernel, pipeline.step("evaluate").needs) == (("prepare",), "python3", ("prepare", "train"))
    assert (pipeline.root/train.notebook).is_file()


def test_the_folder_names_a_pipeline_without_a_name(root): assert read(root, chain(a=None)).name == root.name


@pytest.mark.parametrize("needs, order", [
    ({"a": None, "b": None, "c": None}, "abc"),
    ({"a": ["c"], "b": [], "c": []}, "bca"),
    ({"a": [], "b": ["d"], "c": [], "d": []}, "acdb"),
    ({"d": ["a", "b"], "c": ["a"], "b": ["a"], "a": []}, "acbd"),
    ({"a": [], "b": ["a", "a"]}, "ab"),
])
def test_the_order_of_the_steps(root, needs, order):
    assert "".join(step.name for step in read(root, chain(**needs)).steps) == order


@pytest.mark.parametrize("needs, line, said", [
    ({"a": ["b"], "b": None}, 4, "'a' needs 'b' needs 'a'"),
    ({"x": [], "a": ["a"]}, 8, "'a' needs 'a'"),
    ({"x": [], "a": ["c"], "b": ["a"], "c": ["b"]}, 8, "a step without a list of needs needs the step before it"),
    ({"a": ["c"], "b": ["a"], "c": ["b"]}, 4, "'a' needs 'c' needs 'b' needs 'a'"),
    ({"train": [], "b": ["trian"]}, 8, "'b' needs 'trian', which is no step; did you mean 'train'?"),
])
def test_needs_that_cannot_be_met(root, needs, line, said):
    with pytest.raises(PipelineError) as caught: read(root, chain(**needs))
    assert f"pipeline.toml, line {line}: " in str(caught.value) and said in str(caught.value)


@pytest.mark.parametrize("old, new, line, said", [
    ('name = "train"', 'name = train', 8, "Invalid value"),
    ('name = "train"\n', "", 7, "[[step]] lacks 'name'"),
    ('name = "train"', 'name = ""', 8, "[[step]] lacks 'name'"),
    ('name = "train"', 'name = "prepare"', 8, "there are two steps 'prepare'"),
    ('name = "digits"', 'name = 5', 1, "a text in quotes"),
    ('kernel = "python3"', 'kernal = "python3"', 10, "unknown key 'kernal' in [[step]]; did you mean 'kernel'?"),
    ('kernel = "python3"', 'inputs = "data.csv"', 10, "a list of texts"),
    ('kernel = "python3"', "needs = [1]", 10, "a list of texts"),
    ("[step.parameters]\nepochs = 5\nlayers = [{ width = 8, since = 2024-05-01 }]", "parameters = 5", 11, "a table such as { epochs = 5 }"),
    ("train.ipynb", "trian.ipynb", 9, "does not exist in"),
    ("notebooks/train.ipynb", "notebooks", 9, "is a folder"),
    ("notebooks/train.ipynb", "../outside.ipynb", 9, "is outside of the workspace"),
    ("notebooks/train.ipynb", "/etc/passwd", 9, "is outside of the workspace"),
    ("[[step]]\nname = \"prepare\"", "[[steps]]\nname = \"prepare\"", 3, "unknown key 'steps' in pipeline.toml; did you mean 'step'?"),
])
def test_a_wrong_file_is_named_with_its_line(root, old, new, line, said):
    assert FILE.count(old) == 1
    with pytest.raises(PipelineError) as caught: read(root, FILE.replace(old, new))
    assert str(caught.value).startswith(f"{root/'pipeline.toml'}, line {line}: ") and said in str(caught.value)


@pytest.mark.parametrize("text", ["", "step = []", "name = 'x'"])
def test_a_pipeline_without_steps(root, text):
    with pytest.raises(PipelineError, match="pipeline.toml, line 1: pipeline.toml lacks 'step'"): read(root, text)


def test_a_missing_file_is_named(root):
    with pytest.raises(PipelineError, match="pipeline.toml: cannot be read"): read_pipeline(root/"pipeline.toml", root)


def test_a_workspace_behind_a_link(root, tmp_path):
    os.symlink(root, tmp_path/"link")
    read(root, FILE)
    assert read_pipeline(tmp_path/"link"/"pipeline.toml", tmp_path/"link").root == root


def test_unknown_step(root):
    with pytest.raises(NotFoundError, match="no step 'trian'; did you mean 'train'"): read(root, FILE).step("trian")


def test_input_files(root, tmp_path):
    for folder in ("data/very/deep", "data/folder.csv"): (root/folder).mkdir(parents=True)
    for name in ("data/b.csv", "data/a.csv", "data/very/deep/c.csv", "data/a.txt"): (root/name).touch()
    pattern = f'inputs = ["data/*.csv", "data/**/*.csv", "data/a.csv", "{tmp_path}/outside.ipynb"]\n'
    pipeline = read(root, chain(a=None) + pattern)
    expected = [tmp_path/"outside.ipynb", *(root/"data"/name for name in ("a.csv", "b.csv", "very/deep/c.csv"))]
    assert input_files(pipeline, pipeline.step("a")) == sorted(expected)
    pipeline = read(root, chain(a=None) + 'inputs = ["data"]\n')
    with pytest.raises(PipelineError, match="matches 'data', an input of step 'a'"): input_files(pipeline, pipeline.step("a"))


def changed(root, parameters, **names):
    takes = {"prepare": {"seed"}, "train": {"seed", "epochs"}, "evaluate": set()} | names
    pipeline = override(read(root, FILE), parameters, lambda step: takes[step.name])
    return {step.name: step.parameters for step in pipeline.steps}


def test_override(root):
    plain = changed(root, {})
    assert changed(root, {"train.epochs": 9})["train"] == plain["train"] | {"epochs": 9}
    assert changed(root, {"train.seed": 2, "seed": 1}) == plain | {"prepare": {"seed": 1}, "train": plain["train"] | {"seed": 2}}
    assert changed(root, {"layers": 1}, train=None)["train"] == {"epochs": 5, "layers": 1}
    assert changed(root, {"train.anything": 1}, train=None)["train"]["anything"] == 1


def test_override_leaves_the_pipeline_as_it_was(root):
    pipeline = read(root, FILE)
    override(pipeline, {"train.epochs": 9}, lambda step: {"epochs"})
    assert pipeline.step("train").parameters["epochs"] == 5


@pytest.mark.parametrize("name, said", [
    ("epocs", "no step takes the parameter 'epocs'; did you mean 'epochs'?"),
    ("train.epocs", "step 'train' takes no parameter 'epocs'; did you mean 'epochs'?"),
    ("prepare.epochs", "step 'prepare' takes no parameter 'epochs'; there are: seed"),
    ("trian.epochs", "no step 'trian' for the parameter 'trian.epochs'; did you mean 'train'?"),
])
def test_an_unknown_override(root, name, said):
    with pytest.raises(ParameterError) as caught: changed(root, {name: 1})
    assert str(caught.value) == said
