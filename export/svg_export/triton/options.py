"""The options of `svg-export` for Triton Inference Server. Heavy imports wait until they are used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from svg_common.errors import UsageError
from svg_common.files import folder_name
from svg_common.path_advice import shell_argument
from svg_common.signals import defer_interrupts

if TYPE_CHECKING:
    from rich.console import Console

    from svg_runtime.bundle.manifest import Manifest

MAX_CAMERAS = 4096  # more is more likely a typing error
REPOSITORIES = ("python", "onnxruntime", "tensorrt")  # one for each backend, of which a server is given one or more
MIN_IDLE_S, MAX_IDLE_S = 0.1, 86400.0
_NAMES = "Triton's addresses take letters of ASCII, digits, _, . and - as they are"


@dataclass(frozen=True)
class TritonOptions:
    """--triton and what follows from it.

    Raises:
        UsageError: an option that has no effect.
    """

    out: Path | None
    cameras: int | None
    samples: int | None
    horizon: int | None
    idle_s: float | None

    def __post_init__(self) -> None:
        chosen = {"cameras": self.cameras, "samples": self.samples, "horizon": self.horizon, "idle": self.idle_s}
        given = [f"--triton-{name}" for name, value in chosen.items() if value is not None]
        if self.out is None and given:
            raise UsageError(f"{', '.join(given)} has no effect without --triton\n  add --triton models/, or remove it")

    @property
    def folders(self) -> dict[str, Path]:
        """The model repositories, of which a server reads everything, by the names that they have in messages."""
        return {} if self.out is None else {f"--triton ({name})": self.out / name for name in REPOSITORIES}

    def check(self, bundle: Path) -> None:
        """Refuse, before the work, to replace a folder that is not ours, or a model of a bundle with another name.

        Raises:
            UsageError: there is one of the name of a model.
        """
        if self.out is None:
            return
        with defer_interrupts():
            from svg_export.triton.repository import model_name, refuse_foreign_models

        refuse_foreign_models(self.out, model_name(bundle), bundle)

    def check_horizon(self, bundle: Path) -> None:
        """Refuse, before the work, a horizon that not all models of a finished bundle can have.

        Raises:
            UsageError: its graph forecast has another one.
            BundleError: the bundle is damaged.
        """
        if self.out is None:
            return
        with defer_interrupts():
            from svg_runtime.bundle.reader import Bundle

        self._horizon_of(Bundle.open(bundle).manifest, bundle)

    def _horizon_of(self, manifest: Manifest, bundle: Path) -> int | None:
        """Frames per future of all models: a graph forecast has them fixed in it. None: nothing was chosen."""
        from svg_export.triton.model_configs import forecast_horizons

        fixed = forecast_horizons(manifest)
        if self.horizon is not None and fixed - {self.horizon}:
            raise UsageError(
                f"--triton-horizon {self.horizon} differs from the horizon that is fixed in the graph forecast of '{bundle}': "
                f"{', '.join(map(str, sorted(fixed)))}\n"
                f"  remove it, or export the checkpoint: svg-export ckpt.pt --triton models/ --triton-horizon {self.horizon}"
            )
        return self.horizon or min(fixed, default=None)

    def write(self, bundle: Path, console: Console) -> list[str]:
        """Write the repositories of a bundle, say what they are, and return the models' folders.

        Raises:
            UsageError: see `check` and `check_horizon`.
            BundleError: the bundle is damaged.
        """
        assert self.out is not None
        with defer_interrupts():
            from svg_export.triton.model_configs import ServingChoice
            from svg_export.triton.repository import model_name, write_repositories
            from svg_runtime.bundle.reader import Bundle

        opened = Bundle.open(bundle)
        horizon = self._horizon_of(opened.manifest, bundle)
        chosen = {"cameras": self.cameras, "samples": self.samples, "horizon": horizon, "idle_s": self.idle_s}
        choice = ServingChoice(**{name: value for name, value in chosen.items() if value is not None})  # type: ignore[arg-type]
        name = model_name(bundle)
        folders = write_repositories(opened, name, self.out, choice)
        for folder in folders:
            console.print(f"wrote {folder}", markup=False)
        if name != folder_name(bundle).removesuffix(".svgb"):
            console.print(f"  the bundle '{folder_name(bundle)}' is the model '{name}': {_NAMES}", markup=False)
        if len(folders) == 1:
            console.print("  for the Python backend alone: the bundle has no graph forecast, which --server adds", markup=False)
        console.print(f"  serve with: tritonserver --model-repository={shell_argument(self.out / 'python')}", markup=False)
        return [str(folder) for folder in folders]
