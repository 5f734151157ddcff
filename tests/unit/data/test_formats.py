"""Readers on files as people have them: every row once, with its place, or a reason."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ray_pipelines as rp
from ray_pipelines.config import FilesystemConfig, ReadConfig
from ray_pipelines.data.files import find_files
from ray_pipelines.data.formats import (
    LEFT_OUT_COLUMN,
    ROW_COLUMN,
    SOURCE_COLUMN,
    check_partitions,
    left_out_of,
    read_units,
    sample_schema,
    units_of_file,
)
from ray_pipelines.data.formats.schema import ALL_COLUMNS
from ray_pipelines.data.workers import READ_ERROR_COLUMN
from tests.tables import write_table

LOCAL = FilesystemConfig()


def read(path: Path | list[Path], rows_per_table: int = 100, **settings: Any) -> list[dict[str, Any]]:
    """All rows as a job would read them; a row's error is its text."""
    paths = [str(one) for one in path] if isinstance(path, list) else str(path)
    config = ReadConfig.model_validate({"path": paths, **settings})
    read_format, files = find_files(config, LOCAL)
    schema = sample_schema(files, read_format, ["text"], LOCAL)
    check_partitions(files, schema)
    units = [unit for file in files for unit in units_of_file(file, read_format, LOCAL)]
    tables = list(read_units(units, read_format, schema, rows_per_table, LOCAL))
    assert all(table.num_rows <= rows_per_table for table in tables)
    rows = pa.concat_tables(tables).to_pylist() if tables else []
    for row in rows:
        row.pop(LEFT_OUT_COLUMN)
        error = row.pop(READ_ERROR_COLUMN)
        row["source"], row["row"] = Path(row.pop(SOURCE_COLUMN)).name, row.pop(ROW_COLUMN)
        row["error"] = f"{error['stage']}: {error['type']}: {error['message']}" if error else None
    return rows


def schema_of(path: Path) -> pa.Schema:
    read_format, files = find_files(ReadConfig(path=str(path)), LOCAL)
    return sample_schema(files, read_format, [], LOCAL)


def texts(rows: list[dict[str, Any]], column: str = "text") -> list[Any]:
    return [row[column] if row["error"] is None else row["error"].split(": ")[1] for row in rows]


def tar_of(members: Mapping[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def zstd(data: bytes) -> bytes:
    buffer = pa.BufferOutputStream()
    with pa.CompressedOutputStream(buffer, "zstd") as stream:
        stream.write(data)
    return buffer.getvalue().to_pybytes()


COMPRESS = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}


@pytest.mark.parametrize("ending", COMPRESS)
@pytest.mark.parametrize("base", ["jsonl", "csv", "txt", "tar"])
def test_compressed_files_read_like_plain_ones(base: str, ending: str, tmp_path: Path) -> None:
    plain = {
        "jsonl": b'{"text": "a"}\n{"text": "\xc3\xa9"}\n',
        "csv": b"text\na\n\xc3\xa9\n",
        "txt": b"a\n\xc3\xa9",
        "tar": tar_of({"0.txt": b"a", "1.txt": "é".encode()}),
    }[base]
    (tmp_path / f"in.{base}{ending}").write_bytes(COMPRESS[ending](plain))
    rows = read(tmp_path)
    assert texts(rows, "txt" if base == "tar" else "text") == ["a", "é"]
    assert [row["row"] for row in rows] == [0, 1]


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz", ".zst"])
def test_a_truncated_file_keeps_its_rows_up_to_there_and_ends_in_one_error(ending: str, tmp_path: Path) -> None:
    lines = b"".join(json.dumps({"text": f"{n} {hash(str(n))}"}).encode() + b"\n" for n in range(100_000))
    data = COMPRESS[ending](lines)
    (tmp_path / f"in.jsonl{ending}").write_bytes(data[: len(data) // 2])
    rows = read(tmp_path, 5000)
    *good, last = rows
    assert [row["row"] for row in rows] == list(range(len(rows)))
    assert all(row["error"] is None and row["text"].startswith(f"{row['row']} ") for row in good)
    assert last["error"].startswith("read: BrokenFile: the file cannot be read from here on")


@pytest.mark.parametrize("ending", ["jsonl", "csv", "txt"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_a_file_in_another_encoding_is_named_and_none_of_its_bytes_become_rows(
    encoding: str, ending: str, tmp_path: Path
) -> None:
    content = {"jsonl": '{"text": "a"}\n', "csv": "text\na\n", "txt": "a\nb\n"}[ending]
    (tmp_path / f"b.{ending}").write_bytes(content.encode(encoding))
    with pytest.raises(rp.ConfigError, match=rf"b\.{ending} .*is in UTF-16 or UTF-32; expected UTF-8"):
        read(tmp_path)
    (tmp_path / f"a.{ending}").write_text(content)
    *good, last = read(tmp_path)
    assert {row["source"] for row in good} == {f"a.{ending}"}
    assert (last["source"], last["row"]) == (f"b.{ending}", 0) and "is in UTF-16" in last["error"]


def test_lines_of_all_kinds(tmp_path: Path) -> None:
    lines = [
        b'\xef\xbb\xbf{"text": "bom"}',
        b"",
        b'{"text": "crlf"}\r',
        b"   ",
        b"[1, 2]",
        b'{"text": "cut',
        b'{"text": "\xff"}',
        b'{"text": null}',
        b'{"text": 5}',
        b'{"text": "long ' + b"x" * 3_000_000 + b'"}',
        b'{"text": "\\u0000 \xf0\x9f\x98\x80"}',
        b"[" * 100_000,
        b'{"text": "twice", "text": "wins"}',
        b'{"other": 1}',
    ]
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(lines))
    rows = read(tmp_path)
    found = dict(zip([row["row"] for row in rows], texts(rows), strict=True))
    assert found[9].startswith("long xxx")
    del found[9]
    bad = dict.fromkeys((4, 5, 6, 8, 11), "InvalidInput")
    assert found == {0: "bom", 2: "crlf", 7: None, 10: "\0 😀", 12: "wins", 13: None, **bad}


def json_lines(path: Path, rows: Iterable[Any]) -> Path:
    """A file of the rows as JSON; a text is a line as it stands."""
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def test_json_values_are_never_changed_to_fit_their_column(tmp_path: Path) -> None:
    many = [{"n": i, "x": i / 2, "deep": {"n": [i]}, "flag": True} for i in range(1000)]
    late = [
        {"n": 2.75},
        {"n": 2.0, "x": 3},
        {"n": True},
        {"n": 2**63},
        {"x": True},
        {"x": 2**53 + 1},
        {"deep": {"n": [1, 9.5]}},
        {"deep": {"n": [2.0]}},
        {"flag": 1},
    ]
    rows = read(json_lines(tmp_path / "in.jsonl", [*many, *late]))[1000:]
    assert [row["error"] and row["error"].split(": ", 2)[2] for row in rows] == [
        "n: expected int64; got 2.75.",
        None,
        "n: expected int64; got True.",
        "n: expected int64; got 9223372036854775808.",
        "x: expected double; got True.",
        "x: expected double; got 9007199254740993.",
        "deep: expected struct<n: list<item: int64>>; got {'n': [1, 9.5]}.",
        None,
        "flag: expected bool; got 1.",
    ]
    assert [rows[1]["n"], rows[1]["x"], rows[7]["deep"]] == [2, 3.0, {"n": [2]}]


@pytest.mark.parametrize(
    ("most", "odd"),
    [
        ([1, 2, 3], [2**64, "s", True]),
        ([[1], [], [2]], [["s"], [1, "x"], {}]),
        ([{"a": 1}, {"b": "s"}, {"a": 2}], [{"a": "s"}]),
        (["s", "t"], [1]),
        ([0.5, 1, 2], [2**53 + 1, False]),
        ([2**60] * 3, [2.5]),
    ],
)
def test_a_column_has_the_type_of_most_values_and_the_odd_ones_alone_are_dead(
    most: list[Any], odd: list[Any], tmp_path: Path
) -> None:
    values = [*odd, *most * 3, None]
    rows = read(json_lines(tmp_path / "in.jsonl", [{"v": value} for value in values]))
    assert [row["error"] is None for row in rows] == [False] * len(odd) + [True] * (len(values) - len(odd))
    found = [row["v"] for row in rows[len(odd) :]]
    assert found == [{"a": None, "b": None, **v} if isinstance(v, dict) else v for v in [*most * 3, None]]


def test_objects_without_keys_are_json_text_and_no_fields(tmp_path: Path) -> None:
    rows = [{"meta": {}, "deep": {"n": 1, "meta": {}, "items": [{}]}}, {"meta": None, "deep": {"n": 2}}]
    json_lines(tmp_path / "a.jsonl", rows)
    assert schema_of(tmp_path).types == [pa.string(), pa.struct([("n", pa.int64())])]
    assert [(row["meta"], row["deep"]) for row in read(tmp_path)] == [("{}", {"n": 1}), (None, {"n": 2})]
    json_lines(tmp_path / "b.jsonl", [{"meta": {"a": 1}}])
    assert [row["meta"] for row in read(tmp_path)] == [{"a": None}, None, {"a": 1}]


@pytest.mark.parametrize("num_before", [0, 1000])
def test_half_of_a_surrogate_pair_fails_its_row_alone(num_before: int, tmp_path: Path) -> None:
    halves = ['{"v": "\\ud83d"}', '{"v": "b", "\\uDE00": 1}', '{"v": ["\\ud83d"]}', b'{"v": "\xed\xa0\xbd"}']
    whole = ['{"v": "\\ud83d\\ude00"}', '{"v": "\\\\ud83d"}', '{"v": "\ud7ff"}'.encode()]
    lines = [b'{"v": "a"}'] * num_before + [one.encode() if isinstance(one, str) else one for one in (*halves, *whole)]
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(lines))
    rows = read(tmp_path)[num_before:]
    assert texts(rows, "v") == ["InvalidInput"] * 4 + ["😀", "\\ud83d", "\ud7ff"]
    assert "surrogates not allowed" in rows[0]["error"]
    (tmp_path / "in.jsonl").rename(tmp_path / "no.rows")
    (tmp_path / "in.tar").write_bytes(tar_of({"0.json": lines[-7], "1.json": b'{"v": "a"}'}))
    assert [row["error"] is None for row in read(tmp_path / "in.tar")] == [False, True]


def test_values_of_which_no_type_fits_most_are_json_text(tmp_path: Path) -> None:
    values = [1, "s", [1, "é"], {"a": 2.5}, True, 2**64, None]
    json_lines(tmp_path / "a.jsonl", [{"v": value} for value in values])
    json_lines(tmp_path / "b.jsonl", [{"v": 5}])
    found = [row["v"] for row in read(tmp_path)]
    assert found == ["1", "s", '[1, "é"]', '{"a": 2.5}', "true", "18446744073709551616", None, "5"]


@pytest.mark.parametrize("metadata", [ALL_COLUMNS, None])
def test_names_that_no_sampled_row_has_are_counted(metadata: dict[bytes, bytes] | None, tmp_path: Path) -> None:
    many = [{"text": "a", "deep": {"items": [{"a": 1}]}}] * 1000
    late = [
        {"text": "b", "new": 1, "deep": {"more": 2}},
        {"text": "c", "new": [0], "deep": {"items": [{"a": 1, "b": 2}, {"b": 3}]}},
        {"text": "d", "new": None, "deep": {"items": [], "more": {}}},
        {"text": 5, "new": "of a dead letter"},
    ]
    config = ReadConfig(path=str(json_lines(tmp_path / "in.jsonl", [*many, *late])))
    read_format, files = find_files(config, LOCAL)
    schema = sample_schema(files, read_format, ["text"], LOCAL).with_metadata(metadata)
    tables = list(read_units(units_of_file(files[0], "jsonl", LOCAL), "jsonl", schema, 1000, LOCAL))
    assert left_out_of(tables[1].slice(0, 2)) == {**({"new": 2} if metadata else {}), "deep.more": 1, "deep.items.b": 1}
    assert left_out_of(tables[1].slice(2)) == left_out_of(tables[0]) == {}


@pytest.mark.parametrize("metadata", [ALL_COLUMNS, None])
@pytest.mark.parametrize("ending", ["parquet", "arrow", "csv"])
def test_columns_that_no_sampled_file_has_are_counted(
    ending: str, metadata: dict[bytes, bytes] | None, tmp_path: Path
) -> None:
    deep = pa.array([{"a": 1, "more": 2}] * 2, pa.struct({"a": pa.int64(), "more": pa.int64()}))
    late = pa.table({"key": [1, 2], "text": ["b", "c"], "new": [None, 3], "nothing": pa.nulls(2)})
    late = late.append_column("deep", pa.ListArray.from_arrays([0, 1, 2], deep))
    for index in range(40):
        early = pa.table({"text": ["a"], "deep": pa.array([[{"a": 1}]])})
        table = late if index == 39 else early
        write_table(table.drop_columns(["deep"] if ending == "csv" else []), tmp_path / f"key=7/{index:02}.{ending}")
    read_format, files = find_files(ReadConfig(path=str(tmp_path)), LOCAL)
    schema = sample_schema(files, read_format, ["text"], LOCAL).with_metadata(metadata)
    assert schema.names == ["text", *(["deep"] if ending != "csv" else []), "key"]
    units = [unit for file in files for unit in units_of_file(file, read_format, LOCAL)]
    table = pa.concat_tables(read_units(units, read_format, schema, 1000, LOCAL))
    expected = {"new": 2} if metadata else {}
    if ending == "csv":
        # In a file of texts, nothing is known to be nothing.
        expected |= {"nothing": 2} if metadata else {}
    else:
        expected |= {"deep.more": 2}
    assert left_out_of(table) == expected
    assert table["text"].to_pylist()[-3:] == ["a", "b", "c"]
    assert table[READ_ERROR_COLUMN].null_count == len(table)


def test_an_endless_line_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray_pipelines.data.formats.unit.MAX_LINE_BYTES", 1000)
    (tmp_path / "in.txt").write_bytes(b"a\n" + b"x" * 5000 + b"\nb")
    assert texts(read(tmp_path)) == ["a", "InvalidInput", "b"]


def test_csv_of_all_kinds(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(
        b'\xef\xbb\xbfid,text,n\r\n1,"two\r\nlines",1\r\n2,NA,x\r\n3,\xff,3\r\n4\r\n5,"",\r\n6,'
        + b"y" * 2_000_000
        + b",6\r\n"
    )
    (tmp_path / "b.csv").write_bytes(b"n,text\n1.5,other order\n")
    (tmp_path / "c.csv").write_bytes(b"")
    (tmp_path / "d.csv").write_bytes(b"id,text,n\n")
    rows = read(tmp_path)
    assert [(row["source"], row["row"]) for row in rows] == [("a.csv", n) for n in (0, 1, 2, 4, 5, 3)] + [("b.csv", 0)]
    assert texts(rows)[:3] == ["two\r\nlines", "NA", "InvalidInput"]
    assert [len(row["text"]) for row in rows[3:5]] == [0, 2_000_000]
    assert rows[6] == {"id": None, "text": "other order", "n": "1.5", "source": "b.csv", "row": 0, "error": None}


def test_csv_values_are_read_by_the_rules_by_which_types_are_told(tmp_path: Path) -> None:
    lines = ["text, n,x,flag,day,at,time,name"]
    lines += ["a,1,+1.5,true,2026-01-01,2026-01-01 10:00,10:00,NA", "b, 2 ,NA,FALSE, 2026-01-02 ,N/A,10:00:01, b "]
    lines += ["NA,NA,nan,NA,NULL,,null,null", "d,\t-3,1e3,True,2026-01-04,2026-01-04T10:00:00, 10:00 ,"]
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n")
    rows = read(tmp_path)
    assert [row["error"] for row in rows] == [None] * 4
    assert [row[" n"] for row in rows] == [1, 2, None, -3]
    assert [row["x"] for row in rows] == [1.5, None, None, 1000.0]
    assert [row["flag"] for row in rows] == [True, False, None, True]
    assert [row["day"] and row["day"].day for row in rows] == [1, 2, None, 4]
    assert [row["at"] and row["at"].hour for row in rows] == [10, None, None, 10]
    assert [row["time"] and row["time"].second for row in rows] == [0, 1, None, 0]
    assert [(row["text"], row["name"]) for row in rows] == [("a", "NA"), ("b", " b "), ("NA", "null"), ("d", "")]


def test_parquet_of_all_kinds(tmp_path: Path) -> None:
    import datetime
    import decimal

    values: dict[str, Any] = {
        "text": pa.array(["a", "b"], pa.large_string()),
        "kind": pa.array(["x", "x"]).dictionary_encode(),
        "price": pa.array([decimal.Decimal("1.10"), None], pa.decimal128(5, 2)),
        "at": pa.array([datetime.datetime(2026, 1, 1), None], pa.timestamp("ns", "UTC")),
        "nested": pa.array([{"a": [1, 2]}, None]),
        "dotted.name": pa.array([1, 2]),
        "nothing": pa.nulls(2),
    }
    table = pa.table(values)
    pq.write_table(table, tmp_path / "a.parquet")
    pq.write_table(table.slice(0, 0), tmp_path / "empty.parquet")
    rows = read(tmp_path)
    assert [{name: row[name] for name in table.column_names} for row in rows] == table.to_pylist()


def test_files_with_other_columns_and_types_meet(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"], "n": pa.array([1], pa.int32())}), tmp_path / "a.parquet")
    pq.write_table(
        pa.table({"n": pa.array([2.5]), "more": ["m"], "text": pa.array(["b"]).dictionary_encode()}),
        tmp_path / "b.parquet",
    )
    pq.write_table(pa.table({"text": pa.nulls(1), "n": pa.array([2**40])}), tmp_path / "c.parquet")
    (tmp_path / "d.parquet").write_bytes(b"PAR1 no parquet")
    rows = read(tmp_path)
    assert [(row["text"], row["n"], row["more"]) for row in rows] == [
        ("a", 1.0, None),
        ("b", 2.5, "m"),
        (None, 2.0**40, None),
        (None, None, None),
    ]
    assert rows[3]["error"].startswith("read: BrokenFile")


def test_types_that_do_not_go_together_are_refused_by_name(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"], "n": [1]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": ["a"], "n": [[1]]}), tmp_path / "b.parquet")
    with pytest.raises(rp.ConfigError, match=r'column "n" is int64 in .*a\.parquet and list.* in .*b\.parquet'):
        read(tmp_path)


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_two_columns_of_one_name_are_refused(ending: str, tmp_path: Path) -> None:
    if ending == "csv":
        (tmp_path / "a.csv").write_text("text,text\na,b\n")
    else:
        pq.write_table(
            pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["text", "text"]), tmp_path / "a.parquet"
        )
    with pytest.raises(rp.ConfigError, match="more than one column 'text'"):
        read(tmp_path)


def test_hidden_files_are_left_out_and_links_and_odd_names_are_not(tmp_path: Path) -> None:
    folder = tmp_path / "in [1] #ü😀"
    (folder / "deep").mkdir(parents=True)
    (folder / "a?b*.jsonl").write_text('{"text": "a"}\n')
    (folder / "deep/b%20c.jsonl").write_text('{"text": "b"}\n')
    (tmp_path / "elsewhere.jsonl").write_text('{"text": "c"}\n')
    (folder / "link.jsonl").symlink_to(tmp_path / "elsewhere.jsonl")
    for name in ("_SUCCESS", ".part.crc", "_started.json", ".hidden.jsonl", "README.md"):
        (folder / name).write_text("no JSON")
    (folder / "_temporary").mkdir()
    (folder / "_temporary/x.jsonl").write_text("no JSON")
    assert sorted(texts(read(folder))) == ["a", "b", "c"]
    assert texts(read(folder / "a?b*.jsonl")) == ["a"]
    assert texts(read(folder / ".hidden.jsonl", format="text")) == ["no JSON"]


def test_a_named_file_is_read_whatever_its_extension(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "b.dat").write_text('{"text": "b"}\n')
    rows = read([tmp_path / "a.jsonl", tmp_path / "b.dat"], format="jsonl")
    assert texts(rows) == ["a", "b"]


def test_partitions_are_columns_and_choose_files(tmp_path: Path) -> None:
    for split, year in (("train", 2025), ("train", 2026), ("test", 2026), ("S%C3%A3o", 2026)):
        folder = tmp_path / f"split={split}/year={year}"
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"text": [f"{split} {year}"]}), folder / "part.parquet")
    assert {(row["split"], row["year"]) for row in read(tmp_path)} >= {("train", "2025"), ("São", "2026")}
    chosen = read(tmp_path, partitions={"split": ["train", "test"], "year": 2026})
    assert sorted(texts(chosen)) == ["test 2026", "train 2026"]
    with pytest.raises(rp.ConfigError, match=r'partitions\.splitt: no file has .* Did you mean "split"'):
        read(tmp_path, partitions={"splitt": "train"})
    with pytest.raises(rp.ConfigError, match=r"partitions\.year: expected one of 2025, 2026; got 2027"):
        read(tmp_path, partitions={"year": 2027})


def test_a_folder_that_does_not_fit_a_column_of_the_files_is_refused_by_name(tmp_path: Path) -> None:
    for year in ("2024", "unknown", "__HIVE_DEFAULT_PARTITION__"):
        (tmp_path / f"year={year}").mkdir()
        pq.write_table(pa.table({"text": [year], "year": [1]}), tmp_path / f"year={year}/a.parquet")
    with pytest.raises(rp.ConfigError, match=r"^read\.path: the folder year=unknown .* int64 \(.*a\.parquet\)[^\n]*$"):
        read(tmp_path)
    rows = read(tmp_path, partitions={"year": [2024]})
    assert [row["year"] for row in rows] == [2024]
    (tmp_path / "year=unknown/a.parquet").unlink()
    assert {row["year"] for row in read(tmp_path)} == {2024, None}


def test_webdataset_rows_are_the_files_of_one_name(tmp_path: Path) -> None:
    members = {
        "data/0.jpg": b"\xff\xd8",
        "data/0.cls": b"7\n",
        "data/0.json": b'{"caption": "a"}',
        "data/._0.jpg": b"mac",
        "data/1.JPG": b"\xff",
        "data/1.seg.png": b"seg",
        "data/1.json": b"{",
        "data/2.json": b'{"caption": "c"}',
        "data/2.cls": b"1",
    }
    (tmp_path / "0.tar").write_bytes(tar_of(members))
    rows = read(tmp_path)
    assert [(row["__key__"], row["row"]) for row in rows] == [("data/0", 0), (None, 1), ("data/2", 2)]
    assert (rows[0]["jpg"], rows[0]["cls"], rows[0]["json"]) == (b"\xff\xd8", 7, {"caption": "a"})
    assert "json: expected JSON" in rows[1]["error"]
    assert (rows[2]["jpg"], rows[2]["json"], rows[2]["cls"]) == (None, {"caption": "c"}, 1)


@pytest.mark.parametrize("how", ["truncated", "header"])
def test_a_broken_archive_ends_in_one_error(how: str, tmp_path: Path) -> None:
    data = tar_of({f"{n:03}.txt": f"text {n}".encode() * 100 for n in range(50)})
    cut = len(data) // 2
    broken = data[:cut] if how == "truncated" else data[: cut - cut % 512] + b"\xaa" * 5000 + data[cut + 5000 :]
    (tmp_path / "0.tar").write_bytes(broken)
    rows = read(tmp_path)
    assert 10 < len(rows) < 50
    assert [row["row"] for row in rows] == list(range(len(rows)))
    assert [row["error"] is None for row in rows] == [True] * (len(rows) - 1) + [False]


def test_media_rows_name_their_files_and_binary_rows_hold_them(tmp_path: Path) -> None:
    for name in ("a.png", "b.PNG", "c.wav", "d.mp4", "e.bin"):
        (tmp_path / name).write_bytes(name.encode())
    images = read(tmp_path, format="images")
    assert [row["image"] for row in images] == [
        {"bytes": None, "path": str(tmp_path / "a.png")},
        {"bytes": None, "path": str(tmp_path / "b.PNG")},
    ]
    assert [row["source"] for row in read(tmp_path, format="audio")] == ["c.wav"]
    assert [row["source"] for row in read(tmp_path, format="video")] == ["d.mp4"]
    assert [row["bytes"].decode() for row in read(tmp_path, format="binary")] == [
        "a.png",
        "b.PNG",
        "c.wav",
        "d.mp4",
        "e.bin",
    ]


def test_arrow_views_and_runs_are_read_as_what_they_are_views_and_runs_of(tmp_path: Path) -> None:
    table = pa.table(
        {
            "text": pa.array(["a", "long " * 10, None], pa.string_view()),
            "items": pa.array([[{"a": "b"}], [], None], pa.list_view(pa.struct([("a", pa.string_view())]))),
            "data": pa.array([b"1", None, b"2"], pa.binary_view()),
            "runs": pc.run_end_encode(pa.array([1, 1, None])),
            "deep": pa.StructArray.from_arrays([pc.run_end_encode(pa.array(["a", "a", "b"]))], ["a"]),
        }
    )
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table)
    one = pa.struct([("a", pa.string())])
    assert schema_of(tmp_path).types == [pa.string(), pa.list_(one), pa.binary(), pa.int64(), one]
    assert [{name: row[name] for name in table.column_names} for row in read(tmp_path)] == table.to_pylist()


def test_a_dataset_saved_to_disk_is_read_from_its_arrow_files(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "image": datasets.Image(decode=False)})
    (tmp_path / "x.png").write_bytes(b"x")
    path = str(tmp_path / "x.png")
    rows = {"text": ["a", "b"], "image": [{"bytes": b"1", "path": None}, {"bytes": None, "path": path}]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "saved"))
    found = read(tmp_path / "saved")
    assert texts(found) == ["a", "b"]
    assert [row["image"]["bytes"] for row in found] == [b"1", b"x"]


def test_csv_has_long_values_and_long_numbers_as_they_are(tmp_path: Path) -> None:
    long, number = "x" * 3_000_000, "12345678901234567890"
    lines = ["text,id,score,caf\u00e9", f"{long},{number},0.5,1", f"b,1,{'1' * 15},2.5", "c,,,"]
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n")
    rows = read(tmp_path)
    assert [str(kind) for kind in schema_of(tmp_path).types] == ["string", "string", "double", "double"]
    assert [(row["text"], row["id"], row["score"]) for row in rows] == [
        (long, number, 0.5),
        ("b", "1", 111111111111111.0),
        ("c", "", None),
    ]


def test_a_csv_line_that_fits_neither_the_header_nor_utf8_is_one_error(tmp_path: Path) -> None:
    lines = [b"text,\xc3\xa9t\xc3\xa9", b"a,1", b"\xff,2,3", "é,4".encode(), b"b\x80,5", b"c,6"]
    (tmp_path / "a.csv").write_bytes(b"\n".join(lines))
    found = {row["row"]: row for row in read(tmp_path)}
    assert {row: found[row]["text"] for row in (0, 2, 4)} == {0: "a", 2: "é", 4: "c"}
    assert [row for row in sorted(found) if found[row]["error"] is not None] == [1, 3]


@settings(max_examples=60, deadline=None)
@given(
    data=st.binary(max_size=400), ending=st.sampled_from(["jsonl", "csv", "txt", "tar", "parquet", "arrow", "jsonl.gz"])
)
def test_random_bytes_are_rows_or_errors_but_never_an_exception(
    data: bytes, ending: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    good = {
        "jsonl": b'{"text": "a"}\n',
        "jsonl.gz": gzip.compress(b'{"text": "a"}\n'),
        "csv": b"text\na\n",
        "txt": b"a\n",
        "tar": tar_of({"0.txt": b"a"}),
    }.get(ending)
    if good is not None:
        (folder / f"a.{ending}").write_bytes(good)
    elif ending == "parquet":
        pq.write_table(pa.table({"text": ["a"]}), folder / "a.parquet")
    else:
        with pa.ipc.new_stream(str(folder / "a.arrow"), pa.schema([("text", pa.string())])) as writer:
            writer.write_table(pa.table({"text": ["a"]}))
    (folder / f"b.{ending}").write_bytes(data)
    try:
        rows = read(folder)
    except rp.ConfigError:
        return  # a header that names a column twice is refused before anything starts
    assert rows[0]["source"] == f"a.{ending}"
    assert rows[0]["error"] is None
    positions = [row["row"] for row in rows if row["source"] == f"b.{ending}"]
    assert len(positions) == len(set(positions))


def test_what_is_null_in_all_of_the_sample_is_json_text_and_no_field(tmp_path: Path) -> None:
    rows = [{"text": None, "v": None, "tags": [], "deep": {"n": 1, "m": None, "items": []}}] * 1000
    values: list[Any] = [4, "plain", [1], {"a": None}, None]
    late = [{"text": "a", "v": value, "tags": [value], "deep": {"n": 2, "m": value}} for value in values]
    json_lines(tmp_path / "in.jsonl", [*rows, *late, {"text": 4}])
    found = read(tmp_path)[1000:]
    assert [row["v"] for row in found] == ["4", "plain", "[1]", '{"a": null}', None, None]
    assert [row["tags"] for row in found[:2]] == ["[4]", '["plain"]']
    assert [row["deep"] for row in found] == [{"n": 2}] * 5 + [None]
    assert texts(found) == ["a"] * 5 + ["InvalidInput"]


def test_a_csv_column_with_a_value_that_is_not_utf8_is_one_of_texts(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"text,name\na, NA \nb,caf\xe9\nc,NA\n")
    rows = read(tmp_path)
    assert [row["error"] is None for row in rows] == [True, False, True]
    assert [row["name"] for row in rows] == [" NA ", None, "NA"]


@pytest.mark.parametrize("depth", [50, 100, 900, 5000])
@pytest.mark.parametrize("name", ["v", "other"])
def test_an_object_that_is_nested_deep_fails_its_row_at_most(name: str, depth: int, tmp_path: Path) -> None:
    for index, (start, end) in enumerate((('{"a": ', "}"), ("[", "]"))):
        deep = f'{{"text": "deep", "{name}": {start * depth}1{end * depth}}}'
        (tmp_path / f"{index}.jsonl").write_text('{"text": "a", "v": 1}\n' * 3 + deep + '\n{"text": "b", "v": 2}\n')
        rows = read(tmp_path / f"{index}.jsonl")
        assert [row["text"] for row in rows if row["error"] is None and row["text"] != "deep"] == ["a", "a", "a", "b"]
        assert len(rows) == 5
        schema_of(tmp_path / f"{index}.jsonl").serialize()


def test_members_of_a_kind_that_no_sampled_row_has_are_counted(tmp_path: Path) -> None:
    members = {f"{n:03}.txt": b"a" for n in range(100)}
    late = {"100.txt": b"b", "100.jpg": b"\xff", "101.jpg": b"\xff", "101.txt": b"c", "101.cls": b""}
    (tmp_path / "in.tar").write_bytes(tar_of({**members, **late}))
    read_format, files = find_files(ReadConfig(path=str(tmp_path)), LOCAL)
    schema = sample_schema(files, read_format, [], LOCAL)
    for metadata, expected in ((ALL_COLUMNS, {"jpg": 2}), (None, {})):
        units = units_of_file(files[0], read_format, LOCAL)
        (table,) = read_units(units, read_format, schema.with_metadata(metadata), 1000, LOCAL)
        assert left_out_of(table) == expected
        assert table["txt"].to_pylist()[-2:] == ["b", "c"]
