"""Comparisons that tests run."""

from autocompress import compare_tuners
from tests import curve_modules
from tests.e2e.launch import search_space

SPACE = search_space("l2")


def compared(directory, tuners, **options):
    return compare_tuners(curve_modules.CountsEpochs, SPACE, tuners, directory=directory, **options)
