#!/usr/bin/env python3
"""transformers (full) or peft (LoRA, QLoRA over bitsandbytes) in memory: a bf16 model and torch's fused AdamW, as a
careful user writes it."""

import argparse

import torch
import transformers
from rows import read_rows
from step_log import StepLog


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", choices=("full", "lora", "qlora"), required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--rows", type=int, required=True, help="rows per micro-batch")
    parser.add_argument("--accumulation", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--lora-r", type=int, default=16)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dora", action="store_true", help="magnitudes beside the factors")
    parser.add_argument("--compile", action="store_true", help="torch.compile the model")
    return parser.parse_args()


def quantization(options):
    if options.method != "qlora":
        return {}
    return {"quantization_config": transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16)}


def load_model(options):
    model = transformers.AutoModelForCausalLM.from_pretrained(
        options.model, dtype=torch.bfloat16, device_map=options.device, **quantization(options))
    model.config.use_cache = False
    if options.method != "full":
        import peft

        if options.method == "qlora":
            model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
        model = peft.get_peft_model(
            model, peft.LoraConfig(r=options.lora_r, lora_alpha=2 * options.lora_r, target_modules="all-linear",
                                   use_dora=options.dora, task_type="CAUSAL_LM"))
    model.train()
    if options.compile:
        model.compile()
    return model


def main():
    options = arguments()
    torch.set_num_threads(options.threads)
    model = load_model(options)
    rows = torch.tensor(read_rows(options.data, options.model, model.config.eos_token_id))
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=options.learning_rate, fused=True)
    tokens_per_micro_batch = options.rows * rows.shape[1]
    log = StepLog(tokens_per_micro_batch * options.accumulation)
    micro_batches = iter(rows.split(options.rows))
    for _ in range(options.steps):
        with log:
            loss_sum = 0.0
            for _ in range(options.accumulation):
                ids = next(micro_batches).to(options.device)
                loss = model(input_ids=ids, labels=ids).loss / options.accumulation
                loss.backward()
                loss_sum += loss.item()
            torch.nn.utils.clip_grad_norm_(trainable, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            log.done(loss_sum)


if __name__ == "__main__":
    main()
