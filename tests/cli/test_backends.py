"""`quire backends` and `quire doctor`: who is here, and why not."""

import json

import pytest


def test_every_backend_is_listed_with_status_reason_and_capabilities(quire):
    result = quire("backends", "--json")
    rows = {row["name"]: row for row in json.loads(result.stdout)}
    assert rows["reference"]["status"] == "found"
    assert "float32" in rows["reference"]["caps"]["dtypes"]
    assert rows["null"]["remedy"] == "--backend null"


def test_a_backend_that_is_not_installed_is_listed_with_the_line_to_type(quire, monkeypatch):
    monkeypatch.setattr("quire.backend.discovery.known_backends", lambda: ("faraway",))
    rows = {row["name"]: row for row in json.loads(quire("backends", "--json").stdout)}
    assert rows["faraway"]["status"] == "not installed"
    assert rows["faraway"]["remedy"] == "pip install 'quire[faraway]'"


def test_the_table_is_for_people(quire):
    result = quire("backends", "--backend", "reference")
    assert result.exit_code == 0
    assert "score 0, used only when" in result.stdout


def test_without_a_name_each_backend_has_one_line(quire, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    listed = [line.split() for line in quire("backends").stdout.splitlines()]
    assert [line[1] for line in listed if line[:1] == ["reference"]] == ["found"]
    assert len({line[0] for line in listed if line}) == len([line for line in listed if line])


def test_a_backend_off_the_allow_list_is_listed_as_not_allowed(quire, monkeypatch):
    monkeypatch.setenv("QUIRE_BACKENDS_ALLOW", "reference")
    rows = {row["name"]: row for row in json.loads(quire("backends", "--json").stdout)}
    assert rows["null"]["status"] == "not allowed"


def test_an_unknown_name_is_refused(quire):
    result = quire("backends", "--backend", "nope")
    assert result.exit_code == 1
    assert "there is no backend 'nope'" in result.stderr


def test_kernels_tells_who_serves_each_op_of_a_model(quire):
    result = quire("backends", "--kernels", "--backend", "reference", "--json")
    ops = {item["op"]: item for item in json.loads(result.stdout)}
    assert {"paged_attention", "kv_write", "linear", "sample", "block_copy"} <= ops.keys()
    assert ops["paged_attention"]["provider"] == "reference"


def test_kernels_tells_what_a_model_does_not_ask_for(quire):
    result = quire("backends", "--kernels", "--backend", "reference")
    assert "moe: reference" in result.stdout.replace("\n", " ")


def test_kernels_of_a_dtype_that_the_backend_lacks_are_refused(quire):
    result = quire("backends", "--kernels", "--backend", "reference", "--dtype", "int4")
    assert result.exit_code == 2
    assert "int4" in result.stderr


def test_doctor_tells_versions_and_a_verdict_for_each_backend(quire):
    result = quire("doctor", "--json")
    told = json.loads(result.stdout)
    assert told["versions"]["torch"]
    assert told["verdicts"]["reference"].startswith("ok")
    assert "free of" in told["machine"]["memory"]


def test_doctor_fails_where_a_backend_is_broken(quire, tmp_path, monkeypatch):
    folder = tmp_path / "quire_ruined-0.1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: quire-ruined\nVersion: 0.1.0\n")
    (folder / "entry_points.txt").write_text("[quire.backends]\nruined = no_such_module\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    result = quire("doctor")
    assert result.exit_code == 1
    assert "broken: ModuleNotFoundError: No module named 'no_such_module'" in " ".join(result.stdout.split())


@pytest.mark.parametrize("command", ["run", "chat", "demo", "backends", "doctor", "plan", "replay", "bench"])
def test_every_command_has_help(quire, command):
    result = quire(command, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.stdout
