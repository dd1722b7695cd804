import os
import subprocess

import pytest
from equivalence import jobs, plans
from golden import sluice_run
from golden.conftest import workshop  # noqa: F401  (a fixture of these suites)


@pytest.fixture(scope="session")
def job(workshop):  # noqa: F811
    """Everything on the drive, through calls that the preloaded library can disturb; a checkpoint every second step."""
    offload = {**plans.residence("disk", activations="disk", prefetch=1), "io_backend": "thread"}
    return jobs.job_of(workshop, jobs.TINY, "full", "bf16", offload=offload, device="cpu", save_steps=2, logging_steps=1)


@pytest.fixture(scope="session")
def straight(job, tmp_path_factory):
    """The run that nothing disturbed."""
    return sluice_run.train(job, tmp_path_factory.mktemp("straight"))


@pytest.fixture(scope="session")
def lora(workshop, job):  # noqa: F811
    """One whose checkpoints are copies."""
    return jobs.job_of(workshop, jobs.TINY, "lora", "bf16", offload=dict(job["offload"]), device="cpu", save_steps=2,
                       logging_steps=1)


@pytest.fixture(scope="session")
def lora_straight(lora, tmp_path_factory):
    return sluice_run.train(lora, tmp_path_factory.mktemp("lora"))


@pytest.fixture
def small_drive(tmp_path):
    """A file system of its own, of 24 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs takes root")
    folder = tmp_path / "drive"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"mounting a tmpfs is refused: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=False)
