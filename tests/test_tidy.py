"""The limits that keep the code small enough to read. There is no list of exceptions.

A function's body is counted without its docstring: documentation is never what is too long.
"""

import ast
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src" / "ropeway"

MODULE_LINES = 500
TEST_MODULE_LINES = 600
FUNCTION_LINES = 70
CLASS_LINES = 300
PARAMETERS = 7
NESTING = 4
EXPORTED_NAMES = 40
# A package below the root. The root is flat on purpose: the kernel's modules are small, and each
# of them is placed in a layer by import-linter, which refuses a module without one.
PACKAGE_MODULES = 12
LINE_LENGTH = 100

VAGUE_NAMES = {"util", "utils", "common", "helper", "helpers", "manager", "managers", "misc"}
UNSAFE_MODULES = {"pickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle"}
UNSAFE_CALLS = {"eval", "exec", "builtins.eval", "builtins.exec", "yaml.load", "yaml.unsafe_load"}
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX)\b")
# Told to a tool at the end of a line, where it has to stand; Ruff does not count it either.
FOR_A_TOOL = re.compile(r"\s*# (noqa|pyright|ruff|type|pragma): .*$")
MACHINE_PATH = re.compile(r"(?<!\w)/(tmp|home|root|work|Users)/")

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
BLOCKS = (
    ast.If,
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.With,
    ast.AsyncWith,
    ast.Try,
    ast.TryStar,
    ast.Match,
)

# A rule reads one module and yields (line, complaint).
Findings = Iterator[tuple[int, str]]


def functions(tree: ast.AST) -> Iterator[FunctionNode]:
    return (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))


def body_lines(function: FunctionNode) -> int:
    body = function.body
    documented = ast.get_docstring(function) is not None
    if documented and len(body) == 1:
        return 0
    return (function.end_lineno or 0) - body[documented].lineno + 1


def parameters(function: FunctionNode) -> int:
    given = function.args
    names = [a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    rest = [a for a in (given.vararg, given.kwarg) if a is not None]
    return len(names) + len(rest) - (names[:1] in (["self"], ["cls"]))


def nesting(node: ast.AST) -> int:
    """How deep blocks sit in each other; `elif` is no deeper than `if`, a closure starts anew."""
    deepest = 0
    for child in ast.iter_child_nodes(node):
        if isinstance(child, DEFINITIONS):
            continue
        elif_branch = (
            isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
        )
        deepest = max(deepest, nesting(child) + (isinstance(child, BLOCKS) and not elif_branch))
    return deepest


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Name):
        return node.id
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""


def too_long_functions(tree: ast.Module) -> Findings:
    for function in functions(tree):
        if (lines := body_lines(function)) > FUNCTION_LINES:
            yield function.lineno, f"{function.name}() has {lines} lines, at most {FUNCTION_LINES}"


def too_many_parameters(tree: ast.Module) -> Findings:
    for function in functions(tree):
        if (count := parameters(function)) > PARAMETERS:
            yield function.lineno, f"{function.name}() has {count} parameters, at most {PARAMETERS}"


def too_deep_nesting(tree: ast.Module) -> Findings:
    for function in functions(tree):
        if (depth := nesting(function)) > NESTING:
            yield function.lineno, f"{function.name}() nests {depth} deep, at most {NESTING}"


def too_long_classes(tree: ast.Module) -> Findings:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            if lines > CLASS_LINES:
                yield node.lineno, f"class {node.name} has {lines} lines, at most {CLASS_LINES}"


def too_many_exports(tree: ast.Module) -> Findings:
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            exports = "__all__" in map(dotted, targets)
            if exports and isinstance(node.value, ast.List | ast.Tuple):
                count = len(node.value.elts)
                if count > EXPORTED_NAMES:
                    yield node.lineno, f"__all__ has {count} names, at most {EXPORTED_NAMES}"


def unsafe_code(tree: ast.Module) -> Findings:
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Call) and (call := dotted(node.func)) in UNSAFE_CALLS:
            yield node.lineno, f"{call}() runs whatever it is given; data is decoded by codec.py"
        for name in names:
            if name.partition(".")[0] in UNSAFE_MODULES:
                yield node.lineno, f"import of {name}: it runs code hidden in data"


def vague_class_names(tree: ast.Module) -> Findings:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            words = {word.lower() for word in re.findall(r"[A-Z][a-z0-9]*", node.name)}
            if vague := words & VAGUE_NAMES:
                yield node.lineno, f"class {node.name}: {vague.pop()!r} does not say what it does"


SYNTAX_RULES: list[Callable[[ast.Module], Findings]] = [
    too_long_functions,
    too_many_parameters,
    too_deep_nesting,
    too_long_classes,
    too_many_exports,
    unsafe_code,
    vague_class_names,
]


def where(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def sources() -> list[Path]:
    return sorted(SRC.rglob("*.py"))


def written_for_readers() -> list[Path]:
    """Everything that ships or is published: sources, documents, examples, scripts."""
    folders = [SRC, ROOT / "docs", ROOT / "examples", ROOT / "scripts", ROOT / ".ci"]
    inside = (path for folder in folders for path in folder.rglob("*"))
    documents = (path for path in ROOT.glob("*.*") if path.suffix in {".md", ".toml"})
    skipped = {".pyc", ".png", ".gif", ".ico"}
    return sorted(
        path for path in (*inside, *documents) if path.is_file() and path.suffix not in skipped
    )


def refuse(complaints: Iterable[str]) -> None:
    found = list(complaints)
    if found:
        pytest.fail("\n".join(found), pytrace=False)


@pytest.mark.parametrize("rule", SYNTAX_RULES, ids=lambda rule: rule.__name__)
def test_the_sources_have_no(rule: Callable[[ast.Module], Findings]) -> None:
    refuse(
        f"{where(path)}:{line}: {complaint}"
        for path in sources()
        for line, complaint in rule(ast.parse(read(path)))
    )


@pytest.mark.parametrize(
    ("folder", "limit"),
    [(SRC, MODULE_LINES), (ROOT / "tests", TEST_MODULE_LINES)],
    ids=["src", "tests"],
)
def test_a_module_is_short_enough_to_read_at_once(folder: Path, limit: int) -> None:
    sizes = ((path, len(read(path).splitlines())) for path in sorted(folder.rglob("*.py")))
    refuse(
        f"{where(path)}: {lines} lines, at most {limit}: split it by what its parts do"
        for path, lines in sizes
        if lines > limit
    )


def test_a_line_fits_the_screen() -> None:
    refuse(
        f"{where(path)}:{number}: {length} characters, at most {LINE_LENGTH}"
        for path in sources()
        for number, line in enumerate(read(path).splitlines(), start=1)
        if (length := len(FOR_A_TOOL.sub("", line))) > LINE_LENGTH
    )


def test_a_package_can_be_taken_in_at_a_glance() -> None:
    packages = {path.parent for path in sources()} - {SRC}
    sizes = {p: len([m for m in p.glob("*.py") if m.name != "__init__.py"]) for p in packages}
    refuse(
        f"{where(package)}: {count} modules, at most {PACKAGE_MODULES}: group them in packages"
        for package, count in sorted(sizes.items())
        if count > PACKAGE_MODULES
    )


def test_a_module_is_named_for_what_it_does() -> None:
    named = (path.relative_to(SRC).with_suffix("") for path in sources())
    refuse(
        f"{where(SRC / name)}: {vague.pop()!r} says nothing; name what the code does"
        for name in named
        if (vague := VAGUE_NAMES & {word for part in name.parts for word in part.split("_")})
    )


def test_nothing_unfinished_is_published() -> None:
    refuse(
        f"{where(path)}:{number}: {found[0]}: finish it, or leave it out"
        for path in written_for_readers()
        for number, line in enumerate(read(path).splitlines(), start=1)
        if (found := UNFINISHED.search(line))
    )


def test_no_path_of_somebodys_machine_is_published() -> None:
    refuse(
        f"{where(path)}:{number}: {found[0]} exists on one machine only"
        for path in written_for_readers()
        for number, line in enumerate(read(path).splitlines(), start=1)
        if (found := MACHINE_PATH.search(line))
    )


def long_function(lines: int) -> str:
    return 'def f():\n    """Not counted.\n\n    Nor this.\n    """\n' + "    x = 1\n" * lines


def list_of_exports(count: int) -> str:
    return f"__all__ = {[f'n{i}' for i in range(count)]}"


def nested_ifs(depth: int) -> str:
    return (
        "def f():\n"
        + "".join("    " * n + f"if {n}:\n" for n in range(1, depth + 1))
        + ("    " * (depth + 1) + "pass\n")
    )


@pytest.mark.parametrize(
    ("rule", "allowed", "refused"),
    [
        (too_long_functions, long_function(FUNCTION_LINES), long_function(FUNCTION_LINES + 1)),
        (
            too_many_parameters,
            "def f(self, a, b, /, c, *d, e, f, **g): ...",
            "def f(a, b, /, c, *d, e, f, g, **h): ...",
        ),
        (too_deep_nesting, nested_ifs(NESTING), nested_ifs(NESTING + 1)),
        (
            too_deep_nesting,
            "def f():\n if a: pass\n" + " elif b: pass\n" * 9,
            "def f():\n if a:\n  with c:\n   while d:\n    try:\n     if e: x\n    finally: y",
        ),
        (
            too_long_classes,
            "class A:\n" + "    x = 1\n" * (CLASS_LINES - 1),
            "class A:\n" + "    x = 1\n" * CLASS_LINES,
        ),
        (too_many_exports, list_of_exports(EXPORTED_NAMES), list_of_exports(EXPORTED_NAMES + 1)),
        (unsafe_code, "import json; connection.eval('x')", "from pickle import loads"),
        (unsafe_code, "yaml.safe_load(text)", "yaml.load(text)"),
        (unsafe_code, "evaluate('1')", "eval('1')"),
        (vague_class_names, "class Manage: ...", "class QueueManager: ..."),
    ],
)
def test_a_rule_bites_exactly_at_its_limit(
    rule: Callable[[ast.Module], Findings], allowed: str, refused: str
) -> None:
    assert not list(rule(ast.parse(allowed)))
    assert len(list(rule(ast.parse(refused)))) == 1
