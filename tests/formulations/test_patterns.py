"""Patterns: whatever the texts and the length, exactly one mask and every word of the pattern are there."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from made_up_configs import compose

from peftbench.errors import UsageError
from peftbench.formulations.patterns import Pattern, PatternEncoder, single_mask
from peftbench.models import load_backbone
from peftbench.tasks.base import Row

PET = (
    "{mask} : {headline} {article}",
    "{mask} News: {headline} {article}",
    "{headline} ( {mask} ) {article}",
    "{headline} {article} ( {mask} )",
    "[ Category: {mask} ] {headline} {article}",
)
SCIPROMPT = "The field of this study is related to: {mask}. {text}"
PAIR = "{text:cut}? {mask}, {pair:lower}"


@cache
def tokenizer(model: str = "tiny-bert"):
    return load_backbone(compose([f"model={model}"]).model, "mlm", dropout=0.0).tokenizer


def encoder(template: str, max_length: int, shorten: str = "longest", model: str = "tiny-bert") -> PatternEncoder:
    mask = str(tokenizer(model).mask_token)
    return PatternEncoder(Pattern(template, shorten), tokenizer(model), max_length, mask)


def row(headline: str, article: str) -> Row:
    return Row("test:0", headline, None, article, parts={"headline": headline, "article": article})


def decoded(ids: list[int]) -> str:
    return tokenizer().decode(ids, skip_special_tokens=False)


def words_of(template: str, mask: str) -> list[str]:
    """The pattern's own words, in order, with the mask, which a tokenizer sets apart."""
    return Pattern(template).fill(dict.fromkeys(Pattern(template).names, ""), f" {mask} ").split()


@settings(max_examples=150, deadline=None)
@given(
    template=st.sampled_from([*PET, SCIPROMPT, PAIR]),
    max_length=st.integers(8, 256),
    first=st.text(max_size=60),
    second=st.one_of(st.text(max_size=300), st.text("ab <>[]mask\n", max_size=900)),
    shorten=st.sampled_from(["last", "longest"]),
)
@example(template=PET[2], max_length=30, first="<mask>", second="x <mask> <mask>" * 40, shorten="last")
@example(template=PET[3], max_length=40, first="", second="", shorten="last")
@example(template=PAIR, max_length=24, first="word " * 500, second="Word " * 500, shorten="longest")
def test_one_mask_and_the_whole_pattern_at_every_length(template, max_length, first, second, shorten):
    empty = Pattern(template).fill(dict.fromkeys(Pattern(template).names, ""), "<mask>")
    if len(tokenizer()(empty)["input_ids"]) >= max_length:
        with pytest.raises(UsageError, match=f"trainer.max_length={max_length}"):
            encoder(template, max_length, shorten)
        return
    encode = encoder(template, max_length, shorten)
    ids, cut = encode.encode(row(first, second))
    assert len(ids) <= max_length
    assert ids.count(encode.mask_id) == 1
    whole = len(tokenizer()(encode.pattern.fill(encode.pattern.texts(row(first, second)), "<mask>"))["input_ids"])
    assert cut or whole <= max_length or "<mask>" in first + second
    shown, at = decoded(ids), 0
    for word in words_of(template, "<mask>"):
        at = shown.find(word, at)
        assert at >= 0, f"`{word}` of the pattern is gone: {shown}"
        at += len(word)


@pytest.mark.parametrize("model", ["tiny-bert", "tiny-roberta"])
@pytest.mark.parametrize("template", [*PET, SCIPROMPT])
def test_an_article_of_ten_thousand_tokens(template, model):
    article = "water law " * 5000
    encode = encoder(template, 128, "last", model)
    item = Row("test:0", f"Budget talks {article}", None, parts={"headline": "Budget talks", "article": article})
    ids, cut = encode.encode(item)
    assert cut
    assert 120 <= len(ids) <= 128, "what room there is, is used"
    single_mask(ids, encode.mask_id, "test:0")
    assert "Budget talks" in decoded(ids)


def test_a_short_text_is_not_touched():
    ids, cut = encoder(SCIPROMPT, 64).encode(Row("test:0", "We study the water.", None))
    assert not cut
    assert decoded(ids) == "<s> The field of this study is related to: <mask> . We study the water.</s>"


def test_a_literal_mask_in_the_text_stays_text():
    ids, _ = encoder(SCIPROMPT, 64).encode(Row("test:0", "We predict <mask> and <mask>.", None))
    assert ids.count(tokenizer().mask_token_id) == 1
    assert "We predict < mask > and < mask >." in decoded(ids)


def test_the_last_part_is_emptied_before_the_headline_loses_a_token():
    headline, article = "news of the water law", "sports " * 100
    for length in range(18, 60):
        encode = encoder(PET[1], length, "last")
        shown = decoded(encode.encode(row(headline, article))[0])
        if "sports" in shown:
            assert headline in shown
        elif headline not in shown:
            assert shown.endswith("</s>")
    assert "sports" in shown, "at the greatest length there is room for the article"


def test_longest_shortens_the_longer_part_until_they_are_equal():
    encode = encoder("{mask} {headline} | {article}", 40, "longest")
    ids, cut = encode.encode(row("water " * 10, "sports " * 200))
    shown = decoded(ids)
    assert cut
    assert shown.count("water") == 10
    assert 15 <= shown.count("sports") <= 30
    both = decoded(encode.encode(row("water " * 100, "sports " * 200))[0])
    assert abs(both.count("water") - both.count("sports")) <= 1


def test_a_tail_is_never_shortened():
    encode = encoder(SCIPROMPT, 60)
    ids, cut = encode.encode(Row("test:0", "water " * 200, None), tail=" A whole example. Topic: law.")
    assert cut
    assert len(ids) <= 60
    assert "A whole example. Topic: law." in decoded(ids)


def test_empty_parts_leave_the_pattern():
    ids, cut = encoder(PET[2], 40).encode(row("", ""))
    assert not cut
    assert decoded(ids).split() == ["<s>", "(", "<mask>", ")</s>"]


def test_changes_of_a_placeholder():
    pattern = Pattern("{text:cut}? {mask}, {pair:lower}")
    assert pattern.fill({"text": "It rains.", "pair": "The sky"}, "M") == "It rains? M, the sky"
    assert pattern.fill({"text": "uh yeah", "pair": "Yes"}, "M") == "uh yea? M, yes", "LM-BFF looks at no character"
    assert Pattern("{text:bare}? {mask}").fill({"text": "uh yeah"}, "M") == "uh yeah? M"
    assert Pattern("{text:bare}? {mask}").fill({"text": "It rains."}, "M") == "It rains? M"
    assert pattern.fill({"text": "", "pair": ""}, "M") == "? M,"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{text} Topic", r"has 0 \{mask\} and 1 texts"),
        ("{mask} {text} {mask}", r"has 2 \{mask\}"),
        ("Topic: {mask}", "0 texts"),
        ("{text:cutt} {mask}", r"\{text:cutt\} is unknown. Did you mean `cut`"),
    ],
)
def test_patterns_that_cannot_be(template, message):
    with pytest.raises(UsageError, match=message):
        Pattern(template)


def test_a_placeholder_that_the_rows_do_not_have():
    with pytest.raises(UsageError, match=r"no \{headlin\}. Did you mean `headline`"):
        encoder("{headlin} {mask}", 40).encode(row("a", "b"))


def test_too_small_a_length_says_what_would_do():
    with pytest.raises(UsageError, match=r"max_length=8: the pattern .* alone takes \d+ tokens. Set") as caught:
        encoder(SCIPROMPT, 8)
    enough = int(str(caught.value).split()[-3])
    ids, cut = encoder(SCIPROMPT, enough).encode(Row("test:0", "water " * 100, None))
    assert cut
    assert "water" in decoded(ids)


def test_two_masks_are_an_error():
    with pytest.raises(ValueError, match="row test:3: 2 masks"):
        single_mask([0, 4, 5, 4], 4, "test:3")


@settings(max_examples=50, deadline=None)
@given(text=st.text("water law.,", min_size=200, max_size=400), length=st.integers(24, 60))
def test_what_is_kept_of_a_text_is_its_beginning(text, length):
    assume(text.strip())
    encode = encoder("{mask} | {text}", length)
    ids, cut = encode.encode(Row("test:0", text, None))
    assume(cut)
    kept = decoded(ids).partition("|")[2].removesuffix("</s>")
    assert text.strip().startswith(kept.strip())
    assert len(ids) >= length - 3, "no more is cut than has to be"
