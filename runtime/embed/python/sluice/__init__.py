"""Fine-tuning of language models that do not fit the machine, from Python.

    import sluice
    trainer = sluice.Trainer("models/SmolLM2-135M", {"output_dir": "out", "learning_rate": 1e-4, "max_steps": 100},
                             train_dataset=rows)   # rows: (token ids, labels) of each document
    trainer.train()

Keys are those of a job file (`sluice train --help` lists them). sluice.transformers.Trainer takes
transformers.TrainingArguments in their place.
"""

import atexit
import json
import os
import weakref
from pathlib import Path

import torch as _torch  # the LibTorch that the runtime computes with: its libraries are then loaded

from . import _data
from ._loss import LossChunk, sum_of
from ._sluice import Checkpoint, JobError, Parameter, Plan, Step, TrainingError, Validated, __version__
from ._sluice import Trainer as _Trainer
from ._sluice import plan_of as _plan_of

__all__ = ["Checkpoint", "JobError", "LossChunk", "Parameter", "Plan", "Step", "Trainer", "TrainingError", "Validated",
           "__version__", "plan"]


_open = weakref.WeakSet()


@atexit.register
def _close_all():
    """Of a script's own Trainers: callbacks that see its globals keep them for as long as the interpreter has those."""
    for trainer in list(_open):
        try:
            trainer.close()
        except JobError:
            pass  # tensors lie in its memory


def _plain(value):
    """Paths as text, tuples as lists: what JSON, which is YAML, knows."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _job(model_dir, args, train_dataset, data_name="data", loss=None, loss_name="loss"):
    """What _sluice's functions take."""
    settings = [] if model_dir is None else [f"base_model={json.dumps(os.fspath(model_dir))}"]
    job = {"file": "", "yaml": "", "settings": settings, "batch_of": None, "rows": 0, "row_of": None, "data_name": data_name,
           "sum_of": None if loss is None else sum_of(loss), "loss_name": loss_name}
    if isinstance(args, dict):
        job["yaml"] = json.dumps(_plain(args))
    elif isinstance(args, (str, os.PathLike)):
        text = os.fspath(args)
        if ":" in text and ("\n" in text or not Path(text).exists()):
            job["yaml"] = text
        else:
            job["file"] = text
    else:
        raise TypeError(f"args is {type(args).__name__}\n  fix: give a dict of a job's keys, a YAML text, or a job file's path")
    if train_dataset is None:
        return job
    if isinstance(train_dataset, (str, bytes, dict)):
        raise TypeError(f"train_dataset is {type(train_dataset).__name__}"
                        "\n  fix: give an iterable of (token ids, labels), or name files by the key datasets")
    if isinstance(train_dataset, _data.Composed):
        job["batch_of"] = train_dataset
    elif hasattr(train_dataset, "__len__") and hasattr(train_dataset, "__getitem__"):
        rows = _data.Rows(train_dataset)
        job.update(row_of=rows, rows=rows.count)
    elif hasattr(train_dataset, "__iter__"):
        job["batch_of"] = _data.Stream(train_dataset)
    else:
        raise TypeError(f"train_dataset is {type(train_dataset).__name__}, which is no iterable"
                        "\n  fix: give an iterable of (token ids, labels)")
    return job


def plan(model_dir, args, *, train_dataset=None):
    """What a job would do on this machine: predicted step time, peaks, tokens per second. Writes nothing of the job.

    Arguments as of Trainer. Returns a Plan, whose text says where each byte would live and why.
    """
    return _plan_of(_job(model_dir, args, train_dataset))


class Trainer:
    """Trains one job.

    model_dir: a Hugging Face directory; None where `args` has base_model.
    args: a dict of a job's keys, a YAML text, or the path of a job file.
    train_dataset: in place of the key `datasets`. With a length and an index, its rows are shuffled by `seed`
        (`curriculum_sampling: true`: in order), batched and repeated for num_epochs; any other iterable is read in its
        order for max_steps. Each row is one document: token ids [N], or (token ids [N], labels [N]), or a mapping with
        input_ids [N], and perhaps labels [N] and attention_mask [N], N at most sequence_len. Labels are not shifted: the
        token itself, or -100 where nothing is learnt; without labels every token is. Lists, NumPy arrays and torch
        tensors will do; arrays of int32 are read where they lie.
    on_step, on_checkpoint, on_validation: called with a Step, Checkpoint, Validated once that is whole.
    should_stop: called after each step of train(); True ends it with a checkpoint.
    data_name: what checkpoints remember train_dataset by; with another name they are not resumed.
    loss: in place of cross-entropy, a function of logits [R, V] (a torch tensor, fp32), labels [R] (int64) and a LossChunk,
        R supervised tokens of a micro-batch: their sum of losses, a tensor with one number, which torch differentiates. The
        tensors end with the call. Step.loss and the gradients are of the mean over a step's supervised tokens. A pure
        function: a step may ask twice. On a thread of the runtime's; what it raises comes out of the call that trains,
        which ends as where a drive fails: another Trainer goes on from the newest checkpoint. On a GPU logits and labels are
        there, on torch's current stream, and what the loss takes of its memory comes beside offload.max_gpu.
    loss_name: what checkpoints remember it by; with another name, or without it, they are not resumed.

    All memory and disk that training will need is taken here. Raises JobError (a ValueError) where the job, its data or
    the call is wrong, TrainingError (a RuntimeError) where a running job failed; the texts are those of `sluice train`.
    The GIL is released while the runtime works. Not to be used by two threads at once, nor after a fork by the child.
    Close it, or use `with`: Python does not find a Trainer whose own callbacks refer to it before the program ends.
    """

    def __init__(self, model_dir, args, *, train_dataset=None, on_step=None, on_checkpoint=None, on_validation=None,
                 should_stop=None, data_name="data", loss=None, loss_name="loss"):
        self._native = None
        _open.add(self)
        self._native = _Trainer(_job(model_dir, args, train_dataset, data_name, loss, loss_name), step=on_step,
                                checkpoint=on_checkpoint, validation=on_validation, should_stop=should_stop)

    def train(self):
        """Trains to the end and writes the result to output_dir: True. Stopped by should_stop: False.

        What a callback, the dataset or Ctrl-C raises comes out of here, after the step that ran and a checkpoint.
        """
        return self._native.run()

    def step(self):
        """One step, with the checkpoint and the validation that the job asks for after it. Returns a Step."""
        return self._native.step()

    def evaluate(self, eval_dataset=None):
        """Mean loss per supervised token, with the newest weights: of the job's validation rows, or of an iterable of
        rows as train_dataset has."""
        if eval_dataset is None:
            return self._native.evaluate()
        return self._native.evaluate_data(_data.Listed(eval_dataset))

    def save(self):
        """A checkpoint of now: its folder. None where nothing has been trained yet."""
        return self._native.save()

    def finish(self):
        """After the last step(): the result in output_dir. train() does it."""
        self._native.finish()

    def stop(self):
        """Before it: a checkpoint. Returns the newest that can be gone on from, or None."""
        return self._native.stop()

    def request_stop(self):
        """train() ends after its step. Any thread."""
        self._native.request_stop()

    def parameters(self):
        """Every tensor of the model as a Parameter: its name in Hugging Face's files, its shape, whether it is trained."""
        return self._native.parameters()

    def read_parameter(self, name):
        """The newest values of a tensor as compute sees them: a new fp32 array of its shape.

        NumPy's; torch.from_dlpack(array) shares its memory.
        """
        return self._native.read_parameter(name)

    def write_parameter(self, name, values):
        """Puts values in the place of a trained tensor's, for all that follows.

        values: numbers of the tensor's shape, a torch tensor or an array. The fp32 master becomes these, the optimizer's
        moments stay. After a step of this Trainer: until then a tensor is that of the files.
        """
        shapes = {each.name: each.shape for each in self._native.parameters()}
        values = _torch.as_tensor(values).detach().to("cpu", _torch.float32).contiguous()
        if name in shapes and tuple(values.shape) != shapes[name]:
            raise JobError(f"{name} has the shape {shapes[name]}, and {tuple(values.shape)} is given"
                           "\n  fix: parameters() tells each tensor's shape")
        self._native.write_parameter(name, values.numpy())

    def view_parameter(self, name):
        """The same where it lies in the runtime's memory, without a copy: a torch tensor of compute's type, for reading only.

        Its values are the newest until the next call that trains, evaluates or saves. None where the plan does not keep
        the tensor in RAM, and of frozen tensors. The Trainer is not closed while such a tensor is there.
        """
        view = self._native.view_parameter(name)
        return None if view is None else _torch.from_dlpack(view)

    @property
    def plan(self):
        """What was planned: a Plan."""
        return self._native.plan

    @property
    def output_dir(self):
        return self._native.output_dir

    @property
    def steps_done(self):
        """Those before the checkpoint that it went on from among them."""
        return self._native.steps_done

    @property
    def steps_total(self):
        return self._native.steps_total

    def close(self):
        """Gives back memory, disk and the lock on output_dir. Writes no checkpoint; every later call raises JobError."""
        if self._native is not None:
            self._native.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
