"""Judgements: what they will cost, and how they are made, each paid once."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from windlass.evaluation.endpoint import Endpoint
from windlass.evaluation.journal import Journal, Record
from windlass.evaluation.judge import Asked

BYTES_PER_TOKEN = 4
"""Of text, roughly; for estimates only."""
_TEMPLATE_TOKENS = 300
"""What a request has beside the texts to judge, at most."""


@dataclass(frozen=True)
class Prices:
    """Dollars for a million tokens."""

    tokens_in: float
    tokens_out: float

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        """Dollars."""
        return (tokens_in * self.tokens_in + tokens_out * self.tokens_out) / 1e6


@dataclass(frozen=True)
class Estimate:
    """What judging will take at most, before a model has answered or a judge was asked."""

    requests: int
    kept: int
    """Judgements that are there already, and are not paid again."""
    tokens_in: int
    tokens_out: int
    dollars: float | None
    """None where no prices are known."""


def estimate(requests: Sequence[Sequence[int]], kept: int, max_tokens: int, prices: Prices | None) -> Estimate:
    """The cost of requests, each given by the tokens of its texts, with replies as long as they may be."""
    tokens_in = sum(_TEMPLATE_TOKENS + sum(texts) for texts in requests)
    tokens_out = len(requests) * max_tokens
    dollars = prices.cost(tokens_in, tokens_out) if prices else None
    return Estimate(len(requests), kept, tokens_in, tokens_out, dollars)


def tokens_of(text: str) -> int:
    """Tokens of a text, roughly: another tokenizer's are not known."""
    return -(-len(text.encode()) // BYTES_PER_TOKEN)


def kept_replies(records: Sequence[Record], max_tokens: int) -> dict[str, Record]:
    """The replies of a journal, by their key; one that was cut counts only where it may not be longer now."""
    return {
        record["key"]: record
        for record in records
        if "key" in record and (not record["is_cut"] or record["max_tokens"] >= max_tokens)
    }


async def ask_all(
    endpoint: Endpoint, asked: Sequence[Asked], journal: Journal, parallel: int, done: Callable[[int], None]
) -> Mapping[str, Record]:
    """The judge's reply to each request, by its key; those in the journal are not asked again, new ones are kept there.

    `done` is told how many replies there are. Errors as of `Endpoint.ask`; the replies until then are kept.
    """
    replies = kept_replies(journal.records, endpoint.max_tokens)
    missing = {key: one for one in asked if (key := one.key(endpoint.model)) not in replies}
    waiting = iter(missing.items())
    finished = len(asked) - len(missing)
    done(finished)

    async def work() -> None:
        nonlocal finished
        for key, one in waiting:  # shared: each takes the next
            reply = await endpoint.ask(one.messages)
            record = {
                "key": key,
                "question": one.question,
                "part": one.part,
                "judge": endpoint.model,
                "max_tokens": endpoint.max_tokens,
                "reply": reply.text,
                "is_cut": reply.is_cut,
                "tokens_in": reply.tokens_in,
                "tokens_out": reply.tokens_out,
            }
            journal.append(record)
            replies[key] = record
            finished += 1
            done(finished)

    async with endpoint:
        workers = [asyncio.create_task(work()) for _ in range(min(parallel, len(missing)))]
        try:
            await asyncio.gather(*workers)
        finally:  # the first error ends all of them
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
    return {one.key(endpoint.model): replies[one.key(endpoint.model)] for one in asked}
