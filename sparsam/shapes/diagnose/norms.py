"""Rules on normalisation."""

from sparsam.shapes.diagnose import sizes
from sparsam.shapes.diagnose.call import NUMBERS, Answer, Call, listed
from sparsam.shapes.diagnose.rule import rule

LAYER = "layer_norm LayerNorm native_layer_norm rms_norm RMSNorm _fused_rms_norm"
BATCH = ("batch_norm BatchNorm1d BatchNorm2d BatchNorm3d SyncBatchNorm instance_norm InstanceNorm1d InstanceNorm2d "
         "InstanceNorm3d native_batch_norm _native_batch_norm_legit")  # fmt: skip
GROUP = "group_norm GroupNorm native_group_norm"


@rule("norm-groups", GROUP, says=r"divisible by num_groups")
def norm_groups(call: Call) -> Answer | None:
    """Channels that cannot be divided into the groups of a group norm.

    `num_channels` is a multiple of `num_groups`; after pruning filters the number of groups may have to change too.

    Fails:
    ```python
    nn.GroupNorm(num_groups=3, num_channels=16)  # here
    ```

    Mended:
    ```python
    nn.GroupNorm(num_groups=4, num_channels=16)
    ```
    """
    said = call.said(r"num_channels \((\S+)\) must be divisible by num_groups \((\S+)\)")
    said = said or call.said(r"input of shape \[\S+, (\S+?)[,\]].* num_groups=(\S+)")
    if not said:
        return None
    size = sizes.pretty(said[1])
    return Answer(f"{call.words}: {size} channels in {said[2]} groups", f"{size} is no multiple of {said[2]}")


@rule("norm-single", BATCH, says=r"Expected more than 1 (value|spatial)")
def norm_single(call: Call) -> Answer | None:
    """One value for each channel is too few for batch statistics.

    While training, `BatchNorm` computes a variance over the batch, which one sample alone does not have.
    The last batch of an epoch may be of one sample; `drop_last=True` leaves it out.

    Fails:
    ```python
    x = torch.rand(1, 16)
    nn.BatchNorm1d(16)(x)  # here
    ```

    Mended:
    ```python
    x = torch.rand(1, 16)
    nn.BatchNorm1d(16).eval()(x)
    ```
    """
    said = call.said(r"Expected more than 1 (?:value|spatial).* size [\[(]+(.*?)[\])]")
    if not said:
        return None
    given = call.shape() or listed(said[1])
    return Answer(
        f"{call.words} while training on {sizes.shape(given)}: one value for each channel",
        "one value for each channel, at least 2 asked",
        "drop_last=True in the data loader, or .eval()",
    )


@rule(
    "norm-width",
    LAYER,
    BATCH,
    GROUP,
    says=r"Given normalized_shape=|running_mean should contain|match num_features",
)
def norm_width(call: Call) -> Answer | None:
    """The input does not have the width of a norm.

    `LayerNorm` works on the last dimensions, `BatchNorm`, `GroupNorm` and `InstanceNorm` on dimension 1; their weights have
    one number for each of it.

    Fails:
    ```python
    x = torch.rand(2, 197, 512)
    nn.LayerNorm(768)(x)  # here
    ```

    Mended:
    ```python
    x = torch.rand(2, 197, 512)
    nn.LayerNorm(512)(x)
    ```
    """
    given = call.shape()
    said = call.said(rf"normalized_shape=\[(.*?)\], expected .* input of size ?{NUMBERS}")
    if said:
        given, asked = given or listed(said[2]), listed(said[1])
        last = list(given[-len(asked) :])
        return Answer(
            f"last dimension of {sizes.shape(given)} for {call.words}: got {_plain(last)}, expected {_plain(asked)}",
            f"{_plain(last)}, {_plain(asked)} asked",
        )
    said = call.said(
        r"should contain (\S+) elements not (\S+)|dim=1 to match num_features \((\S+)\), but got: (\S+?)\.?$"
    )
    if said:
        got, expected = (said[1], said[2]) if said[1] else (said[4], said[3])
    else:
        weight = call.operand("weight", "running_mean")
        if weight is None or not weight.shape or given is None or len(given) < 2:
            return None
        got, expected = given[1], weight.shape[0]
        if call.equal(got, expected):
            return None
    if given is not None and len(given) > 1:
        got = given[1]
    of = f"dimension 1 of {sizes.shape(given)}" if given is not None else "dimension 1"
    fix = ""
    if given is not None and len(given) > 2 and call.equal(given[-1], expected):
        fix = "the channels stand last: x.movedim(-1, 1)"
    return Answer(
        f"{of} for {call.words}: got {sizes.pretty(got)}, expected {sizes.pretty(expected)}",
        f"{sizes.pretty(got)} channels, {sizes.pretty(expected)} asked",
        fix,
    )


def _plain(shape: list[str]) -> str:
    return sizes.pretty(shape[0]) if len(shape) == 1 else sizes.shape(shape)
