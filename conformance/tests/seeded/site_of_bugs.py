"""Install the seeded bugs as pip would: a folder with manifests and metadata, to be put on `sys.path`."""

from __future__ import annotations

from pathlib import Path

from seeded_bugs.catalogue import CATALOGUE, PLAIN, SOUND, Bug

MANIFESTS = "seeded_manifests"


def write_site(folder: Path) -> None:
    """Write manifests of all bugs, and the metadata that announces them."""
    package = folder / MANIFESTS
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    for bug in (*CATALOGUE, *SOUND):
        (package / f"{module_of(bug)}.py").write_text((bug.manifest or PLAIN).format(plugin=bug.plugin))
    metadata = folder / "quire_seeded_bugs-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: quire-seeded-bugs\nVersion: 0.1.0\n")
    lines = [f"{backend_of(bug)} = {MANIFESTS}.{module_of(bug)}" for bug in (*CATALOGUE, *SOUND)]
    (metadata / "entry_points.txt").write_text("[quire.backends]\n" + "\n".join(lines) + "\n")


def backend_of(bug: Bug) -> str:
    return f"seeded-{bug.name}"


def module_of(bug: Bug) -> str:
    return bug.name.replace("-", "_")
