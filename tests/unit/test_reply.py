"""Answers, now or later: the continuation runs where the answer is given."""

import pytest

from heliograph.reply import Later, Reply, after, proceed


def fail(reason: object) -> None:
    pytest.fail(f"not expected: {reason}")


def test_a_value_continues_in_the_same_call() -> None:
    seen: list[object] = []
    proceed(5, seen.append, seen.append)
    assert seen == [5]


def test_a_later_value_continues_inside_resolve() -> None:
    seen: list[object] = []
    later: Later[int] = Later()
    proceed(later, seen.append, seen.append)
    assert seen == []
    later.resolve(5)
    assert seen == [5]


def test_an_answer_that_came_before_the_question_is_not_lost() -> None:
    seen: list[object] = []
    later: Later[int] = Later()
    later.resolve(5)
    later.then(seen.append, seen.append)
    assert seen == [5]


def test_a_failure_reaches_the_end_of_the_chain() -> None:
    seen: list[object] = []
    later: Later[int] = Later()

    def more(value: int) -> Reply[int]:
        return value + 1

    chained = after(after(later, more), more)
    proceed(chained, fail, seen.append)
    error = ValueError("x")
    later.fail(error)
    assert seen == [error]


def test_what_a_transformation_raises_later_fails_the_chain() -> None:
    seen: list[object] = []
    later: Later[int] = Later()

    def broken(value: int) -> int:
        if value:
            raise ValueError("broken")
        return value

    proceed(after(later, broken), fail, seen.append)
    later.resolve(1)
    assert [str(error) for error in seen] == ["broken"]


def test_a_chain_of_values_and_laters() -> None:
    seen: list[object] = []
    first: Later[int] = Later()
    second: Later[int] = Later()

    def follow(_value: int) -> Later[int]:
        return second

    followed: Reply[int] = after(first, follow)
    chained: Reply[int] = after(followed, lambda value: value * 2)
    proceed(chained, seen.append, fail)
    first.resolve(1)
    second.resolve(21)
    assert seen == [42]


def test_an_answer_is_given_and_awaited_once() -> None:
    later: Later[int] = Later()
    later.resolve(1)
    with pytest.raises(AssertionError):
        later.resolve(2)
    later.then(lambda _: None, fail)
    with pytest.raises(AssertionError):
        later.then(lambda _: None, fail)
