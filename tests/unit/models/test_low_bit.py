"""Matrices in low bits against bitsandbytes' CPU backend: every code, scale and expanded number, bit by bit."""

import os
import subprocess

import bitsandbytes.functional
import numpy as np
import pytest
import torch

# Whole blocks; rows that begin inside a block; an odd number of elements; a last block of scales that is short.
SHAPES = [(96, 256), (300, 192), (44, 76), (33, 37), (1, 5), (520, 64)]
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
KINDS = [("nf4", False), ("nf4", True), ("fp4", False), ("fp4", True)]


def values_of(rows, columns):
    """Heavy tails, a block of zeros, ties between codes, tiny and huge blocks."""
    generator = torch.Generator().manual_seed(rows * 1000 + columns)
    values = torch.randn(rows * columns, generator=generator) ** 3
    values[:64] = 0
    if len(values) > 4096:
        values[64:128] *= 1e-30
        values[128:192] *= 1e20
        values[192:256] = torch.linspace(-1, 1, 64)
        values[256:320] = torch.tensor([0.0, -0.0, 1e-9, -1e-9] * 16)
        values[256] = 1.0
    return values.reshape(rows, columns)


def tool(*arguments):
    subprocess.run([os.environ["LOW_BIT_TOOL"], *map(str, arguments)], check=True)


def quantised(folder, kind, double, values):
    values.numpy().astype(np.float32).tofile(folder / "values")
    files = [folder / name for name in ("codes", "scales", "nested")]
    tool("quantise", kind, int(double), *values.shape, folder / "values", *files)
    return files


def expanded(folder, kind, double, shape, files, dtype):
    tool("expand", kind, int(double), *shape, *files, dtype, folder / "out")
    if dtype == "f32":
        return torch.from_numpy(np.fromfile(folder / "out", np.float32).reshape(shape))
    return torch.from_numpy(np.fromfile(folder / "out", np.int16).reshape(shape)).view(DTYPES[dtype])


def same_bits(ours, theirs):
    # The sign of fp4's second zero is not the same in all of bitsandbytes' own kernels.
    ours, theirs = ours + 0.0, theirs + 0.0
    integer = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}[theirs.dtype]
    different = (ours.view(integer) != theirs.view(integer)).nonzero()
    assert len(different) == 0, f"{len(different)} of {theirs.numel()}, first {different[0].tolist()}"


def test_the_dynamic_type_is_the_one_of_bitsandbytes(tmp_path):
    tool("dynamic", tmp_path / "values")
    same_bits(torch.from_numpy(np.fromfile(tmp_path / "values", np.float32)),
              bitsandbytes.functional.create_dynamic_map())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("kind", "double"), KINDS)
def test_codes_and_scales_of_4_bits(tmp_path, kind, double, shape):
    values = values_of(*shape)
    codes, scales, nested = quantised(tmp_path, kind, double, values)
    packed, state = bitsandbytes.functional.quantize_4bit(values, blocksize=64, quant_type=kind,
                                                          compress_statistics=double)
    assert np.array_equal(np.fromfile(codes, np.uint8), packed.numpy().reshape(-1))
    if not double:
        return same_bits(torch.from_numpy(np.fromfile(scales, np.float32)), state.absmax)
    assert np.array_equal(np.fromfile(scales, np.uint8), state.absmax.numpy())
    ours = torch.from_numpy(np.fromfile(nested, np.float32))
    same_bits(ours, torch.cat([state.state2.absmax, state.offset.reshape(1)]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("kind", "double"), KINDS)
def test_4_bits_are_expanded_alike(tmp_path, kind, double, shape, dtype):
    values = values_of(*shape)
    files = quantised(tmp_path, kind, double, values)
    packed, state = bitsandbytes.functional.quantize_4bit(values, blocksize=64, quant_type=kind,
                                                          compress_statistics=double)
    state.dtype = DTYPES[dtype]
    same_bits(expanded(tmp_path, kind, double, shape, files, dtype),
              bitsandbytes.functional.dequantize_4bit(packed, state).contiguous())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_8_bits(tmp_path, shape):
    values = values_of(*shape).clamp(-1e4, 1e4).half()
    codes, scales, nested = quantised(tmp_path, "int8", False, values.float())
    theirs, rows, _ = bitsandbytes.functional.int8_vectorwise_quant(values.clone())
    assert np.array_equal(np.fromfile(codes, np.int8), theirs.numpy().reshape(-1))
    same_bits(torch.from_numpy(np.fromfile(scales, np.float32)), rows)
    same_bits(expanded(tmp_path, "int8", False, shape, (codes, scales, nested), "f32"),
              bitsandbytes.functional.int8_vectorwise_dequant(theirs, rows))
