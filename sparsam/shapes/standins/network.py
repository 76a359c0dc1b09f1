"""The network: nothing is fetched, and nothing is known of what would have been."""

import importlib.util
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import torch

from sparsam.shapes.run import current
from sparsam.shapes.standins.packages import Absent


def _fetched(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def function(*args: Any, **kwargs: Any) -> Any:
        run = current()
        if run is None:
            return real(*args, **kwargs)
        what = next((str(arg) for arg in args if isinstance(arg, str)), "something")
        run.unknown("network", f"{name} would fetch {what[:120]} from the network; nothing is known of it")
        return Absent(f"what {name} fetched", harmless=False)

    return function


def state_from_url(url: str, *args: Any, **kwargs: Any) -> Any:
    """`load_state_dict_from_url`: a state of which nothing is known, which `load_state_dict` accepts."""
    from sparsam.shapes.standins.files import Stored

    return Stored(url, harmless=False)


def patches() -> Iterator[tuple[Any, str, Any]]:
    """(owner, attribute, stand-in) for all of this module."""
    yield torch.hub, "load", _fetched("torch.hub.load", torch.hub.load)
    yield torch.hub, "load_state_dict_from_url", state_from_url
    yield torch.hub, "download_url_to_file", _nothing(torch.hub.download_url_to_file)
    yield urllib.request, "urlopen", _fetched("urlopen", urllib.request.urlopen)
    yield urllib.request, "urlretrieve", _nothing(urllib.request.urlretrieve)
    if importlib.util.find_spec("requests") is not None:
        import requests

        for name in ("get", "post", "request"):
            yield requests, name, _fetched(f"requests.{name}", getattr(requests, name))


def _nothing(real: Callable[..., Any]) -> Callable[..., Any]:
    def function(*args: Any, **kwargs: Any) -> Any:
        return real(*args, **kwargs) if current() is None else None

    return function
