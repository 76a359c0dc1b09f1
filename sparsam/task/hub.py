"""Data sets of the Hugging Face hub: which files there are, and each of them on disk.

Two functions touch the network, ``list_files`` and ``fetch_file``; tests put others in their place. Only data files
are fetched: no loading script of a data set is ever run.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sparsam.errors import InputOutput

#: Where the hub keeps a parquet copy of data sets that are stored in another form.
PARQUET_BRANCH = "refs/convert/parquet"


def list_files(repo: str, revision: str | None = None) -> list[str]:
    """Paths of all files of the data set ``repo`` (owner/name)."""
    from huggingface_hub import HfApi

    return list(HfApi().list_repo_files(repo, repo_type="dataset", revision=revision))


def fetch_file(repo: str, path: str, revision: str | None = None) -> Path:
    """One file of the data set, from the local cache where it is there and current."""
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(repo, path, repo_type="dataset", revision=revision))


def cached_folder(repo: str) -> Path | None:
    """The folder of an earlier download of ``repo``, possibly not complete; None where there is none."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, repo_type="dataset", local_files_only=True))
    except (LocalEntryNotFoundError, OSError):
        return None


@contextmanager
def reaching(repo: str) -> Iterator[None]:
    """Turn what the hub's client raises into one error that says what to do.

    InputOutput ``hub-missing`` (no such data set, or no right to read it), ``hub-unreachable`` (no network).
    """
    from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is its HTTP library's own
        EntryNotFoundError,
        HTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except InputOutput:
        raise
    except (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError) as error:
        raise InputOutput(
            f"the hub has no data set {repo!r} that you may read, and there is no folder of that name here. Check the "
            "spelling (owner/name), or log in with `hf auth login` if it is private or gated.",
            code="hub-missing",
        ) from error
    except (HTTPError, OSError) as error:
        raise InputOutput(
            f"the data set {repo!r} could not be fetched from the Hugging Face hub: {str(error).splitlines()[0]}. "
            "Connect to the network; or download its files elsewhere (`hf download --repo-type dataset "
            f"{repo} --local-dir DIR`) and give that folder instead. No folder {repo!r} is here either.",
            code="hub-unreachable",
        ) from error
