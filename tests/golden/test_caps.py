"""max_cpu is the whole process from start to end, by the kernel's own account, at the smallest cap that is accepted."""

import os
import re
import subprocess
import time
from pathlib import Path

import pytest
from equivalence import jobs
from golden import sluice_run, tiny_models

EXIT_SETUP = 2
SAMPLE_SECONDS = 0.001
CASES = {"tiny": (tiny_models.BY_NAME["qwen3_untied"], "full"), "smollm2_widths": (jobs.SMOLLM2_LIKE, "lora"),
         "magnitudes_over_low_bits": (jobs.SMOLLM2_LIKE, "qdora")}


def resident_kib(process):
    """0 once it is gone."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    return int(found[1]) if found else 0


def most_resident_kib(job_file, directory):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with open(directory / "messages.txt", "w", encoding="utf8") as messages:
        process = subprocess.Popen([sluice_run.binary(), "train", job_file], stdout=messages, stderr=messages,
                                   env=environment)
        most = 0
        while process.poll() is None:
            most = max(most, resident_kib(process))
            time.sleep(SAMPLE_SECONDS)
    assert process.returncode == 0, (directory / "messages.txt").read_text()
    return most


@pytest.mark.parametrize("case", CASES)
def test_the_process_stays_below_the_smallest_cap(workshop, tmp_path, case):
    model, method = CASES[case]
    job = jobs.job_of(workshop, model, method, "bf16", device="cpu")
    refused = sluice_run.try_train({**job, "offload": {"max_cpu": "1MiB"}}, tmp_path / "refused")
    assert refused.exit_code == EXIT_SETUP, refused.stderr
    least = int(re.search(r"set offload.max_cpu to (\d+)MiB or more", refused.stderr)[1])
    job = {**job, "output_dir": str(tmp_path / "out"), "offload": {"max_cpu": f"{least}MiB"}}
    most = most_resident_kib(sluice_run.write_job(tmp_path / "job.yaml", job), tmp_path)
    assert most <= least << 10, f"{most} KiB were resident under max_cpu: {least}MiB"
