"""A chosen plugin is checked hook by hook before anything is built on it."""

import pytest

from quire.backend.manager import OpenBackend, open_backend, select
from quire.config import EngineConfig
from quire.errors import BackendError
from quire.sampling import SamplingParams

EXTRA_HOOK = """

class MoreHooks(Hooks):
    @hookimpl
    def {signature}:
        {body}


hooks = MoreHooks()
"""


def more(site, signature: str, body: str) -> str:
    """Return the good plugin with one hook more, or one hook otherwise."""
    return site.plugin + EXTRA_HOOK.format(signature=signature, body=body)


def opened(site, plugin: str = "", **arguments) -> OpenBackend:
    site.add("chip", plugin=plugin or site.plugin, **arguments)
    return open_backend(select("chip"))


def refusal(site, plugin: str, **arguments) -> str:
    with pytest.raises(BackendError) as caught:
        opened(site, plugin, **arguments)
    return str(caught.value)


def test_a_backend_that_keeps_the_contract_opens(site):
    backend = opened(site)
    assert backend.name == "chip"
    assert backend.caps.dtypes == ("float32",)
    assert backend.profile.levels == (0, 1, 2, 3, 4)
    assert backend.kv_constraints(None).block_sizes == (16,)


def test_only_the_winner_is_imported(site):
    other = site.add("other", probe="Found(1)")
    opened(site)
    assert site.imported(other) == {"manifest"}


def test_a_plugin_that_cannot_be_imported_says_so(site):
    message = refusal(site, "import no_such_library")
    assert "backend 'chip' cannot be imported from" in message
    assert "No module named 'no_such_library'" in message


def test_a_plugin_may_be_a_module(site):
    functions = site.plugin.replace("class Hooks:", "if True:").replace("(self, ", "(").replace("(self)", "()")
    manifest = "from quire.backend.contract import Found\nAPI = (1, 0)\nPLUGIN = '{package}.plugin'\n"
    manifest += "def probe():\n    return {probe}\n"
    assert opened(site, functions.replace("hooks = Hooks()", ""), manifest=manifest).caps.device_type == "cpu"


def test_a_missing_required_hook_is_named(site):
    assert "lacks the required hooks quire_kv_constraints" in refusal(
        site, site.plugin.replace("    @hookimpl\n    def quire_kv_constraints", "    def kv_constraints")
    )


def test_an_unknown_hook_is_answered_with_the_nearest(site):
    message = refusal(site, more(site, "quire_open_devices(self)", "return None"))
    assert "has quire_open_devices, which is no hook; did you mean quire_open_device?" in message


def test_a_hook_without_its_marker_is_not_passed_over_in_silence(site):
    plugin = site.plugin.replace("    @hookimpl\n    def quire_describe", "    def quire_describe")
    assert "has quire_describe without @hookimpl" in refusal(site, plugin)


def test_a_hook_that_asks_for_an_argument_nobody_gives_is_refused(site):
    message = refusal(site, more(site, "quire_create_allocator(self, gadget)", "return None"))
    assert "gadget" in message


def test_a_plugin_that_claims_an_unknown_feature_is_refused(site):
    message = refusal(site, site.plugin.replace("features=frozenset()", "features=frozenset({'telepathy'})"))
    assert "quire_describe raised ValueError: unknown features ['telepathy']" in message


@pytest.mark.parametrize(
    ("hook", "signature", "wanted"),
    [
        ("quire_describe", "quire_describe(self, selection)", "BackendCaps"),
        ("quire_conformance_profile", "quire_conformance_profile(self)", "ConformanceProfile"),
    ],
)
def test_an_answer_of_the_wrong_type_names_the_hook(site, hook, signature, wanted):
    message = refusal(site, more(site, signature, "return {'dtypes': 3}"))
    assert message == f"backend 'chip': {hook} returned {{'dtypes': 3}} of type dict, not {wanted}"


def test_a_device_that_lacks_methods_is_refused_with_their_names(site):
    backend = opened(site)
    with pytest.raises(BackendError, match=r"quire_open_device returned 'no device'.*lacks .*memory_info.*to_host"):
        backend.open_device()


def test_a_hook_that_raises_is_named_with_its_cause(site):
    backend = opened(site, more(site, "quire_kv_constraints(self, model)", "raise OSError('card is gone')"))
    with pytest.raises(BackendError, match="quire_kv_constraints raised OSError: card is gone"):
        backend.kv_constraints(None)


def test_a_config_patch_is_collected(site):
    body = "return [contract.ConfigChange('max_num_seqs', 8, 'it has eight lanes')]"
    (change,) = opened(site, more(site, "quire_resolve_config(self, config)", body)).resolve_config(EngineConfig("m"))
    assert (change.field, change.value, change.reason) == ("max_num_seqs", 8, "it has eight lanes")


@pytest.mark.parametrize("answer", ["contract.ConfigChange('lanes', 8, '')", "('max_num_seqs', 8)"])
def test_a_config_patch_of_no_setting_is_refused(site, answer):
    backend = opened(site, more(site, "quire_resolve_config(self, config)", f"return [{answer}]"))
    with pytest.raises(BackendError, match="quire_resolve_config"):
        backend.resolve_config(EngineConfig("m"))


def test_reasons_against_a_request_are_collected(site):
    backend = opened(site, more(site, "quire_validate_request(self, params)", "return ['no logprobs here']"))
    assert backend.validate_request(SamplingParams()) == ("no logprobs here",)
    assert backend.collect_env() == {}
    assert backend.collect_metrics() == {}


def test_a_check_of_requests_that_raises_is_named(site):
    backend = opened(site, more(site, "quire_validate_request(self, params)", "raise ZeroDivisionError('by zero')"))
    with pytest.raises(BackendError, match="'chip': quire_validate_request raised ZeroDivisionError: by zero"):
        backend.validate_request(SamplingParams())
