"""Tests of autocompress.search."""
