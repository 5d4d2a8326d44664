"""Level 0: being installed costs nothing and changes nothing; opening changes nothing but the backend's own."""

from __future__ import annotations

import pytest

from quire_conformance import hygiene
from quire_conformance.hygiene import ManifestLook, OpeningLook
from quire_conformance.target import Target


@pytest.fixture
def manifest(target: Target) -> ManifestLook:
    return hygiene.look_at_manifest(target)


@pytest.fixture
def opening(target: Target) -> OpeningLook:
    look = hygiene.look_at_opening(target)
    assert not look.error, f"backend {target.name!r} cannot be opened: {look.error}"
    return look


def test_the_manifest_imports_only_the_standard_library(manifest: ManifestLook) -> None:
    assert not manifest.error, f"the manifest cannot be used: {manifest.error}"
    assert not manifest.foreign, (
        f"importing the manifest and probing imports {', '.join(manifest.foreign)}; a manifest may import the standard "
        "library, quire.backend.contract, quire.backend.probing and its own package's light modules"
    )


def test_the_manifest_prints_nothing_and_answers_the_same_twice(manifest: ManifestLook) -> None:
    assert not manifest.printed, f"importing the manifest and probing prints {manifest.printed!r}"
    assert manifest.stable, "probe() answers differently the second time"


def test_importing_the_manifest_leaves_the_process_as_it_was(manifest: ManifestLook) -> None:
    assert not manifest.changed, f"importing the manifest and probing changes {'; '.join(manifest.changed)}"


def test_the_backend_opens(opening: OpeningLook) -> None:
    assert opening.name, "an opened backend has a name"


def test_opening_leaves_the_environment_as_it_was(opening: OpeningLook) -> None:
    assert not opening.environment, f"opening the backend changes the environment: {'; '.join(opening.environment)}"


def test_opening_leaves_the_process_as_it_was(opening: OpeningLook) -> None:
    assert not opening.process, f"opening the backend changes {'; '.join(opening.process)}"


def test_opening_prints_nothing(opening: OpeningLook) -> None:
    assert not opening.printed, f"opening the backend prints {opening.printed!r}; use logging"


def test_the_core_is_not_patched(opening: OpeningLook) -> None:
    assert not opening.patched, (
        f"opening the backend replaces {', '.join(opening.patched)} of the core; "
        "a backend fills in hooks and nothing else"
    )
