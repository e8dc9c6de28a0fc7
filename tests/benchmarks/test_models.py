"""The zoo of models: what its tables and score say of rows, the file of rows, and the limits of its processes."""

import importlib.util
import json
import os
import subprocess
import sys
import time

import pytest

from tests.benchmarks.models import table
from tests.benchmarks.models.__main__ import is_known
from tests.benchmarks.models.rows import GIBIBYTE, RESULTS, Job, Rows, fill, memory_of
from tests.docs.pages import ROOT


def row(model="a", algorithm="l2", removed=0.6, group="timm", **given):
    rate = {"parameters": removed, "macs": 0.5, "bytes": 0.5, "seconds": 2.0, "mebibytes": 10}
    good = {"rates": {"0.5": rate}, "forward": True, "reload": True, "gradient": True, "onnx": True}
    return {
        "group": group,
        "family": model,
        "model": model,
        "algorithm": algorithm,
        "parameters": 1_000_000,
        **good,
        **given,
    }


REFUSED = {"rates": {}, "forward": None, "compressed": "the model must have filters"}


def rows(*found):
    return {f"{each['group']}/{each['model']}/{each['algorithm']}": each for each in found}


def test_the_score_counts_what_is_pruned_and_passes():
    crashed = row("d", rates={}, compressed="IndexError: 5", uncaught="compressed")
    found = table.score(
        rows(row("a"), row("b", removed=0.2), row("c", **REFUSED), crashed, row("e", reload="differs"), row("a", "qat"))
    )
    assert found["timm"]["models"] == 5
    assert (found["timm"]["pruned"], found["timm"]["refused"], found["timm"]["failed"]) == (2, 1, 2)
    assert found["timm"]["removed"] == pytest.approx(0.4)
    assert table.sentence(rows(row("a"), row("c", **REFUSED))) == "1 of 2 models"


def test_a_slow_or_large_compression_is_outside_the_limits():
    slow = row("b")
    slow["rates"] = {**slow["rates"], "0.75": {**slow["rates"]["0.5"], "seconds": 61.0}}
    assert table.score(rows(row("a"), slow))["timm"]["within limits"] == 1


def test_tables_have_a_line_for_each_model_and_reasons_for_each_failure():
    bytes_saved = {"parameters": 0.0, "macs": 0.0, "bytes": 0.73, "seconds": 1.0, "mebibytes": 1}
    quantized = row("a", "qat", rates={"None": bytes_saved})
    page = table.page(rows(row("a"), quantized, row("c", onnx="an operator is not there")))
    assert "| a | 1.0 | - / 60 / - | - / 50 / - | 2 | 10 | all | 73% of bytes |" in page
    assert "| c | 1.0 | - / 60 / - | - / 50 / - | 2 | 10 | not onnx | - |" in page
    assert page.endswith("- l2 on c (timm): onnx: an operator is not there")


def test_the_readme_has_the_score():
    assert table.sentence(json.loads(RESULTS.read_text())) in (ROOT / "README.md").read_text()


def test_a_row_is_made_again_if_it_lacks_what_is_asked_for(tmp_path):
    kept = Rows(tmp_path / "rows.json")
    kept.add("timm/a/l2", row("a"))
    kept.add("timm/b/l2", row("b", **REFUSED))
    kept = Rows(tmp_path / "rows.json")
    whole, refused, other = Entry("a"), Entry("b"), Entry("c")
    assert is_known(kept, whole, "l2", (0.5,), True, failed=False)
    assert not is_known(kept, whole, "l2", (0.5, 0.75), True, failed=False)
    assert is_known(kept, refused, "l2", (0.5, 0.75), True, failed=False)
    assert not is_known(kept, refused, "l2", (0.5,), True, failed=True)
    assert not is_known(kept, other, "l2", (0.5,), False, failed=False)


def test_rows_are_kept_as_they_are_found(tmp_path):
    path, made = tmp_path / "rows.json", []
    kept = Rows(path)
    kept.add("timm/a/l2", row("a"))
    fill(kept, wanted("b"), start(made, lambda report: report({"x": 1})), 2, 1, 60, time.monotonic() + 60, print)
    assert made == ["b"]
    assert Rows(path).rows["timm/b/l2"] == {"group": "timm", "family": "b", "model": "b", "algorithm": "l2", "x": 1}
    assert Rows(path).rows["timm/a/l2"] == row("a")


class Entry:
    def __init__(self, name):
        self.group, self.family, self.name = "timm", name, name


def wanted(*names):
    return [(Entry(name), "l2") for name in names]


def start(made, work):
    def job(entry, algorithm):
        made.append(entry.name)
        return Job(entry, algorithm, work)

    return job


def too_long(report):
    report({"parameters": 5})
    time.sleep(60)


def too_large(report):
    report({"parameters": 5})
    held = bytearray(os.urandom(1 << 20) * 400)
    time.sleep(60)
    del held


def dying(report):
    report({"parameters": 5})
    os.abort()


@pytest.mark.parametrize(
    ("work", "more", "seconds", "reason"),
    [
        (too_long, 0.0, 1, "took more than 1 s"),
        (too_large, 0.25, 60, "took more than"),
        (dying, 0.0, 60, "ended with -6"),
    ],
)
def test_a_process_over_a_limit_is_ended_and_what_it_found_is_kept(tmp_path, work, more, seconds, reason):
    kept, gibibytes = Rows(tmp_path / "rows.json"), memory_of(os.getpid()) / GIBIBYTE + more if more else 100
    fill(kept, wanted("a"), start([], work), 1, gibibytes, seconds, time.monotonic() + 60, print)
    assert kept.rows["timm/a/l2"]["ended"].startswith(reason)
    assert kept.rows["timm/a/l2"]["parameters"] == 5


@pytest.mark.slow
def test_the_catalog_has_what_people_bring():
    if any(importlib.util.find_spec(name) is None for name in ("timm", "transformers", "ultralytics")):
        pytest.skip("the packages of the models are not installed")
    import torchvision

    from tests.benchmarks.models.catalog import entries, smallest

    found = entries()
    of = {group: [each for each in found if each.group == group] for group in {each.group for each in found}}
    whole = {name for name in torchvision.models.list_models() if not name.startswith("quantized_")}
    assert {each.name for each in of["torchvision"]} == whole
    assert len({each.family for each in of["timm"]}) >= 40
    assert len({each.family for each in of["transformers"]}) >= 15
    assert {each.family for each in of["ultralytics"]} == {"yolov8", "yolo11"}
    assert len(of["speech"]) >= 2
    sizes = [each.size for each in found]
    assert sizes == sorted(sizes)
    assert "shufflenet_v2_x0_5" in {each.name for each in smallest(found)}


@pytest.mark.slow
def test_small_models_are_measured(tmp_path):
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("transformers is not installed")
    path = tmp_path / "rows.json"
    command = ["-m", "tests.benchmarks.models", "--models", "BERT", "AST", "--algorithms", "l2", "level", "qat"]
    done = subprocess.run(
        [sys.executable, *command, "--results", str(path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(path.read_text())
    assert len(found) == 6
    for name in ("transformers/BERT/l2", "speech/AST/l2", "transformers/BERT/level"):
        assert table.failures(found[name]) == [], name
        assert found[name]["onnx"] is True
        assert [found[name]["rates"][rate]["parameters"] > 0.05 for rate in table.RATES] == [True] * 3
    assert "| BERT |" in done.stdout
