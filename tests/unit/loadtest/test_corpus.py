"""The records of a benchmark are those that it says: how many, whose, how many of them again."""

from itertools import islice

from loadtest import corpus
from loadtest.corpus import Shape


def test_shapes_of_other_numbers_have_other_tenants() -> None:
    """The tenant beside a backlog is none of those whose backlog it is."""
    assert not {*corpus.skewed_tenants(50)} & {*corpus.skewed_tenants(1, 50)}


def test_every_so_many_is_the_one_before_again() -> None:
    """Duplicates are whole: the value, the key and the headers of the record before."""
    made = list(corpus.events(Shape(100, 350, duplicates_every=10)))
    again = [number for number, one in enumerate(made) if one[3]]
    assert again == list(range(10, 100, 10))
    assert all(made[number][:3] == made[number - 1][:3] for number in again)


def test_events_have_the_size_that_was_asked_for() -> None:
    """Once the first has shown what the fields take; all but a byte of a length."""
    values = [value for value, *_ in islice(corpus.events(Shape(3, 1_024)), 3)]
    assert {abs(len(value) - 1_024) <= 1 for value in values} == {True}
