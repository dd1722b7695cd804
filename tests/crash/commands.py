"""Commands that write files, with the power cut before each of their calls; then the command once more."""

import random
import re
import shutil
import time
from pathlib import Path

from crash import machine
from crash.cases import BY_NAME, MODEL, RECIPE, STEPS
from crash.machine import Crash
from crash.outcome import LOST, STOPPED, Outcome
from crash.training import SWAP_FOLDER
from golden import sluice_run

EXIT_SETUP = 2


class Command:
    """What is written lies in a folder of its own; its inputs do not."""

    name = ""
    # Files that say when or how fast they were made.
    incidental = ("plan.yaml", "trainer_state.json", "checksums.json", "trainer_log.jsonl")
    # An empty lock file may stay, and the swap folder of a run killed at its end: the next one takes it over.
    may_stay = re.compile(rf"(^|/)(\.lock-\w+|{SWAP_FOLDER}(/\w+)?)$")
    # The second run may find that there is nothing to do, and say so with this.
    done_already = None

    def __init__(self, workshop, directory):
        self.workshop, self.directory = workshop, Path(directory)
        self.directory.mkdir(parents=True)
        self.trials = 0
        self.set_up()
        self.undisturbed = self._new_root("undisturbed")
        ended = machine.run(self.command(self.undisturbed), self.undisturbed)
        assert ended.code == 0, f"{self.name}: {ended}"
        self.boundaries = ended.report["boundaries"]
        self.whole = self._contents(self.undisturbed)
        assert self.whole and self.looks_whole(self.undisturbed), f"{self.name} wrote nothing that counts"

    def set_up(self):
        """Inputs."""

    def begin(self, root):
        """What is there before the first run."""

    def command(self, root):
        raise NotImplementedError

    def looks_whole(self, root):
        """Folders that a user, or a later run, takes for finished."""
        raise NotImplementedError

    def crash_at(self, boundary, fault, seed):
        generator = random.Random(f"{self.name} {boundary} {fault} {seed}")
        return self._endure(Crash(fault, generator.randrange(1 << 32), boundary=boundary))

    def _new_root(self, name):
        root = self.directory / name
        root.mkdir()
        self.begin(root)
        return root

    def _contents(self, root):
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*")
                if path.is_file() and path.name not in self.incidental and not self._may_stay(path, root)}

    def _may_stay(self, path, root):
        return self.may_stay.search(str(path.relative_to(root)))

    def _names(self, root):
        return {str(path.relative_to(root)) for path in root.rglob("*") if not self._may_stay(path, root)}

    def _endure(self, crash):
        self.trials += 1
        root = self._new_root(f"trial-{self.trials}")
        try:
            ended = machine.run(self.command(root), root, crash)
            crashes = int(ended.stopped)
            trouble = self._half_written(root)
            if trouble:
                return self._lost(crash, crashes, f"{trouble}, after the crash: {ended}")
            again = machine.run_freely(self.command(root))
            stopped = self.done_already is not None and again.code == EXIT_SETUP and self.done_already in again.stderr
            if again.code != 0 and not stopped:
                return self._lost(crash, crashes, f"the second run fails: {again}")
            odd = sorted(self._names(root) ^ self._names(self.undisturbed))
            if self._contents(root) != self.whole or odd:
                wrong = sorted(name for name, content in self._contents(root).items() if self.whole.get(name) != content)
                return self._lost(crash, crashes, f"{wrong} differ, {odd} are too many or too few after {ended}")
            return Outcome(crash.fault, crashes, STOPPED) if stopped else Outcome(crash.fault, crashes)
        finally:
            shutil.rmtree(root, ignore_errors=True)

    def _half_written(self, root):
        for folder in self.looks_whole(root):
            there, expected = ({str(path.relative_to(base)) for path in (base / folder).rglob("*")}
                               for base in (root, self.undisturbed))
            contents = self._contents(root)
            wrong = [name for name in there if name in self.whole and contents[name] != self.whole[name]]
            if there != expected or wrong:
                return f"{folder} looks whole; {sorted(there ^ expected)} are too many or too few, {wrong} differ"
        return None

    def _lost(self, crash, crashes, why):
        return Outcome(crash.fault, crashes, LOST, f"{self.name} [{crash}]: {why}")


class Preprocess(Command):
    name = "preprocess"

    def command(self, root):
        job = self.workshop.job(self.workshop.model(MODEL), RECIPE, dataset_prepared_path=str(root / "cache"),
                                val_set_size=5, output_dir=str(root / "out"))
        return [sluice_run.binary(), "preprocess", sluice_run.write_job(self.directory / f"{root.name}.yaml", job)]

    def looks_whole(self, root):
        return [path.relative_to(root) for path in (root / "cache").glob("?" * 64)]

    def set_up(self):
        # The cache trusts the times of files that are older than 2 s, and then remembers their hash.
        self.workshop.model(MODEL)
        time.sleep(2.1)


class Quantise(Command):
    """The base of a QLoRA job, at its first start; and one step, which reads it."""

    name = "quantise"

    def set_up(self):
        # For the first time it also measures the drive, with calls of its own.
        root = self._new_root("measured")
        ended = machine.run_freely([*self.command(root), "--dry-run"])
        assert ended.code == 0, ended

    def begin(self, root):
        (root / "drive").mkdir()

    def command(self, root):
        job = {**BY_NAME["qlora"].job(self.workshop, root / "out"), "max_steps": 1, "save_steps": None}
        job["offload"] = {**job["offload"], "nvme_path": [str(root / "drive")]}
        file = self.directory / f"{root.name}.yaml"
        return machine.train_command(sluice_run.write_job(file, {k: v for k, v in job.items() if v is not None}))

    def looks_whole(self, root):
        return [path.relative_to(root) for path in (root / "drive" / "quantised").glob("*") if ".partial-" not in path.name]


class OfFinishedTraining(Command):
    """From what a whole job has left."""

    case = ""

    def set_up(self):
        self.trained = self.directory / "trained" / "out"
        file = sluice_run.write_job(self.directory / "trained.yaml", BY_NAME[self.case].job(self.workshop, self.trained))
        ended = machine.run_freely(machine.train_command(file))
        assert ended.code == 0, ended


class Merge(OfFinishedTraining):
    name, case = "merge", "lora"
    done_already = "exists and is not an empty folder"

    def command(self, root):
        return [sluice_run.binary(), "merge", "--adapter", self.trained, "--out", root / "merged"]

    def looks_whole(self, root):
        return [Path("merged")] if (root / "merged").exists() else []


class Export(OfFinishedTraining):
    """A finished job whose result is not there yet: its last checkpoint becomes the result."""

    name, case = "export", "full-bf16"

    def begin(self, root):
        last = f"checkpoint-{STEPS}"
        shutil.copytree(self.trained / last, root / "out" / last)

    def command(self, root):
        job = BY_NAME[self.case].job(self.workshop, root / "out")
        return machine.train_command(sluice_run.write_job(self.directory / f"{root.name}.yaml", job))

    def looks_whole(self, root):
        return [path.relative_to(root) for path in (root / "out").rglob("*.safetensors")]


ALL = (Preprocess, Quantise, Merge, Export)
