"""A run of the binary that is watched, and disturbed, while it goes on."""

import contextlib
import json
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest
from golden import sluice_run

EXIT_SETUP, EXIT_RUN = 2, 3
EIO, ENOSPC, EROFS = 5, 28, 30
SECONDS_MAX = sluice_run.COMMAND_SECONDS_MAX


class LiveRun:
    """`drive_faults`: what the preloaded library is to do while `trigger` exists (drive_faults.cpp). `command`: what runs the
    job, where it is not the binary."""

    def __init__(self, job, directory, drive_faults=None, command=None, **popen):
        self.output_dir = Path(job.get("output_dir", directory / "out"))
        self.trigger = directory / "trigger"
        file = sluice_run.write_job(directory / "job.yaml", {"output_dir": str(self.output_dir), **job})
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **popen.pop("environment", {})}
        if drive_faults:
            environment |= {"LD_PRELOAD": os.environ["SLUICE_DRIVE_FAULTS"], "DRIVE_FAULTS": f"{drive_faults} {self.trigger}"}
        popen = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **popen}
        command = command or [sluice_run.binary(), "train", file]
        self.process = subprocess.Popen(command, text=True, env=environment, **popen)
        self.text = {"stdout": "", "stderr": ""}
        self.readers = [threading.Thread(target=self._read, args=(name,), daemon=True)
                        for name in self.text if getattr(self.process, name)]
        for reader in self.readers:
            reader.start()

    def _read(self, name):
        for line in getattr(self.process, name):
            self.text[name] += line

    @property
    def stdout(self):
        return self.text["stdout"]

    @property
    def stderr(self):
        return self.text["stderr"]

    def steps_done(self):
        log = self.output_dir / "trainer_log.jsonl"
        return log.read_text().count("\n") if log.exists() else 0

    def wait_until(self, condition, what):
        end = time.monotonic() + SECONDS_MAX
        while not condition():
            ended = self.process.poll() is not None
            if (ended and not condition()) or time.monotonic() > end:
                pytest.fail(f"{what}: did not happen\n{self.stdout[-2000:]}\n{self.stderr[-4000:]}")
            time.sleep(0.005)

    def wait_for_step(self, step):
        self.wait_until(lambda: self.steps_done() >= step, f"step {step}")

    def wait_for_checkpoint(self, step):
        self.wait_until(lambda: (self.output_dir / f"checkpoint-{step}").exists(), f"the checkpoint of step {step}")

    def wait_for_line(self, text):
        self.wait_until(lambda: text in self.stderr, text)

    def finish(self, exit_code=0):
        try:
            self.process.wait(SECONDS_MAX)
        finally:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
        for reader in self.readers:
            reader.join()
        assert self.process.returncode == exit_code, f"{self.stdout[-2000:]}\n{self.stderr[-4000:]}"
        log = self.output_dir / "trainer_log.jsonl"
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        return sluice_run.Run(self.output_dir, exit_code, self.stdout, self.stderr, lines)


def assert_one_error(stderr, *parts):
    """One message with what happened, where, and what to do."""
    errors = [line for line in stderr.splitlines() if line.startswith("sluice: ")]
    assert len(errors) == 1, stderr
    for part in (*parts, "\n  fix: "):
        assert part in stderr, stderr
