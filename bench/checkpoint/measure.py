#!/usr/bin/env python3
"""What saving costs beside a step: a job of everything on disk that saves after every second step.

    python bench/checkpoint/measure.py --sluice build/release/sluice --shape smollm2-135m

Neighbours in one run are compared, the step with the checkpoint and the one without, as other work on the machine comes
and goes: the median of their differences counts, over all rounds. Exit code 1 when saving costs more than the bar.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
sys.path.insert(0, str(REPOSITORY / "configs" / "model"))

from random_models import random_model

SHARE_MAX = 0.01
WARM_UP_STEPS = 2  # the first read the model's own files
POLL_SECONDS = 0.002


def write_job(options, model):
    data = options.work / "rows.jsonl"
    # One text that is cut into rows: all steps are equally long.
    data.write_text(json.dumps({"text": "the disk reads ahead while the device computes " * 16000}) + "\n")
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


class Watched:
    """A run whose log lines and checkpoints are seen as they come."""

    def __init__(self, options, job):
        self.lines, self.saves = [], {}  # times; by step
        self.out = options.work / "out"
        shutil.rmtree(self.out, ignore_errors=True)
        command = [options.sluice, "train", job, "save_steps=2", *options.settings]
        run = subprocess.Popen(command, stdout=subprocess.PIPE, text=True,
                               env={**os.environ, "XDG_CACHE_HOME": str(options.work / "cache")})
        watcher = threading.Thread(target=self._watch, args=(run, options.steps), daemon=True)
        watcher.start()
        for line in run.stdout:
            if line.lstrip().startswith("step"):
                self.lines.append((self.out / "trainer_log.jsonl").stat().st_mtime_ns / 1e9)
        if run.wait() != 0:
            sys.exit(f"sluice train ended with {run.returncode}")
        watcher.join()

    def _watch(self, run, steps):
        while run.poll() is None:
            for step in range(2, steps, 2):
                if step not in self.saves and (self.out / f"checkpoint-{step}").exists():
                    self.saves[step] = time.time()
            time.sleep(POLL_SECONDS)

    def pairs(self):
        """(seconds with a checkpoint, seconds without) of neighbours, from line to line."""
        between = list(zip(self.lines, self.lines[1:]))[WARM_UP_STEPS:]
        saved = [any(begin < at <= end for at in self.saves.values()) for begin, end in between]
        seconds = [end - begin for begin, end in between]
        return [(seconds[i], seconds[i + 1]) if saved[i] else (seconds[i + 1], seconds[i])
                for i in range(len(seconds) - 1) if saved[i] != saved[i + 1]]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sluice", default=REPOSITORY / "build/release/sluice", type=Path)
    parser.add_argument("--shape", default="smollm2-135m", help="a folder of configs/model")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--micro-batches", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("/var/tmp/sluice_checkpoint"), help="emptied")
    parser.add_argument("settings", nargs="*", help="KEY=VALUE, over the job's")
    options = parser.parse_args()
    options.work = options.work.resolve()
    shutil.rmtree(options.work, ignore_errors=True)
    options.work.mkdir(parents=True)
    job = write_job(options, random_model(options.shape))
    pairs = [pair for _ in range(options.rounds) for pair in Watched(options, job).pairs()]
    if len(pairs) < 2:
        sys.exit("no checkpoint was seen between two steps: give more --steps")
    without = statistics.median(seconds for _, seconds in pairs)
    cost = statistics.median(saved - seconds for saved, seconds in pairs)
    quarters = statistics.quantiles((saved - seconds for saved, seconds in pairs), n=4)
    share = cost / without
    print(f"{without:.3f} s a step without a checkpoint, {1e3 * cost:+.0f} ms with one: the median of {len(pairs)} pairs, "
          f"half of them between {1e3 * quarters[0]:+.0f} and {1e3 * quarters[2]:+.0f} ms")
    print(f"saving adds {100 * share:.2f}% to a step, bar {100 * SHARE_MAX:.0f}%: {'met' if share < SHARE_MAX else 'MISSED'}")
    shutil.rmtree(options.work)
    return 0 if share < SHARE_MAX else 1


if __name__ == "__main__":
    sys.exit(main())
