"""Parameters per second of torch's fused AdamW, bitsandbytes' 8-bit one, DeepSpeed's CPU Adam where it is installed, and
of ours, side by side: same size, same threads, taking turns.

    python bench/optim/compare_peers.py build/release/adamw_bench [--elements N] [--threads N] [--rounds N]

Rounds alternate between all, so that they see the same neighbours on a shared machine; each figure is the median of the
rounds' medians. Peers update fp32 parameters from fp32 gradients; ours does the same, and the formats that move fewer
bytes. bench/peers/run_peers.py setup makes a Python that has DeepSpeed.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import time

import bitsandbytes
import torch

STEPS_PER_ROUND = 20
SETTINGS = {"lr": 1e-5, "weight_decay": 0.01}


class Peer:
    """An optimizer's class on one large tensor; the first step allocates its states."""

    def __init__(self, elements, make, steps=STEPS_PER_ROUND):
        self.parameter = torch.nn.Parameter(torch.full((elements,), 0.01))
        self.parameter.grad = torch.full((elements,), 0.01)
        self.optimizer = make([self.parameter])
        self.optimizer.step()
        self.steps = steps

    def parameters_per_second(self):
        rates = []
        for _ in range(self.steps):
            start = time.perf_counter()
            self.optimizer.step()
            rates.append(self.parameter.numel() / (time.perf_counter() - start))
        return statistics.median(rates)


def peers_of(elements):
    peers = {
        "torch fused, fp32": Peer(elements, lambda p: torch.optim.AdamW(p, fused=True, **SETTINGS)),
        "bitsandbytes 8-bit": Peer(elements, lambda p: bitsandbytes.optim.AdamW8bit(p, **SETTINGS), steps=3),
    }
    if importlib.util.find_spec("deepspeed"):
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        peers["DeepSpeed CPU Adam, fp32"] = Peer(elements, lambda p: DeepSpeedCPUAdam(p, **SETTINGS))
    return peers


def our_rates(program, elements, threads):
    """Format name -> the program's counters."""
    environment = os.environ | {"SLUICE_BENCH_ELEMENTS": str(elements), "SLUICE_BENCH_THREADS": str(threads)}
    arguments = ["--benchmark_filter=^update/", "--benchmark_format=json"]
    output = subprocess.run([program, *arguments], env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    return {row["name"].split("/")[1]: row for row in json.loads(output)["benchmarks"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="the adamw_bench binary")
    parser.add_argument("--elements", type=int, default=32 << 20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    peers = peers_of(arguments.elements)
    peer_rounds, our_rounds = [], []
    for _ in range(arguments.rounds):
        peer_rounds.append({name: peer.parameters_per_second() / 1e9 for name, peer in peers.items()})
        our_rounds.append(our_rates(arguments.program, arguments.elements, arguments.threads))

    rates = {name: statistics.median(each[name] for each in peer_rounds) for name in peers}
    torch_rate = rates["torch fused, fp32"]
    print(f"{arguments.elements} parameters, {arguments.threads} threads, {arguments.rounds} rounds")
    print(f"{'':36}{'Gparam/s':>10}{'x torch':>10}{'GB/s':>10}{'% of roof':>11}")
    for name, rate in rates.items():
        print(f"{name:36}{rate:10.2f}{rate / torch_rate:10.2f}")
    for name in our_rounds[0]:
        rate, gigabytes, of_roof = (statistics.median(each[name][counter] for each in our_rounds)
                                    for counter in ("Gparam/s", "GB/s", "percent_of_roof"))
        print(f"{name:36}{rate:10.2f}{rate / torch_rate:10.2f}{gigabytes:10.1f}{of_roof:11.1f}")


if __name__ == "__main__":
    main()
