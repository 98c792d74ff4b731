"""Numbers are written with the decimals that they need, and no more."""

import pytest

from tunesmith.figures import figures, interval


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (0.0, "0.000"),
        (0.5, "0.500"),
        (-0.25, "-0.250"),
        (0.0123, "0.012"),
        (0.00034, "0.000340"),
        (12.3456, "12.346"),
        (123.456, "123.46"),
        (12345.6, "12,346"),
        (5e6, "5,000,000"),
        (-1.23456e-7, "-1.23e-07"),
        (1e20, "1e+20"),
    ],
)
def test_a_number_reads_well_at_every_size(value: float | None, shown: str) -> None:
    assert figures(value) == (shown,)


def test_numbers_side_by_side_have_the_same_decimals() -> None:
    assert figures(3e-4, 0.0, None) == ("0.000300", "0.000000", "–")
    assert interval(0.714, 0.6071, 0.8099) == "0.714 [0.607, 0.810]"
    assert interval(1500.0, 999.5, 2000.0) == "1,500.0 [999.5, 2,000.0]"


def test_an_interval_says_what_of_it_there_is() -> None:
    assert interval(None, 0.1, 0.2) == "not defined"
    assert interval(0.5, None, None) == "0.500"
