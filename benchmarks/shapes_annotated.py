"""The ten programs with shapes in their signatures, as jaxtyping writes them, for a run that beartype watches.

Every module's `forward`, and the functions between that take or return tensors, have the shapes that their text makes
evident. Lines keep their numbers: imports go on the blank line below the docstring, decorators on the one above a `def`.
"""

IMPORTS = "from beartype import beartype; from jaxtyping import Bool, Float, Int, jaxtyped; from torch import Tensor as Arr"
DECORATOR = "@jaxtyped(typechecker=beartype)"

# Of each program: the beginning of a signature, and what stands there instead.
SIGNATURES: dict[str, tuple[tuple[str, str], ...]] = {
    "mnist": (
        ("def forward(self, x):", 'def forward(self, x: Float[Arr, "b 1 28 28"]) -> Float[Arr, "b 10"]:'),
    ),
    "vae": (
        (
            "def encode(self, x):",
            'def encode(self, x: Float[Arr, "b 784"]) -> tuple[Float[Arr, "b z"], Float[Arr, "b z"]]:',
        ),
        (
            "def reparameterize(self, mu, logvar):",
            'def reparameterize(self, mu: Float[Arr, "b z"], logvar: Float[Arr, "b z"]) -> Float[Arr, "b z"]:',
        ),
        ("def decode(self, z):", 'def decode(self, z: Float[Arr, "b z"]) -> Float[Arr, "b 784"]:'),
        (
            "def forward(self, x):",
            'def forward(self, x: Float[Arr, "b 1 28 28"])'
            ' -> tuple[Float[Arr, "b 784"], Float[Arr, "b z"], Float[Arr, "b z"]]:',
        ),
        (
            "def loss_function(recon_x, x, mu, logvar):",
            'def loss_function(recon_x: Float[Arr, "b 784"], x: Float[Arr, "b 1 28 28"], mu: Float[Arr, "b z"],'
            ' logvar: Float[Arr, "b z"]) -> Float[Arr, ""]:',
        ),
    ),
    "dcgan": (
        ("def forward(self, z):", 'def forward(self, z: Float[Arr, "b nz 1 1"]) -> Float[Arr, "b nc 32 32"]:'),
        ("def forward(self, image):", 'def forward(self, image: Float[Arr, "b nc 32 32"]) -> Float[Arr, "b"]:'),
    ),
    "super_resolution": (
        ("def forward(self, x):", 'def forward(self, x: Float[Arr, "b 1 h w"]) -> Float[Arr, "b 1 hh ww"]:'),
    ),
    "word_language_model": (
        (
            "def forward(self, input, hidden):",
            'def forward(self, input: Int[Arr, "t b"], hidden) -> tuple[Float[Arr, "t*b words"], object]:',
        ),
        ("def batchify(data, bsz):", 'def batchify(data: Int[Arr, "n"], bsz) -> Int[Arr, "rows {bsz}"]:'),
        (
            "def get_batch(source, i, bptt):",
            'def get_batch(source: Int[Arr, "rows b"], i, bptt) -> tuple[Int[Arr, "t b"], Int[Arr, "t*b"]]:',
        ),
    ),
    "time_series": (
        ("def start(self, rows):", 'def start(self, rows) -> Float[Arr, "{rows} {self.hidden}"]:'),
        (
            "def forward(self, input, future=0):",
            'def forward(self, input: Float[Arr, "b t"], future=0) -> Float[Arr, "b t+{future}"]:',
        ),
    ),
    "snli": (
        (
            "def forward(self, inputs):",
            'def forward(self, inputs: Float[Arr, "t b width"]) -> Float[Arr, "b out"]:',
        ),
        ("def forward(self, batch):", 'def forward(self, batch) -> Float[Arr, "{batch.batch_size} 3"]:'),
    ),
    "vit": (
        (
            "def forward(self, x, **kwargs):",
            'def forward(self, x: Float[Arr, "b n d"], **kwargs) -> Float[Arr, "b n d"]:',
        ),
        ("def forward(self, x):", 'def forward(self, x: Float[Arr, "b n d"]) -> Float[Arr, "b n d"]:'),
        ("def forward(self, img):", 'def forward(self, img: Float[Arr, "b 3 h w"]) -> Float[Arr, "b 10"]:'),
    ),
    "bert": (
        (
            "def forward(self, input_ids):",
            'def forward(self, input_ids: Int[Arr, "b t"]) -> Float[Arr, "b t 24"]:',
        ),
        (
            "def transpose_for_scores(self, x):",
            'def transpose_for_scores(self, x: Float[Arr, "b t d"])'
            ' -> Float[Arr, "b {self.heads} t {self.head_size}"]:',
        ),
        (
            "def forward(self, hidden_states, attention_mask):",
            'def forward(self, hidden_states: Float[Arr, "b t d"], attention_mask: Float[Arr, "b 1 1 t"])'
            ' -> Float[Arr, "b t d"]:',
        ),
        (
            "def forward(self, hidden_states, mask):",
            'def forward(self, hidden_states: Float[Arr, "b t d"], mask: Float[Arr, "b 1 1 t"])'
            ' -> Float[Arr, "b t d"]:',
        ),
        (
            "def forward(self, input_ids, attention_mask, labels=None):",
            'def forward(self, input_ids: Int[Arr, "b t"], attention_mask: Int[Arr, "b t"],'
            ' labels: Int[Arr, "b"] | None = None) -> tuple[Float[Arr, ""], Float[Arr, "b 2"]]:',
        ),
    ),
    "simclr": (
        (
            "def embed(self, x):",
            'def embed(self, x: Float[Arr, "b 3 16 16"]) -> Float[Arr, "b {self.features}"]:',
        ),
        (
            "def info_nce_loss(self, features):",
            'def info_nce_loss(self, features: Float[Arr, "n d"]) -> tuple[Float[Arr, "n n"], Int[Arr, "n"]]:',
        ),
    ),
}  # fmt: skip


def annotated(program: str, source: str) -> str:
    """The text, right or with a fault, with the shapes of its program in it; a line that a fault changed stays bare."""
    head, blank, rest = source.partition("\n\n")
    text = f"{head}\n{IMPORTS}\n{rest}" if blank else source
    for old, new in SIGNATURES[program]:
        text = _decorated(text, old, new)
    if text.count("\n") != source.count("\n"):
        raise ValueError(f"{program}: the annotations moved lines")
    return text


def _decorated(text: str, old: str, new: str) -> str:
    lines = text.split("\n")
    for number, line in enumerate(lines):
        if line.lstrip() == old and not lines[number - 1].strip():
            indent = line[: len(line) - len(old)]
            lines[number - 1], lines[number] = f"{indent}{DECORATOR}", indent + new
    return "\n".join(lines)
