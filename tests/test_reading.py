"Whatever lies in a file, each record is either a document or in the quarantine, wherever blocks are cut."
import csv
import gzip
import io
import json
import lzma

import pytest
from hypothesis import given, settings, strategies as st

from sentnb.core import SentnbError
from sentnb.data.reading import parse_block, read_blocks, read_documents

texts = st.lists(st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from('"\n\r\t,\\[]{}\' ')), max_size=25), min_size=1, max_size=25)
quick = settings(max_examples=60, deadline=None)


def blockwise(path, size): return [d.text for b in read_blocks(path, size=size) for d in parse_block(b)[0]]


@quick
@given(texts, st.integers(1, 60), st.sampled_from(["lines", "array", "pretty", "dicts"]))
def test_json_in_blocks_of_any_size(tmp_path_factory, texts, size, form):
    rows = [dict(text=t) for t in texts]
    content = dict(lines="\n".join(json.dumps(r, ensure_ascii=False) for r in rows), array=json.dumps(rows), pretty=json.dumps(rows, indent=2),
                   dicts="\n".join(map(repr, rows)) + "\n")[form]
    path = tmp_path_factory.getbasetemp() / "a.json"
    path.write_bytes(content.encode())
    assert blockwise(path, size) == texts == [d.text for d in read_documents(path)]


@quick
@given(texts, st.integers(1, 60))
def test_csv_in_blocks_of_any_size(tmp_path_factory, texts, size):
    texts = [t.replace("\r", "") for t in texts]          # csv readers agree on everything but lone carriage returns
    sheet = io.StringIO(newline="")
    writer = csv.writer(sheet)
    writer.writerows([["n", "text"], *([i, t] for i, t in enumerate(texts))])
    path = tmp_path_factory.getbasetemp() / "a.csv.xz"
    path.write_bytes(lzma.compress(sheet.getvalue().encode()))
    assert blockwise(path, size) == texts


@quick
@given(st.lists(st.binary(max_size=30), max_size=30), st.integers(1, 60))
def test_garbage_is_counted_line_by_line(tmp_path_factory, lines, size):
    "Arbitrary bytes between good lines: the good ones come through, each bad line is in the quarantine under its number."
    lines = [line.replace(b"\n", b"") for line in lines]
    content = b'{"text": "first"}\n' + b"".join(line + b'\n{"text": "good"}\n' for line in lines)
    path = tmp_path_factory.getbasetemp() / "b.jsonl"
    path.write_bytes(content)
    found = [parse_block(b) for b in read_blocks(path, size=size)]
    good, bad = [d.text for ds, _ in found for d in ds], [b for _, bs in found for b in bs]
    assert good.count("good") >= len(lines)
    assert len(good) + len(bad) == sum(1 for line in content.split(b"\n") if line.strip())
    assert all(content.split(b"\n")[b.line - 1].strip() for b in bad) and [b.line for b in bad] == sorted({b.line for b in bad})


def test_line_numbers_in_the_quarantine(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b"".join(b"broken\n" if i % 997 == 0 else b'{"text": "%d"}\n' % i for i in range(1, 20000))))
    reader = read_documents(tmp_path / "a.jsonl.gz", quarantine=tmp_path / "bad.jsonl")
    assert len(list(reader)) == 19999 - 20 and reader.n_bad == 20
    assert [json.loads(line)["line"] for line in (tmp_path / "bad.jsonl").open()] == list(range(997, 20000, 997))


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path):
    (tmp_path / "a.csv").write_bytes("\ufefftext,label\nhi,1\n".encode())
    assert [tuple(d) for d in read_documents(tmp_path / "a.csv", label_key="label")] == [("hi", 1)]


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "shift_jis"])
def test_encodings_by_name_only(tmp_path, encoding):
    text = "テスト" if encoding == "shift_jis" else "Größe à la carte"
    (tmp_path / "a.jsonl").write_bytes("".join(json.dumps(dict(text=text), ensure_ascii=False) + "\n" for _ in range(500)).encode(encoding))
    assert {d.text for d in read_documents(tmp_path / "a.jsonl", encoding=encoding)} == {text}
    with pytest.raises(SentnbError, match="records are broken"): list(read_documents(tmp_path / "a.jsonl"))


def test_a_stray_quote_does_not_eat_the_machine(tmp_path, monkeypatch):
    monkeypatch.setattr("sentnb.data.reading.RECORD_LIMIT", 10000)
    (tmp_path / "a.csv").write_text('text\n"never closed\n' + "more and more\n" * 2000)
    with pytest.raises(SentnbError, match="probably after a stray quote"): list(read_blocks(tmp_path / "a.csv", size=1000))


def test_names_of_columns_are_suggested(tmp_path):
    (tmp_path / "a.csv").write_text("label,sentence\n1,good\n")
    with pytest.raises(SentnbError, match=r"no field 'sentense' \(did you mean 'sentence'\?\): it has label, sentence"): list(read_documents(tmp_path / "a.csv", "sentense"))
