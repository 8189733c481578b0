"What README.md shows is what happens: its commands from a shell, as they stand, and its Python with its output."
import contextlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sentnb.cli import build_parser
from sentnb.execute import find_notebook
from sentnb.runs import Run

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```\n(?:\n((?: {4}[^\n]*\n)+))?", README, re.M | re.S)   # language, code, output
COMMANDS = [line for language, code, _ in BLOCKS if not language for line in code.splitlines()]
NEEDED = ("Makefile", "nbs", "sentnb", "settings.ini", "setup.py", "requirements.txt", "README.md")


@pytest.fixture
def checkout(tmp_path):
    "A copy of the checkout in which the environment has been made: that of these tests."
    if not (Path(sys.executable).parent / "sentnb").exists(): pytest.skip("sentnb is not installed here")
    for part in NEEDED:
        if (ROOT / part).is_dir(): shutil.copytree(ROOT / part, tmp_path / part)
        else: shutil.copy(ROOT / part, tmp_path / part)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    (tmp_path / ".venv" / ".ready").touch()
    return tmp_path


def shell(command, folder, seconds=300):
    "What a user sees who types a command."
    env = os.environ | dict(PYTHONPATH=str(folder), OMP_NUM_THREADS="1")
    for name in ("SENTNB_RUN", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"):  # set where the tests run inside a run or a make
        env.pop(name, None)
    return subprocess.run(command, shell=True, cwd=folder, env=env, capture_output=True, text=True, timeout=seconds)


def test_the_commands_are_those_that_are_tested_here():
    programs = [re.sub(r"^.*\| ", "", command).split()[:2] for command in COMMANDS]
    sentnb = ".venv/bin/sentnb"
    assert programs == [["make", "quickstart"]] * 2 + [[sentnb, "classify"], [sentnb, "generate"]]


def test_classify_and_generate_as_they_stand(checkout):
    classify, generate = (shell(command, checkout) for command in COMMANDS[2:])
    assert classify.returncode == 0, classify.stderr
    verdict = json.loads(classify.stdout)
    assert verdict["text"] == "A wonderful film, warm and funny." and verdict["sentnb_label"] == 1
    assert generate.returncode == 0, generate.stderr
    assert generate.stdout.startswith("This is ") and len(generate.stdout) > 100


@pytest.mark.parametrize("command", COMMANDS[:2])
def test_make_passes_the_sentence_on(checkout, command):
    "With a stand-in for the program that make calls."
    (checkout / ".venv" / "bin").unlink()
    program = checkout / ".venv" / "bin" / "sentnb"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    done = shell(command, checkout)
    assert done.returncode == 0, done.stderr
    sentence = shlex.split(command)[-1].partition("SENTENCE=")[2]
    assert done.stdout.splitlines() == ["run", "quickstart", *(["-p", "sentence", sentence] if sentence else [])]


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS[:2])
def test_quickstart_as_it_stands(checkout, command):
    done = shell(command, checkout, seconds=3000)
    assert done.returncode == 0, done.stderr
    path, = re.findall(r"^report: (\S+)$", done.stdout, re.M)
    run = Run.open((checkout / path).parent)
    assert run.state == "finished" and (checkout / path).stat().st_size > 100_000
    assert run.params()["sentence"] == shlex.split(command)[-1].partition("SENTENCE=")[2]


def test_python_prints_what_is_printed_below_it():
    names = {}
    for language, code, output in BLOCKS:
        if language != "python": continue
        *lines, last = code.strip().splitlines()
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            try: value = compile(last, "README.md", "eval")
            except SyntaxError: value, lines = None, [*lines, last]
            exec("\n".join(lines), names)
            if value and (value := eval(value, names)) is not None: print(value)
        printed, shown = printed.getvalue().split(), output.split()
        assert len(printed) == len(shown) and all(map(says_the_same, printed, shown)), printed


def says_the_same(printed: str, shown: str) -> bool:
    "The same word, or a percentage within two points: processors multiply half precision in their own order."
    percentages = [re.fullmatch(r"(\d+)%", word) for word in (printed, shown)]
    if not all(percentages): return printed == shown
    ours, theirs = (int(found[1]) for found in percentages)
    return abs(ours - theirs) <= 2


def test_every_command_that_is_named_exists():
    named = re.findall(r"`sentnb ([^`]+)`", README)
    assert len(named) > 8
    for command in named:
        words = shlex.split(re.sub(r" …|\bFILE…", " x", command))
        if words[0] == "run" and words[1:] not in ([], ["NAME"]): assert find_notebook(words[1])
        if len(words) > 1 and words[0] in ("run", "train", "classify", "generate"): build_parser().parse_args(words)
