import pytest


class NoReport:
    def __init__(self, store):
        self.store = store


@pytest.fixture
def no_report(monkeypatch):
    """Nothing is drawn: a process for each of many searches would be most of their time."""
    monkeypatch.setattr("autocompress.engines.local.loop.Report", NoReport)
