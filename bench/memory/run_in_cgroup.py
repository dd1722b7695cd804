#!/usr/bin/env python3
"""Fully fine-tunes the 1.4B shape in bf16 with everything on disk, inside a memory cgroup that kills what exceeds it.

    sudo python bench/memory/run_in_cgroup.py --sluice build/release/sluice
    sudo python bench/memory/run_in_cgroup.py --method qlora --shape qwen2.5-32b --sequence 256 --accumulation 1 \
        --steps 3 --limit 6GiB --max-cpu 5600MiB

With qlora: LoRA of rank 16 on every linear layer over a base in 4 bits, which stays on the drive but for what fits.

Needs the right to make a memory cgroup (root, or a delegated one), 8 GB of disk for the model and what `sluice plan`
says for the states. Exit code 1 when the run was killed, failed, or its memory exceeded the limit.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
sys.path.insert(0, str(REPOSITORY / "configs" / "model"))

from random_models import random_model

UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
WORDS = "the disk reads ahead while the device computes and every block leaves before it is needed again".split()


def bytes_of(text):
    number, unit = re.fullmatch(r"([0-9.]+)\s*([KMGT]iB)", text).groups()
    return int(float(number) * UNITS[unit])


class CgroupV1:
    """The memory controller's own hierarchy."""

    limit, peak, usage = "memory.limit_in_bytes", "memory.max_usage_in_bytes", "memory.usage_in_bytes"

    def __init__(self, parent, name):
        self.folder = parent / name

    def make(self, limit_bytes):
        self.folder.mkdir()
        (self.folder / self.limit).write_text(str(limit_bytes))
        with contextlib.suppress(OSError):  # absent where the kernel does not account swap
            (self.folder / "memory.memsw.limit_in_bytes").write_text(str(limit_bytes))

    def kills(self):
        text = (self.folder / "memory.oom_control").read_text()
        return int(re.search(r"^oom_kill (\d+)$", text, re.MULTILINE)[1])

    def enter(self):
        return ["sh", "-c", f"echo $$ > {self.folder}/cgroup.procs && exec \"$@\"", "sh"]

    def peak_bytes(self):
        return int((self.folder / self.peak).read_text())

    def anonymous_bytes(self, _):
        return int(re.search(r"^(?:total_)?rss (\d+)$", (self.folder / "memory.stat").read_text(), re.MULTILINE)[1])


class CgroupV2(CgroupV1):
    """The unified hierarchy."""

    limit, peak, usage = "memory.max", "memory.peak", "memory.current"

    def make(self, limit_bytes):
        self.folder.mkdir()
        (self.folder / self.limit).write_text(str(limit_bytes))
        with contextlib.suppress(OSError):
            (self.folder / "memory.swap.max").write_text("0")

    def kills(self):
        return int(re.search(r"^oom_kill (\d+)$", (self.folder / "memory.events").read_text(), re.MULTILINE)[1])

    def anonymous_bytes(self, _):
        return int(re.search(r"^anon (\d+)$", (self.folder / "memory.stat").read_text(), re.MULTILINE)[1])


class NoCgroup:
    """Where none can be made: nothing is killed, and what the process alone uses is seen."""

    def enter(self):
        return []

    def kills(self):
        return 0

    def peak_bytes(self):
        return 0

    def anonymous_bytes(self, pid):
        with contextlib.suppress(OSError, TypeError):
            return int(re.search(r"^RssAnon:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)[1]) << 10
        return 0


def own_cgroup(controller):
    """Where this process lies in the hierarchy with the controller; '' names the unified one."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(",") or controllers == controller:
            return path.lstrip("/")
    return ""


def make_cgroup(limit_bytes):
    name = f"sluice-{os.getpid()}"
    if Path("/sys/fs/cgroup/memory").is_dir():
        root = Path("/sys/fs/cgroup/memory")
        candidates = [CgroupV1(root / own_cgroup("memory"), name), CgroupV1(root, name)]
    else:
        root = Path("/sys/fs/cgroup")
        # A v2 group with processes in it cannot hand memory to children: try beside it too.
        candidates = [CgroupV2(root / own_cgroup(""), name), CgroupV2((root / own_cgroup("")).parent, name), CgroupV2(root, name)]
    refusals = []
    for cgroup in candidates:
        try:
            cgroup.make(limit_bytes)
            return cgroup
        except OSError as error:
            refusals.append(str(error))
            with contextlib.suppress(OSError):
                cgroup.folder.rmdir()
    sys.exit("no memory cgroup could be made: " + "; ".join(refusals) + "\n  fix: run as root, or in "
             "`systemd-run --scope -p Delegate=yes`")


def remove_cgroup(cgroup):
    if isinstance(cgroup, NoCgroup):
        return None
    for _ in range(100):  # the last process may still be leaving
        try:
            return cgroup.folder.rmdir()
        except OSError:
            time.sleep(0.05)


@dataclass
class Use:
    """Highest anonymous memory seen: without the page cache, which the kernel takes back."""

    loading_bytes: int = 0
    training_bytes: int = 0

    @property
    def bytes(self):
        return max(self.loading_bytes, self.training_bytes)


def run_inside(cgroup, command, log, loaded):
    """`loaded`: a file that is there once loading has ended. Returns the exit code and the memory used."""
    use = Use()
    with open(log, "w") as errors:
        process = subprocess.Popen([*cgroup.enter(), *map(str, command)], stderr=errors)
        while process.poll() is None:
            now = cgroup.anonymous_bytes(process.pid)
            if loaded.exists():
                use.training_bytes = max(use.training_bytes, now)
            else:
                use.loading_bytes = max(use.loading_bytes, now)
            time.sleep(0.05)
    return process.returncode, use


METHODS = {
    "full": {"offload": {"params": "disk", "gradients": "disk", "optimizer": "disk"}},
    "qlora": {"adapter": "lora", "load_in_4bit": True, "lora_r": 16, "lora_alpha": 32, "lora_target_linear": True},
}


def write_job(options, model):
    data = options.work / "rows.jsonl"
    words = " ".join(WORDS * (options.sequence // len(WORDS) + 1))
    data.write_text(json.dumps({"text": words}) + "\n")
    with open(data, "a") as file:
        file.writelines([json.dumps({"text": words}) + "\n"] * (options.rows * options.accumulation * options.steps))
    job = {
        "base_model": str(model),
        "datasets": [{"path": str(data), "type": "completion"}],
        "dataset_prepared_path": str(options.work / "token_cache"),
        "sequence_len": options.sequence,
        "micro_batch_size": options.rows,
        "gradient_accumulation_steps": options.accumulation,
        "max_steps": options.steps,
        "learning_rate": 1e-5,
        "bf16": True,
        "output_dir": str(options.work / "out"),
        **METHODS[options.method],
    }
    job["offload"] = {**job.get("offload", {}), "max_cpu": options.max_cpu}
    if options.max_gpu:
        job["offload"]["max_gpu"] = options.max_gpu
    job["device"] = options.device
    if options.params:
        job["offload"]["params"] = options.params
    path = options.work / "job.yaml"
    path.write_text(json.dumps(job, indent=1))  # JSON is YAML
    return path


def gib(count):
    return f"{count / (1 << 30):.2f} GiB"


def report(options, exit_code, cgroup, use):
    kills = cgroup.kills()
    peak_bytes = cgroup.peak_bytes()
    log = options.work / "out" / "trainer_log.jsonl"
    steps = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    print(f"exit code {exit_code}, {kills} processes killed, {len(steps)} of {options.steps} steps")
    print(f"memory limit {options.limit}, highest use {gib(peak_bytes)} with page cache, {gib(use.bytes)} without "
          f"(max_cpu {options.max_cpu}); {gib(use.loading_bytes)} while loading, {gib(use.training_bytes)} while training")
    if steps:
        counted = steps[2:] or steps[1:] or steps
        speed = statistics.median(line["tokens_per_second"] for line in counted)
        bound = statistics.median(line["percent_of_bound"] for line in counted)
        print(f"{speed:.1f} tokens/s, {bound:.0f}% of bound ({counted[-1]['binding_lane']}), "
              f"{gib(counted[-1]['disk_read_bytes'])} read and {gib(counted[-1]['disk_write_bytes'])} written per step "
              f"(median of steps {counted[0]['step']} and on), {counted[-1]['step_seconds']:.1f} s the last")
    kept = use.loading_bytes <= use.training_bytes <= bytes_of(options.max_cpu)
    if not kept:
        print(f"above max_cpu, which is {options.max_cpu}, or more while loading than while training")
    return exit_code == 0 and kills == 0 and len(steps) == options.steps and kept


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sluice", default=REPOSITORY / "build/release/sluice", type=Path)
    parser.add_argument("--shape", default="dense-1.4b", help="a folder of configs/model")
    parser.add_argument("--model", type=Path, help="a model that is there, in place of a shape's")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--max-gpu", help="of the job")
    parser.add_argument("--limit", default="5GiB", help="of the cgroup; none: max_cpu alone")
    parser.add_argument("--max-cpu", default="4GiB", help="of the job")
    parser.add_argument("--method", choices=sorted(METHODS), default="full")
    parser.add_argument("--params", help="where the weights live; as planned unless said, or with full on disk")
    parser.add_argument("--sequence", type=int, default=512)
    parser.add_argument("--rows", type=int, default=1, help="per micro-batch")
    parser.add_argument("--accumulation", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--work", type=Path, default=Path("/var/tmp/sluice_memory"), help="emptied; on the disk to use")
    options = parser.parse_args()
    options.work = options.work.resolve()
    model = options.model or random_model(options.shape, "nf4" if options.method == "qlora" else "bf16")
    shutil.rmtree(options.work, ignore_errors=True)
    options.work.mkdir(parents=True)
    job = write_job(options, model)
    cgroup = NoCgroup() if options.limit == "none" else make_cgroup(bytes_of(options.limit))
    try:
        exit_code, use = run_inside(cgroup, [options.sluice, "train", job], options.work / "stderr.log",
                                    options.work / "out" / "plan.yaml")
        good = report(options, exit_code, cgroup, use)
    finally:
        remove_cgroup(cgroup)
    if not good:
        print((options.work / "stderr.log").read_text()[-3000:])
        print("MISSED")
        return 1
    shutil.rmtree(options.work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
