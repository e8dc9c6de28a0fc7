"""Tests of autocompress.search_space."""
