"""The loss scale after every step, against torch.amp.GradScaler: down to our floor of 1, torch has none."""

import json
import os
import random
import subprocess

import pytest
import torch


def ours(scale, interval, overflows):
    done = subprocess.run([os.environ["SLUICE_JOB_PROBE"], "loss_scale", str(scale), str(interval), overflows],
                          capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def theirs(scale, interval, overflows):
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=interval)
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    scales = []
    for overflow in overflows:
        scales.append(scaler.get_scale())
        scaler.scale((weight * (float("inf") if overflow == "1" else 1.0)).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    return [*scales, scaler.get_scale()]


@pytest.mark.parametrize("overflows", ("0", "1", "000000", "111000111", "0001000010000", "01" * 14))
@pytest.mark.parametrize("interval", (1, 3, 2000))
@pytest.mark.parametrize("scale", (2.0**16, 2.0**126))
def test_every_scale_is_torchs(scale, interval, overflows):
    assert ours(scale, interval, overflows) == theirs(scale, interval, overflows)


def test_thousands_of_steps():
    draws = random.Random(5)
    overflows = "".join("1" if draws.random() < 0.002 else "0" for _ in range(9000))
    assert ours(2.0**40, 2000, overflows) == theirs(2.0**40, 2000, overflows)
