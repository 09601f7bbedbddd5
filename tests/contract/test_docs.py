"""The pages tell the truth: their commands exist, their paths exist, and the two READMEs stay in step."""

import re
import shlex
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import typer
from markdown_it import MarkdownIt
from markdown_it.token import Token

from api.main import create_app
from infra.local import cli
from tests.contract import tree

PAGES = tuple(path for path in tree.files() if path.endswith(".md"))
READMES = ("README.md", "README.pt-BR.md")
PATH_FILES = ("api/tracking.py", "agents/topology.py", "app/pipeline.py", "agents/tracking/collect.py")
# Paths that are made at run time, or by the reader.
MADE_LATER = {".env", ".afluente/", ".venv/"}


@cache
def tokens(page: str) -> tuple[Token, ...]:
    """The page as its parts."""
    return tuple(MarkdownIt("commonmark").enable("table").parse(tree.read(page)))


def fences(page: str, language: str) -> Iterator[str]:
    """The code blocks of one language."""
    yield from (token.content for token in tokens(page) if token.type == "fence" and token.info == language)


def commands(page: str) -> Iterator[list[str]]:
    """Every command line of the bash blocks, comments and continuations resolved."""
    for block in fences(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words


def inline(page: str) -> Iterator[Token]:
    """Inline parts: words, code, links."""
    for token in tokens(page):
        yield from token.children or ()


def looks_like_a_path(text: str) -> bool:
    """A file or folder of this repository, as pages name them."""
    if re.search(r"[\s*{}<>$…=()]|://|^/", text) or text.startswith("*"):
        return False
    top = {path.split("/")[0] for path in tree.files()}
    return (text.split("/", maxsplit=1)[0] in top and ("/" in text or "." in text)) or text in MADE_LATER


def exists(text: str) -> bool:
    """Whether the repository has it."""
    return text in MADE_LATER or (tree.ROOT / text).exists()


@cache
def targets() -> frozenset[str]:
    """The targets of the Makefile."""
    return frozenset(re.findall(r"(?m)^([a-z][a-z-]*):", tree.read("Makefile")))


def unknown_words(words: list[str]) -> list[str]:
    """The words of a command line that are neither a command nor an option of it; arguments may be anything."""
    command: Any = typer.main.get_command(cli.app)
    rest = list(words)
    while hasattr(command, "commands"):
        if not rest or rest[0].startswith("-"):
            break
        found = command.commands.get(rest[0])
        if found is None:
            return rest[:1]
        command, rest = found, rest[1:]
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    return [word for word in rest if word.startswith("-") and word.split("=")[0] not in options | {"--help"}]


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_on_a_page_exists(page: str) -> None:
    """`make X` on a page is a target of the Makefile, in code blocks and in running text."""
    named = {word for words in commands(page) if words[0] == "make" for word in words[1:] if word.isidentifier()}
    for token in inline(page):
        if token.type == "code_inline" and (match := re.fullmatch(r"make ([a-z-]+)( .*)?", token.content)):
            named.add(match[1])
    assert named <= targets()


@pytest.mark.parametrize("page", PAGES)
def test_every_command_on_a_page_is_known_to_the_command_line(page: str) -> None:
    """`./afluente X` on a page is a command, and its options are options of it."""
    lines = [words for words in commands(page) if words[0] == "./afluente"]
    code = [token.content for token in inline(page) if token.type == "code_inline"]
    lines += [shlex.split(text) for text in code if text.startswith("./afluente ")]
    assert [word for words in lines for word in unknown_words(words[1:])] == []


def test_an_unknown_command_would_be_seen() -> None:
    """The check above can fail, at each level and for options."""
    assert unknown_words(["no-such-command"]) == ["no-such-command"]
    assert unknown_words(["topics", "no-such-command"]) == ["no-such-command"]
    assert unknown_words(["topics", "diff", "--no-such-option"]) == ["--no-such-option"]
    assert unknown_words(["topics", "diff", "--json"]) == []


@pytest.mark.parametrize("page", PAGES)
def test_every_request_on_a_page_is_a_route_of_the_edge(page: str) -> None:
    """A curl that a reader copies reaches a route."""
    routes = set(create_app().openapi()["paths"])
    for words in commands(page):
        for word in words if words[0] == "curl" else ():
            if match := re.match(r"http://127\.0\.0\.1:8000(/[^?]*)", word):
                assert match[1] in routes


@pytest.mark.parametrize("page", PAGES)
def test_every_path_on_a_page_exists(page: str) -> None:
    """A file that is renamed is renamed on the pages too."""
    named = [token.content for token in inline(page) if token.type == "code_inline"]
    linked = [str(token.attrGet("href")).split("#")[0] for token in inline(page) if token.type == "link_open"]
    missing = [text for text in named if looks_like_a_path(text) and not exists(text)]
    # A link is read from the page's own folder, as a browser reads it.
    folder = (tree.ROOT / page).parent
    missing += [text for text in linked if text and "://" not in text and not (folder / text).exists()]
    assert missing == []


def test_a_missing_path_would_be_seen() -> None:
    """The check above can fail, and does not take every word for a path."""
    assert looks_like_a_path("app/no_such_file.py")
    assert not exists("app/no_such_file.py")
    assert not any(map(looks_like_a_path, ("tracking.collect", "make up", "/docs", "event_id", "*.dlq", "app")))


def test_the_readmes_stay_in_step() -> None:
    """Who reads Portuguese gets the same page: the same headings, code, tables, links and figures."""
    english, portuguese = (tokens(page) for page in READMES)

    def shape(page: tuple[Token, ...]) -> list[str]:
        return [token.tag + token.info for token in page if token.type in {"heading_open", "fence", "tr_open"}]

    assert shape(english) == shape(portuguese)
    assert list(fences(READMES[0], "bash")) == list(fences(READMES[1], "bash"))
    # Portuguese writes 49.500 and 0,67: the digits count.
    figures = [re.findall(r"\d[\d,.]*", "".join(t.content for t in inline(page))) for page in READMES]
    digits = [sorted(re.sub("[,.]", "", figure) for figure in page) for page in figures]
    assert digits[0] == digits[1]


@pytest.mark.parametrize("page", ["README.md", "README.pt-BR.md", "ARCHITECTURE.md"])
def test_the_five_files_are_named_in_the_order_of_the_way(page: str) -> None:
    """Follow one event: the same files, in the same order, wherever it is told."""
    text = tree.read(page)
    places = [text.index(f"`{path}`") for path in (*PATH_FILES, "app/sinks/clickhouse.py")]
    assert places == sorted(places)


def test_no_figure_is_missing() -> None:
    """A page gives measured figures or none: no place is left to be filled in."""
    open_places = [f"{page}: {name}" for page in PAGES for name in re.findall(r"FIGURE\((\w+)\)", tree.read(page))]
    assert open_places == []


def test_pages_speak_of_the_product_alone() -> None:
    """No path of anybody's machine is part of a page."""
    for page in PAGES:
        assert not re.findall(r"/(?:home|Users|root|work|tmp)/\S*", tree.read(page)), page
