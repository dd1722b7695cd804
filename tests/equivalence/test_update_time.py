"""An update behind backward, taken back or not, gives what the update before forward gives, byte for byte."""

import pytest
from equivalence import jobs, outcome, plans
from golden import sluice_run

BEHIND, BEFORE = {"update": "behind_backward"}, {"update": "before_forward"}
PLACES = {
    "memory": ("cpu", plans.residence("host", activations="keep")),
    "disk": ("cpu", plans.residence("disk", activations="keep")),
    "weights_in_memory": ("cpu", {"params": "host", "gradients": "disk", "optimizer": "disk", "activations": "keep"}),
    "emulated_disk": ("emulated", plans.residence("disk", activations="recompute")),
    "emulated_device_weights": ("emulated", {"params": "device", "gradients": "host", "optimizer": "host",
                                             "activations": "keep"}),
    "emulated_device": ("emulated", plans.residence("device", activations="keep")),
}


def job_at(workshop, place, update, method, precision, states, limit, **keys):
    device, offload = PLACES[place]
    return {**jobs.job_of(workshop, jobs.TINY, method, precision, states, device=device, offload={**offload, **update},
                           **keys),
            "max_grad_norm": limit}


def assert_behind(run):
    plan = plans.plan_of(run)
    assert any(group["update"] == "behind backward" for group in plan["groups"].values()), plan["groups"]
    return plan


@pytest.fixture(params=jobs.cases("full bf16 8bit", "lora fp32 bf16", "full fp16 fp32"), ids="-".join)
def kind(request):
    return request.param


# Of fp16 some steps are skipped, whatever the limit. No limit, one that some exceed, one that all do.
@pytest.mark.parametrize("limit", (0, "some", 1e-3), ids=str)
def test_both_times_compute_the_same(workshop, tmp_path, kind, limit):
    if limit == "some":
        free = sluice_run.train(job_at(workshop, "memory", BEFORE, *kind, 0), tmp_path / "free")
        norms = sorted(norm for norm in free.column("grad_norm") if norm is not None)
        limit = norms[len(norms) // 2]
    before = sluice_run.train(job_at(workshop, "memory", BEFORE, *kind, limit), tmp_path / "before")
    jobs.assert_some_skipped(before, kind[1])
    for place in PLACES:
        behind = sluice_run.train(job_at(workshop, place, BEHIND, *kind, limit), tmp_path / place)
        assert assert_behind(behind)["undoable"] == (limit > 0 or kind[1] == "fp16")
        outcome.assert_identical(behind, before, f"{place}, updated behind backward, limit {limit}")


@pytest.mark.parametrize("limit", (0, 1e-3), ids=str)
def test_a_stop_between_changes_nothing(workshop, tmp_path, kind, limit):
    half = jobs.RECIPE.steps // 2
    keys = {"save_steps": half, "save_total_limit": 2}  # the end has a checkpoint too
    straight = sluice_run.train(job_at(workshop, "disk", BEFORE, *kind, limit, **keys), tmp_path / "straight")
    saved = sluice_run.train(job_at(workshop, "disk", BEHIND, *kind, limit, **keys), tmp_path / "saved")
    assert_behind(saved)
    outcome.assert_identical(saved, straight, "a run with a checkpoint half-way")
    resumed = sluice_run.train(
        {**job_at(workshop, "disk", BEHIND, *kind, limit, **keys),
         "resume_from_checkpoint": str(saved.output_dir / f"checkpoint-{half}")}, tmp_path / "resumed")
    assert outcome.numbers_text(resumed) == outcome.numbers_text(straight)[half:]
    assert outcome.tensors(resumed) == outcome.tensors(straight)


@pytest.mark.parametrize("checkpoint", ("two_sets", "in_place"))
def test_a_checkpoint_holds_up_no_update(workshop, tmp_path, checkpoint):
    """Each is of the step before, and the updates of both steps run where they would without it."""
    job = {**job_at(workshop, "disk", BEHIND, "full", "bf16", "fp32", 1.0), "checkpoint": checkpoint}
    without = sluice_run.train(job, tmp_path / "without")
    assert assert_behind(without)["undoable"]
    every = sluice_run.train({**job, "save_steps": 1, "save_total_limit": 1}, tmp_path / "every")
    outcome.assert_identical(every, without, "a run with a checkpoint after every step")
    for moved in ("disk_read_bytes", "disk_write_bytes"):
        assert every.column(moved) == without.column(moved)


@pytest.mark.parametrize("checkpoint", ("two_sets", "in_place"))
@pytest.mark.parametrize("end", (jobs.RECIPE.steps // 2, jobs.RECIPE.steps // 2 + 1), ids=("odd", "even"))
def test_either_of_two_sets_is_gone_on_from(workshop, tmp_path, kind, end, checkpoint):
    """The newest set lies in one place after an odd number of steps and in the other after an even one, and the first step
    that follows is taken back, as each is."""
    job = {**job_at(workshop, "disk", BEHIND, *kind, 1e-3), "lr_scheduler": "constant", "checkpoint": checkpoint}
    straight = sluice_run.train(job, tmp_path / "straight")
    sluice_run.train({**job, "max_steps": end}, tmp_path)
    resumed = sluice_run.train({**job, "auto_resume_from_checkpoints": True}, tmp_path)
    assert_behind(resumed)
    assert outcome.tensors(resumed) == outcome.tensors(straight)
