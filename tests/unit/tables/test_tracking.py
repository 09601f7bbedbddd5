"""Laws of the tables of tracking: a window as the settings say, and a name for each that fits a folder."""

import re

from app.settings import Settings
from tables import tracking

TABLES = (tracking.COLLECTED, tracking.RECEIVED)


def test_the_window_is_the_one_of_the_settings() -> None:
    """An operator who widens the dedupe window widens it everywhere."""
    assert {table.window_hours for table in TABLES} == {Settings.load().dedupe_window_hours}


def test_names_are_folders_and_differ() -> None:
    """Each partition of a table is a folder under the table's name."""
    assert len({table.name for table in TABLES}) == len(TABLES)
    assert all(re.fullmatch(r"[a-z0-9-]+", table.name) for table in TABLES)
