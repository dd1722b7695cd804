"""Each step within 2 ulp of torch.optim.AdamW (for-loop and foreach), given the same inputs."""

import os
import subprocess

import numpy as np
import pytest
import torch


def ulps(a, b):
    a, b = (x.view(np.int32).astype(np.int64) for x in (a, b))
    a, b = (np.where(x < 0, -(x & 0x7FFFFFFF), x) for x in (a, b))
    return np.abs(a - b).max()


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("lr,decay,eps", [(1e-3, 0.0, 1e-8), (3e-2, 0.1, 1e-6), (1e-5, 0.01, 1e-8)])
def test_each_step_is_within_2_ulp_of_torch(tmp_path, foreach, lr, decay, eps):
    generator = torch.Generator().manual_seed(5)
    parameter = torch.nn.Parameter(torch.randn(10_007, generator=generator))
    optimizer = torch.optim.AdamW([parameter], lr=lr, weight_decay=decay, eps=eps, betas=(0.9, 0.95), foreach=foreach)
    m = v = torch.zeros_like(parameter)
    for step in range(1, 8):
        parameter.grad = torch.randn(10_007, generator=generator) * 10.0 ** (step - 5)
        before = torch.cat([parameter.detach(), parameter.grad, m, v]).numpy()
        file = tmp_path / "state"
        before.tofile(file)
        subprocess.run([os.environ["SLUICE_ADAMW_STEP"], file, *map(str, (lr, 0.9, 0.95, eps, decay, step))], check=True)
        optimizer.step()
        state = optimizer.state[parameter]
        m, v = state["exp_avg"].clone(), state["exp_avg_sq"].clone()
        ours = np.fromfile(file, dtype=np.float32).reshape(4, -1)
        for name, mine, theirs in (("p", ours[0], parameter.detach()), ("v", ours[3], v)):
            assert ulps(mine, theirs.numpy()) <= 2, (name, step)
        # m crosses zero by cancellation: measured against the larger of what was added.
        scale = np.maximum(np.abs(before.reshape(4, -1)[2]), np.abs(before.reshape(4, -1)[1]))
        assert (np.abs(ours[2] - m.numpy()) <= 2 * np.spacing(scale)).all(), step
