"""An experiment at one moment, read from its files."""

import io
import os

from rich.console import Console

from autocompress.cli.live_display import live_view
from autocompress.cli.snapshot import Reader, holder, take
from autocompress.plain_json import dumps
from autocompress.plan import NniPlan
from autocompress.store import ExperimentDirectory, Ledger
from autocompress.store.journal import sealed
from tests.written import plan, record

URL = "http://127.0.0.1:8080/secret/oview"


def shown(store, seconds=12.0, url=URL, width=100, **options):
    console = Console(record=True, width=width, file=io.StringIO())
    console.print(live_view(take(store), url, seconds, **options))
    return console.export_text()


def test_builtin_tuners_decide_for_themselves_and_end_at_their_number(new_store):
    new_store.write_settings(plan(tuner="TPE", engine=NniPlan("id", {"maxTrialNumber": 1})).to_dict())
    assert "next: the tuner decides" in shown(new_store)
    Ledger(new_store).add(record("key0", 0.5, feasible=True))
    assert take(new_store).ended


def test_what_has_not_changed_is_not_read_again(store, monkeypatch):
    reads = []
    read = type(store.journal)._bytes
    monkeypatch.setattr(
        type(store.journal), "_bytes", lambda self, start: reads.append(self.path.name) or read(self, start)
    )
    reader = Reader(store)
    for _ in range(3):
        assert reader.take().running[0].epoch == 2
    assert reads.count("journal.jsonl") == 1
    store.trial("key2").append_epoch({"epoch": 3, "accuracy": 0.86})
    assert reader.take().running[0].epoch == 3
    Ledger(store).add(record("key2", 0.55, feasible=True))
    assert len(reader.take().records) == 3


def test_of_what_has_changed_only_what_is_new_is_read(store, monkeypatch):
    journal, starts = store.journal, []
    read = type(journal)._bytes

    def noted(self, start):
        if self.path == journal.path:
            starts.append(start)
        return read(self, start)

    monkeypatch.setattr(type(journal), "_bytes", noted)
    reader, sizes = Reader(store), [0, journal.size()]
    reader.take()
    for number in range(3, 6):
        Ledger(store).add(record(f"key{number}", 0.6, feasible=True))
        starts.clear()
        known = len(reader.take().records)
        sizes.append(journal.size())
        assert starts == [sizes[-2]]
    assert known == len(Ledger(store).records)


def test_a_line_that_is_being_written_is_read_when_it_is_whole(store):
    reader = Reader(store)
    before = len(reader.take().records)
    event = {"event": "result", "record": record("key9", 0.6, feasible=True).to_dict()}
    line = sealed(dumps(event)).encode() + b"\n"
    for part in (line[:20], line[20:-1], line[-1:]):
        with store.journal.path.open("ab") as file:
            file.write(part)
        found = len(reader.take().records)
    assert found == before + 1
    with store.journal.path.open("ab") as file:
        file.write(line[:20])
    reader.take()
    store.journal.repair()
    assert len(reader.take().records) == before + 1


def test_a_snapshot_of_a_search_that_runs(store):
    found = take(store)
    assert [(each.algorithm, each.rate, each.epoch, each.epochs, each.accuracy) for each in found.running] == [
        ("l2", 0.55, 2, 3, 0.85)
    ]
    assert [each.requested_rate for each in found.records] == [0.5, 0.6]
    assert found.best == found.records[0]
    assert (found.epochs, found.seconds) == (6, 3.0)
    assert not found.ended


def test_of_an_experiment_that_is_not_there_nothing_is_known(tmp_path):
    assert take(ExperimentDirectory(tmp_path / "nothing")) is None


def test_who_holds_it(store):
    assert holder(store) is None
    with store.locked():
        assert holder(store) == os.getpid()
    assert holder(store) is None
