#!/usr/bin/env python3
"""DeepSpeed in bf16: ZeRO-Infinity (parameters and optimizer states on NVMe) or ZeRO-Offload (states in host memory)."""

import argparse
import os
import shutil
import socket

os.environ.setdefault("DS_ACCELERATOR", "cpu")

import deepspeed  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from rows import read_rows  # noqa: E402
from step_log import StepLog  # noqa: E402


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--rows", type=int, required=True, help="rows per micro-batch")
    parser.add_argument("--accumulation", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--offload", choices=("nvme", "cpu"), default="nvme", help="ZeRO-Infinity or ZeRO-Offload")
    parser.add_argument("--checkpointing", action="store_true", help="recompute layers, as one must where memory is short")
    parser.add_argument("--max-gpu", type=int, help="bytes; torch may take no more")
    parser.add_argument("--nvme", required=True, help="folder for the swapped files; emptied before and after")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--aio-block-bytes", type=int, default=1 << 20)
    parser.add_argument("--aio-depth", type=int, default=32)
    parser.add_argument("--aio-threads", type=int, default=2)
    parser.add_argument("--pipeline", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--sub-group", type=int, default=100_000_000)
    parser.add_argument("--live", type=int, default=30_000_000)
    parser.add_argument("--prefetch", type=int, default=10_000_000)
    parser.add_argument("--buffers", type=int, default=24)
    parser.add_argument("--buffer-elements", type=int, help="default: what the largest parameter needs")
    return parser.parse_args()


def deepspeed_config(options, largest_parameter):
    config = {
        "train_micro_batch_size_per_gpu": options.rows,
        "gradient_accumulation_steps": options.accumulation,
        "gradient_clipping": 1.0,
        "bf16": {"enabled": True},
        "optimizer": {"type": "AdamW", "params": {"lr": options.learning_rate, "weight_decay": 0.01}},
        "steps_per_print": 1_000_000,
    }
    return config | (infinity(options, largest_parameter) if options.offload == "nvme" else offload())


def offload():
    return {"zero_optimization": {"stage": 2, "overlap_comm": True, "contiguous_gradients": True,
                                  "offload_optimizer": {"device": "cpu", "pin_memory": True}}}


def infinity(options, largest_parameter):
    elements = options.buffer_elements or largest_parameter + (1 << 16)
    return {
        "zero_optimization": {
            "stage": 3,
            "sub_group_size": options.sub_group,
            "overlap_comm": False,
            "contiguous_gradients": True,
            # Parameters leave after their use, as they must where they do not fit; else the buffers run out.
            "stage3_max_live_parameters": options.live,
            "stage3_max_reuse_distance": 0,
            "stage3_prefetch_bucket_size": options.prefetch,
            "offload_param": {"device": "nvme", "nvme_path": options.nvme, "max_in_cpu": 0,
                              "buffer_count": options.buffers, "buffer_size": elements,
                              "pin_memory": options.device == "cuda"},
            # Fewer than 12 buffers: the optimizer's swapper asserts.
            "offload_optimizer": {"device": "nvme", "nvme_path": options.nvme, "buffer_count": 12,
                                  "pipeline_read": options.pipeline, "pipeline_write": options.pipeline},
        },
        "aio": {"block_size": options.aio_block_bytes, "queue_depth": options.aio_depth,
                "intra_op_parallelism": options.aio_threads, "single_submit": False, "overlap_events": True},
    }


def join_world_of_one(device):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    deepspeed.init_distributed(dist_backend="nccl" if device == "cuda" else "gloo")


def main():
    options = arguments()
    torch.set_num_threads(options.threads)
    join_world_of_one(options.device)
    if options.max_gpu:
        torch.cuda.set_per_process_memory_fraction(options.max_gpu / torch.cuda.get_device_properties(0).total_memory)
    shutil.rmtree(options.nvme, ignore_errors=True)
    os.makedirs(options.nvme)
    model = transformers.AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.bfloat16)
    model.config.use_cache = False
    if options.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    largest = max(parameter.numel() for parameter in model.parameters())
    rows = torch.tensor(read_rows(options.data, options.model, model.config.eos_token_id))
    engine, *_ = deepspeed.initialize(model=model, model_parameters=model.parameters(),
                                      config=deepspeed_config(options, largest))
    log = StepLog(options.rows * rows.shape[1] * options.accumulation)
    micro_batches = iter(rows.split(options.rows))
    for _ in range(options.steps):
        with log:
            loss_sum = 0.0
            for _ in range(options.accumulation):
                ids = next(micro_batches).to(engine.device)
                loss = engine(input_ids=ids, labels=ids).loss
                engine.backward(loss)
                engine.step()
                loss_sum += loss.item() / options.accumulation
            log.done(loss_sum)
    shutil.rmtree(options.nvme, ignore_errors=True)


if __name__ == "__main__":
    main()
