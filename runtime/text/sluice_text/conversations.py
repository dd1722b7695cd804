"""A chat row to a list of messages: which fields hold them, and what their roles are called."""

import json

from sluice_text.documents import check_text
from sluice_text.errors import TextError

# What chat templates know. Other names are mapped, or named by the job.
TEMPLATE_ROLES = ("system", "developer", "user", "assistant", "tool", "ipython", "function")
ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "chatgpt": "assistant", "model": "assistant"}
FIELDS = ("messages", "conversations")
ROLE_NAMES, CONTENT_NAMES = ("role", "from"), ("content", "value")
FIX_TURN = "a turn is an object such as {\"role\": \"user\", \"content\": \"..\"}"
FIX_MAPPING = "each turn needs it, or message_property_mappings of the dataset names the fields that turns have"


class ConversationReader:
    """`messages` with role and content, or ShareGPT's `conversations` with from and value, or as the dataset's keys say."""

    def __init__(self, dataset):
        mapped = dict(dataset.message_property_mappings)
        self._fields = FIELDS if dataset.field_messages is None else (dataset.field_messages,)
        self._role_names = (mapped.pop("role"),) if "role" in mapped else ROLE_NAMES
        self._content_names = (mapped.pop("content"),) if "content" in mapped else CONTENT_NAMES
        self._mapped = mapped
        self._used = {"role", "content", *self._role_names, *self._content_names, *mapped, *mapped.values()}
        self._roles = ROLES if dataset.roles is None else {source: role for role, sources in dataset.roles for source in sources}
        self._known = {*TEMPLATE_ROLES, *self._roles.values()}

    def messages_of(self, row):
        """A `system` field of the row goes first."""
        name = self._field_of(row)
        turns = row.fields[name]
        if not isinstance(turns, list):
            raise TextError(f"{row.place}: '{name}' must be a list of turns, not {_shown(turns)}", FIX_TURN)
        if not turns:
            raise TextError(f"{row.place}: '{name}' is empty", "give it at least one turn, or remove the row")
        messages = [self._message_of(turn, f"{row.place}: {name}[{i}]") for i, turn in enumerate(turns)]
        system = row.fields.get("system")
        if isinstance(system, str) and system and messages[0]["role"] != "system":
            check_text(system, f"{row.place}: the field 'system'")
            messages.insert(0, {"role": "system", "content": system})
        return messages

    def _field_of(self, row):
        for name in self._fields:
            if row.fields.get(name) is not None:
                return name
        fix = "each row needs it, or field_messages of the dataset names the field that rows have"
        for name in self._fields:
            if name in row.fields:
                raise TextError(f"{row.place}: the field '{name}' is null", "give it a list of turns, or remove the row")
        names = " or ".join(f"'{name}'" for name in self._fields)
        raise TextError(f"{row.place}: lacks the field {names} (it has {', '.join(row.fields) or 'nothing'})", fix)

    def _message_of(self, turn, place):
        if not isinstance(turn, dict):
            raise TextError(f"{place}: a turn must be an object with role and content, not {_shown(turn)}", FIX_TURN)
        rest = {key: value for key, value in turn.items() if key not in self._used and value is not None}
        mapped = {key: turn[name] for key, name in self._mapped.items() if turn.get(name) is not None}
        return {"role": self._role_of(turn, place), "content": self._content_of(turn, place), **rest, **mapped}

    def _role_of(self, turn, place):
        name = _first_there(turn, self._role_names)
        if name is None:
            raise TextError(f"{place}: lacks {_quoted(self._role_names)} (it has {', '.join(turn) or 'nothing'})", FIX_MAPPING)
        role = turn[name]
        if not isinstance(role, str):
            raise TextError(f"{place}: '{name}' must be text, not {_shown(role)}", FIX_MAPPING)
        role = self._roles.get(role, role)
        if role not in self._known:
            raise TextError(f"{place}: the role '{role}' is not known", self._fix_for_role(role))
        return role

    def _fix_for_role(self, role):
        nearest = ROLES.get(role.lower(), role.lower())
        example = nearest if nearest in TEMPLATE_ROLES else "user"
        fix = f"say in the job, under the dataset, which of the chat template's roles it is: roles: {{{example}: [{role}]}}"
        if self._roles is ROLES:
            fix += f" (with the data's other names: they replace {', '.join(ROLES)})"
        return fix

    def _content_of(self, turn, place):
        name = _first_there(turn, self._content_names)
        if name is None and turn.get("tool_calls"):
            return ""
        if name is None:
            there = next((name for name in self._content_names if name in turn), None)
            if there is not None:
                raise TextError(f"{place}: '{there}' is null", "give the turn a text, or remove the row")
            found = ", ".join(turn) or "nothing"
            raise TextError(f"{place}: lacks {_quoted(self._content_names)} (it has {found})", FIX_MAPPING)
        content = turn[name]
        if isinstance(content, list) and all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in content):
            content = "".join(part["text"] for part in content)
        if not isinstance(content, str):
            raise TextError(f"{place}: '{name}' must be text, not {_shown(content)}", FIX_TURN)
        check_text(content, f"{place}: '{name}'")
        return content


def tools_of(row):
    tools = row.fields.get("tools")
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except ValueError as error:
            raise TextError(f"{row.place}: 'tools' is not JSON: {error}", "give a list of tools, or its JSON text, or null")
    return tools or None


def _first_there(turn, names):
    """Not merely the first name: a Parquet struct has all its fields in every turn, null where they were not given."""
    return next((name for name in names if turn.get(name) is not None), None)


def _quoted(names):
    return f"'{names[0]}'" + "".join(f" (or '{name}')" for name in names[1:])


def _shown(value):
    return json.dumps(value, default=str)[:60]
