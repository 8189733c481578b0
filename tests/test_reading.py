"Whatever is in a file, each record is either a document or in the quarantine, wherever blocks are cut."
import csv
import gzip
import io
import json
import lzma

import pytest
from hypothesis import given, settings, strategies as st

from sentnb.core import SentnbError
from sentnb.data.reading import parse_block, read_blocks, read_documents

characters = st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from('"\n\r\t,\\[]{}\' '))
texts = st.lists(st.text(characters, max_size=25), min_size=1, max_size=25)
quick = settings(max_examples=60, deadline=None)


def read_in_blocks(path, size):
    "The texts of a file that is cut into blocks of `size` bytes."
    return [d.text for block in read_blocks(path, size=size) for d in parse_block(block)[0]]


JSON_FORMS = {
    "lines": lambda rows: "\n".join(json.dumps(r, ensure_ascii=False) for r in rows),
    "array": json.dumps,
    "indented array": lambda rows: json.dumps(rows, indent=2),
    "Python dicts": lambda rows: "\n".join(map(repr, rows)) + "\n",
}


@quick
@given(texts, st.integers(1, 60), st.sampled_from(list(JSON_FORMS)))
def test_json_in_blocks_of_any_size(tmp_path_factory, texts, size, form):
    rows = [dict(text=t) for t in texts]
    path = tmp_path_factory.getbasetemp() / "a.json"
    path.write_bytes(JSON_FORMS[form](rows).encode())
    assert read_in_blocks(path, size) == texts
    assert [d.text for d in read_documents(path)] == texts


@quick
@given(texts, st.integers(1, 60))
def test_csv_in_blocks_of_any_size(tmp_path_factory, texts, size):
    texts = [t.replace("\r", "") for t in texts]          # csv readers agree on everything but lone carriage returns
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(["n", "text"])
    writer.writerows(enumerate(texts))
    path = tmp_path_factory.getbasetemp() / "a.csv.xz"
    path.write_bytes(lzma.compress(table.getvalue().encode()))
    assert read_in_blocks(path, size) == texts


@quick
@given(st.lists(st.binary(max_size=30), max_size=30), st.integers(1, 60))
def test_garbage_is_counted_line_by_line(tmp_path_factory, garbage, size):
    "Arbitrary bytes between good lines: the good ones come through, each bad line is set aside with its number."
    garbage = [line.replace(b"\n", b"") for line in garbage]
    content = b'{"text": "first"}\n' + b"".join(line + b'\n{"text": "good"}\n' for line in garbage)
    path = tmp_path_factory.getbasetemp() / "b.jsonl"
    path.write_bytes(content)
    good = []
    bad = []
    for block in read_blocks(path, size=size):
        documents, broken = parse_block(block)
        good += [d.text for d in documents]
        bad += broken
    lines = content.split(b"\n")
    assert good.count("good") >= len(garbage)
    assert len(good) + len(bad) == sum(1 for line in lines if line.strip())
    assert all(lines[b.line - 1].strip() for b in bad)
    assert [b.line for b in bad] == sorted({b.line for b in bad})


def test_line_numbers_in_the_quarantine(tmp_path):
    lines = [b"broken\n" if i % 997 == 0 else b'{"text": "%d"}\n' % i for i in range(1, 20000)]
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b"".join(lines)))
    reader = read_documents(tmp_path / "a.jsonl.gz", quarantine=tmp_path / "bad.jsonl")
    assert len(list(reader)) == 19999 - 20 and reader.n_bad == 20
    quarantine = (tmp_path / "bad.jsonl").read_text().splitlines()
    assert [json.loads(line)["line"] for line in quarantine] == list(range(997, 20000, 997))


def test_a_byte_order_mark_is_not_part_of_the_first_name(tmp_path):
    (tmp_path / "a.csv").write_bytes("\ufefftext,label\nhi,1\n".encode())
    assert [tuple(d) for d in read_documents(tmp_path / "a.csv", label_key="label")] == [("hi", 1)]


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "shift_jis"])
def test_encodings_by_name_only(tmp_path, encoding):
    text = "テスト" if encoding == "shift_jis" else "Größe à la carte"
    line = json.dumps(dict(text=text), ensure_ascii=False) + "\n"
    path = tmp_path / "a.jsonl"
    path.write_bytes((line * 500).encode(encoding))
    assert {d.text for d in read_documents(path, encoding=encoding)} == {text}
    with pytest.raises(SentnbError, match="records are broken"): list(read_documents(path))


@pytest.mark.parametrize("size", [10, 1000])
def test_an_endless_record_does_not_fill_the_memory(tmp_path, monkeypatch, size):
    monkeypatch.setattr("sentnb.data.reading.RECORD_LIMIT", 10000)
    (tmp_path / "a.csv").write_text('text\n"never closed\n' + "more and more\n" * 2000)
    with pytest.raises(SentnbError, match="probably after a stray quote"):
        list(read_blocks(tmp_path / "a.csv", size=size))


def test_names_of_columns_are_suggested(tmp_path):
    (tmp_path / "a.csv").write_text("label,sentence\n1,good\n")
    says = r"no field 'sentense' \(did you mean 'sentence'\?\): it has label, sentence"
    with pytest.raises(SentnbError, match=says): list(read_documents(tmp_path / "a.csv", "sentense"))
