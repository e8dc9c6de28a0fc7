"""What is on disk: the journal, the trials' records and artefacts."""

from autocompress.store.directory import ExperimentDirectory, TrialDirectory
from autocompress.store.ledger import Ledger, OpenTrial, Verdict, record_of_end, told_killed

__all__ = ["ExperimentDirectory", "Ledger", "OpenTrial", "TrialDirectory", "Verdict", "record_of_end", "told_killed"]
