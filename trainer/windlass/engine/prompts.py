"""Prompts as the model of a job reads them; nothing here needs torch."""

import logging
from collections.abc import Callable, Sequence
from functools import partial

from windlass.data.tokenizers import Tokenizer
from windlass.spec.job import JobSpec
from windlass.tasks.instruct import prompt_tokens
from windlass.tasks.templates import Template, find_template

logger = logging.getLogger(__name__)


def prompt_encoder(spec: JobSpec, tokenizer: Tokenizer) -> Callable[[str], list[int]]:
    """What a model of this job continues: a prompt's tokens; of one that follows instructions, in its template."""
    if template := template_of(spec, tokenizer):
        return partial(prompt_tokens, tokenizer, template)
    return lambda prompt: tokenizer.encode(prompt).tolist() or [tokenizer.end_of_document]


def warn_of_length(tokens: Sequence[int], context: int) -> None:
    """Say that a prompt is longer than what a model reads at once: it loses its start."""
    if len(tokens) > context:
        logger.warning(
            "The prompt has %d tokens, and the model's context %d: only its end is read; shorten it",
            len(tokens),
            context,
        )


def template_of(spec: JobSpec, tokenizer: Tokenizer) -> Template | None:
    """The template of a model that follows instructions; other tasks have none."""
    return find_template(spec.data.template, tokenizer) if spec.task in ("Instruct", "Preference") else None
