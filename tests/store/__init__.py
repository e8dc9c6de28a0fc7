"""Tests of autocompress.store."""
