"""The queue before the scheduler."""

import pytest

from quire.errors import QueueFullError
from quire.sampling import SamplingParams
from quire.scheduling.admission import AdmissionQueue
from quire.scheduling.request import Request


def request(request_id, priority=0, arrival=0.0, num_tokens=1):
    return Request(
        request_id,
        [1] * num_tokens,
        SamplingParams(),
        arrival=arrival,
        seed=0,
        eos_token_ids=frozenset(),
        priority=priority,
    )


def drain(queue):
    return [queue.pop().request_id for _ in range(len(queue))]


def test_first_come_is_first_served_whatever_the_priority():
    queue = AdmissionQueue("fcfs")
    for name, priority in (("a", 3), ("b", 1), ("c", 2)):
        queue.add(request(name, priority))
    assert drain(queue) == ["a", "b", "c"]


def test_a_lower_number_goes_first_and_then_the_earlier_arrival():
    queue = AdmissionQueue("priority")
    for name, priority, arrival in (("late", 1, 9.0), ("last", 5, 0.0), ("early", 1, 2.0), ("first", -1, 10.0)):
        queue.add(request(name, priority, arrival))
    assert drain(queue) == ["first", "early", "late", "last"]


def test_a_request_that_comes_back_has_its_old_place():
    queue = AdmissionQueue("fcfs")
    first = request("first")
    for item in (first, request("second")):
        queue.add(item)
    assert queue.pop() is first
    queue.add(request("third"))
    queue.add(first)
    assert drain(queue) == ["first", "second", "third"]


def test_what_is_set_aside_is_passed_over_until_it_is_restored():
    queue = AdmissionQueue("fcfs")
    for name in "abc":
        queue.add(request(name))
    queue.set_aside()
    assert queue.pop().request_id == "b"
    queue.restore()
    assert drain(queue) == ["a", "c"]


def test_a_removed_request_is_skipped():
    queue = AdmissionQueue("fcfs")
    first, second = request("first"), request("second")
    queue.add(first)
    queue.add(second)
    queue.forget(first)
    assert queue.first() is second
    assert len(queue) == 1


def test_an_id_that_comes_again_has_a_new_place():
    queue = AdmissionQueue("fcfs")
    first = request("a")
    queue.add(first)
    queue.add(request("b"))
    queue.forget(first)
    again = request("a")
    queue.add(again)
    assert drain(queue) == ["b", "a"]
    assert queue.first() is None


def test_a_full_queue_refuses_by_requests():
    queue = AdmissionQueue("fcfs", max_requests=2)
    for name in "ab":
        queue.add(request(name))
    with pytest.raises(QueueFullError, match="max_queued_requests is 2"):
        queue.check_room(1)


def test_a_full_queue_refuses_by_tokens():
    queue = AdmissionQueue("fcfs", max_tokens=10)
    queue.add(request("a", num_tokens=6))
    queue.check_room(4)
    with pytest.raises(QueueFullError, match="11 tokens would wait; max_queued_tokens is 10"):
        queue.check_room(5)


def test_an_empty_queue_takes_a_request_of_any_size():
    AdmissionQueue("fcfs", max_tokens=10).check_room(50)


def test_queued_tokens_are_counted_as_they_were_when_they_came():
    queue = AdmissionQueue("fcfs")
    item = request("a", num_tokens=3)
    queue.add(item)
    item.token_ids.append(7)  # a token sampled before its preemption arrives
    queue.remove(item)
    assert queue.num_tokens == 0
