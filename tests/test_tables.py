"Reading: every file is a whole table or one clear error, and CSV and Parquet of one table are the same"
import codecs
import datetime as dt
import gzip
import hashlib
import io
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlops_nb.data.csv_files import guess_encoding
from mlops_nb.data.schema import infer_schema
from mlops_nb.data.tables import read_data
from mlops_nb.settings import DataError

HEADER = "name,price,sold\n"
ROWS = 'bolt,1.5,3\n"nut, small",2,\n'


def written(folder, content, name="table.csv"):
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def as_lists(table):
    return [table.columns.tolist(), *table.astype(object).where(table.notna(), None).values.tolist()]


PLAIN = [["name", "price", "sold"], ["bolt", "1.5", "3"], ["nut, small", "2", None]]


@pytest.mark.parametrize("content", [
    HEADER + ROWS, (HEADER + ROWS).replace("\n", "\r\n"), (HEADER + ROWS).replace("\n", "\r"), (HEADER + ROWS).rstrip("\n"),
    "\n\n" + HEADER + "\n" + ROWS + "\n\n", "\ufeff" + HEADER + ROWS, (HEADER + ROWS).encode("utf-16"), (HEADER + ROWS).encode("utf-32"),
    codecs.BOM_UTF16_BE + (HEADER + ROWS).encode("utf-16-be"),
    gzip.compress((HEADER + ROWS).encode(), mtime=0), " name ,price, sold\n" + ROWS,
    HEADER.replace(",", ";") + 'bolt;1.5;3\n"nut, small";2;\n', HEADER.replace(",", "\t") + "bolt\t1.5\t3\nnut, small\t2\t\n",
    HEADER.replace(",", "|") + "bolt|1.5|3\nnut, small|2|\n", '"name","price","sold"\n"bolt","1.5","3"\n"nut, small","2",""\n',
])
def test_one_table_in_many_files(tmp_path, content):
    path = written(tmp_path, content)
    table, source = read_data(path)
    assert as_lists(table) == PLAIN
    assert source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() and source.size_bytes == path.stat().st_size
    assert (source.name, source.format, source.decimal) == ("table.csv", "csv", ".")
    again, same = read_data(str(path), encoding=source.encoding, separator=source.separator)
    assert as_lists(again) == PLAIN and same == source


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "utf-16-le", "cp437", "iso8859-15"])
def test_an_encoding_that_is_given(tmp_path, encoding):
    table, source = read_data(written(tmp_path, "name\nZoë\n".encode(encoding)), encoding=encoding)
    assert table["name"].tolist() == ["Zoë"]
    assert source.encoding == codecs.lookup(encoding).name


@pytest.mark.parametrize("separator", [",", "comma", "\t", "tab", r"\t", ";", "semicolon", " ", ":"])
def test_a_separator_that_is_given(tmp_path, separator):
    character = {"comma": ",", "tab": "\t", r"\t": "\t", "semicolon": ";"}.get(separator, separator)
    table, source = read_data(written(tmp_path, f"a{character}b\n1{character}2\n"), separator=separator)
    assert as_lists(table) == [["a", "b"], ["1", "2"]] and source.separator == character


@pytest.mark.parametrize("text, decimal", [
    ("a;b\n1,5;x\n2;y\n", ","), ("a;b\n1,5;2.5\n", ","), ("a;b\n1;x\n", "."), ("a;b\n1,5;x\n1.5;y\n", "."), ("a;b\n;x\n-1,5e3;y\n", ","),
    ('a,b\n"1,5",x\n', "."), ("a\tb\n1,5\t\n", ","), ("a;b\nx, y;1\n", "."), ("a;b\n1,5;2024.01.02\n", ","),
])
def test_a_decimal_comma_is_seen_in_whole_columns(tmp_path, text, decimal):
    assert read_data(written(tmp_path, text))[1].decimal == decimal


def test_quoted_fields(tmp_path):
    table, _ = read_data(written(tmp_path, 'a,b\n"two\nlines","say ""hi"""\n"x,y",5" pipe\n'))
    assert as_lists(table) == [["a", "b"], ["two\nlines", 'say "hi"'], ["x,y", '5" pipe']]


def test_a_wide_and_a_long_field(tmp_path):
    names = [f"c{place}" for place in range(2000)]
    table, _ = read_data(written(tmp_path, ",".join(names) + "\n" + ",".join("1" * 2000) + "\n"))
    assert table.shape == (1, 2000)
    table, _ = read_data(written(tmp_path, f"a,b\n{'x' * 3_000_000},1\n"))
    assert len(table["a"][0]) == 3_000_000


def test_a_table_of_one_column(tmp_path):
    assert as_lists(read_data(written(tmp_path, "a\n1\n2\n"))[0]) == [["a"], ["1"], ["2"]]


REFUSED = {
    "empty": (b"", "is empty"), "blanks": (" \n\n", "is empty"), "only a mark": (b"\xef\xbb\xbf\n", "is empty"),
    "header": (HEADER, "no rows"), "header without an end": ("name,price", "no rows"),
    "twice": ("a,b,a\n1,2,3\n", "'a' appears more than once, as column 1 and column 3"),
    "twice after trimming": ("a, a \n1,2\n", "more than once"), "blank name": ("a,,b\n1,2,3\n", "column 2 of 3 has no name"),
    "pandas index": (",a\n0,5\n", "index=False"), "too few": (HEADER + ROWS + "x,1\n", r"row 3 \(2 fields\).*quotes"),
    "too many": (HEADER + "x,1,2\n" * 7 + "x,1,2,3\n" * 7, r"7 of 14 rows.*row 8 \(4 fields\).*row 12 \(4 fields\) and 2 more"),
    "ragged after lines in quotes": ('a,b\n"x\ny",1\n1\n', r"row 2 \(1 field\)"),
    "title": ("Sales 2024\n" + HEADER + ROWS, "nothing may stand above"), "trailing separators": (HEADER + "x,1,2,\n", "first line"),
    "open quote": (HEADER + ROWS + 'x,"1,2\ny,1,2\n', "quote that is opened"),
    "open quote at the end": (HEADER + ROWS + 'x,1,"2\ny,1,2\n', "row 3: a quote is opened"),
    "NUL": (HEADER + ROWS + "x,\0,1\n", "line 4 holds a NUL"),
    "not UTF-8": ("a\nZoë\n".encode("cp1252"), "line 2: byte 0xeb.*cp1252.*--encoding"),
    "Thai": ("สี\nแดง\nเขียว\n".encode("cp874"), "line 1: .*probably cp874"),
    "UTF-16 without a mark": ((HEADER + ROWS).encode("utf-16-be"), "utf-16-be"),
    "half of UTF-16": ((HEADER + ROWS).encode("utf-16")[:-1], "damaged"), "noise": (bytes(range(1, 256)) * 40, "no text file"),
    "gzip": (gzip.compress(b"a\n1\n", mtime=0)[:-5], "gzip file is damaged"), "empty gzip": (gzip.compress(b"", mtime=0), "is empty"),
    "binary in gzip": (gzip.compress(b"\0" * 99, mtime=0), "NUL"), "Excel": (b"PK\x03\x04 and so on", "Excel"),
    "JSON": ('{"a": 1}\n', "JSON"), "JSON list": ('[{"a": 1}]', "JSON"), "Feather": (b"ARROW1\0\0", "Feather"),
    "HTML": ("<html><table>", "web page"), "half a Parquet": (b"PAR1\x15\x04", "damaged"), "Parquet": (b"PAR1aaaaPAR1", "damaged"),
}


@pytest.mark.parametrize("content, message", REFUSED.values(), ids=[*REFUSED])
def test_refused(tmp_path, content, message):
    path = written(tmp_path, content)
    with pytest.raises(DataError, match=f"(?s){message}") as caught:
        read_data(path)
    assert str(path) in str(caught.value) and len(str(caught.value)) < 600 + len(str(path))


@pytest.mark.parametrize("options, content, message", [
    ({"encoding": "utf8x"}, HEADER + ROWS, "'utf8x' is not known"), ({"encoding": "base64"}, HEADER + ROWS, "'base64' is not known"),
    ({"encoding": "ascii"}, "a\nZoë\n", "probably utf-8"), ({"encoding": "cp1252"}, "a\nZoë\n", "not CP1252"),
    ({"encoding": "utf-16"}, "a,bc\n1,2\n", "not UTF-16"), ({"encoding": "utf-8"}, b"a\n\xff\n", "not UTF-8"),
    ({"separator": ";"}, HEADER + ROWS, "',' makes 3"),
    *(({"separator": each}, HEADER, "one character") for each in ("ab", "", '"', "\n", "ö")),
])
def test_options_that_do_not_fit(tmp_path, options, content, message):
    with pytest.raises(DataError, match=message):
        read_data(written(tmp_path, content), **options)


def test_no_file(tmp_path):
    written(tmp_path, HEADER, "telco_churn.csv")
    for name, message in {"telco_chrun.csv": "did you mean 'telco_churn.csv'", "no/where.csv": "no folder", "": "is a folder",
                          "x.parquet": "there are: telco_churn.csv", "a\0b": "null byte"}.items():
        with pytest.raises(DataError, match=message):
            read_data(tmp_path / name)
    written(tmp_path, "a\n1\n", "y.parquet")
    with pytest.raises(DataError, match="no Parquet file"):
        read_data(tmp_path / "y.parquet")


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")
    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    with pytest.raises(DataError, match="Permission denied"):
        read_data(tmp_path / "table.csv")


@pytest.mark.parametrize("text, encoding", [
    ("José,Málaga,größe", "cp1252"), ("Ünal,Şehir,İş", "cp1252"), ("ชื่อ,เมือง\nสมชาย,กรุงเทพ", "cp874"), ("имя,город\nИван,Москва", "cp1251"),
    ("名前,市\n太郎さん,東京タワー", "cp932"), ("姓名,城市\n张三,北京\n李四,上海", "gb18030"), ("이름,도시\n철수,서울", "euc_kr"),
])
def test_a_guess_at_the_encoding(text, encoding):
    data = text.encode("cp1254" if "Ş" in text else encoding)
    assert guess_encoding(data) == encoding


def parquet(folder, table):
    path = folder / "table.parquet"
    pq.write_table(table, path) if isinstance(table, pa.Table) else table.to_parquet(path)
    return read_data(path)


def test_parquet_keeps_types(tmp_path):
    table, source = parquet(tmp_path, pa.table({
        "i": pa.array([1, 2]), "n": pa.array([1, None]), "f": pa.array([0.5, None], pa.float32()), "b": pa.array([True, False]),
        "s": pa.array(["x", None]), "d": pa.array([dt.date(2024, 4, 3), None]), "t": pa.array([0, 1], pa.timestamp("ns", "Asia/Bangkok")),
        "c": pa.array(["u", "v"]).dictionary_encode(), "m": pa.array([Decimal("1.50"), None]), "text": pa.array([b"ab", "ü".encode()]),
        "bytes": pa.array([b"\xff", b"\xfe"]), "list": pa.array([[1], [2]]), "struct": pa.array([{"a": 1}, {"a": 2}])}))
    kinds = {name: dtype.kind for name, dtype in table.dtypes.items()}
    assert (source.format, source.encoding, source.separator) == ("parquet", "", "")
    assert "".join(kinds[each] for each in "infbdt") == "iffbMM"
    assert table["text"].tolist() == ["ab", "ü"] and table["bytes"][0] == b"\xff" and table["m"][0] == Decimal("1.50")


def test_the_index_of_pandas(tmp_path):
    frame = pd.DataFrame({"a": range(6)}, index=list("uvwxyz"))
    assert parquet(tmp_path, frame)[0].columns.tolist() == ["a"]
    assert parquet(tmp_path, frame.rename_axis("key"))[0].columns.tolist() == ["a", "key"]
    assert parquet(tmp_path, frame.reset_index(drop=True)[::2])[0].columns.tolist() == ["a"]
    assert parquet(tmp_path, frame.reset_index(drop=True))[0]["a"].tolist() == [*range(6)]


@pytest.mark.parametrize("table, message", [
    (pa.table([[1], [2]], names=["a", "a"]), "more than once"), (pa.table([[1], [2]], names=["a", " "]), "has no name"),
    (pa.table({}), "no columns"), (pa.table({"a": pa.array([], pa.int64())}), "no rows"),
])
def test_a_parquet_file_that_is_no_table(tmp_path, table, message):
    with pytest.raises(DataError, match=message):
        parquet(tmp_path, table)


CELL = st.one_of(st.none(), st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1))


ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16"])


@given(st.lists(st.tuples(CELL, CELL, CELL), min_size=1, max_size=8), st.sampled_from(",;\t|"), ENCODINGS)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_read(tmp_path, rows, separator, encoding):
    frame = pd.DataFrame(rows, columns=["first", "second", "third"], dtype=object)
    text = io.StringIO()
    frame.to_csv(text, index=False, sep=separator, quoting=1)
    table, source = read_data(written(tmp_path, text.getvalue().encode(encoding)))
    assert as_lists(table) == [frame.columns.tolist(), *map(list, rows)]
    assert source.separator == separator


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_a_table_or_one_error(tmp_path, content):
    for data in (content, b"a,b\n1,2\n" + content, b"PAR1" + content, b"\x1f\x8b" + content):
        try:
            table, _ = read_data(written(tmp_path, data))
        except DataError:
            continue
        assert len(table) and all(table.columns) and table.columns.is_unique


def test_numbers_are_not_touched(tmp_path):
    values = np.random.default_rng(0).normal(size=500)
    pd.DataFrame({"x": values}).to_csv(tmp_path / "x.csv", index=False)
    assert read_data(tmp_path / "x.csv")[0]["x"].tolist() == [repr(float(each)) for each in values]


def test_thousands_are_no_decimals_and_nobody_guesses(tmp_path):
    """A column that reads as 1.287 and as 1,287 is refused beside decimal commas; thousands alone are no sign of a decimal comma"""
    table, source = read_data(written(tmp_path, "p;w;y\n" + "0,5;1.287;a\n0,7;3.400;b\n" * 10))
    with pytest.raises(DataError, match="thousands or decimals"):
        infer_schema(table, "y", decimal=source.decimal)
    assert read_data(written(tmp_path, "a\tb\n0.5\t3,400\n"))[1].decimal == "."
