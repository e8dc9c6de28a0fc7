from __future__ import annotations

import pickle
import re
import subprocess
from pathlib import Path

import pytest

from autocompress import errors
from autocompress.errors import (
    AutoCompressError,
    InfeasibleBudgetError,
    TrialError,
    command,
    evaluates_differently,
    first_line,
    printable,
    short,
    short_text,
    unknown_name,
)
from tests.search.support import trial

TREE = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]


@pytest.mark.parametrize("error", TREE, ids=lambda error: error.__name__)
def test_every_error_is_in_one_tree(error):
    assert issubclass(error, AutoCompressError)
    assert error.__doc__


def test_a_trial_error_tells_its_cause_and_what_was_printed():
    assert str(TrialError("the evaluator returned nan")) == "the evaluator returned nan"
    error = TrialError("it failed", "Traceback\nValueError: no")
    assert str(error) == "it failed\nTraceback\nValueError: no"
    assert error.traceback == "Traceback\nValueError: no"


def test_an_infeasible_budget_tells_what_was_reached_and_tried():
    trials = [trial(0.5, False), trial(0.25, False), trial(None, False, algorithm="qat")]
    error = InfeasibleBudgetError(0.8712, 0.891, trials)
    assert str(error) == (
        "no compressed model stayed within the accuracy budget: the threshold is 0.891, the best accuracy was 0.8712; "
        "tried l1 at 0.5, l1 at 0.25, qat"
    )
    assert (error.best_accuracy, error.threshold, error.trials) == (0.8712, 0.891, tuple(trials))


def test_an_infeasible_budget_without_any_trial():
    error = InfeasibleBudgetError(None, 0.891, [])
    assert str(error) == (
        "no compressed model stayed within the accuracy budget: the threshold is 0.891, no trial was evaluated; "
        "tried nothing"
    )


@pytest.mark.parametrize(
    "error",
    [
        InfeasibleBudgetError(0.87, 0.891, [trial(0.5, False)]),
        InfeasibleBudgetError(None, 0.891, []),
        InfeasibleBudgetError(0.87, 0.891, [trial(0.5)], [(trial(0.5), 0.87)]),
        TrialError("it failed", "Traceback"),
        TrialError("it failed"),
    ],
    ids=repr,
)
def test_an_error_survives_the_way_to_another_process(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


@pytest.mark.parametrize(
    ("name", "known", "message"),
    [
        ("l3", ["l2", "l1"], "unknown algorithm 'l3'; did you mean 'l2' or 'l1'? (known: l1, l2)"),
        ("leval", ["level", "l1"], "unknown algorithm 'leval'; did you mean 'level'? (known: l1, level)"),
        ("x", ["level"], "unknown algorithm 'x' (known: level)"),
        ("x", [], "unknown algorithm 'x' (known: none)"),
    ],
)
def test_unknown_name(name, known, message):
    assert unknown_name("algorithm", name, iter(known)) == message


DIFFERS = "the evaluator is not deterministic or leaves the model in training mode"


@pytest.mark.parametrize(
    ("fresh", "recorded", "told"),
    [
        (0.9636, 0.9667, f"evaluates differently when loaded afresh: 0.9636 against 0.9667; {DIFFERS}"),
        (96.36, 96.67, f"evaluates differently when loaded afresh: 96.36 against 96.67; {DIFFERS}"),
        (-1.5, -1.25, f"evaluates differently when loaded afresh: -1.5 against -1.25; {DIFFERS}"),
        (0.0, 0.5, f"evaluates differently when loaded afresh: 0 against 0.5; {DIFFERS}"),
        # as many digits as it takes to tell them apart
        (0.96361, 0.96362, f"evaluates differently when loaded afresh: 0.96361 against 0.96362; {DIFFERS}"),
        (0.9667, 0.9667, None),
        (0.0, 0.0, None),
        (0.9667, 0.9667 * (1 + 5e-7), None),  # rounding
        (1 - 2e-6, 1.0, f"evaluates differently when loaded afresh: 0.999998 against 1; {DIFFERS}"),
        (0.9667, None, None),
    ],
)
def test_what_is_said_where_a_model_evaluates_differently(fresh, recorded, told):
    assert evaluates_differently(fresh, recorded) == told


def test_an_infeasible_budget_tells_what_verification_has_disproved():
    trials = [trial(0.5, accuracy=0.9667), trial(0.6, accuracy=0.9667), trial(0.7, False)]
    error = InfeasibleBudgetError(0.96, 0.9636, trials, [(trials[0], 0.96), (trials[1], 0.95)])
    assert str(error) == (
        "no compressed model stayed within the accuracy budget: the threshold is 0.9636, the best accuracy was 0.96; "
        f"l1 at 0.5 evaluates differently when loaded afresh: 0.96 against 0.9667; {DIFFERS} (so of 2 trials); "
        "tried l1 at 0.5, l1 at 0.6, l1 at 0.7"
    )
    assert error.disproved == ((trials[0], 0.96), (trials[1], 0.95))


def test_long_values_are_cut_in_messages():
    assert len(short("x" * 10_000)) < 120
    assert len(short({"a": [["y" * 10_000] * 10_000]})) < 120
    assert short("\x1b[31m\n").isprintable()
    for value in (10**5000, [10**5000]):
        assert len(short(value)) < 120


def test_the_first_line_of_an_error_names_its_kind():
    assert first_line(ValueError("\n  one\ntwo")) == "ValueError: one"
    assert first_line(KeyError()) == "KeyError: no reason given"
    assert len(first_line(ValueError("x" * 10_000))) < 220


ODD = "it's a `dir` $HOME & more"


def test_commands_can_be_pasted_into_a_shell():
    line = command("printf", "%s|", ODD, Path("a b"), "plain")
    assert subprocess.run(line, shell=True, capture_output=True, text=True, check=True).stdout == f"{ODD}|a b|plain|"
    assert command("autocompress", "resume", "/a/b") == "autocompress resume /a/b", "nothing is quoted in vain"


def test_every_command_with_a_value_in_it_is_quoted():
    """In f-strings and logged messages a subcommand is not followed by a value; `command` writes both."""
    values = re.compile(r"autocompress (?:run|resume|report|trials|export|check|status|view|worker|best) (?:\{|%[sr])")
    for path in Path(errors.__file__).parent.rglob("*.*"):
        if path.suffix in (".py", ".html"):
            assert not values.search(path.read_text()), path


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31;1mred\x1b[0m", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b[2J\x1b[1;1Hnew", "new"),
        ("\x1bcreset", "reset"),
        ("bell\x07\x08 \x9b31m", "bell 31m"),
        ("one\r\ntwo\tthree", "one\ntwo\tthree"),
        ("schön", "schön"),
        ("\x1b", ""),
    ],
)
def test_escape_sequences_are_not_printed(text, shown):
    assert printable(text) == shown


def test_of_a_long_text_the_beginning_and_the_end_are_kept():
    assert short_text("a\nb") == "a\nb"
    for length in (2001, 4001, 10_000_000):
        cut = short_text("<" + "x" * length + ">")
        assert len(cut) <= 2000
        assert (cut[0], cut[-1]) == ("<", ">")
        assert " [...] " in cut
        assert short_text(cut) == cut
