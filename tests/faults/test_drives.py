"""What a drive does to a run: it is survived to the last bit, or the run stops with one message and its checkpoint."""

import contextlib
import os
import shutil
import signal
import time

import pytest
from equivalence import jobs, outcome
from faults.live_run import EIO, ENOSPC, EROFS, EXIT_RUN, LiveRun, assert_one_error
from golden import sluice_run

STEPS = jobs.RECIPE.steps
PAUSED = "paused: no space left on the file system "
FIRST_SAVED = 2


def disturbed(job, directory, faults):
    run = LiveRun(job, directory, faults)
    run.wait_for_checkpoint(FIRST_SAVED)
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
    "a failing read": (f"read .extents {EIO}", "reading", "offset", ".extents", "Input/output error",
                       "smartctl"),
    "a failing write": (f"write .extents {EIO}", "writing", ".extents", "Input/output error"),
    "a remount read-only": (f"write .extents {EROFS}", ".extents", "Read-only file system",
                            "remounted read-only"),
    "a checkpoint on a failing drive": (f"write .partial/ {EIO}", ".partial/", "write: Input/output error", "dmesg"),
    "a checkpoint that cannot be synced": (f"sync .partial/ {EIO}", ".partial/", "fsync: Input/output error"),
    "a checkpoint on a read-only drive": (f"write .partial/ {EROFS}", ".partial/", "Read-only file system"),
    "a log on a failing drive": (f"write trainer_log.jsonl {EIO}", "trainer_log.jsonl", "Input/output error"),
    "a flipped bit": ("read .extents flip", "checksum mismatch", "offset", ".extents"),
}


@pytest.mark.parametrize("what", STOPS)
def test_stops_with_one_message_and_its_checkpoint(job, straight, tmp_path, what):
    faults, *parts = STOPS[what]
    run = disturbed(job, tmp_path, faults).finish(EXIT_RUN)
    assert_one_error(run.stderr, *parts)
    assert_goes_on(job, run, straight, tmp_path)


def test_short_transfers_change_nothing(job, straight, tmp_path):
    for direction in ("read", "write"):
        run = disturbed(job, tmp_path / direction, f"{direction} .extents short").finish()
        outcome.assert_identical(run, straight, f"a run whose drive cut {direction}s short")


def test_a_full_swap_drive_is_waited_for(job, straight, tmp_path):
    run = disturbed(job, tmp_path, f"write .extents {ENOSPC}")
    run.wait_for_line(PAUSED)
    run.trigger.unlink()
    run = run.finish()
    assert "going on: there is space again" in run.stderr
    outcome.assert_identical(run, straight, "a run that waited for room")


def test_a_full_swap_drive_is_given_up_in_the_end(job, straight, tmp_path):
    run = disturbed(with_patience(job, 2), tmp_path, f"write .extents {ENOSPC}").finish(EXIT_RUN)
    assert_one_error(run.stderr, "no space left on the file system ", "extents needs ", " more there, ", "are free",
                     "after waiting for 2.00 s")
    assert_goes_on(job, run, straight, tmp_path)


def fill(drive, but=0):
    """To the last block, or `but` bytes less."""
    with open(drive / "filler", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    os.truncate(drive / "filler", (drive / "filler").stat().st_size - but)
    return drive / "filler"


def with_patience(job, seconds, **offload):
    return {**job, "offload": {**job["offload"], "enospc_timeout": f"{seconds}s", **offload}}


FULL_AT = {
    "the copies of a checkpoint": ("lora", f"write optimizer.safetensors {ENOSPC}"),
    "the sync of such copies": ("lora", f"sync optimizer.safetensors {ENOSPC}"),
    "a manifest": ("full", f"write manifest.json {ENOSPC}"),
    "the sync of a manifest": ("full", f"sync manifest.json {ENOSPC}"),
    "the sync of the last checkpoint": ("full", f"sync {STEPS}.partial {ENOSPC}"),
    "the sync of the swap files": ("full", f"sync .extents {ENOSPC}"),
    "the export": ("full", f"write .result.partial/model {ENOSPC}"),
    "the sync of the export": ("full", f"sync .result.partial/model {ENOSPC}"),
    "the log": ("full", f"write trainer_log.jsonl {ENOSPC}"),
    "the sync of the log": ("full", f"sync trainer_log.jsonl {ENOSPC}"),
}


@pytest.mark.parametrize("what", FULL_AT)
def test_a_full_drive_is_waited_for_wherever_it_is_met(job, straight, lora, lora_straight, tmp_path, what):
    method, faults = FULL_AT[what]
    job, straight = {"full": (job, straight), "lora": (lora, lora_straight)}[method]
    run = disturbed(with_patience(job, 20), tmp_path, faults)
    run.wait_for_line(PAUSED)
    run.trigger.unlink()
    run = run.finish()
    assert "going on: there is space again" in run.stderr
    outcome.assert_identical(run, straight, f"a run that waited for room for {what}")


def test_an_export_waits_for_room_on_a_real_file_system(job, straight, tmp_path, small_drive):
    job = with_patience({**job, "output_dir": str(small_drive / "out"), "save_steps": STEPS}, 20,
                        nvme_path=str(tmp_path / "swap"))
    run = LiveRun(job, tmp_path)
    run.wait_for_step(1)
    # The manifest has room, the model has not.
    model = (straight.output_dir / "model.safetensors").stat().st_size
    filler = fill(small_drive, but=model * 3 // 4)
    run.wait_for_line(f"{PAUSED}{small_drive}: ")
    assert f"{small_drive}/out/.result.partial/model.safetensors needs " in run.stderr, run.stderr
    assert newest_checkpoint(run).name == f"checkpoint-{STEPS}"
    filler.unlink()
    outcome.assert_identical(run.finish(), straight, "a run whose export waited for room")


def stopped_while_it_waits(job, directory, faults):
    """A run that is told to stop while it waits for room."""
    run = disturbed(job, directory, faults)
    run.wait_for_line(PAUSED)
    time.sleep(0.3)
    run.process.send_signal(signal.SIGTERM)
    begin = time.monotonic()
    run = run.finish(128 + signal.SIGTERM)
    assert time.monotonic() - begin < 15, "it waited for its next try"
    return run


@pytest.mark.parametrize("faults", (f"write .extents {ENOSPC}", f"write .partial/ {ENOSPC}", f"sync .partial/ {ENOSPC}"))
def test_a_signal_ends_a_wait_for_room(job, straight, tmp_path, faults):
    run = stopped_while_it_waits(job, tmp_path, faults)
    assert "stopped by SIGTERM while it waited for room: no space left on the file system " in run.stdout
    assert f"; checkpoint: {newest_checkpoint(run)}\nto go on, run it again" in run.stdout
    assert "sluice: " not in run.stderr, run.stderr
    resumed = sluice_run.train({**job, "auto_resume_from_checkpoints": True}, tmp_path)
    outcome.assert_identical(resumed, straight, "a run that was stopped while it waited for room")


def test_a_signal_ends_the_wait_of_tensorboard_s_file_for_room(job, straight, tmp_path):
    """The checkpoint, which has room, is saved all the same."""
    run = stopped_while_it_waits({**job, "report_to": "tensorboard"}, tmp_path, f"write out/runs/ {ENOSPC}")
    assert "warning: nothing more for TensorBoard: no space left on the file system " in run.stderr
    assert f"stopped by SIGTERM after step {len(run.log)} of {STEPS}; checkpoint: " in run.stdout
    resumed = sluice_run.train({**job, "auto_resume_from_checkpoints": True}, tmp_path)
    outcome.assert_identical(resumed, straight, "a run that was stopped while TensorBoard's file waited for room")


def test_a_checkpoint_waits_for_room_on_a_real_file_system(job, straight, tmp_path, small_drive):
    job = with_patience({**job, "output_dir": str(small_drive / "out"), "save_total_limit": 1}, 20,
                        nvme_path=str(tmp_path / "swap"))
    run = LiveRun(job, tmp_path)
    run.wait_for_checkpoint(FIRST_SAVED)
    filler = fill(small_drive)
    run.wait_for_line(f"{PAUSED}{small_drive}:")
    steps = run.steps_done()
    time.sleep(0.5)
    assert run.steps_done() == steps, "it did not pause"
    filler.unlink()
    run = run.finish()
    outcome.assert_identical(run, straight, "a run whose checkpoint waited for room")


def test_a_checkpoint_that_finds_no_room_leaves_the_one_before(job, straight, tmp_path, small_drive):
    job = with_patience({**job, "output_dir": str(small_drive / "out")}, 2, nvme_path=str(tmp_path / "swap"))
    run = LiveRun(job, tmp_path)
    run.wait_for_checkpoint(FIRST_SAVED)
    filler = fill(small_drive)
    run = run.finish(EXIT_RUN)
    assert_one_error(run.stderr, f"no space left on the file system {small_drive}:", "after waiting for 2.00 s")
    filler.unlink()
    shutil.copytree(run.output_dir, tmp_path / "elsewhere")
    job["output_dir"] = str(tmp_path / "elsewhere")
    resumed = sluice_run.train({**job, "auto_resume_from_checkpoints": True}, tmp_path)
    outcome.assert_identical(resumed, straight, "a run that found no room")


def test_a_drive_that_answers_late_is_named_and_a_signal_waits_for_it(job, straight, tmp_path):
    run = disturbed(job, tmp_path, "read .extents hang")
    run.wait_for_line("waiting: the read lane has not answered for ")
    line = next(line for line in run.stderr.splitlines() if line.startswith("waiting: "))
    assert ".extents" in line and " at offset " in line and ": read " in line, line
    run.process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert run.process.poll() is None, "the transfer had not ended"
    run.trigger.unlink()
    run = run.finish(128 + signal.SIGTERM)
    assert "going on: the read lane has answered, after " in run.stderr
    assert "stopped by SIGTERM" in run.stdout
    resumed = sluice_run.train({**job, "auto_resume_from_checkpoints": True}, tmp_path)
    outcome.assert_identical(resumed, straight, "a run that was stopped on a slow drive")


@pytest.mark.parametrize("call, what", (("write", "a write to "), ("sync", "the sync of ")))
def test_a_checkpoint_that_a_drive_takes_late_is_named(job, straight, tmp_path, call, what):
    run = disturbed(job, tmp_path, f"{call} .partial/ hang")
    run.wait_for_line(f"waiting: {what}{run.output_dir}/checkpoint-")
    line = next(line for line in run.stderr.splitlines() if line.startswith("waiting: "))
    assert ".partial/" in line and " has not returned for 30" in line, line
    run.trigger.unlink()
    run = run.finish()
    assert f"going on: {what}{run.output_dir}/checkpoint-" in run.stderr
    outcome.assert_identical(run, straight, "a run whose checkpoint was taken late")


def test_two_signals_end_a_run_whose_drive_does_not_answer(job, tmp_path):
    run = disturbed(job, tmp_path, "read .extents hang")
    time.sleep(0.3)
    steps = run.steps_done()
    for _ in range(2):
        run.process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    run.finish(-signal.SIGINT)
    assert steps < STEPS, "the signals came too late for this test to show anything"


def test_an_output_folder_that_disappears_stops_the_run(job, tmp_path):
    run = LiveRun(job, tmp_path)
    run.wait_for_checkpoint(FIRST_SAVED)
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    run.output_dir = tmp_path / "elsewhere"
    run = run.finish(EXIT_RUN)
    assert_one_error(run.stderr, f"{tmp_path}/out", "has gone", "its drive was unmounted")
    assert not (tmp_path / "out").exists(), "it was made anew, perhaps on another drive"


def test_a_checkpoint_that_has_its_name_has_its_bytes(job, straight, tmp_path):
    """It is renamed, and then the folder around it cannot be synced."""
    job = {**job, "offload": {**job["offload"], "nvme_path": [str(tmp_path / "swap")]}}
    (tmp_path / "trigger").symlink_to(tmp_path / "out" / f"checkpoint-{FIRST_SAVED}")
    run = LiveRun(job, tmp_path, f"sync /out$ {EIO}").finish(EXIT_RUN)
    (tmp_path / "trigger").unlink()
    assert_one_error(run.stderr, f"{tmp_path}/out: fsync: Input/output error")
    assert newest_checkpoint(run).name == f"checkpoint-{FIRST_SAVED}"
    resumed = sluice_run.train({**job, "auto_resume_from_checkpoints": True}, tmp_path)
    outcome.assert_identical(resumed, straight, "a run whose first checkpoint was not synced")


def test_an_output_folder_that_comes_back_finds_its_bytes(job, straight, tmp_path):
    """They are on another drive, which was there all the time."""
    job = {**job, "offload": {**job["offload"], "nvme_path": [str(tmp_path / "swap")]}}
    run = LiveRun(job, tmp_path)
    run.wait_for_checkpoint(FIRST_SAVED)
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    run.output_dir = tmp_path / "elsewhere"
    run.finish(EXIT_RUN)
    (tmp_path / "elsewhere").rename(tmp_path / "out")
    resumed = sluice_run.train({**job, "auto_resume_from_checkpoints": True}, tmp_path)
    outcome.assert_identical(resumed, straight, "a run whose output_dir was away")


def test_a_checkpoint_that_its_own_job_drops_is_not_read_any_further(job, tmp_path):
    """What was read of it may have been written over meanwhile."""
    first = sluice_run.train({**job, "max_steps": FIRST_SAVED, "lr_scheduler": "constant"}, tmp_path / "first")
    (tmp_path / "trigger").touch()
    second = LiveRun({**job, "resume_from_checkpoint": str(newest_checkpoint(first)), "lr_scheduler": "constant"}, tmp_path,
                     "write .extents hang")
    second.wait_until(lambda: list((tmp_path / "out").glob("sluice-swap/*.output")), "the second job's start")
    shutil.rmtree(newest_checkpoint(first))
    second.trigger.unlink()
    run = second.finish(EXIT_RUN)
    assert_one_error(run.stderr, "was removed or replaced while this run still read from it")
    assert not list((tmp_path / "out").glob("checkpoint-*"))


def test_a_run_killed_after_its_last_step_exports_and_gives_back_at_the_next_start(job, straight, tmp_path):
    run = disturbed(job, tmp_path, "sync .result.partial/model hang")
    run.wait_until(lambda: (run.output_dir / ".result.partial").exists(), "the export")
    run.process.kill()
    run.trigger.unlink()
    run.finish(-signal.SIGKILL)
    swap = [path for path in (run.output_dir / "sluice-swap").glob("*.extents")]
    before = sum(path.stat().st_blocks for path in swap)
    again = sluice_run.train({**job, "auto_resume_from_checkpoints": True}, tmp_path)
    assert "nothing is left to train" in again.stdout
    outcome.assert_identical(again, straight, "a run that was killed after its last step")
    left = [path for path in (run.output_dir / "sluice-swap").glob("*.extents")]
    as_ever = sum(path.stat().st_blocks for path in (straight.output_dir / "sluice-swap").glob("*.extents"))
    assert left == swap and sum(path.stat().st_blocks for path in left) == as_ever < before
    assert not (run.output_dir / ".result.partial").exists()


def test_a_result_that_is_copied_from_another_drive_is_whole_or_not_there(lora, lora_straight, tmp_path, small_drive):
    last = shutil.copytree(lora_straight.output_dir / f"checkpoint-{STEPS}", small_drive / f"checkpoint-{STEPS}")
    job = {**lora, "resume_from_checkpoint": str(last)}
    (tmp_path / "trigger").touch()
    run = LiveRun(job, tmp_path, "write out/adapter_model hang")
    run.wait_until(lambda: list(run.output_dir.glob("adapter_model*")), "the copy")
    run.process.kill()
    run.trigger.unlink()
    run.finish(-signal.SIGKILL)
    assert not (run.output_dir / "adapter_model.safetensors").exists(), "it has the result's name and is not whole"
    again = sluice_run.train(job, tmp_path)
    assert "nothing is left to train" in again.stdout
    written = {path.name for path in run.output_dir.glob("adapter_*")}
    assert written == {"adapter_config.json", "adapter_model.safetensors"}
    for name in written:
        assert (run.output_dir / name).read_bytes() == (lora_straight.output_dir / name).read_bytes()


def test_swap_files_of_a_run_killed_after_its_last_step_go_where_no_checkpoint_names_them(lora, lora_straight, tmp_path):
    run = sluice_run.train(lora, tmp_path)
    (run.output_dir / "adapter_model.safetensors").unlink()  # as if the kill came before the result was there
    folder = run.output_dir / "sluice-swap"
    assert not folder.exists()
    folder.mkdir(mode=0o700)
    (folder / "0123456789abcdef.extents").write_bytes(bytes(1 << 20))
    again = sluice_run.train({**lora, "auto_resume_from_checkpoints": True}, tmp_path)
    assert "nothing is left to train" in again.stdout and not folder.exists()
    outcome.assert_identical(again, lora_straight, "an adapter whose run was killed after its last step")


def remove_the_swap_folder_of(job, tmp_path):
    run = LiveRun({**job, "offload": {**job["offload"], "nvme_path": str(tmp_path / "swap")}}, tmp_path)
    run.wait_for_checkpoint(FIRST_SAVED)
    shutil.rmtree(tmp_path / "swap")
    return run


def test_a_swap_folder_that_is_removed_does_not_matter_where_checkpoints_are_copies(lora, lora_straight, tmp_path):
    run = remove_the_swap_folder_of(lora, tmp_path).finish()
    outcome.assert_identical(run, lora_straight, "a run whose swap file has no name any more")


def test_a_swap_folder_that_is_removed_with_its_checkpoints_is_noticed_at_the_next_one(job, tmp_path):
    run = remove_the_swap_folder_of(job, tmp_path).finish(EXIT_RUN)
    assert_one_error(run.stderr, f"{tmp_path}/swap/sluice-swap/", ".extents to the drive: No such file or directory",
                     "was the swap folder removed", "the checkpoints went with their swap files: the run starts anew")
