"help(), Shift-Tab and the five names: what a user sees who asks Python instead of reading the source."
import importlib
import inspect
import pkgutil
import pydoc
import subprocess
import sys

import pytest

import sentnb
from sentnb import help as ours


def modules() -> list:
    "All modules of the package but its program, and the one that was imported before the others can be explained."
    names = [m.name for m in pkgutil.walk_packages(sentnb.__path__, "sentnb.")]
    return [importlib.import_module(name) for name in names if name not in ("sentnb.__main__", "sentnb.help")]


def explained(module) -> list[tuple]:
    "Functions and methods of a module, with the comments of their signatures."
    lines = open(module.__file__, encoding="utf-8").read().splitlines()
    found = []
    for member in ours._members(module):
        function = ours._written(member)
        if function is None or function.__code__.co_filename != module.__file__: continue
        found.append((member, ours.signature_comments(lines, function.__code__.co_firstlineno - 1)))
    return found


@pytest.mark.slow
def test_every_comment_on_a_parameter_is_in_the_docstring():
    members = [pair for module in modules() for pair in explained(module)]
    assert sum(len(comments) for _, comments in members) > 1000
    for member, comments in members:
        for name, comment in comments.items():
            shown = comment if name == "return" else f"    {name}: {comment}"
            assert member.__doc__.count(shown) >= 1, (member, name)
            assert member.__doc__.count("Parameters:") <= 1, member


def test_the_fast_reader_finds_what_fastcore_finds():
    "On one module of each floor; fastcore takes the comment of `**settings` for one on the result."
    from fastcore.docments import docments
    n = 0
    for name in ("core", "data.streams", "models.lm", "training.trainer", "tasks.neurons", "viz.report"):
        for member, comments in explained(importlib.import_module(f"sentnb.{name}")):
            function = ours._written(member)
            kinds = [p.kind for p in inspect.signature(function).parameters.values()]
            if inspect.Parameter.VAR_KEYWORD in kinds: continue
            last_names = {names.split(", ")[-1]: comment for names, comment in comments.items()}
            theirs = {name: " ".join(text.split()) for name, text in docments(function).items()
                      if text and name not in ("self", "cls")}
            assert {name: " ".join(text.split()) for name, text in last_names.items()} == theirs, function
            n += len(theirs)
    assert n > 200


@pytest.mark.parametrize("name", ["LanguageModel.generate", "LanguageModel.load", "transfer", "classify"])
def test_help_shows_parameters(name):
    thing = sentnb
    for part in name.split("."): thing = getattr(thing, part)
    page = pydoc.render_doc(thing, renderer=pydoc.plaintext)
    parameters = [p for p in inspect.signature(thing).parameters if p not in ("self", "cls")]
    assert "Parameters:" in page and any(f"{p}: " in page.partition("Parameters:")[2] for p in parameters)


def test_shift_tab_shows_parameters():
    "What JupyterLab asks IPython for, on a class with `__init__` and on a settings class."
    from IPython.core.oinspect import Inspector
    from sentnb.models.lm import Head
    from sentnb.training.trainer import PretrainConfig
    inspector = Inspector(theme_name="nocolor")
    assert "output_size: D, width" in inspector.info(Head)["init_docstring"]
    assert "Fields:" in inspector.info(PretrainConfig)["docstring"]
    assert "batch_size: " in inspector.info(PretrainConfig)["docstring"]


def python(*args: str) -> str:
    return subprocess.run([sys.executable, *args], capture_output=True, text=True, check=True).stdout


def test_the_package_says_what_it_is_without_torch():
    code = """import sys, sentnb
for name in sentnb.__all__: assert name in dir(sentnb)
print(sentnb.__doc__); print([m for m in ("torch", "numpy", "pandas", "typing") if m in sys.modules])"""
    said = python("-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{code}")
    assert "the sentiment neuron" in said and "LanguageModel" in said and said.rstrip().endswith("[]")


def test_the_five_names():
    five = {"LanguageModel", "classify", "load_classifier", "load_dataset", "transfer"}
    assert five <= set(sentnb.__all__) and five <= set(dir(sentnb))
    assert all(callable(getattr(sentnb, name)) for name in five)
    with pytest.raises(AttributeError, match="has no attribute 'train'"): sentnb.train
    from sentnb.tasks import transfer as module
    assert sentnb.transfer is module.transfer


def test_modules_run_as_programs_and_without_docstrings():
    assert "usage" in python("-m", "sentnb", "--help")
    assert python("-OO", "-c", "from sentnb.core import suggest; print(suggest.__doc__)") == "None\n"
