import pytest

from autocompress.errors import StoreError
from autocompress.store.journal import Journal


@pytest.fixture
def journal(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    for number in range(3):
        journal.append("event", number=number)
    return journal


def numbers(journal):
    return [event["number"] for event in journal.read()]


def test_events_come_back_in_order(journal):
    assert numbers(journal) == [0, 1, 2]


def test_no_file_is_no_event(tmp_path):
    assert Journal(tmp_path / "nowhere").read() == []


@pytest.mark.parametrize("cut", range(1, 34))
def test_a_cut_last_line_is_dropped_and_repaired_wherever_it_is_cut(journal, cut):
    whole = journal.path.read_bytes()
    line = len(whole.splitlines(keepends=True)[-1])
    journal.path.write_bytes(whole[: -min(cut, line)])
    kept = numbers(journal)
    assert kept in ([0, 1], [0, 1, 2])
    journal.repair()
    journal.append("event", number=9)
    assert numbers(journal) in ([0, 1, 9], [0, 1, 2, 9])


def test_a_damaged_line_in_the_middle_is_told(journal):
    lines = journal.path.read_text().splitlines()
    journal.path.write_text("\n".join([lines[0], lines[1][:5], lines[2], ""]))
    with pytest.raises(StoreError, match="damaged at line 2"):
        journal.read()


def test_a_journal_that_cannot_be_written_is_told(tmp_path):
    with pytest.raises(StoreError, match="cannot be written"):
        Journal(tmp_path / "nowhere" / "journal.jsonl").append("event")


def test_not_a_number_is_refused(journal):
    with pytest.raises(ValueError, match="not JSON compliant"):
        journal.append("event", number=float("nan"))
    assert numbers(journal) == [0, 1, 2]
