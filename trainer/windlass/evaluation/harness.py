"""A language model as lm_eval asks for one: its tasks run on our models as they are, without an export.

Texts become tokens as in lm_eval's own backend for transformers, with the same files: names of special tokens are these
tokens, and where tokenizer.json puts a token before each text, so does this.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from tqdm import tqdm

from windlass.data.tokenizers import HuggingFaceTokenizer, Tokenizer
from windlass.evaluation.likelihood import pieces, score
from windlass.models.foreign import AnyModel
from windlass.models.generation import continue_together

Answer = TypeVar("Answer")
Question = TypeVar("Question")

MOST_GENERATED = 256
"""Tokens of an answer, where its task names no number: lm_eval's default."""
BATCHES = 64
"""Batches that are sorted by length together."""


@dataclass(frozen=True)
class Share:
    """One of several processes that have the same model, and answer a part of the same questions each."""

    rank: int = 0
    of: int = 1
    gather: Callable[[Any], list[Any]] = lambda value: [value]
    """Every process's value, in the order of ranks; all call it together."""

    def answer(self, questions: Sequence[Question], of: Callable[[Sequence[Question]], list[Answer]]) -> list[Answer]:
        """The answers to all questions, of which this process works out its part: neighbours, who share passes."""
        first, last = (len(questions) * rank // self.of for rank in (self.rank, self.rank + 1))
        return [answer for part in self.gather(of(questions[first:last])) for answer in part]


class DecoderLM(TemplateLM):  # type: ignore[misc] # lm_eval has no types
    """Answers lm_eval's three questions: log-likelihoods of continuations, of whole texts, and generated text."""

    def __init__(
        self,
        model: AnyModel,
        tokenizer: Tokenizer,
        batch_size: int,
        share: Share | None = None,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        """Ask `model`, which stays on its device, with up to `batch_size` texts at once.

        With `share`, every process asks the same, and gets all answers. `alive` is called while they are worked out.
        """
        super().__init__()
        self.model = model
        self.texts = tokenizer
        self.batch_size = batch_size
        self.max_length = model.config.context_length
        self._share = share or Share()
        self._alive = alive
        self._prefix = _prefix(tokenizer)
        self._quiet = True if self._share.rank else None  # None: where nobody watches

    @property
    def eot_token_id(self) -> int:
        """The token after each document."""
        return self.texts.end_of_document

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that nothing is before."""
        return self._prefix

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Tokens of a text; with the one that its tokenizer puts before each, unless it is there or not wanted."""
        if not isinstance(self.texts, HuggingFaceTokenizer):
            return [int(token) for token in self.texts.encode(string, special_tokens=True)]
        if add_special_tokens is None:
            add_special_tokens = not string.startswith(self.texts.decode([self._prefix]))
        self.texts.tokenizer.encode_special_tokens = False
        return list(self.texts.tokenizer.encode(string, add_special_tokens=add_special_tokens).ids)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Of each (context, continuation), its log-likelihood in nats, and whether greedy decoding gives it."""
        answers: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        return answers

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        return self._share.answer(requests, self._likelihoods)

    def _likelihoods(self, requests: Sequence[tuple[Any, list[int], list[int]]]) -> list[tuple[float, bool]]:
        order = sorted(range(len(requests)), key=lambda at: len(requests[at][1]) + len(requests[at][2]), reverse=True)
        answers: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        with tqdm(total=len(requests), desc="Scoring", unit="answer", disable=self._quiet, leave=False) as bar:
            for start in range(0, len(order), BATCHES * self.batch_size):
                part = order[start : start + BATCHES * self.batch_size]
                found = score(self.model, [(requests[at][1], requests[at][2]) for at in part], self.batch_size)
                for at, answer in zip(part, found, strict=True):
                    answers[at] = answer
                bar.update(len(part))
                self._alive()
        return answers

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """Of each text, its log-likelihood in nats, in windows of the model's context."""
        return self._share.answer(requests, self._rolling)

    def _rolling(self, requests: Sequence[Instance]) -> list[float]:
        texts = [self.tok_encode(request.args[0]) for request in requests]
        windows = [
            (owner, window)
            for owner, tokens in enumerate(texts)
            for window in pieces([self._prefix], tokens, self.max_length)
        ]
        totals = [0.0] * len(requests)
        found = score(self.model, [window for _, window in windows], self.batch_size)
        for (owner, _), (likelihood, _) in zip(windows, found, strict=True):
            totals[owner] += likelihood
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Of each (context, settings), the text that follows up to a stop sequence.

        A context that leaves no room for an answer loses its start. An answer has `MOST_GENERATED` tokens or as many as
        its task says, and at most half of the model's context.
        """
        return self._share.answer(requests, self._generated)

    def _generated(self, requests: Sequence[Instance]) -> list[str]:
        answers = [""] * len(requests)
        alike: dict[tuple[int, tuple[str, ...]], list[tuple[int, list[int]]]] = {}
        for at, request in enumerate(requests):
            context, settings = request.args
            most, stops = self._limits(settings)
            alike.setdefault((most, stops), []).append((at, self.tok_encode(context)[-(self.max_length - most) :]))
        with tqdm(total=len(requests), desc="Generating", unit="answer", disable=self._quiet, leave=False) as bar:
            for (most, stops), prompts in alike.items():
                prompts.sort(key=lambda prompt: len(prompt[1]), reverse=True)
                for start in range(0, len(prompts), self.batch_size):
                    batch = prompts[start : start + self.batch_size]
                    texts = self._continue([tokens for _, tokens in batch], most, stops)
                    for (at, _), text in zip(batch, texts, strict=True):
                        answers[at] = text
                    bar.update(len(batch))
                    self._alive()
        return answers

    def _limits(self, settings: dict[str, Any]) -> tuple[int, tuple[str, ...]]:
        """Tokens of an answer at most, and what ends it."""
        settings = normalize_gen_kwargs(settings, MOST_GENERATED)
        if settings["do_sample"]:
            raise ValueError("a task asks for sampled answers; those of the suites are greedy")
        stops = handle_stop_sequences(settings.get("until"), eos=self.texts.decode([self.eot_token_id]))
        return min(settings["max_gen_toks"], self.max_length // 2), tuple(filter(None, stops))

    def _continue(self, prompts: list[list[int]], most: int, stops: Sequence[str]) -> list[str]:
        def finished(_: int, tokens: list[int]) -> bool:
            return tokens[-1] == self.eot_token_id or any(stop in self._decode(tokens) for stop in stops)

        found = continue_together(self.model, prompts, most, finished=finished, vocab_size=self.texts.vocab_size)
        return [str(postprocess_generated_text(self._decode(tokens), list(stops), None)) for tokens in found]

    def _decode(self, tokens: list[int]) -> str:
        if isinstance(self.texts, HuggingFaceTokenizer):
            return str(self.texts.tokenizer.decode(tokens, skip_special_tokens=True))
        return self.texts.decode(tokens)


def _prefix(tokenizer: Tokenizer) -> int:
    """The token that begins texts, where tokenizer_config.json names one; else the one that ends documents."""
    if isinstance(tokenizer, HuggingFaceTokenizer):
        named = json.loads(tokenizer.files.get("tokenizer_config.json", b"{}")).get("bos_token")
        token = tokenizer.tokenizer.token_to_id((named["content"] if isinstance(named, dict) else named) or "")
        if token is not None:
            return int(token)
    return tokenizer.end_of_document
