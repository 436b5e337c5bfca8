"""The report: what it says, what it refuses to run or load, and how it looks in a browser and on paper."""
import json
import re
import time
from html.parser import HTMLParser

import click
import nbformat
import numpy as np
import pytest
from click.testing import CliRunner
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from mlops_nb.commands import run_pipeline
from mlops_nb.commands.report import report
from mlops_nb.commands.shared import Program
from mlops_nb.reports.cells import Pictures, output_html, sanitize
from mlops_nb.reports.charts import Series, line_chart
from mlops_nb.reports.lineage_chart import lineage_chart
from mlops_nb.reports.page import write_report
from mlops_nb.reports.results import measured_by
from mlops_nb.reports.scales import fit_scale, thin
from mlops_nb.settings import NotFoundError, StoreError, open_workspace
from mlops_nb.store.artifacts import list_files
from mlops_nb.store.door import open_store
from mlops_nb.store.journal import Journal
from mlops_nb.store.lineage import Edge, Lineage, Node

# what hostile or careless people name things
HOSTILE = ['<script>alert("x")</script>', "</style><img src=x onerror=alert(1)>", "a&b<c>'\"", "\x00\x1b[31m", "ชื่อ 模型 \u202e"]
PICTURE = ("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync"]
OBJECTIVES = """
[[goal]]
name = "mail"
title = "Postcodes are read by the machine"
owner = "Head of mail operations"
reason = "A misread postcode sends a letter to the wrong town."
cost_of_missing = 180_000
[[goal.objective]]
metric = "test_recall"
measured_in = "evaluate"
at_least = 0.95
cost_of_miss = 60_000
"""


@pytest.fixture
def store(tmp_path):
    "The store of a workspace whose path has blanks and Thai letters; W&B is off, for speed"
    root = tmp_path / "งาน ของฉัน"
    root.mkdir()
    (root / "settings.ini").write_text("[workspace]\nproject = digits\n\n[wandb]\nmode = disabled\n")
    return open_store(open_workspace(root))


def add_run(store, id, name, *, used=(), logged=(), rows=(), cells=(), samples=0, status="finished", metrics=None, error=None, **columns):
    "A run with all that a run may leave behind"
    source = {"notebook": f"notebooks/{name}.ipynb", "notebook_digest": "4f2a" * 16}
    store.runs.create(id=id, project="digits", name=name, **source | columns)
    folder = store.runs.folder(id)
    for reference in used:
        store.artifacts.use(id, reference)
    for artifact, kind, files, metadata in logged:
        place = folder / "files" / artifact
        place.mkdir(parents=True)
        for file, content in files.items():
            (place / file).write_text(content, encoding="utf-8")
        store.artifacts.log(id, artifact, kind, list_files(place), metadata=metadata)
    journal = Journal(folder / "journal.jsonl")
    for step, row in enumerate(rows):
        journal.append({**row, "_step": step, "_timestamp": 0.0})
    journal.close()
    use = Journal(folder / "system.jsonl")
    for index in range(samples):
        gpu = {"index": 0, "utilization_percent": 50 + index, "memory_bytes": 2e9, "power_watts": None}
        use.append({"runtime_s": index / 2, "cpu_percent": 50.0 + index if index else None, "memory_bytes": 3e8, "gpus": [gpu]})
    use.close()
    if cells:
        content = new_notebook(cells=list(cells), metadata={"papermill": {"parameters": columns.get("parameters") or {}}})
        nbformat.write(content, folder / "notebook.ipynb")
    store.runs.finish(id, status, **({"error": error} if error else {}), **({"metrics": metrics} if metrics is not None else {}))
    return store.runs.get(id)


def profiled(columns=3):
    "The files of a data set, as `log_dataset` writes them"
    names = [f"tenure_{index}" for index in range(columns)]
    schema = {"rows": 100, "task": "binary", "classes": ["No", "Yes"], "columns": [
        {"name": "customerID", "kind": "category", "role": "key", "distinct": 100},
        *({"name": name, "kind": "number", "role": "feature", "missing": 11, "distinct": 70, "note": ""} for name in names),
        {"name": "constant", "kind": "", "role": "excluded", "note": "constant"},
        {"name": "Churn", "kind": "boolean", "role": "target", "distinct": 2}]}
    known = [{"name": name, "kind": "number", "count": 60, "missing": 10, "distinct": 50, "minimum": 0, "maximum": 72, "mean": 32.4,
              "edges": [0, 24, 48, 72], "counts": [30, 10, 20]} for name in names]
    known.append({"name": "Churn", "kind": "category", "count": 70, "missing": 0, "distinct": 2, "categories": {"No": 50, "Yes": 20}})
    return {"schema.json": json.dumps(schema), "profile.json": json.dumps({"train": {"rows": 70, "columns": known}})}


@pytest.fixture
def churn(store):
    "A preparation, a training, an evaluation and an explanation of a table"
    store.workspace.objectives_path.write_text(OBJECTIVES)
    metadata = {"rows": 100, "parts": {"train": 70, "validation": 10, "test": 20}, "split": {"method": "stratified", "seed": 0}}
    shown = new_output("display_data", {"image/png": PICTURE, "text/plain": "<Figure size 640x480 with 1 Axes>"})
    table = "<div><style>td{}</style><table border=1>" + "<tr>" + "<td>0.5</td>" * 30 + "</tr></table></div>"
    frame = new_output("execute_result", {"text/html": table, "text/plain": "0.5"})
    cells = [new_markdown_cell("# Explain\n\nWhy?"), new_code_cell("rate = 0.1", execution_count=1),
             new_markdown_cell("## Importance\n\n| a | b |\n|---|---|\n| 1 | 2 |"),
             new_code_cell("figure\n" + "x = 1  # " + "long " * 60, outputs=[shown, frame])]
    add_run(store, "a1a1a1a1", "prepare", logged=[("churn", "dataset", profiled(), metadata)], cells=cells, samples=9)
    rows = [{"epoch": epoch, "train_loss": 1.5 / epoch, "validation_loss": 1.7 / epoch} for epoch in range(1, 13)]
    add_run(store, "b2b2b2b2", "train", used=["churn:latest"], logged=[("reader", "model", {"model.txt": "w"}, {})], rows=rows, samples=9,
            parameters={"epochs": 12})
    add_run(store, "c3c3c3c3", "evaluate", used=["churn:latest", "reader:latest"], metrics={
        "test_recall": 0.97, "test_recall_lower": 0.955, "test_recall_upper": 0.98, "baseline_linear_test_recall": 0.93})
    add_run(store, "d4d4d4d4", "explain", used=["reader:latest"], cells=cells,
            logged=[("reader-explanation", "explanation", {"explanation.json": "{}"}, {"method": "integrated gradients"})])
    return store


def read(store, reference="latest"):
    return write_report(store, reference).read_text(encoding="utf-8")


class Outline(HTMLParser):
    "What a program that reads aloud meets: landmarks, headings, addresses, pictures"

    def __init__(self, page):
        super().__init__()
        self.tags, self.headings, self.ids, self.links, self.open = [], [], [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append((tag, values))
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if "id" in values:
            self.ids.append(values["id"])
        if values.get("href", "").startswith("#"):
            self.links.append(values["href"][1:])
        if tag not in ("meta", "link", "img", "br", "hr", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> ends nothing"


# What it says


def test_a_report_has_every_part_and_a_verdict(churn):
    page = read(churn, "train")
    parts = re.findall(r'<h2 id="([\w-]+)-title">', page)
    assert parts == ["objectives", "data", "results", "curves", "explanation", "resources", "lineage", "reproduce", "notebooks"]
    assert "The objective is met." in page and "test_recall is 0.97; the baseline linear reaches 0.93." in page
    assert "0.955 to 0.98" in page and "its lower bound counts; required is at least 0.95" in page
    assert "Head of mail operations" in page and "60,000 EUR" in page
    assert 'class="histogram"' in page and "11.0%" in page and "stratified" in page
    assert "train_loss: 1.5 at first" in page and "GPU memory" in page and "GPU power" not in page
    assert "mlops-nb run notebooks/train.ipynb" in page and "-p epochs 12" in page
    assert "mlops-nb reproduce" not in page  # these runs were not started by `mlops-nb run`
    blob = churn.blobs.put_bytes(b"{}").digest
    churn.runs.update("b2b2b2b2", notebook_blob=blob, request={"parameters": {}})
    assert "mlops-nb reproduce b2b2b2b2" in read(churn, "train")


def test_a_missed_objective_says_what_it_costs(churn):
    churn.runs.update("c3c3c3c3", metrics={"test_recall": 0.97, "test_recall_lower": 0.9, "test_recall_upper": 0.98})
    page = read(churn, "train")
    assert "Not good enough" in page and "The misses cost 240,000 EUR." in page and ">✗</span>missed" in page


def test_without_objectives_nothing_is_called_good(churn):
    churn.workspace.objectives_path.unlink()
    page = read(churn, "evaluate")
    assert "No objectives are written down" in page and "Good enough" not in page


def test_a_mistake_in_the_objectives_is_named_and_the_report_is_written(churn):
    churn.workspace.objectives_path.write_text("[[goal]]\nname = 3\n")
    assert "The objectives could not be checked: " in read(churn)


def test_a_failed_run_shows_its_error_first(store):
    error = {"name": "ValueError", "message": "loss is <NaN>", "cell_index": 1, "execution_count": 2,
             "traceback": "Cell In[2], line 1\n----> 1 fit()\n\nValueError: loss is <NaN>"}
    failed = new_output("error", ename="ValueError", evalue="loss", traceback=["fit()"])
    cells = [new_markdown_cell("# Train"), new_code_cell("fit()", execution_count=2, outputs=[failed])]
    add_run(store, "a1a1a1a1", "train", status="failed", error=error, cells=cells)
    page = read(store)
    assert re.findall(r'<h2 id="([\w-]+)-title">', page)[0] == "error"
    assert "train failed in cell 2, In [2]: ValueError: loss is &lt;NaN&gt;" in page
    assert 'href="#a1a1a1a1-cell-2"' in page and 'id="a1a1a1a1-cell-2"' in page and "<details open" in page


def test_a_script_and_a_run_without_anything_have_a_report(store):
    add_run(store, "a1a1a1a1", "empty", notebook=None)
    page = read(store)
    assert "<h1>digits: empty</h1>" in page and "notebooks-title" not in page


def test_a_running_run_has_a_report(store):
    run = store.runs.create(project="digits", name="train")
    journal = Journal(store.runs.folder(run.id) / "journal.jsonl")
    for step in range(3):
        journal.append({"loss": 1.0 / (step + 1), "_step": step})
    assert "still runs" in (page := read(store)) and "train: loss" in page and "0.3333" in page


def test_a_group_is_reported_in_the_order_of_its_steps(store):
    from mlops_nb.store import tables
    for id, name in (("b2b2b2b2", "train"), ("a1a1a1a1", "prepare")):  # the training is newer in the group, older as a run
        add_run(store, id, name, group_id="g1g1g1g1" if name == "prepare" else None, step=name)
    with store.catalog.write() as connection:
        connection.execute(tables.groups.insert().values(id="g1g1g1g1", name="digits", created_at=time.time()))
        for at, (id, step, reused) in enumerate((("a1a1a1a1", "prepare", False), ("b2b2b2b2", "train", True))):
            values = {"group_id": "g1g1g1g1", "step": step, "run_id": id, "reused": reused, "added_at": time.time() + at}
            connection.execute(tables.group_runs.insert().values(values))
    path = write_report(store, "g1g1g1g1")
    page = path.read_text(encoding="utf-8")
    assert path == store.workspace.store_dir.absolute() / "groups" / "g1g1g1g1" / "report.html"
    rows = re.findall(r'<th scope="row">(prepare|train)</th><td><span class="status good">.*?</span>(\w+)</span>', page)
    assert rows == [("prepare", "finished"), ("train", "unchanged")]
    assert "mlops-nb run --force" in page


def test_metrics_find_their_bounds_and_baselines():
    found = {each.name: each for each in measured_by({"f1": 0.5, "test_f1": 0.6, "test_f1_lower": 0.5, "test_f1_upper": 0.7, "epoch": 3,
                                                      "baseline_linear_test_f1": 0.55, "baseline_f1": 0.1})}
    assert set(found) == {"f1", "test_f1", "baseline_f1"} and found["test_f1"].baselines == {"linear": 0.55}
    assert (found["test_f1"].lower, found["test_f1"].upper) == (0.5, 0.7) and not found["f1"].baselines


# What it refuses


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_names_are_shown_and_do_nothing(store, name):
    outputs = [new_output("display_data", {"text/html": name, "text/plain": name}), new_output("stream", name="stdout", text=name),
               new_output("display_data", {"image/svg+xml": f"<svg>{name}</svg>"}), new_output("display_data", {"text/markdown": name})]
    prose = f"# {name}\n\n{name}\n\n[here](javascript:alert(1)) ![](https://elsewhere.example/x.png)"
    cells = [new_markdown_cell(prose), new_code_cell(f"x = '''{name}'''", outputs=outputs)]
    schema = json.dumps({"columns": [{"name": name, "kind": name, "note": name}]})
    logged = [("data", "dataset", {"schema.json": schema}, {name: name})]
    add_run(store, "a1a1a1a1", name, parameters={name: name}, metrics={name: 1.0, "word": name, f"{name}_lower": 0.5}, cells=cells,
            tags=(name,), notebook=name, rows=[{name: 1.0}, {name: 2.0}], logged=logged)
    store.runs.annotate("a1a1a1a1", name)
    page = read(store, "a1a1a1a1")
    outline = Outline(page)
    assert not outline.open and not {"script", "iframe", "object", "embed", "form", "input", "base"} & {tag for tag, _ in outline.tags}
    assert not [values for _, values in outline.tags if [each for each in values if each.startswith("on")]]
    addresses = [values[each] for _, values in outline.tags for each in ("src", "href") if each in values]
    assert not [each for each in addresses if not each.startswith(("#", "data:"))]
    assert "\x00" not in page and "\x1b" not in page


@pytest.mark.parametrize("text", [
    "<svg><style><img src=x onerror=alert(1)></style></svg>", "<math><mtext><script>alert(1)</script></mtext></math>",
    "<a href='data:text/html,<script>alert(1)</script>'>x</a>", "<img src='data:text/html;base64,AAAA'>",
    "<table background='https://elsewhere.example'>", "<p style='background: url(https://elsewhere.example)'>x</p>",
    "<script>unclosed", "<style>unclosed", "<!-- --><plaintext>", "<scr<script></script>ipt>alert(1)",
])
def test_nothing_of_others_runs_or_loads(text):
    clean = sanitize(text).lower()
    assert not re.search(r"<(script|style|svg|math|plaintext)|\son\w+=|url\(|elsewhere|data:text", clean), clean


def test_what_is_too_large_is_cut_with_a_note():
    pictures = Pictures()
    page = output_html({"output_type": "stream", "text": "row\n" * 1_000_000}, pictures)
    assert len(page) < 10_000 and "characters left out" in page
    table = "<table>" + "<tr><td>0.5</td></tr>" * 100_000 + "</table>"
    assert len(output_html({"output_type": "execute_result", "data": {"text/html": table, "text/plain": "a table"}}, pictures)) < 100


def test_the_page_forbids_itself_to_load_and_run(churn):
    assert """content="default-src &#x27;none&#x27;; img-src data:; style-src &#x27;unsafe-inline&#x27;;""" in read(churn)


# What can go wrong


def test_errors_name_what_to_do(churn, tmp_path):
    with pytest.raises(NotFoundError, match="no run or group 'evalute'; did you mean 'evaluate'"):
        write_report(churn, "evalute")
    with pytest.raises(StoreError, match="is a folder; give a file in it"):
        write_report(churn, "latest", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        write_report(churn, "latest", tmp_path / "file" / "report.html")


def test_a_report_that_fails_leaves_the_old_one(churn, monkeypatch):
    path = write_report(churn)
    before = path.read_bytes()

    def fail(material):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mlops_nb.reports.page.report_html", fail)
    with pytest.raises(StoreError, match="No space left on device"):
        write_report(churn)
    assert path.read_bytes() == before and [each.name for each in path.parent.glob("*report*")] == ["report.html"]


def test_damaged_files_of_a_data_set_do_not_prevent_a_report(store):
    contents = "{", "[]", '{"columns": 3}', '{"columns": [1, {"name": null}]}', '{"columns": [{"role": "target"}], "rows": "many"}'
    for index, content in enumerate(contents):
        files, metadata = {"schema.json": content, "profile.json": content}, {"split": [1], "rows": "x", "parts": {"a": "b"}}
        add_run(store, f"a1a1a1a{index}", "prepare", logged=[("odd", "dataset", files, metadata)])
        assert "odd:v" in read(store, f"a1a1a1a{index}")


# The command


@pytest.fixture
def program(churn, monkeypatch):
    monkeypatch.setenv("MLOPS_NB_WORKSPACE", str(churn.workspace.root))
    main = click.group(cls=Program)(lambda: None)
    main.add_command(report)
    return lambda *arguments: CliRunner().invoke(main, ["report", *map(str, arguments)])


def test_the_command_prints_where_the_report_is(program, churn, tmp_path):
    result = program("--no-browser")
    assert result.exit_code == 0 and result.stdout == f"{churn.runs.folder('d4d4d4d4').absolute() / 'report.html'}\n"
    assert program("train", "--no-browser", "--output", tmp_path / "to send" / "report.html").exit_code == 0
    assert "<h1>digits: train</h1>" in (tmp_path / "to send" / "report.html").read_text(encoding="utf-8")


def test_the_command_opens_the_report(program, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or True)
    assert program().exit_code == 0 and opened[0].startswith("file:///")


def test_bad_input_is_refused_in_one_line(program, tmp_path):
    for arguments, word in ((["nothing"], "no run or group 'nothing'"), (["--output", tmp_path], "is a folder")):
        result = program(*arguments)
        assert result.exit_code == 2 and result.stdout == "" and len(result.stderr.splitlines()) == 1 and word in result.stderr


def test_the_pipeline_writes_a_report_or_warns(churn, monkeypatch, caplog):
    def fail(*_):
        raise ValueError("a mistake of ours")

    monkeypatch.setattr("mlops_nb.reports.page.write_report", fail)
    assert run_pipeline.write_pipeline_report(churn, "g1") is None
    assert "could not be written (ValueError: a mistake of ours); try again with: mlops-nb report g1" in caplog.text


def test_reports_import_nothing_heavy():
    import subprocess
    import sys
    heavy = {"matplotlib", "pandas", "torch", "nbconvert", "nbformat", "papermill", "wandb", "sklearn"}
    code = f"import sys, mlops_nb.reports.page; print(sorted({heavy!r} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# For those who do not see it, and for those who see it on a phone


def test_landmarks_headings_and_names(churn):
    outline = Outline(read(churn, "train"))
    assert not outline.open and outline.headings[0] == 1 and outline.headings.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(outline.headings, outline.headings[1:]))
    assert len(set(outline.ids)) == len(outline.ids) and set(outline.links) <= set(outline.ids)
    tags = [tag for tag, _ in outline.tags]
    assert tags.count("main") == tags.count("nav") == tags.count("title") == 1 and dict(outline.tags[0][1])["lang"] == "en"
    assert all(values.get("alt") for tag, values in outline.tags if tag == "img")
    assert all(values.get("aria-label") or values.get("aria-hidden") for tag, values in outline.tags if tag == "svg")


@pytest.fixture(scope="module")
def browser(chromium):
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        yield (opened := playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS))
        opened.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_fits_and_asks_for_nothing(churn, browser, width, scheme):
    path = write_report(churn, "train")
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    asked, said = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(path.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert [each for each in asked if not each.startswith("data:")] == [path.as_uri()] and not said
    smallest = page.evaluate("Math.min(...[...document.querySelectorAll('.chart > svg')].map(each => each.getBoundingClientRect().width))")
    assert smallest > 250  # the text of a chart stays readable
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
    page.close()


def test_paper_shows_everything_unfolded(churn, browser, tmp_path):
    page = browser.new_page(color_scheme="dark")
    page.goto(write_report(churn, "train").as_uri())
    assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF")
    hidden = "each => each.getClientRects().length == 0 || each.checkVisibility({contentVisibilityAuto: true}) === false"
    count = f"[...document.querySelectorAll('details:not(.screen-only) pre.code')].filter({hidden}).length"
    assert page.evaluate(count) > 0
    page.emulate_media(media="print")
    assert page.evaluate(count) == 0
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.close()


def test_the_policy_stops_what_slipped_through(churn, browser, tmp_path):
    hostile = "<script>document.title = 'taken'</script><img src='https://elsewhere.example/x.png'></main>"
    (tmp_path / "page.html").write_text(read(churn).replace("</main>", hostile), encoding="utf-8")
    page = browser.new_page()
    asked = []
    page.on("response", lambda response: asked.append(response.url))
    page.goto((tmp_path / "page.html").as_uri())
    assert page.title() != "taken" and asked and not [each for each in asked if "elsewhere" in each]
    page.close()


# Pictures of numbers


@pytest.mark.parametrize("values", [[], [float("nan")] * 3, [0.0] * 3, [1e-300, 1.0], [-5.0, 5.0], [float("inf"), 1.0], [1e18, 1e18],
                                    [0.1 + 1e-15, 0.1]])
def test_charts_take_any_numbers(values):
    chart = line_chart([Series("odd", tuple(enumerate(values)))], "odd", "step", "odd")
    numbers = re.findall(r'(?:x|y|x1|x2|y1|y2|cx|cy|d)="([^"]*)"', chart)
    assert "nan" not in " ".join(numbers).lower() and "inf" not in " ".join(numbers).lower()


def test_thinning_keeps_spikes_and_ends():
    random = np.random.default_rng(0)
    points = [(index, float(value)) for index, value in enumerate(random.normal(size=50_000))]
    kept = thin(points)
    assert len(kept) <= 302 and kept[0] == points[0] and kept[-1] == points[-1] and kept == sorted(kept)
    assert max(kept, key=lambda each: each[1]) == max(points, key=lambda each: each[1])


def test_all_values_lie_on_their_scale():
    random = np.random.default_rng(0)
    for _ in range(200):
        values = (random.normal(size=5) * 10.0 ** random.integers(-8, 8)).tolist()
        scale = fit_scale(values, 200, 0)
        assert all(-0.01 <= scale(each) <= 200.01 for each in values) and 1 <= len(scale.ticks) <= 12


@pytest.mark.parametrize("count, shown", [(1, False), (2, True), (30, True), (200, False)])
def test_a_lineage_of_any_size(count, shown):
    nodes = tuple(Node(f"run/{index}", "run", f"run ({index})", None) for index in range(count))
    edges = tuple(Edge(f"run/{index}", f"run/{index // 3}", "used") for index in range(1, count))
    chart = lineage_chart(Lineage("run/0", nodes, edges))
    assert bool(chart) == shown and (not shown or chart.count("<rect") == count)
