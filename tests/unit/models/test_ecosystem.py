"""Do transformers, peft and safetensors agree with models/ about the same files?

Directories of every family are made by transformers and peft and read by us (through model_tool), and ours are
loaded by them. MODEL_TOOL names the built tool.
"""

import itertools
import json
import os
import re
import subprocess

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

MODEL_TOOL = os.environ["MODEL_TOOL"]
FAMILIES = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}
SIZES = dict(
    hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=3,
    vocab_size=50, max_position_embeddings=64,
)
ROPES = {
    "default": {"rope_type": "default", "rope_theta": 20000.0},
    "linear": {"rope_type": "linear", "factor": 4.0, "rope_theta": 20000.0},
    "llama3": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 32, "rope_theta": 500000.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 1000000.0,
             "beta_fast": 16.0, "beta_slow": 2.0, "mscale": 0.7, "mscale_all_dim": 0.9, "truncate": False},
}


def tool(*words):
    done = subprocess.run([MODEL_TOOL, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) if done.stdout else None


def tool_refuses(*words):
    done = subprocess.run([MODEL_TOOL, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 2, done.stdout
    return done.stderr


def expected_windows(config):
    """The window that each layer's attention module of transformers really gets."""
    model = transformers.AutoModelForCausalLM.from_config(config)
    layers = [layer.self_attn for layer in model.model.layers]
    if config.model_type == "mistral":
        return [config.sliding_window or 0] * len(layers)
    return [getattr(attention, "sliding_window", None) or 0 for attention in layers]


def assert_spec_agrees(path):
    config = AutoConfig.from_pretrained(path.parent)
    spec = tool("spec", path)
    assert spec["family"] == config.model_type
    assert spec["layers"] == config.num_hidden_layers
    assert spec["hidden"] == config.hidden_size
    assert spec["ffn"] == config.intermediate_size
    assert spec["vocabulary"] == config.vocab_size
    assert spec["heads"] == config.num_attention_heads
    assert spec["kv_heads"] == config.num_key_value_heads
    assert spec["head_dim"] == (getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    assert spec["positions_max"] == config.max_position_embeddings
    assert spec["norm_epsilon"] == config.rms_norm_eps
    assert spec["tied_head"] == config.tie_word_embeddings
    rope, theirs = spec["rope"], config.rope_parameters
    assert rope["type"] == theirs["rope_type"]
    assert rope["theta"] == theirs["rope_theta"]
    for ours, key in [("factor", "factor"), ("low_freq_factor", "low_freq_factor"), ("mscale", "mscale"),
                      ("high_freq_factor", "high_freq_factor"), ("beta_fast", "beta_fast"), ("truncate", "truncate"),
                      ("original_positions_max", "original_max_position_embeddings"), ("beta_slow", "beta_slow"),
                      ("attention_factor", "attention_factor"), ("mscale_all_dim", "mscale_all_dim")]:
        if key in theirs:
            assert rope[ours] == theirs[key], key
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        assert spec["sliding_window"] == expected_windows(config)
    assert spec["padding_token"] == model.model.embed_tokens.padding_idx
    shapes = {name: list(tensor.shape) for name, tensor in model.named_parameters()}  # a tied head once only
    assert tool("groups", path) == shapes
    return config


def write_config(folder, fields):
    path = folder / "config.json"
    path.write_text(json.dumps(fields))
    return path


@pytest.mark.parametrize("rope", ROPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_config_saved_by_transformers_5(family, rope, tmp_path):
    config = FAMILIES[family](**SIZES, head_dim=10, tie_word_embeddings=rope == "linear", rope_parameters=dict(ROPES[rope]))
    config.save_pretrained(tmp_path)
    assert_spec_agrees(tmp_path / "config.json")


@pytest.mark.parametrize("rope", ROPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_config_in_the_style_of_transformers_4(family, rope, tmp_path):
    parameters = dict(ROPES[rope])
    theta = parameters.pop("rope_theta")
    if rope == "yarn":
        parameters["type"] = parameters.pop("rope_type")
    scaling = None if rope == "default" else parameters
    fields = dict(SIZES, model_type=family, rope_theta=theta, rope_scaling=scaling, torch_dtype="bfloat16")
    assert_spec_agrees(write_config(tmp_path, fields))


@pytest.mark.parametrize("family", FAMILIES)
def test_defaults_of_absent_fields(family, tmp_path):
    # heads a multiple of every family's default number of key/value heads
    fields = dict(model_type=family, hidden_size=64, intermediate_size=32, num_hidden_layers=2, num_attention_heads=32,
                  vocab_size=50)
    assert_spec_agrees(write_config(tmp_path, fields))


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])  # transformers 5 refuses null for mistral, 4 did not
def test_null_key_value_heads(family, tmp_path):
    assert_spec_agrees(write_config(tmp_path, dict(SIZES, model_type=family, num_key_value_heads=None)))


@pytest.mark.parametrize("attention_bias,mlp_bias", list(itertools.product([False, True], repeat=2)))
def test_llama_biases(attention_bias, mlp_bias, tmp_path):
    LlamaConfig(**SIZES, attention_bias=attention_bias, mlp_bias=mlp_bias).save_pretrained(tmp_path)
    assert_spec_agrees(tmp_path / "config.json")


def test_qwen3_attention_bias(tmp_path):
    Qwen3Config(**SIZES, attention_bias=True).save_pretrained(tmp_path)
    assert_spec_agrees(tmp_path / "config.json")


@pytest.mark.parametrize("window", [None, 16])
def test_mistral_window(window, tmp_path):
    MistralConfig(**SIZES, sliding_window=window).save_pretrained(tmp_path)
    assert_spec_agrees(tmp_path / "config.json")


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
@pytest.mark.parametrize("fields", [
    dict(use_sliding_window=True, sliding_window=16, max_window_layers=1),
    dict(use_sliding_window=True, sliding_window=16, max_window_layers=0),
    dict(use_sliding_window=True, max_window_layers=2),
    dict(use_sliding_window=False, sliding_window=16, max_window_layers=1),
    dict(use_sliding_window=True, sliding_window=16,
         layer_types=["sliding_attention", "full_attention", "sliding_attention"]),
])
def test_qwen_windows(family, fields, tmp_path):
    assert_spec_agrees(write_config(tmp_path, dict(SIZES, model_type=family, **fields)))
    FAMILIES[family](**SIZES, **fields).save_pretrained(tmp_path)
    assert_spec_agrees(tmp_path / "config.json")


@pytest.mark.parametrize("token", [None, 0, 2, -1])
def test_padding_token(token, tmp_path):
    assert_spec_agrees(write_config(tmp_path, dict(SIZES, model_type="llama", pad_token_id=token)))


PUBLISHED = {
    "smollm2": dict(
        architectures=["LlamaForCausalLM"], attention_bias=False, attention_dropout=0.0, bos_token_id=1, eos_token_id=2,
        hidden_act="silu", hidden_size=576, initializer_range=0.041666666666666664, intermediate_size=1536,
        is_llama_config=True, max_position_embeddings=8192, mlp_bias=False, model_type="llama", num_attention_heads=9,
        num_hidden_layers=2, num_key_value_heads=3, pad_token_id=2, pretraining_tp=1, rms_norm_eps=1e-05,
        rope_interleaved=False, rope_scaling=None, rope_theta=100000, tie_word_embeddings=True, torch_dtype="bfloat16",
        transformers_version="4.42.3", use_cache=True, vocab_size=512,
        **{"transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}}}),
    "llama-3.2": dict(
        architectures=["LlamaForCausalLM"], attention_bias=False, attention_dropout=0.0, bos_token_id=128000,
        eos_token_id=[128001, 128008, 128009], head_dim=64, hidden_act="silu", hidden_size=2048, initializer_range=0.02,
        intermediate_size=8192, max_position_embeddings=131072, mlp_bias=False, model_type="llama",
        num_attention_heads=32, num_hidden_layers=2, num_key_value_heads=8, pretraining_tp=1, rms_norm_eps=1e-05,
        rope_scaling={"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                      "original_max_position_embeddings": 8192, "rope_type": "llama3"},
        rope_theta=500000.0, tie_word_embeddings=True, torch_dtype="bfloat16", transformers_version="4.45.0.dev0",
        use_cache=True, vocab_size=128256),
    "mistral-0.1": dict(
        architectures=["MistralForCausalLM"], bos_token_id=1, eos_token_id=2, hidden_act="silu", hidden_size=4096,
        initializer_range=0.02, intermediate_size=14336, max_position_embeddings=32768, model_type="mistral",
        num_attention_heads=32, num_hidden_layers=2, num_key_value_heads=8, rms_norm_eps=1e-05, rope_theta=10000.0,
        sliding_window=4096, tie_word_embeddings=False, torch_dtype="bfloat16", transformers_version="4.34.0.dev0",
        use_cache=True, vocab_size=32000),
    "qwen2.5": dict(
        architectures=["Qwen2ForCausalLM"], attention_dropout=0.0, bos_token_id=151643, eos_token_id=151645,
        hidden_act="silu", hidden_size=896, initializer_range=0.02, intermediate_size=4864,
        max_position_embeddings=32768, max_window_layers=21, model_type="qwen2", num_attention_heads=14,
        num_hidden_layers=2, num_key_value_heads=2, rms_norm_eps=1e-06, rope_theta=1000000.0, sliding_window=32768,
        tie_word_embeddings=True, torch_dtype="bfloat16", transformers_version="4.43.1", use_cache=True,
        use_mrope=False, use_sliding_window=False, vocab_size=151936),
    "qwen3": dict(
        architectures=["Qwen3ForCausalLM"], attention_bias=False, attention_dropout=0.0, bos_token_id=151643,
        eos_token_id=151645, head_dim=128, hidden_act="silu", hidden_size=1024, initializer_range=0.02,
        intermediate_size=3072, max_position_embeddings=40960, max_window_layers=28, model_type="qwen3",
        num_attention_heads=16, num_hidden_layers=2, num_key_value_heads=8, rms_norm_eps=1e-06, rope_scaling=None,
        rope_theta=1000000, sliding_window=None, tie_word_embeddings=True, torch_dtype="bfloat16",
        transformers_version="4.51.0", use_cache=True, use_sliding_window=False, vocab_size=151936),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs(name, tmp_path):
    assert_spec_agrees(write_config(tmp_path, PUBLISHED[name]))


# ---- weights ----


def tiny_model(family, tied, folder, dtype=torch.float32, **save):
    torch.manual_seed(0)
    config = FAMILIES[family](**SIZES, head_dim=10, tie_word_embeddings=tied)
    model = AutoModelForCausalLM.from_config(config).to(dtype)
    model.save_pretrained(folder, **save)
    return model


def logits(model):
    model.eval()
    with torch.no_grad():
        return model(torch.arange(2, 34)[None]).logits


def load_without_complaints(folder):
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, dtype="auto")
    assert not any(info.values()), info
    return model


@pytest.mark.parametrize("shard_bytes", [5_000_000_000, 30_000], ids=["single", "sharded"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("family", FAMILIES)
def test_our_directory_loads_with_the_same_logits(family, tied, shard_bytes, tmp_path):
    base, ours = tmp_path / "base", tmp_path / "ours"
    model = tiny_model(family, tied, base, max_shard_size="20KB" if shard_bytes < 1e6 else "5GB")
    assert (base / "model.safetensors.index.json").exists() == (shard_bytes < 1e6)
    (base / "tokenizer.json").write_text("{}")
    tool("copy-model", base, ours, shard_bytes)
    assert (ours / "model.safetensors.index.json").exists() == (shard_bytes < 1e6)
    assert (ours / "tokenizer.json").exists() and (ours / "generation_config.json").exists()
    assert torch.equal(logits(load_without_complaints(ours)), logits(model))
    assert tool("index", ours) == tool("index", base)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_written_dtype_is_what_transformers_loads(dtype, tmp_path):
    tiny_model("llama", True, tmp_path / "base", dtype)
    tool("copy-model", tmp_path / "base", tmp_path / "ours", 5_000_000_000)
    assert load_without_complaints(tmp_path / "ours").dtype == dtype


def test_our_file_is_aligned_and_whole_for_safetensors(tmp_path):
    tiny_model("qwen2", False, tmp_path / "base")
    tool("copy-model", tmp_path / "base", tmp_path / "ours", 5_000_000_000)
    path = tmp_path / "ours" / "model.safetensors"
    assert (8 + int.from_bytes(path.read_bytes()[:8], "little")) % 4096 == 0
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert len(list(file.keys())) == 3 + 12 * 3


def test_a_stored_tied_head_is_left_aside_only_when_equal(tmp_path):
    from safetensors.torch import load_file, save_file
    base = tmp_path / "base"
    model = tiny_model("llama", True, base)
    tensors = load_file(base / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    tool("copy-model", base, tmp_path / "ours", 5_000_000_000)
    assert torch.equal(logits(load_without_complaints(tmp_path / "ours")), logits(model))
    tensors["lm_head.weight"][3, 3] += 1
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    assert "lm_head.weight" in tool_refuses("copy-model", base, tmp_path / "again", 5_000_000_000)


# ---- adapters ----


@pytest.mark.parametrize("targets", [["q_proj", "down_proj"], "all-linear", ["self_attn.v_proj", "mlp.gate_proj"]], ids=str)
@pytest.mark.parametrize("family, dora", [(family, False) for family in FAMILIES] + [("qwen2", True)])
def test_adapter_of_peft_is_read_and_ours_loads_with_the_same_logits(family, dora, targets, tmp_path):
    base, theirs, ours = tmp_path / "base", tmp_path / "theirs", tmp_path / "ours"
    tiny_model(family, False, base)
    config = LoraConfig(r=4, lora_alpha=6, lora_dropout=0.1, target_modules=targets, use_dora=dora, task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)  # zero at the start: the adapter would do nothing
    model.save_pretrained(theirs)
    read = tool("adapter", theirs, base / "config.json")
    assert (read["rank"], read["alpha"], read["dropout"]) == (4, 6, 0.1)
    saved = {re.search(r"(\w+)\.lora_", name)[1] for name in safe_open(theirs / "adapter_model.safetensors", "pt").keys()}
    assert set(read["target_modules"]) == saved

    tool("copy-adapter", base, theirs, ours)
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), ours)
    assert torch.equal(logits(loaded), logits(model))
    assert not torch.equal(logits(loaded), logits(AutoModelForCausalLM.from_pretrained(base)))


def test_our_adapter_config_has_the_fields_of_peft(tmp_path):
    base, theirs, ours = tmp_path / "base", tmp_path / "theirs", tmp_path / "ours"
    tiny_model("llama", False, base)
    config = LoraConfig(r=4, lora_alpha=6, lora_dropout=0.1, target_modules=["q_proj"], task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(theirs)
    tool("copy-adapter", base, theirs, ours)
    ours_text, theirs_text = ((folder / "adapter_config.json").read_text() for folder in (ours, theirs))
    assert json.loads(ours_text) == json.loads(theirs_text)


@pytest.mark.parametrize("fields,named", [
    (dict(modules_to_save=["lm_head"]), "modules_to_save"),
    (dict(rank_pattern={"q_proj": 2}), "rank_pattern"),
    (dict(alpha_pattern={"q_proj": 2}), "alpha_pattern"),
    (dict(bias="lora_only"), "bias"),
    (dict(lora_bias=True), "lora_bias"),
    (dict(layers_to_transform=[0]), "layers_to_transform"),
    (dict(target_modules=r".*\.q_proj"), "target_modules"),
    (dict(init_lora_weights="olora"), "init_lora_weights"),
    (dict(trainable_token_indices=[1, 2]), "trainable_token_indices"),
])
def test_adapters_that_are_more_than_lora_and_dora_are_refused(fields, named, tmp_path):
    tiny_model("llama", False, tmp_path / "base")
    config = LoraConfig(**{"r": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM", **fields})
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), config)
    model.save_pretrained(tmp_path / "adapter")
    if named == "init_lora_weights":  # peft saves it as true once the base weights are changed: as it was asked for
        path = tmp_path / "adapter" / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    assert f"'{named}'" in tool_refuses("adapter", tmp_path / "adapter", tmp_path / "base" / "config.json")
