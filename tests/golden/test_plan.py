"""What `sluice plan` says of two jobs is what differs, and a trace has what was planned beside what was done."""

import json
import re
from pathlib import Path

import pytest
from equivalence import jobs
from golden import sluice_run

REPOSITORY = Path(__file__).resolve().parents[2]
MACHINE = REPOSITORY / "configs" / "machine" / "rtx4090_desktop.yaml"


@pytest.fixture
def keys(workshop, tmp_path):
    return jobs.job_of(workshop, jobs.TINY, "full", "bf16", output_dir=str(tmp_path / "out"),
                       offload={"nvme_path": [str(tmp_path / "swap")]})


def plan(keys, directory, *arguments):
    done = sluice_run.sluice("plan", sluice_run.write_job(directory / "job.yaml", keys), "--machine", MACHINE, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_two_jobs_are_shown_by_what_differs(keys, tmp_path):
    other = sluice_run.write_job(tmp_path / "other.yaml", {**keys, "micro_batch_size": 2 * keys["micro_batch_size"]})
    lines = plan(keys, tmp_path, "--diff", other).splitlines()
    tokens = [re.fullmatch(r"([-+]) tokens_per_micro_batch: (\d+)", line) for line in lines]
    before, after = (int(match[2]) for match in tokens if match)
    assert after == 2 * before
    assert not any("micro_batches: " in line for line in lines), "what both have is left out"
    assert plan(keys, tmp_path, "--diff", tmp_path / "job.yaml") == ""


def test_a_trace_of_training_has_every_step_as_simulated_and_as_executed(keys, tmp_path):
    job = sluice_run.write_job(tmp_path / "job.yaml", {**keys, "max_steps": 2})
    done = sluice_run.sluice("train", job, "--trace", tmp_path / "trace.json")
    assert done.returncode == 0, done.stderr
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    slices = [event for event in events if event["ph"] == "X"]
    named = {process: sorted(each["name"] for each in slices if each["pid"] == process) for process in ("executed", "simulated")}
    assert named["executed"] == named["simulated"] != []
    assert all(each["dur"] >= 0 for each in slices)
