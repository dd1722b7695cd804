"""Lion against bitsandbytes' on the CPU: the same weights, and the same moments, codes and scales, after every step."""

import bitsandbytes
import numpy as np
import pytest
import torch
from adamw_steps import adamw_step
from test_adamw_int8 import BLOCK, gradients

SETTINGS = [(1e-4, (0.9, 0.99), 0.0), (3e-3, (0.95, 0.98), 0.1), (2e-5, (0.9, 0.999), 0.01)]  # lr, betas, weight_decay
ELEMENTS = [40 * BLOCK, 40 * BLOCK + 77]


def compare(tmp_path, optimizer_class, elements, settings, moments, states, names):
    lr, betas, weight_decay = settings
    parameter = torch.nn.Parameter(torch.randn(elements, generator=torch.Generator().manual_seed(1)))
    optimizer = optimizer_class([parameter], lr=lr, betas=betas, weight_decay=weight_decay)
    for step, g in gradients(elements, 12):
        before = parameter.detach().numpy().copy()
        parameter.grad = g.clone()
        optimizer.step()
        after = adamw_step(tmp_path / "step", {"weights": before, "gradients": g.numpy(), **states}, lr=lr, betas=betas,
                           eps=0.0, weight_decay=weight_decay, step=step, moments=moments, rule="lion")
        theirs = {"weights": parameter.detach().numpy(),
                  **{ours: optimizer.state[parameter][name].numpy().copy() for ours, name in names.items()}}
        for name, values in theirs.items():
            differ = int((after[name] != values).sum())
            assert differ == 0, f"step {step}: {differ} of {values.size} elements of {name}"
        assert (theirs["weights"] != before).any()
        states = {name: theirs[name] for name in names}


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("elements", ELEMENTS)
def test_fp32_moments(tmp_path, elements, settings):
    compare(tmp_path, bitsandbytes.optim.Lion32bit, elements, settings, "fp32", {"m": np.zeros(elements, np.float32)},
            {"m": "state1"})


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("elements", ELEMENTS)
def test_eight_bit_moments(tmp_path, elements, settings):
    states = {"m": np.zeros(elements, np.uint8), "m_scales": np.zeros(-(-elements // BLOCK), np.float32)}
    compare(tmp_path, bitsandbytes.optim.Lion8bit, elements, settings, "8bit", states,
            {"m": "state1", "m_scales": "absmax1"})
