"""The one door to TransformerLens: everything that mi_toolkit asks of its two majors.

TransformerLens is imported inside the functions: it takes seconds, sets the level of
transformers' logger, and only loading a model needs it.

1. `TransformerBridge` (3.x and 4.x) wraps a Hugging Face model and runs its own code.
2. `HookedTransformer` (3.x; removed in 4.0) copies the weights into its own implementation.
"""

from __future__ import annotations

import copy
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from importlib.util import find_spec
from inspect import signature
from io import StringIO
from types import ModuleType
from typing import Any, Literal

import transformers
from jaxtyping import Float
from tokenizers import Tokenizer, models
from torch import Tensor

from mi_toolkit.core.blocks_on_disk import blocks_on_disk
from mi_toolkit.core.errors import ModelLoadError, UnsupportedModelError
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.progress import track

_PUT_OFF = (
    *("datasets", "datasets.arrow_dataset", "datasets.iterable_dataset", "datasets.load"),
    "pandas",
    "scipy.optimize",
)
"""What `import transformer_lens` imports for functions that mi_toolkit never calls: a quarter of
its time, pyarrow included; and what transformers' models do for the loss of object detection."""


def import_lightly() -> None:
    """Import TransformerLens without what its data sets and tables need, which comes on first use.

    For a process of our own, the command line's: TransformerLens asks for these modules by name
    where it is imported, and for that time alone something stands in their place. What it has taken
    from them by then imports the real ones when it is used. Tests ride along likewise: it imports
    pytest wherever that is installed, and does without it elsewhere.
    """
    if "transformer_lens" in sys.modules:
        return
    try:
        with _put_off():
            import_module("transformer_lens.model_bridge")
    except ImportError:  # a release that asks for more of them: with everything, then
        for name in [name for name in sys.modules if name.split(".")[0] == "transformer_lens"]:
            del sys.modules[name]
        import_module("transformer_lens.model_bridge")


@contextmanager
def _put_off() -> Iterator[None]:
    absent = [name for name in _PUT_OFF if name not in sys.modules]
    if "datasets" not in absent:  # its modules are there, or come with it
        absent = [name for name in absent if not name.startswith("datasets")]
    stand_ins: dict[str, Any] = {name: _StandIn(name) for name in absent}
    if "pytest" not in sys.modules:
        stand_ins["pytest"] = None  # importing it fails as where it is not installed
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name in stand_ins:
            del sys.modules[name]


class _StandIn(ModuleType):
    """A module to import names from that are looked up when they are used."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        # Whoever asks whether it is installed is answered as ever.
        self.__spec__ = ModuleSpec(name, None) if "." in name else find_spec(name)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        if sys.modules.get(self.__name__) is self:
            return _Later(name, (), {"__module__": self.__name__})
        return getattr(import_module(self.__name__), name)


class _Later(type):
    """A class or function that is imported when it is called, asked, or tested against."""

    def _real(cls) -> Any:
        return getattr(import_module(cls.__module__), cls.__name__)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return cls._real()(*args, **kwargs)

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, cls._real())

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(cls._real(), name)


def require_adapter(name: str, architecture: str | None, config: Any) -> None:
    """Nothing, if the bridge of the installed TransformerLens can wrap this architecture.

    Raises:
        UnsupportedModelError: it cannot. Asked before any weights are read.
    """
    from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES

    named = [architecture, *(getattr(config, "architectures", None) or [])]
    if not any(each in SUPPORTED_ARCHITECTURES for each in named):
        raise UnsupportedModelError(
            f"{name} cannot be hooked: TransformerLens has no adapter for {architecture}. A newer "
            "TransformerLens may have one (pip install -U transformer-lens)."
        )


def bridge(
    name: str, *, location: str, attn_implementation: str, hf_model: Any, tokenizer: Any
) -> HookedModel:
    """`hf_model` wrapped in a `TransformerBridge` called `name`, its weights raw.

    The bridge takes the model over: it puts its own modules between the model's. The
    tokenizer is copied.
    """
    from transformer_lens.model_bridge import TransformerBridge

    from mi_toolkit.core.architecture_variants import adapter_of_its_variant

    parameter = next(hf_model.parameters())
    if not hf_model.config.architectures:
        # TransformerLens chooses by this field, which only `save_pretrained` fills in.
        hf_model.config.architectures = [type(hf_model).__name__]
    with (
        _prepared(tokenizer) as own_tokenizer,
        _embedding_not_copied(TransformerBridge),
        _nothing_installed(),
        _read_later(hf_model),
        adapter_of_its_variant(hf_model),
    ):
        model = TransformerBridge.boot_transformers(
            # Bare names may be deprecated aliases (`opt`, `neo`, …): for those TransformerLens
            # warns on the root logger, which configures logging for the whole process.
            location if "/" in location else f"./{location}",
            hf_model=hf_model,
            tokenizer=own_tokenizer,
            # TransformerLens reads off by itself where a model is that is spread over devices.
            device=None if _is_spread(hf_model) else str(parameter.device),
            dtype=parameter.dtype,
        )
    if tokenizer is None:
        model.tokenizer = None
    # Booting switches to eager attention in 4.x and leaves it as it was in 3.x.
    hf_model.set_attn_implementation(attn_implementation)
    model.cfg.model_name = name
    return _at_rest(model)


def cache_is_sound(model: HookedModel) -> bool:
    """Whether a bridge's own attention takes the keys and values that were kept into account.

    In TransformerLens 3 that of models with ALiBi (MPT, Falcon with `alibi`) leaves them out. From
    transformers 5.24 on they are handed over as `cache`, and up to 4.3 TransformerLens asks for
    `past_key_values`.
    """
    handed = signature(transformers.GenerationMixin.prepare_inputs_for_generation).parameters
    if "past_key_values" not in handed:
        return False
    has_alibi = getattr(model.cfg, "positional_embedding_type", None) == "alibi"
    return not has_alibi or int(version("transformer-lens").partition(".")[0]) >= 4


def is_wrapped(hf_model: Any) -> bool:
    """Whether a bridge has put its own modules between those of `hf_model`."""
    return any("_original_component" in module._modules for module in hf_model.modules())


def _is_spread(hf_model: Any) -> bool:
    places = getattr(hf_model, "hf_device_map", None) or {}
    return len(set(map(str, places.values()))) > 1


def hooked_transformer(name: str, *, hf_model: Any, tokenizer: Any) -> HookedModel:
    """The weights of `hf_model` as a `HookedTransformer`, raw (nothing folded or centred).

    Raises:
        ModelLoadError: TransformerLens 4 is installed, or its 3.x does not know `name`.
    """
    hooked_class = require_hooked_transformer(name)
    parameter = next(hf_model.parameters())
    with (
        _prepared(tokenizer) as own_tokenizer,
        warnings.catch_warnings(),
        redirect_stdout(StringIO()),
    ):
        # It announces its own removal with a warning, and each load with a print.
        warnings.filterwarnings("ignore", "HookedTransformer.*deprecated", DeprecationWarning)
        model = hooked_class.from_pretrained_no_processing(
            name,
            hf_model=hf_model,
            tokenizer=own_tokenizer,
            device=str(parameter.device),
            dtype=parameter.dtype,
        )
    if tokenizer is None:
        model.tokenizer = None
    model.cfg.model_name = name  # it drops the organisation: `pythia-160m`
    return _at_rest(model)


def initialised_again(model: Any) -> HookedModel:
    """A `HookedTransformer` of the same config with weights as TransformerLens initialises them.

    Its random numbers are torch's own: the config's seed, which would give one model again and
    again, is left out.
    """
    cfg = copy.deepcopy(model.cfg)
    device = cfg.device
    cfg.seed, cfg.init_weights, cfg.device = None, True, "cpu"
    with _prepared(model.tokenizer) as tokenizer, redirect_stdout(StringIO()):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "HookedTransformer.*deprecated", DeprecationWarning)
            fresh = type(model)(cfg, tokenizer=tokenizer)
        fresh.cfg.device = device
        return _at_rest(fresh.to(device))


def require_hooked_transformer(name: str) -> Any:
    """The class `HookedTransformer`, if it is there and knows `name`.

    Raises:
        ModelLoadError: TransformerLens 4 is installed, or its 3.x does not know `name`.
    """
    try:
        from transformer_lens import HookedTransformer, loading
    except ImportError as error:
        raise ModelLoadError(
            "backend='hooked' needs HookedTransformer, which TransformerLens 4.0 removed. Use "
            "backend='auto' (a TransformerBridge, which every function here takes as well), or "
            'install the older major: pip install "transformer-lens<4".'
        ) from error
    if name not in loading.OFFICIAL_MODEL_NAMES:
        raise ModelLoadError(
            f"HookedTransformer does not know {name!r}: it loads TransformerLens' official names "
            "only, no folders, GGUF files or bundled models. Use backend='auto'."
        )
    return HookedTransformer


def activation_cache(tensors: dict[str, Any], model: HookedModel) -> Any:
    """TransformerLens' `ActivationCache` of these tensors, which all have a batch axis."""
    from transformer_lens import ActivationCache

    return ActivationCache(tensors, model, has_batch_dim=True)


def lens_logits(
    model: HookedModel, residual: Float[Tensor, "*batch d_model"]
) -> Float[Tensor, "*batch vocabulary"]:
    """What the model would predict if these were its last residual stream: the logit lens.

    TransformerLens' own readout, in 4.x; what it does, a final norm and the unembedding, in 3.9.

    Raises:
        UnsupportedModelError: the model makes its logits in another way.
    """
    try:
        from transformer_lens.tools.analysis.logit_lens import logit_readout
    except ImportError:
        modules: Any = model
        logits: Tensor = modules.unembed(modules.ln_final(residual))
        return logits
    try:
        readout: Tensor = logit_readout(model, residual).values
    except (ValueError, NotImplementedError) as error:
        raise UnsupportedModelError(
            f"TransformerLens has no logit lens for {model.cfg.model_name}: {error}"
        ) from error
    return readout


def key_value_cache(model: HookedModel, n_rows: int) -> Any:
    """An empty cache of keys and values for a `HookedTransformer` that runs as many rows."""
    from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

    return TransformerLensKeyValueCache.init_cache(model.cfg, model.cfg.device, n_rows)


def _at_rest(model: Any) -> HookedModel:
    """`model` in eval mode and without gradients, as every function here expects it.

    A bridge comes up in training mode around a model that was in eval mode.
    """
    model.eval()
    model.requires_grad_(requires_grad=False)
    return model  # type: ignore[no-any-return]


@contextmanager
def _embedding_not_copied(bridge_class: Any) -> Iterator[None]:
    """Keep a booting bridge from copying the embedding: a third of GPT-2, for nothing.

    Looking for hook points, it evaluates its own properties, and in 4.x `W_E_pos` concatenates
    the token and the position embeddings.
    """
    copying = vars(bridge_class).get("W_E_pos")
    if copying is None:
        yield
        return
    bridge_class.W_E_pos = None
    try:
        yield
    finally:
        bridge_class.W_E_pos = copying


@contextmanager
def _read_later(hf_model: Any) -> Iterator[None]:
    """Let a booting bridge take projections apart whose weights are read when a block runs.

    It refuses weights that are shapes alone: what it made of them is made again of the weights.
    """
    if blocks_on_disk(hf_model) is None:
        yield
        return
    from transformer_lens.utilities import quantization

    refusing = quantization.unreadable_weight_reason

    def reason(weight: Any) -> str | None:
        is_shape = isinstance(weight, Tensor) and weight.is_meta
        return None if is_shape else refusing(weight)

    quantization.unreadable_weight_reason = reason
    try:
        yield
    finally:
        quantization.unreadable_weight_reason = refusing


@contextmanager
def _nothing_installed() -> Iterator[None]:
    """Keep a booting bridge from installing packages: it would call pip for torchvision.

    It does so where a model also takes pictures and its processor does not load, which text does
    not need.
    """
    calling: Any = subprocess.check_call

    def refuse(command: Any, *args: Any, **options: Any) -> int:
        if "torchvision" in command:
            raise subprocess.CalledProcessError(1, command)
        return calling(command, *args, **options)  # type: ignore[no-any-return]

    subprocess.check_call = refuse  # type: ignore[assignment]
    try:
        yield
    finally:
        subprocess.check_call = calling


@contextmanager
def _prepared(tokenizer: Any) -> Iterator[Any]:
    """A copy of `tokenizer` that TransformerLens takes as it is.

    Unless `init_kwargs` asks for a BOS, TransformerLens loads the tokenizer a second time, from
    its name: over the network, at another revision, or not at all if it was made in memory.
    Whether a tokenizer prepends a BOS, TransformerLens then finds out by trying it.
    """
    own = _stopgap() if tokenizer is None else copy.deepcopy(tokenizer)
    asked = own.init_kwargs.get("add_bos_token")
    own.init_kwargs |= {"add_bos_token": True, "name_or_path": own.name_or_path}
    # TransformerLens fills an empty BOS slot: what it was stays known (`prompts.bos.own_bos_id`).
    own.init_kwargs["bos_token"] = own.bos_token
    yield own
    own.init_kwargs["add_bos_token"] = asked
    if asked is None:
        del own.init_kwargs["add_bos_token"]


def _stopgap() -> Any:
    """A tokenizer of one word: without any, TransformerLens looks for one by the model's name."""
    words = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    roles = dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), "a")
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, **roles)


def checkpoint_path(model: Any, place: str) -> str | None:
    """The module of the Hugging Face model that holds `place` of ours; None where none does.

    `blocks.0.attn.o` of GPT-2 is `transformer.h.0.attn.c_proj`. Q, K and V of a fused projection
    are no modules there: ask for `blocks.0.attn.qkv`.
    """
    adapter = getattr(model, "adapter", None) or _adapter_of(model.cfg)
    try:
        return str(adapter.translate_transformer_lens_path(place))
    except ValueError:
        return None


def block_template(model: Any, part: str) -> Any:
    """What a bridge of this architecture has as `attn` or `mlp` of a block, with no model in it."""
    adapter = getattr(model, "adapter", None) or _adapter_of(model.cfg)
    return adapter.components["blocks"].submodules.get(part)


def _adapter_of(cfg: Any) -> Any:
    """The table of names of a `HookedTransformer`'s architecture: the one that its bridge has."""
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory

    sizes = ("d_model", "d_head", "n_layers", "n_ctx", "n_heads", "d_vocab")
    adapter = ArchitectureAdapterFactory.select_architecture_adapter(
        TransformerBridgeConfig(
            **{name: getattr(cfg, name) for name in sizes},
            n_key_value_heads=cfg.n_key_value_heads,
            architecture=cfg.original_architecture,
        )
    )
    # transformers 5.14 renamed the unembedding of GPT-NeoX; a bridge's adapter asks its model.
    tied = getattr(getattr(transformers, cfg.original_architecture), "_tied_weights_keys", None)
    if "embed_out.weight" in (tied or ()):
        adapter.components["unembed"].name = "embed_out"
    return adapter


def patched_metric(
    function: str,
    model: HookedModel,
    corrupted: Any,
    clean: dict[str, Any],
    metric: Any,
    *,
    progress: bool | None,
) -> Any:
    """What TransformerLens' activation patching called `get_act_patch_<function>` gives.

    Args:
        function: which one, such as `resid_pre` or `attn_head_out_all_pos`.
        model: the model.
        corrupted: ids of the corrupted prompts.
        clean: activations of the clean prompts, by hook name.
        metric: from logits to a scalar.
        progress: a progress bar, None where somebody looks.
    """
    from transformer_lens import patching

    def bar(items: Any, **_: Any) -> Any:
        return track(items, total=len(items), label="patching", unit="run", show=progress)

    # Its own bar is always there, and in a notebook without ipywidgets it warns.
    module: Any = patching
    own, module.tqdm = module.tqdm, bar
    try:
        patch = getattr(module, f"get_act_patch_{function}")
        return patch(model, corrupted, activation_cache(clean, model), metric)
    finally:
        module.tqdm = own


def attribution_scores(
    model: HookedModel,
    clean: Any,
    corrupted: Any,
    metric: Any,
    *,
    granularity: Literal["node", "edge"],
) -> Any:
    """The result of TransformerLens' `attribution_patch` on one pair of prompts.

    Raises:
        UnsupportedModelError: TransformerLens refuses this model, or its release cannot do it.
    """
    from transformer_lens.tools.analysis import EdgeAttributionConfig, attribution_patch

    try:
        config = EdgeAttributionConfig(granularity=granularity)
        with warnings.catch_warnings():
            # The graph begins at the embedding: nothing before it needs a gradient.
            warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)
            return attribution_patch(model, clean, corrupted, metric, config)
    except (ValueError, NotImplementedError) as error:
        raise UnsupportedModelError(
            f"TransformerLens refuses attribution patching of {granularity}s in "
            f"{model.cfg.model_name}: {error}"
        ) from error
