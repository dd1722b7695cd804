"""LoRA over a base in low bits, against peft over the same base of bitsandbytes."""

import json
import subprocess
from dataclasses import replace

import bitsandbytes
import peft
import pytest
import safetensors.torch
import torch
import transformers

from . import parity, reference, sluice_run, tiny_models
from .reference import Recipe

# The band, and what holds here: the same numbers are multiplied, in another order.
LOSS_DIFFERENCE_MAX = 2e-2
LOSS_DIFFERENCE_MEAN = 2e-3

# Whole blocks in every row; rows that begin inside a block.
WIDE = tiny_models.TinyModel(
    "wide", "llama", {"hidden_size": 128, "intermediate_size": 320, "num_attention_heads": 4, "num_key_value_heads": 2,
                      "head_dim": 32}, stored="bfloat16")
# (36 and 76 wide. Rows of a multiple of 16 that is none of 64 bitsandbytes' CPU backend expands with other blocks' scales,
# where its default backend takes each block's own.)
NARROW = tiny_models.BY_NAME["qwen2_tied"]
RECIPE = Recipe(micro_batches=2, steps=50, learning_rate=3e-3)
TARGETS = ["q_proj", "v_proj", "gate_proj", "down_proj"]
FORMATS = {
    "nf4_double": (dict(adapter="qlora"), dict(bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)),
    "nf4": (dict(adapter="lora", load_in_4bit=True, bnb_4bit_use_double_quant=False),
            dict(bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=False)),
    "fp4_double": (dict(adapter="qlora", bnb_4bit_quant_type="fp4"),
                   dict(bnb_4bit_quant_type="fp4", bnb_4bit_use_double_quant=True)),
}


def load_quantised(model_dir, **settings):
    config = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32, **settings)
    return transformers.AutoModelForCausalLM.from_pretrained(
        model_dir, dtype=torch.float32, attn_implementation="eager", quantization_config=config, device_map="cpu")


def new_adapter(model_dir, directory, targets=TARGETS):
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets, init_lora_weights=False)
    torch.manual_seed(3)
    model = peft.get_peft_model(reference.load(model_dir), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.mul_(0.05)
    model.save_pretrained(directory)
    return directory


def keys_of(format_keys, adapter_dir, tmp_path):
    return {**format_keys, "lora_model_dir": str(adapter_dir), "lora_r": 4, "lora_alpha": 8,
            "lora_target_modules": TARGETS, "offload": {"nvme_path": [str(tmp_path / "nvme")]}}


def caches(tmp_path):
    return sorted((tmp_path / "nvme" / "quantised").iterdir())


def assert_same_base(cache, model):
    """Every quantised module of the judge against the cache: codes, scales, and what describes them."""
    tensors = {}
    for file in sorted(cache.glob("*.safetensors")):
        tensors.update(safetensors.torch.load_file(file))
    names = set()
    for name, module in model.named_modules():
        if not isinstance(module, bitsandbytes.nn.Linear4bit):
            continue
        weight, state = f"{name}.weight", module.weight.quant_state
        theirs = {weight: module.weight.data, f"{weight}.absmax": state.absmax}
        if state.nested:
            theirs |= {f"{weight}.nested_absmax": state.state2.absmax, f"{weight}.nested_offset": state.offset.reshape(1)}
        for key, tensor in theirs.items():
            assert torch.equal(tensors[key], tensor), key
        names |= theirs.keys()
    assert names == tensors.keys() and len(names) > 0


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("tiny", (WIDE, NARROW), ids=lambda tiny: tiny.name)
def test_qlora_follows_peft_over_bitsandbytes(workshop, tmp_path, tiny, name):
    format_keys, settings = FORMATS[name]
    model_dir = workshop.model(tiny)
    adapter_dir = new_adapter(model_dir, tmp_path / "adapter")
    run = sluice_run.train(workshop.job(model_dir, RECIPE, **keys_of(format_keys, adapter_dir, tmp_path)), tmp_path)
    [cache] = caches(tmp_path)
    assert_same_base(cache, load_quantised(model_dir, **settings))

    model = peft.PeftModel.from_pretrained(load_quantised(model_dir, **settings), adapter_dir, is_trainable=True)
    initial = parity.adapter_weights(model)
    curve = reference.train(model, workshop.rows(model_dir), RECIPE)
    loss = parity.differences(run.column("loss"), curve.loss)
    print(f"loss difference: max {max(loss):.1e}, mean {sum(loss) / len(loss):.1e}")
    assert max(loss) <= LOSS_DIFFERENCE_MAX and sum(loss) / len(loss) <= LOSS_DIFFERENCE_MEAN
    # Nothing but the order of additions differs, so what holds for LoRA holds here too.
    parity.assert_same_curve(run, curve)
    parity.assert_same_weights(parity.saved_tensors(run.output_dir), parity.adapter_weights(curve.model), initial)

    loaded = peft.PeftModel.from_pretrained(load_quantised(model_dir, **settings), run.output_dir, is_trainable=True)
    parity.assert_same_weights(parity.adapter_weights(loaded), parity.saved_tensors(run.output_dir), initial)
    rows = workshop.rows(model_dir)[:4]
    # In training mode: for inference bitsandbytes computes in bf16.
    ours, theirs = (reference.loss_sum(each.train(), rows, rows).item() for each in (loaded, curve.model))
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_a_checkpoint_of_bitsandbytes_is_read_as_it_is(workshop, tmp_path):
    model_dir = workshop.model(WIDE)
    recipe = replace(RECIPE, steps=5)
    settings = FORMATS["nf4_double"][1]
    saved = tmp_path / "saved-4bit"
    load_quantised(model_dir, **settings).save_pretrained(saved)
    transformers.AutoTokenizer.from_pretrained(model_dir).save_pretrained(saved)
    adapter_dir = new_adapter(model_dir, tmp_path / "adapter")
    runs = []
    for base, folder in ((model_dir, tmp_path / "a"), (saved, tmp_path / "b")):
        keys = keys_of({"adapter": "qlora"}, adapter_dir, folder)
        runs.append(sluice_run.train({**workshop.job(model_dir, recipe, **keys), "base_model": str(base)}, folder))
    assert runs[0].column_text("loss") == runs[1].column_text("loss")
    assert sum(file.stat().st_size for file in caches(tmp_path / "b")[0].iterdir()) < 20_000, "only offsets are kept"
    prompt = "every block"
    ours = sluice_run.logits(["--model", saved, "--adapter", runs[1].output_dir], prompt, tmp_path / "logits.safetensors")
    judge = peft.PeftModel.from_pretrained(load_quantised(model_dir, **settings), runs[1].output_dir, is_trainable=True)
    theirs = judge.train()(input_ids=ours["token_ids"].long()[None]).logits[0]
    torch.testing.assert_close(ours["logits"], theirs.detach().float(), rtol=1e-4, atol=1e-4)

    other = workshop.job(model_dir, recipe, **keys_of(dict(adapter="lora", load_in_8bit=True), adapter_dir, tmp_path / "o"))
    refused = sluice_run.try_train({**other, "base_model": str(saved)}, tmp_path / "o")
    assert refused.exit_code == 2 and not (tmp_path / "o" / "nvme").exists()
    assert f"{saved} is quantised already, to nf4, double quantised, and " in refused.stderr
    assert "asks for 8 bits\n  fix: remove load_in_4bit or load_in_8bit, or give base_model plain weights" in refused.stderr
    full = sluice_run.try_train({**workshop.job(model_dir, recipe), "base_model": str(saved)}, tmp_path / "full")
    assert full.exit_code == 2 and "such a base is frozen, beside an adapter" in full.stderr
    lora = workshop.job(model_dir, recipe, **keys_of({"adapter": "lora"}, adapter_dir, tmp_path / "c"))
    assert sluice_run.train({**lora, "base_model": str(saved)}, tmp_path / "c").column("loss") == runs[0].column("loss")


def test_a_checkpoint_of_scales_that_are_not_quantised_needs_no_cache(workshop, tmp_path):
    model_dir, (format_keys, settings) = workshop.model(WIDE), FORMATS["nf4"]
    recipe = replace(RECIPE, steps=2)
    saved = tmp_path / "saved-4bit"
    load_quantised(model_dir, **settings).save_pretrained(saved)
    transformers.AutoTokenizer.from_pretrained(model_dir).save_pretrained(saved)
    adapter_dir = new_adapter(model_dir, tmp_path / "adapter")
    plain = workshop.job(model_dir, recipe, **keys_of(format_keys, adapter_dir, tmp_path / "a"))
    read = workshop.job(model_dir, recipe, **keys_of({"adapter": "lora"}, adapter_dir, tmp_path / "b"))
    ours = sluice_run.train(plain, tmp_path / "a")
    theirs = sluice_run.train({**read, "base_model": str(saved)}, tmp_path / "b")
    assert ours.column_text("loss") == theirs.column_text("loss")
    assert caches(tmp_path / "a") and not (tmp_path / "b" / "nvme" / "quantised").exists()


def test_8_bits_follow_the_expanded_weights(workshop, tmp_path):
    """bitsandbytes also rounds activations to 8 bits; here weights alone are, so the judge multiplies with them."""
    model_dir = workshop.model(WIDE)
    adapter_dir = new_adapter(model_dir, tmp_path / "adapter")
    keys = keys_of(dict(adapter="lora", load_in_8bit=True), adapter_dir, tmp_path)
    run = sluice_run.train(workshop.job(model_dir, RECIPE, **keys), tmp_path)
    model = reference.load(model_dir)
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear) and name != "lm_head":
                codes, rows, _ = bitsandbytes.functional.int8_vectorwise_quant(module.weight.half())
                module.weight.copy_(bitsandbytes.functional.int8_vectorwise_dequant(codes, rows))
    curve = reference.train(peft.PeftModel.from_pretrained(model, adapter_dir, is_trainable=True),
                            workshop.rows(model_dir), RECIPE)
    parity.assert_same_curve(run, curve)


def test_the_cache_is_made_once_and_found_again(workshop, tmp_path):
    model_dir = workshop.model(WIDE)
    job = workshop.job(model_dir, replace(RECIPE, steps=2),
                       **keys_of({"adapter": "qlora"}, new_adapter(model_dir, tmp_path / "adapter"), tmp_path))
    first = sluice_run.train(job, tmp_path / "one")
    assert "quantising the base to nf4, double quantised" in first.stderr
    [cache] = caches(tmp_path)
    (tmp_path / "nvme" / "quantised" / f"{cache.name}.partial-999999999").mkdir()
    second = sluice_run.train(job, tmp_path / "two")
    assert "quantising" not in second.stderr and first.column_text("loss") == second.column_text("loss")
    sluice_run.train({**job, "bnb_4bit_quant_type": "fp4"}, tmp_path / "three")
    assert len([path for path in caches(tmp_path) if "partial" not in path.name]) == 2


def test_an_abandoned_or_damaged_cache_is_not_used(workshop, tmp_path):
    model_dir = workshop.model(WIDE)
    job = workshop.job(model_dir, replace(RECIPE, steps=2),
                       **keys_of({"adapter": "qlora"}, new_adapter(model_dir, tmp_path / "adapter"), tmp_path))
    sluice_run.train(job, tmp_path / "one")
    [cache] = caches(tmp_path)
    [file] = cache.iterdir()
    whole = file.read_bytes()
    abandoned = cache.parent / f"{cache.name}.partial-999999999"
    for damage, message in (
        (whole[:-7], f"has {len(whole) - 7} bytes, not {len(whole)}"),
        (whole.replace(b"sluice_low_bits", b"sluice_low_bytz"), "its header is not that of this model's quantised base"),
    ):
        file.write_bytes(damage)
        refused = sluice_run.try_train(job, tmp_path / "no")
        assert refused.exit_code == 2 and message in refused.stderr and f"remove {cache}" in refused.stderr
    file.unlink()
    refused = sluice_run.try_train(job, tmp_path / "no")
    assert refused.exit_code == 2 and "is missing from the quantised base" in refused.stderr
    cache.rename(abandoned)
    sluice_run.train(job, tmp_path / "again")
    assert caches(tmp_path) == [cache] and file.read_bytes() == whole


def test_a_cache_that_cannot_be_made_is_refused_before_a_step(workshop, tmp_path):
    job = workshop.job(workshop.model(WIDE), RECIPE, adapter="lora", load_in_8bit=True, lora_r=4, lora_target_linear=True,
                       offload={"nvme_path": [str(tmp_path / "nvme")]})
    (tmp_path / "nvme").mkdir()
    (tmp_path / "nvme" / "quantised").write_text("of someone else")
    refused = sluice_run.try_train(job, tmp_path)
    assert refused.exit_code == 2 and str(tmp_path / "nvme" / "quantised") in refused.stderr
    assert "fix: check the folder's permissions, or name another in offload.nvme_path" in refused.stderr
    assert (tmp_path / "nvme" / "quantised").read_text() == "of someone else" and refused.log == []


def test_a_drive_without_room_for_the_cache_is_refused_before_a_step(workshop, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"needs the right to mount a small file system: {mounted.stderr.strip()}")
    try:
        job = workshop.job(workshop.model(WIDE), RECIPE, adapter="lora", load_in_8bit=True, lora_r=4,
                           lora_target_linear=True, offload={"nvme_path": [str(small)]})
        refused = sluice_run.try_train(job, tmp_path)
        assert refused.exit_code == 2 and refused.log == [] and list(small.iterdir()) == []
        assert f"{small}/quantised has " in refused.stderr and "free, and the base in low bits takes " in refused.stderr
        assert "fix: free space, or name a drive that has it in offload.nvme_path" in refused.stderr
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.mark.parametrize(("keys", "message"), (
    (dict(load_in_4bit=True), "weights in 4 bits are frozen, and full fine-tuning trains all"),
    (dict(adapter="qlora", load_in_4bit=False), "adapter: qlora is LoRA over 4 bits, and load_in_4bit is false"),
    (dict(adapter="qlora", load_in_8bit=True), "8 bits are asked for, and 4 as well"),
    (dict(adapter="lora", bnb_4bit_quant_type="nf4"), "nothing asks for 4 bits"),
    (dict(adapter="qlora", bnb_4bit_quant_type="nf5"), "bnb_4bit_quant_type must be nf4 or fp4, not 'nf5'"),
    (dict(adapter="qlora", bnb_4bit_compute_dtype="bfloat16"),
     "bnb_4bit_compute_dtype is 'bfloat16', and the job computes in fp32"),
), ids=str)
def test_settings_that_contradict_one_another(workshop, tmp_path, keys, message):
    job = workshop.job(workshop.model(WIDE), RECIPE, **keys)
    if "adapter" in keys:
        job |= {"lora_r": 4, "lora_target_linear": True}
    refused = sluice_run.try_train(job, tmp_path)
    assert refused.exit_code == 2 and message in refused.stderr, refused.stderr


@pytest.mark.parametrize("method", ("gptq", "awq"))
def test_other_quantised_formats_are_named(workshop, tmp_path, method):
    model_dir = workshop.model(WIDE)
    copy = tmp_path / "model"
    copy.mkdir()
    for file in model_dir.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": method, "bits": 4}}))
    refused = sluice_run.try_train({**workshop.job(model_dir, RECIPE, adapter="qlora", lora_r=4, lora_target_linear=True),
                                    "base_model": str(copy)}, tmp_path)
    assert refused.exit_code == 2 and f"checkpoints quantised with {method} are not supported" in refused.stderr
    assert "adapter: qlora quantises them" in refused.stderr
