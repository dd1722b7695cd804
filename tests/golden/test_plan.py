"""`sluice plan`: what it says of a job holds when it is done, and what it says of two is what differs."""

import json
import re
from pathlib import Path

import pytest
import yaml
from equivalence import jobs
from golden import sluice_run

REPOSITORY = Path(__file__).resolve().parents[2]
MACHINE = REPOSITORY / "configs" / "machine" / "rtx4090_desktop.yaml"
# So little that more of it would help.
SMALL = {"params": "disk", "gradients": "disk", "optimizer": "disk", "activations": "auto", "max_gpu": "1MiB"}


@pytest.fixture
def keys(workshop, tmp_path):
    return jobs.job_of(workshop, jobs.TINY, "full", "bf16", output_dir=str(tmp_path / "out"),
                       offload={**SMALL, "nvme_path": [str(tmp_path / "swap")]})


def plan(keys, directory, *arguments):
    done = sluice_run.sluice("plan", sluice_run.write_job(directory / "job.yaml", keys), "--machine", MACHINE, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def tokens_per_second_of(keys, directory):
    return json.loads(plan(keys, directory, "--json"))["forecast"]["tokens_per_second"]


def with_setting(keys, name, value):
    """`keys` with one more, whose name may be a block's."""
    if "." not in name:
        return {**keys, name: value}
    block, inner = name.split(".")
    return {**keys, block: {**keys[block], inner: value}}


def test_each_change_that_it_names_is_as_much_faster_as_it_says(keys, tmp_path):
    text = plan(keys, tmp_path)
    now = tokens_per_second_of(keys, tmp_path)
    changes = re.findall(r"(?m)^(?:faster with)? +((?:offload\.)?\w+) (.+?)(?: \(\+\d+%\))?: (\d+) tokens/s \(\+(\d+)%\)$", text)
    assert {"micro_batch_size", "gradient_accumulation_steps", "offload.optimizer_state"} <= {name for name, *_ in changes}, text
    for name, value, promised, gain in changes:
        if name == "twice":  # the drives: a machine's, not a job's
            continue
        changed = with_setting(keys, name, yaml.safe_load(value.replace(" MiB", "MiB").replace(" GiB", "GiB")))
        then = tokens_per_second_of(changed, tmp_path)
        assert then == pytest.approx(float(promised), rel=0.03), name
        assert then / now == pytest.approx(1 + int(gain) / 100, rel=0.03), name


def test_two_jobs_are_shown_by_what_differs(keys, tmp_path):
    other = sluice_run.write_job(tmp_path / "other.yaml", {**keys, "micro_batch_size": 2 * keys["micro_batch_size"]})
    lines = plan(keys, tmp_path, "--diff", other).splitlines()
    tokens = [re.fullmatch(r"([-+]) tokens_per_micro_batch: (\d+)", line) for line in lines]
    before, after = (int(match[2]) for match in tokens if match)
    assert after == 2 * before
    assert not any("micro_batches: " in line for line in lines), "what both have is left out"
    assert plan(keys, tmp_path, "--diff", tmp_path / "job.yaml") == ""


def test_a_trace_of_training_has_every_step_as_simulated_and_as_executed(keys, tmp_path):
    job = sluice_run.write_job(tmp_path / "job.yaml", {**keys, "max_steps": 2, "offload": {"nvme_path": [str(tmp_path)]}})
    done = sluice_run.sluice("train", job, "--trace", tmp_path / "trace.json")
    assert done.returncode == 0, done.stderr
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    slices = [event for event in events if event["ph"] == "X"]
    named = {process: sorted(each["name"] for each in slices if each["pid"] == process) for process in ("executed", "simulated")}
    assert named["executed"] == named["simulated"] != []
    assert all(each["dur"] >= 0 for each in slices)
