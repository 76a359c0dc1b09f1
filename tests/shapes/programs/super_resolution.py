"""Images made larger by sub-pixel convolution; reads a folder of images through Pillow."""

import argparse
import functools
import time
from math import log10
from pathlib import Path

import torch
import torch.nn as nn
import torch.optim as optim
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import CenterCrop, Compose, Resize, ToTensor


def calculate_valid_crop_size(crop_size, upscale_factor):
    return crop_size - (crop_size % upscale_factor)


def load_img(path):
    img = Image.open(path).convert("YCbCr")
    y, _, _ = img.split()
    return y


class DatasetFromFolder(Dataset):
    def __init__(self, folder, input_transform=None, target_transform=None):
        super().__init__()
        self.paths = sorted(p for p in Path(folder).iterdir() if p.suffix in {".png", ".jpg", ".jpeg"})
        self.input_transform = input_transform
        self.target_transform = target_transform

    def __getitem__(self, index):
        image = load_img(self.paths[index])
        target = image.copy()
        if self.input_transform:
            image = self.input_transform(image)
        if self.target_transform:
            target = self.target_transform(target)
        return image, target

    def __len__(self):
        return len(self.paths)


def make_dataset(folder, crop_size, upscale_factor):
    size = calculate_valid_crop_size(crop_size, upscale_factor)
    return DatasetFromFolder(
        folder,
        input_transform=Compose([CenterCrop(size), Resize(size // upscale_factor), ToTensor()]),
        target_transform=Compose([CenterCrop(size), ToTensor()]),
    )


class Net(nn.Module):
    def __init__(self, upscale_factor):
        super().__init__()
        self.relu = nn.ReLU()
        self.conv1 = nn.Conv2d(1, 8, (5, 5), (1, 1), (2, 2))
        self.conv2 = nn.Conv2d(8, 8, (3, 3), (1, 1), (1, 1))
        self.conv3 = nn.Conv2d(8, 4, (3, 3), (1, 1), (1, 1))
        self.conv4 = nn.Conv2d(4, upscale_factor**2, (3, 3), (1, 1), (1, 1))
        self.pixel_shuffle = nn.PixelShuffle(upscale_factor)
        self._initialize_weights()

    def forward(self, x):
        for layer in (self.conv1, self.conv2, self.conv3):
            x = self.relu(layer(x))
        return self.pixel_shuffle(self.conv4(x))

    def _initialize_weights(self):
        gain = nn.init.calculate_gain("relu")
        for conv in (self.conv1, self.conv2, self.conv3):
            nn.init.orthogonal_(conv.weight, gain)
        nn.init.orthogonal_(self.conv4.weight)


def timed(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            print(f"{function.__name__}: {time.perf_counter() - start:.2f} s")

    return wrapper


@timed
def train(model, loader, criterion, optimizer, epoch):
    epoch_loss = 0.0
    for iteration, (image, target) in enumerate(loader, 1):
        optimizer.zero_grad()
        loss = criterion(model(image), target)
        epoch_loss += loss.item()
        loss.backward()
        optimizer.step()
        print(f"===> Epoch[{epoch}]({iteration}/{len(loader)}): Loss: {loss.item():.4f}")
    print(f"===> Epoch {epoch} Complete: Avg. Loss: {epoch_loss / max(len(loader), 1):.4f}")


@torch.no_grad()
def test(model, loader, criterion):
    avg_psnr = 0
    for image, target in loader:
        prediction = model(image)
        mse = criterion(prediction, target)
        avg_psnr += 10 * log10(1 / max(mse.item(), 1e-12))
    print(f"===> Avg. PSNR: {avg_psnr / max(len(loader), 1):.4f} dB")


def main(argv=None):
    parser = argparse.ArgumentParser(description="Super resolution")
    parser.add_argument("--data", type=Path, default=Path("images"))
    parser.add_argument("--upscale-factor", type=int, default=2)
    parser.add_argument("--crop-size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--test-batch-size", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--lr", type=float, default=0.01)
    opt = parser.parse_args(argv)
    print(vars(opt))

    dataset = make_dataset(opt.data, opt.crop_size, opt.upscale_factor)
    training_loader = DataLoader(dataset=dataset, batch_size=opt.batch_size, shuffle=True)
    testing_loader = DataLoader(dataset=dataset, batch_size=opt.test_batch_size, shuffle=False)
    model = Net(upscale_factor=opt.upscale_factor)
    criterion = nn.MSELoss()
    optimizer = optim.Adam(model.parameters(), lr=opt.lr)
    for epoch in range(1, opt.epochs + 1):
        train(model, training_loader, criterion, optimizer, epoch)
        test(model, testing_loader, criterion)
        torch.save(model, path := f"model_epoch_{epoch}.pth")
        print(f"Checkpoint saved to {path}")


if __name__ == "__main__":
    main()
