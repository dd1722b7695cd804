"""Parameters per second of torch's fused AdamW and of ours, side by side: same size, same threads, taking turns.

    python bench/optim/compare_torch.py build/release/adamw_bench [--elements N] [--threads N] [--rounds N]

Rounds alternate between the two, so that both see the same neighbours on a shared machine; each figure is the median
of the rounds' medians. torch updates fp32 parameters from fp32 gradients (28 bytes a parameter); ours does the same,
and the formats that move fewer bytes.
"""

import argparse
import json
import os
import statistics
import subprocess
import time

import torch

STEPS_PER_ROUND = 20


class TorchFused:
    def __init__(self, elements):
        self.parameter = torch.nn.Parameter(torch.full((elements,), 0.01))
        self.parameter.grad = torch.full((elements,), 0.01)
        self.optimizer = torch.optim.AdamW([self.parameter], lr=1e-5, weight_decay=0.01, fused=True)
        self.optimizer.step()  # allocates the states

    def parameters_per_second(self):
        rates = []
        for _ in range(STEPS_PER_ROUND):
            start = time.perf_counter()
            self.optimizer.step()
            rates.append(self.parameter.numel() / (time.perf_counter() - start))
        return statistics.median(rates)


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
    theirs = TorchFused(arguments.elements)
    torch_rates, our_rounds = [], []
    for _ in range(arguments.rounds):
        torch_rates.append(theirs.parameters_per_second())
        our_rounds.append(our_rates(arguments.program, arguments.elements, arguments.threads))

    def ours(name, counter):
        return statistics.median(round_[name][counter] for round_ in our_rounds)

    torch_rate = statistics.median(torch_rates) / 1e9
    print(f"{arguments.elements} parameters, {arguments.threads} threads, {arguments.rounds} rounds")
    print(f"{'':24}{'Gparam/s':>10}{'x torch':>10}{'GB/s':>10}{'% of roof':>11}")
    print(f"{'torch fused, fp32':24}{torch_rate:10.2f}{1:10.2f}{torch_rate * 28:10.1f}")
    for name in our_rounds[0]:
        rate = ours(name, "Gparam/s")
        print(
            f"{name:24}{rate:10.2f}{rate / torch_rate:10.2f}{ours(name, 'GB/s'):10.1f}{ours(name, 'percent_of_roof'):11.1f}"
        )


if __name__ == "__main__":
    main()
