"""What `mlops-nb init` refuses of a table, and what it takes only on purpose."""
import numpy as np
import pandas as pd
import pytest
from commands import call, refuse
from mlops_nb.objectives import read_objectives
from test_template_tabular import tumours


def many_clinics(good):
    "Every clinic about once"
    rows = range(100 * len(good))
    return pd.concat([good] * 100).assign(clinic=[f"clinic {row % 50_000}" for row in rows], case=rows)


def with_outcome(good):
    "A column that was written down after the diagnosis"
    return good.assign(outcome=np.where(good.diagnosis == "benign", 1.5, 0.5) + np.arange(len(good)) * 1e-6)


def bad_tables():
    "Name -> what is changed in the table, options, words of the message"
    good = tumours()
    column, rows = "mean radius", np.arange(len(good))
    return {
        "wrong target": (good, ["--target", "diagnosys"], ["did you mean 'diagnosis'?"]),
        "wrong key": (good, ["--key", "cas"], ["did you mean 'case'?"]),
        "wrong excluded": (good, ["--exclude", "clinc", "case"], ["did you mean 'clinic'?"]),
        "one class": (good.assign(diagnosis="benign"), [], ["diagnosis", "benign"]),
        "no target": (good.assign(diagnosis=""), [], ["diagnosis"]),
        "empty column": (good.assign(**{column: ""}), [], [column, "--exclude"]),
        "many categories": (many_clinics(good), ["--key", "case"], ["clinic", "50,000"]),
        "mixed": (good.assign(**{column: np.where(rows == 6, "about 12", good[column])}), [], [column, "row 7", "about 12"]),
        "infinite": (good.assign(**{column: np.where(rows == 6, "inf", good[column])}), [], [column, "row 7"]),
        "same key twice": (good.assign(case=np.where(rows < 2, "C1", good["case"])), ["--key", "case"], ["case", "row"]),
        "leak": (with_outcome(good), ["--key", "case"], ["outcome", "--exclude", "--keep"]),
    }


@pytest.mark.parametrize("case", [
    "wrong target", "wrong key", "wrong excluded", "one class", "no target", "empty column", "many categories", "mixed", "infinite",
    "same key twice", "leak"])
def test_init_refuses_a_table_and_leaves_nothing(tmp_path, case):
    table, options, words = bad_tables()[case]
    table.to_csv(tmp_path / "bad.csv", index=False)
    options = options if "--target" in options else [*options, "--target", "diagnosis"]
    message = refuse(tmp_path, "init", "new", "--template", "tabular", "--data", "bad.csv", *options)
    assert message.startswith("Error: ") and message.count("\n") == 1
    for word in words:
        assert word in message
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("content, words", [
    (None, ["bad.csv"]),
    (b"", ["empty"]),
    (b"a,b,a\n1,2,3\n", ["'a'"]),
    ("größe,art\n1,x\n2,y\n".encode("cp1252"), ["UTF-8", "--encoding"]),
    (b"a,b\n1,2\n3\n", ["row 2"]),
])
def test_init_refuses_a_file(tmp_path, content, words):
    if content is not None:
        (tmp_path / "bad.csv").write_bytes(content)
    message = refuse(tmp_path, "init", "new", "--template", "tabular", "--data", "bad.csv", "--target", "a")
    for word in words:
        assert word in message


def test_a_leak_is_used_only_on_purpose(tmp_path):
    with_outcome(tumours()).to_csv(tmp_path / "table.csv", index=False)
    options = ["--template", "tabular", "--data", "table.csv", "--target", "diagnosis", "--key", "case"]
    call(tmp_path, "init", "kept", *options, "--keep", "outcome")
    call(tmp_path, "init", "left-out", *options, "--exclude", "outcome")


@pytest.mark.parametrize("arguments, words", [
    (["new", "--template", "tabular"], ["needs --data and --target"]),
    (["new", "--data", "table.csv", "--target", "y"], ["'digits'", "--template tabular"]),
])
def test_init_says_which_template_takes_data(tmp_path, arguments, words):
    message = refuse(tmp_path, "init", *arguments)
    for word in words:
        assert word in message


def test_names_that_look_like_gaps_or_code_stay_names(tmp_path):
    table = tumours().rename(columns={"diagnosis": "{{name}}", "smoker": 'say "$hi" \x7f'})
    table.to_csv(tmp_path / "table.csv", index=False)
    call(tmp_path, "init", "work", "--template", "tabular", "--data", "table.csv", "--target", "{{name}}", "--key", "case",
         "--exclude", 'say "$hi" \x7f')
    assert 'target: str = "{{name}}"' in (tmp_path / "work" / "notebooks" / "prepare.ipynb").read_text().replace('\\"', '"')
    assert read_objectives(tmp_path / "work" / "objectives.toml", "EUR")[0].title.startswith("Predict {{name}}")


def test_only_prepare_is_told_where_the_data_are(tmp_path):
    tumours().to_csv(tmp_path / "table.csv", index=False)
    call(tmp_path, "init", "work", "--template", "tabular", "--data", "table.csv", "--target", "diagnosis", "--key", "case")
    assert "table.csv" not in (tmp_path / "work" / "notebooks" / "predict.ipynb").read_text()
    assert "-p data FILE" in refuse(tmp_path / "work", "run", "notebooks/predict.ipynb", "--json")
