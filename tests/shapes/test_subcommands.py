"""A script with sub-commands gets its words in the order that argparse wants, ranges included."""

import pytest
from checking import checked, line_of, told
from test_shapes_source import COMMANDS

from sparsam.errors import Refused
from sparsam.shapes.verdict import Verdict

USE = (
    COMMANDS
    + """
assert args.device == "cpu2" and args.root == "here"
if args.task == "train":
    assert args.out == "there" and args.seed == 7 and args.how == "fast" and args.steps == 5
    model = torch.nn.Linear(4, args.batch)
    model(torch.zeros(args.batch, 4)).view(args.batch * args.batch)
    torch.zeros(args.batch) + torch.zeros(WIDTH)
else:
    assert args.model == "m"
    torch.zeros(args.batch).view(args.batch)
"""
)
TRAIN = ["steps=5", "batch_size=2..9", "task=train", "out=there", "how=fast", "seed=7", "root=here", "device=cpu2"]  # fmt: skip


def test_words_stand_behind_the_sub_command_that_they_belong_to(tmp_path):
    """Options and positional arguments of three levels, given in any order; a range is a symbol there too."""
    report = checked(tmp_path, USE.replace("WIDTH", "args.batch"), *TRAIN)
    assert report.verdict is Verdict.PROVED, told(report)
    wrong = checked(tmp_path, USE.replace("WIDTH", "9"), *TRAIN)
    assert wrong.verdict is Verdict.ERROR, told(wrong)
    (finding,) = wrong.findings
    assert finding.failure.place.line == line_of(USE, "WIDTH")
    assert 1 < finding.witness["batch_size"] < 9


def test_one_name_in_two_sub_commands_is_that_of_the_chosen_one(tmp_path):
    """The other sub-command has an option of the same name."""
    with pytest.raises(
        Refused, match=r"no option --seed; it has .*--device.*--batch-size"
    ):  # as argparse says of eval
        checked(tmp_path, USE, "device=cpu2", "root=here", "task=eval", "model=m", "batch-size=1..", "seed=7")
    report = checked(tmp_path, USE, "device=cpu2", "root=here", "task=eval", "model=m", "batch-size=1..")
    assert report.verdict is Verdict.PROVED, told(report)
