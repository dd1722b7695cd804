#!/usr/bin/env python3
"""How close to the bound is a step where one lane binds? Four jobs, one per lane.

    python bench/honest/bound.py --sluice build/release/sluice

The bound is the largest over the lanes of work / measured rate, plus what the other lanes' work takes from it: compute,
optimizer workers and I/O threads share cores here, and how much each leaves of another is measured at the start of every
job (runtime/plan/simulate.h has the formula). Median of 5 steps after two. Exit code 1 below 95% or when another lane
binds than the one meant.
"""

import argparse
import statistics
import sys
from pathlib import Path

from run import LORA, REPOSITORY, SMALL, job_of, rows_of, run_job

from random_models import random_model

PERCENT_MIN = 95
ON_DISK = {"params": "disk", "gradients": "disk", "optimizer": "disk", "activations": "keep"}
IN_MEMORY = {"params": "host", "gradients": "host", "optimizer": "host", "activations": "keep"}
SLOW_LINK = """name: "this machine, over a link of 1 GB/s"
cores: 2
host_memory: 24 GiB
device_memory: 4 GiB
gemm:
  f32: {rate: 0.1 TFLOP/s}
attention:
  f32: {forward: 0.05 TFLOP/s, backward: 0.05 TFLOP/s}
device_stream: 10 GB/s
dram: 10 GB/s
h2d: 1 GB/s
d2h: 1 GB/s
copies_both: 2 GB/s
drives:
  - path: .
    rates:
      - {request: 4 MiB, depth: 16, read: 1 GB/s, write: 1 GB/s, both: 1 GB/s}
optimizer:
  - {threads: 2, alone: 10 GB/s, beside_compute: 5 GB/s, compute_left: 0.5}
"""


def jobs(work):
    link = work / "slow_link.yaml"
    link.write_text(SLOW_LINK)
    few_tokens = {"sequence_len": 64, "micro_batch_size": 1}
    return [
        ("compute", {"offload": IN_MEMORY, "gradient_accumulation_steps": 4}),
        ("disk", {"offload": ON_DISK, **few_tokens}),
        ("copies", {**LORA, **few_tokens, "device": "emulated",
                    "offload": {**IN_MEMORY, "max_gpu": "1GiB", "emulate": str(link)}}),
        ("optim", {"offload": IN_MEMORY, **few_tokens}),
    ]


LANES = {"compute": ("compute",), "disk": ("read", "write"), "copies": ("h2d", "d2h"), "optim": ("optim",)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sluice", type=Path, default=REPOSITORY / "build" / "release" / "sluice")
    parser.add_argument("--work", type=Path, default=Path("/var/tmp/sluice_honest"))
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    model = random_model(SMALL)
    print("| regime | binds | bound s | measured s | % of bound |\n|---|---|---|---|---|")
    good = True
    for regime, settings in jobs(options.work):
        log, _, _ = run_job(options.sluice, job_of(settings, model, rows_of(SMALL, model, options.work), options.work),
                            options.work)
        steps = log[2:7]
        percent = statistics.median(record["percent_of_bound"] for record in steps)
        lane = statistics.mode(record["binding_lane"] for record in steps)
        print(f"| {regime} | {lane} | {statistics.median(record['bound_seconds'] for record in steps):.3f} | "
              f"{statistics.median(record['step_seconds'] for record in steps):.3f} | {percent:.1f} |", flush=True)
        good = good and percent >= PERCENT_MIN and lane in LANES[regime]
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
