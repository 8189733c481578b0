"""`sentnb train` as its user would: the real command, on Python source, German and Chinese, as bytes and as pieces."""
import dataclasses
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
import sentnb.core
from sentnb.core import from_dict
from sentnb.data.token_files import TokenFile, read_manifest
from sentnb.execute import declared, find_notebook
from sentnb.models.lm import LanguageModel
from sentnb.runs import Run
from sentnb.studies.train import TrainConfig
from training_tools import child_env


def sentnb_command(folder, *args):
    "Exit code, output and errors of the command in a folder of its own."
    command = [sys.executable, "-m", "sentnb", *map(str, args)]
    p = subprocess.run(command, cwd=folder, env=child_env(PYTHONUTF8="1"), capture_output=True, timeout=560)
    return p.returncode, p.stdout.decode(errors="replace"), p.stderr.decode(errors="replace")


def sentences(parts, n, end):
    "Made-up sentences: one of each list of parts."
    rng = random.Random(0)
    return [" ".join(rng.choice(part) for part in parts) + end for _ in range(n)]


GERMAN = [["Der Fuchs", "Die Köchin", "Ein Müller", "Das Mädchen", "Der König"],
          ["sieht", "hört", "grüßt", "sucht", "vergißt"], ["die alte", "eine schöne", "jede", "keine größere"],
          ["Brücke", "Mühle", "Tür", "Übung", "Straße"], ["am Morgen", "bei Nacht", "im März", "für immer"],
          ["und sagt „nein“", "(wie immer)", "und geht", "– so heißt es"]]
CHINESE = [["老人", "那个孩子", "我的朋友", "皇帝", "一只猫"], ["看见", "喜欢", "忘记", "寻找", "听说"],
           ["红色的", "很旧的", "远方的", "这一座"], ["桥", "山", "房子", "月亮", "城市"],
           ["，然后走了", "，说“不是”", "（和从前一样）", "，心里很高兴"]]


def python_source(folder):
    package = Path(sentnb.core.__file__).parent
    for file in sorted(package.rglob("*.py")):
        target = folder / "source" / file.relative_to(package)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    return folder / "source"


def german(folder):
    (folder / "deutsch").write_text("\n".join(sentences(GERMAN, 900, ".")), encoding="utf-8")
    return folder / "deutsch"    # no ending: its name does not say what it is


def chinese(folder):
    text = "\n".join(sentences(CHINESE, 1500, "。")).replace(" ", "")
    (folder / "中文.txt").write_text(text, encoding="utf-8")
    return folder / "中文.txt"


CASES = {"python": (python_source, []), "german": (german, ["-p", "hidden_size", 32]),
         "chinese pieces": (chinese, ["--vocab-size", 330, "-p", "hidden_size", 32])}


@pytest.mark.parametrize("case", CASES)
def test_train_on_own_text(tmp_path, case):
    make, options = CASES[case]
    source = make(tmp_path)
    code, out, err = sentnb_command(tmp_path, "train", source.name, "--minutes", .1, "--name", "mine", *options)
    assert code == 0, err + out
    run = Run.open(tmp_path / "runs" / "train" / "mine")
    assert run.state in ("finished", "stopped") and run.params()["data"] == [source.name]

    files = [source] if source.is_file() else sorted(source.rglob("*.py"))
    whole = "".join(file.read_text(encoding="utf-8") for file in files)
    assert read_manifest(run.folder / "data")["cleaning"] == "none"
    stored = sum(TokenFile.open(run.folder / "data", split).n_bytes for split in ("train", "val", "test"))
    n_bytes = len(whole.encode())
    assert .8 * n_bytes < stored <= n_bytes + 1, "copies are left out, and nothing else; the last line may get its end"

    lm = LanguageModel.load(run.checkpoint_folder, device="cpu")
    assert lm.config.backbone == "mlstm" and lm.generate("a", n=3).startswith("a")
    assert run.results()["training"]["validation bits per character"] < 8.5
    samples = run.results()["samples"]
    assert samples and all(sample["beginning"] in whole for sample in samples)
    if case == "python": assert {"indentation of the line", "first letter of a word"} <= follows(run)
    if case == "german": assert "first letter of a word" in follows(run)

    assert re.search(r"loss \d+\.\d{3}, \d\.\d{3} bits per character", out), "the bar"
    assert "checkpoint: runs/train/mine/checkpoint" in out
    assert "sentnb run train --resume mine -p minutes 10" in out
    assert (run.folder / "report.html").exists()
    if case == "german": further_training(tmp_path, run)


def follows(run): return {row["follows"] for row in run.results()["table"]}


def further_training(folder, run):
    "The command that was printed goes on with the same model."
    before = run.status["step"]
    weights = run.results()["plan"]["hidden_size"]
    code, out, err = sentnb_command(folder, "run", "train", "--resume", run.name, "-p", "minutes", .1)
    assert code == 0, err + out
    assert run.status["step"] > before and run.results()["plan"]["hidden_size"] == weights
    page = (run.folder / "report.html").read_bytes()
    code, out, err = sentnb_command(folder, "run", "train", "--resume", run.name, "-p", "hidden_size", 64)
    assert code == 2 and err.endswith("leave that out, or begin a new run without --resume\n"), err
    assert "train/mine goes on with the model that it has: hidden_size stays 32" in err and err.count("\n") == 1
    assert run.params()["hidden_size"] == 32 and (run.folder / "report.html").read_bytes() == page


def test_mistakes_get_a_sentence(tmp_path):
    code, out, err = sentnb_command(tmp_path, "train", "nowhere.txt")
    assert (code, err) == (2, "sentnb: there is no file or folder 'nowhere.txt'\n") and not (tmp_path / "runs").exists()
    (tmp_path / "short.txt").write_text("Too short.")
    code, out, err = sentnb_command(tmp_path, "train", "short.txt", "--name", "short")
    assert code == 2 and "bytes of text to train on" in err and "Traceback" not in err


@pytest.mark.slow
def test_a_minute_is_a_minute(tmp_path):
    "More text than a minute is enough for: choosing, training and validation together take it, to 10 %."
    (tmp_path / "long.txt").write_text("\n".join(sentences(GERMAN, 60_000, ".")))
    code, out, err = sentnb_command(tmp_path, "train", "long.txt", "--minutes", 1, "--name", "minute")
    assert code == 0, err
    training = Run.open(tmp_path / "runs" / "train" / "minute").results()["training"]
    print(f"{training['minutes']:.3f} minutes, {training['units']} units, {training['steps']} steps")
    assert .85 <= training["minutes"] <= 1.1       # it plans to be done early rather than to be stopped


def test_parameters_are_the_fields():
    cell = {p.name: p.default for p in declared(find_notebook("train")).values()}
    assert list(cell) == [f.name for f in dataclasses.fields(TrainConfig)]
    assert from_dict(TrainConfig, cell) == TrainConfig()
