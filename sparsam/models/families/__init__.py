"""Model families: for each, where its parts are. One table of roles a file, no code that runs a model."""

from sparsam.models.families.bert import BERT, ELECTRA, MPNET, ROBERTA, XLM_ROBERTA
from sparsam.models.families.distilbert import DISTILBERT
from sparsam.models.families.family import Family
from sparsam.models.families.vit import DEIT, VIT

FAMILIES: dict[str, Family] = {
    family.name: family for family in (BERT, ROBERTA, XLM_ROBERTA, ELECTRA, MPNET, DISTILBERT, VIT, DEIT)
}

# Known by name and refused with a reason, so that nobody has to find out by a wrong result.
REFUSED: dict[str, str] = {
    "modernbert": "rotary positions, a fused QKV projection and alternating local attention are not supported yet",
    "deberta": "disentangled attention mixes content and position terms that packed attention does not compute",
    "deberta-v2": "disentangled attention mixes content and position terms that packed attention does not compute",
    "albert": "its layers share one set of weights, so they cannot be left out one by one",
    "longformer": "its local and global attention windows are not supported",
    "big_bird": "its block-sparse attention is not supported",
    "swin": "shifted windows need a fixed grid of tokens",
}

__all__ = ["FAMILIES", "REFUSED", "Family"]
