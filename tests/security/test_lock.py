"""What is installed is what was looked at: locks with hashes and nothing else, met by the environment, with licences
that a product may carry. Known vulnerabilities are not looked up: that needs a database on the network.
"""

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.contract import tree

LOCKS = ("requirements.txt", "requirements-local.txt", "requirements-dev.txt")
PINNED = re.compile(
    r"([a-z0-9][a-z0-9._-]*(?:\[[a-z0-9,-]+\])?)==([A-Za-z0-9.!+]+)((?: ;.*?)?)((?: --hash=sha256:[0-9a-f]{64})+)"
)
# Licences that ask for no more than their text beside what ships, or for changes to their own files.
FREE = frozenset({
    "Apache-2.0", "Apache Software License", "MIT", "MIT License", "MIT-0", "BSD-2-Clause", "BSD-3-Clause", "0BSD",
    "BSD License", "3-Clause BSD License", "ISC License", "ISC", "Zlib", "CC0-1.0", "PSF-2.0", "MPL-2.0",
    "Python Software Foundation License", "Mozilla Public License 2.0", "Repoze Public License",
})  # fmt: skip


def entries(text: str) -> Iterator[str]:
    """The logical lines of a lock, without comments."""
    for line in text.replace("\\\n", " ").splitlines():
        if bare := re.sub(r"(^|\s)#.*", "", line).strip():
            yield re.sub(r"\s+", " ", bare)


def faults(text: str) -> list[str]:
    """Lines that are not a name, one version and hashes: options, addresses, ranges, files, missing hashes."""
    return [line for line in entries(text) if not PINNED.fullmatch(line)]


def versions(lock: str) -> dict[str, frozenset[str]]:
    """The version of each package of a lock; two where an older Python needs an older one."""
    found: dict[str, frozenset[str]] = {}
    for line in entries(tree.read(lock)):
        match = PINNED.fullmatch(line)
        assert match, line
        name = canonicalize_name(match[1].split("[")[0])
        found[name] = found.get(name, frozenset()) | {match[2]}
    return found


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_pins_every_package_with_hashes_and_names_no_address(lock: str) -> None:
    """Nothing is fetched from where the lock says, and nothing is taken that was not there when it was made."""
    assert faults(tree.read(lock)) == []
    assert len(versions(lock)) > 50


@pytest.mark.parametrize(
    "line",
    [
        "six==1.17.0",
        "six>=1.17.0 --hash=sha256:" + "0" * 64,
        "six==1.17.0 --hash=md5:" + "0" * 32,
        "--find-links https://packages.example/simple",
        "six @ https://packages.example/six.whl --hash=sha256:" + "0" * 64,
        "-e ./six",
    ],
)
def test_a_planted_line_is_found(line: str) -> None:
    """No hash, a range, a weak hash, an index, an address, a folder: each is seen."""
    good = "idna==3.11 \\\n    --hash=sha256:" + "a" * 64 + "\n    # via httpx\n"
    assert faults(good) == []
    assert faults(good + line) == [line]


def test_the_three_locks_agree() -> None:
    """What is tested is what is shipped: each smaller lock is a part of the larger one, at the same versions."""
    shipped, local, dev = (versions(lock) for lock in LOCKS)
    assert shipped.items() <= local.items()
    assert local.items() <= dev.items()


@pytest.mark.parametrize("lock", LOCKS)
def test_what_is_asked_for_is_locked(lock: str) -> None:
    """Each requirement of the .in file is in its lock, at a version that it allows."""
    locked = versions(lock)
    for line in tree.read(lock.replace(".txt", ".in")).splitlines():
        if line.startswith(("#", "-r ")) or not line.strip():
            continue
        wanted = Requirement(line)
        for version in locked[canonicalize_name(wanted.name)]:
            assert wanted.specifier.contains(version, prereleases=True), line


def test_the_environment_is_consistent() -> None:
    """Every installed package finds what it needs, at versions that it takes."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_environment_is_the_locked_one() -> None:
    """What is imported here is what the lock names, and nothing that somebody has tried out since."""
    locked, other = versions("requirements-dev.txt"), {}
    for name in locked:
        with contextlib.suppress(PackageNotFoundError):  # for another platform or Python: not in this environment
            if (found := distribution(name).version) not in locked[name]:
                other[name] = found
    assert other == {}


def licence(name: str) -> str:
    """What a package says of its licence, in the newest of the forms that it uses; "" when it says nothing."""
    told = distribution(name).metadata
    classifiers = [text for text in told.get_all("Classifier") or () if text.startswith("License ::")]
    return told.get("License-Expression") or "; ".join(classifiers) or (told.get("License") or "").split("\n")[0]


def is_free(text: str) -> bool:
    """Whether all that a licence text joins with AND, or lists, is on the list; of alternatives one is enough."""
    bare = re.sub(r"License :: (OSI Approved :: )?|\((?:ISCL|MPL 2\.0)\)", "", text)
    parts = [part.strip("() ") for part in re.split(r" AND |;", bare)]
    return all(any(one.strip("() ") in FREE for one in part.split(" OR ")) for part in parts)


def test_what_ships_is_under_free_licences() -> None:
    """Each package of the production lock says its licence, and it is one that has been looked at."""
    judged = {}
    for name in versions("requirements.txt"):
        try:
            judged[name] = licence(name)
        except PackageNotFoundError:
            continue  # for another platform or Python: not in this environment
    assert len(judged) > 80
    assert {name: text for name, text in judged.items() if not is_free(text)} == {}


@pytest.mark.parametrize("text", ["", "GPL-3.0-only", "MIT AND AGPL-3.0-or-later", "Proprietary", "LGPLv2+ OR GPL"])
def test_another_licence_is_found(text: str) -> None:
    """What is not on the list, or not said, stops the check until somebody has looked."""
    assert not is_free(text)
