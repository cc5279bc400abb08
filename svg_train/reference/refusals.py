"""Messages about files that are not taken: what the file is, what is missing or wrong, and what to run next."""

from __future__ import annotations

import json
from pathlib import Path

from svg_common.path_advice import shell_argument
from svg_train.reference.layouts import REFERENCE, SVG_PRIME, Layout, other_family
from svg_train.reference.options import Findings

EXPECTED = (
    "  expected a file that svg-train wrote (ckpt.pt or last.pt),\n"
    "  one that the training of the reference implementation or of svg-prime wrote\n"
    "  (model.pth, with encoder, decoder, frame_predictor, ..., opt), of SRVP (model.pt) or of OpenSTL,\n"
    "  or weights of such a model in a Lightning checkpoint, a state_dict or a safetensors file"
)
OTHER_WEIGHTS = "  what is wrong is in the weights, not in the settings: fetch or save the checkpoint again"
_LISTED = 60  # problems in one message
_NAMES = 4  # of an unknown model's weights
_WHOSE = {"reference": "the reference implementation's networks", "ours": "an svg-edge model"}


def beyond(settings: Path | None) -> str:
    """The advice about settings that svg-edge does not take; `settings` is the file that they can be corrected in."""
    where = f"in '{settings}'" if settings is not None else "with --model-config FILE"
    return f"  if these are not the settings that the model was trained with, correct them {where}; else it cannot be used here"


def incomplete(path: str | Path, layout: Layout, findings: Findings, model_config: Path | None) -> str:
    """Parts are missing or contradictory, or beyond our limits: all in one message.

    Args:
        path: of the checkpoint.
        layout: what it holds.
        findings: what is wrong.
        model_config: the user's settings, if there are any.
    """
    problems = findings.problems
    shown = problems[:_LISTED]
    if len(problems) > _LISTED:
        shown.append(f"and {len(problems) - _LISTED} more")
    listed = "\n  ".join(shown)
    if findings.cause == "limits":
        return f"'{path}' is {layout.kind}, of a model beyond the limits of svg-edge:\n  {listed}\n{beyond(model_config)}"
    if layout.kind in (REFERENCE, SVG_PRIME):
        reason = f"'{path}' is not {layout.kind.replace('a ', 'a complete ', 1)}:\n  {listed}"
        return f"{reason}\n{EXPECTED if findings.of_weights else _complete(path, findings, model_config)}"
    reason = f"'{path}' is {layout.kind} with weights of {_WHOSE[layout.owner]}, but not all that a forecast needs:\n  {listed}"
    return f"{reason}\n{OTHER_WEIGHTS if findings.cause == 'weights' else _complete(path, findings, model_config)}"


def _complete(path: str | Path, findings: Findings, model_config: Path | None) -> str:
    """How to give the settings that are missing or wrong, as --model-config takes them."""
    example = f", such as:\n    {json.dumps(findings.examples)}" if findings.examples else ""
    if model_config is not None:
        return f"  correct the settings in '{model_config}', which are those that the model was trained with{example}"
    if not example:  # no setting of the user's would help
        return EXPECTED
    return (
        f"  put the settings that the model was trained with into a file, settings.json{example}\n"
        f"  then: svg-export {shell_argument(path)} --model-config settings.json\n"
        "  svg-train --init takes it too"
    )


def other_model(path: str | Path, layout: Layout) -> str:
    """No weights, those of a network that we do not have, or of ours from which nothing tells its settings."""
    names = sorted(layout.tensors)[:_NAMES]
    if not names:
        return f"'{path}' contains no weights of a model that svg-edge has\n{EXPECTED}"
    family = other_family(layout.tensors)
    if family is not None:
        return (
            f"'{path}' is {layout.kind} with weights of the family '{family}', which are taken only from a file that svg-train "
            "wrote\n  expected the ckpt.pt or last.pt of that training"
        )
    return (
        f"'{path}' is {layout.kind}, but its weights are not those of a model that svg-edge has: "
        f"{', '.join(names)}{', ...' if len(layout.tensors) > _NAMES else ''}\n{EXPECTED}"
    )
