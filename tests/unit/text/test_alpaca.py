"""Alpaca rows must mean what they mean to Axolotl's users: its prompts to the letter, its joins, its ends."""

import pytest
from transformers import AutoTokenizer

from sluice_text.alpaca import AlpacaMaker
from sluice_text.dataset_files import Row
from sluice_text.documents import MASKED
from sluice_text.errors import TextError
from sluice_text.request import parse_request
from sluice_text.tokenizer import Tokenizer

# The texts stand here in full, not built from the program's parts.
WITH_INPUT = """Below is an instruction that describes a task, paired with an input that provides further context. \
Write a response that appropriately completes the request.

### Instruction:
Add {them}.

### Input:
7 and 12

### Response:
"""
WITHOUT_INPUT = """Below is an instruction that describes a task. Write a response that appropriately completes the request.

### Instruction:
Name a {bird}.

### Response:
"""
ROWS = [{"instruction": "Add {them}.", "input": "7 and 12", "output": "19"},
        {"instruction": "Name a {bird}.", "input": "", "output": "A wren.\n"},
        {"instruction": "Name a {bird}.", "output": "Robin", "id": 7},
        {"instruction": "Name a {bird}.", "input": None, "output": ""}]
PROMPTS = [WITH_INPUT, WITHOUT_INPUT, WITHOUT_INPUT, WITHOUT_INPUT]


def documents_of(directory, rows, **settings):
    request = parse_request({"base_model": str(directory), "datasets": [{"path": "x", "type": "alpaca"}], "sequence_len": 64,
                             "cache_dir": "x", **settings})
    maker = AlpacaMaker(Tokenizer(directory), request, request.datasets[0])
    return [document for group in maker.documents([Row(f"a.jsonl:{i}", row) for i, row in enumerate(rows, 1)])
            for document in group]


@pytest.mark.parametrize("model", ["smollm2", "llama_like"])
def test_prompt_and_answer_are_tokenized_apart_and_ended(model, request):
    directory = request.getfixturevalue(model)
    theirs = AutoTokenizer.from_pretrained(directory)
    for document, prompt, row in zip(documents_of(directory, ROWS), PROMPTS, ROWS, strict=True):
        prompt_ids = theirs(prompt)["input_ids"]
        answer_ids = theirs(row["output"], add_special_tokens=False)["input_ids"] + [theirs.eos_token_id]
        assert document.ids == prompt_ids + answer_ids
        assert document.labels == [MASKED] * len(prompt_ids) + answer_ids


def test_an_answer_that_ends_itself_is_not_ended_twice(smollm2):
    [once] = documents_of(smollm2, [{"instruction": "x", "output": "y<|im_end|>"}])
    [plain] = documents_of(smollm2, [{"instruction": "x", "output": "y"}])
    assert once == plain


def test_train_on_inputs_supervises_the_prompt(smollm2):
    [document] = documents_of(smollm2, ROWS[:1], train_on_inputs=True)
    assert document.labels == [MASKED] + document.ids[1:]


@pytest.mark.parametrize("row, said", [
    ({"instruction": "x"}, r"a\.jsonl:2: lacks the field 'output' \(it has instruction\)"),
    ({"output": "x"}, r"a\.jsonl:2: lacks the field 'instruction'"),
    ({"instruction": "x", "output": None}, r"a\.jsonl:2: the field 'output' is null"),
    ({"instruction": ["x"], "output": "y"}, r"a\.jsonl:2: the field 'instruction' must be text"),
    ({"instruction": "x", "input": 3, "output": "y"}, r"a\.jsonl:2: the field 'input' must be text")])
def test_a_row_without_its_fields_is_named(smollm2, row, said):
    with pytest.raises(TextError, match=said + r".*\n  fix: \S"):
        documents_of(smollm2, [ROWS[0], row])
