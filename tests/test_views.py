"""Views in a real JupyterLab: what a cell has shown before goes when it runs again."""
from lab_browser import open_notebook, run_cell
from playwright.sync_api import expect

SHOW = "from mlops_nb.widgets.views import show\nshow('runs')"
COUNT = """
import threading, time
from ipywidgets.widgets.widget import _instances

def feeds(): return sum(each.name == "mlops-feed" for each in threading.enumerate())

first, end = globals().setdefault("first", (feeds(), len(_instances))), time.monotonic() + 30
while (feeds(), len(_instances)) != first and time.monotonic() < end: time.sleep(0.1)
print(f"run {get_ipython().execution_count}: {feeds()} of {first[0]} feeds, {len(_instances)} of {first[1]} widgets")
"""


def test_a_cell_that_runs_again_closes_its_panel(page, lab):
    open_notebook(page, lab, SHOW, COUNT)
    page.get_by_text("run 3:").wait_for()
    run_cell(page, 0)
    run_cell(page, 1)
    said = page.locator(".jp-OutputArea-output", has_text="run 5:").inner_text().split()
    assert said[2] == said[4] != "0"
    assert said[6] == said[8] != "0"
    page.locator(".mlops-panel tbody, .mlops-panel .mlops-table").first.wait_for()


def test_keys_that_are_meant_for_a_panel_stay_in_it(page, lab):
    open_notebook(page, lab, SHOW, "1 + 1")
    page.locator(".mlops-panel .mlops-table tbody").wait_for()
    cells = page.locator(".jp-Notebook .jp-Cell")
    controls = page.locator(".mlops-panel :is(button, select, input, summary):visible:enabled")
    before, seen = cells.count(), controls.count()
    assert seen > 5
    for at in range(seen):
        controls.nth(at).focus()
        page.keyboard.press("b")  # in JupyterLab: a further cell
        assert cells.count() == before, controls.nth(at).evaluate("each => each.outerHTML")
    page.locator(".jp-CodeCell").nth(1).locator(".jp-InputPrompt").click()
    page.keyboard.press("b")
    expect(cells).to_have_count(before + 1)
