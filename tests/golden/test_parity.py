"""50 fp32 steps beside transformers, peft and torch.optim.AdamW: every family, full and LoRA, 1 and 4 micro-batches."""

import json
from dataclasses import replace

import peft
import pytest
import torch
from golden import hf_trainer, parity, reference, sluice_run, tiny_models
from golden.reference import Recipe

SCHEDULES = ({"schedule": "cosine"}, {"schedule": "linear"}, {"schedule": "constant", "warmup_steps": 0})


def recipe_of(index, micro_batches):
    # Wide and narrow clipping, so that a step with it and a step without it both occur.
    return Recipe(micro_batches=micro_batches, grad_norm_max=(2.5, 4.0)[micro_batches == 1], **SCHEDULES[index % 3])


FULL = [(tiny, recipe_of(i, n)) for i, tiny in enumerate(tiny_models.FAMILIES) for n in (1, 4)]
LORA = [
    ("llama_tied", ["q_proj", "v_proj"]),
    ("llama_linear_biased", ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]),
    ("llama_yarn_untied", ["k_proj", "up_proj"]),
    ("mistral_window", ["o_proj", "down_proj"]),
    ("qwen2_window_untied", ["k_proj", "v_proj", "gate_proj"]),
    ("qwen3_tied", ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]),
]


def name_of(value):
    return f"{value.micro_batches}x{value.schedule}" if isinstance(value, Recipe) else getattr(value, "name", None)


@pytest.mark.parametrize("tiny, recipe", FULL, ids=name_of)
def test_full_fine_tuning_follows_transformers(workshop, tmp_path, tiny, recipe):
    model_dir = workshop.model(tiny)
    run = sluice_run.train(workshop.job(model_dir, recipe), tmp_path)
    initial = parity.full_weights(reference.load(model_dir))
    curve = reference.train(reference.load(model_dir), workshop.rows(model_dir), recipe)
    parity.assert_same_curve(run, curve)
    parity.assert_same_weights(parity.saved_tensors(run.output_dir), parity.full_weights(curve.model), initial)
    lengths = [len(row) for row in workshop.rows(model_dir)]
    assert run.column("tokens") == [sum(lengths[begin:begin + recipe.rows_per_step])
                                    for begin in range(0, recipe.rows, recipe.rows_per_step)]


def new_adapter(model_dir, directory, targets, rank=5, seed=3, **fields):
    """An adapter that is not the identity: both of its factors are random."""
    torch.manual_seed(seed)
    config = peft.LoraConfig(r=rank, lora_alpha=12, target_modules=targets, init_lora_weights=False,
                             task_type="CAUSAL_LM", **fields)
    peft.get_peft_model(reference.load(model_dir), config).save_pretrained(directory)
    return directory


def lora_keys(adapter_dir, targets):
    return {"adapter": "lora", "lora_r": 5, "lora_alpha": 12, "lora_target_modules": targets,
            "lora_model_dir": str(adapter_dir)}


@pytest.mark.parametrize("micro_batches", (1, 4))
@pytest.mark.parametrize("name, targets", LORA, ids=lambda value: value if isinstance(value, str) else None)
def test_lora_follows_peft(workshop, tmp_path, name, targets, micro_batches):
    model_dir = workshop.model(tiny_models.BY_NAME[name])
    recipe = replace(recipe_of(len(targets), micro_batches), learning_rate=3e-3)
    adapter_dir = new_adapter(model_dir, tmp_path / "adapter", targets)
    run = sluice_run.train(workshop.job(model_dir, recipe, **lora_keys(adapter_dir, targets)), tmp_path)
    initial = parity.adapter_weights(reference.load_with_adapter(model_dir, adapter_dir))
    curve = reference.train(reference.load_with_adapter(model_dir, adapter_dir), workshop.rows(model_dir), recipe)
    parity.assert_same_curve(run, curve)
    parity.assert_same_weights(parity.saved_tensors(run.output_dir), parity.adapter_weights(curve.model), initial)


def test_rank_stabilised_lora_follows_peft(workshop, tmp_path):
    model_dir, targets = workshop.model(tiny_models.BY_NAME["llama_tied"]), ["q_proj", "down_proj"]
    recipe = replace(recipe_of(0, 1), learning_rate=3e-3, steps=20)
    adapter_dir = new_adapter(model_dir, tmp_path / "adapter", targets, use_rslora=True)
    keys = {**lora_keys(adapter_dir, targets), "peft_use_rslora": True}
    run = sluice_run.train(workshop.job(model_dir, recipe, **keys), tmp_path)
    curve = reference.train(reference.load_with_adapter(model_dir, adapter_dir), workshop.rows(model_dir), recipe)
    parity.assert_same_curve(run, curve)
    saved = json.loads((run.output_dir / "adapter_config.json").read_text())
    assert saved["use_rslora"] is True
    refused = sluice_run.try_train(workshop.job(model_dir, recipe, **{**keys, "peft_use_rslora": False}), tmp_path / "no")
    assert refused.exit_code == 2 and "peft_use_rslora is false in the job file and true in" in refused.stderr


def test_a_new_adapter_is_drawn_as_peft_draws_it_and_changes_nothing_at_first(workshop, tmp_path):
    model_dir = workshop.model(tiny_models.BY_NAME["llama_tied"])
    recipe = Recipe(steps=1, warmup_steps=1)  # the first of a warm-up has a learning rate of zero
    run = sluice_run.train(
        workshop.job(model_dir, recipe, adapter="lora", lora_r=8, lora_alpha=16, lora_target_linear=True), tmp_path)
    rows = workshop.rows(model_dir)[:recipe.rows]
    with torch.no_grad():
        base_loss = reference.loss_sum(reference.load(model_dir), rows, rows) / reference.supervised_tokens(rows)
    assert run.log[0]["loss"] == pytest.approx(base_loss.item(), abs=1e-5)
    saved = parity.saved_tensors(run.output_dir)
    assert len(saved) == 2 * 7 * 3
    for name, tensor in saved.items():
        if "lora_B" in name:
            assert tensor.abs().max() == 0, name
        else:  # torch.nn.init.kaiming_uniform_(a=sqrt(5)): uniform within 1 / sqrt(inputs)
            bound = tensor.shape[1] ** -0.5
            assert tensor.abs().max() <= bound and tensor.std() == pytest.approx(bound / 3**0.5, rel=0.15), name


@pytest.mark.parametrize("name", ("llama_tied", "mistral_window", "llama_yarn_untied"))
def test_packed_documents_train_as_if_alone(workshop, tmp_path, name):
    model_dir = workshop.model(tiny_models.BY_NAME[name])
    recipe = Recipe(micro_batches=3, rows_per_micro_batch=1, steps=20)
    job = workshop.job(model_dir, recipe, sample_packing=True, dataset_prepared_path=str(tmp_path / "cache"))
    run = sluice_run.train(job, tmp_path)
    packed = sluice_run.prepared(tmp_path / "cache").rows[:recipe.rows]
    assert max(len(documents) for documents in packed) > 1, "nothing was packed"
    batches = [[ids for ids, _ in documents] for documents in packed]
    curve = reference.train_on(reference.load(model_dir), batches, batches, recipe)
    parity.assert_same_curve(run, curve)


def test_epochs_end_as_in_the_trainer_of_transformers(workshop, tmp_path):
    """13 rows in micro-batches of 2 and steps of 3: an epoch ends with a step of one row."""
    model_dir = workshop.model(tiny_models.BY_NAME["llama_tied"])
    recipe = Recipe(micro_batches=3, steps=9, warmup_steps=2)
    data = tiny_models.write_rows(tmp_path / "rows.jsonl", 13, words_max=10)
    keys = {**recipe.yaml(), "max_steps": None, "num_epochs": 3}
    job = workshop.job(model_dir, recipe, **keys)
    run = sluice_run.train({**job, "datasets": [{"path": str(data), "type": "completion"}]}, tmp_path)
    rows = tiny_models.expected_rows(data, model_dir)
    assert len(rows) == 13
    lines = hf_trainer.logged_steps(reference.load(model_dir), rows, recipe, tmp_path / "hf", num_train_epochs=3)
    assert [line["learning_rate"] for line in lines] == [pytest.approx(v) for v in run.column("learning_rate")]
    assert [line["grad_norm"] for line in lines] == [pytest.approx(v, rel=1e-4) for v in run.column("grad_norm")]
    assert [line["loss"] for line in lines] == [pytest.approx(v, abs=2e-5) for v in run.column("loss")]


def test_token_files_hold_the_ids_of_the_tokenizer(workshop, tmp_path):
    """Else a difference in text would look like one in arithmetic."""
    model_dir = workshop.model(tiny_models.BY_NAME["llama_tied"])
    recipe = Recipe(steps=1)
    sluice_run.train(workshop.job(model_dir, recipe, dataset_prepared_path=str(tmp_path / "cache")), tmp_path)
    found = [documents[0] for documents in sluice_run.prepared(tmp_path / "cache").rows]
    rows = workshop.rows(model_dir)
    assert [ids for ids, _ in found] == rows
    assert [labels for _, labels in found] == [[reference.MASKED] + row[1:] for row in rows]
