"""From a model's name to its folder."""

from importlib.metadata import EntryPoint

import huggingface_hub.constants
import pytest

from quire.errors import ModelError
from quire.models import resolve
from quire.models.loader import resolve_path


def test_a_folder_is_itself(tmp_path):
    assert resolve_path(str(tmp_path)) == tmp_path


def test_a_relative_folder_is_told_as_where_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert resolve_path("here") == tmp_path / "here"


@pytest.mark.parametrize("holds_a_model", [False, True])
def test_a_folder_hides_an_installed_model_of_its_name_only_if_it_holds_a_model(tmp_path, monkeypatch, holds_a_model):
    monkeypatch.setattr(
        resolve, "entry_points", lambda group: [EntryPoint("here", "tempfile:gettempdir", resolve.MODEL_GROUP)]
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    if holds_a_model:
        (tmp_path / "here/config.json").touch()
    assert (resolve_path("here") == tmp_path / "here") is holds_a_model


def test_a_file_is_refused(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ModelError, match="is a file; give the folder"):
        resolve_path(str(tmp_path / "model.safetensors"))


def test_a_name_that_is_nothing_is_refused_with_what_there_is():
    with pytest.raises(ModelError, match="no model 'nothing-here'.*not an installed model.*not a Hugging Face id"):
        resolve_path("nothing-here")


def test_an_id_that_is_not_cached_is_refused_without_a_network(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="nobody/nothing is not in the Hugging Face cache.*hf download nobody/nothing"):
        resolve_path("nobody/nothing")


def test_an_installed_model_is_found_by_name(monkeypatch):
    entry = EntryPoint("here", "importlib:import_module", resolve.MODEL_GROUP)
    monkeypatch.setattr(resolve, "entry_points", lambda group: [entry])
    with pytest.raises(ModelError, match="the installed model 'here' .* cannot be opened"):
        resolve_path("here")
    entry = EntryPoint("here", "pathlib:Path.cwd", resolve.MODEL_GROUP)
    monkeypatch.setattr(resolve, "entry_points", lambda group: [entry])
    assert resolve_path("here").is_dir()


def test_an_installed_model_without_a_folder_is_named(monkeypatch):
    entry = EntryPoint("gone", "tempfile:mktemp", resolve.MODEL_GROUP)
    monkeypatch.setattr(resolve, "entry_points", lambda group: [entry])
    with pytest.raises(ModelError, match="the installed model 'gone' points to .*, which is no folder"):
        resolve_path("gone")
