"""Grids of pictures, and files of them, which are not written."""

from typing import Any

import torch


def make_grid(tensor: Any, nrow: int = 8, padding: int = 2, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Pictures side by side, `nrow` in a row, with a border around each: (3, rows, columns).

    Raises:
        TypeError: If it is neither a tensor nor a list of tensors.
    """
    if isinstance(tensor, (list, tuple)):
        if not all(isinstance(item, torch.Tensor) for item in tensor):
            raise TypeError(f"tensor or list of tensors expected, got a list containing {type(tensor[0])}")
        tensor = torch.stack(list(tensor))
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"tensor or list of tensors expected, got {type(tensor)}")
    if tensor.dim() == 2:
        tensor = tensor.unsqueeze(0)
    if tensor.dim() == 3:
        if tensor.size(0) == 1:
            tensor = torch.cat((tensor, tensor, tensor), 0)
        tensor = tensor.unsqueeze(0)
    if tensor.dim() == 4 and tensor.size(1) == 1:
        tensor = torch.cat((tensor, tensor, tensor), 1)
    if tensor.size(0) == 1:
        only: torch.Tensor = tensor.squeeze(0)
        return only
    count = tensor.size(0)
    across = torch.sym_min(nrow, count)
    down = (count + across - 1) // across
    rows, columns = tensor.size(2) + padding, tensor.size(3) + padding
    grid: torch.Tensor = tensor.new_empty((tensor.size(1), rows * down + padding, columns * across + padding))
    return grid


def save_image(tensor: Any, fp: Any, format: str | None = None, **kwargs: Any) -> None:
    """Refuses what cannot be drawn, and writes nothing.

    Raises:
        TypeError: If it is neither a tensor nor a list of tensors, or its channels are no picture's.
    """
    grid = make_grid(tensor, **kwargs)
    if grid.size(0) not in (1, 3, 4):
        raise TypeError(f"Cannot handle this data type: (1, 1, {grid.size(0)}), |u1")


def draw_bounding_boxes(image: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """The picture with boxes on it."""
    return image.clone()


draw_segmentation_masks = draw_keypoints = draw_bounding_boxes


def download_url(*args: Any, **kwargs: Any) -> None:
    """Nothing is loaded over the network."""


download_and_extract_archive = extract_archive = download_url


def check_integrity(*args: Any, **kwargs: Any) -> bool:
    """A file that is not looked at is taken to be whole."""
    return True
