"""CONTRIBUTING.md tells the truth: the example domain is built from the page's code blocks and then runs."""

import ast
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.contract import tidy, tree

PAGE = "CONTRIBUTING.md"
BLOCK = re.compile(r"^```\w+ (?P<path>[\w./-]+)(?: (?P<place>[^\n]+))?\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
PLACE = re.compile(r"(?P<where>before|after): (?P<anchor>.+)")
DOMAIN = "survey"


@dataclass(frozen=True, slots=True)
class Block:
    """One code block that names its file, and where in it the text goes ("" = the block is the file)."""

    path: str
    place: str
    text: str


def blocks() -> list[Block]:
    """The blocks of the page, in order."""
    return [Block(m["path"], m["place"] or "", m["text"]) for m in BLOCK.finditer(tree.read(PAGE))]


def put(text: str, block: Block) -> str:
    """`text` with the block where the page says. Raises when the anchor is not there exactly once."""
    if block.place == "append":
        return text + block.text
    match = PLACE.fullmatch(block.place)
    assert match, f"{block.path}: unknown place {block.place}"
    anchor = match["anchor"]
    lines = text.splitlines(keepends=True)
    found = [number for number, line in enumerate(lines) if line.strip().startswith(anchor)]
    assert len(found) == 1, f"{block.path}: {anchor!r} stands there {len(found)} times"
    at = found[0] + (match["where"] == "after")
    return "".join([*lines[:at], block.text, *lines[at:]])


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository with the example domain in it."""
    root = tmp_path_factory.mktemp("repository")
    for path in tree.files():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(tree.ROOT / path, root / path)
    for block in blocks():
        target = root / block.path
        if block.place:
            target.write_text(put(target.read_text(), block))
        else:
            assert not target.exists(), f"{block.path} exists: the example would overwrite it"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.text)
    return root


def run(root: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """A Python tool in the copy, with the copy's modules."""
    program = [sys.executable, *command] if command[0] == "-m" else [str(Path(sys.executable).with_name(command[0]))]
    arguments = [] if command[0] == "-m" else list(command[1:])
    return subprocess.run([*program, *arguments], cwd=root, capture_output=True, text=True, check=False)


def test_the_example_keeps_the_rule_of_one_three_three() -> None:
    """One folder, three declarations, three registries: what a domain costs is what the page promises."""
    new = {block.path for block in blocks() if not block.place and not block.path.startswith("tests/")}
    code = {path for path in new if path.endswith(".py")}
    assert {path for path in code if not path.startswith("agents/")} == {
        "schemas/surveys.py", "tables/surveys.py", "api/surveys.py",
    }  # fmt: skip
    assert all(path.startswith("agents/surveys/") for path in code if path.startswith("agents/"))
    touched = {block.path for block in blocks() if block.place}
    assert touched == {
        "schemas/topics.py", "agents/topology.py", "api/main.py", "schemas/rows.py", "schemas/avro/ids.lock.json",
    }  # fmt: skip


def test_the_law_on_the_page_holds(built: Path) -> None:
    """The unit test that the page shows passes on the code that the page shows."""
    done = run(built, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/unit/agents/surveys")
    assert done.returncode == 0, done.stdout
    assert re.search(r"\b2 passed", done.stdout)


def test_the_example_is_on_the_map_and_at_the_edge(built: Path) -> None:
    """The worker registers the pipeline and the edge answers the route."""
    program = """
import base64, json, os
os.environ["AFLUENTE_MASTER_KEY"] = base64.b64encode(bytes(32)).decode()
from agents import topology
from api.main import create_app
from app.settings import Settings
row = next(p for p in topology.pipelines(Settings.load()) if p.name == "surveys.score")
print(json.dumps({"reads": row.reads.name, "paths": sorted(create_app().openapi()["paths"])}))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=built, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["reads"] == "surveys.answered"
    assert "/surveys/answers" in found["paths"]


def test_the_example_keeps_the_limits_and_the_directions(built: Path) -> None:
    """The code on the page is code that would be merged: formatted, linted, typed, one way, tidy."""
    own = sorted({block.path for block in blocks() if block.path.endswith(".py") and not block.place})
    for command in (
        ["ruff", "check", *own],
        ["ruff", "format", "--check", *own],
        ["lint-imports", "--no-cache"],
        ["mypy", "-p", "agents.surveys", "-m", "api.surveys", "-m", "tables.surveys", "-m", "schemas.surveys"],
    ):
        done = run(built, *command)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    for path in own:
        source = (built / path).read_text()
        assert [line for rule in tidy.PYTHON_RULES for line in rule(path, source)] == []


def test_the_table_and_the_schemas_of_the_example_agree(built: Path) -> None:
    """The contract tests hold for the copy as they do for the repository."""
    command = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/contract/test_avro_compatibility.py")
    done = run(built, *command)
    assert done.returncode == 0, done.stdout


def test_every_python_file_of_the_copy_still_parses(built: Path) -> None:
    """The registry lines land where they are meant to, not inside something else."""
    for path in {block.path for block in blocks() if block.path.endswith(".py")}:
        ast.parse((built / path).read_text())


def test_the_example_is_not_part_of_the_product() -> None:
    """The page is the only place where the example lives."""
    assert [path for path in tree.files() if DOMAIN in path] == []
