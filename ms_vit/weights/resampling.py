"""Weights for another image or patch size: position embeddings and patch kernels, resampled as timm does."""

import numpy as np


def cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution kernel with a = -0.5, the one Pillow and PyTorch's antialiased resize use."""
    x = np.abs(x)
    return np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, np.where(x < 2, ((-0.5 * x + 2.5) * x - 4) * x + 2, 0.0))


def resize_matrix(old: int, new: int) -> np.ndarray:
    """Bicubic, antialiased resize of a line as a matrix [new, old], float64; each row sums to one."""
    scale = old / new
    stretch = max(scale, 1.0)                           # when shrinking, the kernel widens: that is the antialiasing
    matrix = np.zeros((new, old))
    for row in range(new):
        center = scale * (row + 0.5)
        first, last = max(int(center - 2 * stretch + 0.5), 0), min(int(center + 2 * stretch + 0.5), old)
        weights = cubic((np.arange(first, last) - center + 0.5) / stretch)
        matrix[row, first:last] = weights / weights.sum()
    return matrix


def resample_positions(positions: np.ndarray, grid: tuple[int, int], *, extra: int = 0) -> np.ndarray:
    """Position embeddings [1, extra + n * n, D] of a square grid for another grid: [1, extra + h * w, D].

    The first `extra` belong to tokens that are no patch's, and stay.
    """
    kept, patches = positions[:, :extra], positions[0, extra:].astype(np.float64)
    side = round(len(patches) ** 0.5)
    image = patches.reshape(side, side, -1)
    rows, columns = resize_matrix(side, grid[0]), resize_matrix(side, grid[1])
    image = np.einsum("hi,wj,ijd->hwd", rows, columns, image, optimize=True)
    return np.concatenate([kept, image.reshape(1, grid[0] * grid[1], -1).astype(positions.dtype)], 1)


def resample_patch_kernel(kernel: np.ndarray, patch_size: int) -> np.ndarray:
    """Patch kernels [D, C, q, q] for another patch size: [D, C, p, p].

    By the pseudo-inverse of the resize, so that a patch resized by it gives the same token (Beyer et al. 2023,
    "FlexiViT", sec. 3.4).
    """
    line = resize_matrix(kernel.shape[-1], patch_size)
    resize = np.kron(line, line)                        # [p * p, q * q]: a patch's pixels, row by row
    flat = kernel.reshape(*kernel.shape[:2], -1).astype(np.float64) @ np.linalg.pinv(resize)
    return flat.reshape(*kernel.shape[:2], patch_size, patch_size).astype(kernel.dtype)
