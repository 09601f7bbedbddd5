"""The tracked files of the repository, for the checks that read all of them."""

import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXT_SUFFIXES = frozenset(
    {".py", ".md", ".toml", ".yml", ".yaml", ".json", ".sql", ".sh", ".txt", ".in", ".cfg", ".avsc", ".xml", ".js"}
)
TEXT_NAMES = frozenset({"Makefile", "Dockerfile", "run", "afluente", ".env.example", ".dockerignore", ".editorconfig"})


@cache
def files() -> tuple[str, ...]:
    """Every file that is, or is about to be, part of the repository: tracked, or new and not ignored."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    except (FileNotFoundError, subprocess.CalledProcessError):
        # An unpacked archive has no history: everything outside the ignored folders counts.
        ignored = {".venv", ".afluente", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis"}
        paths = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
        listed = [path.as_posix() for path in paths if not ignored & set(path.parts)]
    return tuple(sorted(path for path in listed if (ROOT / path).is_file()))


def python_files() -> tuple[str, ...]:
    """The Python files, the command line included."""
    return tuple(path for path in files() if path.endswith(".py"))


def text_files() -> tuple[str, ...]:
    """What a person wrote: code, configuration, pages."""
    return tuple(path for path in files() if Path(path).suffix in TEXT_SUFFIXES or Path(path).name in TEXT_NAMES)


def read(path: str) -> str:
    """The text of one file of the repository."""
    return (ROOT / path).read_text(encoding="utf-8")
