"""Files of a model hub: found in its cache, or fetched at a pinned commit. Only this module talks to the hub.

A commit that is pinned and cached costs no request. Where none is pinned, the first fetch records the one it found,
and every later one is held to it.
"""

from __future__ import annotations

import os
from pathlib import Path

from busistore.errors import MissingWeights
from busistore.models import records
from busistore.models.spec import Weights

TIMEOUT_S = 10.0
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read when the hub's client is first imported


def revision(weights: Weights) -> str | None:
    """The commit that counts here: pinned, or recorded at the first fetch; None before it."""
    return weights.revision or records.recall("revisions", str(weights.repo))


def cached(weights: Weights) -> dict[str, Path]:
    """Those of the files that lie in the hub's cache at the commit that counts, by name."""
    from huggingface_hub import try_to_load_from_cache

    commit = revision(weights)
    if commit is None:
        return {}
    found = {n: try_to_load_from_cache(weights.repo, n, revision=commit, cache_dir=_cache()) for n in _names(weights)}
    return {name: Path(path) for name, path in found.items() if isinstance(path, str)}


def fetch(weights: Weights, quiet: bool = True) -> dict[str, Path]:
    """All files of the weights, downloaded where they are not cached.

    Raises:
        MissingWeights: the hub cannot be reached, is not to be asked (offline), or has no such file for us.
    """
    found = cached(weights)
    for name in _names(weights):
        if name not in found:
            found[name] = _download(weights, name, quiet)
            if revision(weights) is None:  # .../snapshots/<commit>/<name>
                records.record("revisions", str(weights.repo), found[name].parts[-1 - len(Path(name).parts)])
    return found


def _names(weights: Weights) -> tuple[str, ...]:
    return (weights.file, *weights.beside)


def _cache() -> str:
    from huggingface_hub import constants

    return constants.HF_HUB_CACHE


def _download(weights: Weights, name: str, quiet: bool) -> Path:
    import huggingface_hub
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

    (disable_progress_bars if quiet else enable_progress_bars)()
    try:
        return Path(huggingface_hub.hf_hub_download(
            str(weights.repo), name, revision=revision(weights) or "main", cache_dir=_cache(), etag_timeout=TIMEOUT_S,
            local_files_only=not _answers(weights, name),
        ))  # fmt: skip
    except Exception as error:
        raise MissingWeights(_reason(error, weights, name)) from None


def _answers(weights: Weights, name: str) -> bool:
    """Whether the hub is there, asked once: its client would ask six times, with pauses, and print a line for each.

    Raises:
        HfHubHTTPError: it is, and has no such file for us.
    """
    from huggingface_hub import constants, errors, get_hf_file_metadata, hf_hub_url

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_hf_file_metadata(hf_hub_url(str(weights.repo), name, revision=revision(weights) or "main"),
                             timeout=TIMEOUT_S)  # fmt: skip
    except errors.HfHubHTTPError as error:
        if error.response.status_code < 500:
            raise
        return False
    except Exception:  # whatever its HTTP library calls a hub that is not reached, or is silent
        return False
    return True


def _reason(error: Exception, weights: Weights, name: str) -> str:
    """Why there is no file, and what to do. Anything that the hub's client does not name is quoted in short."""
    from huggingface_hub import constants, errors

    repo = weights.repo
    if isinstance(error, errors.GatedRepoError):
        return f"'{repo}' is gated: accept its terms at hf.co/{repo}, then set HF_TOKEN to a token of your account"
    if isinstance(error, errors.LocalEntryNotFoundError):
        if constants.HF_HUB_OFFLINE:
            return f"'{name}' of {weights.source} is not in the hub's cache, and HF_HUB_OFFLINE forbids to fetch it"
        return f"hf.co cannot be reached for '{name}' of '{repo}'; try again with a connection"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"'{repo}' has no commit {revision(weights)} any more; upgrade busistore"
    if isinstance(error, errors.EntryNotFoundError):
        return f"'{repo}' has no file '{name}' at {revision(weights) or 'main'}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"hf.co has no public '{repo}'; if it asks for a log-in, set HF_TOKEN"
    if isinstance(error, errors.HfHubHTTPError) and error.response.status_code == 401:
        return "hf.co refuses the token in HF_TOKEN, or that of a log-in; renew it or take it away"
    if isinstance(error, OSError) and error.errno and error.filename:
        return f"'{error.filename}' cannot be written ({error.strerror}); make room, or mend its permissions"
    said = " ".join(str(error).split())[:160]
    return f"'{name}' of '{repo}' could not be fetched ({type(error).__name__}: {said}); try again"
