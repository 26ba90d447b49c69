"""Every family of architectures against transformers: the same numbers, the speed of training and its memory.

    python benchmarks/model_parity.py                    # all families, on the CPU
    python benchmarks/model_parity.py qwen3 gemma2       # some of them

For each family transformers makes a small random model and saves it, and Windlass reads it. Then both compute the same
logits, continue the same prompt greedily, and take the same 20 optimizer steps in float32. Speed is that of further
steps, turn by turn in one process, so that both see the machine's good and bad moments: the number is the median of
the turns' ratios. Memory is what autograd keeps for the backward pass of one batch, the weights left out.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F

from windlass.models.families import write_config
from windlass.models.generation import generate
from windlass.models.huggingface import load_model
from windlass.spec.presets import PRESETS, ModelConfig

PRESET_OF = {
    "gpt2": "gpt2-small",
    "llama": "llama3.1-8b",
    "mistral": "mistral-7b",
    "qwen2": "qwen2.5-7b",
    "qwen3": "qwen3-8b",
    "phi": "phi-2",
    "phi3": "phi-3-mini",
    "gemma": "gemma-2b",
    "gemma2": "gemma2-9b",
    "gemma3": "gemma3-4b",
}
SIZE = {
    "layers": 4,
    "heads": 4,
    "hidden_size": 256,
    "intermediate_size": 768,
    "context_length": 128,
    "vocab_size": 4096,
}
AUTO_MODEL: Any = transformers.AutoModelForCausalLM  # its types are too narrow
BATCH, STEPS, PROMPT, GENERATED = 4, 20, 16, 64
Forward = Callable[[torch.Tensor], torch.Tensor]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("families", nargs="*", default=[], metavar="FAMILY", help=", ".join(PRESET_OF))
    options.add_argument("--turns", type=int, default=21, help="of each; the first does not count")
    chosen = options.parse_args()
    logging: Any = transformers.logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    print("| family | logits | loss | greedy | tokens/s | of theirs | MiB kept | of theirs |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for family in chosen.families or PRESET_OF:
        with tempfile.TemporaryDirectory() as folder:
            print(row(family, Path(folder), chosen.turns), flush=True)


def small(family: str) -> ModelConfig:
    """The family's architecture in a size for CPUs, with a window of a quarter of the context where it has one."""
    config = PRESETS[PRESET_OF[family]].config
    changes: dict[str, Any] = {"kv_heads": max(1, 4 * config.kv_heads // config.heads)}
    changes |= {"head_size": 64 if config.head_size is None else 96}
    changes |= {"rotary_fraction": 0.5} if config.rotary_fraction < 1 else {}
    changes |= {"sliding_window": 32} if config.sliding_window else {}
    changes |= {"global_attention_every": 2} if config.global_attention_every else {}
    if config.rope_scaling and config.rope_scaling.original_context_length:
        changes["rope_scaling"] = config.rope_scaling.model_copy(update={"original_context_length": 16})
    return config.model_copy(update=SIZE | changes)


def row(family: str, folder: Path, turns: int) -> str:
    values = write_config(small(family), end_token=0)
    torch.manual_seed(0)
    theirs: Any = AUTO_MODEL.from_config(transformers.AutoConfig.for_model(**values))
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.02)
    theirs.save_pretrained(folder)
    ours = load_model(folder)
    forwards: list[Forward] = [ours, lambda tokens: theirs(tokens, use_cache=False).logits]

    generator = torch.Generator().manual_seed(1)
    length = SIZE["context_length"]
    batches = torch.randint(SIZE["vocab_size"], (STEPS, BATCH, length + 1), generator=generator)
    with torch.no_grad():
        logits = [forward(batches[0, :, :-1]) for forward in forwards]
    prompt = batches[0, 0, :PROMPT]
    expected = theirs.generate(prompt[None], max_new_tokens=GENERATED, do_sample=False, eos_token_id=None)
    same_text = list(generate(ours, prompt.tolist(), GENERATED, temperature=0)) == expected[0, PROMPT:].tolist()
    kept = [kept_bytes(model, forward, batches[0]) for model, forward in zip((ours, theirs), forwards, strict=True)]

    steps = [stepper(model.train(), forward) for model, forward in zip((ours, theirs), forwards, strict=True)]
    losses = torch.tensor([[step(batch) for batch in batches] for step in steps])
    speeds = [[turn(step, batches[:2]) for step in steps] for _ in range(turns)][1:]
    ratio = statistics.median(our_speed / their_speed for our_speed, their_speed in speeds)
    return (
        f"| {family} | {(logits[0] - logits[1]).abs().max():.1e} | {(losses[0] - losses[1]).abs().max():.1e} "
        f"| {'equal' if same_text else 'DIFFERENT'} | {statistics.median(ours for ours, _ in speeds):,.0f} "
        f"| {ratio:.2f} | {kept[0] / 2**20:.1f} | {kept[0] / kept[1]:.2f} |"
    )


def stepper(model: torch.nn.Module, forward: Forward) -> Callable[[torch.Tensor], float]:
    """One optimizer step on a batch [sequences, length + 1]; returns its loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.0, fused=True)

    def step(batch: torch.Tensor) -> float:
        loss = F.cross_entropy(forward(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def turn(step: Callable[[torch.Tensor], float], batches: torch.Tensor) -> float:
    """Tokens per second."""
    start = time.perf_counter()
    for batch in batches:
        step(batch)
    return batches[:, :, 1:].numel() / (time.perf_counter() - start)


def kept_bytes(model: torch.nn.Module, forward: Forward, batch: torch.Tensor) -> int:
    """Memory that autograd keeps of a forward pass."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        forward(batch[:, :-1])
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


if __name__ == "__main__":
    main()
