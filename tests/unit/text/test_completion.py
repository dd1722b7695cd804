"""Plain text: nothing lost, nothing repeated, every piece full but the last."""

import random

import pytest
from conftest import random_text

from sluice_text import completion
from sluice_text.completion import CompletionMaker, split_for_tokenizer
from sluice_text.dataset_files import Row
from sluice_text.documents import MASKED
from sluice_text.errors import TextError
from sluice_text.request import parse_request
from sluice_text.tokenizer import Tokenizer


def documents_of(tokenizer, texts, sequence_len):
    request = parse_request({"base_model": "x", "datasets": [{"path": "x", "type": "completion"}],
                             "sequence_len": sequence_len, "cache_dir": "x"})
    rows = [Row("t", {"text": text}) for text in texts]
    return [list(pieces) for pieces in CompletionMaker(tokenizer, request, request.datasets[0]).documents(rows)]


@pytest.mark.parametrize("model", ["smollm2", "llama_like"])
def test_pieces_joined_are_the_text_with_its_end(model, request):
    tokenizer = Tokenizer(request.getfixturevalue(model))
    source = random.Random(21)
    texts = [random_text(source, 120) for _ in range(50)]
    for text, pieces in zip(texts, documents_of(tokenizer, texts, 16), strict=True):
        whole = tokenizer.encode_with_specials(text) + [tokenizer.eos_id]
        joined = [token for piece in pieces for token in piece.ids]
        assert joined == whole[:len(joined)]
        assert len(whole) - len(joined) <= 1  # a last piece of one token has nothing to predict
        assert all(len(piece.ids) == 16 for piece in pieces[:-1]) and len(pieces[-1].ids) <= 16
        assert all(piece.labels == [MASKED] + piece.ids[1:] for piece in pieces)


@pytest.mark.parametrize("model", ["smollm2", "llama_like"])
def test_tokenizing_in_parts_changes_no_id(model, request):
    tokenizer = Tokenizer(request.getfixturevalue(model))
    source = random.Random(22)
    for _ in range(10):
        text = "\n".join(random_text(source) for _ in range(200))
        parts = split_for_tokenizer(tokenizer, text, part_characters=500)
        assert "".join(parts) == text
        assert [token for part in parts for token in tokenizer.encode(part)] == tokenizer.encode(text)
        if model == "smollm2":
            assert len(parts) > 5
        else:
            assert len(parts) == 1  # a prefix space is put before every part: no cut is harmless


def test_long_and_short_texts_together_keep_their_order(tokenizer, monkeypatch):
    source = random.Random(23)
    texts = ["\n".join(random_text(source) for _ in range(count)) for count in (1, 80, 2, 60, 1)]
    expected = documents_of(tokenizer, texts, 32)
    monkeypatch.setattr(completion, "PART_CHARACTERS", 500)
    assert sum(len(text) > 500 for text in texts) == 2
    assert documents_of(tokenizer, texts, 32) == expected


def test_a_text_without_line_ends_is_left_whole(tokenizer):
    assert split_for_tokenizer(tokenizer, "x" * 5000, part_characters=100) == ["x" * 5000]


def test_the_field_that_holds_the_text_can_be_named(tokenizer):
    request = parse_request({"base_model": "x", "datasets": [{"path": "x", "type": "completion", "field": "content"}],
                             "sequence_len": 64, "cache_dir": "x"})
    maker = CompletionMaker(tokenizer, request, request.datasets[0])
    [pieces] = maker.documents([Row("t:1", {"content": "named", "text": "other"})])
    assert [list(pieces)] == documents_of(tokenizer, ["named"], 64)
    with pytest.raises(TextError, match=r"t:2: lacks the field 'content' \(it has text\)\n  fix: .*`field`"):
        list(maker.documents([Row("t:2", {"text": "other"})]))
