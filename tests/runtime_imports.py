"""Modules that a file imports when it runs; imports under `if TYPE_CHECKING` are left out."""

import ast
from collections.abc import Iterator
from pathlib import Path


def imported_modules(file: Path, package: tuple[str, ...] = ()) -> Iterator[str]:
    """Dotted names that may be modules: `from vdp.data import x` gives vdp.data and vdp.data.x.

    Args:
        file: the source.
        package: parts of the file's package, to which relative imports refer.
    """
    for node in _nodes(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def _nodes(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
        children = iter(node.orelse)
    else:
        children = ast.iter_child_nodes(node)
    for child in children:
        yield from _nodes(child)
