"""Instructions: a conversation as an example, of which the answers are learned."""

import numpy as np

from windlass.data.buckets import Example
from windlass.data.conversations import Conversation
from windlass.data.stream import IGNORED
from windlass.data.tokenizers import Tokenizer
from windlass.errors import WindlassError
from windlass.tasks.templates import Template


def encode(
    tokenizer: Tokenizer, template: Template, conversation: Conversation, length: int, *, everything: bool
) -> tuple[Example, bool]:
    """The conversation's first `length` tokens with the next ones as labels, and whether it was cut.

    Labels are the answers and what ends them, or `everything`. Names of special tokens are taken for the tokens where
    the template writes them, and refused in messages.

    Raises:
        WindlassError: ConfigInvalid where no token of the first answer is left; DataCorrupt for a special token's name.
    """
    _refuse_special_tokens(tokenizer, conversation)
    parts = template.parts(conversation.messages)
    pieces = [tokenizer.encode(text, special_tokens=True) for text, _ in parts]
    if len(pieces[0]) > length:
        raise WindlassError(
            "ConfigInvalid",
            f"{conversation.place}: its prompt has {len(pieces[0])} tokens, and a sequence {length}: nothing of the "
            "answer is left; raise spec.data.sequenceLength where the model allows, or remove the record",
        )
    ends = [] if tokenizer.end_of_document in pieces[-1] else [tokenizer.end_of_document]
    tokens = np.concatenate([*pieces, ends]).astype(np.int64)
    learned = np.repeat([everything or is_answer for _, is_answer in parts], [len(piece) for piece in pieces])
    learned = np.append(learned, [True] * len(ends))
    labels = np.where(learned, tokens, IGNORED)[1 : length + 1]
    return Example(tokens[:-1][:length], labels), len(tokens) > length + 1


def prompt_tokens(tokenizer: Tokenizer, template: Template, prompt: str) -> list[int]:
    """What the model continues with an answer to the prompt."""
    text = template.text([("user", prompt)], add_generation_prompt=True)
    return [int(token) for token in tokenizer.encode(text, special_tokens=True)]


def _refuse_special_tokens(tokenizer: Tokenizer, conversation: Conversation) -> None:
    for role, content in conversation.messages:
        if len(tokenizer.encode(content)) != len(tokenizer.encode(content, special_tokens=True)):
            raise WindlassError(
                "DataCorrupt",
                f"{conversation.place}: a message of the {role} has the name of a special token in it, which would end "
                "the message; take it out",
            )
