"""The page of settings (.env.example) and the class of settings say the same, in both directions."""

import re

from pydantic import SecretStr

from app.settings import Settings
from tests.contract import tree

PREFIX = "AFLUENTE_"
PAGE = ".env.example"


def page() -> dict[str, tuple[str, str]]:
    """Name -> (default, the comment above it)."""
    found: dict[str, tuple[str, str]] = {}
    comment = ""
    for line in tree.read(PAGE).splitlines():
        if match := re.fullmatch(r"([A-Z0-9_]+)=(.*)", line):
            assert match[1] not in found, f"{match[1]} is listed twice"
            found[match[1]] = (match[2], comment)
        comment = line.removeprefix("#").strip() if line.startswith("# ") else ""
    return found


def code() -> dict[str, str]:
    """Name -> default, as text."""
    found = {}
    for name, field in Settings.model_fields.items():
        default = field.default.get_secret_value() if isinstance(field.default, SecretStr) else field.default
        found[PREFIX + name.upper()] = str(default)
    return found


def test_the_page_lists_every_setting_with_its_default() -> None:
    """A person who reads .env.example knows every setting and what happens when it is left alone."""
    own = {name: default for name, (default, _) in page().items() if name.startswith(PREFIX)}
    assert own == code()


def test_every_setting_is_explained() -> None:
    """No setting is listed without a sentence, and the sentence is the one the code gives."""
    listed = page()
    for name, field in Settings.model_fields.items():
        comment = listed[PREFIX + name.upper()][1]
        assert comment, f"{name} has no comment"
        assert (field.description or "") in comment


def test_names_beyond_the_settings_are_read_by_docker_compose() -> None:
    """What Afluente itself does not read is there for docker-compose.yml, or it is a leftover."""
    compose = tree.read("docker-compose.yml")
    for name in page():
        assert name.startswith(PREFIX) or f"${{{name}" in compose


def test_the_page_holds_no_secret() -> None:
    """Secrets are made by the reader: an example value would be used in production by somebody."""
    secret = {PREFIX + n.upper() for n, f in Settings.model_fields.items() if f.annotation is SecretStr}
    secret |= {name for name in page() if name.endswith(("PASSWORD", "CLUSTER_ID"))}
    assert {name for name in secret if page()[name][0]} == set()


def test_the_page_as_it_stands_is_a_valid_configuration() -> None:
    """Copying the page and changing nothing gives the defaults, not an error."""
    own = {n.removeprefix(PREFIX).lower(): v for n, (v, _) in page().items() if n.startswith(PREFIX)}
    assert Settings.model_validate(own).model_dump() == Settings.model_validate({}).model_dump()
