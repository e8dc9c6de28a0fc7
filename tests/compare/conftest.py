"""A comparison that has ended."""

import pickle

import pytest

from tests.compare.support import compared


@pytest.fixture
def comparison(shared):
    """Its directory, which is only read, and what the call returned; the log of epochs is beside it."""

    def compare(folder):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("EPOCHS_LOG", str(folder / "epochs.log"))
            found = compared(folder / "home", "adaptive,random,optuna-random,anneal", seeds=1, trials=3)
        (folder / "found.pickle").write_bytes(pickle.dumps(found))

    folder = shared("compared", compare)
    return folder / "home", pickle.loads((folder / "found.pickle").read_bytes())
