from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autocompress.errors import StoreError
from autocompress.store.journal import Journal, sealed, unsealed

FIRST, SECOND = {"event": "proposal", "key": "a"}, {"event": "result", "record": {"rate": 0.5, "name": "Prüfung"}}


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "journal.jsonl")


@pytest.fixture
def two(journal):
    journal.append("proposal", key="a")
    journal.append("result", record={"rate": 0.5, "name": "Prüfung"})
    return journal


def test_a_journal_that_does_not_exist_is_empty(journal):
    assert journal.read() == []
    journal.repair()
    assert not journal.path.exists(), "reading and repairing make no file"


def test_events_come_back_in_order(two):
    assert two.read() == [FIRST, SECOND]


def test_an_event_is_one_line_with_the_event_first(two):
    lines = two.path.read_text(encoding="utf-8").splitlines()
    assert [next(iter(json.loads(line))) for line in lines] == ["event", "event"]
    two.append("note", text="two\nlines")
    assert two.path.read_bytes().count(b"\n") == 3
    assert two.read()[-1] == {"event": "note", "text": "two\nlines"}


def test_appending_keeps_what_is_there(two):
    before = two.path.read_bytes()
    two.append("verdict", key="a")
    assert two.path.read_bytes().startswith(before)


def test_every_cut_of_the_last_line_drops_that_event_only(two):
    whole = two.path.read_bytes()
    begin = whole.index(b"\n") + 1
    for size in range(begin, len(whole) - 1):
        two.path.write_bytes(whole[:size])
        assert two.read() == [FIRST], f"cut to {whole[:size]!r}"


def test_a_last_line_that_only_lacks_its_end_counts(two):
    whole = two.path.read_bytes()
    two.path.write_bytes(whole.rstrip(b"\n"))
    assert two.read() == [FIRST, SECOND]
    two.repair()
    assert two.path.read_bytes() == whole, "the event that a reader has seen is taken back, or the next joins its line"


@pytest.mark.parametrize("garbage", [b'{"event": "pro', b"\x00\x00\x00", b"\xff\xfe", b"[1, 2]", b"null"])
def test_a_damaged_last_line_is_dropped_and_repaired(two, garbage):
    whole = two.path.read_bytes()
    two.path.write_bytes(whole + garbage)
    assert two.read() == [FIRST, SECOND]
    two.repair()
    assert two.path.read_bytes() == whole
    two.append("verdict", key="b")
    assert two.read() == [FIRST, SECOND, {"event": "verdict", "key": "b"}]


@pytest.mark.parametrize("garbage", [b"{", b"[1]", b"", b"\x00"])
@pytest.mark.parametrize("line", [1, 2, 3])
def test_a_damaged_line_is_an_error(two, line, garbage):
    lines = two.path.read_bytes().splitlines()
    lines.insert(line - 1, garbage)
    two.path.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(StoreError, match=rf"journal\.jsonl is damaged at line {line}$"):
        two.read()


@pytest.mark.parametrize("garbage", [b"[1, 2]\n", b"null\n", b"\n", b'{"event": "pro\n'])
def test_a_damaged_last_line_with_its_end_is_no_cut(two, garbage):
    whole = two.path.read_bytes()
    two.path.write_bytes(whole + garbage)
    with pytest.raises(StoreError, match=r"damaged at line 3$"):
        two.read()
    with pytest.raises(StoreError, match=r"damaged at its last line$"):
        two.repair()
    assert two.path.read_bytes() == whole + garbage


@pytest.fixture
def short(journal):
    journal.append("a")
    journal.append("b")
    return journal


def test_each_flipped_bit_is_found(short):
    whole = short.path.read_bytes()
    for place in range(8 * len(whole)):
        broken = bytearray(whole)
        broken[place // 8] ^= 1 << place % 8
        short.path.write_bytes(broken)
        with pytest.raises(StoreError, match=r"damaged at line [12]$"):
            short.read()


def test_a_flipped_bit_is_not_repaired_away(short):
    whole = short.path.read_bytes()
    begin = whole.index(b"\n") + 1
    for place in range(8 * begin, 8 * len(whole)):
        broken = bytearray(whole)
        broken[place // 8] ^= 1 << place % 8
        short.path.write_bytes(broken)
        with pytest.raises(StoreError, match=r"damaged at its last line$"):
            short.repair()


@pytest.mark.parametrize("text", ["{}", '{"a": 1}', '{"a": {"b": []}}', '{\n  "ä": 1\n}', '{"checksum": 1}'])
def test_a_sealed_text_is_json_and_comes_back(text):
    whole = sealed(text)
    assert whole.count("\n") == text.count("\n") + ("\n" in text)
    assert list(json.loads(whole)) == [*{**json.loads(text), "checksum": ""}]
    if "checksum" not in text:
        assert unsealed(whole.encode()) == json.loads(text)
    with pytest.raises(ValueError, match=r"^it must end with a checksum; it does not$"):
        unsealed(text.encode())


def test_repairing_a_whole_journal_changes_nothing(two):
    before = two.path.read_bytes()
    two.repair()
    assert two.path.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b'{"event"'])
def test_repairing_a_journal_without_a_whole_line_empties_it(journal, content):
    journal.path.write_bytes(content)
    journal.repair()
    assert journal.path.read_bytes() == b""


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_what_was_read_is_still_there_after_a_repair(tmp_path_factory, data):
    """Wherever a crash cuts the journal: nothing that a reader has seen is taken back."""
    journal = Journal(tmp_path_factory.mktemp("journal") / "journal.jsonl")
    for number in range(3):
        journal.append("note", number=number, text="ä" * number)
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    seen = journal.read()
    journal.repair()
    assert journal.read() == seen
    journal.append("note", number=-1)
    assert journal.read() == [*seen, {"event": "note", "number": -1}]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_number_that_json_does_not_have(two, value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        two.append("result", accuracy=value)
    assert two.read() == [FIRST, SECOND]


def test_a_journal_that_cannot_be_written(tmp_path):
    with pytest.raises(StoreError, match=r"^the journal .*gone/journal\.jsonl cannot be written: "):
        Journal(tmp_path / "gone" / "journal.jsonl").append("note")


def test_a_killed_writer_leaves_whole_events(tmp_path):
    """Killed with SIGKILL while it appends as fast as it can."""
    path = tmp_path / "journal.jsonl"
    code = (
        "import itertools, sys; from pathlib import Path; from autocompress.store.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "for number in itertools.count(): journal.append('note', number=number, text='x' * 5000)"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(path)], env=dict(os.environ))
    try:
        deadline = time.monotonic() + 30
        while not (path.exists() and path.stat().st_size > 100_000):
            assert writer.poll() is None, f"the writer ended with {writer.returncode}"
            assert time.monotonic() < deadline, "the writer wrote too little"
            time.sleep(0.005)
    finally:
        writer.kill()
        writer.wait()
    journal = Journal(path)
    journal.repair()
    numbers = [event["number"] for event in journal.read()]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) >= 19


def test_reading_on_from_where_it_ended(two):
    start = two.size()
    assert two.read(start) == []
    two.append("note", text="after")
    assert two.read(start) == [{"event": "note", "text": "after"}]
    with two.path.open("ab") as file:
        file.write(b"broken\n")
    two.append("note", text="last")
    with pytest.raises(StoreError, match="damaged at line 4"):
        two.read(start)


def test_a_last_line_longer_than_a_block_is_repaired(two):
    two.append("note", text="x" * 200_000)
    whole = two.path.read_bytes()
    two.path.write_bytes(whole[:-5])
    two.repair()
    assert two.path.read_bytes() == whole[: whole.rindex(b"\n", 0, -1) + 1]
