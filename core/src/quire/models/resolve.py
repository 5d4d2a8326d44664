"""From what a user calls a model to its folder: a path, an installed model package, or a Hugging Face id."""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from quire.errors import ModelError

MODEL_GROUP = "quire.models"
"""Entry-point group of installed models: each entry names a function that returns the model's folder."""

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
HUB_FILES = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken")


def resolve_path(model: str, revision: str | None = None) -> Path:
    """Return the folder of a model: a local folder, an installed model such as "demo", or a Hugging Face id, which is
    downloaded unless it is in the cache already. Raise ModelError when there is none.

    A folder that is called as an installed model is comes first if it holds a model; any other does not hide it.
    """
    local = Path(model).expanduser()
    installed = {entry.name: entry for entry in entry_points(group=MODEL_GROUP)}
    if local.is_dir() and (model not in installed or (local / "config.json").exists()):
        return local.absolute()
    if model in installed:
        return _installed_path(installed[model])
    if local.is_file():
        raise ModelError(f"{model} is a file; give the folder that holds config.json and *.safetensors")
    if model.startswith((".", "/", "~")):
        raise ModelError(f"there is no folder {model}; give one that holds config.json and *.safetensors")
    if HUB_ID.fullmatch(model):
        return _download(model, revision)
    names = ", ".join(sorted(installed)) or "none; `pip install quire[demo]` brings one called demo"
    raise ModelError(
        f"no model {model!r}: not a folder, not an installed model ({names}), and not a Hugging Face id (owner/name)"
    )


def _installed_path(entry: EntryPoint) -> Path:
    try:
        path = Path(entry.load()())
    except Exception as error:  # a plugin may fail in any way; it is named and the cause kept
        raise ModelError(f"the installed model {entry.name!r} ({entry.value}) cannot be opened: {error}") from error
    if not path.is_dir():
        raise ModelError(f"the installed model {entry.name!r} points to {path}, which is no folder; reinstall it")
    return path


def _download(model: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=list(HUB_FILES)))
    except LocalEntryNotFoundError as error:
        raise ModelError(
            f"{model} is not in the Hugging Face cache and the hub cannot be reached; run `hf download {model}` where "
            "there is a network and give the folder, or check HF_HUB_OFFLINE"
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise ModelError(f"{model} cannot be fetched from Hugging Face: {error}") from error
