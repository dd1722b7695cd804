"""Judges the judge: our plain loop over torch.optim.AdamW is what transformers' Trainer does."""

import pytest
import torch
import transformers
from golden import reference, tiny_models


class InOrder(transformers.Trainer):
    def _get_train_sampler(self, train_dataset=None):
        return torch.utils.data.SequentialSampler(self.train_dataset)


def collate(rows):
    ids, mask, labels = reference.padded(rows, rows)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


@pytest.mark.parametrize("micro_batches", (1, 4))
def test_reference_is_what_the_trainer_of_transformers_does(workshop, tmp_path, micro_batches):
    recipe = reference.Recipe(micro_batches=micro_batches, steps=6, warmup_steps=2)
    model_dir = workshop.model(tiny_models.BY_NAME["llama_linear_biased"])
    rows = workshop.rows(model_dir)[:recipe.rows]
    curve = reference.train(reference.load(model_dir), rows, recipe)
    trainer = InOrder(
        model=reference.load(model_dir),
        train_dataset=rows,
        data_collator=collate,
        args=transformers.TrainingArguments(
            output_dir=str(tmp_path),
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            save_strategy="no",
            logging_steps=1,
            max_steps=recipe.steps,
            per_device_train_batch_size=recipe.rows_per_micro_batch,
            gradient_accumulation_steps=recipe.micro_batches,
            learning_rate=recipe.learning_rate,
            lr_scheduler_type=recipe.schedule,
            warmup_steps=recipe.warmup_steps,
            weight_decay=recipe.weight_decay,
            adam_beta2=recipe.beta2,
            adam_epsilon=recipe.epsilon,
            max_grad_norm=recipe.grad_norm_max,
            remove_unused_columns=False,
        ),
    )
    trainer.train()
    lines = [line for line in trainer.state.log_history if "grad_norm" in line]
    assert [line["loss"] for line in lines] == [pytest.approx(value, abs=2e-5) for value in curve.loss]
    assert [line["grad_norm"] for line in lines] == [pytest.approx(value, rel=1e-4) for value in curve.grad_norm]
    assert [line["learning_rate"] for line in lines] == [pytest.approx(value) for value in curve.learning_rate]
    for ours, theirs in zip(curve.model.parameters(), trainer.model.parameters()):
        assert torch.allclose(ours, theirs, atol=1e-6)
