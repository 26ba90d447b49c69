import pytest

from windlass.errors import WindlassError
from windlass.spec.job import JobSpec, Model, ModelOverrides
from windlass.spec.presets import PRESETS, ModelConfig, model_config, tokenizer_name


def parameters(config: ModelConfig) -> int:
    """Counted here by hand, so that a wrong preset and a wrong count in the library do not agree by accident."""
    width, head_size = config.hidden_size, config.hidden_size // config.heads
    biases = int(config.bias)
    norm = width * (1 + biases) if config.norm == "LayerNorm" else width
    queries, pairs = config.heads * head_size, config.kv_heads * head_size
    attention = width * (queries + 2 * pairs) + int(config.qkv_bias) * (queries + 2 * pairs)
    attention += queries * width + biases * width
    matrices = 3 if config.activation == "SwiGLU" else 2
    feed_forward = matrices * width * config.intermediate_size + biases * (config.intermediate_size + width)
    embeddings = config.vocab_size * width * (1 if config.tie_embeddings else 2)
    positions = config.context_length * width if config.position == "Learned" else 0
    return config.layers * (attention + feed_forward + 2 * norm) + embeddings + positions + norm


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("gpt2-small", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
        ("llama-1b", 1_235_814_400),
        ("llama-3b", 3_212_749_824),
        ("llama-7b", 6_738_415_616),
        ("llama-8b", 8_030_261_248),
        ("llama-13b", 13_015_864_320),
        ("llama-70b", 70_553_706_496),
    ],
)
def test_published_sizes_have_their_published_number_of_parameters(name: str, published: int) -> None:
    assert parameters(PRESETS[name].config) == published


@pytest.mark.parametrize("name", ["gpt2-tiny", "llama-tiny"])
def test_tiny_presets_are_tiny(name: str) -> None:
    assert 0.8e6 <= parameters(PRESETS[name].config) <= 1e6
    assert PRESETS[name].config.context_length == 256


def test_every_preset_divides_its_width_and_names_its_source() -> None:
    for preset in PRESETS.values():
        assert preset.config.hidden_size % preset.config.heads == 0
        assert preset.config.heads % preset.config.kv_heads == 0
        assert preset.source


def test_vocabulary_is_the_tokenizers_unless_overridden() -> None:
    assert model_config(Model(preset="gpt2-small"), 257).vocab_size == 257
    padded = Model(preset="gpt2-small", config=ModelOverrides(vocab_size=50304))
    assert model_config(padded, 50257).vocab_size == 50304


def test_vocabulary_smaller_than_the_tokenizers_is_refused() -> None:
    model = Model(preset="gpt2-small", config=ModelOverrides(vocab_size=100))
    with pytest.raises(WindlassError, match=r"spec\.model\.config\.vocabSize: 100 is below .* 257"):
        model_config(model, 257)


def test_dependent_sizes_follow_an_override() -> None:
    overrides = ModelOverrides(hidden_size=1024, heads=16, bias=False)
    small = model_config(Model(preset="gpt2-small", config=overrides), 257)
    assert (small.intermediate_size, small.kv_heads, small.qkv_bias) == (4096, 16, False)
    large = model_config(Model(preset="llama-8b", config=ModelOverrides(heads=16, kv_heads=2)), 257)
    assert (large.kv_heads, large.intermediate_size) == (2, 14336)


def test_unknown_preset_is_refused_by_name() -> None:
    with pytest.raises(WindlassError, match=r"spec\.model\.preset: 'gpt5' is none of gpt2-small"):
        model_config(Model(preset="gpt5"), 257)


def test_tokenizer_defaults_to_the_presets() -> None:
    spec: dict[str, object] = {"data": {}, "training": {}}
    assert tokenizer_name(JobSpec.model_validate(spec | {"model": {"preset": "gpt2-xl"}})) == "gpt2"
    assert tokenizer_name(JobSpec.model_validate(spec | {"model": {"preset": "gpt2-tiny"}})) == "bytes"
    assert (
        tokenizer_name(JobSpec.model_validate(spec | {"model": {"preset": "gpt2-xl"}, "tokenizer": "bytes"})) == "bytes"
    )
    assert tokenizer_name(JobSpec.model_validate(spec | {"model": {"from": "run://a"}})) == "bytes"
