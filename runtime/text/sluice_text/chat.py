"""`type: chat_template`: conversations, rendered by the model's own template; the assistant's turns are trained on.

A turn's answer begins where the generation prompt ends (what the model is later asked with) and ends with the special
token that closes the turn. It is found in the rendered text by rendering again: once with a stand-in for the answer,
and once up to the turn. Where the renderings do not agree with the whole, the row is refused: a guess would train on prompts.
"""

from sluice_text.chat_template import ChatTemplate, TemplateRefused, end_after_closer
from sluice_text.conversations import ConversationReader, tools_of
from sluice_text.documents import make_document
from sluice_text.errors import TextError
from sluice_text.instruction import InstructionReader

STAND_IN = "sluicestandin5d41402abc"


class ChatMaker:
    def __init__(self, tokenizer, request, dataset):
        self._tokenizer = tokenizer
        self._reader = InstructionReader(dataset) if dataset.type == "instruction" else ConversationReader(dataset)
        self._template = ChatTemplate(tokenizer)
        self._train_on_inputs = request.train_on_inputs

    def documents(self, rows):
        rendered = [self._render(row) for row in rows]
        encoded = self._tokenizer.encode_batch_with_offsets([text for text, _ in rendered])
        for (text, spans), (ids, offsets) in zip(rendered, encoded, strict=True):
            if self._train_on_inputs:
                supervised = [True] * len(ids)
            else:
                supervised = tokens_within(text, offsets, spans)
            yield [make_document(ids, supervised)]

    def _render(self, row):
        messages, tools = self._reader.messages_of(row), tools_of(row)
        try:
            text = self._template.render(messages, tools=tools)
            if self._train_on_inputs:
                return text, []
            return text, answer_spans(self._template, messages, tools, text)
        except TemplateRefused as error:
            raise TextError(f"{row.place}: the model's chat template refuses this conversation: {error}",
                            "change or remove the row, or change the template in base_model")


def answer_spans(template, messages, tools, text):
    """[(begin, end)] in `text`, a span for each assistant turn."""
    spans = []
    for i, message in enumerate(messages):
        if message["role"] == "assistant":
            span = _span_by_stand_in(template, messages, i, tools, text)
            span = span or _span_by_prefix(template, messages, i, tools, text)
            if span is None:
                raise TemplateRefused(f"it renders turn {i + 1} differently when more turns follow, "
                                      "so that its answer cannot be told from its prompt")
            spans.append(span)
    return spans


def _span_by_stand_in(template, messages, i, tools, text):
    probe = messages[:i] + [{**messages[i], "content": STAND_IN}] + messages[i + 1:]
    before, found, after = template.render(probe, tools=tools).partition(STAND_IN)
    if not found or STAND_IN in after or len(before) + len(after) > len(text):
        return None
    if not text.startswith(before) or not text.endswith(after):
        return None
    begin = _end_of_generation_prompt(template, messages, i, tools, before)
    return begin, end_after_closer(text, len(text) - len(after), template.end_of_turn)


def _end_of_generation_prompt(template, messages, i, tools, before):
    """Some templates put more before an answer than they ask with (an empty thought): the model has to write that too."""
    prompt = _generation_prompt(template, messages, i, tools)
    return len(prompt) if prompt is not None and before.startswith(prompt) else len(before)


def _generation_prompt(template, messages, i, tools):
    """The text the model is asked with for turn i; None when the template knows no such thing."""
    try:
        asked = template.render(messages[:i], add_generation_prompt=True, tools=tools)
        return asked if asked != template.render(messages[:i], tools=tools) else None
    except TemplateRefused:
        return None  # some templates refuse to render a conversation that ends here


def _span_by_prefix(template, messages, i, tools, text):
    """For turns that are more than their content (tool calls, thoughts inside the text)."""
    prompt = _generation_prompt(template, messages, i, tools)
    turn = template.render(messages[:i + 1], tools=tools)
    if prompt is None or not text.startswith(turn) or not turn.startswith(prompt):
        return None
    # The closing token is the last one of the turn; what follows it (a line end) belongs to the frame.
    end = len(turn)
    for closer in template.end_of_turn:
        at = turn.rfind(closer, len(prompt))
        if at >= 0 and turn[at + len(closer):].isspace():
            end = at + len(closer)
    return len(prompt), end


def tokens_within(text, offsets, spans):
    """A truth value for each token: it lies in a span. Whitespace that a token carries over an edge does not count."""
    inside = [False] * len(offsets)
    position, covered = 0, 0
    for i, (start, end) in enumerate(offsets):
        # Offsets may leave a token's leading space out; it begins where the one before it ended.
        begin, covered = min(start, covered), max(end, covered)
        while position < len(spans) and spans[position][1] <= begin:
            position += 1
        if position == len(spans):
            break
        first, last = spans[position]
        if begin < last and covered > first:
            inside[i] = not text[begin:first].strip() and not text[last:covered].strip()
    return inside
