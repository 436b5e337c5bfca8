"""`mlops-nb artifacts`: what people see in 80 columns, what programs read, and what a hostile name or a full folder cannot do."""

import json

import pytest
from click.testing import CliRunner
from rich.cells import cell_len

from mlops_nb.cli import main
from mlops_nb.store import tables
from mlops_nb.store.garbage import plan
from mlops_nb.store.references import refer


@pytest.fixture
def run(store):
    return store.runs.create(project="digits", name="prepare")


def log(store, run, text, path="data.csv", name="digits", **options):
    source = store.workspace.root / "source.txt"
    source.write_text(text)
    return store.artifacts.log(run.id, name, "dataset", {path: source}, **options)


def call(*arguments, status=0, **options):
    result = CliRunner(env={"COLUMNS": "80"}).invoke(main, ["artifacts", *map(str, arguments)], **options)
    assert result.exit_code == status, result.output
    assert all(cell_len(line) <= 80 for line in result.stdout.splitlines() if "--json" not in arguments) or status
    return result


def test_lists_are_filtered_and_limited(store, run):
    assert "No artifacts here yet" in call("list").stdout
    for number in range(35): log(store, run, str(number), aliases=("best",) if number == 3 else ())
    log(store, run, "net", name="n" * 128)
    assert "The newest 30" in call("list").stdout
    assert "digits:v3 " in call("list", "--alias", "best").stdout and "digits:v3 " not in call("list", "DIG*", "--limit", "2").stdout
    assert len(json.loads(call("list", "--json").stdout)) == 36
    assert call("list", "--type", "model").stdout == "No artifact fits.\n"


def test_everything_known_is_shown(store, run):
    other = store.runs.create(project="digits", name="train")
    artifact = log(store, run, "1,7", metadata={"rows": 1, "note": "\x1b[31m"}, aliases=("best",))
    store.artifacts.use(other.id, "digits:best")
    store.artifacts.remember_wandb_digest(artifact, "fedcba98")
    text = call("show", "digits").stdout
    for each in (artifact.digest, "fedcba98", "best, latest", "made by", f"prepare {run.id}", f"train {other.id}  as digits:best",
                 "latest to v0", "\\x1b[31m"):
        assert each in text
    assert "\x1b[31m" not in text
    data = json.loads(call("show", f"sha256:{artifact.digest[:10]}", "--json").stdout)
    assert [each["relation"] for each in data["runs"]] == ["logged", "used"] and data["files"][0]["path"] == "data.csv"
    assert len(data["alias_history"]) == 2
    assert "did you mean 'digits'" in call("show", "digit", status=2).stderr


def test_files_are_fetched_and_nothing_is_overwritten(store, run, tmp_path):
    log(store, run, "1", path="sub/ข้อมูล.csv")
    log(store, run, "2", path="sub/ข้อมูล.csv")
    call("get", "digits:v0")
    assert (tmp_path / "digits-v0/sub/ข้อมูล.csv").read_text() == "1"
    call("get", "digits:v0")  # the same again
    assert "--force" in call("get", "digits:v1", "digits-v0", status=2).stderr
    assert (tmp_path / "digits-v0/sub/ข้อมูล.csv").read_text() == "1"
    call("get", "digits:v1", "digits-v0", "--force", "--file", "sub/ข้อมูล.csv")
    assert (tmp_path / "digits-v0/sub/ข้อมูล.csv").read_text() == "2"
    assert "no file in digits:v1 'other'" in call("get", "digits:v1", "--file", "other", status=2).stderr


def test_links_in_the_target_are_not_followed(store, run, tmp_path):
    log(store, run, "1", path="sub/data.csv")
    outside = tmp_path / "outside"
    (tmp_path / "out").mkdir()
    outside.mkdir()
    (tmp_path / "out" / "sub").symlink_to(outside)
    assert "a link on the way" in call("get", "digits", "out", "--force", status=2).stderr
    (tmp_path / "out" / "sub").unlink()
    (tmp_path / "out" / "sub").mkdir()
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "out" / "sub" / "data.csv").symlink_to(tmp_path / "precious")
    assert "--force" in call("get", "digits", "out", status=2).stderr
    call("get", "digits", "out", "--force")
    assert (tmp_path / "precious").read_text() == "precious" and not list(outside.iterdir())
    (tmp_path / "link").symlink_to(outside)  # chosen by the person who calls
    call("get", "digits", "link")
    assert (outside / "sub" / "data.csv").read_text() == "1"


def test_damage_is_named_with_a_status(store, run, tmp_path):
    artifact = log(store, run, "right")
    store.artifacts.log(run.id, "there", "dataset", {}, references=refer(tmp_path / "source.txt", tmp_path))
    assert "All is as it was." in call("verify").stdout
    [blob] = artifact.blob_paths().values()
    blob.chmod(0o644)
    blob.write_text("wrong")
    (tmp_path / "source.txt").write_text("changed")
    text = call("verify", status=1).stdout
    assert "digits:v0 data.csv: blob" in text and "there:v0 source.txt: file:source.txt has changed" in text
    assert [each["where"] for each in json.loads(call("verify", "there", "--json",
                                                      status=1).stdout)["damages"]] == [["there:v0 source.txt"]]
    assert "is corrupted" in call("get", "digits", status=2).stderr and not (tmp_path / "digits-v0" / "data.csv").exists()


def test_versions_are_compared(store, run):
    log(store, run, "a\nb\n", metadata={"rows": {"train": 1}})
    log(store, run, "a\nc\n", metadata={"rows": {"train": 2}})
    text = call("diff", "digits:v0", "digits:v1", "--text").stdout
    assert "changed" in text and "rows.train" in text and "-b\n+c\n" in text
    data = json.loads(call("diff", "digits:v0", "digits:v1", "--json").stdout)
    assert data["metadata"] == {"rows.train": [1, 2]} and [each["change"] for each in data["files"]] == ["changed"]
    assert "the same files and metadata" in call("diff", "digits:v0", "digits:v0").stdout


def test_aliases_are_put_and_taken_away(store, run):
    log(store, run, "1")
    assert call("alias", "digits:v0", "best", "รุ่นดี").stdout == "digits:v0: best, latest, รุ่นดี\n"
    assert call("alias", "digits:v0", "best", "--remove").stdout == "digits:v0: latest, รุ่นดี\n"
    assert "logged last" in call("alias", "digits:v0", "other", "latest", status=2).stderr
    assert "other" not in call("show", "digits:v0").stdout  # all or nothing


def test_gc_shows_asks_and_removes(store, run):
    log(store, run, "1")
    log(store, run, "2")
    assert call("gc", "--dry-run").stdout.endswith("2 versions kept: 1 by an alias, 1 by runs.\n")
    assert json.loads(call("gc", "--dry-run", "--json").stdout)["kept"] == {"alias": 1, "run": 1}
    store.runs.finish(run.id, "finished")
    store.runs.delete(run.id)
    assert "digits:v0" in call("gc", "--dry-run").stdout
    assert json.loads(call("gc", "--dry-run", "--json").stdout)["versions"][0]["reference"] == "digits:v0"
    assert json.loads(call("gc", "--dry-run", "--json", "--older-than", "1").stdout)["versions"] == []
    result = call("gc", input="n\n", status=1)
    assert "Remove all of this?" in result.stderr and len(store.artifacts.versions()) == 2
    assert call("gc", "--yes").stdout.startswith("Removed: ")
    assert [each.version for each in store.artifacts.versions()] == ["v1"] and not plan(store).versions
    assert "removed" in call("list", "--all").stdout and "v0" not in call("list").stdout
    assert call("gc").stdout == "Nothing to remove.\n"
    assert "was removed on" in call("show", "digits:v0", status=2).stderr


def test_a_tampered_catalog_writes_nothing_outside(store, run, tmp_path):
    log(store, run, "1")
    with store.catalog.write() as connection: connection.execute(tables.artifact_files.update().values(path="../evil"))
    assert "without '..'" in call("get", "digits", "out", status=2).stderr
    assert not (tmp_path / "evil").exists()
