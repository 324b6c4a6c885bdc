"""What a mutation run changes in a module: one operator, constant, condition or statement each."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType
from typing import Any

COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
# Calls whose keywords are the fields to change: each of them may be forgotten.
UPDATES = {"replace", "_move"}

STATEMENT = re.compile(r"\b(SELECT|INSERT|UPDATE|DELETE|WHERE|ORDER BY)\b| = \?|\bstate (NOT )?IN ")
SQL = [
    (r"<=", "<"),
    (r">=", ">"),
    (r"(?<!<)<(?![=>])", "<="),
    (r"(?<![<-])>(?!=)", ">="),
    (r" AND ", " OR "),
    (r"\b(WHERE|AND|OR|ON) ([\w.+]+ (?:=|<=|<|>|>=|!=) (?:\?\d*|[\w.]+))", r"\1 (\2 OR 1)"),
    (r" [+-] (\?\d*|\d+)(?! *[\w(])", ""),
    (r" DESC\b", ""),
    (r"IS NOT NULL", "IS NULL"),
    (r"IS NULL", "IS NOT NULL"),
    (r"NOT IN", "IN"),
    (r"(?<!NOT )IN \(([\d, ]+), \d+\)", r"IN (\1)"),
    (r"\bmin\(", "max("),
    (r"\bmax\(", "min("),
    (r" ORDER BY [\w., ]+?(?= LIMIT| OFFSET|\)|$)", ""),
    (r"DISTINCT ", ""),
    (r" OR (IGNORE|REPLACE)", ""),
]
NO_CODE = {"annotation", "returns", "decorator_list", "type_comment"}


@dataclass(frozen=True)
class Mutant:
    """One change of a module: `holder[key]` becomes `new`, everything else stays."""

    tree: ast.Module
    holder: Any
    key: Any
    new: ast.AST
    line: int
    change: str
    span: tuple[int, int]  # the lines that run when the changed code does
    names: frozenset[str]  # at module level: what the statement defines

    def code(self, path: str) -> CodeType:
        """Compile the changed module. The tree stays changed: call it in a process of its own."""
        self.holder[self.key] = self.new
        return compile(ast.fix_missing_locations(self.tree), path, "exec")


@dataclass(frozen=True)
class Place:
    """Where in the module the walk is."""

    span: tuple[int, int] = (0, 0)
    names: frozenset[str] = frozenset()
    inside: bool = False  # of a function


def mutants(source: str) -> list[Mutant]:
    """Every change this module knows for a source, in the order of its text."""
    tree = ast.parse(source)
    return sorted(_walk(tree, tree, Place()), key=lambda mutant: (mutant.line, mutant.change))


def _walk(tree: ast.Module, parent: ast.AST, place: Place) -> Iterator[Mutant]:
    for name, value in ast.iter_fields(parent):
        if name in NO_CODE or (name == "keywords" and isinstance(parent, ast.ClassDef)):
            continue
        held: list[tuple[Any, Any, Any]] = [(vars(parent), name, value)]
        if isinstance(value, list):
            held = [(value, index, item) for index, item in enumerate(value)]
        for holder, key, node in held:
            if not isinstance(node, ast.AST) or _is_text(node):
                continue
            there = _place(node, place)
            for new, line in _changes(node):
                change = _difference(_words(node), _words(new))
                yield Mutant(tree, holder, key, new, line, change, there.span, there.names)
            if not isinstance(node, ast.Raise):  # what is raised is words
                yield from _walk(tree, node, there)


def _is_text(node: ast.AST) -> bool:
    """A docstring, or an assertion: those are for the programmer."""
    docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return docstring or isinstance(node, (ast.Assert, ast.FormattedValue, ast.Import))


def _place(node: ast.AST, place: Place) -> Place:
    if not isinstance(node, ast.stmt):
        return place
    last = node.end_lineno or node.lineno
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return Place((node.body[0].lineno, last), inside=True)
    body = getattr(node, "body", None)
    if body and not isinstance(node, ast.ClassDef):
        last = max(node.lineno, body[0].lineno - 1)
    names: set[str] = set()
    if not place.inside:
        stored = (n for n in ast.walk(node) if isinstance(n, ast.Name))
        names = {name.id for name in stored if isinstance(name.ctx, ast.Store)}
    return Place((node.lineno, last), frozenset(names), place.inside)


def _changes(node: ast.AST) -> Iterator[tuple[ast.AST, int]]:
    """What may stand in place of a node, each with the line that it differs in."""
    line = getattr(node, "lineno", 0)
    match node:
        case ast.Constant(value=str(text)):
            yield from _sql(text, line)
        case ast.Constant(value=bool(flag)):
            yield ast.Constant(not flag), line
        case ast.Constant(value=int(number)):
            yield ast.Constant(number + 1), line
            if number > 0:
                yield ast.Constant(number - 1), line
        case ast.expr() | ast.comprehension() | ast.match_case():
            yield from ((new, line or new_line(new)) for new in _expressions(node))
        case ast.stmt():
            yield from ((new, line) for new in _statements(node))


def new_line(node: ast.AST) -> int:
    """The first line of a node that has no place of its own."""
    return min(n.lineno for n in ast.walk(node) if isinstance(n, (ast.expr, ast.pattern)))


def _expressions(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.Compare(ops=ops):
            for n, op in enumerate(ops):
                for other in COMPARISONS[type(op)]:
                    yield ast.Compare(
                        node.left, [*ops[:n], other(), *ops[n + 1 :]], node.comparators
                    )
        case ast.BoolOp(op=op, values=values):
            yield ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
            yield from (ast.BoolOp(op, left) for left in _one_less(values))
        case ast.UnaryOp(op=ast.Not()):
            yield node.operand
        case ast.BinOp(op=ast.BitOr(), right=ast.Constant(value=None)):
            pass  # a type
        case ast.BinOp(op=op) if type(op) in ARITHMETIC:
            yield ast.BinOp(node.left, ARITHMETIC[type(op)](), node.right)
            yield node.left
        case ast.IfExp():
            yield ast.IfExp(node.test, node.orelse, node.body)
        case ast.Set(elts=elements) if len(elements) > 1:
            yield from (ast.Set(left) for left in _one_less(elements))
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if name in UPDATES:
            for left in _one_less(node.keywords):
                yield ast.Call(node.func, node.args, left)
        case ast.comprehension(ifs=[_, *_]):
            for left in _one_less(node.ifs):
                yield ast.comprehension(node.target, node.iter, left, node.is_async)
        case ast.match_case(guard=ast.expr()):
            yield ast.match_case(node.pattern, None, node.body)


def _statements(node: ast.stmt) -> Iterator[ast.stmt]:
    match node:
        case ast.If() | ast.While():
            test = ast.UnaryOp(ast.Not(), node.test)
            yield type(node)(test, node.body, node.orelse)
        case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
            yield ast.Return(ast.Constant(None))
        case ast.Break():
            yield ast.Continue()
        case ast.Continue():
            yield ast.Break()
        case ast.Expr(value=ast.Call(func=ast.Attribute(ast.Name("crash"), "point"))):
            pass  # for tests/crash, in processes of their own
        case (
            ast.Expr(value=ast.Call() | ast.Await())
            | ast.AugAssign()
            | ast.Raise()
            | ast.Delete()
            | ast.Assign(targets=[ast.Attribute() | ast.Subscript(), *_])
        ):
            yield ast.Pass()


def _one_less(parts: list[Any]) -> Iterator[list[Any]]:
    return (parts[:n] + parts[n + 1 :] for n in range(len(parts)))


def _sql(text: str, line: int) -> Iterator[tuple[ast.AST, int]]:
    if not STATEMENT.search(text):
        return
    for pattern, becomes in SQL:
        for found in re.finditer(pattern, text):
            changed = text[: found.start()] + found.expand(becomes) + text[found.end() :]
            # Strings joined over several lines know their first line only.
            yield ast.Constant(changed), line + text.count("\n", 0, found.start())


def _words(node: ast.AST) -> str:
    text = node.value if isinstance(node, ast.Constant) else ast.unparse(node)
    return " ".join(str(text).split())


def _difference(before: str, after: str) -> str:
    """What is there and what comes instead, with a few words around it."""
    same = (a == b for a, b in zip(before, after, strict=False))
    start = next((n for n, equal in enumerate(same) if not equal), len(after))
    first = max(0, start - 50)
    old, new = (text[first : start + 50] for text in (before, after))
    return f"{old}  ->  {new}"
