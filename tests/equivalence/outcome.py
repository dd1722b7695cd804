"""All that training computes, to the last bit."""

import json

from golden import checkpoint_files

NUMBERS = ("step", "loss", "grad_norm", "learning_rate", "tokens", "loss_scale", "skipped")  # the last two of fp16


def numbers_text(run):
    """The columns that depend on arithmetic alone, as they are written."""
    lines = (run.output_dir / "trainer_log.jsonl").read_text().splitlines()
    return [tuple(str(json.loads(line, parse_float=str).get(name)) for name in NUMBERS) for line in lines]


def tensors(run):
    """The result's tensor files, and the optimizer's states in the checkpoint of the last step."""
    files = {path.name: path.read_bytes() for path in sorted(run.output_dir.glob("*.safetensors"))}
    assert files, f"{run.output_dir} has no result"
    states = checkpoint_files.states(run.output_dir / "checkpoint-10")
    assert states
    return {**files, **states}


def assert_identical(run, other, what):
    assert numbers_text(run) == numbers_text(other), f"the numbers of {what} differ"
    ours, theirs = tensors(run), tensors(other)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name] == theirs[name], f"{name} of {what} differs"
