"""What a suite is asked for: sizes of its work, its numbers' type, and which peers."""

from typing import Any, NamedTuple


class Options(NamedTuple):
    """Sizes of every suite's cases, and who takes part.

    Attributes:
      with_peers: run the peers that can be found as well.
      dtype: of the arrays of suites nn, losses and attention; the others are of float32.
      elements: numbers that a formula of suites nn and losses works on.
      tokens: lengths of suite attention.
      images: samples that suite generative draws.
      env_steps: environment steps of one run of suites ppo and dqn; of several numbers of environments, each makes
        as many updates as the first does in so many steps.
      environments: environments of a learner of suite ppo, beside each other.
      seeds: seeds of programs of suite ppo that train several; one that trains a single one there is in any case.
      examples: examples of the fits of suite svm.
      rows: rows of the matrices of suite pca.
      points: points of suites neighbors, tsne and umap; up to 1797 are the digits.
      mnist: a folder with MNIST's files, for more points than that; None takes Gaussians.
      purejaxrl: a checkout of PureJaxRL, the peer of suites ppo and dqn.
    """

    with_peers: bool = False
    dtype: str = "float32"
    elements: tuple[int, ...] = (2**20,)
    tokens: tuple[int, ...] = (256, 512, 1024)
    images: tuple[int, ...] = (100,)
    env_steps: int = 100_000
    environments: tuple[int, ...] = (4,)
    seeds: tuple[int, ...] = (8,)
    examples: tuple[int, ...] = (2000,)
    rows: tuple[int, ...] = (1797, 60_000)
    points: tuple[int, ...] = (1797,)
    mnist: str | None = None
    purejaxrl: str | None = None


SIZES: dict[str, dict[str, Any]] = {
    "tiny": {
        "elements": (4096,),
        "tokens": (64,),
        "images": (4,),
        "env_steps": 4096,
        "seeds": (2,),
        "examples": (200,),
        "rows": (1797,),
        "points": (200,),
    },
    "small": {},
    "large": {
        "elements": (2**22,),
        "tokens": (256, 512, 520, 1024, 1100, 2048, 4096),
        "env_steps": 500_000,
        "examples": (2000, 5000, 10_000, 20_000),
        "rows": (1797, 60_000, 1_000_000),
        "points": (1797, 10_000),
    },
}
# Of --scaling: several sizes of each variable, a factor apart.
SCALING: dict[str, dict[str, Any]] = {
    "tiny": {
        "elements": (4096, 16_384),
        "tokens": (64, 128),
        "images": (2, 4),
        "env_steps": 4096,
        "environments": (2, 4),
        "seeds": (1, 2),
        "examples": (200, 400),
        "rows": (500, 1000),
        "points": (200, 400),
    },
    "small": {
        "elements": (2**16, 2**18, 2**20, 2**22),
        "tokens": (256, 512, 1024, 2048, 4096),
        "images": (25, 50, 100, 200),
        "env_steps": 51_200,
        "environments": (4, 16, 64, 256),
        "seeds": (1, 2, 4, 8, 16),
        "examples": (1000, 2000, 4000, 8000),
        "rows": (10_000, 30_000, 100_000, 300_000),
        "points": (2000, 4000, 8000),
    },
    "large": {
        "elements": (2**20, 2**22, 2**24, 2**26),
        "tokens": (1024, 2048, 4096, 8192, 16_384),
        "images": (100, 200, 400, 800),
        "env_steps": 100_000,
        "environments": (16, 64, 256, 1024, 4096),
        "seeds": (1, 4, 16, 64, 256),
        "examples": (2000, 4000, 8000, 16_000, 32_000),
        "rows": (100_000, 300_000, 1_000_000, 3_000_000),
        "points": (2000, 4000, 8000, 16_000, 32_000, 60_000),
    },
}
