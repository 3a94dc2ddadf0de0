"""Where labels go, so that none lies on another: fixed rules, no chance, so the same data give the same picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

CROSSING = 15.0
"""How much farther a label goes so as not to lie on a line."""

Floats = NDArray[np.floating]


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions on a line, in the order of `wanted`, at least `gap` apart, between `low` and `high`, as near as can be.

    Neighbours that are too close become a group that stands centred on its members' mean, and so on for groups. If
    there is not enough room, the gap is made smaller.
    """
    if not wanted:
        return []
    gap = min(gap, (high - low) / max(1, len(wanted) - 1))
    order = sorted(range(len(wanted)), key=lambda i: (wanted[i], i))
    groups: list[list[float]] = []  # first position, number of members, sum of (wanted - offset in group)
    for i in order:
        groups.append([_within(wanted[i], 1, gap, low, high), 1, wanted[i]])
        while len(groups) > 1 and groups[-2][0] + groups[-2][1] * gap > groups[-1][0]:
            _, n, total = groups.pop()
            count = groups[-1][1]
            groups[-1][2] += total - n * count * gap
            groups[-1][1] += n
            groups[-1][0] = _within(groups[-1][2] / groups[-1][1], int(groups[-1][1]), gap, low, high)
    placed = [first + k * gap for first, count, _ in groups for k in range(int(count))]
    found = [0.0] * len(wanted)
    for i, position in zip(order, placed, strict=True):
        found[i] = position
    return found


def _within(first: float, count: int, gap: float, low: float, high: float) -> float:
    return min(max(first, low), high - (count - 1) * gap)


def place(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    area: tuple[float, float, float, float],
    taken: Sequence[tuple[float, float, float, float]] = (),
    crossed: Sequence[tuple[float, float, float, float]] = (),
    step: float = 3.0,
) -> list[tuple[float, float]]:
    """Lower left corners of labels inside `area`, each at the free place nearest to its point.

    All in the same unit (pixels). `taken` are boxes that no label may touch, besides the other labels; `crossed` are
    lines (as boxes) that it should not lie on if there is another place near. A label for which there is no free place
    gets the one where it covers least.
    """
    boxes, lines = [tuple(b) for b in taken], np.array(crossed, dtype=float).reshape(-1, 4)
    corners: list[tuple[float, float]] = [(0.0, 0.0)] * len(points)
    for i in sorted(range(len(points)), key=lambda i: (-points[i][1], points[i][0], i)):
        wide, high = sizes[i]
        xs = np.arange(area[0], max(area[0], area[2] - wide) + 0.5, step)
        ys = np.arange(area[1], max(area[1], area[3] - high) + 0.5, step)
        covered = _overlap(xs, wide, ys, high, np.array(boxes, dtype=float).reshape(-1, 4))
        away = _away(xs, wide, ys, high, points[i]) + CROSSING * (_overlap(xs, wide, ys, high, lines) > 0)
        row, column = divmod(int(np.lexsort((away.ravel(), covered.ravel()))[0]), len(xs))
        x, y = float(xs[column]), float(ys[row])
        corners[i] = (x, y)
        boxes.append((x, y, x + wide, y + high))
    return corners


def _away(xs: Floats, wide: float, ys: Floats, high: float, point: tuple[float, float]) -> Floats:
    """[ys, xs] distance from the point to the label: beside is a little better than above or below, and a label beside
    its point stands at the point's height."""
    x, y = point
    dx = np.maximum(np.maximum(xs - x, x - xs - wide), 0)
    dy = np.maximum(np.maximum(ys - y, y - ys - high), 0)
    return np.hypot(dx[None, :], 1.3 * dy[:, None]) + 0.1 * np.abs(ys + high / 2 - y)[:, None]


def _overlap(xs: Floats, wide: float, ys: Floats, high: float, boxes: Floats) -> Floats:
    """[ys, xs] area that a label at each corner shares with all boxes [n, 4] (left, bottom, right, top) together."""
    across = np.minimum(xs[:, None] + wide, boxes[:, 2]) - np.maximum(xs[:, None], boxes[:, 0])
    up = np.minimum(ys[:, None] + high, boxes[:, 3]) - np.maximum(ys[:, None], boxes[:, 1])
    return np.maximum(up, 0) @ np.maximum(across, 0).T
