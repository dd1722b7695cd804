"""Rows out of dataset files: JSON Lines, JSON arrays, Parquet and plain text, each row with the place it came from."""

import json
import re
from dataclasses import dataclass

from sluice_text.errors import TextError, note

JSON_LINES_SUFFIXES = (".jsonl", ".ndjson")
SUFFIXES = JSON_LINES_SUFFIXES + (".json", ".parquet", ".txt")
# Written beside data by the `datasets` library; they hold no rows.
NOT_DATA = ("dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json")
PARQUET_BATCH_ROWS = 1024
_WORDS = re.compile(r"[^a-z]+")


@dataclass(frozen=True, slots=True)
class Row:
    place: str  # "faq.jsonl:12", "faq.parquet: row 12"
    fields: dict
    size: int = 0  # about how many characters it holds


def list_files(dataset):
    """The files of one dataset, in the order in which they are read."""
    path = dataset.path
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise TextError(f"{path}: unknown kind of file", "datasets are " + ", ".join(SUFFIXES) + " files, or folders of them")
        return [path]
    if not path.is_dir():
        raise TextError(f"{path}: no such file or folder",
                        "datasets are local files; fetch one first: hf download --repo-type dataset NAME --local-dir DIR")
    files = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file()
                   and file.name not in NOT_DATA and not _is_hidden(file.relative_to(path)))
    if not files:
        raise TextError(f"{path}: the folder holds no dataset file", "it needs " + ", ".join(SUFFIXES) + " files")
    return _training_part(path, files)


def _is_hidden(relative):
    return any(part.startswith(".") for part in relative.parts)


def _training_part(folder, files):
    """Of a folder laid out as splits (train-0000.parquet, test-0000.parquet) only the training part."""
    def words(file):
        return set(_WORDS.split(str(file.relative_to(folder)).lower()))

    held_out = [file for file in files if words(file) & {"test", "validation", "valid", "val", "dev", "eval"}]
    if not held_out or not any("train" in words(file) for file in files):
        return files
    note(f"{folder}: only the training part is read; left aside: {', '.join(file.name for file in held_out[:4])}"
         + (" ..." if len(held_out) > 4 else ""))
    return [file for file in files if file not in held_out]


def read_rows(file):
    if file.suffix == ".parquet":
        return _read_parquet(file)
    if file.suffix == ".txt":
        return _read_text(file)
    if file.suffix in JSON_LINES_SUFFIXES or not _begins_with_array(file):
        return _read_json_lines(file)
    return _read_json_array(file)


def _decode(data, file, first_line):
    """Text of a part of a file that begins with line `first_line`; a byte order mark is left out."""
    try:
        return data.decode("utf-8-sig" if first_line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        # error.object, not data: the codec counts from behind the mark.
        line = first_line + error.object[:error.start].count(b"\n")
        raise TextError(f"{file}:{line}: is not UTF-8 (byte 0x{error.object[error.start]:02x})",
                        f"repair the line, or convert the file, for example: iconv -f LATIN1 -t UTF-8 {file.name}")


def _begins_with_array(file):
    with open(file, "rb") as stream:
        for line in stream:
            if text := line.removeprefix(b"\xef\xbb\xbf").strip():
                return text.startswith(b"[")
    return False


def _read_json_lines(file):
    with open(file, "rb") as stream:
        for number, data in enumerate(stream, 1):
            line = _decode(data, file, number)
            if not line or line.isspace():
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise TextError(f"{file}:{number}: is not JSON: {error}", _json_hint(file))
            yield Row(f"{file}:{number}", _require_object(value, f"{file}:{number}"), len(line))


def _json_hint(file):
    if file.suffix == ".json":
        return "a .json file holds one array of objects, or one object on each line"
    return "each line holds one whole JSON object"


def _require_object(value, place):
    if not isinstance(value, dict):
        raise TextError(f"{place}: a row must be a JSON object, not {json.dumps(value)[:40]}",
                        "write it as {\"field\": value, ..}, or remove it")
    return value


_SPACE_OR_COMMA = re.compile(r"[\s,]*")


def _read_json_array(file):
    """The elements one by one, so that each is known by its line."""
    text = _decode(file.read_bytes(), file, 1)
    decoder = json.JSONDecoder()
    position = text.index("[") + 1
    line, counted = 1, 0
    while True:
        position = _SPACE_OR_COMMA.match(text, position).end()
        line, counted = line + text.count("\n", counted, position), position
        if text.startswith("]", position):
            return
        try:
            value, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            raise TextError(f"{file}:{line}: is not JSON: {error}", _json_hint(file))
        yield Row(f"{file}:{line}", _require_object(value, f"{file}:{line}"), end - position)
        position = end


def _read_parquet(file):
    import pyarrow
    import pyarrow.parquet
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=PARQUET_BATCH_ROWS):
                size = batch.nbytes // max(1, batch.num_rows)
                for value in batch.to_pylist():
                    number += 1
                    yield Row(f"{file}: row {number}", value, size)
    except (pyarrow.ArrowException, OSError) as error:
        raise TextError(f"{file}: cannot be read as Parquet after row {number}: {error}",
                        "copy or fetch it again: it is cut short or damaged, or no Parquet file")


def _read_text(file):
    """A plain text file is one document."""
    text = _decode(file.read_bytes(), file, 1)
    if text and not text.isspace():
        yield Row(f"{file}:1", {"text": text}, len(text))
