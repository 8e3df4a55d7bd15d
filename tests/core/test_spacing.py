import numpy as np
import pytest

from vdp.core.spacing import spread


@pytest.mark.parametrize("count", [0, 1, 2, 3, 11, 100])
@pytest.mark.parametrize("most", [1, 2, 6, 12])
def test_places_are_evenly_spread_with_both_ends(count, most):
    places = spread(count, most)
    assert len(places) == min(count, most) and places == sorted(set(places))
    if places:
        assert places[-1] == count - 1 and (len(places) == 1 or places[0] == 0)
        steps = np.diff(places)
        assert not steps.size or steps.max() - steps.min() <= 1
