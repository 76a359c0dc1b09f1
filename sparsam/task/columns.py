"""Which columns hold the text or image, and which the label: found by their usual names, or named by the user."""

from collections.abc import Mapping
from dataclasses import dataclass

from sparsam.errors import Refused, Usage
from sparsam.task.tables import Kind

#: Pairs of texts, most telling first: GLUE, SNLI and MNLI, QQP, QNLI, search sets.
PAIRS = (
    ("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"), ("question", "sentence"),
    ("text1", "text2"), ("text_a", "text_b"), ("sentence_a", "sentence_b"), ("query", "passage"),
    ("query", "document"), ("question", "passage"),
)  # fmt: skip
TEXTS = (
    "text",
    "sentence",
    "review",
    "content",
    "comment",
    "question",
    "tweet",
    "document",
    "premise",
    "query",
    "title",
)
IMAGES = ("image", "img")
LABELS = ("label", "labels", "target", "score", "class", "category", "sentiment", "gold_label", "is_duplicate",
          "fine_label", "coarse_label", "stars")  # fmt: skip
IGNORED = frozenset({"idx", "id", "index", "split", "uid", "guid", "__index_level_0__", ""})


@dataclass(frozen=True)
class Columns:
    """The columns a task reads: one or two texts, or an image; and a label."""

    text: tuple[str, ...]
    image: str | None
    label: str

    @property
    def inputs(self) -> tuple[str, ...]:
        """The columns that go into the model."""
        return self.text or ((self.image,) if self.image else ())


def choose(
    kinds: Mapping[str, Kind], *, label: str | None, text: tuple[str, ...] | None, where: str
) -> Columns:
    """Find the columns among ``kinds`` (name to kind); ``label`` and ``text`` are the user's word and win.

    Raises Usage ``label-column`` or ``text-column`` where nothing or too much fits, and Refused
    ``kind-unsupported`` where there is neither text nor image.
    """
    found = f"{where} has the columns {', '.join(kinds)}"
    usual = {name.lower(): name for name in kinds}
    if text is not None:
        texts, image = _named_inputs(kinds, text, found)
    else:
        texts, image = _found_inputs(kinds, usual, label, found)
    return Columns(texts, image, _label_column(kinds, usual, label, texts, image, found))


def holds_inputs(kinds: Mapping[str, Kind]) -> bool:
    """Whether some column is a text or an image by its usual name; a ``file_name`` says that the images lie elsewhere."""
    usual = {name.lower() for name in kinds}
    return "file_name" not in usual and any(
        usual.issuperset(names) for names in (*PAIRS, *((name,) for name in (*TEXTS, *IMAGES)))
    )


def _named_inputs(
    kinds: Mapping[str, Kind], text: tuple[str, ...], found: str
) -> tuple[tuple[str, ...], str | None]:
    absent = [name for name in text if name not in kinds]
    if absent or not 1 <= len(text) <= 2:
        wrong = (
            f"none called {absent[0]!r}"
            if absent
            else f"--text was given {len(text)} names, wanted are 1 or 2"
        )
        raise Usage(f"{found}; {wrong}. Name one or two of them with --text.", code="text-column")
    if len(text) == 1 and kinds[text[0]] in ("image", "bytes"):
        return (), text[0]
    bad = [name for name in text if kinds[name] in ("image", "bytes", "other")]
    if bad:
        raise Usage(
            f"{found}; {bad[0]!r} holds no text. Name a column of texts with --text.", code="text-column"
        )
    return text, None


def _found_inputs(
    kinds: Mapping[str, Kind], usual: Mapping[str, str], label: str | None, found: str
) -> tuple[tuple[str, ...], str | None]:
    readable = {
        name for name, kind in kinds.items() if kind not in ("image", "bytes", "other") and name != label
    }
    images = [usual[name] for name in IMAGES if name in usual and kinds[usual[name]] in ("image", "bytes")]
    for pair in PAIRS:
        if all(usual.get(name) in readable for name in pair) and not images:
            return (usual[pair[0]], usual[pair[1]]), None
    known = [usual[name] for name in TEXTS if usual.get(name) in readable]
    others = [
        name
        for name in kinds
        if kinds[name] == "text"
        and name != label
        and name.lower() not in IGNORED
        and name.lower() not in LABELS
    ]
    if len(images) == 1 and not known:
        return (), images[0]
    if len(known) == 1 and not images:
        return (known[0],), None
    if not known and not images:
        foreign = [name for name, kind in kinds.items() if kind in ("bytes", "image", "other")]
        if len(others) == 1 and not foreign:
            return (others[0],), None
        if not others or foreign:
            raise Refused(
                f"{found}: no text and no image among them, and sparsam supports text and image tasks only. "
                "If one of them is text or an image, name it with --text.",
                code="kind-unsupported",
            )
    raise Usage(
        f"{found}; more than one could be the input ({', '.join(known + images or others)}). Say which with "
        "--text NAME, or --text NAME --text NAME for a pair.",
        code="text-column",
    )


def _label_column(
    kinds: Mapping[str, Kind],
    usual: Mapping[str, str],
    label: str | None,
    texts: tuple[str, ...],
    image: str | None,
    found: str,
) -> str:
    inputs = {*texts, image}
    if label is not None:
        if label not in kinds or label in inputs:
            wrong = "and that one is the input" if label in inputs else f"none called {label!r}"
            raise Usage(f"{found}; {wrong}. Name the label's column with --label.", code="label-column")
        chosen = label
    else:
        known = [usual[name] for name in LABELS if name in usual and usual[name] not in inputs]
        first = [name for name in known if name.lower() in ("label", "labels")]
        if not first and len(known) != 1:
            wrong = (
                f"more than one could be the label ({', '.join(known)})"
                if known
                else "none is known as a label"
            )
            raise Usage(f"{found}; {wrong}. Name the label's column with --label.", code="label-column")
        chosen = (first or known)[0]
    if kinds[chosen] in ("bytes", "image", "other"):
        raise Refused(
            f"{found}; the label {chosen!r} holds no single number, truth value or text a row. Several labels a row "
            "are not supported; name another column with --label.",
            code="label-kind",
        )
    return chosen
