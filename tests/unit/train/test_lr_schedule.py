"""The learning rate of every step, against the schedulers of transformers and torch."""

import json
import os
import subprocess

import pytest
import torch
from transformers import get_scheduler
from transformers.training_args import TrainingArguments

PEAK = 3e-4


def ours(name, warmup_steps, warmup_ratio, total):
    done = subprocess.run([os.environ["SLUICE_JOB_PROBE"], "schedule", name, str(PEAK), str(warmup_steps),
                           str(warmup_ratio), str(total)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def theirs(name, warmup_steps, total):
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    known = {"constant": "constant_with_warmup"}.get(name, name)
    scheduler = get_scheduler(known, optimizer, num_warmup_steps=warmup_steps, num_training_steps=total)
    rates = []
    for _ in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("name", ("constant", "linear", "cosine"))
@pytest.mark.parametrize("warmup, total", ((0, 1), (0, 50), (1, 7), (10, 50), (50, 50), (60, 50)))
def test_every_step_has_the_rate_of_transformers(name, warmup, total):
    assert ours(name, warmup, 0, total) == pytest.approx(theirs(name, warmup, total), rel=1e-15, abs=1e-20)


@pytest.mark.parametrize("ratio", (0.03, 0.1, 0.5))
@pytest.mark.parametrize("total", (1, 33, 100))
def test_a_warmup_ratio_gives_as_many_steps_as_there(ratio, total, tmp_path):
    steps = TrainingArguments(output_dir=str(tmp_path), warmup_steps=ratio, use_cpu=True).get_warmup_steps(total)
    assert ours("linear", 0, ratio, total) == pytest.approx(theirs("linear", steps, total), rel=1e-15, abs=1e-20)
