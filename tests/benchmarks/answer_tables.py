"""Rows, tables and plots of `tests.benchmarks.answers`."""

import statistics

from matplotlib.ticker import PercentFormatter

from autocompress.report.plots import PALETTE, Plot

STYLES = ("-", "--", ":")
GROUP = ("net", "configuration", "rate_of")


def row(*, uncompressed, test, budget, answer, trials, seconds, epoch_seconds, probe_seconds=0.0):
    """What a search came to.

    Args:
        uncompressed: accuracy of the uncompressed net.
        test: the same on the test images.
        budget: the accuracy budget, which is held against the accuracy on the test images too.
        answer: macs_removed, parameters_removed, latency_removed, accuracy and test_accuracy of what was found; None
            where nothing was, so that the uncompressed net is the answer.
        trials: (requested rate, epochs, accuracy, share of the MACs removed, whether within the budget) of each.
        seconds: of the whole search.
        epoch_seconds: of an uncompressed epoch; the probe's time is counted in them.
        probe_seconds: of it.
    """
    nothing = {"macs_removed": 0.0, "parameters_removed": 0.0, "latency_removed": 0.0}
    probe = probe_seconds / epoch_seconds
    return {
        "found": int(answer is not None),
        **(answer or {**nothing, "accuracy": uncompressed, "test_accuracy": test}),
        "uncompressed": uncompressed,
        "uncompressed_test": test,
        "threshold": budget.threshold(uncompressed),
        "test_threshold": budget.threshold(test),
        "epochs": probe + sum(trained for _, trained, *_ in trials),
        "probe_epochs": probe,
        "trials": len(trials),
        "seconds": seconds,
        "epoch_seconds": epoch_seconds,
        "path": [list(trial) for trial in trials],
    }


def mean(rows):
    """One row for several seeds."""

    def of(name):
        return [row[name] for row in rows]

    removed = of("macs_removed")
    return {
        **{name: rows[0][name] for name in GROUP},
        "seeds": len(rows),
        "found": sum(of("found")),
        "MACs removed": statistics.mean(removed),
        "spread": statistics.stdev(removed) if len(rows) > 1 else 0.0,
        "worst": min(removed),
        "parameters removed": statistics.mean(of("parameters_removed")),
        "latency removed": statistics.mean(of("latency_removed")),
        "accuracy": statistics.mean(of("accuracy")),
        "on test images": statistics.mean(of("test_accuracy")),
        "within on test images": f"{sum(map(within_on_test, rows))} of {len(rows)}",
        "epochs": statistics.mean(of("epochs")),
        "most epochs": max(of("epochs")),
        "probe": statistics.mean(of("probe_epochs")),
        "trials": statistics.mean(of("trials")),
        "seconds": statistics.mean(of("seconds")),
    }


def within_on_test(row):
    """Whether the answer is within the budget on the test images, relative to the uncompressed net's accuracy there."""
    return row["test_accuracy"] >= row["test_threshold"]


def grouped(rows):
    """The rows of each net, configuration and kind of rate, in the order they first stand."""
    groups = {}
    for each in rows:
        groups.setdefault(tuple(each[name] for name in GROUP), []).append(each)
    return list(groups.values())


def markdown(rows, *, each=False):
    """The table: a row for each group, or for each search."""
    groups = grouped(rows)
    if each:
        entries = [{**mean([one]), "seed": one["seed"]} for group in groups for one in group]
        entries = [{name: value for name, value in entry.items() if name not in _OF_SEVERAL} for entry in entries]
    else:
        entries = [mean(group) for group in groups]
    if not entries:
        return "no rows"
    names = list(entries[0])
    head = [
        "| " + " | ".join(names) + " |",
        "|" + "".join("--:|" if _is_number(entries[0][n]) else "---|" for n in names),
    ]
    return "\n".join(head + ["| " + " | ".join(_cell(name, entry[name]) for name in names) + " |" for entry in entries])


_OF_SEVERAL = ("seeds", "spread", "worst", "most epochs")
_SHARES = ("MACs removed", "spread", "worst", "parameters removed", "latency removed")


def _is_number(value):
    return isinstance(value, int | float)


def _cell(name, value):
    if not isinstance(value, float):
        return str(value)
    if name in _SHARES:
        return f"{100 * value:.1f} %"
    if name in ("accuracy", "on test images"):
        return f"{value:.4f}"
    return f"{value:.0f}" if name == "seconds" else f"{value:.1f}"


def reached(row, epochs):
    """The highest share of the MACs that a search had removed within the budget after so many epochs."""
    best, used = 0.0, row["probe_epochs"]
    for _, trained, _, removed, feasible in row["path"]:
        used += trained
        if used > epochs + 1e-9:
            break
        if feasible:
            best = max(best, removed)
    return best


def plot(rows, path):
    """Write the share removed against epochs, a line for each configuration (mean over seeds), a file for each net."""
    nets = list(dict.fromkeys(row["net"] for row in rows))
    for net in nets:
        groups = grouped([row for row in rows if row["net"] == net])
        file = path if len(nets) == 1 else path.with_stem(f"{path.stem}-{net}")
        file.write_bytes(Plot(f"{net} net", lambda axes, groups=groups: _draw(groups, axes)).png())


def _draw(groups, axes):
    """A line ends where the last of its searches did; the dot is at the mean of their epochs."""
    several = len({row["rate_of"] for group in groups for row in group}) > 1
    for index, group in enumerate(groups):
        moments = sorted({0.0, *(used for row in group for used in _moments(row))})
        means = [statistics.mean(reached(row, moment) for row in group) for moment in moments]
        label = group[0]["configuration"] + (f", rate of {group[0]['rate_of']}" if several else "")
        look = {"color": PALETTE[index % len(PALETTE)], "linestyle": STYLES[index // len(PALETTE) % len(STYLES)]}
        axes.step(moments, means, where="post", linewidth=1.6, label=label, **look)
        removed, epochs = (statistics.mean(row[name] for row in group) for name in ("macs_removed", "epochs"))
        axes.plot([epochs], [removed], "o", color=look["color"], markersize=5)
    axes.set(xlabel="epochs of training", ylabel="MACs removed within the budget")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.legend(fontsize=7, loc="lower right")


def _moments(row):
    used = row["probe_epochs"]
    for _, trained, *_ in row["path"]:
        used += trained
        yield used
