"""The rows that every side trains on: a JSONL of long texts whose tokens fill rows of `sequence` exactly."""

import json
import random
from pathlib import Path

from tokenizers import Tokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def write_dataset(path, model_dir, rows, sequence, end_of_text, seed=0):
    """One text per row, sequence - 1 tokens long: with the end-of-text token that closes a completion, a full row."""
    tokenizer = Tokenizer.from_file(str(Path(model_dir) / "tokenizer.json"))
    generator = random.Random(seed)
    with open(path, "w") as file:
        for _ in range(rows):
            file.write(json.dumps({"text": text_of(tokenizer, sequence - 1, generator)}) + "\n")
    for row in read_rows(path, model_dir, end_of_text):
        if len(row) != sequence:
            raise SystemExit(f"{path}: a row of {len(row)} tokens where {sequence} were made\n  fix: report this; the "
                             "text generator does not suit this tokenizer")


def text_of(tokenizer, tokens, generator):
    """Words with a leading space are tokenised one by one, so their lengths add up."""
    words, left = [], tokens
    while left > 0:
        word = " " + "".join(generator.choice(LETTERS) for _ in range(generator.randint(1, 9)))
        length = len(tokenizer.encode(word, add_special_tokens=False).ids)
        if length <= left:
            words.append(word)
            left -= length
    return "".join(words)


def read_rows(path, model_dir, end_of_text):
    tokenizer = Tokenizer.from_file(str(Path(model_dir) / "tokenizer.json"))
    with open(path) as file:
        texts = [json.loads(line)["text"] for line in file]
    return [encoding.ids + [end_of_text] for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]
