"""The study of attacks finds what it looks for. And what surrounds a user (streams, locales, folders that vanish, disks
that take nothing, clocks that are set back) costs a sentence at most."""
import dataclasses
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import psutil
import pytest

from sentnb.cli import duration, main
from sentnb.core import SentnbError, from_dict, make_folder
from sentnb.data.token_files import example_corpus
from sentnb.data.tokenizers import CharTokenizer
from sentnb.execute import copy_notebooks, declared
from sentnb.models.lm import LanguageModel, LMConfig
from sentnb.runs import LEASE, Run, list_runs
from sentnb.studies import attack
from sentnb.studies.training_runs import embedded_corpus
from sentnb.tasks.features import features, features_folder, prune_cache
from sentnb.tasks.tables import ROW_LINES, JsonRows, TableRows, parse_chunks, replaced_at_end
from sentnb.training.launch import launch
from sentnb.training.trainer import TimeLimit
from training_tools import new_run, settings, wait_for

ROOT = Path(__file__).parents[1]
SENTNB = [sys.executable, "-m", "sentnb"]
CHILD = {name: value for name, value in os.environ.items() if name != "SENTNB_RUN"} | dict(
    OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT))


def run(*command, **options):
    "A command to its end."
    options = dict(capture_output=True, text=True, env=CHILD, timeout=600) | options
    return subprocess.run(list(map(str, command)), **options)


def shell(script, place, **more):
    "A script of the shell in which `sentnb` is ours."
    command = " ".join(SENTNB)
    return run("sh", "-c", script.replace("sentnb", command), cwd=place, env=CHILD | more)


def in_process(*args):
    "A command in this process: code, output, errors; the output takes ASCII only."
    out, err = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err): code = main(list(map(str, args)))
    return code, out.buffer.getvalue().decode(), err.getvalue()


def is_sentence(done): return attack.is_sentence(attack.Ended(done.returncode, done.stdout, done.stderr))


# the study

def test_the_parameters_cell_lists_exactly_the_fields():
    cell = declared(ROOT / "nbs" / "experiments" / "attack.ipynb")
    assert list(cell) == [field.name for field in dataclasses.fields(attack.AttackConfig)]
    assert from_dict(attack.AttackConfig, {p.name: p.default for p in cell.values()}) == attack.AttackConfig()
    assert set(attack.FAMILIES) | {"seed"} == set(cell)


FEW = dict(kill_training=2, kill_prepare=2, damage_checkpoints=4, bombs=3, fuzz_records=60, fuzz_files=14,
           concurrency=1, hostile_html=4, classify_files=1)


@pytest.mark.parametrize("family", [pytest.param(name, marks=() if name == "fuzz_records" else pytest.mark.slow)
                                    for name in FEW])
def test_a_few_of_each_family_hold(family):
    "With a seed that the reference run does not have."
    trials = attack.FAMILIES[family](7, FEW[family])
    assert len(trials) >= FEW[family] and not [trial for trial in trials if not trial.held]


def test_a_page_without_the_net_does_not_hold(tmp_path, monkeypatch):
    for i, text in enumerate(attack.HOSTILE[:2]): assert attack._report_trial(tmp_path / "a", i, text).held
    monkeypatch.setattr("sentnb.viz.report.clean_html", lambda fragment: fragment)
    trial = attack._report_trial(tmp_path / "b", 0, attack.HOSTILE[0])
    assert not trial.held and "scripts" in trial.detail
    monkeypatch.setattr("sentnb.viz.report.clean_html", lambda fragment: 1 / 0)
    trial = attack._report_trial(tmp_path / "c", 0, attack.HOSTILE[0])
    assert not trial.held and "no report, ZeroDivisionError" in trial.detail


def test_damage_that_costs_a_good_checkpoint_does_not_hold(tmp_path, monkeypatch):
    "With a store that keeps the highest steps, damaged or not, as it once did."
    def damage_three(folder):
        store = attack.CheckpointStore(folder, 3)
        for step in (5, 10, 15):
            store.save(step, lambda to: (to / "model.safetensors").write_bytes(b"weights"), dict(step=step))
        store.wait()
        return attack._damage_trial(0, folder, store.steps(), attack.random.Random(1))
    assert damage_three(tmp_path / "a").held

    def keep_highest(self): return [None, *self.steps()[-self.keep_checkpoints:]]
    monkeypatch.setattr(attack.CheckpointStore, "_kept", keep_highest)
    trial = damage_three(tmp_path / "b")
    assert not trial.held and "the new one not kept" in trial.detail


def test_what_else_would_not_hold():
    "A lost line, an exception, a worker that died, memory, a code of 0 after a bomb, and a traceback."
    file, blank = (b'{"text": "first"}\n%s\n{"text": "last"}\n' % line for line in (b"mutant", b" "))
    lost, set_aside = (dict(texts=["first", "last"], n_bad=n) for n in (0, 1))
    assert attack.is_counted(set_aside, file) and not attack.is_counted(lost, file) and attack.is_counted(lost, blank)
    assert attack.is_counted(dict(texts=["first", "x", "last"], n_bad=0), file)
    assert not attack.is_counted(dict(texts=["first", "x"], n_bad=1), file)
    assert not attack.is_counted(dict(raised="UnicodeEncodeError"), file)
    table = b"id,text,stars\n1,first,1\nmutant\n2,last,2\n"
    assert attack.is_counted(dict(texts=["first"], n_bad=1), table)
    assert not attack.is_counted(dict(texts=["first"], n_bad=0), table)
    assert not attack.is_counted(dict(texts=["first", "mutant"], n_bad=0), table)              # the last row is gone
    assert attack.is_counted(dict(texts=["first", "mutant\n2,last,2"], n_bad=0), table)        # a quote swallowed it
    died = attack.answers(attack.Ended(-11, '{"begun": "a"}\n{"name": "a", "texts": []}\n{"begun": "b"}\n', ""))
    assert died["b"] == dict(raised="the process ended with code -11") and died["a"]["texts"] == []
    refused = attack.Ended(2, "", "sentnb: too large\n", peak=300)
    assert attack._is_defused("record.jsonl", refused, 200)
    assert not attack._is_defused("record.jsonl", refused._replace(peak=300 + attack.ROOM), 200)
    assert not attack._is_defused("record.jsonl", refused._replace(code=0, err=""), 200)
    for name in ("prepare newlines.csv.zst", "prepare document.txt.zst"):
        assert attack._is_defused(name, refused._replace(code=0, err=""), 200)
    assert not attack._is_defused("classify document.txt.zst", refused._replace(code=0, err=""), 200)
    assert not attack._is_defused("record.jsonl", refused._replace(code=1, err="Traceback\nMemoryError\n"), 200)
    assert not attack._is_defused("record.jsonl", refused._replace(code=-9, peak=0), 200)


# streams and locales

@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_the_shell_closed(closed, tmp_path):
    "Nothing breaks, and no message ends up in a file that took the number of a closed stream."
    (tmp_path / "a.jsonl").write_text('{"text": "a film"}\n' * 3 + '{"text": "b"}\n')
    done = shell(f"exec sentnb prepare a.jsonl --folder corpus {closed}", tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    attack.verify_corpus(tmp_path / "corpus")
    done = shell(f"exec sentnb runs {closed}", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_message_never_goes_into_a_file_of_the_user(tmp_path):
    "With standard error closed, the next file that is opened would take its number."
    code = ("import os, sys; from sentnb.cli import main\n"
            "try: main(['runs'])\nfinally:\n    file = open('mine', 'w'); file.write(str(file.fileno()))")
    done = run("sh", "-c", f'exec {sys.executable} -c "{code}" <&- >&- 2>&-', cwd=tmp_path)
    assert done.returncode == 0 and int((tmp_path / "mine").read_text()) > 2


PLAIN = dict(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")


@pytest.mark.parametrize("locale", [PLAIN, dict(PYTHONIOENCODING="ascii")], ids=["C", "ascii"])
def test_a_locale_without_umlauts(locale, tmp_path):
    "Folders, names, texts and columns with umlauts give the same corpus; what cannot be shown is written as escapes."
    place = tmp_path / "Größe ü"
    place.mkdir()
    (place / "ä.csv").write_text("größe,text\n" + "1,größe ☃\n2,schön\n")
    assert shell("exec sentnb prepare ä.csv --folder ö", place).returncode == 0
    done = shell("exec sentnb prepare ä.csv --folder plain", place, **locale)
    assert done.returncode == 0, done.stderr
    assert attack.corpus_hashes(place / "ö") == attack.corpus_hashes(place / "plain")
    wrong = shell("exec sentnb prepare ä.csv --folder wrong -p text_key größ", place, **locale)
    assert is_sentence(wrong) and "\\xf6" in wrong.stderr.replace("\\udcc3\\udcb6", "\\xf6"), wrong.stderr
    made = Run.create("größe", name="ü", root=place / "runs")
    made.finish("schön ☃")
    shown = shell("exec sentnb runs", place, **locale)
    assert shown.returncode == 0 and "finished" in shown.stdout, shown.stderr


@pytest.fixture(scope="module")
def model(tmp_path_factory): return attack.make_model(tmp_path_factory.mktemp("model") / "toy")


def test_any_text_can_be_shown(model):
    code, out, err = in_process("generate", "Größe ☃", "--length", 5, "--model", model)
    assert code == 0 and out.startswith("Gr\\xf6\\xdfe \\u2603"), err


@pytest.mark.parametrize("args, says", [
    (["caf\udce9"], "holds bytes that are not UTF-8"),
    (["x", "--samples", 10**12], "10,000 samples and 100,000,000 tokens in all are the limit"),
    (["x", "--length", 10**12], "10,000 samples and 100,000,000 tokens in all are the limit")])
def test_generate_refuses_in_a_sentence(model, args, says):
    code, _, err = in_process("generate", *args, "--model", model)
    assert code == 2 and says in err and err.count("\n") == 1


# folders

def test_a_current_folder_that_was_deleted(tmp_path):
    (tmp_path / "gone").mkdir()
    for command in ("runs", "run quickstart", "prepare a.csv --folder b"):
        done = shell(f"cd gone && rmdir ../gone; exec sentnb {command}", tmp_path)
        assert is_sentence(done) and "the current folder was deleted" in done.stderr, done.stderr
        (tmp_path / "gone").mkdir()


@pytest.fixture
def small_disk(tmp_path):
    "A file system of 100 KB."
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_notebooks_where_there_is_no_place(small_disk):
    with pytest.raises(SentnbError, match="the disk is full: .* was not written"): copy_notebooks(small_disk / "copy")
    if Path("/proc").exists():
        with pytest.raises(SentnbError, match="no folder 'notebooks' can be made there"): make_folder("/proc/notebooks")
        with pytest.raises(SentnbError, match="can be made there"): copy_notebooks("/proc/notebooks")


def test_a_disk_that_fills_up_during_a_run(small_disk):
    "One sentence, and the run says what happened as far as there is room."
    parameters = attack.new_code_cell("n = 1000", metadata=dict(tags=["parameters"]))
    work = ("from sentnb.runs import Run\nrun = Run.current('tiny', dict(n=n))\n"
            "for step in range(1, n): run.log(step=step, split='train', text='x' * 1000)")
    attack.write_notebook(small_disk / "tiny.ipynb", [parameters, attack.new_code_cell(work)])
    done = run(*SENTNB, "run", "tiny.ipynb", "--name", "x", cwd=small_disk)
    assert done.returncode == 2 and "the disk is full" in done.stderr and "Traceback" not in done.stderr, done.stderr
    [state] = list_runs(small_disk / "runs").state
    assert state in ("failed", "died")


def test_a_run_folder_behind_a_link(tmp_path):
    "It is one run by whichever way it is reached."
    there, here = tmp_path / "there" / "e" / "x", tmp_path / "here" / "e" / "x"
    there.mkdir(parents=True)
    here.parent.mkdir(parents=True)
    here.symlink_to(there)
    made = Run.create("e", dict(a=1), "x", tmp_path / "here")
    made.update(step=3)
    assert Run.open(there).status["step"] == 3 and Run.open(there).state == "running"
    with pytest.raises(SentnbError, match="being worked on"): Run.create("e", dict(a=1), "x", tmp_path / "there")
    made.finish()
    assert Run.open(there).state == "finished" and here.is_symlink() and not list(there.glob("lease*"))


def test_what_is_no_folder_for_a_run(tmp_path):
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "dangling").symlink_to(tmp_path / "nowhere" / "x")
    (tmp_path / "e" / "file").write_text("mine")
    for name in ("dangling", "file"):
        with pytest.raises(SentnbError): Run.create("e", {}, name, tmp_path)
    assert (tmp_path / "e" / "file").read_text() == "mine" and list_runs(tmp_path).empty


def test_a_checkout_with_spaces_and_umlauts(tmp_path):
    "Two processes of training find their files."
    place = tmp_path / "Größe  mit 'Leerzeichen' ü"
    corpus = example_corpus(place / "corpus ö", 60)
    config = settings(corpus, steps=4, nproc=2, eval_every=0, save_every=0)
    made = new_run(place, "ä ß", config)
    assert launch(config, made).step == 4 and made.state == "finished"
    assert LanguageModel.load(made.folder, "cpu").config.hidden_size == 32


def test_make_takes_any_path(tmp_path):
    place = tmp_path / "Größe mit Leerzeichen"
    (place / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", place)
    for name in ("requirements.txt", "settings.ini", "setup.py"): (place / name).write_text("")
    (place / ".venv" / ".ready").write_text("")
    tool = place / ".venv" / "bin" / "sentnb"
    tool.write_text('#!/bin/sh\nfor word; do echo "<$word>"; done\n')
    tool.chmod(0o755)
    if not shutil.which("make"): pytest.skip("there is no make")
    assert run("make", "-s", "attack", "SEED=3", cwd=place).stdout.split() == "<run> <attack> <-p> <seed> <3>".split()
    said = run("make", "-s", "quickstart", "SENTENCE=a 'b' \"c\" ü", cwd=place).stdout.splitlines()
    assert said[-1] == "<a 'b' \"c\" ü>"


# a cache that takes nothing

def small_lm(): return LanguageModel(LMConfig(embedding_size=4, hidden_size=8), CharTokenizer()).eval()


def test_a_cache_that_takes_nothing(tmp_path, monkeypatch):
    "All works with a read-only home, but nothing is kept; a cache that was named gets a sentence."
    if not Path("/proc").exists(): pytest.skip("needs a folder in which nobody can write")
    lm, texts = small_lm(), ["one film", "another"]
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    np.testing.assert_array_equal(features(lm, texts), features(lm, texts, cache=None))
    with pytest.raises(SentnbError, match="can be made there"): features(lm, texts, cache="/proc/nowhere")


def test_a_read_only_cache_is_read(tmp_path, monkeypatch):
    lm, texts = small_lm(), ["one film", "another"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    expected = np.array(features(lm, texts))
    assert len(list(features_folder().glob("*.npy"))) == 1

    def refuse(*_): raise OSError(30, "Read-only file system")
    monkeypatch.setattr("sentnb.tasks.features.os.utime", refuse)
    monkeypatch.setattr(LanguageModel, "featurize", refuse)
    np.testing.assert_array_equal(features(lm, texts), expected)


def test_pruning_beside_another_process(tmp_path):
    "The newest stays, however large; a file that another process deletes meanwhile is no error."
    for i in range(3):
        (tmp_path / f"{i}.npy").write_bytes(bytes(100))
        os.utime(tmp_path / f"{i}.npy", (i, i))
    (tmp_path / "gone.npy").symlink_to(tmp_path / "nowhere")
    prune_cache(tmp_path, limit=50)
    assert sorted(p.name for p in tmp_path.glob("?.npy")) == ["2.npy"]


def test_two_make_the_embedded_corpus(tmp_path):
    program = "import sys; from sentnb.studies.training_runs import *; embedded_corpus(0, 60, Path(sys.argv[1]))"
    both = [subprocess.Popen([sys.executable, "-c", "from pathlib import Path\n" + program, str(tmp_path / "c")],
                             env=CHILD, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(2)]
    ends = [process.communicate(timeout=600)[1].decode() for process in both]
    assert [process.returncode for process in both] == [0, 0], ends
    made = attack.corpus_hashes(tmp_path / "c" / "movie_reviews-60-bytes")
    assert made == attack.corpus_hashes(embedded_corpus(0, 60, tmp_path / "alone"))


# two at once, and signals

def test_two_write_one_output(tmp_path):
    "Whoever ends last has the file, whole; nothing is left beside it."
    path = tmp_path / "out.csv"
    with replaced_at_end(path) as first:
        first(b"first, beginning\n")
        with replaced_at_end(path) as second: second(b"second\n")
        assert path.read_bytes() == b"second\n"
        first(b"first, end\n")
    assert path.read_bytes() == b"first, beginning\nfirst, end\n" and os.listdir(tmp_path) == ["out.csv"]


def test_sigterm_ends_prepare(tmp_path):
    "A scheduler ends it: no process stays, and the next one ends with the same hashes."
    attack.write_reviews(tmp_path / "many.jsonl", 6000)
    command = [*SENTNB, "prepare", "many.jsonl", "--folder"]
    process = subprocess.Popen([*command, "corpus"], cwd=tmp_path, env=CHILD, stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for(lambda: list((tmp_path / "corpus").glob(".work-*/*")) or process.poll() is not None, 120, "work")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode in (-signal.SIGTERM, 130, 143) and "Traceback" not in err, (process.returncode, err)

    def left():
        return [p for p in psutil.process_iter() if _session(p.pid) == process.pid]
    wait_for(lambda: not left(), 30, f"{left()} to end")
    for folder in ("corpus", "whole"): assert run(*command, folder, cwd=tmp_path).returncode == 0
    assert attack.corpus_hashes(tmp_path / "corpus") == attack.corpus_hashes(tmp_path / "whole")
    assert not [p.name for p in (tmp_path / "corpus").iterdir() if p.name.startswith(".")]


def _session(pid):
    try: fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError: return None
    return None if fields[0] == "Z" else int(fields[3])


# a clock that is set back

DAY = 24 * 3600


def far_run(root):
    "A run whose owner is on another host, and touched its lease tomorrow."
    made = Run.create("far", dict(lr=1.), "x", root)
    made.update(step=17)
    lease = made.folder / "lease-1"
    stranger = dict(made.owner, host="ffffffff")
    made._release()
    lease.write_text(json.dumps(stranger))
    status = json.loads((made.folder / "status.json").read_text())
    (made.folder / "status.json").write_text(json.dumps(status | dict(owner=stranger)))
    for path in (lease, made.folder / "status.json"): os.utime(path, (time.time() + DAY,) * 2)
    return Run.open(made.folder), lease


def test_a_run_that_died_tomorrow_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("sentnb.runs.HEARTBEAT", .1)
    far, _ = far_run(tmp_path)
    assert far.state == "died"
    again = Run.create("far", dict(lr=1.), "x", tmp_path)
    assert (again.state, again.life, again.status["step"]) == ("running", 2, 17)


def test_an_owner_whose_clock_is_ahead_is_left_alone(tmp_path, monkeypatch):
    "Its lease is touched in the future, and again, and again."
    monkeypatch.setattr("sentnb.runs.HEARTBEAT", .3)
    far, lease = far_run(tmp_path)
    ended = threading.Event()

    def beat():
        while not ended.wait(.1): os.utime(lease, (time.time() + DAY,) * 2)
    heart = threading.Thread(target=beat)
    heart.start()
    try:
        with pytest.raises(SentnbError, match=f"on another host: .* silent for {LEASE} seconds"):
            Run.create("far", dict(lr=1.), "x", tmp_path)
    finally:
        ended.set()
        heart.join()


def test_a_clock_that_is_set_back_stops_no_clock_of_ours(monkeypatch):
    "A time limit counts on; a run that ended before it began has no duration."
    limit = TimeLimit.of(settings("corpus", time_limit_minutes=.001))
    monkeypatch.setattr(time, "time", lambda: 0.)
    time.sleep(.1)
    assert limit.is_up()
    assert duration(-5.) == "" and duration(5.) == "5 s"


# lines without anything

@pytest.mark.parametrize("rows, first, last", [
    (JsonRows, b'{"text": "a"}\n', b'{"text": "b"}\n'), (TableRows, b"text\na\n", b"b\n")])
def test_blank_lines_take_no_time(rows, first, last):
    "A hundred million of them; and the line behind them has its number."
    chunks = [first, *[b"\n" * 2**20] * 100, last]
    began = time.process_time()
    found = [row for row in parse_chunks(chunks, rows()) if row]
    assert time.process_time() - began < 3
    assert [row.fields["text"] for row in found] == ["a", "b"]
    assert found[1].line == first.count(b"\n") + 100 * 2**20 + 1


def test_blank_lines_in_quotes_are_text():
    for n in (5, 300): # below and above the number that is worth a special case
        [row] = [row for row in parse_chunks([b'text\n"a', b"\n" * n, b'b"\n'], TableRows()) if row]
        assert row.fields["text"] == "a" + "\n" * n + "b"


def test_a_quote_before_blank_lines_without_an_end():
    "It costs a row of bounded length, not one of 16 million lines."
    began = time.process_time()
    found = [row for row in parse_chunks([b'text\n"a\n', *[b"\n" * 2**20] * 40, b"b\n"], TableRows()) if row]
    assert time.process_time() - began < 15 and ROW_LINES <= 2**18
    assert [(row.fields["text"], bool(row.error)) for row in found] == [('"a', True), ("b", False)]
    assert found[1].line == 40 * 2**20 + 3


def test_a_part_of_a_corpus_must_not_pass_for_one(tmp_path):
    "The judge of killed preparations can fail: a corpus of fewer reviews is not the right one."
    for name, n in (("whole", 40), ("part", 30)):
        attack.write_reviews(tmp_path / f"{name}.jsonl", n)
        assert attack.sentnb(tmp_path, "prepare", f"{name}.jsonl", "--folder", name).code == 0
    whole = attack.corpus_hashes(tmp_path / "whole")
    assert attack.is_honest(tmp_path / "whole", whole) and not attack.is_honest(tmp_path / "part", whole)
    (tmp_path / "part" / "manifest.json").unlink()
    assert attack.is_honest(tmp_path / "part", whole)
