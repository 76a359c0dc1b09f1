"""torchvision and Pillow without a picture: sizes and channels are as the originals', and wrong calls fail."""

import pytest
from checking import checked, line_of, told

pytestmark = pytest.mark.slow

pytest.importorskip("torch")

HEAD = "import torch\nfrom torch.utils.data import DataLoader\nfrom torchvision import datasets, models, transforms, utils\n"

RIGHT = {
    "mnist": """
        t = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1,), (0.3,))])
        data = datasets.MNIST('x', train=True, transform=t, download=True)
        for image, label in DataLoader(data, batch_size=8):
            assert image.shape[1:] == (1, 28, 28) and image.dtype == torch.float32 and label.dtype == torch.int64
        """,
    "cifar": """
        t = transforms.Compose([transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(),
                                transforms.ToTensor(), transforms.Normalize((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))])
        data = datasets.CIFAR10('x', transform=t)
        for image, label in DataLoader(data, batch_size=4, drop_last=True):
            assert image.shape == (4, 3, 32, 32)
        assert data.data.shape[1:] == (32, 32, 3) and len(data.classes) == 10
        """,
    "folder": """
        t = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(),
                                transforms.Normalize((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))])
        data = datasets.ImageFolder('nowhere', t)
        layer = torch.nn.Linear(3 * 224 * 224, len(data.classes))
        for image, label in DataLoader(data, batch_size=2):
            torch.nn.functional.cross_entropy(layer(image.flatten(1)), label)
        """,
    "fake": """
        data = datasets.FakeData(size=6, image_size=(3, 24, 20), num_classes=7, transform=transforms.ToTensor())
        image, label = data[2]
        assert image.shape == (3, 24, 20) and len(data) == 6
        """,
    "grey": """
        t = transforms.Compose([transforms.Grayscale(3), transforms.Pad((1, 2)), transforms.Resize((16, 24)),
                                transforms.ToTensor()])
        image, _ = datasets.FashionMNIST('x', transform=t)[0]
        assert image.shape == (3, 16, 24)
        """,
    "grid": """
        grid = utils.make_grid(torch.zeros(7, 1, 28, 28), nrow=3)
        assert grid.shape == (3, 3 * 30 + 2, 3 * 30 + 2)
        utils.save_image(torch.zeros(4, 3, 8, 8), 'x.png')
        """,
    "picture": """
        from PIL import Image
        image = transforms.ToPILImage()(torch.zeros(3, 10, 20))
        assert image.size == (20, 10) and image.mode == 'RGB'
        assert image.convert('L').resize((5, 6)).size == (5, 6)
        assert len(image.split()) == 3 and image.rotate(90, expand=True).size == (10, 20)
        assert transforms.functional.to_tensor(image.crop((2, 3, 9, 8))).shape == (3, 5, 7)
        assert isinstance(image, Image.Image)
        """,
    "models": """
        image = torch.zeros(2, 3, 64, 64)
        for name in ('resnet18', 'vgg11_bn', 'alexnet', 'mobilenet_v2', 'squeezenet1_1'):
            model = models.__dict__[name](num_classes=7).eval()
            assert model(image).shape == (2, 7), name
        model = models.resnet50(weights=models.ResNet50_Weights.DEFAULT)
        model.fc = torch.nn.Linear(model.fc.in_features, 3)
        assert model.eval()(image).shape == (2, 3)
        """,
}

WRONG = {
    "channels": (
        "t = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.5,) * 3)])\n"
        "image, _ = datasets.MNIST('x', transform=t)[0]  # here\n",
        "RuntimeError",
    ),
    "normalize-first": (
        "t = transforms.Compose([transforms.Normalize((0.5,), (0.5,)), transforms.ToTensor()])\n"
        "image, _ = datasets.MNIST('x', transform=t)[0]  # here\n",
        "TypeError",
    ),
    "crop": (
        "t = transforms.Compose([transforms.RandomCrop(40), transforms.ToTensor()])\n"
        "image, _ = datasets.CIFAR10('x', transform=t)[0]  # here\n",
        "ValueError",
    ),
    "ragged": (
        "data = datasets.ImageFolder('nowhere', transforms.Compose([transforms.Resize(64), transforms.ToTensor()]))\n"
        "for image, label in DataLoader(data, batch_size=4):  # here\n    pass\n",
        "RuntimeError",
    ),
    "untransformed": (
        "for image, label in DataLoader(datasets.CIFAR10('x'), batch_size=4):  # here\n    pass\n",
        "TypeError",
    ),
    "head": (
        "model = models.resnet18()\nmodel.fc = torch.nn.Linear(256, 10)\nmodel(torch.zeros(2, 3, 64, 64))  # here\n",
        "RuntimeError",
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_pictures_have_the_sizes_they_would_have(name, tmp_path):
    """Assertions on sizes, channels and lengths hold for all sizes of the outside."""
    import textwrap

    report = checked(tmp_path, HEAD + textwrap.dedent(RIGHT[name]))
    assert report.verdict.value == "proved", told(report)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_calls_fail_as_the_originals(name, tmp_path):
    """A transform or model that does not fit is found at the line that runs it."""
    text, error = WRONG[name]
    report = checked(tmp_path, HEAD + text, seconds=15)
    assert [finding.failure.error for finding in report.findings] == [error], told(report)
    assert report.findings[0].failure.place.line == line_of(HEAD + text, "# here")
    assert report.findings[0].confirmed


def test_a_data_set_has_one_length_and_a_readable_name(tmp_path):
    """The same set has the same symbol wherever it is made; another part has another."""
    report = checked(
        tmp_path,
        HEAD
        + "a = datasets.MNIST('x')\nb = datasets.MNIST('x')\nc = datasets.MNIST('x', train=False)\n"
        + "assert len(a) == len(b)\nassert len(a) >= 1\n",
    )
    assert report.verdict.value == "proved", told(report)
    meanings = {s.name: s.meaning for s in report.symbols}
    assert meanings == {
        "N": "length of torchvision.datasets.MNIST (train)",
        "M": "length of torchvision.datasets.MNIST (test)",
    }


def test_a_picture_file_keeps_its_mode_and_size(tmp_path):
    """Files that are there are looked at; a file that is not may have any mode."""
    Image = pytest.importorskip("PIL.Image")
    Image.new("LA", (7, 5)).save(tmp_path / "a.png")
    text = f"""
        from PIL import Image
        from torchvision import transforms
        image = Image.open({str(tmp_path / "a.png")!r})
        assert image.mode == 'LA' and image.size == (7, 5)
        assert transforms.ToTensor()(image).shape == (2, 5, 7)
        other = Image.open('nowhere.png')
        x = transforms.ToTensor()(other)
        torch_like = x.view(3, -1)  # here
        """
    report = checked(tmp_path, text)
    assert [finding.failure.place.line for finding in report.findings] == [line_of(text, "# here")], told(
        report
    )
