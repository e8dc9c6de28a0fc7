"""The algorithms, each in a module of its name: what it does, its arguments, the hooks that it needs, its source."""
