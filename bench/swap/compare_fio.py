#!/usr/bin/env python3
"""SwapEngine beside fio: the same folder, block size, depth and direction, taking turns.

    python bench/swap/compare_fio.py build/release/swap_bench [--path DIR] [--rounds N] [--block-mib 4] [--depth 16]

Each round runs fio and SwapEngine in every direction; a figure is the median of the rounds, the ratio the median of the
rounds' ratios. Exit code 1 when a ratio is below 97%.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

RATIO_MIN = 0.97
FIO_DIRECTION = {"read": "read", "write": "write", "both": "rw"}
SECONDS = 4


def fio_rate(options, folder, direction):
    done = subprocess.run(
        ["fio", "--name=swap", f"--directory={folder}", "--ioengine=io_uring", "--direct=1", f"--rw={FIO_DIRECTION[direction]}",
         f"--bs={options.block_mib}M", f"--iodepth={options.depth}", f"--size={options.gib}G", "--time_based",
         f"--runtime={SECONDS}", "--output-format=json",
         *options.fio_options.split()],
        check=True, stdout=subprocess.PIPE, text=True)
    job = json.loads(done.stdout)["jobs"][0]
    return (job["read"]["bw_bytes"] + job["write"]["bw_bytes"]) / 1e9


def our_rate(options, folder, direction):
    environment = os.environ | {
        "SLUICE_BENCH_PATH": str(folder), "SLUICE_BENCH_BLOCK_MIB": str(options.block_mib),
        "SLUICE_BENCH_DEPTH": str(options.depth), "SLUICE_BENCH_GIB": str(options.gib)}
    done = subprocess.run(
        [options.program, f"--benchmark_filter=^{direction}/", f"--benchmark_min_time={SECONDS}", "--benchmark_format=json"],
        check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(done.stdout)["benchmarks"][0]["bytes_per_second"] / 1e9


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="the swap_bench binary")
    parser.add_argument("--path", type=Path, default=Path("/var/tmp"), help="a folder on the drive")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--block-mib", type=int, default=4)
    parser.add_argument("--depth", type=int, default=16)
    parser.add_argument("--gib", type=int, default=2, help="size of the file that each side moves")
    parser.add_argument("--fio-options", default="--fixedbufs=1 --registerfiles=1",
                        help="fio's best here; registered buffers need memlock, for us too")
    options = parser.parse_args()
    if shutil.which("fio") is None:
        sys.exit("fio is missing\n  fix: apt-get install fio")

    rates = {direction: [] for direction in FIO_DIRECTION}
    with tempfile.TemporaryDirectory(dir=options.path) as folder:
        for _ in range(options.rounds):
            for direction, pairs in rates.items():
                pairs.append((fio_rate(options, folder, direction), our_rate(options, folder, direction)))

    print(f"{options.block_mib} MiB blocks, depth {options.depth}, {options.rounds} rounds")
    print(f"{'':8}{'fio GB/s':>10}{'ours GB/s':>11}{'ours / fio':>12}")
    missed = False
    for direction, pairs in rates.items():
        ratio = statistics.median(ours / fio for fio, ours in pairs)
        missed = missed or ratio < RATIO_MIN
        print(f"{direction:8}{statistics.median(fio for fio, _ in pairs):10.2f}"
              f"{statistics.median(ours for _, ours in pairs):11.2f}{ratio:12.3f}")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
