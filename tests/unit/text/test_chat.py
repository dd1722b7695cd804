"""Supervised are the answers with the token that closes them, and nothing else: for templates of every habit."""

import json
import random

import pytest
from conftest import CHATML, random_conversation
from transformers import AutoTokenizer

from sluice_text.chat import ChatMaker, tokens_within
from sluice_text.dataset_files import Row
from sluice_text.documents import MASKED
from sluice_text.errors import TextError
from sluice_text.request import parse_request
from sluice_text.tokenizer import Tokenizer

LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] | trim }}"
    "<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}")
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]{% else %} {{ m['content'] }}</s>{% endif %}{% endfor %}")
GEMMA = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}")
# As Qwen3's: thoughts of earlier turns are cut out, a last answer without one gets an empty one.
THINKING = (
    "{% for m in messages %}{% set text = m['content'].split('</think>')[-1].lstrip('\n') %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and loop.last %}<think>\n{{ m['content'].split('</think>')[0].split('<think>')[-1].strip()"
    " if '</think>' in m['content'] else '' }}\n</think>\n\n{% endif %}{{ text }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
VICUNA = (
    "{% for m in messages %}{% if m['role'] == 'user' %}USER: {{ m['content'] }} {% else %}ASSISTANT: {{ m['content'] }}</s>"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}")
CLOSERLESS = (
    "{% for m in messages %}### {{ m['role'] }}:\n{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}### assistant:\n{% endif %}")
LAST_ONLY = "{{ messages[-1]['content'] }}{% if add_generation_prompt %}!{% endif %}"
EXTRA_SPECIALS = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<start_of_turn>", "<end_of_turn>", "</s>", "<s>"]


@pytest.fixture
def with_template(smollm2, tmp_path):
    """SmolLM2's tokenizer with another template and the special tokens that templates of other models use."""
    def make(template):
        theirs = AutoTokenizer.from_pretrained(smollm2)
        theirs.add_special_tokens({"additional_special_tokens": EXTRA_SPECIALS})
        theirs.bos_token = "<s>"
        theirs.chat_template = template
        theirs.save_pretrained(tmp_path / "model")
        return Tokenizer(tmp_path / "model")
    return make


def document_of(tokenizer, fields, dataset=None, **settings):
    asked = parse_request({"base_model": "x", "datasets": [{"path": "x", "type": "chat_template", **(dataset or {})}],
                           "sequence_len": 64, "cache_dir": "x", **settings})
    [[document]] = ChatMaker(tokenizer, asked, asked.datasets[0]).documents([Row("rows.jsonl:3", fields)])
    return document


def supervised_texts(tokenizer, document):
    """The texts of the runs of supervised tokens."""
    runs, run = [], []
    for token, label in zip(document.ids, document.labels, strict=True):
        assert label in (MASKED, token)
        if label != MASKED:
            run.append(token)
        elif run:
            runs.append(run)
            run = []
    return [tokenizer.decode(ids, skip_special_tokens=False) for ids in runs + ([run] if run else [])]


TWO_TURNS = [{"role": "user", "content": "What is 7?"}, {"role": "assistant", "content": "A number.\n\nSmall"},
             {"role": "user", "content": "And 8?"}, {"role": "assistant", "content": "Also \U0001f389"}]


@pytest.mark.parametrize("template, closer, lead", [
    (CHATML, "<|im_end|>", ""), (LLAMA3, "<|eot_id|>", ""), (MISTRAL, "</s>", " "), (GEMMA, "<end_of_turn>", ""),
    (VICUNA, "</s>", " "), (CLOSERLESS, "", "")])
def test_answers_with_their_closing_token_are_supervised(with_template, template, closer, lead):
    tokenizer = with_template(template)
    document = document_of(tokenizer, {"messages": TWO_TURNS})
    found = [text.rstrip("\n") for text in supervised_texts(tokenizer, document)]
    # "ASSISTANT:" and " A" are tokens of their own; the space belongs to the answer's first token.
    assert [text.removeprefix(lead) for text in found] == ["A number.\n\nSmall" + closer, "Also \U0001f389" + closer]


def test_an_empty_thought_before_the_last_answer_is_the_models_to_write(with_template):
    tokenizer = with_template(THINKING)
    document = document_of(tokenizer, {"messages": TWO_TURNS})
    assert supervised_texts(tokenizer, document) == [
        "A number.\n\nSmall<|im_end|>", "<think>\n\n</think>\n\nAlso \U0001f389<|im_end|>"]


def test_a_thought_inside_the_last_answer_is_supervised(with_template):
    tokenizer = with_template(THINKING)
    turns = TWO_TURNS[:3] + [{"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes"}]
    document = document_of(tokenizer, {"messages": turns})
    assert supervised_texts(tokenizer, document)[-1] == "<think>\nhm\n</think>\n\nYes<|im_end|>"


def test_a_template_that_hides_the_answer_is_refused_with_its_place(with_template):
    tokenizer = with_template(LAST_ONLY)
    with pytest.raises(TextError, match=r"rows.jsonl:3: the model's chat template refuses.*turn 2"):
        document_of(tokenizer, {"messages": TWO_TURNS})


def test_what_the_template_refuses_is_said_with_its_place(with_template):
    tokenizer = with_template(MISTRAL)
    with pytest.raises(TextError, match="rows.jsonl:3: .*roles must alternate"):
        document_of(tokenizer, {"messages": TWO_TURNS[1:]})


def test_masks_are_those_of_transformers_where_the_template_marks_answers(with_template):
    """`{% generation %}` lets transformers say which tokens are the assistant's: an outside judge of the spans."""
    marked = CHATML.replace("{{ message['content'] }}<|im_end|>", (
        "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}<|im_end|>{% endgeneration %}"
        "{% else %}{{ message['content'] }}<|im_end|>{% endif %}"))
    tokenizer = with_template(marked)
    theirs = AutoTokenizer.from_pretrained(tokenizer.directory)
    source = random.Random(11)
    compared = 0
    for _ in range(200):
        messages = random_conversation(source)
        expected = theirs.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
        document = document_of(tokenizer, {"messages": messages})
        assert document.ids == expected["input_ids"]
        assert [label != MASKED for label in document.labels] == [bool(mask) for mask in expected["assistant_masks"]]
        compared += sum(expected["assistant_masks"])
    assert compared > 5000


def test_every_supervised_token_belongs_to_an_answer(tokenizer):
    source = random.Random(12)
    for _ in range(200):
        messages = random_conversation(source)
        answers = [m["content"] + "<|im_end|>" for m in messages if m["role"] == "assistant"]
        found = supervised_texts(tokenizer, document_of(tokenizer, {"messages": messages}))
        assert [text.strip() for text in found] == [text.strip() for text in answers]


def test_train_on_inputs_supervises_all_but_the_first_token(tokenizer):
    document = document_of(tokenizer, {"messages": TWO_TURNS}, train_on_inputs=True)
    assert document.labels == [MASKED] + document.ids[1:]


def test_sharegpt_rows_are_the_same_conversations(tokenizer):
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    source = random.Random(13)
    for _ in range(20):
        messages = random_conversation(source)
        turns = [{"from": names[m["role"]], "value": m["content"]} for m in messages]
        assert document_of(tokenizer, {"conversations": turns}) == document_of(tokenizer, {"messages": messages})


def test_a_system_field_goes_first(tokenizer):
    with_field = document_of(tokenizer, {"system": "Be brief.", "messages": TWO_TURNS})
    with_turn = document_of(tokenizer, {"messages": [{"role": "system", "content": "Be brief."}] + TWO_TURNS})
    assert with_field == with_turn


def test_a_tool_call_is_supervised_whole(with_template):
    tokenizer = with_template(
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['tool_calls'] %}<call>{{ m['tool_calls'] | tojson }}"
        "{% else %}{{ m['content'] }}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
    calls = [{"function": {"name": "f", "arguments": {"x": 1}}}]
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": None, "tool_calls": calls}, *TWO_TURNS[2:]]
    found = supervised_texts(tokenizer, document_of(tokenizer, {"messages": turns}))
    assert found == [f"<call>{json.dumps(calls)}<|im_end|>", "Also \U0001f389<|im_end|>"]


SHAREGPT = {"field_messages": "conversations", "message_property_mappings": {"role": "from", "content": "value"},
            "roles": {"assistant": ["gpt", "model"], "user": ["human"]}}


@pytest.mark.parametrize("name", ["gpt", "model", "assistant"])
def test_axolotls_keys_for_sharegpt_give_the_same_conversations(tokenizer, name):
    names = {"user": "human", "assistant": name}
    turns = [{"from": names[m["role"]], "value": m["content"]} for m in TWO_TURNS]
    assert document_of(tokenizer, {"conversations": turns}, SHAREGPT) == document_of(tokenizer, {"messages": TWO_TURNS})


def test_only_the_named_field_of_messages_is_read(tokenizer):
    other = [{"role": "user", "content": "other"}]
    named = document_of(tokenizer, {"messages": other, "talk": TWO_TURNS}, {"field_messages": "talk"})
    assert named == document_of(tokenizer, {"messages": TWO_TURNS})
    with pytest.raises(TextError, match=r"rows\.jsonl:3: lacks the field 'talk' \(it has messages\)\n  fix: .*field_messages"):
        document_of(tokenizer, {"messages": TWO_TURNS}, {"field_messages": "talk"})


def test_any_property_of_a_turn_can_be_mapped(with_template):
    tokenizer = with_template(CHATML.replace("{{ message['content'] }}", "{{ message['mood'] }}{{ message['content'] }}"))
    turns = [{"speaker": m["role"], "said": m["content"], "role": "noise", "tone": "glad "} for m in TWO_TURNS]
    mapped = {"message_property_mappings": {"role": "speaker", "content": "said", "mood": "tone"}}
    plain = [{**m, "mood": "glad "} for m in TWO_TURNS]
    assert document_of(tokenizer, {"messages": turns}, mapped) == document_of(tokenizer, {"messages": plain})


def test_given_roles_replace_the_known_ones(tokenizer):
    turns = [{"role": "user", "content": "q"}, {"role": "gpt", "content": "a"}]
    document_of(tokenizer, {"messages": turns})
    with pytest.raises(TextError, match="messages.1.: the role 'gpt'"):
        document_of(tokenizer, {"messages": turns}, {"roles": {"assistant": ["model"]}})


def test_an_unknown_role_is_refused_and_the_job_can_name_it(tokenizer):
    turns = [{"role": "user", "content": "q"}, {"role": "narrator", "content": "x"}, {"role": "assistant", "content": "a"}]
    said = (r"rows\.jsonl:3: messages\[1\]: the role 'narrator' is not known"
            r"\n  fix: .*roles: \{user: \[narrator\]\} \(with the data's other")
    with pytest.raises(TextError, match=said):
        document_of(tokenizer, {"messages": turns})
    document = document_of(tokenizer, {"messages": turns}, {"roles": {"narrator": ["narrator"]}})
    assert supervised_texts(tokenizer, document) == ["a<|im_end|>"]


@pytest.mark.parametrize("role, example", [("Assistant", "assistant"), ("GPT", "assistant"), ("Human", "user")])
def test_the_fix_for_a_role_in_other_case_names_the_right_one(tokenizer, role, example):
    with pytest.raises(TextError, match=rf"roles: {{{example}: \[{role}\]}}"):
        document_of(tokenizer, {"messages": [{"role": role, "content": "x"}]})


def test_columns_that_parquet_fills_with_null_do_not_hide_the_others(tokenizer):
    """A Parquet struct has every field in every turn."""
    turns = [{"role": None, "content": None, "from": m["role"], "value": m["content"]} for m in TWO_TURNS]
    assert document_of(tokenizer, {"messages": turns}) == document_of(tokenizer, {"messages": TWO_TURNS})


@pytest.mark.parametrize("fields, said", [
    ({"text": "x"}, r"lacks the field 'messages' or 'conversations' \(it has text\)"),
    ({"messages": None}, "the field 'messages' is null"),
    ({"messages": []}, "'messages' is empty"),
    ({"messages": "x"}, "'messages' must be a list of turns, not \"x\""),
    ({"messages": ["x"]}, r"messages\[0\]: a turn must be an object"),
    ({"messages": [{"content": "x"}]}, r"messages\[0\]: lacks 'role'"),
    ({"messages": [{"role": "user", "content": 3}]}, r"messages\[0\]: 'content' must be text, not 3"),
    ({"messages": [{"role": "user", "content": None}]}, r"messages\[0\]: 'content' is null"),
    ({"messages": [{"role": "user"}]}, r"messages\[0\]: lacks 'content'"),
    ({"messages": TWO_TURNS, "tools": "[{"}, "'tools' is not JSON")])
def test_a_row_without_its_fields_is_named_with_the_fix(tokenizer, fields, said):
    with pytest.raises(TextError, match=r"rows\.jsonl:3: " + said + r"(.|\n)*\n  fix: \S"):
        document_of(tokenizer, fields)


def test_offsets_without_their_leading_space_still_cover_the_answer():
    #       0123456789
    text = "Q: x  y </>"
    trimmed = [(0, 2), (3, 4), (6, 6), (6, 7), (8, 11)]  # a token of two spaces whose offsets are empty
    assert tokens_within(text, trimmed, [(4, 11)]) == [False, False, True, True, True]
