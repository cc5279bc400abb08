"""What was wrong with a value is said together with the value, unless it may be a secret."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from svg_common.json_text import RepeatedNameError, read_json
from svg_common.validation import problem_line


class Given(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    count: Annotated[int, Field(ge=1, le=9)] = 1
    size: Annotated[float, Field(ge=0, le=9)] = 1.0
    name: Literal["a", "b"] = "a"
    own: int = 0

    @field_validator("own")
    @classmethod
    def _even(cls, value: int) -> int:
        if value % 2:
            raise ValueError(f"own is {value}, expected an even number")
        return value


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"size": float("nan")}, "size: Input should be less than or equal to 9; given NaN, which is not a number"),
        ({"size": 1e400}, "size: Input should be less than or equal to 9; given infinity, or a number that is too large"),
        ({"size": -1.5}, "size: Input should be greater than or equal to 0; given -1.5"),
        ({"count": True}, "count: Input should be a valid integer; given true"),
        ({"count": None}, "count: Input should be a valid integer; given null"),
        ({"count": "5"}, 'count: Input should be a valid integer; given "5"'),
        ({"count": "\x1b[2J\ud800"}, r'count: Input should be a valid integer; given "\u001b[2J\ud800"'),
        ({"count": "x" * 41}, "count: Input should be a valid integer; given a text of 41 characters"),
        ({"count": 1 << 20_000}, "count: Input should be less than or equal to 9; given a whole number of 20001 bits"),
        ({"count": [1]}, "count: Input should be a valid integer; given a list"),
        ({"count": {"a": 1}}, "count: Input should be a valid integer; given a table"),
        ({"count": object()}, "count: Input should be a valid integer; given a value of the type object"),
        ({"name": "c"}, "name: Input should be 'a' or 'b'; given \"c\""),
        ({"own": 3}, "own: own is 3, expected an even number"),
        ({"foo": 1}, "foo: Extra inputs are not permitted; given 1"),
        ({"password": "hunter2"}, "password: Extra inputs are not permitted; given a text of 7 characters"),
    ],
    ids=lambda value: None if isinstance(value, str) else next(iter(value)),
)
def test_a_problem_says_what_was_given(given, line):
    with pytest.raises(ValidationError) as caught:
        Given.model_validate(given)
    assert [problem_line(item) for item in caught.value.errors()] == [line]


def test_a_name_that_stands_twice_is_refused_at_any_depth():
    assert read_json('[{"a": 1, "b": {"a": 2}}]') == [{"a": 1, "b": {"a": 2}}]
    with pytest.raises(RepeatedNameError, match=r"^a: given 3 times; expected each name once$"):
        read_json('[{"b": {"a": 1, "a": 1, "c": 2, "a": 1}}]')
