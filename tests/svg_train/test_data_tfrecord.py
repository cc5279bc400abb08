"""TFRecord files and tf.train.Example messages: against independent writers, and with every kind of damage."""

from __future__ import annotations

import struct

import google_crc32c
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from tensorboard.summary.writer.record_writer import RecordWriter

from svg_common import command
from svg_common.errors import MissingExtraError
from svg_train.data import tfrecord
from svg_train.data.frame_cache import Problems
from svg_train.data.tfrecord import ExampleError, TFRecordReader, bytes_features, masked_crc32c

CONTENTS = [b"first", b"", bytes(range(256)) * 40, b"last"]


def crc(content: bytes) -> bytes:
    """TFRecord's masked CRC-32C, written down independently of the code under test."""
    plain = google_crc32c.value(content)
    return struct.pack("<I", ((plain >> 15 | plain << 17) % 2**32 + 0xA282EAD8) % 2**32)


def record(content: bytes) -> bytes:
    length = struct.pack("<Q", len(content))
    return length + crc(length) + content + crc(content)


def read(path) -> tuple[list[bytes], str | None]:
    problems = Problems()
    with TFRecordReader(path, problems) as reader:
        return list(reader), problems.summary()


@pytest.fixture(scope="module")
def example_type():
    """tf.train.Example, made by the protobuf library from the published message definitions."""
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="t", syntax="proto3")
    field_type = descriptor_pb2.FieldDescriptorProto

    def message(name, *fields):
        added = file.message_type.add(name=name)
        for number, (field, label, kind) in enumerate(fields, 1):
            if isinstance(kind, str):
                added.field.add(name=field, number=number, label=label, type=field_type.TYPE_MESSAGE, type_name=f".t.{kind}")
            else:
                added.field.add(name=field, number=number, label=label, type=kind)
        return added

    one, many = field_type.LABEL_OPTIONAL, field_type.LABEL_REPEATED
    message("BytesList", ("value", many, field_type.TYPE_BYTES))
    message("FloatList", ("value", many, field_type.TYPE_FLOAT))
    message("Int64List", ("value", many, field_type.TYPE_INT64))
    message("Feature", ("bytes_list", one, "BytesList"), ("float_list", one, "FloatList"), ("int64_list", one, "Int64List"))
    features = message("Features", ("feature", many, "Features.FeatureEntry"))
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=one, type=field_type.TYPE_STRING)
    entry.field.add(name="value", number=2, label=one, type=field_type.TYPE_MESSAGE, type_name=".t.Feature")
    message("Example", ("features", one, "Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Example"))


@pytest.fixture
def example(example_type) -> bytes:
    """An Example as TensorFlow would write it, with features of every kind."""
    message = example_type()
    message.features.feature["0/image_aux1/encoded"].bytes_list.value.append(bytes(300))
    message.features.feature["1/image_aux1/encoded"].bytes_list.value.extend([b"a picture", b"a second value"])
    message.features.feature["0/action"].float_list.value.extend([0.5, -1.5, 2, 3])
    message.features.feature["step"].int64_list.value.extend([1, -1, 1 << 40])
    message.features.feature["empty"].bytes_list.SetInParent()
    message.features.feature["größe"].bytes_list.value.append(b"")
    return message.SerializeToString()


def test_checksums_are_those_of_the_standard():
    assert google_crc32c.value(b"123456789") == 0xE3069283  # the check value of CRC-32C
    assert masked_crc32c(b"123456789") == struct.unpack("<I", crc(b"123456789"))[0]


def test_files_of_an_independent_writer_are_read(tmp_path):
    path = tmp_path / "a.tfrecords"
    with path.open("wb") as file:
        writer = RecordWriter(file)
        for content in CONTENTS:
            writer.write(content)
        writer.flush()
        assert path.read_bytes() == b"".join(map(record, CONTENTS))
    assert read(path) == (CONTENTS, None)


def test_a_damaged_record_does_not_affect_the_others(tmp_path):
    parts = [record(content) for content in CONTENTS]
    content = bytearray(b"".join(parts))
    content[len(parts[0]) + len(parts[1]) + 12 + 100] ^= 1
    path = tmp_path / "a.tfrecords"
    path.write_bytes(content)
    assert read(path) == ([CONTENTS[0], CONTENTS[1], CONTENTS[3]], "record 3 has a wrong checksum")


def test_nothing_is_read_after_a_damaged_length(tmp_path):
    parts = [record(content) for content in CONTENTS]
    content = bytearray(b"".join(parts))
    content[len(parts[0])] ^= 1
    path = tmp_path / "a.tfrecords"
    path.write_bytes(content)
    found, problem = read(path)
    assert found == CONTENTS[:1]
    assert (
        problem
        == f"the length of record 2 has a wrong checksum, and the last {len(content) - len(parts[0])} bytes cannot be read"
    )


def test_a_truncated_file_gives_its_whole_records(tmp_path):
    first, second = record(b"first"), record(b"second")
    path = tmp_path / "a.tfrecords"
    for size in range(1, len(second)):
        path.write_bytes(first + second[:size])
        assert read(path) == ([b"first"], "the file is truncated in record 2"), size


@pytest.mark.parametrize("content", [b"\x1f\x8b\x08\x00" + bytes(30), b"PK\x03\x04 no records at all, but text"])
def test_other_files_are_distinguished_from_damaged_ones(tmp_path, content):
    path = tmp_path / "a.tfrecords"
    path.write_bytes(content)
    assert read(path) == ([], "it is not a TFRecord file: the length of its first record has a wrong checksum")


def test_a_huge_announced_length_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "a.tfrecords"
    length = struct.pack("<Q", 1 << 60)
    path.write_bytes(length + crc(length) + bytes(100))
    assert read(path) == ([], "the file is truncated in record 1")
    monkeypatch.setattr(tfrecord, "_MAX_RECORD", 4)
    path.write_bytes(record(b"12345"))
    assert read(path) == ([], "record 1 announces 5 bytes, over the limit of 4")


def test_of_many_problems_the_first_are_named(tmp_path):
    path = tmp_path / "a.tfrecords"
    path.write_bytes((record(b"x")[:-1] + b"\0") * 50)
    found, problem = read(path)
    assert found == []
    assert problem == "; ".join(f"record {i} has a wrong checksum" for i in (1, 2, 3)) + "; and 47 more"


def test_progress_ends_at_one(tmp_path):
    path = tmp_path / "a.tfrecords"
    path.write_bytes(record(b"a" * 84) + record(b"b" * 84))
    with TFRecordReader(path, Problems()) as reader:
        assert [(reader.number, reader.done) for _ in reader] == [(1, 0.5), (2, 1.0)]


def test_a_missing_checksum_library_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "is_installed", lambda module: module != "google_crc32c")
    with pytest.raises(MissingExtraError, match=r"svg-edge\[train\]"):
        TFRecordReader(tmp_path / "a.tfrecords", Problems())


def test_bytes_features_of_an_example(example):
    found = {name: bytes(value) for name, value in bytes_features(example).items()}
    assert found == {"0/image_aux1/encoded": bytes(300), "1/image_aux1/encoded": b"a picture", "größe": b""}
    assert bytes_features(b"") == {}


def test_fields_of_later_versions_are_skipped(example):
    further = b"\x10\x96\x01" + b"\x19" + bytes(8) + b"\x25" + bytes(4) + b"\x2a\x02ab"  # fields 2 to 5, all wire types
    assert {*bytes_features(further + example)} == {*bytes_features(example)}


def test_every_truncated_example_is_an_error_or_a_smaller_example(example):
    whole = {name: bytes(value) for name, value in bytes_features(example).items()}
    refused = 0
    for size in range(len(example)):
        try:
            found = bytes_features(example[:size])
        except ExampleError:
            refused += 1
        else:
            assert {name: bytes(value) for name, value in found.items()}.items() <= whole.items()
    assert refused > 0.9 * len(example)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"\x0b", "unknown wire type 3"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "unterminated varint"),
        (b"\x0a\x80", "unterminated varint"),
        (b"\x0a\x05ab", "longer than its message"),
        (b"\x19abc", "longer than its message"),
        (b"\x0a\x0c\x0a\x0a\x0a\x01\xff\x12\x05\x0a\x03\x0a\x01x", "not UTF-8"),
    ],
)
def test_invalid_examples_are_refused(message, reason):
    with pytest.raises(ExampleError, match=reason):
        bytes_features(message)
