"""What agreement means: design.md, "What it must agree with"."""

from pathlib import Path

import peft
import safetensors.torch

LOSS_DIFFERENCE_MAX = 1e-3
LOSS_DIFFERENCE_MEAN = 1e-5
GRAD_NORM_RELATIVE = 1e-4
# Of a tensor's difference to how far training moved it. The judge differs from itself (eager and sdpa attention) by
# 3e-4 at most, in the key biases of qwen2, whose gradients are nearly zero.
WEIGHT_RELATIVE = 2e-3


def differences(ours, theirs):
    assert len(ours) == len(theirs), f"{len(ours)} steps, not {len(theirs)}"
    return [abs(a - b) for a, b in zip(ours, theirs)]


def assert_same_curve(run, curve):
    assert run.column("step") == list(range(1, len(curve.loss) + 1))
    assert run.column("learning_rate") == [_near(value) for value in curve.learning_rate]
    loss = differences(run.column("loss"), curve.loss)
    norm = [d / n for d, n in zip(differences(run.column("grad_norm"), curve.grad_norm), curve.grad_norm)]
    print(f"loss difference: max {max(loss):.1e} mean {sum(loss) / len(loss):.1e}; grad norm: {max(norm):.1e} relative")
    assert max(loss) <= LOSS_DIFFERENCE_MAX and sum(loss) / len(loss) <= LOSS_DIFFERENCE_MEAN, _first(loss)
    assert max(norm) <= GRAD_NORM_RELATIVE, _first(norm)


def _near(value):
    import pytest

    return pytest.approx(value, rel=1e-6, abs=1e-12)


def _first(values):
    return "by step: " + " ".join(f"{value:.1e}" for value in values)


def saved_tensors(directory):
    tensors = {}
    for file in sorted(Path(directory).glob("*model*.safetensors")):
        tensors.update(safetensors.torch.load_file(file))
    return tensors


def assert_same_weights(saved, trained, initial):
    """Three dictionaries of the same names."""
    assert saved.keys() == trained.keys()
    for name, tensor in trained.items():
        assert saved[name].shape == tensor.shape, name
        moved = (tensor - initial[name]).norm()
        off = (saved[name].float() - tensor).norm()
        assert off <= WEIGHT_RELATIVE * moved + 1e-7, f"{name}: off by {off:.2e} of {moved:.2e} moved"


def full_weights(model):
    """As transformers saves them: a tied head is the embedding, once."""
    tied = set(model.all_tied_weights_keys)
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items() if name not in tied}


def adapter_weights(model):
    return {name: tensor.detach().clone() for name, tensor in peft.get_peft_model_state_dict(model).items()}
