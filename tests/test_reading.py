"Whatever is in a file, each record is either a document or in the quarantine, wherever blocks are cut."
import bz2
import csv
import gzip
import io
import json
import lzma
import os
import subprocess
import sys

import pytest
import zstandard
from hypothesis import given, settings, strategies as st

from sentnb.core import NotAvailableError, SentnbError
from sentnb.data.reading import PASSAGE_BYTES, RECORD_LIMIT, parse_block, read_blocks, read_documents
from sentnb.data.reading import text_documents, without_mark

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
    for name in ("a.csv", "a.tsv", "a.jsonl"):
        (tmp_path / name).write_text('text\n"never ends ' + "more and more " * 2000)
        with pytest.raises(SentnbError, match=f"{name} has a record of more than 0 MB"):
            list(read_blocks(tmp_path / name, size=size))


def test_a_stray_quote_is_not_an_endless_record(tmp_path, monkeypatch):
    "It turns all quotes behind it around: blocks still end, and all rows but a few are read."
    monkeypatch.setattr("sentnb.data.reading.RECORD_LIMIT", 10000)
    rows = [f'{i},"row {i}"' for i in range(3000)]
    rows[100] = '100,"never closed'
    (tmp_path / "a.csv").write_text("\n".join(["n,text", *rows, ""]))
    blocks = [parse_block(block) for block in read_blocks(tmp_path / "a.csv", size=1000)]
    assert len(blocks) > 10
    good = [d.text for documents, _ in blocks for d in documents]
    bad = [b for _, broken in blocks for b in broken]
    assert len(good) >= 2900 and set(good) <= {f"row {i}" for i in range(3000)}
    assert bad[0].line == 102 and "never closed" in bad[0].content


@pytest.mark.parametrize("rest", ["5000,good\n" * 5000, '5000,"good"\n' + "5001,good\n" * 60])
def test_what_a_quote_swallowed_is_counted(tmp_path, rest):
    "Half of the file in one record, or a hundred lines of it: too many, although 1 record of thousands is broken."
    swallowed = '1,"never closed\n' + "2,lost\n" * 100
    (tmp_path / "a.csv").write_text("n,text\n" + "0,good\n" * 3000 + swallowed + rest)
    says = r"lines were swallowed by a stray quote, the first in line 3002 of a.csv"
    with pytest.raises(SentnbError, match=says): list(read_documents(tmp_path / "a.csv"))
    reader = read_documents(tmp_path / "a.csv", max_bad_share=.9)
    assert len(list(reader)) >= 3000 and reader.n_bad == 1


def test_never_more_is_swallowed_than_there_was(tmp_path):
    "Bytes that are no text are kept as escapes, which are longer: a share of 100% allows them all the same."
    (tmp_path / "a.csv").write_bytes(b'n,text\n"' + b"\xff\n" * 50)
    reader = read_documents(tmp_path / "a.csv", max_bad_share=1)
    assert list(reader) == [] and reader.n_bad == 1


def test_names_of_columns_are_suggested(tmp_path):
    (tmp_path / "a.csv").write_text("label,sentence\n1,good\n")
    says = r"no field 'sentense' \(did you mean 'sentence'\?\): it has label, sentence"
    with pytest.raises(SentnbError, match=says): list(read_documents(tmp_path / "a.csv", "sentense"))


# One record never ends the job


HOSTILE = [b'{"\\ud800": 1}', b'{"text": "\\udc80"}', b'{"text": "\\ud83d"}', b'{"te\\udfffxt": "a", "text": 1}',
           b"{'text': '\\ud800'}", b"{[]: 1}", b"{{}: 1}", b"[" * 5000,
           b'{"text": 1' + b"0" * 5000 + b"}", b"\0", b"\xff\xfe",
           "{'\u2028': ".encode(), b'{"text": NaN}', b"{'text': 0x" + b"f" * 5000 + b"}", b'{"\xfc": 1}']


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: repr(hostile[:20]))
def test_a_hostile_record_is_set_aside(tmp_path, hostile):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "one"}\n' + hostile + b'\n{"text": "two"}\n')
    reader = read_documents(tmp_path / "a.jsonl", quarantine=tmp_path / "bad.jsonl", max_bad_share=.5)
    assert [d.text for d in reader] == ["one", "two"]
    [bad] = (tmp_path / "bad.jsonl").read_bytes().splitlines()
    assert json.loads(bad)["line"] == 2
    with pytest.raises(SentnbError, match="1 of 3 records are broken") as e: list(read_documents(tmp_path / "a.jsonl"))
    str(e.value).encode()                              # can be shown


keys = st.text(st.characters(), max_size=5)            # half characters among them
values = st.none() | st.floats() | keys | st.lists(keys, max_size=2) | st.dictionaries(keys, st.integers(), max_size=2)


@quick
@given(st.lists(st.dictionaries(keys | st.just("text"), values, max_size=3), min_size=1, max_size=5), st.booleans())
def test_any_json_is_a_document_or_in_the_quarantine(tmp_path_factory, rows, as_array):
    folder = tmp_path_factory.getbasetemp()
    lines = json.dumps(rows) if as_array else "\n".join(map(json.dumps, rows))
    (folder / "c.json").write_text(lines)
    reader = read_documents(folder / "c.json", quarantine=folder / "bad.jsonl", max_bad_share=1)
    assert len(list(reader)) + reader.n_bad == len(rows)
    assert len((folder / "bad.jsonl").read_bytes().splitlines()) == reader.n_bad


def test_a_latin_1_header_is_no_obstacle(tmp_path):
    (tmp_path / "a.csv").write_bytes("Größe,text\n1,good\n".encode("latin-1"))
    assert [d.text for d in read_documents(tmp_path / "a.csv")] == ["good"]
    reader = read_documents(tmp_path / "a.csv", "Große", quarantine=tmp_path / "bad.jsonl", max_bad_share=1)
    assert list(reader) == [] and "Gr\\xf6\\xdfe" in json.loads((tmp_path / "bad.jsonl").read_text())["reason"]


@pytest.mark.parametrize("header", ['"text,label\n', '"te"xt",label\n'])
def test_a_header_with_a_stray_quote_is_one_sentence(tmp_path, header):
    (tmp_path / "a.csv").write_text(header + "good,1\n" * 99)
    with pytest.raises(SentnbError, match="the first line does not name columns"):
        list(read_documents(tmp_path / "a.csv"))


# Encodings


@pytest.mark.parametrize("encoding", ["hex", "zip", "rot13", "base64", "no such", "", "a\0b"])
def test_what_is_no_encoding_of_text(tmp_path, encoding):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(SentnbError, match="there is no encoding"):
        list(read_documents(tmp_path / "a.jsonl", encoding=encoding))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-7", "utf-16-le", "utf-32-be", "idna", "punycode"])
def test_a_wrong_encoding_is_one_sentence(tmp_path, encoding):
    (tmp_path / "a.jsonl").write_bytes('{"text": "größer & mehr +😀"}\n'.encode() * 3)
    with pytest.raises(SentnbError, match="a.jsonl") as e: list(read_documents(tmp_path / "a.jsonl", encoding=encoding))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_is_not_text(tmp_path, encoding):
    "Not in plain text, not in JSON, and not where bytes come one by one."
    (tmp_path / "a.txt").write_bytes("great film".encode(encoding))
    names = (encoding, "utf-8") if encoding == "utf-8-sig" else (encoding,)
    for name in names: assert [d.text for d in read_documents(tmp_path / "a.txt", encoding=name)] == ["great film"]
    assert b"".join(without_mark([b"\xef", b"", b"\xbb", b"\xbfa", b"\xef\xbb\xbf"])) == b"a\xef\xbb\xbf"
    assert b"".join(without_mark([])) == b""


# Plain text and Parquet


@quick
@given(st.text(characters, max_size=3000), st.integers(1, 200))
def test_passages_are_the_text(text, n):
    data = (text * (20000 // (len(text) + 1)))[:20000].encode()
    chunks = [data[i:i + n * 37] for i in range(0, len(data), n * 37)]
    passages = list(text_documents(chunks, "a.txt", "passage"))
    assert b"".join(passages) == data and all(len(p) <= 4 * PASSAGE_BYTES for p in passages)
    for passage in passages: passage.decode()
    paragraphs = list(text_documents(chunks, "a.txt", "paragraph"))
    assert paragraphs == list(text_documents([data], "a.txt", "paragraph"))
    assert not any(b"\n\n" in p or p.isspace() or not p for p in paragraphs)
    assert b"".join(paragraphs).translate(None, b"\n\r\t ") == data.translate(None, b"\n\r\t ")


def test_parquet(tmp_path):
    try: import pyarrow.parquet
    except ImportError:
        (tmp_path / "a.parquet").write_bytes(b"PAR1")
        with pytest.raises(NotAvailableError, match="a.parquet needs the package pyarrow: pip install pyarrow"):
            list(read_documents(tmp_path / "a.parquet"))
        return
    table = pyarrow.table(dict(text=["eins", None, "zwei\nzeilen"], image=[b"\xff", b"", b""], label=[1, 0, 1]))
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    documents = list(read_documents(tmp_path / "a.parquet", label_key="label", max_bad_share=.5))
    assert documents == [("eins", 1), ("zwei\nzeilen", 1)]
    (tmp_path / "a.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-9])
    with pytest.raises(SentnbError, match="is damaged or cut off"): list(read_documents(tmp_path / "a.parquet"))


# Memory: a few kilobytes may unpack to gigabytes


SIZE = 2**28
ZEROS = [bytes(2**20)] * (SIZE >> 20)
NEWLINES = [b"\n" * 2**20] * (SIZE >> 20)
BOMBS = {"record.jsonl.xz": [b'{"text": "', *ZEROS, b'"}\n'],
         "array.json.gz": [b'[{"text": "', *ZEROS, b'"}]\n'],
         "column.tsv.bz2": [b"text\n", *ZEROS],
         "document.txt.zst": ZEROS,
         "newlines.jsonl.gz": [*NEWLINES, b'{"text": "end"}\n'],
         "newlines.csv.zst": [b"text\n", *NEWLINES, b"end\n"]}
MEASURE = """
import resource, sys
from sentnb.core import SentnbError
from sentnb.data.reading import read_documents
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024      # MB
before = peak()
try: said = f"{len(list(read_documents(sys.argv[1])))} documents"
except SentnbError as e: said = str(e)
print(peak() - before, said)
"""


def pack(path, chunks):
    "Compress chunks as the file's name says."
    if path.suffix == ".zst": file = zstandard.open(path, "wb")
    elif path.suffix == ".xz": file = lzma.open(path, "wb", preset=0)
    elif path.suffix == ".bz2": file = bz2.open(path, "wb", compresslevel=1)
    else: file = gzip.open(path, "wb", compresslevel=1)
    with file:
        for chunk in chunks: file.write(chunk)


def memory_of_reading(path):
    "Megabytes that reading a file takes on top of the imports, and what came of it."
    done = subprocess.run([sys.executable, "-c", MEASURE, path], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    megabytes, said = done.stdout.split(" ", 1)
    return int(megabytes), said


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_does_not_fill_the_memory(tmp_path, name):
    "A file of less than 300 kB holds 256 MB; less than 100 MB are ever needed for it."
    pack(tmp_path / name, BOMBS[name])
    megabytes, said = memory_of_reading(tmp_path / name)
    packed = (tmp_path / name).stat().st_size
    print(f"{name}: {packed / 1e3:.0f} kB -> {SIZE / 1e6:.0f} MB, peak +{megabytes} MB, {said}")
    assert packed < 1.3e6 and megabytes < 100
    expected = "1 documents" if "newlines" in name else "malformed" if "array" in name else "more than 16 MB"
    assert expected in said


def test_the_largest_record(tmp_path):
    "16 MB are read, in less than 150 MB; 24 MB are refused. The limit is what the notebook says."
    assert RECORD_LIMIT == 2**24
    (tmp_path / "a.jsonl").write_bytes('{"text": "é北😀'.encode() + b"a" * (RECORD_LIMIT - 30) + b'"}\n')
    megabytes, said = memory_of_reading(tmp_path / "a.jsonl")
    assert said.startswith("1 documents") and megabytes < 150
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "' + b"a" * (RECORD_LIMIT + 2**23) + b'"}\n')
    assert "a record of more than 16 MB" in memory_of_reading(tmp_path / "b.jsonl")[1]


def test_small_streams_in_one_file(tmp_path):
    "Many gzip members, xz streams with padding, zstandard frames: all of them are read, and a cut is noticed."
    line = b'{"text": "a"}\n'
    padded = b"".join(lzma.compress(line) + bytes(4 * (i % 3)) for i in range(300)) + bytes(2**18)
    contents = {"a.jsonl.gz": gzip.compress(line) * 300, "a.jsonl.xz": padded, "a.jsonl.bz2": bz2.compress(line) * 300,
                "a.jsonl.zst": zstandard.compress(line) * 300}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        assert len(list(read_documents(tmp_path / name))) == 300
        (tmp_path / name).write_bytes(content.rstrip(b"\0")[:-3])
        with pytest.raises(SentnbError, match=f"{name} is damaged or cut off"): list(read_documents(tmp_path / name))


@pytest.mark.parametrize("n", range(1, 60, 3))
def test_a_zst_file_cut_anywhere(tmp_path, n):
    "With stored blocks, too, where what follows could pass for content."
    content = zstandard.compress(b"text " * 999) + zstandard.compress(os.urandom(99))
    (tmp_path / "a.txt.zst").write_bytes(content[:-n])
    with pytest.raises(SentnbError, match="damaged or cut off"): list(read_documents(tmp_path / "a.txt.zst"))
