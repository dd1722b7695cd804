#!/usr/bin/env python3
"""Makes a question/answer dataset (JSON Lines, `messages`) from the text of Debian's FAQ.

    python configs/quickstart/make_faq_dataset.py faq.jsonl

The text is the package debian-faq: the installed one when it is there, else fetched with `apt-get download`, which needs
no root. (c) Software in the Public Interest; copies and changed versions are permitted under the notice that the package
carries, which is laid beside the dataset. When the file is there, nothing is done.
"""

import argparse
import html.parser
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from locations import cache_folder

PACKAGE = "debian-faq"
FAQ_FOLDER = Path("usr/share/doc/debian/FAQ")
NOTICE = Path("usr/share/doc/debian-faq/copyright")
PAIRS_MIN = 100
ANSWER_CHARACTERS_MAX = 400
ANSWER_CHARACTERS_MIN = 40


def fetch_package(temporary):
    """The package's files, unpacked below `temporary`. Nothing is installed."""
    print(f"fetching Debian's package {PACKAGE} (0.5 MB)", flush=True)
    command = ["apt-get", "download", "-q", PACKAGE]
    if os.geteuid() == 0:
        command[1:1] = ["-o", "APT::Sandbox::User=root"]  # else it warns that _apt cannot write here
    try:
        done = subprocess.run(command, cwd=temporary, capture_output=True, text=True)
    except FileNotFoundError:
        sys.exit(f"error: no apt-get here\n  fix: put the folder FAQ of the package {PACKAGE} under /{FAQ_FOLDER.parent}")
    if done.returncode != 0:
        sys.exit(f"error: apt-get could not download {PACKAGE}: {done.stderr.strip()}\n  fix: apt-get update (as root)")
    package = next(Path(temporary).glob("*.deb"))
    subprocess.run(["dpkg-deb", "-x", package, temporary], check=True)
    return Path(temporary)


class SectionReader(html.parser.HTMLParser):
    """Sections of a DocBook page: (title, paragraphs). Only what stands between a title and the next one belongs to it."""

    PARAGRAPH_TAGS = ("p", "pre", "dt", "dd", "li")
    SKIPPED_CLASSES = ("toc", "navheader", "navfooter", "footnotes", "author", "legalnotice")

    def __init__(self):
        super().__init__()
        self.sections = []
        self._skipped_depth = 0
        self._in_title = False
        self._text = []
        self._item_mark = ""
        self._verbatim = False

    def handle_starttag(self, tag, attributes):
        kind = dict(attributes).get("class") or ""
        if tag == "div":
            if self._skipped_depth or kind in self.SKIPPED_CLASSES:
                self._skipped_depth += 1
        elif tag in ("h1", "h2", "h3", "h4") and kind == "title":
            self._end_paragraph()
            self._in_title = True
        elif tag in self.PARAGRAPH_TAGS:
            self._end_paragraph()
            if tag == "li":
                self._item_mark = "- "
            self._verbatim = tag == "pre"

    def handle_endtag(self, tag):
        if tag == "div":
            self._end_paragraph()
            self._skipped_depth = max(0, self._skipped_depth - 1)
        elif tag in ("h1", "h2", "h3", "h4") and self._in_title:
            self.sections.append((self._take_text(), []))
            self._in_title = False
        elif tag in self.PARAGRAPH_TAGS:
            self._end_paragraph()

    def handle_data(self, data):
        if not self._skipped_depth:
            self._text.append(data)

    def _end_paragraph(self):
        text = self._take_text()
        if text and self.sections:
            self.sections[-1][1].append(self._item_mark + text)
            self._item_mark = ""

    def _take_text(self):
        text = "".join(self._text)
        self._text = []
        verbatim, self._verbatim = self._verbatim, False
        return text.strip() if verbatim else " ".join(text.split())


def read_sections(page):
    reader = SectionReader()
    reader.feed(page.read_text(encoding="utf-8"))
    return reader.sections


_NUMBER = re.compile(r"^(Chapter )?[0-9.]+\s+")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"(])")
_POINTER = re.compile(r"\bSections?\s[0-9]|\bChapter\s[0-9]|\[[0-9]+\]")


def question_of(title):
    title = _NUMBER.sub("", title)
    return title if "?" in title else f"What does the Debian FAQ say about \"{title}\"?"


def answer_of(paragraphs):
    """Whole sentences from the beginning, up to the limit; sentences that point to other sections mean nothing here."""
    kept, length = [], 0
    for paragraph in paragraphs:
        sentences = [s for s in _SENTENCE_END.split(paragraph) if not _POINTER.search(s)]
        fitting = []
        for sentence in sentences:
            if length + len(sentence) > ANSWER_CHARACTERS_MAX:
                break
            fitting.append(sentence)
            length += len(sentence) + 1
        if fitting:
            kept.append(" ".join(fitting))
        if len(fitting) < len(sentences):
            break
    while kept and kept[-1].endswith(":"):  # announces what was cut off
        sentences = _SENTENCE_END.split(kept.pop())[:-1]
        if sentences:
            kept.append(" ".join(sentences))
    return "\n".join(kept)


def make_pairs(faq_folder):
    pages = sorted(faq_folder.glob("*.en.html")) or sorted(faq_folder.glob("*.html"))
    sections = [section for page in pages if not page.name.startswith("index.") for section in read_sections(page)]
    pairs = {}
    for title, paragraphs in sections:
        answer = answer_of(paragraphs)
        if len(answer) >= ANSWER_CHARACTERS_MIN:
            pairs.setdefault(question_of(title), answer)
    return list(pairs.items())


def write_dataset(pairs, notice, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    with open(temporary, "w", encoding="utf-8") as file:
        for question, answer in pairs:
            messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
    if notice.exists():
        shutil.copyfile(notice, target.with_suffix(".copyright"))
    temporary.replace(target)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", default=cache_folder() / "quickstart" / "debian-faq.jsonl")
    target = parser.parse_args().file
    if target.exists():
        print(f"dataset: {target} (already there)")
        return
    with tempfile.TemporaryDirectory(prefix="sluice-faq-") as temporary:
        root = Path("/") if any((Path("/") / FAQ_FOLDER).glob("*.html")) else fetch_package(temporary)
        pairs = make_pairs(root / FAQ_FOLDER)
        if len(pairs) < PAIRS_MIN:
            sys.exit(f"error: {root / FAQ_FOLDER}: only {len(pairs)} questions found; its layout must have changed")
        write_dataset(pairs, root / NOTICE, target)
    print(f"dataset: {target} ({len(pairs)} questions)")


if __name__ == "__main__":
    main()
