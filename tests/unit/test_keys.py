"""The answers to publishes with a key: how long they are kept, and how many."""

from msgspec import structs

from heliograph.engine.answers import Counts, Published
from heliograph.engine.base import KEY_TTL_S
from heliograph.engine.keys import MAX_KEYS, MAX_PARTS, KeyedAnswers
from heliograph.hub.facts import Position

ANSWER = Published((Position("e", 1),), {"c": Counts(1, 0)}, b"print")


def test_an_answer_is_kept_for_its_time_from_the_first_call_on() -> None:
    answers = KeyedAnswers()
    assert answers.find("k", 0.0) is None
    answers.add("k", ANSWER, 0.0)
    for now in (0.0, KEY_TTL_S - 0.1):
        assert answers.find("k", now) == structs.replace(ANSWER, repeated=True)
    assert answers.find("other", 0.0) is None
    assert answers.find("k", KEY_TTL_S) is None


def test_an_answer_expires_by_its_own_time() -> None:
    answers = KeyedAnswers()
    answers.add("a", ANSWER, 0.0)
    answers.add("b", ANSWER, 10.0)
    assert answers.find("a", KEY_TTL_S + 5) is None
    assert answers.find("b", KEY_TTL_S + 5) is not None


def test_the_oldest_key_gives_way_to_too_many() -> None:
    answers = KeyedAnswers()
    for number in range(MAX_KEYS):
        answers.add(f"{number}", Published(), 0.0)
    assert answers.find("0", 0.0) is not None
    answers.add("new", Published(), 0.0)
    found = [answers.find(key, 0.0) is not None for key in ("0", "1", "new")]
    assert found == [False, True, True]


def test_the_oldest_key_gives_way_to_answers_with_many_positions_and_counts() -> None:
    answers = KeyedAnswers()
    positions = Published([Position("e", 1)] * (MAX_PARTS - 2))
    answers.add("first", positions, 0.0)
    answers.add("second", ANSWER, 0.0)
    assert answers.find("first", 0.0) is not None
    answers.add("third", ANSWER, 0.0)
    found = [answers.find(key, 0.0) is not None for key in ("first", "second", "third")]
    assert found == [False, True, True]
    # What was removed counts no more; an answer that is larger than all others stays alone.
    answers.add("fourth", positions, KEY_TTL_S)
    answers.add("fifth", Published([Position("e", 1)] * (MAX_PARTS + 1)), KEY_TTL_S)
    found = [answers.find(key, KEY_TTL_S) is not None for key in ("third", "fourth", "fifth")]
    assert found == [False, False, True]
