"""Secrets: masked in every spelling and in any pieces, in the kernel and in what W&B copies, and found in no file or process list."""
import base64
import json
import os
import queue
import subprocess
import sys
import urllib.parse
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jupyter_client.manager import start_new_kernel
from nbformat.v4 import new_code_cell, new_notebook

from mlops_nb.experiments.acceptance import accept_parameters, inject_parameters
from mlops_nb.experiments.masking import MASK, StreamMasker, mask, mask_tree, secret_forms
from mlops_nb.experiments.secrets import secret_setup
from mlops_nb.settings import ParameterError

SECRET = "s3cr3t/k\"e'y+ö&<\\n>9"
PLAIN = "hunter2-plain-token"
secrets = st.text(st.characters(), min_size=4, max_size=30)


def notebook_with(source, *later):
    cells = [new_code_cell("from pydantic import SecretStr\nimport pydantic"), new_code_cell(source, metadata={"tags": ["parameters"]})]
    return new_notebook(cells=[*cells, *map(new_code_cell, later)])


@given(secrets, st.text(max_size=20), st.text(max_size=20))
def test_every_spelling_is_masked(secret, before, after):
    data = secret.encode("utf-8", "surrogatepass")
    spellings = [secret, repr(secret)[1:-1], ascii(secret)[1:-1], json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1],
                 urllib.parse.quote(secret, errors="surrogatepass"),
                 urllib.parse.quote_plus(secret, errors="surrogatepass"), data.hex(), repr(data)[2:-1]]
    for each in spellings:
        masked = mask(before + each + after, [secret])
        assert MASK in masked and (secret not in masked or secret in MASK)


@pytest.mark.parametrize("before", ["", "a", "ab", "user:", "a:b:cd"])
def test_basic_authentication_is_masked(before):
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        header = encode(f"{before}{SECRET}xy".encode()).decode()
        masked = mask(header, [SECRET])
        assert MASK in masked and len(masked.replace(MASK, "")) < 14


@given(secrets, st.lists(st.text(max_size=8), max_size=6), st.data())
def test_pieces_give_what_the_whole_gives(secret, texts, data):
    whole = secret.join(texts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    stream = StreamMasker([secret])
    pieces = [whole[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(whole)])]
    shown = "".join(map(stream.feed, pieces)) + stream.release()
    assert shown == mask(whole, [secret])


@given(st.text("ab", min_size=4, max_size=7), st.lists(st.text("abc", max_size=5), max_size=8), st.data())
def test_a_secret_is_never_whole(secret, pieces, data):
    "Also where a stream is released in between, as at the end of a cell"
    stream, shown = StreamMasker([secret]), ""
    for piece in pieces:
        shown += stream.feed(piece)
        if data.draw(st.booleans()):
            shown += stream.release()
    assert secret not in shown + stream.release()


def test_each_line_of_a_key_is_masked():
    key = "-----BEGIN KEY-----\nMIIEvQIBADANBg\nkqhkiG9w0BAQEF\n-----END KEY-----\n"
    assert mask("  MIIEvQIBADANBg", [key]) == f"  {MASK}"
    assert mask(key, [key]) == MASK


def test_images_are_left_alone():
    output = {"image/png": PLAIN, "image/svg+xml": PLAIN, "text/plain": [PLAIN], "n": 3}
    assert mask_tree(output, {"token": PLAIN}) == {"image/png": PLAIN, "image/svg+xml": MASK, "text/plain": [MASK], "n": 3}
    assert mask("nothing", {}) == "nothing" and all(len(each) >= 4 for each in secret_forms("abcd"))


@pytest.mark.parametrize("source, line", [
    ("token: SecretStr", "SecretStr("), ("token: pydantic.SecretStr | None = None", "SecretStr("), ("token: 'SecretStr'", "SecretStr("),
])
def test_a_secret_is_not_written_down(source, line):
    notebook = notebook_with(source)
    accepted = accept_parameters(notebook, {}, environ={"TOKEN": SECRET})
    assert (accepted.secrets, accepted.values, accepted.secret_variables) == ({"token": SECRET}, {}, ("TOKEN",))
    assert accepted.recorded == {"token": MASK} and SECRET not in repr(accepted)
    executable = inject_parameters(notebook, accepted)
    assert f"token = {line}" in executable.cells[2].source and "s3cr3t" not in str(executable)
    assert executable.metadata.papermill.parameters == {"token": MASK}
    again = accept_parameters(notebook, accepted.recorded, environ={"TOKEN": SECRET})  # a record can be given again
    assert again.secrets == accepted.secrets


def test_where_secrets_come_from():
    notebook = notebook_with("token: SecretStr\nother: SecretStr = SecretStr('in the notebook')")
    asked = accept_parameters(notebook, {}, environ={"TOKEN": ""}, ask=lambda name: f"typed for {name}")
    assert asked.secrets == {"token": "typed for token"}
    with pytest.raises(ParameterError, match="set the environment variable TOKEN, or run in a terminal"):
        accept_parameters(notebook, {}, environ={})
    with pytest.raises(ParameterError) as caught:
        accept_parameters(notebook, {"token": PLAIN, "othr": 1}, environ={}, ask=pytest.fail)
    assert PLAIN not in str(caught.value) and len(str(caught.value).split("\n")) == 2
    with pytest.raises(ParameterError, match="at least 4"):
        accept_parameters(notebook, {}, environ={"TOKEN": "abc"})


@pytest.mark.parametrize("source", ["token: list[SecretStr]", "token: Secret[str]", "token: 'SecretStrr'"])
def test_what_may_be_a_secret_is_never_taken_openly(source):
    with pytest.raises(ParameterError, match="secret|Secret"):
        accept_parameters(notebook_with(source), {"token": PLAIN}, environ={})


def run_cells(client, notebook, setup):
    "Runs the cells; everything that the kernel shows, and its replies. What a child printed may come after its cell is idle"
    shown = []
    client.execute_interactive(setup, silent=True, store_history=False, output_hook=shown.append, timeout=60)
    for cell in notebook.cells:
        asked = client.execute(cell.source)
        shown.append(client.get_shell_msg(timeout=90))
        assert shown[-1]["parent_header"]["msg_id"] == asked
        while not is_idle(message := client.get_iopub_msg(timeout=90), asked):
            shown.append(message)
    with suppress(queue.Empty):
        while True:
            shown.append(client.get_iopub_msg(timeout=3))
    return shown


def is_idle(message, asked):
    found = message["msg_type"], message["content"].get("execution_state"), message["parent_header"].get("msg_id")
    return found == ("status", "idle", asked)


def processes_that_show(text):
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            try:
                found += [f"{folder}/{name}"] * (text.encode() in (folder / name).read_bytes())
            except OSError:
                continue  # it has ended meanwhile, or is another user's
    return found


CELLS = ["""
import os, subprocess, sys, warnings, logging
value = token.get_secret_value()
assert value == {expected!r}[::-1]
print("printed", value, repr(value))
for letter in value: print(letter, end="", flush=True)
print()
sys.stderr.write("error stream " + value + chr(10))
logging.getLogger().warning("logged %s", value)
subprocess.run([sys.executable, "-c", "import sys; sys.stdout.write('from a child ' + sys.stdin.read())"], input=value, text=True)
os.write(1, b"descriptor " + value.encode() + b"\\n")
""", """
kept, display_pub = [], get_ipython().display_pub
original = display_pub.publish
def publish(data, metadata=None, **options): # as W&B does, which stores it
    kept.append(str(data))
    original(data, metadata, **options)
display_pub.publish = publish
display({"text/plain": value}, raw=True)
display_pub.publish = original
assert len(kept) == 1 and value not in kept[0]
print("kept", len(kept))
""", """
import wandb
run = wandb.init(mode="offline", project="secrets", settings=wandb.Settings(console="wrap", save_code=True))
print("copied by W&B", value)
for letter in value: print(letter, end="")
print()
from IPython.display import HTML, display
display(HTML(f"<b>{value}</b>"))
display({"text/plain": value, "application/json": {"a": [value]}}, raw=True)
run.config["token"] = token
subprocess.run(["sed", "s/^/child of the tracked cell /"], input=value + chr(10), text=True)
""", "run.finish()", "value", "{value: [value]}", "raise ValueError(f'in an error {value}')",
         "print(value[:5], end='')", "print(value[5:])"]


def test_a_secret_in_a_kernel_stands_in_no_file(tmp_path):
    environ = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}  # ipykernel minds it
    for name in ("IPYTHONDIR", "WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "TMPDIR"):
        environ[name] = str(tmp_path / name)
        (tmp_path / name).mkdir()
    notebook = notebook_with("token: SecretStr", *(each.replace("{expected!r}", repr(PLAIN[::-1])) for each in CELLS))
    accepted = accept_parameters(notebook, {}, environ={"TOKEN": PLAIN})
    with (tmp_path / "kernel.log").open("w") as log:
        manager, client = start_new_kernel(stdout=log, stderr=log, env=environ, cwd=str(tmp_path))
        try:
            shown = run_cells(client, inject_parameters(notebook, accepted), secret_setup(accepted.secrets))
            assert processes_that_show(PLAIN) == []
        finally:
            client.stop_channels()
            manager.shutdown_kernel()
    printed = "".join(each["content"]["text"] for each in shown if each["msg_type"] == "stream" and each["content"]["name"] == "stdout")
    beginnings = ("printed ", "\n", "from a child ", "descriptor ", "copied by W&B ", "child of the tracked cell ")
    assert [each for each in beginnings if f"{each}{MASK}" not in printed] == [] and "kept 1" in printed
    assert PLAIN not in json.dumps(shown, default=str) and PLAIN not in printed
    written = [path for path in tmp_path.rglob("*") if path.is_file() and PLAIN.encode() in path.read_bytes()]
    assert written == []
    copied = "".join(path.read_text() for path in tmp_path.rglob("output.log"))
    assert f"copied by W&B {MASK}" in copied and f"child of the tracked cell {MASK}" in copied
    assert f"from a child {MASK}" in (tmp_path / "kernel.log").read_text()


def test_the_masking_needs_the_standard_library_alone():
    code = "import runpy, sys; sys.path = [p for p in sys.path if 'site-packages' not in p]; runpy.run_path(sys.argv[1])"
    import mlops_nb.experiments.masking as room
    subprocess.run([sys.executable, "-I", "-S", "-c", code, room.__file__], check=True)


def test_a_process_without_a_kernel_says_so():
    setup = secret_setup({"token": SECRET})
    assert SECRET not in setup or SECRET.isascii()
    finished = subprocess.run([sys.executable, "-c", "import sys; exec(sys.stdin.read()); print(len(sys.mlops_nb_secrets['TOKEN']))"],
                              input=setup, capture_output=True, text=True, check=True)
    assert finished.stdout == f"{len(SECRET)}\n"
    assert "masked in the saved notebook only" in finished.stderr and "s3cr3t" not in finished.stderr
