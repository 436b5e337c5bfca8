"""`mlops-nb lab`: a Home notebook whose panels are live when the browser comes, also after a restart, and what a person made of it."""
import nbformat
import pytest
from lab_browser import TOKEN, start_lab
from lab_pages import check_axe
from mlops_nb.widgets.home import home_notebook
from mlops_nb.widgets.views import known_views
from playwright.sync_api import expect
from waiting import wait_until

PANELS = [each for each in known_views() if each.place]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("a workspace")
    (folder / "settings.ini").write_text("[workspace]\nproject = digits\n[wandb]\nmode = disabled\n")
    return folder


def home_of(root):
    "The Home notebook as it was saved; None where it is not there, or is being written"
    try:
        return nbformat.read(root / "Home.ipynb", 4)
    except (OSError, nbformat.reader.NotJSONError):
        return None


def open_home(page, lab):
    "Follows the address at once, while the panels are still being made"
    page.goto(f"{lab.url}lab/tree/Home.ipynb?token={TOKEN}&reset")
    for view in PANELS:  # those further down are there when they are scrolled to
        panel = page.locator(".mlops-panel", has=page.get_by_role("heading", name=view.title, exact=True, level=2))
        panel.scroll_into_view_if_needed()
        expect(panel).to_be_visible()
    expect(page.locator(".lm-TabBar-tab.jp-mod-dirty")).to_have_count(0)


def test_panels_are_live_at_once_and_after_a_restart(page, root):
    with start_lab(root, home=True) as lab:
        open_home(page, lab)
        check_axe(page)
        assert [each["path"] for each in lab.call("api/sessions")] == ["Home.ipynb"]
    home = wait_until(lambda: home_of(root))
    home.cells.append(nbformat.v4.new_markdown_cell("what I think of it"))
    nbformat.write(home, root / "Home.ipynb")
    with start_lab(root, home=True) as lab:
        open_home(page, lab)
        expect(page.get_by_text("what I think of it").first).to_be_attached()
        assert "widgets" not in wait_until(lambda: home_of(root)).metadata


def test_code_that_came_with_a_workspace_is_not_run_by_itself(tmp_path):
    (tmp_path / "settings.ini").write_text("[workspace]\nproject = digits\n[wandb]\nmode = disabled\n")
    home, tagged = home_notebook("digits"), {"tags": ["view"]}
    home.cells.insert(1, nbformat.v4.new_code_cell("open('ran', 'w').close()\nshow('runs')", metadata=dict(tagged), id="foreign"))
    nbformat.write(home, tmp_path / "Home.ipynb")
    with start_lab(tmp_path, home=True):
        wait_until(lambda: (home := home_of(tmp_path)) and home.cells[-1].get("outputs"), timeout_s=120)
    assert [each["text"].split(":")[0] for each in home_of(tmp_path).cells[1].outputs] == ["Not run at the start"]
    assert not (tmp_path / "ran").exists()


def test_what_was_saved_while_the_panels_began_stays(tmp_path):
    (tmp_path / "settings.ini").write_text("[workspace]\nproject = digits\n[wandb]\nmode = disabled\n")
    slow = nbformat.v4.new_code_cell("show('curves')", metadata={"tags": ["view"]}, id="slow")
    home = home_notebook("digits")
    home.cells.append(slow)
    nbformat.write(home, tmp_path / "Home.ipynb")
    with start_lab(tmp_path, home=True) as lab:  # it listens; the kernel of Home begins
        wait_until(lambda: lab.call("api/sessions"))
        home.cells[0].source = "# what I think of it"
        nbformat.write(home, tmp_path / "Home.ipynb")
        wait_until(lambda: (home := home_of(tmp_path)) and home.cells[-1].get("outputs"), timeout_s=120)
    assert home_of(tmp_path).cells[0].source == "# what I think of it"


def test_a_home_that_cannot_be_run_keeps_nobody_out(page, tmp_path):
    (tmp_path / "settings.ini").write_text("[workspace]\nproject = digits\n[wandb]\nmode = disabled\n")
    (tmp_path / "Home.ipynb").write_text("not a notebook")
    with start_lab(tmp_path, home=True) as lab:
        page.goto(f"{lab.url}lab?token={TOKEN}&reset")
        page.locator(".jp-Launcher, .jp-DirListing").first.wait_for()
    assert (tmp_path / "Home.ipynb").read_text() == "not a notebook"
