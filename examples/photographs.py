"""Denoise and segment photographs, with the best method and parameters found for each.

The photographs are those inside the scikit-image package.  Each is made noisy in a way that is the
same every time; then total variation, bilateral filtering and non-local means are tried with
several parameters, and the result that is nearest to the original is kept.  That one is divided
into regions by two methods with several parameters; the division that describes the photograph in
the fewest bits is kept.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import math
import os
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from skimage import data, restoration, segmentation, transform, util
from skimage.metrics import peak_signal_noise_ratio

Picture = NDArray[np.float32]
Labels = NDArray[np.int64]

NOISE = 0.12
"""Standard deviation of the noise, where white is 1."""
SEED = 20
PHOTOGRAPHS: dict[str, Callable[[], NDArray[np.uint8]]] = {
    "cat": data.chelsea,
    "coffee": data.coffee,
    "astronaut": data.astronaut,
    "coins": data.coins,
    "rocket": data.rocket,
    "galaxies": data.hubble_deep_field,
    "camera": data.camera,
    "retina": data.retina,
}


class Candidate(NamedTuple):
    """A function with the parameters to try it with."""

    function: Callable[..., Any]
    parameters: dict[str, Any]

    def __str__(self) -> str:
        values = ", ".join(f"{key} {value:g}" for key, value in self.parameters.items())
        name = self.function.__name__.removeprefix("denoise_").replace("_", " ")
        return f"{name} ({values})"


class Result(NamedTuple):
    """What came out for one photograph."""

    name: str
    original: Picture
    noisy: Picture
    clean: Picture
    labels: Labels
    how_clean: Candidate
    how_divided: Candidate
    before: float
    after: float


def grid(function: Callable[..., Any], **choices: tuple[float, ...]) -> Iterator[Candidate]:
    """Every combination of ``choices``."""
    for values in itertools.product(*choices.values()):
        yield Candidate(function, dict(zip(choices, values, strict=True)))


DENOISERS = [
    *grid(restoration.denoise_nl_means, h=(0.07, 0.09), patch_size=(5, 7)),
    *grid(restoration.denoise_bilateral, sigma_color=(0.2, 0.4), sigma_spatial=(2, 4)),
    *grid(restoration.denoise_tv_chambolle, weight=(0.06, 0.09, 0.12, 0.16, 0.2)),
]
"""The slow ones first, so that no thread ends the search alone with one of them."""
DIVIDERS = [
    *grid(segmentation.slic, n_segments=(60, 120, 240, 480), compactness=(5, 15)),
    *grid(segmentation.felzenszwalb, scale=(50, 100, 200, 400), sigma=(0.5, 0.8)),
]


def load(name: str, side: int) -> Picture:
    """The photograph ``name`` with values from 0 to 1, its longer side at most ``side`` pixels."""
    picture = util.img_as_float32(PHOTOGRAPHS[name]())
    factor = min(1.0, side / max(picture.shape[:2]))
    shape = (round(picture.shape[0] * factor), round(picture.shape[1] * factor), *picture.shape[2:])
    return transform.resize(picture, shape, anti_aliasing=True).astype(np.float32)


def spoil(name: str, picture: Picture) -> Picture:
    """``picture`` with noise, the same whenever and in whatever order this is called."""
    random = np.random.default_rng([SEED, zlib.crc32(name.encode())])
    noise = random.normal(0.0, NOISE, picture.shape).astype(np.float32)
    return np.clip(picture + noise, 0.0, 1.0)


def axis(picture: Picture) -> int | None:
    """Where the colours are; None for a grey picture."""
    return -1 if picture.ndim == 3 else None


def denoise(candidate: Candidate, noisy: Picture) -> Picture:
    """Try one way to remove the noise."""
    parameters = dict(candidate.parameters, channel_axis=axis(noisy))
    if candidate.function is restoration.denoise_nl_means:
        parameters |= {"sigma": NOISE, "patch_distance": 6, "fast_mode": False}
    clean = candidate.function(noisy, **parameters)
    return np.clip(clean, 0.0, 1.0).astype(np.float32)


def divide(candidate: Candidate, clean: Picture) -> Labels:
    """Try one way to divide the picture into regions."""
    return np.asarray(candidate.function(clean, channel_axis=axis(clean), **candidate.parameters), np.int64)


def flat(picture: Picture, labels: Labels) -> Picture:
    """``picture`` with each region in its mean colour."""
    regions, numbers = np.unique(labels, return_inverse=True)
    numbers = numbers.ravel()
    sizes = np.bincount(numbers, minlength=len(regions))
    channels = picture.reshape(numbers.size, -1).T
    means = [np.bincount(numbers, channel, len(regions)) / sizes for channel in channels]
    return np.stack([mean[numbers] for mean in means], -1).reshape(picture.shape).astype(np.float32)


def description_length(picture: Picture, labels: Labels) -> float:
    """Bits to say ``picture`` by regions: their colours, their outlines, and what they leave out.

    More regions leave out less, and cost more to say: the minimum is where they follow the picture.
    What is left out is smooth after denoising: two by two pixels count as one.
    """
    left_out = float(np.mean((picture - flat(picture, labels)) ** 2))
    outline = np.count_nonzero(np.diff(labels, axis=0)) + np.count_nonzero(np.diff(labels, axis=1))
    channels = picture.size // labels.size
    colours = 8.0 * channels * len(np.unique(labels))
    return colours + math.log2(3) * outline + 0.5 * picture.size / 4 * math.log2(max(left_out, 1e-6))


def work(name: str, side: int, pool: ThreadPoolExecutor) -> Result:
    """Find the best for one photograph."""
    original = load(name, side)
    noisy = spoil(name, original)
    cleaned = list(pool.map(lambda candidate: denoise(candidate, noisy), DENOISERS))
    quality = [peak_signal_noise_ratio(original, picture, data_range=1.0) for picture in cleaned]
    best = int(np.argmax(quality))
    clean = cleaned[best]
    divided = list(pool.map(lambda candidate: divide(candidate, clean), DIVIDERS))
    shortest = int(np.argmin([description_length(clean, labels) for labels in divided]))
    return Result(
        name=name,
        original=original,
        noisy=noisy,
        clean=clean,
        labels=divided[shortest],
        how_clean=DENOISERS[best],
        how_divided=DIVIDERS[shortest],
        before=float(peak_signal_noise_ratio(original, noisy, data_range=1.0)),
        after=float(quality[best]),
    )


def checksum(results: list[Result]) -> str:
    """One number for everything that was found.

    Pictures count by their 256 steps of grey, not by the last bits of a float.
    """
    found = hashlib.sha256()
    for result in results:
        found.update(f"{result.name} {result.how_clean} {result.how_divided} {result.after:.3f}\n".encode())
        found.update(np.round(result.clean * 255).astype(np.uint8).tobytes())
        found.update(result.labels.astype("<i4").tobytes())
    return found.hexdigest()


def twice(picture: NDArray[Any]) -> NDArray[Any]:
    """``picture`` with each pixel as four."""
    return picture.repeat(2, axis=0).repeat(2, axis=1)


def draw(results: list[Result], path: Path) -> None:
    """Write a picture: before, after, and the regions, one photograph a row."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    heights = [result.original.shape[0] / result.original.shape[1] * 3.4 + 0.7 for result in results]
    figure, rows = pyplot.subplots(
        len(results),
        4,
        figsize=(14, sum(heights)),
        height_ratios=heights,
        squeeze=False,
        layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.1),
    )
    for result, row in zip(results, rows, strict=True):
        regions = len(np.unique(result.labels))
        mean = flat(result.clean, result.labels)
        # Outlines are drawn on a picture of twice the size, where they cover half as much.
        outlined = segmentation.mark_boundaries(twice(mean), twice(result.labels), color=(1, 1, 1), mode="inner")
        panels = [
            (f"{result.name}: original", "", result.original),
            ("before: noisy", f"PSNR {result.before:.1f} dB", result.noisy),
            (f"after: PSNR {result.after:.1f} dB", str(result.how_clean), result.clean),
            (f"{regions} regions", str(result.how_divided), outlined),
        ]
        for place, (title, detail, picture) in zip(row, panels, strict=True):
            place.imshow(np.clip(picture, 0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            place.set_title(title, fontsize=12, loc="left", fontweight="bold", pad=18)
            place.text(0, 1.025, detail, transform=place.transAxes, fontsize=8.5, color="0.35")
            place.set_axis_off()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main() -> None:
    """Read the command line, do the work, say what came of it."""
    parser = argparse.ArgumentParser(
        description="Denoise and segment photographs, with the best method and parameters found for each.",
        epilog=f"The photographs: {', '.join(PHOTOGRAPHS)}.",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write a picture of before and after (PNG)")
    parser.add_argument(
        "--pictures",
        type=int,
        default=5,
        choices=range(1, len(PHOTOGRAPHS) + 1),
        metavar="N",
        help=f"how many photographs, 1 to {len(PHOTOGRAPHS)} (default: %(default)s)",
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=max(4, 2 * (os.cpu_count() or 1)),
        metavar="N",
        help="how many parameters to try at the same time (default: %(default)s)",
    )
    parser.add_argument(
        "--side",
        type=int,
        default=208,
        metavar="PIXELS",
        help="scale photographs down to this width or height (default: %(default)s)",
    )
    given = parser.parse_args()
    if given.threads < 1 or given.side < 16:
        parser.error("--threads must be at least 1, and --side at least 16")

    results: list[Result] = []
    with ThreadPoolExecutor(given.threads) as pool:
        for number, name in enumerate(list(PHOTOGRAPHS)[: given.pictures], 1):
            start = time.perf_counter()
            result = work(name, given.side, pool)
            results.append(result)
            print(
                f"{number}/{given.pictures} {name}: "
                f"{result.before:.1f} -> {result.after:.1f} dB by {result.how_clean}; "
                f"{len(np.unique(result.labels))} regions by {result.how_divided}; {time.perf_counter() - start:.1f} s",
                flush=True,
            )
    if given.output:
        draw(results, given.output)
        print(f"picture: {given.output}", flush=True)
    print(f"checksum: {checksum(results)}", flush=True)


if __name__ == "__main__":
    main()
