"""A Trainer that goes on from a checkpoint: what it does before its first step costs that checkpoint nothing."""

from dataclasses import replace

import pytest
from equivalence import jobs, outcome, plans
from golden import sluice_run

from .conftest import needs_module
from .test_cpp import run_of

pytestmark = needs_module
HALF = jobs.RECIPE.steps // 2
# More extents than a ring has buffers: what passes through one has been another's.
DEEP = replace(jobs.TINY, name="deep", fields={**jobs.TINY.fields, "num_hidden_layers": 40})
NAMES = ["model.norm.weight", "model.layers.1.mlp.down_proj.weight", "lm_head.weight"]
MODES = {"two_sets": {}, "in_place": {"checkpoint": "in_place"}}
BEGINNING = f"""
import sluice
with sluice.Trainer(None, keys) as trainer:
    for _ in range({HALF}):
        trainer.step()
    saved = {{name: trainer.read_parameter(name).copy() for name in {NAMES}}}
    trainer.stop()
keys["auto_resume_from_checkpoints"] = True
"""
BEFORE_A_STEP = {
    "nothing": "pass",
    "stop": "trainer.stop()",
    "save": f"assert trainer.save().name == 'checkpoint-{HALF}'",
    "read": """for name, values in saved.items():
        assert (trainer.read_parameter(name) == values).all(), name""",
}


@pytest.fixture(scope="module")
def deep(workshop):
    return jobs.job_of(workshop, DEEP, "full", "bf16", **plans.DISK.keys(), logging_steps=1)


@pytest.fixture(scope="module")
def straight(deep, tmp_path_factory):
    return sluice_run.train(deep, tmp_path_factory.mktemp("straight"))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("what", BEFORE_A_STEP)
def test_what_comes_before_a_step_leaves_the_checkpoint_whole(run_python, deep, straight, tmp_path, mode, what):
    keys = {**deep, **MODES[mode], "output_dir": str(tmp_path / "out")}
    done = run_python(f"{BEGINNING}with sluice.Trainer(None, keys) as trainer:\n    {BEFORE_A_STEP[what]}\n", keys=keys)
    assert done.returncode == 0, done.stderr
    whole = sluice_run.sluice("fsck", tmp_path / "out")
    assert whole.returncode == 0 and f"checkpoint-{HALF}: whole" in whole.stdout, whole.stdout
    done = run_python("import sluice\nsluice.Trainer(None, keys).train()",
                      keys={**keys, "auto_resume_from_checkpoints": True})
    assert done.returncode == 0, done.stderr
    assert outcome.tensors(run_of(tmp_path)) == outcome.tensors(straight)


def test_training_in_place_leaves_older_checkpoints_alone(run_python, job, tmp_path):
    """The first step writes over the one that it goes on from, which is void then; the one before it is not touched."""
    keys = {**job, "output_dir": str(tmp_path / "out"), "save_steps": 2, "save_total_limit": 2,
            "lr_scheduler": "constant"}
    sluice_run.train({**keys, "max_steps": 4}, tmp_path)
    keys |= {"checkpoint": "in_place", "save_total_limit": None, "save_steps": None}
    done = run_python("import os\nimport sluice\ntrainer = sluice.Trainer(None, keys)\ntrainer.step()\nos._exit(1)\n",
                      keys={**keys, "auto_resume_from_checkpoints": True})
    assert done.returncode == 1, done.stderr
    found = sluice_run.sluice("fsck", tmp_path / "out").stdout
    assert "checkpoint-4: void" in found and "checkpoint-2: whole" in found, found
    resumed = sluice_run.train({**keys, "auto_resume_from_checkpoints": True}, tmp_path)
    straight = sluice_run.train({**keys, "output_dir": str(tmp_path / "straight")}, tmp_path)
    assert outcome.tensors(resumed) == outcome.tensors(straight)
