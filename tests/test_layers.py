"""Who may import whom, and that docs/architecture.rst names every module.

The rules are those of docs/architecture.rst, read from the syntax trees: an import inside a
function or for the type checker counts like any other.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "immich_conch"
ARCHITECTURE = (ROOT / "docs" / "architecture.rst").read_text()

DOORS = {"immich.model", "immich.interfaces"}

#: Layer -> what of ours it may import besides itself: modules or whole packages.
MAY_IMPORT: dict[str, set[str]] = {
    "__init__": set(),
    "errors": set(),
    "counters": set(),
    "process": set(),
    "volumes": set(),
    "healthcheck": {"errors", "sources"},
    "parsing": set(),
    "sources": {"errors"},
    "settings": {"parsing"},
    "loading": {"errors", "settings", "sources"},
    "spool_tool": {"errors", "transfer"},
    "immich": {"errors"},
    "library": {"errors", *DOORS},
    "transfer": {"errors", *DOORS, "library", "counters"},
    "sftp": {"errors", *DOORS, "library", "transfer"},
    "ssh": set(),
    "guard": {"counters", "ssh.admission", "ssh.networks"},
    "demo": set(),
    "account": {"errors", *DOORS, "library", "transfer"},
    "accounts": {"account", "errors", "settings", "counters", *DOORS, "library", "transfer"},
    "logins": {"accounts", "errors", "guard", *DOORS, "library", "transfer"},
    "service": {"errors", *DOORS, "immich", "accounts", "process", "spool_tool"},
    "authorized": {"ssh"},
    "users_file": {"errors", "authorized", "ssh"},
    "key_checker": {
        *(
            "errors",
            "counters",
            *DOORS,
            "accounts",
            "auth",
            "logins",
            "authorized",
            "users_file",
            "ssh",
        ),
    },
    "auth": {"errors", "counters", *DOORS, "accounts", "logins", "sftp", "ssh", "transfer"},
}
#: The one place that knows everything.
TAP = "tap"

#: What comes from elsewhere -> the layers that may import it.
ONLY_FOR = {
    "treq": {"immich"},
    "twisted.conch": {"ssh", "sftp", "auth"},
    "twisted.web": {"immich", "demo"},
    # The demo's process of its own, and its clock when it is given none.
    "twisted.internet.reactor": {TAP, "demo"},
    "os.environ": {TAP, "healthcheck", "spool_tool"},
    "os.getenv": set(),
}


def modules() -> dict[str, Path]:
    """`library.tree` -> its file; a package is its `__init__`."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        found[".".join(path.relative_to(PACKAGE).with_suffix("").parts)] = path
    return found


MODULES = modules()


def layer(module: str) -> str:
    """`library.tree` -> `library`."""
    return module.split(".")[0]


@cache
def imports(module: str) -> frozenset[str]:
    """Dotted names that a module imports or, of `os`, uses."""
    return frozenset(_imports(ast.parse(MODULES[module].read_text())))


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "os"
        ):
            yield f"os.{node.attr}"


def ours(module: str) -> Iterator[str]:
    """The modules of ours that a module imports: `library.tree`."""
    for name in imports(module):
        first, _, rest = name.partition(".")
        if first != PACKAGE.name:
            continue
        while rest and rest not in MODULES and f"{rest}.__init__" not in MODULES:
            rest = rest.rpartition(".")[0]
        yield rest or "__init__"


def within(name: str, place: str) -> bool:
    return name == place or name.startswith(place + ".")


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_imports_only_what_its_layer_may(module: str) -> None:
    if layer(module) == TAP:
        return
    allowed = MAY_IMPORT[layer(module)] | {layer(module)}
    wrong = {name for name in ours(module) if not any(within(name, place) for place in allowed)}
    assert not wrong, f"{module} imports {', '.join(sorted(wrong))}"


@pytest.mark.parametrize("what", sorted(ONLY_FOR))
def test_what_comes_from_elsewhere_is_kept_where_it_belongs(what: str) -> None:
    users = {
        module
        for module in MODULES
        if any(within(name, what) for name in imports(module))
        # `from twisted.conch import …` names the package itself.
        and layer(module) not in ONLY_FOR[what]
    }
    assert not users, f"{what} is imported by {', '.join(sorted(users))}"


def test_nothing_imports_tap() -> None:
    assert not [module for module in MODULES if TAP in ours(module)]


def test_every_layer_has_its_rule_and_every_rule_its_layer() -> None:
    assert {layer(module) for module in MODULES} == {*MAY_IMPORT, TAP}


def test_the_imports_are_seen_at_all() -> None:
    assert "library.tree" in set(ours("sftp.server"))
    assert "errors" in set(ours("loading"))
    assert "treq.client" in {name.rpartition(".")[0] for name in imports("immich.http")}
    assert "os.environ" in imports("tap")


def test_the_architecture_names_every_module_and_no_other() -> None:
    named = set(re.findall(r"^``((?:\w+/)?\w+\.py)``  +\S", ARCHITECTURE, re.MULTILINE))
    there = {
        path.relative_to(PACKAGE).as_posix()
        for path in MODULES.values()
        if path.name != "__init__.py"
    }
    assert named == there
