"""Hostile and damaged files: no code of theirs runs, memory stays bounded, and each gets one clear error."""

from __future__ import annotations

import json
import os
import pickle
import random
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.reference_networks import build
from svg_train.reference import inert_pickle, layouts
from svg_train.reference.checkpoint import ReferenceCheckpointError, load_any_checkpoint
from svg_train.reference.inert_pickle import PickleFormatError, Record, load_inert
from tests.svg_train.reference.reference_files import (
    Made,
    Name,
    OldTorch,
    Persistent,
    Raw,
    opcodes,
    pickled,
    stream_file,
    write_checkpoint,
    zip_file,
)

ROOT = Path(__file__).resolve().parents[3]
SYSTEM = Name("os", "system")
MEMORY_MB = 100  # a file may cost this much: 8 MB of pickle, as values


def attacks(marker: Path) -> dict[str, object]:
    """Values that run a command in a plain unpickler."""
    command = f"touch {marker}"
    evaluate = Made(Name("builtins", "eval"), (f"open({str(marker)!r}, 'w')",))
    return {
        "os.system": Made(SYSTEM, (command,)),
        "posix.system as NEWOBJ": Made(Name("posix", "system"), (command,), opcode=b"\x81"),
        "eval": evaluate,
        "python 2 eval": Made(Name("__builtin__", "eval"), (f"open({str(marker)!r}, 'w')",)),
        "exec": Made(Name("builtins", "exec"), (f"open({str(marker)!r}, 'w')",)),
        "nested": Made(Name("builtins", "map"), (Name("builtins", "eval"), [Made(Name("builtins", "str"), (evaluate,))])),
        "getattr chain": Made(Made(Name("builtins", "getattr"), (Name("os", "path"), "os")), (command,)),  # type: ignore[arg-type]
        "instance": Raw(b"(" + opcodes(command) + b"ios\nsystem\n"),
        "object": Raw(b"(" + opcodes(SYSTEM) + opcodes(command) + b"o"),
        "stack global": Raw(opcodes("os") + opcodes("system") + b"\x93" + opcodes((command,)) + b"R"),
        "new object with keywords": Raw(opcodes(SYSTEM) + opcodes((command,)) + opcodes({}) + b"\x92"),
        "state of a class": Made(Name("collections", "OrderedDict"), (), {"__reduce__": Made(SYSTEM, (command,))}),
        "setstate": Made(Name("functools", "partial"), (SYSTEM,), (SYSTEM, (command,), {}, None)),
        "class changed by BUILD": Raw(opcodes(Name("argparse", "Namespace")) + opcodes({"__setstate__": SYSTEM}) + b"b"),
        "our own function changed by BUILD": Raw(
            opcodes(Name("torch._utils", "_rebuild_tensor")) + opcodes((None, {"__code__": SYSTEM})) + b"b"
        ),
        "append method": Raw(opcodes(Made(SYSTEM)) + b"(" + opcodes(command) + b"e"),
        "copyreg": Made(Name("copy_reg", "_reconstructor"), (SYSTEM, SYSTEM, command)),
        "extension registry": Raw(b"\x82\x01" + opcodes((command,)) + b"R"),
        "module loader": Made(Name("torch", "load"), (str(marker),)),
        "importer": Made(Name("importlib", "import_module"), ("this",)),
    }


def tensor(
    numel: int, shape: tuple, stride: tuple, offset: int = 0, kind: str = "FloatStorage", view: tuple | None = None
) -> Made:
    storage = Persistent(("storage", Name("torch", kind), "0", "cpu", numel, view))
    return Made(Name("torch._utils", "_rebuild_tensor"), (storage, offset, shape, stride))


def module(**members: object) -> Made:
    return Made(Name("models", "encoder"), (), {"_modules": {}, "_parameters": {}, "_buffers": {}, **members}, opcode=b"\x81")


def bombs() -> dict[str, bytes]:
    """Files that are small and would be large in memory, or take for ever."""
    doubled = b"N" + b"".join(b"2\x86" for _ in range(5000))  # t = (t, t), 5000 times: hashing it never ends
    shared = opcodes(module()) + b"".join(
        b"q\x010" + opcodes(Name("m", "M")) + b")\x81}" + opcodes("_modules") + b"}(" + opcodes("a") + b"h\x01" + opcodes("b")
        + b"h\x01usb" for _ in range(60)
    )  # fmt: skip
    pairs = opcodes([["k", 1]] * 9000) + b"q\x010]"
    copied = pairs + (opcodes(Name("collections", "OrderedDict")) + b"h\x01\x85Ra") * 20000
    data = {"0": np.zeros(4, np.float32)}
    inside = {
        "tuples as keys": Raw(b"}" + doubled + b"Ns"),
        "deep tuples": Raw(b"N" + b"\x85" * 150_000),
        "deep lists": Raw(b"]" * 90_000 + b"a" * 89_999),
        "list of itself": Raw(b"]q\x01h\x01a"),
        "long strings": Raw(b"](" + opcodes("x" * 4000) + b"q\x01" + b"h\x01" * 150_000 + b"e"),
        "dictionaries": Raw(b"](" + b"}" * 7_000_000 + b"e"),
        "copied lists": Raw(copied),
        "memo far out": Raw(b"Nr\xff\xff\xff\xff"),
        "length of a string": Raw(b"X\xff\xff\xff\xff"),
        "length of bytes": Raw(b"\x8e" + struct.pack("<Q", 1 << 62)),
        "length of a byte array": Raw(b"\x96" + struct.pack("<Q", 1 << 40)),
        "length of a number": Raw(b"\x8b\xff\xff\xff\x7f"),
        "a huge number as offset": tensor(4, (2,), (1,), 1 << 2000),
        "shared modules": Raw(shared),
        "names of shared modules": module(_parameters={"n" * 50_000: tensor(4, (4,), (1,))}),
        "tensor of zero strides": tensor(4, (1 << 20, 1 << 20), (0, 0)),
        "tensor beyond its storage": tensor(4, (4,), (1,), 1),
        "tensor of negative stride": tensor(4, (2,), (-1,), 3),
        "storage larger than the file": tensor(1 << 40, (1 << 40,), (1,)),
        "view beyond its storage": tensor(4, (8,), (1,), view=("1", 2, 8)),
        "unknown storage": tensor(4, (4,), (1,), kind="QUInt4x2Storage"),
    }
    files = {f"{name} (stream)": stream_file({"encoder": value}, data) for name, value in inside.items()}
    files |= {f"{name} (zip)": zip_file({"encoder": value}, data) for name, value in inside.items()}
    files["keys that are not there"] = b"".join(pickled(v) for v in (0x1950A86A20F9469CFC6C, 1001, {}, {}, ["1" * 9] * 1000))
    files["inflated pickle"] = zip_bomb()
    files["many entries"] = many_entries()
    files["inflated storage"] = zip_file({"encoder": tensor(1 << 25, (4,), (1,))}, {"0": zeros(25)}, zipfile.ZIP_DEFLATED)
    files["overlapping storages"] = with_listed_entries(two_storages(), {"1": {"header_offset": "0"}})
    files["storage that ends beyond the file"] = with_listed_entries(
        zip_file({"encoder": tensor(1 << 38, (4,), (1,))}, {"0": zeros(2)}), {"0": {"file_size": 1 << 40}}
    )
    files["storage that starts beyond the file"] = with_listed_entries(two_storages(), {"1": {"header_offset": 1 << 40}})
    files["storage of another size"] = with_listed_entries(two_storages(), {"1": {"file_size": 64}})
    return files


def zeros(exponent: int) -> np.ndarray:
    return np.zeros(1 << exponent, np.float32)


def two_storages() -> bytes:
    first, second = (
        Made(
            Name("torch._utils", "_rebuild_tensor"),
            (Persistent(("storage", Name("torch", "FloatStorage"), key, "cpu", 256)), 0, (256,), (1,)),
        )
        for key in "01"
    )
    return zip_file({"encoder": {"a": first, "b": second}}, {"0": zeros(8), "1": zeros(8)})


def with_listed_entries(archive: bytes, changes: dict[str, dict[str, object]]) -> bytes:
    """`archive` whose list of entries tells other offsets and sizes of storages; an offset may name another storage's key."""
    out = BytesIO(archive)
    with zipfile.ZipFile(out, "a") as changed:
        entries = {key: changed.NameToInfo[f"model/data/{key}"] for key in changes}
        offsets = {name.rpartition("/")[2]: info.header_offset for name, info in changed.NameToInfo.items()}
        for key, fields in changes.items():
            for name, value in fields.items():
                setattr(entries[key], name, offsets[value] if isinstance(value, str) else value)
                if name == "file_size":
                    entries[key].compress_size = value
        changed.comment = b"x"  # makes zipfile write the list anew
    return out.getvalue()


def zip_bomb() -> bytes:
    out = BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("model/data.pkl", bytes(200 << 20))
    return out.getvalue()


def many_entries() -> bytes:
    """The end of an archive that says that its list of entries fills the whole file."""
    size = 30 << 20
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, size, 4, 0)
    return b"PK\3\4" + bytes(size) + end


def import_all(folder: Path) -> dict:
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("the peak of a process's memory is measured through Linux's /proc")
    environment = {
        "PYTHONPATH": f"{ROOT}:{ROOT / 'export'}:{ROOT / 'runtime'}",
        "OMP_NUM_THREADS": "1",
        "PATH": "/usr/bin:/bin",
    }
    program = str(Path(__file__).with_name("hostile_import.py"))
    result = subprocess.run(
        [sys.executable, program, str(folder)], capture_output=True, text=True, env=environment, timeout=300
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout)


def damaged(whole: bytes, name: str, pieces: int) -> dict[str, bytes]:
    """`whole` cut at many places, and with single bytes changed."""
    rng = random.Random(0)
    cuts = sorted({*range(0, len(whole), max(len(whole) // pieces, 1)), len(whole) - 1, 15, 21, 40})
    files = {f"{name} cut at {cut:07d}": whole[:cut] for cut in cuts}
    for _ in range(pieces):
        place = rng.randrange(len(whole)) if rng.random() < 0.5 else rng.randrange(len(whole) // 10)
        changed = bytes([whole[place] ^ rng.randrange(1, 256)])
        files[f"{name} changed at {place:07d}"] = whole[:place] + changed + whole[place + 1 :]
    return files


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> dict:
    """The results of all hostile files, imported by one process."""
    folder, marker = tmp_path_factory.mktemp("hostile"), tmp_path_factory.mktemp("marker") / "code-ran"
    parts = build(nf=1, g_dim=2, z_dim=1, rnn_size=2)
    whole = {
        name: write_checkpoint(folder / f"  whole {name}", parts, OldTorch(4), name).read_bytes() for name in ("stream", "zip")
    }
    files = bombs() | damaged(whole["stream"], "stream", 80) | damaged(whole["zip"], "zip", 80)
    for name, value in attacks(marker).items():
        files[f"attack {name} (stream)"] = stream_file({"encoder": value, "opt": value}, {})
        files[f"attack {name} (zip)"] = zip_file({"encoder": module(_modules={"c1": value}), "opt": value}, {})
        files[f"attack {name} (magic number)"] = pickled(0x1950A86A20F9469CFC6C) + pickled(value)
    for name, content in files.items():
        (folder / name.replace("/", " ")).write_bytes(content)
    return {**import_all(folder), "code ran": marker.exists()}


def test_the_attacks_are_attacks(tmp_path):
    marker = tmp_path / "code-ran"
    pickle.loads(pickled(attacks(marker)["os.system"]))
    assert marker.exists()


def test_no_code_of_a_file_runs(report):
    assert not report["code ran"]
    acted = {name: file["events"] for name, file in report["files"].items() if file["events"]}
    assert acted == {}


def test_whole_files_load_and_all_others_get_one_clear_error(report):
    files = report["files"]
    assert files["  whole stream"]["result"] == files["  whole zip"]["result"] == "loaded"
    unexpected = {name: file["result"] for name, file in files.items() if "NOT EXPECTED" in file["result"]}
    assert unexpected == {}
    loaded = {name for name, file in files.items() if file["result"] == "loaded"}
    assert {name for name in loaded if "changed at" not in name} == {"  whole stream", "  whole zip"}
    for name in files.keys() - loaded:
        assert any(said in files[name]["result"] for said in ("expected a file that svg-train wrote", "is cut off: "))
        assert len(files[name]["result"]) < 10_000, name


def test_memory_stays_bounded(report):
    heavy = {name: file["grown_mb"] for name, file in report["files"].items() if file["grown_mb"] > MEMORY_MB}
    assert heavy == {}
    assert report["kept_mb"] < MEMORY_MB
    assert max(file["grown_mb"] for file in report["files"].values()) > 1, "nothing was measured"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tensor of zero strides (zip)", "reaches beyond its storage of 4"),
        ("storage larger than the file (stream)", "its size does not match its tensors"),
        ("storage larger than the file (zip)", "has 16 bytes, but its tensors need"),
        ("inflated pickle", "compressed or encrypted"),
        ("many entries", "list of entries is larger"),
        ("inflated storage", "compressed or encrypted"),
        ("overlapping storages", "storages overlap"),
        ("storage that ends beyond the file", "larger than the file"),
        ("storage that starts beyond the file", "ends before an entry that it lists"),
        ("storage of another size", "has 64 bytes, but its tensors need 1024"),
        ("dictionaries (stream)", "pickle instructions"),
        ("unknown storage (zip)", "QUInt4x2Storage"),
        ("attack extension registry (zip)", "EXT1"),
        ("stream cut at 0000015", "pickle exhausted"),
    ],
)
def test_errors_give_the_reason(report, name, message):
    assert message in report["files"][name]["result"]


def test_unknown_classes_become_records_that_keep_what_they_were_made_of():
    value = Made(Name("nowhere", "Thing"), (1, "two"), {"three": 3})
    record = load_inert(BytesIO(pickled([value])))[0]
    assert isinstance(record, Record)
    assert (str(record.maker), record.args, record.state) == ("nowhere.Thing", (1, "two"), {"three": 3})


def test_plain_values_of_every_protocol_survive():
    value = {
        "a": [1, -(1 << 70), 2.5, None, True, "text", b"bytes"],
        "b": ((), (1,), (1, 2, 3), {}),
        "c": {"d": [[]]},
        4: 1 << 40,
    }
    for protocol in range(6):
        stream = BytesIO(pickle.dumps(value, protocol) + b"rest")
        loaded = load_inert(stream)
        if protocol < 3:
            loaded["a"][6] = b"bytes"  # a call of codecs.encode there, thus a record
        assert loaded == value
        assert stream.read() == b"rest"


@pytest.mark.parametrize(
    "stream",
    [b"", b".", b"t.", b"a.", b"}Nu.", b"(Nu.", b"NN}s.", b"h\x07.", b"(0R.", b"Nb.", b"NQ.", b"Pid\n.", b"(o.", b"}(Nu."],
)
def test_malformed_streams_are_faults(stream):
    with pytest.raises(PickleFormatError):
        load_inert(BytesIO(stream))


def test_values_below_a_mark_cannot_be_taken():
    with pytest.raises(PickleFormatError, match="empty stack"):
        load_inert(BytesIO(b"N(\x85."))


def test_number_of_instructions_is_limited(monkeypatch):
    monkeypatch.setattr(inert_pickle, "MAX_OPCODES", 100)
    assert load_inert(BytesIO(b"N" * 99 + b".")) is None
    with pytest.raises(PickleFormatError, match="more than 100"):
        load_inert(BytesIO(b"N" * 100 + b"."))


class Compared(str):
    """A name that counts the beginnings that names are compared with."""

    __slots__ = ()
    beginnings = 0

    def startswith(self, wanted, *limits):
        Compared.beginnings += len(wanted) if isinstance(wanted, tuple) else 1
        return super().startswith(wanted, *limits)


def test_the_names_of_many_modules_around_parts_are_compared_with_few(monkeypatch):
    monkeypatch.setattr(Compared, "beginnings", 0)
    names = [f"{copy}{part}.a" for copy in ("", *(f"m{index}." for index in range(500))) for part in ("encoder", "decoder")]
    assert layouts.without_outer_module(dict.fromkeys(map(Compared, names)))
    assert 0 < Compared.beginnings < 100 * len(names)


class Described:
    """Pickled as an object of numpy's `dtype` with `description` in place of a type."""

    def __init__(self, description: list) -> None:
        self._description = description

    def __reduce__(self):
        return np.dtype, (self._description,)


class Scalar(Described):
    """Pickled as a number of numpy's of such a type."""

    def __reduce__(self):
        return np.int64(1).__reduce__()[0], (Described(self._description), b"x" * 8)


def test_types_of_numpy_that_hold_lists_in_lists_are_not_written_out(tmp_path):
    nested: list = []
    for _ in range(26):  # 67 million brackets
        nested = [nested, nested]
    torch.save({"opt": {"n_past": Scalar(nested)}, "encoder": {"a": torch.zeros(1)}}, tmp_path / "a.pth")
    tracemalloc.start()
    try:
        with pytest.raises(ReferenceCheckpointError, match=r"opt\.n_past is missing"):
            load_any_checkpoint(tmp_path / "a.pth")
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()
