"""The real text side from the binary's view: a tiny tokenizer, a dataset, and what the trainer reads of it."""

import json
import os
import subprocess

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

TEXTS = ["the disk reads while the block computes", "a lease pins an extent", "schedules are data, and time is data"]


def run(*command):
    return subprocess.run([str(part) for part in command], capture_output=True, text=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("job")
    model = folder / "model"
    model.mkdir()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<eos>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tokenizer.save(str(model / "tokenizer.json"))
    (model / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<eos>"}))
    (model / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": tokenizer.get_vocab_size()}))
    rows = [{"instruction": text, "output": f"answer {i}: {text}"} for i, text in enumerate(TEXTS * 5)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def write_job(folder, name, **more):
    job = {"base_model": str(folder / "model"), "datasets": [{"path": str(folder / "rows.jsonl"), "type": "alpaca"}],
           "dataset_prepared_path": str(folder / "cache"), "learning_rate": 1e-4, "sequence_len": 512, **more}
    path = folder / name
    path.write_text(json.dumps(job))  # JSON is YAML
    return path


def preprocess(job, *more):
    return run(os.environ["SLUICE_FIXTURE_BINARY"], "preprocess", job, *more)


def token_file(output):
    return next(line.split()[1] for line in output.splitlines() if line.startswith("training"))


def test_micro_batches_hold_what_python_tokenized(folder):
    done = preprocess(write_job(folder, "plain.yaml"))
    assert done.returncode == 0, done.stderr
    assert "15 rows, 15 documents" in done.stdout
    steps = json.loads(run(os.environ["SLUICE_JOB_PROBE"], "batches", token_file(done.stdout), 2, 4, 2).stdout)
    assert [len(step) for step in steps] == [4, 4], "15 rows are 8 micro-batches of 2"
    tokenizer = Tokenizer.from_file(str(folder / "model" / "tokenizer.json"))
    eos = tokenizer.token_to_id("<eos>")
    documents = []
    for batch in (batch for step in steps for batch in step):
        starts = batch["document_starts"]
        for begin, end in zip(starts, starts[1:]):
            assert batch["positions"][begin:end] == list(range(end - begin))
            documents.append((batch["ids"][begin:end], batch["labels"][begin:end]))
    assert len(documents) == 15
    for i, (ids, labels) in enumerate(documents):
        answer = tokenizer.encode(f"answer {i}: {(TEXTS * 5)[i]}").ids + [eos]
        assert ids[-len(answer):] == answer
        # Position p predicts token p + 1: the answer, from the prompt's last position on.
        assert labels == [-100] * (len(ids) - len(answer) - 1) + answer + [-100]


def test_a_second_run_finds_what_the_first_prepared(folder):
    job = write_job(folder, "twice.yaml", sample_packing=True, val_set_size=3)
    first, second = preprocess(job), preprocess(job)
    assert "nothing to do" not in first.stdout and "nothing to do" in second.stdout
    assert token_file(first.stdout) == token_file(second.stdout)
    assert "validation" in first.stdout and "3 documents" in first.stdout


def test_debug_shows_rows_with_their_masks(folder):
    done = preprocess(write_job(folder, "debug.yaml"), "--debug")
    assert done.stderr.count(" trained on\n") == 5, done.stderr
    assert "(-100, " in done.stderr and "\033[" not in done.stderr
    assert preprocess(folder / "debug.yaml", "--debug=2").stderr.count(" trained on\n") == 2


def test_a_bad_row_is_one_message_with_its_line(folder):
    (folder / "bad.jsonl").write_text('{"instruction": "a", "output": "b"}\n{"instruction": "a"\n')
    job = write_job(folder, "bad.yaml", datasets=[{"path": str(folder / "bad.jsonl"), "type": "alpaca"}])
    done = preprocess(job)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"sluice: {folder / 'bad.jsonl'}:2") and "Traceback" not in done.stderr, done.stderr


def test_a_text_goes_to_ids_and_back(folder):
    text = "the disk reads \u2014 caf\u00e9 \U0001f30a"
    answer = json.loads(run(os.environ["SLUICE_JOB_PROBE"], "server", folder / "model", text).stdout)
    assert answer["decoded"] == text and answer["streamed"] == text
    assert answer["eos"] == [Tokenizer.from_file(str(folder / "model" / "tokenizer.json")).token_to_id("<eos>")]
