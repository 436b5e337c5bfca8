"""Time and hardware as a person sees them: curves that move, phases, verdict, remedies and cost, in both themes."""
import pytest
from lab_pages import check_axe, open_notebook
from mlops_nb.experiments.runner import run_notebook
from mlops_nb.settings import open_workspace
from mlops_nb.store.door import open_store
from mlops_nb.store.journal import Journal
from mlops_nb.widgets.hardware_view import hardware_html, recent_runs
from notebooks import write_notebook
from playwright.sync_api import expect

SHOW = "from mlops_nb.widgets import hardware_view\nfrom mlops_nb.widgets.views import show\nshow('hardware'{option})"
TRAIN = """
import time
from mlops_nb.store.session import start_run
run = start_run()
for step in range(4):
    time.sleep(0.6)
    run.log({"loss": 1 / (step + 1), "time/step_ms": 49.0, "time/data_ms": 40.0 if step < 2 else 2.0, "time/forward_ms": 9.0})
run.summary.update({"diagnosis/verdict": "data-bound", "diagnosis/share": 0.62, "diagnosis/step_s": 0.049,
                    "diagnosis/2 workers/predicted": 2.1, "diagnosis/2 workers/measured": 1.8, "diagnosis/fused/predicted": 1.1,
                    "time/data_share": 0.62, "time/forward_share": 0.3})
run.finish()
"""


@pytest.fixture(scope="module")
def trained(lab):
    "A notebook that was executed, with what `fit` and `diagnose` record"
    (lab.root / "settings.ini").write_text("[workspace]\nproject = digits\n[wandb]\nmode = disabled\n[hardware]\ncost_per_hour = 360\n")
    store = open_store(open_workspace(lab.root))
    record = run_notebook(store, write_notebook(lab.root / "train.ipynb", "rate = 0.1", TRAIN), cwd=lab.root)
    assert record.status == "finished"
    return record


def chart(page, title):
    return page.locator(".mlops-panel .mlops-chart-widget", has=page.get_by_label(f"{title} over time"))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_run_is_read(page, lab, trained, theme):
    open_notebook(page, lab, SHOW.format(option=""), theme=theme)
    panel = page.locator(".mlops-panel")
    for title in ("Processor", "Memory", "Phases of a step"):
        expect(chart(page, title).locator("path").first).to_be_attached()
    expect(chart(page, "Processor")).to_contain_text("forward")  # the phase below the curve
    for each in ("data-bound", "62%", "80% more rows per second", "not tried", "while the processors waited"):
        expect(panel).to_contain_text(each)
    check_axe(page)


def test_a_live_run_moves_and_another_is_chosen(page, lab, trained):
    store = open_store(open_workspace(lab.root))
    store.runs.create(id="live0000", project="p", name="live", host_info={"cpu_count": 2})
    journal = Journal(store.runs.folder("live0000") / "system.jsonl")
    for second in range(5):
        journal.append({"timestamp": 1000.0 + second, "runtime_s": float(second), "cpu_percent": 100.0, "memory_bytes": 1e9, "gpus": []})
    open_notebook(page, lab, SHOW.format(option=""))
    expect(page.locator(".mlops-panel")).to_contain_text("live live0000: running")
    curve = chart(page, "Memory").locator("path.curve").first
    before = curve.get_attribute("d")
    journal.append({"timestamp": 1010.0, "runtime_s": 10.0, "cpu_percent": 150.0, "memory_bytes": 3e9, "gpus": []})
    expect(curve).not_to_have_attribute("d", before)
    store.runs.finish("live0000", "finished")
    expect(page.locator(".mlops-panel")).to_contain_text("live live0000: finished")
    page.get_by_label("Run", exact=True).select_option(label=f"train {trained.id}, finished")
    expect(page.locator(".mlops-panel")).to_contain_text(f"train {trained.id}: finished")
    expect(page.locator(".mlops-panel")).to_contain_text("data-bound")
    page.set_viewport_size({"width": 420, "height": 800})
    check_axe(page)


def test_what_stays_says_the_same(lab, trained):
    shown = hardware_html(open_store(open_workspace(lab.root)), trained.id)
    assert "data-bound" in shown and "<svg" in shown and "<script" not in shown and len(shown) < 100_000


def test_the_menu_is_bounded(lab, trained):
    store = open_store(open_workspace(lab.root))
    for number in range(60):
        store.runs.create(id=f"many{number:04d}", project="p", name="many")
        store.runs.finish(f"many{number:04d}", "finished")
    menu = recent_runs(store)
    assert len(menu) == 51 and menu[1][1] == "many0059"
