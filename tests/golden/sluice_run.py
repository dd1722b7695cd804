"""Runs the binary from outside, as a user does: a job file in, logs and a result directory out."""

import json
import os
import struct
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import safetensors.torch
import yaml

COMMAND_SECONDS_MAX = 300


def program(variable, name):
    path = os.environ.get(variable, "")
    if not os.access(path, os.X_OK):
        raise RuntimeError(f"{variable} is '{path}', which is no program\n  fix: run through ctest, or set it to "
                           f"build/release/{name}")
    return path


def binary():
    return program("SLUICE_BINARY", "sluice")


def sluice(*arguments, threads=1):
    # Tiny models lose more than they gain by a second thread, most of all on a busy machine.
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    return subprocess.run([binary(), *map(str, arguments)], capture_output=True, text=True,
                          timeout=COMMAND_SECONDS_MAX, env=environment)


@dataclass
class Run:
    """A finished `sluice train`."""

    output_dir: Path
    exit_code: int
    stdout: str
    stderr: str
    log: list = field(default_factory=list)

    def column(self, name):
        return [line[name] for line in self.log]

    def column_text(self, name):
        """The numbers as they are written, to the last digit."""
        text = (self.output_dir / "trainer_log.jsonl").read_text()
        return [json.loads(line, parse_float=str)[name] for line in text.splitlines()]

    def state(self):
        return json.loads((self.output_dir / "trainer_state.json").read_text())

    def plan_text(self):
        return (self.output_dir / "plan.yaml").read_text()


def write_job(path, job):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(job, sort_keys=False))
    return path


def try_train(job, directory, threads=1):
    """`job`: YAML keys. output_dir is directory/out unless the job says otherwise."""
    directory = Path(directory)
    job = {"output_dir": str(directory / "out"), **{k: v for k, v in job.items() if v is not None}}
    done = sluice("train", write_job(directory / "job.yaml", job), threads=threads)
    run = Run(Path(job["output_dir"]), done.returncode, done.stdout, done.stderr)
    log = run.output_dir / "trainer_log.jsonl"
    if log.exists():
        run.log = [json.loads(line) for line in log.read_text().splitlines()]
    return run


def train(job, directory, threads=1):
    run = try_train(job, directory, threads)
    assert run.exit_code == 0, f"sluice train ended with {run.exit_code}\n{run.stdout[-2000:]}\n{run.stderr[-4000:]}"
    return run


def generate_greedily(model_dir, prompt, tokens, adapter_dir=None):
    adapter = [] if adapter_dir is None else ["--adapter", adapter_dir]
    done = sluice("generate", "--model", model_dir, *adapter, "--raw-prompt", prompt, "--max-new-tokens", tokens,
                  "--temperature", 0)
    assert done.returncode == 0, f"sluice generate ended with {done.returncode}\n{done.stderr[-4000:]}"
    return done.stdout


def logits(saved, prompt, file):
    """`saved`: the arguments that name the model. token_ids [T] and logits [T, V] of the prompt."""
    done = sluice("generate", *saved, "--raw-prompt", prompt, "--max-new-tokens", 1, "--logits", file)
    assert done.returncode == 0, f"sluice generate ended with {done.returncode}\n{done.stderr[-4000:]}"
    return safetensors.torch.load_file(file)


@dataclass(frozen=True)
class TokenFile:
    """runtime/text/TOKEN_FILE.md."""

    rows: list  # of lists of documents, each (ids, labels)

    @staticmethod
    def read(path):
        data = Path(path).read_bytes()
        magic, version, _, rows, tokens, documents = struct.unpack_from("<8sIIQQQ", data)
        assert magic == b"SLUICETK" and version == 1 and data.endswith(b"KTECIULS"), f"{path}: not a token file"
        at = 128
        row_starts = struct.unpack_from(f"<{rows + 1}Q", data, at)
        at += 8 * (rows + 1)
        document_starts = struct.unpack_from(f"<{documents + 1}Q", data, at)
        at += 8 * (documents + 1)
        ids = struct.unpack_from(f"<{tokens}i", data, at)
        labels = struct.unpack_from(f"<{tokens}i", data, at + 4 * tokens)
        spans = list(zip(document_starts, document_starts[1:]))
        return TokenFile([
            [(list(ids[a:b]), list(labels[a:b])) for a, b in spans if begin <= a < end]
            for begin, end in zip(row_starts, row_starts[1:])
        ])


def prepared(cache_dir, split="train"):
    """The one token file in a cache that belongs to one test."""
    files = sorted(Path(cache_dir).rglob(f"{split}.tokens"))
    assert len(files) == 1, f"{cache_dir} holds {len(files)} {split}.tokens, not one"
    return TokenFile.read(files[0])

