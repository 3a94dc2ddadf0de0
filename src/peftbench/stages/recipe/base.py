"""What a data recipe declares of itself, and what it makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from peftbench.config.schema import RecipeConfig, number, one_of

if TYPE_CHECKING:
    from peftbench.stages.base import Context
    from peftbench.tasks.base import Row


@dataclass
class PairsConfig(RecipeConfig):
    """Options of recipes that make pairs of an instruction and an answer, to train a language model on."""

    batch_size: int = number(ge=1)
    loss_on: str = one_of("answer", "all")
    exponent: float = number(ge=0, le=1)


@dataclass(frozen=True)
class Recipe:
    """A recipe's declaration. The module that makes it, as the constant `RECIPE`, imports nothing heavy.

    Attributes:
        options: dataclass of the section `recipe`.
        make: `(context, options) -> Made`, or where it is, "module:function".
        makes: `rows`, labelled like the task's train rows, which join them; or `pairs` of an instruction and an answer,
            on which a language model is trained before the method's stages.
        files: `(options) -> {part: path}`, the files of the user's that it reads.
        check: `(options) -> None`, asked when a config is composed, or where it is; raises UsageError if a file does
            not hold what it should.
        results_version: raised when the same keys would give other numbers; renames the runs that have the recipe.
    """

    options: type[RecipeConfig]
    make: Callable[[Context, Any], Made] | str
    makes: Literal["rows", "pairs"]
    files: Callable[[Any], dict[str, str]] = lambda _options: {}
    check: Callable[[Any], None] | str | None = None
    results_version: int = 1


@dataclass
class Made:
    """What a recipe has made, before it is looked through.

    Attributes:
        rows: with a target: a label, or the answer to the instruction in `text`. `domain` is a part by which pairs are
            mixed, if there are any.
        origin: row id -> what it was made of, for a reader.
        facts: what making it took, for the record: calls, tokens.
    """

    rows: list[Row]
    origin: Mapping[str, Any] = field(default_factory=dict)
    facts: dict[str, float] = field(default_factory=dict)
