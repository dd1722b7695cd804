"""Jobs from the documentation of Axolotl and LLaMA-Factory, unchanged but for model, data and folders.

The settings are those of examples/llama-3 (lora-1b.yml, qlora-1b.yml, fft-8b.yaml) of axolotl-ai-cloud/axolotl and of
examples/train_lora/llama3_lora_sft.yaml and examples/train_full/llama3_full_sft.yaml of hiyouga/LLaMA-Factory. `None` is a
key that the example leaves empty.
"""

import json
import re

import pytest
import torch
from golden import sluice_run, tiny_models

AXOLOTL = {
    "bf16": "auto", "dataset_prepared_path": "last_run_prepared", "evals_per_epoch": 4, "gradient_checkpointing": True,
    "learning_rate": 0.0002, "logging_steps": 1, "loss_watchdog_patience": 3, "loss_watchdog_threshold": 5.0,
    "lr_scheduler": "cosine", "micro_batch_size": 2, "num_epochs": 1, "output_dir": "./outputs/out",
    "resume_from_checkpoint": None, "sample_packing": True, "saves_per_epoch": 1, "sequence_len": 2048,
    "special_tokens": {"pad_token": "<|end_of_text|>"},
    "tf32": False, "val_set_size": 0.1, "wandb_entity": None, "wandb_log_model": None, "wandb_name": None,
    "wandb_project": None, "wandb_watch": None, "weight_decay": 0.0, "load_in_8bit": False,
}
EVERYWHERE = ["gate_proj", "down_proj", "up_proj", "q_proj", "v_proj", "k_proj", "o_proj"]
LORA_1B = {
    **AXOLOTL, "adapter": "lora", "debug": None, "deepspeed": None, "early_stopping_patience": None,
    "eval_sample_packing": True, "flash_attention": True, "fp16": None, "fsdp": None, "fsdp_config": None,
    "gradient_accumulation_steps": 2, "group_by_length": False, "load_in_4bit": False, "local_rank": None, "lora_alpha": 32,
    "lora_dropout": 0.05, "lora_fan_in_fan_out": None, "lora_model_dir": None, "lora_r": 16, "lora_target_modules": EVERYWHERE,
    "optimizer": "adamw_8bit", "pad_to_sequence_len": True, "strict": False, "train_on_inputs": False, "warmup_steps": 10,
    "xformers_attention": None,
}
QLORA_1B = {
    **AXOLOTL, "adapter": "qlora", "attn_implementation": "flash_attention_2", "eval_sample_packing": True,
    "gradient_accumulation_steps": 4, "load_in_4bit": True, "lora_alpha": 16, "lora_dropout": 0.05, "lora_model_dir": None,
    "lora_r": 32, "lora_target_modules": EVERYWHERE, "optimizer": "adamw_bnb_8bit", "warmup_ratio": 0.1,
}
FULL_8B = {
    **AXOLOTL, "debug": None, "deepspeed": None, "early_stopping_patience": None, "eval_table_size": None,
    "evals_per_epoch": 2, "flash_attention": True, "fp16": None, "fsdp": None, "fsdp_config": None,
    "gradient_accumulation_steps": 8, "gradient_checkpointing_kwargs": {"use_reentrant": False}, "group_by_length": False,
    "learning_rate": 2e-5, "load_in_4bit": False, "micro_batch_size": 1, "model_type": "LlamaForCausalLM",
    "optimizer": "paged_adamw_8bit", "pad_to_sequence_len": True, "sequence_len": 8192, "strict": False,
    "tokenizer_type": "AutoTokenizer", "train_on_inputs": False, "val_set_size": 0.05, "warmup_steps": 100,
    "xformers_attention": None,
}
LLAMA_FACTORY = {
    "bf16": True, "cutoff_len": 2048, "dataset": "identity,alpaca_en_demo", "ddp_timeout": 180000000, "do_train": True,
    "logging_steps": 10, "lr_scheduler_type": "cosine", "max_samples": 1000, "num_train_epochs": 3.0,
    "output_dir": "saves/llama3-8b/sft", "overwrite_cache": True, "overwrite_output_dir": True,
    "per_device_train_batch_size": 1, "plot_loss": True, "preprocessing_num_workers": 16, "save_steps": 500, "stage": "sft",
    "template": "llama3", "trust_remote_code": True, "warmup_ratio": 0.1,
}
LORA_SFT = {**LLAMA_FACTORY, "finetuning_type": "lora", "gradient_accumulation_steps": 8, "learning_rate": 1e-4, "lora_rank": 8,
            "lora_target": "all"}
FULL_SFT = {**LLAMA_FACTORY, "deepspeed": "examples/deepspeed/ds_z3_config.json", "finetuning_type": "full",
            "gradient_accumulation_steps": 2, "learning_rate": 1e-5}
EXAMPLES = {"lora-1b.yml": LORA_1B, "qlora-1b.yml": QLORA_1B, "fft-8b.yaml": FULL_8B, "llama3_lora_sft.yaml": LORA_SFT,
            "llama3_full_sft.yaml": FULL_SFT}
LONG = tiny_models.TinyModel("llama_long", "llama", {"max_position_embeddings": 8192,
                                                     "rope_parameters": tiny_models.rope("default")})
CHAT = ("{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<|endoftext|>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}")
EXIT_SETUP = 2


@pytest.fixture(scope="module")
def place(workshop):
    """Model and data where the examples have the hub's: rows such as those datasets have."""
    folder = workshop.directory / "other_trainers"
    model = workshop.model(LONG)
    (model / "chat_template.jinja").write_text(CHAT)
    (folder / "data").mkdir(parents=True)
    words = tiny_models.WORDS
    rows = [{"instruction": " ".join(words[i % 20:i % 20 + 5]), "input": words[i % 30] if i % 3 else "",
             "output": " ".join(words[i % 17:i % 17 + 8])} for i in range(60)]
    (folder / "data" / "alpaca_en_demo.json").write_text(json.dumps(rows))
    (folder / "data" / "identity.json").write_text(json.dumps(rows[:7]))
    (folder / "data" / "dataset_info.json").write_text(json.dumps(
        {"identity": {"file_name": "identity.json"}, "alpaca_en_demo": {"file_name": "alpaca_en_demo.json"}}))
    return folder, model


def job_file(place, name, directory, **keys):
    folder, model = place
    job = {**EXAMPLES[name], **keys}
    if "finetuning_type" in job:
        job |= {"model_name_or_path": str(model), "dataset_dir": str(folder / "data")}
    else:
        job |= {"base_model": str(model), "datasets": [{"path": str(folder / "data" / "alpaca_en_demo.json"), "type": "alpaca"}]}
        job["dataset_prepared_path"] = str(folder / "prepared")
    job["output_dir"] = str(directory / "out")
    return sluice_run.write_job(directory / name, job)


def run(command, file, *settings):
    return sluice_run.sluice(command, file, "device=cpu", *settings)


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name != "llama3_full_sft.yaml"])
def test_a_documented_job_is_planned_as_it_stands_and_trains(place, name, tmp_path):
    file = job_file(place, name, tmp_path)
    planned = run("plan", file)
    assert planned.returncode == 0, planned.stderr
    assert "tokens/s" in planned.stdout
    # What is accepted and does nothing is named, with its place.
    noted = re.findall(rf"note: {re.escape(str(file))}:\d+:\d+: (\S+) changes nothing here", planned.stderr)
    wanted = {"template", "plot_loss", "trust_remote_code"} if "sft" in name else {"gradient_checkpointing"}
    assert wanted <= set(noted), planned.stderr
    done = run("train", file, "max_steps=2", "warmup_steps=", "warmup_ratio=", "gradient_accumulation_steps=1")
    assert done.returncode == 0, done.stderr
    log = [json.loads(line) for line in (tmp_path / "out" / "trainer_log.jsonl").read_text().splitlines()]
    assert len(log) == 2 and all(0 < line["loss"] < 20 for line in log)
    written = tmp_path / "out" / ("adapter_config.json" if "finetuning_type" not in EXAMPLES[name] and "adapter" in EXAMPLES[name]
                                  or name == "llama3_lora_sft.yaml" else "model.safetensors")
    assert written.exists()


def test_what_cannot_be_done_is_refused_by_name_with_what_to_do(place, tmp_path):
    file = job_file(place, "llama3_full_sft.yaml", tmp_path)
    refused = run("plan", file)
    assert refused.returncode == EXIT_SETUP and refused.stdout == ""
    assert re.search(r":\d+:1: deepspeed.*\n  fix: remove it, and say where things live under `offload:`", refused.stderr)
    done = run("train", job_file(place, "llama3_full_sft.yaml", tmp_path, deepspeed=None), "max_steps=1", "warmup_ratio=")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("key, value", (("stage", "dpo"), ("finetuning_type", "freeze"), ("use_galore", True), ("stage", "pt")))
def test_other_methods_are_refused_by_name(place, tmp_path, key, value):
    refused = run("plan", job_file(place, "llama3_lora_sft.yaml", tmp_path, **{key: value}))
    assert refused.returncode == EXIT_SETUP and re.search(rf":\d+:\d+: {key}", refused.stderr), refused.stderr


def test_llama_factorys_losses_are_those_of_its_conversations(place, tmp_path):
    """The first step's loss: transformers on what LLaMA-Factory makes of the rows, instruction and input as one turn."""
    import transformers
    folder, model_dir = place
    file = job_file(place, "llama3_lora_sft.yaml", tmp_path, bf16=False, max_samples=5, gradient_accumulation_steps=10,
                    disable_shuffling=True, shuffle_merged_datasets=False)
    done = run("train", file, "max_steps=1", "warmup_ratio=")
    assert done.returncode == 0, done.stderr
    [line] = (tmp_path / "out" / "trainer_log.jsonl").read_text().splitlines()
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_dir)
    model = transformers.AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    sums, count = 0.0, 0
    for name in ("identity", "alpaca_en_demo"):
        for row in json.loads((folder / "data" / f"{name}.json").read_text())[:5]:
            question = "\n".join(part for part in (row["instruction"], row["input"]) if part)
            prompt = tokenizer.apply_chat_template([{"role": "user", "content": question}], add_generation_prompt=True,
                                                   return_dict=False)
            whole = tokenizer.apply_chat_template([{"role": "user", "content": question},
                                                   {"role": "assistant", "content": row["output"]}], return_dict=False)
            assert whole[:len(prompt)] == prompt
            labels = torch.tensor([[-100] * len(prompt) + whole[len(prompt):]])
            with torch.no_grad():
                loss = model(input_ids=torch.tensor([whole]), labels=labels).loss.item()
            answered = int((labels[:, 1:] >= 0).sum())
            sums, count = sums + loss * answered, count + answered
    assert json.loads(line)["loss"] == pytest.approx(sums / count, abs=1e-4)
