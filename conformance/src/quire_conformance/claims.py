"""Claims and the tests that prove them: a test marked `@claims("prefix_cache")` is mandatory where that is claimed.

Where it is not claimed the test is not run; what the claim would allow must then be refused (level 1 looks).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from quire.backend.contract import FEATURES, GraphLevel, ShapeMode
from quire_conformance.target import Target

claims = pytest.mark.claims


def _has_programs(target: Target) -> bool:
    return target.caps.graphs is not GraphLevel.NONE or target.caps.shapes is not ShapeMode.DYNAMIC


OTHER_CLAIMS: Mapping[str, Callable[[Target], bool]] = {
    "overlap": lambda target: target.caps.max_in_flight > 1,
    "deterministic": lambda target: target.caps.deterministic,
    "programs": _has_programs,
    "no programs": lambda target: not _has_programs(target),
    "float32": lambda target: "float32" in target.caps.dtypes,
    "bytes": lambda target: target.device.torch_device is not None,
    "kernels": lambda target: not target.own_executor,
    "computes": lambda target: 4 in target.profile.levels,
}
"""What a backend claims elsewhere in its capabilities than in `features`."""


def is_claimed(target: Target, claim: str) -> bool:
    """Say whether a backend claims this. Raise KeyError on a claim that does not exist."""
    return claim in target.caps.features if claim in FEATURES else OTHER_CLAIMS[claim](target)
