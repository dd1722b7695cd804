#!/usr/bin/env python3
"""Does more memory ever make a job slower? The same job with max_cpu at 25, 50 and 100% of what training in memory takes.

    python bench/honest/caps.py --sluice build/release/sluice

SmolLM2-135M's shape, full, bf16, nothing forced. Median of the steps after two. Exit code 1 when tokens/s falls by more
than 5% from one cap to a higher one, or a cap was exceeded by the process's own memory.
"""

import argparse
import statistics
import sys
from pathlib import Path

from run import REPOSITORY, SMALL, bytes_of, job_of, rows_of, run_job

from random_models import random_model

SHARES = (25, 50, 100)
FALL_MAX = 0.05


def measured(options, model, settings):
    job = job_of(settings, model, rows_of(SMALL, model, options.work), options.work)
    log, _, anonymous = run_job(options.sluice, job, options.work)
    speed = statistics.median(record["tokens_per_second"] for record in log[2:])
    percent = statistics.median(record["percent_of_bound"] for record in log[2:])
    moved = statistics.median(record["disk_read_bytes"] + record["disk_write_bytes"] for record in log[2:])
    return speed, percent, moved, anonymous


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sluice", type=Path, default=REPOSITORY / "build" / "release" / "sluice")
    parser.add_argument("--work", type=Path, default=Path("/var/tmp/sluice_honest"))
    parser.add_argument("--accumulation", type=int, nargs="+", default=[1, 4])
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    model = random_model(SMALL)
    print("| accumulation | max_cpu MiB | tokens/s | % of bound | GB moved by the drive per step | own memory, MiB |")
    print("|---|---|---|---|---|---|")
    good = True
    for accumulation in options.accumulation:
        steps = {"gradient_accumulation_steps": accumulation}
        free = measured(options, model, steps)
        caps = {f"{share}%": f"{free[3] * share // 100 >> 20}MiB" for share in SHARES} | {"none": None}
        before = 0
        for share, cap in caps.items():
            settings = steps if cap is None else {**steps, "offload": {"max_cpu": cap}}
            speed, percent, moved, anonymous = free if cap is None else measured(options, model, settings)
            within = cap is None or anonymous <= bytes_of(cap)
            falls = speed < before * (1 - FALL_MAX)
            print(f"| {accumulation} | {share}{'' if cap is None else ': ' + cap[:-3]} | {speed:.0f}{' FELL' if falls else ''} | "
                  f"{percent:.0f} | {moved / 1e9:.2f} | {anonymous >> 20}{'' if within else ' EXCEEDED'} |", flush=True)
            good = good and within and not falls
            before = max(before, speed)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
