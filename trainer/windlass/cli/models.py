"""`windlass models`: the presets, and what training each of them takes."""

from windlass.cli.show import count, table
from windlass.planning.choices import STATE_BYTES
from windlass.planning.compute import count_parameters, flops_per_token
from windlass.planning.plan import in_units
from windlass.spec.presets import PRESETS

HEADER = ("NAME", "PARAMETERS", "STATE", "FLOPS/TOKEN", "CONTEXT", "TOKENIZER", "SOURCE")


def lines() -> list[str]:
    """A table of the presets, with their own vocabularies.

    State is weights, gradients and AdamW's moments in float32; FLOPs are those of training, at the whole context.
    """
    return table(HEADER, [_row(name) for name in PRESETS])


def _row(name: str) -> list[str]:
    preset = PRESETS[name]
    config, parameters = preset.config, count_parameters(preset.config)
    return [
        name,
        count(parameters),
        in_units(STATE_BYTES * parameters),
        count(flops_per_token(config, config.context_length)),
        f"{config.context_length:,}",
        preset.tokenizer,
        preset.source,
    ]
