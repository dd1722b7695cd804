"""What the tests of the text side share: the model they judge by, small tokenizers, and a way to run the programs."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
TEXT = REPOSITORY / "runtime" / "text"
QUICKSTART = REPOSITORY / "configs" / "quickstart"
sys.path[:0] = [str(TEXT), str(QUICKSTART)]

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")


@pytest.fixture(scope="session")
def smollm2():
    """SmolLM2-135M-Instruct as configs/quickstart makes it."""
    import fetch_model
    directory = fetch_model.cache_folder() / "models" / "SmolLM2-135M-Instruct"
    subprocess.run([sys.executable, QUICKSTART / "fetch_model.py", directory], check=True)
    return directory


@pytest.fixture(scope="session")
def judge(smollm2):
    from transformers import AutoTokenizer
    return AutoTokenizer.from_pretrained(smollm2)


@pytest.fixture(scope="session")
def tokenizer(smollm2):
    from sluice_text.tokenizer import Tokenizer
    return Tokenizer(smollm2)


@pytest.fixture(scope="session")
def llama_like(tmp_path_factory):
    """A small tokenizer of Llama 2's kind: spaces as U+2581, bytes as <0xE6>, a bos put before every text."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    corpus = (TEXT / "README.md").read_text() * 2
    special = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=special + [f"<0x{byte:02X}>" for byte in range(256)])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("\n", "isolated")
    tokenizer.train_from_iterator([corpus], trainer)
    tokenizer.pre_tokenizer = None
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
                                           decoders.Strip(" ", 1, 0)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    written = json.loads(tokenizer.to_str())
    written["added_tokens"] = [token for token in written["added_tokens"] if token["content"] in special]
    directory = tmp_path_factory.mktemp("llama_like")
    (directory / "tokenizer.json").write_text(json.dumps(written))
    (directory / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
        "clean_up_tokenization_spaces": False, "chat_template": CHATML}))
    (directory / "config.json").write_text(json.dumps({"vocab_size": len(written["model"]["vocab"]), "eos_token_id": 2}))
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 4]}))
    return directory


@dataclass
class Outcome:
    code: int
    summary: dict
    errors: str


@pytest.fixture
def preprocess(tmp_path):
    """Runs preprocess.py as `sluice` does: a request on stdin, one JSON line back."""
    def run(request, environment=None):
        request = {"cache_dir": str(tmp_path / "cache"), "sequence_len": 256, **request}
        done = subprocess.run([sys.executable, TEXT / "preprocess.py", "--request", "-"], input=json.dumps(request),
                              capture_output=True, text=True, env={**os.environ, **(environment or {})})
        if done.returncode != 0:
            assert done.stdout == ""
            return Outcome(done.returncode, None, done.stderr)
        lines = done.stdout.splitlines()
        assert len(lines) == 1
        return Outcome(0, json.loads(lines[0]), done.stderr)
    return run


@pytest.fixture
def write_rows(tmp_path):
    def write(rows, name="rows.jsonl"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return path
    return write


WORDS = ["apt", "Debian", "a", "the", "kernel", "é", "日本語", "🎉", "12", "7.5", "\n", "\n\n", "  ", "\t", "<b>", "can't", "ß",
         "-", "?!"]


def random_text(random, words_max=30):
    return " ".join(random.choice(WORDS) for _ in range(random.randint(1, words_max)))


def random_conversation(random):
    """System turn or not, then question and answer in turn, ending with either."""
    messages = [{"role": "system", "content": random_text(random)}] if random.random() < 0.5 else []
    for i in range(random.randint(1, 7)):
        messages.append({"role": ("user", "assistant")[i % 2], "content": random_text(random)})
    return messages
