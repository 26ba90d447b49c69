"""Conversations to learn answers from: records with messages, or with a prompt and its answer."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from windlass.data.examples import all_records, text_in
from windlass.errors import WindlassError
from windlass.spec.job import Examples, ExampleSource

ROLES = ("system", "user", "assistant")

Messages = tuple[tuple[str, str], ...]
"""Role and content of each."""


@dataclass(frozen=True)
class Conversation:
    """Messages of which an assistant's are learned."""

    messages: Messages
    place: str
    """Where it was read, for messages to people."""
    label: str = ""

    @cached_property
    def text(self) -> str:
        """All of it, to find copies."""
        return "\n".join(f"{role}: {content}" for role, content in self.messages)


def conversations(spec: Examples) -> Iterator[Conversation]:
    """Those of all sources.

    Raises WindlassError: DataNotFound; DataCorrupt for an answer that is empty, a conversation without one, and
    messages that are none.
    """
    for source in spec.sources:
        for place, record in all_records(source):
            messages = _messages(source, place, record)
            if not any(role == "assistant" for role, _ in messages):
                raise WindlassError("DataCorrupt", f"{place}: no message is the assistant's, so there is no answer")
            if any(role == "assistant" and not content.strip() for role, content in messages):
                raise WindlassError("DataCorrupt", f"{place}: an answer is empty; fill it, or remove the record")
            yield Conversation(messages, place)


def _messages(source: ExampleSource, place: str, record: dict[str, Any]) -> Messages:
    given = record.get(source.messages_field)
    if given is None:
        prompt = text_in(record, source.prompt_field, place, "promptField, or messagesField")
        return ("user", prompt), ("assistant", text_in(record, source.answer_field, place, "answerField"))
    if not isinstance(given, list) or not all(isinstance(message, dict) for message in given):
        raise WindlassError("DataCorrupt", f"{place}: field {source.messages_field} is no list of role and content")
    for message in given:
        if message.get("role") not in ROLES:
            raise WindlassError("DataCorrupt", f"{place}: role {message.get('role')!r} is none of {', '.join(ROLES)}")
    return tuple((message["role"], text_in(message, "content", place, "content of each message")) for message in given)
