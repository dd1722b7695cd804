"""Which tokens may be picked, and how often, against transformers' own temperature, top-k and top-p."""

import json
import math
import os
import subprocess

import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

COUNT = 20000
LOGITS = torch.randn(50, generator=torch.Generator().manual_seed(3)).mul(2).tolist()


def ours(temperature, top_p, top_k, seed=7, count=COUNT, logits=LOGITS):
    arguments = ["sample", json.dumps(logits), *map(str, (temperature, top_p, top_k, seed, count))]
    done = subprocess.run([os.environ["SLUICE_JOB_PROBE"], *arguments], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def theirs(temperature, top_p, top_k):
    scores = TemperatureLogitsWarper(temperature)(None, torch.tensor([LOGITS]))
    if top_k:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(None, scores)
    return scores.softmax(-1)[0].tolist()


@pytest.mark.parametrize("temperature", (0.3, 1.0, 1.7))
@pytest.mark.parametrize("top_p", (0.2, 0.9, 1.0))
@pytest.mark.parametrize("top_k", (0, 5, 49, 50, 1000))
def test_tokens_come_as_often_as_transformers_would_draw_them(temperature, top_p, top_k):
    shares, tokens = theirs(temperature, top_p, top_k), ours(temperature, top_p, top_k)
    for token, share in enumerate(shares):
        came, deviation = tokens.count(token), math.sqrt(COUNT * share * (1 - share))
        assert abs(came - COUNT * share) <= 5 * deviation, (token, came, COUNT * share)


def test_without_temperature_the_largest_comes():
    assert set(ours(0, 1, 0, count=20)) == {LOGITS.index(max(LOGITS))}


def test_a_seed_gives_the_same_tokens_again_and_another_others():
    assert ours(1, 1, 0) == ours(1, 1, 0) != ours(1, 1, 0, seed=8)


def test_logits_that_fp32_barely_holds_do_not_overflow():
    assert set(ours(0.01, 1, 0, count=50, logits=[3e38, -3e38, 1])) == {0}
