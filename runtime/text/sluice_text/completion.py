"""`type: completion`: plain text, all of it trained on, cut into rows of sequence_len."""

import array

from sluice_text.documents import make_document, text_field

# The tokenizer needs about 100 bytes per character while it works: a long text is tokenized in parts, a few at a time.
PART_CHARACTERS = 1 << 20
PARTS_AT_ONCE = 4
# How much text on both sides of a cut must give the same ids cut and uncut.
WINDOW_CHARACTERS = 256
FIX_FIELD = "each row needs it, or `field` of the dataset names the field that rows have, or `type` another kind of dataset"


class CompletionMaker:
    def __init__(self, tokenizer, request, dataset):
        self._tokenizer = tokenizer
        self._field = dataset.field
        self._eos_id = tokenizer.require_eos_id()
        self._sequence_len = request.sequence_len

    def documents(self, rows):
        texts = [text_field(row, self._field, fix=FIX_FIELD) for row in rows]
        ids = iter(self._tokenizer.encode_batch([text for text in texts if len(text) <= PART_CHARACTERS]))
        for text in texts:
            yield self._pieces(next(ids) if len(text) <= PART_CHARACTERS else self._encode_long(text))

    def _encode_long(self, text):
        parts = split_for_tokenizer(self._tokenizer, text, PART_CHARACTERS)
        whole = array.array("i")  # a list would take nine times as much
        for start in range(0, len(parts), PARTS_AT_ONCE):
            for ids in self._tokenizer.encode_batch(parts[start:start + PARTS_AT_ONCE]):
                whole.extend(ids)
        return whole

    def _pieces(self, ids):
        whole = array.array("i", self._tokenizer.prefix_ids)
        whole.extend(ids)
        if not whole or whole[-1] != self._eos_id:
            whole.append(self._eos_id)
        for start in range(0, len(whole), self._sequence_len):
            piece = list(whole[start:start + self._sequence_len])
            if len(piece) > 1:  # a last piece of one token has nothing to predict
                yield make_document(piece, [True] * len(piece))


def split_for_tokenizer(tokenizer, text, part_characters):
    """Parts whose ids, joined, are the text's. Cut at line ends, and only where a trial shows that it changes nothing."""
    parts, begin = [], 0
    while len(text) - begin > part_characters:
        cut = _harmless_cut(tokenizer, text, begin + part_characters)
        if cut is None:
            break
        parts.append(text[begin:cut])
        begin = cut
    return parts + [text[begin:]]


def _harmless_cut(tokenizer, text, position):
    for _ in range(64):
        position = text.find("\n", position) + 1
        if position == 0 or position >= len(text):
            return None
        left, right = text[position - WINDOW_CHARACTERS:position], text[position:position + WINDOW_CHARACTERS]
        if tokenizer.encode(left) + tokenizer.encode(right) == tokenizer.encode(left + right):
            return position
    return None
