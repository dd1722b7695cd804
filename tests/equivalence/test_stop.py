"""A run that is stopped, killed or started again ends as one that was left alone."""

import os
import shutil
import signal
import subprocess

import pytest
from equivalence import jobs, outcome, plans
from golden import checkpoint_files, sluice_run

STEPS = jobs.RECIPE.steps
STOP_AFTER = 3
EXIT_SETUP = 2


@pytest.fixture(scope="module")
def job(workshop):
    return jobs.job_of(workshop, jobs.TINY, "full", "bf16", **plans.DISK.keys(), logging_steps=1)


@pytest.fixture(scope="module")
def straight(job, tmp_path_factory):
    return sluice_run.train(job, tmp_path_factory.mktemp("straight"))


def start(job, directory):
    job = {"output_dir": str(directory / "out"), **job}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sluice_run.binary(), "train", sluice_run.write_job(directory / "job.yaml", job)],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def named_files(output_dir):
    """Of swap files, those that a checkpoint names."""
    return {os.path.basename(file["path"]) for checkpoint in output_dir.glob("checkpoint-*")
            for file in checkpoint_files.manifest_of(checkpoint)["files"]}


def wait_for_step(process, step):
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.replace(" ", "").startswith(f"step{step}/"):
            return
    pytest.fail(f"the run ended without a line of step {step}\n{''.join(lines)}\n{process.stderr.read()}")


@pytest.mark.parametrize("sent", (signal.SIGINT, signal.SIGTERM), ids=lambda sent: sent.name)
def test_a_signal_stops_with_a_checkpoint_to_go_on_from(job, straight, tmp_path, sent):
    process = start(job, tmp_path)
    wait_for_step(process, STOP_AFTER)
    process.send_signal(sent)
    stdout, stderr = process.communicate(timeout=sluice_run.COMMAND_SECONDS_MAX)
    assert process.returncode == 128 + sent, stderr
    stopped = max(int(path.name.split("-")[1]) for path in (tmp_path / "out").glob("checkpoint-*"))
    assert STOP_AFTER <= stopped < STEPS, "the signal came too late for this test to show anything"
    assert f"stopped by {sent.name} after step {stopped} of {STEPS}" in stdout
    assert not (tmp_path / "out" / "model.safetensors").exists()
    resumed = sluice_run.train({**job, "auto_resume_from_checkpoints": True}, tmp_path)
    outcome.assert_identical(resumed, straight, "a run that was stopped")


def test_a_run_killed_before_its_first_checkpoint_starts_anew(job, straight, tmp_path):
    process = start(job, tmp_path)
    wait_for_step(process, STOP_AFTER)
    process.kill()
    process.communicate()
    assert (tmp_path / "out" / "trainer_log.jsonl").exists()
    refused = sluice_run.try_train(job, tmp_path)
    assert refused.exit_code == EXIT_SETUP and "not empty" in refused.stderr
    again = sluice_run.train({**job, "auto_resume_from_checkpoints": True}, tmp_path)
    assert "holds no checkpoint" in again.stderr
    outcome.assert_identical(again, straight, "a run that was killed")
    left = {path.name for path in again.output_dir.iterdir() if path.name.startswith(".")}
    left |= {path.name for path in (again.output_dir / "sluice-swap").glob("*.extents")} - named_files(again.output_dir)
    assert not left, f"the killed run's {left} are still there"


def test_a_finished_job_started_again_keeps_its_result(job, straight, tmp_path):
    shutil.copytree(straight.output_dir, tmp_path / "out")
    (tmp_path / "out" / "model.safetensors").unlink()  # as after a crash between checkpoint and result
    again = sluice_run.train({**job, "auto_resume_from_checkpoints": True}, tmp_path)
    assert f"nothing is left to train: {tmp_path}/out/checkpoint-{STEPS} is at step {STEPS} of {STEPS}" in again.stdout
    outcome.assert_identical(again, straight, "a finished job started again")


def test_a_checkpoint_beyond_the_end_is_refused(job, straight, tmp_path):
    shutil.copytree(straight.output_dir, tmp_path / "out")
    refused = sluice_run.try_train({**job, "max_steps": STEPS - 1, "auto_resume_from_checkpoints": True}, tmp_path)
    assert refused.exit_code == EXIT_SETUP
    assert f"is at step {STEPS} and the job ends at step {STEPS - 1}" in refused.stderr
