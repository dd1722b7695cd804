"""A document: token ids, and which of them are trained on. What every dataset type turns its rows into."""

import json
from dataclasses import dataclass

from sluice_text.errors import TextError

MASKED = -100


@dataclass(frozen=True, slots=True)
class Document:
    ids: list
    labels: list  # the id where trained on, MASKED elsewhere; the first is MASKED: nothing comes before it to predict it


def make_document(ids, supervised):
    """`supervised`: a truth value for each id."""
    labels = [token if wanted else MASKED for token, wanted in zip(ids, supervised, strict=True)]
    if labels:
        labels[0] = MASKED
    return Document(ids, labels)


FIX_FIELD = "each row needs it, or `type` names another kind of dataset"


def text_field(row, name, required=True, fix=FIX_FIELD):
    value = row.fields.get(name)
    if value is None and not required:
        return ""
    if value is None and name in row.fields:
        raise TextError(f"{row.place}: the field '{name}' is null", "give it a text, or remove the row")
    if value is None:
        raise TextError(f"{row.place}: lacks the field '{name}' (it has {', '.join(row.fields) or 'nothing'})", fix)
    if not isinstance(value, str):
        raise TextError(f"{row.place}: the field '{name}' must be text, not {json.dumps(value, default=str)[:60]}",
                        "write it as text, in quotes, or remove the row")
    check_text(value, f"{row.place}: the field '{name}'")
    return value


def check_text(text, place):
    """JSON can write half of a surrogate pair (\\ud800): no text, and no tokenizer takes it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TextError(f"{place} holds half a character ({ascii(error.object[error.start])}) at place {error.start}",
                        "write the pair whole, or leave it out")
