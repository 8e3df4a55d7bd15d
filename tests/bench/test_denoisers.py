"""The table of bench.denoisers: what is least, what a product is, and what ratios are to."""

import time

import pytest

from bench.denoisers import Cost, least_seconds, markdown, number, table

WHOLE = Cost(2_000_000, step=0.5, batch=4, batch_step=1.0, measured=2.0, times=1, memory=700.0)
PASSES = Cost(9_000_000, step=2.0, batch=1, batch_step=2.0, measured=0.25, times=60, memory=900.0)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_prediction_of_passes_costs_their_product():
    row = cells(table({"ours": WHOLE, "theirs": PASSES}, floor=500.0).splitlines()[3])
    assert [float(row[5]), row[6]] == [60 * 0.25, "60 x 0.250"]


def test_ratios_are_to_the_first_row():
    first, second = (cells(line) for line in table({"a": WHOLE, "b": PASSES}, floor=0.0).splitlines()[2:4])
    assert [float(first[i]) for i in (3, 7)] == [1, 1]
    assert [float(second[i]) for i in (3, 7)] == pytest.approx([2.0 / 0.5, 15 / 2])


def test_a_clip_of_a_batch_has_its_share_of_the_step():
    assert cells(table({"a": WHOLE}, floor=0.0).splitlines()[2])[4] == "0.250 (4)"


def test_all_lines_of_a_table_have_as_many_cells():
    lines = table({"a": WHOLE, "b": PASSES}, floor=500.0).splitlines()
    assert {len(cells(line)) for line in lines} == {9}
    assert markdown(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | ---: |\n| 1 | 2 |"


@pytest.mark.parametrize("value", [1e-5, 0.0397, 0.9999, 1.0, 99.96, 100.4, 1981.4, 123456.0])
def test_a_number_is_read_back_to_three_digits_and_has_no_exponent(value):
    assert "e" not in number(value)
    assert float(number(value)) == pytest.approx(value, rel=0.005)


def test_works_take_turns_and_the_least_of_their_times_is_told(monkeypatch):
    now, calls = [0.0], []
    costs = {"a": iter([5.0, 1.0, 3.0]), "b": iter([2.0, 4.0, 9.0])}

    def work(name):
        calls.append(name)
        now[0] += next(costs[name])

    monkeypatch.setattr(time, "process_time", lambda: now[0])
    least = least_seconds({"a": lambda: work("a"), "b": lambda: work("b")}, rounds=3)
    assert calls == ["a", "b"] * 3
    assert least == {"a": 1.0, "b": 2.0}
