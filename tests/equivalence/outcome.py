"""All that training computes, to the last bit."""

import json

NUMBERS = ("step", "loss", "grad_norm", "learning_rate", "tokens", "loss_scale", "skipped")  # the last two of fp16


def numbers_text(run):
    """The columns that depend on arithmetic alone, as they are written."""
    lines = (run.output_dir / "trainer_log.jsonl").read_text().splitlines()
    return [tuple(str(json.loads(line, parse_float=str).get(name)) for name in NUMBERS) for line in lines]


def tensors(run):
    """Every tensor file: the result, and the checkpoint of the last step with the optimizer's states."""
    files = [*run.output_dir.glob("*.safetensors"), *run.output_dir.glob("checkpoint-10/*.safetensors")]
    assert len(files) >= 3, f"{run.output_dir} lacks tensor files: {files}"
    return {str(path.relative_to(run.output_dir)): path.read_bytes() for path in sorted(files)}


def assert_identical(run, other, what):
    assert numbers_text(run) == numbers_text(other), f"the numbers of {what} differ"
    ours, theirs = tensors(run), tensors(other)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name] == theirs[name], f"{name} of {what} differs"
