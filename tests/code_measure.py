"""How dense is the code? Tokens and statements, counted in the modules that the notebooks export.

`python tests/code_measure.py` prints sentnb's row of the table in CONTRIBUTING.md; `python tests/code_measure.py
sentnb/data` also lists what is too dense there. Strings, comments and what nbdev generates count nothing.
"""
import ast
import io
import statistics
import sys
import tokenize
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAX_COLUMNS = 120
MAX_LINE_TOKENS = 25    # more are hard to take in at one look
MAX_TOKENS = 250        # of a function's body
MAX_STATEMENTS = 15     # of a function's body
MAX_DENSE_SHARE = .04   # of the lines that have tokens: fastcore's share

LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
          tokenize.STRING, tokenize.ENDMARKER}
FSTRING_START = getattr(tokenize, "FSTRING_START", None)   # since Python 3.12
FSTRING_END = getattr(tokenize, "FSTRING_END", None)


@dataclass(frozen=True)
class Function:
    "A function of a module and its size."
    name: str          # file:function or file:Class.method
    tokens: int        # of its body
    statements: int    # of its body, the docstring apart
    all_tokens: int    # of its body and its signature


@dataclass(frozen=True)
class Module:
    "A module's lines and functions."
    path: Path
    n_lines: int
    wide: list[int]               # numbers of the lines with more than MAX_COLUMNS columns
    line_tokens: dict[int, int]   # line number -> tokens, for lines that have any
    functions: list[Function]

    @property
    def large(self) -> list[Function]:
        "The functions of more than MAX_TOKENS tokens or MAX_STATEMENTS statements."
        return [f for f in self.functions if f.tokens > MAX_TOKENS or f.statements > MAX_STATEMENTS]

    @property
    def dense(self) -> dict[int, int]:
        "The lines of more than MAX_LINE_TOKENS tokens."
        return {n: tokens for n, tokens in self.line_tokens.items() if tokens > MAX_LINE_TOKENS}


def count_line_tokens(source: str) -> dict[int, int]:
    "Tokens that start on each line; a string counts nothing, whatever stands inside its braces."
    counts = {}
    depth = 0   # of f-strings inside f-strings
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        depth += (token.type == FSTRING_START) - (token.type == FSTRING_END)
        if depth or token.type in LAYOUT or token.type == FSTRING_END: continue
        line = token.start[0]
        counts[line] = counts.get(line, 0) + 1
    return counts


def count_statements(function: ast.FunctionDef) -> int:
    "Statements of a function's body, those inside other statements included."
    statements = [node for node in ast.walk(function) if isinstance(node, ast.stmt)]
    return len(statements) - 1 - (ast.get_docstring(function) is not None)


def named_functions(tree: ast.AST, inside: str = ""):
    "All functions below a node with their names, a method's or an inner function's behind that of its owner."
    for node in ast.iter_child_nodes(tree):
        is_function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        if is_function: yield f"{inside}{node.name}", node
        owner = f"{inside}{node.name}." if is_function or isinstance(node, ast.ClassDef) else inside
        yield from named_functions(node, owner)


def generated_lines(tree: ast.Module) -> set[int]:
    "Lines of `__all__`, which nbdev writes and wraps at a width of its own."
    lines = set()
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            lines |= set(range(node.lineno, node.end_lineno + 1))
    return lines


def measure(path: Path) -> Module:
    "Measure one file of Python."
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    generated = generated_lines(tree)
    line_tokens = {n: tokens for n, tokens in count_line_tokens(source).items() if n not in generated}
    lines = source.splitlines()
    wide = [n for n, line in enumerate(lines, 1) if len(line) > MAX_COLUMNS and n not in generated]

    def tokens_between(first: int, last: int) -> int:
        return sum(line_tokens.get(n, 0) for n in range(first, last + 1))

    functions = []
    for name, node in named_functions(tree):
        body = tokens_between(node.body[0].lineno, node.end_lineno)
        whole = tokens_between(node.lineno, node.end_lineno)
        functions.append(Function(f"{path.name}:{name}", body, count_statements(node), whole))
    return Module(path, len(lines), wide, line_tokens, functions)


def modules(folder: Path = ROOT / "sentnb") -> list[Module]:
    "All exported modules below a folder."
    return [measure(p) for p in sorted(folder.rglob("*.py")) if p.name != "_modidx.py"]


def dense_share(measured: list[Module]) -> float:
    "Share of the lines that hold more than MAX_LINE_TOKENS tokens."
    n_lines = sum(len(m.line_tokens) for m in measured)
    return sum(len(m.dense) for m in measured) / n_lines


def ninth_decile(values: list[int]) -> int:
    return sorted(values)[int(.9 * (len(values) - 1))]


def table_row(measured: list[Module], name: str = "sentnb now") -> str:
    "The row of the table in CONTRIBUTING.md."
    per_line = [n for m in measured for n in m.line_tokens.values()]
    per_function = [f.all_tokens for m in measured for f in m.functions]
    n_wide = sum(len(m.wide) for m in measured)
    share_wide = n_wide / sum(m.n_lines for m in measured)
    cells = [name,
             f"{statistics.mean(per_line):.1f} / {ninth_decile(per_line)}",
             f"{100 * dense_share(measured):.1f} %",
             f"{100 * share_wide:.1f} % ({n_wide})",
             f"{statistics.median(per_function):.0f} / {ninth_decile(per_function)}"]
    return "| " + " | ".join(cells) + " |"


def report(measured: list[Module]):
    "Print the lines and functions that are too dense."
    for m in measured:
        if m.wide: print(f"{m.path}: wide lines {m.wide}")
        if m.dense:
            lines = ", ".join(f"{n} ({tokens})" for n, tokens in m.dense.items())
            print(f"{m.path}: {len(m.dense) / len(m.line_tokens):.1%} dense lines (tokens): {lines}")
        for f in m.large: print(f"  {f.name}: {f.tokens} tokens, {f.statements} statements")


if __name__ == "__main__":
    chosen = modules(Path(sys.argv[1])) if len(sys.argv) > 1 else modules()
    if len(sys.argv) > 1: report(chosen)
    print(table_row(chosen))
