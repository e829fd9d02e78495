"""
Faults for a module: cosmic-ray's, thinned out, and statements taken out.

Knows source text. Knows nothing of tests, files or processes.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import unified_diff

import parso  # noqa: F401 - cosmic-ray's operators cannot be imported before it
from cosmic_ray import plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code

Place = tuple[int, int]

REPLACEMENTS = frozenset(
    (
        *("Eq_NotEq", "NotEq_Eq", "Is_IsNot", "IsNot_Is"),
        *("Lt_LtE", "Lt_GtE", "LtE_Lt", "LtE_Gt", "Gt_GtE", "Gt_LtE", "GtE_Gt", "GtE_Lt"),
        *("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul", "Mod_Add", "Pow_Mul"),
        *("BitOr_BitAnd", "BitAnd_BitOr", "BitXor_BitOr", "LShift_RShift", "RShift_LShift"),
        *("Delete_Not", "Delete_USub", "Delete_Invert"),
    )
)
"""Of the dozen operators that cosmic-ray puts in place of one: one or two that mean something."""

LEFT_OUT = frozenset(("VariableInserter", "VariableReplacer", "RemoveDecorator"))
"""They need arguments, or take out what only remembers results."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """A module with one fault; *line* is where it is."""

    line: int
    kind: str
    source: str

    def diff(self, original: str) -> str:
        """Return what is different from *original*."""
        lines = unified_diff(original.splitlines(), self.source.splitlines(), lineterm="", n=0)
        return "\n".join([one for one in lines if not one.startswith(("---", "+++", "@@"))])


def mutants_of(source: str) -> list[Mutant]:
    """Return every fault that is planted in *source*, in the order of its lines."""
    annotations = list(_annotations(source))
    found = [*_of_cosmic_ray(source, annotations), *_without_a_statement(source)]
    return sorted(found, key=lambda one: (one.line, one.kind, one.source))


def _of_cosmic_ray(source: str, annotations: list[tuple[Place, Place]]) -> Iterator[Mutant]:
    nodes = list(ast_nodes(get_ast(source)))
    operators = _operators(source)
    for name in sorted(plugins.operator_names()):
        kind = name.removeprefix("core/")
        family, _, replacement = kind.partition("_")
        if family in LEFT_OUT or (replacement and replacement not in REPLACEMENTS):
            continue
        operator = plugins.get_operator(name)()
        places: list[tuple[Place, Place]] = [
            place for node in nodes for place in operator.mutation_positions(node)
        ]
        for occurrence, (start, _) in enumerate(places):
            if any(first <= start < last for first, last in annotations):
                continue
            mutated = mutate_code(source, operator, occurrence)
            if mutated is None or not _compiles(mutated):
                continue
            # The * of a signature and of an argument are none, which cosmic-ray does not know.
            if family != "ReplaceBinaryOperator" or _operators(mutated) != operators:
                yield Mutant(start[0], kind, mutated)


def _operators(source: str) -> list[type[ast.operator]]:
    nodes = ast.walk(ast.parse(source))
    return [type(node.op) for node in nodes if isinstance(node, ast.BinOp | ast.AugAssign)]


def _annotations(source: str) -> Iterator[tuple[Place, Place]]:
    """Yield where annotations stand: nothing that they say is executed."""
    for node in ast.walk(ast.parse(source)):
        for one in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if isinstance(one, ast.expr) and one.end_lineno is not None:
                yield (one.lineno, one.col_offset), (one.end_lineno, one.end_col_offset or 0)


def _without_a_statement(source: str) -> Iterator[Mutant]:
    """Take out a call whose result is not used, an assignment to an attribute, or a raise."""
    lines = source.splitlines(keepends=True)
    for node in ast.walk(ast.parse(source)):
        called = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
        stored = isinstance(node, ast.Assign | ast.AugAssign) and all(
            isinstance(one, ast.Attribute | ast.Subscript)
            for one in (node.targets if isinstance(node, ast.Assign) else [node.target])
        )
        if not (called or stored or isinstance(node, ast.Raise | ast.Delete)):
            continue
        if not isinstance(node, ast.stmt) or node.end_lineno is None:
            continue
        kept = [
            *lines[: node.lineno - 1],
            " " * node.col_offset + "pass\n",
            *lines[node.end_lineno :],
        ]
        mutated = "".join(kept)
        if _compiles(mutated):
            yield Mutant(node.lineno, "StatementRemoved", mutated)


def _compiles(source: str) -> bool:
    try:
        compile(source, "mutant", "exec")
    except SyntaxError:
        return False
    return True
