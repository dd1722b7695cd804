"""Runs a program on a machine that stops: by `kill -9`, or by a loss of power at a boundary of its I/O."""

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from golden import sluice_run

KILL = "kill -9"  # at an instant, of the process as it runs, io_uring and all
POWER_FAULTS = ("dropped", "reordered", "torn")  # of power_loss
AT_BOUNDARY = ("killed", *POWER_FAULTS)
SECONDS_MAX = 300
EXIT_STOPPED = 137


@dataclass(frozen=True)
class Crash:
    """`boundary`: before that call of power_loss's count. `call`: before the first that has this text, or `later` calls
    after it. Else `seconds` after the start."""

    fault: str
    seed: int = 0
    boundary: int = 0
    seconds: float = 0
    call: str = ""
    later: int = 0

    def __str__(self):
        when = (f"before call {self.boundary}" if self.boundary else
                f"{self.later} calls behind '{self.call}'" if self.call else f"after {self.seconds:.4f} s")
        return f"{self.fault} {when}, seed {self.seed}"


@dataclass
class Ended:
    code: int
    stdout: str
    stderr: str
    report: dict = field(default_factory=dict)

    @property
    def stopped(self):
        return self.code == EXIT_STOPPED

    def __str__(self):
        return f"exit code {self.code}, in: {self.report.get('call', '')}\n{self.stdout[-400:]}\n{self.stderr[-800:]}"


def _ended(command, environment, seconds_max=SECONDS_MAX):
    # Tiny models lose more than they gain by a second thread.
    environment = {"OMP_NUM_THREADS": "1", **os.environ, **(environment or {})}
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env=environment)
    try:
        stdout, stderr = process.communicate(timeout=seconds_max)
    except subprocess.TimeoutExpired:
        process.kill()
        stdout, stderr = process.communicate()
        return Ended(EXIT_STOPPED, stdout, stderr)
    return Ended(process.returncode, stdout, stderr)


def run(command, below, crash=None, environment=None, calls=False, written_back_seconds=0, seconds_max=SECONDS_MAX):
    """`below`: the folders of the machine's drive. Without a crash to its end, its calls counted; report["boundaries"]."""
    if crash is not None and crash.fault == KILL:
        return _ended(command, environment, crash.seconds)
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        options = ["--below", below, "--report", report]
        options += ["--calls"] if calls else []
        options += ["--written-back-after", written_back_seconds] if written_back_seconds else []
        if crash is not None:
            moment = (["--boundary", crash.boundary] if crash.boundary else
                      ["--call", crash.call, "--later", crash.later] if crash.call else ["--after", crash.seconds])
            options += ["--fault", crash.fault, "--seed", crash.seed, *moment]
        power_loss = sluice_run.program("SLUICE_POWER_LOSS", "power_loss")
        ended = _ended([power_loss, *options, "--", *command], environment, seconds_max)
        assert report.exists(), f"power_loss itself failed: {ended}"
        ended.report = json.loads(report.read_text())
        return ended


def run_freely(command, environment=None, seconds_max=SECONDS_MAX):
    """As a user would. `seconds_max` None: as long as it takes."""
    ended = _ended(command, environment, seconds_max)
    assert not ended.stopped, f"{command} ran for more than {seconds_max} s"
    return ended


def train_command(job_file, *settings):
    return [sluice_run.binary(), "train", job_file, *settings]
