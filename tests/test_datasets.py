"The papers' data, where it is at hand: sizes as published, hashes as registered, overlaps as warned of."
import functools
import os
from pathlib import Path

import numpy as np
import pytest

from sentnb.core import SentnbError
from sentnb.data.datasets import SOURCES, fetch, load_dataset, read_members

SIZES = dict(amazon=dict(train=165001), imdb=dict(train=25000, test=25000, unsup=50000), sst=dict(train=6920, val=872, test=1821),
             semeval=dict(train=6838, val=886, test=3259), mr=dict(all=10662), cr=dict(all=3771), subj=dict(all=10000), mpqa=dict(all=10603))
load = functools.cache(load_dataset)      # a split is read once for all tests
DATA = os.environ.get("SENTNB_DATA")
at_hand = pytest.mark.skipif(not DATA, reason="SENTNB_DATA names no folder with the papers' data")


def test_every_source_is_complete():
    for name, s in SOURCES.items():
        assert s.title and s.citation and s.terms and s.get, name
        assert all(len(sha256) == 64 for _, sha256 in s.files.values()), name
        assert set(s.downloads) <= set(s.files) and all(url.startswith("https://") and len(h) == 64 for url, h in s.downloads.values()), name


@at_hand
@pytest.mark.parametrize("name", SIZES)
def test_sizes(name):
    if not any((Path(DATA) / path).is_file() for path, _ in SOURCES[name].files.values()): pytest.skip(f"{name} is not in SENTNB_DATA")
    data = load(name)
    for split, n in SIZES[name].items():
        assert len(data[split]) == n and all(isinstance(t, str) for t in data[split].texts)
        labels = data[split].labels
        if labels is not None: assert len(labels) == n and set(np.unique(labels)) <= {-1, 0, 1}


@at_hand
def test_labels():
    assert load("sst")["train"].labels.mean() == pytest.approx(3610 / 6920)
    assert load("imdb")["test"].labels.sum() == 12500 and load("imdb")["unsup"].labels is None
    semeval = load("semeval")
    assert semeval["train"].labels.shape == (6838, 11) and semeval["test"].labels is None
    assert (load("amazon")["train"].labels == -1).any()


def test_a_missing_data_set_says_how_to_get_it(tmp_path):
    for name, s in SOURCES.items():
        if name == "movie_reviews": continue
        with pytest.raises(SentnbError) as e: load_dataset(name, data_dir=tmp_path)[next(iter(s.files))]
        assert str(e.value).count("\n") == 0 and "get it " in str(e.value) and "SENTNB_DATA" in str(e.value)


def test_no_network_is_one_sentence(tmp_path):
    with pytest.raises(SentnbError, match="cannot download http://127.0.0.1:9/x.zip .*fetch it by hand"): fetch("http://127.0.0.1:9/x.zip", tmp_path / "x.zip", "0" * 64)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/x", "..\\x", "C:/x", "a/b/../../../x"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_no_member_leaves_its_folder(tmp_path, name, kind):
    import io, tarfile, zipfile
    archive = tmp_path / "inside" / f"a.{kind}"
    archive.parent.mkdir()
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as z:
            info = zipfile.ZipInfo("ok.txt"); info.filename = name
            z.writestr(info, "evil")
    else:
        with tarfile.open(archive, "w") as t:
            info = tarfile.TarInfo(name); info.size = 4
            t.addfile(info, io.BytesIO(b"evil"))
    with pytest.raises(SentnbError, match="would leave its folder"): list(read_members(archive, ".*"))
    assert [p.name for p in tmp_path.rglob("*")] == ["inside", archive.name]


@pytest.mark.parametrize("kind", ["SYMTYPE", "LNKTYPE", "CHRTYPE", "FIFOTYPE"])
def test_nothing_but_plain_files(tmp_path, kind):
    import tarfile
    with tarfile.open(tmp_path / "a.tar", "w") as t:
        info = tarfile.TarInfo("inside"); info.type, info.linkname = getattr(tarfile, kind), "/etc/passwd"
        t.addfile(info)
    with pytest.raises(SentnbError, match="would leave its folder"): list(read_members(tmp_path / "a.tar", ".*"))
