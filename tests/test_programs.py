"""What a program file may hold: nothing of the machine that wrote it, and nothing that runs code where it is loaded."""

import io
import json
import os
import pickle
import subprocess
import sys
import zipfile

import pytest
import torch
from torch import nn
from torch.export.pt2_archive import PT2ArchiveReader, PT2ArchiveWriter

from mlops_nb.settings import ModelError
from mlops_nb.training.programs import export_program, load_program

TRAINING = """
import sys
import torch
from mlops_nb.training.programs import export_program

class {name}(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout(0.5), torch.nn.GELU())
    def forward(self, x, codes):
        return torch.cat([self.layers(torch.nan_to_num(x)), torch.nn.functional.one_hot(codes[:, 0], 3).float()], dim=1)

sys.stdout.buffer.write(export_program({name}(), (torch.rand(2, 3), torch.zeros(2, 1, dtype=torch.int64))))
"""


class Score(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, features):
        margin = self.layer(features)
        return margin, torch.sigmoid(margin)


@pytest.fixture(scope="module")
def data():
    torch.manual_seed(0)
    return export_program(Score(), (torch.zeros(2, 2),))


def records(data: bytes) -> dict[str, bytes]:
    "What the archive holds, without the records that its writer adds."
    reader = PT2ArchiveReader(io.BytesIO(data))
    written = ("archive_format", "archive_version", "byteorder", ".data/")
    return {name: reader.read_bytes(name) for name in reader.get_file_names() if not name.startswith(written)}


def archive(path, contents: dict[str, bytes]):
    "A .pt2 file with these records."
    with PT2ArchiveWriter(str(path)) as writer:
        for name, content in contents.items():
            writer.write_bytes(name, content)
    return path


def changed(data: bytes, path, change) -> str:
    "The program's file with another description of its graph."
    contents = records(data)
    graph = json.loads(contents["models/model.json"])
    change(graph)
    return archive(path, {**contents, "models/model.json": json.dumps(graph).encode()})


class Trap:
    "What a hostile pickle does."

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_same_bytes_from_two_processes_and_folders(tmp_path):
    written = []
    for folder, hash_seed in (("a", "1"), ("ข้อมูล with a blank", "2")):
        (tmp_path / folder).mkdir()
        script = tmp_path / folder / "train.py"
        script.write_text(TRAINING.format(name="Net" + hash_seed))
        environ = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run([sys.executable, str(script)], cwd=script.parent, env=environ, capture_output=True, timeout=120, check=True)
        written.append(done.stdout)
    assert written[0] == written[1]
    names = zipfile.ZipFile(io.BytesIO(written[0])).namelist()
    everything = b"".join(zipfile.ZipFile(io.BytesIO(written[0])).read(name) for name in names)
    for trace in (str(tmp_path).encode(), b".py", b"Net1", b"site-packages", sys.prefix.encode(), b"stack_trace"):
        assert trace not in everything


def test_export_is_the_same_wherever_it_is_called(data):
    torch.manual_seed(0)
    module = Score()
    with torch.no_grad():
        assert export_program(module, (torch.rand(7, 2),)) == data
    module.layer.weight.requires_grad_(False)
    assert export_program(module, (torch.rand(2, 2, requires_grad=True),)) == data
    assert module.training


def test_weights_that_share_memory_still_do(tmp_path):
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[1].weight = module[0].weight
    path = tmp_path / "tied.pt2"
    path.write_bytes(export_program(module, (torch.zeros(2, 3),)))
    x = torch.rand(5, 3)
    assert torch.equal(load_program(path)(x), module(x))


@pytest.mark.parametrize("operation", [
    lambda x: torch.einsum("bi,ij->bj", x, torch.eye(2)), lambda x: x.reshape(-1)[:, None], lambda x: torch.split(x, 1, dim=1)[1],
    lambda x: x.flatten().view(x.shape[0], 2).softmax(1), lambda x: nn.functional.gelu(x, approximate="tanh"),
    lambda x: torch.nn.functional.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None])[:, 0]])
def test_usual_operations_become_programs(operation, tmp_path):
    class Module(nn.Module):
        def forward(self, x):
            return operation(x)

    path = tmp_path / "program.pt2"
    path.write_bytes(export_program(Module(), (torch.zeros(2, 2),)))
    program = load_program(path)
    for rows in (1, 2, 3, 50):
        x = torch.randn(rows, 2)
        torch.testing.assert_close(program(x), operation(x), rtol=1e-6, atol=1e-6)


def test_no_rows_and_wrong_shapes(data, tmp_path):
    path = tmp_path / "score.pt2"
    path.write_bytes(data)
    program = load_program(path)
    assert [tuple(each.shape) for each in program(torch.zeros(0, 2))] == [(0, 1), (0, 1)]
    with pytest.raises(RuntimeError, match="to be equal to 2, but got 1"):
        program(torch.zeros(3, 1))


def test_pickled_examples_are_refused(data, tmp_path):
    trap = tmp_path / "trap"
    path = archive(tmp_path / "p.pt2", {**records(data), "data/sample_inputs/model.pt": pickle.dumps(Trap(trap))})
    with pytest.raises(ModelError, match="pickled examples"):
        load_program(path)
    assert not trap.exists()


@pytest.mark.parametrize("kind", ["weights", "constants"])
def test_pickled_weights_are_refused(data, tmp_path, kind):
    contents, trap = records(data), tmp_path / "trap"
    name = f"data/{kind}/model_{kind}_config.json"
    entry = json.loads(contents["data/weights/model_weights_config.json"])["config"]["layer.weight"]
    file = "weight_0" if kind == "weights" else "tensor_0"
    contents[name] = json.dumps({"config": {"layer.weight": {**entry, "use_pickle": True, "path_name": file}}}).encode()
    contents[f"data/{kind}/{file}"] = pickle.dumps(Trap(trap))
    with pytest.raises(ModelError, match=f"pickled {kind}"):
        load_program(archive(tmp_path / "p.pt2", contents))
    assert not trap.exists()


@pytest.mark.parametrize("name", ["data/weights/model.pt", "data/constants/model.pt", "data/constants/custom_obj_0",
                                  "data/aotinductor/model/wrapper.so", "models/other.json", "extra/notes"])
def test_other_records_are_refused(data, tmp_path, name):
    path = archive(tmp_path / "p.pt2", {**records(data), name: b"anything"})
    with pytest.raises(ModelError, match="no part of a tensor program"):
        load_program(path)


def set_target(target):
    return lambda graph: graph["graph_module"]["graph"]["nodes"][0].update(target=target)


def set_shape(text):
    def change(graph):
        graph["graph_module"]["graph"]["tensor_values"]["features"]["sizes"][0]["as_expr"]["expr_str"] = text
    return change


def set_spec(text):
    return lambda graph: graph["graph_module"]["module_call_graph"][0]["signature"].update(in_spec=text)


@pytest.mark.parametrize("change", [
    set_target("torch.load"), set_target("torch.serialization.os.system"), set_target("torch.ops.aten.from_file.default"),
    set_target("_operator.methodcaller"), set_target("math.log"), set_target("#custom"), set_shape("__import__('os').system('true')"),
    set_shape("exec(chr(49))"), set_shape("9**9**9"), set_shape("Symbol('s0', positive=True, integer=True, x=open('f'))"),
    set_spec('[1, {"__enum__": true, "fqn": "os:path"}]'),
    lambda graph: graph["graph_module"]["graph"]["inputs"][-1]["as_tensor"].update(name="features=exec('1')"),
    lambda graph: graph.update(guards_code=["exec('1')"])])
def test_code_in_a_graph_is_refused(data, tmp_path, change):
    with pytest.raises(ModelError, match="no tensor operation, shape or name"):
        load_program(changed(data, tmp_path / "p.pt2", change))


def test_unchanged_rewrite_loads(data, tmp_path):
    "The changes above, not the writing, are what is refused."
    program = load_program(changed(data, tmp_path / "p.pt2", lambda graph: None))
    assert program(torch.zeros(3, 2))[1].shape == (3, 1)


def test_damaged_files(data, tmp_path):
    path = tmp_path / "score.pt2"
    for damaged in (b"", b"no archive", data[:-30], data[: len(data) // 2], data[len(data) // 2 :]):
        path.write_bytes(damaged)
        with pytest.raises(ModelError, match="is no program that PyTorch .* can read"):
            load_program(path)
    with pytest.raises(ModelError, match="No such file"):
        load_program(tmp_path / "missing.pt2")


def test_records_that_are_missing(data, tmp_path):
    contents = records(data)
    for name in contents:
        path = archive(tmp_path / "p.pt2", {key: value for key, value in contents.items() if key != name})
        with pytest.raises(ModelError):
            load_program(path)


def test_modules_that_are_no_programs():
    class Branch(nn.Module):
        def forward(self, x):
            return x * 2 if x.sum() > 0 else x

    class Fixed(nn.Module):
        def forward(self, x):
            return x + torch.ones(2, 1)

    class Shout(nn.Module):
        def forward(self, x):
            return {"margin": x}

    for module, reason in ((Branch(), "no tensor program"), (Fixed(), "no tensor program"), (Shout(), "cannot become a program")):
        with pytest.raises(ModelError, match=reason):
            export_program(module, (torch.zeros(2, 2),))
