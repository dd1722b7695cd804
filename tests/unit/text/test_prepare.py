"""preprocess.py as `sluice` runs it: what lies in the file, what the cache does, what bad input gets."""

import json
import os
import random
import re
import resource
import signal
import struct
import subprocess
import sys
import time

import numpy
import pytest
from conftest import TEXT, random_conversation

MASKED = -100


def chats(count, seed=31):
    source = random.Random(seed)
    rows = [{"messages": random_conversation(source) + [{"role": "assistant", "content": f"answer {i}"}]} for i in range(count)]
    return [row for row in rows if row["messages"][-2]["role"] == "user"]


class ReadBack:
    """A token file, read from TOKEN_FILE.md's table alone."""

    def __init__(self, path):
        data = open(path, "rb").read()
        assert data[:8] == b"SLUICETK" and data[-8:] == b"KTECIULS"
        assert struct.unpack_from("<II", data, 8) == (1, 0)  # version, flags
        rows, tokens, documents, self.vocabulary, self.supervised, self.longest = struct.unpack_from("<6Q", data, 16)
        self.hash = data[64:128].decode()
        at = 128
        self.row_starts = struct.unpack_from(f"<{rows + 1}Q", data, at)
        at += 8 * (rows + 1)
        self.document_starts = struct.unpack_from(f"<{documents + 1}Q", data, at)
        at += 8 * (documents + 1)
        self.ids = numpy.frombuffer(data, "<i4", tokens, at).tolist()
        self.labels = numpy.frombuffer(data, "<i4", tokens, at + 4 * tokens).tolist()
        assert len(data) == at + 8 * tokens + 8
        assert self.row_starts[0] == self.document_starts[0] == 0
        assert self.row_starts[-1] == self.document_starts[-1] == tokens
        assert set(self.row_starts) <= set(self.document_starts)

    def documents(self):
        bounds = zip(self.document_starts, self.document_starts[1:])
        return [(tuple(self.ids[a:b]), tuple(self.labels[a:b])) for a, b in bounds]

    def row_lengths(self):
        return [b - a for a, b in zip(self.row_starts, self.row_starts[1:])]


@pytest.fixture
def chat_request(smollm2, write_rows):
    path = write_rows(chats(80))
    return {"base_model": str(smollm2), "datasets": [{"path": str(path), "type": "chat_template"}]}


def test_the_file_is_what_its_description_says(preprocess, chat_request, judge):
    summary = preprocess(chat_request).summary
    file = ReadBack(summary["train"])
    rows = [json.loads(line)["messages"] for line in open(chat_request["datasets"][0]["path"])]
    expected = [tuple(judge.apply_chat_template(messages, return_dict=False)) for messages in rows]
    kept = [ids for ids in expected if len(ids) <= 256]
    assert [ids for ids, _ in file.documents()] == kept
    assert len(expected) - len(kept) == summary["dropped_too_long"] > 0
    assert file.row_starts == file.document_starts
    assert file.vocabulary == len(judge) > max(file.ids)
    assert file.supervised == summary["supervised_tokens"] == sum(label != MASKED for label in file.labels)
    assert file.longest == summary["longest_row"] == max(file.row_lengths())
    assert file.hash == summary["hash"] == summary["train"].split("/")[-2]
    assert (summary["rows"], summary["tokens"]) == (len(kept), len(file.ids))
    for ids, labels in file.documents():
        assert labels[0] == MASKED and all(label in (MASKED, token) for token, label in zip(ids, labels))


def test_rows_left_out_are_said(preprocess, chat_request):
    outcome = preprocess(chat_request)
    assert re.search(r"note: \d+ rows are longer than sequence_len 256 and are left out", outcome.errors)


def test_packing_and_splitting_lose_no_document(preprocess, chat_request):
    whole = ReadBack(preprocess(chat_request).summary["train"])
    summary = preprocess({**chat_request, "sample_packing": True, "val_set_size": 0.2}).summary
    train, validation = ReadBack(summary["train"]), ReadBack(summary["validation"])
    assert sorted(train.documents() + validation.documents()) == sorted(whole.documents())
    assert len(validation.documents()) == -(-len(whole.documents()) // 5)
    assert max(train.row_lengths() + validation.row_lengths()) <= 256
    assert len(train.row_lengths()) < len(train.documents())
    assert summary["validation_documents"] == len(validation.documents())
    assert summary["validation_supervised_tokens"] == sum(label != MASKED for label in validation.labels)


def test_the_split_follows_the_seed_and_keeps_the_order(preprocess, chat_request):
    whole = ReadBack(preprocess(chat_request).summary["train"]).documents()
    parts = {}
    for seed in (1, 2):
        summary = preprocess({**chat_request, "val_set_size": 7, "seed": seed}).summary
        parts[seed] = [ReadBack(summary[name]).documents() for name in ("train", "validation")]
        assert len(parts[seed][1]) == 7
        for documents in parts[seed]:
            assert documents == sorted(documents, key=whole.index)
    assert parts[1] != parts[2]


def test_merged_datasets_are_mixed_unless_told_otherwise(preprocess, chat_request, write_rows):
    more = write_rows([{"text": f"number {i}"} for i in range(40)], "more.jsonl")
    chat_request["datasets"].append({"path": str(more), "type": "completion"})
    in_order = ReadBack(preprocess({**chat_request, "shuffle_merged_datasets": False}).summary["train"]).documents()
    mixed = ReadBack(preprocess(chat_request).summary["train"]).documents()
    assert in_order != mixed and sorted(in_order) == sorted(mixed)
    assert all(len(ids) < 10 for ids, _ in in_order[-40:])


def test_a_folder_and_its_files_as_datasets_give_the_same_tokens(preprocess, smollm2, write_rows, tmp_path):
    for i in range(3):
        write_rows([{"instruction": f"{i}", "output": f"{j}"} for j in range(5)], f"folder/{i}.jsonl")
    one = preprocess({"base_model": str(smollm2), "datasets": [{"path": str(tmp_path / "folder"), "type": "alpaca"}]})
    three = preprocess({"base_model": str(smollm2), "shuffle_merged_datasets": False,
                        "datasets": [{"path": str(tmp_path / f"folder/{i}.jsonl"), "type": "alpaca"} for i in range(3)]})
    assert ReadBack(one.summary["train"]).documents() == ReadBack(three.summary["train"]).documents()


# --- the cache

def age(path):
    """Makes a file old enough for its times to be trusted. Its own ctime cannot be set: only waiting ages that."""
    stat = os.stat(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns - 10_000_000_000))
    time.sleep(2.1)


HIT_ALONE = """
import json, sys
sys.path.insert(0, sys.argv[1])
from sluice_text import cache, prepare, request
cache.Sources.content_hash = None  # not to be called
print(prepare.prepare(request.parse_request(json.loads(sys.argv[2])))["cached"])
print("numpy" in sys.modules, "jinja2" in sys.modules)
"""


def test_a_second_run_reads_nothing(preprocess, chat_request, tmp_path):
    dataset = chat_request["datasets"][0]["path"]
    age(dataset)
    first, written = preprocess(chat_request).summary, {}
    for file in (tmp_path / "cache").rglob("*"):
        written[file] = file.stat().st_mtime_ns
    os.chmod(dataset, 0o644)  # ctime moves: the bytes are looked at again and found the same
    assert preprocess(chat_request).summary == {**first, "cached": True}
    age(dataset)
    preprocess(chat_request)
    full = {**chat_request, "cache_dir": str(tmp_path / "cache"), "sequence_len": 256}
    done = subprocess.run([sys.executable, "-c", HIT_ALONE, TEXT, json.dumps(full)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False", "False"]
    for file, time_ns in written.items():
        if file.suffix == ".tokens":
            assert file.stat().st_mtime_ns == time_ns


@pytest.mark.parametrize("change", ["dataset", "same_size", "tokenizer", "settings"])
def test_whatever_changes_the_tokens_changes_the_hash(preprocess, chat_request, smollm2, tmp_path, change):
    model = tmp_path / "model"
    model.mkdir()
    for file in smollm2.glob("*.js*"):
        (model / file.name).write_bytes(file.read_bytes())
    (model / "chat_template.jinja").write_bytes((smollm2 / "chat_template.jinja").read_bytes())
    request = {**chat_request, "base_model": str(model)}
    dataset = request["datasets"][0]["path"]
    age(dataset)
    before = preprocess(request).summary
    stat = os.stat(dataset)
    if change == "dataset":
        open(dataset, "a").write(json.dumps(chats(1)[0]) + "\n")
    elif change == "same_size":  # and with its old time put back, as an archive tool would
        text = open(dataset).read()
        open(dataset, "w").write(text.replace("answer 1", "answer 2", 1))
        os.utime(dataset, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    elif change == "tokenizer":
        (model / "chat_template.jinja").write_text((model / "chat_template.jinja").read_text().replace("SmolLM", "Smol"))
    else:
        request["sequence_len"] = 255
    after = preprocess(request).summary
    assert after["hash"] != before["hash"] and not after["cached"]


def test_a_moved_dataset_is_found_again(preprocess, chat_request, tmp_path):
    first = preprocess(chat_request).summary
    dataset = chat_request["datasets"][0]
    os.rename(dataset["path"], tmp_path / "moved.jsonl")
    dataset["path"] = str(tmp_path / "moved.jsonl")
    assert preprocess(chat_request).summary == {**first, "cached": True}


@pytest.mark.parametrize("damage", [
    lambda path: os.truncate(path, os.path.getsize(path) - 1),
    lambda path: os.remove(path),
    lambda path: open(path, "r+b").write(b"X")])
def test_a_damaged_file_is_made_again(preprocess, chat_request, damage):
    first = preprocess(chat_request).summary
    whole = open(first["train"], "rb").read()
    damage(first["train"])
    again = preprocess(chat_request).summary
    assert again == first and open(again["train"], "rb").read() == whole


def test_killed_at_any_moment_it_leaves_nothing_that_looks_finished(chat_request, tmp_path, preprocess):
    cache = tmp_path / "cache"
    full = json.dumps({**chat_request, "cache_dir": str(cache), "sequence_len": 256})
    command = [sys.executable, TEXT / "preprocess.py", "--request", "-"]
    source = random.Random(41)
    killed = 0
    for _ in range(12):
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        process.stdin.write(full.encode())
        process.stdin.close()
        time.sleep(source.uniform(0.05, 0.5))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        for folder in cache.glob("[0-9a-f]*"):
            if folder.name != "index":
                ReadBack(folder / "train.tokens")
    assert killed > 0
    summary = preprocess(chat_request).summary
    ReadBack(summary["train"])
    assert {path.name for path in cache.iterdir()} <= {summary["hash"], "index"}


def test_what_a_killed_job_left_is_removed_by_any_other_but_not_what_is_under_way(preprocess, chat_request, tmp_path):
    import fcntl
    dead, alive = (tmp_path / "cache" / f".writing-{letter * 64}-x" for letter in "ab")
    for folder in (dead, alive):
        folder.mkdir(parents=True)
    with open(tmp_path / "cache" / f".lock-{'b' * 64}", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert preprocess(chat_request).code == 0
    assert not dead.exists() and alive.exists()


def test_two_jobs_at_once_do_the_work_once(chat_request, tmp_path):
    full = json.dumps({**chat_request, "cache_dir": str(tmp_path / "cache"), "sequence_len": 256})
    command = [sys.executable, TEXT / "preprocess.py", "--request", "-"]
    jobs = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    for job in jobs:
        job.stdin.write(full)
        job.stdin.close()
    summaries = [json.loads(job.stdout.read()) for job in jobs]
    assert [job.wait() for job in jobs] == [0] * 4
    assert sorted(summary["cached"] for summary in summaries) == [False, True, True, True]


# --- bad input

ALPACA = {"instruction": "x", "output": "y"}


@pytest.mark.parametrize("rows, kind, settings, said", [
    ([ALPACA, {"instruction": "x"}], "alpaca", {}, r"rows\.jsonl:2: lacks the field 'output'"),
    ([{"messages": [{"role": "user", "content": "x"}]}] * 3, "chat_template", {}, "every label is masked"),
    ([{"instruction": "x " * 400, "output": "y"}], "alpaca", {}, "every row is longer than sequence_len 256"),
    ([], "alpaca", {}, r"rows\.jsonl: holds no rows"),
    ([[1, 2]], "alpaca", {}, r"rows\.jsonl:1: a row must be a JSON object"),
    ([{"messages": []}], "chat_template", {}, r"rows\.jsonl:1: 'messages' is empty"),
    ([ALPACA] * 3, "alpaca", {"val_set_size": 3},
     r"rows\.jsonl: val_set_size 3 leaves nothing of 3 rows to train on\n.*at most 2"),
    ([{"instruction": "\ud800", "output": "y"}], "alpaca", {}, r"rows\.jsonl:1: the field 'instruction' holds half a character"),
    ([ALPACA], "alpaca", {"sequence_len": "long"}, "sequence_len must be a whole number from 2, not \"long\""),
    ([ALPACA], "alpaca", {"val_set_size": -0.1}, "val_set_size must be"),
    ([ALPACA], "alpaca", {"val_set_size": 1.5}, "val_set_size must be"),
    ([ALPACA], "alpaca", {"sample_paking": True}, "unknown key 'sample_paking'.*\n.*did you mean 'sample_packing'"),
    ([ALPACA], "sharegpt", {}, r"datasets\[0\]\.type must be one of alpaca, chat_template, completion"),
    ([ALPACA], "alpaca", {"base_model": "/nowhere"}, "no such model directory")])
def test_bad_input_gets_one_message_and_leaves_nothing(preprocess, smollm2, tmp_path, rows, kind, settings, said):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    outcome = preprocess({"base_model": str(smollm2), "datasets": [{"path": str(path), "type": kind}], **settings})
    assert outcome.code == 2
    assert re.search(said, outcome.errors) and "Traceback" not in outcome.errors
    assert re.search(r"\n  fix: \S", outcome.errors)
    assert sum(line.startswith("error:") for line in outcome.errors.splitlines()) == 1
    assert not (tmp_path / "cache").exists()


def test_an_empty_dataset_beside_a_full_one_is_refused(preprocess, smollm2, write_rows):
    paths = [write_rows([ALPACA] * 3), write_rows([], "empty.jsonl")]
    outcome = preprocess({"base_model": str(smollm2), "datasets": [{"path": str(path), "type": "alpaca"} for path in paths]})
    assert outcome.code == 2 and re.search(r"empty\.jsonl: holds no rows\n  fix: \S", outcome.errors)


CHAT_KEYS = [{"field_messages": "messages"}, {"message_property_mappings": {"role": "role"}}, {"roles": {"assistant": ["gpt"]}},
             {"roles": {"assistant": ["gpt"], "user": ["human"]}}]


def test_what_rows_are_read_by_is_part_of_the_hash(preprocess, chat_request):
    [dataset] = chat_request["datasets"]
    plain = preprocess(chat_request).summary["hash"]
    hashes = [preprocess({**chat_request, "datasets": [{**dataset, **keys}]}).summary["hash"] for keys in CHAT_KEYS]
    assert len({plain, *hashes}) == 1 + len(CHAT_KEYS)
    turned = {"roles": {"user": ["human"], "assistant": ["gpt"]}}
    again = preprocess({**chat_request, "datasets": [{**dataset, **turned}]}).summary
    assert again["cached"] and again["hash"] == hashes[-1]


@pytest.mark.parametrize("keys, said", [
    ({"field_mesages": "x"}, "unknown key 'field_mesages'"),
    ({"field_messages": 3}, r"datasets\[0\]\.field_messages must be a field's name"),
    ({"message_property_mappings": ["from"]}, r"datasets\[0\]\.message_property_mappings must be"),
    ({"roles": {"assistant": "gpt"}}, r"datasets\[0\]\.roles must be"),
    ({"roles": {"assistant": ["x"], "user": ["x"]}}, r"datasets\[0\]\.roles: 'x' is named twice")])
def test_wrong_dataset_keys_are_refused(preprocess, chat_request, keys, said):
    [dataset] = chat_request["datasets"]
    outcome = preprocess({**chat_request, "datasets": [{**dataset, **keys}]})
    assert outcome.code == 2 and re.search(said + r".*\n  fix: \S", outcome.errors), outcome.errors


def test_a_broken_tokenizer_is_refused_with_the_fix(preprocess, llama_like, write_rows, tmp_path):
    for broken in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        model = tmp_path / broken
        model.mkdir()
        for file in llama_like.iterdir():
            (model / file.name).write_bytes(file.read_bytes())
        (model / broken).write_bytes(b"{\xff")
        path = write_rows([{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}])
        outcome = preprocess({"base_model": str(model), "datasets": [{"path": str(path), "type": "chat_template"}]})
        assert outcome.code == 2 and re.search(re.escape(broken) + r": .*\n  fix: \S", outcome.errors), outcome.errors


def test_a_full_disk_gets_one_message_and_leaves_nothing(chat_request, tmp_path):
    def no_file_over_16_kilobytes():
        resource.setrlimit(resource.RLIMIT_FSIZE, (16 << 10, 16 << 10))

    full = json.dumps({**chat_request, "cache_dir": str(tmp_path / "cache"), "sequence_len": 256})
    done = subprocess.run([sys.executable, TEXT / "preprocess.py", "--request", "-"], input=full, capture_output=True,
                          text=True, preexec_fn=no_file_over_16_kilobytes)
    assert done.returncode == 2 and "dataset_prepared_path" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "cache").exists()


def test_an_error_leaves_what_was_cached_before(preprocess, chat_request, tmp_path):
    preprocess(chat_request)
    before = sorted(tmp_path.glob("cache/*"))
    open(chat_request["datasets"][0]["path"], "a").write("{\n")
    assert preprocess(chat_request).code == 2
    assert sorted(tmp_path.glob("cache/*")) == before


def test_a_tokenizer_larger_than_the_model_is_refused(preprocess, llama_like, write_rows, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    for file in llama_like.iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    (model / "config.json").write_text(json.dumps({"vocab_size": 50}))
    outcome = preprocess({"base_model": str(model), "datasets": [{"path": str(write_rows([ALPACA])), "type": "alpaca"}]})
    assert outcome.code == 2 and "the model's vocabulary has 50" in outcome.errors


# --- start-up and the eye

def test_neither_torch_nor_transformers_is_imported(preprocess, chat_request, tmp_path):
    for name in ("torch", "transformers", "datasets", "pandas"):
        (tmp_path / "fake" / name).mkdir(parents=True)
        (tmp_path / "fake" / name / "__init__.py").write_text("raise ImportError('slow to start')")
    outcome = preprocess(chat_request, {"PYTHONPATH": str(tmp_path / "fake")})
    assert outcome.code == 0


@pytest.mark.parametrize("environment, coloured", [({}, False), ({"CLICOLOR_FORCE": "1"}, True),
                                                   ({"CLICOLOR_FORCE": "1", "NO_COLOR": "1"}, False)])
def test_debug_rows_show_each_token_with_its_label(preprocess, chat_request, tokenizer, environment, coloured):
    environment = {"NO_COLOR": "", "CLICOLOR_FORCE": "", **environment}
    outcome = preprocess({**chat_request, "debug_rows": 2}, environment)
    assert ("\033[" in outcome.errors) == coloured
    file = ReadBack(outcome.summary["train"])
    shown = re.sub(r"\033\[\d*m", "", outcome.errors)
    pairs = [(int(label), int(token)) for label, token in re.findall(r"\((-?\d+), (\d+)\) ", shown)]
    end = file.row_starts[2]
    assert pairs == list(zip(file.labels[:end], file.ids[:end]))
    if coloured:
        trained = [int(token) for token in re.findall(r"\033\[32m[^\033]*\((?:\d+), (\d+)\) ", outcome.errors)]
        assert trained == [label for label in file.labels[:end] if label != MASKED]
