"""A tensor that a program writes between two steps: what transformers makes of the same change, wherever its bytes live."""

import pytest
import safetensors.torch
import torch
from equivalence import jobs, outcome
from golden import parity, reference, sluice_run

from .conftest import needs_module
from .test_cpp import run_of

pytestmark = needs_module
MODEL = jobs.TINY
NAMES = ["model.embed_tokens.weight", "model.layers.1.mlp.down_proj.weight", "model.norm.weight"]
PLACES = {
    "disk": {"device": "cpu", "offload": {"params": "disk", "gradients": "disk", "optimizer": "disk"}},
    "host": {"device": "cpu", "offload": {"params": "host", "optimizer": "host"}},
    "emulated": {"device": "emulated", "offload": {"params": "disk", "gradients": "disk", "optimizer": "disk"}},
    "device": {"device": "emulated", "offload": {"params": "device", "gradients": "device", "optimizer": "device"}},
}
START = "import safetensors.torch\nimport torch\nimport sluice\n"


def keys_of(workshop, tmp_path, method, precision, place, **more):
    where = PLACES[place]
    return {**jobs.job_of(workshop, MODEL, method, precision, offload=where["offload"]), "device": where["device"],
            "output_dir": str(tmp_path / "out"), **more}


WRITES = START + """
values = safetensors.torch.load_file(file)
with sluice.Trainer(None, keys) as trainer:
    for _ in range(4):
        trainer.step()
    for name, value in values.items():
        trainer.write_parameter(name, value)
        assert torch.equal(torch.from_dlpack(trainer.read_parameter(name)), value), name
    trainer.train()
"""


@pytest.mark.parametrize("place", PLACES)
def test_training_goes_on_from_it_as_in_transformers(workshop, run_python, tmp_path, place):
    model_dir = workshop.model(MODEL)
    initial = parity.full_weights(reference.load(model_dir))
    torch.manual_seed(5)
    values = {name: initial[name] + 0.05 * torch.randn_like(initial[name]) for name in NAMES}
    safetensors.torch.save_file(values, tmp_path / "values.safetensors")
    done = run_python(WRITES, keys=keys_of(workshop, tmp_path, "full", "fp32", place), file=str(tmp_path / "values.safetensors"))
    assert done.returncode == 0, done.stderr

    def replace(step, model):
        if step == 4:
            with torch.no_grad():
                for name, value in values.items():
                    model.get_parameter(name).copy_(value)

    curve = reference.train(reference.load(model_dir), workshop.rows(model_dir), jobs.RECIPE, before_step=replace)
    parity.assert_same_curve(run_of(tmp_path), curve)
    parity.assert_same_weights(parity.saved_tensors(tmp_path / "out"), parity.full_weights(curve.model), initial)


MASTERS = START + """
name = "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"
with sluice.Trainer(None, keys) as trainer:
    for _ in range(3):
        trainer.step()
    saved = trainer.save()
    torch.manual_seed(3)
    shape = next(each.shape for each in trainer.parameters() if each.name == name)
    value = torch.randn(shape)
    trainer.write_parameter(name, value.tolist())
    again = trainer.save()
    assert saved == again and again.name == "checkpoint-3", (saved, again)
    assert torch.equal(safetensors.torch.load_file(again / "adapter_model.safetensors")[name], value)
    wanted = value.bfloat16() if keys.get("bf16") else value.half()
    assert torch.equal(torch.from_dlpack(trainer.read_parameter(name)), wanted.float())
    trainer.train()
"""


@pytest.mark.parametrize("place", ("disk", "host"))
@pytest.mark.parametrize("precision", ("bf16", "fp16"))
def test_the_master_is_what_was_written_to_the_last_bit(workshop, run_python, tmp_path, precision, place):
    done = run_python(MASTERS, keys=keys_of(workshop, tmp_path, "lora", precision, place))
    assert done.returncode == 0, done.stderr


REWRITES = START + """
with sluice.Trainer(None, keys) as trainer:
    while trainer.steps_done < 6:
        trainer.step()
    for each in trainer.parameters():
        trainer.write_parameter(each.name, trainer.read_parameter(each.name))
    trainer.stop()
keys["auto_resume_from_checkpoints"] = True
with sluice.Trainer(None, keys) as trainer:
    trainer.train()
"""


@pytest.mark.parametrize("checkpoint", ("two_sets", "in_place"))
def test_what_is_written_as_it_was_changes_no_bit_in_any_checkpoint(workshop, run_python, tmp_path, checkpoint):
    keys = keys_of(workshop, tmp_path, "full", "fp32", "disk", checkpoint=checkpoint, save_steps=2)
    judged = sluice_run.train({**keys, "output_dir": str(tmp_path / "judged" / "out")}, tmp_path / "judged")
    done = run_python(REWRITES, keys=keys)
    assert done.returncode == 0, done.stderr
    outcome.assert_identical(judged, run_of(tmp_path), "a run whose tensors were written as they were")


REFUSALS = START + """
trainer = sluice.Trainer(None, keys)
frozen, trained = "model.norm.weight", "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"
shapes = {each.name: each.shape for each in trainer.parameters()}

def refused(what, name, values):
    try:
        trainer.write_parameter(name, values)
        print(what + ": not refused")
    except sluice.JobError as error:
        print(what + ":", error)

refused("early", trained, torch.zeros(shapes[trained]))
for _ in range(2):
    trainer.step()
refused("frozen", frozen, torch.zeros(shapes[frozen]))
refused("unknown", trained.replace("up_", "upp_"), torch.zeros(shapes[trained]))
refused("shape", trained, torch.zeros(3))
refused("number", trained, torch.full(shapes[trained], 1e6))
trainer.train()
refused("finished", trained, torch.zeros(shapes[trained]))
"""


def test_what_cannot_be_written_is_refused(workshop, run_python, tmp_path):
    keys = keys_of(workshop, tmp_path, "lora", "fp16", "disk", fp16_init_scale=1)
    judged = sluice_run.train({**keys, "output_dir": str(tmp_path / "judged" / "out")}, tmp_path / "judged")
    done = run_python(REFUSALS, keys=keys)
    assert done.returncode == 0, done.stderr
    said = dict(line.split(": ", 1) for line in done.stdout.splitlines() if not line.startswith("  fix: "))
    assert said["early"].startswith("nothing has been trained since this Trainer was made")
    assert said["frozen"] == "model.norm.weight is frozen"
    assert said["unknown"].startswith("the model has no tensor ")
    assert said["shape"].endswith(" and (3,) is given")
    assert said["number"].endswith("1000000.000000 is not finite in f16")
    assert said["finished"].startswith("the training has been finished")
    assert done.stdout.count("  fix: ") == len(said)
    outcome.assert_identical(judged, run_of(tmp_path), "a run with refusals")
