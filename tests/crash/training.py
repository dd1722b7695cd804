"""Training that is crashed and started again, any number of times, beside the same job left alone."""

import json
import random
import re
import shutil
import sys
import time
from pathlib import Path

from crash import machine
from crash.cases import STEPS
from crash.machine import Crash
from crash.outcome import LOST, STOPPED, Outcome
from equivalence.outcome import NUMBERS
from golden import sluice_run

STEP_LINE = re.compile(r"^step +(\d+)/", re.M)
CRASHES_MAX = 6  # of one job
SWAP_FOLDER = "sluice-swap"  # stays after a kill behind the last step: the next job there takes it over


def numbers(out):
    lines = (out / "trainer_log.jsonl").read_text().splitlines()
    return [[str(json.loads(line, parse_float=str).get(name)) for name in NUMBERS] for line in lines]


def names(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def differing(ours, theirs, pattern="*.safetensors"):
    """Names of files that `ours` has and that are not as in `theirs`."""
    return [str(path.relative_to(ours)) for path in sorted(ours.rglob(pattern))
            if not (theirs / path.relative_to(ours)).exists()
            or path.read_bytes() != (theirs / path.relative_to(ours)).read_bytes()]


def step_of(checkpoint):
    return int(checkpoint.name.removeprefix("checkpoint-"))


class Training:
    def __init__(self, workshop, case, directory):
        self.workshop, self.case, self.directory = workshop, case, Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.trials = 0
        self.environment = {"SLUICE_PYTHON": str(self._write_prepared_text())}
        self.undisturbed = self.directory / "undisturbed" / "out"
        limit = 1 if case.mode == "in_place" else STEPS
        command = machine.train_command(self._write_job(self.undisturbed, save_total_limit=limit))
        # For the first time it also prepares the data and measures the job.
        ended = machine.run_freely([*command, "--dry-run"], self.environment)
        assert ended.code == 0, f"{case.name} cannot be planned: {ended}"
        begin = time.monotonic()
        ended = machine.run(command, self.undisturbed.parent, environment=self.environment)
        assert ended.code == 0, f"{case.name} does not train: {ended}"
        self.seconds = time.monotonic() - begin
        self.boundaries = ended.report["boundaries"]

    def _write_prepared_text(self):
        """In place of Python: what the text side answered the first time. Half of a start is its own."""
        answer, program = self.directory / "answer.json", self.directory / "text_side"
        program.write_text(f'#!/bin/sh\nif [ -e {answer} ]; then cat >/dev/null; cat {answer}; else\n'
                           f'{sys.executable} "$@" >{answer}.new && mv {answer}.new {answer} && cat {answer}; fi\n')
        program.chmod(0o755)
        return program

    def _write_job(self, out, **keys):
        job = {**self.case.job(self.workshop, out), **keys}
        out.parent.mkdir(parents=True, exist_ok=True)
        return sluice_run.write_job(self.directory / f"{out.parent.name}.yaml", job)

    def command_in(self, root):
        return machine.train_command(self._write_job(root / "out"))

    def crashes(self, fault, seed):
        """As the seed has them, without end. Later ones come earlier: less is left to do."""
        generator = random.Random(f"{self.case.name} {fault} {seed}")
        share = 1.0
        while True:
            at = share * generator.random()
            if fault == machine.KILL:
                yield Crash(fault, seconds=max(0.001, at * self.seconds))
            else:
                yield Crash(fault, generator.randrange(1 << 32), boundary=1 + int(at * self.boundaries))
            share = generator.random()

    def endure(self, fault, seed):
        """One job, crashed up to CRASHES_MAX times."""
        count = 1 + random.Random(f"count {seed}").randrange(CRASHES_MAX)
        return self.endure_these(fault, [crash for crash, _ in zip(self.crashes(fault, seed), range(count))])

    def last_calls(self):
        """Of a step's number of calls, at the end of the run: the last save, what it prunes, and the result."""
        return range(self.boundaries - self.boundaries // STEPS, self.boundaries + 1)

    def endure_at(self, boundary, fault, seed):
        return self.endure_these(fault, [Crash(fault, random.Random(f"{boundary} {seed}").randrange(1 << 32), boundary)])

    def endure_these(self, fault, crashes):
        self.trials += 1
        root = self.directory / f"trial-{self.trials}"
        struck, first_step = [], 1
        try:
            command = self.command_in(root)
            for crash in crashes:
                ended = machine.run(command, root, crash, self.environment)
                if self._stopped_rightly(ended):
                    return Outcome(fault, len(struck), STOPPED)
                self._learn_speed(crash, ended)
                struck += [crash] if ended.stopped else []
                trouble = self._trouble_on_the_way(root / "out", ended, first_step)
                if trouble:
                    return self._lost(fault, struck, trouble)
                first_step = self.first_step_after(ended, first_step)
                if not ended.stopped:
                    break
            ended = machine.run_freely(command, self.environment)
            if self._stopped_rightly(ended):
                return Outcome(fault, len(struck), STOPPED)
            trouble = self._trouble_on_the_way(root / "out", ended, first_step) or self._trouble_at_the_end(root / "out")
            return self._lost(fault, struck, trouble) if trouble else Outcome(fault, len(struck))
        finally:
            shutil.rmtree(root, ignore_errors=True)
            (self.directory / f"{root.name}.yaml").unlink(missing_ok=True)

    def _stopped_rightly(self, ended):
        """What a checkpoint in place gives up."""
        return self.case.mode == "in_place" and ended.code == 2 and "is void: the run went on in its place" in ended.stderr

    def _learn_speed(self, crash, ended):
        """A shared machine is faster or slower from minute to minute: instants are to lie within the run."""
        if crash.fault == machine.KILL:
            self.seconds *= 1.03 if ended.stopped else 0.7

    def _lost(self, fault, struck, trouble):
        return Outcome(fault, len(struck), LOST, f"{self.case.name} [{'; '.join(map(str, struck))}]: {trouble}")

    def first_step_after(self, ended, first_step=1):
        """The step that the next run begins with at the latest: the save of a step is done when the second one after it
        is shown."""
        shown = [int(step) for step in STEP_LINE.findall(ended.stdout)]
        return max(first_step, max(shown[-1] - 2, 0) // self.case.save_steps * self.case.save_steps + 1 if shown else 1)

    def _trouble_on_the_way(self, out, ended, first_step):
        """None when the run began where it had to, and what it left is whole or does not look so."""
        if not ended.stopped and ended.code != 0:
            return f"refused to go on: {ended}"
        shown = STEP_LINE.search(ended.stdout)
        if shown and int(shown[1]) > first_step + self.case.save_steps + 1:
            return f"began with step {shown[1]}, after step {first_step}"
        if shown and int(shown[1]) < first_step:
            return f"began with step {shown[1]}, and all before {first_step} had been saved: {ended}"
        for checkpoint in sorted(out.glob("checkpoint-*")):
            if not checkpoint.name.removeprefix("checkpoint-").isdigit():
                continue
            whole = self.undisturbed / checkpoint.name
            missing = names(whole) - names(checkpoint)
            if missing or differing(checkpoint, whole):
                return f"{checkpoint.name} looks whole, lacks {missing}, differs in {differing(checkpoint, whole)}: {ended}"
        wrong = [name for name in differing(out, self.undisturbed) if "/" not in name and not name.startswith(".")]
        return f"{wrong} of the result look whole and are not: {ended}" if wrong else None

    def _trouble_at_the_end(self, out):
        """None when everything is as if nothing had been."""
        last = sorted((path for path in self.undisturbed.glob("checkpoint-*")), key=step_of)
        pruned = {path.name for path in last[:-self.case.save_total_limit]}
        expected = {name for name in names(self.undisturbed) if name.split("/")[0] not in pruned}
        odd = {name for name in names(out) ^ expected if name.split("/")[0] != SWAP_FOLDER}
        if odd:
            return f"at the end {sorted(odd)} are too many or too few"
        if numbers(out) != numbers(self.undisturbed):
            return f"the numbers of the log differ: {numbers(out)}"
        wrong = differing(out, self.undisturbed)
        assert step_of(last[-1]) == STEPS and any(out.glob("*.safetensors")), "this compares nothing"
        return f"{wrong} differ at the end" if wrong else None
