import os
import subprocess
import sys
from pathlib import Path

import pytest
from equivalence import jobs, plans
from golden import sluice_run
from golden.conftest import workshop  # noqa: F401  (a fixture of both suites)

# About the job's own datasets: taken back where a program brings the rows.
OWN_DATA = ["datasets=", "dataset_prepared_path="]
needs_module = pytest.mark.skipif(not list(Path(os.environ.get("SLUICE_BUILD", ".")).glob("python/sluice/_sluice*")),
                                  reason="the Python module is not built")


@pytest.fixture(scope="session")
def job(workshop):  # noqa: F811
    """Keys of a job with everything on disk, ten steps of three micro-batches."""
    return jobs.job_of(workshop, jobs.TINY, "full", "bf16", **plans.DISK.keys(), logging_steps=1)


@pytest.fixture(scope="session")
def judged(job, tmp_path_factory):
    """What `sluice train` makes of it."""
    return sluice_run.train(job, tmp_path_factory.mktemp("judged"))


@pytest.fixture(scope="session")
def rows(job, judged, tmp_path_factory):
    """The job's rows, out of the token file that it was trained on: (ids, labels) each."""
    (file,) = Path(job["dataset_prepared_path"]).glob("*/train.tokens")
    return [documents[0] for documents in sluice_run.TokenFile.read(file).rows]


@pytest.fixture(scope="session")
def rows_file(rows, tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.txt"
    path.write_text("".join(" ".join(f"{a}:{b}" for a, b in zip(ids, labels)) + "\n" for ids, labels in rows))
    return path


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{os.environ['SLUICE_BUILD']}/python"}


@pytest.fixture
def run_python(tmp_path):
    """Runs a program in a process of its own, with the job's keys as `keys` and its rows as `rows`."""
    def run(program, **values):
        script = tmp_path / "program.py"
        script.write_text("".join(f"{name} = {value!r}\n" for name, value in values.items()) + program)
        return subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment(),
                              timeout=sluice_run.COMMAND_SECONDS_MAX)
    return run
