"""Tensors that a program puts on another device lie there; mixed with others of the CPU they are errors where torch says so."""

import pytest
import torch
from test_strictness import HEAD

from sparsam.shapes.check import check
from sparsam.shapes.verdict import Report, Verdict

MIXED = {
    "sum": "torch.rand(3, device='cuda') + torch.rand(3)",
    "sum in place": "torch.rand(3, device='cuda').add_(torch.rand(1))",
    "number on the GPU": "torch.rand(3) * torch.rand(3).cuda().sum()",
    "layer left behind": "nn.Linear(3, 2)(torch.rand(4, 3).to('cuda'))",
    "layer moved": "nn.Linear(3, 2).to('cuda')(torch.rand(4, 3))",
    "convolution": "nn.Conv2d(3, 2, 3).cuda()(torch.rand(4, 3, 8, 8))",
    "norm": "nn.BatchNorm1d(3)(torch.rand(4, 3).cuda())",
    "norm of layers": "nn.LayerNorm(3).cuda()(torch.rand(4, 3))",
    "recurrent layer": "nn.LSTM(3, 2).cuda()(torch.rand(4, 1, 3))",
    "attention": "nn.MultiheadAttention(4, 2).cuda()(*[torch.rand(5, 1, 4)] * 3)",
    "embedding": "nn.Embedding(5, 3).cuda()(torch.zeros(2, dtype=torch.long))",
    "loss": "F.cross_entropy(nn.Linear(3, 2).cuda()(torch.rand(4, 3).cuda()), torch.zeros(4, dtype=torch.long))",
    "joined": "torch.cat([torch.rand(2).cuda(), torch.rand(2)])",
    "stacked": "torch.stack([torch.rand(2).cuda(), torch.rand(2)])",
    "index of another device": "torch.rand(3)[torch.zeros(2, dtype=torch.long, device='cuda')]",
    "chosen": "torch.where(torch.rand(3) > 0, torch.rand(3).cuda(), torch.rand(3).cuda())",
    "gathered": "torch.rand(3, 4).cuda().gather(1, torch.zeros(3, 1, dtype=torch.long))",
    "default device": "[torch.set_default_device('cuda'), torch.rand(3) + torch.rand(3, device='cpu')]",
    "array": "torch.rand(3, device='cuda').numpy()",
    "lengths": "nn.utils.rnn.pack_padded_sequence(torch.rand(3, 2, 4).cuda(), torch.ones(2, dtype=torch.long).cuda())",
    "number of a device": "nn.Linear(3, 2).to(0)(torch.rand(4, 3))",
    "moved back": "nn.Linear(3, 2).cuda()(torch.rand(4, 3).cuda().cpu())",
    "replica without devices": "nn.parallel.DistributedDataParallel(nn.Linear(3, 2).cuda())(torch.rand(4, 3))",
    "data": "[(layer := nn.Linear(3, 2)), setattr(layer.weight, 'data', layer.weight.data.cuda()), layer(torch.rand(4, 3))]",
}
TOGETHER = {
    "sum": "torch.rand(3, device='cuda') + torch.rand(3, device='cuda:0')",
    "numbers": "torch.rand(3).cuda() * torch.tensor(2.0) + torch.rand(3).sum() + 1",
    "layer": "nn.Linear(3, 2).to('cuda')(torch.rand(4, 3).cuda())",
    "like another": "(lambda x, y: x + y.to(x) + y.type_as(x))(torch.rand(3).cuda(), torch.rand(3))",
    "made for another": "(lambda x: x + torch.arange(3, device=x.device) + x.new_ones(3) + torch.ones_like(x))("
    "torch.rand(3).cuda())",
    "index of the CPU": "torch.rand(3).cuda()[torch.zeros(2, dtype=torch.long)] + torch.rand(2).cuda()",
    "copied": "torch.rand(3).cuda().copy_(torch.rand(3)) + torch.rand(3).cuda()",
    "written": "torch.rand(3, 2).cuda().__setitem__(0, torch.rand(2))",
    "attention": "nn.MultiheadAttention(4, 2, add_zero_attn=True).cuda()(*[torch.rand(5, 1, 4).cuda()] * 3)",
    "transformer": "nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8), 2).cuda()(torch.rand(5, 2, 4).cuda(), "
    "nn.Transformer.generate_square_subsequent_mask(5).cuda())",
    "recurrent layer": "nn.LSTM(3, 2, 2).cuda()(torch.rand(4, 1, 3).cuda())[0] + torch.rand(2).cuda()",
    "norm": "nn.BatchNorm2d(3).cuda()(torch.rand(4, 3, 5, 5).cuda())",
    "loss": "F.cross_entropy(torch.rand(4, 3).cuda(), torch.zeros(4, dtype=torch.long).cuda()).backward",
    "default device": "[torch.set_default_device('cuda'), torch.rand(3) + torch.rand(3, device='cuda')]",
    "within a device": "[(context := torch.device('cuda')).__enter__(), nn.Linear(3, 2)(torch.rand(4, 3)), "
    "context.__exit__(None, None, None), nn.Linear(3, 2)(torch.rand(4, 3))]",
    "array": "torch.rand(3, device='cuda').cpu().numpy()",
    "packed": "nn.utils.rnn.pack_padded_sequence(torch.rand(3, 2, 4).cuda(), torch.ones(2, dtype=torch.long)).data "
    "+ torch.rand(4).cuda()",
    "number of a device": "nn.Linear(3, 2).to(0)(torch.rand(4, 3).to(0))",
    "copied layer": "__import__('copy').deepcopy(nn.Linear(3, 2).cuda())(torch.rand(4, 3).cuda())",
    "chance": "torch.rand(3, generator=torch.Generator(device='cuda'), device='cuda') + torch.rand(3).cuda()",
    "gradients": "[(layer := nn.Linear(3, 1).cuda()), layer(torch.rand(4, 3).cuda()).sum().backward(), "
    "layer.weight.grad + layer.weight]",
    "replicas": "nn.DataParallel(nn.Linear(3, 2)).cuda()(torch.rand(4, 3)) + torch.rand(2).cuda()",
    "replica of a device": "nn.parallel.DistributedDataParallel(nn.Linear(3, 2).cuda(), device_ids=[0])(torch.rand(4, 3))",
    "an empty start": "torch.cat([torch.empty(0), torch.rand(2).cuda()])",
    "names": "(lambda x: [0][x.device != torch.device('cuda:0') or not x.is_cuda or x.cpu().is_cuda])(torch.rand(1).cuda())",
}


def checked(line: str, tmp_path) -> Report:
    """The report on a function of one line."""
    file = tmp_path / "piece.py"
    file.write_text(f"{HEAD}def f(n):\n    {line}\n")
    return check(f"{file}:f", ["n=N:float32"], sandboxed=False)


@pytest.mark.parametrize("name", MIXED)
def test_devices_mixed(name, tmp_path):
    """What torch refuses on a GPU is an error at the line."""
    report = checked(MIXED[name], tmp_path)
    assert report.verdict is Verdict.ERROR, report
    (finding,) = report.findings
    assert finding.confirmed
    assert "device" in finding.failure.text or "CPU" in finding.failure.text


@pytest.mark.parametrize("name", TOGETHER)
def test_devices_together(name, tmp_path):
    """What goes together raises no alarm."""
    report = checked(TOGETHER[name], tmp_path)
    assert report.verdict is Verdict.PROVED, (report.findings, report.unknowns)


def test_the_two_devices_are_told(tmp_path):
    """The message names both, and says what to do."""
    (finding,) = checked("nn.Linear(3, 2).cuda()(torch.rand(4, 3))", tmp_path).findings
    assert finding.code == "device-mix"
    assert "cpu and cuda:0" in finding.message
    assert ".to(" in finding.fix


def test_a_default_device_ends_with_its_run(tmp_path):
    """The next run begins on the CPU."""
    assert checked("torch.set_default_device('cuda')", tmp_path).verdict is Verdict.PROVED
    assert torch.get_default_device() == torch.device("cpu")
    assert torch.empty(1).device.type == "cpu"


TRAINING = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

def train(n):
    device = torch.device("cuda")
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x, y in DataLoader(TensorDataset(torch.rand(n, 3), torch.zeros(n, dtype=torch.long)), batch_size=8):
        x = x.to(device, non_blocking=True)
        loss = nn.functional.cross_entropy(model(x), TARGET)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
"""


@pytest.mark.parametrize(("target", "verdict"), [("y", Verdict.ERROR), ("y.to(device)", Verdict.PROVED)])
def test_a_batch_that_is_left_behind(target, verdict, tmp_path):
    """In a training loop the tensor that was not moved is found, and the mended loop is proved."""
    file = tmp_path / "train.py"
    file.write_text(TRAINING.replace("TARGET", target))
    report = check(f"{file}:train", ["n=1..100"], sandboxed=False)
    assert report.verdict is verdict, report
    assert all(
        finding.code == "device-mix" and finding.failure.place.line == 12 for finding in report.findings
    )


ASKED = """
import torch
from torch import nn

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if torch.cuda.device_count():
    print(torch.cuda.get_device_properties(0))
model = nn.Linear(3, 2).to(device)
model(X)
"""


@pytest.mark.parametrize(
    ("made", "verdict"),
    [
        ("torch.rand(4, 3)", Verdict.ERROR),
        ("torch.rand(4, 3, device=device)", Verdict.PROVED),
        ("torch.rand(4, 3).to(device)", Verdict.PROVED),
    ],
)
def test_programs_that_ask_for_a_gpu(made, verdict, tmp_path):
    """Both answers are tried, and what only a GPU's program would need beyond its devices is no error."""
    file = tmp_path / "asks.py"
    file.write_text(
        ASKED.replace("X", made).replace("    print(torch.cuda.get_device_properties(0))", "    pass")
    )
    report = check(str(file), [], sandboxed=False)
    assert report.verdict is verdict, report
    assert [finding.code for finding in report.findings] == ["device-mix"] * (verdict is Verdict.ERROR)
    file.write_text(ASKED.replace("X", "torch.rand(4, 3)"))
    assert check(str(file), [], sandboxed=False).verdict is Verdict.PROVED


TEXTS = """
import torch
from torchtext import data, datasets

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
text, label = data.Field(), data.LabelField()
train, valid, test = datasets.SNLI.splits(text, label)
text.build_vocab(train, valid, test)
label.build_vocab(train)
batches, _, _ = data.BucketIterator.splits((train, valid, test), batch_size=8, DEVICE)
model = torch.nn.Embedding(len(text.vocab), 4).to(device)
for batch in batches:
    model(batch.premise).sum(0)
"""


@pytest.mark.parametrize(
    ("given", "verdict"), [("device=device", Verdict.PROVED), ("shuffle=True", Verdict.ERROR)]
)
def test_batches_of_texts_lie_where_they_were_asked_for(given, verdict, tmp_path):
    """An iterator that was given a device moves its batches there, and one that was not does not."""
    file = tmp_path / "texts.py"
    file.write_text(TEXTS.replace("DEVICE", given))
    report = check(str(file), [], sandboxed=False)
    assert report.verdict is verdict, report
    assert [finding.code for finding in report.findings] == ["device-mix"] * (verdict is Verdict.ERROR)


NEEDED = """
import torch
from torch import nn

BEFORE
device = "cuda" if torch.cuda.is_available() else "cpu"
model = nn.Linear(3, 2).to(device)
positions = torch.rand(4, 3).cuda()
if torch.rand(()) > 0.5:
    model(positions).view(VIEW)
"""


@pytest.mark.parametrize("before", ["", "torch.rand(1).cuda()"])
@pytest.mark.parametrize(("view", "code"), [("2, 4", None), ("9", "view-numel")])
def test_a_program_that_needs_a_gpu_is_checked_as_on_a_machine_with_one(before, view, code, tmp_path):
    """What it puts on a GPU without asking meets what it puts there because there is one; its sizes are all looked at."""
    file = tmp_path / "needs.py"
    file.write_text(NEEDED.replace("BEFORE", before).replace("VIEW", view))
    report = check(str(file), [], sandboxed=False)
    assert [finding.code for finding in report.findings] == ([code] if code else []), report
    assert report.verdict is (Verdict.ERROR if code else Verdict.PROVED)
    assert {path.ending for path in report.paths} <= {"end", "error", "merged"}


SOME_WAYS = """
import torch
from torch import nn

if torch.rand(()) > 0.5:
    torch.rand(3).cuda()
if not torch.cuda.is_available():
    torch.rand(3).view(4)
if torch.rand(()) > 0.5:
    torch.rand(3).cuda()
"""


def test_ways_without_a_gpu_are_looked_at_too(tmp_path):
    """A program some of whose ways need a GPU is checked without one, too."""
    file = tmp_path / "some.py"
    file.write_text(SOME_WAYS)
    report = check(str(file), [], sandboxed=False)
    assert [(finding.code, finding.failure.place.line) for finding in report.findings] == [("view-numel", 8)]
