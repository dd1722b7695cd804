"""The judge: transformers, peft and torch.optim.AdamW train on the same rows, step by step."""

from dataclasses import dataclass, field

import peft
import torch
import transformers

MASKED = -100


@dataclass(frozen=True)
class Recipe:
    """What both sides do; `yaml()` says it to Sluice."""

    rows_per_micro_batch: int = 2
    micro_batches: int = 1
    steps: int = 50
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    warmup_steps: int = 5
    weight_decay: float = 0.1
    beta2: float = 0.99
    epsilon: float = 1e-8
    grad_norm_max: float = 1.0
    optimizer: str = "adamw_torch"

    @property
    def rows_per_step(self):
        return self.rows_per_micro_batch * self.micro_batches

    @property
    def rows(self):
        return self.rows_per_step * self.steps

    def yaml(self):
        return dict(
            micro_batch_size=self.rows_per_micro_batch,
            gradient_accumulation_steps=self.micro_batches,
            max_steps=self.steps,
            learning_rate=self.learning_rate,
            lr_scheduler=self.schedule,
            warmup_steps=self.warmup_steps,
            weight_decay=self.weight_decay,
            adam_beta2=self.beta2,
            adam_epsilon=self.epsilon,
            max_grad_norm=self.grad_norm_max,
            optimizer=self.optimizer,
        )


@dataclass
class Curve:
    loss: list
    grad_norm: list
    learning_rate: list
    model: torch.nn.Module
    loss_scale: list = field(default_factory=list)  # with a scaler: before each step
    skipped: list = field(default_factory=list)


def load(model_dir, dtype=torch.float32, attention="eager"):
    """Eager attention is the plain formula, with every mask written out."""
    return transformers.AutoModelForCausalLM.from_pretrained(model_dir, dtype=dtype, attn_implementation=attention)


def load_with_adapter(model_dir, adapter_dir, dtype=torch.float32, attention="eager"):
    return peft.PeftModel.from_pretrained(load(model_dir, dtype, attention), adapter_dir, is_trainable=True)


def padded(rows, labels):
    """Right padding; a padding position predicts nothing and nothing looks at it."""
    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    targets = torch.full((len(rows), longest), MASKED)
    for i, (row, label) in enumerate(zip(rows, labels)):
        ids[i, :len(row)] = torch.tensor(row)
        mask[i, :len(row)] = 1
        targets[i, :len(row)] = torch.tensor(label)
    return ids, mask, targets


def cross_entropy(logits, labels):
    return torch.nn.functional.cross_entropy(logits, labels, ignore_index=MASKED, reduction="sum")


def loss_sum(model, rows, labels, loss_of=cross_entropy):
    ids, mask, targets = padded(rows, labels)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    return loss_of(logits[:, :-1].float().reshape(-1, logits.shape[-1]), targets[:, 1:].reshape(-1))


def supervised_tokens(labels):
    return sum(label != MASKED for row in labels for label in row[1:])


def optimizer_of(model, recipe):
    """transformers' Trainer: no weight decay for biases and norms."""
    decayed = set(transformers.Trainer.get_decay_parameter_names(None, model))
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    groups = [
        {"params": [p for name, p in trainable.items() if name in decayed], "weight_decay": recipe.weight_decay},
        {"params": [p for name, p in trainable.items() if name not in decayed], "weight_decay": 0.0},
    ]
    settings = {"lr": recipe.learning_rate, "betas": (0.9, recipe.beta2)}
    if recipe.optimizer == "adamw_torch":
        return torch.optim.AdamW(groups, **settings, eps=recipe.epsilon)
    import bitsandbytes  # not there on every machine with a GPU

    lion = {"lion_32bit": bitsandbytes.optim.Lion32bit, "lion_8bit": bitsandbytes.optim.Lion8bit}
    if recipe.optimizer in lion:
        return lion[recipe.optimizer](groups, **settings)
    return {"adamw_bnb_8bit": bitsandbytes.optim.AdamW8bit}[recipe.optimizer](groups, **settings, eps=recipe.epsilon)


def fp16_scaler(init_scale=65536.0, growth_interval=2000):
    return torch.amp.GradScaler("cpu", init_scale=init_scale, growth_interval=growth_interval)


def end_step(curve, recipe, optimizer, schedule, scaler):
    """As transformers' Trainer over accelerate: clipped unscaled, and a step that the scaler skips does not count."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    curve.learning_rate.append(schedule.get_last_lr()[0])
    if scaler is not None:
        scaler.unscale_(optimizer)
    curve.grad_norm.append(torch.nn.utils.clip_grad_norm_(parameters, recipe.grad_norm_max).item())
    if scaler is None:
        optimizer.step()
        schedule.step()
    else:
        scale = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        curve.loss_scale.append(scale)
        curve.skipped.append(scaler.get_scale() < scale)
        if not curve.skipped[-1]:
            schedule.step()
    optimizer.zero_grad()


def train(model, rows, recipe, labels=None, scaler=None, loss_of=cross_entropy, before_step=None):
    """`rows` in order, recipe.rows_per_step of them per step; every token but the first is trained on by default."""
    batches = [rows[i:i + recipe.rows_per_micro_batch] for i in range(0, recipe.rows, recipe.rows_per_micro_batch)]
    labels = labels or rows
    targets = [labels[i:i + recipe.rows_per_micro_batch] for i in range(0, recipe.rows, recipe.rows_per_micro_batch)]
    return train_on(model, batches, targets, recipe, scaler, loss_of, before_step)


def train_on(model, batches, targets, recipe, scaler=None, loss_of=cross_entropy, before_step=None):
    """`batches` and `targets`: a list of rows per micro-batch, recipe.micro_batches of them per step. `loss_of` gives the
    sum of logits [rows, vocabulary] and their labels; `before_step` is given each step, counted from 0, and the model."""
    model.train()
    optimizer = optimizer_of(model, recipe)
    schedule = transformers.get_scheduler(recipe.schedule, optimizer, recipe.warmup_steps, recipe.steps)
    curve = Curve([], [], [], model)
    for step in range(recipe.steps):
        if before_step is not None:
            before_step(step, model)
        begin = step * recipe.micro_batches
        pairs = list(zip(batches, targets))[begin:begin + recipe.micro_batches]
        supervised = sum(supervised_tokens(labels) for _, labels in pairs)
        step_loss = 0.0
        for rows, labels in pairs:
            loss = loss_sum(model, rows, labels, loss_of) / supervised
            (loss if scaler is None else scaler.scale(loss)).backward()
            step_loss += loss.item()
        curve.loss.append(step_loss)
        end_step(curve, recipe, optimizer, schedule, scaler)
    return curve


def train_with_masters(model_dir, rows, recipe, dtype, scaler=None):
    """transformers computing in `dtype`, torch's AdamW on fp32 masters: what Sluice promises, by other hands."""
    compute, masters = load(model_dir, dtype), load(model_dir, torch.float32)
    compute.train()
    optimizer = optimizer_of(masters, recipe)
    schedule = transformers.get_scheduler(recipe.schedule, optimizer, recipe.warmup_steps, recipe.steps)
    curve = Curve([], [], [], masters)
    for step in range(recipe.steps):
        step_rows = rows[step * recipe.rows_per_step:(step + 1) * recipe.rows_per_step]
        supervised = supervised_tokens(step_rows)
        step_loss = 0.0
        for begin in range(0, recipe.rows_per_step, recipe.rows_per_micro_batch):
            part = step_rows[begin:begin + recipe.rows_per_micro_batch]
            loss = loss_sum(compute, part, part) / supervised
            (loss if scaler is None else scaler.scale(loss)).backward()
            step_loss += loss.item()
            for master, p in zip(masters.parameters(), compute.parameters()):
                grad = p.grad.float()
                master.grad = grad if master.grad is None else master.grad + grad
                p.grad = None
        curve.loss.append(step_loss)
        end_step(curve, recipe, optimizer, schedule, scaler)
        with torch.no_grad():
            for master, p in zip(masters.parameters(), compute.parameters()):
                p.copy_(master)
    return curve
