"""bf16 against transformers' own bf16 runs, measured around its fp32 run.

Two bands. The wide one is a model and an optimizer in bf16 throughout. The narrow one computes in bf16 and keeps fp32
masters, as Sluice does; two such runs round differently, so ours may leave it as far as the house rule for kernels
allows: twice its largest error, and half as much again on average.
"""

from dataclasses import replace

import pytest
import torch
from golden import parity, reference, sluice_run, tiny_models
from golden.reference import Recipe
from golden.test_parity import lora_keys, new_adapter

FULL = (("llama_tied", 4), ("llama_yarn_untied", 4), ("mistral_window", 1), ("qwen2_tied", 1), ("qwen3_untied", 4))
LORA = ("llama_llama3", "qwen3_tied")
TARGETS = ["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"]


def assert_within(ours, fp32, narrow, wide):
    off, narrow_off, wide_off = (parity.differences(curve, fp32) for curve in (ours, narrow, wide))
    mean, narrow_mean = sum(off) / len(off), sum(narrow_off) / len(narrow_off)
    print(f"off fp32: max {max(off):.1e} mean {mean:.1e}; masters {max(narrow_off):.1e} {narrow_mean:.1e}; "
          f"all bf16 {max(wide_off):.1e} {sum(wide_off) / len(wide_off):.1e}")
    assert max(off) <= max(wide_off)
    assert max(off) <= 2 * max(narrow_off)
    assert mean <= 1.5 * narrow_mean
    assert max(off) > 0, "this was an fp32 run"


@pytest.mark.parametrize("name, micro_batches", FULL)
def test_full_fine_tuning_in_bf16_stays_within_the_band_of_transformers(workshop, tmp_path, name, micro_batches):
    model_dir = workshop.model(tiny_models.BY_NAME[name])
    recipe = Recipe(micro_batches=micro_batches, grad_norm_max=2.5)
    rows = workshop.rows(model_dir)
    run = sluice_run.train(workshop.job(model_dir, recipe, bf16=True), tmp_path)
    fp32 = reference.train(reference.load(model_dir), rows, recipe)
    narrow = reference.train_with_masters(model_dir, rows, recipe, torch.bfloat16)
    wide = reference.train(reference.load(model_dir, torch.bfloat16), rows, recipe)
    assert_within(run.column("loss"), fp32.loss, narrow.loss, wide.loss)
    assert {tensor.dtype for tensor in parity.saved_tensors(run.output_dir).values()} == {torch.bfloat16}


@pytest.mark.parametrize("name", LORA)
def test_lora_in_bf16_stays_within_the_band_of_peft(workshop, tmp_path, name):
    model_dir = workshop.model(tiny_models.BY_NAME[name])
    recipe = replace(Recipe(micro_batches=4, grad_norm_max=2.5), learning_rate=3e-3)
    rows = workshop.rows(model_dir)
    adapter_dir = new_adapter(model_dir, tmp_path / "adapter", TARGETS)
    run = sluice_run.train(workshop.job(model_dir, recipe, bf16=True, **lora_keys(adapter_dir, TARGETS)), tmp_path)

    def judge(dtype, adapter_dtype=torch.float32):
        model = reference.load_with_adapter(model_dir, adapter_dir, dtype)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(adapter_dtype)
        return reference.train(model, rows, recipe).loss

    # peft keeps the adapter in fp32 beside a bf16 model: that is its run with masters.
    fp32, narrow, wide = judge(torch.float32), judge(torch.bfloat16), judge(torch.bfloat16, torch.bfloat16)
    assert_within(run.column("loss"), fp32, narrow, wide)
    assert {tensor.dtype for tensor in parity.saved_tensors(run.output_dir).values()} == {torch.float32}
