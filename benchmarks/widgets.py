"""How quickly panels come and move in a real JupyterLab with a real browser, and what they cost the kernel that they live in.

There is no rival: the peer of each case is its target. First paint is from the keys that run the cell, in a kernel that has imported
nothing of ours, to the first row of the runs on screen. A live update is from a row that another process logs to its own point on screen;
the slowest of them counts. A kernel is blocked in two places: its main thread's event loop does not turn (a cell would not begin), or a
message of a widget waits for the thread that hears those (a click is not answered); the longest of either while somebody uses the panels
counts, act by act. Memory is what the kernel alone holds, with all panels of 10,000 runs and then while one of them follows a run.
"""
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from run_all import forget_environment, machine, make_parser, tell

sys.path.append(str(Path(__file__).resolve().parent.parent / "tools"))
TARGETS = {"first_paint_100": (1.5, "s"), "first_paint_10000": (1.5, "s"), "live_update": (2.0, "s"), "kernel_block_ms": (100, "ms"),
           "memory": (100, "MB"), "memory_growth": (5, "MB")}
PRELOAD = "torch,wandb,numpy,pandas,sklearn,matplotlib,captum"  # what a workspace has by default
PIPELINES = {100: 2, 10_000: 200}  # of 50 runs each
REPEATS, ROWS, SEED = 5, 10, 7
DISTANCE_S, PATIENCE_S = (5.0, 7.0), 10.0  # between two rows; after which a point counts as not drawn
UPDATES = 300  # as many as in five minutes
SHOW = "from mlops_nb.widgets.views import show\nshow({name!r}{options})"
WATCH = """
window.painted = null; window.drawn = [];
document.addEventListener("keydown", (event) => { if (event.shiftKey && event.key === "Enter") window.asked = performance.now(); }, true);
const points = () => Math.max(0, ...[...document.querySelectorAll(".mlops-chart path.curve[data-id]")].map(
  (each) => (each.getAttribute("d").match(/[ML]/g) || []).length));
new MutationObserver((changes) => requestAnimationFrame(() => {
  if (window.painted === null && document.querySelector(".mlops-panel tbody tr[data-id]")) window.painted = performance.now();
  if (changes.some((each) => each.target.closest?.(".mlops-chart .plot")))
    for (let count = points(); count > window.drawn.length;) window.drawn.push(Date.now() / 1000);
})).observe(document, { childList: true, subtree: true });
"""
BEAT = """
import asyncio, gc, json, time
import psutil
from IPython import get_ipython
own, turns, heard, weights, handlers = psutil.Process(), [], [], [], get_ipython().kernel.shell_handlers
async def beat():
    while True:
        begin = time.time()
        await asyncio.sleep(0.005)
        if time.time() - begin > 0.01: turns.append((begin, time.time() - 0.005))
def timed(handle):
    def call(stream, ident, message):
        begin = time.time()
        try: return handle(stream, ident, message)
        finally: heard.append((message["header"]["date"].timestamp(), begin, time.time()))
    return call
def weigh(): weights.append((gc.collect(), own.memory_full_info().uss / 1e6)[1])
handlers["comm_msg"] = timed(handlers["comm_msg"])
beating = asyncio.ensure_future(beat())
weigh()
"""
REPORT = "weigh(); open('costs.json', 'w').write(json.dumps({'turns': turns, 'heard': heard, 'weights': weights}))"
HURRY = """
from mlops_nb.widgets.feed import Feed
for each in gc.get_objects():
    if isinstance(each, Feed): each.every_s = 0.1
"""
LOGGING = """
import random, sys, time
from mlops_nb import start_run
rows, seed, *distance_s = map(float, sys.argv[1:])
run, draw = start_run(name="live"), random.Random(seed)
print(run.id, flush=True)
for step in range(int(rows)):
    time.sleep(draw.uniform(*distance_s))
    run.log({"loss": 1 / (step + 1)})
    print(time.time(), flush=True)
time.sleep(3600)
"""
TRAIN = ["rate: float = 0.001 # learning rate\nepochs: int = 8", "from mlops_nb import start_run\nstart_run().log({'loss': rate})"]


@contextmanager
def open_lab(
    runs: int,  # about so many
):  # a `Lab`, and a page of a browser that watches
    "JupyterLab in a workspace with so many runs and a notebook to launch"
    import big_catalog
    import nbformat
    from lab_browser import ARGUMENTS, PATIENCE_MS, start_lab
    from playwright.sync_api import sync_playwright
    from system_packages import CHROMIUM

    from mlops_nb.settings import open_workspace

    if not CHROMIUM.find():
        sys.exit(CHROMIUM.how_to_get)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        Path(folder, "settings.ini").write_text("[workspace]\nproject = widgets\n[wandb]\nmode = disabled\n")
        Path(folder, ".mlops").mkdir()
        big_catalog.fill(open_workspace(folder).catalog_url, pipelines=PIPELINES[runs])
        cells = [nbformat.v4.new_code_cell(each) for each in TRAIN]
        cells[0].metadata["tags"] = ["parameters"]
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), Path(folder, "train.ipynb"))
        with start_lab(folder, preload=PRELOAD) as lab, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM.find(), args=ARGUMENTS)
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.set_default_timeout(PATIENCE_MS)
            page.add_init_script(WATCH)
            yield lab, page


@contextmanager
def logging_run(
    folder: Path,  # of the workspace
    rows: int,
    distance_s: tuple[float, float],  # between two rows, drawn between these
) -> Iterator[tuple[str, Callable[[], list[float]]]]:  # the run's id; ends it and gives back when each row was logged
    "A run of another process that logs at irregular moments"
    words = [sys.executable, "-c", LOGGING, *map(str, (rows, SEED, *distance_s))]
    writer = subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, text=True)

    def end() -> list[float]:
        writer.kill()
        return [float(each) for each in writer.stdout]

    try:
        yield writer.stdout.readline().strip(), end
    finally:
        writer.kill()


def first_paint(runs: int) -> dict:
    "From the keys to the first row, each time in a new kernel"
    from lab_browser import open_notebook

    samples = []
    with open_lab(runs) as (lab, page):
        for _ in range(REPEATS + 1):
            open_notebook(page, lab, SHOW.format(name="runs", options=""))
            page.wait_for_function("window.painted !== null")
            samples.append(page.evaluate("(window.painted - window.asked) / 1000"))
    return result(f"first_paint_{runs}", samples[1:])  # the first one has filled the disk's cache


def live_update() -> dict:
    "From each row that another process logs to the moment in which its own point is on screen"
    from lab_browser import open_notebook

    with open_lab(100) as (lab, page), logging_run(lab.root, ROWS + 1, DISTANCE_S) as (run_id, end):
        open_notebook(page, lab, SHOW.format(name="curves", options=f", runs=[{run_id!r}]"))
        page.wait_for_function("window.drawn.length > 0")
        seen = page.evaluate("window.drawn.length")  # these were logged before anybody looked
        page.wait_for_timeout(1000 * (ROWS + 1 - seen) * DISTANCE_S[1])
        page.wait_for_timeout(1000 * PATIENCE_S)
        drawn, logged = page.evaluate("window.drawn"), end()
    return result("live_update", *waits(logged, drawn, seen))


def waits(
    logged: list[float],  # when each row was logged, seconds since 1970
    drawn: list[float],  # when a curve with so many points was on screen for the first time
    seen: int,  # points that were there at once
) -> tuple[list[float], Callable, dict]:  # seconds, how to judge them, facts
    "How long each row took to its point; one that did not come in time counts as so long as somebody waited"
    if len(logged) <= seen:
        raise RuntimeError(f"no row was logged while the curve was watched: {len(logged)} were, {seen} before it was there")
    came = [*drawn, *[float("inf")] * (len(logged) - len(drawn))]
    samples = [min(there - at, PATIENCE_S) for at, there in zip(logged[seen:], came[seen:])]
    return samples, max, {"median": round(statistics.median(samples), 3), "not_drawn": samples.count(PATIENCE_S)}


def acts_on_runs(page, panel):  # names of acts, and how they are done
    "What somebody does with many runs"
    rows, menu = panel.locator("tbody tr[data-id]"), panel.get_by_label("Show", exact=True)

    def filter_by(text):
        panel.get_by_label("Filter", exact=True).fill(text)
        panel.get_by_label("Filter", exact=True).press("Enter")

    for name in ("Next page", "Last page", "First page"):
        yield "paging", panel.get_by_role("button", name=name).click
    for at in (1, 2, 3):
        yield "sorting", panel.locator("thead button.sort").nth(at).click
    yield "filtering", lambda: filter_by("name = 'train' and metrics.test_roc_auc > 0.6")
    yield "grouping", lambda: panel.get_by_label("Group by").select_option(index=1)
    yield "grouping", lambda: panel.get_by_label("Group by").select_option(index=0)
    for at in (0, 1):
        yield "comparing", rows.nth(at).locator("input[type=checkbox]").click
    yield "tagging", lambda: (panel.get_by_label("Tag", exact=True).fill("best"), panel.get_by_label("Tag", exact=True).press("Enter"))
    yield "choosing", panel.get_by_label("Choose all rows of this page").click
    for label in ("Points", "Parallel coordinates", "Curves", "Importance of parameters"):
        yield label, lambda label=label: menu.select_option(label=label)
    yield "importance of all", lambda: panel.get_by_label("Among").select_option(label="all runs that fit the filter")
    yield "importance of all", lambda: page.wait_for_timeout(8_000)


def acts_on_lineage(page, panel):
    "What somebody does with a lineage"
    yield "opening a node", panel.locator(".mlops-graph .view .root").click
    for key in ("ArrowLeft", "ArrowLeft", "ArrowRight"):
        yield "opening a node", lambda key=key: (page.keyboard.press(key), page.keyboard.press("Enter"))
    yield "counting what is affected", panel.get_by_role("button", name="What does it affect?").click
    yield "starting elsewhere", panel.get_by_role("button", name="Start here").click


def acts_on_objectives(page, panel):
    "What somebody does with objectives"
    for name in ("Version", "Beside"):
        yield "choosing versions", lambda name=name: panel.get_by_label(name, exact=True).select_option(index=1)


def acts_on_launcher(page, panel):
    "What somebody does to begin a run"
    field = panel.get_by_label("rate", exact=True)
    yield "typing into the form", field.clear
    yield "typing into the form", lambda: field.press_sequentially("0.0125", delay=80)
    yield "launching", panel.get_by_role("button", name="Run", exact=True).click
    yield "following a launch", lambda: page.wait_for_timeout(6_000)


ACTS = {"Runs": acts_on_runs, "Lineage": acts_on_lineage, "Objectives": acts_on_objectives, "Launch": acts_on_launcher}
PANELS = {"runs": "", "lineage": "", "objectives": "", "hardware": "", "launcher": ", notebook='train.ipynb'"}


def use_panels(page) -> list[tuple[str, float, float]]:  # names, begin and end, seconds since 1970
    "Do one act after the other, with a moment for each to show what it does"
    done = [("quiet", time.time(), 0.0)]
    page.wait_for_timeout(5_000)
    for title, acts in ACTS.items():
        panel = page.locator(".mlops-panel", has=page.get_by_role("heading", name=title, exact=True, level=2))
        panel.scroll_into_view_if_needed()
        page.wait_for_timeout(2_000)
        for name, act in acts(page, panel):
            done.append((name, time.time(), 0.0))
            act()
            page.wait_for_timeout(1_500)
    ends = [begin for _, begin, _ in done[1:]] + [time.time()]
    return [(name, begin, end) for (name, begin, _), end in zip(done, ends)]


def costs_of(
    done: list[tuple[str, float, float]],
    costs: dict,  # from `REPORT`
) -> dict[str, dict[str, float]]:  # act -> the longest times, ms
    "How long the kernel was not there for somebody, act by act"
    found: dict[str, dict[str, float]] = {}
    spans = {"loop": [(begin, end - begin) for begin, end in costs["turns"]],  # the main thread's loop did not turn
             "widgets": [(sent, end - sent) for sent, _, end in costs["heard"]],  # from the browser to the end of what it sets off
             "callbacks": [(sent, end - begin) for sent, begin, end in costs["heard"]]}  # what is set off, of it
    for name, begin, end in done:
        act = found.setdefault(name, dict.fromkeys(spans, 0.0))
        for kind, times in spans.items():
            longest = max((1000 * took for at, took in times if begin <= at < end), default=0.0)
            act[kind] = round(max(act[kind], longest), 1)
    return found


def run_last_cell(
    page,
    code: str,
) -> None:
    "Write a cell at the end of the notebook and run it"
    from lab_browser import run_cell
    from playwright.sync_api import expect

    page.locator(".jp-Notebook .jp-CodeCell").last.locator(".cm-content").click()
    page.keyboard.insert_text(code)
    cells = page.locator(".jp-Notebook .jp-CodeCell")
    at = cells.count() - 1
    run_cell(page, at)
    expect(cells.nth(at).locator(".jp-InputArea-prompt")).to_have_text(re.compile(r"\[\d+\]:"), timeout=60_000)


def all_panels(only: list[str]) -> dict[str, dict]:
    "What panels of 10,000 runs do to their kernel while somebody uses them"
    from lab_browser import open_notebook

    with open_lab(10_000) as (lab, page):
        open_notebook(page, lab, BEAT, *(SHOW.format(name=name, options=options) for name, options in PANELS.items()))
        page.locator(".mlops-table tbody tr[data-id]").first.wait_for()
        page.wait_for_timeout(5_000)
        run_last_cell(page, "weigh()")
        done = use_panels(page) if "kernel_block_ms" in only else []
        run_last_cell(page, REPORT)
        costs = json.loads(Path(lab.root, "costs.json").read_text())
    before, shown, used = costs["weights"]
    found = {"memory": result("memory", [shown - before], after_use=round(used - before, 1))}
    if done:
        acts = costs_of(done, costs)
        quiet = acts.pop("quiet")
        samples = [max(each["loop"], each["widgets"]) for each in acts.values()]
        found["kernel_block_ms"] = result("kernel_block_ms", samples, max, quiet=quiet, acts=acts)
    return found


def memory_growth() -> dict:
    "What five minutes of updates leave in the kernel, told in less: in the second half of them, for the first one fills caches"
    from lab_browser import open_notebook

    with open_lab(100) as (lab, page), logging_run(lab.root, 10 * UPDATES, (0.1, 0.2)) as (run_id, _):
        open_notebook(page, lab, BEAT, SHOW.format(name="curves", options=f", runs=[{run_id!r}]"), HURRY)
        page.wait_for_function("window.drawn.length > 0")
        heaps = []
        for _ in range(2):
            target = page.evaluate("window.drawn.length") + UPDATES // 2
            page.wait_for_function(f"window.drawn.length > {target}", timeout=300_000)
            run_last_cell(page, REPORT)
            heaps.append(browser_heap(page))
        weights = json.loads(Path(lab.root, "costs.json").read_text())["weights"]
    return result("memory_growth", [weights[-1] - weights[-2]], first_half=round(weights[-2] - weights[0], 1), updates=UPDATES,
                  browser=round(heaps[1] - heaps[0], 1))


def browser_heap(page) -> float:  # MB
    "What JavaScript holds in the page, without what it could throw away"
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    used = session.send("Runtime.getHeapUsage")["usedSize"] / 1e6
    session.detach()
    return used


def result(
    case: str,
    samples: list[float],
    judge: Callable = statistics.median,
    facts: dict | None = None,
    **more,  # facts too
) -> dict:
    "A case whose peer is its target"
    peer, unit = TARGETS[case]
    ours = judge(samples)
    return {"ours": round(ours, 3), "peer": peer, "ratio": round(peer / max(ours, 1e-3), 3), "unit": unit, "target": 1.0,
            "met": ours <= peer, "samples": [round(each, 3) for each in samples]} | (facts or {}) | more


def measure(only: list[str]) -> dict[str, dict]:
    "The cases that are asked for"
    calls: dict[str, Callable] = {"first_paint_100": lambda: first_paint(100), "first_paint_10000": lambda: first_paint(10_000),
                                  "live_update": live_update, "memory_growth": memory_growth}
    found = {name: call() for name, call in calls.items() if name in only}
    if {"kernel_block_ms", "memory"} & set(only):
        found |= all_panels(only)
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
