"""Every manifest is probed by itself, and whatever one of them does is that one's reason alone."""

import sys

import pytest

from quire.backend.discovery import discover, known_backends
from quire.errors import ConfigError


def reasons(**arguments) -> dict[str, tuple[str, str]]:
    return {candidate.name: (candidate.status, candidate.reason) for candidate in discover(**arguments)}


def test_found_absent_and_their_reasons_are_told_apart(site):
    site.add("here", probe="Found(50, {'chip': 'x1'})")
    site.add("away", probe="Absent('no x2 card', 'plug one in')")
    away, here = discover()
    assert (here.name, here.status, here.score, here.outcome.facts) == ("here", "found", 50, {"chip": "x1"})
    assert (away.status, away.reason, away.remedy) == ("absent", "no x2 card", "plug one in")


def test_only_manifests_are_imported(site):
    package = site.add("here")
    discover()
    assert site.imported(package) == {"manifest"}


def test_discovery_imports_no_torch():
    import subprocess

    code = "import sys; from quire.backend.discovery import discover; discover(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("def", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("API = (1, 0)\nPLUGIN = 'a:b'", "has no probe"),
        ("API = (1, 0)\nPLUGIN = 7\ndef probe(): ...", "PLUGIN is 7"),
        ("API = '1.0'\nPLUGIN = 'a:b'\ndef probe(): ...", "API is '1.0'"),
        ("API = (1, 99)\nPLUGIN = 'a:b'\ndef probe(): ...", "needs plugin API 1.99"),
        ("API = (2, 0)\nPLUGIN = 'a:b'\ndef probe(): ...", "built for plugin API 2.0"),
        ("API = (0, 9)\nPLUGIN = 'a:b'\ndef probe(): ...", "built for plugin API 0.9"),
        ("API = (1, 0)\nPLUGIN = 'a:b'\ndef probe(): ...", "probe() returned None"),
        ("API = (1, 0)\nPLUGIN = 'a:b'\ndef probe(): return 1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_bad_manifest_is_broken_with_its_reason_and_others_are_found(site, manifest, reason):
    site.add("good")
    site.add("bad", manifest=manifest.replace("{", "{{").replace("}", "}}"))
    found = reasons()
    assert found["good"][0] == "found"
    assert found["bad"][0] == "broken"
    assert reason in found["bad"][1]


@pytest.mark.parametrize("score", ["-1", "True", "'high'", "1.5"])
def test_a_score_that_is_no_natural_number_is_broken(site, score):
    site.add("bad", probe=f"Found({score})")
    assert reasons()["bad"][0] == "broken"


def test_what_the_allow_list_does_not_name_is_not_imported(site):
    package = site.add("other")
    site.add("mine")
    found = reasons(allow=["mine"])
    assert found["mine"][0] == "found"
    assert found["other"] == ("not allowed", "the allow-list names mine")
    assert site.imported(package) == set()


def test_the_environment_restricts_and_the_argument_restricts_further(site, monkeypatch):
    for name in ("one", "two", "three"):
        site.add(name)
    monkeypatch.setenv("QUIRE_BACKENDS_ALLOW", "one, two")
    assert {name for name, (status, _) in reasons().items() if status == "found"} == {"one", "two"}
    assert {candidate.remedy for candidate in discover()} == {"", "name it in QUIRE_BACKENDS_ALLOW too"}
    assert {name for name, (status, _) in reasons(allow=["two", "three"]).items() if status == "found"} == {"two"}


@pytest.mark.parametrize("value", ["", "one,,two", ","])
def test_a_malformed_allow_list_in_the_environment_raises(site, monkeypatch, value):
    monkeypatch.setenv("QUIRE_BACKENDS_ALLOW", value)
    with pytest.raises(ConfigError, match="QUIRE_BACKENDS_ALLOW is"):
        discover()


def test_names_to_install_come_from_the_extras_of_the_distribution(site):
    requires = (
        'quire-fast[runtime]==0.1.0; extra == "fast"',
        'quire-cpu-x86[runtime]==0.1.0; extra == "cpu-x86"',
        'quire-server==0.1.0; extra == "server"',
        'quire-fast[runtime]==0.1.0; extra == "all"',
        "numpy",
    )
    site.add_metadata("quire", requires=requires)
    assert known_backends() == ("cpu-x86", "fast")


def test_known_backends_are_none_where_the_distribution_is_not_installed(site):
    assert known_backends() == ()
