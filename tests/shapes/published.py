"""Nine training programs of the repository ropas/pytea, with their arguments and where the running framework raises."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Published:
    """A program.

    Args:
        script: In its folder.
        arguments: Those of its configuration.
        at: File and line of each finding; "" if it is right.
        below: What the witness must be: a symbol of which the meaning has this word, and a bound that it is below.
    """

    script: str
    arguments: tuple[str, ...] = ()
    at: str = ""
    below: tuple[str, int] | None = None


PROGRAMS = {
    "transformer": Published("main.py", (), "modeling_bert.py:188"),
    "vae": Published("main.py", ("epochs=1", "seed=1"), "main.py:117", ("length of torchvision", 128)),
    "imagenet": Published("main.py", ("data=./data", "epochs=1")),
    "fast_neural_style": Published(
        "neural_style/neural_style.py",
        ("subcommand=train", "epochs=1", "cuda=0", "dataset=./none", "save_model_dir=./", "image_size=64"),
        "vgg.py:30 vgg.py:32 vgg.py:34",
        ("image file", 8),
    ),
    "time_sequence_prediction": Published("train.py", ("steps=1",)),
    "word_language_model": Published("main.py", ("epochs=1",)),
    "mnist_hogwild": Published("main.py", ("epochs=1",)),
    "snli": Published("train.py"),
    "stochastic-resnet": Published(
        "train.py",
        ("teacher_epochs=1", "batch_size=16", "batch_size_test=8"),
        "train.py:184",
        ("length of torchvision", 10),
    ),
}
