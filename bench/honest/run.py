#!/usr/bin/env python3
"""Does a plan keep its word? 24 jobs: what `sluice train` predicted before the first step, beside what it then measured.

    python bench/honest/run.py --sluice build/release/sluice [--only lora] [--work DIR]

Jobs: SmolLM2-135M's shape and a 1.4B shape; full and LoRA; fp32 and bf16; caps from generous to barely fitting; 1 to 8
micro-batches; the `cpu` and the `emulated` device. Predicted and measured step time (median of the steps after the
second), arena peaks per tier, and the most anonymous memory of the process against max_cpu. Exit code 1 when the median
error is above 5%, one above 12%, a peak is above the plan's, or a cap was exceeded. About 25 minutes; nothing else should
run.
"""

import argparse
import json
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
    offload = {"nvme_path": [str(work / "swap")], **settings.get("offload", {})}
    return {"base_model": str(model), "datasets": [{"path": str(rows), "type": "completion"}],
            "dataset_prepared_path": str(work / "token_cache"), "sequence_len": 512, "micro_batch_size": 2, "max_steps": 7,
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


def run_job(sluice, job, work):
    shutil.rmtree(work / "out", ignore_errors=True)
    (work / "swap").mkdir(exist_ok=True)
    file = work / "job.yaml"
    file.write_text(yaml.safe_dump(job))
    process = subprocess.Popen([sluice, "train", file], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    memory = AnonymousMemory(process)
    output, _ = process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"{file}: sluice exited with {process.returncode}\n{output}")
    memory.join()
    log = [json.loads(line) for line in (work / "out" / "trainer_log.jsonl").read_text().splitlines()]
    predicted = yaml.safe_load((work / "out" / "plan.yaml").read_text())["predicted"]
    return log, predicted, memory.peak


def bytes_of(text):
    units = {"MiB": 1 << 20, "GiB": 1 << 30}
    return int(float(text[:-3]) * units[text[-3:]])


def judge(name, log, predicted, anonymous, job):
    measured = statistics.median(record["step_seconds"] for record in log[2:])
    error = predicted["step_seconds"] / measured - 1
    # The plan's peak is over all phases that may come. Where the highest never came (a rolled back update), this is less.
    unused = {tier: predicted[f"{tier}_peak_bytes"] - max(record[f"{tier}_peak_bytes"] for record in log)
              for tier in ("device", "host")}
    peaks = ", ".join(f"{tier} {bytes / 2**20:+.1f} MiB" for tier, bytes in unused.items() if bytes != 0) or "exact"
    max_cpu = job["offload"].get("max_cpu")
    emulated = predicted["device_peak_bytes"] if job.get("device") == "emulated" else 0
    within = max_cpu is None or anonymous <= bytes_of(max_cpu) + emulated
    bound = statistics.median(record["percent_of_bound"] for record in log[2:])
    print(f"| {name} | {predicted['step_seconds']:.2f} | {measured:.2f} | {100 * error:+.1f} | {bound:.0f} "
          f"{log[-1]['binding_lane']} | {log[-1]['tokens_per_second']:.0f} | {peaks} | "
          f"{anonymous / 2**20:.0f}{'' if max_cpu is None else ' of ' + max_cpu} {'' if within else 'EXCEEDED'} |", flush=True)
    return error, min(unused.values()) >= 0 and within


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sluice", type=Path, default=REPOSITORY / "build" / "release" / "sluice")
    parser.add_argument("--work", type=Path, default=Path("/var/tmp/sluice_honest"))
    parser.add_argument("--only", default="", help="jobs whose name contains this")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    print("| job | predicted s | measured s | error % | % of bound | tokens/s | arena peaks | anonymous MiB |")
    print("|---|---|---|---|---|---|---|---|")
    errors, sound = [], True
    for name, shape, settings in JOBS:
        if options.only not in name:
            continue
        model = random_model(shape)
        job = job_of(settings, model, rows_of(shape, model, options.work), options.work)
        log, predicted, anonymous = run_job(options.sluice, job, options.work)
        error, good = judge(name, log, predicted, anonymous, job)
        errors.append(abs(error))
        sound = sound and good
    print(f"\nerror of {len(errors)} jobs: median {100 * statistics.median(errors):.1f}%, worst {100 * max(errors):.1f}%")
    return 0 if sound and statistics.median(errors) <= MEDIAN_ERROR_MAX and max(errors) <= WORST_ERROR_MAX else 1


if __name__ == "__main__":
    sys.exit(main())
