"""The same rows from every kind of file, and each bad row named by file and line."""

import json
import re

import pyarrow
import pyarrow.parquet
import pytest

from sluice_text.dataset_files import list_files, read_rows
from sluice_text.errors import TextError
from sluice_text.request import Dataset

ROWS = [{"instruction": f"é {i}\n", "output": "x" * i, "messages": [{"role": "user", "content": "[{"}]} for i in range(1, 60)]


def write_lines(path, rows=ROWS):
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", encoding="utf-8")


def write_array(path, rows=ROWS):
    path.write_text(json.dumps(rows, indent=3, ensure_ascii=False), encoding="utf-8")


def write_parquet(path, rows=ROWS):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=7)


def write_lines_with_mark(path):
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(json.dumps(row) for row in ROWS).encode())


@pytest.mark.parametrize("name, write", [("a.jsonl", write_lines), ("a.json", write_array), ("a.json", write_lines),
                                         ("a.parquet", write_parquet), ("a.ndjson", write_lines_with_mark)])
def test_every_kind_of_file_gives_the_same_rows(tmp_path, name, write):
    write(tmp_path / name)
    assert [row.fields for row in read_rows(tmp_path / name)] == ROWS


def test_rows_carry_their_line(tmp_path):
    write_lines(tmp_path / "a.jsonl")
    write_array(tmp_path / "b.json")
    assert [row.place for row in read_rows(tmp_path / "a.jsonl")][:2] == [f"{tmp_path}/a.jsonl:1", f"{tmp_path}/a.jsonl:2"]
    lines = (tmp_path / "b.json").read_text().splitlines()
    for row in read_rows(tmp_path / "b.json"):
        assert lines[int(row.place.rsplit(":", 1)[1]) - 1].strip() == "{"


def test_a_plain_text_file_is_one_document(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    (tmp_path / "empty.txt").write_text(" \n")
    assert [row.fields for row in read_rows(tmp_path / "a.txt")] == [{"text": "one\n\ntwo\n"}]
    assert list(read_rows(tmp_path / "empty.txt")) == []


@pytest.mark.parametrize("name, content, said", [
    ("a.jsonl", b'{"a": 1}\n\n{"a": \n', r"a\.jsonl:3: is not JSON"),
    ("a.jsonl", b'{"a": 1}\n[1]\n', r"a\.jsonl:2: a row must be a JSON object"),
    ("a.json", b'[{"a": 1},\n {"a": 2},\n {"a": oops}]', r"a\.json:3: is not JSON"),
    ("a.json", b'[{"a": 1},\n 7]', r"a\.json:2: a row must be a JSON object"),
    ("a.json", b'[{"a": 1},\n', r"a\.json:2: is not JSON"),
    ("a.json", b'{"a":\n 1}', r"a\.json:1: is not JSON(.|\n)*one array of objects"),
    ("a.jsonl", b'{"a": 1}\n{"a": "\xe9"}\n', r"a\.jsonl:2: is not UTF-8 \(byte 0xe9\)"),
    ("a.json", b'[{"a": 1},\n{"a": "\xe9"}]\n', r"a\.json:2: is not UTF-8 \(byte 0xe9\)"),
    ("a.json", b'\n\xe9[{"a": 1}]\n', r"a\.json:2: is not UTF-8 \(byte 0xe9\)"),
    ("a.txt", b'one\ntwo\n\xff', r"a\.txt:3: is not UTF-8 \(byte 0xff\)"),
    ("a.jsonl", b"[" * 100000 + b"\n", r"a\.jsonl:1: is not JSON"),
    ("a.parquet", b"PAR1 and no more", r"a\.parquet: cannot be read as Parquet")])
def test_a_bad_row_is_named_by_file_and_line(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TextError, match=said) as refusal:
        list(read_rows(tmp_path / name))
    assert re.search(r"\n  fix: \S", str(refusal.value))


def test_a_truncated_parquet_file_is_refused_with_the_fix(tmp_path):
    write_parquet(tmp_path / "a.parquet")
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(whole[:len(whole) // 2])
    with pytest.raises(TextError, match=r"a\.parquet: cannot be read as Parquet(.|\n)*\n  fix: copy or fetch it again"):
        list(read_rows(tmp_path / "a.parquet"))


def test_a_folder_gives_its_files_in_order_and_no_others(tmp_path):
    for name in ("b.jsonl", "sub/a.parquet", "a.txt", "README.md", ".hidden.jsonl", ".cache/x.json", "dataset_infos.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    found = [str(file.relative_to(tmp_path)) for file in list_files(Dataset(tmp_path, "alpaca"))]
    assert found == ["a.txt", "b.jsonl", "sub/a.parquet"]


def test_of_a_folder_with_splits_only_the_training_part_is_read(tmp_path, capsys):
    for name in ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "test-00000.parquet", "latest.parquet"):
        (tmp_path / name).write_text("")
    found = [file.name for file in list_files(Dataset(tmp_path, "alpaca"))]
    assert found == ["latest.parquet", "train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    assert "left aside: test-00000.parquet" in capsys.readouterr().err


@pytest.mark.parametrize("make, said", [
    (lambda path: None, "no such file or folder"),
    (lambda path: path.mkdir(), "holds no dataset file")])
def test_a_missing_dataset_is_refused(tmp_path, make, said):
    make(tmp_path / "d")
    with pytest.raises(TextError, match=said):
        list_files(Dataset(tmp_path / "d", "alpaca"))
