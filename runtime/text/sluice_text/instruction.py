"""`type: instruction`: LLaMA-Factory's alpaca rows, which it renders as a conversation by the model's chat template."""

from sluice_text.documents import check_text
from sluice_text.errors import TextError

# Its names for the fields, in a description of a dataset, and the fields that rows have where it says nothing.
DEFAULT_COLUMNS = {"prompt": "instruction", "query": "input", "response": "output"}
COLUMNS = (*DEFAULT_COLUMNS, "system", "history")


class InstructionReader:
    """As a ConversationReader: earlier rounds, then instruction and input on a line each, then the answer."""

    def __init__(self, dataset):
        self._columns = {**DEFAULT_COLUMNS, **dict(dataset.columns)}

    def messages_of(self, row):
        messages = []
        system = self._text(row, "system")
        if system:
            messages.append({"role": "system", "content": system})
        for asked, answered in self._history(row):
            messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
        question = "\n".join(part for part in (self._text(row, "prompt"), self._text(row, "query")) if part)
        if not question:
            raise TextError(f"{row.place}: '{self._columns['prompt']}' and '{self._columns['query']}' are empty",
                            "give the row an instruction, or remove it")
        if self._columns["response"] not in row.fields:
            raise TextError(f"{row.place}: lacks the field '{self._columns['response']}' "
                            f"(it has {', '.join(row.fields) or 'nothing'})",
                            "each row needs it, or columns in dataset_info.json names the field that rows have")
        answer = self._text(row, "response")
        return [*messages, {"role": "user", "content": question}, {"role": "assistant", "content": answer}]

    def _text(self, row, column):
        value = row.fields.get(self._columns[column]) if column in self._columns else None
        if value is None:
            return ""
        if not isinstance(value, str):
            raise TextError(f"{row.place}: '{self._columns[column]}' must be text", "write it in quotes, or remove the row")
        check_text(value, f"{row.place}: the field '{self._columns[column]}'")
        return value

    def _history(self, row):
        rounds = (row.fields.get(self._columns["history"]) or []) if "history" in self._columns else []
        if not isinstance(rounds, list) or not all(
                isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair) for pair in rounds):
            raise TextError(f"{row.place}: '{self._columns['history']}' must be a list of pairs of texts",
                            "for example [[\"question\", \"answer\"]]")
        for i, pair in enumerate(rounds):
            for text in pair:
                check_text(text, f"{row.place}: {self._columns['history']}[{i}]")
        return rounds
