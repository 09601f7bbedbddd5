"""What checks a change: the workflow, the hooks and the script say the same thing and are well formed."""

import json
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from tests.contract import tree

WORKFLOW = ".github/workflows/ci.yml"
SCRIPT = ".ci/run"
RUN_MAX_S = 40 * 60


def test_the_script_is_clean_by_shellcheck() -> None:
    """What bash would do silently and wrongly, its linter says aloud."""
    linter = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([linter, SCRIPT], cwd=tree.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_script_stops_at_the_first_failure_and_can_be_executed() -> None:
    """A failing section fails the run, and a checkout keeps the executable bit."""
    assert "set -euo pipefail" in tree.read(SCRIPT)
    assert (tree.ROOT / SCRIPT).stat().st_mode & 0o111


def test_the_sections_together_keep_the_limit_of_the_run() -> None:
    """The limits of the four sections cannot add up to more than a machine of two cores is given."""
    limits = dict(re.findall(r"(\w+)_MAX_S=(\d+)", tree.read(SCRIPT)))
    # Setup downloads once; its limit is for a slow network and is not what a run takes.
    assert sum(int(limits[name]) for name in ("CHECK", "TEST", "FAULT")) <= RUN_MAX_S


def test_each_section_is_a_target_of_the_makefile() -> None:
    """A target that is renamed is renamed in the run, before the run finds out after ten minutes."""
    wanted = set(re.findall(r'(?m)^run "[\w-]+" "\$\w+" ([\w-]+)$', tree.read(SCRIPT)))
    assert wanted == {"setup-dev", "check", "test", "test-fault"}
    assert wanted | {"down"} <= set(re.findall(r"(?m)^([a-z][a-z-]*):", tree.read("Makefile")))


def test_the_workflow_is_valid_and_runs_the_script() -> None:
    """The same script runs here and there: a red run can be repeated at home."""
    workflow: dict[Any, Any] = yaml.safe_load(tree.read(WORKFLOW))
    schema = files("check_jsonschema") / "builtin_schemas" / "vendor" / "github-workflows.json"
    # YAML 1.1 reads the key `on` as a boolean; the schema means the word.
    workflow["on"] = workflow.pop(True)
    jsonschema.Draft7Validator(json.loads(schema.read_text())).validate(workflow)
    steps = [step for chain in workflow["jobs"].values() for step in chain["steps"]]
    assert [step["run"] for step in steps if "run" in step] == [SCRIPT]
    assert workflow["permissions"] == {"contents": "read"}


def test_the_hooks_are_valid_and_use_the_locked_tools() -> None:
    """A hook that fetches its own tool checks with another version than the run does."""
    linter = Path(sys.executable).with_name("pre-commit")
    command = [str(linter), "validate-config", ".pre-commit-config.yaml"]
    done = subprocess.run(command, cwd=tree.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    repos = yaml.safe_load(tree.read(".pre-commit-config.yaml"))["repos"]
    assert [repo["repo"] for repo in repos] == ["local"]
    assert all(hook["entry"].startswith(".venv/bin/") for hook in repos[0]["hooks"])
