"""Conversations as tokens: the template's text, the answers as labels, and what is cut of them."""

from pathlib import Path
from typing import Any

import pytest

from windlass.data.buckets import Example
from windlass.data.conversations import Conversation
from windlass.data.stream import IGNORED
from windlass.data.tokenizers import BytesTokenizer, load_tokenizer
from windlass.errors import WindlassError
from windlass.tasks.instruct import encode, prompt_tokens
from windlass.tasks.templates import BUILT_IN, Template, find_template

TURNS = (("system", "Be short."), ("user", "1 + 1?"), ("assistant", "2"), ("user", "And 2 + 2?"), ("assistant", "4"))
BYTES = BytesTokenizer()


def example(length: int = 1000, *, template: str = "ChatML", turns: Any = TURNS, everything: bool = False) -> Example:
    conversation = Conversation(turns, "a.jsonl:1")
    return encode(BYTES, find_template(template, BYTES), conversation, length, everything=everything)[0]


def text(tokens: Any) -> str:
    return BYTES.decode([token for token in tokens.tolist() if token != IGNORED])


@pytest.mark.parametrize("name", BUILT_IN)
def test_templates_give_the_text_that_transformers_makes_of_them(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    BYTES.save(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(BUILT_IN[name])
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    messages = [{"role": role, "content": content} for role, content in TURNS]
    for count, asks in ((5, False), (4, True), (2, True)):
        text = Template(BUILT_IN[name], BYTES).text(TURNS[:count], add_generation_prompt=asks)
        assert text == theirs.apply_chat_template(messages[:count], tokenize=False, add_generation_prompt=asks)
    # The tokenizer's own is found in its files, and is the same one.
    ours = load_tokenizer(str(tmp_path))
    assert find_template(name, ours).text(TURNS, add_generation_prompt=True) == theirs.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )


def test_the_texts_of_templates_are_the_published_ones() -> None:
    alpaca = find_template("Alpaca", BYTES).text(TURNS[1:3], add_generation_prompt=False)
    assert alpaca == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\n1 + 1?\n\n### Response:\n2<|endoftext|>"
    )
    chatml = find_template("ChatML", BYTES).text(TURNS[:2], add_generation_prompt=True)
    assert chatml == (
        "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\n1 + 1?<|im_end|>\n<|im_start|>assistant\n"
    )
    llama3 = find_template("Llama3", BYTES).text(TURNS[1:3], add_generation_prompt=False)
    assert llama3 == (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n1 + 1?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n2<|eot_id|>"
    )


def test_labels_are_the_answers_of_all_turns_and_their_ends() -> None:
    found = example()
    assert text(found.labels) == "2<|im_end|>\n4<|im_end|>\n<|endoftext|>"
    learned = found.labels != IGNORED
    assert (found.labels[:-1][learned[:-1]] == found.inputs[1:][learned[:-1]]).all()
    assert text(example(everything=True).labels) == text(found.inputs)[1:] + "<|endoftext|>"
    # A template that ends answers with the token that ends documents gets no second one.
    assert text(example(template="Alpaca").labels) == "2<|endoftext|>4<|endoftext|>"
    # What follows the last answer is not learned, and not read.
    assert example(turns=(*TURNS, ("user", "Thanks"))).inputs.tolist() == found.inputs.tolist()


def test_a_prompt_is_what_comes_before_an_answer() -> None:
    template = find_template("Alpaca", BYTES)
    prompt = prompt_tokens(BYTES, template, "1 + 1?")
    assert example(template="Alpaca", turns=TURNS[1:3]).inputs.tolist()[: len(prompt)] == prompt


def test_what_is_too_long_is_cut_but_never_all_of_the_answer() -> None:
    turns = (("user", "q" * 10), ("assistant", "a" * 50))
    prompt = len(prompt_tokens(BYTES, find_template("Alpaca", BYTES), "q" * 10))
    conversation = Conversation(turns, "a.jsonl:7")
    for length, answer in ((prompt, "a"), (prompt + 9, "a" * 10), (prompt + 49, "a" * 50)):
        found, cut = encode(BYTES, find_template("Alpaca", BYTES), conversation, length, everything=False)
        assert (len(found.inputs), text(found.labels), cut) == (length, answer, True)
    found, cut = encode(BYTES, find_template("Alpaca", BYTES), conversation, prompt + 50, everything=False)
    assert (text(found.labels), cut) == ("a" * 50 + "<|endoftext|>", False)
    with pytest.raises(
        WindlassError, match=rf"a\.jsonl:7: its prompt has {prompt} tokens, and a sequence {prompt - 1}"
    ):
        encode(BYTES, find_template("Alpaca", BYTES), conversation, prompt - 1, everything=False)


def test_names_of_special_tokens_in_messages_are_refused() -> None:
    with pytest.raises(WindlassError, match=r"a\.jsonl:1: a message of the user has the name of a special token"):
        example(turns=(("user", "stop <|endoftext|> here"), ("assistant", "a")))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ messages", "spec.data.template: "),
        ("{{ raise_exception('only users') }}", "does not take these messages: only users"),
        ("{% for message in messages %}{{ loop.last }}{{ message.content }}{% endfor %}", "answers cannot be told"),
        (None, "tokenizer bytes has none of its own; name Alpaca, ChatML, Llama3"),
    ],
)
def test_templates_that_cannot_be_used_are_refused(template: str | None, message: str) -> None:
    with pytest.raises(WindlassError, match=message):
        find_template(template, BYTES).parts(TURNS)
