"""The launcher in JupyterLab: runs are begun from a form, watched, cancelled and resumed, and a kernel that is closed takes none along."""
import os
import re
import signal

import pytest
from lab_pages import browser, check_axe, lab, open_notebook, page  # noqa: F401
from mlops_nb.experiments import detached
from mlops_nb.experiments.masking import MASK
from mlops_nb.settings import open_workspace
from mlops_nb.store.door import open_store
from mlops_nb.widgets.launcher_view import LauncherPanel
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
    page.get_by_role("button", name="Run", exact=True).click()
    item = items(page).first
    expect(item).to_contain_text("… running")
    expect(item).to_contain_text(re.compile(r"\d of 3 cells"))
    line = page.locator(".mlops-chart-widget svg path, .mlops-chart-widget canvas").first
    line.wait_for()
    before = page.locator(".mlops-chart-widget").inner_html()
    (lab.root / "go on").touch()
    expect(item).to_contain_text("✓ finished")
    expect(page.locator(".mlops-launches pre")).to_contain_text("Executed notebook:")
    wait_until(lambda: page.locator(".mlops-chart-widget").inner_html() != before)
    if os.environ.get("SHOTS"):
        page.locator(".mlops-launches").scroll_into_view_if_needed()
        page.screenshot(path=f"{os.environ['SHOTS']}/launcher-run.png")
    (record,) = store.runs.list()
    assert record.status == "finished" and record.parameters["widths"] == [64, 8] and record.parameters["seed"] == 7


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


def test_a_secret_is_in_no_file(page, lab, store):  # noqa: F811
    secret = "s3cr3t-that-nobody-may-see"
    open_notebook(page, lab, PANEL)
    page.get_by_label("data required").wait_for()
    page.get_by_label("hub_token").fill(secret)
    fill_in(page, "secret.csv")
    expect(page.locator(".m-command").first).to_contain_text('HUB_TOKEN="$HUB_TOKEN" mlops-nb run')
    (lab.root / "go on").touch()
    page.get_by_role("button", name="Run", exact=True).click()
    item = items(page).filter(has_text="secret.csv")
    expect(item).to_contain_text("✓ finished")
    page.locator(".jp-Notebook .jp-Cell").first.click(position={"x": 100, "y": 5})
    page.keyboard.press("Control+s")
    page.wait_for_function("!document.querySelector('.jp-mod-dirty')")
    assert store.runs.get("latest").parameters["hub_token"] == MASK
    files = [path for path in lab.root.rglob("*") if path.is_file()]
    assert len(files) > 5 and not [path for path in files if secret.encode() in path.read_bytes()]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_everything_is_accessible(page, lab, store, theme):  # noqa: F811
    detached.launch(store, ["run", "missing.ipynb"])
    open_notebook(page, lab, PANEL, theme=theme)
    page.get_by_label("rate", exact=True).fill("fast")
    expect(page.get_by_text("rate = 'fast'")).to_be_visible()
    expect(items(page).first).to_contain_text("✗ failed")
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
    assert wide == []


def test_a_sweep_is_begun_with_its_limits(tmp_path, monkeypatch):
    "The panel without a browser: nobody looks, so it is told to"
    monkeypatch.setenv("MLOPS_NB_KERNELS_WARM", "false")
    (tmp_path / "settings.ini").write_text("[workspace]\nproject = digits\n[wandb]\nmode = disabled\n")
    write_notebook(tmp_path / "train.ipynb", "width: int = 1", "from mlops_nb import start_run\nstart_run().log({'loss': 1 / width})")
    (tmp_path / "wide.yaml").write_text("program: train.ipynb\nmethod: grid\nmetric: {name: loss, goal: minimize}\n"
                                        "parameters:\n  width: {values: [1, 2, 4]}\n")
    panel = LauncherPanel(open_store(open_workspace(tmp_path)))

    def seen(condition):
        for each in panel.feeds:
            each.hurry()
        return condition()

    try:
        wait_until(lambda: seen(lambda: panel.sweep_file.value == "wide.yaml"))
        panel.trials.value = "0"
        panel.sweep.click()
        assert "Trials = &#x27;0&#x27;: allowed is a whole number, at least 1" in panel.problems.value
        panel.trials.value, panel.workers.value = "2", "1"
        panel.sweep.click()
        wait_until(lambda: seen(lambda: panel.list.rows and panel.list.rows[0]["over"]), timeout_s=120)
        (row,) = panel.list.rows
        assert row["command"] == "mlops-nb sweep wide.yaml --runs 2 --workers 1" and not panel.problems.value
        assert (row["status"], row["progress"]) == ("finished", "2 of 2 trials, best 0.5"), panel.list.output
        wait_until(lambda: seen(lambda: len(panel.chart.series) == 2))
    finally:
        panel.close()
