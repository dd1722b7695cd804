"""Checkpoints whose bytes stay in swap files: whole, held while they are named, resumed under other settings, bit for bit."""

import json
import shutil

import pytest
import yaml
from equivalence import jobs, outcome, plans
from golden import checkpoint_files, sluice_run

STEPS = jobs.RECIPE.steps
HALF = STEPS // 2
EXIT_SETUP = 2


@pytest.fixture(scope="module")
def job(workshop):
    return jobs.job_of(workshop, jobs.TINY, "full", "bf16", **plans.DISK.keys(), save_steps=HALF, save_total_limit=2)


@pytest.fixture(scope="module")
def straight(job, tmp_path_factory):
    return sluice_run.train(job, tmp_path_factory.mktemp("straight"))


@pytest.fixture
def copy(straight, tmp_path):
    shutil.copytree(straight.output_dir, tmp_path / "out")
    return tmp_path / "out"


def at(step, output_dir):
    return output_dir / f"checkpoint-{step}"


def swap_files(nvme_path):
    return sorted((nvme_path / "sluice-swap").glob("*.extents"))


def swap_bytes(run):
    return sum(path.stat().st_size for path in swap_files(run.output_dir))


def fsck(output_dir):
    return sluice_run.sluice("fsck", output_dir)


def test_a_manifest_names_the_bytes_that_a_copy_has(job, straight, tmp_path):
    offload = {**plans.MEMORY.offload, "optimizer_state": "fp32"}
    memory = sluice_run.train({**job, "device": plans.MEMORY.device, "offload": offload}, tmp_path)
    for step in (HALF, STEPS):
        manifest, copy = at(step, straight.output_dir), at(step, memory.output_dir)
        assert checkpoint_files.manifest_of(manifest) and not checkpoint_files.manifest_of(copy)
        assert checkpoint_files.states(manifest) == checkpoint_files.states(copy)


def test_a_checkpoint_writes_no_states(job, tmp_path):
    """A few kilobytes beside a set of states and weights; the step after it writes what any step does."""
    run = sluice_run.train({**job, "offload": {**job["offload"], "update": "before_forward"}}, tmp_path)
    own = sum(path.stat().st_size for path in at(HALF, run.output_dir).iterdir())
    named = sum(piece[2] for extent in checkpoint_files.manifest_of(at(HALF, run.output_dir))["extents"]
                for piece in extent["pieces"])
    assert own < named / 4
    written = run.column("disk_write_bytes")
    assert written[HALF] == written[HALF - 1], "the step after a checkpoint writes more than the one before it"


@pytest.mark.parametrize("limit", (None, 1, 3))
def test_save_total_limit_says_how_many_are_kept(job, straight, tmp_path, limit):
    run = sluice_run.train({**job, "save_steps": 2, "save_total_limit": limit}, tmp_path)
    kept = sorted(int(path.name.split("-")[1]) for path in run.output_dir.glob("checkpoint-*"))
    assert kept == list(range(2, STEPS + 1, 2))[-(limit or 1):]
    outcome.assert_identical(run, straight, "a run with other checkpoints")
    for step in kept:
        resumed = sluice_run.train({**job, "save_steps": None, "resume_from_checkpoint": str(at(step, run.output_dir))},
                                   tmp_path / f"from-{step}") if step < STEPS else run
        assert outcome.tensors(resumed) == outcome.tensors(straight)
    assert fsck(run.output_dir).returncode == 0


def test_a_resumed_run_goes_on_in_the_same_file(job, straight, copy):
    shutil.rmtree(at(STEPS, copy))
    before = {path.name: path.stat().st_size for path in swap_files(copy)}
    resumed = sluice_run.train({**job, "auto_resume_from_checkpoints": True}, copy.parent)
    outcome.assert_identical(resumed, straight, "a run that was resumed")
    assert {path.name: path.stat().st_size for path in swap_files(copy)} == before
    assert fsck(copy).returncode == 0


def test_other_chunks_caps_and_drives_resume_to_the_same_end(job, straight, copy, tmp_path):
    drives = [str(tmp_path / "a"), str(tmp_path / "b")]
    offload = {**job["offload"], "nvme_path": drives, "params": "host", "activations": "recompute"}
    resumed = sluice_run.train({**job, "offload": offload, "resume_from_checkpoint": str(at(HALF, copy)),
                                "output_dir": str(tmp_path / "elsewhere")}, tmp_path)
    assert outcome.tensors(resumed) == outcome.tensors(straight)
    again = sluice_run.train({**job, "output_dir": str(tmp_path / "back"), "max_steps": STEPS + 1,
                              "resume_from_checkpoint": str(at(STEPS, resumed.output_dir))}, tmp_path)
    assert again.column("step") == [STEPS + 1], "a finished job goes on when it is given more steps"


def test_two_jobs_on_one_drive_leave_each_other_alone(job, straight, tmp_path):
    drive = tmp_path / "drive"
    offload = {**job["offload"], "nvme_path": [str(drive)]}
    first = sluice_run.train({**job, "offload": offload, "max_steps": HALF}, tmp_path / "first")
    second = sluice_run.train({**job, "offload": offload}, tmp_path / "second")
    outcome.assert_identical(second, straight, "a job on a drive with another's checkpoint")
    assert len(swap_files(drive)) == 2
    assert fsck(first.output_dir).returncode == 0
    shutil.rmtree(at(HALF, first.output_dir))
    third = sluice_run.train({**job, "offload": offload, "max_steps": HALF}, tmp_path / "third")
    assert "note: removed " in third.stderr and "no checkpoint names it any more" in third.stderr
    assert len(swap_files(drive)) == 2
    assert fsck(second.output_dir).returncode == 0


def test_a_damaged_piece_is_named_and_not_trained_on(job, copy):
    manifest = checkpoint_files.manifest_of(at(STEPS, copy))
    extent = manifest["extents"][-1]
    _, offset, count, _ = extent["pieces"][-1]
    with open(swap_files(copy)[0], "r+b") as swap:
        swap.seek(offset + 5)
        byte = swap.read(1)[0]
        swap.seek(offset + 5)
        swap.write(bytes([byte ^ 1]))
    found = fsck(copy)
    assert found.returncode == EXIT_SETUP
    assert f"checkpoint-{STEPS}: DAMAGED" in found.stdout and f"bytes {offset} to {offset + count}" in found.stdout
    assert f"'{extent['name']}'" in found.stdout
    assert f"resume from checkpoint-{HALF}: resume_from_checkpoint: " in found.stdout
    refused = sluice_run.try_train({**job, "max_steps": STEPS + 1, "auto_resume_from_checkpoints": True}, copy.parent)
    assert refused.exit_code == EXIT_SETUP
    assert f"bytes {offset} to {offset + count}, of '{extent['name']}'" in refused.stderr
    assert f"fix: resume from an older checkpoint: resume_from_checkpoint: {at(HALF, copy)}" in refused.stderr


def test_a_damaged_manifest_of_an_older_checkpoint_is_named(job, straight, copy):
    """It would claim pieces that are another's."""
    older = at(HALF, copy)
    manifest = checkpoint_files.manifest_of(older)
    manifest["extents"][0]["pieces"][0][1] += 4096
    (older / "manifest.json").write_text(json.dumps(manifest))
    more = {**job, "max_steps": STEPS + 1, "auto_resume_from_checkpoints": True}
    refused = sluice_run.try_train(more, copy.parent)
    assert refused.exit_code == EXIT_SETUP
    assert f"{older / 'manifest.json'} is damaged" in refused.stderr
    assert "fix: remove that folder" in refused.stderr
    shutil.rmtree(older)
    assert sluice_run.train(more, copy.parent).column("step")[-1] == STEPS + 1


def states_of(manifest):
    return next(extent for extent in manifest["extents"] if extent["parts"])


def rename_a_part(manifest):
    states_of(manifest)["parts"]["momentum"] = states_of(manifest)["parts"].pop("exp_avg")


MISFITS = {
    "parameters": (lambda manifest: manifest["extents"][0].update(group="nobody"), "it has no parameters 'nobody'"),
    "a type": (lambda manifest: states_of(manifest)["parts"]["exp_avg"].__setitem__(0, "f16"), "is f16 there"),
    "a part": (rename_a_part, "states called 'momentum' are not known"),
    "an extent": (lambda manifest: manifest["extents"].remove(states_of(manifest)), "is not there as a whole"),
    "elements": (lambda manifest: manifest["extents"][0].update(end=manifest["extents"][0]["bytes"]),
                 "is shorter than its states"),
}


@pytest.mark.parametrize("what", MISFITS)
def test_a_manifest_that_does_not_fit_the_model_is_refused(job, copy, what):
    """Its sums would have said so, and are of no help where an older version wrote none."""
    change, text = MISFITS[what]
    newest = at(STEPS, copy)
    manifest = checkpoint_files.manifest_of(newest)
    change(manifest)
    (newest / "manifest.json").write_text(json.dumps(manifest))
    (newest / "checksums.json").unlink()
    state = json.loads((newest / "trainer_state.json").read_text())
    del state["checksums"]
    (newest / "trainer_state.json").write_text(json.dumps(state))
    refused = sluice_run.try_train({**job, "max_steps": STEPS + 1, "resume_from_checkpoint": str(newest)}, copy.parent)
    assert refused.exit_code == EXIT_SETUP, refused.stderr
    assert f"{newest} does not fit the model: " in refused.stderr and text in refused.stderr
    assert "fix: give the same base_model, optimizer and offload.optimizer_state" in refused.stderr


def test_a_swap_file_cut_short_is_named(job, copy):
    (swap,) = swap_files(copy)
    with open(swap, "r+b") as file:
        file.truncate(swap.stat().st_size // 8192 * 4096)
    found = fsck(copy)
    assert found.returncode == EXIT_SETUP and "DAMAGED" in found.stdout
    refused = sluice_run.try_train({**job, "max_steps": STEPS + 1, "auto_resume_from_checkpoints": True}, copy.parent)
    assert refused.exit_code == EXIT_SETUP
    assert str(swap) in refused.stderr and "fix: " in refused.stderr


def test_a_model_alone_is_saved_where_it_is_asked_for(job, straight, tmp_path):
    run = sluice_run.train({**job, "save_only_model": True, "save_total_limit": None}, tmp_path)
    half = at(HALF, run.output_dir)
    assert (half / "model.safetensors").exists() and (half / "config.json").exists()
    assert not (half / "optimizer.safetensors").exists() and not (half / "manifest.json").exists()
    assert (run.output_dir / "model.safetensors").read_bytes() == (straight.output_dir / "model.safetensors").read_bytes()
    refused = sluice_run.try_train({**job, "resume_from_checkpoint": str(half)}, tmp_path / "on")
    assert refused.exit_code == EXIT_SETUP and "holds the model alone" in refused.stderr


@pytest.fixture
def stopped_in_place(job, straight, tmp_path):
    """A job in place that ended after half its steps."""
    job = {**job, "checkpoint": "in_place", "save_total_limit": None, "save_steps": None}
    first = sluice_run.train({**job, "max_steps": HALF, "lr_scheduler": "constant"}, tmp_path)
    return job, first


def test_in_place_takes_half_the_space_and_resumes_after_a_clean_end(stopped_in_place, straight, tmp_path):
    job, first = stopped_in_place
    half = swap_bytes(first)
    for run in (first, straight):
        assert swap_bytes(run) == yaml.safe_load(run.plan_text())["predicted"]["disk_peak_bytes"]
    assert half <= 0.7 * swap_bytes(straight), "gradients take the same in both"
    job = {**job, "lr_scheduler": "constant"}
    resumed = sluice_run.train({**job, "auto_resume_from_checkpoints": True}, tmp_path)
    assert swap_bytes(first) == half
    whole = sluice_run.train(job, tmp_path / "whole")
    assert outcome.tensors(resumed) == outcome.tensors(whole)


def test_in_place_renews_the_checkpoint_of_steps_that_fp16_skipped(workshop, tmp_path):
    """Such a step writes nothing: the bytes of the checkpoint before it are those of the new one."""
    job = jobs.job_of(workshop, jobs.TINY, "full", "fp16", **plans.DISK.keys(), checkpoint="in_place",
                      lr_scheduler="constant", auto_resume_from_checkpoints=True)
    whole = sluice_run.train(job, tmp_path / "whole")
    skipped = next(i for i, each in enumerate(whole.column("skipped"), 1) if each and i > 1)
    first = sluice_run.train({**job, "max_steps": skipped - 1}, tmp_path)
    before = checkpoint_files.manifest_of(at(skipped - 1, first.output_dir))
    second = sluice_run.train({**job, "max_steps": skipped}, tmp_path)
    assert second.column("skipped")[-1]
    assert sorted(first.output_dir.glob("checkpoint-*")) == [at(skipped, first.output_dir)]
    assert checkpoint_files.manifest_of(at(skipped, first.output_dir)) == before
    assert fsck(first.output_dir).returncode == 0
    outcome.assert_identical(sluice_run.train(job, tmp_path), whole, "a run that renewed its checkpoint")


def test_in_place_says_that_it_cannot_resume_what_was_overwritten(stopped_in_place, tmp_path):
    job, first = stopped_in_place
    (at(HALF, first.output_dir) / "void").write_text("as before a step that was killed\n")
    refused = sluice_run.try_train({**job, "auto_resume_from_checkpoints": True}, tmp_path)
    assert refused.exit_code == EXIT_SETUP
    assert "is void: the run went on in its place" in refused.stderr and "checkpoint: two_sets" in refused.stderr
    found = fsck(first.output_dir)
    assert found.returncode == EXIT_SETUP and "void" in found.stdout


def test_in_place_refuses_to_go_on_where_old_and_new_bytes_have_no_room_together(stopped_in_place, tmp_path):
    job, first = stopped_in_place
    offload = {**job["offload"], "params": "host"}  # what the drive has of them stays until the next checkpoint
    alone = sluice_run.train({**job, "offload": offload, "max_steps": 1, "lr_scheduler": "constant"}, tmp_path / "alone")
    disk = yaml.safe_load(alone.plan_text())["predicted"]["disk_peak_bytes"]
    job = {**job, "lr_scheduler": "constant", "auto_resume_from_checkpoints": True}
    refused = sluice_run.try_train({**job, "offload": {**offload, "max_disk": f"{disk // 1024}KiB"}}, tmp_path)
    assert refused.exit_code == EXIT_SETUP
    assert "of disk until the next checkpoint, as the plan puts" in refused.stderr and "offload.max_disk" in refused.stderr
    assert sluice_run.train({**job, "offload": {**offload, "max_disk": "1GiB"}}, tmp_path).exit_code == 0


def test_a_drive_that_is_no_longer_used_is_given_back_with_the_last_checkpoint_that_names_it(job, tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    on = lambda drive: {**job, "lr_scheduler": "constant", "save_total_limit": 1,  # noqa: E731
                        "offload": {**job["offload"], "nvme_path": [str(drive)]}}
    sluice_run.train({**on(old), "max_steps": HALF}, tmp_path)
    assert swap_files(old)
    sluice_run.train({**on(new), "auto_resume_from_checkpoints": True}, tmp_path)
    assert swap_files(new) and not (old / "sluice-swap").exists()


def test_so_is_one_whose_last_checkpoint_makes_room_for_a_copy(job, tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    job = {**job, "lr_scheduler": "constant", "save_total_limit": 1}
    sluice_run.train({**job, "max_steps": HALF, "offload": {**job["offload"], "nvme_path": [str(old)]}}, tmp_path)
    assert swap_files(old)
    memory = {**plans.MEMORY.offload, "optimizer_state": "fp32", "nvme_path": [str(new)]}
    run = sluice_run.train({**job, "offload": memory, "auto_resume_from_checkpoints": True}, tmp_path)
    assert list(run.output_dir.glob("checkpoint-*")) == [at(STEPS, run.output_dir)]
    assert not checkpoint_files.manifest_of(at(STEPS, run.output_dir))
    assert not (old / "sluice-swap").exists()


def test_and_so_is_one_where_a_job_that_has_ended_keeps_fewer(job, tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    on = lambda drive, limit: {**job, "lr_scheduler": "constant", "save_total_limit": limit,  # noqa: E731
                               "offload": {**job["offload"], "nvme_path": [str(drive)]},
                               "auto_resume_from_checkpoints": drive == new}
    sluice_run.train({**on(old, 2), "max_steps": HALF}, tmp_path)
    run = sluice_run.train(on(new, 2), tmp_path)
    assert swap_files(old) and swap_files(new) and at(HALF, run.output_dir).is_dir()
    again = sluice_run.train(on(new, 1), tmp_path)
    assert "nothing is left to train" in again.stdout
    assert not at(HALF, run.output_dir).exists() and not (old / "sluice-swap").exists()
    assert swap_files(new) and fsck(run.output_dir).returncode == 0


def test_copies_of_a_run_in_memory_count_among_those_that_are_kept(job, tmp_path):
    job = {**job, "lr_scheduler": "constant", "save_steps": 1, "save_total_limit": 3}
    memory = {**job, "device": plans.MEMORY.device, "offload": {**plans.MEMORY.offload, "optimizer_state": "fp32"}}
    first = sluice_run.train({**memory, "max_steps": HALF}, tmp_path)
    kept = [at(step, first.output_dir) for step in (HALF - 2, HALF - 1, HALF)]
    assert sorted(first.output_dir.glob("checkpoint-*")) == sorted(kept)
    sluice_run.train({**job, "auto_resume_from_checkpoints": True, "max_steps": HALF + 2}, tmp_path)
    kept = [at(step, first.output_dir) for step in (HALF, HALF + 1, HALF + 2)]
    assert sorted(first.output_dir.glob("checkpoint-*")) == sorted(kept)


def test_what_goes_on_from_an_older_copy_keeps_its_own(workshop, tmp_path):
    job = jobs.job_of(workshop, jobs.TINY, "lora", "bf16", save_steps=1, lr_scheduler="constant", max_steps=4)
    first = sluice_run.train({**job, "save_total_limit": 9}, tmp_path)
    older = str(at(2, first.output_dir))
    again = sluice_run.train({**job, "max_steps": 3, "save_total_limit": 1, "resume_from_checkpoint": older}, tmp_path)
    assert list(again.output_dir.glob("checkpoint-*")) == [at(3, again.output_dir)]


def test_the_plan_counts_the_sets_and_refuses_what_does_not_fit(job, tmp_path):
    job = {**job, "offload": {**job["offload"], "update": "before_forward"}}

    def disk_total(**keys):
        path = sluice_run.write_job(tmp_path / "job.yaml", {"output_dir": str(tmp_path / "out"), **job, **keys})
        planned = sluice_run.sluice("plan", "--json", path)
        assert planned.returncode == 0, planned.stderr
        return json.loads(planned.stdout)

    none, one, two = (disk_total(checkpoint="in_place", save_total_limit=None), disk_total(save_total_limit=None),
                      disk_total(save_total_limit=2))
    assert none["checkpoint_bytes"] == 0 < one["checkpoint_bytes"] == two["checkpoint_bytes"] / 2
    offload = {**job["offload"], "max_disk": f"{one['peak_bytes']['disk']['total'] // 1024 + 64}KiB"}
    refused = sluice_run.try_train({**job, "offload": offload, "save_total_limit": None}, tmp_path / "small")
    assert refused.exit_code == EXIT_SETUP and "max_disk" in refused.stderr, refused.stderr
    assert "checkpoint to in_place" in refused.stderr
