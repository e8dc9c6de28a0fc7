"""The tables of the zoo's rows, and its score. It imports nothing of the zoo: the documentation loads it as a file."""

import statistics

CHECKS = ("forward", "reload", "gradient", "onnx")
SECONDS, MEBIBYTES = 60, 3 * 1024
PRUNER, RATE = "l2", "0.5"
GROUPS = ("torchvision", "timm", "transformers", "ultralytics", "segmentation", "speech")
RATES = ("0.25", "0.5", "0.75")
COUNTS = ("models", "pruned", "within limits", "ONNX", "refused", "failed")
NONE = "-"


def failures(row):
    """What does not work, as sentences: refusals, checks, limits; a row that is not there has none."""
    row = row or {}
    return [
        f"{name}: {row[name]}" for name in ("built", "compressed", *CHECKS, "ended") if row.get(name, True) is not True
    ]


def works(row, checks=CHECKS[:3]):
    """Whether the algorithm applies at its first rate, and the smaller model passes these checks."""
    return bool(row.get("rates")) and all(row.get(name) is True for name in checks)


def within_limits(row):
    return all(each["seconds"] <= SECONDS and each["mebibytes"] <= MEBIBYTES for each in row.get("rates", {}).values())


def is_refused(row):
    """Whether the package says why not, before it changed anything."""
    return not row.get("rates") and row.get("uncaught") is None and isinstance(row.get("compressed"), str)


def score(rows):
    """For each group the models that the pruner has been tried on: all, pruned, within the limits, refused, failed."""
    found = {}
    for group in GROUPS:
        tried = [row for row in rows.values() if row["group"] == group and row["algorithm"] == PRUNER]
        good = [row for row in tried if works(row)]
        if tried:
            found[group] = {
                "models": len(tried),
                "pruned": len(good),
                "within limits": sum(map(within_limits, good)),
                "ONNX": sum(row.get("onnx") is True for row in good),
                "refused": sum(map(is_refused, tried)),
                "failed": sum(not works(row) and not is_refused(row) for row in tried),
                "removed": statistics.median(row["rates"][RATE]["parameters"] for row in good) if good else 0.0,
            }
    return found


def sentence(rows):
    """The score of all groups together, for the README."""
    found = score(rows).values()
    pruned, models = (sum(each[name] for each in found) for name in ("pruned", "models"))
    return f"{pruned} of {models} models"


def score_table(rows):
    header = (
        "from", "models", "pruned", f"in {SECONDS} s and {MEBIBYTES // 1024} GiB", "ONNX the same", "refused", "failed",
        "parameters removed, median",
    )  # fmt: skip
    cells = [(group, *(each[name] for name in COUNTS), f"{each['removed']:.0%}") for group, each in score(rows).items()]
    return markdown(header, cells)


def group_table(rows, group):
    """A line for each model: what the pruner removes and costs, whether it passes, and the other algorithms."""
    models = {}
    for row in rows.values():
        if row["group"] == group:
            models.setdefault((row.get("parameters", 0), row["model"]), {})[row["algorithm"]] = row
    others = sorted({name for each in models.values() for name in each} - {PRUNER})
    header = ("model", "parameters, M", "removed, %", "MACs removed, %", "s", "MiB", "passes", *others)
    cells = []
    for (parameters, model), found in sorted(models.items()):
        pruned = found.get(PRUNER, {})
        rates = pruned.get("rates", {})
        sizes = (f"{parameters / 1e6:.1f}", shares(rates, "parameters"), shares(rates, "macs"))
        costs = (most(rates, "seconds"), most(rates, "mebibytes"), passed(pruned))
        cells.append((model, *sizes, *costs, *(other(found.get(name)) for name in others)))
    return markdown(header, cells)


def shares(rates, name):
    """Percentages at each rate."""
    return " / ".join(f"{100 * rates[rate][name]:.0f}" if rate in rates else NONE for rate in RATES) if rates else NONE


def most(rates, name):
    return f"{max(each[name] for each in rates.values()):.0f}" if rates else NONE


def passed(row):
    """The checks that fail, or that all pass."""
    if not row.get("rates"):
        return "refused" if is_refused(row) else "failed" if row else NONE
    wrong = [name for name in CHECKS if row.get(name, True) is not True]
    return "not " + ", ".join(wrong) if wrong else "all" if "onnx" in row else "all tried"


def other(row):
    """Another algorithm's outcome: the bytes saved of a quantizer, whether a pruner passes."""
    if row is None:
        return NONE
    single = row.get("rates", {}).get("None")
    if single is None:
        return passed(row)
    return f"{single['bytes']:.0%} of bytes" + ("" if passed(row).startswith("all") else f", {passed(row)}")


def reasons(rows):
    """A line for each model and algorithm of which something does not work."""
    lines = [
        f"- {row['algorithm']} on {row['model']} ({row['group']}): {'; '.join(failures(row))}"
        for _, row in sorted(rows.items())
        if failures(row)
    ]
    return "\n".join(lines)


def markdown(header, cells):
    lines = [header, ["---"] + ["--:"] * (len(header) - 1), *cells]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def page(rows):
    """All tables."""
    parts = [score_table(rows)]
    for group in GROUPS:
        if any(row["group"] == group for row in rows.values()):
            parts += [f"### {group}", group_table(rows, group)]
    return "\n\n".join([*parts, "### What does not work", reasons(rows) or "Nothing."])
