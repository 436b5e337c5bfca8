"""The runs panel in a browser: ten thousand runs found, sorted, chosen, tagged and compared, by keyboard alone and in both themes."""

import json
import random
import re

import pytest
from lab_pages import browser, check_axe, lab, open_notebook, page  # noqa: F401
from playwright.sync_api import expect

from mlops_nb.settings import open_workspace
from mlops_nb.store import tables
from mlops_nb.store.door import open_store
from mlops_nb.store.journal import Journal
from mlops_nb.store.values import metric_rows, parameter_rows

SHOW = "from mlops_nb.widgets import runs_view\nfrom mlops_nb.widgets.views import show\nshow('runs')"
RUNS = 10_000
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII="


@pytest.fixture(scope="module")
def runs(lab):  # noqa: F811
    "Ten thousand runs, whose rows go straight into the tables; run07777 is the best of them"
    store, draw, rows = open_store(open_workspace(lab.root)), random.Random(5), {"runs": [], "metrics": [], "parameters": []}
    for number in range(RUNS):
        run_id, recall = f"run{number:05}", 0.999 if number == 7777 else draw.random() * 0.9
        parameters = {"model": draw.choice(["mlp", "linear"]), "rate": number / RUNS}
        rows["runs"].append({"id": run_id, "project": "digits", "name": "train", "status": "failed" if number % 10 == 3 else "finished",
                             "created_at": float(1_700_000_000 + number), "started_at": 1_700_000_000.0, "ended_at": 1_700_000_012.5,
                             "parameters": parameters, "metrics": {"recall": recall}, "hardware": {}, "attempt": 1})
        rows["metrics"] += metric_rows(run_id, {"recall": recall})
        rows["parameters"] += parameter_rows(run_id, parameters)
    with store.catalog.write() as connection:
        for table, name in ((tables.runs, "runs"), (tables.run_metrics, "metrics"), (tables.run_parameters, "parameters")):
            connection.execute(table.insert(), rows[name])
    for run_id in ("run09999", "run09998"):
        figure = {"output_type": "display_data", "data": {"image/png": PIXEL}, "metadata": {}}
        cell = {"cell_type": "code", "source": "plt.title('Errors')", "outputs": [figure], "metadata": {}, "execution_count": 1}
        store.runs.folder(run_id).mkdir(parents=True)
        notebook = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 4}
        (store.runs.folder(run_id) / "notebook.ipynb").write_text(json.dumps(notebook))
    return store.runs


def opened(page, lab, theme="light"):  # noqa: F811
    "The panel, with its first page"
    panel = open_notebook(page, lab, SHOW, theme=theme).locator(".mlops-panel")
    expect(panel.locator(".where")).to_have_text(f"1-50 of {RUNS:,}")
    expect(panel.get_by_role("columnheader", name="recall")).to_be_visible()
    return panel


def first_row(panel):
    return panel.locator("tbody tr").first


def test_runs_are_found_sorted_and_paged(page, lab, runs):  # noqa: F811
    panel = opened(page, lab)
    expect(first_row(panel)).to_have_attribute("data-id", "run09999")
    panel.get_by_role("button", name="Next page").click()
    expect(panel.locator(".where")).to_have_text(f"51-100 of {RUNS:,}")
    panel.get_by_role("button", name="Last page").click()
    expect(panel.locator(".where")).to_have_text(f"9,951-{RUNS:,} of {RUNS:,}")
    expect(panel.locator("tbody tr").last).to_have_attribute("data-id", "run00000")
    recall = panel.get_by_role("columnheader", name="recall")
    recall.get_by_role("button").click()
    expect(recall).to_have_attribute("aria-sort", "descending")
    expect(first_row(panel)).to_have_attribute("data-id", "run07777")
    asked = panel.get_by_label("Filter")
    asked.fill("status = 'failed' and metrics.recall < 0.5")
    asked.press("Enter")
    wanted = len(runs.list(filter="status = 'failed' and metrics.recall < 0.5", brief=True))
    expect(panel.locator(".where")).to_have_text(f"1-50 of {wanted}")
    expect(panel.locator("tbody td.status").first).to_contain_text("failed")
    asked.fill("metrics.recal < 0.5")
    asked.press("Enter")
    expect(panel.get_by_text("did you mean 'recall'?")).to_be_visible()
    expect(asked).to_have_attribute("aria-invalid", "true")
    asked.fill("")
    asked.press("Enter")
    expect(panel.locator(".where")).to_have_text(f"1-50 of {RUNS:,}")
    expect(panel.get_by_text("did you mean 'recall'?")).to_have_count(0)


def test_groups_open_into_their_runs(page, lab, runs):  # noqa: F811
    panel = opened(page, lab)
    panel.get_by_label("Group by").select_option(label="model")
    expect(panel.locator("tbody tr")).to_have_count(2)
    group = panel.get_by_role("row").filter(has_text="mlp")
    count = len(runs.list(filter="params.model = 'mlp'", brief=True))
    expect(group).to_contain_text(f"{count:,}")
    group.get_by_role("button").click()
    expect(panel.locator(".where")).to_have_text(f"1-50 of {count:,}")


def test_two_runs_are_compared_tagged_and_pinned_by_keyboard_alone(page, lab, runs):  # noqa: F811
    panel = opened(page, lab)
    panel.get_by_label("Filter").focus()
    page.keyboard.type("params.rate < 0.0005")
    page.keyboard.press("Enter")
    expect(panel.locator(".where")).to_have_text("1-5 of 5")
    for _ in range(40):  # the first row that Tab comes to
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('tbody') !== null"):
            break
    expect(panel.get_by_label("Choose train run00004")).to_be_focused()
    page.keyboard.press("Space")
    page.keyboard.press("Shift+ArrowDown")
    expect(panel.locator("tbody tr.chosen")).to_have_count(2)
    expect(panel.get_by_role("heading", name="train run00004 and train run00003")).to_be_visible()
    differing = panel.get_by_role("region", name="What differs in parameters").get_by_role("row").filter(has_text="rate")
    expect(differing).to_contain_text("0.0004")
    expect(differing).to_contain_text("0.0003")
    assert runs.get("run00004").tags == ()
    panel.get_by_label("Tag", exact=True).focus()
    page.keyboard.type("best")
    page.keyboard.press("Enter")
    expect(panel.locator("tbody .tag")).to_have_text(["best", "best"])
    assert {each.id for each in runs.list(tag="best")} == {"run00003", "run00004"}
    expect(panel.get_by_text("2 runs tagged best")).to_be_visible()
    panel.get_by_label("Tag", exact=True).fill("best")
    panel.get_by_role("button", name="Untag", exact=True).press("Enter")
    expect(panel.get_by_text("2 runs no longer tagged best")).to_be_visible()
    expect(panel.locator("tbody .tag")).to_have_count(0)
    assert runs.list(tag="best") == []
    panel.get_by_role("button", name="Clear").press("Enter")
    expect(panel.locator("tbody tr.chosen")).to_have_count(0)
    panel.get_by_label("Choose train run00001").press("Space")
    panel.get_by_role("button", name="Pin", exact=True).press("Enter")
    expect(first_row(panel)).to_have_attribute("data-id", "run00001")
    expect(first_row(panel)).to_contain_text("pinned")
    runs.tag("run00001", remove=("pinned",))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_stands_in_the_way_of_people_who_do_not_see_or_use_a_mouse(page, lab, runs, theme):  # noqa: F811
    panel = opened(page, lab, theme)
    first_row(panel).locator("input").check()
    panel.locator("tbody tr").nth(1).locator("input").check()
    expect(panel.get_by_role("heading", name=re.compile("run0999. and"))).to_be_visible()
    expect(panel.get_by_role("img", name="Errors")).to_have_count(2)
    panel.locator("summary").first.click()
    check_axe(page)


def test_a_run_that_ends_moves_by_itself(page, lab, runs):  # noqa: F811
    panel = opened(page, lab)
    empty = {"parameters": {}, "metrics": {}, "hardware": {}}
    runs.insert({"id": "newest00", "project": "digits", "name": "fresh", "status": "failed", **empty})
    expect(first_row(panel)).to_have_attribute("data-id", "newest00")
    runs.update("newest00", status="finished")
    expect(first_row(panel)).to_contain_text("finished")
    runs.delete("newest00")
    expect(panel.locator(".where")).to_have_text(f"1-50 of {RUNS:,}")


def test_rows_stay_under_the_hand_while_a_live_run_moves(page, lab, runs):  # noqa: F811
    "The same elements, the focus and the selected text; a press is a click although a new row has come"
    live = runs.create(project="digits", name="live", created_at=3e9)
    journal = Journal(runs.folder(live.id) / "journal.jsonl")
    journal.append({"recall": 0.125})
    panel = open_notebook(page, lab, SHOW).locator(".mlops-panel")
    cell = panel.locator(f'tr[data-id="{live.id}"] td[data-key="=metrics.recall"]')
    expect(cell).to_have_text("0.125")
    panel.get_by_label("Choose train run09998").focus()
    page.evaluate("""() => {
      window.row = document.activeElement.closest("tr");
      window.cell = document.querySelector('tr[data-id="run09997"] td:nth-child(3)');
      getSelection().selectAllChildren(window.cell);
    }""")
    journal.append({"recall": 0.25})
    expect(cell).to_have_text("0.25")
    assert page.evaluate("window.row.isConnected && window.row.contains(document.activeElement)")
    assert page.evaluate("window.cell.isConnected && String(getSelection()).trim()") == "run09997"

    box = panel.get_by_label("Choose train run09996")
    box.hover()
    page.mouse.down()
    runs.insert({"id": "newest01", "project": "digits", "name": "fresh", "status": "finished", "created_at": 4e9,
                 "parameters": {}, "metrics": {}, "hardware": {}})
    expect(panel.locator(".where")).to_have_text(f"1-50 of {RUNS + 2:,}")
    page.mouse.up()
    expect(box).to_be_checked()
    expect(first_row(panel)).to_have_attribute("data-id", "newest01")
    assert page.evaluate("window.row.isConnected && window.row.contains(document.activeElement)") is False  # the pressed box has it now
    expect(box).to_be_focused()
    runs.finish(live.id, "finished")
    for run_id in (live.id, "newest01"):
        runs.delete(run_id)
    expect(panel.locator(".where")).to_have_text(f"1-50 of {RUNS:,}")
    expect(box).to_be_focused()


def test_a_chosen_run_that_is_deleted_is_dropped_with_one_note(page, lab, runs):  # noqa: F811
    for number in range(3):
        runs.insert({"id": f"doomed0{number}", "project": "digits", "name": "doomed", "status": "finished", "created_at": 3e9 + number,
                     "parameters": {"rate": number}, "metrics": {"recall": 0.5}, "hardware": {}})
    panel = open_notebook(page, lab, SHOW).locator(".mlops-panel")
    for number in (0, 1):
        panel.get_by_label(f"Choose doomed doomed0{number}").check()
    expect(panel.get_by_role("heading", name="doomed doomed00 and doomed doomed01")).to_be_visible()
    runs.delete("doomed00")
    expect(panel.get_by_text("1 run that was shown is no longer there: doomed00.")).to_be_visible()
    expect(panel.get_by_text("1 chosen")).to_be_visible()
    expect(panel.get_by_label("Choose doomed doomed01")).to_be_checked()
    expect(panel.get_by_role("alert")).to_have_count(0)
    for number in (1, 2):
        runs.delete(f"doomed0{number}")


def test_one_chosen_run_shows_why_it_failed_and_opens_its_notebook(page, lab, runs):  # noqa: F811
    error = {"name": "ValueError", "message": "<b>the rate</b> is below 0", "cell_index": 0, "traceback": "  line 3, in fit"}
    runs.update("run09999", status="failed", error=error)
    panel = opened(page, lab)
    panel.get_by_label("Choose train run09999").check()
    record = panel.get_by_role("region", name="Record of train run09999")
    expect(record.locator("p.bad")).to_have_text("cell 1: ValueError: <b>the rate</b> is below 0")
    expect(record.get_by_role("region", name="Parameters").get_by_role("row").filter(has_text="rate")).to_contain_text("0.9999")
    check_axe(page)
    panel.get_by_role("button", name="Open the executed notebook").click()
    expect(page.locator('.lm-TabBar-tab:has-text("train-run09999.ipynb")')).to_be_visible()
    runs.update("run09999", status="finished", error=None)


def test_a_second_chosen_run_takes_the_record_away(page, lab, runs):  # noqa: F811
    panel = opened(page, lab)
    panel.get_by_label("Choose train run09999").check()
    expect(panel.get_by_role("region", name="Record of train run09999")).to_be_visible()
    panel.get_by_label("Choose train run09998").check()
    expect(panel.get_by_role("region", name="Record of train run09999")).to_be_hidden()
