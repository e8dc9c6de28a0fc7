from __future__ import annotations

import pytest

from autocompress.engines.nni.builtin_tuners import create_builtin_tuner
from autocompress.engines.nni.wire_format import (
    flat_parameters,
    flattened,
    from_page_parameters,
    nested,
    to_page_parameters,
)
from autocompress.search_space import AutoCompressionSearchSpaceGenerator, read_parameters

KEY, OTHER = "config_list::Conv2d::::sparsity", "config_list::Linear::::sparsity"
SPARSITY = {"_type": "uniform", "_value": [0.1, 0.9]}


def space():
    generator = AutoCompressionSearchSpaceGenerator()
    bits = {"weight": {"_type": "choice", "_value": [8, 4]}, "output": 8}
    quantized = {"quant_types": ["weight", "output"], "quant_bits": bits, "op_types": ["Conv2d", "Linear"]}
    generator.add_config("dorefa", [quantized, {"op_names": ["a/b"], "quant_types": ["weight"], "quant_bits": 2}])
    generator.add_config("l2+qat", [{"sparsity": SPARSITY, "op_types": ["Conv2d"]}, quantized], ignored_scopes=["x"])
    return generator.dumps()


@pytest.mark.parametrize("name", ["TPE", "Random", "Evolution", "GridSearch"])
def test_nnis_tuners_choose_in_it(name):
    tuner = create_builtin_tuner(name, {}, seed=0)
    tuner.update_search_space(flattened(space()))
    chosen = set()
    for number in range(12):
        flat = tuner.generate_parameters(number)
        parameters = nested(flat)
        assert flat_parameters(parameters) == flat
        choice = read_parameters(parameters)
        chosen.add(choice.name)
        (quantized, *_) = [rule for rule in choice.rules if rule.quant_types == ("weight", "output")]
        assert quantized.quant["quant_bits"]["weight"] in (4, 8)
        assert quantized.quant["quant_bits"]["output"] == 8
        if choice.name == "l2+qat":
            assert choice.arguments == {"ignored_scopes": ("x",)}
        tuner.receive_trial_result(number, flat, 0.5)
    assert chosen == {"dorefa", "l2+qat"}


def test_the_search_space_itself_stays():
    before = space()
    flat = flattened(before)
    assert before == space()
    assert all("_type" in value for key, value in flat["algorithm_name"]["_value"][0].items() if key != "_name")


def test_the_page_has_one_axis_for_the_rates_of_all_algorithms():
    only = {"algorithm_name": {"_name": "l2", KEY: 0.5}, "search": {"epochs": 3}}
    assert to_page_parameters(only) == {
        "algorithm_name": only["algorithm_name"],
        "search/epochs": 3,
        "search/requested_rate": 0.5,
    }
    position = {"algorithm_name": {"_name": "l2", KEY: 0.5, OTHER: 0.2}, "search": {"requested_rate": 0.4}}
    assert to_page_parameters(position)["search/requested_rate"] == 0.4
    chosen_by_others = {"algorithm_name": {"_name": "l2", KEY: 0.5}}
    for parameters in (only, position, chosen_by_others):
        assert from_page_parameters(to_page_parameters(parameters)) == parameters


def test_the_page_has_a_key_of_its_own_for_each_nested_value():
    """NNI's page is blank where a trial has a key that its search space has not."""
    bits = {"weight": 8, "output": 4}
    parameters = {
        "algorithm_name": {"_name": "l2+qat", KEY: 0.5, "config_list::w::::quant_bits": bits},
        "search": {"a": 1},
    }
    sent = to_page_parameters(parameters)["algorithm_name"]
    assert sent == {
        "_name": "l2+qat",
        KEY: 0.5,
        "config_list::w::::quant_bits/weight": 8,
        "config_list::w::::quant_bits/output": 4,
    }
    assert from_page_parameters(to_page_parameters(parameters)) == parameters
