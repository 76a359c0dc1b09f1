"""What a variable holds at the head of a loop's round where it cannot be told what: nothing that is used before it is set.

Many a variable of a loop's body is set in each round before it is read, and what an earlier round left in it does not
matter, be it a tensor of other sizes, with a gradient or without. It holds one of these; whoever uses it ends the run.
"""

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch.utils._pytree import tree_leaves

from sparsam.shapes.run import Stop, current
from sparsam.shapes.verdict import Unknown


class Unused:
    """Stands for a tensor of which nothing is known.

    Args:
        name: As the program would write it.
        loop: What the loop runs over.
    """

    def __init__(self, name: str, loop: str) -> None:
        self.__dict__["name"], self.__dict__["loop"] = name, loop

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """That of a tensor: whoever asks is told so, and then uses it."""
        return torch.Tensor

    def used(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Ends the run.

        Raises:
            Stop: Always.
        """
        run = current()
        text = f"what {self.__dict__['name']} holds after some rounds of the loop over {self.__dict__['loop']} is not known"
        raise Stop(Unknown("loop", text, run._here() if run is not None else None))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        self.used()

    def __setattr__(self, name: str, value: Any) -> None:
        self.used()

    def __repr__(self) -> str:
        return "tensor(…)"

    def __format__(self, form: str) -> str:
        return "tensor(…)"

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> NoReturn:
        next(leaf for leaf in tree_leaves((args, kwargs)) if type(leaf) is Unused).used()


_USES = """
add radd iadd sub rsub isub mul rmul imul truediv rtruediv floordiv rfloordiv mod rmod pow rpow matmul rmatmul and rand or ror
xor rxor neg pos abs invert eq ne lt le gt ge bool len iter next getitem setitem delitem contains call int float index enter
array hash
"""
for _name in _USES.split():
    setattr(Unused, f"__{_name}__", Unused.used)
