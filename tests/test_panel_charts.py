"""Charts as a person meets them: curves that move while a run logs, read by keys, in both themes."""
import math
import re

import pytest
from lab_pages import PATIENCE_MS, browser, check_axe, lab, open_notebook, page  # noqa: F401
from mlops_nb.settings import open_workspace
from mlops_nb.store.door import open_store
from mlops_nb.store.journal import Journal
from playwright.sync_api import expect

SHOW = """
from mlops_nb.settings import open_workspace
from mlops_nb.store.door import open_store
from mlops_nb.widgets.run_charts import CurvesPanel
panel = CurvesPanel(open_store(open_workspace()), runs={ids!r})
panel
"""


def begin_run(store, name, parameters, rows, live=False, **metrics):
    record = store.runs.create(project="digits", name=name, parameters=parameters)
    journal = Journal(store.runs.folder(record.id) / "journal.jsonl")
    for step, loss in enumerate(rows):
        journal.append({"_step": step, "_timestamp": record.created_at + step, "loss": loss})
    if not live:
        store.runs.finish(record.id, "finished")
    if metrics:
        store.runs.update(record.id, metrics=metrics)
    return record.id, journal


@pytest.fixture
def store(lab):  # noqa: F811
    return open_store(open_workspace(lab.root))


def reading(page):  # noqa: F811
    return page.locator(".mlops-chart .plot").get_attribute("aria-valuetext")


def choose(page, menu, label):  # noqa: F811
    page.get_by_label(menu, exact=True).select_option(label=label)


def test_curves_move_while_a_run_logs(page, lab, store):  # noqa: F811
    "And smoothing, the logarithmic axis, and a readout by keys"
    one, journal = begin_run(store, "<b>baseline</b>", {}, [math.exp(-step / 9) for step in range(30)], live=True)
    other, _ = begin_run(store, "wider", {}, [1.0, 0.5, math.nan, 0.25])
    open_notebook(page, lab, SHOW.format(ids=[one, other]))
    legend = page.locator(".mlops-chart .legend")
    expect(legend.get_by_text("<b>baseline</b>")).to_be_visible()
    expect(legend.locator("li").first.locator(".word")).to_have_text("live")
    expect(legend.locator("li").last.locator(".word")).to_have_count(0)
    curve = page.locator(f'.mlops-chart path.curve[data-id="{one}"]')
    before = curve.get_attribute("d")
    journal.append({"_step": 30, "loss": 0.0123})
    expect(legend.locator("li").first.locator("b")).to_have_text("0.0123")
    expect(curve).not_to_have_attribute("d", before)
    assert page.locator(f'path.curve[data-id="{other}"]').get_attribute("d").count("M") == 2  # NaN is a gap

    plot = page.locator(".mlops-chart .plot")
    plot.focus()
    plot.press("Home")
    plot.press("ArrowRight")
    assert re.match(r"step 1: <b>baseline</b> 0\.89\d+, wider 0\.5", reading(page))
    plot.press("End")
    assert reading(page) == "step 30: <b>baseline</b> 0.0123"
    expect(page.locator(".mlops-chart .readout")).to_contain_text("step 30")
    plot.press("Escape")
    expect(page.locator(".mlops-chart .readout")).to_be_hidden()

    page.get_by_label("log axis").check()
    expect(page.locator(".mlops-chart .axes")).to_contain_text("loss (log scale)")
    expect(page.locator(".mlops-chart .raw")).to_have_count(0)
    page.get_by_label("Smoothing").fill("0.9")
    expect(page.locator(".mlops-chart .raw")).to_have_count(2)
    plot.focus()
    plot.press("End")
    assert re.match(r"step 30: <b>baseline</b> 0\.\d+ \(raw 0\.0123\)", reading(page))

    choose(page, "Over", "time")
    expect(page.locator(".mlops-chart .axes")).to_contain_text("time since the start")
    page.get_by_role("button", name="Show as table").click()
    expect(page.get_by_role("region", name="loss of 2 runs as a table")).to_contain_text("0.25")
    store.runs.finish(one, "finished")
    expect(legend.locator(".word")).to_have_count(0)


@pytest.fixture(scope="module")
def trials(lab):  # noqa: F811
    store, ids = open_store(open_workspace(lab.root)), []
    for number in range(16):
        rate, optimizer = 10 ** (number / 5 - 4), "adam" if number % 2 else "sgd"
        f1 = 0.9 - abs(math.log10(rate) + 2) / 5 - 0.1 * (number % 2)
        ids.append(begin_run(store, f"trial-{number}", {"lr": rate, "optimizer": optimizer}, [1.0, rate], f1=f1, loss=rate)[0])
    return ids


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_points(page, lab, trials, theme):  # noqa: F811
    open_notebook(page, lab, SHOW.format(ids=trials), theme=theme)
    expect(page.locator(".mlops-chart .legend li")).to_have_count(16)
    check_axe(page)

    choose(page, "Show", "Points")
    expect(page.locator(".mlops-chart .point")).to_have_count(16)
    choose(page, "Against", "lr")
    expect(page.locator(".mlops-chart .axes")).to_contain_text("lr (log scale)")
    choose(page, "Colour", "optimizer")
    expect(page.locator(".mlops-chart .legend li")).to_have_count(2)
    plot = page.locator(".mlops-chart .plot")
    plot.focus()
    plot.press("Home")
    plot.press("Enter")
    assert re.match(r"trial-\d+.*: lr 0\.000\d+, f1 .*, optimizer (adam|sgd)", reading(page))
    expect(page.locator(".mlops-chart .point.other-line")).to_have_count(15)
    plot.press("Enter")
    check_axe(page)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_parallel_coordinates(page, lab, trials, theme):  # noqa: F811
    "Brushed by a menu and by dragging"
    open_notebook(page, lab, SHOW.format(ids=trials), theme=theme)
    choose(page, "Show", "Parallel coordinates")
    expect(page.locator(".mlops-chart path.run")).to_have_count(16)
    choose(page, "Keep only optimizer", "adam")
    expect(page.locator(".mlops-chart path.left-out")).to_have_count(8)
    choose(page, "Keep only optimizer", "all")
    expect(page.locator(".mlops-chart path.left-out")).to_have_count(0)
    zone = page.locator(".mlops-chart .zone").last.bounding_box()  # of the metric: its better half is dragged over
    page.mouse.move(zone["x"] + 10, zone["y"] + 4)
    page.mouse.down()
    page.mouse.move(zone["x"] + 10, zone["y"] + zone["height"] / 2, steps=3)
    page.mouse.up()
    kept = page.get_by_label("Keep only f1").locator("option:checked")
    expect(kept).to_have_text(re.compile(r"0\.\d+ to 0\.9$"))
    assert 0 < page.locator(".mlops-chart path.left-out").count() < 16
    check_axe(page)


def test_importance(page, lab, trials, theme="dark"):  # noqa: F811
    open_notebook(page, lab, SHOW.format(ids=trials), theme=theme)
    choose(page, "Show", "Importance of parameters")
    expect(page.locator(".mlops-panel caption")).to_contain_text("among 16 runs (fANOVA)", timeout=PATIENCE_MS)
    expect(page.locator(".mlops-panel tbody tr")).to_have_count(2)
    check_axe(page)


def test_a_narrow_chart_keeps_what_it_says(page, lab, trials):  # noqa: F811
    "At 320 pixels nothing sticks out, and the same can be read"
    open_notebook(page, lab, SHOW.format(ids=trials[:3]) + "\npanel.layout.width = '320px'\npanel")
    expect(page.locator(".mlops-chart .legend li")).to_have_count(3)
    wide = """element => [...element.querySelectorAll("*")].filter(
        each => each.getBoundingClientRect().right > element.getBoundingClientRect().right + 1).length"""
    assert page.locator(".mlops-chart").evaluate(wide) == 0
    page.locator(".mlops-chart .plot").focus()
    page.keyboard.press("End")
    expect(page.locator(".mlops-chart .readout")).to_contain_text("step 1")
    assert page.locator(".mlops-chart").evaluate(wide) == 0
