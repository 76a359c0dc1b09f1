"""Where a text's positions begin in a family's table, and how long that lets it be."""

from typing import Any

from sparsam.models.lift import family_of


def first_position(config: Any) -> int:
    """The position of a text's first token: RoBERTa and its relatives leave out those up to the padding token's id."""
    if not family_of(config.model_type).positions_after_padding:
        return 0
    return 1 + (1 if config.pad_token_id is None else int(config.pad_token_id))


def longest_text(config: Any, processor: Any) -> int:
    """Most tokens of a text that the position table holds and the tokenizer allows."""
    rows = int(config.max_position_embeddings) - first_position(config)
    return min(rows, int(getattr(processor, "model_max_length", None) or rows))
