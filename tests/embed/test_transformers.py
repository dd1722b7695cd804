"""The common transformers.Trainer call: the weights of the same job through the binary, and refusals by name."""

import pytest
from golden import sluice_run
from golden.parity import saved_tensors

from .conftest import needs_module

pytestmark = needs_module

START = """
from sluice.transformers import Trainer
import torch
import transformers
from transformers import AutoModelForCausalLM, TrainingArguments
arguments = dict(output_dir=out, per_device_train_batch_size=2, gradient_accumulation_steps=3, num_train_epochs=1,
                 learning_rate=1e-3, warmup_steps=2, lr_scheduler_type="cosine", weight_decay=0.1, max_grad_norm=2.0,
                 bf16=True, use_cpu=True, seed=11, optim="adamw_torch", save_strategy="no", logging_steps=1, report_to="none",
                 train_sampling_strategy="sequential")
dataset = [{"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels} for ids, labels in rows]
"""
TRAIN = START + """
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
trainer = Trainer(model=model, args=TrainingArguments(**arguments), train_dataset=dataset, eval_dataset=dataset[:9],
                  data_collator=transformers.default_data_collator, sluice={"offload": {"params": "disk"}})
output = trainer.train()
assert output.global_step == len(trainer.state.log_history) - 1 == trainer.state.max_steps > 10, output
assert 0 < trainer.evaluate()["eval_loss"] < 20
stored = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).state_dict()
for name, tensor in model.state_dict().items():
    assert torch.equal(tensor, stored[name]), name
"""


def test_the_same_weights_as_the_binary_s(run_python, job, rows, tmp_path):
    done = run_python(TRAIN, rows=rows, out=str(tmp_path / "out"), folder=job["base_model"])
    assert done.returncode == 0, done.stderr
    keys = {**job, "micro_batch_size": 2, "num_epochs": 1, "gradient_accumulation_steps": 3, "max_steps": None,
            "learning_rate": 1e-3, "warmup_steps": 2, "lr_scheduler": "cosine", "weight_decay": 0.1, "max_grad_norm": 2.0,
            "adam_beta2": 0.999, "adam_epsilon": 1e-8}
    judged = sluice_run.train(keys, tmp_path / "judged")
    ours, theirs = saved_tensors(tmp_path / "out"), saved_tensors(judged.output_dir)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name].equal(theirs[name]), name


BESIDE = START + """
def collator(features):
    length = max(len(each["input_ids"]) for each in features)
    padded = lambda name, filler: torch.tensor([each[name] + [filler] * (length - len(each[name])) for each in features])
    return {"input_ids": padded("input_ids", 0), "attention_mask": padded("attention_mask", 0), "labels": padded("labels", -100)}
arguments |= dict(bf16=False, num_train_epochs=2.5, **more)
curves, weights = [], []
for kind, output_dir in ((transformers.Trainer, out + ".theirs"), (Trainer, out)):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    trainer = kind(model=model, args=TrainingArguments(**{**arguments, "output_dir": output_dir}), train_dataset=dataset,
                   data_collator=collator)
    trainer.train()
    assert trainer.state.global_step == steps, trainer.state.global_step
    curves.append([each for each in trainer.state.log_history if "learning_rate" in each])
    assert "train_loss" in trainer.state.log_history[-1]
    weights.append(model.state_dict())
theirs, ours = curves
assert len(theirs) == len(ours) > 1, (len(theirs), len(ours))
for a, b in zip(theirs, ours):
    assert a["step"] == b["step"]
    for name in ("loss", "grad_norm", "learning_rate", "epoch"):
        assert abs(float(a[name]) - b[name]) <= 1e-3 * max(1, abs(b[name])), (name, a, b)
for name, tensor in weights[0].items():
    assert torch.allclose(tensor, weights[1][name], atol=2e-4, rtol=1e-3), (name, (tensor - weights[1][name]).abs().max())
import pathlib
saved = [sorted(path.name for path in pathlib.Path(each).glob("checkpoint-*")) for each in (out + ".theirs", out)]
assert set(saved[1]) - set(saved[0]) <= {f"checkpoint-{steps}"} and set(saved[0]) <= set(saved[1]), saved
"""


# 23 rows make 12 micro-batches, the last of one row, and 12 make 4 steps of 3, or 3 of 5 of which the last has 2.
@pytest.mark.parametrize(("more", "steps"), (
    ({"train_sampling_strategy": "random", "save_strategy": "epoch", "save_only_model": True}, 10),
    ({"train_sampling_strategy": "random", "data_seed": 5, "gradient_accumulation_steps": 5, "logging_steps": 3,
      "logging_first_step": True, "save_strategy": "steps", "save_steps": 0.3}, 8),
    ({"train_sampling_strategy": "sequential", "gradient_accumulation_steps": 5, "max_steps": 7,
      "logging_steps": 0.25}, 7),
), ids=("random", "another seed", "sequential"))
def test_each_step_has_the_rows_that_transformers_gives_it(run_python, job, rows, tmp_path, more, steps):
    done = run_python(BESIDE, rows=rows[:23], out=str(tmp_path / "out"), folder=job["base_model"], more=more, steps=steps)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("program", "texts"), (
    ("Trainer(model=folder, args=TrainingArguments(**arguments, label_smoothing_factor=0.1, neftune_noise_alpha=5.0), "
     "train_dataset=dataset)", ("label_smoothing_factor=0.1", "neftune_noise_alpha=5.0")),
    ("Trainer(model=folder, args=TrainingArguments(**{**arguments, 'optim': 'adafactor'}), train_dataset=dataset)",
     ("optim=adafactor",)),
    ("Trainer(model=folder, args=TrainingArguments(**arguments, accelerator_config={'use_seedable_sampler': False}), "
     "train_dataset=dataset)", ("use_seedable_sampler=False",)),
    ("Trainer(model=folder, args=TrainingArguments(**arguments), train_dataset=dataset, sluice={'micro_batch_size': 4})",
     ("micro_batch_size", "TrainingArguments")),
    ("Trainer(model=folder, args=TrainingArguments(**arguments), train_dataset=dataset, compute_metrics=print)",
     ("compute_metrics",)),
    ("Trainer(model=folder, args=TrainingArguments(**arguments), train_dataset=[])", ("train_dataset has no rows",)),
    ("Trainer(model=folder, args=TrainingArguments(**arguments), train_dataset=iter(dataset))",
     ("without length and index",)),
    ("Trainer(model=torch.nn.Linear(2, 2), args=TrainingArguments(**arguments), train_dataset=dataset)",
     ("torch.nn.modules.linear.Linear",)),
    ("model = AutoModelForCausalLM.from_pretrained(folder)\n"
     "torch.nn.init.zeros_(model.model.norm.weight)\n"
     "Trainer(model=model, args=TrainingArguments(**arguments), train_dataset=dataset)", ("model.norm.weight is not what",)),
    ("Trainer(model=folder, args=TrainingArguments(**arguments), train_dataset=[{'input_ids': [1, 2, 3]}] * 4).train()",
     ("row 0 of the dataset has no labels",)),
))
def test_what_is_not_supported_is_refused_by_name(run_python, job, rows, tmp_path, program, texts):
    done = run_python(START + program, rows=rows[:20], out=str(tmp_path / "out"), folder=job["base_model"])
    assert done.returncode == 1
    last = done.stderr[done.stderr.rindex("JobError: "):]
    for text in (*texts, "\n  fix: "):
        assert text in last, done.stderr
    assert not (tmp_path / "out" / "plan.yaml").exists()
