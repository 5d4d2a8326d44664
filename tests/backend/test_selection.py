"""One clear winner, or an error that lists everybody and says what to type."""

import pytest

from quire.backend.manager import select
from quire.errors import BackendError


def refusal(*arguments, **keywords) -> str:
    with pytest.raises(BackendError) as caught:
        select(*arguments, **keywords)
    return str(caught.value)


def test_the_highest_score_wins(site):
    site.add("slow", probe="Found(10)")
    site.add("fast", probe="Found(100, {'chip': 'x1'})")
    selection = select(options={"threads": "2"})
    assert (selection.name, selection.facts, selection.options) == ("fast", {"chip": "x1"}, {"threads": "2"})
    assert "100" in selection.reason


def test_a_name_beats_a_score(site):
    site.add("slow", probe="Found(10)")
    site.add("fast", probe="Found(100)")
    assert select("slow").name == "slow"


def test_score_zero_is_used_only_when_named(site):
    site.add("spare", probe="Found(0)")
    assert "spare: found: score 0, used only when named; --backend spare" in refusal()
    assert select("spare").name == "spare"


def test_a_tie_is_an_error_that_names_both_and_the_flag(site):
    site.add("one", probe="Found(50)")
    site.add("two", probe="Found(50)")
    site.add("low", probe="Found(10)")
    message = refusal()
    assert "'one' (quire-one 0.1.0) and 'two' (quire-two 0.1.0) tie at score 50" in message
    assert "--backend one" in message
    assert "--backend two" in message


def test_no_match_lists_every_candidate_with_reason_and_remedy(site):
    site.add_metadata("quire", requires=('quire-fast[runtime]==0.1.0; extra == "fast"',))
    site.add("away", probe="Absent('no x2 card', 'plug one in')")
    site.add("bad", manifest="import no_such_module")
    message = refusal()
    assert "no backend can run here" in message
    assert "away: absent: no x2 card; plug one in" in message
    assert "bad: broken: ModuleNotFoundError: No module named 'no_such_module'" in message
    assert "fast: not installed; pip install 'quire[fast]'" in message


def test_a_named_backend_that_is_absent_is_not_said_to_be_missing_as_well(site):
    site.add_metadata("quire", requires=('quire-away[runtime]==0.1.0; extra == "away"',))
    site.add("away", probe="Absent('no x2 card')")
    assert "not installed" not in refusal("away")


def test_a_named_backend_that_is_absent_does_not_fall_back(site):
    site.add("away", probe="Absent('no x2 card', 'plug one in')")
    site.add("here", probe="Found(50)")
    message = refusal("away")
    assert message.startswith("backend 'away' is absent: no x2 card; plug one in")
    assert "here: found: score 50; --backend here" in message


def test_a_misspelt_name_is_answered_with_the_nearest(site):
    site.add("xpress")
    assert "there is no backend 'xpres'; did you mean 'xpress'?" in refusal("xpres")


def test_a_name_that_an_extra_would_install_is_answered_with_the_line_to_type(site):
    site.add_metadata("quire", requires=('quire-fast[runtime]==0.1.0; extra == "fast"',))
    assert "there is no backend 'fast' installed; pip install 'quire[fast]'" in refusal("fast")


def test_an_empty_name_is_no_free_choice(site):
    site.add("here")
    assert "there is no backend ''" in refusal("")


def test_two_distributions_of_one_name_are_an_error(site):
    site.add("same", dist="vendor-a")
    site.add("same", dist="vendor-b")
    assert "'same' is provided by vendor-a 0.1.0 and vendor-b 0.1.0; uninstall one" in refusal("same")
    assert "tie at score 10" in refusal()


def test_a_backend_off_the_allow_list_is_refused_though_named(site):
    site.add("here")
    assert "backend 'here' is not allowed: the allow-list names other" in refusal("here", allow=["other"])
