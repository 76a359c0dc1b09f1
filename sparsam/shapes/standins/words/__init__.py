"""torchtext before 0.9, which is not to be had any more: fields, vocabularies and iterators over batches of token ids."""

from sparsam.shapes.standins.words import corpora, fields, package

MODULES = {
    "torchtext": package,
    "torchtext.data": fields,
    "torchtext.datasets": corpora,
    "torchtext.vocab": fields,
    "torchtext.legacy": package,
    "torchtext.legacy.data": fields,
    "torchtext.legacy.datasets": corpora,
    "torchtext.legacy.vocab": fields,
}  # name: what stands in for it
