"""Text out of ids as they come, never showing half a character."""

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# A character is at most four bytes, so at most four tokens of one byte; beyond this the bytes are simply not text.
PENDING_TOKENS_MAX = 8


class Detokenizer:
    """Pieces joined are the decoded whole. Each decode sees a few tokens of context, as joins depend on neighbours."""

    def __init__(self, tokenizer, skip_special_tokens=True):
        self._tokenizer = tokenizer
        self._skip = skip_special_tokens
        self._ids = []  # context already shown, then what is pending
        self._shown_ids = 0

    def push(self, ids):
        return "".join(self._push_one(token) for token in ids)

    def _push_one(self, token):
        self._ids.append(token)
        text = self._new_text()
        if text.endswith(REPLACEMENT) and len(self._ids) - self._shown_ids < PENDING_TOKENS_MAX:
            return ""
        self._settle()
        return text

    def finish(self):
        text = self._new_text()
        self._settle()
        return text

    def _new_text(self):
        shown = self._decode(self._ids[:self._shown_ids])
        return self._decode(self._ids)[len(shown):]

    def _decode(self, ids):
        return self._tokenizer.decode(ids, skip_special_tokens=self._skip)

    def _settle(self):
        """What was pending becomes the context of what follows; older context goes, unless the new shows no text."""
        pending = self._ids[self._shown_ids:]
        if pending and self._decode(pending):
            self._ids = pending
        self._shown_ids = len(self._ids)
