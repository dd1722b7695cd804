"""transformers' own Trainer over given rows, in their order."""

import torch
import transformers
from golden import reference


class InOrder(transformers.Trainer):
    def _get_train_sampler(self, train_dataset=None):
        return torch.utils.data.SequentialSampler(self.train_dataset)


def collate(rows):
    ids, mask, labels = reference.padded(rows, rows)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def logged_steps(model, rows, recipe, directory, **arguments):
    """One dictionary per step with loss, grad_norm and learning_rate; the model is trained in place."""
    trainer = InOrder(
        model=model,
        train_dataset=rows,
        data_collator=collate,
        args=transformers.TrainingArguments(
            output_dir=str(directory),
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            save_strategy="no",
            logging_steps=1,
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
            **arguments,
        ),
    )
    trainer.train()
    return [line for line in trainer.state.log_history if "grad_norm" in line]
