"""Settings are data: every family's file is readable, and a name that does not exist is refused."""

from __future__ import annotations

import json
from importlib import resources

import pytest

from quire_kernels_triton import tuning
from quire_kernels_triton.launching import dependent, in_order
from quire_kernels_triton.tuning import HEAD_SIZES, Target, settings_for

FILES = sorted(file.name for file in (resources.files("quire_kernels_triton") / "tuned").iterdir())


@pytest.mark.parametrize("name", FILES)
def test_every_tuned_file_is_readable_and_holds_only_known_fields(name):
    family = name.removesuffix(".json")
    settings = settings_for(family)
    given = json.loads((resources.files("quire_kernels_triton") / "tuned" / name).read_text())
    assert set(given) <= set(settings._fields)
    for size, fields in given.get("decode", {}).items():
        assert settings.decode[int(size)] == settings.decode[int(size)]._replace(**fields)


def test_a_family_without_a_file_has_its_neighbours_or_the_defaults():
    assert settings_for("sm_103") == settings_for("sm_90")
    assert settings_for("unheard of").decode.keys() == set(HEAD_SIZES)


def test_a_field_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="known are tile"):
        tuning._fill("decode", tuning.DecodeSettings(), {"tyle": 3})


def test_only_hopper_and_later_start_kernels_early():
    assert Target("sm_90", 132, dependent=True).launch is dependent
    for target in (Target("sm_90", 132), Target("sm_80", 108, dependent=True), Target("gfx942", 304, dependent=True)):
        assert target.launch is in_order


def test_kernels_start_early_in_steps_of_few_tokens():
    assert [dependent(num_tokens)["DEPENDENT"] for num_tokens in (1, 256, 257, 8192)] == [True, True, False, False]
