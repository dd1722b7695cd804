"""What happens to the process around a run: signals, readers, clocks, neighbours."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from equivalence import jobs, outcome
from faults.live_run import EXIT_SETUP, LiveRun, assert_one_error
from golden import sluice_run

STEPS = jobs.RECIPE.steps
NEIGHBOUR_BYTES = 200 << 20


def test_a_closed_terminal_does_not_end_a_run(job, straight, tmp_path):
    run = LiveRun(job, tmp_path)
    run.wait_for_step(2)
    run.process.send_signal(signal.SIGHUP)
    outcome.assert_identical(run.finish(), straight, "a run whose terminal was closed")


def full_pipe():
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(write, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(write, b"x" * 4096):
            pass
    os.set_blocking(write, True)
    return read, write


def test_a_reader_that_does_not_read_does_not_keep_a_run_from_its_end(job, straight, tmp_path):
    read, write = full_pipe()
    run = LiveRun(job, tmp_path, stdout=write, stderr=write)
    outcome.assert_identical(run.finish(), straight, "a run that nobody listened to")
    os.close(write)
    os.close(read)


def test_a_reader_that_sleeps_for_a_while_is_told_how_many_lines_it_missed(job, tmp_path):
    read, write = full_pipe()
    run = LiveRun(job, tmp_path, stdout=write)
    run.wait_for_step(4)
    os.set_blocking(read, False)
    text = b""
    while run.process.poll() is None:
        with contextlib.suppress(BlockingIOError):
            text += os.read(read, 65536)
        time.sleep(0.005)
    os.close(write)
    text += os.read(read, 65536)
    run.finish()
    assert b" lines that nobody read)\nstep" in text, text
    assert f"result: {run.output_dir}".encode() in text


def test_a_reader_that_has_gone_does_not_end_a_run(job, straight, tmp_path):
    read, write = os.pipe()
    os.close(read)
    run = LiveRun(job, tmp_path, stdout=write, stderr=write)
    os.close(write)
    outcome.assert_identical(run.finish(), straight, "a run whose reader has gone")


def test_closed_streams_do_not_become_files_of_the_result(job, straight, tmp_path):
    run = LiveRun(job, tmp_path, stdin=None, stdout=None, stderr=None,
                  preexec_fn=lambda: [os.close(stream) for stream in (0, 1, 2)])
    outcome.assert_identical(run.finish(), straight, "a run without streams")


def test_a_clock_that_goes_back_changes_nothing(job, straight, tmp_path):
    run = LiveRun(job, tmp_path, "clock - back")
    run.wait_for_checkpoint(2)
    run.trigger.touch()
    run = run.finish()
    outcome.assert_identical(run, straight, "a run whose clock went back")
    assert all(0 < seconds < 3600 for seconds in run.column("step_seconds"))


def test_a_second_run_in_the_same_output_folder_is_refused_by_name(job, straight, tmp_path):
    first = LiveRun(job, tmp_path, "read .extents hang")
    first.wait_for_checkpoint(2)
    first.trigger.touch()
    again = {**job, "auto_resume_from_checkpoints": True, "offload": {**job["offload"], "nvme_path": str(tmp_path / "other")}}
    second = sluice_run.try_train({**again, "output_dir": str(tmp_path / "out")}, tmp_path / "second")
    assert second.exit_code == EXIT_SETUP
    assert_one_error(second.stderr, f"output_dir {tmp_path}/out is in use by process {first.process.pid}")
    assert not (tmp_path / "other").exists()
    first.trigger.unlink()
    outcome.assert_identical(first.finish(), straight, "a run that another one was started beside")


def test_a_second_run_on_the_same_swap_folder_is_refused_by_name(job, tmp_path):
    job = {**job, "offload": {**job["offload"], "nvme_path": str(tmp_path / "swap")}}
    first = LiveRun(job, tmp_path, "read .extents hang")
    first.wait_for_checkpoint(2)
    first.trigger.touch()
    second = sluice_run.try_train(job, tmp_path / "second")
    assert second.exit_code == EXIT_SETUP
    assert_one_error(second.stderr, f"swap/sluice-swap is in use by process {first.process.pid}")
    first.process.kill()
    first.finish(-signal.SIGKILL)
    # The lock went with the process; what its checkpoint names stays.
    folder = tmp_path / "swap" / "sluice-swap"
    left = set(folder.glob("*.extents"))
    assert len(left) == 1 and (folder / "owner").exists()
    sluice_run.train(job, tmp_path / "second")
    assert left < set(folder.glob("*.extents")) and not (folder / "owner").exists()


@pytest.fixture
def memory_cgroup():
    """A cgroup whose limit can be set: (folder, file of the limit, file of the usage)."""
    for parent, limit, usage in ((Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"),
                                 (Path("/sys/fs/cgroup"), "memory.max", "memory.current")):
        folder = parent / f"sluice-faults-{os.getpid()}"
        with contextlib.suppress(OSError):
            folder.mkdir()
            if (folder / limit).exists():
                yield folder, folder / limit, folder / usage
                folder.rmdir()
                return
            folder.rmdir()
    pytest.skip("no memory cgroup can be made here")


def test_a_run_that_the_kernel_kills_for_its_memory_goes_on_afterwards(job, straight, tmp_path, memory_cgroup):
    folder, limit, usage = memory_cgroup
    run = LiveRun(job, tmp_path, "read .extents hang",
                  preexec_fn=lambda: (folder / "cgroup.procs").write_text(str(os.getpid())))
    run.wait_for_checkpoint(2)
    run.trigger.touch()
    time.sleep(0.3)
    # A neighbour takes what the limit leaves, and more; the kernel prefers the run.
    limit.write_text(str(int(usage.read_text()) + NEIGHBOUR_BYTES // 2))
    Path(f"/proc/{run.process.pid}/oom_score_adj").write_text("1000")
    neighbour = subprocess.Popen([sys.executable, "-c", f"held = bytearray(b'x') * {NEIGHBOUR_BYTES}; input()"],
                                 stdin=subprocess.PIPE,
                                 preexec_fn=lambda: (folder / "cgroup.procs").write_text(str(os.getpid())))
    run.finish(-signal.SIGKILL)
    neighbour.communicate()
    resumed = sluice_run.train({**job, "auto_resume_from_checkpoints": True}, tmp_path)
    outcome.assert_identical(resumed, straight, "a run that was killed for its memory")
