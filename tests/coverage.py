#!/usr/bin/env python3
"""Which lines and branches of some folders the tests have run, from what a coverage build left behind.

    runtime/setup/with_env cmake --preset coverage && runtime/setup/with_env cmake --build --preset coverage
    runtime/setup/with_env ctest --preset coverage
    tests/coverage.py build/coverage --missed swap/swap_engine.cpp

A branch is one of the source's: on a line with a condition, once for all instances of a template. Left out: what gcov adds for
exceptions and what the compiler puts into destructors and calls; and SLUICE_CHECK's, whose failure is a bug and ends the
process. Exit code 1 when a folder is below `--lines` or `--branches`.
"""

import argparse
import json
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDERS = ("swap", "runtime/exec", "runtime/train")
DATA_FILES_AT_ONCE = 40
CONDITION = re.compile(r"\b(if|for|while|switch|case|catch)\b|&&|\|\||\?")
INNERMOST_ARGUMENTS = re.compile(r"\[[^\[\]]*\]|<[^<>]*>")


def reports(data_files, build):
    for begin in range(0, len(data_files), DATA_FILES_AT_ONCE):
        some = map(str, data_files[begin:begin + DATA_FILES_AT_ONCE])
        command = ["gcov", "--json-format", "--stdout", "--branch-probabilities", *some]
        done = subprocess.run(command, cwd=build, capture_output=True, text=True, check=True)
        for line in done.stdout.splitlines():
            yield from json.loads(line)["files"]


def in_repository(name, build):
    """Its path from the root, or None. The build writes the root as `/` (CMakeLists.txt, -ffile-prefix-map)."""
    for path in (REPOSITORY / name.lstrip("/"), (build / name)):
        if path.exists() and path.resolve().is_relative_to(REPOSITORY):
            return str(path.resolve().relative_to(REPOSITORY))
    return None


def without_arguments(function):
    """A demangled name as all instances of its template have it."""
    before = None
    while before != function:
        before, function = function, INNERMOST_ARGUMENTS.sub("", function)
    return function.split("(")[0] + (" lambda" if "lambda" in function else "")


class Coverage:
    def __init__(self, build):
        self.lines = defaultdict(lambda: defaultdict(int))  # file -> line -> times
        self.branches = defaultdict(lambda: defaultdict(int))  # file -> (line, function, which) -> times
        for report in reports(sorted(build.rglob("*.gcda")), build):
            file = in_repository(report["file"], build)
            if file and file.startswith(FOLDERS):
                names = {each["name"]: without_arguments(each["demangled_name"]) for each in report["functions"]}
                self.add(file, report["lines"], names)

    def add(self, file, lines, names):
        text = (REPOSITORY / file).read_text().splitlines()
        for line in lines:
            number = line["line_number"]
            self.lines[file][number] += line["count"]
            if "SLUICE_CHECK" in text[number - 1] or not CONDITION.search(text[number - 1]):
                continue
            branches = [branch for branch in line["branches"] if not branch["throw"]]
            if len(branches) < 2:
                continue
            for which, branch in enumerate(branches):
                function = names.get(line.get("function_name"))
                self.branches[file][number, function, which] += branch["count"]

    def share(self, counts, folder):
        all_of_it = [times for file in counts if file.startswith(folder) for times in counts[file].values()]
        return 100 * sum(times > 0 for times in all_of_it) / max(len(all_of_it), 1)

    def missed(self, file):
        lines = {number for number, times in self.lines[file].items() if times == 0}
        branches = {key[0] for key, times in self.branches[file].items() if times == 0} - lines
        text = (REPOSITORY / file).read_text().splitlines()
        for number in sorted(lines | branches):
            yield f"{file}:{number}: {'line  ' if number in lines else 'branch'} {text[number - 1]}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("build", type=lambda text: Path(text).resolve())
    parser.add_argument("--missed", nargs="*", default=[], metavar="FILE", help="list what was not run; `all` for every file")
    parser.add_argument("--lines", type=float, default=0, help="percent below which a folder fails")
    parser.add_argument("--branches", type=float, default=0)
    arguments = parser.parse_args()
    coverage = Coverage(arguments.build)
    files = sorted(coverage.lines) if arguments.missed == ["all"] else arguments.missed
    for file in files:
        print(*coverage.missed(file), sep="\n")
    failed = False
    print(f"{'':40}{'lines':>8}{'branches':>10}")
    for name in (*FOLDERS, *sorted(coverage.lines)):
        lines, branches = coverage.share(coverage.lines, name), coverage.share(coverage.branches, name)
        failed |= name in FOLDERS and (lines < arguments.lines or branches < arguments.branches)
        print(f"{name:40}{lines:7.1f}%{branches:9.1f}%")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
