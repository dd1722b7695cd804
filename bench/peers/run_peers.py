#!/usr/bin/env python3
"""Sluice beside transformers, peft and DeepSpeed ZeRO-Infinity: the same model, rows and settings, taking turns.

    python bench/peers/run_peers.py setup                             # once: DeepSpeed in a venv of its own
    python bench/peers/run_peers.py run --sluice build/release/sluice --rounds 2
    python bench/peers/run_peers.py run --device cuda --shape qwen2.5-1.5b --sequence 2048 --rows 4 --accumulation 1

SmolLM2-135M's shape with random weights, bf16, rows of 512 tokens, 2 rows per micro-batch, 1 and 4 accumulation
steps. Each round runs every side once; a figure is the median over steps 3 and on of all rounds. Exit code 1 when a
bar of the table is missed.
"""

import argparse
import json
import os
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

from random_models import cache_folder, random_model
from rows import write_dataset

PEERS = cache_folder() / "peers"
STEPS_WARM = 2  # not counted
LEARNING_RATE = 1e-4
LORA_R = 16
EVERYTHING_ON_DISK = {"params": "disk", "gradients": "disk", "optimizer": "disk"}
EVERYTHING_IN_MEMORY = {"params": "host", "gradients": "host", "optimizer": "host", "activations": "keep"}


@dataclass(frozen=True)
class Bar:
    """At `accumulation` steps, `ours` must have `ratio` times the speed of `theirs`."""

    ours: str
    theirs: str
    accumulation: int
    ratio: float


BARS = {"cpu": (
    Bar("sluice disk", "deepspeed nvme", 1, 2.0),
    Bar("sluice disk", "deepspeed nvme", 4, 1.7),
    Bar("sluice memory", "transformers", 1, 1.25),
    Bar("sluice memory", "transformers", 4, 1.25),
    Bar("sluice lora", "peft lora", 1, 1.25),
    Bar("sluice lora", "peft lora", 4, 1.25),
    Bar("sluice disk", "sluice memory", 4, 0.95),
    Bar("sluice qlora", "peft qlora", 1, 1.5),
    Bar("sluice qlora", "peft qlora", 4, 1.5),
), "cuda": (
    Bar("sluice memory", "transformers", 1, 1.25),
    Bar("sluice memory", "transformers compiled", 1, 1.05),
    Bar("sluice lora", "peft lora", 1, 1.25),
    Bar("sluice lora", "peft lora compiled", 1, 1.05),
    Bar("sluice qlora", "peft qlora", 1, 1.6),
    Bar("sluice disk", "deepspeed nvme", 1, 3.5),
    Bar("sluice memory", "deepspeed offload", 1, 1.0),
)}
# What torch.compile wins on a CPU is not what these benches are about.
SIDES_BY_DEVICE = {
    "cpu": ["sluice disk", "deepspeed nvme", "sluice memory", "transformers", "sluice lora", "peft lora",
            "sluice qlora", "peft qlora"],
    # What takes a minute to compile goes last: who is short of time has the rest.
    "cuda": ["sluice memory", "transformers", "sluice lora", "peft lora", "transformers compiled",
             "peft lora compiled"],
}


# --- set-up


def set_up():
    """A venv that sees the main one's packages, so that torch is not fetched again, and adds DeepSpeed."""
    python = PEERS / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", PEERS], check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    shared = next(path for path in sys.path if path.endswith("site-packages"))
    (PEERS / "lib" / version / "site-packages" / "main_environment.pth").write_text(shared + "\n")
    subprocess.run([python, "-m", "pip", "install", "-q", "-r", HERE / "requirements.txt"], check=True)
    if not Path("/usr/include/libaio.h").exists():
        sys.exit("DeepSpeed's disk I/O needs libaio's header\n  fix: apt-get install libaio-dev")
    # Compiles DeepSpeed's operators, minutes long, outside of any measurement.
    script = "from deepspeed.ops.op_builder import AsyncIOBuilder, CPUAdamBuilder as A; AsyncIOBuilder().load(); A().load()"
    subprocess.run([python, "-c", script], check=True, env=peer_environment(), stdout=subprocess.DEVNULL)
    print(f"{PEERS}: ready")


def peers_python():
    """The venv that `setup` made. Without one the peers that this Python has can be run all the same."""
    python = PEERS / "bin" / "python"
    return python if python.exists() else Path(sys.executable)


def peer_environment(device="cpu"):
    path = os.pathsep.join([str(PEERS / "bin"), str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**os.environ, "PATH": path, "DS_ACCELERATOR": device, "TOKENIZERS_PARALLELISM": "false"}


# --- the sides


@dataclass
class Bench:
    options: argparse.Namespace
    model: Path
    work: Path

    def rows_per_step(self, accumulation):
        return self.options.rows * accumulation

    def data(self, accumulation):
        return self.work / f"rows-{accumulation}.jsonl"

    def peer(self, script, accumulation, *extra):
        command = [peers_python(), HERE / script, "--model", self.model, "--data", self.data(accumulation),
                   "--rows", self.options.rows, "--accumulation", accumulation, "--steps", self.options.steps,
                   "--learning-rate", LEARNING_RATE, "--threads", self.options.threads, *extra]
        output = run(command, self.work / f"{script}.log", peer_environment(self.options.device))
        return [json.loads(line) for line in output.splitlines() if line.startswith('{"step"')]

    def torch(self, accumulation, method, *extra):
        return self.peer("peer_torch.py", accumulation, "--method", method, "--device", self.options.device,
                         "--precision", self.options.precision, *extra)

    def deepspeed(self, accumulation, offload):
        extra = ["--device", self.options.device, "--offload", offload, "--nvme", self.work / "nvme"]
        if self.options.device == "cuda":
            extra.append("--checkpointing")
            if self.options.max_gpu:
                extra += ["--max-gpu", bytes_of(self.options.max_gpu)]
        return self.peer("peer_deepspeed.py", accumulation, *extra)

    def on_disk(self):
        """On a GPU what DeepSpeed has on the drive in both cases: the optimizer's states; the rest as planned, under caps."""
        if self.options.device == "cpu":
            return EVERYTHING_ON_DISK
        caps = {"max_gpu": self.options.max_gpu, "max_cpu": self.options.max_cpu}
        return {"optimizer": "disk", **{key: cap for key, cap in caps.items() if cap}}

    def in_memory(self):
        """On a GPU the planner decides, under the cap; on a CPU nothing may touch the disk."""
        if self.options.device == "cpu":
            return EVERYTHING_IN_MEMORY
        return {"max_gpu": self.options.max_gpu} if self.options.max_gpu else {}

    def sluice(self, accumulation, offload, **keys):
        output_dir = self.work / "sluice_out"
        shutil.rmtree(output_dir, ignore_errors=True)
        job = {
            "base_model": str(self.model),
            "datasets": [{"path": str(self.data(accumulation)), "type": "completion"}],
            "dataset_prepared_path": str(self.work / "token_cache"),
            "sequence_len": self.options.sequence,
            "curriculum_sampling": True,
            "micro_batch_size": self.options.rows,
            "gradient_accumulation_steps": accumulation,
            "max_steps": self.options.steps,
            "learning_rate": LEARNING_RATE,
            "lr_scheduler": "constant",
            "weight_decay": 0.01,
            self.options.precision: True,
            "output_dir": str(output_dir),
            "device": self.options.device,
            "offload": offload,
            **keys,
        }
        job_file = self.work / "job.yaml"
        (self.work / "trainer_log.jsonl").unlink(missing_ok=True)  # of the job before: this one may be cut off
        job_file.write_text(json.dumps(job, indent=1))  # JSON is YAML
        run([self.options.sluice, "train", job_file], self.work / "sluice.log",
            {**os.environ, "OMP_NUM_THREADS": str(self.options.threads)})
        # The last job and its log stay, for whoever compares them with a prediction.
        log = shutil.copy(output_dir / "trainer_log.jsonl", self.work)
        shutil.rmtree(output_dir)
        lines = Path(log).read_text().splitlines()
        return [json.loads(line) for line in lines]


def bytes_of(size):
    """Of "22GiB"."""
    units = {"MiB": 1 << 20, "GiB": 1 << 30, "MB": 10**6, "GB": 10**9}
    unit = next(unit for unit in units if size.endswith(unit))
    return int(float(size.removesuffix(unit)) * units[unit])


def run(command, log, environment):
    with open(log, "w") as errors:
        done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=errors, text=True,
                              env=environment)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\nended with {done.returncode}\n{log.read_text()[-3000:]}")
    return done.stdout


SIDES = {
    "sluice disk": lambda bench, n: bench.sluice(n, bench.on_disk()),
    "deepspeed nvme": lambda bench, n: bench.deepspeed(n, "nvme"),
    "deepspeed offload": lambda bench, n: bench.deepspeed(n, "cpu"),
    "sluice disk 8bit": lambda bench, n: bench.sluice(n, {**bench.on_disk(), "optimizer_state": "8bit"}),
    "sluice memory": lambda bench, n: bench.sluice(n, bench.in_memory()),
    "transformers": lambda bench, n: bench.torch(n, "full"),
    "transformers compiled": lambda bench, n: bench.torch(n, "full", "--compile"),
    "sluice lora": lambda bench, n: bench.sluice(n, bench.in_memory(), adapter="lora", lora_r=LORA_R,
                                                 lora_alpha=2 * LORA_R, lora_target_linear=True),
    "sluice qlora": lambda bench, n: bench.sluice(n, bench.in_memory(), adapter="qlora", lora_r=LORA_R,
                                                  lora_alpha=2 * LORA_R, lora_target_linear=True),
    "sluice dora": lambda bench, n: bench.sluice(n, bench.in_memory(), adapter="lora", lora_r=LORA_R, peft_use_dora=True,
                                                 lora_alpha=2 * LORA_R, lora_target_linear=True),
    "peft dora": lambda bench, n: bench.torch(n, "lora", "--lora-r", LORA_R, "--dora"),
    "peft qlora": lambda bench, n: bench.torch(n, "qlora", "--lora-r", LORA_R),
    "peft lora": lambda bench, n: bench.torch(n, "lora", "--lora-r", LORA_R),
    "peft lora compiled": lambda bench, n: bench.torch(n, "lora", "--lora-r", LORA_R, "--compile"),
}


# --- the figures


def measure(bench, sides, accumulations):
    """{(side, accumulation): step lines of all rounds}, the first STEPS_WARM of each run left out; and how many runs
    failed, which are not in it."""
    lines, failed = {}, 0
    for round_number in range(bench.options.rounds):
        for accumulation in accumulations:
            for side in sides:
                begin = time.monotonic()
                try:
                    steps = SIDES[side](bench, accumulation)
                except SystemExit as failure:
                    print(f"{side}: {failure}", file=sys.stderr, flush=True)
                    failed += 1
                    continue
                counted = steps[STEPS_WARM:]
                lines.setdefault((side, accumulation), []).extend(counted)
                speeds = " ".join(f"{speed_of(line):.0f}" for line in steps)
                print(f"round {round_number + 1}, {accumulation} accumulation steps, {side}: {speeds} tokens/s "
                      f"({time.monotonic() - begin:.0f} s, loss {steps[0]['loss']:.3f} -> {steps[-1]['loss']:.3f})",
                      file=sys.stderr, flush=True)
    return lines, failed


def speed_of(line):
    return line["tokens"] / line["step_seconds"]


def tables(lines, sides, accumulations, device):
    medians = {key: statistics.median(map(speed_of, steps)) for key, steps in lines.items()}
    rows = [["side", *(f"{n} accumulation: tokens/s" for n in accumulations)]]
    rows += [[side, *(f"{medians[side, n]:.0f}" if (side, n) in medians else "failed" for n in accumulations)]
             for side in sides]
    bars, missed = [["ours / theirs", "accumulation", "ratio", "bar", ""]], 0
    for bar in BARS[device]:
        ours, theirs = medians.get((bar.ours, bar.accumulation)), medians.get((bar.theirs, bar.accumulation))
        if ours is None or theirs is None:
            continue
        met = ours / theirs >= bar.ratio
        missed += not met
        bars.append([f"{bar.ours} / {bar.theirs}", str(bar.accumulation), f"{ours / theirs:.2f}", f"{bar.ratio:.2f}",
                     "met" if met else "MISSED"])
    return markdown(rows) + "\n\n" + markdown(bars), missed


def markdown(rows):
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def run_all(options):
    options.work.mkdir(parents=True, exist_ok=True)
    bench = Bench(options, random_model(options.shape), options.work.resolve())
    end_of_text = json.loads((bench.model / "config.json").read_text())["eos_token_id"]
    for accumulation in options.accumulation:
        write_dataset(bench.data(accumulation), bench.model, bench.rows_per_step(accumulation) * options.steps,
                      options.sequence, end_of_text)
    lines, failed = measure(bench, options.sides, options.accumulation)
    text, missed = tables(lines, options.sides, options.accumulation, options.device)
    print(text)
    return 1 if missed or failed else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("setup", help="make the peers' venv and compile DeepSpeed's operators")
    command = commands.add_parser("run", help="measure and print the table")
    command.add_argument("--sluice", default=REPOSITORY / "build/release/sluice", type=Path)
    command.add_argument("--shape", default="smollm2-135m", help="a folder of configs/model")
    command.add_argument("--sequence", type=int, default=512)
    command.add_argument("--rows", type=int, default=2, help="per micro-batch")
    command.add_argument("--accumulation", type=int, nargs="+", default=[1, 4])
    command.add_argument("--steps", type=int, default=7)
    command.add_argument("--rounds", type=int, default=1)
    command.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    command.add_argument("--device", choices=sorted(BARS), default="cpu")
    command.add_argument("--precision", choices=("bf16", "fp16"), default="bf16", help="DeepSpeed's is bf16")
    command.add_argument("--max-gpu", help="offload.max_gpu of our own jobs, and what DeepSpeed's torch may take")
    command.add_argument("--max-cpu", help="offload.max_cpu of our own jobs")
    command.add_argument("--sides", nargs="+", choices=sorted(SIDES), help="default: those of the device")
    command.add_argument("--work", type=Path, default=Path("/var/tmp/sluice_peers"), help="on the disk to measure")
    options = parser.parse_args()
    if options.command == "setup":
        return set_up()
    options.sides = options.sides or SIDES_BY_DEVICE[options.device]
    needs_setup = options.device == "cpu" and any(side.startswith("deepspeed") for side in options.sides)
    if needs_setup and peers_python() == Path(sys.executable):
        sys.exit(f"{PEERS}: not there\n  fix: {sys.argv[0]} setup")
    if options.steps <= STEPS_WARM:
        sys.exit(f"--steps {options.steps}: the first {STEPS_WARM} are not counted\n  fix: give more")
    return run_all(options)


if __name__ == "__main__":
    sys.exit(main())
