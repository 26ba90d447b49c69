"""Small models of transformers' own architectures, in folders as it saves them."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
    "vocab_size": 200,
}
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WORDS = [*SPECIAL, "line", "high", "end", "u", "a", "yes", "no", "never", ":", *map(str, range(120))]


def saved(folder: Path, kind: str, **changes: Any) -> Path:
    """A random model of transformers, as it saves it, with a tokenizer that pads and cuts by itself."""
    import transformers

    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **(SIZES | changes))
    auto: Any = transformers.AutoModelForCausalLM if kind in ("opt", "gpt_neox") else transformers.AutoModel
    auto.from_config(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, "[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if auto is transformers.AutoModel:
        tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.enable_padding(length=24)
    tokenizer.enable_truncation(4)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
