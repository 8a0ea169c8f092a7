"""Recipes: what to train, on what and how, as TOML data parsed to frozen values that refuse keys they do not know."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any

import tomllib

from edgeaudio_models.architectures import architecture, architecture_config
from edgeaudio_models.augmentation import AugmentationSpec
from edgeaudio_models.wake_word.settings import WakeWordSettings
from edgeaudio_runtime.errors import SpecError

CORPUS_KINDS = ("recordings", "synthesis", "mixed", "wake_word")
CALIBRATION_METHODS = ("mse", "minmax", "moving_average", "percentile", "entropy")
SCHEDULES = ("one_cycle", "warmup_cosine")
MIXED_PRECISIONS = ("off", "bfloat16", "float16")
ADDED_LATER = MappingProxyType({"added_later": True})
"""Metadata of a field that recipes did not have at first: :mod:`edgeaudio_models.recipe_text` writes it only where it
differs from its default, so that the text of older recipes, and with it the identity of their runs, stays as it was."""
RECOVERY_STEPS = ("equalize", "adaround", "bias_correction", "qat", "ranges")
"""Names of the export's steps that win accuracy back, as ``edgeaudio export --recovery`` takes them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusRecipe:
    """Where the clips come from."""

    kind: str
    """"recordings" (in the folder that the caller gives), "synthesis" (words spoken by synthesizers), "mixed"
    (recordings, and words spoken by synthesizers as further training clips) or "wake_word" (what the table
    ``wake_word`` says, and the recordings of a background folder where one is given)."""
    labels: tuple[str, ...]
    """Labels in the order of the network's outputs; for CTC the blank first."""
    noise: tuple[str, ...] = ()
    """Files or folders of noise below the corpus folder, joined to one long recording for training."""
    noise_held_out: tuple[str, ...] = ()
    """Beginnings of names of noise files that training must not hear: they are for tests in noise."""
    synthesizers: tuple[str, ...] = ()
    """Names of the synthesizers; empty means every installed one."""
    words: tuple[str, ...] = ()
    """Words to synthesize; empty means the labels that are words."""
    clips_per_word: int = 0
    """Synthesized clips a word."""
    clip_seconds: float = field(default=1.0, metadata=ADDED_LATER)
    """Length of a clip of recordings; the averaging window of a keyword network."""
    folders: tuple[str, ...] = field(default=(), metadata=ADDED_LATER)
    """Corpora below the folder that the caller gives, joined, clips labelled by their word; the epoch is chosen by the
    validation clips of the first. Empty means that the folder itself is the corpus."""

    def __post_init__(self) -> None:
        _check_choice("corpus.kind", self.kind, CORPUS_KINDS)
        if len(self.labels) < 2 or len(set(self.labels)) != len(self.labels):
            raise SpecError(f"corpus.labels={list(self.labels)} must name at least 2 labels, each once")
        if not 0.1 <= self.clip_seconds <= 10.0:
            raise SpecError(f"corpus.clip_seconds={self.clip_seconds} must be in 0.1 to 10")
        if self.kind in ("synthesis", "mixed") and self.clips_per_word < 1:
            raise SpecError(f"corpus.clips_per_word={self.clips_per_word} must be >= 1 for kind={self.kind!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class FeaturesRecipe:
    """What the network hears."""

    preset: str = "log_mel"
    """Name in ``edgeaudio_runtime.presets.PRESETS``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelRecipe:
    """Which network."""

    architecture: str
    """Name in ``edgeaudio_models.architectures.ARCHITECTURES``."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Fields of its configuration, without ``n_features`` and ``n_labels``, which follow from the rest."""
    start: str = field(default="", metadata=ADDED_LATER)
    """Checkpoint or entry of the zoo whose weights the training begins with, its labels apart; empty draws them."""

    def __post_init__(self) -> None:
        fixed = sorted({"n_features", "n_labels"} & set(self.parameters))
        if fixed:
            raise SpecError(f"model.parameters: {fixed} follow from features and labels; leave them out")
        architecture_config(self.architecture, {**self.parameters, "n_features": 1, "n_labels": 2})


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingRecipe:
    """How the weights are found."""

    epochs: int
    """Passes over as many examples as the training split has."""
    batch_size: int = 128
    """Examples a step of the optimizer."""
    learning_rate: float = 0.008
    """Highest learning rate of AdamW."""
    schedule: str = "one_cycle"
    """"one_cycle" (cosine up from 1/25, cosine down to 0) or "warmup_cosine" (straight up from 0, cosine down)."""
    warmup: float = 0.2
    """Share of the steps in which the learning rate rises, 0 to 1."""
    weight_decay: float = 0.02
    """Of convolution weights; biases and batch norms have none."""
    label_smoothing: float = 0.1
    """Probability spread evenly over all labels, 0 up to 1 (keyword task only)."""
    ema_decay: float = 0.998
    """Weights are averaged over about ``1 / (1 - ema_decay)`` steps; the averaged ones are kept."""
    max_gradient_norm: float = 5.0
    """Longer gradients are scaled down to this norm."""
    class_balance: float = 0.75
    """0 draws clips evenly, 1 labels; label l is drawn in proportion to ``count[l] ** (1 - balance)``."""
    word_end_weight: float = field(default=0.0, metadata=ADDED_LATER)
    """Weight of a cross-entropy at the end of each word beside the CTC loss: in joined strings that place is known, and
    CTC alone takes long to find it (CTC only)."""
    label_weights: Mapping[str, float] = field(default_factory=dict)
    """Factors on the drawing probability of single labels."""
    word_balance: float = field(default=0.0, metadata=ADDED_LATER)
    """The same as ``class_balance`` among the words of one label: matters for ``_unknown_``, which is many words."""
    word_weights: Mapping[str, float] = field(default_factory=dict, metadata=ADDED_LATER)
    """Factors on the drawing probability of single words of a label: for those that sound like a keyword."""
    seed: int = 0
    """Of everything random: weights, drawing, augmentation."""
    patience: int = field(default=0, metadata=ADDED_LATER)
    """Epochs without a better validation figure after which the training ends; 0 runs them all."""
    averaged_epochs: int = field(default=0, metadata=ADDED_LATER)
    """Last epochs whose (averaged) weights are averaged once more, each the same (Izmailov et al., arXiv:1803.05407):
    steadier than one epoch where validation clips are not like what will be heard. 0 keeps the best epoch."""
    mixed_precision: str = field(default="off", metadata=ADDED_LATER)
    """"off", "bfloat16" or "float16" (with loss scaling) for the network's products; weights and loss stay float32."""
    steps_per_epoch: int = field(default=0, metadata=ADDED_LATER)
    """Steps of the optimizer in an epoch; 0 takes as many as batches fit into the training split (not of a stream)."""
    shuffle_buffer: int = field(default=4096, metadata=ADDED_LATER)
    """Clips of a stream held in memory, from which batches are drawn."""

    def __post_init__(self) -> None:
        _check_choice("training.schedule", self.schedule, SCHEDULES)
        _check_choice("training.mixed_precision", self.mixed_precision, MIXED_PRECISIONS)
        for name, low in (("patience", 0), ("averaged_epochs", 0), ("steps_per_epoch", 0), ("shuffle_buffer", 1)):
            if getattr(self, name) < low:
                raise SpecError(f"training.{name}={getattr(self, name)} must be >= {low}")
        limits = (("epochs", 1), ("batch_size", 2), ("learning_rate", 0), ("weight_decay", 0), ("word_end_weight", 0))
        for name, low in limits:
            if getattr(self, name) < low:
                raise SpecError(f"training.{name}={getattr(self, name)} must be >= {low}")
        if self.averaged_epochs > self.epochs:
            raise SpecError(f"training.averaged_epochs={self.averaged_epochs} must be at most epochs={self.epochs}")
        if self.averaged_epochs and self.patience:
            values = f"averaged_epochs={self.averaged_epochs} and patience={self.patience}"
            raise SpecError(f"training: {values} exclude each other: which epochs are the last is known at the end")
        if not self.learning_rate > 0 or not self.max_gradient_norm > 0:
            rates = f"learning_rate={self.learning_rate} and max_gradient_norm={self.max_gradient_norm}"
            raise SpecError(f"training: {rates} must be > 0")
        for name in ("warmup", "label_smoothing", "ema_decay", "class_balance", "word_balance"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise SpecError(f"training.{name}={getattr(self, name)} must be in [0, 1]")


@dataclass(frozen=True, kw_only=True, slots=True)
class ContextRecipe:
    """What stands before and between clips, so that the network learns to listen to a stream."""

    probability: float = 0.4
    """Share of the batches in which something stands before the clip, 0 to 1; the others start from a reset."""
    seconds: float = 0.64
    """Length of what stands before the clip."""
    speech_probability: float = 0.5
    """Share of the examples in such a batch whose context is the end of another clip, else silence or noise."""
    silence_noise_probability: float = 0.7
    """Share of the ``_silence_`` examples that are replaced by fresh cuts of the noise."""
    max_rate_change: float = 0.12
    """Clips are played up to this share slower or faster, one draw a batch."""
    min_words: int = 1
    """Words in the shortest string (CTC only)."""
    max_words: int = 5
    """Words in the longest string (CTC only)."""
    max_gap_seconds: float = 0.3
    """Longest silence put between words (CTC only)."""
    max_word_rate_change: float = field(default=0.0, metadata=ADDED_LATER)
    """Each word is played up to this share slower or faster, pitch included: other throats (CTC only)."""
    max_rate_change_of_voice: float = field(default=0.0, metadata=ADDED_LATER)
    """The same, one draw for all words of a string: another throat that stays the same (CTC only)."""
    one_voice: bool = field(default=False, metadata=ADDED_LATER)
    """All words of a string are said by one voice; voices with few clips count as one (CTC only)."""
    max_tempo_change: float = field(default=0.0, metadata=ADDED_LATER)
    """Features are squeezed in time by up to this share, pitch and timbre kept, one draw a batch: hasty speakers (CTC
    only)."""

    def __post_init__(self) -> None:
        for name in ("probability", "speech_probability", "silence_noise_probability"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise SpecError(f"context.{name}={getattr(self, name)} must be in [0, 1]")
        for name in ("max_rate_change", "max_word_rate_change", "max_rate_change_of_voice", "max_tempo_change"):
            if not 0.0 <= getattr(self, name) < 0.5:
                raise SpecError(f"context.{name}={getattr(self, name)} must be in [0, 0.5)")
        if self.seconds < 0 or self.max_gap_seconds < 0:
            lengths = f"seconds={self.seconds} and max_gap_seconds={self.max_gap_seconds}"
            raise SpecError(f"context: {lengths} must be >= 0")
        if not 1 <= self.min_words <= self.max_words:
            raise SpecError(f"context: min_words={self.min_words} and max_words={self.max_words} need 1 <= min <= max")


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationRecipe:
    """How activation ranges are found at export."""

    method: str = "mse"
    """"mse" (range of least error), "minmax", "moving_average", "percentile" or "entropy"."""
    clips: int = 512
    """Training clips rolled out from reset."""
    percentile: float = 99.99
    """Share of the values that "percentile" covers, in percent, above 50, at most 100."""
    momentum: float = 0.99
    """Weight of what was before in "moving_average", in [0, 1)."""
    recovery: tuple[str, ...] = field(default=(), metadata=ADDED_LATER)
    """Some of :data:`RECOVERY_STEPS`, in the order they run where a static method quantizes."""

    def __post_init__(self) -> None:
        _check_choice("calibration.method", self.method, CALIBRATION_METHODS)
        for step in self.recovery:
            _check_choice("calibration.recovery", step, RECOVERY_STEPS)
        if not 50.0 < self.percentile <= 100.0:
            raise SpecError(f"calibration.percentile={self.percentile} must be above 50 and at most 100")
        if not 0.0 <= self.momentum < 1.0:
            raise SpecError(f"calibration.momentum={self.momentum} must be in [0, 1)")
        if self.clips < 1:
            raise SpecError(f"calibration.clips={self.clips} must be >= 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Everything that defines a model but the recordings themselves."""

    name: str
    """Of the model, in lower case with hyphens."""
    corpus: CorpusRecipe
    model: ModelRecipe
    training: TrainingRecipe
    features: FeaturesRecipe = field(default_factory=FeaturesRecipe)
    augmentation: AugmentationSpec = field(default_factory=AugmentationSpec)
    context: ContextRecipe = field(default_factory=ContextRecipe)
    calibration: CalibrationRecipe = field(default_factory=CalibrationRecipe)
    detector: Mapping[str, Any] = field(default_factory=dict)
    """Fields of ``edgeaudio_runtime.detector_config.DetectorConfig`` that differ from their defaults."""
    wake_word: WakeWordSettings = field(default_factory=WakeWordSettings, metadata=ADDED_LATER)
    """What a wake word is trained on, for ``corpus.kind = "wake_word"``."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.training.label_weights) - set(self.corpus.labels))
        if unknown:
            raise SpecError(f"training.label_weights: {unknown} are not among corpus.labels={list(self.corpus.labels)}")

    @property
    def task(self) -> str:
        """Either "keyword" or "ctc"."""
        return architecture(self.model.architecture).task


def load_recipe(source: str | Path) -> Recipe:
    """Read a recipe from a TOML file, or by name from those that come with the package (:func:`recipe_names`).

    Raises:
        SpecError: No such file or name, not TOML, an unknown or missing key, or a value against its rule.
    """
    path = Path(source)
    if path.suffix != ".toml" and str(source) in recipe_names():
        return parse_recipe((resources.files("edgeaudio_models") / "recipes" / f"{source}.toml").read_text("utf-8"))
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"recipe={str(source)!r} must be a TOML file or one of {list(recipe_names())}") from error
    try:
        return parse_recipe(text)
    except SpecError as error:
        raise SpecError(f"{source}: {error}") from error


def recipe_names() -> tuple[str, ...]:
    """Names of the recipes that come with the package."""
    folder = resources.files("edgeaudio_models") / "recipes"
    return tuple(sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".toml")))


def parse_recipe(text: str) -> Recipe:
    """Recipe from TOML text; SpecError names the key that is unknown, missing or wrong."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"not TOML: {error}") from error
    recipe: Recipe = _parse(Recipe, values, "recipe")
    return recipe


def _parse(kind: Any, values: Any, where: str) -> Any:
    """Build dataclass ``kind`` from a table, its fields by their annotations."""
    if not isinstance(values, Mapping):
        raise SpecError(f"{where}={values!r} must be a table")
    fields = {entry.name: entry for entry in dataclasses.fields(kind)}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise SpecError(f"{where}: unknown keys {unknown}; it has {sorted(fields)}")
    required = {
        name
        for name, entry in fields.items()
        if entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
    }
    missing = sorted(required - set(values))
    if missing:
        raise SpecError(f"{where}: keys {missing} are missing")
    hints = typing.get_type_hints(kind)
    return kind(**{name: _value(hints[name], value, f"{where}.{name}") for name, value in values.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    where = where.removeprefix("recipe.")
    if dataclasses.is_dataclass(hint):
        return _parse(hint, value, where)
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        if not isinstance(value, list):
            raise SpecError(f"{where}={value!r} must be a list")
        return tuple(_value(parts[0], item, where) for item in value)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise SpecError(f"{where}={value!r} must be a table")
        return MappingProxyType({key: _value(parts[1], item, f"{where}.{key}") for key, item in value.items()})
    if hint is Any:
        return value
    accepted = (int, float) if hint is float else (hint,)
    if not isinstance(value, accepted) or isinstance(value, bool) != (hint is bool):
        raise SpecError(f"{where}={value!r} must be of type {hint.__name__}")
    return hint(value)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise SpecError(f"{name}={value!r} must be one of {list(choices)}")
