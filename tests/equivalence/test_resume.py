"""A stop and a resume change nothing: not a digit of the log, not a byte of the result."""

import shutil

import pytest
from equivalence import jobs, outcome, plans
from golden import sluice_run

HALF = jobs.RECIPE.steps // 2
CASES = jobs.cases("full fp32 bf16", "full bf16 8bit", "full fp16 fp32", "lora fp16 bf16", "qlora bf16 fp32",
                   "dora bf16 fp32")


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(case))
def straight(request, workshop, tmp_path_factory):
    """(job, run) of ten steps without a stop, with a checkpoint half-way. Not to be changed."""
    job = jobs.job_of(workshop, jobs.TINY, *request.param, **plans.DISK.keys(), save_steps=HALF, save_total_limit=2)
    run = sluice_run.train(job, tmp_path_factory.mktemp("straight"))
    jobs.assert_some_skipped(run, request.param[1])
    return job, run


def assert_second_half(run, straight):
    assert outcome.numbers_text(run) == outcome.numbers_text(straight)[HALF:]
    assert outcome.tensors(run) == outcome.tensors(straight)


def test_saving_changes_nothing(straight, tmp_path):
    job, run = straight
    without = sluice_run.train({**job, "save_steps": None}, tmp_path / "without")
    assert (run.output_dir / f"checkpoint-{HALF}").is_dir()
    is_manifest = (run.output_dir / f"checkpoint-{HALF}" / "manifest.json").exists()
    assert is_manifest != ("adapter" in job), "only what lives on disk and is large stays where it is"
    assert not (without.output_dir / f"checkpoint-{HALF}").exists()
    outcome.assert_identical(without, run, "a run without a checkpoint half-way")


@pytest.mark.parametrize("setting", (plans.DISK, plans.MEMORY, plans.EMULATED_DISK, plans.EMULATED_DEVICE),
                         ids=lambda setting: setting.name)
def test_a_copied_checkpoint_resumes_to_the_same_end_under_any_plan(straight, tmp_path, setting):
    job, run = straight
    copied = tmp_path / "elsewhere" / "out" / f"checkpoint-{HALF}"
    shutil.copytree(run.output_dir, copied.parent)
    offload = {**setting.offload, "optimizer_state": job["offload"]["optimizer_state"]}
    resumed = sluice_run.train({**job, "device": setting.device, "offload": offload,
                                "resume_from_checkpoint": str(copied)}, tmp_path / "resumed")
    assert_second_half(resumed, run)


def test_an_interrupted_output_dir_resumes_by_itself(straight, tmp_path):
    """As after a stop between step 5 and the end: the checkpoint and the log are there, no result."""
    job, run = straight
    interrupted = tmp_path / "interrupted"
    shutil.copytree(run.output_dir, interrupted / "out")
    shutil.rmtree(interrupted / "out" / f"checkpoint-{jobs.RECIPE.steps}")
    for result in (interrupted / "out").glob("*.safetensors"):
        result.unlink()
    log = (run.output_dir / "trainer_log.jsonl").read_text().splitlines(keepends=True)
    (interrupted / "out" / "trainer_log.jsonl").write_text("".join(log[:HALF + 2]))
    resumed = sluice_run.train({**job, "auto_resume_from_checkpoints": True}, interrupted)
    outcome.assert_identical(resumed, run, "a run that was interrupted")


def test_a_checkpoint_of_another_job_is_refused(straight, tmp_path):
    job, run = straight
    checkpoint = run.output_dir / f"checkpoint-{HALF}"
    refused = sluice_run.try_train({**job, "seed": 12, "resume_from_checkpoint": str(checkpoint)}, tmp_path / "other")
    assert refused.exit_code == 2 and "seed" in refused.stderr
    assert not (tmp_path / "other" / "out").exists()
