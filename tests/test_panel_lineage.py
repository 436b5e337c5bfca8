"""The lineage as a person walks it: by keys and by mouse, with what is highlighted, opened and said, in both themes."""
import json

import pytest
from lab_pages import check_axe, open_notebook
from mlops_nb.experiments.runner import run_notebook
from mlops_nb.settings import open_workspace
from mlops_nb.store.door import open_store
from mlops_nb.store.lineage import trace
from mlops_nb.widgets.graph import MOST, drawing_of
from mlops_nb.widgets.lineage_view import Question, answer, lineage_html, record_of
from notebooks import write_notebook
from playwright.sync_api import expect

SHOW = "from mlops_nb.widgets import lineage_view\nfrom mlops_nb.widgets.views import show\nshow('lineage', start={start!r})"
BEGIN = "from pathlib import Path\nfrom mlops_nb.store.session import start_run\nrun = start_run()"
PREPARE = f"{BEGIN}\nPath('digits.csv').write_text('1,2')\nrun.log_artifact('digits.csv', 'digits', 'dataset')\nrun.finish()"
TRAIN = (f"{BEGIN}\nrun.use_artifact('digits')\nrun.log({{'recall': 0.93}})\nPath('net.pt').write_text('weights')\n"
         "run.log_artifact('net.pt', 'net', 'model', aliases=['best'])\nrun.finish()")


@pytest.fixture(scope="module")
def runs(lab):
    "Two notebooks that were executed: the second one trains on what the first one made"
    store, found = open_store(open_workspace(lab.root)), []
    for name, parameters, source in (("prepare", "rows = 100", PREPARE), ("train", "rate = 0.125", TRAIN)):
        found.append(run_notebook(store, write_notebook(lab.root / f"{name}.ipynb", parameters, source), cwd=lab.root))
    assert [each.status for each in found] == ["finished", "finished"]
    return found


def node(page, id):
    return page.locator(f'.mlops-graph .view [data-node="{id}"]')


def record(page):
    return page.locator(".mlops-panel").get_by_role("region", name="Record")


def highlighted(page):
    return {each.get_attribute("data-node") for each in page.locator(".mlops-graph .view .node.on").all()}


def places(page):
    return [each.bounding_box() for each in page.locator(".mlops-graph .view .node").all()]


def test_the_lineage_is_walked_by_keys(page, lab, runs):
    "And the record of each box is opened, up to the notebook that was executed"
    prepare, train = runs
    open_notebook(page, lab, SHOW.format(start="net"))
    expect(record(page).get_by_role("heading", name="net:v0")).to_be_visible()
    expect(record(page)).to_contain_text("best, latest")
    node(page, "model/net:v0").focus()
    for key, id in (("ArrowLeft", f"run/{train.id}"), ("ArrowLeft", "dataset/digits:v0"), ("ArrowLeft", f"run/{prepare.id}"),
                    ("ArrowRight", "dataset/digits:v0"), ("ArrowRight", f"run/{train.id}")):
        page.keyboard.press(key)
        expect(node(page, id)).to_be_focused()
    expect(record(page).get_by_role("heading", name="net:v0")).to_be_visible()  # to look is not yet to open
    page.keyboard.press("Enter")
    expect(record(page)).to_contain_text("0.125")
    expect(record(page)).to_contain_text("0.93")
    page.keyboard.press("Home")
    expect(node(page, "model/net:v0")).to_be_focused()
    page.keyboard.press("Enter")
    expect(node(page, "model/net:v0")).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="Walk up").click()
    expect(node(page, f"run/{train.id}")).to_have_attribute("aria-pressed", "true")
    check_axe(page)
    page.get_by_role("button", name="Open the executed notebook").click()
    expect(page.locator(f'.lm-TabBar-tab:has-text("train-{train.id}.ipynb")')).to_be_visible()
    assert json.loads((lab.root / "executed" / f"train-{train.id}.ipynb").read_text())["metadata"]["papermill"]


def test_the_lineage_is_walked_by_mouse(page, lab, runs):
    "And what is affected is highlighted, counted and listed; the picture is moved and enlarged"
    prepare, train = runs
    open_notebook(page, lab, SHOW.format(start="digits"), theme="dark")
    expect(record(page).get_by_role("heading", name="digits:v0")).to_be_visible()
    page.get_by_role("button", name="What does it affect?").click()
    expect(page.get_by_text("1 run and 1 model are affected")).to_be_visible()
    expect(page.locator(".mlops-graph [role=status]")).to_contain_text("2 of 3 other boxes are highlighted")
    assert highlighted(page) == {"dataset/digits:v0", f"run/{train.id}", "model/net:v0"}
    page.get_by_label("Highlight").select_option("upstream")
    expect(page.locator(".mlops-graph [role=status]")).to_contain_text("1 of 3")
    assert highlighted(page) == {"dataset/digits:v0", f"run/{prepare.id}"}
    before = places(page)
    page.get_by_role("button", name="Zoom in").click()
    assert places(page)[0]["width"] > before[0]["width"] * 1.2
    page.get_by_role("button", name="Fit all into view").click()
    box = page.locator(".mlops-graph .view").bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 60, box["y"] + 30, steps=4)
    page.mouse.up()
    moved = places(page)
    assert moved[0]["x"] - before[0]["x"] == pytest.approx(40, abs=1) and moved[0]["width"] == pytest.approx(before[0]["width"], abs=1)
    page.mouse.wheel(0, -200)  # it has the focus now, so that the wheel is its own
    page.wait_for_function("was => document.querySelector('.mlops-graph .view .node').getBoundingClientRect().width > was * 1.05",
                           arg=moved[0]["width"])
    node(page, "model/net:v0").click()
    page.get_by_role("button", name="Start here").click()
    expect(node(page, "model/net:v0")).to_have_class("node model root")
    page.get_by_role("button", name="Show as list").click()
    expect(page.locator(".mlops-graph .outline li")).to_have_count(4)
    expect(page.locator(".mlops-graph .outline li").last).to_contain_text("came from train (made)")
    check_axe(page)


def test_a_name_that_is_unknown_is_said_with_the_nearest(page, lab, runs):
    "And new runs appear while one looks"
    open_notebook(page, lab, SHOW.format(start="net"))
    expect(page.locator(".mlops-graph .view .node")).to_have_count(4)
    page.get_by_role("combobox", name="Start at").fill("nte")
    page.keyboard.press("Enter")
    expect(page.locator(".mlops-panel [role=alert]")).to_contain_text("did you mean 'net'")
    page.get_by_role("combobox", name="Start at").fill("net")
    page.get_by_role("button", name="Show", exact=True).click()
    expect(page.locator(".mlops-graph .view .node")).to_have_count(4)
    expect(page.locator(".mlops-panel [role=alert]")).to_have_count(0)
    page.get_by_role("combobox", name="Start at").fill("digits")
    page.get_by_role("button", name="Show", exact=True).click()
    expect(record(page).get_by_role("heading", name="digits:v0")).to_be_visible()  # what is asked for is opened, so that acts mean it
    page.get_by_role("combobox", name="Start at").fill("net")
    page.get_by_role("button", name="Show", exact=True).click()
    expect(record(page).get_by_role("heading", name="net:v0")).to_be_visible()
    store = open_store(open_workspace(lab.root))
    store.runs.create(id="later000", project="p", name="<img src=x>")
    store.artifacts.use("later000", "net")
    store.runs.finish("later000", "finished")
    expect(node(page, "run/later000")).to_contain_text("<img src=x>")
    page.set_viewport_size({"width": 420, "height": 800})
    check_axe(page)


def make_chain(store, steps=12):
    "A lineage far wider than a panel; gives back the version in its middle"
    (store.workspace.root / "rows.csv").write_text("1")
    for step in range(steps):
        store.runs.create(id=f"chain{step:03d}", project="p", name=f"step-{step}")
        if step:
            store.artifacts.use(f"chain{step:03d}", f"made-by-step-{step - 1}")
        store.artifacts.log(f"chain{step:03d}", f"made-by-step-{step}", "dataset", {"rows.csv": store.workspace.root / "rows.csv"})
        store.runs.finish(f"chain{step:03d}", "finished")
    return f"dataset/made-by-step-{steps // 2}:v0"


@pytest.mark.parametrize("width", [320, 700])
def test_the_start_of_a_large_lineage_can_be_read_in_a_narrow_panel(page, lab, width):
    "And fitting all into the view leaves the view as it is; what was moved there stays when more appears"
    store = open_store(open_workspace(lab.root))
    middle = make_chain(store) if width == 320 else "dataset/made-by-step-6:v0"
    narrow = "from mlops_nb.store.door import open_store\nfrom mlops_nb.widgets.lineage_view import LineagePanel\n"
    narrow += f"panel = LineagePanel(open_store(), 'made-by-step-6')\npanel.layout.width = '{width}px'\npanel"
    open_notebook(page, lab, narrow, theme="dark" if width == 320 else "light")
    expect(page.locator(".mlops-graph .view .node")).to_have_count(24)
    inside = """id => { const view = document.querySelector('.mlops-graph .view').getBoundingClientRect();
      const box = document.querySelector(`.mlops-graph .view [data-node="${id}"]`).getBoundingClientRect();
      return box.left >= view.left && box.right <= view.right && box.top >= view.top && box.bottom <= view.bottom && box.height > 30; }"""
    page.wait_for_function(inside, arg=middle)
    wide = page.locator(".mlops-graph .view").bounding_box()["width"]
    assert wide > width - 40
    check_axe(page)
    page.get_by_role("button", name="Fit all into view").click()
    assert page.locator(".mlops-graph .view").bounding_box()["width"] == wide
    page.get_by_role("button", name="Back to the start").click()
    page.wait_for_function(inside.replace("box.height > 30", "true"), arg=middle)
    for _ in range(10):
        page.get_by_role("button", name="Zoom in").click()
    before = node(page, middle).bounding_box()
    store.runs.create(id=f"more{width}", project="p", name="more")
    store.artifacts.use(f"more{width}", middle.removeprefix("dataset/"))
    store.runs.finish(f"more{width}", "finished")
    expect(node(page, f"run/more{width}")).to_have_count(1)
    assert node(page, middle).bounding_box() == pytest.approx(before, abs=1)
    store.runs.delete(f"more{width}")


def test_what_stays_says_the_same(runs, lab):
    store = open_store(open_workspace(lab.root))
    shown = lineage_html(store)
    assert "Lineage of net:v0" in shown and "<svg" in shown and "<script" not in shown and "<img" not in shown and len(shown) < 100_000


def test_beyond_what_can_be_drawn_it_is_said(lab, runs):
    store = open_store(open_workspace(lab.root))
    for number in range(MOST):
        store.runs.create(id=f"many{number:04d}", project="p", name="many")
        store.artifacts.use(f"many{number:04d}", "digits:v0")
    drawing = drawing_of(trace(store.catalog, "digits", limit=MOST, values=False))
    assert len(drawing["nodes"]) == MOST and f"Only the nearest {MOST} are drawn" in drawing["note"]
    boxes = sorted((each["column"], each["y"]) for each in drawing["nodes"])
    assert all(below - above >= 44 for (left, above), (right, below) in zip(boxes, boxes[1:]) if left == right)  # none covers another


def test_a_box_that_is_removed_while_it_is_open_is_no_error(store):
    "The next answer brings a picture without it"
    store.runs.create(id="gone0000", project="p", name="gone")
    store.runs.finish("gone0000", "finished")
    shown = answer(store, Question("gone"))
    assert "gone0000" in record_of(store, shown, "run/gone0000")
    store.runs.delete("gone0000")
    assert record_of(store, shown, "run/gone0000") == ""
