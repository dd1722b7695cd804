"""`type: instruction`: LLaMA-Factory's alpaca rows become the conversation that it makes of them, in transformers' rendering."""

import json

import pytest
from test_chat import supervised_texts

from sluice_text.chat import ChatMaker
from sluice_text.dataset_files import Row
from sluice_text.errors import TextError
from sluice_text.request import parse_request

ROW = {"instruction": "Translate to French.", "input": "Good morning", "output": "Bonjour"}


def document_of(tokenizer, fields, **dataset):
    asked = parse_request({"base_model": "x", "sequence_len": 64, "cache_dir": "x",
                           "datasets": [{"path": "x", "type": "instruction", **dataset}]})
    [[document]] = ChatMaker(tokenizer, asked, asked.datasets[0]).documents([Row("rows.json:3", fields)])
    return document


def turns(*texts, system=None):
    roles = ("user", "assistant") * (len(texts) // 2)
    first = [] if system is None else [{"role": "system", "content": system}]
    return first + [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]


@pytest.mark.parametrize("row, columns, conversation", [
    (ROW, {}, turns("Translate to French.\nGood morning", "Bonjour")),
    ({**ROW, "input": ""}, {}, turns("Translate to French.", "Bonjour")),
    ({"instruction": "Say hi.", "output": "hi"}, {}, turns("Say hi.", "hi")),
    ({**ROW, "system": "Be brief."}, {}, turns("Translate to French.\nGood morning", "Bonjour")),
    ({**ROW, "system": "Be brief."}, {"system": "system"},
     turns("Translate to French.\nGood morning", "Bonjour", system="Be brief.")),
    ({**ROW, "history": [["one?", "two"], ["three?", "four"]]}, {"history": "history"},
     turns("one?", "two", "three?", "four", "Translate to French.\nGood morning", "Bonjour")),
    ({**ROW, "history": None}, {"history": "history"}, turns("Translate to French.\nGood morning", "Bonjour")),
    ({"q": "Why?", "a": "So."}, {"prompt": "q", "response": "a"}, turns("Why?", "So.")),
])
def test_a_row_is_the_conversation_that_transformers_renders(tokenizer, judge, row, columns, conversation):
    document = document_of(tokenizer, row, columns=columns)
    assert list(document.ids) == judge.apply_chat_template(conversation, return_dict=False)
    answers = [turn["content"] + "<|im_end|>" for turn in conversation if turn["role"] == "assistant"]
    assert supervised_texts(tokenizer, document) == answers


@pytest.mark.parametrize("row, columns, what", [
    ({"instruction": "x"}, {}, r"rows\.json:3: lacks the field 'output' \(it has instruction\)"),
    ({"input": "", "output": "x"}, {}, r"'instruction' and 'input' are empty"),
    ({**ROW, "output": 7}, {}, "'output' must be text"),
    ({**ROW, "history": ["one"]}, {"history": "history"}, "'history' must be a list of pairs of texts"),
])
def test_a_row_that_is_none_is_named(tokenizer, row, columns, what):
    with pytest.raises(TextError, match=what):
        document_of(tokenizer, row, columns=columns)


def test_an_unknown_column_is_refused(tokenizer):
    with pytest.raises(TextError, match=r"datasets\[0\]\.columns must be of prompt, query"):
        document_of(tokenizer, ROW, columns={"images": "images"})


def test_so_many_first_rows_of_each_dataset(smollm2, tmp_path):
    from sluice_text.prepare import prepare
    rows = [{**ROW, "output": f"answer {i}"} for i in range(9)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    (tmp_path / "cut.json").write_text(json.dumps(rows[:4]))
    (tmp_path / "short.json").write_text(json.dumps(rows[:2]))

    def content(*datasets):
        entries = [{"path": str(tmp_path / name), "type": "instruction", **keys} for name, keys in datasets]
        request = parse_request({"base_model": str(smollm2), "sequence_len": 64, "cache_dir": str(tmp_path / "cache"),
                                 "datasets": entries, "shuffle_merged_datasets": False})
        summary = prepare(request)
        return summary["rows"], summary["hash"], open(summary["train"], "rb").read()

    some = content(("rows.json", {"rows_max": 4}), ("short.json", {"rows_max": 4}))
    assert some[0] == 6 == content(("cut.json", {}), ("short.json", {}))[0]
    assert some[1] != content(("rows.json", {"rows_max": 5}), ("short.json", {"rows_max": 5}))[1]
