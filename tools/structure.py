"""Print how the package is cut: modules, lines, who imports whom, how long functions are.

    python tools/structure.py

A smell test: a file of 400 lines that reads well beats four that do not.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src"
LONG = 60


def main() -> None:
    """Print the table."""
    trees = {name_of(path): ast.parse(path.read_text()) for path in SOURCE.rglob("*.py")}
    lines = sum(len(path.read_text().splitlines()) for path in SOURCE.rglob("*.py"))
    static = {name: set(imported(trees, name, tree.body)) for name, tree in trees.items()}
    importers = defaultdict(set)
    for name, tree in trees.items():
        for other in imported(trees, name, ast.walk(tree)):
            importers[other].add(name)
    inside = {
        id(node)
        for tree in trees.values()
        for function in functions(tree)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    asserts = sum(isinstance(n, ast.Assert) for tree in trees.values() for n in ast.walk(tree))
    long = sorted(
        (body_lines(function), f"{name}.{function.name}")
        for name, tree in trees.items()
        for function in functions(tree)
        if body_lines(function) >= LONG
    )
    print(f"modules                        {len(trees):6,}")
    print(f"lines                          {lines:6,}")
    print(f"modules with one importer      {sum(len(who) == 1 for who in importers.values()):6,}")
    print(f"imports inside functions       {len(inside):6,}")
    print(f"assert statements              {asserts:6,}")
    print(f"static circles                 {circle(static) or 'none':>6}")
    print(f"bodies of {LONG} lines or more     {len(long):6,}")
    for length, function in reversed(long):
        print(f"  {length:4} {function}")


def name_of(path: Path) -> str:
    """A module's dotted name."""
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")


def imported(
    trees: dict[str, ast.Module], name: str, nodes: Iterator[ast.AST] | list[ast.stmt]
) -> Iterator[str]:
    """Modules of the package that some nodes import, those for types alone included."""
    for node in nodes:
        if isinstance(node, ast.If):
            yield from imported(trees, name, node.body)
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found = inner if inner in trees else node.module
                if found in trees and found not in (name, "mi_toolkit"):
                    yield found


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    """Every function and method, those in functions included."""
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def body_lines(function: ast.FunctionDef) -> int:
    """Lines of a function's body without its docstring."""
    first = function.body[0]
    has_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    start = first.end_lineno if has_docstring else first.lineno - 1
    return (function.end_lineno or 0) - (start or 0)


def circle(graph: dict[str, set[str]]) -> str:
    """Modules that import each other in a circle, or nothing."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return " -> ".join(error.args[1])
    return ""


if __name__ == "__main__":
    main()
