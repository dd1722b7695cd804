"""Checkpoints that are damaged, of another job, or not where one looked; and adapters that the job file contradicts."""

import json
import re
import shutil

import pytest
from golden import sluice_run, tiny_models
from golden.test_parity import lora_keys, new_adapter

MODEL = tiny_models.BY_NAME["qwen3_untied"]
TARGETS = ["q_proj", "down_proj"]
METHODS = {
    "full": {"bf16": True},
    "lora": {"bf16": True, "adapter": "lora", "lora_r": 4, "lora_alpha": 8, "lora_dropout": 0.1,
             "lora_target_modules": TARGETS},
}


class Work:
    """A finished job of four steps with checkpoints 2 and 4, in a folder of its own to break."""

    def __init__(self, directory, job):
        self.directory, self.job, self.out = directory, job, directory / "out"

    def checkpoint(self, step=2):
        return self.out / f"checkpoint-{step}"

    def resume(self, step=2, **keys):
        job = {**self.job, "output_dir": str(self.directory / "on"), "resume_from_checkpoint": str(self.checkpoint(step)),
               **keys}
        return sluice_run.try_train(job, self.directory)

    def refused(self, *patterns, step=2, **keys):
        run = self.resume(step, **keys)
        assert run.exit_code == 2, f"exit code {run.exit_code}\n{run.stdout}\n{run.stderr}"
        for pattern in patterns:
            assert re.search(pattern, run.stderr), f"no /{pattern}/ in:\n{run.stderr}"
        assert re.search(r"(?m)^  fix: \S", run.stderr), run.stderr
        assert not (self.directory / "on").exists(), "written before it was refused"

    def resumes(self, step=2, **keys):
        run = self.resume(step, **keys)
        assert run.exit_code == 0, run.stderr
        return run


@pytest.fixture(scope="module")
def finished(workshop, tmp_path_factory):
    """method -> (folder, job), trained once."""
    done = {}

    def of(method):
        if method not in done:
            directory = tmp_path_factory.mktemp(method)
            rows = tiny_models.write_rows(directory / "rows.jsonl", 40)
            job = {"base_model": str(workshop.model(MODEL)), "datasets": [{"path": str(rows), "type": "completion"}],
                   "dataset_prepared_path": str(directory / "cache"), "sequence_len": 48, "micro_batch_size": 2,
                   "max_steps": 4, "save_steps": 2, "learning_rate": 1e-3, **METHODS[method]}
            sluice_run.train(job, directory)
            done[method] = (directory, job)
        return done[method]

    return of


@pytest.fixture(params=METHODS)
def work(request, finished, tmp_path):
    return copy_of(*finished(request.param), tmp_path)


@pytest.fixture
def full(finished, tmp_path):
    return copy_of(*finished("full"), tmp_path)


@pytest.fixture
def lora(finished, tmp_path):
    return copy_of(*finished("lora"), tmp_path)


def copy_of(directory, job, into):
    shutil.copytree(directory / "out", into / "out")
    return Work(into, dict(job))


def flip_bit(path, offset):
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def edit_state(checkpoint, change):
    """As an older version would have left it: the checksums would tell otherwise."""
    path = checkpoint / "trainer_state.json"
    state = json.loads(path.read_text())
    change(state)
    path.write_text(json.dumps(state))


def without_sums(checkpoint):
    edit_state(checkpoint, lambda state: state.pop("checksums"))
    (checkpoint / "checksums.json").unlink()


# --- damage

def test_one_flipped_bit_in_any_file_of_a_checkpoint_is_named(work):
    files = sorted(path for path in work.checkpoint().rglob("*") if path.is_file())
    names = {path.name for path in files}
    assert {"optimizer.safetensors", "trainer_state.json", "checksums.json", "tokenizer.json"} <= names
    assert {"model.safetensors", "adapter_model.safetensors"} & names
    for path in files:
        # Late in the file: of the last tensor, not of a header that is checked anyway.
        offset = path.stat().st_size * 9 // 10
        flip_bit(path, offset)
        work.refused(re.escape(path.name), "damaged", rf"fix: resume from an older checkpoint: .*{work.checkpoint(4)}\b")
        flip_bit(path, offset)
    work.resumes()


def test_a_damaged_tensor_is_named(full):
    flip_bit(full.checkpoint() / "optimizer.safetensors", (full.checkpoint() / "optimizer.safetensors").stat().st_size - 1)
    full.refused(r"optimizer\.safetensors is damaged: the checksum of '\S+' \(bytes \d+ to \d+\) does not match")


def test_a_checkpoint_cut_short_is_named(full):
    path = full.checkpoint() / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    full.refused(r"model\.safetensors is damaged: it has \d+ bytes, \d+ were written")


def test_without_another_checkpoint_the_fix_says_so(full):
    shutil.rmtree(full.checkpoint(4))
    flip_bit(full.checkpoint() / "model.safetensors", 5000)
    full.refused("fix: there is no other checkpoint beside it")


def test_missing_sums_are_damage_unless_an_older_version_wrote_none(full):
    (full.checkpoint() / "checksums.json").unlink()
    full.refused(r"checksums\.json is missing")
    edit_state(full.checkpoint(), lambda state: state.pop("checksums"))
    assert "note: " + str(full.checkpoint()) + " was written by an older version" in full.resumes().stderr


def test_the_published_result_carries_no_sums(work):
    assert (work.checkpoint(4) / "checksums.json").exists()
    assert not (work.out / "checksums.json").exists()
    assert (work.out / "trainer_state.json").exists()


# --- another job

@pytest.mark.parametrize("keys, named", [
    ({"sequence_len": 40}, "sequence_len is 48 there and 40 here"),
    ({"sample_packing": True}, "sample_packing is false there and true here"),
    ({"val_set_size": 4}, "val_set_size is 0.0 there and 4.0 here"),
    ({"curriculum_sampling": True}, "curriculum_sampling is false there and true here"),
    ({"micro_batch_size": 1}, "micro_batch_size is 2 there and 1 here"),
], ids=lambda value: next(iter(value)) if isinstance(value, dict) else "")
def test_other_rows_are_refused(full, keys, named):
    full.refused(re.escape(str(full.checkpoint())) + " was written by another job: " + named, **keys)


def test_a_dataset_of_other_content_is_refused_and_a_moved_one_is_not(full):
    rows = full.directory / "rows.jsonl"
    text = open(full.job["datasets"][0]["path"]).read()
    rows.write_text(text.replace("disk", "dusk", 1))
    datasets = [{"path": str(rows), "type": "completion"}]
    full.refused("the datasets, or the tokenizer, have other content now", datasets=datasets)
    rows.write_text(text)
    full.resumes(datasets=datasets)


def test_another_model_is_refused_and_a_moved_one_is_noted(work, workshop):
    moved = work.directory / "moved_model"
    shutil.copytree(workshop.model(MODEL), moved)
    config = moved / "config.json"
    text = config.read_text()
    fields = json.loads(text)
    config.write_text(json.dumps({**fields, "rms_norm_eps": 1e-4}))
    work.refused("norm_epsilon is 1e-05 there and 0.0001 here", base_model=str(moved))
    config.write_text(text)
    assert f"note: resuming with base_model {moved}, the checkpoint was trained with" in \
        work.resumes(base_model=str(moved)).stderr


def test_an_adapter_does_not_go_on_over_other_weights_of_the_same_shape(lora):
    other = tiny_models.write_model(MODEL, lora.directory / "other", seed=2)
    lora.refused("base_weights_checksum is [0-9]+ there and [0-9]+ here", base_model=str(other))


@pytest.mark.parametrize("keys, named", [
    ({"lora_r": 8}, "lora_r is 8 in the job file and 4 in "),
    ({"lora_alpha": 9}, "lora_alpha is 9 in the job file and 8 in "),
    ({"lora_target_modules": ["q_proj"]}, r"lora_target_modules is \[q_proj\] in the job file and \[q_proj, down_proj\] in "),
    ({"lora_dropout": None}, "lora_dropout is 0 in the job file and 0.1 in "),
], ids=lambda value: next(iter(value)) if isinstance(value, dict) else "")
def test_an_adapter_of_other_settings_does_not_go_on(lora, keys, named):
    key = next(iter(keys))
    given = str(METHODS["lora"][key]).replace("'", "")
    lora.refused(named + r".*adapter_config\.json\n  fix: give " + re.escape(f"{key}: {given}, as when the job began"), **keys)


def test_changed_hyper_parameters_are_noted_and_used(full):
    assert "note: resuming" not in full.resumes().stderr
    shutil.rmtree(full.directory / "on")
    run = full.resumes(learning_rate=2e-4, weight_decay=0.1, max_steps=5)
    assert "note: resuming with learning_rate 0.0002, the checkpoint was trained with 0.001\n" in run.stderr
    assert "note: resuming with weight_decay 0.1, the checkpoint was trained with 0.0\n" in run.stderr
    assert "note: resuming with max_steps 5, the checkpoint was trained with 4\n" in run.stderr
    assert run.column("step") == [3, 4, 5] and max(run.column("learning_rate")) < 2e-4


def test_a_checkpoint_of_an_older_version_resumes(work):
    straight = (work.out / "checkpoint-4" / "optimizer.safetensors").read_bytes()
    without_sums(work.checkpoint())
    kept = "global_step max_steps start_seconds validation_losses compute_dtype adapter seed micro_batch_size " \
           "gradient_accumulation_steps".split()
    edit_state(work.checkpoint(), lambda state: [state.pop(key) for key in list(state) if key not in kept])
    assert work.resumes().exit_code == 0
    assert (work.directory / "on" / "checkpoint-4" / "optimizer.safetensors").read_bytes() == straight


# --- not where one looked

def test_an_output_dir_in_place_of_a_checkpoint_names_the_newest_inside(full):
    full.refused(r"out is not a checkpoint: it has no optimizer\.safetensors",
                 rf"fix: name the newest checkpoint in it: resume_from_checkpoint: {full.checkpoint(4)}\n",
                 resume_from_checkpoint=str(full.out))


def test_a_folder_without_any_checkpoint_is_refused(full):
    (full.directory / "empty").mkdir()
    full.refused("empty is not a checkpoint", "fix: name a folder checkpoint-N",
                 resume_from_checkpoint=str(full.directory / "empty"))


def test_a_trailing_slash_is_no_other_folder(full):
    full.resumes(resume_from_checkpoint=str(full.checkpoint()) + "/")


def test_half_written_checkpoints_of_a_killed_run_are_removed_by_the_next(full):
    shutil.rmtree(full.checkpoint(4))
    partial = full.out / "checkpoint-3.partial"
    partial.mkdir()
    (partial / "model.safetensors").write_bytes(bytes(1000))
    others = [full.out / "checkpoint-x.partial", full.out / "mine.partial"]
    for other in others:
        other.mkdir()
    job = {**full.job, "auto_resume_from_checkpoints": True}
    plan = sluice_run.sluice("plan", sluice_run.write_job(full.directory / "plan.yaml", {**job, "output_dir": str(full.out)}))
    assert plan.returncode == 0 and partial.exists(), "a plan writes nothing"
    assert sluice_run.try_train(job, full.directory).exit_code == 0
    assert not partial.exists() and full.checkpoint(4).exists()
    assert all(other.exists() for other in others)


# --- lora_model_dir

@pytest.fixture
def from_adapter(lora, workshop):
    adapter = new_adapter(workshop.model(MODEL), lora.directory / "adapter", TARGETS)
    return {**{key: value for key, value in lora.job.items() if not key.startswith("lora_")},
            **lora_keys(adapter, TARGETS)}


@pytest.mark.parametrize("keys, named", [
    ({"lora_r": 16}, "lora_r is 16 in the job file and 5 in "),
    ({"lora_alpha": 16}, "lora_alpha is 16 in the job file and 12 in "),
    ({"lora_target_modules": None, "lora_target_linear": True}, r"lora_target_modules is \[q_proj, k_proj, .*\] in the job "
                                                                r"file and \[q_proj, down_proj\] in "),
], ids=lambda value: next(iter(value)) if isinstance(value, dict) else "")
def test_a_job_file_that_contradicts_its_lora_model_dir_is_refused(from_adapter, tmp_path, keys, named):
    run = sluice_run.try_train({**from_adapter, **keys}, tmp_path / "job")
    assert run.exit_code == 2 and re.search(named, run.stderr), run.stderr
    assert re.search(r"adapter_config\.json\n  fix: remove lora_", run.stderr)
    assert not run.output_dir.exists()


def test_what_the_job_file_leaves_out_is_the_adapters_and_noted(from_adapter, tmp_path):
    config = json.loads(open(from_adapter["lora_model_dir"] + "/adapter_config.json").read())
    config["lora_dropout"] = 0.25
    open(from_adapter["lora_model_dir"] + "/adapter_config.json", "w").write(json.dumps(config))
    job = {**from_adapter, "lora_r": None, "lora_alpha": None, "lora_target_modules": None}
    run = sluice_run.train(job, tmp_path / "job")
    assert re.search(r"note: taken from \S+: lora_r 5, lora_alpha 12, lora_target_modules \[q_proj, down_proj\], "
                     r"lora_dropout 0\.25\n", run.stderr), run.stderr
    saved = json.loads((run.output_dir / "adapter_config.json").read_text())
    assert (saved["r"], saved["lora_alpha"], saved["lora_dropout"]) == (5, 12, 0.25)
    again = sluice_run.train({**job, "output_dir": str(tmp_path / "again"),
                              "resume_from_checkpoint": str(run.output_dir / "checkpoint-2")}, tmp_path / "job")
    assert (again.output_dir / "adapter_model.safetensors").read_bytes() == \
        (run.output_dir / "adapter_model.safetensors").read_bytes()
    given = sluice_run.train({**job, "lora_dropout": 0.5}, tmp_path / "given")
    assert json.loads((given.output_dir / "adapter_config.json").read_text())["lora_dropout"] == 0.5
