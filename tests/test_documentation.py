"""The documentation is correct: commands parse, links lead somewhere, code compiles, and the pages build."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest
import typer
from typer.main import get_command

from svg_adapt.cli import app as train
from svg_eval.cli import app as evaluation
from svg_export.cli import app as export
from svg_runtime.bench.cli import app as bench
from svg_runtime.bundle.contract import RESERVED_NAMES
from svg_runtime.doctor.cli import app as doctor
from svg_runtime.live.cli import app as live
from svg_runtime.live.page.history import COLUMNS
from svg_runtime.offline.cli import app as forecast
from svg_runtime.serve.cli import app as serve
from tests.test_arrows import LIBRARIES, MAY_IMPORT, ROOMS

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = {
    name: get_command(app)
    for name, app in {
        "svg-train": train, "svg-export": export, "svg-eval": evaluation, "svg-live": live, "svg-bench": bench,
        "svg-doctor": doctor, "svg-serve": serve, "svg-forecast": forecast,
    }.items()
}  # fmt: skip
DOCS = sorted((ROOT / "docs").rglob("*.md"))  # the strict build follows their links
OTHERS = sorted(
    path
    for path in [*ROOT.glob("*.md"), *(ROOT / "benchmarks").glob("*.md"), *(ROOT / "examples").rglob("*.md")]
    if path.name != "CHANGELOG.md"
)
PAGES = [*OTHERS, *DOCS]
RECIPES = sorted((ROOT / "svg_train" / "recipes").glob("*.toml"))
NEEDS_DOCS_EXTRA = pytest.mark.skipif(
    not all(importlib.util.find_spec(module) for module in ("mkdocs", "material", "mkdocstrings")),
    reason="needs the docs extra",
)


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


# ---- Markdown ----


def code_blocks(text: str, language: str = "") -> list[str]:
    """Contents of fenced blocks, of one language or of all."""
    found = re.findall(r"^( *)```([a-z]*)[^\n]*\n(.*?)^\1```", text, re.M | re.S)
    return [textwrap.dedent(block) for _, name, block in found if not language or name == language]


def prose(text: str) -> str:
    """The text without fenced blocks."""
    return re.sub(r"^( *)```.*?^\1```", "", text, flags=re.M | re.S)


def inline_code(text: str) -> list[str]:
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", prose(text))


def anchors(text: str) -> set[str]:
    """What the headings of a page can be linked by, as GitHub and mkdocs make it."""
    headings = re.findall(r"^#+ +(.+)$", prose(text), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def comments(recipe: str) -> str:
    return "\n".join(re.findall(r"^#(.*)$", recipe, re.M))


# ---- Commands ----


def simple_commands(script: str) -> Iterator[list[str]]:
    """The words of every simple command of a shell script; a loop over given words is followed word by word."""
    for line in script.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        try:
            words = list(lexer)
        except ValueError:  # an apostrophe: prose, not a command
            continue
        parts = [list(part) for ends, part in itertools.groupby(words, lambda word: set(word) <= set("();<>|&")) if not ends]
        loops = {part[1]: part[3:] for part in parts if part[0] == "for" and part[2:3] == ["in"]}
        for part in parts:
            for values in itertools.product(*loops.values()):
                yield [_replaced(word, dict(zip(loops, values, strict=True))) for word in part if word not in ("do", "then")]


def _replaced(word: str, variables: dict[str, str]) -> str:
    for name, value in variables.items():
        word = word.replace(f"${name}", value)
    return word


def commands_in(script: str) -> Iterator[tuple[str, list[str]]]:
    """Name and arguments of our commands in a shell script, with or without a path before the name."""
    for words in simple_commands(script):
        if words and Path(words[0]).name in COMMANDS:
            yield Path(words[0]).name, words[1:]


def parse_error(name: str, arguments: list[str], whole: bool) -> str | None:
    """The real command's error for these arguments; None if it accepts them. Nothing is run.

    Args:
        name: of the command.
        arguments: the words after it.
        whole: whether a missing argument counts; a mention such as `svg-export --engine` leaves the checkpoint out.
    """
    try:
        left_over = COMMANDS[name].make_context(name, list(arguments)).args
    except typer.Exit:  # --help
        return None
    except Exception as error:
        if not whole and type(error).__name__ == "MissingParameter":
            return None
        return f"{name} {' '.join(arguments)}: {error}"
    return f"{name} {' '.join(arguments)}: nothing takes {left_over}" if left_over else None


def parse_errors(scripts: list[str], whole: bool) -> list[str]:
    found = itertools.chain.from_iterable(map(commands_in, scripts))
    return [error for name, arguments in found if (error := parse_error(name, arguments, whole))]


def test_the_parser_of_commands_notices_mistakes():
    """Guards the tests below: a command is found wherever it stands, and each kind of mistake is one."""
    assert list(commands_in("cd x && .venv/bin/svg-live --camera 0 # a window")) == [("svg-live", ["--camera", "0"])]
    assert list(commands_in("for p in a b; do svg-train --out run-$p; done")) == [
        ("svg-train", ["--out", "run-a"]),
        ("svg-train", ["--out", "run-b"]),
    ]
    assert list(commands_in("svg-export a.pt \\\n  --fp16")) == [("svg-export", ["a.pt", "--fp16"])]
    wrong = ["svg-live --no-such", "svg-live --camera zero", "svg-train --backbone resnet", "svg-live clip.mp4", "svg-export"]
    assert [bool(parse_errors([line], whole=True)) for line in wrong] == [True] * len(wrong)
    assert parse_errors(["svg-export", "svg-live --help", "svg-live --camera 0 --headless"], whole=False) == []


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_command_lines_are_parsed_by_the_real_commands(page):
    text = page.read_text(encoding="utf-8")
    assert parse_errors(code_blocks(text), whole=True) + parse_errors(inline_code(text), whole=False) == []


@pytest.mark.parametrize("recipe", RECIPES, ids=relative)
def test_command_lines_in_recipes_are_parsed_by_the_real_commands(recipe):
    script = comments(recipe.read_text(encoding="utf-8"))
    assert list(commands_in(script))
    assert parse_errors([script], whole=True) == []


def test_every_command_is_documented():
    scripts = [block for page in PAGES for block in code_blocks(page.read_text(encoding="utf-8"))]
    assert {name for script in scripts for name, _ in commands_in(script)} == set(COMMANDS)


def help_of(command: str) -> dict[str, str]:
    """Option -> its help."""
    return {str(option.name): getattr(option, "help", None) or "" for option in COMMANDS[command].params}


@pytest.mark.parametrize("command", COMMANDS)
def test_only_a_command_that_measures_promises_the_fastest_backend(command):
    options = help_of(command)
    assert "fastest" not in options.get("backend", "") or "calibrate" in options


def test_help_of_the_training_precision_names_all_that_auto_may_choose():
    said = help_of("svg-train")["precision"]
    assert [precision for precision in ("bf16", "16-mixed", "32-true", "--resume") if precision not in said] == []


def test_files_that_pytest_and_python_are_given_exist():
    scripts = [block for page in PAGES for block in code_blocks(page.read_text(encoding="utf-8"), "sh")]
    words = {word for script in scripts for command in simple_commands(script) for word in command}
    files = {word for word in words if re.fullmatch(r"(benchmarks|tests|examples)/[\w/]*(\.\w+)?", word)}
    assert files
    assert {file for file in files if "NAME" not in file and not (ROOT / file).exists()} == set()


# ---- README and links ----


def test_readme_is_short():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150


@pytest.mark.parametrize("page", OTHERS, ids=relative)
def test_relative_links_and_their_anchors_lead_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text(encoding="utf-8")))
    missing = []
    for link in links:
        if "://" in link or link.startswith("mailto:"):
            continue
        place, _, anchor = link.partition("#")
        target = page.parent / place if place else page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            missing.append(link)
    assert missing == []


def test_paragraphs_are_short():
    """The median of all pages: fewer than 40 words."""
    lengths = [
        len(paragraph.split())
        for page in PAGES
        for paragraph in re.split(r"\n\s*\n", prose(page.read_text(encoding="utf-8")))
        if paragraph.strip() and not paragraph.lstrip().startswith(("#", "|", "![", "<!--", ":::"))
    ]
    assert median(lengths) < 40


# ---- Code and files ----


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_python_blocks_compile(page):
    for block in code_blocks(page.read_text(encoding="utf-8"), "python"):
        compile(block, relative(page), "exec")


@pytest.mark.parametrize("page", DOCS, ids=relative)
def test_files_that_a_page_names_exist(page):
    """Paths in inline code, from the repository or from runtime/; NAME stands for a name of the reader's."""
    folders = (ROOT, ROOT / "runtime")
    named = re.compile(r"(svg_\w+|export|runtime|tests|docs)/[\w/.-]+(\.(py|md|toml)|/)")
    found = [code for code in inline_code(page.read_text(encoding="utf-8")) if named.fullmatch(code) and "NAME" not in code]
    assert [name for name in found if not any((folder / name).exists() for folder in folders)] == []


def test_the_page_of_the_page_lists_what_a_point_of_the_chart_has():
    assert ", ".join(f"`{name}`" for name in COLUMNS) in (ROOT / "docs" / "page.md").read_text(encoding="utf-8")


def test_the_page_of_families_lists_the_names_that_no_state_may_have():
    page = (ROOT / "docs" / "add-a-family.md").read_text(encoding="utf-8")
    assert set(inline_code(page)) >= RESERVED_NAMES


def test_the_page_of_families_knows_about_how_long_the_parts_of_one_are():
    page = (ROOT / "docs" / "add-a-family.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.*?) \| .* \| (\d+) \|$", page, re.M)
    parts = {
        "`svg_train/families/NAME/`": "svg_train/families/frames/[cls]*s.py",  # cells, layers, stacks
        "an importer, if there are published weights": "svg_train/families/frames/openstl*.py",
    }
    for part, about in rows:
        files = list(ROOT.glob(parts.get(part, part.strip("`").replace("NAME", "frames"))))
        assert files, part
        lines = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)
        assert lines == pytest.approx(int(about), rel=0.1), part


def arrow_table(name: str) -> dict[str, set[str]]:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    block = re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", text, re.S)
    assert block, f"docs/architecture.md has no table of {name}"
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", block.group(1), re.M)
    return {room: set(re.findall(r"`(\w+)`", others)) for room, others in rows}


@pytest.mark.parametrize(
    ("name", "arrows"),
    [("packages", MAY_IMPORT), ("rooms", ROOMS), ("libraries", LIBRARIES)],
    ids=["packages", "rooms", "libs"],
)
def test_architecture_page_has_the_arrows_that_are_tested(name, arrows):
    assert arrow_table(name) == arrows


# ---- The built pages ----


def build(config: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(config), "--site-dir", str(site)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=config.parent, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT / "mkdocs.yml", folder)
    assert done.returncode == 0, done.stderr
    return folder


@NEEDS_DOCS_EXTRA
def test_strict_build_passes_and_has_the_reference(site):
    reference = (site / "api.html").read_text(encoding="utf-8")
    for name in ("forecast.forecaster.Forecaster.observe", "bundle.reader.Bundle.open", "backends.base.Backend.bind"):
        assert f'id="svg_runtime.{name}"' in reference
    for name in ("Forecaster.on", "Observation.of"):  # of types that are not public
        assert f'id="svg_runtime.forecast.forecaster.{name}"' not in reference


def test_the_reference_explains_every_field():
    """In the docstring: the reference does not show comments."""
    names = re.findall(r"^::: (\S+)\.(\w+)$", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), re.M)
    kinds = [getattr(importlib.import_module(module), name) for module, name in names if module.startswith("svg_runtime.")]
    fields = [(kind, field.name) for kind in kinds if dataclasses.is_dataclass(kind) for field in dataclasses.fields(kind)]
    assert len(fields) > 20
    assert [pair for pair in fields if f"\n        {pair[1]}: " not in pair[0].__doc__] == []


@NEEDS_DOCS_EXTRA
def test_pages_load_nothing_from_elsewhere(site):
    loads = re.compile(
        r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"?(?:https?:)?//|<link\b[^>]*rel=\"?stylesheet[^>]*(?:https?:)?//"
    )
    assert [page.name for page in site.rglob("*.html") if loads.search(page.read_text(encoding="utf-8"))] == []


@NEEDS_DOCS_EXTRA
def test_strict_build_fails_for_dead_links_anchors_and_pictures(tmp_path):
    for name in ("docs", "mkdocs.yml"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    for package in ("runtime", "export", "svg_train"):
        (tmp_path / package).symlink_to(ROOT / package)
    with (tmp_path / "docs" / "index.md").open("a", encoding="utf-8") as page:
        page.write("\n[a](no-page.md) [b](train.md#no-anchor) ![c](no-picture.png)\n")
    done = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert done.returncode != 0
    for target in ("no-page.md", "#no-anchor", "no-picture.png"):
        assert target in done.stderr
