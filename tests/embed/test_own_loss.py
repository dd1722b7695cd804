"""A program's own loss over logits: what transformers makes of the same loss, in C++ and Python, and what goes wrong."""

import re
import subprocess

import pytest
import torch
from equivalence import jobs, outcome, plans
from golden import parity, reference, sluice_run

from .conftest import OWN_DATA, environment, needs_module
from .test_cpp import run_of

MODEL = jobs.TINY
LOSSES = "import torch\nimport sluice\n" + """
from torch.nn.functional import cross_entropy

def smoothed(logits, labels, chunk):
    assert logits.dtype == torch.float32 and logits.shape[0] == labels.shape[0] == len(chunk.positions) > 0
    assert (chunk.token_ids[chunk.positions + 1] == labels.numpy()).all()
    return cross_entropy(logits, labels, reduction="sum", label_smoothing=0.1)

def plain(logits, labels, chunk):
    return cross_entropy(logits, labels, reduction="sum")
"""


def smoothed(logits, labels):
    kept = labels != reference.MASKED
    return torch.nn.functional.cross_entropy(logits[kept], labels[kept], reduction="sum", label_smoothing=0.1)


@pytest.fixture
def keys_of(workshop, tmp_path):
    def keys(method="full", precision="fp32", **more):
        return {**jobs.job_of(workshop, MODEL, method, precision, **plans.DISK.keys()), "output_dir": str(tmp_path / "out"),
                **more}
    return keys


@needs_module
def test_it_follows_transformers_with_the_same_loss(workshop, run_python, keys_of, tmp_path):
    done = run_python(LOSSES + "sluice.Trainer(None, keys, loss=smoothed).train()", keys=keys_of())
    assert done.returncode == 0, done.stderr
    model_dir = workshop.model(MODEL)
    initial = parity.full_weights(reference.load(model_dir))
    curve = reference.train(reference.load(model_dir), workshop.rows(model_dir), jobs.RECIPE, loss_of=smoothed)
    parity.assert_same_curve(run_of(tmp_path), curve)
    parity.assert_same_weights(parity.saved_tensors(tmp_path / "out"), parity.full_weights(curve.model), initial)


@needs_module
@pytest.mark.parametrize(("method", "precision"), (("full", "bf16"), ("qlora", "fp16")))
def test_cross_entropy_as_a_loss_of_one_s_own_is_near_the_built_in_one(run_python, keys_of, tmp_path, method, precision):
    judged, scale = tmp_path / "judged", {"fp16_init_scale": 1024, "fp16_growth_interval": 2000} if precision == "fp16" else {}
    built_in = sluice_run.train(keys_of(method, precision, output_dir=str(judged / "out"), **scale), judged)
    done = run_python(LOSSES + "sluice.Trainer(None, keys, loss=plain).train()", keys=keys_of(method, precision, **scale))
    assert done.returncode == 0, done.stderr
    assert run_of(tmp_path).column("loss") == pytest.approx(built_in.column("loss"), rel=3e-3)
    assert run_of(tmp_path).column("grad_norm") == pytest.approx(built_in.column("grad_norm"), rel=3e-2)


STEPS = LOSSES + """
asked = []
def noted(logits, labels, chunk):
    asked.append((chunk.step, chunk.micro_batch, torch.is_grad_enabled()))
    return plain(logits, labels, chunk)
with sluice.Trainer(None, keys, loss=noted) as trainer:
    trainer.step()
    trainer.step()
    assert sorted(set(asked)) == [(step, batch, True) for step in range(2) for batch in range(3)], asked
    asked.clear()
    loss = trainer.evaluate([[3, 4, 5, 6, 7]])
    assert asked == [(-1, 0, False)] and 0 < loss < 20, (asked, loss)
"""


@needs_module
def test_it_is_told_what_the_logits_are_of(run_python, keys_of):
    done = run_python(STEPS, keys=keys_of())
    assert done.returncode == 0, done.stderr


RAISES = LOSSES + """
calls = 0
def raises(logits, labels, chunk):
    if chunk.step == 4:
        raise KeyError("the loss's own")
    return smoothed(logits, labels, chunk)
keys["save_steps"] = 2
trainer = sluice.Trainer(None, keys, loss=raises)
try:
    trainer.train()
except KeyError as error:
    assert error.args == ("the loss's own",)
    print("raised after", trainer.steps_done)
try:
    trainer.step()
except sluice.TrainingError as error:
    print(error)
trainer.close()
keys["auto_resume_from_checkpoints"] = True
for loss in (None, smoothed):
    try:
        sluice.Trainer(None, keys, loss=loss).train()
    except sluice.JobError as error:
        print(error)
"""


@needs_module
def test_what_it_raises_comes_out_and_the_newest_checkpoint_goes_on_to_the_same_bits(run_python, keys_of, tmp_path):
    done = run_python(RAISES, keys=keys_of())
    assert done.returncode == 0, done.stderr
    assert "raised after 4\n" in done.stdout and "the program's own loss threw" in done.stdout
    assert "loss is loss there and cross_entropy here\n  fix: " in done.stdout
    done = run_python(LOSSES + "sluice.Trainer(None, keys, loss=smoothed).train()",
                      keys=keys_of(output_dir=str(tmp_path / "straight" / "out")))
    assert done.returncode == 0, done.stderr
    outcome.assert_identical(run_of(tmp_path / "straight"), run_of(tmp_path), "a run whose loss raised, resumed")


@needs_module
@pytest.mark.parametrize(("loss", "text"), (
    ("lambda logits, labels, chunk: 1.0", "the loss gave float\n  fix: give its sum"),
    ("lambda logits, labels, chunk: logits", r"the loss gave a tensor of shape \(\d+, \d+\)\n  fix: "),
    ("lambda logits, labels, chunk: logits.detach().sum()", "the loss does not depend on the logits"),
    ("lambda logits: 1", "takes 1 positional argument but 7 were given|takes 1 positional argument but 3 were given"),
))
def test_what_is_no_loss_is_said(run_python, keys_of, loss, text):
    done = run_python(LOSSES + f"""
try:
    sluice.Trainer(None, keys, loss={loss}).train()
except TypeError as error:
    print(error)
""", keys=keys_of())
    assert done.returncode == 0 and re.search(text, done.stdout), done.stdout + done.stderr


def run_tensors_probe(keys, directory, *settings):
    file = sluice_run.write_job(directory / "job.yaml", keys)
    return subprocess.run([sluice_run.program("SLUICE_TENSORS_PROBE", "tensors_probe"), file, *settings], capture_output=True,
                          text=True, env=environment(), timeout=sluice_run.COMMAND_SECONDS_MAX)


@needs_module
def test_libtorch_in_c_plus_plus_gives_the_same_bits(run_python, keys_of, tmp_path):
    done = run_tensors_probe(keys_of(), tmp_path)
    assert done.returncode == 0, done.stderr
    assert "model.norm.weight: " in done.stdout and "differs" not in done.stdout
    done = run_python(LOSSES + "sluice.Trainer(None, keys, loss=smoothed, loss_name='smoothed').train()",
                      keys=keys_of(output_dir=str(tmp_path / "python" / "out")))
    assert done.returncode == 0, done.stderr
    outcome.assert_identical(run_of(tmp_path / "python"), run_of(tmp_path), "C++")


def test_batches_of_tensors_train(keys_of, tmp_path):
    keys = keys_of(offload={"params": "host", "optimizer": "host"}, max_steps=4, gradient_accumulation_steps=1)
    del keys["curriculum_sampling"]
    done = run_tensors_probe(keys, tmp_path, *OWN_DATA)
    assert done.returncode == 0, done.stderr
    assert "model.norm.weight: the same in both ways" in done.stdout
    run = run_of(tmp_path)
    assert run.column("tokens") == [14] * 4 and run.column("loss")[3] < run.column("loss")[0]
