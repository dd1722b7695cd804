#!/usr/bin/env python3
"""Does a plan keep its word? 24 jobs: what `sluice train` predicted before the first step, beside what it then measured.

    python bench/honest/run.py --sluice build/release/sluice [--only lora] [--work DIR] [--rounds 3]

Jobs: SmolLM2-135M's shape and a 1.4B shape; full and LoRA; fp32 and bf16; caps from generous to barely fitting; 1 to 8
micro-batches; the `cpu` and the `emulated` device. Predicted and measured step time (median of the steps after the
second), arena peaks per tier, and the most anonymous memory of the process against max_cpu. All jobs run in rounds, minutes
apart, each measuring anew: a shared machine drifts by ten percent and more from one minute to the next, and the medians
of predictions and of steps are compared. Exit code 1 when the median error is above 5%, one above 12%, a peak is above
the plan's, or a cap was exceeded. About 10 minutes a round; nothing else should run.
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

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "configs" / "model"))
sys.path.insert(0, str(REPOSITORY / "bench" / "peers"))

from random_models import random_model
from rows import write_dataset

MEDIAN_ERROR_MAX = 0.05
WORST_ERROR_MAX = 0.12
MAX_GRAD_NORM = 1.0  # the default
SMALL, LARGE = "smollm2-135m", "dense-1.4b"
LORA = {"adapter": "lora", "lora_r": 16, "lora_alpha": 32, "lora_target_linear": True}
FP32 = {"bf16": False}


def emulated(max_gpu, **offload):
    return {"device": "emulated", "offload": {"max_gpu": max_gpu, **offload}}


def cap(max_cpu):
    return {"offload": {"max_cpu": max_cpu}}


# (name, shape, settings); settings lie over those of `job_of`.
JOBS = [
    ("full bf16, no cap", SMALL, {}),
    ("full bf16, 1800 MiB", SMALL, cap("1800MiB")),
    ("full bf16, 1200 MiB", SMALL, cap("1200MiB")),
    ("full bf16, 600 MiB", SMALL, cap("600MiB")),
    ("full bf16 x4, 1200 MiB", SMALL, {**cap("1200MiB"), "gradient_accumulation_steps": 4}),
    ("full bf16 x8, 700 MiB", SMALL, {**cap("700MiB"), "gradient_accumulation_steps": 8}),
    ("full bf16 x4, no clipping, 700 MiB", SMALL,
     {**cap("700MiB"), "gradient_accumulation_steps": 4, "max_grad_norm": 0}),
    ("full fp32, no cap", SMALL, FP32),
    ("full fp32, 1500 MiB", SMALL, {**cap("1500MiB"), **FP32}),
    ("full fp32 x2, 900 MiB", SMALL, {**cap("900MiB"), **FP32, "gradient_accumulation_steps": 2}),
    ("lora bf16, no cap", SMALL, LORA),
    ("lora bf16 x4, no cap", SMALL, {**LORA, "gradient_accumulation_steps": 4}),
    ("lora bf16, 400 MiB", SMALL, {**LORA, **cap("400MiB")}),
    ("lora fp32 x2, no cap", SMALL, {**LORA, **FP32, "gradient_accumulation_steps": 2}),
    ("emulated full bf16, 2 GiB", SMALL, emulated("2GiB")),
    ("emulated full bf16 x4, 400 MiB", SMALL, {**emulated("400MiB"), "gradient_accumulation_steps": 4}),
    ("emulated full bf16, 300 MiB, host 900 MiB", SMALL, emulated("300MiB", max_cpu="900MiB")),
    ("emulated lora bf16, 300 MiB", SMALL, {**LORA, **emulated("300MiB")}),
    ("emulated full fp32 x2, 600 MiB", SMALL,
     {**emulated("600MiB"), **FP32, "gradient_accumulation_steps": 2}),
    ("1.4B lora bf16, no cap", LARGE, LORA),
    ("1.4B lora bf16 x2, 2 GiB", LARGE, {**LORA, **cap("2GiB"), "gradient_accumulation_steps": 2}),
    ("1.4B emulated lora bf16, 1 GiB", LARGE, {**LORA, **emulated("1GiB")}),
    ("1.4B full bf16, 8 GiB", LARGE, cap("8GiB")),
    ("1.4B full bf16, 4 GiB", LARGE, cap("4GiB")),
]


def rows_of(shape, model, work):
    rows = work / f"{shape}.jsonl"
    if not rows.exists():
        write_dataset(rows, model, 512, 512, json.loads((model / "config.json").read_text())["eos_token_id"])
    return rows


def job_of(settings, model, rows, work):
    """1,024 tokens a micro-batch; of the larger shape 256, so that a round takes minutes."""
    large = model.name.startswith(LARGE)
    offload = {"nvme_path": [str(work / "swap")], **settings.get("offload", {})}
    return {"base_model": str(model), "datasets": [{"path": str(rows), "type": "completion"}],
            "dataset_prepared_path": str(work / "token_cache"), "sequence_len": 256 if large else 512,
            "micro_batch_size": 1 if large else 2, "max_steps": 6,
            "learning_rate": 1e-5, "bf16": True, "output_dir": str(work / "out"), **settings, "offload": offload}


class AnonymousMemory(threading.Thread):
    """The most that a process had of its own, whatever it mapped of files."""

    def __init__(self, process):
        super().__init__(daemon=True)
        self.process, self.peak = process, 0
        self.start()

    def run(self):
        while self.process.poll() is None:
            try:
                for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
                    if line.startswith("RssAnon:"):
                        self.peak = max(self.peak, int(line.split()[1]) << 10)
            except OSError:
                return
            time.sleep(0.02)


def run_job(sluice, job, work, environment=None):
    shutil.rmtree(work / "out", ignore_errors=True)
    (work / "swap").mkdir(exist_ok=True)
    file = work / "job.yaml"
    file.write_text(yaml.safe_dump(job))
    process = subprocess.Popen([sluice, "train", file], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               env={**os.environ, **(environment or {})})
    memory = AnonymousMemory(process)
    output, _ = process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"{file}: sluice exited with {process.returncode}\n{output}")
    memory.join()
    log = [json.loads(line) for line in (work / "out" / "trainer_log.jsonl").read_text().splitlines()]
    predicted = yaml.safe_load((work / "out" / "plan.yaml").read_text())["predicted"]
    return log, predicted, memory.peak


def forget_measurements(cache):
    """Every round measures anew what it predicts from, as the first start of a job does, on a machine that has run jobs:
    the pace of their steps stays."""
    for file in (cache / "sluice" / "measured").glob("*.json"):
        if json.loads(file.read_text())["key"]["kind"] != "pace":
            file.unlink()


def bytes_of(text):
    units = {"MiB": 1 << 20, "GiB": 1 << 30}
    return int(float(text[:-3]) * units[text[-3:]])


class Job:
    """One of JOBS and what its rounds gave."""

    def __init__(self, name, shape, settings):
        self.name, self.shape, self.settings = name, shape, settings
        self.predicted, self.measured, self.percent, self.speed, self.anonymous = [], [], [], [], []
        self.lane, self.unused, self.within, self.cap = "", {}, True, None

    def run(self, options):
        model = random_model(self.shape)
        job = job_of(self.settings, model, rows_of(self.shape, model, options.work), options.work)
        forget_measurements(options.work / "cache")
        log, predicted, anonymous = run_job(options.sluice, job, options.work, {"XDG_CACHE_HOME": str(options.work / "cache")})
        steady = log[2:]
        # No plan knows the gradient's norm: it says what a step takes that is clipped, and one that is not.
        clipped = statistics.median(record["grad_norm"] for record in steady) > MAX_GRAD_NORM
        clips = clipped and self.settings.get("max_grad_norm", MAX_GRAD_NORM) > 0
        self.predicted.append(predicted["clipped_step_seconds" if clips else "step_seconds"])
        self.measured.append(statistics.median(record["step_seconds"] for record in steady))
        self.percent.append(statistics.median(record["percent_of_bound"] for record in steady))
        self.speed.append(statistics.median(record["tokens_per_second"] for record in steady))
        self.lane = log[-1]["binding_lane"]
        self.anonymous.append(anonymous)
        # The plan's peak is over all phases that may come. Where the highest never came (a rolled back update), this is
        # less.
        self.unused = {tier: predicted[f"{tier}_peak_bytes"] - max(record[f"{tier}_peak_bytes"] for record in log)
                       for tier in ("device", "host")}
        self.cap = job["offload"].get("max_cpu")
        emulated = predicted["device_peak_bytes"] if job.get("device") == "emulated" else 0
        self.within &= self.cap is None or anonymous <= bytes_of(self.cap) + emulated
        self.within &= min(self.unused.values()) >= 0

    def errors(self):
        return [predicted / measured - 1 for predicted, measured in zip(self.predicted, self.measured)]

    def error(self):
        """Of the medians: what the machine's own drift between a prediction and its steps leaves standing."""
        return statistics.median(self.predicted) / statistics.median(self.measured) - 1

    def print(self):
        peaks = ", ".join(f"{tier} {bytes / 2**20:+.1f} MiB" for tier, bytes in self.unused.items() if bytes != 0)
        print(f"| {self.name} | {statistics.median(self.predicted):.2f} | {statistics.median(self.measured):.2f} | "
              f"{100 * self.error():+.1f} | {' '.join(f'{100 * error:+.0f}' for error in self.errors())} | "
              f"{statistics.median(self.percent):.0f} {self.lane} | {statistics.median(self.speed):.0f} | "
              f"{peaks or 'exact'} | {max(self.anonymous) / 2**20:.0f}{'' if self.cap is None else ' of ' + self.cap}"
              f"{'' if self.within else ' EXCEEDED'} |", flush=True)


def print_table(jobs, rounds):
    """After each round, over all so far. Returns the errors."""
    print("| job | predicted s | measured s | error % | of each round | % of bound | tokens/s | arena peaks | anonymous MiB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for job in jobs:
        job.print()
    errors = [abs(job.error()) for job in jobs]
    singles = [abs(error) for job in jobs for error in job.errors()]
    print(f"\nerror of {len(errors)} jobs, medians of {rounds} rounds: median {100 * statistics.median(errors):.1f}%, "
          f"worst {100 * max(errors):.1f}%; of single rounds: median {100 * statistics.median(singles):.1f}%, "
          f"worst {100 * max(singles):.1f}%\n", flush=True)
    return errors


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sluice", type=Path, default=REPOSITORY / "build" / "release" / "sluice")
    parser.add_argument("--work", type=Path, default=Path("/var/tmp/sluice_honest"))
    parser.add_argument("--only", default="", help="jobs whose name contains this")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(options.work / "cache", ignore_errors=True)
    jobs = [Job(*each) for each in JOBS if options.only in each[0]]
    for round_number in range(options.rounds):
        for job in jobs:
            job.run(options)
        errors = print_table(jobs, round_number + 1)
    good = statistics.median(errors) <= MEDIAN_ERROR_MAX and max(errors) <= WORST_ERROR_MAX
    return 0 if good and all(job.within for job in jobs) else 1


if __name__ == "__main__":
    sys.exit(main())
