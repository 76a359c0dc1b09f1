"""Rules on convolutions, pooling and what else works on images."""

from collections.abc import Sequence

from sparsam.shapes.diagnose import sizes
from sparsam.shapes.diagnose.call import NUMBERS, Answer, Call, listed
from sparsam.shapes.diagnose.rule import rule

CONVOLUTIONS = ("conv1d conv2d conv3d Conv1d Conv2d Conv3d conv_transpose1d conv_transpose2d conv_transpose3d "
                "ConvTranspose1d ConvTranspose2d ConvTranspose3d convolution LazyConv2d")  # fmt: skip


def _spatial(call: Call) -> int:
    """Number of spatial dimensions: 2 for Conv2d, by the name."""
    return next((int(name[-2]) for name in call.names if name[-1:] == "d" and name[-2:-1].isdigit()), 0)


def _channels(call: Call) -> tuple[Sequence[str], int, str, str] | None:
    """Input, which of its dimensions are the channels, how many there are, and how many are expected."""
    said = call.said(r"expected input\s?\[(.*?)\] to have (.+?) channels, but got (.+?) channels")
    given = call.shape()
    expected = call.number("in_channels")
    weight = call.operand("weight") or (
        call.tensors[1] if not call.is_module and len(call.tensors) > 1 else None
    )
    if expected is None and weight is not None and weight.shape and not said:
        return None
    if said:
        given, expected = given or listed(said[1]), expected or said[2]
    if given is None or expected is None:
        return None
    spatial = _spatial(call) or (len(weight.shape) - 2 if weight and weight.shape else 0)
    at = (len(given) - spatial - 1) if spatial else 1
    if not 0 <= at < len(given):
        return None
    got = given[at]
    return None if call.equal(got, expected) else (given, at, got, expected)


@rule("channels", CONVOLUTIONS, says=r"to have 3 channels, but got 1|to have 1 channels, but got 3")
def channels(call: Call) -> Answer | None:
    """Images with another number of channels than the model takes.

    Photographs have 3 channels, grey images 1, images with transparency 4; a folder of images may hold all of them, so
    that a program fails after hours on the first grey one.

    Fails:
    ```python
    image = torch.rand(8, 1, 28, 28)
    nn.Conv2d(3, 16, 3)(image)  # here
    ```

    Mended:
    ```python
    image = torch.rand(8, 1, 28, 28)
    nn.Conv2d(3, 16, 3)(image.expand(-1, 3, -1, -1))
    ```
    """
    found = _channels(call)
    if found is None:
        return None
    given, _, got, expected = found
    pair = call.value(got), call.value(expected)
    if pair[0] not in (1, 3, 4) or pair[1] not in (1, 3, 4):
        return None
    fix = {(1, 3): 'image.convert("RGB"), or x.expand(-1, 3, -1, -1)', (4, 3): 'image.convert("RGB"), or x[:, :3]',
           (3, 1): 'image.convert("L"), or x.mean(1, keepdim=True)'}.get((pair[0] or 0, pair[1] or 0), "")  # fmt: skip
    return Answer(
        f"images {sizes.shape(given)} for {call.words}: got {sizes.pretty(got)} channels, expected {sizes.pretty(expected)}",
        f"{_with_value(call, got)} channels, {sizes.pretty(expected)} asked",
        fix,
    )


def _with_value(call: Call, size: str) -> str:
    found = call.value(size)
    return sizes.pretty(size) if found is None or size == str(found) else f"{sizes.pretty(size)} = {found}"


@rule("conv-channels", CONVOLUTIONS, says=r"to have .+ channels, but got .+ channels")
def conv_channels(call: Call) -> Answer | None:
    """The channels of the input do not fit a convolution.

    The channels stand in front of the spatial dimensions: (batch, channels, height, width) for `Conv2d`.
    They are the `out_channels` of the layer before.

    Fails:
    ```python
    x = torch.rand(2, 32, 14, 14)
    nn.Conv2d(64, 128, 3)(x)  # here
    ```

    Mended:
    ```python
    x = torch.rand(2, 32, 14, 14)
    nn.Conv2d(32, 128, 3)(x)
    ```
    """
    found = _channels(call)
    if found is None:
        return None
    given, at, got, expected = found
    last = given[-1]
    fix = ""
    if at != len(given) - 1 and call.equal(last, expected):
        fix = "the channels stand last: x.movedim(-1, 1)"
    elif got.isdigit() and call.is_module:
        fix = f"in_channels={got}"
    return Answer(
        f"channels of {sizes.shape(given)} for {call.words}: got {sizes.pretty(got)}, expected {sizes.pretty(expected)}",
        f"{sizes.pretty(got)} channels, {sizes.pretty(expected)} asked",
        fix,
    )


@rule("conv-kernel", CONVOLUTIONS, says=r"Kernel size can't be greater than actual input size")
def conv_kernel(call: Call) -> Answer | None:
    """A kernel larger than the image.

    With its padding the image has to be at least as large as the kernel (with its dilation), or nothing comes out.
    Deep stacks of strided layers shrink small images away.

    Fails:
    ```python
    x = torch.rand(2, 3, 4, 4)
    nn.Conv2d(3, 8, kernel_size=5)(x)  # here
    ```

    Mended:
    ```python
    x = torch.rand(2, 3, 4, 4)
    nn.Conv2d(3, 8, kernel_size=5, padding=2)(x)
    ```
    """
    said = call.said(r"padded input size per channel: \((.*?)\)\. Kernel size: \((.*?)\)\. Kernel size can't")
    if not said:
        return None
    padded, kernel = listed(said[1]), listed(said[2])
    given = call.shape()
    of = f" of {sizes.shape(given)}" if given is not None else ""
    return Answer(
        f"kernel {_by(kernel)} of {call.words} on an image{of}: padded it is {_by(padded)}",
        f"{_by(padded)} padded, kernel {_by(kernel)}",
        "padding, or a smaller kernel",
    )


def _by(sides: Sequence[str]) -> str:
    return "×".join(sizes.pretty(side) for side in sides)


@rule(
    "conv-groups",
    CONVOLUTIONS,
    "ChannelShuffle channel_shuffle",
    says=r"divisible by groups|weight to be divisible by|channels must be divisible",
)
def conv_groups(call: Call) -> Answer | None:
    """Channels that cannot be divided into the groups.

    Both `in_channels` and `out_channels` are multiples of `groups`.

    Fails:
    ```python
    nn.Conv2d(3, 8, 3, groups=2)  # here
    ```

    Mended:
    ```python
    nn.Conv2d(4, 8, 3, groups=2)
    ```
    """
    if not call.said(r"divisible"):
        return None
    said = call.said(
        r"groups=(\d+), expected weight .* weight of size \[+(.*?)\]|Got (\S+) channels and (\S+) groups"
    )
    if said:
        size, groups = (listed(said[2])[0], said[1]) if said[1] else (said[3], said[4])
        return Answer(
            f"{call.words}: {sizes.pretty(size)} channels in {groups} groups",
            f"{size} is no multiple of {groups}",
        )
    which = "out_channels" if call.said("out_channels") else "in_channels"
    channels_, groups_ = call.number(which), call.number("groups")
    if channels_ is None or groups_ is None:
        return Answer(f"{call.words}: {which} is no multiple of groups")
    return Answer(
        f"{call.words}: {which} = {sizes.pretty(channels_)} in {groups_} groups",
        f"{sizes.pretty(channels_)} is no multiple of {_with_value(call, groups_)}",
    )


@rule("conv-bias", CONVOLUTIONS, says=r"expected bias to be 1-dimensional|output padding must be smaller")
def conv_bias(call: Call) -> Answer | None:
    """A bias or an output padding that does not fit a convolution.

    The bias has one number for each output channel; the output padding of a transposed convolution is smaller than its
    stride or its dilation.

    Fails:
    ```python
    x, weight = torch.rand(2, 4, 9, 9), torch.rand(6, 4, 3, 3)
    F.conv2d(x, weight, bias=torch.rand(4))  # here
    ```

    Mended:
    ```python
    x, weight = torch.rand(2, 4, 9, 9), torch.rand(6, 4, 3, 3)
    F.conv2d(x, weight, bias=torch.rand(6))
    ```
    """
    said = call.said(r"1-dimensional with (\S+) elements, but got bias of size \[(.*?)\]")
    if said:
        return Answer(
            f"bias of {call.words}: got {sizes.shape(listed(said[2]))}, expected ({said[1]},)",
            f"{said[1]} asked",
        )
    if call.said("output padding must be smaller"):
        return Answer(
            f"{call.words}: output_padding is not smaller than stride or dilation",
            "",
            "a larger stride, or output_padding=0",
        )
    return None


@rule(
    "pool-window",
    "max_pool1d max_pool2d max_pool3d MaxPool1d MaxPool2d MaxPool3d avg_pool1d avg_pool2d avg_pool3d AvgPool1d "
    "AvgPool2d AvgPool3d LPPool1d LPPool2d lp_pool1d lp_pool2d FractionalMaxPool2d max_pool2d_with_indices",
    says=r"Output size is too small|pad should be at most half|Invalid computed output size",
)
def pool_window(call: Call) -> Answer | None:
    """A window larger than the image.

    Padded, the image has to be at least as large as the window, and the padding at most half of the window.

    Fails:
    ```python
    x = torch.rand(1, 3, 28, 28)
    nn.MaxPool2d(29)(x)  # here
    ```

    Mended:
    ```python
    x = torch.rand(1, 3, 28, 28)
    nn.AdaptiveMaxPool2d(1)(x)
    ```
    """
    said = call.said(
        r"pad should be at (?:most|least) half of (?:effective )?kernel size, but got pad=(\S+), kernel_size=(\d+)"
    )
    if said:
        return Answer(
            f"padding of {call.words}: got {said[1]}, expected at most half of the window ({said[2]})",
            f"{said[1]} > {said[2]} // 2",
        )
    if not call.said(r"too small|Invalid computed output"):
        return None
    given = call.shape()
    kernel = call.operand("kernel_size")
    shown = (
        (kernel.text if kernel.shape is None else _by(kernel.shape))
        if kernel
        else next(iter(call.numbers), "")
    )
    window = call.settings.get("kernel_size", shown)
    of = f" on {sizes.shape(given)}" if given is not None else ""
    return Answer(
        f"window{f' of {window}' if window else ''} of {call.words}{of}: nothing would come out",
        f"{_by(given[-(_spatial(call) or 2) :])}, window {window}" if given is not None and window else "",
        "a smaller window, or an adaptive pooling",
    )


@rule(
    "pixel-shuffle", "pixel_shuffle PixelShuffle pixel_unshuffle PixelUnshuffle", says=r"pixel_(un)?shuffle"
)
def pixel_shuffle(call: Call) -> Answer | None:
    """Channels or sides that a pixel shuffle cannot rearrange.

    `PixelShuffle(r)` takes r² channels for each one that comes out; `PixelUnshuffle(r)` takes sides that are multiples of r.

    Fails:
    ```python
    x = torch.rand(1, 3, 32, 32)
    nn.PixelShuffle(2)(x)  # here
    ```

    Mended:
    ```python
    x = torch.rand(1, 3 * 2**2, 32, 32)
    nn.PixelShuffle(2)(x)
    ```
    """
    if not call.said(r"pixel_|is invalid for input|divisible"):
        return None
    given = call.shape()
    factor = call.number("upscale_factor", "downscale_factor") or next(iter(call.numbers), None)
    if given is None or factor is None or len(given) < 3:
        said = call.said(r"input\.size\(-\d\)=(\S+) is not divisible by (\S+)")
        return Answer(f"{call.words}: {said[1]} is no multiple of {said[2]}") if said else None
    if call.names & {"pixel_shuffle", "PixelShuffle"}:
        count = sizes.pretty(given[-3])
        return Answer(
            f"{call.words} by {factor} of {sizes.shape(given)}: {count} channels are no multiple of {factor}²",
            f"{count} channels, a multiple of {sizes.product([factor, factor])} asked",
        )
    side = next((size for size in given[-2:] if call.value(f"({size}) % ({factor})") != 0), given[-1])
    return Answer(
        f"{call.words} by {factor} of {sizes.shape(given)}: {sizes.pretty(side)} is no multiple of {factor}",
        f"{sizes.pretty(side)}, a multiple of {factor} asked",
    )


@rule(
    "interpolate",
    "interpolate Upsample UpsamplingNearest2d UpsamplingBilinear2d upsample grid_sample affine_grid",
    says=r"Input and output sizes should be greater than 0|grid_sampler\(\)|same number of spatial dimensions",
)
def interpolate(call: Call) -> Answer | None:
    """An image that cannot be resampled so.

    The mode fits the number of dimensions (linear 3, bilinear 4, trilinear 5, with batch and channels), the size has a
    number for each spatial dimension, and nothing may become empty. A grid has the batch of the image and 2 coordinates.

    Fails:
    ```python
    x = torch.rand(2, 3, 16)
    F.interpolate(x, scale_factor=2, mode="bilinear")  # here
    ```

    Mended:
    ```python
    x = torch.rand(2, 3, 16)
    F.interpolate(x, scale_factor=2, mode="linear")
    ```
    """
    given = call.shape()
    of = f" of {sizes.shape(given)}" if given is not None else ""
    said = call.said(r"Got (\d)D input, but (\w+) mode needs (\d)D")
    if said:
        return Answer(
            f"{call.words}{of}: mode {said[2]} takes {said[3]} dimensions, got {said[1]}",
            f"{said[1]} dimensions, {said[3]} asked",
        )
    if call.said("Input and output sizes should be greater than 0"):
        return Answer(f"{call.words}{of}: nothing would be left", "an empty result")
    said = call.said(r"spatial dimensions of \[(.*?)\] and output size of \((.*?)\)")
    if said:
        count = len(listed(said[1]))
        return Answer(
            f"{call.words}{of}: got {len(listed(said[2]))} sizes, expected {count}",
            f"{count} spatial dimensions",
        )
    if call.said("either size or scale_factor"):
        return Answer(
            f"{call.words}{of}: neither size nor scale_factor is given", "", "size=… or scale_factor=…"
        )
    said = call.said(r"supported \(got (\d)D\)")
    if said:
        return Answer(f"{call.words}{of}: got {said[1]} dimensions, expected 3 to 5", f"{said[1]} dimensions")
    if call.names & {"grid_sample", "affine_grid"} and len(call.tensors) > 1:
        two = " and ".join(sizes.shape(o.shape) for o in call.tensors[:2] if o.shape is not None)
        return Answer(f"{call.words} of {two}: image and grid do not fit", "")
    return None


@rule(
    "pad-sizes",
    "pad ReflectionPad1d ReflectionPad2d ReplicationPad2d ZeroPad2d ConstantPad2d CircularPad2d reflection_pad1d "
    "reflection_pad2d",
    says=r"^Padding (length|size)|Padding size should be less",
)
def pad_sizes(call: Call) -> Answer | None:
    """A padding that the tensor cannot take.

    Two numbers for a dimension, from the last on, for no more dimensions than there are; a reflection is smaller than the
    side it reflects, and a negative padding leaves something.

    Fails:
    ```python
    x = torch.rand(2, 3, 4)
    F.pad(x, (4, 4), mode="reflect")  # here
    ```

    Mended:
    ```python
    x = torch.rand(2, 3, 4)
    F.pad(x, (3, 3), mode="reflect")
    ```
    """
    given = call.shape()
    of = f" of {sizes.shape(given)}" if given is not None else ""
    said = call.said(rf"padding {NUMBERS} at dimension (\d+) of input")
    if said:
        size = given[int(said[2])] if given and int(said[2]) < len(given) else "?"
        return Answer(
            f"padding {sizes.shape(listed(said[1]))}{of}: smaller than {sizes.pretty(size)} expected",
            f"{sizes.pretty(size)} in dimension {said[2]}",
        )
    said = call.said(
        r"padding length (\d+) and input of dimension (\d+)|Padding size (\d+) is not supported for (\d+)D"
    )
    if said:
        numbers, rank = said[1] or said[3], said[2] or said[4]
        return Answer(
            f"padding{of}: got {numbers} numbers for {rank} dimensions",
            f"{rank} dimensions, {numbers} numbers",
        )
    if call.said("must be non-negative"):
        return Answer(f"padding{of}: a negative padding takes more than there is", "nothing would be left")
    return None


@rule(
    "fold-sizes",
    "unfold fold Unfold Fold im2col col2im",
    says=r"array of sliding blocks|maximum size for tensor at dimension",
)
def fold_sizes(call: Call) -> Answer | None:
    """Blocks that do not fit the image.

    `unfold` needs an image at least as large as a block. `fold` takes exactly as many blocks as its output has places for,
    and channels times the elements of a block.

    Fails:
    ```python
    x = torch.rand(2, 3, 4, 4)
    F.unfold(x, kernel_size=5)  # here
    ```

    Mended:
    ```python
    x = torch.rand(2, 3, 4, 4)
    F.unfold(x, kernel_size=3)
    ```
    """
    given = call.shape()
    of = f" of {sizes.shape(given)}" if given is not None else ""
    said = call.said(r"maximum size for tensor at dimension (\d+) is (.+?) but size is (.+)")
    if said:
        one, two = sizes.pretty(said[2]), sizes.pretty(said[3])
        return Answer(
            f"unfold{of}: got a window of {two}, expected at most {one}",
            f"{one} in dimension {said[1]}, window {two}",
        )
    said = call.said(
        r"(?:= (\d+), but got input\.size\(2\)=(\S+?)\.?$|input\.size\(-1\) to be (\S+) but got (\S+?)\.?$)"
    )
    if said:
        one, two = sizes.pretty(said[1] or said[3]), sizes.pretty(said[2] or said[4])
        return Answer(f"fold{of}: got {two} blocks, expected {one}", f"{two} blocks, {one} asked")
    if call.said("components must be at least one"):
        return Answer(f"unfold{of}: the block is larger than the image", "no block fits")
    if call.said("divisible by the product of kernel_size"):
        return Answer(f"fold{of}: dimension 1 is no multiple of a block's elements")
    return None
