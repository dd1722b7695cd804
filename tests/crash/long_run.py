"""A real model under random faults for a long time, recovering from each; then the same job undisturbed."""

import random
import re
import time

from crash import machine
from crash.machine import Crash
from crash.outcome import LOST, Outcome, Table
from crash.training import differing, numbers
from golden import sluice_run, tiny_models

SEED = 1
SAVE_STEPS = 5
FAULTS = (machine.KILL, *machine.POWER_FAULTS)
# What the kernel does by itself within half a minute; sooner here, as what is not yet written is kept in memory.
WRITTEN_BACK_SECONDS = 2
STEP_SECONDS = re.compile(r'"step_seconds":([0-9.e-]+)')


def job_of(model, rows, cache, out, steps):
    return {
        "base_model": str(model),
        "datasets": [{"path": str(rows), "type": "completion"}],
        "dataset_prepared_path": str(cache),
        "sequence_len": 64,
        "micro_batch_size": 2,
        "gradient_accumulation_steps": 1,
        "max_steps": steps,
        "learning_rate": 1e-4,
        "warmup_steps": 2,
        "bf16": True,
        "device": "cpu",
        "seed": 7,
        "logging_steps": 1,
        "save_steps": SAVE_STEPS,
        "save_total_limit": 2,
        "auto_resume_from_checkpoints": True,
        "offload": {"params": "disk", "gradients": "disk", "optimizer": "disk", "activations": "auto"},
        "output_dir": str(out),
    }


def median_step(out):
    seconds = sorted(float(each) for each in STEP_SECONDS.findall((out / "trainer_log.jsonl").read_text()))
    return seconds[len(seconds) // 2]


def disturb(model, work, seconds):
    """A Table. Steps are as many as take about half of `seconds` alone: the rest goes into starts and lost steps."""
    rows = tiny_models.write_rows(work / "rows.jsonl", 2000)
    generator = random.Random(SEED)

    def command(name, steps):
        (work / name).mkdir(exist_ok=True)
        job = job_of(model, rows, work / "cache", work / name / "out", steps)
        return machine.train_command(sluice_run.write_job(work / f"{name}.yaml", job))

    def train(name, steps):
        begin = time.monotonic()
        ended = machine.run_freely(command(name, steps), seconds_max=None)
        assert ended.code == 0, ended
        return time.monotonic() - begin

    start_seconds = train("measured", 4)
    steps = max(2 * SAVE_STEPS, int(seconds / 2 / median_step(work / "measured" / "out")))
    undisturbed_seconds = train("undisturbed", steps)
    print(f"{steps} steps, undisturbed: {undisturbed_seconds:.0f} s", flush=True)
    table = Table()
    begin = time.monotonic()
    while True:
        crash = Crash(generator.choice(FAULTS), generator.randrange(1 << 32),
                      seconds=generator.uniform(start_seconds / 2, start_seconds + undisturbed_seconds / 4))
        late = time.monotonic() - begin > seconds
        environment = {"OMP_NUM_THREADS": "2"}
        ended = machine.run(command("disturbed", steps), work / "disturbed", None if late else crash, environment,
                            written_back_seconds=WRITTEN_BACK_SECONDS, seconds_max=None)
        shown = re.findall(r"^step +(\d+)/", ended.stdout, re.M) or ["none"]
        print(f"{time.monotonic() - begin:6.0f} s  {crash if ended.stopped else 'to the end'}; steps {shown[0]} to {shown[-1]}",
              flush=True)
        if not ended.stopped and ended.code != 0:
            table.add("long run", Outcome(crash.fault, 0, LOST, str(ended)))
            return table
        if not ended.stopped:
            break
        table.add("long run", Outcome(crash.fault, 1))
    ours, theirs = work / "disturbed" / "out", work / "undisturbed" / "out"
    wrong = differing(ours, theirs) + differing(theirs, ours)
    if wrong or numbers(ours) != numbers(theirs):
        table.add("long run", Outcome("the end", 0, LOST, f"{wrong or 'the log'} differ from the undisturbed run's"))
    return table
