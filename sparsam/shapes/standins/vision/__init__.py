"""torchvision where it is not installed: its data sets without data, its transforms, models and drawing, in our words."""

MODULES = {
    "torchvision": "package",
    "torchvision.datasets": "datasets",
    "torchvision.datasets.folder": "datasets",
    "torchvision.datasets.mnist": "datasets",
    "torchvision.datasets.cifar": "datasets",
    "torchvision.datasets.utils": "drawing",
    "torchvision.transforms": "transforms",
    "torchvision.transforms.transforms": "transforms",
    "torchvision.transforms.functional": "functional",
    "torchvision.transforms.v2": "transforms",
    "torchvision.transforms.v2.functional": "functional",
    "torchvision.models": "models",
    "torchvision.models.resnet": "residual",
    "torchvision.models.vgg": "plain_networks",
    "torchvision.utils": "drawing",
}  # module: our module below this package
