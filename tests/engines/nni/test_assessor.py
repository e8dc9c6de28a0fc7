from nni.assessor import AssessResult

from autocompress.engines.nni.assessor import AdaptiveCompressionAssessor


def history(epochs):
    return [{"default": 0.5, "epoch": epoch} for epoch in range(1, epochs + 1)]


def test_a_trial_goes_on_within_its_patience():
    assessor = AdaptiveCompressionAssessor(maximal_total_epochs=100, patience=3)
    assert [assessor.assess_trial("a", history(n)) for n in (1, 2, 3)] == [AssessResult.Good] * 3
    assert assessor.assess_trial("a", history(4)) is AssessResult.Bad


def test_the_epochs_of_all_trials_count_together():
    assessor = AdaptiveCompressionAssessor(maximal_total_epochs=10, epochs_before=4)
    assert assessor.assess_trial("a", history(3)) is AssessResult.Good
    assert assessor.assess_trial("b", history(3)) is AssessResult.Good
    assert assessor.assess_trial("b", history(4)) is AssessResult.Bad
