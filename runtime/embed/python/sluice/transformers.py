"""transformers.Trainer's common call, trained by Sluice:

    from sluice.transformers import Trainer
    trainer = Trainer(model=model, args=TrainingArguments(...), train_dataset=rows, data_collator=collator)
    trainer.train()

What is not supported is refused by name, before anything is written. The model's weights come from the folder that it was
loaded from, and must still be those. Each step has the rows that transformers.Trainer gives it.
"""

import math
import os
from pathlib import Path
from types import SimpleNamespace

import torch
import transformers
from accelerate.data_loader import SeedableRandomSampler
from transformers.trainer_utils import TrainOutput

from . import Trainer as _Trainer
from . import _data
from ._sluice import JobError

_KEYS = {
    "output_dir": "output_dir", "per_device_train_batch_size": "micro_batch_size", "learning_rate": "learning_rate",
    "weight_decay": "weight_decay", "adam_beta1": "adam_beta1", "adam_beta2": "adam_beta2",
    "adam_epsilon": "adam_epsilon", "max_grad_norm": "max_grad_norm",
    "gradient_accumulation_steps": "gradient_accumulation_steps", "bf16": "bf16", "fp16": "fp16", "seed": "seed",
    "save_only_model": "save_only_model", "save_total_limit": "save_total_limit",
}
_EXAMINED = {"num_train_epochs", "max_steps", "lr_scheduler_type", "warmup_steps", "optim", "save_strategy", "save_steps",
             "logging_steps", "use_cpu", "resume_from_checkpoint", "eval_strategy", "train_sampling_strategy", "data_seed",
             "accelerator_config"}
# They change how transformers computes, shows or stores the same run, not what comes out.
_HARMLESS = {
    "gradient_checkpointing", "gradient_checkpointing_kwargs", "torch_compile", "torch_compile_backend", "torch_compile_mode",
    "use_liger_kernel", "liger_kernel_config", "use_cache", "torch_empty_cache_steps", "auto_find_batch_size",
    "logging_strategy", "logging_first_step", "log_on_each_node", "logging_nan_inf_filter", "log_level",
    "log_level_replica", "disable_tqdm", "run_name", "project", "report_to", "save_on_each_node", "tf32",
    "per_device_eval_batch_size", "eval_accumulation_steps", "eval_do_concat_batches", "prediction_loss_only",
    "dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers",
    "dataloader_prefetch_factor", "dataloader_multiprocessing_context", "dataloader_in_order", "remove_unused_columns",
    "ddp_timeout", "ddp_backend", "local_rank", "do_train", "do_eval", "skip_memory_metrics", "full_determinism",
    "average_tokens_across_devices", "bf16_full_eval", "fp16_full_eval",
}
_OPTIMIZERS = {"adamw_torch", "adamw_torch_fused", "adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit",
               "paged_adamw_32bit", "lion_32bit", "lion_8bit"}
_SCHEDULES = {"linear", "cosine", "constant", "constant_with_warmup"}
_COLUMNS = ("input_ids", "attention_mask", "labels")


def _text(value):
    return str(getattr(value, "value", value))


def _refuse_unsupported(args):
    """Every field that is neither ours nor harmless, and not as transformers has it by default."""
    usual = type(args)(output_dir=args.output_dir)
    unsupported = [f"{name}={_text(value)}" for name, value in vars(args).items()
                   if not name.startswith("_") and name not in _KEYS and name not in _EXAMINED and name not in _HARMLESS
                   and name in type(args).__dataclass_fields__ and value != getattr(usual, name)]
    for name, supported in (("optim", _OPTIMIZERS), ("lr_scheduler_type", _SCHEDULES), ("eval_strategy", {"no"}),
                            ("save_strategy", {"no", "steps", "epoch"}), ("train_sampling_strategy", {"random", "sequential"})):
        if _text(getattr(args, name)) not in supported:
            unsupported.append(f"{name}={_text(getattr(args, name))}")
    if not getattr(args.accelerator_config, "use_seedable_sampler", True):
        unsupported.append("use_seedable_sampler=False")
    if unsupported:
        raise JobError(f"TrainingArguments: {', '.join(sorted(unsupported))}: not supported by Sluice"
                       "\n  fix: leave them as they are by default, or use transformers.Trainer")


def _every(steps, steps_total):
    """As transformers reads logging_steps and save_steps: below one, a share of all steps."""
    return max(int(steps) if steps >= 1 else math.ceil(steps_total * steps), 1)


class _Epochs:
    """Which rows make which micro-batch in transformers.Trainer: an order for each epoch, at whose end batches are smaller."""

    def __init__(self, rows, args):
        self._rows = rows
        self._args = args
        self._micro_batches = math.ceil(rows / args.per_device_train_batch_size)
        self.steps_each = math.ceil(self._micro_batches / args.gradient_accumulation_steps)
        self.steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * self.steps_each)
        self._epoch, self._order = None, None

    def rows_of(self, step, micro_batch):
        epoch, step = divmod(step, self.steps_each)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._order_of(epoch)
        size = self._args.per_device_train_batch_size
        first = (step * self._args.gradient_accumulation_steps + micro_batch) * size
        return self._order[first:first + size]

    def done_after(self, steps):
        """Epochs, a part of one among them."""
        epochs, steps = divmod(steps, self.steps_each)
        return epochs + min(steps * self._args.gradient_accumulation_steps / self._micro_batches, 1)

    def _order_of(self, epoch):
        if _text(self._args.train_sampling_strategy) == "sequential":
            return range(self._rows)
        seed = self._args.seed if self._args.data_seed is None else self._args.data_seed
        sampler = SeedableRandomSampler(range(self._rows), data_seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)


def job_keys(args, rows):
    """The keys of a job that these TrainingArguments ask for, of a dataset of so many rows. Raises JobError naming all that
    is not supported."""
    _refuse_unsupported(args)
    keys = {ours: getattr(args, theirs) for theirs, ours in _KEYS.items() if getattr(args, theirs) is not None}
    keys |= {"optimizer": _text(args.optim), "lr_scheduler": _text(args.lr_scheduler_type)}
    epochs = _Epochs(rows, args)
    keys["max_steps"] = epochs.steps
    if args.warmup_steps:
        keys["warmup_ratio" if args.warmup_steps < 1 else "warmup_steps"] = args.warmup_steps
    if _text(args.save_strategy) == "steps":
        keys["save_steps"] = _every(args.save_steps, epochs.steps)
    elif _text(args.save_strategy) == "epoch":
        keys["save_steps"] = epochs.steps_each
    if args.use_cpu:
        keys["device"] = "cpu"
    return keys


def _folder_of(model):
    """The folder of a model's weights, which are compared with those that the model has."""
    if isinstance(model, (str, os.PathLike)):
        return Path(model)
    if not isinstance(model, transformers.PreTrainedModel):
        raise JobError(f"model is {type(model).__module__}.{type(model).__name__}: not supported by Sluice"
                       "\n  fix: give a transformers model or its folder; an adapter is asked for by "
                       "sluice={'adapter': 'lora', 'lora_r': 16, ...}")
    folder = Path(model.config._name_or_path or "")
    if not folder.name or not folder.is_dir():
        raise JobError("the model was not loaded from a folder\n  fix: model.save_pretrained(FOLDER), then load it from there")
    stored = type(model).from_pretrained(folder, dtype=model.dtype).state_dict()
    for name, tensor in model.state_dict().items():
        if name not in stored or not torch.equal(tensor.cpu(), stored[name]):
            raise JobError(f"the model's {name} is not what {folder} holds: only that folder is read"
                           "\n  fix: model.save_pretrained(FOLDER), then load it from there")
    return folder


class _Collated:
    """Rows as a data collator makes them, one at a time: there is nothing to pad."""

    def __init__(self, dataset, collator, remove_unused_columns):
        self._dataset = dataset
        self._collator = collator
        self._remove = remove_unused_columns

    def __len__(self):
        return len(self._dataset)

    def __iter__(self):
        return (self[row] for row in range(len(self)))

    def __getitem__(self, row):
        features = self._dataset[row]
        if self._remove and hasattr(features, "keys"):
            features = {name: features[name] for name in features.keys() if name in _COLUMNS}
        collated = self._collator([features])
        if "labels" not in collated:
            raise JobError(f"row {row} of the dataset has no labels\n  fix: give labels, or a data_collator that makes them, "
                           "for example DataCollatorForLanguageModeling(tokenizer, mlm=False)")
        return collated

    def longest(self):
        return max(len(_data.document(self[row], f"row {row} of the dataset")[0]) for row in range(len(self)))


class Trainer:
    """transformers.Trainer for causal language models.

    model: a transformers model that was loaded from a folder, or the folder. After train() such a model has the new weights.
    args: transformers.TrainingArguments.
    train_dataset, eval_dataset: with a length and an index; each row a mapping with input_ids [N], and labels [N] where
        data_collator does not make them.
    data_collator: called with one row at a time; by default transformers' own.
    sluice: keys of a job that TrainingArguments have none for: {"offload": {"max_gpu": "8GiB"}}, {"adapter": "lora", ...}.
    """

    def __init__(self, model=None, args=None, data_collator=None, train_dataset=None, eval_dataset=None,
                 processing_class=None, *, sluice=None, **unsupported):
        given = [name for name, value in unsupported.items() if value not in (None, (None, None), [], ())]
        if given:
            raise JobError(f"Trainer: {', '.join(sorted(given))}: not supported by Sluice"
                           "\n  fix: leave it out, or use transformers.Trainer")
        if args is None or train_dataset is None or model is None:
            raise JobError("Trainer needs model, args and train_dataset\n  fix: give all three")
        if not hasattr(train_dataset, "__len__") or not hasattr(train_dataset, "__getitem__"):
            raise JobError(f"train_dataset is {type(train_dataset).__name__}, without length and index: not supported here"
                           "\n  fix: use sluice.Trainer, which reads any iterable, with sequence_len and max_steps")
        if len(train_dataset) == 0:
            raise JobError("train_dataset has no rows\n  fix: look at what it was made from, or filtered by")
        self.model = model
        self.args = args
        self.train_dataset = train_dataset
        self.eval_dataset = eval_dataset
        self.processing_class = processing_class
        if data_collator is None:
            has_padding = processing_class is not None and hasattr(processing_class, "pad")
            data_collator = (transformers.DataCollatorWithPadding(processing_class) if has_padding
                             else transformers.default_data_collator)
        self.data_collator = data_collator
        self.state = SimpleNamespace(global_step=0, max_steps=0, epoch=0, log_history=[])
        self._unlogged = []
        decided = {"max_steps", "micro_batch_size", "gradient_accumulation_steps"} & set(sluice or {})
        if decided:
            raise JobError(f"sluice: {', '.join(sorted(decided))}: TrainingArguments say that\n  fix: leave it out here")
        self._epochs = _Epochs(len(train_dataset), args)
        self._keys = {**job_keys(args, len(train_dataset)), **(sluice or {})}
        self._folder = _folder_of(model)
        self._native = None

    def _rows(self, dataset):
        return _Collated(dataset, self.data_collator, self.args.remove_unused_columns)

    def _log(self, step):
        """The loss is the mean since the last entry."""
        self.state.global_step = step.step
        self.state.epoch = self._epochs.done_after(step.step)
        self._unlogged.append(step.loss)
        due = step.step % _every(self.args.logging_steps, self._epochs.steps) == 0
        if due or (step.step == 1 and self.args.logging_first_step):
            loss = sum(self._unlogged) / len(self._unlogged)
            self._unlogged.clear()
            self.state.log_history.append({"step": step.step, "epoch": self.state.epoch, "loss": loss,
                                           "grad_norm": step.grad_norm, "learning_rate": step.learning_rate})

    def train(self, resume_from_checkpoint=None):
        """Returns a transformers TrainOutput: steps, mean loss, metrics."""
        resume = resume_from_checkpoint or self.args.resume_from_checkpoint
        rows = self._rows(self.train_dataset)
        keys = {"sequence_len": max(rows.longest(), 2), **self._keys}
        if resume is True:
            keys["auto_resume_from_checkpoints"] = True
        elif resume:
            keys["resume_from_checkpoint"] = os.fspath(resume)
        losses, tokens, seconds = [], 0, 0.0
        self.state.log_history, self._unlogged = [], []

        def note(step):
            nonlocal tokens, seconds
            losses.append(step.loss)
            tokens += step.tokens
            seconds += step.step_seconds
            self._log(step)

        self._close()
        composed = _data.Composed(rows, self._epochs.rows_of)
        self._native = _Trainer(self._folder, keys, train_dataset=composed, on_step=note, data_name="transformers")
        self.state.max_steps = self._native.steps_total
        self._native.train()
        self._take_weights()
        loss = sum(losses) / max(len(losses), 1)
        metrics = {"train_runtime": seconds, "train_tokens_per_second": tokens / seconds if seconds else 0.0,
                   "train_loss": loss}
        self.state.log_history.append({"step": self.state.global_step, "epoch": self.state.epoch, **metrics})
        return TrainOutput(self.state.global_step, loss, metrics)

    def _take_weights(self):
        if not isinstance(self.model, torch.nn.Module):
            return
        own = self.model.state_dict()
        for parameter in self._native.parameters():
            if parameter.trained and parameter.name in own:
                values = torch.from_dlpack(self._native.read_parameter(parameter.name))
                own[parameter.name].copy_(values.view(own[parameter.name].shape))

    def evaluate(self, eval_dataset=None):
        """{"eval_loss": mean loss per supervised token}, with the newest weights. After train()."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if self._native is None or dataset is None:
            raise JobError("evaluate() needs an eval_dataset, and weights that train() has loaded"
                           "\n  fix: give Trainer an eval_dataset, and call train() first")
        metrics = {"eval_loss": self._native.evaluate(self._rows(dataset))}
        self.state.log_history.append({"step": self.state.global_step, "epoch": self.state.epoch, **metrics})
        return metrics

    def save_model(self, output_dir=None):
        """The result is in args.output_dir once train() returns; elsewhere it is saved by the model itself."""
        if output_dir is None or Path(output_dir) == Path(self.args.output_dir):
            return
        if not isinstance(self.model, transformers.PreTrainedModel) or "adapter" in self._keys:
            raise JobError(f"the result is in {self.args.output_dir}\n  fix: copy it from there")
        self.model.save_pretrained(output_dir)

    def _close(self):
        if self._native is not None:
            self._native.close()
            self._native = None
