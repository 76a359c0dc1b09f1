"""Faults planted in the programs over images: mnist, vae, dcgan, super_resolution, vit, simclr."""

from programs.catalogue import Fault

WIDTH = ("linear-width",)
BROADCAST = ("broadcast",)
LOSS = ("loss-shape", "broadcast")
CONV = ("conv-channels", "channels")
CLASSES = ("loss-batch", "loss-target-rank")

IMAGE_FAULTS = (
    Fault(
        "mnist-linear-width", "mnist", (("8 * 12 * 12", "8 * 13 * 13"),), ("self.fc1(x)",), WIDTH,
    ),
    Fault(
        "mnist-view-of-64", "mnist", (("torch.flatten(x, 1)", "x.view(64, -1)"),), ("self.fc1(x)",), WIDTH,
        "last batch", ({}, {"batch_size": 64, "train": 65}),
        ({"batch_size": 64, "test_batch_size": 64, "train": 64, "test": 64},),
    ),
    Fault(
        "mnist-one-hot-buffer", "mnist",
        ((
            "        loss = F.nll_loss(output, target)\n",
            "        onehot = torch.zeros(args.batch_size, 10).scatter_(1, target.unsqueeze(1), 1.0)\n"
            "        loss = F.mse_loss(output, onehot)\n",
        ),),
        ("F.mse_loss(output, onehot)",), LOSS, "last batch",
        ({}, {"train": 3}), ({"train": 9}, {"train": 8}, {"batch_size": 5}),
    ),
    Fault(
        "mnist-softmax-dim", "mnist", (("F.log_softmax(x, dim=1)", "F.log_softmax(x, dim=2)"),),
        ("F.log_softmax(x, dim=2)",), ("dim-range",),
    ),
    Fault(
        "mnist-kernel", "mnist", (("nn.Conv2d(4, 8, 3, 1)", "nn.Conv2d(4, 8, 27, 1)"),), ("self.conv2(x)",),
        ("conv-kernel",),
    ),
    Fault(
        "mnist-float-target", "mnist",
        (("target.to(device)\n        optimizer", "target.float().to(device)\n        optimizer"),),
        ("loss = F.nll_loss(output, target)",), ("loss-target-dtype",), "dtype",
    ),
    Fault(
        "mnist-stacked-predictions", "mnist", (("torch.cat(predictions)", "torch.stack(predictions).flatten()"),),
        ("torch.stack(predictions).flatten()",), ("stack-sizes",), "last batch", ({}, {"test": 4}),
        ({"test": 6}, {"test": 2}),
    ),
    Fault(
        "mnist-three-means", "mnist", (("(0.1307,), (0.3081,)", "(0.1307,) * 3, (0.3081,) * 3"),),
        ("in enumerate(loader)",), ("inplace-shape", "channels"), "image channels",
    ),
    Fault(
        "mnist-no-channel", "mnist",
        (("output = model(data)\n        loss", "output = model(data.squeeze(1))\n        loss"),),
        ("self.conv1(x)", "self.fc1(x)"), (*CONV, *WIDTH), "rank", ({}, {"batch_size": 1}),
    ),
    Fault(
        "vae-first-test-batch", "vae",
        (("recon_batch.view(data.size(0), 1, 28, 28)", "recon_batch.view(args.batch_size, 1, 28, 28)"),),
        ("recon_batch.view(args.batch_size, 1, 28, 28)",), ("view-numel",), "last batch",
        ({"test": 3}, {"test": 1}), ({}, {"test": 4}),
    ),
    Fault(
        "vae-decoder-width", "vae", (("nn.Linear(hidden, 784)", "nn.Linear(hidden, 748)"),),
        ("F.binary_cross_entropy(",), LOSS,
    ),
    Fault(
        "vae-code-width", "vae", (("self.fc22 = nn.Linear(hidden, latent)", "self.fc22 = nn.Linear(hidden, latent + 1)"),),
        ("mu + eps * std", "self.fc3(z)"), (*BROADCAST, *WIDTH), "network", ({}, {"latent": 1}),
    ),
    Fault(
        "vae-not-flattened", "vae", (("self.encode(x.view(-1, 784))", "self.encode(x)"),), ("self.fc1(x)",), WIDTH,
    ),
    Fault(
        "vae-noise-buffer", "vae", (("torch.randn_like(std)", "torch.randn(args.batch_size, std.size(1))"),),
        ("mu + eps * std", "F.binary_cross_entropy("), (*BROADCAST, *LOSS), "last batch",
        ({}, {"train": 9}, {"train": 8, "test": 5}), ({"train": 8, "test": 4},),
    ),
    Fault(
        "vae-norm-of-one", "vae",
        (
            ("        self.fc21 =", "        self.bn1 = nn.BatchNorm1d(hidden)\n        self.fc21 ="),
            ("F.relu(self.fc1(x))", "F.relu(self.bn1(self.fc1(x)))"),
        ),
        ("F.relu(self.bn1(self.fc1(x)))",), ("norm-single",), "last batch", ({"train": 9}, {"batch_size": 1}), ({},),
    ),
    Fault(
        "vae-coloured-samples", "vae", (("sample.view(64, 1, 28, 28)", "sample.view(64, 3, 28, 28)"),),
        ("sample.view(64, 3, 28, 28)",), ("view-numel",), "image channels",
    ),
    Fault(
        "dcgan-label-batch", "dcgan", (("torch.full((batch_size,)", "torch.full((opt.batch_size,)"),),
        ("errD_real = criterion(",), LOSS, "last batch", ({}, {"train": 5}, {"train": 3}), ({"train": 8},),
    ),
    Fault(
        "dcgan-grey-as-colour", "dcgan", (("(0.5,), 1", "(0.5,), 3"),), ("self.main(image)",), CONV,
        "image channels", ({"dataset": "mnist"},), ({"dataset": "cifar10"},), ("dataset=mnist",),
    ),
    Fault(
        "dcgan-squeeze", "dcgan", ((".squeeze(1)", ".squeeze()"),), ("errD_real = criterion(",), LOSS, "squeeze",
        ({"train": 5}, {"batch_size": 1}), ({}, {"train": 8}),
    ),
    Fault(
        "dcgan-padding", "dcgan", (("w.ngf * 4, w.ngf * 2, 4, 2, 1", "w.ngf * 4, w.ngf * 2, 4, 2, 0"),),
        ("errD_fake = criterion(",), LOSS,
    ),
    Fault(
        "dcgan-flat-noise", "dcgan",
        (("noise = torch.randn(batch_size, opt.nz, 1, 1)", "noise = torch.randn(batch_size, opt.nz)"),),
        ("self.main(z)",), ("tensor-rank",), "rank",
    ),
    Fault(
        "dcgan-too-deep", "dcgan", (("w.ndf * 2, w.ndf * 4]", "w.ndf * 2, w.ndf * 4, w.ndf * 8]"),),
        ("self.main(image)",), ("conv-kernel",),
    ),
    Fault(
        "dcgan-not-resized", "dcgan",
        (("[transforms.Resize(size), transforms.ToTensor()], (0.5,), 1", "[transforms.ToTensor()], (0.5,), 1"),),
        ("self.main(image)",), ("conv-kernel",), "arguments", ({"dataset": "mnist"},), ({},), ("dataset=mnist",),
    ),
    Fault(
        "dcgan-norm-width", "dcgan", (("nn.BatchNorm2d(w.ngf * 2)", "nn.BatchNorm2d(w.ngf * 4)"),),
        ("self.main(z)",), ("norm-width",),
    ),
    Fault(
        "super_resolution-crop", "super_resolution",
        (("return crop_size - (crop_size % upscale_factor)", "return crop_size"),),
        ("loss = criterion(model(image), target)",), LOSS, "arguments", ({"upscale_factor": 3},),
        ({}, {"upscale_factor": 4}, {"upscale_factor": 1}),
    ),
    Fault(
        "super_resolution-not-converted", "super_resolution",
        ((
            '    img = Image.open(path).convert("YCbCr")\n    y, _, _ = img.split()\n    return y\n',
            "    return Image.open(path)\n",
        ),),
        ("self.relu(layer(x))", "in enumerate(loader, 1)"), (*CONV, "stack-sizes", "collate-sizes"), "image channels",
        ({}, {"modes": "RGB,RGB"}, {"modes": "RGBA"}), ({"modes": "L,L,L"},),
    ),
    Fault(
        "super_resolution-split", "super_resolution", (('.convert("YCbCr")', ""),), ("y, _, _ = img.split()",),
        ("unpack-rank", "channels"), "image channels", ({}, {"modes": "RGBA"}), ({"modes": "RGB,RGB"},),
    ),
    Fault(
        "super_resolution-shuffle", "super_resolution", (("upscale_factor**2", "upscale_factor * 2"),),
        ("self.pixel_shuffle(",), ("pixel-shuffle",), "arguments", ({"upscale_factor": 3}, {"upscale_factor": 4}),
        ({}, {"upscale_factor": 1}),
    ),
    Fault(
        "super_resolution-border", "super_resolution", (("(5, 5), (1, 1), (2, 2)", "(5, 5), (1, 1), (1, 1)"),),
        ("loss = criterion(model(image), target)",), LOSS,
    ),
    Fault(
        "super_resolution-not-reduced", "super_resolution", (("Resize(size // upscale_factor), ", ""),),
        ("loss = criterion(model(image), target)",), LOSS, "arguments", ({}, {"upscale_factor": 3}),
        ({"upscale_factor": 1},),
    ),
    Fault(
        "vit-no-place-for-the-class", "vit", (("num_patches + 1, dim", "num_patches, dim"),),
        ("x = x + self.pos_embedding",), BROADCAST, "network", ({}, {"image_size": 32}), ({"patch_size": 16},),
    ),
    Fault(
        "vit-64-class-tokens", "vit", (("self.cls_token.expand(b, -1, -1)", "self.cls_token.expand(64, -1, -1)"),),
        ("torch.cat((cls_tokens, x), dim=1)",), ("cat-sizes",), "last batch", ({}, {"batch_size": 64, "train": 65}),
        ({"batch_size": 64, "train": 64, "test": 64},),
    ),
    Fault(
        "vit-heads-do-not-divide", "vit",
        (
            ("inner_dim = dim_head * heads", "inner_dim = dim"),
            ("self.heads, self.dim_head = heads, dim_head", "self.heads, self.dim_head = heads, dim // heads"),
        ),
        ("t.reshape(b, n, self.heads, self.dim_head)",), ("view-numel",), "arguments", ({"heads": 5}, {"heads": 7}),
        ({}, {"heads": 8}),
    ),
    Fault(
        "vit-grey", "vit", (('        transforms.Lambda(lambda img: img.convert("RGB")),\n', ""),),
        ("self.patch_embedding(patches)",), WIDTH, "image channels", ({"dataset": "mnist"},), ({},), ("dataset=mnist",),
    ),
    Fault(
        "vit-head-on-the-sequence", "vit", (("self.mlp_head(x[:, 0])", "self.mlp_head(x)"),),
        ("loss = criterion(output, label)",), CLASSES,
    ),
    Fault(
        "vit-patch-width", "vit", (("channels * patch_height * patch_width", "patch_height * patch_width"),),
        ("self.patch_embedding(patches)",), WIDTH,
    ),
    Fault(
        "vit-four-places", "vit", (("num_patches + 1, dim", "5, dim"),), ("x = x + self.pos_embedding",), BROADCAST,
        "arguments", ({"image_size": 32}, {"image_size": 24}), ({},), ("image_size=32",),
    ),
    Fault(
        "vit-einsum", "vit", (("bhij,bhjd->bhid", "bhij,bhdj->bhid"),), ("bhij,bhdj->bhid",), ("einsum",),
    ),
    Fault(
        "vit-two-thirds", "vit", (("inner_dim * 3", "inner_dim * 2"),), ("t.reshape(b, n,",), ("view-numel",),
    ),
    Fault(
        "vit-residual", "vit", (("nn.Linear(hidden_dim, dim)", "nn.Linear(hidden_dim, hidden_dim)"),),
        ("self.fn(self.norm(x), **kwargs) + x",), BROADCAST,
    ),
    Fault(
        "simclr-last-batch-kept", "simclr", (("drop_last=True", "drop_last=False"),), ("similarity.masked_fill(",),
        BROADCAST, "last batch", ({}, {"train": 3}), ({"train": 8},),
    ),
    Fault(
        "simclr-empty-bank", "simclr",
        (("        if not bank:\n            return torch.zeros(0, self.model.features)\n", ""),),
        ("torch.cat(bank, dim=0)",), ("empty",), "empty", ({"train": 3},), ({}, {"train": 4}),
    ),
    Fault(
        "simclr-shortcut", "simclr", (("if stride != 1 or in_planes", "if in_planes"),),
        ("out = out + self.shortcut(x)",), BROADCAST,
    ),
    Fault(
        "simclr-mask", "simclr", (("torch.eye(n, ", "torch.eye(self.args.batch_size, "),),
        ("similarity.masked_fill(",), BROADCAST, "arguments", ({}, {"batch_size": 2}), ({"batch_size": 1},),
    ),
    Fault(
        "simclr-projector-width", "simclr", (("nn.Linear(self.features, 16)", "nn.Linear(planes, 16)"),),
        ("self.projector(self.embed(x))",), WIDTH,
    ),
    Fault(
        "simclr-stacked-views", "simclr", (("torch.cat(images, dim=0)", "torch.stack(images)"),),
        ("self.blocks(self.stem(x))",), ("tensor-rank",), "rank",
    ),
    Fault(
        "simclr-not-cropped", "simclr", (("            transforms.RandomResizedCrop(size=size),\n", ""),),
        ("self.projector(self.embed(x))",), WIDTH,
    ),
    Fault(
        "simclr-labels", "simclr", (("(torch.arange(n) +", "(torch.arange(self.args.batch_size) +"),),
        ("self.criterion(logits, labels)",), CLASSES,
    ),
    Fault(
        "simclr-not-transposed", "simclr", (("torch.matmul(features, features.T)", "torch.matmul(features, features)"),),
        ("torch.matmul(features, features)",), ("matmul-inner",), "arguments", ({"batch_size": 3}, {"out_dim": 4}),
        ({},),
    ),
)  # fmt: skip
