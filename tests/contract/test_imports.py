"""Who imports whom, beyond what import-linter is told by name: domains stay apart, however many there will be."""

import ast
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract import tree

LAYERS = ("schemas", "app", "tables", "agents", "api", "infra")
# The visible lists of registration: the only modules that know more than one domain.
REGISTRIES = {"agents/topology.py", "agents/worker.py", "api/main.py"}
# Import names that other projects have too: a dependency on them would shadow, or be shadowed by, our folders.
FOREIGN_DISTRIBUTIONS = {"openai-agents", "tables", "pytables"}


def imported(source: str) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything a module imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def domains(paths: tuple[str, ...]) -> set[str]:
    """A domain is a folder below agents/."""
    return {match[1] for path in paths if (match := re.match(r"agents/(\w+)/", path))}


def domain_of(dotted: str, known: set[str]) -> str | None:
    """The domain a module belongs to: agents.<d>.*, tables.<d>, api.<d> and names that begin with <d>_."""
    parts = dotted.split(".")
    if len(parts) < 2 or parts[0] not in {"agents", "tables", "api"}:
        return None
    return next((name for name in known if parts[1] == name or parts[1].startswith(f"{name}_")), None)


def crossings(path: str, source: str, known: set[str]) -> list[str]:
    """Imports that reach from one domain, or from no domain, into another one."""
    if path in REGISTRIES or path.startswith("tests/"):
        return []
    own = domain_of(path.removesuffix(".py").replace("/", "."), known)
    found = [(line, name, domain_of(name, known)) for line, name in imported(source)]
    return [f"{path}:{line}: imports {name}" for line, name, other in found if other is not None and other != own]


def test_domains_never_import_one_another() -> None:
    """Adding, changing or deleting a domain touches its own modules and the registries, nothing else."""
    paths = tree.python_files()
    known = domains(paths)
    assert known
    assert [line for path in paths for line in crossings(path, tree.read(path), known)] == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("agents/crm/decide.py", "from agents.tracking import identity\n"),
        ("agents/crm/decide.py", "from tables import tracking\n"),
        ("api/crm.py", "import api.tracking\n"),
        ("app/pipeline.py", "from agents.tracking.collect import process\n"),
        ("infra/local/cli.py", "from tables.tracking import SEEN\n"),
    ],
)
def test_a_crossing_would_be_seen(path: str, source: str) -> None:
    """The check above can fail."""
    assert crossings(path, source, {"crm", "tracking"})


def test_a_domain_and_its_registries_may_import_it() -> None:
    """The check above does not stand in the way of what is meant."""
    assert crossings("agents/crm/decide.py", "from agents.crm import rules\n", {"crm", "tracking"}) == []
    assert crossings("agents/topology.py", "from agents.crm import decide\n", {"crm", "tracking"}) == []


def test_only_the_worker_knows_tables_and_only_domains_declare_state() -> None:
    """What we remember is declared in one place: the edge and the tools never read it."""
    for path in tree.python_files():
        if path.startswith(("api/", "app/", "schemas/")):
            assert not [name for _, name in imported(tree.read(path)) if name.split(".")[0] == "tables"], path


@pytest.mark.parametrize("layer", LAYERS)
def test_each_layer_resolves_inside_the_repository(layer: str) -> None:
    """`agents` and `tables` are ours, not the projects on the package index that have the same import names."""
    spec = importlib.util.find_spec(layer)
    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin).is_relative_to(tree.ROOT)


def test_no_dependency_takes_our_names() -> None:
    """No locked requirement brings a second `agents` or `tables`."""
    for path in ("requirements.txt", "requirements-local.txt", "requirements-dev.txt"):
        assert not FOREIGN_DISTRIBUTIONS & set(re.findall(r"(?m)^([A-Za-z0-9._-]+)==", tree.read(path).lower())), path


def test_imports_point_one_way() -> None:
    """Schemas <- app <- tables <- agents | api <- infra, and the edge never imports Faust, as import-linter sees it."""
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=tree.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
