"""Few bits: real int8 models, and simulated ones."""
