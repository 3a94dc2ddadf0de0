"""MAD-X: adapters of languages, and a task's adapter on top of them (Pfeiffer et al., EMNLP 2020, arXiv 2005.00052).

With s = H + I the sum that a block's last LayerNorm reads, H being the feed-forward's output and I the residual, and
B(x) = W_up act(W_down x + b) + b',

    s' = s + B_language(LN(s));  s'' = s' + B_task(LN(s'));  the block's output is LN(s'').

That is the `seq_bn` layout of the `adapters` library, whose class adds the same to H. So it takes networks whose norms
stand behind the residual sums. A language has besides an invertible adapter (NICE) at what the first block reads; its
inverse stands in front of the output embedding, where a masked-LM head is asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from peftbench.errors import UsageError
from peftbench.models.anatomy import anatomy_of
from peftbench.models.anatomy.parts import Block
from peftbench.models.base import Backbone
from peftbench.tuners.adapter_blocks import INIT_STD, Bottleneck
from peftbench.tuners.base import ParamGroups, Tuner, TunerContext
from peftbench.tuners.madx import MadxOptions

WEIGHTS, LANGUAGES = "madx.safetensors", "madx.json"
TASK = "task"
Tensors = Mapping[str, Tensor]


class Nice(nn.Module):
    """An invertible map of (..., d), by two additive couplings of its halves (NICE; Dinh et al., arXiv 1410.8516):

        o1 = e1 + F(e2);  o2 = e2 + G(o1)

    with F, G two-layer networks of ReLU. At even d and a reduction of 2 they have d^2 / 2 + 3 d / 2 numbers in all.
    """

    def __init__(self, d: int, reduction: int) -> None:
        super().__init__()
        self.sizes = [d // 2, d - d // 2]
        first, second = self.sizes
        self.f, self.g = coupling(second, first, reduction), coupling(first, second, reduction)

    def forward(self, e: Tensor) -> Tensor:
        first, second = e.split(self.sizes, dim=-1)
        first = first + self.f(second)
        return torch.cat([first, second + self.g(first)], dim=-1)

    def inverse(self, o: Tensor) -> Tensor:
        """What `forward` made `o` of."""
        first, second = o.split(self.sizes, dim=-1)
        second = second - self.g(first)
        return torch.cat([first - self.f(second), second], dim=-1)


def coupling(inward: int, outward: int, reduction: int) -> nn.Sequential:
    """A network between the halves."""
    hidden = max(1, inward // reduction)
    made = nn.Sequential(nn.Linear(inward, hidden), nn.ReLU(), nn.Linear(hidden, outward))
    for layer in (made[0], made[2]):
        start(layer)
    return made


def start(layer: nn.Module) -> None:
    """BERT's initial values, the library's for all parts: N(0, 0.02^2), bias 0. So nothing is the identity at first."""
    assert isinstance(layer, nn.Linear)
    nn.init.normal_(layer.weight, std=INIT_STD)
    nn.init.zeros_(layer.bias)


def bottleneck(d: int, b: int, activation: str) -> Bottleneck:
    """An adapter: 2 d b + b + d numbers."""
    made = Bottleneck(d, b, activation)
    for layer in (made.down, made.up):
        start(layer)
    return made


class Spoken:
    """What all parts of a network share: the language whose adapters are at work (None: none), and whether any is."""

    def __init__(self) -> None:
        self.language: str | None = None
        self.names: dict[str, str] = {}
        """Names of modules -> the languages that there are adapters of."""
        self.on = True


class AdaptedNorm(nn.Module):
    """A block's last LayerNorm with the adapters in front of it."""

    def __init__(self, norm: nn.Module, spoken: Spoken) -> None:
        super().__init__()
        self.norm = norm
        self.languages = nn.ModuleDict()
        self.task: Bottleneck | None = None
        self._spoken = [spoken]  # in a list, so that it is no state

    def forward(self, s: Tensor) -> Tensor:
        """(batch, n, d), the residual sum -> (batch, n, d)."""
        spoken = self._spoken[0]
        if spoken.on:
            if spoken.language is not None:
                s = s + in_own_precision(self.languages[key_of(spoken.language)], self.norm(s))
            if self.task is not None:
                s = s + in_own_precision(self.task, self.norm(s))
        return self.norm(s)  # type: ignore[no-any-return]


class Invertible(nn.Module):
    """The invertible adapters of the languages, hooked to a network's first block and to its output embedding."""

    def __init__(self, spoken: Spoken) -> None:
        super().__init__()
        self.languages = nn.ModuleDict()
        self._spoken = [spoken]

    def spoken(self) -> Nice | None:
        """That of the language at work."""
        spoken = self._spoken[0]
        found = self.languages[key_of(spoken.language)] if spoken.on and spoken.language is not None else None
        assert found is None or isinstance(found, Nice)
        return found

    def into(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """Forward pre-hook of the first block: what it reads, through the adapter."""
        nice = self.spoken()
        if nice is None:
            return args, kwargs
        if args:
            return (in_own_precision(nice, args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": in_own_precision(nice, kwargs["hidden_states"])}

    def out_of(self, embedding: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Forward pre-hook of the output embedding: what it reads, through the inverse."""
        nice = self.spoken()
        return args if nice is None else (in_own_precision(nice.inverse, args[0], nice), *args[1:])


def in_own_precision(call: Any, x: Tensor, owner: nn.Module | None = None) -> Tensor:
    """`call(x)` in the format of its weights, whatever the backbone's; under autocast that is autocast's business."""
    owner = call if owner is None else owner
    given = x if torch.is_autocast_enabled(x.device.type) else x.to(next(owner.parameters()).dtype)
    made = call(given, None) if isinstance(call, Bottleneck) else call(given)
    return made.to(x.dtype)  # type: ignore[no-any-return]


def key_of(language: str) -> str:
    """The language as the name of a module."""
    return language.replace(".", "_") or "_"


class MadxTuner(Tuner):
    """Trains the task adapter (group `task`) on the frozen backbone and on the frozen adapters of the language that is
    spoken (`speak`), which `put_language` brings in. Without a language it is the task adapter alone."""

    families = frozenset({"encoder"})
    why_families = "language adapters are trained by masked LM"
    budget_knob = "bottleneck"
    group: ClassVar[str] = TASK
    cfg: MadxOptions

    def check(self, backbone: Backbone, context: TunerContext) -> None:
        blocks = self.blocks(backbone)
        usual = all(block.passes == 1 and len(block.norms) == 2 for block in blocks)
        if backbone.anatomy.norm != "post" or not usual:
            raise UsageError(
                f"method.tuner=madx: model={backbone.name} has no LayerNorm of its own behind the residual sum of each "
                "feed-forward, in front of which MAD-X's adapters stand. Use a network like BERT or XLM-R, or "
                "method=pfeiffer."
            )
        embedding = backbone.model.get_output_embeddings() if backbone.purpose == "mlm" else None
        width = embedding.weight.shape[-1] if isinstance(embedding, nn.Linear) else backbone.hidden_size
        if self.cfg.invertible and (width != backbone.hidden_size or (embedding is None and backbone.purpose == "mlm")):
            raise UsageError(
                f"method.tuner.invertible=true: the output embedding of model={backbone.name} is not as wide as its "
                "input embedding, so the inverse has no place. Use method.tuner.invertible=false."
            )

    def blocks(self, backbone: Backbone) -> list[Block]:
        """Those with adapters: MAD-X 2.0 leaves the last one out (Pfeiffer et al., arXiv 2012.15562).

        Raises:
            UsageError: none is left.
        """
        found = anatomy_of(backbone.model).blocks()
        kept = found[:-1] if self.cfg.drop_last else found
        if not kept:
            raise UsageError(
                f"method.tuner.drop_last=true: model={backbone.name} has one block. Use method.tuner.drop_last=false."
            )
        return kept

    def build(self, backbone: Backbone, context: TunerContext) -> nn.Module:
        self.check(backbone, context)
        model, spoken = backbone.model.requires_grad_(False), Spoken()
        for block in self.blocks(backbone):
            model.set_submodule(block.norms[-1], AdaptedNorm(model.get_submodule(block.norms[-1]), spoken))
        if self.cfg.invertible:
            invertible = Invertible(spoken)
            backbone.model.base_model.add_module("invertible_adapters", invertible)
            first = model.get_submodule(anatomy_of(model).blocks()[0].name)
            first.register_forward_pre_hook(invertible.into, with_kwargs=True)
            if backbone.purpose == "mlm":
                model.get_output_embeddings().register_forward_pre_hook(invertible.out_of)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            self.add_trained(model, backbone.hidden_size)
        return model

    def add_trained(self, model: nn.Module, width: int) -> None:
        """Put in what is trained."""
        for norm in norms(model):
            made = bottleneck(width, self.cfg.task_width(width), self.cfg.activation)
            norm.task = made.to(next(norm.norm.parameters()).device)

    def param_groups(self, model: nn.Module) -> ParamGroups:
        return {self.group: [p for p in model.parameters() if p.requires_grad]}

    def expected_parameters(self, backbone: Backbone, context: TunerContext) -> int | None:
        d, b = backbone.hidden_size, self.cfg.task_width(backbone.hidden_size)
        return len(self.blocks(backbone)) * (2 * d * b + b + d)

    def disabled(self, model: nn.Module) -> Any:
        return switched_off(model)

    def put_language(self, model: nn.Module, language: str, tensors: Tensors, source: str = "") -> None:
        """Bring in a language's adapters, frozen, and speak it.

        Args:
            tensors: as `language_tensors` gives them.
            source: where they are from, for the message.

        Raises:
            UsageError: they are of another backbone, or made with other settings.
        """
        weight = norms(model)[0].norm.weight
        assert isinstance(weight, Tensor)
        add_language(model, language, len(weight), self.cfg)
        for part in language_parts(model, language).values():
            part.requires_grad_(False)
        fill(language_parts(model, language), tensors, source or f"the adapters of {language}")
        self.speak(model, language)

    def speak(self, model: nn.Module, language: str | None) -> None:
        """From here on the adapters of that language are at work; None: of none."""
        spoken_in(model).language = language

    def save(self, model: nn.Module, folder: Path) -> None:
        """`madx.safetensors`: the task's adapters and those of every language; `madx.json`: the languages, and which is
        spoken."""
        folder.mkdir(parents=True, exist_ok=True)
        names = languages_in(model)
        tensors = {f"{TASK}/{name}": t for name, t in tensors_of(task_parts(model)).items()}
        for language in names:
            found = language_tensors(model, language)
            tensors |= {f"language/{key_of(language)}/{name}": t for name, t in found.items()}
        save_file(tensors, folder / WEIGHTS)
        facts = {"languages": names, "spoken": spoken_in(model).language}
        (folder / LANGUAGES).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")

    def load(self, model: nn.Module, folder: Path) -> None:
        path = folder / WEIGHTS
        if not path.exists() or not (folder / LANGUAGES).exists():
            raise UsageError(f"{path}: no such file. The folder of a finished run with method.tuner=madx holds it.")
        tensors, facts = load_file(path), json.loads((folder / LANGUAGES).read_text(encoding="utf-8"))
        fill(task_parts(model), below(tensors, f"{TASK}/"), str(path))
        for language in facts["languages"]:
            self.put_language(model, language, below(tensors, f"language/{key_of(language)}/"), str(path))
        self.speak(model, facts["spoken"])


class LanguageTuner(MadxTuner):
    """Trains the adapters of one language, its invertible one among them (group `language`); without a task's."""

    group = "language"
    language: str

    def add_trained(self, model: nn.Module, width: int) -> None:
        add_language(model, self.language, width, self.cfg)
        self.speak(model, self.language)

    def expected_parameters(self, backbone: Backbone, context: TunerContext) -> int | None:
        d, b = backbone.hidden_size, self.cfg.language_width(backbone.hidden_size)
        nice = sum(p.numel() for p in Nice(d, self.cfg.invertible_reduction).parameters()) if self.cfg.invertible else 0
        return len(self.blocks(backbone)) * (2 * d * b + b + d) + nice


def add_language(model: nn.Module, language: str, width: int, cfg: MadxOptions) -> None:
    """Fresh adapters for a language, beside those that there are; one of the same name is replaced."""
    device = next(model.parameters()).device
    for norm in norms(model):
        norm.languages[key_of(language)] = bottleneck(width, cfg.language_width(width), cfg.activation).to(device)
    for invertible in invertibles(model):
        invertible.languages[key_of(language)] = Nice(width, cfg.invertible_reduction).to(device)
    known = spoken_in(model)
    known.names = {**known.names, key_of(language): language}


def norms(model: nn.Module) -> list[AdaptedNorm]:
    """The wrapped norms, in the order of computation."""
    return [module for module in model.modules() if isinstance(module, AdaptedNorm)]


def invertibles(model: nn.Module) -> list[Invertible]:
    """The one place of invertible adapters, or none."""
    return [module for module in model.modules() if isinstance(module, Invertible)]


def spoken_in(model: nn.Module) -> Spoken:
    """What the parts of a network share."""
    return norms(model)[0]._spoken[0]


def languages_in(model: nn.Module) -> list[str]:
    """The languages that there are adapters of."""
    return list(spoken_in(model).names.values())


def task_parts(model: nn.Module) -> dict[str, nn.Module]:
    """Number of the block -> its task adapter."""
    return {str(number): norm.task for number, norm in enumerate(norms(model)) if norm.task is not None}


def language_parts(model: nn.Module, language: str) -> dict[str, nn.Module]:
    """Number of the block -> its adapter of a language; `invertible` -> that one."""
    key = key_of(language)
    parts = {str(number): norm.languages[key] for number, norm in enumerate(norms(model))}
    return parts | dict(zip(["invertible"], (found.languages[key] for found in invertibles(model)), strict=False))


def language_tensors(model: nn.Module, language: str) -> dict[str, Tensor]:
    """All numbers of a language's adapters, on the CPU."""
    return tensors_of(language_parts(model, language))


def tensors_of(parts: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """`<part>.<name>` -> a copy on the CPU."""
    return {
        f"{part}.{name}": tensor.detach().to("cpu", copy=True).contiguous()
        for part, module in parts.items()
        for name, tensor in module.state_dict().items()
    }


@torch.no_grad()
def fill(parts: Mapping[str, nn.Module], tensors: Tensors, source: str) -> None:
    """Copy `tensors` into modules. Raises UsageError if names or shapes differ."""
    own = {f"{part}.{name}": t for part, module in parts.items() for name, t in module.state_dict().items()}
    shapes, wanted = ({n: tuple(t.shape) for n, t in found.items()} for found in (tensors, own))
    if shapes != wanted:
        name = min(n for n in shapes.keys() | wanted.keys() if shapes.get(n) != wanted.get(n))
        raise UsageError(
            f"{source}: made from another backbone or with other settings: `{name}` has shape "
            f"{shapes.get(name, 'none')} there and {wanted.get(name, 'none')} in the model. Use the config of its run."
        )
    for name, tensor in own.items():
        tensor.copy_(tensors[name])


def below(tensors: Tensors, prefix: str) -> dict[str, Tensor]:
    """Those whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


@contextmanager
def switched_off(model: nn.Module) -> Iterator[None]:
    """Within the block no adapter is at work."""
    spoken = spoken_in(model)
    before, spoken.on = spoken.on, False
    try:
        yield
    finally:
        spoken.on = before
