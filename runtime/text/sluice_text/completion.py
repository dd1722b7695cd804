"""`type: completion`: plain text, all of it trained on, cut into rows of sequence_len."""

from sluice_text.documents import make_document, text_field

# The tokenizer needs about a hundred bytes per character while it works: longer texts are tokenized in parts.
PART_CHARACTERS = 4 << 20
# How much text on both sides of a cut must give the same ids cut and uncut.
WINDOW_CHARACTERS = 256


class CompletionMaker:
    def __init__(self, tokenizer, request):
        self._tokenizer = tokenizer
        self._eos_id = tokenizer.require_eos_id()
        self._sequence_len = request.sequence_len

    def documents(self, rows):
        texts = [text_field(row, "text") for row in rows]
        parts = [split_for_tokenizer(self._tokenizer, text) for text in texts]
        ids = iter(self._tokenizer.encode_batch([part for pieces in parts for part in pieces]))
        for pieces in parts:
            whole = list(self._tokenizer.prefix_ids)
            for _ in pieces:
                whole += next(ids)
            if whole[-1:] != [self._eos_id]:
                whole.append(self._eos_id)
            starts = range(0, len(whole), self._sequence_len)
            # A last piece of one token has nothing to predict.
            yield [make_document(piece, [True] * len(piece)) for piece in
                   (whole[start:start + self._sequence_len] for start in starts) if len(piece) > 1]


def split_for_tokenizer(tokenizer, text, part_characters=PART_CHARACTERS):
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
