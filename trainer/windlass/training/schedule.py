"""The learning rate of every step, as a pure function: nothing to save, and nothing that shifts on resume."""

import math

from windlass.spec.job import Schedule


def learning_rate(schedule: Schedule, peak: float, step: int, total_steps: int) -> float:
    """Learning rate of step `step` (from 1) of `total_steps`.

    Warmup is linear from peak / warmupSteps. Cosine follows Loshchilov and Hutter 2017 (SGDR), without restarts; WSD
    (warmup, stable, decay) follows Hu et al. 2024 (MiniCPM), with a linear decay. The decay ends at finalRatio * peak
    on the last step.
    """
    if step <= schedule.warmup_steps:
        return peak * step / schedule.warmup_steps
    final = peak * schedule.final_ratio
    match schedule.name:
        case "Constant":
            return peak
        case "Cosine":
            progress = _progress(step, schedule.warmup_steps, total_steps)
            return final + (peak - final) * 0.5 * (1 + math.cos(math.pi * progress))
        case "Linear":
            return peak + (final - peak) * _progress(step, schedule.warmup_steps, total_steps)
        case "WSD":
            decay_start = max(schedule.warmup_steps, round(total_steps * (1 - schedule.decay_fraction)))
            return peak + (final - peak) * _progress(step, decay_start, total_steps)


def _progress(step: int, start: int, end: int) -> float:
    """Share of the way from step `start` to step `end`, from 0 to 1."""
    return min(1.0, max(0.0, (step - start) / max(1, end - start)))
