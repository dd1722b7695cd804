#!/usr/bin/env python3
"""transformers (full) or peft (LoRA, QLoRA over bitsandbytes) in memory: a bf16 model and torch's fused AdamW, as a
careful user writes it."""

import argparse

import torch
import transformers
from rows import read_rows
from step_log import StepLog


DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


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
    parser.add_argument("--precision", choices=sorted(DTYPES), default="bf16")
    parser.add_argument("--dora", action="store_true", help="magnitudes beside the factors")
    parser.add_argument("--compile", action="store_true", help="torch.compile the model")
    return parser.parse_args()


def model_dtype(options):
    """fp16 trains in fp32 weights, or beside a frozen base: gradients of fp16 weights cannot be unscaled in place."""
    return torch.float32 if options.precision == "fp16" and options.method == "full" else DTYPES[options.precision]


def quantization(options):
    if options.method != "qlora":
        return {}
    return {"quantization_config": transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=DTYPES[options.precision])}


def load_model(options):
    model = transformers.AutoModelForCausalLM.from_pretrained(
        options.model, dtype=model_dtype(options), device_map=options.device, **quantization(options))
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
    fp16 = options.precision == "fp16"
    scaler = torch.amp.GradScaler(options.device, enabled=fp16)
    tokens_per_micro_batch = options.rows * rows.shape[1]
    log = StepLog(tokens_per_micro_batch * options.accumulation)
    micro_batches = iter(rows.split(options.rows))
    for _ in range(options.steps):
        with log:
            loss_sum = 0.0
            for _ in range(options.accumulation):
                ids = next(micro_batches).to(options.device)
                with torch.autocast(options.device, torch.float16, enabled=fp16):
                    loss = model(input_ids=ids, labels=ids).loss / options.accumulation
                scaler.scale(loss).backward()
                loss_sum += loss.item()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(trainable, 1.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            log.done(loss_sum)


if __name__ == "__main__":
    main()
