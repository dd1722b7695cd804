"""Rows of a token file for the eye: every token with its label and id; trained ones in green, masked ones dim."""

import os
import sys

from sluice_text.documents import MASKED
from sluice_text.token_file import TokenFile

TRAINED, DIM, PLAIN = "\033[32m", "\033[2m", "\033[0m"


def show_rows(path, tokenizer, count, stream=None):
    stream = stream or sys.stderr
    file = TokenFile(path)
    colours = use_colour(stream)
    for row in range(min(count, file.header.rows)):
        print(row_text(file, row, tokenizer, colours), file=stream)


def use_colour(stream):
    """The conventions of no-color.org and bixense.com/clicolors."""
    if os.environ.get("NO_COLOR"):
        return False
    return os.environ.get("CLICOLOR_FORCE", "0") not in ("", "0") or stream.isatty()


def row_text(file, row, tokenizer, colours):
    begin, end = int(file.row_starts[row]), int(file.row_starts[row + 1])
    supervised = int((file.labels[begin:end] != MASKED).sum())
    parts = [f"row {row}: {end - begin} tokens, {supervised} trained on"]
    starts = set(file.document_starts.tolist())
    documents = 0
    for i in range(begin, end):
        if i in starts:
            documents += 1
            parts.append(f"\n-- document {documents} --\n")
        parts.append(_token_text(tokenizer.token_text(int(file.ids[i])), int(file.ids[i]), int(file.labels[i]), colours))
    return "".join(parts) + "\n"


def _token_text(text, token_id, label, colours):
    shown = f"{_visible(text)}({label}, {token_id}) " + ("\n" if "\n" in text else "")
    if not colours:
        return shown
    return (DIM if label == MASKED else TRAINED) + shown + PLAIN


def _visible(text):
    return text.replace("\r", "\\r").replace("\n", "\\n").replace("\t", "\\t").replace("\033", "\\e")
