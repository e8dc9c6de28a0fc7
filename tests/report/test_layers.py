"""The sensitivity of each layer as a picture, and what each layer lost."""

import dataclasses
import re

import pytest
from matplotlib.figure import Figure

from autocompress.plan import ExperimentPlan
from autocompress.records import CouplingSensitivity, Sensitivity
from autocompress.report import write_report
from autocompress.report.data import read_report_data
from autocompress.report.layers import draw_sensitivity, layer_rows, sensitivity_plots


def sensitivity(layers, algorithm="l2", factor=1.0):
    couplings = [
        CouplingSensitivity((name,), 16, (1.0, 0.5, 0.0625), (0.0, factor * 0.01 * 2**index, factor * 0.1 * 2**index))
        for index, name in enumerate(layers)
    ]
    return Sensitivity("key", algorithm, {}, 256, 1.5, tuple(couplings))


def with_sensitivities(directory, *found):
    plan = ExperimentPlan.read(directory)
    baseline = dataclasses.replace(plan.measured, sensitivities=found)
    directory.write_settings(dataclasses.replace(plan, baseline=baseline).to_dict())
    return read_report_data(directory)


def drawn(data):
    axes = Figure().add_subplot()
    draw_sensitivity(data, axes, data.plan.measured.sensitivities[0])
    return axes


def test_each_coupling_has_a_line_and_the_best_model_a_point_on_it(ended):
    axes = drawn(with_sensitivities(ended, sensitivity(["conv", "other"])))
    lines = {line.get_label(): line for line in axes.lines}
    assert set(lines) == {"conv", "other"}
    conv = dict(zip(lines["conv"].get_xdata(), lines["conv"].get_ydata(), strict=True))
    assert (conv[0.5], max(conv), conv[max(conv)]) == (pytest.approx(0.01), 1 - 0.0625, pytest.approx(0.1))
    assert list(lines["conv"].get_ydata()) == sorted(lines["conv"].get_ydata())
    (point,) = [each.get_offsets()[0] for each in axes.collections]
    assert tuple(point) == (0.5, pytest.approx(0.01)), "conv has 8 of 16 filters left; the model has no layer `other`"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["other", "conv"]


def test_of_many_layers_the_most_and_the_least_sensitive_are_named(ended):
    names = [f"layer{index}" for index in range(20)]
    axes = drawn(with_sensitivities(ended, sensitivity(names, factor=1e-3)))
    assert len(axes.lines) == 20
    named = [text.get_text() for text in axes.get_legend().get_texts()]
    assert named == [f"layer{index}" for index in (19, 18, 17, 16, 3, 2, 1, 0)]
    assert axes.get_legend().get_title().get_text() == "most and least sensitive of 20"


def test_the_report_has_one_for_each_algorithm_that_needed_it(ended):
    assert sensitivity_plots(read_report_data(ended)) == {}
    with_sensitivities(ended, sensitivity(["conv"]), sensitivity(["conv"], "fpgm"))
    page = write_report(ended).read_text()
    plots = {file.name for file in (ended.path / "plots").glob("sensitivity*.png")}
    assert plots == {"sensitivity-l2.png", "sensitivity-fpgm.png"}
    assert page.count("How sensitive each layer is") == 2
    assert not re.search(r"fill: #|stroke: #", page), "every colour of the plots follows the page's theme"


def test_what_each_layer_lost(ended):
    conv, out, whole = layer_rows(read_report_data(ended))
    assert (conv.name, conv.width, conv.parameters) == ("conv", (16, 8), (900, 900))
    assert (out.width, out.macs) == ((10, 0), (100, 0)), "the compressed model does not have it"
    assert (whole.total, whole.width, whole.parameters) == (True, (None, None), (1000, 425))
