"""`report_to: tensorboard`, read by TensorBoard's own reader; without it nothing is written."""

import math

import pytest
from equivalence import jobs
from golden import sluice_run
from tensorboard.backend.event_processing import event_accumulator

TAGS = {"train/loss": "loss", "train/grad_norm": "grad_norm", "train/learning_rate": "learning_rate",
        "speed/tokens_per_second": "tokens_per_second", "speed/percent_of_bound": "percent_of_bound",
        "disk/read_bytes": "disk_read_bytes", "disk/write_bytes": "disk_write_bytes",
        "memory/device_peak_bytes": "device_peak_bytes", "memory/host_peak_bytes": "host_peak_bytes"}


def scalars(run):
    reader = event_accumulator.EventAccumulator(str(run.output_dir / "runs"), size_guidance={"scalars": 0, "tensors": 0})
    reader.Reload()
    return {tag: {event.step: event.value for event in reader.Scalars(tag)} for tag in reader.Tags()["scalars"]}


def train(workshop, directory, **keys):
    job = jobs.job_of(workshop, jobs.TINY, "lora", "bf16")
    job |= {"val_set_size": 0.1, "eval_steps": 2, "save_steps": 2, "max_steps": 5, "report_to": "tensorboard", **keys}
    return sluice_run.train(job, directory)


def test_every_step_is_there_as_in_the_log(workshop, tmp_path):
    run = train(workshop, tmp_path)
    found = scalars(run)
    assert found.keys() == TAGS.keys() | {"eval/loss"}
    for tag, column in TAGS.items():
        assert list(found[tag]) == [1, 2, 3, 4, 5], tag
        assert list(found[tag].values()) == pytest.approx(run.column(column), rel=1e-6)
    losses = run.state()["validation_losses"] if "validation_losses" in run.state() else None
    assert list(found["eval/loss"]) == [0, 2, 4, 5]
    assert losses is None or list(found["eval/loss"].values()) == pytest.approx(losses, rel=1e-6)
    assert all(math.isfinite(value) for value in found["train/loss"].values())


def test_a_run_that_goes_on_replaces_the_steps_after_its_checkpoint(workshop, tmp_path):
    run = train(workshop, tmp_path, max_steps=5)
    before = scalars(run)
    again = train(workshop, tmp_path, max_steps=8, resume_from_checkpoint=str(run.output_dir / "checkpoint-2"))
    found = scalars(again)
    assert list(found["train/loss"]) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert list(found["train/loss"].values()) == pytest.approx(again.column("loss"), rel=1e-6)
    assert found["train/loss"][1] == before["train/loss"][1]
    assert len(list((again.output_dir / "runs").iterdir())) == 2


@pytest.mark.parametrize("report_to", (None, "none", [], ["none"]))
def test_by_default_nothing_is_written(workshop, tmp_path, report_to):
    run = train(workshop, tmp_path, report_to=report_to, max_steps=1)
    assert not (run.output_dir / "runs").exists()


@pytest.mark.parametrize("report_to", ("wandb", ["tensorboard", "mlflow"], "all"))
def test_other_trackers_are_refused_by_name(workshop, tmp_path, report_to):
    job = jobs.job_of(workshop, jobs.TINY, "lora", "bf16", report_to=report_to)
    run = sluice_run.try_train(job, tmp_path)
    name = report_to if isinstance(report_to, str) else "mlflow"
    assert run.exit_code == 2 and f"report_to: '{name}' is not supported" in run.stderr, run.stderr
    assert "nothing is sent anywhere" in run.stderr and not run.output_dir.exists()
