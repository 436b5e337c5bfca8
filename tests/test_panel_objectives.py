"Objectives and evaluations in a panel and in a saved notebook: what holds, for whom not, why, and which of two versions is better."
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from evaluated_models import NASTY, evaluate, fill, keep_explanation
from lab_pages import browser, check_axe, lab, open_notebook, page  # noqa: F401
from mlops_nb.settings import open_workspace
from mlops_nb.store.door import open_store
from mlops_nb.widgets.evaluated_versions import champions, evaluated_versions
from mlops_nb.widgets.objectives_start import goals_or_none
from mlops_nb.widgets.objectives_view import ObjectivesPanel, look, objectives_html
from playwright.sync_api import expect
from waiting import wait_until


class Text(HTMLParser):
    "The text of a page, and its tags"
    def __init__(self, text):
        super().__init__()
        self.words, self.tags, self.attributes = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in ("wbr", "strong", "code"):
            self.words.append(" ")
        self.attributes += [name for name, _ in attrs]

    def handle_data(self, data):
        self.words.append(data)

    def __str__(self):
        return " ".join("".join(self.words).split())


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    "A store that no test changes"
    store = fill(tmp_path_factory.mktemp("my ตาราง"))
    keep_explanation(store, "churn:v0")
    return store


def card_of(board, objective):
    "The text of one card"
    return str(Text(next(each for each in re.findall("<article.*?</article>", board, re.DOTALL) if objective in each)))


def test_each_objective_has_a_card_with_its_evidence(filled):
    board = look(filled).board
    met, missed, fair, unknown = (card_of(board, each) for each in ("told apart", "rarely wrong", "women and men", "rings"))
    for card, words in {met: ("✓met", "at least 0.8", "lower bound counts", "reached", "20,000 EUR", "churn:v0 (production)"),
                        missed: ("✗missed", "short of it", "below linear, which reaches 0.71", "700 EUR, lost now"),
                        fair: ("✓met", "guardrail", "at most 0.3", "no price is set"),
                        unknown: ("?not measured", "log calls_per_customer in campaign")}.items():
        for word in words:
            assert word in card, (word, card)
    assert "Does not hold for churn:v0 (production): 2 of 4 objectives met" in str(Text(board)) and "the misses cost 50,700 EUR" in board


def test_the_version_in_production_speaks_for_the_model(filled):
    assert [each.reference for each in champions(filled)] == ["churn:v0"]
    found = look(filled, "churn:v1")
    assert found.title == "churn:v1" and found.champion.title == "churn:v0 (production)"


def test_a_version_in_detail(filled):
    parts = {title: str(Text(inside)) for title, inside in look(filled).detail}
    for title, words in {"Gates": ("churn:v0 does not pass", "rarely wrong missed: lower bound", "costs 700 EUR", "rings not measured"),
                         "Slices": ("gender = f", "roc_auc by slice"), "Fairness": ("demographic parity",),
                         "Operating points": ("as now", "They cost least"), "Metrics": ("test_roc_auc",),
                         "Explanations": ("Refused", "skill", "failed", "completeness (faithful: adds up)", "tenure",
                                          "sensitivity (stable: near rows)", "not measured: this model has no weights")}.items():
        for word in words:
            assert word in parts[title], (title, word)
    values = [float(each) for each in re.findall(r"(?:gender|senior) = \w \d+ (0\.\d+)", parts["Slices"])]
    assert len(values) == 4 and values == sorted(values), "the worst slice first"


def test_figures_of_explanations_are_kept_and_left_out_where_they_are_too_large(filled, monkeypatch):
    explained = dict(look(filled).detail)["Explanations"]
    assert "data:image/png;base64," in explained and "figure of an explanation that was refused" in explained
    assert "data:image/png" not in dict(look(filled, pictures=False).detail)["Explanations"]
    monkeypatch.setattr("mlops_nb.widgets.objectives_view.MOST_BYTES", 30_000)
    saved = objectives_html(filled, beside="churn:v1")
    assert len(saved.encode()) < 30_000 and "data:image" not in saved and "Left out, as this is too long" in saved


def test_two_versions_side_by_side(filled):
    text = str(Text(look(filled, "churn:v1", "churn:v0").pair))
    for words in ("churn:v1 beside churn:v0", "McNemar", "DeLong", "differ by more than chance", "may be chance",
                  "Kept as churn-comparison:v0", "▲ better", "= equal", "gender = f", "rarely wrong", "told apart"):
        assert words in text, words
    assert "measured on different rows" not in text.lower()
    assert "▼ worse" in str(Text(look(filled, "churn:v0", "churn:v1").pair))


def test_the_saved_face_is_small_has_no_scripts_and_escapes_names(filled):
    saved = objectives_html(filled, beside="churn:v1")
    found = Text(saved)
    assert len(saved.encode()) < 100_000 and NASTY not in saved and NASTY in str(found)
    assert "script" not in found.tags and not [each for each in found.attributes if each.startswith("on")]
    assert "not measured" in saved and "Paired test" in saved


def test_an_empty_workspace_says_what_to_do(tmp_path):
    store = open_store(open_workspace(tmp_path))
    text = str(Text(objectives_html(store)))
    for words in ("No objectives yet", "objectives.toml", "mlops-nb init", "mlops-nb run", "mlops-nb evaluate MODEL --gate"):
        assert words in text, words


def test_goals_without_an_evaluation_name_the_models(tmp_path):
    fill_model(tmp_path)
    text = str(Text(objectives_html(open_store(open_workspace(tmp_path)))))
    assert "Nothing was evaluated yet" in text and "not measured" in text
    assert "churn is a model of files: log a model with log_model" in text and "mlops-nb evaluate" not in text


def fill_model(root, objectives="[[goal]]\nname='g'\nowner='o'\nreason='r'\n[[goal.objective]]\nmetric='test_recall'\nat_least=0.5"):
    "A workspace with a model of files"
    from mlops_nb.store.session import start_run
    (root / "settings.ini").write_text("[wandb]\nmode = disabled\n")
    (root / "objectives.toml").write_text(objectives)
    (root / "weights.csv").write_text("1")
    with start_run("train", workspace=root) as run:
        return run.log_artifact(root / "weights.csv", "churn", "model").reference


def test_what_is_wrong_stands_in_its_place_and_the_rest_goes_on(tmp_path):
    fill_model(tmp_path, "[[goal]]\nname = 3\n")
    text = str(Text(objectives_html(open_store(open_workspace(tmp_path)), "chrun:v0")))
    assert "objectives.toml" in text and "line 1" in text and "did you mean 'churn" in text


def test_an_evaluation_of_another_form_is_no_obstacle(tmp_path):
    "A notebook may keep a file of this name with names of its own; what its run logged still counts"
    from mlops_nb.store.session import start_run
    model = fill_model(tmp_path)
    (tmp_path / "evaluation.json").write_text('{"images": 3}')
    with start_run("evaluate", workspace=tmp_path) as run:
        run.use_artifact(model)
        run.log({"test_recall": 0.7})
        run.log_artifact(tmp_path / "evaluation.json", "churn-evaluation", "evaluation")
    found = look(open_store(open_workspace(tmp_path)))
    assert "0.7" in card_of(found.board, "test_recall") and "Holds for churn:v0 (latest): 1 of 1 objectives met" in str(Text(found.board))
    [(title, inside)] = found.detail  # no section asks for what this model cannot do
    assert title == "" and "its run evaluate logged figures only" in inside
    assert "mlops-nb evaluate" not in objectives_html(store_of(tmp_path))


def store_of(root):
    return open_store(open_workspace(root))


def test_only_an_alias_makes_a_champion_and_no_version_stands_beside_itself(tmp_path):
    store = fill(tmp_path)
    panel = ObjectivesPanel(store, beside="churn:v1")
    try:
        wait_until(lambda: panel.version.options[0][0] == "The champion: churn:v0 (production)")
        assert [value for _, value in panel.beside.options] == ["", "churn:v1"]
        store.artifacts.unalias("churn:v0", "production")
        panel.pulse._handle_custom_msg({}, [])  # somebody looks
        wait_until(lambda: panel.version.options[0][0] == "The newest: churn:v1 (latest)")
        wait_until(lambda: [value for _, value in panel.beside.options] == ["", "churn:v0"] and panel.beside.value == "")
        store.artifacts.alias("churn:v0", "champion")
        wait_until(lambda: panel.version.options[0][0] == "The champion: churn:v0 (champion)")
    finally:
        panel.close()
        panel.feed._thread.join(20)


# Live


def test_the_panel_follows_what_happens_and_is_found_by_text(tmp_path):
    store = fill(tmp_path)
    panel = ObjectivesPanel(store)
    try:
        wait_until(lambda: "churn:v0 (production)" in panel.board.value)
        assert [value for _, value in panel.version.options] == ["", "churn:v1", "churn:v0"]
        panel.find.value = "PROD"
        wait_until(lambda: [value for _, value in panel.version.options] == ["", "churn:v0"])
        panel.find.value = "nobody"
        wait_until(lambda: "No evaluated version has" in panel.said.value)
        panel.find.value, panel.version.value, panel.beside.value = "", "", ""
        store.artifacts.unalias("churn:v0", "production")
        panel.pulse._handle_custom_msg({}, [])  # somebody looks, and nothing else is done
        wait_until(lambda: "churn:v1 (latest)" in panel.board.value)
        panel.version.value = "churn:v0"
        wait_until(lambda: "<h3>churn:v0</h3>" in panel.detail.value)
        panel.beside.value = "churn:v1"
        wait_until(lambda: "churn:v0 beside churn:v1" in panel.pair.value)
        assert panel.version.value == "churn:v0" and panel.problems.value == ""
    finally:
        panel.close()
        panel.feed._thread.join(20)


def test_nothing_is_asked_twice_while_nothing_happens(filled, monkeypatch):
    panel, looks = ObjectivesPanel(filled), []
    try:
        wait_until(lambda: panel._seen is not None)
        monkeypatch.setattr("mlops_nb.widgets.objectives_view.look", lambda *wanted: looks.append(wanted))
        panel.ask(), panel.ask()
        assert looks == []
    finally:
        panel.close()


@pytest.fixture(scope="module")
def notebook(lab):  # noqa: F811
    "The store of the lab's workspace, with evaluations"
    store = fill(lab.root)
    keep_explanation(store, "churn:v0")
    return store


SHOW = """from mlops_nb.store.door import open_store
from mlops_nb.widgets.objectives_view import ObjectivesPanel
ObjectivesPanel(open_store())"""


def test_a_version_is_chosen_and_compared_in_the_page(notebook, lab, page):  # noqa: F811
    open_notebook(page, lab, SHOW)
    panel = page.locator(".mlops-panel")
    expect(panel.locator("article", has_text="rarely wrong")).to_contain_text("✗missed")
    expect(panel.locator("h3", has_text="churn:v0")).to_be_visible()
    page.get_by_label("Version", exact=True).select_option("churn:v1 (latest)")
    expect(panel.locator("h3", has_text="churn:v1")).to_be_visible()
    page.get_by_label("Beside", exact=True).select_option("churn:v0 (production)")
    expect(panel.get_by_role("heading", name="churn:v1 beside churn:v0")).to_be_visible()
    panel.locator("summary", has_text="Operating points").press("Enter")
    expect(panel.get_by_text("They cost least")).to_be_visible()
    check_axe(page)
    assert page.evaluate("document.querySelectorAll('.mlops-panel img[src=x]').length") == 0


def test_the_panel_in_the_dark_at_the_side_shows_a_new_evaluation(notebook, lab, page):  # noqa: F811
    narrow = "panel = ObjectivesPanel(open_store(), beside='churn:v1')\npanel.layout.width = '320px'\npanel"
    open_notebook(page, lab, SHOW.replace("ObjectivesPanel(open_store())", narrow), theme="dark")
    panel = page.locator(".mlops-panel")
    expect(panel.locator("article").first).to_be_visible()
    expect(panel.get_by_text("Paired test", exact=True)).to_be_visible()
    check_axe(page)
    assert panel.evaluate("panel => panel.scrollWidth - panel.clientWidth") == 0
    kept = evaluate(notebook, "churn:v0", resamples=60).artifact  # another one of the champion
    expect(panel.locator("article", has_text="told apart")).to_contain_text(kept)


def test_only_champions_that_are_needed_are_looked_at(filled, monkeypatch):
    "What the first one knows is asked of no other; without goals none is judged, and a saved face lists no versions"
    from mlops_nb.widgets import objectives_view
    asked, evidence_of, goals = [], objectives_view.evidence_of, goals_or_none(filled)
    both = [*champions(filled), *evaluated_versions(filled, "churn:v1")]

    def ask(store, reference, goals):
        asked.append(reference)
        return evidence_of(store, reference, goals)

    monkeypatch.setattr(objectives_view, "evidence_of", ask)
    monkeypatch.setattr(objectives_view, "champions", lambda store: both)
    monkeypatch.setattr(objectives_view, "evaluated_versions", lambda *_: pytest.fail("nobody reads a list of versions there"))
    for known, words, wanted in ((goals, "rings", {"churn:v0", "churn:v1"}), (None, "No objectives yet", {"churn:v0"}),
                                 ((replace(goals[0], objectives=goals[0].objectives[:1]),), "told apart", {"churn:v0"})):
        monkeypatch.setattr(objectives_view, "goals_or_none", lambda store, known=known: known)
        asked.clear()
        assert words in objectives_html(filled) and set(asked) == wanted
