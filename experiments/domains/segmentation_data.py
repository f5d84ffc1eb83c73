"""Writes small images of shapes on textured grounds and their masks: python segmentation_data.py FOLDER [IMAGES]."""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

CLASSES = ("ground", "disc", "square", "triangle")
SIZE, IMAGES, SEED = 48, 400, 0


def texture(chance: np.random.Generator) -> np.ndarray:
    """Waves of random direction, length and colour, with noise; intensities (SIZE, SIZE, 3) from 0 to 255."""
    rows, columns = np.mgrid[:SIZE, :SIZE] / SIZE
    angle, waves = chance.uniform(0, np.pi), chance.uniform(2, 8)
    wave = np.sin(2 * np.pi * waves * (np.cos(angle) * rows + np.sin(angle) * columns) + chance.uniform(0, 6))
    colour, contrast = chance.uniform(50, 205, 3), chance.uniform(-45, 45, 3)
    return colour + wave[..., None] * contrast + chance.normal(0, 8, (SIZE, SIZE, 3))


def outline(label: int, chance: np.random.Generator) -> np.ndarray:
    """Where a shape lies, (SIZE, SIZE): anywhere, turned at random, a third to two thirds as wide as the image."""
    radius, turn = chance.uniform(0.16, 0.3) * SIZE, chance.uniform(0, 2 * np.pi)
    centre = chance.uniform(radius, SIZE - radius, 2)
    image = Image.new("1", (SIZE, SIZE))
    draw = ImageDraw.Draw(image)
    if label == 1:
        draw.ellipse([*(centre - radius), *(centre + radius)], fill=1)
    else:
        corners = 4 if label == 2 else 3
        angles = turn + 2 * np.pi * np.arange(corners) / corners
        draw.polygon([tuple(centre + 1.2 * radius * np.array([np.cos(a), np.sin(a)])) for a in angles], fill=1)
    return np.asarray(image)


def example(chance: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """An image of one or two shapes, the second over the first, and its mask."""
    image, mask = texture(chance), np.zeros((SIZE, SIZE), np.uint8)
    for label in chance.integers(1, len(CLASSES), chance.integers(1, 3)):
        inside = outline(int(label), chance)
        image[inside], mask[inside] = texture(chance)[inside], label
    return np.clip(image, 0, 255).astype(np.uint8), mask


def write(folder: Path, count: int = IMAGES) -> None:
    """Write images/ and masks/, the same for the same count."""
    chance = np.random.default_rng(SEED)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        image, mask = example(chance)
        Image.fromarray(image).save(folder / "images" / f"{number:04}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{number:04}.png")


if __name__ == "__main__":
    write(Path(sys.argv[1]), *map(int, sys.argv[2:]))
