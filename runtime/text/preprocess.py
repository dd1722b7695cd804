#!/usr/bin/env python3
"""Datasets to token files: `python runtime/text/preprocess.py --request request.json`. README.md has the request."""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from sluice_text.errors import run_command  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--request", required=True, metavar="FILE", help="the request as JSON; - reads stdin")
    parser.add_argument("--debug", type=int, default=0, metavar="N", help="show N rows on stderr, with masks")
    arguments = parser.parse_args()

    from sluice_text.prepare import prepare
    from sluice_text.request import read_request
    request = read_request(arguments.request)
    summary = prepare(request)
    rows = max(arguments.debug, request.debug_rows)
    if rows:
        from sluice_text.debug_view import show_rows
        from sluice_text.tokenizer import Tokenizer
        show_rows(summary["train"], Tokenizer(request.base_model), rows)
    print(json.dumps(summary))


if __name__ == "__main__":
    run_command(main)
