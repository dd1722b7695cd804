"""Every plan gives the losses and weights of the first one, all in memory where the device allows it, byte for byte."""

import pytest
from equivalence import jobs, outcome, plans
from golden import sluice_run


def of_cases(*chosen):
    return pytest.mark.parametrize("case", jobs.cases(*chosen), ids="-".join)


def compare(workshop, tmp_path, model, settings, case, threads):
    runs = {}
    for setting in settings:
        job = jobs.job_of(workshop, model, *case, **setting.keys())
        runs[setting.name] = sluice_run.train(job, tmp_path / setting.name, threads)
        setting.assert_obeyed(plans.plan_of(runs[setting.name]))
    plans.assert_plans_differ({name: plans.plan_of(run) for name, run in runs.items()})
    first = runs[settings[0].name]
    losses = first.column("loss")
    assert len(set(losses)) == jobs.RECIPE.steps, f"training stands still: {losses}"
    jobs.assert_some_skipped(first, case[1])
    for name, run in runs.items():
        outcome.assert_identical(run, first, name)
    return losses


@of_cases("full fp32 fp32", "full bf16 fp32", "full fp16 fp32", "lora bf16 fp32", "qlora bf16 fp32", "qdora fp32 fp32",
          "lora fp16 fp32")
def test_every_plan_computes_the_same(workshop, tmp_path, case):
    compare(workshop, tmp_path, jobs.TINY, plans.ALL, case, threads=1)


@of_cases("full bf16 fp32", "full fp16 8bit", "lora fp32 fp32", "qdora bf16 fp32")
def test_plans_compute_the_same_at_the_widths_of_smollm2(workshop, tmp_path, case):
    compare(workshop, tmp_path, jobs.SMOLLM2_LIKE, plans.FEW, case, threads=2)


# The adapters of such a model are too small for 8-bit states.
@of_cases("full bf16 bf16", "full bf16 8bit", "full fp16 8bit", "qlora fp16 bf16", "lora fp32 bf16",
          "full bf16 lion")
def test_every_format_of_states_computes_the_same_under_any_plan(workshop, tmp_path, case):
    method, precision, states = case
    settings = plans.FEW if plans.EMULATED_DEVICE in plans.FEW else (*plans.FEW, plans.EMULATED_DEVICE)
    losses = compare(workshop, tmp_path, jobs.TINY, settings, case, threads=1)
    exact = jobs.job_of(workshop, jobs.TINY, method, precision, "fp32", **settings[0].keys())
    differ = sluice_run.train(exact, tmp_path / "exact").column("loss") != losses
    assert differ == (states != "fp32"), "the format makes no difference: the test compares nothing"
