"""What `sluice doctor` says of a drive that fails and of a GPU's library that does not fit, in the binary that is shipped."""

import json
import os
import shutil
import subprocess

import pytest
from faults.live_run import EIO, ENOSPC, EXIT_SETUP
from golden import sluice_run

TRIAL = "sluice-swap/doctor"


@pytest.fixture
def small_job(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "drive").mkdir()
    (tmp_path / "data.jsonl").write_text("{}\n")
    return sluice_run.write_job(tmp_path / "job.yaml", {
        "base_model": str(tmp_path / "model"), "datasets": [{"path": str(tmp_path / "data.jsonl"), "type": "alpaca"}],
        "learning_rate": 1e-5, "output_dir": str(tmp_path / "drive"),
        "offload": {"nvme_path": str(tmp_path / "drive"), "io_backend": "thread"}})


def missing(job, *settings, binary=None, environment=None):
    """The one thing that prevents a job."""
    done = subprocess.run([binary or sluice_run.binary(), "doctor", "--json", job, *settings], capture_output=True, text=True,
                          env={**os.environ, **(environment or {})})
    assert done.returncode == EXIT_SETUP, done.stdout + done.stderr
    found = [one for one in json.loads(done.stdout)["findings"] if one["verdict"] == "missing"]
    assert len(found) == 1, found
    return found[0]


@pytest.mark.parametrize("fault, says", (
    (f"write {TRIAL} {EIO}", "Input/output error"), (f"write {TRIAL} {ENOSPC}", " needs 4.00 MiB more there"),
    (f"read {TRIAL} {EIO}", "Input/output error"), (f"read {TRIAL} flip", "checksum mismatch")))
def test_a_drive_that_fails_is_found_out_and_left_as_it_was(small_job, tmp_path, fault, says):
    environment = {"LD_PRELOAD": os.environ["SLUICE_DRIVE_FAULTS"], "DRIVE_FAULTS": f"{fault} {small_job}"}
    one = missing(small_job, environment=environment)
    assert (one["check"], one["path"]) == ("path", str(tmp_path / "drive"))
    assert says in one["found"] and one["costs"] == "nothing can be swapped there" and one["fix"]
    assert list((tmp_path / "drive").iterdir()) == []


@pytest.mark.parametrize("library, why", (
    (None, "this build has no CUDA device; install the CUDA toolkit and run `make build` again"),
    ("text", "cannot load "),
    ("SLUICE_DRIVE_FAULTS", "libsluice_cuda.so is not of the same build; run `make build` again"),
    ("SLUICE_OLD_GPU", "libsluice_cuda.so is not of the same build; run `make build` again"),
    ("SLUICE_STAND_IN_GPU", "it is a stand-in")))
def test_why_no_gpu_can_be_used(small_job, tmp_path, library, why):
    binary = shutil.copy(sluice_run.binary(), tmp_path / "sluice")
    runtime = os.path.join(os.path.dirname(sluice_run.binary()), "libsluice_runtime.so")
    shutil.copy(runtime, tmp_path / "libsluice_runtime.so")
    if library == "text":
        (tmp_path / "libsluice_cuda.so").write_text("no library")
    elif library:
        shutil.copy(os.environ[library], tmp_path / "libsluice_cuda.so")
    one = missing(small_job, "device=cuda", binary=binary)
    assert one["check"] == "gpu"
    assert one["costs"].startswith("sluice doctor: device is cuda and no GPU can be used: ") and why in one["costs"]
