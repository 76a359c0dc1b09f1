"""A generator and a discriminator of small images against each other."""

import argparse
import itertools
import random
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.optim as optim
from torchvision import datasets, transforms
from torchvision import utils as vutils


@dataclass
class Widths:
    nc: int
    nz: int
    ngf: int = 4
    ndf: int = 4


def weights_init(m):
    classname = m.__class__.__name__
    if "Conv" in classname:
        nn.init.normal_(m.weight, 0.0, 0.02)
    elif classname.find("BatchNorm") != -1:
        torch.nn.init.normal_(m.weight, 1.0, 0.02)
        torch.nn.init.zeros_(m.bias)


class Generator(nn.Module):
    def __init__(self, w: Widths):
        super().__init__()
        self.main = nn.Sequential(
            nn.ConvTranspose2d(w.nz, w.ngf * 4, 4, 1, 0, bias=False),
            nn.BatchNorm2d(w.ngf * 4),
            nn.ReLU(True),
            nn.ConvTranspose2d(w.ngf * 4, w.ngf * 2, 4, 2, 1, bias=False),  # 4 to 8
            nn.BatchNorm2d(w.ngf * 2),
            nn.ReLU(True),
            nn.ConvTranspose2d(w.ngf * 2, w.ngf, 4, 2, 1, bias=False),  # 8 to 16
            nn.BatchNorm2d(w.ngf),
            nn.ReLU(True),
            nn.ConvTranspose2d(w.ngf, w.nc, 4, 2, 1, bias=False),  # 16 to 32
            nn.Tanh(),
        )

    def forward(self, z):
        return self.main(z)


class Discriminator(nn.Module):
    def __init__(self, w: Widths):
        super().__init__()
        widths = [w.nc, w.ndf, w.ndf * 2, w.ndf * 4]
        layers = []
        for position, (before, after) in enumerate(itertools.pairwise(widths)):
            layers.append(nn.Conv2d(before, after, 4, 2, 1, bias=False))
            if position:
                layers.append(nn.BatchNorm2d(after))
            layers.append(nn.LeakyReLU(0.2, inplace=True))
        self.main = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4, 1, 0, bias=False), nn.Sigmoid())

    def forward(self, image):
        return self.main(image).view(-1, 1).squeeze(1)


def open_dataset(name, root, size):
    match name:
        case "cifar10":
            steps, centre, nc = [transforms.Resize(size), transforms.ToTensor()], (0.5, 0.5, 0.5), 3
            make = datasets.CIFAR10
        case "mnist":
            steps, centre, nc = [transforms.Resize(size), transforms.ToTensor()], (0.5,), 1
            make = datasets.MNIST
        case _:
            raise ValueError(f"no data set called {name}")
    transform = transforms.Compose([*steps, transforms.Normalize(centre, centre)])
    return make(root=root, download=True, transform=transform), nc


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset", default="cifar10", help="cifar10 | mnist")
    parser.add_argument("--dataroot", default="data")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--nz", type=int, default=100, help="size of the latent z vector")
    parser.add_argument("--niter", type=int, default=1)
    parser.add_argument("--lr", type=float, default=0.0002)
    parser.add_argument("--manual-seed", type=int)
    opt = parser.parse_args()
    if opt.manual_seed is None:
        opt.manual_seed = random.randint(1, 10000)
    torch.manual_seed(opt.manual_seed)

    dataset, nc = open_dataset(opt.dataset, opt.dataroot, 32)
    dataloader = torch.utils.data.DataLoader(dataset, batch_size=opt.batch_size, shuffle=True)
    widths = Widths(nc=nc, nz=opt.nz)
    netG, netD = Generator(widths), Discriminator(widths)
    netG.apply(weights_init)
    netD.apply(weights_init)
    criterion = nn.BCELoss()
    fixed_noise = torch.randn(8, opt.nz, 1, 1)
    real_label, fake_label = 1.0, 0.0
    optimizerD, optimizerG = (optim.Adam(n.parameters(), lr=opt.lr, betas=(0.5, 0.999)) for n in (netD, netG))

    for epoch in range(opt.niter):
        for i, data in enumerate(dataloader, 0):
            netD.zero_grad()
            real = data[0]
            batch_size = real.size(0)
            label = torch.full((batch_size,), real_label, dtype=real.dtype)
            output = netD(real)
            errD_real = criterion(output, label)
            errD_real.backward()
            D_x = output.mean().item()

            noise = torch.randn(batch_size, opt.nz, 1, 1)
            fake = netG(noise)
            label.fill_(fake_label)
            output = netD(fake.detach())
            errD_fake = criterion(output, label)
            errD_fake.backward()
            optimizerD.step()

            netG.zero_grad()
            label.fill_(real_label)
            output = netD(fake)
            errG = criterion(output, label)
            errG.backward()
            optimizerG.step()
            print("[%d/%d][%d/%d] Loss_D: %.4f Loss_G: %.4f D(x): %.4f" % (
                epoch, opt.niter, i, len(dataloader), (errD_real + errD_fake).item(), errG.item(), D_x
            ))  # fmt: skip
            if i % 100 == 0:
                vutils.save_image(real, "real_samples.png", normalize=True)
                with torch.no_grad():
                    vutils.save_image(
                        netG(fixed_noise), f"fake_samples_epoch_{epoch:03d}.png", normalize=True
                    )
        torch.save(netG.state_dict(), f"netG_epoch_{epoch}.pth")
        torch.save(netD.state_dict(), f"netD_epoch_{epoch}.pth")


if __name__ == "__main__":
    main()
