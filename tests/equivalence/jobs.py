"""The jobs of this suite: small, with everything on that could depend on the plan."""

import itertools
import os

from golden import tiny_models
from golden.reference import Recipe

# SmolLM2's shape in few layers: MKL takes other paths at these widths than at those of the tiny models.
SMOLLM2_LIKE = tiny_models.TinyModel(
    "smollm2_like",
    "llama",
    {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64,
     "num_hidden_layers": 3, "vocab_size": 1024},
    stored="bfloat16",
)
TINY = tiny_models.BY_NAME["qwen3_untied"]
RECIPE = Recipe(rows_per_micro_batch=2, micro_batches=3, steps=10, warmup_steps=2, grad_norm_max=2.0)
METHODS = {
    "full": {},
    "lora": {"adapter": "lora", "lora_r": 4, "lora_alpha": 8, "lora_dropout": 0.2, "lora_target_linear": True},
    "qlora": {"adapter": "qlora", "lora_r": 4, "lora_alpha": 8, "lora_dropout": 0.2, "lora_target_linear": True},
    "dora": {"adapter": "lora", "lora_r": 4, "lora_alpha": 8, "peft_use_dora": True, "lora_target_linear": True},
    "qdora": {"adapter": "qlora", "lora_r": 4, "lora_alpha": 8, "peft_use_dora": True, "lora_dropout": 0.2,
              "lora_target_modules": ["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"]},
}
STATES = {
    "fp32": {"optimizer": "adamw_torch", "optimizer_state": "fp32"},
    "bf16": {"optimizer": "adamw_torch", "optimizer_state": "bf16"},
    "8bit": {"optimizer": "adamw_torch", "optimizer_state": "8bit"},
    "lion": {"optimizer": "lion_8bit", "optimizer_state": "8bit"},
}
PRECISIONS = {
    "fp32": {"bf16": False},
    "bf16": {"bf16": True},
    # The scale doubles after each step until one overflows, and again: skipped steps and others take turns.
    "fp16": {"fp16": True, "fp16_init_scale": 2.0**18, "fp16_growth_interval": 1},
}


def cases(*chosen):
    """(method, precision, states) that `chosen` names; all that there are where SLUICE_EVERY_CASE is set: an hour."""
    if os.environ.get("SLUICE_EVERY_CASE"):
        return tuple(itertools.product(METHODS, PRECISIONS, STATES))
    return tuple(tuple(case.split()) for case in chosen)


def assert_some_skipped(run, precision):
    """In fp16, or a comparison of its runs says nothing of skipped steps."""
    if precision == "fp16":
        skipped = run.column("skipped")
        assert any(skipped) and not all(skipped), skipped


def job_of(workshop, model, method, precision, states="fp32", offload=None, **keys):
    offload = {**(offload or {}), "optimizer_state": STATES[states]["optimizer_state"]}
    return workshop.job(workshop.model(model), RECIPE, seed=11, offload=offload, optimizer=STATES[states]["optimizer"],
                        **METHODS[method], **PRECISIONS[precision], **keys)
