import pytest

from windlass.errors import WindlassError
from windlass.spec.job import JobSpec, Model, ModelOverrides
from windlass.spec.presets import PRESETS, ModelConfig, model_config, tokenizer_name


def parameters(config: ModelConfig) -> int:
    """Counted here by hand, so that a wrong preset and a wrong count in the library do not agree by accident."""
    width, head_size = config.hidden_size, config.head_size or config.hidden_size // config.heads
    biases = int(config.bias)
    norm = width * (1 + biases) if config.norm == "LayerNorm" else width
    norms = (1 if config.parallel_block else 2) + (2 if config.post_norms else 0)
    queries, pairs = config.heads * head_size, config.kv_heads * head_size
    attention = width * (queries + 2 * pairs) + int(config.qkv_bias) * (queries + 2 * pairs)
    attention += queries * width + biases * width + (2 * head_size if config.qk_norm else 0)
    matrices = 3 if config.activation in ("SwiGLU", "GeGLU") else 2
    feed_forward = matrices * width * config.intermediate_size + biases * (config.intermediate_size + width)
    embeddings = config.vocab_size * width * (1 if config.tie_embeddings else 2)
    embeddings += config.vocab_size if config.output_bias else 0
    positions = config.context_length * width if config.position == "Learned" else 0
    return config.layers * (attention + feed_forward + norms * norm) + embeddings + positions + norm


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
        ("llama1-33b", 32_528_943_616),
        ("llama1-65b", 65_285_660_672),
        ("llama2-70b", 68_976_648_192),
        ("llama3.1-405b", 405_853_388_800),
        ("mistral-7b", 7_241_732_096),
        ("mistral-nemo-12b", 12_247_782_400),
        ("phi-1.5", 1_418_270_720),
        ("phi-2", 2_779_683_840),
        ("phi-3-mini", 3_821_079_552),
        ("phi-4", 14_659_507_200),
        ("qwen2.5-0.5b", 494_032_768),
        ("qwen2.5-1.5b", 1_543_714_304),
        ("qwen2.5-3b", 3_085_938_688),
        ("qwen2.5-7b", 7_615_616_512),
        ("qwen2.5-14b", 14_770_033_664),
        ("qwen2.5-32b", 32_763_876_352),
        ("qwen2.5-72b", 72_706_203_648),
        ("qwen3-0.6b", 596_049_920),
        ("qwen3-1.7b", 1_720_574_976),
        ("qwen3-4b", 4_022_468_096),
        ("qwen3-8b", 8_190_735_360),
        ("qwen3-14b", 14_768_307_200),
        ("qwen3-32b", 32_762_123_264),
        ("gemma-2b", 2_506_172_416),
        ("gemma-7b", 8_537_680_896),
        ("gemma2-2b", 2_614_341_888),
        ("gemma2-9b", 9_241_705_984),
        ("gemma2-27b", 27_227_128_320),
        ("gemma3-270m", 268_098_176),
        ("gemma3-1b", 999_885_952),
    ],
)
def test_published_sizes_have_their_published_number_of_parameters(name: str, published: int) -> None:
    assert parameters(PRESETS[name].config) == published


@pytest.mark.parametrize("name", ["gpt2-tiny", "llama-tiny"])
def test_tiny_presets_are_tiny(name: str) -> None:
    assert 0.8e6 <= parameters(PRESETS[name].config) <= 1e6
    assert PRESETS[name].config.context_length == 256


@pytest.mark.parametrize(("size", "millions"), [("125m", 125), ("1.3b", 1320), ("13b", 13000), ("175b", 175000)])
def test_gpt3s_sizes_are_near_those_of_its_paper(size: str, millions: int) -> None:
    assert parameters(PRESETS[f"gpt3-{size}"].config) / 1e6 == pytest.approx(millions, rel=0.02)


def test_every_preset_divides_its_width_and_names_its_source() -> None:
    for preset in PRESETS.values():
        assert preset.config.head_size or preset.config.hidden_size % preset.config.heads == 0
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
