"""Mistakes that the crashes have found, each by itself."""

import errno
import os
import shutil

import pytest
from crash import cases, machine
from crash.machine import Crash
from crash.outcome import SURVIVED
from crash.training import Training, differing, numbers
from equivalence.outcome import NUMBERS
from golden import sluice_run

CASE = cases.BY_NAME["full-bf16"]  # saves after each step, keeps one checkpoint


@pytest.fixture(scope="module")
def training(workshop, tmp_path_factory):
    return Training(workshop, CASE, tmp_path_factory.mktemp("training"))


def committing(step):
    """The call that gives a checkpoint its name, as power_loss describes it."""
    return f"/checkpoint-{step}.partial to "


def check(training, *crashes):
    for crash in crashes:
        outcome = training.endure_these(crash.fault, [crash])
        assert outcome.verdict == SURVIVED, outcome.why
        assert outcome.crashes == 1, f"no call has '{crash.call}': nothing was crashed"


@pytest.fixture(scope="module")
def without_power(training, tmp_path_factory):
    """What is left where power fails behind the save of step 4, all unsynced lost."""
    root = tmp_path_factory.mktemp("without_power")
    ended = machine.run(training.command_in(root), root, Crash("dropped", call="/checkpoint-5.partial"),
                        training.environment)
    assert ended.stopped, ended
    return root / "out"


def test_the_name_of_a_new_output_dir_is_safe_before_a_checkpoint_is(without_power):
    assert (without_power / "checkpoint-4").is_dir()


def test_the_log_of_the_steps_before_a_checkpoint_is_as_safe_as_the_checkpoint(training, without_power):
    lines = (without_power / "trainer_log.jsonl").read_text().splitlines()
    assert 4 <= len(lines) <= cases.STEPS


def test_a_checkpoint_that_is_partly_removed_does_not_look_like_one(training):
    """Whatever of the removal reaches the drive first."""
    check(training, *(Crash(fault, 1, call="/checkpoint-3.removed.partial/", later=later)
                      for fault, later in (("killed", 0), ("killed", 3), ("reordered", 1), ("torn", 2))))


def test_a_checkpoint_too_many_goes_also_when_nothing_is_left_to_train(training):
    """The last save is done, the one before it is still there."""
    check(training, Crash("killed", 1, call=f"/checkpoint-{cases.STEPS - 1} to "))


# Behind the first write of a new checkpoint's last file: its sync, the folders', the new name and what follows.
COMMIT_CALLS = range(1, 7)
LAST = f"checkpoint-{cases.STEPS}"
CANNOT_EXCHANGE = f"exchange .partial {errno.EINVAL} /"


@pytest.fixture(scope="module")
def finished(workshop, tmp_path_factory):
    """A job whose checkpoints are complete in themselves."""
    return Training(workshop, cases.BY_NAME["lora"], tmp_path_factory.mktemp("finished"))


@pytest.mark.parametrize("drive", ("exchanges names", "does not"))
@pytest.mark.parametrize("fault", machine.AT_BOUNDARY)
def test_a_checkpoint_that_is_replaced_is_not_lost_at_any_moment(finished, tmp_path, fault, drive):
    environment = dict(finished.environment)
    if drive == "does not":
        environment |= {"LD_PRELOAD": os.environ["SLUICE_DRIVE_FAULTS"], "DRIVE_FAULTS": CANNOT_EXCHANGE}
    found = set()
    for later in COMMIT_CALLS:
        root = tmp_path / str(later)
        out = shutil.copytree(finished.undisturbed, root / "out")
        (out / LAST / "of_the_first").touch()
        job = finished.case.job(finished.workshop, out)
        last_step_again = {**job, "resume_from_checkpoint": str(out / f"checkpoint-{cases.STEPS - 1}")}
        command = machine.train_command(sluice_run.write_job(root / "job.yaml", last_step_again))
        crash = Crash(fault, 1, call=f"{LAST}.partial/checksums.json at", later=later)
        ended = machine.run(command, root, crash, environment)
        assert ended.stopped, ended
        assert (out / LAST).is_dir() or drive == "does not", ended
        found.add(next(path.name for path in (out / LAST, out / f"{LAST}.replaced") if path.is_dir()))
        again = machine.run_freely(machine.train_command(sluice_run.write_job(root / "job.yaml", job)), environment)
        assert again.code == 0 and "nothing is left to train" in again.stdout, again
        assert not differing(out / LAST, finished.undisturbed / LAST)
        assert not list(out.glob("*.partial")) and not list(out.glob("*.replaced"))
        found.add((out / LAST / "of_the_first").exists())
    assert {True, False} <= found, "the new name came before, or behind, all of these moments"
    assert f"{LAST}.replaced" in found or drive == "exchanges names" or fault != "killed"


def test_a_step_that_fp16_skips_right_after_a_start_is_saved(workshop, tmp_path):
    """Nothing has been written yet that could be saved: the checkpoint that was resumed from holds it."""
    training = Training(workshop, cases.BY_NAME["full-fp16"], tmp_path / "training")
    skipped = NUMBERS.index("skipped")
    step = next(i for i, line in enumerate(numbers(training.undisturbed), 1) if i > 1 and line[skipped] == "True")
    check(training, Crash("killed", 1, call=committing(step - 1), later=4))


def test_the_names_of_new_folders_are_safe_before_a_checkpoint_names_files_in_them(training, tmp_path):
    job = CASE.job(training.workshop, tmp_path / "out")
    job["offload"] = {**job["offload"], "nvme_path": [str(tmp_path / "drives" / "fast")]}
    command = machine.train_command(sluice_run.write_job(tmp_path / "job.yaml", job))
    ended = machine.run(command, tmp_path, Crash("dropped", call="/checkpoint-5.partial"), training.environment)
    assert ended.stopped, ended
    assert (tmp_path / "out" / "checkpoint-4").is_dir()
    assert list((tmp_path / "drives" / "fast" / "sluice-swap").glob("*.extents"))
