"""Checkpoints of svg-train, of the reference in every container of torch.save, and of other programs with their settings."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

from svg_common.errors import SvgError
from svg_train.reference.checkpoint import load_any_checkpoint
from tests.fuzz.mutations import mutate_bytes, mutate_json, mutate_zip
from tests.fuzz.scratch import scratch_file
from tests.fuzz.target import SEEDS, Target

# Instructions of pickle, and names that only a hostile file has.
WORDS = (
    b"(", b")", b"}", b"]", b"\x85", b"\x86", b"\x87", b"t", b"l", b"d", b"s", b"u", b"a", b"e", b"0", b"1", b"2", b"R",
    b"b", b"o",
    b"Q", b"\x81", b"\x92", b"\x94", b"\x93", b"h\x00", b"q\x00", b"j\xff\xff\xff\x7f", b"\x8a\x09" + b"\xff" * 9, b"K\x00",
    b"N",
    b"cos\nsystem\n", b"cbuiltins\nexec\n", b"X\x04\x00\x00\x00exit", b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nSize\n",
    b"ccollections\nOrderedDict\n", b"ctorch\nFloatStorage\n", b"X\x07\x00\x00\x00storage", b"G\x7f\xf8" + bytes(6),
    b"\x89", b"\x88",
    b"X\x06\x00\x00\x00n_past", b"X\x03\x00\x00\x00opt", b"X\x06\x00\x00\x00format", b"J\xff\xff\xff\xff", b"M\xff\xff", b".",
    b"X\x05\x00\x00\x00prior", b"X\x05\x00\x00\x00g_dim", b"X\x02\x00\x00\x00nf", b"X\x10\x00\x00\x00predictor_layers",
)  # fmt: skip


def load_and_build(path: Path) -> None:
    load_any_checkpoint(path).build()


def mutate_pickle(data: bytes, random: Random) -> bytes:
    """Replace a small integer by one of any size, or anything by anything."""
    at = data.find(b"K", random.randrange(len(data) + 1))
    if at < 0 or random.random() < 0.6:
        return mutate_bytes(data, random, WORDS)
    size = random.choice((1, 2, 3, 4, 8, 14))
    return data[:at] + b"\x8a" + bytes([size]) + random.randbytes(size) + data[at + 2 :]


def mutate_stream(data: bytes, random: Random) -> bytes:
    """Most of a file are weights, which may be anything: change the pickles before them."""
    start = data.find(b"storage") if random.random() < 0.5 else -1
    end = min(len(data), random.choice((200, 2000, 20000))) if random.random() < 0.9 else len(data)
    if 0 <= start < end:
        return data[:start] + mutate_pickle(data[start:end], random) + data[end:]
    return mutate_pickle(data[:end], random) + data[end:]


def place_with_settings(data: bytes) -> Path:
    """SRVP's weights, whose settings are beside them."""
    scratch_file("srvp/config.json", (SEEDS / "model-settings" / "srvp.json").read_bytes())
    return scratch_file("srvp/model.pt", data)


def load_with_settings(settings: Path) -> None:
    """Settings of either program, with the weights of both."""
    refused = []
    for weights in (SEEDS / "srvp-checkpoint" / "model.pt", SEEDS / "reference-zip" / "openstl.pth"):
        try:
            load_any_checkpoint(weights, settings).build()
        except SvgError as error:
            refused.append(error)
    if len(refused) == 2:
        raise refused[0]


def _target(suffix: str, mutate: Callable[[bytes, Random], bytes]) -> Target:
    return Target(read=load_and_build, place=partial(scratch_file, f"model{suffix}"), mutate=mutate)


TARGETS = {
    "checkpoint": _target(".pt", partial(mutate_zip, mutate=mutate_pickle)),
    "reference-zip": _target(".pth", partial(mutate_zip, mutate=mutate_pickle)),
    "reference-stream": _target(".pth", mutate_stream),
    "reference-tar": _target(".tar", partial(mutate_bytes, words=WORDS)),
    "srvp-checkpoint": Target(read=load_and_build, place=place_with_settings, mutate=partial(mutate_zip, mutate=mutate_pickle)),
    "model-settings": Target(read=load_with_settings, place=partial(scratch_file, "settings.json"), mutate=mutate_json),
}
