#!/usr/bin/env python3
"""How long until something happens: `sluice train --help`, and the first step of a LoRA job on the 1.4B shape.

    python bench/startup/measure.py --sluice build/release/sluice

The job runs twice: the first start fills the token cache and the page cache and measures the job's blocks and rates,
which are kept; the second start is judged, by `start_seconds` of trainer_state.json (from the launch of the process to
the begin of step 1). Exit code 1 when a bar is missed.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
sys.path.insert(0, str(REPOSITORY / "configs" / "model"))

from random_models import random_model

HELP_SECONDS_MAX = 0.3
FIRST_STEP_SECONDS_MAX = 5.0
HELP_RUNS = 11


def help_seconds(sluice):
    seconds = []
    for _ in range(HELP_RUNS):
        begin = time.monotonic()
        subprocess.run([sluice, "train", "--help"], stdout=subprocess.DEVNULL, check=True)
        seconds.append(time.monotonic() - begin)
    return statistics.median(seconds)


def torch_is_loaded_for_help(sluice):
    """What the loader opens, by its own account."""
    done = subprocess.run([sluice, "train", "--help"], env={**os.environ, "LD_DEBUG": "files"}, capture_output=True,
                          text=True, check=True)
    return "libtorch" in done.stderr


def write_job(options, model):
    data = options.work / "rows.jsonl"
    data.write_text((json.dumps({"text": "the disk reads ahead while the device computes " * 8}) + "\n") * 64)
    job = {
        "base_model": str(model),
        "datasets": [{"path": str(data), "type": "completion"}],
        "dataset_prepared_path": str(options.work / "token_cache"),
        "sequence_len": 128,
        "adapter": "lora",
        "lora_r": 16,
        "lora_alpha": 32,
        "lora_target_linear": True,
        "micro_batch_size": 1,
        "max_steps": 1,
        "learning_rate": 1e-4,
        "bf16": True,
        "output_dir": str(options.work / "out"),
    }
    path = options.work / "job.yaml"
    path.write_text(json.dumps(job, indent=1))  # JSON is YAML
    return path


def first_step_seconds(options, job):
    """Of the two starts."""
    seconds = []
    for _ in range(2):
        shutil.rmtree(options.work / "out", ignore_errors=True)
        subprocess.run([options.sluice, "train", job, *options.settings], stdout=subprocess.DEVNULL, check=True,
                       env={**os.environ, "XDG_CACHE_HOME": str(options.work / "cache")})
        seconds.append(json.loads((options.work / "out" / "trainer_state.json").read_text())["start_seconds"])
    return seconds


def judged(what, seconds, bar):
    print(f"{what}: {seconds:.2f} s, bar {bar:.1f} s: {'met' if seconds < bar else 'MISSED'}")
    return seconds < bar


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sluice", default=REPOSITORY / "build/release/sluice", type=Path)
    parser.add_argument("--shape", default="dense-1.4b", help="a folder of configs/model")
    parser.add_argument("--work", type=Path, default=Path("/var/tmp/sluice_startup"), help="emptied")
    parser.add_argument("settings", nargs="*", help="KEY=VALUE, over the job's")
    options = parser.parse_args()
    options.work = options.work.resolve()
    shutil.rmtree(options.work, ignore_errors=True)
    options.work.mkdir(parents=True)
    job = write_job(options, random_model(options.shape))
    loads_torch = torch_is_loaded_for_help(options.sluice)
    print(f"sluice train --help loads LibTorch: {'yes, MISSED' if loads_torch else 'no'}")
    first, second = first_step_seconds(options, job)
    print(f"very first start, which also tokenises and measures: {first:.2f} s to the first step")
    good = [not loads_torch, judged("sluice train --help", help_seconds(options.sluice), HELP_SECONDS_MAX),
            judged("launch to the first step, LoRA", second, FIRST_STEP_SECONDS_MAX)]
    shutil.rmtree(options.work)
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
