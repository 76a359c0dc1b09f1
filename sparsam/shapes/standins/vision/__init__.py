"""torchvision where it is not installed: its data sets without data, its transforms, models and drawing, in our words."""

from sparsam.shapes.standins.vision import (
    datasets,
    drawing,
    functional,
    models,
    package,
    plain_networks,
    residual,
    transforms,
)

MODULES = {
    "torchvision": package,
    "torchvision.datasets": datasets,
    "torchvision.datasets.folder": datasets,
    "torchvision.datasets.mnist": datasets,
    "torchvision.datasets.cifar": datasets,
    "torchvision.datasets.utils": drawing,
    "torchvision.transforms": transforms,
    "torchvision.transforms.transforms": transforms,
    "torchvision.transforms.functional": functional,
    "torchvision.transforms.v2": transforms,
    "torchvision.transforms.v2.functional": functional,
    "torchvision.models": models,
    "torchvision.models.resnet": residual,
    "torchvision.models.vgg": plain_networks,
    "torchvision.utils": drawing,
}  # name: what stands in for it
