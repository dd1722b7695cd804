#!/usr/bin/env python3
"""How close to the bound is a step where one lane binds? Four jobs, one per lane; that of the optimizer is a rehearsal.

    python bench/honest/bound.py --sluice build/release/sluice

The bound is the largest over the lanes of work / measured rate, plus what the other lanes' work takes from it: compute,
optimizer workers and I/O threads share cores here, and how much each leaves of another is measured at the start of every
job (runtime/plan/simulate.h has the formula). Median of 5 steps after two; of the optimizer's regime, whose steps are as
short as a neighbour's burst, the median of REHEARSALS such medians. Exit code 1 below 95% or when another lane binds than
the one meant.
"""

import argparse
import re
import statistics
import subprocess
import sys
from pathlib import Path

import yaml
from run import LORA, REPOSITORY, SMALL, job_of, rows_of, run_job

from random_models import random_model

PERCENT_MIN = 95
REHEARSALS = 7
ON_DISK = {"params": "disk", "gradients": "disk", "optimizer": "disk", "activations": "keep"}
IN_MEMORY = {"params": "host", "gradients": "host", "optimizer": "host", "activations": "keep"}
SLOW_LINK = """name: "this machine, over a link of 0.3 GB/s"
cores: 2
host_memory: 24 GiB
device_memory: 4 GiB
gemm:
  f32: {rate: 0.1 TFLOP/s}
attention:
  f32: {forward: 0.05 TFLOP/s, backward: 0.05 TFLOP/s}
device_stream: 10 GB/s
dram: 10 GB/s
h2d: 0.3 GB/s
d2h: 0.3 GB/s
copies_both: 0.6 GB/s
drives:
  - path: .
    rates:
      - {request: 4 MiB, depth: 16, read: 1 GB/s, write: 1 GB/s, both: 1 GB/s}
optimizer:
  - {threads: 2, alone: 10 GB/s, beside_compute: 5 GB/s, compute_left: 0.5}
"""
# Its memory is the host's: nothing is copied, and the update has the cores to itself.
FAST_COMPUTE = """name: "this machine, with the compute of an RTX 4090 that takes none of its cores"
cores: 2
host_memory: 24 GiB
gemm:
  bf16: {rate: 165 TFLOP/s}
attention:
  bf16: {forward: 130 TFLOP/s, backward: 90 TFLOP/s}
device_stream: 0.9 TB/s
dram: 10 GB/s
h2d: 50 GB/s
d2h: 50 GB/s
copies_both: 100 GB/s
drives:
  - path: .
    rates:
      - {request: 4 MiB, depth: 16, read: 1 GB/s, write: 1 GB/s, both: 1 GB/s}
optimizer:
  - {threads: 2, alone: 10 GB/s, beside_compute: 10 GB/s, compute_left: 1}
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
    ]


LANES = {"compute": ("compute",), "disk": ("read", "write"), "copies": ("h2d", "d2h"), "optim": ("optim",)}


def row(regime, lane, bound, measured, percent):
    print(f"| {regime} | {lane} | {bound} | {measured} | {percent:.1f} |", flush=True)
    return percent >= PERCENT_MIN and lane in LANES[regime]


def trained(regime, job, options):
    log, _, _ = run_job(options.sluice, job, options.work)
    steps = log[2:7]
    middle = {key: statistics.median(record[key] for record in steps)
              for key in ("bound_seconds", "step_seconds", "percent_of_bound")}
    return row(regime, statistics.mode(record["binding_lane"] for record in steps), f"{middle['bound_seconds']:.3f} s",
               f"{middle['step_seconds']:.3f} s", middle["percent_of_bound"])


def rehearsed(regime, job, options):
    """Compute is waited for, at a GPU's speed: where it is the CPU's it outlasts the optimizer, which shares its cores."""
    file, machine = options.work / "job.yaml", options.work / "fast_compute.yaml"
    file.write_text(yaml.safe_dump(job))
    machine.write_text(FAST_COMPUTE)
    runs = []
    for _ in range(REHEARSALS):
        done = subprocess.run([options.sluice, "plan", file, "--machine", machine, "--rehearse"], capture_output=True,
                              text=True, check=True)
        bound = re.search(r"^bound (.+) \((\w+)\): the rehearsed step is at ([\d.]+)% of it", done.stdout, re.MULTILINE)
        step = re.search(r"^step +\S+ \w+ +(\S+ \w+) +\S+%$", done.stdout, re.MULTILINE)
        runs.append((float(bound[3]), bound[2], bound[1], step[1]))
    percent, lane, bound, step = sorted(runs)[REHEARSALS // 2]
    print(f"{regime}, each rehearsal: {' '.join(f'{each[0]:.1f}' for each in runs)}%", file=sys.stderr)
    return row(regime, lane, bound, step, percent)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sluice", type=Path, default=REPOSITORY / "build" / "release" / "sluice")
    parser.add_argument("--work", type=Path, default=Path("/var/tmp/sluice_honest"))
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    model = random_model(SMALL)
    print("| regime | binds | bound | measured | % of bound |\n|---|---|---|---|---|")
    rows = rows_of(SMALL, model, options.work)
    good = [trained(regime, job_of({**settings, "max_steps": 7}, model, rows, options.work), options)
            for regime, settings in jobs(options.work)]
    # Without clipping, as updates that wait for the norm cannot overlap with what the norm is of.
    unclipped = {"offload": IN_MEMORY, "max_grad_norm": 0}
    good.append(rehearsed("optim", job_of(unclipped, model, rows, options.work), options))
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
