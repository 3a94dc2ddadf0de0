"""Unlabelled text: sentences, what evaluation has of them, and what is held out."""

from __future__ import annotations

from pathlib import Path

from peftbench.tasks import unlabelled
from peftbench.tasks.unlabelled import RUN, document, is_held_out, limited, read_lines, size, unshared

LONG = "a sentence of quite a few more than thirty characters"


def test_a_text_falls_into_sentences_of_any_script_and_long_ones_into_pieces() -> None:
    assert document(" One here.  Two\nthere! ሰላም። ደህና ") == ["One here.", "Two there!", "ሰላም።", "ደህና"]
    found = document("word " * 300)
    assert " ".join(found) == ("word " * 300).strip()
    assert max(map(len, found)) <= unlabelled.LONGEST


def test_hashes_are_those_of_each_run_of_characters() -> None:
    text = f"{LONG}, and \u1230\u120b\u121d"
    hashes = unlabelled._runs(text)

    def one_by_one(run: str) -> int:
        value = 0
        for character in run:
            value = (value * unlabelled.MULTIPLIER + ord(character)) % 2**64
        return value

    assert hashes.tolist() == [one_by_one(text[i : i + RUN]) for i in range(len(text) - RUN + 1)]
    assert not len(unlabelled._runs("too short"))


def test_a_sentence_that_shares_thirty_characters_with_evaluation_goes(monkeypatch) -> None:
    documents = [["Short one.", LONG], [LONG[:RUN]], [LONG[: RUN - 1]], []]
    told = f"before {LONG[5:].upper()}  behind"
    assert unshared(documents, [told]) == [["Short one."], [LONG[:RUN]], [LONG[: RUN - 1]], []]
    assert unshared(documents, ["x", LONG.replace(" ", "\n ")]) == [["Short one."], [], [LONG[: RUN - 1]], []]
    monkeypatch.setattr(unlabelled, "CHUNK", 7)  # what stands across two pieces of a long text is found, too
    assert unshared(documents, [told]) == [["Short one."], [LONG[:RUN]], [LONG[: RUN - 1]], []]
    assert unshared(documents, []) == documents
    assert unshared([], [told]) == []


def test_lines_of_a_file_are_documents_and_u_2028_ends_none(tmp_path: Path) -> None:
    path = tmp_path / "orm.txt"
    path.write_text("".join(f"line {i}\u2028of   text\n\n" for i in range(25)), encoding="utf-8")
    found = read_lines(path)
    assert [len(part) for part in found] == [20, 5]
    assert found[0][0] == "line 0 of text"


def test_what_is_held_out_is_told_by_the_first_line_and_about_a_twentieth() -> None:
    held = [is_held_out([f"line {i}", "more"]) for i in range(2000)]
    assert held == [is_held_out([f"line {i}"]) for i in range(2000)]
    assert 60 < sum(held) < 140


def test_so_many_characters_are_taken_in_an_order_of_the_text_s_own() -> None:
    documents = [[f"line {i}"] for i in range(100)]
    some = limited(documents, 60)
    assert 60 <= size(some) < 70
    assert [found for found in documents if found in some] == some
    assert {found[0] for found in limited(documents[::-1], 60)} == {found[0] for found in some}
    assert limited(documents, None) == documents
