"""What svg-train reads besides data and checkpoints: recipes, and the metrics of a run that is resumed."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from random import Random

from svg_train import journal
from svg_train.config import build_config
from svg_train.recipe_files import load_recipe
from tests.fuzz.mutations import mutate_bytes, mutate_json
from tests.fuzz.scratch import scratch_file
from tests.fuzz.target import Target

_WORDS = (
    b"\xef\xbb\xbf", b"[model]\n", b"[data]\n", b"[train]\n", b"[[model]]\n", b"model = 1\n", b"n_past = ", b"nf = ",
    b'backbone = "vgg"\n',
    b'name = "video"\n', b"beta_ramp = [0, 100]\n", b"= inf\n", b"= nan\n", b"= -1\n", b"= 1e400\n", b"= 9" + b"9" * 5000,
    b"{a = {a = {a = 1}}}",
    b"[" * 2000, b"= 1979-05-27T07:32:00Z\n", b'"""', b"'''", b"\\u0000", b"\\uD800", b"0x", b"prior = ",
    b"frame_interval_s = ", b"a.b.c = 1\n",
)  # fmt: skip


def read_recipe(path: Path) -> None:
    build_config(load_recipe(str(path)))


def resume(path: Path) -> None:
    with journal._continue_at(path, 3, owes_evaluation=True):
        pass


def mutate_lines(data: bytes, random: Random) -> bytes:
    lines = data.split(b"\n")
    index = random.randrange(len(lines))
    lines[index] = mutate_json(lines[index], random)
    return b"\n".join(lines)


TARGETS = {
    "recipe": Target(read=read_recipe, place=partial(scratch_file, "recipe.toml"), mutate=partial(mutate_bytes, words=_WORDS)),
    "run-metrics": Target(read=resume, place=partial(scratch_file, "metrics.jsonl"), mutate=mutate_lines),
}
