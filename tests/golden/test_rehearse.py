"""`sluice plan --rehearse`: real drives and copies, compute waited for, beside the simulation."""

import json
import re
from pathlib import Path

import pytest
from equivalence import jobs
from golden import sluice_run

REPOSITORY = Path(__file__).resolve().parents[2]
ON_DISK = {"params": "disk", "gradients": "disk", "optimizer": "disk"}


@pytest.fixture
def job(workshop, tmp_path):
    keys = jobs.job_of(workshop, jobs.TINY, "lora", "bf16", offload={**ON_DISK, "nvme_path": [str(tmp_path / "swap")]},
                       output_dir=str(tmp_path / "out"))
    return sluice_run.write_job(tmp_path / "job.yaml", keys)


@pytest.fixture
def slow_gpu(tmp_path):
    """Compute that outlasts everything else by far, so that the step is its time."""
    text = (REPOSITORY / "configs" / "machine" / "rtx4060_laptop.yaml").read_text()
    file = tmp_path / "machine.yaml"
    file.write_text(text.replace("rate: 29 TFLOP/s", "rate: 1 GFLOP/s"))
    return file


def seconds(text):
    value, unit = re.match(r"([\d.]+) (us|ms|s)$", text).groups()
    return float(value) * {"us": 1e-6, "ms": 1e-3, "s": 1}[unit]


def rows(stdout):
    table = stdout[stdout.index("rehearsal "):].splitlines()[1:]
    found = [re.match(r"(.+?)\s{2,}([\d.]+ \w+)\s+([\d.]+ \w+)", line) for line in table]
    return {match[1]: (seconds(match[2]), seconds(match[3])) for match in found if match}


def test_compute_takes_the_targets_time(job, slow_gpu, tmp_path):
    done = sluice_run.sluice("plan", job, "--machine", slow_gpu, "--rehearse")
    assert done.returncode == 0, done.stderr
    lanes = rows(done.stdout)
    simulated, rehearsed = lanes["step"]
    assert simulated > 0.1, "compute is too fast to dominate"
    assert simulated * 0.99 < rehearsed < simulated * 1.3
    bound = re.search(r"bound [\d.]+ \w+ \(compute\): the rehearsed step is at ([\d.]+)% of it", done.stdout)
    assert 70 < float(bound[1]) <= 101
    assert {"compute busy", "h2d busy", "d2h busy", "read busy", "write busy", "optim busy"} <= lanes.keys()
    assert not (tmp_path / "out").exists() and not list((tmp_path / "swap").glob("*"))


def test_this_machine_is_rehearsed_too(job):
    done = sluice_run.sluice("plan", job, "--rehearse")
    assert done.returncode == 0, done.stderr
    assert rows(done.stdout)["step"][1] > 0


def test_the_emulated_device_is_rehearsed_over_its_link(workshop, tmp_path):
    """All weights train: there is no adapter to begin with."""
    keys = jobs.job_of(workshop, jobs.TINY, "full", "bf16", device="emulated", output_dir=str(tmp_path / "out"),
                       offload={**ON_DISK, "nvme_path": [str(tmp_path / "swap")]})
    done = sluice_run.sluice("plan", sluice_run.write_job(tmp_path / "job.yaml", keys), "--rehearse")
    assert done.returncode == 0, done.stderr
    lanes = rows(done.stdout)
    assert all(rehearsed > 0 for _, rehearsed in (lanes["h2d busy"], lanes["d2h busy"], lanes["write busy"]))
    assert not (tmp_path / "out").exists() and not list((tmp_path / "swap").glob("*"))


def test_a_machine_without_a_gpu_is_planned_with_one_memory(job, slow_gpu, tmp_path):
    without_gpu = tmp_path / "without_gpu.yaml"
    without_gpu.write_text(re.sub(r"(?m)^device_memory: .*\n", "", slow_gpu.read_text()))
    for machine, memory in ((slow_gpu, "separate"), (without_gpu, "unified")):
        done = sluice_run.sluice("plan", job, "--machine", machine, "--json")
        assert done.returncode == 0, done.stderr
        plan = json.loads(done.stdout)
        assert f"memory: {memory}\n" in plan["plan_yaml"]
        assert (plan["peak_bytes"]["device"]["total"] == 0) == (memory == "unified")
