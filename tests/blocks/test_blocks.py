"""Every block program against transformers and peft: loss and all gradients, tiny random models of each family."""

import json
import os
import subprocess

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM

RUNNER = os.environ["SLUICE_BLOCK_RUNNER"]
torch.set_num_threads(2)
if why := subprocess.run([RUNNER, "--missing"], capture_output=True, text=True, check=True).stdout:
    pytest.skip(f"skipped: {why}", allow_module_level=True)

BASE = dict(
    vocab_size=211, hidden_size=96, intermediate_size=160, num_hidden_layers=3, num_attention_heads=6,
    num_key_value_heads=3, max_position_embeddings=256, tie_word_embeddings=False, rms_norm_eps=1e-5,
    bos_token_id=1, eos_token_id=2, pad_token_id=None,
)
LLAMA3 = dict(rope_type="llama3", rope_theta=10000.0, factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=32)
YARN = dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=64)
FAMILIES = {
    "llama": ("llama", {}),
    "llama tied": ("llama", dict(tie_word_embeddings=True)),
    "llama head_dim and biases": ("llama", dict(head_dim=24, attention_bias=True, mlp_bias=True)),
    "llama rope linear": ("llama", dict(rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=2.0))),
    "llama rope llama3": ("llama", dict(rope_parameters=LLAMA3)),
    "llama rope yarn": ("llama", dict(rope_parameters=YARN)),
    "mistral window": ("mistral", dict(sliding_window=7, head_dim=16)),
    "qwen2": ("qwen2", dict(tie_word_embeddings=True)),
    "qwen3": ("qwen3", dict(head_dim=24)),
}


def make_model(tmp_path, family, seed=0):
    kind, changes = FAMILIES[family]
    torch.manual_seed(seed)
    config = AutoConfig.for_model(kind, **{**BASE, **changes}, attn_implementation="eager")
    model = AutoModelForCausalLM.from_config(config).float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.1)
            else:
                parameter.normal_(0, 0.05)
    model.save_pretrained(tmp_path / "model")
    return model


def make_batches(seed=1, lengths=([23, 9, 40], [17])):
    """Two micro-batches of unequal documents, some tokens masked."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for of_batch in lengths:
        documents = [torch.randint(3, 211, (n,), generator=generator).tolist() for n in of_batch]
        labels = [[t if i >= len(d) // 3 else -100 for i, t in enumerate(d)] for d in documents]
        batches.append(dict(documents=documents, labels=labels))
    return batches


def reference(model, batches, scale=1.0, label_smoothing=0.0):
    """Sum of the losses over supervised tokens of all documents, one document a row, divided by their number. Gradients
    are of `scale` times that."""
    supervised = sum(sum(l != -100 for l in labels[1:]) for b in batches for labels in b["labels"])
    total = 0.0
    for batch in batches:
        for ids, labels in zip(batch["documents"], batch["labels"]):
            logits = model(input_ids=torch.tensor([ids])).logits[0, :-1].float()
            loss = torch.nn.functional.cross_entropy(logits, torch.tensor(labels[1:]), ignore_index=-100, reduction="sum",
                                                     label_smoothing=label_smoothing)
            (loss * scale / supervised).backward()
            total += loss.item() / supervised
    return total


def run(tmp_path, batches, **changes):
    request = dict(dtype="f32", gradient_dtype="f32", adapter="", keep="all", micro_batches=batches) | changes
    (tmp_path / "request.json").write_text(json.dumps(request))
    out = tmp_path / "out.safetensors"
    done = subprocess.run([RUNNER, tmp_path / "model", tmp_path / "request.json", out], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with safe_open(out, "pt") as file:
        assert file.metadata()["gaps_are_zero"] == "yes"
        # Copies: the file is mapped, and the next run writes over it.
        return float(done.stdout), {key: file.get_tensor(key).clone() for key in file.keys()}


def relative_error(ours, theirs):
    return ((ours.double() - theirs.double()).norm() / (theirs.double().norm() + 1e-12)).item()


@pytest.mark.parametrize("family", FAMILIES)
def test_full_gradients_match_transformers(tmp_path, family):
    model, batches = make_model(tmp_path, family), make_batches()
    expected = reference(model, batches)
    loss, gradients = run(tmp_path, batches)
    assert abs(loss - expected) < 1e-5
    theirs = {name: p.grad for name, p in model.named_parameters()}
    assert set(gradients) == set(theirs)
    for name, gradient in theirs.items():
        assert relative_error(gradients[name], gradient) < 1e-4, name


@pytest.mark.parametrize("family", ["llama tied", "qwen3", "mistral window"])
def test_adapter_gradients_match_peft(tmp_path, family):
    base, batches = make_model(tmp_path, family), make_batches()
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=6, target_modules=targets, lora_dropout=0.0, task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.05)
    model.save_pretrained(tmp_path / "adapter")
    expected = reference(model, batches)
    loss, gradients = run(tmp_path, batches, adapter=str(tmp_path / "adapter"))
    assert abs(loss - expected) < 1e-5
    theirs = {n.replace(".default", ""): p.grad for n, p in model.named_parameters() if p.requires_grad}
    assert set(gradients) == set(theirs)
    for name, gradient in theirs.items():
        assert relative_error(gradients[name], gradient) < 1e-4, name


def decomposed_adapter(tmp_path, base, **fields):
    """peft's DoRA, with magnitudes that training has moved away from the norms of the rows."""
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=6, target_modules="all-linear", use_dora=True,
                                            task_type="CAUSAL_LM", **fields))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.05)
            elif "magnitude" in name:
                parameter.mul_(torch.empty_like(parameter).uniform_(0.6, 1.4))
    model.save_pretrained(tmp_path / "adapter")
    return model


def gradients_of(model):
    names = ((n.replace(".default", "").replace("magnitude_vector.weight", "magnitude_vector"), p)
             for n, p in model.named_parameters())
    return {name: p.grad for name, p in names if p.requires_grad}


@pytest.mark.parametrize("stabilised", (False, True), ids=("lora", "rslora"))
@pytest.mark.parametrize("family", ["llama head_dim and biases", "qwen2", "qwen3"])
def test_magnitude_gradients_match_peft(tmp_path, family, stabilised):
    base, batches = make_model(tmp_path, family), make_batches()
    model = decomposed_adapter(tmp_path, base, use_rslora=stabilised)
    expected = reference(model, batches)
    loss, gradients = run(tmp_path, batches, adapter=str(tmp_path / "adapter"))
    assert abs(loss - expected) < 1e-5
    theirs = gradients_of(model)
    assert set(gradients) == set(theirs) and sum("magnitude" in name for name in theirs) == 7 * 3
    for name, gradient in theirs.items():
        assert relative_error(gradients[name], gradient) < 1e-4, name


def philox(key, counters, step, micro_batch):
    """Salmon et al. 2011, the constants of Philox 4x32-10: [counters, 4] draws."""
    c = [counters & 0xFFFFFFFF, counters >> 32, np.full_like(counters, step), np.full_like(counters, micro_batch)]
    k = [key & 0xFFFFFFFF, key >> 32]
    for _ in range(10):
        a, b = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [(b >> 32) ^ c[1] ^ np.uint64(k[0]), b & 0xFFFFFFFF, (a >> 32) ^ c[3] ^ np.uint64(k[1]), a & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return np.stack(c, 1)


def kept(elements, p, site, micro_batch, seed=7, step=1):
    """Which elements dropout keeps here: 64 counters give 256 neighbours (models/ops/kernels_isa.cpp)."""
    key = seed ^ (site * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF)
    chunks = -(-elements // 256)
    draws = philox(key, np.arange(64 * chunks, dtype=np.uint64), step, micro_batch).reshape(chunks, 64, 4)
    return torch.from_numpy((draws.transpose(0, 2, 1).reshape(-1)[:elements] >= int(p * 2**32)).copy())


class SameDropout(torch.nn.Dropout):
    """Drops what the runner drops of the document at hand."""

    def __init__(self, p, site):
        super().__init__(p)
        self.site, self.place = site, None  # micro-batch, its tokens, the document's first

    def forward(self, x):
        index, tokens, begin = self.place
        mask = kept(tokens * x.shape[-1], self.p, self.site, index).reshape(tokens, -1)[begin:begin + x.shape[1]]
        return x * mask / (1 - self.p)


def test_dropout_changes_the_x_of_both_halves_as_in_peft(tmp_path):
    """With dropout peft multiplies the base's weight with the dropped x as well, scaled by f - 1."""
    base, batches = make_model(tmp_path, "llama head_dim and biases"), make_batches()
    model = decomposed_adapter(tmp_path, base, lora_dropout=0.3)
    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    dropouts = []
    for name, module in model.named_modules():
        if hasattr(module, "lora_dropout"):
            layer, projection = int(name.split(".layers.")[1].split(".")[0]), modules.index(name.split(".")[-1])
            dropouts.append(SameDropout(0.3, layer * 7 + projection))
            module.lora_dropout["default"] = dropouts[-1]
    model.train()
    expected, supervised = 0, sum(sum(l != -100 for l in labels[1:]) for b in batches for labels in b["labels"])
    for index, batch in enumerate(batches):
        begin, tokens = 0, sum(map(len, batch["documents"]))
        for ids, labels in zip(batch["documents"], batch["labels"]):
            for dropout in dropouts:
                dropout.place = index, tokens, begin
            logits = model(input_ids=torch.tensor([ids])).logits[0, :-1]
            loss = torch.nn.functional.cross_entropy(logits, torch.tensor(labels[1:]), reduction="sum") / supervised
            loss.backward()
            expected, begin = expected + loss.item(), begin + len(ids)
    loss, gradients = run(tmp_path, batches, adapter=str(tmp_path / "adapter"), dropout=0.3)
    assert abs(loss - expected) < 1e-5
    for name, gradient in gradients_of(model).items():
        assert relative_error(gradients[name], gradient) < 1e-4, name


# 100,003 logits of a token: 400 supervised ones take several chunks, the last of them smaller, on any device.
@pytest.mark.parametrize("place", ("host", "gpu"))
@pytest.mark.parametrize(("vocabulary", "lengths"), ((211, ([23, 9, 40], [17])), (100_003, ([200, 200, 210], [17, 200]))))
def test_a_loss_of_one_s_own_matches_the_same_in_transformers(tmp_path, monkeypatch, place, vocabulary, lengths):
    monkeypatch.setitem(BASE, "vocab_size", vocabulary)
    monkeypatch.setitem(BASE, "num_hidden_layers", 1)
    model, batches = make_model(tmp_path, "llama tied"), make_batches(lengths=lengths)
    expected = reference(model, batches, label_smoothing=0.1)
    loss, gradients = run(tmp_path, batches, smoothed=place)
    assert abs(loss - expected) < 1e-5 * max(1, expected)
    theirs = {name: p.grad for name, p in model.named_parameters()}
    assert set(gradients) == set(theirs)
    for name, gradient in theirs.items():
        assert relative_error(gradients[name], gradient) < 1e-4, name


SLOTS = ["qkv", "attention_output", "attention_logsumexp", "residual", "mlp_gate_up"]


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("family", ["llama tied", "qwen3"])
def test_recomputing_any_slots_gives_the_same_bits_as_keeping_them(tmp_path, family, dtype):
    make_model(tmp_path, family)
    batches = make_batches()
    loss, kept = run(tmp_path, batches, dtype=dtype)
    for keep in ["none", *([s] for s in SLOTS), SLOTS[1:3], SLOTS[3:], [SLOTS[0], SLOTS[4]]]:
        again, gradients = run(tmp_path, batches, dtype=dtype, keep=keep)
        assert again == loss
        for name, gradient in kept.items():
            assert torch.equal(gradient, gradients[name]), (keep, name)


def test_recomputed_dropout_repeats_its_mask(tmp_path):
    base = make_model(tmp_path, "llama")
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.2)
    model.save_pretrained(tmp_path / "adapter")
    adapter = str(tmp_path / "adapter")
    plain, _ = run(tmp_path, make_batches(), adapter=adapter)
    loss, kept = run(tmp_path, make_batches(), adapter=adapter, dropout=0.3)
    assert loss != plain
    again, gradients = run(tmp_path, make_batches(), adapter=adapter, dropout=0.3, keep="none")
    assert again == loss and all(torch.equal(kept[k], gradients[k]) for k in kept)


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("dropout", (0.0, 0.3))
def test_recomputed_slots_give_magnitudes_the_same_bits(tmp_path, dtype, dropout):
    decomposed_adapter(tmp_path, make_model(tmp_path, "qwen3"))
    keys = dict(dtype=dtype, adapter=str(tmp_path / "adapter"), dropout=dropout)
    loss, all_kept = run(tmp_path, make_batches(), **keys)
    for keep in ["none", *([s] for s in SLOTS)]:
        again, gradients = run(tmp_path, make_batches(), **keys, keep=keep)
        assert again == loss and all(torch.equal(all_kept[k], gradients[k]) for k in all_kept), keep


# As torch.amp.GradScaler begins: fp16's smallest number is 6e-8, and gradients of activations here are as small.
FP16_SCALE = 65536.0
HALVES = {"bf16": (torch.bfloat16, 1.0, 2**-8), "f16": (torch.float16, FP16_SCALE, 2**-11)}


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("family", ["llama tied", "mistral window", "qwen2", "qwen3"])
def test_gradients_in_half_precision_err_no_more_than_twice_torchs_own(tmp_path, family, dtype):
    torch_dtype, scale, rounding = HALVES[dtype]
    model, batches = make_model(tmp_path, family), make_batches()
    model = model.to(torch_dtype)
    exact = AutoModelForCausalLM.from_config(model.config).double()
    exact.load_state_dict({k: v.double() for k, v in model.state_dict().items()})
    reference(exact, batches)
    reference(model, batches, scale)
    truth = {n: p.grad for n, p in exact.named_parameters()}
    theirs = {n: p.grad.double() / scale for n, p in model.named_parameters()}
    _, ours = run(tmp_path, batches, dtype=dtype, loss_scale=scale)
    for name in truth:
        bound = 2 * relative_error(theirs[name], truth[name]) + rounding
        assert relative_error(ours[name] / scale, truth[name]) <= bound, name


@pytest.mark.parametrize("processor", ["AVX512_CORE", "AVX2"])
def test_processors_that_do_not_multiply_halves_err_no_more(tmp_path, monkeypatch, processor):
    make_model(tmp_path, "mistral window")
    batches = make_batches()
    _, truth = run(tmp_path, batches)
    _, here = run(tmp_path, batches, dtype="f16", loss_scale=FP16_SCALE)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", processor)
    _, there = run(tmp_path, batches, dtype="f16", loss_scale=FP16_SCALE)
    for name in truth:
        bound = 1.25 * relative_error(here[name] / FP16_SCALE, truth[name]) + 2**-11
        assert relative_error(there[name] / FP16_SCALE, truth[name]) <= bound, name


def test_the_loss_scale_multiplies_every_gradient_and_no_loss(tmp_path):
    make_model(tmp_path, "llama")
    batches = make_batches()
    loss, plain = run(tmp_path, batches)
    again, scaled = run(tmp_path, batches, loss_scale=1024.0)
    assert again == loss
    for name, gradient in plain.items():
        assert torch.equal(gradient * 1024, scaled[name]), name


def test_too_large_a_scale_ends_in_gradients_that_are_not_finite(tmp_path):
    """What fp16 overflows to must be seen in weights' gradients, whose norm tells the trainer to skip the step."""
    make_model(tmp_path, "llama tied")
    loss, gradients = run(tmp_path, make_batches(), dtype="f16", loss_scale=2.0**24)
    assert loss == loss and not all(g.isfinite().all() for g in gradients.values())


def test_packed_documents_do_not_see_one_another(tmp_path):
    make_model(tmp_path, "llama")
    whole = make_batches()
    apart = [dict(documents=[d], labels=[l]) for b in whole for d, l in zip(b["documents"], b["labels"])]
    loss, gradients = run(tmp_path, whole)
    again, separate = run(tmp_path, apart)
    assert abs(loss - again) < 1e-6
    for name in gradients:
        assert relative_error(gradients[name], separate[name]) < 1e-5
