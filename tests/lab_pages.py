"""A real JupyterLab and a real browser for tests of panels, and what is wrong for those who do not see or use a mouse."""
import json

import pytest
from axe_playwright_python.sync_playwright import Axe
from lab_browser import ARGUMENTS, PATIENCE_MS, Lab, open_notebook, run_cell, start_lab  # noqa: F401
from playwright.sync_api import expect, sync_playwright

expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "JupyterLab in a workspace with a space in its path, which the tests of a file share"
    root = tmp_path_factory.mktemp("a workspace")
    (root / "settings.ini").write_text("[workspace]\nproject = digits\n[wandb]\nmode = disabled\n")
    with start_lab(root) as found:
        yield found


@pytest.fixture(scope="module")
def browser(chromium):
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield found
        found.close()


@pytest.fixture
def page(browser):
    "A page in a window of its own; what its scripts complain about fails the test"
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    found = context.new_page()
    found.set_default_timeout(PATIENCE_MS)
    errors = []
    found.on("pageerror", lambda error: errors.append(str(error)))
    yield found
    context.close()
    wrong = [each for each in errors if each != "Failed to fetch"]  # as where the server has ended before the page
    assert not wrong, wrong


def serious_violations(page, selector=".mlops-panel"):
    "What axe-core finds wrong in the panels, serious and critical"
    found = Axe().run(page, context=selector).response["violations"]
    return [{"rule": each["id"], "help": each["help"], "where": [node["html"][:300] for node in each["nodes"]][:5]}
            for each in found if each["impact"] in ("serious", "critical")]


def check_axe(page, selector=".mlops-panel"):
    found = serious_violations(page, selector)
    assert found == [], json.dumps(found, indent=1)
