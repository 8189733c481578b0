"The papers' data, where it is at hand: sizes as published; downloads and archives that cannot do harm."
import dataclasses
import functools
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from sentnb.core import NotAvailableError, SentnbError, sha256_file
from sentnb.data.datasets import LOOKS, SOURCES, DataFile, Download, _beside, cache_folder, fetch, load_dataset
from sentnb.data.datasets import log_looks, read_looks, read_members

SIZES = dict(
    amazon=dict(train=165001),
    imdb=dict(train=25000, test=25000, unsup=50000),
    sst=dict(train=6920, val=872, test=1821),
    semeval=dict(train=6838, val=886, test=3259),
    mr=dict(all=10662),
    cr=dict(all=3771),
    subj=dict(all=10000),
    mpqa=dict(all=10603),
)
load = functools.cache(load_dataset)      # a split is read once for all tests
DATA = os.environ.get("SENTNB_DATA")
at_hand = pytest.mark.skipif(not DATA, reason="SENTNB_DATA names no folder with the papers' data")


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_is_complete(name):
    source = SOURCES[name]
    assert source.title and source.citation and source.terms and source.how_to_get
    for file in source.files.values():
        assert len(file.sha256) == 64
        if file.download: assert file.download.url.startswith("https://") and len(file.download.sha256) == 64


@at_hand
@pytest.mark.parametrize("name", SIZES)
def test_sizes(name):
    if not any((Path(DATA) / file.path).is_file() for file in SOURCES[name].files.values()):
        pytest.skip(f"{name} is not in SENTNB_DATA")
    for split, n in SIZES[name].items():
        texts, labels = load(name)[split].texts, load(name)[split].labels
        assert len(texts) == n
        assert all(isinstance(text, str) for text in texts)
        if labels is not None:
            assert len(labels) == n
            assert set(np.unique(labels)) <= {-1, 0, 1}


@at_hand
def test_labels():
    assert load("sst")["train"].labels.mean() == pytest.approx(3610 / 6920)
    assert load("imdb")["test"].labels.sum() == 12500
    assert load("imdb")["unsup"].labels is None
    assert load("semeval")["train"].labels.shape == (6838, 11)
    assert load("semeval")["test"].labels is None
    assert (load("amazon")["train"].labels == -1).any()


@pytest.mark.parametrize("name", [name for name in SOURCES if name != "movie_reviews"])
def test_a_missing_data_set_says_how_to_get_it(tmp_path, name):
    split = next(iter(SOURCES[name].files))
    with pytest.raises(NotAvailableError, match=r"get it .* SENTNB_DATA") as e:
        load_dataset(name, data_dir=tmp_path)[split]
    assert "\n" not in str(e.value)


def test_no_network_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    url = "http://127.0.0.1:9/x.zip"     # the discard port, where nobody listens
    with pytest.raises(NotAvailableError, match=f"cannot download {url} .ConnectionError.: fetch it by hand"):
        fetch(url, tmp_path / "x.zip", "0" * 64)
    assert not list(tmp_path.iterdir())


def read_all(archive): return list(read_members(archive, ".*"))


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/x", "..\\x", "C:/x", "a/b/../../../x"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_no_member_leaves_its_folder(tmp_path, name, kind):
    archive = tmp_path / "inside" / f"a.{kind}"
    archive.parent.mkdir()
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as z:
            info = zipfile.ZipInfo("ok.txt")
            info.filename = name     # as it is: the constructor would change backslashes
            z.writestr(info, "evil")
    else:
        with tarfile.open(archive, "w") as t:
            info = tarfile.TarInfo(name)
            info.size = 4
            t.addfile(info, io.BytesIO(b"evil"))
    with pytest.raises(SentnbError, match="would leave its folder"): read_all(archive)
    assert [p.name for p in tmp_path.rglob("*")] == ["inside", archive.name]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_nothing_but_plain_files_in_a_tar(tmp_path, kind):
    with tarfile.open(tmp_path / "a.tar", "w") as t:
        info = tarfile.TarInfo("inside")
        info.type = kind
        info.linkname = "/etc/passwd"
        t.addfile(info)
    with pytest.raises(SentnbError, match="would leave its folder"): read_all(tmp_path / "a.tar")


def test_no_link_in_a_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as z:
        info = zipfile.ZipInfo("inside")
        info.external_attr = 0o120777 << 16     # the Unix mode of a symbolic link
        z.writestr(info, "/etc/passwd")
    with pytest.raises(SentnbError, match="would leave its folder"): read_all(tmp_path / "a.zip")


# Looks at test sets, and files that are not what they were


RECORDS = "import os; from sentnb.data.datasets import load_dataset; len(load_dataset('sst')[os.environ['PART']])"


@at_hand
@pytest.mark.parametrize("part, n", [("test", 1), ("val", 0)])
def test_a_look_is_noted_in_the_open_run(tmp_path, part, n):
    "By another process, as `sentnb run` starts one, twice: two looks."
    run = tmp_path / "run_sk_sst" / "mine"
    run.mkdir(parents=True)
    for _ in range(2):
        environment = os.environ | dict(SENTNB_RUN=str(run), PART=part)
        subprocess.run([sys.executable, "-c", RECORDS], check=True, env=environment)
    looks = read_looks(run / LOOKS)
    assert len(looks) == 2 * n
    sha256 = SOURCES["sst"].files["test"].sha256
    for look in looks: assert (look["dataset"], look["run"], look["sha256"]) == ("sst", "run_sk_sst/mine", sha256)


@pytest.fixture
def toy(tmp_path, monkeypatch):
    "A data set of one file, which was unpacked into the cache from a download; returns the file."
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("SENTNB_DATA", raising=False)
    monkeypatch.delenv("SENTNB_RUN", raising=False)
    file = cache_folder() / "toy" / "test.csv"
    file.parent.mkdir(parents=True)
    file.write_text("label,sentence\n1,unpacked\n")
    made_here = DataFile("toy/test.csv", "0" * 64, Download("http://127.0.0.1:9/toy.zip", "1" * 64))
    monkeypatch.setitem(SOURCES, "toy", dataclasses.replace(SOURCES["sst"], files=dict(test=made_here)))
    return file


def test_a_ledger_that_cannot_be_written_costs_nothing(toy, tmp_path, monkeypatch):
    _beside(toy).write_text(f"{sha256_file(toy)} {'1' * 64}\n")
    monkeypatch.setenv("SENTNB_RUN", str(tmp_path / "no such run"))
    assert load_dataset("toy")["test"].texts == ["unpacked"]
    with log_looks(tmp_path / "ledger"), log_looks(tmp_path): load_dataset("toy")["test"]      # the second is a folder
    assert [look["dataset"] for look in read_looks(tmp_path / "ledger")] == ["toy"]
    with open(tmp_path / "ledger", "a") as f: f.write('{"when": "20')
    assert len(read_looks(tmp_path / "ledger")) == 1


def test_a_checksum_beside_a_file_does_not_override_the_official_one(toy, tmp_path):
    "It counts in the cache, with the checksum of the right download, as long as the file is the same."
    with pytest.raises(SentnbError, match="is not the file it should be"): load_dataset("toy")["test"]
    _beside(toy).write_text(sha256_file(toy) + "\n")
    with pytest.raises(SentnbError, match="is not the file it should be"): load_dataset("toy")["test"]
    _beside(toy).write_text(f"{sha256_file(toy)} {'1' * 64}\n")
    assert load_dataset("toy")["test"].texts == ["unpacked"]
    with pytest.raises(SentnbError, match="is not the file it should be"):
        load_dataset("toy", data_dir=cache_folder())["test"]
    toy.write_text("label,sentence\n0,changed\n")
    with pytest.raises(SentnbError, match="is not the file it should be"): load_dataset("toy")["test"]


def test_a_cached_archive_is_hashed_again(toy, monkeypatch):
    "It was whole when it came, and has been cut since: it is fetched again, not unpacked."
    toy.unlink()
    archive = cache_folder() / "downloads" / "toy.zip"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(b"PK\3\4 cut off")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(NotAvailableError, match="cannot download"): load_dataset("toy")["test"]


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.tar.xz", "a.tar"])
@pytest.mark.parametrize("share", [0, .02, .5, .9])
def test_a_damaged_archive_is_one_sentence(tmp_path, name, share):
    path = tmp_path / name
    if name == "a.zip":
        with zipfile.ZipFile(path, "w") as z: z.writestr("b.txt", os.urandom(9999))
    else:
        with tarfile.open(path, "w:" + name[6:]) as t:
            info = tarfile.TarInfo("b.txt")
            info.size = 9999
            t.addfile(info, io.BytesIO(os.urandom(9999)))
    path.write_bytes(path.read_bytes()[:int(share * (path.stat().st_size if "gz" in name or "xz" in name else 9999))])
    with pytest.raises(SentnbError, match=f"{name} is damaged or cut off"): read_all(path)
