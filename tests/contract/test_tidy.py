"""The limits of the house hold over the whole tree, and each check is shown to fail on a planted fault."""

import pytest

from tests.contract import tidy, tree

# path or path:rule -> why it may. An entry that is no longer needed fails the test below.
EXEMPT: dict[tuple[str, str], str] = {}

# This file and the rules themselves must be able to spell what they forbid.
SPELLS_HOSTS = frozenset({"tests/contract/tidy.py", "tests/contract/test_tidy.py"})

PLANTED: tuple[tuple[tidy.Rule, str, str], ...] = (
    (tidy.long_functions, "app/x.py", "def f():\n" + "    a = 1\n" * tidy.FUNCTION_LINES_MAX),
    (tidy.long_files, "app/x.py", "\n" * (tidy.FILE_LINES_MAX + 1)),
    (tidy.long_files, "api/x.py", "\n" * (tidy.SMALL_FILE_LINES_MAX + 1)),
    (tidy.long_files, "agents/crm/x.py", "\n" * (tidy.SMALL_FILE_LINES_MAX + 1)),
    (tidy.long_lines, "app/x.py", "#" * (tidy.LINE_CHARACTERS_MAX + 1)),
    (
        tidy.deep_nesting,
        "app/x.py",
        "def f(a):\n  if a:\n   for b in a:\n    while b:\n     with b:\n      if b:\n       return 1\n",
    ),
    (tidy.missing_docstrings, "app/x.py", "A = 1\n"),
    (tidy.missing_docstrings, "tests/unit/test_x.py", '"""Doc."""\ndef test_a():\n    assert True\n'),
    (tidy.full_init_files, "app/__init__.py", '"""Doc."""\nimport os\n'),
    (tidy.full_init_files, "app/__init__.py", ""),
    (tidy.banned_modules, "app/utils.py", ""),
    (tidy.banned_modules, "app/http_helpers/x.py", ""),
    (tidy.banned_words, "app/x.py", "def f(user_data): ...\n"),
    (tidy.banned_words, "app/x.py", "class JobQueue: ...\n"),
    (tidy.banned_words, "app/x.py", "messages = []\n"),
    (tidy.banned_words, "app/x.py", "self.payload = 1\n"),
    (tidy.catch_alls, "api/x.py", "try:\n    f()\nexcept Exception:\n    pass\n"),
    (tidy.catch_alls, "api/x.py", "try:\n    f()\nexcept (ValueError, BaseException):\n    pass\n"),
    (tidy.catch_alls, "api/x.py", "try:\n    f()\nexcept:\n    pass\n"),
    (tidy.own_patches, "tests/unit/test_x.py", "mock.patch('app.dedup.seen')\n"),
    (tidy.own_patches, "tests/unit/test_x.py", "mock.patch.object(app.dedup, 'seen')\n"),
    (tidy.own_patches, "tests/unit/test_x.py", "monkeypatch.setattr('app.dedup.seen', 1)\n"),
    (tidy.sleeping_tests, "tests/unit/test_x.py", "import time\ntime.sleep(1)\n"),
    (tidy.sleeping_tests, "tests/unit/test_x.py", "from time import sleep\n"),
    (tidy.relative_imports, "app/x.py", "from . import y\n"),
    (tidy.registry_hosts, "Makefile", "pip install --index-url https://mirror.example/simple x\n"),
    (tidy.registry_hosts, "docker-compose.yml", "image: quay.io/debezium/connect:3.3\n"),
)

CLEAN = (
    '"""Takes a record batch and gives rows."""\n\nROWS_MAX = 3\n\n\ndef rows(batch):\n    return batch[:ROWS_MAX]\n'
)


def violations() -> dict[tuple[str, str], list[str]]:
    """Everything every rule sees over the tree, by (path, rule)."""
    found: dict[tuple[str, str], list[str]] = {}
    python, text = set(tree.python_files()), set(tree.text_files())
    for path in sorted(python | text):
        source = tree.read(path)
        rules = tidy.TEXT_RULES * (path in text and path not in SPELLS_HOSTS) + tidy.PYTHON_RULES * (path in python)
        for rule in rules:
            if lines := list(rule(path, source)):
                found[path, rule.__name__] = lines
    return found


@pytest.mark.parametrize(("rule", "path", "source"), PLANTED)
def test_each_rule_sees_its_planted_fault(rule: tidy.Rule, path: str, source: str) -> None:
    """A check that cannot fail protects nothing."""
    assert list(rule(path, source))


@pytest.mark.parametrize("rule", [*tidy.PYTHON_RULES, *tidy.TEXT_RULES])
def test_no_rule_complains_about_a_clean_module(rule: tidy.Rule) -> None:
    """A check that always fails is switched off by the first person in a hurry."""
    assert list(rule("app/rows.py", CLEAN)) == []


def test_every_rule_has_a_planted_fault() -> None:
    """A new rule comes with the fault it is meant to see."""
    assert {rule for rule, _, _ in PLANTED} == {*tidy.PYTHON_RULES, *tidy.TEXT_RULES}


def test_the_tree_is_tidy() -> None:
    """Functions, files, lines, nesting, names, docstrings and failures keep the limits of the house."""
    found = violations()
    assert not [line for key, lines in found.items() if key not in EXEMPT for line in lines]


def test_no_exemption_outlives_its_reason() -> None:
    """An exemption that is no longer needed is removed, so the list says what is really exempt."""
    assert set(EXEMPT) <= set(violations())


def test_no_listed_catch_all_outlives_its_reason() -> None:
    """The list of places that survive an unknown failure names only places that do."""
    tree_paths = set(tree.python_files())
    for path in tidy.CATCH_ALL_FILES:
        assert path in tree_paths, path
        assert list(tidy.catch_alls(f"unlisted/{path}", tree.read(path))), path


def test_the_five_files_of_one_event_stay_short() -> None:
    """A stranger can follow one event in one sitting: the five files have 700 lines at most, together."""
    lines = {path: len(tree.read(path).splitlines()) for path in tidy.PATH_FILES}
    assert sum(lines.values()) <= tidy.PATH_FILES_LINES_MAX, lines
