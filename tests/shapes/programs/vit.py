"""A vision transformer on small images, its attention written with einsum."""

import argparse
from functools import partial

import torch
import torch.nn.functional as F
from torch import einsum, nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

SOURCES = {"cifar10": datasets.CIFAR10, "mnist": datasets.MNIST}


def progress(iterable, *, every=10, **labels):
    """The items, with a line now and then."""
    for count, item in enumerate(iterable, 1):
        yield item
        if count % every == 0:
            print(f"{count}/{len(iterable)}", *(f"{name}={value}" for name, value in labels.items()))


def pair(t):
    return t if isinstance(t, tuple) else (t, t)


class PreNorm(nn.Module):
    def __init__(self, dim, fn):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fn = fn

    def forward(self, x, **kwargs):
        return self.fn(self.norm(x), **kwargs) + x


class Attention(nn.Module):
    def __init__(self, dim, heads=8, dim_head=8, dropout=0.0):
        super().__init__()
        inner_dim = dim_head * heads
        self.heads, self.dim_head = heads, dim_head
        self.scale = dim_head**-0.5
        self.to_qkv = nn.Linear(dim, inner_dim * 3, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner_dim, dim), nn.Dropout(dropout))

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = (
            t.reshape(b, n, self.heads, self.dim_head).transpose(1, 2)
            for t in self.to_qkv(x).chunk(3, dim=-1)
        )
        dots = einsum("bhid,bhjd->bhij", q, k) * self.scale
        attn = dots.softmax(dim=-1)
        out = einsum("bhij,bhjd->bhid", attn, v)
        return self.to_out(out.transpose(1, 2).flatten(2))


def feed_forward(dim, hidden_dim, dropout=0.0):
    return nn.Sequential(
        nn.Linear(dim, hidden_dim),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(hidden_dim, dim),
        nn.Dropout(dropout),
    )


class ViT(nn.Module):
    def __init__(self, *, image_size, patch_size, num_classes, dim, depth, heads, mlp_dim, channels=3):
        super().__init__()
        (image_height, image_width), (patch_height, patch_width) = pair(image_size), pair(patch_size)
        if image_height % patch_height or image_width % patch_width:
            raise ValueError("Image dimensions must be divisible by the patch size.")
        num_patches = (image_height // patch_height) * (image_width // patch_width)
        patch_dim = channels * patch_height * patch_width
        self.patch = patch_height, patch_width
        self.patch_embedding = nn.Linear(patch_dim, dim)
        self.pos_embedding = nn.Parameter(torch.randn(1, num_patches + 1, dim))
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        block = partial(PreNorm, dim)
        self.layers = nn.ModuleList(
            nn.ModuleList([block(Attention(dim, heads=heads)), block(feed_forward(dim, mlp_dim))])
            for _ in range(depth)
        )
        self.mlp_head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, num_classes))

    def forward(self, img):
        patches = F.unfold(img, self.patch, stride=self.patch).transpose(1, 2)
        x = self.patch_embedding(patches)
        b, n, _ = x.shape
        cls_tokens = self.cls_token.expand(b, -1, -1)
        x = torch.cat((cls_tokens, x), dim=1)
        x = x + self.pos_embedding[:, : n + 1]
        for attn, ff in self.layers:
            x = ff(attn(x))
        return self.mlp_head(x[:, 0])


def loaders(args):
    make = SOURCES[args.dataset]
    common = [
        transforms.Lambda(lambda img: img.convert("RGB")),
        transforms.Resize((args.image_size, args.image_size)),
        transforms.ToTensor(),
    ]
    train = make("data", train=True, download=True, transform=transforms.Compose(common))
    test = make("data", train=False, download=True, transform=transforms.Compose(common))
    return DataLoader(train, args.batch_size, shuffle=True), DataLoader(test, args.batch_size)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset", choices=sorted(SOURCES), default="cifar10")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--image-size", type=int, default=16)
    parser.add_argument("--patch-size", type=int, default=8)
    parser.add_argument("--dim", type=int, default=24)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--heads", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--lr", type=float, default=3e-4)
    args = parser.parse_args()

    train_loader, valid_loader = loaders(args)
    model = ViT(
        image_size=args.image_size,
        patch_size=args.patch_size,
        num_classes=10,
        dim=args.dim,
        depth=args.depth,
        heads=args.heads,
        mlp_dim=2 * args.dim,
    )
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=args.epochs)
    for epoch in range(args.epochs):
        epoch_loss = epoch_accuracy = 0.0
        for data, label in progress(train_loader, epoch=epoch):
            output = model(data)
            loss = criterion(output, label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            acc = (output.argmax(dim=1) == label).float().mean()
            epoch_accuracy += acc.item() / len(train_loader)
            epoch_loss += loss.item() / len(train_loader)
        scheduler.step()
        model.eval()
        with torch.no_grad():
            right = [(model(data).argmax(1) == label).sum().item() for data, label in valid_loader]
        model.train()
        print(
            f"Epoch: {epoch + 1} - loss: {epoch_loss:.4f} - acc: {epoch_accuracy:.4f} - right: {sum(right)}"
        )
    torch.save({"model": model.state_dict(), "args": vars(args)}, "vit.pt")


if __name__ == "__main__":
    main()
