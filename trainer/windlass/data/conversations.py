"""Conversations to learn answers from, and pairs of them: records with messages, or with a prompt and answers."""

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

    @property
    def conversations(self) -> tuple["Conversation", ...]:
        """Those that are read, as of a pair: this one."""
        return (self,)


@dataclass(frozen=True)
class Pair:
    """Two conversations that differ in their answers, of which one is better."""

    chosen: Conversation
    rejected: Conversation
    place: str
    label: str = ""

    @cached_property
    def text(self) -> str:
        """All of it, to find copies."""
        return f"{self.chosen.text}\n{self.rejected.text}"

    @property
    def conversations(self) -> tuple[Conversation, ...]:
        """Those that are read: the chosen one, and the rejected one."""
        return self.chosen, self.rejected


def conversations(spec: Examples) -> Iterator[Conversation]:
    """Those of all sources.

    Raises WindlassError: DataNotFound; DataCorrupt for an answer that is empty, a conversation without one, and
    messages that are none.
    """
    for source in spec.sources:
        for place, record in all_records(source):
            if source.messages_field in record:
                messages = _messages(record, source.messages_field, place)
            else:
                messages = _exchange(source, record, source.answer_field, place, "answerField")
            yield _answered(messages, place)


def pairs(spec: Examples) -> Iterator[Pair]:
    """Those of all sources; errors as of `conversations`, and DataCorrupt for two answers that are the same."""
    for source in spec.sources:
        for place, record in all_records(source):
            fields = {source.chosen_field: "chosenField", source.rejected_field: "rejectedField"}
            chosen, rejected = (
                _answered(
                    _messages(record, field, place)
                    if isinstance(record.get(field), list)
                    else _exchange(source, record, field, place, setting),
                    place,
                )
                for field, setting in fields.items()
            )
            if chosen.messages == rejected.messages:
                raise WindlassError("DataCorrupt", f"{place}: both answers are the same; remove the record")
            yield Pair(chosen, rejected, place)


def _exchange(source: ExampleSource, record: dict[str, Any], answer: str, place: str, setting: str) -> Messages:
    prompt = text_in(record, source.prompt_field, place, "promptField, or messagesField")
    return ("user", prompt), ("assistant", text_in(record, answer, place, setting))


def _messages(record: dict[str, Any], field: str, place: str) -> Messages:
    given = record[field]
    if not isinstance(given, list) or not all(isinstance(message, dict) for message in given):
        raise WindlassError("DataCorrupt", f"{place}: field {field} is no list of role and content")
    for message in given:
        if message.get("role") not in ROLES:
            raise WindlassError("DataCorrupt", f"{place}: role {message.get('role')!r} is none of {', '.join(ROLES)}")
    return tuple((message["role"], text_in(message, "content", place, "content of each message")) for message in given)


def _answered(messages: Messages, place: str) -> Conversation:
    answers = [content for role, content in messages if role == "assistant"]
    if not answers:
        raise WindlassError(
            "DataCorrupt",
            f"{place}: no message is the assistant's, so there is no answer; add one, or remove the record",
        )
    if not all(answer.strip() for answer in answers):
        raise WindlassError("DataCorrupt", f"{place}: an answer is empty; fill it, or remove the record")
    return Conversation(messages, place)
