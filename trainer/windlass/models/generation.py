"""Generation: continue a prompt token by token.

A context that is full slides by half of its length at a time: the oldest half is dropped, and the rest is computed
anew as a sequence of its own, since keys and values in the cache know what was dropped (and, with learned positions,
where they stood). So each token sees between half a context and a whole one, the cost of a slide is shared by half a
context of tokens, and the cache never changes what is generated, only how fast.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

from windlass.errors import WindlassError
from windlass.models.decoder import Decoder, KeyValueCache, output_logits
from windlass.models.foreign import AnyModel


def generate(
    model: AnyModel,
    prompt_tokens: Sequence[int],
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    end_token: int | None = None,
    vocab_size: int | None = None,
    use_cache: bool = True,
) -> Iterator[int]:
    """Yield up to `max_new_tokens` tokens that follow the prompt; stop before `end_token`.

    Sampling is by a generator of its own with `seed`: torch's global one is not touched, and the same call gives the
    same tokens. The model is put in evaluation mode for each forward pass only.

    Args:
        temperature: divides the logits; 0 takes the likeliest token each time.
        top_k: sample from the k likeliest tokens (Fan et al. 2018).
        top_p: sample from the fewest tokens whose probabilities reach p (nucleus, Holtzman et al. 2020); after top_k.
        vocab_size: the tokenizer's; a model whose own is padded has logits beyond it, of tokens that are no text.

    Raises:
        WindlassError: ConfigInvalid, for an empty prompt, tokens outside the vocabulary or settings out of range.
    """
    _check(prompt_tokens, model.config.vocab_size, temperature, top_k, top_p)
    generator = torch.Generator().manual_seed(seed)

    def tokens_that_follow() -> Iterator[int]:
        tokens = list(prompt_tokens)
        reader = _Reader(model, use_cache)
        for _ in range(max_new_tokens):
            logits = reader.next_logits(tokens)[:vocab_size]
            token = sample(logits, generator, temperature=temperature, top_k=top_k, top_p=top_p)
            if token == end_token:
                return
            tokens.append(token)
            yield token

    return tokens_that_follow()


@torch.no_grad()
def continue_together(
    model: AnyModel,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    finished: Callable[[int, list[int]], bool],
    vocab_size: int | None = None,
) -> list[list[int]]:
    """The likeliest tokens after each prompt, one pass for all of them: what `generate` gives with temperature 0.

    Args:
        finished: of a prompt's number and what follows it so far, whether that is enough.
        vocab_size: as in `generate`.

    Raises ValueError: the longest prompt leaves no room for `max_new_tokens` in the model's context.
    """
    if isinstance(model, Decoder):
        next_logits = _with_cache(model, prompts, max_new_tokens)
    else:
        next_logits = partial(_without_cache, model, prompts)
    written: list[list[int]] = [[] for _ in prompts]
    found: list[list[int]] = [[] for _ in prompts]
    growing = set(range(len(prompts)))
    for _ in range(max_new_tokens):
        with uncompiled():
            logits = next_logits(written)[:, :vocab_size]
        for row, token in enumerate(logits.argmax(dim=-1).tolist()):
            written[row].append(token)
            if row in growing:
                found[row].append(token)
                if finished(row, found[row]):
                    growing.remove(row)
        if not growing:
            break
    return found


def _with_cache(model: Decoder, prompts: Sequence[Sequence[int]], most: int) -> Callable[[list[list[int]]], Tensor]:
    """Logits [prompts, vocabulary] of what follows what is `written` so far: a token more with each of `most` calls."""
    longest, device = max(map(len, prompts)), model.token_embedding.weight.device
    inputs = torch.zeros(len(prompts), longest, dtype=torch.long)
    # What fills up shorter prompts is to their left, a document of its own: no token of a prompt sees it.
    documents = torch.ones(len(prompts), longest + most, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        inputs[row, longest - len(prompt) :] = torch.tensor(prompt)
        documents[row, : longest - len(prompt)] = 0
    documents = documents.to(device)
    cache = KeyValueCache(longest + most)

    def next_logits(written: list[list[int]]) -> Tensor:
        unread = torch.tensor([tokens[-1:] for tokens in written]) if written[0] else inputs
        until = longest + len(written[0])
        logits: Tensor = model(unread.to(device), documents=documents[:, :until], cache=cache, last_only=True)
        return logits[:, -1]

    return next_logits


def _without_cache(model: AnyModel, prompts: Sequence[Sequence[int]], written: list[list[int]]) -> Tensor:
    """As of `_with_cache`, reading all anew: what fills up shorter texts is to their right, where nothing sees it."""
    texts = [[*prompt, *tokens] for prompt, tokens in zip(prompts, written, strict=True)]
    inputs = torch.zeros(len(texts), max(map(len, texts)), dtype=torch.long)
    for row, text in enumerate(texts):
        inputs[row, : len(text)] = torch.tensor(text)
    rows, ends = torch.arange(len(texts)), torch.tensor([len(text) - 1 for text in texts])

    def at_ends(hidden: Tensor, weight: Tensor | None, bias: Tensor | None, softcap: float) -> Tensor:
        return output_logits(hidden[rows, ends], weight, bias, softcap)

    logits: Tensor = model(inputs.to(next(model.parameters()).device), head=at_ends)
    return logits


def sample(
    logits: Tensor,
    generator: torch.Generator,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> int:
    """Draw a token from logits [vocabulary], on the CPU in float32; the settings are those of `generate`."""
    logits = logits.to("cpu", torch.float32)
    if temperature == 0:
        return int(logits.argmax())
    logits, tokens = logits.sort(descending=True, stable=True)
    probabilities = torch.softmax((logits[:top_k] - logits[0]) / temperature, dim=0)  # 0 at most: no overflow
    if top_p is not None:
        before = probabilities.cumsum(0) - probabilities  # of the likelier tokens; below p, this one is needed too
        probabilities = probabilities[before < top_p]
    return int(tokens[torch.multinomial(probabilities, 1, generator=generator)])


def window_start(length: int, context_length: int) -> int:
    """Index of the first of `length` tokens that is still seen: it slides by half a context when one is full."""
    stride = max(1, context_length // 2)
    return -(-max(0, length - context_length) // stride) * stride


class _Reader:
    """Reads a growing text, each token once where a cache allows it."""

    def __init__(self, model: AnyModel, use_cache: bool) -> None:
        self.model = model
        self.use_cache = use_cache and isinstance(model, Decoder)
        self.cache: KeyValueCache | None = None
        self.start = 0

    @torch.no_grad()  # not inference_mode: the tensors that FSDP gathers in it could not be trained on afterwards
    def next_logits(self, tokens: Sequence[int]) -> Tensor:
        """Logits [vocabulary] of the token after `tokens`, which start with those of the call before."""
        context_length = self.model.config.context_length
        start = window_start(len(tokens), context_length)
        if self.use_cache and (self.cache is None or start != self.start):
            self.cache, self.start = KeyValueCache(context_length), start
        unread = tokens[start + (self.cache.length if self.cache else 0) :]
        was_training = self.model.training
        self.model.eval()
        try:
            inputs = torch.tensor([unread], device=next(self.model.parameters()).device)
            with uncompiled():
                logits: Tensor = self.model(inputs, cache=self.cache, last_only=True)[0, -1]
        finally:
            self.model.train(was_training)
        return logits


def uncompiled() -> AbstractContextManager[Any]:
    """Run compiled blocks as they are written: each new length would compile them again."""
    if "torch._dynamo" not in sys.modules:  # then nothing is compiled, and loading it takes a second
        return nullcontext()
    eager: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return eager


def _check(
    prompt_tokens: Sequence[int], vocab_size: int, temperature: float, top_k: int | None, top_p: float | None
) -> None:
    problems = [
        (len(prompt_tokens) == 0, "the prompt is empty; give at least one token, such as the end of a document"),
        (temperature < 0, f"temperature is {temperature}; it is 0 (the likeliest token) or more"),
        (top_k is not None and top_k < 1, f"top_k is {top_k}; it is at least 1"),
        (top_p is not None and not 0 < top_p <= 1, f"top_p is {top_p}; it is above 0 and at most 1"),
        (
            any(not 0 <= token < vocab_size for token in prompt_tokens),
            f"the prompt has tokens outside the model's vocabulary of {vocab_size}; is it another tokenizer's?",
        ),
    ]
    for is_wrong, message in problems:
        if is_wrong:
            raise WindlassError("ConfigInvalid", message)
