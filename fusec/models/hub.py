"""Models of the Hugging Face hub: `hf:OWNER/REPO`, with a quantisation or a file behind it.

`huggingface_hub` fetches them into its own cache, where other programs find them too, with its own
settings (HF_TOKEN, HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE). It is an optional extra of fusec. Where
the hub is not reached, what was fetched before is taken.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fusec.errors import FusecError
from fusec.models.downloads import announce, is_quiet

PREFIX = "hf:"
FORMS = "hf:OWNER/REPO, hf:OWNER/REPO:QUANT, hf:OWNER/REPO/FILE.gguf"
NAME = re.compile(
    r"hf:(?P<repo>[^/:]+/[^/:]+)(?: : (?P<quant>[^/:]+) | / (?P<file>.+\.gguf) )?", re.VERBOSE
)
USUAL = "Q4_K_M"  # what llama.cpp takes, too, where no quantisation is named
PART = re.compile(r"-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf$")
NO_MODELS = ("mmproj", "imatrix")  # in the names of files that lie beside models
SHOWN = 12  # file names in an error


def fetched(name: str) -> Path:
    """The model's file, its first where it is split: from the hub, unless it is here already.

    Raises FusecError for a name of another form, without huggingface_hub, for a repository or file
    that is not there or not open to this user, and where the hub is not reached and the file is not
    here.
    """
    match = NAME.fullmatch(name)
    if match is None:
        raise FusecError(f"{name}: expected {FORMS}")
    library = _library(name)
    repo = match["repo"]
    try:
        info = library.HfApi().model_info(repo)
    except library.errors.GatedRepoError:
        raise FusecError(
            f"{name}: its owner asks for consent first: give it at https://huggingface.co/{repo}, "
            f"then log in (hf auth login, or HF_TOKEN)"
        ) from None
    except library.errors.RepositoryNotFoundError:
        raise FusecError(
            f"{name}: the hub has no such repository, or shows it only to some who log in "
            f"(hf auth login, or HF_TOKEN)"
        ) from None
    except ValueError as error:  # not what the hub's names look like
        raise FusecError(f"{name}: {_first_line(error)}") from None
    except Exception as error:  # of whichever HTTP library this version of huggingface_hub has
        return _from_cache(name, match, _cached(library, repo), error)
    files = [file.rfilename for file in info.siblings or ()]
    chosen = chosen_file(name, files, match["quant"], match["file"])
    if library.try_to_load_from_cache(repo, chosen) is None:
        licence = getattr(info.card_data, "license", None) or "not named by its page"
        announce(f"{name}: fetching {chosen} from https://huggingface.co/{repo}")
        announce(f"licence: {licence}")
    paths = [_download(library, name, repo, file) for file in parts_of(chosen)]
    return paths[0]


def chosen_file(name: str, files: Iterable[str], quant: str | None, file: str | None = None) -> str:
    """The one of a repository's files that `name` means; of a split model the first part.

    `file` if it is there; else the one with `quant` between dots and dashes of its name, in any
    case. Without either the one with Q4_K_M, or the first. Raises FusecError where there is none,
    or several have the quantisation.
    """
    if file is not None:
        if file not in files:
            raise FusecError(f"{name}: no such file in the repository, {_there_are(files)}")
        return file
    models = [f for f in sorted(files) if f.lower().endswith(".gguf") and _is_first(f)]
    models = [f for f in models if not any(word in f.lower() for word in NO_MODELS)]
    wanted = re.escape(quant or USUAL)
    found = [f for f in models if re.search(rf"(?:^|[-._/]){wanted}(?=[-./])", f, re.IGNORECASE)]
    if len(found) > 1:
        raise FusecError(f"{name}: several files have {quant or USUAL}, {_there_are(found)}")
    if not found and (quant or not models):
        what = f"GGUF file with {quant}" if quant else "GGUF file"
        raise FusecError(f"{name}: the repository has no {what}, {_there_are(models)}")
    return (found or models)[0]


def parts_of(file: str) -> list[str]:
    """The files of a model that was split, given its first; else that file alone."""
    match = PART.search(file)
    if match is None or int(match["number"]) != 1:
        return [file]
    count = int(match["count"])
    return [f"{file[: match.start()]}-{n:05}-of-{count:05}.gguf" for n in range(1, count + 1)]


def _library(name: str) -> Any:
    try:
        library = importlib.import_module("huggingface_hub")
        importlib.import_module("huggingface_hub.errors")
    except ImportError:
        raise FusecError(
            f"{name}: fetching from the Hugging Face hub takes huggingface_hub: "
            f"pip install 'fusec[hub]', or pip install huggingface_hub"
        ) from None
    return library


def _download(library: Any, name: str, repo: str, file: str) -> Path:
    if is_quiet() or not sys.stderr.isatty():  # its bar would be one long line of a log
        library.utils.disable_progress_bars()
    try:
        return Path(library.hf_hub_download(repo, file))
    except Exception as error:  # see `fetched`
        raise FusecError(f"{name}: {file} cannot be fetched: {_first_line(error)}") from None


def _cached(library: Any, repo: str) -> dict[str, Path]:
    """File -> where it lies, of a repository's newest state that is here."""
    try:
        repos = library.scan_cache_dir().repos
    except library.errors.CacheNotFound:
        return {}
    revisions = [r for found in repos if found.repo_id == repo for r in found.revisions]
    newest = max(revisions, key=lambda r: ("main" in r.refs, r.last_modified), default=None)
    if newest is None:
        return {}
    root = Path(newest.snapshot_path)
    return {Path(f.file_path).relative_to(root).as_posix(): f.file_path for f in newest.files}


def _from_cache(
    name: str, match: re.Match[str], here: Mapping[str, Path], error: Exception
) -> Path:
    """What `name` means among the files that are here, as the hub is not reached."""
    try:
        parts = parts_of(chosen_file(name, here, match["quant"], match["file"]))
        paths = [here[part] for part in parts]
    except (FusecError, KeyError):
        raise FusecError(
            f"{name}: not here yet, and the Hugging Face hub is not reached: "
            f"{_first_line(error)}; try again with a network, or give the path of a GGUF file, or "
            f"take demo, which comes with fusec"
        ) from None
    announce(f"{name}: the hub is not reached, taking {parts[0]}, which is here")
    return paths[0]


def _is_first(file: str) -> bool:
    match = PART.search(file)
    return match is None or int(match["number"]) == 1


def _there_are(files: Iterable[str]) -> str:
    models = sorted(file for file in files if file.lower().endswith(".gguf"))
    more = f" and {len(models) - SHOWN} more" if len(models) > SHOWN else ""
    return f"there are {', '.join(models[:SHOWN])}{more}" if models else "there are none"


def _first_line(error: Exception) -> str:
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return line.rstrip(".")
