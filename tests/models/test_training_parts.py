"""The parts of training against hand numbers and brute force."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from edgeaudio_models.channels_last import ChannelsLast
from edgeaudio_models.ctc import edit_distance, greedy_decode, label_error_rate
from edgeaudio_models.ctc_net import CtcNet, CtcNetConfig
from edgeaudio_models.ds_tc_resnet import DsTcResNet, DsTcResNetConfig
from edgeaudio_models.ema import ExponentialAverage
from edgeaudio_models.evaluation import keyword_metrics
from edgeaudio_models.losses import ctc_loss, keyword_loss
from edgeaudio_models.recipe import TrainingRecipe, load_recipe
from edgeaudio_models.sampler import draw_epoch, draws_of, sampling_weights
from edgeaudio_models.schedule import learning_rate
from edgeaudio_models.streaming import run_from_reset
from edgeaudio_models.training_data import Examples, TrainingData
from edgeaudio_runtime.errors import SpecError

LAYOUT_TOLERANCE = 1e-5
"""Sums in another order differ by a few float32 roundings."""


def test_one_cycle_rises_from_a_25th_to_the_peak_and_falls_to_zero() -> None:
    recipe = TrainingRecipe(epochs=1, learning_rate=0.5, warmup=0.25)
    rates = [learning_rate(recipe, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.5 / 25)
    assert rates[25] == pytest.approx(0.5)
    assert rates[62] == pytest.approx(0.5 * 0.5 * (1 + math.cos(math.pi * 37 / 75)))
    assert rates[99] == pytest.approx(0.5 * 0.5 * (1 + math.cos(math.pi * 74 / 75)))
    assert sorted(rates[:26]) == rates[:26]
    assert sorted(rates[25:], reverse=True) == rates[25:]


def test_warmup_cosine_rises_in_a_straight_line() -> None:
    recipe = TrainingRecipe(epochs=1, learning_rate=0.8, warmup=0.04, schedule="warmup_cosine")
    assert [learning_rate(recipe, step, 100) for step in range(4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert learning_rate(recipe, 52, 100) == pytest.approx(0.4)


def test_the_average_follows_by_the_growing_decay() -> None:
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, 0.0)
    average = ExponentialAverage(module, decay=0.5)
    nn.init.constant_(module.weight, 1.0)
    expected, seen = 0.0, []
    for n in range(1, 12):
        average.update(module)
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay)
        seen.append((float(average.module.weight.detach()), expected))
    assert all(found == pytest.approx(wanted) for found, wanted in seen)
    assert min(0.5, 12 / 21) == 0.5


def test_the_average_copies_counters() -> None:
    module = nn.BatchNorm1d(1)
    average = ExponentialAverage(module, decay=0.9)
    module(torch.randn(4, 1))
    average.update(module)
    assert int(average.module.num_batches_tracked) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize(("balance", "shares"), [(0.0, (0.2, 0.8)), (1.0, (0.5, 0.5)), (0.5, (1 / 3, 2 / 3))])
def test_labels_are_drawn_as_the_balance_says(balance: float, shares: tuple[float, float]) -> None:
    label_indices = torch.tensor([0] * 20 + [1] * 80)
    recipe = TrainingRecipe(epochs=1, class_balance=balance)
    weights = sampling_weights(label_indices, ("a", "b", "absent"), recipe)
    assert float(weights[:20].sum()) == pytest.approx(shares[0])
    assert float(weights[20:].sum()) == pytest.approx(shares[1])
    weighted = sampling_weights(
        label_indices,
        ("a", "b"),
        TrainingRecipe(
            epochs=1,
            class_balance=balance,
            label_weights={"b": 3.0},
        ),
    )
    total = shares[0] + 3 * shares[1]
    assert float(weighted[20:].sum()) == pytest.approx(3 * shares[1] / total)


@pytest.mark.parametrize(("balance", "rare"), [(0.0, 0.1), (0.5, 0.25), (1.0, 0.5)])
def test_words_of_a_label_are_drawn_as_the_balance_says(balance: float, rare: float) -> None:
    label_indices = torch.tensor([0] * 100 + [1] * 100)
    words = ["bed"] * 10 + ["cat"] * 90 + ["go"] * 100
    recipe = TrainingRecipe(epochs=1, class_balance=1.0, word_balance=balance)
    weights = sampling_weights(label_indices, ("many", "one"), recipe, words=words)
    assert float(weights[:100].sum()) == pytest.approx(0.5)
    # 10 clips to 90: shares 1:9, sqrt 1:3, alike 1:1.
    assert float(weights[:10].sum()) == pytest.approx(0.5 * rare)
    assert weights[100:].tolist() == pytest.approx([0.005] * 100)


def test_a_word_is_drawn_as_often_as_its_weight_says() -> None:
    recipe = TrainingRecipe(epochs=1, word_balance=1.0, word_weights={"bed": 3.0})
    words = ["bed"] * 10 + ["cat"] * 90
    weights = sampling_weights(torch.zeros(100, dtype=torch.int64), ("many",), recipe, words=words)
    assert float(weights[:10].sum()) == pytest.approx(0.75)


def test_words_that_nobody_told_cannot_be_balanced() -> None:
    examples = Examples(waveforms=np.zeros((4, 16000), np.int16), label_indices=np.array([0, 0, 1, 1]))
    recipe = replace(load_recipe("kws-demo"), training=TrainingRecipe(epochs=1, word_balance=0.5))
    with pytest.raises(
        SpecError, match=r"training\.word_balance=0\.5 and word_weights need clips whose words are known"
    ):
        draws_of(TrainingData(train=examples, validation=examples), recipe)


def test_an_epoch_is_drawn_by_its_seed() -> None:
    weights = torch.tensor([0.0, 0.5, 0.5])
    drawn = draw_epoch(weights, 50, torch.Generator().manual_seed(1))
    assert torch.equal(drawn, draw_epoch(weights, 50, torch.Generator().manual_seed(1)))
    assert set(drawn.tolist()) == {1, 2}


def test_the_keyword_loss_looks_at_the_last_step_alone() -> None:
    logits = torch.tensor([[[9.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
    log_sum = math.log(math.e + 2)
    hard, even = log_sum - 1, log_sum - 1 / 3
    loss = keyword_loss(logits, torch.tensor([1]), label_smoothing=0.3)
    assert float(loss) == pytest.approx(0.7 * hard + 0.3 * even)


def collapse(path: tuple[int, ...]) -> list[int]:
    merged = [label for label, _ in itertools.groupby(path)]
    return [label for label in merged if label != 0]


def test_the_ctc_loss_is_the_sum_over_all_paths() -> None:
    logits = torch.randn(1, 4, 3, generator=torch.Generator().manual_seed(0))
    target = [1, 2]
    log_probs = logits[0, :3].log_softmax(dim=1)
    paths = [path for path in itertools.product(range(3), repeat=3) if collapse(path) == target]
    likelihood = sum(math.exp(sum(float(log_probs[t, k]) for t, k in enumerate(path))) for path in paths)
    loss = ctc_loss(logits, torch.tensor([3]), torch.tensor(target), torch.tensor([2]))
    assert float(loss) == pytest.approx(-math.log(likelihood) / 2, rel=1e-5)


def test_a_string_too_long_for_its_outputs_costs_nothing() -> None:
    loss = ctc_loss(torch.zeros(1, 1, 3), torch.tensor([1]), torch.tensor([1, 2]), torch.tensor([2]))
    assert float(loss) == 0.0


def one_hot(path: tuple[int, ...]) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor(path, dtype=torch.int64).reshape(-1), 4).float()


@given(st.lists(st.integers(0, 3), max_size=12).map(tuple))
def test_greedy_decoding_merges_repeats_and_drops_blanks(path: tuple[int, ...]) -> None:
    assert greedy_decode(one_hot(path)) == collapse(path)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "edits"),
    [
        ([], [], 0),
        ([1, 2, 3], [], 3),
        ([], [1], 1),
        ([1, 2, 3], [1, 3], 1),
        ([1, 2], [2, 1], 2),
        ([1], [2], 1),
        (list(b"kitten"), list(b"sitting"), 3),
    ],
)
def test_edit_distances_are_the_known_ones(reference: list[int], hypothesis: list[int], edits: int) -> None:
    assert edit_distance(reference, hypothesis) == edits
    assert edit_distance(hypothesis, reference) == edits


def test_the_label_error_rate_is_over_all_reference_labels() -> None:
    assert label_error_rate([([1, 2, 3], [1, 3]), ([1], [1])]) == 1 / 4
    assert label_error_rate([([], [1, 1])]) == 2.0


def test_macro_accuracy_counts_every_label_once() -> None:
    predicted, wanted = torch.tensor([0, 0, 0, 1, 0]), torch.tensor([0, 0, 0, 0, 1])
    metrics = keyword_metrics(predicted, wanted, ("a", "b", "absent"))
    assert metrics.accuracy == pytest.approx(3 / 5)
    assert metrics.macro_accuracy == pytest.approx((3 / 4 + 0) / 2)
    assert metrics.label_accuracy == {"a": 0.75, "b": 0.0}
    assert metrics.n_clips == 5


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("network", ["keyword", "ctc"])
def test_channels_last_gives_the_same_logits_and_gradients(network: str, training: bool) -> None:
    torch.manual_seed(0)
    sizes = {"n_features": 5, "n_labels": 3, "channels": 8, "kernel_sizes": (3, 3)}
    module = DsTcResNet(DsTcResNetConfig(**sizes)) if network == "keyword" else CtcNet(CtcNetConfig(**sizes))  # type: ignore[arg-type]
    module.train(training)
    features = torch.randn(4, 24, 5)
    plain = run_from_reset(module, features)
    plain.square().sum().backward()  # type: ignore[no-untyped-call]
    gradients = [parameter.grad.clone() for parameter in module.parameters() if parameter.grad is not None]
    module.zero_grad()
    with ChannelsLast():
        swapped = run_from_reset(module, features)
    swapped.square().sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(swapped, plain, rtol=LAYOUT_TOLERANCE, atol=LAYOUT_TOLERANCE)
    for gradient, parameter in zip(gradients, module.parameters(), strict=True):
        scale = float(gradient.abs().max())
        torch.testing.assert_close(parameter.grad, gradient, rtol=0.0, atol=10 * LAYOUT_TOLERANCE * max(1.0, scale))


def test_channels_last_leaves_other_operations_alone() -> None:
    x = torch.randn(2, 3)
    with ChannelsLast():
        assert torch.equal(torch.cat([x, x], 0), x.repeat(2, 1))
        same = torch.conv1d(x[None], torch.ones(1, 2, 3), None, 1, "same")
        normalized = torch.nn.functional.batch_norm(x, torch.zeros(3), torch.ones(3), eps=0.0)
    assert same.shape == (1, 1, 3)
    assert torch.equal(normalized, x)
