"""Encoders of the transformers library, of every family that can be compressed and of two more, small and unchanged."""

import os
import textwrap

import pytest
import transformers
from checking import told

from sparsam.models import FAMILIES
from sparsam.shapes.check import Limits, check
from sparsam.shapes.verdict import Verdict

pytestmark = pytest.mark.slow  # imports transformers' models, and a second or two for each

LONG = pytest.mark.skipif(
    os.environ.get("SPARSAM_LONG") != "1", reason="takes minutes; SPARSAM_LONG=1 asks for it"
)
TRAINED = {"bert", "vit"}  # without being asked for
TEXT = {
    "vocab_size": 60,
    "max_position_embeddings": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 44,
}
IMAGES = {key: TEXT[key] for key in list(TEXT)[2:]} | {"image_size": 8, "patch_size": 2, "num_labels": 3}
SETTINGS = {
    "bert": ("Bert", TEXT),
    "roberta": ("Roberta", TEXT),
    "xlm-roberta": ("XLMRoberta", TEXT),
    "electra": ("Electra", TEXT | {"embedding_size": 24}),
    "mpnet": ("MPNet", TEXT),
    "albert": ("Albert", TEXT | {"embedding_size": 16}),
    "distilbert": (
        "DistilBert",
        {"vocab_size": 60, "max_position_embeddings": 64, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 44},
    ),
    "gpt2": ("GPT2", {"vocab_size": 60, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "pad_token_id": 0}),
    "vit": ("ViT", IMAGES),
    "deit": ("DeiT", IMAGES),
}  # fmt: skip
LONGEST = {"roberta": 62, "xlm-roberta": 62, "mpnet": 62}  # their positions begin behind that of the padding
STATES = """
    from transformers import {kind}Config, {kind}Model

    def states(x):
        model = {kind}Model({kind}Config(**{settings})).eval()
        return model(x).last_hidden_state
"""
TEXT_LOSS = """
    from transformers import {kind}Config, {kind}ForSequenceClassification

    def train(x, mask, labels):
        model = {kind}ForSequenceClassification({kind}Config(**{settings}, num_labels=3))
        model(x, attention_mask=mask, labels=labels).loss.backward()
"""
IMAGE_LOSS = """
    from transformers import {kind}Config, {kind}ForImageClassification

    def train(x, labels):
        model = {kind}ForImageClassification({kind}Config(**{settings}))
        model(x, labels=labels).loss.backward()
"""


@pytest.fixture
def report(tmp_path):
    """Of a check of a function of a text that is filled with a family's names and settings."""

    def made(text, family, function, *arguments, **changes):
        kind, settings = SETTINGS[family]
        # Imported before its neighbours are stood in for.
        getattr(transformers, f"{kind}Model")
        file = tmp_path / "encoder.py"
        file.write_text(textwrap.dedent(text.format(kind=kind, settings=settings | changes)))
        limits = Limits(seconds=120, run_seconds=60)
        return check(f"{file}:{function}", arguments, sandboxed=False, limits=limits)

    return made


def inputs(family, longest=None):
    """A batch of any size, of texts of any length up to the longest."""
    if SETTINGS[family][1] is IMAGES:
        return ["x=B×3×8×8"]
    return ["x=B×T:int64", f"T=1..{longest or LONGEST.get(family, 64)}"]


def source_of(report):
    """The line of the one finding."""
    (finding,) = report.findings
    return finding.failure.place.source


def test_every_family_is_among_them():
    """What can be compressed is also checked."""
    assert set(FAMILIES) <= set(SETTINGS)


@pytest.mark.parametrize("family", SETTINGS)
def test_encoder_is_proved_for_every_batch_and_length(family, report):
    """All batches, all lengths that there are positions for; pictures of the one size that there is."""
    made = report(STATES, family, "states", *inputs(family))
    assert made.verdict is Verdict.PROVED, told(made)
    assert not made.findings


@pytest.mark.parametrize("family", [pytest.param(f, marks=() if f in TRAINED else (LONG,)) for f in SETTINGS])
def test_step_of_training_is_proved(family, report):
    """A loss with labels, and with a mask for texts."""
    more = [] if SETTINGS[family][1] is IMAGES else ["mask=B×T:int64"]
    text = TEXT_LOSS if more else IMAGE_LOSS
    made = report(text, family, "train", *inputs(family), *more, "labels=B:int64")
    assert made.verdict is Verdict.PROVED, told(made)


@pytest.mark.parametrize("family", ["bert", "electra", "albert", "distilbert", "gpt2"])
def test_longer_than_its_positions_is_an_error_at_the_call(family, report):
    """From 65 tokens on, with 64 positions."""
    made = report(STATES, family, "states", *inputs(family, longest=80))
    assert made.verdict is Verdict.ERROR, told(made)
    assert "return model(x)" in source_of(made)
    assert 64 < made.findings[0].witness["T"] <= 80


@pytest.mark.parametrize("family", LONGEST)
def test_positions_counted_over_a_mask_are_not_proved_beyond_their_table(family, report):
    """How many tokens are no padding is up to the data: not proved, and no error."""
    made = report(STATES, family, "states", *inputs(family, longest=63))
    assert made.verdict is Verdict.UNKNOWN, told(made)
    assert {unknown.code for unknown in made.unknowns} == {"index"}


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("bert", {"hidden_size": 30}),
        ("roberta", {"hidden_size": 30}),
        ("mpnet", {"hidden_size": 30}),
        ("distilbert", {"dim": 30}),
        ("gpt2", {"n_embd": 30}),
    ],
)
def test_width_that_the_heads_do_not_divide_is_an_error_where_the_model_is_made(family, changes, report):
    """Thirty is no multiple of four, and these models say so themselves."""
    made = report(STATES, family, "states", *inputs(family), **changes)
    assert made.verdict is Verdict.ERROR, told(made)
    assert "model = " in source_of(made)


@pytest.mark.parametrize("family", ["electra", "albert"])
def test_width_that_the_heads_do_not_divide_is_an_error_at_the_call_of_models_that_say_nothing(
    family, report
):
    """Their heads together are 28 wide, and the product behind them takes 30."""
    made = report(STATES, family, "states", *inputs(family), hidden_size=30)
    assert made.verdict is Verdict.ERROR, told(made)
    assert "return model(x)" in source_of(made)
    assert "28" in made.findings[0].message and "30" in made.findings[0].message


@pytest.mark.parametrize("family", ["vit", "deit"])
def test_picture_of_another_size_is_an_error_at_the_call(family, report):
    """Eight by eight is what the positions are for."""
    made = report(STATES, family, "states", "x=B×3×H×8", "H=4..16")
    assert made.verdict is Verdict.ERROR, told(made)
    assert all("return model(x)" in finding.failure.place.source for finding in made.findings)
    assert all(finding.witness["H"] != 8 for finding in made.findings)


def test_ids_of_two_lengths_are_an_error(report):
    """A mask of another length than the ids."""
    made = report(
        TEXT_LOSS, "bert", "train", "x=B×T:int64", "mask=B×S:int64", "labels=B:int64", "T=2..8", "S=2..8"
    )
    assert made.verdict is Verdict.ERROR, told(made)
    witness = made.findings[0].witness
    assert witness["T"] != witness["S"]
