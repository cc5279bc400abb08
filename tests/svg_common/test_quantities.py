"""Durations and sizes on the command line."""

from __future__ import annotations

import pytest

from svg_common.errors import UsageError
from svg_common.quantities import (
    count_text,
    duration_text,
    is_or_are,
    parse_duration,
    parse_seconds,
    parse_size,
    parsed_size,
    size_text,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("20m", 1200), ("2h", 7200), ("1d", 86400), ("1h30m", 5400), ("0.5m", 30), (" 2H ", 7200)],
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "seconds"), [("5", 5), ("0.3", 0.3), ("0", 0), ("0s", 0), (" 5s ", 5), ("5m", 300), ("1h30m", 5400)]
)
def test_seconds_may_have_a_unit(text, seconds):
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "-3", "5x", "nan", "inf", "1e400", "5 apples"])
def test_what_is_no_time_gets_examples(text):
    with pytest.raises(ValueError, match="expected seconds, such as 5, or another unit, such as 90s or 2m"):
        parse_seconds(text)


@pytest.mark.parametrize("text", ["", "20", "0s", "-5m", "30m1h", "5 apples", "1e9h", "m", "9" * 400 + "d"])
def test_what_is_no_duration_gets_examples(text):
    with pytest.raises(ValueError, match="expected a number with its unit, such as 90s"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"), [("2GB", 2e9), ("500 MB", 5e8), ("1.5g", 1.5e9), ("20kB", 2e4), ("0.5M", 5e5), ("1TB", 1e12)]
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "size"), [("20kiB", 20 << 10), ("64 MiB", 64 << 20), ("1.5gib", 3 << 29), ("2Gi", 2 << 30), ("1TiB", 1 << 40)]
)
def test_sizes_with_an_i_are_in_powers_of_1024(text, size):
    assert parse_size(text) == size


def test_a_size_of_an_option_has_a_least_value():
    assert parsed_size("--limit", "10MB", "10MB", "a video") == 10_000_000
    with pytest.raises(UsageError, match="--limit 9MB is too small for a video\n  expected at least 10MB"):
        parsed_size("--limit", "9MB", "10MB", "a video")
    with pytest.raises(UsageError, match="--limit: 'much' is not a size"):
        parsed_size("--limit", "much", "10MB", "a video")


@pytest.mark.parametrize("text", ["", "2", "GB", "-1GB", "2XB", "2GBs"])
def test_what_is_no_size_gets_examples(text):
    with pytest.raises(ValueError, match="such as 500MB or 2GB"):
        parse_size(text)


def test_texts():
    texts = ["0 s", "0.5 s", "4 s", "10 s", "45 s", "12.5 min", "2.0 h", "3.0 days"]
    assert [duration_text(seconds) for seconds in (0, 0.5, 4.0, 9.96, 45, 750, 7200, 259_200)] == texts
    assert [size_text(size) for size in (12_300_000, 1_500_000_000)] == ["12.3 MB", "1.50 GB"]


@pytest.mark.parametrize(("count", "text"), [(0, "0 videos are"), (1, "1 video is"), (2, "2 videos are")])
def test_counts_have_the_number_of_their_noun_and_verb(count, text):
    assert f"{count_text(count, 'video')} {is_or_are(count)}" == text
