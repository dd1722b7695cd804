#!/usr/bin/env python3
"""Checks the tree against the rules of rules.py: a line per finding, and exit code 1 when there is one.

    tests/tidy/tidy.py [ROOT]             check
    tests/tidy/tidy.py --list .h .cpp     print the files with these endings instead
"""

import argparse
import sys
from pathlib import Path

from rules import RULES
from tree import Tree

REPOSITORY = Path(__file__).resolve().parents[2]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", nargs="?", default=REPOSITORY, help="default: the repository of this file")
    parser.add_argument("--list", nargs="+", metavar="ENDING", help="print files instead of checking them")
    arguments = parser.parse_args()
    tree = Tree(arguments.root)
    if arguments.list:
        print("\n".join(tree.select(*arguments.list)))
        return 0
    if not tree.paths:
        print(f"no files under {tree.root}")
        return 1
    findings = [finding for rule in RULES for finding in rule(tree)]
    for finding in findings:
        print(finding)
    print(f"tidy: {len(tree.paths)} files, {len(RULES)} rules, {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
