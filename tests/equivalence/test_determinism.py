"""The controls: what must be equal without any plan, and what must differ, or the comparisons compare nothing."""

from equivalence import jobs, outcome, plans
from golden import sluice_run


def test_the_same_job_twice_is_the_same(workshop, tmp_path):
    job = jobs.job_of(workshop, jobs.SMOLLM2_LIKE, "full", "bf16", **plans.MEMORY.keys())
    first, second = (sluice_run.train(job, tmp_path / name, threads=2) for name in ("first", "second"))
    outcome.assert_identical(first, second, "the same job run again")


def test_dropout_takes_part(workshop, tmp_path):
    job = jobs.job_of(workshop, jobs.TINY, "lora", "fp32", **plans.MEMORY.keys())
    with_dropout = sluice_run.train(job, tmp_path / "with")
    without = sluice_run.train({**job, "lora_dropout": 0}, tmp_path / "without")
    other_seed = sluice_run.train({**job, "seed": 12}, tmp_path / "other")
    assert with_dropout.column_text("loss")[3:] != without.column_text("loss")[3:]
    assert with_dropout.column_text("loss")[3:] != other_seed.column_text("loss")[3:]
