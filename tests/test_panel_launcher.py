"""The launcher in JupyterLab: runs are begun from a form, watched, cancelled and resumed, and a kernel that is closed takes none along."""
import json
import os
import re
import shutil
import signal
import socket
import sys
import threading
from contextlib import suppress

import pytest
from lab_pages import browser, check_axe, lab, open_notebook, page  # noqa: F401
from mlops_nb.experiments import detached
from mlops_nb.experiments.masking import MASK
from mlops_nb.experiments.sweep_file import read_sweep
from mlops_nb.experiments.sweep_record import create_sweep
from mlops_nb.settings import ParameterError, open_workspace
from mlops_nb.store.door import open_store
from mlops_nb.widgets import launcher_view
from mlops_nb.widgets.form import Form
from mlops_nb.widgets.launcher_view import LauncherPanel
from mlops_nb.widgets.sweep_questions import SweepQuestions
from notebooks import write_notebook
from playwright.sync_api import expect
from waiting import wait_until

PANEL = "from mlops_nb.widgets.views import show\nshow('launcher', notebook='train.ipynb')"
PARAMETERS = """
from typing import Annotated, Literal
from annotated_types import Interval
from pydantic import SecretStr
data: str # a table
rate: Annotated[float, Interval(ge=1e-5, le=0.1)] = 1e-3 # learning rate
optimizer: Literal["adam", "sgd"] = "adam"
widths: list[int] = [32, 16] # of the hidden layers
seed: int | None = None # for the weights
steps: int = 8 # with a point of the curve each
hub_token: SecretStr | None = None
verbose: bool = True
"""
TRAIN = """
import os, time
from mlops_nb import start_run
run = start_run()
open("begun", "w").close()
for step in range(steps):
    run.log({"loss": 1 / (step + 1)})
    while step == 3 and not os.path.exists("go on"): time.sleep(0.05)
print("trained with", optimizer, widths, seed)
"""


@pytest.fixture
def store(lab):  # noqa: F811
    "Of the workspace that JupyterLab shows; what was launched in it ends with the test"
    write_notebook(lab.root / "train.ipynb", PARAMETERS, TRAIN)
    write_notebook(lab.root / "notebooks" / "other.ipynb", "epochs: int = 1")
    (lab.root / "wide.yaml").write_text("program: train.ipynb\nmethod: random\nrun_cap: 2\nparameters:\n  seed: {values: [1, 2]}\n")
    for name in ("begun", "go on"):
        (lab.root / name).unlink(missing_ok=True)
    found = open_store(open_workspace(lab.root))
    yield found
    for each in detached.list_launches(found):
        if each.alive:
            os.kill(each.process.pid, signal.SIGKILL)
            wait_until(lambda each=each: not detached.find_launch(found, each.id).alive)


def fill_in(page, data="table.csv"):  # noqa: F811
    page.get_by_label("data required").fill(data)
    page.get_by_text(f"-p data {data}").wait_for()


def items(page):  # noqa: F811
    return page.locator(".mlops-launches li")


def commands(page):  # noqa: F811
    return page.get_by_role("textbox", name="The same on a command line")


def points(page):  # noqa: F811
    "Of the curve that is drawn"
    path = page.locator(".mlops-chart-widget svg path[data-id]").first
    return len(re.findall("[ML]", path.get_attribute("d"))) if path.count() else 0


LISTEN = """each => {
    window.heard = [];
    new MutationObserver(() => window.heard.push(each.textContent)).observe(each, { childList: true });
}"""


def test_a_run_begun_from_the_form_moves_and_finishes(page, lab, store):  # noqa: F811
    open_notebook(page, lab, PANEL)
    page.get_by_label("data required").wait_for()
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.get_by_text("data is required: a text")).to_be_visible()
    expect(page.get_by_label("data required")).to_be_focused()
    page.get_by_label("rate", exact=True).fill("2")
    expect(page.get_by_text("rate = '2': allowed is a number, at least 1e-05, at most 0.1")).to_be_visible()
    page.get_by_label("rate, slider").fill("1000")
    expect(page.get_by_label("rate", exact=True)).to_have_value("0.1")
    page.get_by_label("widths").fill("64\n8")
    page.get_by_label("none for seed").uncheck()
    page.get_by_label("seed", exact=True).fill("7")
    page.get_by_label("optimizer").select_option("sgd")
    fill_in(page)
    words = "run train.ipynb -p data table.csv -p rate 0.1 -p optimizer sgd -p widths '[\"64\", \"8\"]' -p seed 7"
    expect(page.locator(".m-command").first).to_have_text(f"mlops-nb {words}")
    assert not detached.list_launches(store)
    page.locator(".mlops-launches [role=status]").evaluate(LISTEN)
    page.get_by_role("button", name="Run", exact=True).dblclick()
    item = items(page).first
    expect(item).to_contain_text("… running")
    expect(item).to_contain_text(re.compile(r"\d of 3 cells"))
    wait_until(lambda: points(page) == 4)
    assert page.evaluate("window.heard") == []
    (lab.root / "go on").touch()
    expect(item).to_contain_text("✓ finished")
    expect(page.locator(".mlops-launches pre")).to_contain_text("Executed notebook:")
    wait_until(lambda: points(page) == 8)
    assert page.evaluate("window.heard") == ["run train.ipynb finished"]
    if os.environ.get("SHOTS"):
        page.locator(".mlops-launches").scroll_into_view_if_needed()
        page.screenshot(path=f"{os.environ['SHOTS']}/launcher-run.png")
    (record,) = store.runs.list()
    assert record.status == "finished" and record.parameters["widths"] == [64, 8] and record.parameters["seed"] == 7


def test_what_was_typed_last_is_run_and_keys_are_the_forms_own(page, lab, store):  # noqa: F811
    open_notebook(page, lab, PANEL)
    data, run = page.get_by_label("data required"), page.get_by_role("button", name="Run", exact=True)
    data.wait_for()
    run.evaluate("""(run) => {
        const data = run.closest(".mlops-form").querySelector("[name=data]");
        data.value = "typed a moment ago.csv";
        data.dispatchEvent(new Event("input", { bubbles: true }));
        run.click();
    }""")
    expect(items(page).first).to_contain_text("-p data 'typed a moment ago.csv'")
    data.fill("by key.csv")
    cells = page.locator(".jp-Notebook .jp-Cell").count()
    expect(run).to_have_attribute("aria-disabled", "false")  # the first one has begun
    run.focus()
    page.keyboard.press("b")  # a command of notebooks: a new cell below
    page.keyboard.press("Enter")
    expect(items(page).first).to_contain_text("-p data 'by key.csv'")
    expect(run).to_be_focused()
    assert page.locator(".jp-Notebook .jp-Cell").count() == cells


def test_a_run_outlives_its_kernel_and_is_cancelled_from_another(page, lab, store):  # noqa: F811
    open_notebook(page, lab, PANEL)
    page.get_by_label("data required").wait_for()
    fill_in(page, "again.csv")
    page.get_by_role("button", name="Run", exact=True).click()
    item = items(page).filter(has_text="again.csv")
    expect(item).to_contain_text("… running")
    for each in lab.kernels():
        lab.call(f"api/kernels/{each['id']}", "DELETE")
    assert detached.list_launches(store)[0].status == "running"
    open_notebook(page, lab, PANEL)
    expect(item).to_contain_text("… running")
    item.get_by_role("button", name="Cancel").click()
    expect(item).to_contain_text("– cancelled")
    wait_until(lambda: store.runs.get("latest").status == "cancelled")


def test_a_killed_run_is_resumed(page, lab, store):  # noqa: F811
    begun = detached.launch(store, ["run", "train.ipynb", "-p", "data", "killed.csv"])
    wait_until(lambda: (lab.root / "begun").exists())
    os.kill(begun.process.pid, signal.SIGKILL)
    (lab.root / "go on").touch()
    open_notebook(page, lab, PANEL)
    item = items(page).filter(has_text="killed.csv")
    expect(item).to_contain_text("✗ killed")
    item.get_by_role("button", name="Resume").click()
    expect(items(page).first).to_contain_text(re.compile(r"✓ finished.*mlops-nb resume", re.DOTALL))
    assert store.runs.get("latest").attempt == 2


def holding(secret, *folders):
    "Files that hold a text; files may come and go meanwhile"
    found = []
    for path in (each for folder in folders for each in sorted(folder.rglob("*"))):
        with suppress(OSError):
            if secret in path.read_bytes():
                found.append(path)
    return found


@pytest.fixture
def widgets_are_saved(lab):  # noqa: F811
    "JupyterLab keeps the state of widgets in notebooks, which it does only where somebody wants it"
    name = "lab/api/settings/@jupyter-widgets/jupyterlab-manager:plugin"
    lab.call(name, "PUT", {"raw": json.dumps({"saveState": True})})
    yield
    lab.call(name, "PUT", {"raw": "{}"})


def test_a_secret_is_in_no_file_and_in_no_answer(page, lab, store, widgets_are_saved):  # noqa: F811
    secret, received = "s3cr3t-that-nobody-may-see", []
    page.on("websocket", lambda one: one.on("framereceived", lambda frame: received.append(frame)))
    open_notebook(page, lab, PANEL)
    page.get_by_label("data required").wait_for()
    page.get_by_label("hub_token").fill(secret)
    fill_in(page, "secret.csv")
    expect(commands(page).first).to_contain_text('HUB_TOKEN="$HUB_TOKEN" mlops-nb run')
    page.get_by_role("button", name="Run", exact=True).click()
    item = items(page).filter(has_text="secret.csv")
    expect(item).to_contain_text("… running")
    wait_until((lab.root / "begun").exists)
    assert holding(secret.encode(), lab.root) == []
    (lab.root / "go on").touch()
    expect(item).to_contain_text("✓ finished")
    page.locator(".jp-Notebook .jp-Cell").first.click(position={"x": 100, "y": 5})
    page.keyboard.press("Control+s")
    page.wait_for_function("!document.querySelector('.jp-mod-dirty')")
    assert store.runs.get("latest").parameters["hub_token"] == MASK
    assert lab.root / "panel.ipynb" in holding(b"-p data secret.csv", lab.root)  # the form's state, of which the command is a part
    (begun,) = [each for each in detached.list_launches(store) if "secret.csv" in each.command]
    assert begun.folder / "request.json" in holding(b"secret.csv", lab.root)
    assert holding(secret.encode(), lab.root) == []
    frames = [each if isinstance(each, bytes) else each.encode() for each in received]
    assert any(b"-p data secret.csv" in each for each in frames) and not [each for each in frames if secret.encode() in each]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_everything_is_accessible(page, lab, store, theme):  # noqa: F811
    detached.launch(store, ["run", "missing.ipynb"])
    broken = detached.launch(store, ["run", "broken.ipynb"])
    wait_until(lambda: not any(each.alive for each in detached.list_launches(store)))
    (broken.folder / "request.json").write_text('{"command"')
    open_notebook(page, lab, PANEL, theme=theme)
    page.get_by_label("rate", exact=True).fill("fast")
    expect(page.get_by_text("rate = 'fast'")).to_be_visible()
    expect(items(page).filter(has_text="missing.ipynb").first).to_contain_text("✗ failed")
    expect(items(page).filter(has_text=broken.id)).to_contain_text("? unknown")
    expect(page.locator(".mlops-launches [role=status]")).to_have_text("")  # what had ended before is not told
    page.get_by_label("trials").fill("3")
    expect(commands(page).nth(1)).to_have_text("mlops-nb sweep wide.yaml --runs 3")
    check_axe(page)
    if os.environ.get("SHOTS"):
        page.screenshot(path=f"{os.environ['SHOTS']}/launcher-{theme}.png")
    wide = page.locator(".mlops-panel").evaluate("""each => {
        each.style.width = "320px";
        const right = each.getBoundingClientRect().right;
        return [...each.querySelectorAll("*")].filter((one) => one.getBoundingClientRect().right > right + 1
            && !one.closest("svg, pre, [hidden]") && one.getBoundingClientRect().width > 1).map((one) => one.outerHTML.slice(0, 150));
    }""")
    if os.environ.get("SHOTS"):
        page.locator(".mlops-panel").screenshot(path=f"{os.environ['SHOTS']}/launcher-{theme}-narrow.png")
    shutil.rmtree(broken.folder)
    assert wide == []


SWEEP = "program: {program}\nmethod: grid\nmetric: {{name: loss, goal: minimize}}\nparameters:\n  width: {{values: [1, 2, 4]}}\n"


@pytest.fixture
def alone(tmp_path, monkeypatch):
    "The store of a workspace without JupyterLab, with a sweep; what was launched in it ends with the test"
    monkeypatch.setenv("MLOPS_NB_KERNELS_WARM", "false")
    (tmp_path / "settings.ini").write_text("[workspace]\nproject = digits\n[wandb]\nmode = disabled\n")
    write_notebook(tmp_path / "train.ipynb", "width: int = 1", "from mlops_nb import start_run\nstart_run().log({'loss': 1 / width})")
    (tmp_path / "wide.yaml").write_text(SWEEP.format(program="train.ipynb"))
    found = open_store(open_workspace(tmp_path))
    yield found
    for each in detached.list_launches(found):
        if each.alive:
            os.kill(each.process.pid, signal.SIGKILL)


@pytest.fixture
def panel(alone):
    "The panel without a browser"
    found = LauncherPanel(alone)
    yield found
    found.close()


def seen(panel, condition):
    "Waits until a panel shows something; nobody looks, so it is told to look"
    def look():
        for each in panel.feeds:
            each.hurry()
        return condition()

    return wait_until(look)


def press(form, **texts):
    "What the browser sends when the button is clicked"
    form._handle_custom_msg({"run": True, "label": form.label, "texts": {**form.texts, **texts}, "nones": form.nones}, [])


@pytest.fixture
def begun(monkeypatch):
    "What a panel would launch: words and secrets"
    found = []

    class Begun:
        id = "20260101-000000-none"

    monkeypatch.setattr(launcher_view, "launch", lambda store, words, secrets: found.append((words, secrets)) or Begun)
    return found


def test_a_sweep_is_begun_with_its_limits(panel):
    seen(panel, lambda: panel.sweep.ready)
    assert panel.sweep.command == "mlops-nb sweep wide.yaml"
    press(panel.sweep, trials="0")
    assert panel.sweep.problems == {"trials": "trials = '0': allowed is a whole number, at least 1"}
    press(panel.sweep, trials="2", workers="1")
    seen(panel, lambda: panel.watch.list.rows and panel.watch.list.rows[0]["over"])
    (row,) = panel.watch.list.rows
    assert row["command"] == panel.sweep.command == "mlops-nb sweep wide.yaml --runs 2 --workers 1" and not panel.problems.value
    assert (row["status"], row["progress"]) == ("finished", "2 of 2 trials, best 0.5"), panel.watch.list.output
    seen(panel, lambda: len(panel.watch.curve.chart.series) == 2)


SECRET = "s3cr3t-value"
NEEDY = "from pydantic import SecretStr\nhub_token: SecretStr\nwidth: int = 1"


def kill_sweep(store):
    "A launch of a sweep that was killed, as it is found afterwards"
    launch = detached.launch(store, ["sweep", "wide.yaml"], {"hub_token": SECRET}, program="signal:pause")
    sweep = create_sweep(store, read_sweep(store.workspace.root / "wide.yaml"))
    (sweep.folder / "lock").write_text(f"process {launch.process.pid} on {socket.gethostname()}")
    os.kill(launch.process.pid, signal.SIGKILL)
    return ["sweep", "resume", sweep.id]


def kill_run(store):
    "A launch of a run that was killed"
    launch = detached.launch(store, ["run", "train.ipynb"], {"hub_token": SECRET}, program="signal:pause")
    run = store.runs.create(project="digits", name="train", notebook="train.ipynb", request={}, parameters={"hub_token": MASK},
                            **vars(launch.process) | {"process_started_at": launch.process.started_at, "started_at": None})
    os.kill(launch.process.pid, signal.SIGKILL)
    return ["resume", run.id, "--log-output"]


WILLING = NEEDY.replace("SecretStr\nw", "SecretStr | None = None\nw")  # a run knows that it was given one; a sweep keeps no record of that


@pytest.mark.parametrize("kill, source", [(kill_sweep, NEEDY), (kill_run, NEEDY), (kill_run, WILLING)])
def test_what_is_resumed_gets_the_secrets_of_its_own_notebook(alone, panel, begun, kill, source):
    root = alone.workspace.root
    for name in ("train.ipynb", "another.ipynb"):
        write_notebook(root / name, source)
    (root / "another.yaml").write_text(SWEEP.format(program="another.ipynb"))
    words = kill(alone)
    panel.picker.value = "another.ipynb"
    seen(panel, lambda: panel.form.label == "Parameters of another.ipynb" and panel.form.ready)
    seen(panel, lambda: panel.sweep.ready and "another.yaml" in panel.sweep.fields[0]["choices"])
    panel.sweep.set_state({"texts": {**panel.sweep.texts, "sweep file": "another.yaml"}})
    panel.form._handle_custom_msg({"secret": "hub_token", "text": "of-another-notebook"}, [])
    (row,) = seen(panel, lambda: [each for each in panel.watch.list.rows if each["over"]])
    assert row["resume"] == words[:3 if words[0] == "sweep" else 2]
    panel._act("resume", row["id"])
    wait_until(lambda: "hub_token is a secret of train.ipynb" in panel.problems.value)
    assert begun == []
    panel.picker.value = "train.ipynb"
    seen(panel, lambda: panel.form.label == "Parameters of train.ipynb" and panel.form.ready)
    panel.form._handle_custom_msg({"secret": "hub_token", "text": SECRET}, [])
    panel._act("resume", row["id"])
    assert wait_until(lambda: begun) == [(words, {"hub_token": SECRET})]
    wait_until(lambda: not panel.problems.value)


def test_a_sweep_is_not_begun_without_its_secrets(alone, panel, begun):
    write_notebook(alone.workspace.root / "train.ipynb", NEEDY)
    seen(panel, lambda: panel.sweep.ready and panel.form.ready)
    press(panel.sweep)
    wait_until(lambda: "set the environment variable HUB_TOKEN" in panel.problems.value and not panel.sweep.busy)
    panel.form._handle_custom_msg({"secret": "hub_token", "text": SECRET}, [])
    press(panel.sweep)
    assert wait_until(lambda: begun) == [(["sweep", "wide.yaml"], {"hub_token": SECRET})]


def test_what_is_damaged_on_disk_stays_in_its_row(alone, panel):
    old, damaged, new = (detached.launch(alone, ["run", f"{name}.ipynb"], program="builtins:int") for name in ("old", "damaged", "new"))
    cut = create_sweep(alone, read_sweep(alone.workspace.root / "wide.yaml"))
    sweep = detached.launch(alone, ["sweep", "wide.yaml"], program="builtins:int")
    (cut.folder / "request.json").write_text('{"file": ')
    (damaged.folder / "request.json").write_text('{"command": ["run"')
    (detached.launches_folder(alone) / "a folder of a person").mkdir()
    seen(panel, lambda: len(panel.watch.list.rows) == 5)
    rows = {row["id"]: row for row in panel.watch.list.rows}
    assert "request.json is no JSON" in rows[damaged.id]["said"] and rows[sweep.id]["said"] == ""
    assert (rows[old.id]["said"], rows[old.id]["alive"]) == ("", False) and not panel.problems.value
    panel.watch.choose(old.id)
    shutil.rmtree(old.folder)
    seen(panel, lambda: panel.watch.list.chosen not in ("", old.id) and len(panel.watch.list.rows) == 4)
    seen(panel, lambda: panel.watch.list.output is not None and not panel.problems.value)
    assert new.id in {row["id"] for row in panel.watch.list.rows}


def test_what_changes_on_disk_before_the_click_is_said(alone, panel, begun):
    root = alone.workspace.root
    seen(panel, lambda: panel.sweep.ready and panel.form.ready)
    (root / "wide.yaml").write_text("program: gone.ipynb\nmethod: grid\nparameters: {}\n")
    press(panel.sweep)
    wait_until(lambda: "wide.yaml" in panel.problems.value and "parameters" in panel.problems.value and not panel.sweep.busy)
    (root / "train.ipynb").unlink()
    press(panel.form)
    wait_until(lambda: "no notebook &#x27;train.ipynb&#x27;" in panel.problems.value and not panel.form.busy)
    assert begun == []


def test_a_second_click_while_something_begins_is_none(panel, begun, monkeypatch):
    go_on = threading.Event()
    monkeypatch.setattr(launcher_view, "secrets_for", lambda *_: go_on.wait(60) and {})
    seen(panel, lambda: panel.form.ready)
    for _ in range(3):
        press(panel.form)
    assert panel.form.busy
    go_on.set()
    wait_until(lambda: not panel.form.busy)
    assert len(begun) == 1


class OtherQuestions(SweepQuestions):
    "Of another form, with a field of the same name"
    key = label = "Other"

    def words(self, answers):
        return ["other", *answers.texts.values()]


def test_threads_ask_while_somebody_answers(request):
    before = sys.getswitchinterval()
    request.addfinalizer(lambda: sys.setswitchinterval(before))
    sys.setswitchinterval(1e-6)
    asked, wrong, begun = (SweepQuestions(("sweep.yaml",)), OtherQuestions(("other.yaml",))), [], []
    form, go_on = Form(lambda words, _: begun.append(words)), threading.Event()

    def ask():
        with suppress(Exception):
            while not go_on.is_set():
                for each in asked:
                    form.ask(each)
            return
        wrong.append("asking failed")

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    wait_until(lambda: form.ready)
    for each in asked * 500:
        texts = {"sweep file": each.files[0], "trials": "1", "workers": ""}
        with suppress(ParameterError):
            form._hear(form, {"run": True, "label": each.label, "texts": texts, "nones": {}}, [])
    go_on.set()
    thread.join(60)
    assert not thread.is_alive() and not wrong
    assert begun and {tuple(each) for each in begun} <= {("sweep", "sweep.yaml", "--runs", "1"), ("other", "other.yaml", "1", "")}
    assert {each["name"] for each in form.fields} == set(form.texts) and form.label == asked[1].label
    form.close()
