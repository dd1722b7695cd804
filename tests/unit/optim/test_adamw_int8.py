"""Moments in 8 bits against bitsandbytes' optimizer on the CPU: the same codes and scales after every step."""

import bitsandbytes
import bitsandbytes.functional
import numpy as np
import pytest
import torch
from adamw_steps import adamw_step, ulps_apart

BLOCK = 256
SETTINGS = [  # lr, betas, eps, weight_decay
    (1e-3, (0.9, 0.999), 1e-8, 0.0),
    (3e-2, (0.9, 0.95), 1e-6, 0.1),
    (2e-5, (0.8, 0.99), 1e-8, 0.01),
]


def fresh_states(elements):
    blocks = -(-elements // BLOCK)
    return {"m": np.zeros(elements, np.uint8), "v": np.zeros(elements, np.uint8),
            "m_scales": np.zeros(blocks, np.float32), "v_scales": np.zeros(blocks, np.float32)}


def gradients(elements, steps, seed=5):
    """Of many magnitudes, with whole blocks and single elements of zeros."""
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        g = torch.randn(elements, generator=generator) * 10.0 ** torch.randint(-6, 1, (elements,), generator=generator)
        g[::13] = 0
        g[2 * BLOCK : 3 * BLOCK] = 0 if step < 2 else g[2 * BLOCK : 3 * BLOCK]
        yield step + 1, g


def their_states(optimizer, parameter):
    state = optimizer.state[parameter]
    names = {"m": "state1", "v": "state2", "m_scales": "absmax1", "v_scales": "absmax2"}
    return {ours: state[theirs].numpy().copy() for ours, theirs in names.items()}


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("elements", [40 * BLOCK, 40 * BLOCK + 77])
def test_codes_and_scales_are_those_of_bitsandbytes(tmp_path, elements, settings):
    lr, betas, eps, weight_decay = settings
    parameter = torch.nn.Parameter(torch.randn(elements, generator=torch.Generator().manual_seed(1)))
    optimizer = bitsandbytes.optim.AdamW8bit([parameter], lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
    states = fresh_states(elements)
    for step, g in gradients(elements, 12):
        before = parameter.detach().numpy().copy()
        parameter.grad = g.clone()
        optimizer.step()
        after = adamw_step(tmp_path / "step", {"weights": before, "gradients": g.numpy(), **states}, lr=lr, betas=betas,
                           eps=eps, weight_decay=weight_decay, step=step, moments="8bit")
        states = their_states(optimizer, parameter)
        for name, theirs in states.items():
            differ = int((after[name] != theirs).sum())
            assert differ == 0, f"step {step}: {differ} of {theirs.size} elements of {name}"
        # MKL's roots are one in five 1 ulp off: see test_adamw.py.
        now = parameter.detach().numpy()
        small_change = np.abs(now - before) <= np.abs(now) / 8
        assert (now != before).any() and ulps_apart(after["weights"], now)[small_change].max() <= 2


def test_two_hundred_steps_end_where_those_of_bitsandbytes_do(tmp_path):
    """Our own states all the way, on a problem with a minimum."""
    elements, lr, betas, eps = 32 * BLOCK, 1e-2, (0.9, 0.999), 1e-8
    generator = torch.Generator().manual_seed(3)
    target = torch.randn(elements, generator=generator)
    start = torch.randn(elements, generator=generator)

    def distance(p):
        return float(((torch.from_numpy(p) - target) ** 2).mean())

    def run_theirs(optimizer_class, **options):
        parameter = torch.nn.Parameter(start.clone())
        optimizer = optimizer_class([parameter], lr=lr, betas=betas, eps=eps, weight_decay=0.0, **options)
        for _ in range(200):
            parameter.grad = (parameter.detach() - target) * 2
            optimizer.step()
        return parameter.detach().numpy()

    theirs, exact = run_theirs(bitsandbytes.optim.AdamW8bit), run_theirs(torch.optim.AdamW)
    arrays = {"weights": start.numpy().copy(), "gradients": start.numpy(), **fresh_states(elements)}
    for step in range(1, 201):
        arrays["gradients"] = (arrays["weights"] - target.numpy()) * np.float32(2)
        arrays = adamw_step(tmp_path / "step", arrays, lr=lr, betas=betas, eps=eps, weight_decay=0.0, step=step, moments="8bit")
    ours = arrays["weights"]
    band = np.abs(theirs - exact).max()
    print("ours from theirs", np.abs(ours - theirs).max(), "theirs from fp32", band, distance(ours), distance(theirs))
    assert np.abs(ours - theirs).max() <= band
    assert abs(distance(ours) - distance(theirs)) <= 0.01 * distance(theirs)


def test_the_unsigned_values_are_those_of_bitsandbytes(tmp_path):
    """Read back through the update: with b2 = 1, a gradient of zero and codes 0..255, v's values come out in p."""
    codes = np.arange(BLOCK, dtype=np.uint8)
    values = bitsandbytes.functional.create_dynamic_map(signed=False).numpy()
    ones, zeros = np.ones(BLOCK, np.float32), np.zeros(BLOCK, np.float32)
    after = adamw_step(tmp_path / "step", {"weights": zeros, "gradients": zeros, "m": np.full(BLOCK, 255, np.uint8),
                                           "v": codes, "m_scales": ones[:1], "v_scales": ones[:1]},
                       lr=1.0, betas=(1 - 2**-20, 0.5), eps=1.0, weight_decay=0.0, step=100, moments="8bit")
    m, v = np.float32(1 - 2**-20), values * np.float32(0.5)
    expected = -m / (1 - (1 - 2**-20) ** 100) / (np.sqrt(v.astype(np.float64)) + 1)
    np.testing.assert_allclose(after["weights"], expected, rtol=1e-6)
