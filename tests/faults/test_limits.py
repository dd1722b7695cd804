"""Little of what a generous machine gives: the run does with it, and says what it costs, or what to raise."""

import os
import resource
import subprocess

import pytest
import transformers
from equivalence import outcome
from faults.live_run import EXIT_SETUP, LiveRun, assert_one_error
from faults.small_machine import limit, little_locked_memory, no_huge_pages, refuse_io_uring


@pytest.fixture(scope="module")
def on_any_ring(job):
    return {**job, "offload": {key: value for key, value in job["offload"].items() if key != "io_backend"}}


def used_backend(run):
    return next(line.split()[1] for line in run.plan_text().splitlines() if line.startswith("io_backend:"))


def test_io_uring_refused_by_seccomp(on_any_ring, straight, tmp_path):
    run = LiveRun(on_any_ring, tmp_path, preexec_fn=refuse_io_uring).finish()
    assert "so I/O runs on threads" in run.stderr and used_backend(run) == "thread"
    outcome.assert_identical(run, straight, "a run without io_uring")


def test_little_locked_memory(on_any_ring, straight, tmp_path):
    run = LiveRun(on_any_ring, tmp_path, preexec_fn=little_locked_memory).finish()
    assert used_backend(run) == "thread" or "not registered with io_uring" in run.stderr, run.stderr
    assert "`ulimit -l`" in run.stderr, run.stderr
    outcome.assert_identical(run, straight, "a run that may lock 64 KiB")


def test_no_huge_pages(on_any_ring, straight, tmp_path):
    run = LiveRun(on_any_ring, tmp_path, preexec_fn=no_huge_pages).finish()
    outcome.assert_identical(run, straight, "a run without huge pages")


def test_few_file_descriptors(on_any_ring, straight, tmp_path):
    run = LiveRun(on_any_ring, tmp_path, preexec_fn=lambda: limit(resource.RLIMIT_NOFILE, 64)).finish()
    assert "ulimit -n" not in run.stderr, run.stderr
    outcome.assert_identical(run, straight, "a run with 64 file descriptors")


@pytest.fixture(scope="module")
def many_files(on_any_ring, tmp_path_factory):
    """The same model, a file for each tensor."""
    folder = tmp_path_factory.mktemp("many") / "model"
    base = on_any_ring["base_model"]
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    model.save_pretrained(folder, max_shard_size=1)
    transformers.AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    assert len(list(folder.glob("*.safetensors"))) > 20
    return {**on_any_ring, "base_model": str(folder)}


def test_more_files_than_the_soft_limit_raise_it_aloud(many_files, straight, tmp_path):
    run = LiveRun(many_files, tmp_path, preexec_fn=lambda: limit(resource.RLIMIT_NOFILE, 64, 512)).finish()
    assert "`ulimit -n` allows 64: raised to " in run.stderr
    assert run.column_text("loss") == straight.column_text("loss")


def test_more_files_than_the_hard_limit_are_refused(many_files, tmp_path):
    run = LiveRun(many_files, tmp_path, preexec_fn=lambda: limit(resource.RLIMIT_NOFILE, 64)).finish(EXIT_SETUP)
    assert_one_error(run.stderr, "`ulimit -n` allows 64, by its hard limit 64 at most", "raise the hard limit")
    assert not run.output_dir.exists()


def test_a_read_only_home(on_any_ring, straight, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    if os.geteuid() == 0:
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", home], capture_output=True).returncode != 0:
            pytest.skip("root writes everywhere, and mounting is refused")
    else:
        home.chmod(0o555)
    try:
        environment = {"HOME": str(home), "XDG_CACHE_HOME": ""}
        run = LiveRun(on_any_ring, tmp_path, environment=environment).finish()
    finally:
        if os.geteuid() == 0:
            subprocess.run(["umount", "--lazy", home], check=False)
    outcome.assert_identical(run, straight, "a run whose home cannot be written to")


def test_a_read_only_home_without_a_folder_for_datasets_is_refused_with_the_key(on_any_ring, tmp_path):
    job = {key: value for key, value in on_any_ring.items() if key != "dataset_prepared_path"}
    environment = {"HOME": "/proc/nowhere", "XDG_CACHE_HOME": ""}
    run = LiveRun(job, tmp_path, environment=environment).finish(EXIT_SETUP)
    assert_one_error(run.stderr, "/proc/nowhere", "dataset_prepared_path")
