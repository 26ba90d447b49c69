import itertools
import math
from functools import partial
from typing import Any

import pytest
import torch

from windlass.models.decoder import Decoder, KeyValueCache, attention_mask
from windlass.planning.compute import count_parameters
from windlass.spec.job import RopeScaling
from windlass.spec.presets import PRESETS, ModelConfig
from windlass.tasks.pretrain import output_loss, token_loss

SMALL = {"layers": 2, "hidden_size": 32, "intermediate_size": 48, "context_length": 16, "vocab_size": 61}
GPT2 = PRESETS["gpt2-tiny"].config.model_copy(update=SMALL)
LLAMA = PRESETS["llama-tiny"].config.model_copy(update=SMALL)
YARN = RopeScaling(type="YaRN", factor=2.0, original_context_length=8)
VARIANTS = {
    "parallel": GPT2.model_copy(update={"parallel_block": True, "tie_embeddings": False, "output_bias": True}),
    "gated-gelu": LLAMA.model_copy(update={"activation": "GeGLU", "scale_embeddings": True}),
    "head-size": LLAMA.model_copy(update={"head_size": 6, "rotary_fraction": 0.7}),
    "qk-norm": LLAMA.model_copy(update={"qk_norm": True, "rope_scaling": YARN}),
    "capped": LLAMA.model_copy(
        update={"post_norms": True, "attention_softcap": 0.5, "logit_softcap": 2.0, "attention_scalar": 3.0}
    ),
    "local-and-global": LLAMA.model_copy(
        update={"sliding_window": 4, "global_attention_every": 2, "local_rope_theta": 50.0, "head_size": 10}
    ),
}


def decoder(config: ModelConfig, seed: int = 1, **changes: Any) -> Decoder:
    model = Decoder(config.model_copy(update=changes))
    model.initialise(seed)
    return model


def on_meta(config: ModelConfig) -> Decoder:
    with torch.device("meta"):
        return Decoder(config)


def tokens(batch: int = 2, length: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.randint(61, (batch, length), generator=torch.Generator().manual_seed(seed))


def test_gpt2_small_has_the_published_number_of_parameters() -> None:
    assert sum(parameter.numel() for parameter in on_meta(PRESETS["gpt2-small"].config).parameters()) == 124_439_808


@pytest.mark.parametrize("name", PRESETS)
def test_the_planned_number_of_parameters_is_the_modules(name: str) -> None:
    config = PRESETS[name].config
    module = on_meta(config.model_copy(update={"layers": 2}))
    per_block = sum(parameter.numel() for parameter in module.blocks[0].parameters())
    total = sum(parameter.numel() for parameter in module.parameters()) + (config.layers - 2) * per_block
    assert count_parameters(config) == total


@pytest.mark.parametrize("name", ["gpt2-nano", "gpt2-tiny", "llama-tiny"])
def test_the_first_loss_is_about_the_logarithm_of_the_vocabulary(name: str) -> None:
    config = PRESETS[name].config
    batch = torch.randint(config.vocab_size, (4, 65), generator=torch.Generator().manual_seed(0))
    loss = token_loss(decoder(config)(batch[:, :-1]), batch[:, 1:]) / (4 * 64)
    assert abs(loss.item() - math.log(config.vocab_size)) < 0.1


@pytest.mark.parametrize("config", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_initial_weights_are_as_published(config: ModelConfig) -> None:
    model = decoder(config, layers=8, hidden_size=128, intermediate_size=512)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            assert torch.all(parameter == (0 if name.endswith("bias") else 1)), name
            continue
        residual = name.endswith(("attention.output.weight", "feed_forward.down.weight"))
        expected = 0.02 / math.sqrt(2 * 8) if residual else 0.02
        assert abs(parameter.std().item() / expected - 1) < 0.1, name
        assert abs(parameter.mean().item()) < expected / 10, name


def test_initial_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    built = decoder(LLAMA, seed=3)
    emptied = on_meta(LLAMA).to_empty(device="cpu")
    emptied.initialise(3)
    other = decoder(LLAMA, seed=4)
    for (name, first), second, third in zip(
        built.named_parameters(), emptied.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(first, second), name
        assert first.ndim == 1 or not torch.equal(first, third), name
    assert not torch.equal(before, torch.get_rng_state())  # Linear's own initialisation; ours adds nothing:
    before = torch.get_rng_state()
    built.initialise(3)
    assert torch.equal(before, torch.get_rng_state())


def test_no_buffer_is_lost_between_meta_device_and_weights() -> None:
    assert list(on_meta(GPT2).buffers()) == []
    assert list(on_meta(LLAMA).buffers()) == []


@pytest.mark.parametrize(
    ("norm", "position", "activation", "bias", "kv_heads", "tied", "window", "masked"),
    [
        combination
        for number, combination in enumerate(
            itertools.product(
                ["LayerNorm", "RMSNorm"],
                ["Learned", "Rotary"],
                ["GELU", "GELUTanh", "SwiGLU"],
                [False, True],
                [1, 2, 4],
                [False, True],
                [None, 5],
                [False, True],
            )
        )
        if number % 7 == 0  # every value of each field with every value of each other one, not every combination
    ],
)
def test_every_kind_of_decoder_runs_forward_and_backward(
    norm: str, position: str, activation: str, bias: bool, kv_heads: int, tied: bool, window: int | None, masked: bool
) -> None:
    config = GPT2.model_copy(
        update={
            "norm": norm,
            "position": position,
            "activation": activation,
            "bias": bias,
            "qkv_bias": not bias,
            "kv_heads": kv_heads,
            "tie_embeddings": tied,
            "sliding_window": window,
            "dropout": 0.1,
        }
    )
    model = decoder(config)
    documents = torch.tensor([[0] * 7 + [1] * 9]).expand(2, -1) if masked else None
    torch.autograd.backward(token_loss(model(tokens(), documents=documents), tokens(seed=1)))
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    assert sum(parameter.numel() for parameter in model.parameters()) == count_parameters(config)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_trains_and_is_counted(name: str) -> None:
    model = decoder(VARIANTS[name], dropout=0.1)
    documents = torch.tensor([[0] * 7 + [1] * 9]).expand(2, -1)
    torch.autograd.backward(token_loss(model(tokens(), documents=documents), tokens(seed=1)))
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all(), parameter_name
    assert list(model.buffers()) == []
    assert sum(parameter.numel() for parameter in model.parameters()) == count_parameters(VARIANTS[name])


@pytest.mark.parametrize("name", VARIANTS)
def test_a_cache_read_in_pieces_gives_every_variants_logits(name: str) -> None:
    model, batch = decoder(VARIANTS[name]).eval(), tokens()
    cache = KeyValueCache(16)
    pieces = [model(batch[:, start:end], cache=cache) for start, end in [(0, 5), (5, 6), (6, 12), (12, 16)]]
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(batch), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_no_position_of_any_variant_sees_what_follows_it_or_another_document(name: str) -> None:
    model, batch = decoder(VARIANTS[name]).eval(), tokens()
    changed = batch.clone()
    changed[:, 9:] = (changed[:, 9:] + 1) % 61
    assert torch.equal(model(batch)[:, :9], model(changed)[:, :9])
    documents = torch.tensor([[0] * 9 + [1] * 7]).expand(2, -1)
    torch.testing.assert_close(
        model(batch, documents=documents)[:, 9:], model(batch[:, 9:]), rtol=0, atol=1e-5, msg="alone"
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_near_float32_in_mixed_precision_and_the_same_compiled(name: str) -> None:
    model = decoder(VARIANTS[name])
    expected = model(tokens())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(model(tokens()).float(), expected, rtol=0, atol=0.03)
    torch.compiler.reset()
    for block in model.blocks:
        block.compile(backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(model(tokens()), expected, rtol=0, atol=1e-6)


def test_what_one_layer_sees_is_its_window() -> None:
    model = decoder(VARIANTS["local-and-global"], layers=1).eval()  # the first of two: with a window of 4
    changed = tokens(1)
    changed[0, 0] = (changed[0, 0] + 1) % 61
    same = (model(tokens(1)) == model(changed)).all(dim=-1)[0]
    assert same.tolist() == [False] * 4 + [True] * 12
    whole = decoder(VARIANTS["local-and-global"]).eval()
    assert not (whole(tokens(1)) == whole(changed)).all(dim=-1).any(), "the second sees all"


def test_capped_scores_without_an_effective_cap_are_plain_attention() -> None:
    capped, plain = decoder(LLAMA, attention_softcap=1e4).eval(), decoder(LLAMA).eval()
    torch.testing.assert_close(capped(tokens()), plain(tokens()), rtol=0, atol=1e-5)


def test_capped_logits_stay_within_the_cap() -> None:
    assert decoder(LLAMA, logit_softcap=0.01)(tokens()).abs().max() <= 0.01


@pytest.mark.parametrize("config", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_no_position_sees_what_follows_it(config: ModelConfig) -> None:
    model, batch = decoder(config).eval(), tokens()
    changed = batch.clone()
    changed[:, 9:] = (changed[:, 9:] + 1) % 61
    assert torch.equal(model(batch)[:, :9], model(changed)[:, :9])
    assert not torch.allclose(model(batch)[:, 9], model(changed)[:, 9])


@pytest.mark.parametrize("config", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_masked_documents_are_as_if_each_were_alone(config: ModelConfig) -> None:
    model, batch = decoder(config).eval(), tokens()
    ends = [[5, 6, 16], [16]]
    documents = torch.tensor([[0] * 5 + [1] + [2] * 10, [7] * 16])
    logits = model(batch, documents=documents)
    for row, row_ends in enumerate(ends):
        for start, end in zip([0, *row_ends], row_ends, strict=False):
            alone = model(batch[row : row + 1, start:end])[0]
            torch.testing.assert_close(logits[row, start:end], alone, rtol=0, atol=1e-5)


def test_a_document_keeps_out_of_another_of_the_same_number_only_if_they_touch() -> None:
    mask = attention_mask(4, 0, None, torch.tensor([[0, 0, 1, 1]]), torch.device("cpu"))
    assert mask is not None
    assert mask[0, 0].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]


def test_a_sliding_window_of_n_sees_n_tokens() -> None:
    mask = attention_mask(5, 0, 2, None, torch.device("cpu"))
    assert mask is not None
    assert mask[0, 0].sum(dim=1).tolist() == [1, 2, 2, 2, 2]
    one_layer = decoder(LLAMA, layers=1, sliding_window=4).eval()
    batch = tokens(1)
    changed = batch.clone()
    changed[0, 0] = (changed[0, 0] + 1) % 61
    same = (one_layer(batch) == one_layer(changed)).all(dim=-1)[0]
    assert same.tolist() == [False] * 4 + [True] * 12


def test_a_window_as_long_as_the_context_is_none_at_all() -> None:
    model, windowed = decoder(LLAMA).eval(), decoder(LLAMA, sliding_window=16).eval()
    assert torch.equal(model(tokens()), windowed(tokens()))


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("config", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_a_cache_read_in_pieces_gives_the_logits_of_one_pass(config: ModelConfig, window: int | None) -> None:
    model, batch = decoder(config, sliding_window=window).eval(), tokens()
    whole, cache = model(batch), KeyValueCache(16)
    pieces = [model(batch[:, start:end], cache=cache) for start, end in [(0, 5), (5, 6), (6, 12), (12, 16)]]
    assert cache.length == 16
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=0, atol=1e-5)


def test_last_only_gives_the_last_positions_logits() -> None:
    model = decoder(GPT2).eval()
    torch.testing.assert_close(model(tokens(), last_only=True), model(tokens())[:, -1:])


def test_more_tokens_than_the_context_are_refused() -> None:
    with pytest.raises(ValueError, match="17 tokens are more than contextLength, 16"):
        decoder(GPT2)(tokens(length=17))


def test_dropout_is_for_training_only() -> None:
    model, without = decoder(GPT2, dropout=0.5), decoder(GPT2)
    assert not torch.equal(model(tokens()), model(tokens()))
    assert torch.equal(model.eval()(tokens()), without(tokens()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("config", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_mixed_precision_on_a_cpu_is_near_float32(config: ModelConfig, dtype: torch.dtype) -> None:
    model = decoder(config)
    with torch.autocast("cpu", dtype=dtype):
        logits = model(tokens())
    assert logits.dtype == dtype
    torch.testing.assert_close(logits.float(), model(tokens()), rtol=0, atol=0.02)


def test_a_compiled_decoder_is_the_same_function() -> None:
    model = decoder(LLAMA)
    expected = model(tokens())
    for block in model.blocks:
        block.compile(backend="aot_eager")  # traces forward and backward, without a C++ compiler
    torch.testing.assert_close(model(tokens()), expected, rtol=0, atol=1e-6)
    compiled_loss = torch.compile(output_loss, backend="aot_eager")
    loss = model(tokens(), head=partial(compiled_loss, labels=tokens(seed=1)))
    torch.testing.assert_close(loss, token_loss(expected, tokens(seed=1)), rtol=0, atol=1e-4)
    torch.autograd.backward(loss)
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_gets_what_the_logits_are_made_of(tied: bool) -> None:
    model = decoder(LLAMA, tie_embeddings=tied)
    loss = model(tokens(), head=partial(output_loss, labels=tokens(seed=1)))
    assert torch.equal(loss, token_loss(model(tokens()), tokens(seed=1)))
