#!/usr/bin/env python3
"""Writes a model directory of a given shape with random weights, for benchmarks and tests of size.

    python configs/model/make_random_model.py configs/model/dense-1.4b /tmp/dense-1.4b --dtype bf16
    python configs/model/make_random_model.py configs/model/qwen2.5-32b /tmp/qwen-32b-nf4 --dtype nf4

The result loads in transformers; with nf4 the layers' matrices are stored as bitsandbytes stores them. Needs the model's
size on disk and under 1 GiB of RAM whatever the size: one piece of one tensor is in memory at a time. The same
seed gives the same bytes, whatever the shard size. --hollow writes headers alone, over files that read as zeros and take
no space: enough for `sluice plan`.
"""

import argparse
import hashlib
import json
import math
import multiprocessing
import shutil
import struct
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

DTYPES = {"fp32": (torch.float32, "F32"), "bf16": (torch.bfloat16, "BF16"), "fp16": (torch.float16, "F16")}
NF4 = "nf4"
PIECE_ELEMENTS = 1 << 24
SHARD_BYTES_MAX = 5_000_000_000
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True)
class TensorShape:
    name: str
    shape: tuple
    kind: str  # "normal" | "ones" | "zeros" | "codes" | "scales" | "fixed"
    stored: str = ""  # of the last three: "U8" | "F32"
    fixed: bytes = b""

    def elements(self):
        return math.prod(self.shape)


def tensor_shapes(config):
    """Names and shapes as transformers' own class gives them, without allocating a weight."""
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    tied = set(model.all_tied_weights_keys)
    shapes = []
    for name, tensor in model.state_dict().items():
        if name in tied:
            continue
        kind = "normal" if tensor.dim() == 2 else "zeros" if name.endswith("bias") else "ones"
        shapes.append(TensorShape(name, tuple(tensor.shape), kind))
    return shapes


# What bitsandbytes keeps of a matrix of values from a normal distribution: the largest of 64 is 2.4 deviations off.
BLOCK, SCALE_BLOCK = 64, 256
SCALE_MEAN, SCALE_SPREAD = 2.4, 1.2  # in deviations
NF4_CONFIG = {
    "quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False, "bnb_4bit_quant_type": NF4,
    "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": "bfloat16", "bnb_4bit_quant_storage": "uint8",
}


def nf4_tensors(tensor, std):
    """A matrix as bitsandbytes' tensors: random codes and scales, and the tables that its files repeat."""
    import bitsandbytes.functional as tables

    blocks = -(-tensor.elements() // BLOCK)
    state = {"quant_type": NF4, "blocksize": BLOCK, "dtype": "bfloat16", "shape": list(tensor.shape),
             "nested_blocksize": SCALE_BLOCK, "nested_dtype": "float32", "nested_offset": SCALE_MEAN * std}
    text = json.dumps(state).encode()

    def fixed(suffix, values):
        data = torch.as_tensor(values, dtype=torch.float32).numpy().tobytes()
        return TensorShape(f"{tensor.name}.{suffix}", (len(data) // 4,), "fixed", "F32", data)

    return [
        TensorShape(tensor.name, (-(-tensor.elements() // 2), 1), "codes", "U8"),
        TensorShape(f"{tensor.name}.absmax", (blocks,), "codes", "U8"),
        TensorShape(f"{tensor.name}.nested_absmax", (-(-blocks // SCALE_BLOCK),), "scales", "F32"),
        fixed("quant_map", tables.get_4bit_type(NF4, device="cpu")),
        fixed("nested_quant_map", tables.create_dynamic_map()),
        TensorShape(f"{tensor.name}.quant_state.bitsandbytes__nf4", (len(text),), "fixed", "U8", text),
    ]


def in_nf4(tensors, std):
    """The layers' matrices in low bits; embedding, head, norms and biases as they are, as transformers has it."""
    split = []
    for tensor in tensors:
        low = ".layers." in tensor.name and len(tensor.shape) == 2
        split += nf4_tensors(tensor, std) if low else [tensor]
    return split


def stored_bytes(tensor, element_bytes):
    return tensor.elements() * ({"U8": 1, "F32": 4}[tensor.stored] if tensor.stored else element_bytes)


def shards_of(tensors, element_bytes, shard_bytes_max):
    shards, used = [[]], 0
    for tensor in tensors:
        tensor_bytes = stored_bytes(tensor, element_bytes)
        if shards[-1] and used + tensor_bytes > shard_bytes_max:
            shards.append([])
            used = 0
        shards[-1].append(tensor)
        used += tensor_bytes
    return shards


def pieces(tensor, dtype, std, seed):
    """The tensor's bytes in order. Each tensor has a generator of its own, so that sharding changes nothing."""
    digest = hashlib.sha256(f"{seed}:{tensor.name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    done = 0
    if tensor.kind == "fixed":
        yield tensor.fixed
        return
    if tensor.kind == "codes":
        random = np.random.default_rng(list(digest[:16]))
        while done < tensor.elements():
            count = min(PIECE_ELEMENTS, tensor.elements() - done)
            yield random.bytes(count)
            done += count
        return
    if tensor.kind == "scales":
        yield np.full(tensor.elements(), SCALE_SPREAD * std, dtype=np.float32).data
        return
    while done < tensor.elements():
        count = min(PIECE_ELEMENTS, tensor.elements() - done)
        if tensor.kind == "normal":
            values = torch.empty(count, dtype=torch.float32).normal_(0.0, std, generator=generator).to(dtype)
        else:
            values = torch.full((count,), 1.0 if tensor.kind == "ones" else 0.0, dtype=dtype)
        yield values.view(torch.uint8).numpy().data
        done += count


def write_shard(path, tensors, dtype_name, std, seed, hollow=False):
    dtype, stored_name = DTYPES[dtype_name]
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for tensor in tensors:
        end = offset + stored_bytes(tensor, dtype.itemsize)
        header[tensor.name] = {"dtype": tensor.stored or stored_name, "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors:
            if hollow and tensor.kind != "fixed":
                file.seek(stored_bytes(tensor, dtype.itemsize), 1)
                continue
            for piece in pieces(tensor, dtype, std, seed):
                file.write(piece)
        file.truncate(8 + len(text) + offset)


def write_weights(out_dir, config, dtype_name, seed, shard_bytes_max=SHARD_BYTES_MAX, workers=1, hollow=False):
    tensors = tensor_shapes(config)
    parameters = sum(tensor.elements() for tensor in tensors)
    if dtype_name == NF4:
        tensors, dtype_name = in_nf4(tensors, config.initializer_range), "bf16"
    element_bytes = DTYPES[dtype_name][0].itemsize
    shards = shards_of(tensors, element_bytes, shard_bytes_max)
    names = ["model.safetensors"]
    if len(shards) > 1:
        names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    jobs = [(out_dir / name, shard, dtype_name, config.initializer_range, seed, hollow)
            for name, shard in zip(names, shards)]
    if workers > 1:
        with multiprocessing.get_context("spawn").Pool(min(workers, len(jobs))) as pool:
            pool.starmap(write_shard, jobs, chunksize=1)
    else:
        for job in jobs:
            write_shard(*job)
    if len(shards) > 1:
        weight_map = {tensor.name: name for name, shard in zip(names, shards) for tensor in shard}
        total = sum(stored_bytes(tensor, element_bytes) for tensor in tensors)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (out_dir / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
    return parameters


def byte_pair_order():
    """Every pair of bytes, those of plain text first: a space and a letter, then two letters, then the rest."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters = [c for c in alphabet if c.isascii() and c.isalpha()]
    first = [("Ġ", b) for b in letters] + [(a, b) for a in letters for b in letters]
    seen = set(first)
    return alphabet, first + [(a, b) for a in alphabet for b in alphabet if (a, b) not in seen]


def make_tokenizer(vocabulary):
    """Byte-level BPE that was trained on nothing: the 256 bytes, then pairs of them until the vocabulary is full."""
    alphabet, pairs = byte_pair_order()
    specials_max = len(SPECIAL_TOKENS)
    if vocabulary < len(alphabet) + specials_max:
        raise SystemExit(f"vocab_size {vocabulary} is below {len(alphabet) + specials_max}, the bytes and special tokens")
    merges = pairs[: vocabulary - len(alphabet) - specials_max]
    vocab = {token: i for i, token in enumerate(alphabet)}
    for a, b in merges:
        vocab.setdefault(a + b, len(vocab))
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    end, start, end_of_turn, pad = SPECIAL_TOKENS
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=end,
        pad_token=pad,
        additional_special_tokens=[start, end_of_turn],
        chat_template=CHAT_TEMPLATE,
    )


def write_random_model(shape_dir, out_dir, dtype_name="bf16", seed=0, shard_bytes_max=SHARD_BYTES_MAX, workers=1,
                       hollow=False):
    out_dir = Path(out_dir)
    config = transformers.AutoConfig.from_pretrained(shape_dir)
    config.dtype = DTYPES.get(dtype_name, DTYPES["bf16"])[0]
    if dtype_name == NF4:
        config.quantization_config = NF4_CONFIG
    # Written beside and renamed: a directory that is there is complete.
    unfinished = out_dir.with_name(out_dir.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    tokenizer = make_tokenizer(config.vocab_size)
    tokenizer.save_pretrained(unfinished)
    config.bos_token_id = None
    config.eos_token_id = tokenizer.eos_token_id
    config.pad_token_id = tokenizer.pad_token_id
    config.save_pretrained(unfinished)
    generation = {"eos_token_id": config.eos_token_id, "pad_token_id": config.pad_token_id}
    (unfinished / "generation_config.json").write_text(json.dumps(generation, indent=1) + "\n")
    parameters = write_weights(unfinished, config, dtype_name, seed, shard_bytes_max, workers, hollow)
    unfinished.rename(out_dir)
    return parameters


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", type=Path, help="folder with a config.json")
    parser.add_argument("out", type=Path, help="model directory to write; must not exist")
    parser.add_argument("--dtype", choices=sorted([*DTYPES, NF4]), default="bf16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shard-bytes-max", type=int, default=SHARD_BYTES_MAX)
    parser.add_argument("--workers", type=int, default=1, help="shards written at a time, in processes of their own")
    parser.add_argument("--hollow", action="store_true", help="no data: for plans of models that one does not have")
    options = parser.parse_args()
    if not (options.shape / "config.json").is_file():
        sys.exit(f"{options.shape}/config.json: not there\n  fix: name one of the folders beside this script")
    if options.out.exists():
        sys.exit(f"{options.out}: is there already\n  fix: remove it or name another folder")
    begin = time.monotonic()
    parameters = write_random_model(options.shape, options.out, options.dtype, options.seed, options.shard_bytes_max,
                                    options.workers, options.hollow)
    print(f"{options.out}: {parameters / 1e6:.1f} M parameters, {options.dtype}, {time.monotonic() - begin:.1f} s")


if __name__ == "__main__":
    main()
