"""adamw_f32 against torch.optim.AdamW on fp32: given the same p, g, m and v, each step is within 2 ulp of torch's.

Both read torch's states of the step before, so that differences cannot hide in, or grow from, earlier steps.
"""

import os
import subprocess

import numpy as np
import pytest
import torch

IMPLEMENTATIONS = {"for_loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}
ELEMENTS = 10_007  # not a multiple of any vector: the kernels' tails are compared too
STEPS = 8


def ulps_apart(a, b):
    """Per element: how many fp32 values lie between."""

    def place(x):  # fp32 bit patterns in the order of their values
        bits = x.view(np.int32).astype(np.int64)
        return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)

    return np.abs(place(a) - place(b))


def our_step(file, p, g, m, v, lr, betas, eps, weight_decay, step):
    torch.cat([p, g, m, v]).numpy().tofile(file)
    settings = [repr(x) for x in (lr, *betas, eps, weight_decay, step)]
    subprocess.run([os.environ["SLUICE_ADAMW_STEP"], file, *settings], check=True)
    p, _, m, v = np.fromfile(file, dtype=np.float32).reshape(4, -1)
    return {"p": p, "m": m, "v": v}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    "lr, betas, eps, weight_decay",
    [
        (1e-3, (0.9, 0.999), 1e-8, 0.0),
        (3e-2, (0.9, 0.95), 1e-6, 0.1),
        (2e-5, (0.9, 0.999), 1e-8, 0.01),
        (1.0, (0.8, 0.99), 1e-3, 0.5),
        (1e-4, (0.3, 0.9), 1e-8, 0.1),  # 1 - beta1 > 1/2: torch's lerp takes its other branch
        (1e-3, (0.0, 0.9), 1e-8, 0.1),
    ],
)
def test_each_step_is_within_2_ulp(tmp_path, implementation, lr, betas, eps, weight_decay):
    settings = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
    generator = torch.Generator().manual_seed(5)
    parameter = torch.nn.Parameter(torch.randn(ELEMENTS, generator=generator))
    optimizer = torch.optim.AdamW([parameter], **settings, **IMPLEMENTATIONS[implementation])
    m, v = torch.zeros(ELEMENTS), torch.zeros(ELEMENTS)
    for step in range(1, STEPS + 1):
        scale = 10.0 ** (step % 5 - 4)
        parameter.grad = torch.randn(ELEMENTS, generator=generator) * scale
        parameter.grad[::13] = 0
        ours = our_step(tmp_path / "state", parameter.detach(), parameter.grad, m, v, step=step, **settings)
        before = parameter.detach().clone()
        optimizer.step()
        assert not torch.equal(before, parameter)
        m, v = (optimizer.state[parameter][key].clone() for key in ("exp_avg", "exp_avg_sq"))
        theirs = {"p": parameter.detach().numpy(), "m": m.numpy(), "v": v.numpy()}
        worst = {name: int(ulps_apart(ours[name], theirs[name]).max()) for name in ours}
        print(implementation, settings, "step", step, "ulps apart at most", worst)
        assert max(worst.values()) <= 2, (step, worst)
