"""`quire new-backend NAME`: write a vendor package that passes levels 0 to 4, to start from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated

import typer

from quire.errors import ConfigError

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
SUFFIX = ".jinja"


def new_backend(
    name: Annotated[str, typer.Argument(help="What users type after --backend: lower case, digits, dashes.")],
    path: Annotated[Path | None, typer.Option(help="Folder to make; default: quire-NAME.")] = None,
) -> None:
    """Write a package for a new backend: manifest, hooks, device, two kernels, the one-line test, a CI file."""
    folder = path if path is not None else Path(f"quire-{name}")
    for file in write_backend(name, folder):
        print(file)
    print(f"next: cd {folder} && pip install -e '.[test]' && quire conformance --backend {name}")


def write_backend(name: str, folder: Path) -> list[Path]:
    """Write the package and return its files. Raise ConfigError on a bad name, or a folder that holds something."""
    import jinja2

    if not NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is no name for a backend; it must be like mychip or my-chip2")
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty; give another folder with --path")
    package = f"quire_{name.replace('-', '_')}"
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    written = []
    for place, source in _templates(resources.files("quire_conformance") / "templates" / "new_backend"):
        target = folder / place.replace("PACKAGE", package).removesuffix(SUFFIX)
        text = environment.from_string(source.read_text()).render(name=name, package=package, dist=f"quire-{name}")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        written.append(target)
    return sorted(written)


def _templates(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, Traversable]]:
    for item in folder.iterdir():
        if item.is_dir():
            yield from _templates(item, f"{prefix}{item.name}/")
        elif item.name.endswith(SUFFIX):
            yield f"{prefix}{item.name}", item
