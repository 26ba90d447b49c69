"""The plan of a run: what will be trained, how it is shared out, what memory it needs and how much it computes."""

from dataclasses import dataclass

from windlass.planning.batching import Batching, batching, total_steps
from windlass.planning.choices import Device, Precision, Strategy, resolve_precision, resolve_strategy
from windlass.planning.compute import count_parameters, flops_per_token
from windlass.planning.memory import Memory, estimate_memory
from windlass.spec.job import LLMTrainingJob
from windlass.spec.presets import ModelConfig
from windlass.storage import shown

MEMORY_SHARE = 0.8
"""Share of a device's memory that the estimate may take: the rest is the framework's, and for fragments."""
CPU_MICRO_BATCH_TOKENS = 16384
"""Tokens of a micro-batch beyond which a CPU gains no speed: gpt2-tiny is fastest here, gpt2-small earlier."""
CHECKPOINT_BYTES = 12
"""Bytes a parameter takes in a checkpoint: itself and AdamW's two moments, in float32."""


@dataclass(frozen=True)
class Plan:
    """What a run will be. Memory is that of one rank, in bytes; `steps` is None until the corpus tells."""

    model: str
    """Its preset, or what it starts from."""
    parameters: int
    trained: int
    """Of the parameters; the rest stays as it is."""
    quantised: int
    """Of the rest, those that are kept in 4 bits."""
    sequence_length: int
    device: Device
    strategy: Strategy
    strategy_reason: str
    precision: Precision
    precision_reason: str
    batching: Batching
    batching_reason: str
    memory: Memory
    device_memory: int
    tokens_per_step: int
    steps: int | None
    total_tokens: int | None
    epochs: float | None
    flops_per_token: float
    checkpoint_bytes: int

    @property
    def fits(self) -> bool:
        """Whether the estimate stays within its share of a rank's memory."""
        return self.memory.total <= MEMORY_SHARE * self.device_memory

    def lines(self) -> list[str]:
        """The plan for people, a line for each thing."""
        ranks, memory = self.batching.world_size, self.memory
        rows = {
            "Model": f"{self.model}, {self.parameters:,} parameters",
            "Trained": f"{self.trained:,} parameters, {self.trained / self.parameters:.2%}"
            + (f"; {self.quantised:,} others in NF4" if self.quantised else ""),
            "Ranks": f"{ranks} on {self.device}, {self.strategy}: {self.strategy_reason}",
            "Precision": f"{self.precision}: {self.precision_reason}",
            "Step": f"{self.tokens_per_step:,} tokens: {ranks} ranks x {self.batching.accumulation} micro-batches x "
            f"{self.batching.micro_batch_size} sequences x {self.sequence_length} tokens",
            "Micro-batch": f"{self.batching.micro_batch_size}: {self.batching_reason}",
            "Length": self._length(),
            "Memory": f"about {in_units(memory.total)} of {in_units(self.device_memory)} a rank: "
            f"weights {in_units(memory.weights)}, gradients {in_units(memory.gradients)}, "
            f"optimizer {in_units(memory.optimizer)}, activations {in_units(memory.activations)}"
            + ("" if self.fits else "; it may not fit"),
            "Compute": f"{self.flops_per_token / 1e9:.3g} GFLOPs a token",
            "Checkpoint": f"{in_units(self.checkpoint_bytes)} each",
        }
        return [f"{name:<12} {text}" for name, text in rows.items()]

    def _length(self) -> str:
        if self.steps is None:
            return "as many steps as the corpus gives, once it is prepared"
        passes = "" if self.epochs is None else f", {self.epochs:,.2f} times the data"
        tokens = "" if self.total_tokens is None else f", {self.total_tokens:,} tokens"
        return f"{self.steps:,} steps{tokens}{passes}"


def make_plan(
    job: LLMTrainingJob,
    config: ModelConfig,
    *,
    world_size: int,
    device: Device,
    device_memory: int,
    train_tokens: int | None,
    compute_capability: tuple[int, int] | None = None,
    counts: tuple[int, int, int] | None = None,
) -> Plan:
    """Plan a job for `world_size` ranks.

    Args:
        config: the model's architecture.
        device_memory: bytes of one rank's GPU; on a CPU, the machine's memory (all of it, not what is free: the
            micro-batch, and with it the last bits of a loss, must not depend on the moment) divided by its ranks.
        train_tokens: tokens of the training split, None before it is prepared.
        compute_capability: the GPU's, where it is known.
        counts: all parameters, those that are trained and those that are quantised, where these are not the
            architecture's.

    Raises:
        WindlassError: ConfigInvalid, for a batch that cannot be shared or a choice that the hardware refuses.
    """
    training = job.spec.training
    sequence_length = job.spec.data.sequence_length or config.context_length
    parameters, trained, quantised = counts or (count_parameters(config), count_parameters(config), 0)
    own = None if config.theirs is None and config.custom is None else parameters
    strategy, strategy_reason = resolve_strategy(
        training.parallelism.strategy,
        world_size=world_size,
        device=device,
        device_memory=device_memory,
        parameters=parameters,
        quantised=quantised,
    )
    precision, precision_reason = resolve_precision(
        training.precision, device=device, compute_capability=compute_capability
    )

    # HSDP shards over the GPUs of a machine.
    shards = {"FSDP": world_size, "HSDP": job.spec.workers.gpus_per_worker or world_size}.get(strategy, 1)

    def memory_with(micro_batch_size: int) -> Memory:
        return estimate_memory(
            config,
            device=device,
            shards=shards,
            precision=precision,
            micro_batch_size=micro_batch_size,
            sequence_length=sequence_length,
            checkpointing=training.parallelism.activation_checkpointing,
            parameters=own,
            trained=trained,
            quantised=quantised,
        )

    def fits(micro_batch_size: int) -> bool:
        gains_nothing = device == "cpu" and micro_batch_size * sequence_length > CPU_MICRO_BATCH_TOKENS
        return not gains_nothing and memory_with(micro_batch_size).total <= MEMORY_SHARE * device_memory

    shared = batching(training.global_batch_size, training.micro_batch_size, world_size, fits=fits)
    tokens_per_step = training.global_batch_size * sequence_length
    samples = None if train_tokens is None else (train_tokens - 1) // sequence_length
    steps = None if training.epochs and samples is None else total_steps(training, sequence_length, samples)
    has_examples = job.spec.data.examples is not None  # of lengths of their own
    total_tokens = None if steps is None or has_examples else steps * tokens_per_step
    return Plan(
        model=job.spec.model.preset or job.spec.model.custom or shown(job.spec.model.from_ or ""),
        parameters=parameters,
        trained=trained,
        quantised=quantised,
        sequence_length=sequence_length,
        device=device,
        strategy=strategy,
        strategy_reason=strategy_reason,
        precision=precision,
        precision_reason=precision_reason,
        batching=shared,
        batching_reason=_batching_reason(training.micro_batch_size == "Auto", device, shared),
        memory=memory_with(shared.micro_batch_size),
        device_memory=device_memory,
        tokens_per_step=tokens_per_step,
        steps=steps,
        total_tokens=total_tokens,
        epochs=total_tokens / train_tokens if total_tokens and train_tokens else None,
        flops_per_token=flops_per_token(config, sequence_length, own) - 2 * (parameters - trained),
        checkpoint_bytes=CHECKPOINT_BYTES * trained,
    )


def _batching_reason(auto: bool, device: Device, shared: Batching) -> str:
    if not auto:
        return "as asked"
    limit = f" and {CPU_MICRO_BATCH_TOKENS:,} tokens, beyond which a CPU gains nothing" if device == "cpu" else ""
    part = shared.micro_batch_size * shared.accumulation
    return f"the largest that divides a rank's {part} sequences within {MEMORY_SHARE:.0%} of its memory{limit}"


def in_units(count: int) -> str:
    """Bytes for people: 1.5 GiB."""
    size, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:,.1f}".removesuffix(".0") + f" {units[0]}"
