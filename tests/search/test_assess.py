from __future__ import annotations

import pytest

from autocompress.search.assess import reason_to_stop


@pytest.mark.parametrize(
    ("epoch", "patience", "total_epochs", "maximal_total_epochs", "reason"),
    [
        (1, 3, 1, 100, None),
        (3, 3, 3, 100, None),  # it leaves by itself
        (4, 3, 4, 100, "patience used up: epoch 4 of 3"),
        (1, 0, 1, 100, "patience used up: epoch 1 of 0"),
        (50, None, 50, 100, None),
        (1, 3, 100, 100, None),
        (1, 3, 101, 100, "total epochs used up: 101 of 100"),
        (50, None, 101, 100, "total epochs used up: 101 of 100"),
        (4, 3, 101, 100, "patience used up: epoch 4 of 3"),
    ],
)
def test_reason_to_stop(epoch, patience, total_epochs, maximal_total_epochs, reason):
    told = reason_to_stop(
        epoch, patience=patience, total_epochs=total_epochs, maximal_total_epochs=maximal_total_epochs
    )
    assert told == reason
