"""DoRA beside peft's: magnitudes over plain weights and over low bits, trained, saved, merged, generated with."""

import json
import re
from dataclasses import replace

import bitsandbytes
import peft
import pytest
import torch
from golden import parity, reference, sluice_run, test_fp16, tiny_models
from golden.reference import Recipe
from golden.test_bf16 import assert_within
from golden.test_merge import merge
from golden.test_parity import lora_keys, new_adapter
from golden.test_qlora import NARROW, WIDE, load_quantised

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SOME = ["q_proj", "v_proj", "gate_proj", "down_proj"]
RECIPE = Recipe(steps=30, learning_rate=3e-3)
MODELS = (
    ("llama_tied", SOME, {}, 1),
    ("llama_linear_biased", ALL, {}, 4),  # biases stay outside of the magnitudes
    ("qwen3_untied", ["o_proj", "up_proj"], {"use_rslora": True}, 1),
)
LOW_BITS = {"nf4": (WIDE, {}), "fp4": (WIDE, {"bnb_4bit_quant_type": "fp4"}), "nf4_narrow": (NARROW, {})}
# Matrices that are read in several pieces, whose rows begin anywhere in a block.
BROAD = tiny_models.TinyModel("broad", "llama", {"hidden_size": 1000, "intermediate_size": 3000, "num_hidden_layers": 1,
                                                 "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 50})


def decomposed(model_dir, directory, targets=SOME, **fields):
    """An adapter whose magnitudes are no longer the norms that they began as."""
    new_adapter(model_dir, directory, targets, use_dora=True, **fields)
    file = directory / "adapter_model.safetensors"
    tensors = parity.saved_tensors(directory)
    generator = torch.Generator().manual_seed(5)
    for name, tensor in tensors.items():
        if name.endswith("lora_magnitude_vector"):
            tensor *= 1 + 0.2 * torch.randn(tensor.shape, generator=generator)
        elif "lora_B" in name:
            tensor *= 0.2
    parity.safetensors.torch.save_file(tensors, file, metadata={"format": "pt"})
    return directory


def dora_keys(adapter_dir, targets=SOME, **keys):
    return {**lora_keys(adapter_dir, targets), "peft_use_dora": True, **keys}


def assert_follows(run, curve, initial):
    parity.assert_same_curve(run, curve)
    saved = parity.saved_tensors(run.output_dir)
    parity.assert_same_weights(saved, parity.adapter_weights(curve.model), initial)
    moved = [name for name in saved if "magnitude" in name and not torch.equal(saved[name], initial[name])]
    assert len(moved) == sum("lora_A" in name for name in saved), "magnitudes stand still"


@pytest.mark.parametrize("name, targets, fields, micro_batches", MODELS, ids=[case[0] for case in MODELS])
def test_training_follows_peft(workshop, tmp_path, name, targets, fields, micro_batches):
    model_dir = workshop.model(tiny_models.BY_NAME[name])
    recipe = replace(RECIPE, micro_batches=micro_batches)
    adapter_dir = decomposed(model_dir, tmp_path / "adapter", targets, **fields)
    stabilised = {"peft_use_rslora": True} if fields else {}
    run = sluice_run.train(workshop.job(model_dir, recipe, **dora_keys(adapter_dir, targets, **stabilised)), tmp_path)
    initial = parity.adapter_weights(reference.load_with_adapter(model_dir, adapter_dir))
    curve = reference.train(reference.load_with_adapter(model_dir, adapter_dir), workshop.rows(model_dir), recipe)
    assert_follows(run, curve, initial)

    saved = json.loads((run.output_dir / "adapter_config.json").read_text())
    assert saved["use_dora"] is True and saved["use_rslora"] is bool(fields)
    loaded = reference.load_with_adapter(model_dir, run.output_dir).eval()
    prompt = "every block"
    ours = sluice_run.logits(["--model", model_dir, "--adapter", run.output_dir], prompt, tmp_path / "logits.safetensors")
    theirs = loaded(input_ids=ours["token_ids"].long()[None]).logits[0].detach()
    tolerance = dict(rtol=2e-2, atol=5e-2) if tiny_models.BY_NAME[name].stored == "bfloat16" else dict(rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours["logits"], theirs, **tolerance)


@pytest.mark.parametrize("name", ("llama_llama3", "qwen3_tied"))
def test_bf16_stays_within_the_band_of_peft(workshop, tmp_path, name):
    model_dir = workshop.model(tiny_models.BY_NAME[name])
    recipe = replace(Recipe(micro_batches=4, grad_norm_max=2.5), learning_rate=3e-3)
    adapter_dir = decomposed(model_dir, tmp_path / "adapter")
    run = sluice_run.train(workshop.job(model_dir, recipe, bf16=True, **dora_keys(adapter_dir)), tmp_path)

    def judge(dtype, adapter_dtype=torch.float32):
        model = reference.load_with_adapter(model_dir, adapter_dir, dtype)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(adapter_dtype)
        return reference.train(model, workshop.rows(model_dir), recipe).loss

    assert_within(run.column("loss"), judge(torch.float32), judge(torch.bfloat16),
                  judge(torch.bfloat16, torch.bfloat16))


@pytest.mark.parametrize("name", ("llama_llama3", "qwen3_tied"))
def test_fp16_stays_within_the_band_of_peft(workshop, tmp_path, name):
    model_dir = workshop.model(tiny_models.BY_NAME[name])
    recipe = replace(Recipe(micro_batches=4, grad_norm_max=2.5), learning_rate=3e-3)
    rows = workshop.rows(model_dir)
    adapter_dir = decomposed(model_dir, tmp_path / "adapter")
    # Nothing overflows at this scale.
    keys = dict(fp16=True, fp16_init_scale=1024, **dora_keys(adapter_dir))
    run = sluice_run.train(workshop.job(model_dir, recipe, **keys), tmp_path)
    fp32 = reference.train(test_fp16.adapted(model_dir, adapter_dir, torch.float32), rows, recipe)
    autocast = reference.train(test_fp16.in_autocast(test_fp16.adapted(model_dir, adapter_dir, torch.float16)), rows,
                               recipe, scaler=reference.fp16_scaler(1024.0))
    test_fp16.assert_within(run, fp32, autocast)
    test_fp16.assert_same_steps(run, autocast)
    assert not any(autocast.skipped)


@pytest.mark.parametrize("bits", ({}, {"load_in_8bit": True}), ids=("plain", "int8"))
def test_a_new_adapter_starts_from_the_norms_of_the_rows_and_changes_nothing(workshop, tmp_path, bits):
    model_dir = workshop.model(WIDE)
    recipe = Recipe(steps=1, warmup_steps=1)  # the first of a warm-up has a learning rate of zero
    job = workshop.job(model_dir, recipe, adapter="lora", lora_r=8, lora_alpha=16, lora_target_linear=True,
                       offload={"nvme_path": [str(tmp_path / "nvme")]}, **bits)
    lora = sluice_run.train(job, tmp_path / "lora")
    dora = sluice_run.train({**job, "use_dora": True}, tmp_path / "dora")
    assert dora.column_text("loss") == lora.column_text("loss")
    saved, without = parity.saved_tensors(dora.output_dir), parity.saved_tensors(lora.output_dir)
    base = dict(reference.load(model_dir).named_parameters())
    magnitudes = {name: tensor for name, tensor in saved.items() if name not in without}
    assert all(torch.equal(saved[name], tensor) for name, tensor in without.items())
    assert len(magnitudes) == 7 * 3
    for name, tensor in magnitudes.items():
        module, kind = name.removeprefix("base_model.model.").rsplit(".", 1)
        assert kind == "lora_magnitude_vector"
        weight = base[f"{module}.weight"].detach()
        if bits:
            codes, rows, _ = bitsandbytes.functional.int8_vectorwise_quant(weight.half())
            weight = bitsandbytes.functional.int8_vectorwise_dequant(codes, rows)
        torch.testing.assert_close(tensor, torch.linalg.norm(weight, dim=1), rtol=1e-6, atol=0, msg=name)


@pytest.mark.parametrize("double_quant", (True, False), ids=("double", "single"))
def test_norms_come_from_matrices_in_pieces(workshop, tmp_path, double_quant):
    model_dir = workshop.model(BROAD)
    job = workshop.job(model_dir, Recipe(steps=1, warmup_steps=1, rows_per_micro_batch=1), adapter="qlora", lora_r=2,
                       lora_target_linear=True, peft_use_dora=True, bnb_4bit_use_double_quant=double_quant,
                       offload={"nvme_path": [str(tmp_path / "nvme")]})
    saved = parity.saved_tensors(sluice_run.train(job, tmp_path).output_dir)
    model = load_quantised(model_dir, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=double_quant)
    for name, tensor in saved.items():
        if not name.endswith("lora_magnitude_vector"):
            continue
        module = model.get_submodule(name.removeprefix("base_model.model.").rsplit(".", 1)[0])
        weight = bitsandbytes.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
        torch.testing.assert_close(tensor, torch.linalg.norm(weight, dim=1), rtol=2e-6, atol=0, msg=name)


@pytest.mark.parametrize("name", LOW_BITS)
def test_over_low_bits_training_follows_peft_over_bitsandbytes(workshop, tmp_path, name):
    tiny, keys = LOW_BITS[name]
    model_dir = workshop.model(tiny)
    settings = dict(bnb_4bit_quant_type=keys.get("bnb_4bit_quant_type", "nf4"), bnb_4bit_use_double_quant=True)
    recipe = replace(RECIPE, micro_batches=2)
    offload = {"nvme_path": [str(tmp_path / "nvme")]}
    job = workshop.job(model_dir, recipe, adapter="qlora", lora_r=4, lora_alpha=8, lora_target_modules=SOME,
                       peft_use_dora=True, offload=offload, **keys)
    # What both start from is ours: magnitudes must be the norms of the judge's dequantised rows.
    drawn = sluice_run.train({**job, "max_steps": 1, "warmup_steps": 1}, tmp_path / "drawn").output_dir
    model = peft.PeftModel.from_pretrained(load_quantised(model_dir, **settings), drawn, is_trainable=True)
    initial = parity.adapter_weights(model)
    expected = peft.get_peft_model(load_quantised(model_dir, **settings), peft.LoraConfig(
        r=4, lora_alpha=8, target_modules=SOME, use_dora=True, task_type="CAUSAL_LM"))
    theirs = parity.adapter_weights(expected)
    assert initial.keys() == theirs.keys()
    for tensor, value in initial.items():
        if "magnitude" in tensor:
            torch.testing.assert_close(value, theirs[tensor], rtol=2e-6, atol=0, msg=tensor)

    run = sluice_run.train(job, tmp_path / "run")
    curve = reference.train(model, workshop.rows(model_dir), recipe)
    assert_follows(run, curve, initial)
    loaded = peft.PeftModel.from_pretrained(load_quantised(model_dir, **settings), run.output_dir, is_trainable=True)
    rows = workshop.rows(model_dir)[:4]
    ours, theirs = (reference.loss_sum(each.train(), rows, rows).item() for each in (loaded, curve.model))
    assert ours == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize("name, targets, fields, _", MODELS, ids=[case[0] for case in MODELS])
def test_merged_weights_are_those_of_peft(workshop, tmp_path, name, targets, fields, _):
    model_dir = workshop.model(tiny_models.BY_NAME[name])
    adapter_dir = decomposed(model_dir, tmp_path / "adapter", targets, **fields)
    assert merge("--adapter", adapter_dir, "--out", tmp_path / "merged", "--dtype", "f32").returncode == 0
    expected = parity.full_weights(reference.load_with_adapter(model_dir, adapter_dir).merge_and_unload())
    plain = parity.full_weights(reference.load(model_dir))
    saved = parity.saved_tensors(tmp_path / "merged")
    assert saved.keys() == expected.keys()
    for tensor, value in expected.items():
        torch.testing.assert_close(saved[tensor], value, rtol=2e-6, atol=1e-6, msg=tensor)
        targeted = any(f".{target}.weight" in tensor for target in targets)
        assert targeted != torch.equal(saved[tensor], plain[tensor]), tensor


def test_a_quantised_base_merges_to_the_numbers_that_were_multiplied_with(workshop, tmp_path):
    model_dir, quantised = workshop.model(WIDE), tmp_path / "quantised"
    model = load_quantised(model_dir, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    model.save_pretrained(quantised)
    adapter_dir = decomposed(model_dir, tmp_path / "adapter")
    plain = reference.load(model_dir)
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, bitsandbytes.nn.Linear4bit):
                weight = bitsandbytes.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
                plain.get_submodule(name).weight.copy_(weight)
    done = merge("--adapter", adapter_dir, "--model", quantised, "--out", tmp_path / "merged", "--dtype", "f32")
    assert done.returncode == 0, done.stderr
    theirs = dict(peft.PeftModel.from_pretrained(plain, adapter_dir).merge_and_unload().named_parameters())
    for name, tensor in parity.saved_tensors(tmp_path / "merged").items():
        torch.testing.assert_close(tensor, theirs[name], rtol=2e-6, atol=1e-6, msg=name)


def test_generated_tokens_are_those_of_peft(workshop, tmp_path):
    """Beyond the first token factors come from the cache."""
    model_dir = workshop.model(tiny_models.BY_NAME["qwen3_untied"])
    adapter_dir = decomposed(model_dir, tmp_path / "adapter", ALL)
    model = reference.load_with_adapter(model_dir, adapter_dir).eval()
    tokenizer = tiny_models.transformers.AutoTokenizer.from_pretrained(model_dir)
    for prompt in ("the disk reads", "every block"):
        ids = tokenizer(prompt, return_tensors="pt")
        out = model.generate(**ids, max_new_tokens=12, do_sample=False)[0, ids["input_ids"].shape[1]:]
        expected = tokenizer.decode(out, skip_special_tokens=True)
        assert expected in sluice_run.generate_greedily(model_dir, prompt, 12, adapter_dir) and expected


class TestBadInput:
    @pytest.fixture
    def refused(self, workshop, tmp_path):
        model_dir = workshop.model(tiny_models.BY_NAME["llama_tied"])

        def run(adapter_dir=None, **keys):
            job = workshop.job(model_dir, Recipe(steps=1), **(lora_keys(adapter_dir, SOME) if adapter_dir else {}), **keys)
            done = sluice_run.try_train(job, tmp_path / "job")
            assert done.exit_code == 2 and done.stderr.count("fix: ") == 1, done.stderr
            return done.stderr

        self.model_dir = model_dir
        return run

    @pytest.mark.parametrize("spelling", ("peft_use_dora", "use_dora"))
    def test_without_an_adapter(self, refused, spelling):
        message = refused(**{spelling: True})
        assert re.search(rf"job\.yaml:\d+:1: {spelling} is given, but not adapter: lora\n  fix: add adapter: lora", message)

    def test_no_truth_value(self, refused):
        message = refused(adapter="lora", lora_r=4, lora_target_linear=True, peft_use_dora="twice")
        assert re.search(r"job\.yaml:\d+:\d+: peft_use_dora must be true or false", message)

    def test_under_two_names(self, refused):
        assert re.search(r"job\.yaml:\d+:1: .*use_dora", refused(peft_use_dora=True, use_dora=True))

    def test_over_an_adapter_without_magnitudes(self, refused, tmp_path):
        adapter_dir = new_adapter(self.model_dir, tmp_path / "adapter", SOME)
        assert "peft_use_dora is true in the job file and false in" in refused(adapter_dir, peft_use_dora=True)

    def test_an_adapter_with_magnitudes_as_one_without(self, refused, tmp_path):
        adapter_dir = decomposed(self.model_dir, tmp_path / "adapter")
        assert "peft_use_dora is false in the job file and true in" in refused(adapter_dir, peft_use_dora=False)

    @pytest.mark.parametrize("use_dora, named", ((True, "lora_magnitude_vector"), (False, "lora_magnitude_vector")))
    def test_files_that_contradict_their_config(self, refused, tmp_path, use_dora, named):
        make = new_adapter if use_dora else decomposed
        adapter_dir = make(self.model_dir, tmp_path / "adapter", SOME)
        config = adapter_dir / "adapter_config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "use_dora": use_dora}))
        assert named in refused(adapter_dir)
