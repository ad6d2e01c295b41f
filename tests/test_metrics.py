"""Measures against scikit-learn and against cases counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from pdmu import metrics
from pdmu.errors import UserError


@pytest.mark.parametrize("seed", range(10))
def test_auc_with_ties_equals_sklearn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, 200)
    y[:2] = 0, 1
    s = np.round(rng.normal(y * 0.7, 1), int(rng.integers(0, 3)))
    assert metrics.auc(y, s) == pytest.approx(sk.roc_auc_score(y, s), abs=1e-12)


def test_auc_of_one_class_is_not_a_number() -> None:
    assert np.isnan(metrics.auc([1, 1], [0.1, 0.2]))


@pytest.mark.parametrize("fpr", [0.0, 0.01, 0.03, 0.1, 1.0])
def test_recall_at_fpr_is_the_best_allowed(fpr: float) -> None:
    rng = np.random.default_rng(3)
    y = rng.integers(0, 2, 300)
    s = np.round(rng.normal(y, 1), 1)
    recall, threshold = metrics.recall_at_fpr(y, s, fpr)
    rates = [((s[y == 0] > t).mean(), (s[y == 1] > t).mean()) for t in [-np.inf, *np.unique(s)]]
    assert recall == max(r for f, r in rates if f <= fpr + 1e-12)
    assert (s[y == 0] > threshold).mean() <= fpr + 1e-12


def test_det_points_equal_sklearn_rates() -> None:
    rng = np.random.default_rng(4)
    y = rng.integers(0, 2, 80)
    s = np.round(rng.normal(y, 1), 1)
    for threshold, accept, miss in zip(*metrics.det_points(y, s), strict=True):
        assert accept == pytest.approx((s[y == 0] >= threshold).mean())
        assert miss == pytest.approx((s[y == 1] < threshold).mean())


def test_confusion_and_balanced_accuracy_equal_sklearn() -> None:
    rng = np.random.default_rng(5)
    true, predicted = rng.integers(0, 4, 100), rng.integers(0, 4, 100)
    matrix = metrics.confusion_matrix(true, predicted, 4)
    assert (matrix == sk.confusion_matrix(true, predicted)).all()
    assert metrics.balanced_accuracy(matrix) == pytest.approx(sk.balanced_accuracy_score(true, predicted))


def test_balanced_accuracy_leaves_absent_classes_out() -> None:
    assert metrics.balanced_accuracy([[3, 1], [0, 0]]) == pytest.approx(0.75)


def test_event_matching_is_one_to_one_and_within_tolerance() -> None:
    assert metrics.match_events([1.0, 2.0], [1.1, 1.15, 2.3], 0.2) == [(0, 0)]
    assert metrics.match_events([1.0, 1.2], [1.1, 0.9], 0.2) == [(0, 1), (1, 0)]  # a greedy choice of the nearest would match one
    score = metrics.event_score([1.0, 2.0], [1.1, 1.15, 2.3], 0.2)
    assert score == (1, 2, 1)
    assert (score.precision, score.recall, score.f1) == (pytest.approx(1 / 3), 0.5, pytest.approx(0.4))


@pytest.mark.parametrize("seed", range(20))
def test_event_matching_finds_as_many_pairs_as_there_are(seed: int) -> None:
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import maximum_bipartite_matching

    rng = np.random.default_rng(seed)
    refs, dets = rng.uniform(0, 5, 12), rng.uniform(0, 5, 15)
    allowed = np.abs(refs[:, None] - dets) <= 0.2
    best = (maximum_bipartite_matching(csr_matrix(allowed), perm_type="column") >= 0).sum()
    pairs = metrics.match_events(refs.tolist(), dets.tolist(), 0.2)
    assert len(pairs) == best
    assert all(allowed[i, j] for i, j in pairs)


def test_false_alarms_per_hour() -> None:
    assert metrics.false_alarms_per_hour(2, 1800) == 4
    assert np.isnan(metrics.false_alarms_per_hour(0, 0))


def test_max_pooling_needs_more_than_one_step() -> None:
    scores = np.zeros((40, 2), np.int16)
    scores[10:18, 0] = 32767
    scores[5, 1] = 32767
    pooled = metrics.clip_scores(scores, {"task": "cough"})
    assert pooled == pytest.approx([32767 / 32768, 32767 / 32768 / 8])


def test_mean_logit_pooling_is_a_distribution_over_the_classes() -> None:
    scores = np.array([[30000, 2768], [20000, 12768]], np.int16)
    pooled = metrics.clip_scores(scores, {})
    odds = np.sqrt((30000 * 20000) / (2768 * 12768))
    assert pooled == pytest.approx([odds / (1 + odds), 1 / (1 + odds)])


def test_pooling_of_nothing_and_unknown_pooling() -> None:
    assert metrics.clip_scores(np.zeros((0, 3), np.int16), {}).tolist() == [0, 0, 0]
    with pytest.raises(UserError, match="clip_pooling is 'median'"):
        metrics.clip_scores(np.zeros((1, 1), np.int16), {"clip_pooling": "median"})


def test_nan_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        metrics.auc([0, 1], [np.nan, 1])
