"""Templates of conversations: messages to text, the one that transformers' `apply_chat_template` makes."""

import json
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from windlass.data.tokenizers import Tokenizer
from windlass.errors import WindlassError
from windlass.spec.job import TEMPLATES

ALPACA = """\
{{- bos_token if bos_token != eos_token -}}
{%- if messages[0].role == 'system' -%}
    {{- messages[0].content -}}
{%- else -%}
    {{- 'Below is an instruction that describes a task. Write a response that appropriately completes the request.' -}}
{%- endif -%}
{%- for message in messages if message.role != 'system' -%}
    {%- if message.role == 'user' -%}
        {{- '\\n\\n### Instruction:\\n' + message.content -}}
    {%- else -%}
        {{- '\\n\\n### Response:\\n' + message.content + eos_token -}}
    {%- endif -%}
{%- endfor -%}
{{- '\\n\\n### Response:\\n' if add_generation_prompt -}}
"""
"""Taori et al. 2023, Stanford Alpaca."""
CHATML = """\
{%- for message in messages -%}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{{- '<|im_start|>assistant\\n' if add_generation_prompt -}}
"""
LLAMA3 = """\
{{- '<|begin_of_text|>' -}}
{%- for message in messages -%}
    {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content | trim + '<|eot_id|>' -}}
{%- endfor -%}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' if add_generation_prompt -}}
"""
BUILT_IN = dict(zip(TEMPLATES, (ALPACA, CHATML, LLAMA3), strict=True))
_GENERATION = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")  # transformers' own tags, which print nothing


class Template:
    """A Jinja template with the names of a tokenizer's special tokens."""

    def __init__(self, source: str, tokenizer: Tokenizer) -> None:
        """Raises ConfigInvalid for a template with a mistake."""
        self.source = source
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = lambda value, **how: json.dumps(value, ensure_ascii=False, **how)
        environment.globals |= {
            "raise_exception": _refuse,
            "strftime_now": lambda form: datetime.now().astimezone().strftime(form),
        }
        self._variables = _special_tokens(tokenizer)
        try:
            self._template = environment.from_string(_GENERATION.sub("", source))
        except TemplateError as error:
            raise WindlassError("ConfigInvalid", f"spec.data.template: {error}") from error

    def text(self, messages: Sequence[tuple[str, str]], *, add_generation_prompt: bool) -> str:
        """The messages as text; with what an answer begins after, where that is wanted."""
        named = [{"role": role, "content": content} for role, content in messages]
        try:
            return self._template.render(messages=named, add_generation_prompt=add_generation_prompt, **self._variables)
        except TemplateError as error:
            raise WindlassError("ConfigInvalid", f"spec.data.template does not take these messages: {error}") from error

    def parts(self, messages: Sequence[tuple[str, str]]) -> list[tuple[str, bool]]:
        """The conversation up to its last answer, in pieces: the text, and whether it is an answer with its end.

        Raises ConfigInvalid for a template whose answers cannot be told: what it makes of a conversation has to begin
        with what it makes of the first messages of it.
        """
        found: list[tuple[str, bool]] = []
        done = ""
        for number, (role, _) in enumerate(messages):
            if role != "assistant":
                continue
            asked = self.text(messages[:number], add_generation_prompt=True)
            answered = self.text(messages[: number + 1], add_generation_prompt=False)
            if not asked.startswith(done) or not answered.startswith(asked):
                raise WindlassError(
                    "ConfigInvalid",
                    "spec.data.template: answers cannot be told from the rest, since it writes what comes before an "
                    f"answer in another way once that is given; name {', '.join(BUILT_IN)}",
                )
            found += [(asked[len(done) :], False), (answered[len(asked) :], True)]
            done = answered
        return found


def find_template(asked: str | None, tokenizer: Tokenizer) -> Template:
    """The template that a job asks for: a name of BUILT_IN, `Tokenizer`, a Jinja string, or None for the tokenizer's.

    Raises ConfigInvalid where the tokenizer has none.
    """
    if asked in BUILT_IN:
        return Template(BUILT_IN[asked], tokenizer)
    if asked not in (None, "Tokenizer"):
        return Template(asked, tokenizer)
    own = own_template(tokenizer)
    if own is None:
        raise WindlassError(
            "ConfigInvalid",
            f"spec.data.template: tokenizer {tokenizer.name} has none of its own; name {', '.join(BUILT_IN)}, or "
            "give a Jinja string",
        )
    return own


def own_template(tokenizer: Tokenizer) -> Template | None:
    """The template that a tokenizer's files have; None where they have none."""
    files = getattr(tokenizer, "files", {})
    source = files.get("chat_template.jinja", b"").decode() or _config(tokenizer).get("chat_template")
    if isinstance(source, list):  # several, by name
        source = {one["name"]: one["template"] for one in source}.get("default")
    return Template(source, tokenizer) if source else None


def _config(tokenizer: Tokenizer) -> dict[str, Any]:
    files = getattr(tokenizer, "files", {})
    return dict(json.loads(files.get("tokenizer_config.json", b"{}")))


def _special_tokens(tokenizer: Tokenizer) -> dict[str, str]:
    """bos_token, eos_token and what else the tokenizer's files name so."""
    end = tokenizer.decode([tokenizer.end_of_document])
    named = {name: value for name, value in _config(tokenizer).items() if name.endswith("_token")}
    texts = {name: value["content"] if isinstance(value, dict) else value for name, value in named.items()}
    return {"bos_token": end, "eos_token": end} | {name: text for name, text in texts.items() if isinstance(text, str)}


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)
