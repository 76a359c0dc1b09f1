"""tqdm: what it wraps, as it is."""

from typing import Any

from sparsam.shapes.series import as_series, length


class tqdm:
    """A progress bar that shows nothing. Loops see through it to what it wraps."""

    def __init__(self, iterable: Any = None, *args: Any, **kwargs: Any) -> None:
        self.iterable = iterable
        self.n = 0
        self.total = kwargs.get("total")
        self.format_dict: dict[str, Any] = {}

    def __series__(self) -> Any:
        """The series it wraps, None where that is an ordinary iterable."""
        return as_series(self.iterable)

    def __iter__(self) -> Any:
        return iter(self.iterable)

    def __length__(self) -> Any:
        """As long as what it wraps."""
        return length(self.iterable)

    def __len__(self) -> int:
        return int(length(self.iterable))

    def __enter__(self) -> "tqdm":
        return self

    def __exit__(self, *args: object) -> None:
        """Nothing was shown."""

    def _shown(self, *args: Any, **kwargs: Any) -> None:
        """Shows nothing."""

    update = set_description = set_description_str = set_postfix = set_postfix_str = close = refresh = (
        clear
    ) = reset = _shown

    @classmethod
    def write(cls, *args: Any, **kwargs: Any) -> None:
        """Shows nothing."""


def trange(*args: Any, **kwargs: Any) -> tqdm:
    """A bar over a range."""
    from sparsam.shapes.hooks import range_

    return tqdm(range_(*args))


auto = notebook = std = asyncio = None
tqdm_notebook = tqdm
