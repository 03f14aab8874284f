"""Word-level tokenizers of the embedded models, in the layout that transformers loads."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from vlm3d_gs.core.prompts import known_words

PROMPT_TOKENS = 16
"""Length to which the prior's prompts are padded."""


def prior_tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer of the prior's text encoder: one token per word, lower case, padded to `PROMPT_TOKENS`."""
    special = ["<pad>", "<unk>", "<bos>", "<eos>"]
    tokenizer = word_tokenizer([*special, *known_words()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 2), ("<eos>", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        model_max_length=PROMPT_TOKENS,
    )


def word_tokenizer(vocabulary: Sequence[str]) -> Tokenizer:
    """Return a tokenizer with one token for each word and punctuation mark of `vocabulary`, which holds "<unk>"."""
    ids = {word: index for index, word in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]
    )
    return tokenizer
