"""The Hugging Face hub and its local cache, with short time-outs: an unreachable hub costs seconds, not
minutes.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness import files
from harness.models import mistral_format
from harness.models.shape import ModelError
from harness.units import type_and_line

DEADLINE_S = 4.0
_DESCRIPTION = ["*.json", "*.txt", "*.model", "*.model.v*", "*.jinja"]  # configuration and tokenizer
WITHOUT_CONFIG = "has neither config.json nor Mistral's params.json; give a model in one of these layouts"
_CONSOLIDATED = "consolidated*"  # weights in Mistral's own layout, beside the same in transformers'
_UNWANTED = ["*/*"]  # the same for other runtimes


def cached_snapshot(repo: str, revision: str | None, *, weights: bool) -> Path | None:
    """The repository's snapshot in the local cache, if it has a config.json or, with `weights`, Mistral's
    params.json, and with `weights` its weights.
    """
    from huggingface_hub import try_to_load_from_cache

    # An interrupted download may have a params.json and not yet the config.json beside it.
    names = ["config.json", mistral_format.PARAMS] if weights else ["config.json"]
    cached = (try_to_load_from_cache(repo, name, revision=revision) for name in names)
    config = next((path for path in cached if isinstance(path, str)), None)
    if config is None:
        return None
    snapshot = Path(config).parent
    return snapshot if has_weights(snapshot) or not weights else None


def has_weights(directory: Path) -> bool:
    """Whether a model directory holds weights: all shards named by an index, or a file that is no shard.

    Raises ModelError if an index is damaged, or names files outside the directory.
    """
    shards = [_shards(path) for path in directory.glob("*.index.json")]
    if any(all(os.path.exists(directory / name) for name in names) for names in shards):  # False: too long
        return True
    weights = {file.name for file in (*directory.glob("*.safetensors"), *directory.glob("*.bin"))}
    return any(not re.search(r"-\d+-of-\d+\.", name) for name in weights - set().union(*shards))


def _shards(index: Path) -> set[str]:
    """The files that an index names."""
    try:
        content = files.parse_json(files.read_text(index))
        names = content.get("weight_map") if isinstance(content, dict) else None
        if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
            raise ValueError("weight_map: must give a file for each weight")
        for name in names.values():
            if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
                raise ValueError(
                    f"weight_map: {files.shorten(name, 40)!r} is no file of the model's directory"
                )
    except (OSError, ValueError) as error:
        raise ModelError(f"{index}: {error}; download the model again, or correct it") from error
    return set(names.values())


def check_name(name: str) -> None:
    """Raise ModelError if the hub can have no repository of that name."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        shown, why = files.shorten(name), files.shorten(str(error).split(":")[0].split(" '")[0])
        raise ModelError(f"--model {shown}: no directory, and the hub has no such names ({why})") from None


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


def is_described(directory: Path) -> bool:
    """Whether a model directory has a config.json, or Mistral's params.json in its place."""
    return (directory / "config.json").is_file() or mistral_format.is_layout_of(directory)


def fetch_description(repo: str, revision: str | None) -> Path:
    """Download the configuration and the tokenizer; returns their directory, which is named by the commit.

    config.json comes last, so that a copy that has it has the others as well.

    Raises:
        ModelError: no such repository or revision, no access, no config.json in it, or the connection failed.
    """
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    with _hub_errors(repo, revision):
        directory = Path(
            snapshot_download(
                repo,
                revision=revision,
                allow_patterns=_DESCRIPTION,
                ignore_patterns=[*_UNWANTED, _CONSOLIDATED, "config.json"],
            )
        )
        try:
            hf_hub_download(repo, "config.json", revision=directory.name)
        except RemoteEntryNotFoundError as error:
            if not is_described(directory):
                raise ModelError(f"--model {repo}: {WITHOUT_CONFIG}") from error
    return directory


def fetch(repo: str, commit: str, *, weights: bool, code: bool) -> Path:
    """Download a model's configuration, tokenizer and, if requested, weights and Python code.

    Weights are safetensors where the repository has them, else PyTorch's. Raises ModelError as
    `fetch_description` does, and if there are no weights.
    """
    from huggingface_hub import snapshot_download

    unwanted = [*_UNWANTED, _CONSOLIDATED]

    def download(*patterns: str) -> Path:
        return Path(
            snapshot_download(repo, revision=commit, allow_patterns=list(patterns), ignore_patterns=unwanted)
        )

    with _hub_errors(repo, commit):
        directory = download(*_DESCRIPTION, *["*.py"] * code)
        if mistral_format.is_layout_of(directory):
            unwanted.remove(_CONSOLIDATED)
        if weights:
            download("*.safetensors", "*.safetensors.index.json")
        if weights and not any(directory.glob("*.safetensors")):
            download("*.bin")
    if weights and not has_weights(directory):
        raise ModelError(
            f"--model {repo}: the hub has no complete weights of it (*.safetensors or *.bin); "
            "choose another, or use --load-format dummy"
        )
    return directory


@contextmanager
def _hub_errors(repo: str, revision: str | None) -> Iterator[None]:
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        yield
    except ModelError:
        raise
    except GatedRepoError as error:
        page = f"{constants.ENDPOINT}/{repo}"
        message = f"it is gated; accept its terms at {page} and set HF_TOKEN to an access token of yours"
        raise ModelError(f"--model {repo}: {message}") from error
    except RepositoryNotFoundError as error:
        message = "the hub has no such model, or it is private; check the name, or set HF_TOKEN"
        raise ModelError(f"--model {repo}: {message}") from error
    except RevisionNotFoundError as error:
        message = f"{repo} has no such branch, tag or commit; choose another, or leave it out for main"
        raise ModelError(f"--revision {revision}: {message}") from error
    except Exception as error:  # of whichever HTTP library this huggingface_hub uses
        if {401, 403} & set(_statuses(error)):
            message = "the hub refuses access; set HF_TOKEN to a token that may read it"
        else:
            message = f"the download stopped ({type_and_line(error)}); run it again: complete files are kept"
        raise ModelError(f"--model {repo}: {message}") from error


def _statuses(error: BaseException | None) -> Iterator[int]:
    """The HTTP status of an error and of those that led to it."""
    while error is not None:
        if (response := getattr(error, "response", None)) is not None:
            yield response.status_code
        error = error.__cause__ or error.__context__
