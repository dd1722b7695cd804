"""The rules of the tree. Each takes a Tree and yields Findings; RULES lists them all."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from tree import Finding

CPP = (".h", ".cpp", ".cu", ".cuh")
CODE = (*CPP, ".py", ".sh", ".cmake", "CMakeLists.txt", ".yaml", "Makefile", "with_env", ".ci/run")

# core <- {swap, optim, models, plan} <- exec <- train <- {cli, embed}. A file may include its own folder's headers and
# those of lower layers; the four in the middle never include each other, nor do the two at the end.
LAYERS = {
    "runtime/core": 0, "swap": 1, "optim": 1, "models": 1, "runtime/plan": 1,
    "runtime/exec": 2, "runtime/train": 3, "runtime/cli": 4, "runtime/embed": 4,
}
MAY_INCLUDE_ANY_LAYER = ("tests", "bench")

LIBTORCH = r"(torch|ATen|c10|caffe2)/"
CUDA = r"(cuda|cublas|cudnn|nccl|nvtx|cub/|thrust/)"
# Slow to compile, or a seam that would leak: these stay out of headers.
NOT_IN_HEADERS = re.compile(rf"{LIBTORCH}|{CUDA}|liburing|yaml-cpp/")
# For programs that embed the runtime and use LibTorch anyway.
HEADERS_WITH_TENSORS = {"runtime/embed/sluice/tensors.h"}
# Folders that know nothing of a library, in any file.
UNKNOWN_TO = {
    "runtime/core": re.compile(LIBTORCH), "swap": re.compile(LIBTORCH), "optim": re.compile(LIBTORCH),
    "runtime/plan": re.compile(f"{LIBTORCH}|{CUDA}"),
}

TOP_LEVEL = {
    "CMakeLists.txt", "CMakePresets.json", "LICENSE", "Makefile", "README.md", "pyproject.toml",
    "bench", "configs", "models", "optim", "runtime", "swap", "tests",
}

CPP_LINE_MAX = 120
CODE_LINE_MAX = 130
README_LINES_MAX = 90
SUBJECT_WORDS_MIN = 4

# Of what ships. Files of others are data: nothing of theirs is run, and nothing listens.
PRODUCT = ("runtime/", "swap/", "optim/", "models/", "configs/")
UNSAFE = {
    ".py": [
        (re.compile(r"\b(c?[Pp]ickle|marshal|shelve|dill)\b|\btorch\.load\("), "runs what a file says: use safetensors or JSON"),
        (re.compile(r"trust_remote_code\s*=\s*True"), "runs a model's own code"),
        (re.compile(r"(?<![\w.])(eval|exec)\(|\bos\.system\(|shell=True"), "runs text as code"),
        (re.compile(r"\bEnvironment\("), "templates are strangers': ImmutableSandboxedEnvironment"),
    ],
    ".cpp": [
        (re.compile(r"(?<!std::)\b(listen|accept4?|bind)\("), "nothing of ours listens"),
        (re.compile(r"\b(system_clock|high_resolution_clock|gettimeofday)\b"), "durations are of a clock that never goes back"),
        (re.compile(r"(?<![\w.:>])(system|popen)\("), "runs a shell: posix_spawn"),
        (re.compile(r"\b(strcpy|strcat|sprintf|vsprintf|gets)\("), "writes past the end"),
    ],
}

# Spelt so that this file does not find itself.
FORBIDDEN = [
    (re.compile(r"\b(TO[D]O|FIX[M]E|X[X]X|HA[C]K)\b"), "unfinished work is an issue, not a mark in the code"),
    (re.compile(r"(?<![\w.$}>-])/(work|root|home)[/]\w"), "a path of one machine"),
    (re.compile(r"pypi\.org|pythonhosted\.org|deb\.debian\.org|download\.pytorch\.org"), "a registry's host: name the package"),
]
NOT_OURS = {"LICENSE"}


def layer_folder(path):
    return next((folder for folder in LAYERS if path.startswith(folder + "/")), None)


def includes(tree, path):
    """(line number, quote or bracket, name) of every #include in a file."""
    for number, line in tree.lines(path):
        match = re.match(r'\s*#\s*include\s*(["<])([^">]+)', line)
        if match:
            yield number, match[1], match[2]


def wrong_arrow(path, included):
    """Why `path` may not include `included`, or None."""
    if path.startswith(MAY_INCLUDE_ANY_LAYER):
        return None
    source, target = layer_folder(path), layer_folder(included)
    if source is None:
        return f"{path} is in no folder that holds C++ (design: {', '.join(LAYERS)})"
    if target is None:
        return f"{source} includes {included}, which is in none of {', '.join(LAYERS)}"
    if source != target and LAYERS[source] <= LAYERS[target]:
        return f"{source} must not include {target}: " \
               "arrows are core <- {swap, optim, models, plan} <- exec <- train <- {cli, embed}"
    return None


def include_arrows(tree):
    for path in tree.select(*CPP):
        for number, mark, name in includes(tree, path):
            if mark == '"':
                if name not in tree.paths:
                    yield Finding(path, number, f'"{name}" is not a path from the root of the repository')
                elif reason := wrong_arrow(path, name):
                    yield Finding(path, number, reason)


def library_seams(tree):
    for path in tree.select(*CPP):
        unknown = UNKNOWN_TO.get(layer_folder(path))
        for number, _, name in includes(tree, path):
            device_code = path.endswith(".cuh") and re.match(CUDA, name)  # included by .cu alone
            allowed = device_code or path in HEADERS_WITH_TENSORS
            if path.endswith((".h", ".cuh")) and NOT_IN_HEADERS.match(name) and not allowed:
                yield Finding(path, number, f"<{name}> in a header: include it in the .cpp")
            elif unknown and unknown.match(name):
                yield Finding(path, number, f"{layer_folder(path)} knows nothing of <{name}>")


def header_opening(tree):
    """A header says what it is about, then guards itself once, before any code."""
    for path in tree.select(".h", ".cuh"):
        lines = [line for _, line in tree.lines(path)]
        comment = []
        while lines and lines[0].startswith("//"):
            comment.append(lines.pop(0).removeprefix("//").strip())
        if len(" ".join(comment).split()) < SUBJECT_WORDS_MIN:
            yield Finding(path, 1, "the first line of a header is a comment that states its subject")
        first_code = next((line for line in lines if line.strip()), "")
        if first_code != "#pragma once" or lines.count("#pragma once") != 1:
            yield Finding(path, len(comment) + 1, "after the opening comment comes `#pragma once`, and once only")


def find_tool(name):
    """The one beside this Python (the pinned one), else the one on PATH."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name)


def formatting(tree):
    files = tree.select(*CPP)
    tool = find_tool("clang-format")
    version = subprocess.run([tool, "--version"], capture_output=True, text=True).stdout if tool else "none"
    if not re.search(r"version 14\.", version):
        yield Finding(".clang-format", 1, f"clang-format 14 is needed, found {version.strip()}. fix: make setup")
    elif files:
        command = [tool, "--dry-run", "-Werror", "--style=file", *files]
        done = subprocess.run(command, cwd=tree.root, capture_output=True, text=True)
        reported = set()
        for path, number in re.findall(r"^([^:\n]+):(\d+):\d+: error: code should be clang-formatted", done.stderr, re.M):
            if path not in reported:
                reported.add(path)
                yield Finding(path, int(number), "not formatted. fix: make format")
        if done.returncode != 0 and not reported:
            yield Finding(".clang-format", 1, f"clang-format failed: {done.stderr.strip()[:500]}")


def python_lint(tree):
    files = tree.select(".py")
    tool = find_tool("ruff")
    if not tool:
        yield Finding("pyproject.toml", 1, "ruff is not there. fix: make setup")
    elif files:
        command = [tool, "check", "--no-cache", "--output-format", "concise", *files]
        done = subprocess.run(command, cwd=tree.root, capture_output=True, text=True)
        found = re.findall(r"^([^:\n]+):(\d+):\d+: (.+)$", done.stdout, re.M)
        yield from (Finding(path, int(number), text) for path, number, text in found)
        if done.returncode != 0 and not found:
            yield Finding("pyproject.toml", 1, f"ruff failed: {(done.stderr or done.stdout).strip()[:500]}")


def top_level(tree):
    for name in sorted({path.split("/")[0] for path in tree.paths}):
        if name not in TOP_LEVEL and not name.startswith("."):
            yield Finding(name, 1, "not one of the names that the design allows at the root")


def readmes(tree):
    """Each folder of the design has its page, and it stays one page."""
    below_runtime = {folder for folder in tree.folders if folder.startswith("runtime/") and folder.count("/") == 1}
    for folder in sorted((TOP_LEVEL & tree.folders) | below_runtime):
        if f"{folder}/README.md" not in tree.paths:
            yield Finding(f"{folder}/README.md", 1, "missing: purpose, invariants, how to debug")
    for path in tree.select("/README.md"):
        lines = tree.text(path).split("\n")
        if not lines[0].startswith("# "):
            yield Finding(path, 1, "a README opens with its title")
        if len(lines) > README_LINES_MAX:
            yield Finding(path, len(lines), f"a folder's README is one page: {README_LINES_MAX} lines at most")


def job_headers(tree):
    """A job file says how it is run and what memory that takes."""
    for path in tree.select(".yaml"):
        if not path.startswith(("configs/train/", "configs/quickstart/")):
            continue
        header = re.match(r"(#[^\n]*\n)*", tree.text(path))[0]
        if not re.search(r"sluice (train|profile)|make quickstart", header):
            yield Finding(path, 1, "opens with comments that hold the exact command")
        if not re.search(r"\d\s*[KMGT]i?B\b", header):
            yield Finding(path, 1, "opens with comments that say how much memory it needs")


def forbidden_words(tree):
    for path in tree.paths:
        if path in NOT_OURS:
            continue
        for number, line in tree.lines(path):
            for pattern, reason in FORBIDDEN:
                if match := pattern.search(line):
                    yield Finding(path, number, f"`{match[0]}`: {reason}")


def unsafe_calls(tree):
    for ending, patterns in UNSAFE.items():
        for path in tree.select(ending):
            if not path.startswith(PRODUCT):
                continue
            for number, line in tree.lines(path):
                for pattern, reason in patterns:
                    if match := pattern.search(line):
                        yield Finding(path, number, f"`{match[0]}`: {reason}")


def text_hygiene(tree):
    for path in tree.select(*CODE):
        limit = CPP_LINE_MAX if path.endswith(CPP) else CODE_LINE_MAX
        for number, line in tree.lines(path):
            if len(line) > limit:
                yield Finding(path, number, f"{len(line)} characters, at most {limit} fit")
            if line != line.rstrip():
                yield Finding(path, number, "spaces at the end of the line")
            if "\t" in line and not path.endswith("Makefile"):
                yield Finding(path, number, "a tab")
        text = tree.text(path)
        if text and not text.endswith("\n"):
            yield Finding(path, text.count("\n") + 1, "the last line has no end")


def links(tree):
    """A relative link in a page leads somewhere."""
    for path in tree.select(".md"):
        for number, line in tree.lines(path):
            for target in re.findall(r"\]\(([^)#:\s]+)\)", line):
                resolved = (tree.root / path).parent / target
                if not resolved.exists():
                    yield Finding(path, number, f"the link to {target} leads nowhere")


RULES = [include_arrows, library_seams, header_opening, formatting, python_lint, top_level, readmes, job_headers,
         forbidden_words, unsafe_calls, text_hygiene, links]
