"""The models that people bring, compressed: `python -m tests.benchmarks.models`."""
