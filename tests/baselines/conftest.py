"""Tiny checkpoints for contestants, made once, and their rows."""

from pathlib import Path

import pytest
import tiny_checkpoints
from tiny_checkpoints import Checkpoints, feed_for

from sparsam.baselines.feed import Feed


@pytest.fixture(scope="session")
def of_texts(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    """A BERT, dense and with a plan."""
    return tiny_checkpoints.text_checkpoints(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="session")
def of_images(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    """A ViT, dense and with a plan."""
    return tiny_checkpoints.image_checkpoints(tmp_path_factory.mktemp("images"))


@pytest.fixture
def text_feed(of_texts: Checkpoints, tmp_path: Path) -> Feed:
    """Rows of the BERT's task; a fresh one, because contestants change the model they are given."""
    return feed_for(of_texts, tmp_path / "rows")


@pytest.fixture
def image_feed(of_images: Checkpoints, tmp_path: Path) -> Feed:
    """Rows of the ViT's task."""
    return feed_for(of_images, tmp_path / "rows")


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exported models of this session."""
    return tmp_path_factory.mktemp("exports")
