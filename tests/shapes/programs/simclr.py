"""Contrastive learning: two views of each image, a small residual network, the NT-Xent loss."""

import argparse

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import CIFAR10


class TwoViews:
    def __init__(self, transform, n_views=2):
        self.transform, self.n_views = transform, n_views

    def __call__(self, x):
        return [self.transform(x) for _ in range(self.n_views)]


def augmentation(size, s=1.0):
    jitter = transforms.ColorJitter(0.8 * s, 0.8 * s, 0.8 * s, 0.2 * s)
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(size=size),
            transforms.RandomHorizontalFlip(),
            transforms.RandomApply([jitter], p=0.8),
            transforms.RandomGrayscale(p=0.2),
            transforms.ToTensor(),
        ]
    )


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, in_planes, planes, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shortcut = nn.Identity()
        if stride != 1 or in_planes != self.expansion * planes:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_planes, self.expansion * planes, 1, stride=stride, bias=False),
                nn.BatchNorm2d(self.expansion * planes),
            )

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out = out + self.shortcut(x)
        return F.relu(out)


class ResNetSimCLR(nn.Module):
    def __init__(self, out_dim, layers=((4, 1), (8, 2), (8, 2))):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        planes, blocks = 4, []
        for width, stride in layers:
            blocks.append(BasicBlock(planes, width, stride))
            planes = width
        self.blocks = nn.Sequential(*blocks)
        self.features = planes * 4 * 4
        self.projector = nn.Sequential(nn.Linear(self.features, 16), nn.ReLU(), nn.Linear(16, out_dim))

    def embed(self, x):
        return self.blocks(self.stem(x)).flatten(start_dim=1)

    def forward(self, x):
        return self.projector(self.embed(x))


class SimCLR:
    def __init__(self, *, args, model, optimizer, scheduler):
        self.args, self.model, self.optimizer, self.scheduler = args, model, optimizer, scheduler
        self.criterion = torch.nn.CrossEntropyLoss()

    def info_nce_loss(self, features):
        n = self.args.n_views * self.args.batch_size
        features = F.normalize(features, dim=1)
        similarity = torch.matmul(features, features.T) / self.args.temperature
        mask = torch.eye(n, dtype=torch.bool)
        similarity = similarity.masked_fill(mask, -1e9)
        labels = (torch.arange(n) + self.args.batch_size) % n
        return similarity, labels

    def train(self, loader):
        n_iter = 0
        for epoch in range(self.args.epochs):
            for images, _ in loader:
                images = torch.cat(images, dim=0)
                logits, labels = self.info_nce_loss(self.model(images))
                loss = self.criterion(logits, labels)
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                n_iter += 1
                if n_iter % self.args.log_every_n_steps == 0:
                    top1 = (logits.argmax(1) == labels).float().mean().item() * 100
                    print(f"Epoch: {epoch}\tLoss: {loss.item():.3f}\tTop1 accuracy: {top1:.1f}")
            if epoch >= 10:
                self.scheduler.step()
        torch.save({"epoch": self.args.epochs, "state_dict": self.model.state_dict()}, "checkpoint.pth.tar")

    @torch.no_grad()
    def feature_bank(self, loader):
        self.model.eval()
        bank = [F.normalize(self.model.embed(images[0]), dim=1) for images, _ in loader]
        if not bank:
            return torch.zeros(0, self.model.features)
        return torch.cat(bank, dim=0)


def main():
    parser = argparse.ArgumentParser(description="SimCLR")
    parser.add_argument("-b", "--batch-size", default=256, type=int)
    parser.add_argument("--size", default=16, type=int)
    parser.add_argument("--epochs", default=1, type=int)
    parser.add_argument("--lr", default=0.0003, type=float)
    parser.add_argument("--out-dim", default=8, type=int)
    parser.add_argument("--n-views", default=2, type=int)
    parser.add_argument("--temperature", default=0.07, type=float)
    parser.add_argument("--log-every-n-steps", default=10, type=int)
    args = parser.parse_args()
    assert args.n_views == 2, "Only two view training is supported."

    dataset = CIFAR10("./datasets", transform=TwoViews(augmentation(args.size), args.n_views), download=True)
    loader = DataLoader(dataset, batch_size=args.batch_size, shuffle=True, drop_last=True)
    model = ResNetSimCLR(args.out_dim)
    optimizer = torch.optim.Adam(model.parameters(), args.lr, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=max(len(loader), 1), eta_min=0)
    simclr = SimCLR(args=args, model=model, optimizer=optimizer, scheduler=scheduler)
    simclr.train(loader)
    bank = simclr.feature_bank(loader)
    print("bank of %d features of width %d" % (bank.size(0), bank.size(1)))


if __name__ == "__main__":
    main()
