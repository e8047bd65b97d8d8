"""The house's rules, as far as a machine can keep them. STYLE and CONTRIBUTING.md say why they are there.

Each test collects every offender before it fails, and names file and line. An exception to a rule is an entry in one of
the tables below, with its reason beside it.
"""

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "rqueue"

LAYERS = {
    "errors": 0,
    "config": 0,
    "log": 0,
    "wire": 0,
    "policy": 1,
    "broker": 2,
    "results": 2,
    "client": 3,
    "worker": 4,
}
EDGE = 5  # app, cli, testing, pytest_plugin, embedded, ext, __init__, __main__: whatever LAYERS does not name

REDIS_CLIENTS = {"redis", "fakeredis", "hiredis", "valkey", "lupa"}
TASK_GROUPS = {"create_task_group", "TaskGroup"}
BANNED_NAMES = {"utils", "common", "helpers", "base", "types", "constants"}

FUNCTION_LINES = 40
LUA_LINES = 60

# Who may import what inside a function: (importer or its package, imported or its package) -> why not at the top.
LAZY_IMPORTS = {
    ("rqueue.app", "rqueue.worker"): "a web process never loads the worker",
    ("rqueue.app", "rqueue.client.checkup"): "an operator's question, which no other process asks",
    ("rqueue", "rqueue.public"): "a supervisor is half as large without",
    ("rqueue.broker", "fakeredis"): "the memory extra",
    ("rqueue.supervisor.served", "rqueue.supervisor.custody"): "a supervisor is half as large until a process ends",
    ("rqueue.policy", "cronsim"): "the cron extra",
    ("rqueue.wire.seal", "cryptography"): "the crypto extra",
    ("rqueue.results.stores", "rqueue.results.sql"): "the sql extra",
    ("rqueue.cli.db", "rqueue.results.sql"): "the sql extra",
    ("rqueue.client.outbox", "rqueue.results.sql"): "the sql extra",
    ("rqueue.client.checkup.results", "rqueue.results.sql"): "the sql extra",
    ("rqueue.client.history", "rqueue.results.sql"): "the sql extra",
    ("rqueue.pytest_plugin", "rqueue.testing"): "pytest loads plugins before it measures or rewrites anything",
    ("rqueue.cli", "rqueue.embedded"): "only a trial needs a server of its own",
    ("rqueue.cli", "uvloop"): "is not there on Windows",
    ("rqueue.worker", "uvloop"): "is not there on Windows",
    ("rqueue.worker.board", "tempfile"): "needed where there is no memfd, and large",
    ("rqueue.worker.life", "resource"): "is not there on Windows, and not needed where there is /proc",
}

# Functions that may be longer than FUNCTION_LINES: "rqueue.module.function" -> why.
LONG_FUNCTIONS: dict[str, str] = {
    "rqueue.cli.worker.worker": "each option of the command is a parameter, on a line of its own",
}


@dataclass(frozen=True)
class Import:
    """One module that one import statement names."""

    target: str
    line: int
    lazy: bool  # inside a function
    typing: bool  # under `if TYPE_CHECKING:`, never run


@dataclass(frozen=True)
class Module:
    """One Python file of the package."""

    name: str
    path: Path
    tree: ast.Module

    @property
    def shown(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @property
    def layer(self) -> int:
        return layer_of(self.name)


def layer_of(name: str) -> int:
    return LAYERS.get(([*name.split("."), ""])[1], EDGE)


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    name_of(path): Module(name_of(path), path, ast.parse(path.read_text(encoding="utf-8"), path))
    for path in sorted(PACKAGE.rglob("*.py"))
}
SCRIPTS = sorted(PACKAGE.glob("broker/lua/*.lua"))


def imports(module: Module) -> Iterator[Import]:
    yield from imports_below(module, module.tree, lazy=False, typing=False)


def imports_below(module: Module, node: ast.AST, *, lazy: bool, typing: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            for target in targets(module, child):
                yield Import(target, child.lineno, lazy, typing)
        inside = lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        guarded = typing or (isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"))
        yield from imports_below(module, child, lazy=inside, typing=guarded)


def targets(module: Module, statement: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """Name the modules that a statement imports: `from rqueue.wire import keys` is rqueue.wire.keys."""
    if isinstance(statement, ast.Import):
        yield from (alias.name for alias in statement.names)
        return
    source = statement.module or ""
    if statement.level:
        package = module.name.split(".") if module.path.name == "__init__.py" else module.name.split(".")[:-1]
        package = package[: len(package) - statement.level + 1]
        source = ".".join([*package, source] if source else package)
    for alias in statement.names:
        full = f"{source}.{alias.name}"
        yield full if full in MODULES else source


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def functions(tree: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{prefix}.{child.name}", child
        named = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        yield from functions(child, f"{prefix}.{child.name}" if named else prefix)


def fail_for(offenders: list[str]) -> None:
    if offenders:
        pytest.fail("\n".join(offenders), pytrace=False)


# --- layers -----------------------------------------------------------------------------------------------------------


def test_imports_only_go_down():
    fail_for(
        [
            f"{module.shown}:{found.line}: imports {found.target}, which is a layer above {module.name}"
            for module in MODULES.values()
            for found in imports(module)
            if within(found.target, "rqueue") and layer_of(found.target) > module.layer
        ]
    )


def test_there_are_no_import_cycles():
    graph = {
        module.name: {
            found.target
            for found in imports(module)
            if found.target in MODULES and not found.lazy and not found.typing and found.target != module.name
        }
        for module in MODULES.values()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"imported in a circle: {' <- '.join(error.args[1])}", pytrace=False)


def test_only_the_broker_imports_a_redis_client():
    fail_for(
        [
            f"{module.shown}:{found.line}: imports {found.target}"
            for module in MODULES.values()
            if not within(module.name, "rqueue.broker")
            for found in imports(module)
            if found.target.split(".")[0] in REDIS_CLIENTS
        ]
    )


def test_imports_inside_functions_are_the_listed_ones():
    fail_for(
        [
            f"{module.shown}:{found.line}: imports {found.target} inside a function, and LAZY_IMPORTS gives no reason"
            for module in MODULES.values()
            for found in imports(module)
            if found.lazy
            and not any(within(module.name, who) and within(found.target, what) for who, what in LAZY_IMPORTS)
        ]
    )


def test_facts_need_only_the_standard_library_and_orjson():
    allowed = sys.stdlib_module_names | {"rqueue", "orjson"}
    fail_for(
        [
            f"{module.shown}:{found.line}: imports {found.target}"
            for module in MODULES.values()
            if module.layer == LAYERS["wire"]
            for found in imports(module)
            if found.target.split(".")[0] not in allowed
            and (module.name, found.target.split(".")[0]) not in LAZY_IMPORTS
        ]
    )


def test_facts_and_decisions_wait_for_nothing():
    waiting = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)
    fail_for(
        [
            f"{module.shown}:{node.lineno}: is asynchronous"
            for module in MODULES.values()
            if module.layer <= LAYERS["policy"]
            for node in ast.walk(module.tree)
            if isinstance(node, waiting)
        ]
    )


def test_only_the_worker_runs_task_groups():
    fail_for(
        [
            f"{module.shown}:{node.lineno}: runs a task group"
            for module in MODULES.values()
            if not within(module.name, "rqueue.worker")
            for node in ast.walk(module.tree)
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in TASK_GROUPS
        ]
    )


# --- files and functions ----------------------------------------------------------------------------------------------


def test_every_module_has_a_docstring():
    fail_for([f"{module.shown}:1: no docstring" for module in MODULES.values() if not ast.get_docstring(module.tree)])


def test_every_public_function_and_class_has_a_docstring():
    fail_for(
        [
            f"{module.shown}:{node.lineno}: {node.name} has no docstring"
            for module in MODULES.values()
            for node in module.tree.body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            if not node.name.startswith("_")
            and not ast.get_docstring(node)
            and not any(ast.unparse(decorator).split(".")[-1] == "overload" for decorator in node.decorator_list)
        ]
    )


def test_every_module_has_its_test_file():
    expected = [
        (module.shown, where_it_is_tested(module))
        for module in MODULES.values()
        if not module.path.name.startswith("__")
    ]
    fail_for([f"{shown}: no {test.relative_to(ROOT).as_posix()}" for shown, test in expected if not test.is_file()])


def where_it_is_tested(module: Module) -> Path:
    """Migrations have one file together: each of them is a step of one way, which only as a whole can be tested."""
    within_package = module.path.relative_to(PACKAGE)
    if within(module.name, "rqueue.results.sql.migrations"):
        return ROOT / "tests" / "results" / "sql" / "test_migrations.py"
    return ROOT / "tests" / within_package.with_name(f"test_{within_package.name}")


def test_names_say_what_a_file_is_for():
    fail_for(
        [f"{module.shown}: such a name" for module in MODULES.values() if BANNED_NAMES & set(module.name.split("."))]
    )


def test_functions_are_short():
    fail_for(
        [
            f"{module.shown}:{function.lineno}: {name} has {length(function)} lines"
            for module in MODULES.values()
            for name, function in functions(module.tree, module.name)
            if length(function) > FUNCTION_LINES and name not in LONG_FUNCTIONS
        ]
    )


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count a function's lines without its docstring, which nobody should be afraid to lengthen."""
    whole = (function.end_lineno or function.lineno) - function.lineno + 1
    if ast.get_docstring(function) is None:
        return whole
    docstring = function.body[0]
    return whole - ((docstring.end_lineno or docstring.lineno) - docstring.lineno + 1)


# --- Lua --------------------------------------------------------------------------------------------------------------


def header_and_body(script: Path) -> tuple[list[str], list[str]]:
    lines = script.read_text(encoding="utf-8").splitlines()
    end = next((number for number, line in enumerate(lines) if not line.startswith("--")), len(lines))
    return lines[:end], lines[end:]


def without_comments(body: list[str]) -> str:
    return "\n".join(line.split("--")[0] for line in body)


def test_a_script_opens_with_its_verb():
    fail_for(
        [
            f"{script.name}:1: does not open with '-- {script.stem}: …'"
            for script in SCRIPTS
            if not any(line.startswith(f"-- {script.stem}: ") for line in header_and_body(script)[0][:1])
        ]
    )


@pytest.mark.parametrize("table", ["KEYS", "ARGV"])
def test_a_script_uses_only_what_its_header_declares(table: str):
    fail_for(
        [
            f"{script.name}: uses {table}[{index}], which its header does not declare"
            for script in SCRIPTS
            for index in sorted(undeclared(script, table))
        ]
    )


def undeclared(script: Path, table: str) -> set[str]:
    """Name the indexes that a body uses beyond its header; `KEYS[3..]` declares all from 3 on, `KEYS[3..5]` three."""
    header, body = header_and_body(script)
    text = without_comments(body)
    ranges = [
        (int(first), int(last or first) if not dots or last else sys.maxsize)
        for line in header
        if re.match(r"-- (KEYS|ARGV)\[", line)
        for first, dots, last in re.findall(rf"{table}\[(\d+)(\.\.+)?(\d*)\w*\]", line)
    ]
    variable = any(first != last for first, last in ranges)  # a computed index needs a declared range
    bad = set()
    for used in re.findall(rf"\b{table}\[([^\]]+)\]", text):
        known = any(first <= int(used) <= last for first, last in ranges) if used.isdigit() else variable
        if not known:
            bad.add(used)
    if not variable and re.search(rf"#{table}\b|pairs\({table}\)|unpack\({table}\b", text):
        bad.add("…")
    return bad


def test_scripts_are_short():
    fail_for(
        [
            f"{script.name}: {len(body)} lines after its header"
            for script in SCRIPTS
            if len(body := "\n".join(header_and_body(script)[1]).strip().splitlines()) > LUA_LINES
        ]
    )


def test_scripts_never_search_the_keyspace():
    fail_for(
        [
            f"{script.name}: calls {command}"
            for script in SCRIPTS
            for command in re.findall(
                r"call\(\s*['\"](KEYS|SCAN)['\"]", without_comments(header_and_body(script)[1]), re.IGNORECASE
            )
        ]
    )


# --- the repository ---------------------------------------------------------------------------------------------------


def test_no_file_names_a_registry_or_a_machines_path():
    needles = ["pypi" + ".org", "files.python" + "hosted", "/wor" + "k/", "/ro" + "ot/"]  # not to find this file
    fail_for(
        [
            f"{path.relative_to(ROOT).as_posix()}:{number}: contains {needle}"
            for path in repository_files()
            for number, line in enumerate(text_of(path).splitlines(), 1)
            for needle in needles
            if needle in line
        ]
    )


def repository_files() -> list[Path]:
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    listed = subprocess.run(
        [git, "ls-files", "--cached", "--others", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True
    )
    return [path for name in listed.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]


def text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""  # a golden file or an image
