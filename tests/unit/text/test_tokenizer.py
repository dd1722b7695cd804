"""Ids, templates and special tokens must be transformers' own."""

import json
import random

import pytest
from conftest import random_conversation, random_text
from transformers import AutoTokenizer

from sluice_text.chat_template import ChatTemplate, TemplateRefused, template_text
from sluice_text.errors import TextError
from sluice_text.tokenizer import Tokenizer

TEXTS = ["", " ", "Hello  world\n\n  x", "12345 apples for 7.50",
         "日本語 é 🎉👩‍👩‍👧", "a<|im_end|>b", "\u2581x <0x0A>", "e\u0301", "\r\n\t"]


def texts(seed, count):
    source = random.Random(seed)
    return TEXTS + [random_text(source) for _ in range(count)]


@pytest.mark.parametrize("with_specials", [True, False])
def test_ids_are_those_of_transformers(tokenizer, judge, with_specials):
    encode = tokenizer.encode_with_specials if with_specials else tokenizer.encode
    for text in texts(1, 200):
        assert encode(text) == judge(text, add_special_tokens=with_specials)["input_ids"], repr(text)


def test_digits_are_split_as_the_model_was_trained(tokenizer, judge):
    assert judge.convert_ids_to_tokens(tokenizer.encode("in 2024")) == ["in", "Ġ", "2", "0", "2", "4"]


def test_text_survives_the_round_trip(tokenizer):
    for text in texts(2, 200):
        assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=False) == text


def test_ids_with_a_bos_and_byte_fallback_are_those_of_transformers(llama_like):
    ours, theirs = Tokenizer(llama_like), AutoTokenizer.from_pretrained(llama_like)
    assert ours.prefix_ids == [theirs.bos_token_id] and ours.suffix_ids == []
    for text in texts(3, 100):
        assert ours.encode_with_specials(text) == theirs(text)["input_ids"], repr(text)
        assert ours.encode(text) == theirs(text, add_special_tokens=False)["input_ids"], repr(text)


@pytest.mark.parametrize("add_generation_prompt", [True, False])
def test_rendered_chats_are_those_of_transformers(tokenizer, judge, add_generation_prompt):
    template, source = ChatTemplate(tokenizer), random.Random(4)
    for _ in range(300):
        messages = random_conversation(source)
        expected = judge.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)
        text = template.render(messages, add_generation_prompt)
        assert text == expected
        expected_ids = judge.apply_chat_template(messages, add_generation_prompt=add_generation_prompt, return_dict=False)
        assert tokenizer.encode(text) == expected_ids


@pytest.mark.parametrize("source", [
    "{%- for message in messages %}\n    {%- if loop.index0 > 1 %}{% break %}{% endif %}\n{{ message.content }}\n{% endfor %}",
    "{{ messages | tojson }}{{ messages | tojson(indent=2) }}",
    "{% if tools is none %}none{% endif %}{% if documents is none %}none{% endif %}{{ bos_token }}{{ eos_token }}{{ pad_token }}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + m.content | length %}{% endfor %}{{ ns.n }}",
    "{{ strftime_now('%Y') }}",
    "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}\n{% endfor %}",
])
def test_template_features_render_as_in_transformers(smollm2, tmp_path, judge, source):
    for file in smollm2.glob("*.json"):
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "chat_template.jinja").write_text(source)
    messages = [{"role": "user", "content": f"<é & '{i}'>"} for i in range(4)]
    theirs = AutoTokenizer.from_pretrained(tmp_path).apply_chat_template(messages, tokenize=False)
    assert ChatTemplate(Tokenizer(tmp_path)).render(messages) == theirs


@pytest.mark.parametrize("source", [
    "{{ messages.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''.__class__.__base__.__subclasses__() }}",
    "{{ (messages | attr('__class__')).mro() }}",
    "{{ cycler.__init__.__globals__.os.system('true') }}",
    "{{ lipsum.__globals__['os'].system('true') }}",
    "{{ raise_exception.__globals__.jinja2 }}",
    "{{ strftime_now.__code__.co_consts.__class__ }}",
    "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update(content='other') }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os }}",
    "{{ range(10 ** 9) | list | length }}",
    "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
    "{{ 1 // 0 }}",
])
def test_a_template_cannot_leave_its_sandbox(llama_like, tmp_path, source):
    for file in llama_like.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "chat_template.jinja").write_text(source)
    messages = [{"role": "user", "content": "x"}]
    with pytest.raises(TemplateRefused):
        ChatTemplate(Tokenizer(tmp_path)).render(messages)
    assert messages == [{"role": "user", "content": "x"}]


def test_a_template_list_gives_its_default(llama_like, tmp_path):
    for file in llama_like.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config["chat_template"] = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert template_text(Tokenizer(tmp_path)) == "plain"


def test_stop_ids_join_all_sources(llama_like, tokenizer):
    assert Tokenizer(llama_like).stop_ids == [2, 4]
    assert tokenizer.stop_ids == [tokenizer.eos_id] == tokenizer.encode("<|im_end|>")


def test_truncation_asked_for_in_tokenizer_json_is_not_obeyed(llama_like, tmp_path):
    value = json.loads((llama_like / "tokenizer.json").read_text())
    value["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "tokenizer.json").write_text(json.dumps(value))
    assert len(Tokenizer(tmp_path).encode("one two three four five six seven")) > 4


def test_tokens_known_only_to_the_config_are_added(llama_like, tmp_path):
    for file in llama_like.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    size = Tokenizer(tmp_path).vocabulary_size
    config["added_tokens_decoder"] = {str(size): {"content": "<|new|>", "special": True}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert Tokenizer(tmp_path).encode("<|new|>")[-1:] == [size]


@pytest.mark.parametrize("text, said", [(None, "has no tokenizer.json"), ("{", "is not a tokenizer")])
def test_a_directory_without_a_tokenizer_is_refused_by_name(tmp_path, text, said):
    if text is not None:
        (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(TextError, match=said):
        Tokenizer(tmp_path)
