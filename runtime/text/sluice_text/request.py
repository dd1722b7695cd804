"""The request that `sluice preprocess` and `sluice train` send: checked, typed, defaults filled in. See README.md."""

import dataclasses
import difflib
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from sluice_text.errors import TextError

DATASET_TYPES = ("alpaca", "chat_template", "completion")


@dataclass(frozen=True)
class Dataset:
    path: Path
    type: str


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

    def settings(self):
        """What, beside the bytes of the files, decides the content of the token files."""
        return {
            "types": [dataset.type for dataset in self.datasets],
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
        raise TextError(f"{source}: cannot read the request: {error.strerror}")
    try:
        value = json.loads(text)
    except ValueError as error:
        raise TextError(f"{source}: the request is not JSON: {error}")
    if not isinstance(value, dict):
        raise TextError(f"{source}: the request must be a JSON object")
    return parse_request(value)


def parse_request(value):
    known = [field.name for field in dataclasses.fields(Request)]
    for key in value:
        if key not in known:
            nearest = difflib.get_close_matches(key, known, 1)
            raise TextError(f"unknown key '{key}' in the request", f"did you mean '{nearest[0]}'?" if nearest else None)
    for key in ("base_model", "datasets", "sequence_len", "cache_dir"):
        if key not in value:
            raise TextError(f"the request lacks '{key}'")
    for key in ("sample_packing", "train_on_inputs", "shuffle_merged_datasets"):
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
            if key not in ("path", "type"):
                raise TextError(f"{name}: unknown key '{key}'", "a dataset has path and type")
        path = entry.get("path")
        _require(isinstance(path, str) and path != "", f"{name}.path", "a file or a folder of files", path)
        _require(entry.get("type") in DATASET_TYPES, f"{name}.type", "one of " + ", ".join(DATASET_TYPES),
                 entry.get("type"))
        datasets.append(Dataset(Path(path), entry["type"]))
    return tuple(datasets)


def _is_int(value):
    return isinstance(value, int) and not isinstance(value, bool)


def _require(holds, key, expected, found):
    if not holds:
        raise TextError(f"{key} must be {expected}, not {json.dumps(found)}")
