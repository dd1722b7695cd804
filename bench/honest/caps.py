#!/usr/bin/env python3
"""Does more memory ever make a job slower? The same job with max_cpu at 25, 50 and 100% of what training in memory takes.

    python bench/honest/caps.py --sluice build/release/sluice

SmolLM2-135M's shape, full, bf16, nothing forced. All caps take turns, --rounds times, as a shared machine's speed drifts
by ten percent and more within minutes; a figure is the median over the steps after two of all rounds. Exit code 1 when
tokens/s falls by more than 5% from one cap to a higher one, or a cap was exceeded by the process's own memory.
"""

import argparse
import statistics
import sys
from pathlib import Path

from run import REPOSITORY, SMALL, bytes_of, job_of, rows_of, run_job

from random_models import random_model

SHARES = (25, 50, 100)
FALL_MAX = 0.05


class Capped:
    """The job under one cap, and the steps of all rounds."""

    def __init__(self, name, cap, settings):
        self.name, self.cap = name, cap
        self.settings = settings if cap is None else {**settings, "offload": {"max_cpu": cap}}
        self.steps, self.anonymous = [], 0

    def run(self, options, model):
        job = job_of(self.settings, model, rows_of(SMALL, model, options.work), options.work)
        log, _, anonymous = run_job(options.sluice, job, options.work)
        self.steps += log[2:]
        self.anonymous = max(self.anonymous, anonymous)

    def median(self, *columns):
        return statistics.median(sum(record[column] for column in columns) for record in self.steps)

    def print(self, accumulation, before):
        """Whether it held what it must."""
        speed, moved = self.median("tokens_per_second"), self.median("disk_read_bytes", "disk_write_bytes")
        within = self.cap is None or self.anonymous <= bytes_of(self.cap)
        falls = speed < before * (1 - FALL_MAX)
        print(f"| {accumulation} | {self.name} | {speed:.0f}{' FELL' if falls else ''} | "
              f"{self.median('percent_of_bound'):.0f} | {moved / 1e9:.2f} | "
              f"{self.anonymous >> 20}{'' if within else ' EXCEEDED'} |", flush=True)
        return within and not falls


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sluice", type=Path, default=REPOSITORY / "build" / "release" / "sluice")
    parser.add_argument("--work", type=Path, default=Path("/var/tmp/sluice_honest"))
    parser.add_argument("--accumulation", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    model = random_model(SMALL)
    print("| accumulation | max_cpu MiB | tokens/s | % of bound | GB moved by the drive per step | own memory, MiB |")
    print("|---|---|---|---|---|---|")
    good = True
    for accumulation in options.accumulation:
        steps = {"gradient_accumulation_steps": accumulation}
        free = Capped("none", None, steps)
        free.run(options, model)
        caps = [f"{free.anonymous * share // 100 >> 20}MiB" for share in SHARES]
        jobs = [Capped(f"{share}%: {cap[:-3]}", cap, steps) for share, cap in zip(SHARES, caps)]
        for job in jobs:
            job.run(options, model)
        for _ in range(options.rounds - 1):
            for job in [free, *jobs]:
                job.run(options, model)
        before = 0
        for job in [*jobs, free]:
            good &= job.print(accumulation, before)
            before = max(before, job.median("tokens_per_second"))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
