#!/usr/bin/env python3
"""What saving costs beside a step: the same job of everything on disk, without checkpoints and with one after every step.

    python bench/checkpoint/measure.py --sluice build/release/sluice --shape smollm2-135m

Both run in turn, several times, as neighbours come and go; the least time of each counts. Exit code 1 when saving costs
more than the bar.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
sys.path.insert(0, str(REPOSITORY / "configs" / "model"))

from random_models import random_model

SHARE_MAX = 0.01
WARM_UP_STEPS = 2  # the first read the model's own files


def write_job(options, model):
    data = options.work / "rows.jsonl"
    data.write_text((json.dumps({"text": "the disk reads ahead while the device computes " * 40}) + "\n") * 64)
    job = {
        "base_model": str(model),
        "datasets": [{"path": str(data), "type": "completion"}],
        "dataset_prepared_path": str(options.work / "token_cache"),
        "sequence_len": 512,
        "micro_batch_size": 1,
        "gradient_accumulation_steps": options.micro_batches,
        "max_steps": options.steps,
        "learning_rate": 1e-5,
        "bf16": True,
        "offload": {"params": "disk", "optimizer": "disk"},
        "output_dir": str(options.work / "out"),
    }
    path = options.work / "job.yaml"
    path.write_text(json.dumps(job, indent=1))  # JSON is YAML
    return path


def seconds_from_step_to_step(options, job, *settings):
    """Of each steady step, with what is done between it and the next: by when its line was written."""
    shutil.rmtree(options.work / "out", ignore_errors=True)
    run = subprocess.Popen([options.sluice, "train", job, *settings, *options.settings], stdout=subprocess.PIPE, text=True,
                           env={**os.environ, "XDG_CACHE_HOME": str(options.work / "cache")})
    times = []
    log = options.work / "out" / "trainer_log.jsonl"
    for line in run.stdout:
        if line.lstrip().startswith("step"):
            times.append(log.stat().st_mtime_ns / 1e9)
    if run.wait() != 0:
        sys.exit(f"sluice train ended with {run.returncode}")
    between = [b - a for a, b in zip(times, times[1:])][WARM_UP_STEPS:]
    return sum(between) / len(between)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sluice", default=REPOSITORY / "build/release/sluice", type=Path)
    parser.add_argument("--shape", default="smollm2-135m", help="a folder of configs/model")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--micro-batches", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("/var/tmp/sluice_checkpoint"), help="emptied")
    parser.add_argument("settings", nargs="*", help="KEY=VALUE, over the job's")
    options = parser.parse_args()
    options.work = options.work.resolve()
    shutil.rmtree(options.work, ignore_errors=True)
    options.work.mkdir(parents=True)
    job = write_job(options, random_model(options.shape))
    without, saving = [], []
    for _ in range(options.rounds):
        without.append(seconds_from_step_to_step(options, job))
        saving.append(seconds_from_step_to_step(options, job, "save_steps=1"))
    share = min(saving) / min(without) - 1
    print("seconds a step without checkpoints:", " ".join(f"{each:.3f}" for each in without))
    print("seconds a step, each saved:        ", " ".join(f"{each:.3f}" for each in saving))
    print(f"saving adds {100 * share:.2f}% to a step, bar {100 * SHARE_MAX:.0f}%: {'met' if share < SHARE_MAX else 'MISSED'}")
    shutil.rmtree(options.work)
    return 0 if share < SHARE_MAX else 1


if __name__ == "__main__":
    sys.exit(main())
