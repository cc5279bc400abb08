"""A bundle's graphs on a backend, and the parts of a forecast that are bound to them, for one camera or for several."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from svg_runtime.backends.base import Backend, Buffer
from svg_runtime.bundle.contract import has_separate, has_step
from svg_runtime.bundle.manifest import Manifest, PrecisionVariant
from svg_runtime.errors import BackendMissingError, StreamContextError, UsageError
from svg_runtime.forecast.context import Context, ContextReader
from svg_runtime.forecast.fused_rollout import FusedRollout
from svg_runtime.forecast.primed_context import PrimedContext
from svg_runtime.forecast.rollout import Rollout
from svg_runtime.forecast.sampled_context import SampledContext, predicts_by_samples
from svg_runtime.forecast.separate_rollout import SeparateRollout
from svg_runtime.forecast.stepped_context import SteppedContext

ContextMode = Literal["window", "stream"]


@dataclass(frozen=True)
class LoadedModel:
    """What can be forecast with, and how."""

    manifest: Manifest
    variant: PrecisionVariant
    backend: Backend
    context: ContextMode
    fused: bool  # run the fused graphs

    @classmethod
    def load(
        cls,
        manifest: Manifest,
        variant: PrecisionVariant,
        backend: Backend,
        context: ContextMode | None,
        fused: bool | None,
        shuffled: bool | None,
    ) -> LoadedModel:
        """Decide what was left open.

        Raises:
            BackendMissingError, UsageError: as `check_choices`.
        """
        asked = False if shuffled else fused  # `step` contains the plain decoder
        check_choices(manifest.model.family, [variant], context, asked)
        return cls(
            manifest=manifest,
            variant=variant,
            backend=backend,
            context=context or manifest.generation.context,
            fused=_use_fused(variant, backend.prefers_fused) if asked is None else asked,
        )

    def in_lane(self, number: int) -> LoadedModel:
        """Return the same for what runs in a lane of the backend."""
        return replace(self, backend=self.backend.lane(number))

    def futures_of(self, samples: int) -> int:
        """Return how many futures to compute: a deterministic model has only one."""
        return samples if self.manifest.model.z_dim else 1

    def open_context(self, camera_count: int = 1) -> Context:
        """What reads the observed frames of some cameras, by the roles that the bundle has."""
        graphs, streams = self.variant.graphs, self.context == "stream"
        if not graphs.keys() & {"encoder", "prime"}:
            return SteppedContext(self.backend, self.variant, streams, camera_count)
        if has_separate(self.variant):
            return ContextReader(
                backend=self.backend,
                variant=self.variant,
                pairs=1 if streams else self.manifest.generation.n_past - 1,
                # In window mode the fused graphs step the prior through the context themselves.
                keeps_state=streams or not self.fused,
                streams=streams,
                camera_count=camera_count,
            )
        if predicts_by_samples(self.variant):
            return SampledContext(self.backend, self.manifest, self.variant, camera_count)
        return PrimedContext(self.backend, self.manifest, self.variant, camera_count)

    def make_rollout(
        self, condition: Mapping[str, Buffer] | None, samples: int, horizon: int, fused: bool, camera_count: int = 1
    ) -> Rollout:
        """Return the forecast loop for a number of futures and steps, see `Rollout`.

        Raises:
            UsageError: its buffers do not fit into memory.
        """
        kind = FusedRollout if fused else SeparateRollout
        try:
            return kind(
                backend=self.backend,
                manifest=self.manifest,
                variant=self.variant,
                condition=condition,
                samples=samples,
                horizon=horizon,
                camera_count=camera_count,
            )
        except MemoryError as error:
            of_cameras = "" if camera_count == 1 else f" of {camera_count} cameras"
            raise UsageError(
                f"{samples} samples of {horizon} frames{of_cameras} do not fit into memory\n  expected fewer"
            ) from error


def check_choices(family: str, variants: Collection[PrecisionVariant], context: ContextMode | None, fused: bool | None) -> None:
    """Refuse a context mode and a set of graphs that no variant has. It takes no backend: engines may be built for minutes.

    Raises:
        UsageError: unknown context.
        StreamContextError: the stream context, for a model that can read windows of frames alone.
        BackendMissingError: the bundle does not have the requested set of graphs.
    """
    if context not in (None, "window", "stream"):
        raise UsageError(f"unknown context '{context}'\n  expected window or stream")
    if context == "stream" and not any(_can_stream(variant) for variant in variants):
        raise StreamContextError(
            f"models of the family '{family}' read windows of frames, and have no stream context\n"
            "  open it with context='window', or --context window"
        )
    if fused and not any(has_step(variant) for variant in variants):
        raise BackendMissingError(
            "the bundle has no fused graphs\n  export it again with: svg-export ckpt.pt, or open it with fused=False"
        )
    if fused is False and not any(has_separate(variant) for variant in variants):
        raise BackendMissingError("models of this family have fused graphs only\n  open the bundle without fused=False")


def _can_stream(variant: PrecisionVariant) -> bool:
    """Whether a state can be carried along: by the separate graphs, or by a `step` from frame to frame."""
    return has_separate(variant) or "prime" not in variant.graphs


def _use_fused(variant: PrecisionVariant, preferred: bool) -> bool:
    """Whether to run the fused graphs where nobody has chosen: as the backend prefers, if the bundle has both sets."""
    return has_step(variant) and (preferred or not has_separate(variant))
