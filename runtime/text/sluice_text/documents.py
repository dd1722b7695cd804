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


def text_field(row, name, required=True):
    value = row.fields.get(name)
    if value is None and not required:
        return ""
    if value is None:
        found = ", ".join(row.fields) or "nothing"
        raise TextError(f"{row.place}: lacks the field '{name}' (it has {found})",
                        "each row needs it, or `type` names another kind of dataset")
    if not isinstance(value, str):
        raise TextError(f"{row.place}: the field '{name}' must be text, not {json.dumps(value, default=str)[:60]}")
    return value
