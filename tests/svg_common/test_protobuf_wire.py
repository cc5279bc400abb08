"""The reader of protobuf's wire format: against the protobuf package, and with invalid input."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, unknown_fields
from google.protobuf.empty_pb2 import Empty

from svg_common.protobuf_wire import WireError, length_delimited, read_fields

VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5


def seen_by_protobuf(content: bytes) -> list[tuple]:
    """Fields as the protobuf package reads them from an unknown message."""
    seen = []
    for field in unknown_fields.UnknownFieldSet(Empty.FromString(content)):
        packed = {FIXED64: "<Q", FIXED32: "<I"}.get(field.wire_type)
        seen.append((field.field_number, struct.pack(packed, field.data) if packed else field.data))
    return seen


def read(content: bytes) -> list[tuple]:
    fields = read_fields(memoryview(content))
    return [(number, bytes(value) if isinstance(value, memoryview) else value) for number, value in fields]


ALL_KINDS = (
    b"\x08\x96\x01"  # 1: varint 150
    b"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"  # 2: varint of ten bytes, the largest
    b"\x19\x01\x02\x03\x04\x05\x06\x07\x08"  # 3: fixed64
    b"\x22\x02ab"  # 4: length-delimited
    b"\x2d\x01\x02\x03\x04"  # 5: fixed32
    b"\x22\x00"  # 4 once more, empty
    b"\x82\x7d\x01c"  # 2000: length-delimited
    b"\xf8\xff\xff\xff\x0f\x01"  # the largest number there is
)


def test_fields_of_every_kind_are_those_of_the_protobuf_package():
    assert read(ALL_KINDS) == seen_by_protobuf(ALL_KINDS)
    assert len(read(ALL_KINDS)) == 8


def test_a_real_message_is_read_as_the_protobuf_package_reads_it():
    message = descriptor_pb2.FileDescriptorProto()
    descriptor_pb2.DESCRIPTOR.CopyToProto(message)
    content = message.SerializeToString()
    assert read(content) == seen_by_protobuf(content)


def test_every_truncation_is_refused_or_ends_between_fields():
    whole = read(ALL_KINDS)
    for size in range(len(ALL_KINDS)):
        try:
            found = read(ALL_KINDS[:size])
        except WireError:
            continue
        assert found == whole[: len(found)]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x0b", "unknown wire type 3"),
        (b"\x0c", "unknown wire type 4"),
        (b"\x0e\x00", "unknown wire type 6"),
        (b"\x00\x00", "invalid field number 0"),
        (b"\xba\x80\x80\x80\x10\x00", "invalid field number 536870919"),  # field 7 to a reader that keeps 32 bits
        (b"\x80", "unterminated varint"),
        (b"\x08\x80", "unterminated varint"),
        (b"\x08" + b"\xff" * 10 + b"\x01", "unterminated varint"),
        (b"\xff" * (1 << 16) + b"\x01", "unterminated varint"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "longer than its message"),
        (b"\x0a\x05ab", "longer than its message"),
        (b"\x09abcdefg", "longer than its message"),
        (b"\x0dabc", "longer than its message"),
        (b"\x08\x00" * ((1 << 16) + 1), "too many fields"),
    ],
)
def test_invalid_messages_are_refused(content, reason):
    with pytest.raises(WireError, match=reason):
        read(content)


def test_as_many_fields_as_are_allowed_are_read():
    assert len(read(b"\x08\x00" * (1 << 16))) == 1 << 16


def test_random_bytes_raise_nothing_else():
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(2000):
        try:
            read(rng.bytes(int(rng.integers(0, 60))))
        except WireError:
            refused += 1
    assert 1000 < refused < 2000


def test_contents_are_views_of_one_number_in_order():
    content = b"\x0a\x01a\x12\x01b\x0a\x01c"
    views = length_delimited(read_fields(memoryview(content)), 1)
    assert [bytes(view) for view in views] == [b"a", b"c"]
    assert all(view.obj is content for view in views)


@pytest.mark.parametrize("number", [b"\x08\x01", b"\x09" + bytes(8), b"\x0d" + bytes(4)])
def test_a_number_in_place_of_a_message_is_refused(number):
    fields = read_fields(memoryview(b"\x0a\x01a" + number))
    with pytest.raises(WireError, match="field 1 has the wrong wire type"):
        length_delimited(fields, 1)
    assert length_delimited(fields, 2) == []
