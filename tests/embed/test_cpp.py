"""A C++ program that embeds the runtime gets what `sluice train` makes, and an answer to each mistake."""

import json
import re
import signal
import subprocess

import pytest
from equivalence import outcome
from faults.live_run import ENOSPC, LiveRun
from golden import parity, sluice_run

from .conftest import OWN_DATA, environment

OWN_ERROR, JOB_ERROR = 4, 2


@pytest.fixture
def probe_command(job, rows_file, tmp_path):
    def command(what, *settings, own=OWN_DATA, **keys):
        given = {"output_dir": str(tmp_path / "out"), **job, **keys}
        file = sluice_run.write_job(tmp_path / "job.yaml", given)
        own = [] if what == "datasets" else own
        return [sluice_run.program("SLUICE_EMBED_PROBE", "embed_probe"), what, file, rows_file, *own, *settings]
    return command


@pytest.fixture
def probe(probe_command):
    def run(what, *settings, own=OWN_DATA, **keys):
        return subprocess.run(probe_command(what, *settings, own=own, **keys), capture_output=True, text=True,
                              env=environment(), timeout=sluice_run.COMMAND_SECONDS_MAX)
    return run


def run_of(directory):
    output_dir = directory / "out"
    lines = (output_dir / "trainer_log.jsonl").read_text().splitlines()
    return sluice_run.Run(output_dir, 0, "", "", [json.loads(line) for line in lines])


def assert_same_as_judged(judged, directory, what):
    outcome.assert_identical(judged, run_of(directory), what)


@pytest.mark.parametrize("what", ("datasets", "rows", "batches"))
def test_the_same_bits_as_the_binary(probe, judged, tmp_path, what):
    # Batches have no epochs to read rows of in order.
    settings = ["curriculum_sampling="] if what == "batches" else []
    done = probe(what, *settings)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "finished"
    assert_same_as_judged(judged, tmp_path, what)
    losses = re.findall(r"step \d+ loss (\S+)", done.stdout)
    assert [float(loss) for loss in losses] == judged.column("loss")


def test_rows_that_are_shuffled_come_in_the_binary_s_order(probe, job, tmp_path):
    shuffled = sluice_run.train({**job, "curriculum_sampling": False}, tmp_path / "judged")
    assert probe("rows", curriculum_sampling=False).returncode == 0
    assert_same_as_judged(shuffled, tmp_path, "shuffled rows")


def test_a_plan_writes_nothing(probe, tmp_path):
    done = probe("plan")
    assert done.returncode == 0, done.stderr
    assert re.match(r"10 steps of [\d.e-]+ s\n", done.stdout) and "tokens" in done.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("what", "text", "step"), (("callback throws", "the callback's own error", 3),
                                                    ("data throws", "the data's own error", 3)))
def test_what_the_program_throws_comes_out_with_a_checkpoint_to_go_on_from(probe, judged, tmp_path, what, text, step):
    done = probe(what)
    assert (done.returncode, done.stderr.strip()) == (OWN_ERROR, text)
    assert [path.name for path in (tmp_path / "out").glob("checkpoint-*")] == [f"checkpoint-{step}"]
    done = probe("rows", "auto_resume_from_checkpoints=true")
    assert done.returncode == 0, done.stderr
    assert_same_as_judged(judged, tmp_path, f"{what}, then resumed")


def test_a_wish_to_stop_ends_with_a_checkpoint(probe, judged, tmp_path):
    done = probe("stops")
    assert done.stdout.splitlines()[-1] == "stopped", done.stderr
    assert "checkpoint 3" in done.stdout
    assert probe("rows", "auto_resume_from_checkpoints=true").returncode == 0
    assert_same_as_judged(judged, tmp_path, "a stopped run, resumed")


def test_a_wish_to_stop_ends_a_wait_for_room(probe, probe_command, job, judged, tmp_path):
    (tmp_path / "trigger").symlink_to(tmp_path / "out" / "checkpoint-2")
    command = probe_command("stops by signal", "save_steps=2", "offload.io_backend=thread")
    run = LiveRun(job, tmp_path, f"write .extents {ENOSPC}", command)
    run.wait_for_line("paused: no space left")
    run.process.send_signal(signal.SIGTERM)
    run = run.finish()
    assert run.stdout.splitlines()[-1] == "stopped"
    assert "note: stopped while it waited for room: no space left on the file system " in run.stderr
    assert probe("rows", "auto_resume_from_checkpoints=true").returncode == 0
    assert_same_as_judged(judged, tmp_path, "a run whose wait for room was ended, resumed")


def test_other_data_is_not_resumed_with(probe):
    assert probe("stops").returncode == 0
    done = probe("datasets", "auto_resume_from_checkpoints=true")
    assert done.returncode == JOB_ERROR
    assert "dataset" in done.stderr and "fix: " in done.stderr


def test_each_misuse_is_refused_by_what_it_was(probe, judged, tmp_path):
    done = probe("misuse")
    assert done.returncode == 0, done.stderr
    said = dict(line.split(": ", 1) for line in done.stdout.splitlines() if re.match(r"[a-z]+: ", line))
    assert said == {
        "early": "finish() after step 0 of 10",
        "unknown": "the model has no tensor 'model.norms.weight'",
        "room": "model.norm.weight has 40 elements, and 0 are given",
        "fork": "the Trainer belongs to the process that this one was forked from",
        "late": "a step after the last one",
        "finished": "the training has been finished",
        "closed": "the Trainer has been closed",
    }
    assert done.stdout.count("  fix: ") == len(said)
    assert_same_as_judged(judged, tmp_path, "a run with misuse on its way")


def test_labels_that_lack_are_refused_before_anything_is_trained(probe, tmp_path):
    done = probe("labels lack")
    assert done.returncode == JOB_ERROR
    assert re.search(r"row 0: (\d+) tokens and (\d+) labels\n  fix: ", done.stderr), done.stderr
    assert not list((tmp_path / "out").glob("checkpoint-*"))


@pytest.mark.parametrize(("settings", "text"), (
    (["val_set_size=0.1"], "val_set_size is about a job's own datasets"),
    (["sequence_len=4"], r"row \d+: a document of \d+ tokens"),
    (["learning_rat=1"], "unknown key 'learning_rat'"),
))
def test_keys_that_do_not_go_with_own_rows(probe, settings, text):
    done = probe("rows", *settings)
    assert done.returncode == JOB_ERROR
    assert re.search(text, done.stderr) and "fix: " in done.stderr, done.stderr


def test_datasets_beside_own_rows_are_refused_with_their_line(probe):
    done = probe("rows", own=[])
    assert done.returncode == JOB_ERROR
    assert re.search(r"job.yaml:\d+:\d+: datasets is about a job's own datasets", done.stderr), done.stderr


def test_batches_need_a_number_of_steps(probe):
    done = probe("batches", "max_steps=", "curriculum_sampling=")
    assert done.returncode == JOB_ERROR
    assert "max_steps is missing" in done.stderr


@pytest.mark.parametrize("params", ("disk", "host"))
def test_a_parameter_reads_as_a_checkpoint_of_that_moment_has_it(probe, job, tmp_path, params):
    done = probe("reads", offload={**job["offload"], "params": params, "optimizer": "host"}, save_only_model=True)
    assert done.returncode == 0, done.stderr
    numbers = {line.split()[0]: [float(word) for word in line.split()[1:]]
               for line in done.stdout.splitlines() if line.startswith(("before", "after"))}
    folder = re.search(r"saved (\S+)", done.stdout)[1]
    for when, tensors in (("before", parity.saved_tensors(job["base_model"])), ("after", parity.saved_tensors(folder))):
        stored = tensors["model.layers.0.mlp.up_proj.weight"].bfloat16().float().flatten()
        assert numbers[when] == pytest.approx([stored[0].item(), stored[-1].item()], rel=1e-8), when
    assert numbers["before"] != numbers["after"]

