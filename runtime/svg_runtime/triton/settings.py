"""What config.pbtxt says to the model, and where the bundle is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from svg_common.validation import problem_line
from svg_runtime.bundle.manifest import Precision
from svg_runtime.errors import UsageError
from svg_runtime.forecast.model import ContextMode


class TritonSettings(BaseModel):
    """The `parameters` of config.pbtxt that are ours, in lower case; Triton's own are in upper case. All values are strings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundle: str = Field(pattern=r"^\w[\w.-]*$")  # folder beside model.py
    samples: int = 8
    horizon: int = 10
    seed: int = Field(0, ge=0)  # the noise of sequence n has the seed `seed + n`
    backend: str = "auto"
    device: str | None = None
    precision: Precision | None = None
    context: ContextMode | None = None
    threads: int | None = None

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> TritonSettings:
        """Read the parameters of a model's configuration, as Triton gives it.

        Raises:
            UsageError: an unknown parameter, or an invalid value.
        """
        given = {name: value["string_value"] for name, value in config.get("parameters", {}).items() if not name.isupper()}
        try:
            return cls(**given)
        except ValidationError as error:
            lines = [problem_line(each) for each in error.errors()]
            lines += [f"expected some of: {', '.join(cls.model_fields)}"]
            raise UsageError("\n  ".join(["invalid parameters in config.pbtxt", *lines])) from error


class ModelArguments:
    """What Triton gives to `initialize`, in the form that the model needs.

    Raises:
        UsageError: config.pbtxt lacks sequence batching, lets more sequences in than there are cameras, or has invalid
            parameters.
    """

    def __init__(self, given: Mapping[str, str]) -> None:
        config = json.loads(given["model_config"])
        sequences = config.get("sequence_batching")
        if not sequences or config["max_batch_size"] < 1:
            raise UsageError(
                "config.pbtxt has no sequence_batching, or no max_batch_size\n"
                "  expected both, as svg-export --triton writes them: a sequence per camera, max_batch_size cameras"
            )
        self.name = given["model_name"]
        self.settings = TritonSettings.read(config)
        self.bundle = Path(given["model_repository"], given["model_version"], self.settings.bundle)
        self.cameras = int(config["max_batch_size"])
        candidates = int(sequences.get("oldest", {}).get("max_candidate_sequences", self.cameras))
        if candidates != self.cameras:  # with more, sequences would take each other's cameras
            raise UsageError(
                f"config.pbtxt has max_candidate_sequences {candidates}, and max_batch_size {self.cameras}\n"
                "  expected the number of cameras in both"
            )
        self.idle_s = 1e-6 * int(sequences["max_sequence_idle_microseconds"])
