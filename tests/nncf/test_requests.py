"""From sections of a configuration to what compressors are asked."""

import pytest
import torch

from autocompress.nncf.requests import first_samples

BATCHES = [(torch.full((4, 2), float(index)), torch.zeros(4)) for index in range(3)]


@pytest.mark.parametrize(("samples", "sizes"), [(0, []), (3, [3]), (4, [4]), (6, [4, 2]), (100, [4, 4, 4])])
def test_the_first_samples_of_the_data(samples, sizes):
    found = list(first_samples(BATCHES, samples))
    assert [len(batch) for batch in found] == sizes
    assert all(bool((batch == index).all()) for index, batch in enumerate(found))


def test_what_is_no_tensor_counts_as_one_sample():
    assert list(first_samples([({"ids": 1},), ({"ids": 2},), ({"ids": 3},)], 2)) == [{"ids": 1}, {"ids": 2}]
