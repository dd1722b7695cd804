"""A model directory's tokenizer: `tokenizer.json` through the `tokenizers` library, and the names around it.

Gives the same ids as transformers' AutoTokenizer on that directory (a test says so) without importing it.
"""

import json
from functools import cached_property
from pathlib import Path

import tokenizers

from sluice_text.errors import TextError

# Files that decide ids, templates and special tokens: the content hash covers them.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja",
                   "generation_config.json", "config.json")
FIX_FILE = "copy or fetch it again from the model's source: it is cut short or damaged"
SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def read_json_file(path):
    """The object in a JSON file; {} when the file is not there."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise TextError(f"{path}: cannot be read as JSON: {error}", FIX_FILE)
    if not isinstance(value, dict):
        raise TextError(f"{path}: must hold a JSON object", FIX_FILE)
    return value


class Tokenizer:
    def __init__(self, directory):
        self.directory = Path(directory)
        if not self.directory.is_dir():
            raise TextError(f"{directory}: no such model directory", "base_model is a local Hugging Face directory")
        file = self.directory / "tokenizer.json"
        if not file.exists():
            raise TextError(
                f"{self.directory}: has no tokenizer.json",
                "write one with transformers: "
                f"python -c \"from transformers import AutoTokenizer as T; d='{self.directory}'; "
                "T.from_pretrained(d).save_pretrained(d)\"")
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises bare Exception
            raise TextError(f"{file}: is not a tokenizer: {error}", FIX_FILE)
        # A tokenizer.json may ask for these; rows and prompts are measured here, nothing is cut or filled unasked.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.config = read_json_file(self.directory / "tokenizer_config.json")
        self.special_tokens = self._read_special_tokens()
        self._add_missing_special_tokens()
        self.prefix_ids, self.suffix_ids = self._surrounding_ids()

    def _read_special_tokens(self):
        """{"eos_token": "</s>", ...} as transformers hands them to a chat template."""
        named = dict(read_json_file(self.directory / "special_tokens_map.json"))
        named.update({name: self.config[name] for name in SPECIAL_NAMES if self.config.get(name) is not None})
        texts = {name: value["content"] if isinstance(value, dict) else value for name, value in named.items()}
        return {name: text for name, text in texts.items() if name in SPECIAL_NAMES and isinstance(text, str)}

    def _add_missing_special_tokens(self):
        """Tokens that only tokenizer_config.json knows, at the ids that it gives them."""
        decoder = self.config.get("added_tokens_decoder") or {}
        for token_id, entry in sorted(decoder.items(), key=lambda item: int(item[0])):
            if self._tokenizer.id_to_token(int(token_id)) is None:
                fields = {key: entry[key] for key in ("single_word", "lstrip", "rstrip", "normalized") if key in entry}
                token = tokenizers.AddedToken(entry["content"], special=entry.get("special", False), **fields)
                self._tokenizer.add_tokens([token])
                if self._tokenizer.token_to_id(entry["content"]) != int(token_id):
                    raise TextError(
                        f"{self.directory}/tokenizer_config.json: added token {entry['content']!r} has id {token_id}, "
                        f"which tokenizer.json has no place for", "save the tokenizer again with transformers")
        known_as_special = {token.content for token in self._tokenizer.get_added_tokens_decoder().values() if token.special}
        named = [text for text in self.special_tokens.values()
                 if text not in known_as_special and self._tokenizer.token_to_id(text) is not None]
        self._tokenizer.add_special_tokens(named)

    def _surrounding_ids(self):
        """What the post-processor puts before and after a text: ([bos], []) for most that add anything."""
        bare, full = self.encode("a"), self._tokenizer.encode("a", add_special_tokens=True).ids
        for start in range(len(full) - len(bare) + 1):
            if full[start:start + len(bare)] == bare:
                return full[:start], full[start + len(bare):]
        return [], []

    def encode(self, text):
        """Ids without anything put around them."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_with_specials(self, text):
        return self._tokenizer.encode(text, add_special_tokens=True).ids

    def encode_batch(self, texts):
        """Ids of each text, worked out on all cores."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def encode_batch_with_offsets(self, texts):
        """[(ids, [(start, end) in characters])] of each text, worked out on all cores."""
        encodings = self._tokenizer.encode_batch(texts, add_special_tokens=False)
        return [(encoding.ids, encoding.offsets) for encoding in encodings]

    def decode(self, ids, skip_special_tokens=True):
        return self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)

    def token_text(self, token_id):
        """One token for the eye: its text, or its raw name where it is only part of a character."""
        text = self._tokenizer.decode([token_id], skip_special_tokens=False)
        name = self._tokenizer.id_to_token(token_id)
        return name if name is not None and (text == "" or "\N{REPLACEMENT CHARACTER}" in text) else text

    @cached_property
    def vocabulary_size(self):
        """One more than the largest id."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    @cached_property
    def special_texts(self):
        """The texts of all tokens marked special."""
        return {token.content for token in self._tokenizer.get_added_tokens_decoder().values() if token.special}

    @property
    def bos_id(self):
        return self._named_id("bos_token")

    @property
    def eos_id(self):
        return self._named_id("eos_token")

    def _named_id(self, name):
        text = self.special_tokens.get(name)
        return None if text is None else self._tokenizer.token_to_id(text)

    def require_eos_id(self):
        if self.eos_id is None:
            raise TextError(f"{self.directory}: the tokenizer names no eos_token, so no answer could be ended",
                            "set eos_token in tokenizer_config.json")
        return self.eos_id

    @cached_property
    def stop_ids(self):
        """Ids that end a generated text: generation_config.json's, config.json's and the tokenizer's own eos."""
        ids = []
        for name in ("generation_config.json", "config.json"):
            value = read_json_file(self.directory / name).get("eos_token_id")
            ids += value if isinstance(value, list) else [value]
        ids.append(self.eos_id)
        return sorted({i for i in ids if isinstance(i, int)})

    @cached_property
    def stop_texts(self):
        return {self._tokenizer.id_to_token(i) for i in self.stop_ids} - {None}

    @cached_property
    def model_vocabulary_size(self):
        """Rows of the model's embedding, None when config.json does not say."""
        return read_json_file(self.directory / "config.json").get("vocab_size")
