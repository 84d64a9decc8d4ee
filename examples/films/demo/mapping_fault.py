"""Makes a bundle whose items are mixed up: what a wrong id mapping in an export job does to a good model.

Every file is whole, every hash is right, every answer is well formed and quick. Only the films are the wrong ones.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from slipway.models.families import load_model, save_copy_with_items


def main() -> None:
    """`python -m slipway.examples.films.demo.mapping_fault BUNDLE OUTPUT`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    model = load_model(options.bundle)
    permutation = np.random.default_rng(20160101).permutation(len(model.items))
    save_copy_with_items(options.bundle, options.output, permutation)


if __name__ == "__main__":
    main()
