"""Every plan gives the losses and weights of the first one, all in memory where the device allows it, byte for byte."""

import pytest
from equivalence import jobs, outcome, plans
from golden import sluice_run

every_precision = pytest.mark.parametrize("precision", jobs.PRECISIONS)


def compare(workshop, tmp_path, model, settings, method, precision, threads, states="fp32"):
    runs = {}
    for setting in settings:
        job = jobs.job_of(workshop, model, method, precision, states, **setting.keys())
        runs[setting.name] = sluice_run.train(job, tmp_path / setting.name, threads)
        setting.assert_obeyed(plans.plan_of(runs[setting.name]))
    plans.assert_plans_differ({name: plans.plan_of(run) for name, run in runs.items()})
    first = runs[settings[0].name]
    losses = first.column("loss")
    assert len(set(losses)) == jobs.RECIPE.steps, f"training stands still: {losses}"
    jobs.assert_some_skipped(first, precision)
    for name, run in runs.items():
        outcome.assert_identical(run, first, name)
    return first


@every_precision
@pytest.mark.parametrize("method", jobs.METHODS)
def test_every_plan_computes_the_same(workshop, tmp_path, method, precision):
    compare(workshop, tmp_path, jobs.TINY, plans.ALL, method, precision, threads=1)


@every_precision
@pytest.mark.parametrize("method", jobs.METHODS)
def test_plans_compute_the_same_at_the_widths_of_smollm2(workshop, tmp_path, method, precision):
    compare(workshop, tmp_path, jobs.SMOLLM2_LIKE, plans.FEW, method, precision, threads=2)


@every_precision
@pytest.mark.parametrize("method", ("full", "qlora"))
def test_every_format_of_states_computes_the_same_under_any_plan(workshop, tmp_path, method, precision):
    settings = plans.FEW if plans.EMULATED_DEVICE in plans.FEW else (*plans.FEW, plans.EMULATED_DEVICE)
    losses = {}
    for states in ("fp32", "bf16", "8bit"):
        (tmp_path / states).mkdir()
        run = compare(workshop, tmp_path / states, jobs.TINY, settings, method, precision, threads=1, states=states)
        losses[states] = tuple(run.column("loss"))
    assert len(set(losses.values())) == 3, f"formats that make no difference: {losses}"
