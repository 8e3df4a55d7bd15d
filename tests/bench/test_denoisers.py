import pytest

from bench.denoisers import Cost, table

WHOLE = Cost(2_000_000, step=0.5, batch=4, batch_step=1.0, measured=2.0, times=1, memory=700.0)
PASSES = Cost(9_000_000, step=2.0, batch=1, batch_step=2.0, measured=0.25, times=60, memory=900.0)


def test_predictions_are_products_and_ratios_are_to_the_first_row():
    lines = table({"ours": WHOLE, "theirs": PASSES}, floor=500.0).splitlines()
    first, second = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:4])
    assert [float(second[5]), second[6]] == [60 * 0.25, "60 x 0.250"]
    assert [float(first[i]) for i in (3, 7)] == [1, 1]
    assert [float(second[i]) for i in (3, 7)] == pytest.approx([2.0 / 0.5, 15 / 2])
    assert first[4] == "0.250 (4)"  # seconds per clip of a batch
    assert len({line.count("|") for line in lines}) == 1
