"""An experiment's files: the journal, the trials' records and artefacts."""

from autocompress.store.directory import ExperimentDirectory, TrialDirectory
from autocompress.store.ledger import Ledger, PendingTrial, Verdict, killed_message, record_without_result

__all__ = [
    "ExperimentDirectory",
    "Ledger",
    "PendingTrial",
    "TrialDirectory",
    "Verdict",
    "killed_message",
    "record_without_result",
]
