"""Running mean and variance of what a learner meets, and rewards in units of the spread of their returns."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class RunningMoments(NamedTuple):
    """Mean and variance of all examples so far.

    Attributes:
      num_examples: how many there were.
      mean: of each feature; 0 before the first.
      variance: of each feature, the sum of squares over the count; 1 before the first.
    """

    num_examples: Float[Array, ""]
    mean: Array
    variance: Array

    @classmethod
    def zeros(cls, shape: tuple[int, ...] = ()) -> "RunningMoments":
        """Return the moments of nothing, with which `standardize` changes nothing but what lies far out."""
        return cls(jnp.float32(0), jnp.zeros(shape), jnp.ones(shape))

    def after(self, x: Float[Array, "..."]) -> "RunningMoments":
        """Return the moments with more examples, [..., *shape].

        >>> RunningMoments.zeros().after(jnp.array([1.0, 3.0])).after(jnp.array([[5.0], [7.0]]))[1:]
        (Array(4., dtype=float32), Array(5., dtype=float32))
        """
        x = x.astype(jnp.float32).reshape(-1, *self.mean.shape)
        num = len(x)
        deviation = x - x[:1]  # from an example, so that a constant has a variance of exactly 0
        mean, variance = x[0] + jnp.mean(deviation, axis=0), jnp.var(deviation, axis=0)
        count = self.num_examples + num
        share = num / count
        distance = mean - self.mean
        old = jnp.where(self.num_examples > 0, self.variance, 0)
        return RunningMoments(
            count,
            self.mean + share * distance,
            (1 - share) * old + share * variance + share * (1 - share) * distance**2,
        )

    def standardize(self, x: Float[Array, "*batch"], *, limit: float = 10.0) -> Float[Array, "*batch"]:
        """Return x with mean 0 and variance 1, cut at ± limit."""
        mean, scale = (jnp.broadcast_to(y, x.shape) for y in (self.mean, jax.lax.rsqrt(self.variance + 1e-8)))
        return jnp.clip((x - mean) * scale, -limit, limit)


class RewardScale(NamedTuple):
    """The spread of discounted returns, by which rewards are divided.

    Attributes:
      running_return: Σ γᵏ r of each running episode, looking back, [num_envs].
      moments: of that over all steps.
    """

    running_return: Float[Array, "num_envs"]
    moments: RunningMoments

    @classmethod
    def zeros(cls, num_envs: int) -> "RewardScale":
        """Return the scale before the first step."""
        return cls(jnp.zeros(num_envs), RunningMoments.zeros())

    def after(
        self,
        reward: Float[Array, "num_steps num_envs"],
        done: Bool[Array, "num_steps num_envs"],
        discount: float | Float[Array, ""],
    ) -> "RewardScale":
        """Return the scale after a rollout."""

        def step(running, x):
            reward_t, done_t = x
            running = discount * running + reward_t
            return jnp.where(done_t, 0.0, running), running

        running, returns = jax.lax.scan(step, self.running_return, (reward, done))
        return RewardScale(running, self.moments.after(returns))

    def scaled(self, reward: Float[Array, "..."], *, limit: float = 10.0) -> Float[Array, "..."]:
        """Return rewards over the standard deviation of returns, cut at ± limit; their sign stays.

        Where all returns are alike, so that they say nothing of a scale, every reward is cut.
        """
        return jnp.clip(reward * jax.lax.rsqrt(self.moments.variance + 1e-8), -limit, limit)
