"""How dense is the code? Tokens and statements, counted in the modules that the notebooks export.

`python tests/code_measure.py` prints the table of CONTRIBUTING.md; `python tests/code_measure.py sentnb/data` also
lists what is too dense there.
"""
import ast
import io
import statistics
import sys
import tokenize
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAX_COLUMNS, MAX_LINE_TOKENS, MAX_TOKENS, MAX_STATEMENTS = 120, 25, 250, 15
LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.STRING, tokenize.ENDMARKER}
FSTRING_START, FSTRING_END = (getattr(tokenize, f"FSTRING_{end}", None) for end in ("START", "END"))   # Python 3.12


@dataclass(frozen=True)
class Function:
    "A function of a module and its size."
    name: str        # file:function
    tokens: int      # of its body, strings and comments apart
    statements: int  # of its body, the docstring apart


@dataclass(frozen=True)
class Module:
    "A module's lines and functions."
    path: Path
    wide: list[int]               # numbers of the lines with more than MAX_COLUMNS columns
    line_tokens: dict[int, int]   # line number -> tokens, for lines that have any
    functions: list[Function]


def count_line_tokens(source: str) -> dict[int, int]:
    "Tokens that start on each line; a string counts nothing, whatever stands inside its braces."
    counts, inside = {}, 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        inside += (token.type == FSTRING_START) - (token.type == FSTRING_END)
        if inside or token.type in LAYOUT or token.type == FSTRING_END: continue
        counts[token.start[0]] = counts.get(token.start[0], 0) + 1
    return counts


def count_statements(function: ast.FunctionDef) -> int:
    "Statements of a function's body, those inside other statements included."
    statements = [node for node in ast.walk(function) if isinstance(node, ast.stmt)]
    return len(statements) - 1 - (ast.get_docstring(function) is not None)


def measure(path: Path) -> Module:
    "Measure one file of Python."
    source = path.read_text(encoding="utf-8")
    line_tokens = count_line_tokens(source)
    wide = [n for n, line in enumerate(source.splitlines(), 1) if len(line) > MAX_COLUMNS]
    functions = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)): continue
        tokens = sum(line_tokens.get(n, 0) for n in range(node.body[0].lineno, node.end_lineno + 1))
        functions.append(Function(f"{path.name}:{node.name}", tokens, count_statements(node)))
    return Module(path, wide, line_tokens, functions)


def modules(folder: Path = ROOT / "sentnb") -> list[Module]:
    "All exported modules below a folder."
    return [measure(p) for p in sorted(folder.rglob("*.py")) if p.name != "_modidx.py"]


def ninth_decile(values: list[int]) -> int:
    return sorted(values)[int(.9 * (len(values) - 1))]


def table_row(measured: list[Module]) -> dict[str, str]:
    "The figures of the table in CONTRIBUTING.md."
    per_line = [n for m in measured for n in m.line_tokens.values()]
    per_function = [f.tokens for m in measured for f in m.functions]
    wide = sum(len(m.wide) for m in measured)
    dense = sum(n > MAX_LINE_TOKENS for n in per_line)
    return {"tokens a line, mean / p90": f"{statistics.mean(per_line):.1f} / {ninth_decile(per_line)}",
            f"lines of more than {MAX_LINE_TOKENS} tokens": f"{dense / len(per_line):.1%}",
            f"lines > {MAX_COLUMNS} columns": str(wide),
            "tokens a function, median / p90": f"{statistics.median(per_function):.0f} / {ninth_decile(per_function)}"}


def report(measured: list[Module]):
    "Print the lines and functions that are too dense."
    for m in measured:
        dense = [f"{n} ({tokens})" for n, tokens in m.line_tokens.items() if tokens > MAX_LINE_TOKENS]
        if m.wide: print(f"{m.path}: wide lines {m.wide}")
        if dense: print(f"{m.path}: {len(dense) / len(m.line_tokens):.1%} dense lines (tokens): {', '.join(dense)}")
        for f in m.functions:
            if f.tokens > MAX_TOKENS or f.statements > MAX_STATEMENTS:
                print(f"  {f.name}: {f.tokens} tokens, {f.statements} statements")


if __name__ == "__main__":
    chosen = modules(Path(sys.argv[1])) if len(sys.argv) > 1 else modules()
    if len(sys.argv) > 1: report(chosen)
    print(table_row(chosen))
