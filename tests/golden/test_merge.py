"""`sluice merge` beside peft's merge_and_unload."""

import shutil

import bitsandbytes
import peft
import pytest
import safetensors.torch
import torch
import transformers
from golden import parity, reference, sluice_run, tiny_models
from golden.test_parity import new_adapter

EXIT_SETUP = 2
WIDE = tiny_models.TinyModel("wide_merged", "llama", {"hidden_size": 128, "intermediate_size": 320, "head_dim": 32,
                                                      "num_attention_heads": 4, "num_key_value_heads": 2})
CASES = [
    ("llama_tied", ["q_proj", "v_proj"], {}),
    ("llama_linear_biased", ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], {}),
    ("qwen3_untied", ["o_proj", "down_proj"], {"use_rslora": True}),
]


def merge(*arguments):
    return sluice_run.sluice("merge", *arguments)


def merged_by_peft(model_dir, adapter_dir):
    return parity.full_weights(reference.load_with_adapter(model_dir, adapter_dir).merge_and_unload())


@pytest.mark.parametrize("name, targets, fields", CASES, ids=[case[0] for case in CASES])
def test_weights_are_those_of_peft(workshop, tmp_path, name, targets, fields):
    model_dir = workshop.model(tiny_models.BY_NAME[name])
    adapter_dir = new_adapter(model_dir, tmp_path / "adapter", targets, **fields)
    done = merge("--adapter", adapter_dir, "--out", tmp_path / "merged", "--dtype", "f32")
    assert done.returncode == 0, done.stderr
    assert f"{len(targets) * 3} projections merged" in done.stdout
    expected, base = merged_by_peft(model_dir, adapter_dir), parity.full_weights(reference.load(model_dir))
    saved = parity.saved_tensors(tmp_path / "merged")
    assert saved.keys() == expected.keys()
    for tensor, value in expected.items():
        torch.testing.assert_close(saved[tensor], value, rtol=1e-6, atol=1e-6, msg=tensor)
        targeted = any(f".{target}.weight" in tensor for target in targets)
        assert targeted != torch.equal(saved[tensor], base[tensor]), tensor


@pytest.mark.parametrize("dtype, torch_dtype", (("bf16", torch.bfloat16), ("f16", torch.float16)))
def test_other_types_are_rounded_once(workshop, tmp_path, dtype, torch_dtype):
    model_dir = workshop.model(tiny_models.BY_NAME["llama_tied"])
    adapter_dir = new_adapter(model_dir, tmp_path / "adapter", ["q_proj", "up_proj"])
    for kind in ("f32", dtype):
        assert merge("--adapter", adapter_dir, "--out", tmp_path / kind, "--dtype", kind).returncode == 0
    exact, rounded = parity.saved_tensors(tmp_path / "f32"), safetensors.torch.load_file(tmp_path / dtype / "model.safetensors")
    for tensor, value in rounded.items():
        assert value.dtype == torch_dtype and torch.equal(value, exact[tensor].to(torch_dtype)), tensor
    assert transformers.AutoConfig.from_pretrained(tmp_path / dtype).dtype == torch_dtype


@pytest.mark.parametrize("tiny", [tiny for tiny in tiny_models.BY_NAME.values() if tiny.stored != "float32"],
                         ids=lambda tiny: tiny.stored)
def test_the_base_decides_the_type(workshop, tmp_path, tiny):
    model_dir = workshop.model(tiny)
    adapter_dir = new_adapter(model_dir, tmp_path / "adapter", ["v_proj"])
    assert merge("--adapter", adapter_dir, "--model", model_dir, "--out", tmp_path / "merged").returncode == 0
    saved = safetensors.torch.load_file(tmp_path / "merged" / "model.safetensors")
    assert {str(value.dtype) for value in saved.values()} == {f"torch.{tiny.stored}"}
    expected = merged_by_peft(model_dir, adapter_dir)
    # Half an ulp of the type, and what two fp32 sums differ by.
    ulp = torch.finfo(getattr(torch, tiny.stored)).eps
    for tensor, value in saved.items():
        torch.testing.assert_close(value.float(), expected[tensor], rtol=0.51 * ulp, atol=1e-6, msg=tensor)


def test_the_merged_model_answers_as_base_and_adapter(workshop, tmp_path):
    model_dir = workshop.model(tiny_models.BY_NAME["qwen3_untied"])
    adapter_dir = new_adapter(model_dir, tmp_path / "adapter", ["q_proj", "gate_proj", "down_proj"])
    assert merge("--adapter", adapter_dir, "--out", tmp_path / "merged", "--dtype", "f32").returncode == 0
    prompt = "every block"
    apart = sluice_run.logits(["--model", model_dir, "--adapter", adapter_dir], prompt, tmp_path / "apart.safetensors")
    merged = sluice_run.logits(["--model", tmp_path / "merged"], prompt, tmp_path / "merged.safetensors")
    torch.testing.assert_close(merged["logits"], apart["logits"], rtol=1e-4, atol=1e-4)


def save_quantised(model_dir, directory, kind):
    settings = {"load_in_8bit": True} if kind == "int8" else {
        "load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    model = transformers.AutoModelForCausalLM.from_pretrained(
        model_dir, dtype=torch.float32, device_map="cpu", quantization_config=transformers.BitsAndBytesConfig(**settings))
    model.save_pretrained(directory)
    transformers.AutoTokenizer.from_pretrained(model_dir).save_pretrained(directory)
    return model


@pytest.mark.parametrize("kind", ("nf4", "int8"))
def test_a_quantised_base_is_expanded_where_asked(workshop, tmp_path, kind):
    model_dir, quantised = workshop.model(WIDE), tmp_path / "quantised"
    model = save_quantised(model_dir, quantised, kind)
    adapter_dir = new_adapter(model_dir, tmp_path / "adapter", ["q_proj", "down_proj"])
    keys = ("--adapter", adapter_dir, "--model", quantised, "--out", tmp_path / "merged")
    refused = merge(*keys)
    assert refused.returncode == EXIT_SETUP and "is quantised" in refused.stderr and "--dtype bf16" in refused.stderr
    assert merge(*keys, "--dtype", "f32").returncode == 0

    plain = reference.load(model_dir)
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, bitsandbytes.nn.Linear4bit):
                weight = bitsandbytes.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
            elif isinstance(module, bitsandbytes.nn.Linear8bitLt):
                weight = bitsandbytes.functional.int8_vectorwise_dequant(module.weight.data, module.weight.SCB)
            else:
                continue
            plain.get_submodule(name).weight.copy_(weight)
    merged = peft.PeftModel.from_pretrained(plain, adapter_dir).merge_and_unload()
    loaded = reference.load(tmp_path / "merged")
    assert not hasattr(loaded.config, "quantization_config")
    theirs = dict(merged.named_parameters())
    for name, parameter in loaded.named_parameters():
        torch.testing.assert_close(parameter, theirs[name], rtol=1e-6, atol=1e-6, msg=name)


def test_what_is_quantised_and_no_matrix_of_the_layers_is_named(workshop, tmp_path):
    model_dir, quantised = workshop.model(WIDE), tmp_path / "quantised"
    save_quantised(model_dir, quantised, "nf4")
    adapter_dir = new_adapter(model_dir, tmp_path / "adapter", ["q_proj"])
    file, matrix = quantised / "model.safetensors", "model.layers.0.self_attn.q_proj.weight"
    tensors = safetensors.torch.load_file(file)
    for wrong in ("model.extra.weight", "model.norm.weight"):
        pieces = {wrong + name.removeprefix(matrix): value.clone() for name, value in tensors.items()
                  if name.startswith(matrix)}
        assert len(pieces) > 3
        safetensors.torch.save_file(tensors | pieces, file, metadata={"format": "pt"})
        refused = merge("--adapter", adapter_dir, "--model", quantised, "--out", tmp_path / "merged", "--dtype", "f32")
        assert refused.returncode == EXIT_SETUP and not (tmp_path / "merged").exists()
        assert f"{file}: tensor '{wrong}' is quantised, and not one of the layers'\n  fix: " in refused.stderr


class TestBadInput:
    @pytest.fixture
    def adapter(self, workshop, tmp_path):
        self.model_dir = workshop.model(tiny_models.BY_NAME["llama_tied"])
        return new_adapter(self.model_dir, tmp_path / "adapter", ["q_proj"])

    def refused(self, *arguments):
        done = merge(*arguments)
        assert done.returncode == EXIT_SETUP and "fix: " in done.stderr, done.stderr
        return done.stderr

    def test_an_output_that_is_there(self, adapter, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine.txt").write_text("kept")
        assert "exists and is not an empty folder" in self.refused("--adapter", adapter, "--out", tmp_path / "out")
        assert [file.name for file in (tmp_path / "out").iterdir()] == ["mine.txt"]

    def test_a_folder_that_is_not_there(self, adapter, tmp_path):
        assert "is no folder" in self.refused("--adapter", adapter, "--out", tmp_path / "absent" / "out")

    def test_an_adapter_of_another_model(self, workshop, adapter, tmp_path):
        other = workshop.model(tiny_models.BY_NAME["qwen3_untied"])
        message = self.refused("--adapter", adapter, "--model", other, "--out", tmp_path / "out")
        assert "q_proj.lora_" in message and "shape" in message, message
        assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*merging"))

    def test_a_base_that_has_moved(self, adapter, tmp_path):
        text = (adapter / "adapter_config.json").read_text()
        (adapter / "adapter_config.json").write_text(text.replace(str(self.model_dir), "/nowhere"))
        assert "names /nowhere as base model" in self.refused("--adapter", adapter, "--out", tmp_path / "out")

    def test_no_adapter(self, adapter, tmp_path):
        assert "adapter_config.json" in self.refused("--adapter", self.model_dir, "--out", tmp_path / "out")

    def test_a_half_written_result_is_replaced(self, adapter, tmp_path):
        (tmp_path / ".out.merging").mkdir()
        (tmp_path / ".out.merging" / "model.safetensors").write_text("half")
        assert merge("--adapter", adapter, "--out", tmp_path / "out").returncode == 0
        assert not (tmp_path / ".out.merging").exists() and (tmp_path / "out" / "model.safetensors").exists()

    def test_truncated_weights(self, adapter, tmp_path):
        base = shutil.copytree(self.model_dir, tmp_path / "base")
        weights = base / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
        assert "model.safetensors" in self.refused("--adapter", adapter, "--model", base, "--out", tmp_path / "out")
