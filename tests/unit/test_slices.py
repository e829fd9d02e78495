"""Slices: how large work is divided, and whose turn it is."""

from collections.abc import Callable, Generator, Iterator
from itertools import pairwise

from heliograph.slices import (
    MOST_WAITING,
    OVERDUE_S,
    OVERDUE_SLICE_S,
    SHARE_S,
    SLICE_S,
    Each,
    LargeAnswers,
    Slices,
)

PIECE_S = 0.0001


class Loop:
    """An event loop that turns when the test says so; the time passes only in pieces of work."""

    def __init__(self) -> None:
        self.time = 0.0
        self.due: list[Callable[[], object]] = []
        self.faults: list[tuple[str, str]] = []
        self.slices = Slices(self.due.append, lambda: self.time, self.fault)

    def fault(self, subject: str, error: Exception) -> None:
        self.faults.append((subject, str(error)))

    def turn(self) -> float:
        """Turn once; return how long that took."""
        began = self.time
        due = self.due.copy()
        self.due.clear()
        for callback in due:
            callback()
        return self.time - began

    def job(self, pieces: int, done: list[str], name: str = "") -> Iterator[None]:
        for _ in range(pieces):
            self.time += PIECE_S
            done.append(name)
            yield


def test_the_loop_turns_between_slices() -> None:
    loop = Loop()
    done: list[str] = []
    loop.slices.start("a", loop.job(100, done))
    assert done == []  # not inside the call
    turns = []
    while loop.due:
        assert len(loop.due) == 1
        turns.append(loop.turn())
    assert len(done) == 100
    assert max(turns) <= SLICE_S + PIECE_S
    assert len(turns) >= 100 * PIECE_S / (SLICE_S + PIECE_S)
    assert len(loop.slices) == 0


def test_owners_take_turns_and_the_jobs_of_one_keep_their_order() -> None:
    """A hundred jobs of one owner delay another one's only by their share of a slice."""
    loop = Loop()
    done: list[str] = []
    for number in range(100):
        loop.slices.start("a", loop.job(10, done, f"a{number}"))
    loop.slices.start("b", loop.job(10, done, "b"))
    loop.turn()
    loop.turn()
    assert done.count("b") == 10
    assert done.index("b") <= SHARE_S / PIECE_S + 1
    while loop.due:
        loop.turn()
    assert [name for name in done if name != "b"] == [
        f"a{number}" for number in range(100) for _ in range(10)
    ]


def test_after_a_second_without_a_pause_slices_become_longer() -> None:
    """Clients that make work without an end must not make it faster than it is done."""
    loop = Loop()
    loop.slices.start("a", loop.job(100_000, []))
    while loop.time <= OVERDUE_S:
        assert loop.turn() <= SLICE_S + PIECE_S
    assert OVERDUE_SLICE_S <= loop.turn() <= OVERDUE_SLICE_S + PIECE_S


def test_a_pause_makes_slices_short_again() -> None:
    loop = Loop()
    loop.slices.start("a", loop.job(1, []))
    loop.turn()
    loop.time += 10 * OVERDUE_S
    loop.slices.start("a", loop.job(1000, []))
    assert loop.turn() <= SLICE_S + PIECE_S


def test_a_job_that_starts_another_is_not_disturbed() -> None:
    loop = Loop()
    done: list[str] = []

    def parent() -> Iterator[None]:
        loop.slices.start("a", loop.job(2, done, "same"))
        loop.slices.start("b", loop.job(2, done, "other"))
        done.append("parent")
        yield

    loop.slices.start("a", parent())
    while loop.due:
        loop.turn()
    assert sorted(done) == ["other", "other", "parent", "same", "same"]


def test_a_fault_is_reported_and_the_other_items_have_their_turn() -> None:
    loop = Loop()
    done: list[int] = []

    def act(number: int) -> None:
        if number == 1:
            raise AssertionError("a fault")
        done.append(number)

    loop.slices.start("a", Each(range(4), act, lambda: done.append(-1)))
    loop.turn()
    assert done == [0, 2, 3, -1]
    assert loop.faults == [("a background task failed", "a fault")]
    assert not loop.due


def test_finishing_does_all_that_is_left() -> None:
    loop = Loop()
    done: list[str] = []
    for owner in "abc":
        loop.slices.start(owner, loop.job(100, done, owner))
    loop.turn()
    loop.slices.finish()
    assert len(done) == 300
    assert len(loop.slices) == 0
    loop.turn()  # the one that was due finds nothing
    loop.slices.start("a", loop.job(1, done))
    loop.turn()
    assert len(done) == 301


# -- Large answers ---------------------------------------------------------------------------


class Asking:
    """Large answers of one owner, and what became of them."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.answers: LargeAnswers[str] = LargeAnswers(self.loop.slices, "answers")
        self.made: list[str] = []
        self.most_at_once = self._making = 0
        self.given: list[str] = []
        self.failed: list[Exception] = []

    def make(self, name: str) -> Generator[None, None, str]:
        self._making += 1
        self.most_at_once = max(self.most_at_once, self._making)
        yield from self.loop.job(50, [])
        self._making -= 1
        if name == "fails":
            raise ValueError(name)
        self.made.append(name)
        return name

    def ask(self, name: str) -> bool:
        later = self.answers.ask(name, lambda: self.make(name))
        if later is None:
            return False
        later.then(self.given.append, self.failed.append)
        return True

    def settle(self) -> None:
        while self.loop.due:
            self.loop.turn()


def test_equal_requests_that_wait_together_are_answered_together() -> None:
    """The first is being made when the others come: what it found may be too old for them."""
    asking = Asking()
    asking.ask("x")
    asking.loop.turn()
    for name in ("x", "x", "y", "x"):
        asking.ask(name)
    asking.settle()
    assert asking.made == ["x", "x", "y"]
    assert asking.given == ["x", "x", "x", "x", "y"]


def test_large_answers_are_made_one_at_a_time() -> None:
    asking = Asking()
    for number in range(5):
        asking.ask(f"{number}")
    asking.settle()
    assert (len(asking.made), asking.most_at_once) == (5, 1)


def test_only_so_many_requests_wait() -> None:
    asking = Asking()
    taken = [asking.ask("x") for _ in range(MOST_WAITING + 3)]
    assert taken == [True] * MOST_WAITING + [False] * 3
    asking.settle()
    assert len(asking.given) == MOST_WAITING
    assert asking.ask("x")


def test_an_answer_that_cannot_be_made_fails_the_requests_for_it() -> None:
    asking = Asking()
    for name in ("fails", "fails", "x"):
        asking.ask(name)
    asking.settle()
    assert [str(error) for error in asking.failed] == ["fails", "fails"]
    assert asking.given == ["x"]


def test_answers_are_given_one_a_piece() -> None:
    """Each is copied into a response, which takes a while where it is large."""
    asking = Asking()
    for _ in range(10):
        asking.ask("x")
    given = [len(asking.given) for _ in asking.answers._answer()]
    assert len(asking.given) == 10
    assert max(after - before for before, after in pairwise([0, *given, 10])) == 1
