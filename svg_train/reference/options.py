"""Hyper-parameters of a reference checkpoint: from its argparse Namespace, checked against the shapes of its parameters.

svg-prime, the re-implementation with spatial latents, has the same options and some more: width factors M and K, actions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeGuard, get_args

from pydantic import BaseModel, ValidationError

from svg_common.errors import UsageError
from svg_train.config import DataConfig, TrainConfig, problem_lines
from svg_train.families.base import MAX_LAYERS, MAX_SIZE
from svg_train.reference.modules import Tensors, entries
from svg_train.reference.tensors import StoredTensor, array_values

Parts = Mapping[str, Tensors]
Scalar = str | int | float | bool | None
_PLAIN = (str, int, float, bool, type(None))  # the types of a Scalar
_SHOWN_ENTRIES = 8  # of a list in a message

# Ours -> the equivalent option of the reference.
_OPTIONS = {
    "backbone": "model", "image_size": "image_width", "channels": "channels", "g_dim": "g_dim", "z_dim": "z_dim",
    "rnn_size": "rnn_size", "predictor_layers": "predictor_rnn_layers", "posterior_layers": "posterior_rnn_layers",
    "prior_layers": "prior_rnn_layers",
}  # fmt: skip
SETTING_NAMES = {
    **{ours: f"opt.{theirs}" for ours, theirs in _OPTIONS.items()}, "n_past": "opt.n_past",
    "last_frame_skip": "opt.last_frame_skip",
}  # fmt: skip
_LAYERS = ("predictor_layers", "posterior_layers", "prior_layers")
_SIZES = ("nf", "channels", "g_dim", "rnn_size")  # that shapes depend on
_LISTED = 100  # entries of a list among settings
_FIRST_WIDTH = 64  # channels of the first convolution of svg-prime, times K
_GRAY = ("digits", "smmnist")  # data sets that we have in gray alone
_EXACT = 1 << 53  # up to here every whole number is a float
_TRAINING = {"batch_size": "batch_size", "n_future": "n_future", "lr": "lr", "beta": "beta", "seed": "seed"}


@dataclass
class Findings:
    """What is wrong with a checkpoint, collected to be reported at once."""

    problems: list[str] = field(default_factory=list)
    examples: dict[str, Scalar] = field(default_factory=dict)  # settings whose values are missing or wrong: possible ones
    of_weights: int = 0
    _of_limits: int = 0

    def add(self, problem: str, **examples: Scalar) -> None:
        """Record a problem, and possible values of the settings that it is about."""
        self.problems.append(problem)
        self.examples |= examples

    def add_weight(self, problem: str) -> None:
        """Record a weight that is missing or wrong."""
        self.problems.append(problem)
        self.of_weights += 1

    def add_limits(self, error: UsageError | ValidationError, names: Mapping[str, str], stated: Mapping[str, Any]) -> None:
        """Record what our configuration does not take, beside the file's own names and values of these settings.

        Args:
            error: of `build_config` or of a family's settings.
            names: our field -> the file's name of it.
            stated: the file's settings by those names; what is not in it follows from the weights.
        """
        cause = error if isinstance(error, ValidationError) else error.__cause__
        assert isinstance(cause, ValidationError)
        for item, line in zip(cause.errors(), problem_lines(cause), strict=True):
            place = [str(part) for part in item["loc"] if part in names]
            ours = place or [name for name in names if re.search(rf"\b{name}\b", item["msg"])]
            inferred = item["input"] if place else None
            values = {names[name]: inferred if stated.get(names[name]) is None else stated[names[name]] for name in ours}
            theirs = [f"{name} is {shown(value)}" for name, value in values.items() if value is not None]
            self.problems.append(f"{', '.join(theirs)}, which svg-edge does not take: {line}" if theirs else line)
            self._of_limits += 1

    @property
    def cause(self) -> Literal["weights", "limits", "settings"]:
        """What the problems are about; settings, if they are about several things."""
        if self.of_weights == len(self.problems):
            return "weights"
        return "limits" if self._of_limits == len(self.problems) else "settings"


def read_options(attributes: Mapping[Any, Any]) -> dict[str, Scalar]:
    """The plain values of a Namespace."""
    values = {name: array_values(value) for name, value in attributes.items() if isinstance(name, str)}
    return {name: value for name, value in values.items() if isinstance(value, _PLAIN)}


def plain_settings(attributes: Mapping[Any, Any]) -> dict[str, Scalar | list[Scalar]]:
    """The plain values of a table, and its short lists of plain values. What is nested is left out: it may hold itself."""
    values = {name: entries(array_values(value)) for name, value in attributes.items() if isinstance(name, str)}
    lists = {name: list(value) for name, value in values.items() if _is_plain_list(value)}
    return {**read_options(attributes), **lists}


def _is_plain_list(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) <= _LISTED and all(isinstance(entry, _PLAIN) for entry in value)


def shown(value: Any) -> str:
    """A value of a file for a message: text and numbers may be huge, and lists may hold themselves."""
    if not isinstance(value, (list, tuple)):
        return _shown_alone(value)
    entries = [_shown_alone(entry) for entry in value[:_SHOWN_ENTRIES]]
    return f"[{', '.join(entries + ['...'] * (len(value) > _SHOWN_ENTRIES))}]"


def _shown_alone(value: Any) -> str:
    if isinstance(value, str):
        return repr(value[:40])
    if isinstance(value, int) and abs(value) > 1 << 63:
        return "a huge number"
    return str(value) if isinstance(value, _PLAIN) else f"a {type(value).__name__}"


def whole_number(value: Any) -> Any:
    """A whole number that is written as text or with a decimal point, as a number; anything else as it is."""
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d{1,18}\s*", value, re.ASCII):
        return int(value)
    return int(value) if isinstance(value, float) and value == value // 1 and abs(value) < _EXACT else value


def valid_alone(model: type[BaseModel], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that `model` takes. For those that a forecast does not need: others do not make a checkpoint unusable."""
    return {name: value for name, value in settings.items() if _takes(model, name, value)}


def _takes(model: type[BaseModel], name: str, value: Any) -> bool:
    try:
        model.model_validate({name: value}, strict=False)
    except ValidationError:
        return False
    return True


def model_table(parts: Parts, options: Mapping[str, Scalar], map_size: Any, findings: Findings) -> dict[str, Any]:
    """Fields of our SvgConfig. The shapes decide; an option that contradicts them is a finding.

    Args:
        parts: weights by part and name.
        options: of the training.
        map_size: what the recurrent modules say of the height and width of their maps; None: nothing, as in a state_dict.
        findings: what is missing or contradictory is added.
    """
    table = _from_shapes(parts)
    if table["latent"] == "spatial":
        options = _of_spatial_model(table, parts, options, findings)
        table |= _frame_of_maps(map_size)
    absent = {"fixed": ("prior_layers",), "none": ("prior_layers", "posterior_layers", "z_dim")}.get(table["prior"], ())
    for name, option in _OPTIONS.items():
        inferred, stated = table.get(name), options.get(option)
        if name in absent or stated is None:
            continue
        if type(inferred) is int:
            stated = whole_number(stated)
        if inferred is None:
            table[name] = stated
        elif type(stated) is not type(inferred) or stated != inferred:
            findings.add(f"opt.{option} is {shown(stated)}, but the parameters imply {inferred}", **{option: inferred})
            if name in _LAYERS and type(stated) is int and inferred < stated <= MAX_LAYERS:
                table[name] = stated  # so that the others are named as missing
    if table["prior"] == "fixed" and whole_number(options.get("prior_rnn_layers")) not in (None, 0):
        findings.add_weight(
            f"prior: missing, although opt.prior_rnn_layers is {shown(options['prior_rnn_layers'])}; "
            "without this option the prior is taken to be N(0, I)"
        )
    if "image_size" not in table and table["latent"] == "spatial":
        findings.add("opt.image_width is missing, and cannot be inferred from the parameters", image_width=64)
    for option, example in (("n_past", 5), ("last_frame_skip", False)):
        if options.get(option) is not None:
            table[option] = whole_number(options[option]) if option == "n_past" else options[option]
        else:
            findings.add(f"opt.{option} is missing, and cannot be inferred from the parameters", **{option: example})
    return {**table, "skip_lag": 1}  # the reference takes the skips from the frame before the last observed one


def is_sized(table: Mapping[str, Any]) -> bool:
    """Whether all sizes are known. Those that are not would be shown by weights that are missing."""
    return {*_SIZES, *(() if table["prior"] == "none" else ("z_dim",))} <= table.keys()


def training_tables(options: Mapping[str, Scalar], channels: Any) -> dict[str, dict[str, Any]]:
    """The settings of training and data in the Namespace that our configuration has too, as far as ours takes them."""
    train = {ours: options[option] for ours, option in _TRAINING.items() if options.get(option) is not None}
    names = get_args(DataConfig.model_fields["name"].annotation)
    data: dict[str, Any] = {"name": options.get("dataset")}
    if data["name"] not in names or (data["name"] in _GRAY and channels != 1):
        data["name"] = "video"  # a data set that we cannot read; the default would claim the built-in digits
    if data["name"] == "smmnist" and options.get("num_digits") is not None:
        data |= valid_alone(DataConfig, {"num_digits": options["num_digits"]})
    return {"train": valid_alone(TrainConfig, train), "data": data}


def is_spatial(parts: Parts) -> bool:
    """Whether they are those of svg-prime: a bare convolution ends the encoder and starts the decoder, and others embed."""
    embeds = [parts.get(name, {}).get("embed.weight") for name in ("frame_predictor", "posterior", "prior")]
    bare = "c4.weight" in parts.get("encoder", {}) or "upc1.weight" in parts.get("decoder", {})
    return bare or any(embed is not None and len(embed.shape) == 4 for embed in embeds)


def _of_spatial_model(
    table: dict[str, Any], parts: Parts, options: Mapping[str, Scalar], findings: Findings
) -> dict[str, Scalar]:
    """The options of svg-prime as the reference would have them. Those that it alone has are checked here."""
    plain = {**options, "model": "vgg" if options.get("model") == "shallow_vgg" else options.get("model")}
    if "M" in options:  # the widths are products: rnn_size * M in the ConvLSTMs, 64 * K in the first convolution
        size = plain.pop("rnn_size", None)
        _check_width(size=size, factor="M", scale=options["M"], inferred=table.get("rnn_size"), findings=findings)
    if "K" in options:
        _check_width(size=_FIRST_WIDTH, factor="K", scale=options["K"], inferred=table.get("nf"), findings=findings)
    actions = options.get("a_dim", _action_channels(table, parts))
    if actions not in (None, 0):
        findings.add(
            f"opt.a_dim is {shown(actions)}: the predictor reads actions too, which a forecast from frames alone lacks; "
            "only checkpoints with a_dim 0 can be used"
        )
    return plain


def _frame_of_maps(map_size: Any) -> dict[str, int]:
    """The image size of a model with spatial latents. Its program keeps that of the maps in its modules, and never changes it.

    A frame of another size than eight times theirs would stop it, whatever the options say.
    """
    height, width = map_size if isinstance(map_size, (list, tuple)) and len(map_size) == 2 else (None, None)
    if type(height) is not int or type(width) is not int or height != width or not 1 <= height <= MAX_SIZE:
        return {}
    return {"image_size": 8 * height}


def _check_width(size: Scalar, factor: str, scale: Scalar, inferred: int | None, findings: Findings) -> None:
    """A size times its factor, rounded down, must be what the parameters have."""
    if inferred is None or (_is_small(size) and _is_small(scale) and int(size * scale) == inferred):
        return
    findings.add(f"opt.{factor} is {shown(scale)} of {shown(size)} channels, but the parameters imply {inferred}")


def _is_small(value: Scalar) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and 0 <= value <= MAX_SIZE


def _action_channels(table: dict[str, Any], parts: Parts) -> int | None:
    """Channels that the predictor reads beside h and z, for files that do not say."""
    reads = _size(parts.get("frame_predictor", {}).get("embed.weight"), 1)
    if reads is None or not {"g_dim", "z_dim"} <= table.keys():
        return None
    return max(reads - int(table["g_dim"]) - int(table["z_dim"]), 0)


def _from_shapes(parts: Parts) -> dict[str, Any]:
    """All that follows from shapes and names, without what a missing part would add."""
    encoder, predictor = parts.get("encoder", {}), parts.get("frame_predictor", {})
    vgg = any(re.match(r"c\d\.\d\.main\.", name) for name in encoder)
    first = encoder.get("c1.0.main.0.weight" if vgg else "c1.main.0.weight")
    head = _encoder_head(encoder)
    embed = predictor.get("embed.weight")
    mu = parts.get("posterior", {}).get("mu_net.weight")
    table: dict[str, Any] = {"latent": "spatial" if is_spatial(parts) else "vector", "prior": _prior(parts)}
    table |= {"nf": _size(first, 0), "channels": _size(first, 1)}
    table |= {"g_dim": _size(head, 0), "rnn_size": _size(embed, 0), "z_dim": _size(mu, 0)}
    if encoder:
        table["backbone"] = "vgg" if vgg or table["latent"] == "spatial" else "dcgan"
    if head is not None and table["latent"] == "vector":  # the same convolutions fit maps of any size
        table["image_size"] = 128 if "c6.0.weight" in encoder else 64
    for ours, part in (("predictor", "frame_predictor"), ("posterior", "posterior"), ("prior", "prior")):
        if part in parts:
            table[f"{ours}_layers"] = _lstm_layers(parts[part])
    return {name: value for name, value in table.items() if value is not None}


def _prior(parts: Parts) -> str:
    """A fixed prior has no module. Without a posterior there is no prior if the predictor reads the encoding alone."""
    if "prior" in parts or "posterior" in parts:
        return "learned" if "prior" in parts else "fixed"
    g_dim = _size(_encoder_head(parts.get("encoder", {})), 0)
    reads = _size(parts.get("frame_predictor", {}).get("embed.weight"), 1)
    return "none" if reads is not None and reads == g_dim else "fixed"


def _encoder_head(encoder: Tensors) -> StoredTensor | None:
    return encoder.get("c6.0.weight") or encoder.get("c5.0.weight") or encoder.get("c4.weight")


def _lstm_layers(tensors: Tensors) -> int | None:
    """One more than the last one's number, so that a missing one is missed; None if there are none."""
    numbers = [int(cell[1]) for name in tensors if (cell := re.match(r"lstm\.(\d{1,3})\.", name))]
    return max(numbers) + 1 if numbers else None


def _size(tensor: Any, dim: int) -> int | None:
    return tensor.shape[dim] if tensor is not None and len(tensor.shape) > dim else None
