#!/usr/bin/env python3
"""What driving a run from Python costs beside its steps: less than 1% is the promise.

    PYTHONPATH=build/release/python python bench/embed/overhead.py MODEL_FOLDER [--steps 20] [--tokens 256] [--offload disk]

Per step: the wall time of `trainer.step()`, with a data source, a callback and a log line, less what the run itself says that
the step took (`step_seconds`: from the first op to the last). What remains is Python and everything between steps, which
`sluice train` has too, so the figure is an upper bound. Rows are random; the first two steps warm up.
"""

import argparse
import random
import statistics
import tempfile
import time

import sluice


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--offload", choices=("host", "disk"), default="disk")
    options = parser.parse_args()
    generator = random.Random(7)
    rows = [[generator.randrange(100) for _ in range(options.tokens)] for _ in range(64)]
    told = []
    with tempfile.TemporaryDirectory(dir=".") as folder:
        keys = {"output_dir": f"{folder}/out", "sequence_len": options.tokens, "learning_rate": 1e-5, "max_steps": options.steps,
                "bf16": True, "offload": {"params": options.offload, "optimizer": options.offload}}
        with sluice.Trainer(options.model, keys, train_dataset=rows, on_step=told.append) as trainer:
            shares = []
            for number in range(options.steps):
                begin = time.perf_counter()
                step = trainer.step()
                wall = time.perf_counter() - begin
                if number >= 2:
                    shares.append((wall - step.step_seconds) / step.step_seconds)
                print(f"step {step.step}: {step.step_seconds * 1e3:.1f} ms, beside it {1e3 * (wall - step.step_seconds):.2f} ms")
    print(f"beside a step, of the step: median {100 * statistics.median(shares):.2f}%, worst {100 * max(shares):.2f}%")


if __name__ == "__main__":
    main()
