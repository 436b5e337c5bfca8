"""How quickly panels come and move in a real JupyterLab with a real browser, and what they cost the kernel that they live in.

There is no rival: the peer of each case is its target. First paint is from the keys that run the cell, in a kernel that has imported
nothing of ours, to the first row of the runs on screen; a live update from a row that another process logs to its point on screen. A kernel
is blocked as long as its event loop does not turn while somebody turns pages, sorts, filters and compares; `quiet` is what it is without.
"""
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

from run_all import forget_environment, machine, make_parser, tell

sys.path.append(str(Path(__file__).resolve().parent.parent / "tools"))
TARGETS = {"first_paint_100": (1.5, "s"), "first_paint_10000": (1.5, "s"), "live_update": (2.0, "s"), "kernel_block_ms": (100, "ms"),
           "memory": (100, "MB")}
PRELOAD = "torch,wandb,numpy,pandas,sklearn,matplotlib,captum"  # what a workspace has by default
PIPELINES = {100: 2, 10_000: 200}  # of 50 runs each
REPEATS = 5
SHOW = "from mlops_nb.widgets.views import show\nshow({name!r}{options})"
WATCH = """
window.painted = null; window.moves = [];
document.addEventListener("keydown", (event) => { if (event.shiftKey && event.key === "Enter") window.asked = performance.now(); }, true);
new MutationObserver((changes) => {
  if (window.painted === null && document.querySelector(".mlops-panel tbody tr[data-id]"))
    requestAnimationFrame(() => { window.painted ??= performance.now(); });
  if (changes.some((each) => each.target.closest?.(".mlops-chart .plot"))) window.moves.push(Date.now() / 1000);
}).observe(document, { childList: true, subtree: true, attributes: true, attributeFilter: ["d"] });
"""
BEAT = """
import asyncio, os, time
import psutil
gaps, memory_before = [], psutil.Process().memory_info().rss
async def beat():
    while True:
        begin = time.perf_counter()
        await asyncio.sleep(0.005)
        gaps.append(1000 * (time.perf_counter() - begin) - 5)
beating = asyncio.ensure_future(beat())
"""
LOGGING = """
import sys, time
from mlops_nb import start_run
run = start_run(name="live")
print(run.id, flush=True)
for step in range(10_000):
    run.log({"loss": 1 / (step + 1)})
    print(time.time(), flush=True)
    time.sleep(2)
"""


@contextmanager
def open_lab(
    runs: int,  # about so many
):  # a `Lab`, and a page of a browser that watches
    "JupyterLab in a workspace with so many runs"
    import big_catalog
    from lab_browser import ARGUMENTS, PATIENCE_MS, start_lab
    from playwright.sync_api import sync_playwright
    from system_packages import CHROMIUM

    from mlops_nb.settings import open_workspace

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        Path(folder, "settings.ini").write_text("[workspace]\nproject = widgets\n[wandb]\nmode = disabled\n")
        Path(folder, ".mlops").mkdir()
        big_catalog.fill(open_workspace(folder).catalog_url, pipelines=PIPELINES[runs])
        with start_lab(folder, preload=PRELOAD) as lab, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM.find(), args=ARGUMENTS)
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.set_default_timeout(PATIENCE_MS)
            page.add_init_script(WATCH)
            yield lab, page


def first_paint(runs: int) -> list[float]:  # seconds
    "From the keys to the first row, each time in a new kernel"
    from lab_browser import open_notebook

    samples = []
    with open_lab(runs) as (lab, page):
        for _ in range(REPEATS + 1):
            open_notebook(page, lab, SHOW.format(name="runs", options=""))
            page.wait_for_function("window.painted !== null")
            samples.append(page.evaluate("(window.painted - window.asked) / 1000"))
    return samples[1:]  # the first one has filled the disk's cache


def live_update() -> list[float]:  # seconds
    "From a row that another process logs to the moment in which the curve moves"
    from lab_browser import open_notebook

    with open_lab(100) as (lab, page):
        writer = subprocess.Popen([sys.executable, "-c", LOGGING], cwd=lab.root, stdout=subprocess.PIPE, text=True)
        try:
            run_id = writer.stdout.readline().strip()
            open_notebook(page, lab, SHOW.format(name="curves", options=f", runs=[{run_id!r}]"))
            page.locator(".mlops-chart .plot svg").wait_for()
            page.wait_for_timeout(25_000)
            moves = page.evaluate("window.moves")
        finally:
            writer.kill()
        logged = [float(each) for each in writer.stdout]
    found = [min(move - each for move in moves if move >= each) for each in logged if moves[0] < each < moves[-1] - 2]
    return found[1:]


def kernel_costs() -> dict[str, float]:  # the longest pause with and without somebody, in ms; memory in MB
    "What a panel of 10,000 runs does to its kernel while somebody uses it"
    from lab_browser import open_notebook, run_cell

    report = "print('costs', max(gaps), psutil.Process().memory_info().rss - memory_before)\ngaps.clear()"
    with open_lab(10_000) as (lab, page):
        open_notebook(page, lab, BEAT, SHOW.format(name="runs", options=""), "await asyncio.sleep(1); gaps.clear()")
        table = page.locator(".mlops-table")
        table.locator("tbody tr[data-id]").first.wait_for()
        page.wait_for_timeout(5_000)

        def costs():
            add_cell(page, report)
            run_cell(page, page.locator(".jp-Notebook .jp-CodeCell").count() - 1)
            words = page.locator(".jp-OutputArea-output", has_text="costs").last.inner_text().split()
            return [float(each) for each in words[1:]]

        quiet, _ = costs()
        for label in ("Next page", "Next page", "Last page", "First page"):
            table.get_by_role("button", name=label).click()
            page.wait_for_timeout(500)
        for at in (1, 2, 3):
            table.locator("thead button.sort").nth(at).click()
            page.wait_for_timeout(500)
        table.get_by_label("Filter").fill("status = 'finished'")
        table.get_by_label("Filter").press("Enter")
        page.wait_for_timeout(1_000)
        for at in (0, 1):
            table.locator("tbody input[type=checkbox]").nth(at).click()
        page.wait_for_timeout(3_000)
        used, memory = costs()
    return {"quiet_ms": quiet, "used_ms": used, "memory_mb": memory / 1e6}


def add_cell(
    page,
    code: str,
) -> None:
    "Write a cell at the end of the notebook"
    page.locator(".jp-Notebook .jp-CodeCell").last.locator(".cm-content").click()
    page.keyboard.insert_text(code)


def result(
    case: str,
    samples: list[float],
    **facts,
) -> dict:
    "A case whose peer is its target"
    peer, unit = TARGETS[case]
    ours = statistics.median(samples)
    return {"ours": round(ours, 3), "peer": peer, "ratio": round(peer / ours, 3), "unit": unit, "target": 1.0, "met": ours <= peer,
            "samples": [round(each, 3) for each in samples]} | facts


def measure(only: list[str]) -> dict[str, dict]:
    "The cases that are asked for"
    found, simple = {}, {"first_paint_100": lambda: first_paint(100), "first_paint_10000": lambda: first_paint(10_000),
                         "live_update": live_update}
    clocks: dict[str, Callable] = {name: call for name, call in simple.items() if name in only}
    for name, call in clocks.items():
        found[name] = result(name, call())
    if {"kernel_block_ms", "memory"} & set(only):
        costs = kernel_costs()
        found["kernel_block_ms"] = result("kernel_block_ms", [costs["used_ms"]], quiet=round(costs["quiet_ms"], 1))
        found["memory"] = result("memory", [costs["memory_mb"]])
    return {name: found[name] for name in only}


def main():
    options = make_parser(__doc__, TARGETS).parse_args()
    forget_environment("MLOPS_NB_", "WANDB_")
    begin = time.monotonic()
    facts = machine(("jupyterlab", "ipykernel", "ipywidgets", "anywidget"), repeats=REPEATS)
    results = measure(options.only)
    results["machine"] = facts | {"took_s": round(time.monotonic() - begin)}
    tell(results, "widgets", options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
