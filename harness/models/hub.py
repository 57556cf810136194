"""The Hugging Face hub and its local cache, with short time-outs: an unreachable hub costs seconds, not
minutes.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.models.shape import ModelError

DEADLINE_S = 4.0
_DESCRIPTION = ["*.json", "*.txt", "*.model", "*.jinja"]  # configuration and tokenizer


def cached_snapshot(repo: str, *, weights: bool) -> Path | None:
    """The repository's snapshot in the local cache, if it has a config.json and, with `weights`, its
    weights.
    """
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(repo, "config.json")
    if not isinstance(config, str):
        return None
    snapshot = Path(config).parent
    return snapshot if has_weights(snapshot) or not weights else None


def has_weights(directory: Path) -> bool:
    """Whether a model directory holds weights: all shards named by an index, or any weights file."""
    indexes = [json.loads(path.read_text()) for path in directory.glob("*.index.json")]
    if indexes:
        shards = [set(index["weight_map"].values()) for index in indexes]
        return any(all((directory / name).exists() for name in names) for names in shards)
    return any(directory.glob("*.safetensors")) or any(directory.glob("*.bin"))


def reachable() -> bool:
    """Whether the hub answers within `DEADLINE_S` seconds; False if HF_HUB_OFFLINE is set.

    huggingface_hub's own requests retry for half a minute with messages on the screen, hence one plain
    request; name look-up and several addresses do not respect its time-out, hence the thread.
    """
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return False
    answers: list[int] = []

    def ask() -> None:
        try:
            answers.append(get_session().head(constants.ENDPOINT, timeout=DEADLINE_S).status_code)
        except Exception:  # of whichever HTTP library this huggingface_hub uses: all mean "no"
            return

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(DEADLINE_S)
    return any(status < 500 for status in answers)  # the requests above are retried for as long


def fetch_description(repo: str) -> Path:
    """Download config.json and, if there is one, tokenizer.json; returns their directory.

    Raises:
        ModelError: no such repository, no access, no config.json in it, or the connection failed.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    with _hub_errors(repo):
        directory = Path(hf_hub_download(repo, "config.json")).parent
        try:
            hf_hub_download(repo, "tokenizer.json")
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError:
            pass
    return directory


def fetch(repo: str, *, weights: bool, code: bool) -> Path:
    """Download a model's configuration, tokenizer and, if requested, weights and Python code.

    Weights are safetensors where the repository has them, else PyTorch's. Raises ModelError as
    `fetch_description` does.
    """
    from huggingface_hub import snapshot_download

    wanted = _DESCRIPTION + ["*.py"] * code + ["*.safetensors"] * weights
    with _hub_errors(repo):
        # Subfolders contain the same weights for other runtimes.
        directory = Path(snapshot_download(repo, allow_patterns=wanted, ignore_patterns=["*/*"]))
        if weights and not any(directory.glob("*.safetensors")):
            snapshot_download(repo, allow_patterns=["*.bin"], ignore_patterns=["*/*"])
    return directory


@contextmanager
def _hub_errors(repo: str) -> Iterator[None]:
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        yield
    except RepositoryNotFoundError as error:  # also a gated one
        message = f"--model {repo}: the hub has no such model, or it is gated (set HF_TOKEN)"
        raise ModelError(message) from error
    except LocalEntryNotFoundError as error:
        raise ModelError(f"--model {repo}: the hub stopped answering; try again") from error
    except EntryNotFoundError as error:
        raise ModelError(f"--model {repo}: has no config.json; give a transformers model") from error
    except OSError as error:  # also the HTTP library's
        raise ModelError(f"--model {repo}: the download failed: {error}") from error
