"""Changes of single places of the numerics, drawn at random: ``mutant_trial.py`` asks the tests whether they notice.

A mutant is one change: another constant, another comparison, another operator, two arguments swapped, a statement left
out. Kept tools were looked at: mutmut 3 and cosmic-ray 8 draw no seeded sample, run one command for all files, and
leave out no statement.
"""

import ast
import bisect
import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
LOOP = [
    f"training/{name}.py" for name in ("loop", "gradients", "parts", "probe", "monitor", "metrics_log", "step", "optim")
]
PLACES = ("geometry.py", "attacks", "evaluation", "results", "sampling", "training/methods", *LOOP)
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.yaml")
COMPARISONS = {ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "=="}
OPERATORS = {ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "*", ast.Mod: "*", ast.Pow: "*"}


@dataclass(frozen=True)
class Mutant:
    """``old`` is replaced by ``new`` in a statement that starts with ``line``, in the function ``where`` of ``file``.

    ``start`` and ``end`` are positions in the file's bytes; the rest names the mutant where lines have moved. ``lines``
    are the numbers of its lines; empty for what runs when the file is imported, such as a module's constants.
    """

    file: str
    where: str
    kind: str
    line: str
    old: str
    new: str
    start: int
    end: int
    lines: range

    @property
    def name(self) -> str:
        """For people, and for the list of equivalents."""
        return f"{self.file}::{self.where}: {self.line}: {self.old} -> {self.new}"


def files() -> list[Path]:
    """The files of the numerics."""
    found = [ROOT / "robustctl" / place for place in PLACES]
    return [file for place in found for file in (sorted(place.glob("*.py")) if place.is_dir() else [place])]


def mutants_of(file: Path) -> list[Mutant]:
    """Every mutant of a file, in the order of its text."""
    source = file.read_bytes()
    return sorted(_Finder(str(file.relative_to(ROOT)), source).found, key=lambda one: (one.start, one.new))


def sample(seed: int, n: int) -> list[Mutant]:
    """n different mutants: each from a random kind, so that constants, which are many, do not crowd out the others.

    A mutant's place in the order of its kind follows from the seed and its name alone, so that a change of the code
    changes the sample only where the code has changed.
    """
    by_kind: dict[str, list[Mutant]] = {}
    for mutant in (one for file in files() for one in mutants_of(file)):
        by_kind.setdefault(mutant.kind, []).append(mutant)
    for some in by_kind.values():
        some.sort(key=lambda one: (hashlib.sha256(f"{seed} {one.name}".encode()).digest(), one.start))
    chance = random.Random(seed)
    return [by_kind[chance.choice(sorted(by_kind))].pop() for _ in range(n)]


def equivalents() -> dict[str, str]:
    """Mutants that change nothing that a test could see, and why."""
    return {one["mutant"]: one["why"] for one in yaml.safe_load(EQUIVALENT.read_text(encoding="utf-8"))}


class _Finder(ast.NodeVisitor):
    def __init__(self, file: str, source: bytes) -> None:
        self.file, self.source = file, source
        self.lines = [0]
        for line in source.splitlines(keepends=True):
            self.lines.append(self.lines[-1] + len(line))
        self.where: list[str] = []
        self.line, self.first = "", 0
        self.inside = False  # a function's body, not what runs when the file is imported
        self.bound: set[str] = set()
        self.found: list[Mutant] = []
        self.visit(ast.parse(source))

    def visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.stmt):
            self.line, self.first = self._text(node).split("\n")[0].strip(), node.lineno
            for old, new in self._left_out(node):
                self._add("statement", node, old, new)
        super().visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        bound, self.bound = self.bound, {one.arg for one in (*node.args.args, *node.args.kwonlyargs)}
        self.where.append(node.name)
        for default in (*node.args.defaults, *(one for one in node.args.kw_defaults if one)):
            self.visit(default)
        inside, self.inside = self.inside, True
        for part in node.body:
            self.visit(part)
        self.inside = inside
        self.where.pop()
        self.bound = bound

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.where.append(node.name)
        for part in node.body:
            self.visit(part)
        self.where.pop()

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None and self.where:  # fields and module constants with a type are declarations
            self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        self.bound |= {one.id for target in node.targets for one in ast.walk(target) if isinstance(one, ast.Name)}

    def visit_Raise(self, node: ast.Raise) -> None:
        """Messages are words, not numerics."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Neither are these."""

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if not (isinstance(node.value, ast.Name) and node.value.id in ("Literal", "Annotated")):
            self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self._add("constant", node, self._text(node), str(not value))
        elif isinstance(value, int):
            self._add("constant", node, self._text(node), str(value + 1))
        elif isinstance(value, float):
            self._add("constant", node, self._text(node), repr(value * 1.5 if value else 0.1))

    def visit_Compare(self, node: ast.Compare) -> None:
        left: ast.expr = node.left
        for operator, right in zip(node.ops, node.comparators, strict=True):
            self._between("comparison", left, right, COMPARISONS.get(type(operator)))
            left = right
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        self._between("operator", node.left, node.right, OPERATORS.get(type(node.op)))
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        arguments = [one for one in node.args if not isinstance(one, ast.Starred)]
        if len(arguments) > 1 and len(arguments) == len(node.args):
            first, second = self._text(arguments[0]), self._text(arguments[1])
            start, end = self._start(arguments[0]), self._end(arguments[1])
            if first != second:
                between = self.source[self._end(arguments[0]) : self._start(arguments[1])].decode()
                self._put("arguments", start, end, second + between + first)
        self.generic_visit(node)

    def _left_out(self, node: ast.stmt) -> Iterator[tuple[str, str]]:
        """Calls for their effect, changes in place, and assignments to names that have a value already."""
        text = self._text(node)
        if isinstance(node, ast.AugAssign) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
            yield text, "pass"
        elif isinstance(node, ast.Assign) and self.where:
            names = [one for target in node.targets for one in ast.walk(target) if isinstance(one, ast.Name)]
            stored = {one.id for one in names if isinstance(one.ctx, ast.Store)}
            if stored and stored <= self.bound:
                yield text, "pass"

    def _between(self, kind: str, left: ast.expr, right: ast.expr, new: str | None) -> None:
        """Replace an operator; brackets around the operands stay."""
        start, end = self._end(left), self._start(right)
        text = self.source[start:end].decode()
        old = text.strip(" ()\n\\")
        if new and old and "#" not in text and "\n" not in old:
            at = start + text.encode().index(old.encode())
            self._put(kind, at, at + len(old.encode()), new)

    def _add(self, kind: str, node: ast.stmt | ast.expr, old: str, new: str) -> None:
        if self.where or kind == "constant":
            self._put(kind, self._start(node), self._end(node), new)

    def _put(self, kind: str, start: int, end: int, new: str) -> None:
        old = self.source[start:end].decode()
        last = bisect.bisect_right(self.lines, end - 1)
        lines = range(self.first, last + 1) if self.inside else range(0)
        self.found.append(Mutant(self.file, ".".join(self.where), kind, self.line, old, new, start, end, lines))

    def _start(self, node: ast.stmt | ast.expr) -> int:
        return self.lines[node.lineno - 1] + node.col_offset

    def _end(self, node: ast.stmt | ast.expr) -> int:
        assert node.end_lineno is not None and node.end_col_offset is not None
        return self.lines[node.end_lineno - 1] + node.end_col_offset

    def _text(self, node: ast.stmt | ast.expr) -> str:
        return self.source[self._start(node) : self._end(node)].decode()
