#!/usr/bin/env python3
"""Writes a model directory of a given shape with random weights, for benchmarks and tests of size.

    python configs/model/make_random_model.py configs/model/dense-1.4b /tmp/dense-1.4b --dtype bf16

The result loads in transformers. Needs the model's size on disk and under 1 GiB of RAM whatever the size: one
piece of one tensor is in memory at a time. The same seed gives the same bytes, whatever the shard size.
"""

import argparse
import hashlib
import json
import math
import shutil
import struct
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

DTYPES = {"fp32": (torch.float32, "F32"), "bf16": (torch.bfloat16, "BF16"), "fp16": (torch.float16, "F16")}
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
    kind: str  # "normal" | "ones" | "zeros"

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


def shards_of(tensors, element_bytes, shard_bytes_max):
    shards, used = [[]], 0
    for tensor in tensors:
        tensor_bytes = tensor.elements() * element_bytes
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
    while done < tensor.elements():
        count = min(PIECE_ELEMENTS, tensor.elements() - done)
        if tensor.kind == "normal":
            values = torch.empty(count, dtype=torch.float32).normal_(0.0, std, generator=generator).to(dtype)
        else:
            values = torch.full((count,), 1.0 if tensor.kind == "ones" else 0.0, dtype=dtype)
        yield values.view(torch.uint8).numpy().data
        done += count


def write_shard(path, tensors, dtype_name, std, seed):
    dtype, stored_name = DTYPES[dtype_name]
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for tensor in tensors:
        end = offset + tensor.elements() * dtype.itemsize
        header[tensor.name] = {"dtype": stored_name, "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors:
            for piece in pieces(tensor, dtype, std, seed):
                file.write(piece)


def write_weights(out_dir, config, dtype_name, seed, shard_bytes_max=SHARD_BYTES_MAX):
    tensors = tensor_shapes(config)
    element_bytes = DTYPES[dtype_name][0].itemsize
    shards = shards_of(tensors, element_bytes, shard_bytes_max)
    names = ["model.safetensors"]
    if len(shards) > 1:
        names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    for name, shard in zip(names, shards):
        write_shard(out_dir / name, shard, dtype_name, config.initializer_range, seed)
    if len(shards) > 1:
        weight_map = {tensor.name: name for name, shard in zip(names, shards) for tensor in shard}
        total = sum(tensor.elements() for tensor in tensors) * element_bytes
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (out_dir / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
    return sum(tensor.elements() for tensor in tensors)


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


def write_random_model(shape_dir, out_dir, dtype_name="bf16", seed=0, shard_bytes_max=SHARD_BYTES_MAX):
    out_dir = Path(out_dir)
    config = transformers.AutoConfig.from_pretrained(shape_dir)
    config.dtype = DTYPES[dtype_name][0]
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
    parameters = write_weights(unfinished, config, dtype_name, seed, shard_bytes_max)
    unfinished.rename(out_dir)
    return parameters


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", type=Path, help="folder with a config.json")
    parser.add_argument("out", type=Path, help="model directory to write; must not exist")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="bf16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shard-bytes-max", type=int, default=SHARD_BYTES_MAX)
    options = parser.parse_args()
    if not (options.shape / "config.json").is_file():
        sys.exit(f"{options.shape}/config.json: not there\n  fix: name one of the folders beside this script")
    if options.out.exists():
        sys.exit(f"{options.out}: is there already\n  fix: remove it or name another folder")
    begin = time.monotonic()
    parameters = write_random_model(options.shape, options.out, options.dtype, options.seed, options.shard_bytes_max)
    print(f"{options.out}: {parameters / 1e6:.1f} M parameters, {options.dtype}, {time.monotonic() - begin:.1f} s")


if __name__ == "__main__":
    main()
