"""Group-wise integer quantizers in numpy: round to nearest, GPTQ and AWQ, for matrices [outputs, inputs].

All of them return the dequantized matrix; `group_bits` says what one costs. Groups of `GROUP` inputs share a 16-bit scale and a
zero point of the weights' own width; a shorter last group counts as one. Sources: GPTQ arXiv 2210.17323 (with activation order
and static groups), AWQ arXiv 2306.00978.
"""
import numpy as np

GROUP = 128
SHRINKS = 1 - np.arange(0, 50, 2) / 100  # fractions of a group's range tried as the grid's range
DAMPING = 0.01  # of the Hessian's mean diagonal
GPTQ_BLOCK = 64  # columns between two updates of all columns ahead


def group_bits(shape, bits):
    """Bits of a matrix: its integers, and a float16 scale and an integer zero for each group of a row."""
    rows, columns = shape
    return rows * (columns * bits + -(-columns // GROUP) * (16 + bits))


def _grid(low, high, bits):
    """(scale, zero) of the asymmetric grid of one group of every row; scales are float16 values."""
    top = 2**bits - 1
    low, high = np.minimum(low, 0), np.maximum(high, 0)
    scale = np.maximum((high - low) / top, 1e-7).astype(np.float16).astype(np.float32)
    scale = np.maximum(scale, np.float32(6e-8))  # the least positive float16
    return scale, np.clip(np.round(-low / scale), 0, top)


def _snap(values, scale, zero, bits):
    return (np.clip(np.round(values / scale) + zero, 0, 2**bits - 1) - zero) * scale


def fit_group(values, bits, weight=None):
    """The (scale, zero), each [rows, 1], with the least weighted squared error among the shrunken ranges. weight: [columns]."""
    low, high = values.min(axis=1, keepdims=True), values.max(axis=1, keepdims=True)
    best = None
    for shrink in SHRINKS:
        scale, zero = _grid(low * shrink, high * shrink, bits)
        error = (_snap(values, scale, zero, bits) - values) ** 2
        error = error.sum(axis=1, keepdims=True) if weight is None else error @ weight[:, None]
        if best is None:
            best = [error, scale, zero]
            continue
        better = error < best[0]
        for kept, new in zip(best, (error, scale, zero)):
            kept[better] = new[better]
    return best[1], best[2]


def round_to_nearest(matrix, bits, weight=None):
    out = np.empty_like(matrix)
    for start in range(0, matrix.shape[1], GROUP):
        part = slice(start, min(start + GROUP, matrix.shape[1]))
        scale, zero = fit_group(matrix[:, part], bits, None if weight is None else weight[part])
        out[:, part] = _snap(matrix[:, part], scale, zero, bits)
    return out


def gptq(matrix, hessian, bits):
    """Columns in order of falling activation energy, each one's error pushed to the columns after it. hessian: [inputs, inputs]."""
    columns = matrix.shape[1]
    hessian = hessian.astype(np.float64)
    hessian[np.diag_indices(columns)] += DAMPING * np.trace(hessian) / columns
    order = np.argsort(-np.diag(hessian), kind="stable")
    inverse = np.linalg.inv(hessian[np.ix_(order, order)])
    upper = np.linalg.cholesky((inverse + inverse.T) / 2).T.astype(np.float32)
    energy = np.diag(hessian).astype(np.float32)
    groups = [fit_group(matrix[:, s : s + GROUP], bits, energy[s : s + GROUP]) for s in range(0, columns, GROUP)]
    # Transposed, so that a column is contiguous.
    work = np.ascontiguousarray(matrix[:, order].T)
    done = np.empty_like(work)
    for start in range(0, columns, GPTQ_BLOCK):
        end = min(start + GPTQ_BLOCK, columns)
        errors = np.empty((end - start, matrix.shape[0]), np.float32)
        for k in range(start, end):
            scale, zero = (v[:, 0] for v in groups[order[k] // GROUP])
            done[k] = _snap(work[k], scale, zero, bits)
            errors[k - start] = (work[k] - done[k]) / upper[k, k]
            work[k + 1 : end] -= upper[k, k + 1 : end, None] * errors[k - start]
        work[end:] -= upper[start:end, end:].T @ errors
    out = np.empty_like(matrix)
    out[:, order] = done.T
    return out


def output_error(difference, hessian):
    return float(np.einsum("oi,oi->", difference @ hessian, difference))


def awq_scales(matrices, hessian, magnitude, bits):
    """Per-input scales for matrices that share an input: mean activation magnitude to the power that loses least, of 20."""
    best, chosen = None, None
    for power in np.arange(20) / 20:
        scale = np.maximum(magnitude, 1e-4) ** power
        scale = (scale / np.sqrt(scale.max() * scale.min())).astype(np.float32)
        loss = sum(output_error(_plain(m * scale, bits) / scale - m, hessian) for m in matrices)
        if best is None or loss < best:
            best, chosen = loss, scale
    return chosen


def _plain(matrix, bits):
    """Round to nearest over the whole range of each group, as AWQ's search uses it."""
    out = np.empty_like(matrix)
    for start in range(0, matrix.shape[1], GROUP):
        values = matrix[:, start : start + GROUP]
        grid = _grid(values.min(axis=1, keepdims=True), values.max(axis=1, keepdims=True), bits)
        out[:, start : start + GROUP] = _snap(values, *grid, bits)
    return out


def awq(matrices, hessian, magnitude, bits, scaled=True):
    """Scaled by activation magnitude, then every group's range clipped where that lowers the activation-weighted error."""
    scale = awq_scales(matrices, hessian, magnitude, bits) if scaled else np.ones(hessian.shape[0], np.float32)
    weight = np.diag(hessian).astype(np.float32) / scale**2
    return [round_to_nearest(m * scale, bits, weight) / scale for m in matrices]
