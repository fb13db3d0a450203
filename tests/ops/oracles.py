"""Slow and obvious: what the ops compute, written as NumPy loops over positions and taps."""

import itertools

import numpy as np

MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def normal(seed, shape, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def close(actual, expected, tolerance=1e-5):
    """Equal to within ``tolerance`` of the largest element."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    scale = max(np.abs(expected).max(initial=0), 1e-6)
    np.testing.assert_allclose(actual / scale, expected / scale, rtol=0, atol=tolerance)


def pairs(padding, spatial, window, stride, dilation):
    """Padding pairs straight from the definitions."""
    rank = len(spatial)
    if padding == "VALID":
        return [(0, 0)] * rank
    if padding in ("SAME", "SAME_LOWER"):
        result = []
        for n, k, s, d in zip(spatial, window, stride, dilation, strict=True):
            out = int(np.ceil(n / s))
            total = max((out - 1) * s + (k - 1) * d + 1 - n, 0)
            half = (total // 2, total - total // 2)
            result.append(half if padding == "SAME" else half[::-1])
        return result
    if isinstance(padding, int):
        return [(padding, padding)] * rank
    return [(p, p) if isinstance(p, int) else p for p in padding]


def spread(value, rank):
    return (value,) * rank if isinstance(value, int) else tuple(value)


def conv(x, w, stride=1, padding="SAME", padding_mode="zeros", dilation=1, groups=1, bias=None):
    rank = x.ndim - 2
    kernel = w.shape[:-2]
    stride, dilation = spread(stride, rank), spread(dilation, rank)
    pads = pairs(padding, x.shape[1:-1], kernel, stride, dilation)
    x = np.pad(x.astype(np.float64), [(0, 0), *pads, (0, 0)], mode=MODES[padding_mode])
    out = [
        (n - d * (k - 1) - 1) // s + 1
        for n, k, s, d in zip(x.shape[1:-1], kernel, stride, dilation, strict=True)
    ]
    o = w.shape[-1]
    y = np.zeros((x.shape[0], *out, o))
    ci, co = w.shape[-2], o // groups
    for i in itertools.product(*map(range, out)):
        for t in itertools.product(*map(range, kernel)):
            at = tuple(a * s + b * d for a, s, b, d in zip(i, stride, t, dilation, strict=True))
            for g in range(groups):
                part = x[(slice(None), *at, slice(g * ci, (g + 1) * ci))]
                tap = w[(*t, slice(None), slice(g * co, (g + 1) * co))]
                y[(slice(None), *i, slice(g * co, (g + 1) * co))] += part @ tap
    return y if bias is None else y + bias


def windows(x, window, stride, padding, dilation, ceil_mode, fill):
    """Yield (output position, elements (n, taps, c), which taps lie on the input, in the pad)."""
    rank = x.ndim - 2
    window = spread(window, rank)
    stride = window if stride is None else spread(stride, rank)
    dilation = spread(dilation, rank)
    pads = pairs(padding, x.shape[1:-1], window, stride, dilation)
    out = []
    for n, k, s, d, (lo, hi) in zip(x.shape[1:-1], window, stride, dilation, pads, strict=True):
        steps = (n + lo + hi - d * (k - 1) - 1) / s
        size = int(np.ceil(steps) if ceil_mode else np.floor(steps)) + 1
        out.append(size - 1 if ceil_mode and (size - 1) * s >= n + lo else size)
    for i in itertools.product(*map(range, out)):
        elements, inside, padded = [], [], []
        for t in itertools.product(*map(range, window)):
            at = [
                a * s + b * d - lo
                for a, s, b, d, (lo, _) in zip(i, stride, t, dilation, pads, strict=True)
            ]
            spatial = x.shape[1:-1]
            valid = all(0 <= p < n for p, n in zip(at, spatial, strict=True))
            inside.append(valid)
            padded.append(
                all(-lo <= p < n + hi for p, n, (lo, hi) in zip(at, spatial, pads, strict=True))
            )
            blank = np.full((x.shape[0], x.shape[-1]), fill, np.float64)
            elements.append(x[(slice(None), *at)].astype(np.float64) if valid else blank)
        yield tuple(out), i, np.stack(elements, 1), np.array(inside), np.array(padded)


def pool(
    kind,
    x,
    window,
    stride=None,
    padding="VALID",
    dilation=1,
    ceil_mode=False,
    count_include_pad=True,
    p=2,
):
    fill = {"max": -np.inf, "min": np.inf}.get(kind, 0.0)
    y = None
    for out, i, elements, inside, padded in windows(
        x, window, stride, padding, dilation, ceil_mode, fill
    ):
        if y is None:
            y = np.zeros((x.shape[0], *out, x.shape[-1]))
        at = (slice(None), *i)
        if kind == "max":
            y[at] = elements.max(1)
        elif kind == "min":
            y[at] = elements.min(1)
        elif kind == "lp":
            y[at] = (np.abs(elements) ** p).sum(1) ** (1 / p)
        else:
            counted = padded if count_include_pad else inside
            y[at] = elements.sum(1) / max(counted.sum(), 1)
    return y
