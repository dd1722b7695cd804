"""One update by our kernels, on numpy arrays."""

import os
import subprocess

import numpy as np


def adamw_step(folder, arrays, *, lr, betas, eps, weight_decay, step, weights="f32", gradients="f32", moments="fp32",
               scale=1.0, seed=0, rule="adamw"):
    """`arrays`: by the names of adamw_step.cpp. Returns them as they are afterwards."""
    folder.mkdir(exist_ok=True)
    for name, array in arrays.items():
        np.ascontiguousarray(array).tofile(folder / name)
    settings = [repr(float(x)) for x in (lr, *betas, eps, weight_decay)] + [str(step), repr(float(scale)), str(seed)]
    subprocess.run([os.environ["SLUICE_ADAMW_STEP"], folder, rule, weights, gradients, moments, *settings], check=True)
    return {name: np.fromfile(folder / name, dtype=array.dtype).reshape(array.shape) for name, array in arrays.items()}


def ulps_apart(a, b):
    """Per element: how many fp32 values lie between."""

    def place(x):  # fp32 bit patterns in the order of their values
        bits = x.view(np.int32).astype(np.int64)
        return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)

    return np.abs(place(a) - place(b))
