"""What a drive does to a run: it is survived to the last bit, or the run stops with one message and its checkpoint."""

import contextlib
import shutil
import signal
import time

import pytest
from equivalence import jobs, outcome
from faults.live_run import EIO, ENOSPC, EROFS, EXIT_RUN, LiveRun, assert_one_error
from golden import sluice_run

STEPS = jobs.RECIPE.steps
DISTURBED_FROM = 3  # a checkpoint of step 2 is there


def disturbed(job, directory, faults):
    run = LiveRun(job, directory, faults)
    run.wait_for_step(DISTURBED_FROM)
    run.trigger.touch()
    return run


def newest_checkpoint(run):
    return max(run.output_dir.glob("checkpoint-*[0-9]"), key=lambda path: int(path.name.split("-")[1]))


def assert_goes_on(job, run, straight, directory):
    """The message offers the newest checkpoint; from there the run ends as one that nothing disturbed."""
    assert f"{newest_checkpoint(run)} is intact: auto_resume_from_checkpoints: true goes on from it" in run.stderr
    resumed = sluice_run.train({**job, "auto_resume_from_checkpoints": True}, directory)
    assert "goes on" not in resumed.stderr
    outcome.assert_identical(resumed, straight, "a run that was stopped by its drive")


STOPS = {
    "a failing read": (f"read sluice-swap/extents {EIO}", "reading", "offset", "sluice-swap/extents", "Input/output error",
                       "smartctl"),
    "a failing write": (f"write sluice-swap/extents {EIO}", "writing", "sluice-swap/extents", "Input/output error"),
    "a remount read-only": (f"write sluice-swap/extents {EROFS}", "sluice-swap/extents", "Read-only file system",
                            "remounted read-only"),
    "a checkpoint on a failing drive": (f"write .partial/ {EIO}", ".partial/", "write: Input/output error", "dmesg"),
    "a checkpoint that cannot be synced": (f"sync .partial/ {EIO}", ".partial/", "fsync: Input/output error"),
    "a checkpoint on a read-only drive": (f"write .partial/ {EROFS}", ".partial/", "Read-only file system"),
    "a log on a failing drive": (f"write trainer_log.jsonl {EIO}", "trainer_log.jsonl", "Input/output error"),
    "a flipped bit": ("read sluice-swap/extents flip", "checksum mismatch", "offset", "sluice-swap/extents"),
}


@pytest.mark.parametrize("what", STOPS)
def test_stops_with_one_message_and_its_checkpoint(job, straight, tmp_path, what):
    faults, *parts = STOPS[what]
    run = disturbed(job, tmp_path, faults).finish(EXIT_RUN)
    assert_one_error(run.stderr, *parts)
    assert_goes_on(job, run, straight, tmp_path)


def test_short_transfers_change_nothing(job, straight, tmp_path):
    for direction in ("read", "write"):
        run = disturbed(job, tmp_path / direction, f"{direction} sluice-swap/extents short").finish()
        outcome.assert_identical(run, straight, f"a run whose drive cut {direction}s short")


def test_a_full_swap_drive_is_waited_for(job, straight, tmp_path):
    run = disturbed(job, tmp_path, f"write sluice-swap/extents {ENOSPC}")
    run.wait_for_line("paused: no space left on the file system ")
    run.trigger.unlink()
    run = run.finish()
    assert "going on: there is space again" in run.stderr
    outcome.assert_identical(run, straight, "a run that waited for room")


def test_a_full_swap_drive_is_given_up_in_the_end(job, straight, tmp_path):
    offload = {**job["offload"], "enospc_timeout": "2s"}
    run = disturbed({**job, "offload": offload}, tmp_path, f"write sluice-swap/extents {ENOSPC}").finish(EXIT_RUN)
    assert_one_error(run.stderr, "no space left on the file system ", "extents needs ", " more there, ", "are free",
                     "after waiting for 2.00 s")
    assert_goes_on(job, run, straight, tmp_path)


def fill(drive):
    """To the last block."""
    with open(drive / "filler", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    return drive / "filler"


def test_a_checkpoint_waits_for_room_on_a_real_file_system(job, straight, tmp_path, small_drive):
    job = {**job, "output_dir": str(small_drive / "out"), "save_total_limit": 1,
           "offload": {**job["offload"], "enospc_timeout": "20s", "nvme_path": str(tmp_path / "swap")}}
    run = LiveRun(job, tmp_path)
    run.wait_for_step(DISTURBED_FROM)
    filler = fill(small_drive)
    run.wait_for_line(f"paused: no space left on the file system {small_drive}:")
    steps = run.steps_done()
    time.sleep(0.5)
    assert run.steps_done() == steps, "it did not pause"
    filler.unlink()
    run = run.finish()
    outcome.assert_identical(run, straight, "a run whose checkpoint waited for room")


def test_a_checkpoint_that_finds_no_room_leaves_the_one_before(job, straight, tmp_path, small_drive):
    job = {**job, "output_dir": str(small_drive / "out"),
           "offload": {**job["offload"], "enospc_timeout": "2s", "nvme_path": str(tmp_path / "swap")}}
    run = LiveRun(job, tmp_path)
    run.wait_for_step(DISTURBED_FROM)
    filler = fill(small_drive)
    run = run.finish(EXIT_RUN)
    assert_one_error(run.stderr, f"no space left on the file system {small_drive}:", "after waiting for 2.00 s")
    filler.unlink()
    shutil.copytree(run.output_dir, tmp_path / "elsewhere")
    job["output_dir"] = str(tmp_path / "elsewhere")
    resumed = sluice_run.train({**job, "auto_resume_from_checkpoints": True}, tmp_path)
    outcome.assert_identical(resumed, straight, "a run that found no room")


def test_a_drive_that_answers_late_is_named_and_a_signal_waits_for_it(job, straight, tmp_path):
    run = disturbed(job, tmp_path, "read sluice-swap/extents hang")
    run.wait_for_line("waiting: the read lane has not answered for ")
    line = next(line for line in run.stderr.splitlines() if line.startswith("waiting: "))
    assert "sluice-swap/extents" in line and " at offset " in line and ": read " in line, line
    run.process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert run.process.poll() is None, "the transfer had not ended"
    run.trigger.unlink()
    run = run.finish(128 + signal.SIGTERM)
    assert "going on: the read lane has answered, after " in run.stderr
    assert "stopped by SIGTERM" in run.stdout
    resumed = sluice_run.train({**job, "auto_resume_from_checkpoints": True}, tmp_path)
    outcome.assert_identical(resumed, straight, "a run that was stopped on a slow drive")


def test_two_signals_end_a_run_whose_drive_does_not_answer(job, tmp_path):
    run = disturbed(job, tmp_path, "read sluice-swap/extents hang")
    time.sleep(0.3)
    steps = run.steps_done()
    for _ in range(2):
        run.process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    run.finish(-signal.SIGINT)
    assert steps < STEPS, "the signals came too late for this test to show anything"


def test_an_output_folder_that_disappears_stops_the_run(job, tmp_path):
    run = LiveRun(job, tmp_path)
    run.wait_for_step(DISTURBED_FROM)
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    run.output_dir = tmp_path / "elsewhere"
    run = run.finish(EXIT_RUN)
    assert_one_error(run.stderr, f"{tmp_path}/out", "has gone", "its drive was unmounted")
    assert not (tmp_path / "out").exists(), "it was made anew, perhaps on another drive"


def test_a_swap_folder_that_is_removed_does_not_matter(job, straight, tmp_path):
    job = {**job, "offload": {**job["offload"], "nvme_path": str(tmp_path / "swap")}}
    run = LiveRun(job, tmp_path)
    run.wait_for_step(DISTURBED_FROM)
    shutil.rmtree(tmp_path / "swap")
    outcome.assert_identical(run.finish(), straight, "a run whose swap file has no name any more")
