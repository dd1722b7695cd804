"""A model's chat template: Jinja, set up exactly as transformers does, in a sandbox (templates are foreign code)."""

import datetime
import json
import re

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sluice_text.errors import TextError


class GenerationBlock(jinja2.ext.Extension):
    """`{% generation %} .. {% endgeneration %}`: marks answers for transformers; here it only has to render."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_render"), [], [], body).set_lineno(line)

    def _render(self, caller):
        return caller()


def _environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def strftime_now(pattern):
        return datetime.datetime.now().strftime(pattern)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                                extensions=[GenerationBlock, jinja2.ext.loopcontrols])
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = strftime_now
    return environment


FIX_TEMPLATE = "copy it again from the model's source, or write a right one"


def template_text(tokenizer):
    """The template's source, None when the model has none. chat_template.jinja wins over tokenizer_config.json."""
    file = tokenizer.directory / "chat_template.jinja"
    if file.exists():
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise TextError(f"{file}: cannot be read as UTF-8: {error}", FIX_TEMPLATE)
    value = tokenizer.config.get("chat_template")
    if isinstance(value, list):
        by_name = {entry["name"]: entry["template"] for entry in value}
        value = by_name.get("default")
    return value


class TemplateRefused(Exception):
    """The template does not take this conversation; the text says why."""


class ChatTemplate:
    def __init__(self, tokenizer):
        text = template_text(tokenizer)
        if text is None:
            raise TextError(f"{tokenizer.directory}: has no chat template",
                            "use an instruct model, add chat_template.jinja to the directory, or use type: alpaca")
        try:
            self._template = _environment().from_string(text)
        except jinja2.exceptions.TemplateError as error:
            raise TextError(f"{tokenizer.directory}: the chat template is not valid Jinja: {error}", FIX_TEMPLATE)
        self._special_tokens = tokenizer.special_tokens
        self.end_of_turn = self._find_end_of_turn(tokenizer)

    def render(self, messages, add_generation_prompt=False, tools=None):
        try:
            return self._template.render(messages=messages, tools=tools, documents=None,
                                         add_generation_prompt=add_generation_prompt, **self._special_tokens)
        except jinja2.exceptions.TemplateError as error:
            raise TemplateRefused(str(error))
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise TemplateRefused(f"{type(error).__name__}: {error}")

    def _find_end_of_turn(self, tokenizer):
        """Special tokens that close an assistant's turn: what follows an answer that stands last, and the eos tokens."""
        closers = set(tokenizer.stop_texts)
        try:
            text = self.render([{"role": "user", "content": "question"}, {"role": "assistant", "content": "answerprobe"}])
        except TemplateRefused:
            return closers
        tail = text.partition("answerprobe")[2].lstrip()
        found = longest_prefix(tail, tokenizer.special_texts)
        return closers | ({found} if found else set())


def longest_prefix(text, candidates):
    """The longest of `candidates` that `text` begins with, or None."""
    return max((candidate for candidate in candidates if text.startswith(candidate)), key=len, default=None)


_WHITESPACE = re.compile(r"\s*")


def end_after_closer(text, position, closers):
    """Where an answer that ends at `position` of `text` ends when the special token closing it is counted in."""
    begin = _WHITESPACE.match(text, position).end()
    closer = longest_prefix(text[begin:begin + 256], closers)
    return position if closer is None else begin + len(closer)
