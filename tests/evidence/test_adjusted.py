"""The effect of an arm as values of units: by hand, and what adjusting may and may not do."""

import numpy as np
import pytest

from proxy.evidence.adjusted import adjusted, lagged_mean, winsorised

NOTHING = np.empty((6, 0))


def test_without_covariates_it_is_the_difference_of_means_with_its_error() -> None:
    """1, 2, 3 against 4, 6, 8: four apart; the spread of the values is that of both arms."""
    outcome = np.array([1.0, 4.0, 2.0, 6.0, 3.0, 8.0])
    in_arm = np.array([False, True] * 3)
    found = adjusted(outcome, in_arm, NOTHING, np.arange(6))
    assert found.values.tolist() == pytest.approx([6, 0, 4, 4, 2, 8])  # 4 + 2 (y - mean), to its own side
    assert (found.values.mean(), found.degrees_lost) == (4.0, 1)


def test_exchanges_of_one_unit_are_one_value() -> None:
    """Three units of two exchanges: what each is off by is summed, in proportion to all exchanges."""
    outcome = np.array([1.0, 3.0, 4.0, 6.0, 3.0, 9.0])
    in_arm = np.array([True, True, False, False, False, False])
    found = adjusted(outcome, in_arm, NOTHING, np.array([0, 0, 1, 1, 2, 2]))
    # Means 2 and 5.5; exchanges are off by -1 and 1 (x 3), and by -1.5, .5, -2.5, 3.5 (x -1.5); units sum to 0, 1.5, -1.5.
    assert found.values.tolist() == pytest.approx([-3.5, -3.5 + 1.5 * 3 / 6, -3.5 - 1.5 * 3 / 6])


def test_a_covariate_that_explains_everything_leaves_no_spread() -> None:
    """The outcome is twice the input, and one more in the arm, however unequal the arms' inputs are."""
    source = np.random.default_rng(1)
    tokens = source.uniform(0, 100, 400)
    in_arm = source.random(400) < 0.3
    found = adjusted(2 * tokens + in_arm, in_arm, tokens[:, None], np.arange(400))
    assert found.values == pytest.approx(np.ones(400))


def test_adjusting_needs_units_enough() -> None:
    """Nineteen units in the smaller arm do not carry a slope and a mean; twenty do."""
    tokens = np.arange(60.0)
    for of_arm, degrees_lost in ((19, 1), (20, 3)):
        in_arm = np.zeros(60, bool)
        in_arm[:of_arm] = True
        assert adjusted(tokens, in_arm, tokens[:, None], np.arange(60)).degrees_lost == degrees_lost


def test_a_column_that_never_changes_is_none() -> None:
    """A covariate that every exchange shares costs no parameter and breaks nothing."""
    outcome = np.array([1.0, 4.0, 2.0, 6.0, 3.0, 8.0])
    in_arm = np.array([False, True] * 3)
    same = adjusted(outcome, in_arm, np.full((6, 2), 7.0), np.arange(6))
    assert same.values.tolist() == adjusted(outcome, in_arm, NOTHING, np.arange(6)).values.tolist()


def test_the_outer_hundredths_are_set_to_where_they_begin() -> None:
    """Of 0 to 100, 0 becomes 1 and 100 becomes 99."""
    values = np.arange(101.0)
    assert winsorised(values).tolist() == [1.0, *range(1, 100), 99.0]


def test_the_lagged_mean_is_of_the_twenty_before() -> None:
    """The first has the mean of all, the second its one predecessor, the last the twenty before it, and none itself."""
    values = np.arange(30.0)
    found = lagged_mean(values)
    assert found[[0, 1, 2, 29]].tolist() == [14.5, 0.0, 0.5, np.mean(values[9:29])]
