"""The request that `sluice preprocess` and `sluice train` send: checked, typed, defaults filled in. See README.md."""

import dataclasses
import difflib
import itertools
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from sluice_text.errors import TextError
from sluice_text.instruction import COLUMNS

FIX_REQUEST = "runtime/text/README.md has the keys of a request"
DATASET_TYPES = ("alpaca", "chat_template", "completion", "instruction")


@dataclass(frozen=True)
class Dataset:
    path: Path
    type: str
    field: str = "text"  # of completion
    # Of chat_template, with Axolotl's meaning:
    field_messages: str = None  # None: "messages" or "conversations", whichever a row has
    message_property_mappings: tuple = ()  # (a message's property, the field of a turn that holds it)
    roles: tuple = None  # (a role of the template, the names that data has for it); None: the well-known names
    columns: tuple = ()  # of instruction: (LLaMA-Factory's name, the field of a row)
    rows_max: int = 0  # 0: all; else so many first rows

    def settings(self):
        settings = [self.type, self.field, self.field_messages, self.message_property_mappings, self.roles]
        return settings + [self.columns, self.rows_max] if self.columns or self.rows_max else settings


DATASET_KEYS = tuple(field.name for field in dataclasses.fields(Dataset))


@dataclass(frozen=True)
class Request:
    base_model: Path
    datasets: tuple
    sequence_len: int
    cache_dir: Path
    val_set_size: float = 0
    sample_packing: bool = False
    train_on_inputs: bool = False
    shuffle_merged_datasets: bool = True
    seed: int = 42
    debug_rows: int = 0
    progress: bool = False

    def settings(self):
        """What, beside the bytes of the files, decides the content of the token files."""
        return {
            "datasets": [dataset.settings() for dataset in self.datasets],
            "sequence_len": self.sequence_len,
            "val_set_size": float(self.val_set_size),
            "sample_packing": self.sample_packing,
            "train_on_inputs": self.train_on_inputs,
            "shuffle_merged_datasets": self.shuffle_merged_datasets,
            "seed": self.seed,
        }


def read_request(source):
    """`source`: a file's path, or "-" for stdin."""
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
    except OSError as error:
        raise TextError(f"{source}: cannot read the request: {error.strerror}", "name a readable file, or - for stdin")
    try:
        value = json.loads(text)
    except ValueError as error:
        raise TextError(f"{source}: the request is not JSON: {error}", FIX_REQUEST)
    if not isinstance(value, dict):
        raise TextError(f"{source}: the request must be a JSON object", FIX_REQUEST)
    return parse_request(value)


def parse_request(value):
    known = [field.name for field in dataclasses.fields(Request)]
    for key in value:
        if key not in known:
            nearest = difflib.get_close_matches(key, known, 1)
            raise TextError(f"unknown key '{key}' in the request", f"did you mean '{nearest[0]}'?" if nearest else FIX_REQUEST)
    for key in ("base_model", "datasets", "sequence_len", "cache_dir"):
        if key not in value:
            raise TextError(f"the request lacks '{key}'", FIX_REQUEST)
    for key in ("sample_packing", "train_on_inputs", "shuffle_merged_datasets", "progress"):
        _require(isinstance(value.get(key, False), bool), key, "true or false", value.get(key))
    for key, least in (("sequence_len", 2), ("seed", 0), ("debug_rows", 0)):
        _require(_is_int(value.get(key, least)) and value.get(key, least) >= least, key, f"a whole number from {least}",
                 value.get(key))
    size = value.get("val_set_size", 0)
    _require((_is_int(size) or isinstance(size, float)) and size >= 0 and (size < 1 or size == int(size)), "val_set_size",
             "a share below 1 or a whole number of rows", size)
    for key in ("base_model", "cache_dir"):
        _require(isinstance(value[key], str) and value[key] != "", key, "a path", value[key])
    fields = dict(value, base_model=Path(value["base_model"]), cache_dir=Path(value["cache_dir"]),
                  datasets=_datasets(value["datasets"]))
    return Request(**fields)


def _datasets(value):
    _require(isinstance(value, list) and value, "datasets", "a list of at least one {path, type}", value)
    datasets = []
    for i, entry in enumerate(value):
        name = f"datasets[{i}]"
        _require(isinstance(entry, dict), name, "{path, type}", entry)
        for key in entry:
            if key not in DATASET_KEYS:
                raise TextError(f"{name}: unknown key '{key}'", f"a dataset has {', '.join(DATASET_KEYS)}")
        path = entry.get("path")
        _require(isinstance(path, str) and path != "", f"{name}.path", "a file or a folder of files", path)
        _require(entry.get("type") in DATASET_TYPES, f"{name}.type", "one of " + ", ".join(DATASET_TYPES),
                 entry.get("type"))
        for key in ("field", "field_messages"):
            _require(key not in entry or _is_name(entry[key]), f"{name}.{key}", "a field's name", entry.get(key))
        rows_max = entry.get("rows_max", 0)
        _require(_is_int(rows_max) and rows_max >= 0, f"{name}.rows_max", "a whole number from 0", rows_max)
        given = {key: entry[key] for key in ("field", "field_messages", "rows_max") if key in entry}
        given["columns"] = _columns(entry, f"{name}.columns")
        datasets.append(Dataset(Path(path), entry["type"], **given, roles=_roles(entry, name),
                                message_property_mappings=_mappings(entry, f"{name}.message_property_mappings")))
    return tuple(datasets)


def _columns(entry, name):
    value = entry.get("columns", {})
    _require(isinstance(value, dict) and all(map(_is_name, [*value, *value.values()])), name, "{column: field}", value)
    for column in value:
        _require(column in COLUMNS, name, "of " + ", ".join(COLUMNS), column)
    return tuple(sorted(value.items()))


def _mappings(entry, name):
    value = entry.get("message_property_mappings", {})
    _require(isinstance(value, dict) and all(map(_is_name, [*value, *value.values()])), name, "{property: field}", value)
    return tuple(sorted(value.items()))


def _roles(entry, name):
    if "roles" not in entry:
        return None
    value = entry["roles"]
    lists = isinstance(value, dict) and all(isinstance(sources, list) for sources in value.values())
    _require(lists and value and all(map(_is_name, itertools.chain(value, *value.values()))), f"{name}.roles",
             "{role: [names]}", value)
    seen = set()
    for source in itertools.chain(*value.values()):
        if source in seen:
            raise TextError(f"{name}.roles: '{source}' is named twice", "keep it under one role")
        seen.add(source)
    return tuple((role, tuple(sorted(sources))) for role, sources in sorted(value.items()))


def _is_name(value):
    return isinstance(value, str) and value != ""


def _is_int(value):
    return isinstance(value, int) and not isinstance(value, bool)


def _require(holds, key, expected, found):
    if not holds:
        raise TextError(f"{key} must be {expected}, not {json.dumps(found)}", f"give {expected}")
