"""bf16 moments: each is one of the two neighbours of what fp32 moments would be, and right in the mean."""

import numpy as np
import torch
from adamw_steps import adamw_step

SETTINGS = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1}
ELEMENTS = 50_001


def bf16_bits(x):
    return (x.view(np.uint32) >> 16).astype(np.uint16)


def values_of(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def both_steps(folder, seed, step=7):
    rng = np.random.default_rng(1)
    p, g, old_m = rng.normal(size=(3, ELEMENTS)).astype(np.float32)
    m, v = bf16_bits(old_m), bf16_bits(np.abs(p) * np.float32(1e-3))
    exact = adamw_step(folder / "exact", {"weights": p, "gradients": g, "m": values_of(m), "v": values_of(v)}, step=step,
                       **SETTINGS)
    rounded = adamw_step(folder / "rounded", {"weights": p, "gradients": g, "m": m, "v": v}, step=step, moments="bf16",
                         seed=seed, **SETTINGS)
    return exact, rounded


def test_the_update_itself_is_that_of_fp32_moments(tmp_path):
    exact, rounded = both_steps(tmp_path, seed=3)
    assert (exact["weights"].view(np.uint32) == rounded["weights"].view(np.uint32)).all()


def test_each_moment_is_a_neighbour_of_the_exact_one_and_the_mean_is_kept(tmp_path):
    exact, rounded = both_steps(tmp_path, seed=3)
    for name in ("m", "v"):
        below = bf16_bits(exact[name])
        up = rounded[name] != below
        assert ((rounded[name] == below) | (rounded[name] == below + 1)).all(), name
        share = (exact[name].view(np.uint32) & 0xFFFF).mean() / 65536  # of the way to the upper neighbour
        assert abs(up.mean() - share) < 5 * np.sqrt(0.25 / ELEMENTS), (name, up.mean(), share)


def test_draws_change_with_seed_and_step_and_are_apart_for_m_and_v(tmp_path):
    exact, one = both_steps(tmp_path, seed=3)
    _, again = both_steps(tmp_path, seed=3)
    _, other = both_steps(tmp_path, seed=4)
    assert (one["m"] == again["m"]).all() and (one["v"] == again["v"]).all()
    assert (one["m"] != other["m"]).mean() > 0.2
    up = {name: one[name] != bf16_bits(exact[name]) for name in ("m", "v")}
    assert abs(np.corrcoef(up["m"], up["v"])[0, 1]) < 0.05


def test_a_small_second_moment_still_moves(tmp_path):
    """Rounded to nearest, v * 0.999 + 0.001 * g^2 would stay where it is for good: its change is below half a step."""
    p = np.zeros(ELEMENTS, np.float32)
    g = np.full(ELEMENTS, 0.9, np.float32)
    v = bf16_bits(np.ones(ELEMENTS, np.float32))
    arrays = {"weights": p, "gradients": g, "m": np.zeros(ELEMENTS, np.uint16), "v": v}
    expected = np.float64(1.0)
    for step in range(1, 51):
        arrays = adamw_step(tmp_path / "step", arrays, step=step, moments="bf16", seed=9, **SETTINGS)
        expected = expected * 0.999 + 0.001 * 0.81
    assert abs(values_of(arrays["v"]).mean() / expected - 1) < 1e-3
    nearest = torch.tensor(1.0, dtype=torch.bfloat16) * 0.999 + 0.001 * 0.81
    assert nearest == 1.0
