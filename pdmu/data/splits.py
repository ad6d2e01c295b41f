"""Training and validation without a group in both: deterministic by seed, stratified."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from pdmu.data.manifest import Row
from pdmu.errors import UserError


def group_folds(rows: Sequence[Row], strata: Sequence[str], folds: int, seed: int) -> np.ndarray:
    """Deal whole groups into `folds` parts with like shares of every stratum.

    Groups are taken largest first (ties in an order drawn from `seed`), each to the part where the squared distance of the stratum counts
    from equal shares grows least; strata count relative to their total, so that a rare one is spread as evenly as a frequent one.

    Returns
    -------
    ndarray of int, shape (len(rows),)
        Part of each row, 0 … folds-1.

    Raises
    ------
    UserError
        Fewer groups than parts.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        members[row.group].append(i)
    if len(members) < folds:
        raise UserError(
            f"{len(members)} group(s) of recordings cannot be split into {folds} parts; give more recordings, a smaller --folds, "
            "or hold none out (--set data.validation_share=0)"
        )
    column, size = _sizes(strata)
    names = sorted(members)
    np.random.default_rng(seed).shuffle(names)
    names.sort(key=lambda g: -len(members[g]))  # stable: the drawn order decides ties
    counts = np.zeros((folds, len(size)))
    part = np.empty(len(rows), int)
    for name in names:
        share = np.zeros(len(size))
        for i in members[name]:
            share[column[strata[i]]] += 1
        share /= size
        growth = ((counts + share) ** 2 - counts**2).sum(1) + 1e-6 * counts.sum(1)
        best = int(np.argmin(growth))
        counts[best] += share
        part[members[name]] = best
    return part


def _sizes(strata: Sequence[str]) -> tuple[dict[str, int], np.ndarray]:
    """Return the number of each stratum, and how many rows it has."""
    totals = Counter(strata)
    names = sorted(totals)
    return {name: j for j, name in enumerate(names)}, np.array([totals[name] for name in names], float)


def _closest_part(rows: Sequence[Row], strata: Sequence[str], parts: int, seed: int) -> np.ndarray:
    """Of `parts` parts return the one whose share of every stratum is nearest to 1 / parts.

    Not simply the first: where one recordist made most recordings of a class, some part holds all of them.
    """
    part = group_folds(rows, strata, parts, seed)
    column, size = _sizes(strata)
    counts = np.zeros((parts, len(size)))
    for p, stratum in zip(part, strata, strict=True):
        counts[p, column[stratum]] += 1
    shares = counts / size
    return part == int(np.argmin(((shares - 1 / parts) ** 2).sum(1)))


def split(
    rows: Sequence[Row],
    strata: Sequence[str],
    method: str,
    *,
    share: float,
    folds: int | None,
    fold: int,
    seed: int,
    official: Sequence[str] = (),
) -> np.ndarray:
    """Return which rows validate.

    Parameters
    ----------
    rows : sequence of Row
    strata : sequence of str
        What each row's share is kept even of: its class and source.
    method : {"groups", "official"}
        ``groups`` deals groups at random; ``official`` takes the folds the data set came with.
    share : float
        Part of the recordings held for validation when `folds` is None; 0 holds none.
    folds, fold : int or None, int
        k-fold: validate on part `fold` of `folds`. With ``official``, `fold` is a position in the sorted fold names.
    seed : int
        Decides how groups are dealt.
    official : sequence of str
        With ``official`` and `folds` None: the folds to validate on.

    Returns
    -------
    ndarray of bool, shape (len(rows),)

    Raises
    ------
    UserError
        A fold that does not exist; too few groups.
    """
    if method == "official":
        names = sorted({r.fold for r in rows if r.fold})
        if not names:
            raise UserError("split 'official': no recording has an official fold ('fold1;group'); use split = \"groups\"")
        if folds is not None:
            if not 0 <= fold < len(names) or folds != len(names):
                count = len(names)
                raise UserError(f"the data has {count} official folds ({', '.join(names)}): use --folds {count} --fold 0 … {count - 1}")
            official = [names[fold]]
        unknown = sorted(set(official) - set(names))
        if unknown:
            raise UserError(f"no official fold '{unknown[0]}'; there are {', '.join(names)}")
        held = np.array([r.fold in official for r in rows], bool)
        leaked = {r.group for r, h in zip(rows, held, strict=True) if h} & {r.group for r, h in zip(rows, held, strict=True) if not h}
        if leaked:
            raise UserError(f"official folds share the group '{min(leaked)}' between training and validation; use split = \"groups\"")
        return held
    if folds is None:
        if share <= 0:
            return np.zeros(len(rows), bool)
        return _closest_part(rows, strata, max(2, round(1 / share)), seed)
    if folds < 2 or not 0 <= fold < folds:
        raise UserError(f"--fold {fold} of --folds {folds}: need at least 2 folds and 0 <= fold < folds")
    return group_folds(rows, strata, folds, seed) == fold
