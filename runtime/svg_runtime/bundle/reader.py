"""Finds and opens a bundle: validates the manifest and checks every file against it before anything is used."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from svg_common.cache import models_folder
from svg_common.errors import SvgError
from svg_common.json_text import RepeatedNameError, read_json
from svg_common.path_advice import shell_argument
from svg_common.printable import one_line
from svg_common.text_files import decode_text
from svg_common.validation import problem_line
from svg_runtime.bundle.contract import SHUFFLED_DECODER, interface_errors
from svg_runtime.bundle.manifest import (
    FILE_NAME,
    FORECAST,
    SCHEMA_VERSION,
    GraphSpec,
    Manifest,
    Precision,
    PrecisionVariant,
    TensorSpec,
    missing_quality_reports,
)
from svg_runtime.bundle.onnx_header import TensorHeader, read_header
from svg_runtime.bundle.remote.addresses import is_model_address
from svg_runtime.errors import BackendMissingError, BundleError, UsageError

EMBEDDED_FOLDER = Path(__file__).parents[1] / "embedded"  # the models in the package
EMBEDDED_MODEL = EMBEDDED_FOLDER / "digits.svgb"
EMBEDDED_NAMES = ("embedded", "digits", "camera")  # of models in the package; embedded: the one that is taken by default
ADAPT_COMMAND = "svg-train --init camera --source YOUR_CAMERA --train 30m"  # what helps when a model does not fit
KNOWS_DIGITS_ONLY = (
    "the embedded digits know only moving digits, and their forecasts of anything else mean nothing; "
    "take the model camera, or train your own: svg-train --config video --data-root YOUR_VIDEOS/"
)
MANIFEST_LIMIT = 4 << 20  # bytes
_LINE_LIMIT = 400  # characters of one problem in a message: keys and names in a hostile manifest can be megabytes
_ROUNDING_FACTOR = 10.01  # export allows ten times the rounding of float32; both are stored with four digits
_MAX_TOLERANCE = 0.01  # a hundred times that of export
MAX_ROUNDING = 1.0  # as large as the values themselves: float32 says nothing about them
GRAPH_LIMIT = 2 << 30  # bytes; also the limit of an ONNX file

_OF_CHECKPOINTS = ("", ".pt", ".pth", ".ckpt", ".tar", ".safetensors", ".bin", ".model")  # of any program
_PACKED = re.compile(r".+\.svgb\.(tar(\.\w+)?|tgz)")

_Graph = TypeVar("_Graph")


class Bundle:
    """A validated `*.svgb` folder. Graph files are read and checked on demand."""

    def __init__(
        self, path: Path, manifest: Manifest, shuffled: bool | None = None, manifest_json: bytes | None = None
    ) -> None:
        self.path = path
        self.manifest = manifest
        self._shuffled = shuffled
        self._manifest_json = manifest_json  # what `manifest` was read from; None: it is not written yet

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Read and validate the manifest of the bundle at `path`: a folder, an address or an embedded model; see `find_model`.

        Raises:
            BundleError: no bundle at `path`; or the manifest is damaged, of an unknown version, has unknown keys, or
                contradicts itself.
            UsageError: `path` is not a path, or is empty.
            SvgError: see `fetch_model`, for an address.
        """
        folder = find_model(path) if _is_embedded_name(path) else _local(path)
        _refuse_unreadable(folder)
        if folder.is_file():
            raise BundleError(f"'{folder}' is a file\n  expected a *.svgb folder; {_folder_of(folder)}")
        if not folder.is_dir():
            raise BundleError(
                f"no such bundle: '{folder}'\n"
                "  expected a *.svgb folder, or a model of the package: camera, digits; make one with: svg-export ckpt.pt"
            )
        manifest, manifest_json = _read_manifest(folder / FILE_NAME)
        return cls(folder, manifest, manifest_json=manifest_json)

    def with_decoder(self, shuffled: bool) -> Bundle:
        """The same bundle with one decoder, called `decoder`: the graph `decoder_shuffled`, or the plain one."""
        return Bundle(self.path, self.manifest, shuffled, self._manifest_json)

    def variant(self, precision: Precision) -> PrecisionVariant:
        """Return the graphs of one precision.

        Raises:
            BackendMissingError: the bundle was exported without it, or without the decoder that was chosen.
        """
        if precision not in self.manifest.variants:
            has = ", ".join(self.manifest.variants)
            raise BackendMissingError(
                f"'{self.path.name}' has no {precision} variant, only {has}\n  {self._instead_of(precision)}"
            )
        variant = self.manifest.variants[precision]
        if self._shuffled and SHUFFLED_DECODER not in variant.graphs:
            raise BackendMissingError(
                f"the {precision} graphs of '{self.path.name}' have no {SHUFFLED_DECODER}\n"
                "  expected a DCGAN exported without --no-shuffled, in fp32 or bf16; or open it with shuffled=False"
            )
        return variant.model_copy(update={"graphs": self._with_chosen_decoder(variant.graphs)})

    def graphs(self, precision: Precision) -> dict[str, bytes]:
        """Read all ONNX files of one precision, each checked against hash, size, interface and bundle id.

        Raises:
            BundleError: lists every file that is missing, changed, or does not match the manifest.
        """
        self.variant(precision)
        return self._with_chosen_decoder(self._read(self.manifest.variants[precision].graphs))

    def check(self) -> None:
        """Check all files of all precisions in the same way, and the graphs for servers with them.

        Raises:
            BundleError: as `graphs`.
        """
        for variant in self.manifest.variants.values():
            self._read(variant.files)

    def content(self, file: str) -> bytes:
        """Return a file of the opened bundle for a copy of it: manifest.json, or a graph by its path in the bundle.

        A copy that is made of these alone holds together, also if another export takes the folder's place meanwhile.

        Raises:
            BundleError: the graph is not the one of the manifest any more.
            OSError: it cannot be read.
        """
        if file == FILE_NAME:
            assert self._manifest_json is not None
            return self._manifest_json
        specs = (spec for variant in self.manifest.variants.values() for spec in variant.files.values())
        sha256 = next(spec.sha256 for spec in specs if spec.file == file)
        try:
            content = (self.path / file).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            content = b""
        if hashlib.sha256(content).hexdigest() != sha256:
            raise BundleError(
                f"'{self.path}' was changed while it was copied: {file} is not the one of its manifest any more\n"
                "  wait until no other program writes it, and run the command again"
            )
        return content

    def forecast_graph(self, precision: Precision) -> bytes:
        """Read the graph `forecast` of one precision, checked as `graphs` checks the others.

        Raises:
            BackendMissingError: the bundle was exported without it.
            BundleError: its file is missing, changed, or does not match the manifest.
        """
        spec = self.variant(precision).forecast
        if spec is None:
            raise BackendMissingError(
                f"'{self.path.name}' has no {precision} graph '{FORECAST}'\n  export it with: svg-export ckpt.pt --server"
            )
        return self._read({FORECAST: spec})[FORECAST]

    def _instead_of(self, missing: Precision) -> str:
        """What to do without a precision: export it, where the user may have the checkpoint, or take another one."""
        flag = "" if missing == "fp32" else f" --{missing}"
        ways = [f"open it with precision='{name}', or --{name}" for name in self.manifest.variants if name != "fp32"]
        if flag:
            ways.append(f"open it without precision='{missing}', or without{flag}")
        if not (_is_in_package(self.path) or _is_fetched(self.path)):
            ways.insert(0, f"export it with: svg-export ckpt.pt{flag}")
        return "; or ".join(ways)

    def _read(self, graphs: Mapping[str, GraphSpec]) -> dict[str, bytes]:
        contents, problems = {}, []
        for graph_name, spec in graphs.items():
            try:
                contents[graph_name] = self._checked(graph_name, spec)
            except (BundleError, OSError) as error:
                problems.append(f"{spec.file}: {error}")
        if problems:
            replaced = self._is_replaced()
            what = "was replaced while it was read" if replaced else "is damaged"
            advice = "run the command again" if replaced else _mending(self.path)
            raise BundleError(f"the bundle '{self.path}' {what}:\n  " + "\n  ".join(problems) + f"\n  {advice}", problems)
        return contents

    def _is_replaced(self) -> bool:
        """Whether another export has taken its place since it was opened."""
        with suppress(OSError):
            return self._manifest_json not in (None, (self.path / FILE_NAME).read_bytes())
        return False

    def _with_chosen_decoder(self, graphs: Mapping[str, _Graph]) -> dict[str, _Graph]:
        if self._shuffled is None or "decoder" not in graphs:
            return dict(graphs)
        chosen = graphs[SHUFFLED_DECODER if self._shuffled else "decoder"]
        return {name: graph for name, graph in graphs.items() if name != SHUFFLED_DECODER} | {"decoder": chosen}

    def _checked(self, graph_name: str, spec: GraphSpec) -> bytes:
        file = self.path / spec.file
        if not file.is_file():
            raise BundleError("missing")
        if not file.resolve().is_relative_to(self.path.resolve()):
            raise BundleError("points outside the bundle")
        size = file.stat().st_size
        if size != spec.bytes or size > GRAPH_LIMIT:
            raise BundleError(f"{size} bytes, the manifest says {spec.bytes}")
        content = file.read_bytes()
        if hashlib.sha256(content).hexdigest() != spec.sha256:
            raise BundleError("changed since export (its SHA-256 is not the manifest's)")
        header = read_header(content)
        _compare("inputs", header.inputs, spec.inputs)
        _compare("outputs", header.outputs, spec.outputs)
        if header.opset != spec.opset:
            raise BundleError(f"its opset is {header.opset}, the manifest says {spec.opset}")
        expected = {"svg_bundle_id": self.manifest.bundle_id, "svg_graph": graph_name}
        stamp = {key: header.metadata.get(key) for key in expected}
        if stamp != expected:
            raise BundleError(f"belongs to another bundle or graph: its metadata has {stamp}, expected {expected}")
        return content


def model_name(bundle: Path) -> str:
    """The name of a bundle for messages, which says if it is one of the package."""
    return f"{bundle.name} (embedded)" if bundle.parent == EMBEDDED_FOLDER else bundle.name


def find_model(path: str | Path | None, real_video: bool = False) -> Path:
    """Choose the bundle: `path`, else the newest *.svgb in the current folder, else an embedded model.

    Args:
        path: a folder; an address, which is fetched, see `fetch_model`; or one of `EMBEDDED_NAMES`, unless a folder has that
            name. None: the default.
        real_video: the default embedded model is then that of cameras, if the package has it; otherwise that of digits.

    Raises:
        BundleError: the package was built without this embedded model.
        SvgError: see `fetch_model`, for an address.
    """
    if path is not None and not _is_embedded_name(path):
        return _local(path)
    here = [folder for folder in Path.cwd().glob("*.svgb") if os.path.isfile(folder / FILE_NAME)]
    if here and path is None:
        return max(here, key=lambda folder: ((folder / FILE_NAME).stat().st_mtime_ns, folder.name))
    name = str(path)
    if path is None or name == "embedded":
        name = "camera" if real_video and (EMBEDDED_FOLDER / "camera.svgb").is_dir() else "digits"
    model = EMBEDDED_FOLDER / f"{name}.svgb"
    if not model.is_dir():
        raise BundleError(
            f"this installation has no embedded model '{name}'\n  choose one with --model ckpt.svgb, or reinstall svg-edge"
        )
    return model


def _is_embedded_name(path: str | Path) -> bool:
    return str(path) in EMBEDDED_NAMES and not Path(path).is_dir()


def _local(path: str | Path) -> Path:
    if not isinstance(path, (str, os.PathLike)):
        raise UsageError(
            f"a bundle's path is {path!r}\n  expected a *.svgb folder, or an address such as hf://user/name@revision"
        )
    if os.fspath(path) == "":  # pathlib takes it for the current folder
        raise UsageError(
            "a bundle's path is empty\n  expected a *.svgb folder, or an address such as hf://user/name@revision; "
            "is it a variable that is not set?"
        )
    if not is_model_address(path):
        return Path(path)
    from svg_runtime.bundle.remote.fetch import fetch_model  # it reads bundles itself

    return fetch_model(os.fspath(path))


def _mending(folder: Path) -> str:
    """What to do about a damaged bundle: one that was fetched is fetched again."""
    if _is_fetched(folder):
        return f"remove it, and the next start fetches it again: rm -r {shell_argument(folder)}"
    return "reinstall svg-edge" if _is_in_package(folder) else "export it again with: svg-export ckpt.pt"


def _is_fetched(folder: Path) -> bool:
    with suppress(SvgError):  # no cache folder
        return folder.resolve().is_relative_to(models_folder().resolve())
    return False


def _is_in_package(folder: Path) -> bool:
    return folder.resolve().is_relative_to(EMBEDDED_FOLDER.resolve())


def _folder_of(file: Path) -> str:
    """How to get the folder that is meant by a file: a part of it, the whole of it in an archive, or its checkpoint."""
    if file.name == FILE_NAME:
        return f"give the one that this manifest is in: {shell_argument(file.parent)}"
    if file.suffix == ".onnx":
        return f"give the one that has this graph and a {FILE_NAME}"
    if _is_packed(file):
        return f"unpack it with: tar -xf {shell_argument(file)}, and give the folder"
    if _shows_pictures(file):
        return f"watch a video or a picture with: svg-live --source {shell_argument(file)}"
    if file.suffix.lower() in _OF_CHECKPOINTS:
        return f"convert a checkpoint with: svg-export {shell_argument(file)}"
    return "make one with: svg-export ckpt.pt"


def _shows_pictures(file: Path) -> bool:
    from svg_common.video.clips import IMAGE_SUFFIXES  # only for an error
    from svg_common.video.reader import VIDEO_SUFFIXES

    return file.suffix.lower() in {*VIDEO_SUFFIXES, *IMAGE_SUFFIXES}


def _is_packed(file: Path) -> bool:
    """Whether a file is a bundle in an archive: by its name, or by what is in it, as it may have been renamed."""
    from svg_runtime.bundle.remote.tar_files import TarFiles  # only for an error

    if _PACKED.fullmatch(file.name):
        return True
    with suppress(BundleError, OSError), file.open("rb") as stream:
        return FILE_NAME in TarFiles(stream, file.stat().st_size).sizes
    return False


def _refuse_unreadable(path: Path) -> None:
    """Raise a BundleError of a path that the system cannot look at; of one that does not exist, the caller knows more."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:  # too long, no permission, a loop of links, a NUL byte
        shown = one_line(str(path))
        raise BundleError(
            f"'{shown if len(shown) <= _LINE_LIMIT else f'{shown[:_LINE_LIMIT]} ...'}' cannot be opened: "
            f"{getattr(error, 'strerror', None) or error}\n  expected the path of a *.svgb folder"
        ) from error


def _read_manifest(file: Path) -> tuple[Manifest, bytes]:
    """The manifest, and the bytes that it was read from."""
    try:
        if not file.is_file():  # reading a pipe or a device might never end
            raise BundleError(f"'{file.parent}' is not a bundle: it has no {FILE_NAME}\n  make one with: svg-export ckpt.pt")
        with file.open("rb") as stream:
            text = stream.read(MANIFEST_LIMIT + 1)
        if len(text) > MANIFEST_LIMIT:
            raise BundleError(f"'{file}' is too large for a manifest (over {MANIFEST_LIMIT >> 20} MiB)")
        content = read_json(decode_text(text))
    except OSError as error:
        raise BundleError(f"'{file}' cannot be read: {error.strerror}") from error
    except RepeatedNameError as error:
        raise _invalid(file, [str(error)]) from error
    except (ValueError, RecursionError) as error:
        raise BundleError(f"'{file}' is not valid JSON: {error}\n  export the bundle again with: svg-export ckpt.pt") from error
    _check_version(file, content)
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        lines = [problem_line(item) for item in error.errors()]
        raise _invalid(file, lines) from error
    lines = interface_errors(manifest) + missing_quality_reports(manifest) + _failed_parity(manifest)
    if lines:
        raise _invalid(file, lines)
    return manifest, text


def _failed_parity(manifest: Manifest) -> list[str]:
    """List variants with an error above the tolerance of the parity gate, or what rounding in a long loop excuses."""
    failed = []
    for precision, variant in manifest.variants.items():
        parity, where = variant.parity, f"variants.{precision}.parity"
        if parity is None:
            continue
        if parity.tolerance is None:
            if precision == "fp32":
                failed.append(f"{where}.tolerance: expected a number, the largest error that its gate allows")
            continue
        rounding = max(parity.rounding or [0.0])
        if parity.tolerance > _MAX_TOLERANCE:
            failed.append(f"{where}.tolerance: {parity.tolerance:g}, expected at most {_MAX_TOLERANCE:g}")
        if rounding > MAX_ROUNDING:
            failed.append(f"{where}.rounding: {rounding:g}, expected at most {MAX_ROUNDING:g}")
        allowed = max(parity.tolerance, _ROUNDING_FACTOR * rounding)
        if parity.max_error > allowed:
            failed.append(
                f"{where}: does not pass its gate: the largest error is {parity.max_error:g}, expected at most {allowed:g}"
            )
    return failed


def _invalid(file: Path, lines: list[str]) -> BundleError:
    shown = [line if len(line) <= _LINE_LIMIT else f"{line[:_LINE_LIMIT]} ..." for line in lines[:20]]
    return BundleError(
        f"'{file}' is not a valid manifest:\n  " + "\n  ".join(shown) + "\n  export the bundle again with: svg-export ckpt.pt",
        shown,
    )


def _check_version(file: Path, content: object) -> None:
    version = content.get("schema_version") if isinstance(content, Mapping) else None
    if type(version) is not int or version != SCHEMA_VERSION:
        raise BundleError(
            f"'{file}' has schema version {repr(version)[:40]}; this svg-edge reads version {SCHEMA_VERSION}\n"
            "  export the bundle again with this release, or install the release that wrote it"
        )


def _compare(side: str, headers: tuple[TensorHeader, ...], promised: tuple[TensorSpec, ...]) -> None:
    actual = [(tensor.name, tensor.dtype, tensor.shape) for tensor in headers]
    expected = [(tensor.name, tensor.dtype, tensor.shape) for tensor in promised]
    if actual != expected:
        raise BundleError(f"its {side} are {actual}, the manifest says {expected}")
