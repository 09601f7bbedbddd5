"""The limits of the house as functions over source text: each returns the violations it sees, one line each.

Beside the data path: the tests in test_tidy.py run them over the tree and over planted faults.
"""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath

FUNCTION_LINES_MAX = 70  # one screen
FILE_LINES_MAX = 500  # a file is read in one sitting
SMALL_FILE_LINES_MAX = 300  # declarations and routes stay flat, or they hide behaviour
LINE_CHARACTERS_MAX = 120  # two files side by side
NESTING_MAX = 4  # the deepest a reader can keep in mind
PATH_FILES_LINES_MAX = 700  # the five files of "follow one event", together

SMALL_FOLDERS = ("api/", "schemas/", "tables/")
PATH_FILES = (
    "api/tracking.py",
    "agents/topology.py",
    "app/pipeline.py",
    "agents/tracking/collect.py",
    "app/sinks/clickhouse.py",
)
BANNED_MODULES = frozenset(
    {"utils", "util", "helpers", "helper", "common", "misc", "base", "core", "manager", "service", "handler"}
)
BANNED_WORDS = frozenset({"data", "info", "obj", "tmp", "message", "payload", "job"})
OWN_PACKAGES = ("app", "agents", "tables", "schemas", "api", "infra", "loadtest")
# Names that a library looks up: its protocol spells them, not we.
FOREIGN_NAMES = frozenset(
    {
        "tmp_path",
        "tmp_path_factory",
        "data_received",
        "on_message_begin",
        "on_message_complete",
        "_batch_message",
        "log_message",
    }
)
# Where a failure without a name is caught and the process goes on, and why that is right there.
CATCH_ALL_FILES = {
    "app/progress.py": "the committer hands the failure to the batches that wait for it",
    "api/health.py": "a probe: whatever it is, the part did not answer",
    "infra/local/keeper.py": "a part of the stack that fails is shown, and the other parts go on",
}
REGISTRY_HOSTS = re.compile(
    r"pypi\.org|pythonhosted\.org|repo1?\.maven|maven\.org|registry\.npmjs|ghcr\.io|quay\.io|docker\.io|gcr\.io|"
    r"mcr\.microsoft|proxy\.golang|(?<!no-emit-)index-url",
    re.IGNORECASE,
)

NESTING_NODES = (
    ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.Match,
)  # fmt: skip
FUNCTION_NODES = (ast.FunctionDef, ast.AsyncFunctionDef)
Function = ast.FunctionDef | ast.AsyncFunctionDef
Rule = Callable[[str, str], Iterator[str]]


def functions(source: str) -> Iterator[Function]:
    """Every function of a module, methods and nested ones included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, FUNCTION_NODES):
            yield node


def long_functions(path: str, source: str) -> Iterator[str]:
    """A function longer than one screen does more than one thing."""
    for node in functions(source):
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        if lines > FUNCTION_LINES_MAX:
            yield f"{path}:{node.lineno}: {node.name} has {lines} lines, at most {FUNCTION_LINES_MAX}"


def long_files(path: str, source: str) -> Iterator[str]:
    """A file that is too long has lost its one subject."""
    small = path.startswith(SMALL_FOLDERS) or re.match(r"agents/\w+/", path)
    limit = SMALL_FILE_LINES_MAX if small else FILE_LINES_MAX
    lines = len(source.splitlines())
    if lines > limit:
        yield f"{path}: {lines} lines, at most {limit}"


def long_lines(path: str, source: str) -> Iterator[str]:
    """Lines wider than the screen are not read to their end."""
    for number, line in enumerate(source.splitlines(), 1):
        if len(line) > LINE_CHARACTERS_MAX:
            yield f"{path}:{number}: {len(line)} characters, at most {LINE_CHARACTERS_MAX}"


def _deepest(node: ast.AST, depth: int) -> int:
    found = depth
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (*FUNCTION_NODES, ast.ClassDef, ast.Lambda)):
            continue
        # An elif is an If in the orelse of an If: on the page it is not deeper.
        chained = isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
        step = 1 if isinstance(child, NESTING_NODES) and not chained else 0
        found = max(found, _deepest(child, depth + step))
    return found


def deep_nesting(path: str, source: str) -> Iterator[str]:
    """Blocks within blocks hide which case a line is about."""
    for node in functions(source):
        depth = _deepest(node, 0)
        if depth > NESTING_MAX:
            yield f"{path}:{node.lineno}: {node.name} nests {depth} deep, at most {NESTING_MAX}"


def _folder_of_tests(path: str, source: str) -> bool:
    """An empty `__init__.py` below tests/: the tree it mirrors has the words."""
    return path.startswith("tests/") and path.endswith("/__init__.py") and not source.strip()


def missing_docstrings(path: str, source: str) -> Iterator[str]:
    """Every module opens with a sentence that places it; every test states the law it protects."""
    tree = ast.parse(source)
    if not ast.get_docstring(tree) and not _folder_of_tests(path, source):
        yield f"{path}:1: no module docstring"
    if not PurePosixPath(path).name.startswith("test_"):
        return
    for node in functions(source):
        if node.name.startswith("test_") and not ast.get_docstring(node):
            yield f"{path}:{node.lineno}: {node.name} does not state its law in a docstring"


def full_init_files(path: str, source: str) -> Iterator[str]:
    """An `__init__.py` is a card, not a place: code in it runs on import, where nobody looks for it."""
    if PurePosixPath(path).name != "__init__.py" or _folder_of_tests(path, source):
        return
    body = ast.parse(source).body
    if len(body) != 1 or not ast.get_docstring(ast.parse(source)):
        yield f"{path}: holds more, or less, than its docstring"


def banned_modules(path: str, source: str) -> Iterator[str]:
    """A name that fits everything gathers everything."""
    for part in PurePosixPath(path).with_suffix("").parts:
        if set(part.lower().split("_")) & BANNED_MODULES:
            yield f"{path}: '{part}' says nothing about what is inside"


def _defined_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, (*FUNCTION_NODES, ast.ClassDef)):
            yield node.lineno, node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr


def banned_words(path: str, source: str) -> Iterator[str]:
    """One word, one meaning: a record, an event, a row or a command is never "data" or a "message"."""
    for line, name in _defined_names(ast.parse(source)):
        words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().split("_")
        found = BANNED_WORDS & {word.removesuffix("s") for word in words}
        if found and name not in FOREIGN_NAMES:
            yield f"{path}:{line}: '{name}' uses the word {', '.join(sorted(found))}"


def _catches_all(node: ast.ExceptHandler) -> bool:
    if node.type is None:
        return True
    caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
    return any(isinstance(name, ast.Name) and name.id in {"Exception", "BaseException"} for name in caught)


def _passes_on(node: ast.ExceptHandler) -> bool:
    """The handler cleans up or explains, and then the failure goes on its way, or the process ends with it."""
    last = node.body[-1]
    ends = isinstance(last, ast.Expr) and isinstance(last.value, ast.Call) and _dotted(last.value.func) == "stop_loudly"
    return isinstance(last, ast.Raise) or ends


def catch_alls(path: str, source: str) -> Iterator[str]:
    """An unknown failure stops the process: whoever catches it passes it on, outside a short list."""
    if path in CATCH_ALL_FILES:
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ExceptHandler) and _catches_all(node) and not _passes_on(node):
            yield f"{path}:{node.lineno}: catches every exception"


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def own_patches(path: str, source: str) -> Iterator[str]:
    """A test that replaces our own code tests the replacement."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = _dotted(node.func)
        if not re.search(r"(^|\.)(patch|patch\.object|setattr)$", name) or not node.args:
            continue
        target = node.args[0]
        dotted = target.value if isinstance(target, ast.Constant) else _dotted(target)
        if isinstance(dotted, str) and dotted.split(".")[0] in OWN_PACKAGES:
            yield f"{path}:{node.lineno}: {name} replaces {dotted}"


def sleeping_tests(path: str, source: str) -> Iterator[str]:
    """A test that sleeps is slow when the machine is fast and wrong when it is slow: poll a condition instead.

    The pollers, which sleep between two looks until their deadline, live in tests/support/.
    """
    if not path.startswith("tests/") or path.startswith("tests/support/"):
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and _dotted(node.func) == "time.sleep":
            yield f"{path}:{node.lineno}: time.sleep"
        if isinstance(node, ast.ImportFrom) and node.module == "time" and any(a.name == "sleep" for a in node.names):
            yield f"{path}:{node.lineno}: imports time.sleep"


def relative_imports(path: str, source: str) -> Iterator[str]:
    """Absolute imports only: the line says where the name comes from."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield f"{path}:{node.lineno}: relative import"


def registry_hosts(path: str, source: str) -> Iterator[str]:
    """Where packages come from is the machine's setting; a host name here would override it."""
    for number, line in enumerate(source.splitlines(), 1):
        if found := REGISTRY_HOSTS.search(line):
            yield f"{path}:{number}: names {found[0]}"


PYTHON_RULES: tuple[Rule, ...] = (
    long_functions,
    long_files,
    long_lines,
    deep_nesting,
    missing_docstrings,
    full_init_files,
    banned_modules,
    banned_words,
    catch_alls,
    own_patches,
    sleeping_tests,
    relative_imports,
)
TEXT_RULES: tuple[Rule, ...] = (registry_hosts,)
