"""What a text may be and how likely it is beside the audio: word list or phrases, hotwords, language model."""

from __future__ import annotations

from math import log
from typing import NamedTuple

from edgeaudio_runtime.decoder_config import DecoderConfig
from edgeaudio_runtime.ngram import BEGIN, END
from edgeaudio_runtime.spelling import Spelling, Trie, check_total

_LN10 = log(10.0)


class Bias(NamedTuple):
    """Where a prefix stands. What it holds depends on the labels of the prefix alone, not on when they came."""

    node: Trie | None
    """In the word list or the phrases."""
    hot: tuple[Trie, ...]
    """Hotwords under way."""
    context: tuple[str, ...]
    """Last words, for the language model."""
    word: tuple[str, ...]
    """Labels of the word under way."""
    earned: float
    """Log probability added for good."""
    bonus: float
    """Log probability added so far; a hotword under way counts in proportion."""


class TextBias:
    """Steps from prefix to prefix, label by label."""

    def __init__(self, config: DecoderConfig, spelling: Spelling) -> None:
        """Spell the words of ``config``.

        Raises:
            SpecError: One that the labels cannot spell, or too many.
        """
        self._config, self._spelling, self._model = config, spelling, config.language_model
        check_total([*config.words, *config.phrases, *config.hotwords])
        listed = [spelling.spell(text) for text in config.words or config.phrases]
        hot = [(spelling.spell(text), bonus) for text, bonus in config.hotwords.items()]
        self._listed, self._hot = (Trie() if listed else None), Trie()
        for labels in listed:
            assert self._listed is not None
            self._listed.add(labels)
        for labels, bonus in hot:
            self._hot.add(labels, bonus)
        self._counts_words = self._model is not None or config.insertion_bonus != 0.0
        self._n_context = self._model.order - 1 if self._model is not None else 0
        self.start = Bias(self._listed, (), (BEGIN,)[: self._n_context], (), 0.0, 0.0)
        self._is_none = not listed and not hot and not self._counts_words
        self.most_gain = self._most_gain()
        """What one more label can add to a bonus, at most."""

    def step(self, bias: Bias, label: int) -> Bias | None:
        """After one more label; None where the lists have no such text."""
        if self._is_none:
            return bias
        node = self._step_list(bias.node, label)
        if node is None and self._listed is not None:
            return None
        spelling, earned, context, word = self._spelling, bias.earned, bias.context, bias.word
        hot, won = self._step_hot(bias, label)
        if word and spelling.starts[label]:
            worth, context = self._worth(context, word)
            earned, word = earned + worth, ()
        if not spelling.divides[label]:
            word = (*word, spelling.labels[label])
        if spelling.is_word_level:
            worth, context = self._worth(context, word)
            earned, word = earned + worth, ()
        earned += won
        return Bias(node, hot, context, word, earned, earned + max((under.share for under in hot), default=0.0))

    def final_bonus(self, bias: Bias) -> float | None:
        """What is added to the log probability of a text that ends here; None where the lists have no such text."""
        if bias is self.start:  # nothing said is no sentence that the model could know
            return 0.0
        if not self._may_end(bias.node):
            return None
        worth, context = self._worth(bias.context, bias.word) if bias.word else (0.0, bias.context)
        if self._model is not None:
            worth += self._config.lm_weight * _LN10 * self._model.log10(context, END)
        return bias.earned + worth + _complete(bias.hot)

    def _most_gain(self) -> float:
        # A hotword is won or a negative one given up, another one begins, and a word is over.
        gain = 2 * max(map(abs, self._config.hotwords.values()), default=0.0) + max(0.0, self._config.insertion_bonus)
        if self._model is None:
            return gain
        pairs = self._model.ngrams.values()
        likeliest = max(log10 for log10, _ in pairs) + self._n_context * max([0.0, *(weight for _, weight in pairs)])
        return gain + self._config.lm_weight * _LN10 * max(0.0, likeliest)

    def _may_end(self, node: Trie | None) -> bool:
        return node is self._listed or (node is not None and node.ends)

    def _step_list(self, node: Trie | None, label: int) -> Trie | None:
        if node is None or self._listed is None:
            return None
        following = node.children.get(label)
        if following is not None:
            return following
        divides, starts = self._spelling.divides[label], self._spelling.starts[label]
        if self._config.phrases:  # a boundary before the first or after the last word says nothing
            return node if divides and self._may_end(node) else None
        if not self._may_end(node):
            return None
        if divides:
            return self._listed
        return self._listed.children.get(label) if starts or not self._spelling.has_boundaries else None

    def _step_hot(self, bias: Bias, label: int) -> tuple[tuple[Trie, ...], float]:
        """Hotwords under way after ``label``, and what was won because one is complete."""
        if not self._hot.children:
            return (), 0.0
        spelling, hot, won = self._spelling, bias.hot, 0.0
        if spelling.starts[label] or not spelling.has_boundaries:
            won = _complete(hot)
            hot = () if won else hot
        at_start = spelling.starts[label] or not bias.word or not spelling.has_boundaries
        before = (*hot, self._hot) if at_start and not spelling.divides[label] else hot
        after = (node.children.get(label) for node in before)
        return tuple(node for node in after if node is not None), won

    def _worth(self, context: tuple[str, ...], word: tuple[str, ...]) -> tuple[float, tuple[str, ...]]:
        """Log probability that a complete word adds, and the context after it."""
        if not self._counts_words:
            return 0.0, context
        worth, text = self._config.insertion_bonus, self._spelling.text(word)
        if self._model is not None:
            worth += self._config.lm_weight * _LN10 * self._model.log10(context, text)
        return worth, (*context, text)[-self._n_context :] if self._n_context else ()


def _complete(hot: tuple[Trie, ...]) -> float:
    return max((node.bonus for node in hot if node.ends), default=0.0)
