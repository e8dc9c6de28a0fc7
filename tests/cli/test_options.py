"""Search spaces and settings from options: the same as from files and from Python, or one sentence why not."""

import json

import pytest

from autocompress.cli.options import assigned, search_space_of, settings_of
from autocompress.compression.module_loading import ModuleReference
from autocompress.errors import ConfigError
from autocompress.registry import algorithms
from autocompress.search_space import AutoCompressionSearchSpaceGenerator, load_search_space
from autocompress.settings import AccuracyAwareSettings
from tests.cli.support import invoke

CLIFF = "tests/curve_modules.py:Cliff"


def axes(*names, rates=()):
    space = load_search_space(search_space_of(names, rates, None))
    return {each.name: each.axis() and (each.axis().low, each.axis().high) for each in space.algorithms}


class TestSearchSpaces:
    def test_every_algorithm_has_one(self):
        names = list(algorithms())
        space = load_search_space(search_space_of(names, None, None))
        assert [each.name for each in space.algorithms] == names

    def test_it_is_the_generator_s(self):
        generator = AutoCompressionSearchSpaceGenerator()
        pruned = {"sparsity": {"_type": "uniform", "_value": [0.2, 0.9]}, "op_types": ["default"]}
        quantized = {"quant_types": ["weight", "output"], "quant_bits": 8, "op_types": ["default"]}
        generator.add_config("l2+qat", [pruned, quantized])
        assert search_space_of(["l2+qat"], ["0.2:0.9"], None).wire == generator.dumps()

    def test_default_rates(self):
        assert axes("l2", "qat") == {"l2": (0.0, 0.95), "qat": None}

    def test_one_range_for_all_that_have_a_rate(self):
        found = axes("l2", "qat", "level+dorefa", rates=["0.1:0.8"])
        assert found == {"l2": (0.1, 0.8), "qat": None, "level+dorefa": (0.1, 0.8)}

    def test_ranges_in_order_of_the_algorithms_that_have_a_rate(self):
        found = axes("qat", "l2", "fpgm", rates=["0.1:0.8", "0:0.5"])
        assert found == {"qat": None, "l2": (0.1, 0.8), "fpgm": (0.0, 0.5)}

    @pytest.mark.parametrize(
        ("names", "rates", "message"),
        [
            (["l3"], [], r"^--algorithm: unknown algorithm 'l3'; did you mean 'l.*known: apoz"),
            (["l2", "l2"], [], "^--algorithm: a search space must have each algorithm once; got 'l2' a second time"),
            (["qat+l2"], [], "^--algorithm: a mix must be one pruner and then one quantizer"),
            (["l2"], ["0.5"], r"^--rate must be LOW:HIGH with 0 <= LOW < HIGH < 1, such as 0.2:0.9; got '0.5'$"),
            (["l2"], ["0.5:0.5"], r"^--rate must be LOW:HIGH .*; got '0.5:0.5'$"),
            (["l2"], ["0.5:1"], r"^--rate must be LOW:HIGH .*; got '0.5:1'$"),
            (["l2"], ["nan:0.5"], r"^--rate must be LOW:HIGH .*; got 'nan:0.5'$"),
            (["l2"], ["a:b"], r"^--rate must be LOW:HIGH .*; got 'a:b'$"),
            (["l2"], ["0:.5", "0:.6"], r"^--rate must be given once, or once for each .* got 2 for 1 \(l2\)$"),
            (["qat"], ["0:.5"], r"^--rate must be given once, or once for each .* got 1 for none$"),
            ([], ["0:.5"], r"^--rate must be given together with --algorithm; got --rate 0:.5 alone$"),
        ],
    )
    def test_what_breaks_a_rule(self, names, rates, message):
        with pytest.raises(ConfigError, match=message):
            search_space_of(names, rates, None)

    def test_one_source_only(self, tmp_path):
        with pytest.raises(ConfigError, match=r"only one of .* got --algorithm and --search-space$"):
            search_space_of(["l2"], [], tmp_path / "space.json")

    @pytest.mark.parametrize("by", ["options", "file"])
    def test_an_algorithm_that_the_module_s_file_registers(self, tmp_path, monkeypatch, by):
        monkeypatch.setattr("autocompress.registry._known", dict(algorithms()))
        (tmp_path / "own.py").write_text(
            "from autocompress import register_algorithm\n"
            "from autocompress.algorithms import FilterPruner\n"
            "from autocompress.testing import CurveModule\n\n\n"
            "class Widest(FilterPruner):\n    name = 'widest'\n\n    def score(self, layer):\n"
            "        return layer.weight.flatten(1).amax(1)\n\n\n"
            "register_algorithm(Widest())\n\n\nclass Own(CurveModule):\n    pass\n"
        )
        (tmp_path / "space.json").write_text(json.dumps(search_space_of(["l2"], [], None).wire).replace("l2", "widest"))
        given = (["widest"], [], None) if by == "options" else (None, None, tmp_path / "space.json")
        with pytest.raises(ConfigError, match="unknown algorithm 'widest'"):
            load_search_space(search_space_of(*given))
        module = ModuleReference.parse(f"{tmp_path / 'own.py'}:Own")
        (found,) = load_search_space(search_space_of(*given, module=module)).algorithms
        assert (found.name, found.axis().high) == ("widest", 0.95)


EXAMPLES = {
    "maximal_relative_accuracy_degradation": 2.5,
    "maximal_absolute_accuracy_degradation": 0.01,
    "maximal_total_epochs": 7,
    "validate_every_n_epochs": 2,
    "initial_training_phase_epochs": 0,
    "patience_epochs": 8,
    "initial_compression_rate_step": 0.2,
    "compression_rate_step_reduction_factor": 0.25,
    "lr_reduction_factor": 1,
    "minimal_compression_rate_step": 0.05,
    "preset": "nncf",
    "validate_before_training": False,
    "fine_tuning_schedule": "cosine",
    "learning_rate_factors": [1, 0.3],
    "weight_averaging": "ema",
    "confidence": 0.9,
    "probe_batches": 2,
    "probe_widths": 3,
    "second_chance": False,
    "look_beyond": True,
    "final_training_epochs": 4,
    "pruning_steps": 2,
    "minimal_compression_rate": 0.1,
    "maximal_compression_rate": 0.8,
    "initial_compression_rate": 0.3,
    "warm_start": False,
    "knowledge_distillation": {"type": "mse", "scale": 2.0},
    "maximal_trial_seconds": 60.5,
    "preflight": False,
    "seed": 3,
}


class TestSettings:
    @pytest.mark.parametrize("name", AccuracyAwareSettings.model_fields)
    def test_every_one_can_be_set(self, name):
        settings = settings_of([f"{name}={json.dumps(EXAMPLES[name])}"])
        assert settings == AccuracyAwareSettings().with_changes({name: EXAMPLES[name]})
        assert settings != AccuracyAwareSettings()

    def test_keys_of_an_object(self):
        given = ["knowledge_distillation.type=softmax", "knowledge_distillation.temperature=4"]
        own = AccuracyAwareSettings().knowledge_distillation
        changed = own.model_copy(update={"type": "softmax", "temperature": 4.0})
        assert settings_of(given).knowledge_distillation == changed

    def test_null(self):
        assert settings_of(["maximal_trial_seconds=null"]).maximal_trial_seconds is None

    def test_the_short_options_are_the_same_settings(self):
        short = settings_of(["patience_epochs=4"], absolute=0.02, seed=5, no_preflight=True)
        names = ("maximal_absolute_accuracy_degradation=0.02", "seed=5", "preflight=false", "patience_epochs=4")
        assert short == settings_of(names)

    def test_a_configuration_s_settings_hold_where_no_option_has_another(self, tmp_path):
        path = tmp_path / "config.json"
        params = {"patience_epochs": 9, "initial_training_phase_epochs": 6}
        training = {"mode": "adaptive_compression_level", "params": params}
        path.write_text(
            json.dumps({"accuracy_aware_training": training, "compression": {"algorithm": "filter_pruning"}})
        )
        settings = settings_of(["patience_epochs=2"], config=path)
        assert (settings.patience_epochs, settings.initial_training_phase_epochs) == (2, 6)

    def test_a_key_of_an_object_leaves_the_configuration_s_other_keys(self, tmp_path):
        path = tmp_path / "config.json"
        training = {"mode": "adaptive_compression_level", "params": {}}
        teacher = {"algorithm": "knowledge_distillation", "type": "softmax", "scale": 0.5}
        path.write_text(
            json.dumps({"accuracy_aware_training": training, "compression": [{"algorithm": "filter_pruning"}, teacher]})
        )
        known = settings_of([], config=path).knowledge_distillation
        changed = settings_of(["knowledge_distillation.temperature=3"], config=path).knowledge_distillation
        assert (changed.type, changed.scale, changed.temperature) == (known.type, known.scale, 3.0)
        whole = settings_of(['knowledge_distillation={"type": "mse"}'], config=path).knowledge_distillation
        assert (whole.type, whole.scale) == ("mse", 1.0)

    def test_a_rate_above_the_highest_raises_it_unless_it_is_set(self):
        assert settings_of([], rates=["0:0.5", "0.2:0.99"]).maximal_compression_rate == 0.99
        assert settings_of([], rates=["0:0.5"]).maximal_compression_rate == 0.95
        assert settings_of(["maximal_compression_rate=0.9"], rates=["0:0.99"]).maximal_compression_rate == 0.9

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ("patience=3", r"^--set: unknown setting 'patience'; did you mean 'patience_epochs'.*known: .*warm_start"),
            ("patience_epochs", "^--set must be NAME=VALUE, such as patience_epochs=5; got 'patience_epochs'$"),
            ("patience_epochs=0", "^patience_epochs must be a whole number >= 1; got 0$"),
            ("patience_epochs=3.5", "^patience_epochs must be a whole number >= 1; got 3.5$"),
            ("patience_epochs=many", "^patience_epochs must be a whole number >= 1; got 'many'$"),
            ("warm_start=1", "^warm_start must be true or false; got 1$"),
            ("lr_reduction_factor=NaN", r"^lr_reduction_factor must be a number in \(0, 1\]; got 'NaN'$"),
            (
                "knowledge_distillation.kind=mse",
                "knowledge_distillation: unknown setting .kind. .known: loss_scale",
            ),
            ("seed.x=1", r"^seed must be a whole number in \[0, 2\*\*32\); got {'x': 1}$"),
            ("minimal_compression_rate=0.96", "^minimal_compression_rate must be <= maximal_compression_rate"),
        ],
    )
    def test_what_breaks_a_rule(self, given, message):
        with pytest.raises(ConfigError, match=message):
            settings_of([given])

    def test_twice(self):
        with pytest.raises(ConfigError, match=r"^--set must give each setting once; got 'seed=2' a second time$"):
            assigned(["seed=1", "seed=2"])
        with pytest.raises(ConfigError, match=r"^--set must give .* as a whole or by its keys, not both"):
            assigned(["knowledge_distillation=null", "knowledge_distillation.scale=2"])

    @pytest.mark.parametrize(
        ("name", "short", "option"),
        [
            ("maximal_relative_accuracy_degradation=1", {"relative": 1.0}, "--max-relative-drop"),
            ("maximal_absolute_accuracy_degradation=1", {"absolute": 1.0}, "--max-absolute-drop"),
            ("seed=0", {"seed": 0}, "--seed"),
            ("preflight=true", {"no_preflight": True}, "--no-preflight"),
        ],
    )
    def test_a_short_option_and_its_setting(self, name, short, option):
        message = f"^{option} and --set {name.partition('=')[0]} must not both be given; they are the same setting$"
        with pytest.raises(ConfigError, match=message):
            settings_of([name], **short)

    def test_two_budgets(self):
        with pytest.raises(ConfigError, match=r"^exactly one of maximal_relative_accuracy_degradation"):
            settings_of(["maximal_absolute_accuracy_degradation=0.1"], relative=1.0)


class TestCommands:
    @pytest.mark.parametrize("command", ["run", "compare"])
    def test_a_search_space_must_be_given(self, tmp_path, command):
        answer = invoke(command, CLIFF, "--out", tmp_path / "out")
        assert answer.exit_code == 2
        assert answer.stderr == "error: --algorithm or --search-space or --config must be given; none is\n"
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("command", ["run", "check", "compare"])
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--algorithm", "l3"], "error: --algorithm: unknown algorithm 'l3'; did you mean"),
            (["--algorithm", "l2", "--rate", "2"], "error: --rate must be LOW:HIGH"),
            (["--algorithm", "l2", "--config", "x.json"], "error: only one of --algorithm"),
            (["--algorithm", "l2", "--set", "patience=1"], "error: --set: unknown setting 'patience'"),
        ],
    )
    def test_what_breaks_a_rule_is_refused_by_all(self, command, options, message):
        answer = invoke(command, CLIFF, *options)
        assert answer.exit_code == 2, answer.output
        assert answer.stderr.startswith(message), answer.stderr
        assert "Traceback" not in answer.stderr

    def test_seeds_of_a_comparison_are_its_own(self):
        answer = invoke("compare", CLIFF, "--algorithm", "l2", "--set", "seed=1")
        assert answer.exit_code == 2
        assert "--set seed must not be given to compare" in answer.stderr

    def test_a_search_space_as_a_file(self, tmp_path):
        """What `search-space` prints is what --search-space reads."""
        answer = invoke("search-space", "--algorithm", "l2+qat", "--rate", "0.2:0.9")
        assert answer.exit_code == 0, answer.output
        (tmp_path / "space.json").write_text(answer.stdout)
        assert load_search_space(tmp_path / "space.json") == search_space_of(["l2+qat"], ["0.2:0.9"], None)

    def test_settings_lists_all_and_its_lines_can_be_set(self):
        answer = invoke("settings")
        lines = [line.partition("  (")[0] for line in answer.stdout.splitlines() if not line.startswith(" ")]
        tops = [line for line in lines if "." not in line.partition("=")[0]]
        assert [line.partition("=")[0] for line in tops] == list(AccuracyAwareSettings.model_fields)
        assert settings_of(tops) == AccuracyAwareSettings()
        assert "knowledge_distillation.temperature=1.0" in lines
        helps = [line for line in answer.stdout.splitlines() if line.startswith("    ")]
        assert len(helps) == len(lines)
        assert all(line.strip() for line in helps)

    @pytest.mark.slow
    def test_a_search_with_options_only(self, tmp_path):
        out = tmp_path / "out"
        options = ["--algorithm", "level", "--rate", "0.1:0.7", "--set", "minimal_compression_rate_step=0.1", "--quiet"]
        answer = invoke("run", CLIFF, *options, "--engine", "optuna", "--out", out)
        assert answer.exit_code == 0, answer.output
        rates = [record["requested_rate"] for record in json.loads(invoke("trials", out, "--json").stdout)]
        assert rates == [0.5, 0.6, 0.7]
