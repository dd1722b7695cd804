"""All cases and commands under all faults, for so many seeds or so long: what bench/crash_soak runs."""

import random
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from crash import cases, commands, machine
from crash.outcome import LOST, Outcome, Table
from crash.training import Training
from golden.conftest import Workshop

TRAINING_FAULTS = (machine.KILL, *machine.AT_BOUNDARY)
COMMANDS = {command.name: command for command in commands.ALL}
NAMES = (*cases.BY_NAME, *COMMANDS)


def training_trials(subject, seeds):
    """Each seed: every fault once over the whole run, and one call in six of the last ones."""
    last = list(subject.last_calls())
    random.Random(subject.case.name).shuffle(last)
    for seed in range(seeds):
        for fault in TRAINING_FAULTS:
            yield lambda fault=fault, seed=seed: subject.endure(fault, seed)
        for i in range(max(1, len(last) // 6)):
            at = last[(seed * max(1, len(last) // 6) + i) % len(last)]
            fault = machine.AT_BOUNDARY[(i + seed) % len(machine.AT_BOUNDARY)]
            yield lambda at=at, fault=fault, seed=seed: subject.endure_at(at, fault, seed)


def command_trials(subject, seeds):
    """Each seed: one call in four, every fault, so that four seeds have them all."""
    for seed in range(seeds):
        for boundary in range(1 + seed % 4, subject.boundaries + 1, 4):
            for fault in machine.POWER_FAULTS:
                yield lambda at=boundary, fault=fault, seed=seed: subject.crash_at(at, fault, seed)


def soak_one(name, directory, seeds, seconds_max):
    """A list of outcomes. `seconds_max`: no trial begins later."""
    begin, outcomes = time.monotonic(), []
    directory = Path(directory) / name
    directory.mkdir(parents=True)
    try:
        workshop = Workshop(directory)
        if name in cases.BY_NAME:
            trials = training_trials(Training(workshop, cases.BY_NAME[name], directory / "trials"), seeds)
        else:
            trials = command_trials(COMMANDS[name](workshop, directory / "trials"), seeds)
        for trial in trials:
            if time.monotonic() - begin > seconds_max:
                break
            outcomes.append(trial())
            if outcomes[-1].verdict == LOST:
                print(f"LOST {name}: {outcomes[-1].why}", flush=True)
    except Exception:  # of the harness itself: the other cases go on, and this one counts as lost
        outcomes.append(Outcome("the harness", 0, LOST, traceback.format_exc()))
        print(outcomes[-1].why, flush=True)
    print(f"{name}: {sum(outcome.crashes for outcome in outcomes)} crashes, "
          f"{sum(outcome.verdict == LOST for outcome in outcomes)} lost, {time.monotonic() - begin:.0f} s", flush=True)
    return outcomes


def soak(names, directory, seeds, jobs, seconds_max):
    table = Table()
    share = seconds_max * jobs / len(names)
    with ProcessPoolExecutor(jobs) as pool:
        running = [(name, pool.submit(soak_one, name, directory, seeds, share)) for name in names]
        for name, each in running:
            for outcome in each.result():
                table.add("training" if name in cases.BY_NAME else name, outcome)
    return table
