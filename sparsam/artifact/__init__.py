"""Saving and loading: an ordinary Hugging Face folder with its plan, whole or not at all.

    DIR/
      config.json         of the original architecture; with a plan: quantization_config {"quant_method": "sparsam", …}
      model.safetensors   under the family's own names; digests of tensors, plan and id2label in its header
      tokenizer or image processor
      sparsam.json        facts: where the model and the data came from, seed, versions
      MANIFEST.json       name, size and SHA-256 of every other file; written last
      evaluation.json     what was measured of the reloaded model, if anything was; names the manifest it belongs to

A folder is written beside its place, flushed to disk, and then exchanged with what stands there in one step
(``renameat2`` with ``RENAME_EXCHANGE``). Where the system has no such call the old folder is renamed aside first; a machine
that stops between those two renames leaves the old one aside, and the next save or load puts it back.

What :func:`export` writes for other runtimes is such a folder too, with a graph in place of the weights (``exporting.py``).

Nothing that is read can name code to run: classes are chosen from a closed list, weights are safetensors alone.
"""

from sparsam.artifact.configuration import check_config
from sparsam.artifact.exporting import Exported, Graph, LoadedExport, export, exported_to, load_export
from sparsam.artifact.loading import Loaded, load, load_dense
from sparsam.artifact.manifest import EVALUATION, FACTS, MANIFEST, is_artifact, verify
from sparsam.artifact.record import RECORD, read_record, write_record
from sparsam.artifact.saving import check_target, save

__all__ = [
    "EVALUATION",
    "FACTS",
    "MANIFEST",
    "RECORD",
    "Exported",
    "Graph",
    "Loaded",
    "LoadedExport",
    "check_config",
    "check_target",
    "export",
    "exported_to",
    "is_artifact",
    "load",
    "load_dense",
    "load_export",
    "read_record",
    "save",
    "verify",
    "write_record",
]
