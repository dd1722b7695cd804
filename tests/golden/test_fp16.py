"""fp16 with dynamic loss scaling against transformers, peft and bitsandbytes with torch.amp.GradScaler.

As in test_bf16.py the distance from the fp32 run is what counts. Two judges of full fine-tuning: a model in fp16 beside
fp32 masters, as Sluice computes, and torch.autocast over an fp32 model, as transformers' `fp16: true` does.
"""

from dataclasses import replace

import peft
import pytest
import torch
import transformers
from golden import parity, reference, sluice_run, tiny_models
from golden.reference import Recipe, fp16_scaler
from golden.test_parity import lora_keys, new_adapter
from golden.test_qlora import WIDE, keys_of
from golden.test_qlora import new_adapter as new_low_bit_adapter

FULL = (("llama_yarn_untied", 4), ("mistral_window", 1), ("qwen2_tied", 1), ("qwen3_untied", 4))
LORA = ("llama_llama3", "qwen3_tied")
TARGETS = ["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"]
EXIT_RUN = 3
# So large that the first steps overflow, whatever rounds how.
OVERFLOWING_SCALE = 2.0**26


def in_autocast(model):
    forward = model.forward

    def cast(*arguments, **named):
        with torch.autocast("cpu", dtype=torch.float16):
            return forward(*arguments, **named)

    model.forward = cast
    return model


def assert_within(run, fp32, *judges):
    off = parity.differences(run.column("loss"), fp32.loss)
    theirs = [parity.differences(judge.loss, fp32.loss) for judge in judges]
    mean, means = sum(off) / len(off), [sum(each) / len(each) for each in theirs]
    print(f"off fp32: max {max(off):.1e} mean {mean:.1e}; judges " +
          ", ".join(f"{max(each):.1e} {m:.1e}" for each, m in zip(theirs, means)))
    assert max(off) <= 2 * max(map(max, theirs))
    assert mean <= 1.5 * max(means)
    assert max(off) > 0, "this was an fp32 run"


def assert_same_steps(run, judge):
    """Which steps were skipped, with which scale and learning rate."""
    assert run.column("skipped") == judge.skipped
    assert run.column("loss_scale") == judge.loss_scale
    assert run.column("learning_rate") == [pytest.approx(rate, rel=1e-6, abs=1e-12) for rate in judge.learning_rate]
    for norm, skipped in zip(run.column("grad_norm"), judge.skipped):
        assert (norm is None) == skipped


@pytest.mark.parametrize("name, micro_batches", FULL)
def test_full_fine_tuning_in_fp16_stays_within_the_band_of_transformers(workshop, tmp_path, name, micro_batches):
    model_dir = workshop.model(tiny_models.BY_NAME[name])
    recipe = Recipe(micro_batches=micro_batches, grad_norm_max=2.5)
    rows = workshop.rows(model_dir)
    run = sluice_run.train(workshop.job(model_dir, recipe, fp16=True), tmp_path)
    fp32 = reference.train(reference.load(model_dir), rows, recipe)
    masters = reference.train_with_masters(model_dir, rows, recipe, torch.float16, fp16_scaler())
    autocast = reference.train(in_autocast(reference.load(model_dir)), rows, recipe, scaler=fp16_scaler())
    assert_within(run, fp32, masters, autocast)
    assert_same_steps(run, masters)
    assert {tensor.dtype for tensor in parity.saved_tensors(run.output_dir).values()} == {torch.float16}
    assert run.state()["loss_scale"]["scale"] == masters.loss_scale[-1]


def adapted(model_dir, adapter_dir, dtype):
    """peft's adapters are fp32 beside a base in any type."""
    model = reference.load_with_adapter(model_dir, adapter_dir, dtype)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model


@pytest.mark.parametrize("name", LORA)
def test_lora_in_fp16_stays_within_the_band_of_peft(workshop, tmp_path, name):
    model_dir = workshop.model(tiny_models.BY_NAME[name])
    recipe = replace(Recipe(micro_batches=4, grad_norm_max=2.5), learning_rate=3e-3)
    rows = workshop.rows(model_dir)
    adapter_dir = new_adapter(model_dir, tmp_path / "adapter", TARGETS)
    # A scale at which nothing overflows: a step more or less would be all that the curves show.
    keys = dict(fp16=True, fp16_init_scale=4096, **lora_keys(adapter_dir, TARGETS))
    run = sluice_run.train(workshop.job(model_dir, recipe, **keys), tmp_path)
    fp32 = reference.train(adapted(model_dir, adapter_dir, torch.float32), rows, recipe)
    half = reference.train(adapted(model_dir, adapter_dir, torch.float16), rows, recipe, scaler=fp16_scaler(4096.0))
    autocast = reference.train(in_autocast(adapted(model_dir, adapter_dir, torch.float16)), rows, recipe,
                               scaler=fp16_scaler(4096.0))
    assert_within(run, fp32, half, autocast)
    assert not any(autocast.skipped)
    assert_same_steps(run, autocast)
    assert {tensor.dtype for tensor in parity.saved_tensors(run.output_dir).values()} == {torch.float32}


def test_lora_overflows_where_peft_under_autocast_does(workshop, tmp_path):
    model_dir = workshop.model(tiny_models.BY_NAME["qwen3_tied"])
    recipe = replace(Recipe(micro_batches=4, grad_norm_max=2.5, steps=12), learning_rate=3e-3)
    adapter_dir = new_adapter(model_dir, tmp_path / "adapter", TARGETS)
    job = workshop.job(model_dir, recipe, fp16=True, **lora_keys(adapter_dir, TARGETS))
    run = sluice_run.train(job, tmp_path)
    judge = reference.train(in_autocast(adapted(model_dir, adapter_dir, torch.float16)), workshop.rows(model_dir),
                            recipe, scaler=fp16_scaler())
    assert any(judge.skipped) and not all(judge.skipped)
    assert_same_steps(run, judge)


def test_qlora_in_fp16_stays_within_the_band_of_bitsandbytes(workshop, tmp_path):
    model_dir = workshop.model(WIDE)
    recipe = Recipe(micro_batches=2, grad_norm_max=2.5)
    rows = workshop.rows(model_dir)
    adapter_dir = new_low_bit_adapter(model_dir, tmp_path / "adapter")
    keys = keys_of(dict(adapter="qlora", bnb_4bit_compute_dtype="float16"), adapter_dir, tmp_path)
    run = sluice_run.train(workshop.job(model_dir, recipe, fp16=True, **keys), tmp_path)

    def load(compute, dtype):
        settings = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=compute,
                                                   bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
        base = transformers.AutoModelForCausalLM.from_pretrained(
            model_dir, dtype=dtype, attn_implementation="eager", quantization_config=settings, device_map="cpu")
        return peft.PeftModel.from_pretrained(base, adapter_dir, is_trainable=True)

    fp32 = reference.train(load(torch.float32, torch.float32), rows, recipe)
    half = reference.train(load(torch.float16, torch.float16), rows, recipe, scaler=fp16_scaler())
    assert_within(run, fp32, half)
    assert_same_steps(run, half)


@pytest.mark.parametrize("name, micro_batches", (("qwen3_untied", 1), ("llama_yarn_untied", 4)))
def test_overflowing_steps_are_skipped_as_torch_skips_them(workshop, tmp_path, name, micro_batches):
    """Twice: from a scale that is too large, and again each time that it has grown."""
    model_dir = workshop.model(tiny_models.BY_NAME[name])
    recipe = Recipe(micro_batches=micro_batches, grad_norm_max=2.5, schedule="linear")
    rows = workshop.rows(model_dir)
    keys = dict(fp16=True, fp16_init_scale=OVERFLOWING_SCALE, fp16_growth_interval=6)
    run = sluice_run.train(workshop.job(model_dir, recipe, **keys), tmp_path)
    judge = reference.train_with_masters(model_dir, rows, recipe, torch.float16, fp16_scaler(OVERFLOWING_SCALE, 6))
    assert_same_steps(run, judge)
    first = judge.skipped.index(False)
    assert first >= 3 and any(judge.skipped[first:]), "no overflow: this test compares nothing"
    # What is skipped leaves no trace: the curve is that of the same rows without those steps.
    loss = parity.differences(run.column("loss"), judge.loss)
    assert max(loss) < 2e-3
    initial, trained = parity.full_weights(reference.load(model_dir)), parity.full_weights(judge.model)
    saved = parity.saved_tensors(run.output_dir)
    for tensor_name, tensor in trained.items():
        moved, off = (tensor - initial[tensor_name]).norm(), (saved[tensor_name].float() - tensor).norm()
        assert off <= 0.05 * moved + 2**-11 * tensor.norm(), f"{tensor_name}: off by {off:.2e} of {moved:.2e} moved"
    assert run.stdout.count("overflow, skipped") == sum(judge.skipped)
    assert run.state()["loss_scale"]["skipped_steps"] == sum(judge.skipped)


def test_a_run_whose_every_step_overflowed_says_that_nothing_was_trained(workshop, tmp_path):
    model_dir = workshop.model(tiny_models.BY_NAME["qwen3_untied"])
    job = workshop.job(model_dir, Recipe(), fp16=True, fp16_init_scale=OVERFLOWING_SCALE, max_steps=2)
    run = sluice_run.try_train(job, tmp_path)
    assert run.exit_code == EXIT_RUN and all(line["skipped"] for line in run.log) and len(run.log) == 2
    assert "every step overflowed fp16 and was skipped: nothing has been trained" in run.stderr
    assert not list(run.output_dir.glob("checkpoint-*")) and not (run.output_dir / "model.safetensors").exists()


@pytest.fixture
def too_large_for_fp16(workshop, tmp_path):
    """Keys of a job. A weight of 60000 in the last norm: logits overflow whatever the scale."""
    model_dir = workshop.model(tiny_models.BY_NAME["qwen3_untied"])
    model = reference.load(model_dir)
    with torch.no_grad():
        model.model.layers[1].post_attention_layernorm.weight.fill_(60000.0)
        model.model.layers[1].mlp.up_proj.weight.mul_(50)
    broken = tmp_path / "model"
    model.save_pretrained(broken)
    transformers.AutoTokenizer.from_pretrained(model_dir).save_pretrained(broken)
    return {**workshop.job(model_dir, Recipe(), fp16=True, fp16_init_scale=8), "base_model": str(broken)}


def test_a_validation_row_that_overflows_is_said_and_costs_no_step(too_large_for_fp16, tmp_path):
    run = sluice_run.try_train({**too_large_for_fp16, "val_set_size": 4}, tmp_path)
    assert "warning: a validation row overflows fp16, which ends at 65504; bf16: true does not" in run.stderr
    assert len(run.log) == 3


def test_a_model_that_fp16_cannot_hold_stops_the_run_and_says_why(too_large_for_fp16, tmp_path):
    run = sluice_run.try_train(too_large_for_fp16, tmp_path)
    assert run.exit_code == EXIT_RUN
    assert [line["loss_scale"] for line in run.log] == [8, 4, 2] and all(line["skipped"] for line in run.log)
    assert "the output of block layer.1 is not finite (micro-batch 1 of step 4)" in run.stderr
    assert "the loss scale is down at 1" in run.stderr and "use bf16: true" in run.stderr
