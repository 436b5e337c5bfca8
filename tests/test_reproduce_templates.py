"""Every run of the demo and of the real tables, run again: the same metrics and the same bytes. Minutes each: `make soak`."""
import json
from pathlib import Path

import demo
import pytest
from commands import call, read
from test_real_tables import workspace_about

pytestmark = pytest.mark.soak


def check_all(workspace: Path, count: int) -> None:
    "Reproduce all runs, and look for the same bytes."
    found = read(workspace, "reproduce", "--all")
    print(json.dumps([[each["name"], each["message"], each["compared"]] for each in found], indent=1))
    assert len(found) == count
    assert [each["message"] for each in found if each["verdict"] != "identical"] == []
    assert all(each["inputs"] or each["name"] == "prepare" for each in found)
    versions = [run["logged"] for each in found for run in [read(workspace, "runs", "show", each["reproduction"])]]
    assert all(version["run_id"] != each["reproduction"] for each, logged in zip(found, versions) for version in logged)  # no new version


def test_every_run_of_the_demo(tmp_path, monkeypatch):
    folder = tmp_path / "demo"
    monkeypatch.setattr(demo, "DEMO", folder)
    monkeypatch.setitem(demo.call.__kwdefaults__, "folder", folder)
    monkeypatch.delenv("MPLBACKEND")  # figures are made as for a person, now and when they are made again
    demo.main()
    aliases = read(folder, "lineage", "digits-model:best")["root"]
    check_all(folder, 13)  # one preparation, and for each of four models three more notebooks
    assert read(folder, "lineage", "digits-model:best")["root"] == aliases


REAL_TABLES = {
    "telco_churn.csv": ["--target", "Churn", "--key", "customerID"],
    "bike_sharing_hourly.csv": ["--target", "cnt", "--time", "dteday", "--exclude", "casual", "registered", "instant"],
    "electricity.csv": ["--target", "class"],
}


@pytest.mark.parametrize(("name", "options"), [
    pytest.param(name, options, marks=pytest.mark.public_table(name)) for name, options in REAL_TABLES.items()])
def test_every_run_of_a_real_table(tmp_path, name, options):
    workspace = workspace_about(tmp_path, name, *options)
    call(workspace, "run")
    check_all(workspace, 4)
