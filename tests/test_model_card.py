"""The model card: what it says stands in the records, what it does not know it says, and nothing of it breaks its form."""
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from mlops_nb.evaluation.card_parts import Facts, Grid, Picture, Section, Text, make_grid, page_html, sections_markdown
from mlops_nb.evaluation.data_checks import Finding
from mlops_nb.evaluation.details import make_details, save_details
from mlops_nb.evaluation.evaluations import Evaluation
from mlops_nb.evaluation.fairness import Fairness, Gap, GroupRate
from mlops_nb.evaluation.model_card import log_card, model_card
from mlops_nb.evaluation.risks import RisksError
from mlops_nb.evaluation.robustness import Drop, Robustness
from mlops_nb.settings import DataError, ModelError, NotFoundError, ObjectivesError, open_workspace
from mlops_nb.store.door import open_store
from mlops_nb.store.session import start_run

NASTY = '<script>alert("x")</script>|`*ถนน*`'
PNG = bytes.fromhex("89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6260f8ffff3f0300050001ff"
                    "0a2db4000000000049454e44ae426082")
OBJECTIVES = """[[goal]]
name = "keep"
title = "Keep customers"
owner = "Malee"
reason = "One who leaves costs a year's fees."

[[goal.objective]]
name = "found"
metric = "test_recall"
at_least = 0.7
cost_of_miss = 20000
"""
RISKS = """[[model]]
name = "churn"
intended_use = "Decide whom to call."
out_of_scope_use = ["setting prices"]

[[model.risk]]
name = "no opt-out"
harm = "People are called against their will."
status = "open"
"""


class Balance(HTMLParser):
    "Tags that were opened, and whether each was closed"
    void = {"meta", "img", "br", "link"}

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.attributes = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def is_whole(page):
    "Whether a page is balanced, has no scripts, and needs nothing from elsewhere"
    found = Balance()
    found.feed(page)
    links = [value for name, value in found.attributes if name in ("src", "href")]
    return not found.open and "script" not in found.tags and all(each.startswith(("#", "data:")) for each in links)


def evaluation_of(model, recall, **more):
    metrics = {"test_recall": recall, "test_recall_lower": recall - 0.05, "test_recall_upper": recall + 0.05, "test_roc_auc": 0.84321}
    return Evaluation(model, "customers:v1, test rows", "binary", "leaves", 80, {"level": 0.95, "threshold": 0.5}, metrics, **more)


def full_evaluation(model, recall=0.74):
    "With a value in each part, and names that no form may take literally"
    rates = tuple(GroupRate("gender", group, 40, "selection_rate", value, value - 0.1, value + 0.1) for group,
        value in (("f", 0.3), (NASTY, 0.5)))
    fair = Fairness(rates, (Gap("gender", "demographic_parity_difference", 0.2, 0.05, 0.35, ("f", NASTY)),))
    tough = Robustness((Drop("tenure x 1000", "units", "roc_auc", 0.84, 0.5, 0.34, 0.3, 0.4),
        Drop("noise", "noise", "roc_auc", 0.84, *[float("nan")] * 4, "no finite output")), 80)
    slices = tuple({"slice": f"contract = {NASTY}", "rows": 30, "metric": name, "value": 0.6, "lower": 0.5, "upper": float("nan"),
        "note": ""} for name in ("roc_auc", "f1"))
    return evaluation_of(model, recall, findings=(Finding("size", False, "80 rows are few"),), fairness=fair, robustness=tough,
        slices=slices)


def keep_evaluation(run, folder, evaluation, **details):
    "As an evaluation keeps it"
    folder.mkdir()
    (folder / "evaluation.json").write_text(json.dumps(evaluation.to_dict(), sort_keys=True, allow_nan=False))
    save_details(make_details(evaluation.model, **details), folder)
    return run.log_artifact(folder, "churn-evaluation", "evaluation")


def keep_explanation(run, folder, model, passed):
    "As an explanation keeps it"
    folder.mkdir()
    checks = [{"name": "completeness", "value": 0.3, "threshold": 0.05, "passed": passed, "message": "the shares miss the margin"},
              {"name": "skill", "value": None, "threshold": 0.0, "passed": None, "message": "not measured"}]
    content = {"method": "integrated_gradients", "message": "tenure first", "passed": passed, "rows": 80, "baseline": "the mean row",
        "unit": "log-odds",
               "checks": checks, "importance": [{"column": NASTY, "importance": 0.5, "lower": 0.4, "upper": 0.6}]}
    (folder / "explanation.json").write_text(json.dumps(content))
    (folder / "explanation.png").write_bytes(PNG)
    return run.log_artifact(folder, "churn-explanation", "explanation", metadata={"model": model})


@pytest.fixture
def store(tmp_path):
    "A workspace in a folder with a space and Thai letters; its model is of files"
    root = tmp_path / "my ตาราง"
    root.mkdir()
    (root / "settings.ini").write_text("[workspace]\nproject = churn\n\n[wandb]\nmode = disabled\n\n[hardware]\ncost_per_hour = 2\n")
    (root / "objectives.toml").write_text(OBJECTIVES)
    (root / "risks.toml").write_text(RISKS)
    store = open_store(open_workspace(root))
    for weight in (-0.4, -0.5):  # two versions
        log_weights(store, weight)
    return store


def log_weights(store, weight):
    path = store.workspace.root / "weights.csv"
    pd.DataFrame({"tenure": [weight]}).to_csv(path, index=False)
    with start_run("train", workspace=store.workspace, config={"epochs": 20, "note": NASTY}) as run:
        run.log_artifact(path, "churn", "model", metadata={"task": "binary", "target": "leaves", "classes": ["No", "Yes"]})


def evaluate(store, reference, recall=0.74, passed=True, name="evaluate"):
    "A run that used a model, and kept an evaluation and an explanation of it"
    with start_run(name, workspace=store.workspace) as run:
        model = run.use_artifact(reference).reference
        folder = store.workspace.root / f"kept {run.id}"
        folder.mkdir()
        worst = pd.DataFrame([{"slice": NASTY, "rows": 40, "value": 0.6, "rest": 0.9, "gap": 0.3, "lower": 0.1, "upper": float("nan"),
            "p_value": 0.01, "worse": True}])
        worst.attrs["method"] = "found in one half, measured in the other"
        keep_evaluation(run, folder / "evaluation", full_evaluation(model, recall), worst=worst)
        keep_explanation(run, folder / "explanation", model, passed)
        return model


def text_of(card, title):
    return sections_markdown(card.title, card.lead, [card.section(title)])


def test_everything_that_was_measured_is_there(store):
    evaluate(store, "churn")
    card = model_card(store, "churn")
    for title, words in {
        "Decision": ["does not pass", "0.69 to 0.79", "lower bound", "missed", "20,000 EUR", "80 rows are few"],
        "Purpose": ["Keep customers", "Malee", "Decide whom to call", "setting prices", "no opt-out"],
        "Metrics": ["test_roc_auc", "0.8432", "0.69 to 0.79", "80 rows", "churn-evaluation:v0"],
        "Slices": ["found in one half", "contract ="], "Fairness": ["demographic parity", "0.2 (0.05 to 0.35)"],
        "Robustness": ["tenure x 1000", "0.3 to 0.4", "no finite output"],
            "Explanations": ["tenure first", "the mean row", "Checks that were not made: skill"],
        "Model": ["churn:v1", "leaves", "No, Yes", "epochs"], "Lineage": ["churn:v1", "evaluate", "explanation"], "Cost": ["EUR", "train"],
        "Environment": ["Python", "torch"]}.items():
        for word in words:
            assert word.lower() in text_of(card, title).lower(), (title, word)
    assert not card.passed


def test_limits_gather_what_speaks_against_the_model(store):
    evaluate(store, "churn", passed=False)
    limits = text_of(model_card(store, "churn"), "Limits")
    for word in ("found missed", "no opt-out", "completeness", "Worse for", "80 rows are few", "setting prices"):
        assert word in limits, word


def test_a_card_is_about_one_version(store):
    evaluate(store, "churn:v0", recall=0.91)
    assert model_card(store, "churn:v1").lead == "Nobody evaluated this version."
    assert "0.91" in text_of(model_card(store, "churn:v0"), "Metrics")


def test_a_run_that_used_two_models_speaks_of_one(store):
    with start_run("compare", workspace=store.workspace) as run:
        run.use_artifact("churn:v0"), run.use_artifact("churn:v1")
        keep_evaluation(run, store.workspace.root / "kept", evaluation_of("churn:v0", 0.91))
        keep_explanation(run, store.workspace.root / "why", "churn:v0", True)
    other = model_card(store, "churn:v1")
    assert other.evidence.evaluation is None and other.evidence.details is None and other.evidence.explanations == ()
    assert model_card(store, "churn:v0").evidence.evaluation.metrics["test_recall"] == 0.91


def test_the_newest_evaluation_counts(store):
    evaluate(store, "churn", recall=0.74)
    evaluate(store, "churn", recall=0.88)
    assert "0.88" in text_of(model_card(store, "churn"), "Metrics")
    evaluate(store, "churn", recall=0.74)  # the same again, which is no new version
    assert "0.74" in text_of(model_card(store, "churn"), "Metrics")


def test_what_a_failed_run_kept_does_not_count(store):
    with pytest.raises(ZeroDivisionError), start_run("evaluate", workspace=store.workspace) as run:
        run.use_artifact("churn")
        keep_evaluation(run, store.workspace.root / "kept", evaluation_of("churn:v1", 0.91))
        raise ZeroDivisionError
    assert model_card(store, "churn").evidence.evaluation is None


def test_a_card_without_an_evaluation_says_so(store):
    card = model_card(store, "churn")
    for title in ("Decision", "Metrics", "Slices", "Operating points", "Fairness", "Robustness", "Explanations"):
        assert "Not evaluated" in text_of(card, title), title
    assert is_whole(card.html())


def test_no_name_breaks_the_page(store):
    evaluate(store, "churn")
    page = model_card(store, "churn").html()
    assert is_whole(page) and "<script" not in page and "&lt;script&gt;" in page


def test_rows_of_markdown_have_the_cells_of_their_header(store):
    evaluate(store, "churn")
    width, text = None, model_card(store, "churn").markdown()
    for line in text.splitlines():
        cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else None
        assert None in (width, cells) or cells == width, line
        width = cells
    assert "<script" not in text


def test_equal_records_give_an_equal_card(store):
    evaluate(store, "churn")
    assert model_card(store, "churn").html() == model_card(store, "churn:v1").html()


def test_the_card_stands_in_the_lineage_of_its_model(store):
    card = model_card(store, "churn")
    with start_run("card", workspace=store.workspace) as run:
        kept = log_card(run, card)
    assert (kept.type, kept.metadata["model"], kept.name) == ("model_card", "churn:v1", "churn-card")
    assert ("used", "churn:v1") in [(relation, each.reference) for relation, each in store.artifacts.edges_of(run.id)]
    assert is_whole(kept.path("model_card.html").read_text(encoding="utf-8"))


def test_the_card_is_asked_for_what_it_was_read_from(store):
    "By the name of the newest version, so that a newer one is noticed; an older one by its own"
    evaluate(store, "churn")
    with start_run("card", workspace=store.workspace) as run:
        log_card(run, model_card(store, "churn"))
    uses = {use.requested for each in store.artifacts.versions() for use in store.artifacts.uses_of(each) if use.run_id == run.id}
    assert {"churn-evaluation:latest", "churn-explanation:latest"} <= uses
    with start_run("look", workspace=store.workspace) as other:
        other.use_artifact("churn")
        keep_evaluation(other, store.workspace.root / "elsewhere", replace(evaluation_of("churn:v0", 0.2)))
    with start_run("card", workspace=store.workspace) as run:
        log_card(run, model_card(store, "churn"))
    uses = {use.requested for each in store.artifacts.versions() for use in store.artifacts.uses_of(each) if use.run_id == run.id}
    assert "churn-evaluation:v0" in uses and "churn-evaluation:latest" not in uses


def test_an_evaluation_of_less_does_not_undo_what_was_found(store):
    "Equal rows and threshold: what an evaluation lacks is taken from an older one, and named"
    evaluate(store, "churn", recall=0.74)
    with start_run("evaluate", workspace=store.workspace) as run:
        run.use_artifact("churn")
        keep_evaluation(run, store.workspace.root / "less", evaluation_of("churn:v1", 0.75))
    card = model_card(store, "churn")
    assert "0.75" in text_of(card, "Metrics") and "churn-evaluation:v1" in text_of(card, "Metrics")
    for title in ("Slices", "Fairness", "Robustness"):
        assert "From churn-evaluation:v0: customers:v1, test rows" in text_of(card, title), title
    with start_run("evaluate", workspace=store.workspace) as run:
        run.use_artifact("churn")
        keep_evaluation(run, store.workspace.root / "other", replace(evaluation_of("churn:v1", 0.76), plan={"threshold": 0.3}))
    assert "Not evaluated" in text_of(model_card(store, "churn"), "Fairness"), "another threshold gives other groups"


def test_the_rows_that_were_kept_for_testing_go_first():
    from mlops_nb.evaluation.card_evidence import choose_evaluation
    own, other = evaluation_of("churn:v1", 0.7), replace(evaluation_of("churn:v1", 0.9), data="mixed.csv (sha256 0)")
    assert choose_evaluation([(other, "e:v1"), (own, "e:v0")], own.data)[1] == "e:v0"
    assert choose_evaluation([(other, "e:v1"), (own, "e:v0")], "")[1] == "e:v1"


def test_a_card_says_a_thing_once(store):
    evaluate(store, "churn")
    card = model_card(store, "churn")
    assert card.lead.startswith("Not good enough") and card.markdown().count(f"{card.evidence.gate.message}.") == 1
    (store.workspace.root / "objectives.toml").unlink()
    (store.workspace.root / "risks.toml").write_text(RISKS.replace('"churn"', '"chrun"'))
    evaluate(store, "churn")
    card = model_card(store, "churn")
    assert "is not judged: there are no objectives" in text_of(card, "Decision") and "Not good:" not in text_of(card, "Decision")
    assert "risks.toml has no model 'churn'; did you mean 'chrun'?" in text_of(card, "Purpose") and "?." not in text_of(card, "Purpose")


def test_a_file_is_whole_or_not_there(store, tmp_path):
    card = model_card(store, "churn")
    assert card.save(tmp_path / "การ์ด 1.HTML").read_text(encoding="utf-8") == card.html()
    for path in (tmp_path / "card.pdf", tmp_path / "card", tmp_path / "nowhere" / "card.md"):
        with pytest.raises(DataError):
            card.save(path)
    assert [each.name for each in tmp_path.iterdir() if each.is_file()] == ["การ์ด 1.HTML"]


def test_what_is_refused(store):
    with start_run("write", workspace=store.workspace) as run:
        run.log_artifact(store.workspace.root / "weights.csv", "notes", "report")
    with pytest.raises(ModelError, match="'report', not 'model'"):
        model_card(store, "notes")
    with pytest.raises(NotFoundError, match="did you mean 'churn"):
        model_card(store, "chrun")
    for name, error in (("risks.toml", RisksError), ("objectives.toml", ObjectivesError)):
        path = store.workspace.root / name
        before = path.read_text()
        path.write_text("[[")
        with pytest.raises(error, match="line 1"):
            model_card(store, "churn")
        path.write_text(before)


def test_without_files_of_people_the_card_says_what_is_missing(store):
    for name in ("risks.toml", "objectives.toml"):
        (store.workspace.root / name).unlink()
    evaluate(store, "churn")
    card = model_card(store, "churn")
    assert "there is no risks.toml" in text_of(card, "Purpose").lower() and "no objectives" in text_of(card, "Decision")


def test_parts():
    [grid] = make_grid("T", ("A", ">B", "C"), [("x", 1, ""), ("y", None, "")])
    assert grid == Grid("T", ("A", ">B"), (("x", "1"), ("y", "")))
    first, rest = make_grid("T", ("A",), [(str(each),) for each in range(50)])
    assert len(first.rows) == 40 and "10 more" in rest.text
    section = Section("S", (Text("t", "bad"), Facts((("n", "v"),)), grid, Picture("p", PNG), *make_grid("empty", ("A",), [])))
    assert is_whole(page_html("t", "l", [section])) and "data:image/png;base64," in page_html("t", "l", [section])
    with pytest.raises(TypeError, match="allowed are"):
        page_html("t", "l", [replace(section, parts=("text",))])


def test_no_part_of_the_card_is_silent_about_where_it_is(store):
    "Ids of sections are those that the links above lead to"
    page = model_card(store, "churn").html()
    assert re.findall(r'href="#(card-\d+)"', page) == re.findall(r'<section id="(card-\d+)"', page)


def test_evidence_is_not_changed_by_making_the_card(store):
    evaluate(store, "churn")
    before = {path: path.stat().st_mtime_ns for path in Path(store.workspace.store_dir).rglob("*") if path.is_file()
        and "artifacts" not in path.parts}
    edges = [store.artifacts.uses_of(each) for each in store.artifacts.versions()]
    model_card(store, "churn")
    assert edges == [store.artifacts.uses_of(each) for each in store.artifacts.versions()]
    assert {path for path in before} <= {path for path in Path(store.workspace.store_dir).rglob("*")}
