"""The tables of what was found, the score, and what does not work."""

CHECKS = ("forward", "reload", "gradient", "onnx")


def failures(row):
    """What a row says that does not work, as sentences; a row that is not there has none."""
    row = row or {}
    return [f"{name}: {row[name]}" for name in ("built", "compressed", *CHECKS, "ended") if row.get(name, True) is not True]


def page(rows):
    return "\n".join(f"{name}: {'; '.join(failures(row)) or 'ok'}" for name, row in sorted(rows.items()))
