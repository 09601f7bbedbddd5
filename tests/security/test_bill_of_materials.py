"""The bill of materials says what ships, in a form that scanners read."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tests.contract import tree
from tests.security.test_lock import versions

PARTS = ("requirements", "--output-reproducible", "--pyproject", "pyproject.toml", "--mc-type", "application")
FORM = ("--sv", "1.6", "--of", "JSON")


@pytest.fixture(scope="module")
def bill(tmp_path_factory: pytest.TempPathFactory) -> str:
    return made(tmp_path_factory.mktemp("bill"))


def made(folder: Path) -> str:
    """The bill, by the words of `make sbom`."""
    place = folder / "sbom.cdx.json"
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "cyclonedx_py",
        *PARTS,
        *FORM,
        "-o",
        str(place),
        "requirements.txt",
    ]
    done = subprocess.run(command, cwd=tree.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return place.read_text("utf-8")


def test_make_sbom_is_what_is_tested() -> None:
    """The target of the Makefile has the same words as the test."""
    recipe = tree.read("Makefile").replace("\\\n\t  ", "")
    assert f"-m cyclonedx_py {' '.join((*PARTS, *FORM))} -o sbom.cdx.json requirements.txt" in recipe
    assert "sbom.cdx.json" in tree.read(".gitignore").splitlines()


def test_the_bill_is_valid_complete_and_the_same_each_time(bill: str, tmp_path: Path) -> None:
    """CycloneDX 1.6 by its own strict schema; every package of the lock at its version, with hashes; reproducible."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the validator's own libraries
        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill) is None
    found = json.loads(bill)
    locked = {(name, version) for name, several in versions("requirements.txt").items() for version in several}
    assert {(one["name"], one["version"]) for one in found["components"]} == locked
    assert all(one["externalReferences"][0]["hashes"] and one["purl"] for one in found["components"])
    assert found["metadata"]["component"]["name"] == "afluente"
    assert made(tmp_path) == bill


def test_a_broken_bill_is_refused(bill: str) -> None:
    """The validation can fail."""
    broken = json.loads(bill)
    broken["components"][0]["type"] = "no such type"
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(broken)) is not None
