"""The optimizer's states of a checkpoint, wherever its bytes are: in its own files, or in the swap files that its manifest
names."""

import json
import struct
from pathlib import Path

NUMBER_BYTES = {"f32": 4, "bf16": 2, "f16": 2, "i16": 2, "u8": 1, "i8": 1}


def raw_tensors(file):
    """name -> (dtype, bytes) of a safetensors file, as they are stored."""
    data = Path(file).read_bytes()
    (header_bytes,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8:8 + header_bytes])
    header.pop("__metadata__", None)
    begin = 8 + header_bytes
    return {name: data[begin + tensor["data_offsets"][0]:begin + tensor["data_offsets"][1]] for name, tensor in header.items()}


def manifest_of(checkpoint):
    path = Path(checkpoint) / "manifest.json"
    return json.loads(path.read_text()) if path.exists() else None


def swap_file(checkpoint, entry):
    beside = Path(checkpoint) / entry.get("beside", "nowhere")
    return beside if beside.exists() else Path(entry["path"])


def extent_bytes(checkpoint, manifest, extent):
    whole = b""
    for file, offset, count, _ in extent["pieces"]:
        with open(swap_file(checkpoint, manifest["files"][file]), "rb") as swap:
            swap.seek(offset)
            whole += swap.read(count)
    return whole


def extents(checkpoint, kind):
    """(extent, its bytes) of the manifest's weights or states."""
    manifest = manifest_of(checkpoint)
    for extent in manifest["extents"]:
        if bool(extent["parts"]) == (kind == "states"):
            yield extent, extent_bytes(checkpoint, manifest, extent)


def states(checkpoint):
    """"layer.0.exp_avg" -> bytes."""
    checkpoint = Path(checkpoint)
    if manifest_of(checkpoint) is None:
        return raw_tensors(checkpoint / "optimizer.safetensors")
    found = {}
    if (checkpoint / "resident.safetensors").exists():
        found = {name: data for name, data in raw_tensors(checkpoint / "resident.safetensors").items()
                 if not name.endswith(".weights")}
    for extent, data in extents(checkpoint, "states"):
        for part, (dtype, begin, count, offset) in extent["parts"].items():
            each = NUMBER_BYTES[dtype]
            whole = found.setdefault(f"{extent['group']}.{part}", bytearray())
            whole.extend(bytes(max(0, (begin + count) * each - len(whole))))
            whole[begin * each:(begin + count) * each] = data[offset:offset + count * each]
    return {name: bytes(data) for name, data in found.items()}
