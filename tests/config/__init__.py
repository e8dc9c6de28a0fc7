"""Tests of autocompress.config."""
