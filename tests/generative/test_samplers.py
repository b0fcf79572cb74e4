"""Samplers on Gaussian data, where with the best noise prediction every step is affine and every law known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mathai.generative import diffusion

KEY = jax.random.key(0)
STD = 0.5
LINEAR = diffusion.linear_schedule(1000)


def optimal(schedule, mean=0.0, std=STD):
    return lambda x, t: diffusion.gaussian_optimal_noise(schedule, x, t, mean, std)


def exact_variance(schedule, std=STD):
    return lambda t, t_prev: diffusion.gaussian_reverse_variance(schedule, t, t_prev, std)


def law_of_samples(schedule, variance, mean=0.0, start=None):
    """Mean and variance of x_0 from the steps' slopes, shifts and noise, which are read off one by one."""
    denoise_fn = optimal(schedule, mean)

    def step(x, t):
        noise = denoise_fn(x, t)
        return diffusion.ddpm_step(KEY, schedule, x, noise, t, variance=variance)

    steps = jnp.arange(1, schedule.num_steps + 1)
    at = lambda x: jax.jit(jax.vmap(lambda t: step(x, t)))(steps)  # noqa: E731
    zero, one = jnp.zeros((), schedule.log_alpha_bar.dtype), jnp.ones((), schedule.log_alpha_bar.dtype)
    z = jax.random.normal(KEY, (), zero.dtype)
    with_noise, with_noise_at_one = np.float64(at(zero)), np.float64(at(one))
    slopes = with_noise_at_one - with_noise
    mean_steps = jax.vmap(
        lambda t: diffusion.posterior(schedule, diffusion.predict_x0(schedule, zero, denoise_fn(zero, t), t), zero, t)[
            0
        ]
    )
    shifts = np.float64(jax.jit(mean_steps)(steps))
    noises = (with_noise - shifts) / float(z)
    m, v = start or (0.0, 1.0)
    for slope, shift, noise in zip(slopes[::-1], shifts[::-1], noises[::-1], strict=True):
        m, v = slope * m + shift, slope**2 * v + noise**2
    return m, v


@pytest.mark.parametrize(("x64", "tolerance"), [(False, 1e-4), (True, 1e-8)])
@pytest.mark.parametrize("mean", [0.0, 2.0])
def test_ddpm_returns_the_law_of_the_data(x64, tolerance, mean):
    with jax.enable_x64(x64):
        schedule = diffusion.linear_schedule(1000)
        # from the law that the process really ends with, not from N(0, 1)
        alpha_bar = float(np.prod(1 - np.linspace(1e-4, 0.02, 1000)))
        start = np.sqrt(alpha_bar) * mean, alpha_bar * STD**2 + 1 - alpha_bar
        m, v = law_of_samples(schedule, exact_variance(schedule), mean, start)
    assert abs(m - mean) < tolerance * max(mean, 1)
    assert abs(v - STD**2) < tolerance


@pytest.mark.parametrize(("variance", "expected"), [("beta", 0.250852), ("posterior", 0.246125)])
def test_ddpm_with_other_variances_misses_it_by_what_is_known(variance, expected):
    with jax.enable_x64(True):
        _, v = law_of_samples(diffusion.linear_schedule(1000), variance)
    np.testing.assert_allclose(v, expected, atol=5e-7)


@pytest.mark.parametrize("method", ["ddpm", "ddim", "heun"])
def test_samples_have_the_law_of_the_data(method):
    schedule, n = diffusion.cosine_schedule(100), 20_000
    variance = exact_variance(schedule) if method == "ddpm" else "posterior"
    draw = jax.jit(
        lambda key: diffusion.sample(key, schedule, optimal(schedule, 2.0), (n,), method=method, variance=variance)
    )
    x = draw(KEY)
    assert abs(jnp.mean(x) - 2) < 4 * STD / np.sqrt(n) + 0.002
    np.testing.assert_allclose(jnp.std(x), STD, rtol=0.04 if method == "ddim" else 0.025)
    np.testing.assert_array_equal(x, draw(KEY))
    assert not np.array_equal(x, draw(jax.random.key(1)))


def slope(schedule, method, num_steps):
    """Standard deviation of deterministic samples: what x_T is multiplied by."""
    path = diffusion.sample(
        KEY, schedule, optimal(schedule), (1,), method=method, num_steps=num_steps, return_trajectory=True
    )
    return float(path[-1, 0] / path[0, 0])


def test_ddim_is_of_first_order():
    with jax.enable_x64(True):
        schedule = diffusion.linear_schedule(1000)
        errors = [abs(slope(schedule, "ddim", n) - STD) for n in (10, 20, 50, 100, 1000)]
    np.testing.assert_allclose(errors, [0.138, 0.070, 0.028, 0.014, 0.0015], rtol=0.05)


def test_heun_is_of_second_order():
    def denoise_fn(y, sigma):
        return sigma * y / (STD**2 + sigma**2)  # y − E[x_0 | y] = σ² y/(s² + σ²)

    def error(num_steps):
        y = diffusion.edm_sample(KEY, denoise_fn, (1,), diffusion.edm_noise_levels(num_steps))
        exact = 80 / np.sqrt(80**2 + STD**2) * STD  # the flow keeps y over its standard deviation
        return abs(float(y[0] / jax.random.normal(KEY, (1,), y.dtype)[0]) - exact)

    with jax.enable_x64(True):
        errors = [error(n) for n in (18, 36, 72, 144)]
        assert errors[0] < 0.03
        assert errors[-1] < 4e-4
        assert (np.log2(np.array(errors[:-1]) / errors[1:]) > 1.9).all()
        schedule = diffusion.cosine_schedule(1000)
        alpha_bar = np.exp(float(schedule.log_alpha_bar[-1]))
        flow = STD / np.sqrt(alpha_bar * STD**2 + 1 - alpha_bar)
        errors = np.array([abs(slope(schedule, "heun", n) - flow) for n in (10, 20, 40)])
        assert errors[0] < 5e-3  # DDIM: 8e-2
        assert np.log2(errors[0] / errors[-1]) / 2 > 1.9


def test_heun_without_its_correction_is_ddim():
    x = jax.random.normal(KEY, (5,))
    denoise_fn = optimal(LINEAR)
    last = diffusion.heun_step(denoise_fn, LINEAR, x, 30, 0)
    np.testing.assert_allclose(last, diffusion.ddim_step(LINEAR, x, denoise_fn(x, 30), 30, 0), rtol=1e-4)


@pytest.mark.parametrize("t_prev", [399, 200, 0])
def test_ddim_with_all_its_noise_is_ddpm(t_prev):
    x = jax.random.normal(KEY, (1000,))
    noise = optimal(LINEAR)(x, 400)
    ddim = diffusion.ddim_step(LINEAR, x, noise, 400, t_prev, eta=1.0, key=KEY)
    ddpm = diffusion.ddpm_step(KEY, LINEAR, x, noise, 400, t_prev=t_prev)
    np.testing.assert_allclose(ddim, ddpm, atol=1e-4)
    without = diffusion.ddim_step(LINEAR, x, noise, 400, t_prev)
    np.testing.assert_allclose(
        diffusion.ddim_step(LINEAR, x, noise, 400, t_prev, eta=jnp.float32(0), key=KEY), without, atol=1e-5
    )


def test_every_eta_has_the_same_marginals():
    # x_0 known: x_s has the law of q(x_s | x_0) for any η
    x_0, n = jnp.full(40_000, 1.5), 40_000
    noise = jax.random.normal(KEY, (n,))
    x_t = diffusion.add_noise(LINEAR, x_0, noise, 600)
    expected = diffusion.add_noise(LINEAR, x_0, jax.random.normal(jax.random.key(1), (n,)), 300)
    for eta in (0.0, 0.5, 1.0):
        x_s = diffusion.ddim_step(LINEAR, x_t, noise, 600, 300, eta=eta, key=jax.random.key(2))
        assert abs(jnp.mean(x_s) - jnp.mean(expected)) < 0.03
        np.testing.assert_allclose(jnp.std(x_s), jnp.std(expected), rtol=0.03)


def test_the_last_step_adds_noise_only_with_beta():
    x = jax.random.normal(KEY, (4,))
    noise = optimal(LINEAR)(x, 1)
    certain = diffusion.predict_x0(LINEAR, x, noise, 1)
    np.testing.assert_allclose(diffusion.ddpm_step(KEY, LINEAR, x, noise, 1), certain, rtol=1e-6)
    noisy = diffusion.ddpm_step(KEY, LINEAR, x, noise, 1, variance="beta")
    np.testing.assert_allclose(noisy - certain, 1e-2 * jax.random.normal(KEY, (4,)), atol=1e-6)


@pytest.mark.parametrize("num_steps", [1, 2, 7, 10, None])
def test_steps_are_spread_evenly_and_the_prediction_gets_a_scalar(num_steps):
    seen = []

    def denoise_fn(x, t):
        assert x.shape == (2, 3)
        assert t.shape == ()
        jax.debug.callback(lambda t: seen.append(int(t)), t)
        return x

    schedule = diffusion.linear_schedule(10)
    x = diffusion.sample(KEY, schedule, denoise_fn, (2, 3), method="ddim", num_steps=num_steps)
    jax.effects_barrier()
    assert x.shape == (2, 3)
    assert sorted(seen, reverse=True) == np.round(np.linspace(10, 1, num_steps or 10)).astype(int).tolist()


def test_gradients_pass_through_a_sampler():
    schedule = diffusion.linear_schedule(20, beta_max=0.3)

    def spread(std):
        x = diffusion.sample(KEY, schedule, optimal(schedule, 0.0, std), (50,), method="ddpm")
        return jnp.std(x)

    slope = jax.jit(jax.grad(spread))(0.5)
    np.testing.assert_allclose(slope, (spread(0.51) - spread(0.49)) / 0.02, rtol=2e-2)
    through_schedule = jax.grad(
        lambda high: jnp.sum(
            diffusion.sample(KEY, diffusion.linear_schedule(5, beta_max=high), lambda x, t: x / 2, (3,))
        )
    )(0.3)
    assert np.isfinite(through_schedule)


def test_the_slope_in_eta_at_zero_is_the_noise():
    x = jnp.array([0.3, -1.0, 2.0])
    step = lambda eta: jnp.sum(diffusion.ddim_step(LINEAR, x, x, 600, 300, eta=eta, key=KEY))  # noqa: E731
    slope = jax.grad(step)(0.0)
    np.testing.assert_allclose(slope, (step(0.01) - step(jnp.float32(0))) / 0.01, rtol=0.05)
    assert abs(slope) > 0.1
    assert np.isnan(step(1.1))


@pytest.mark.parametrize("given", ["scalar", "of each t", "elementwise"])
def test_a_variance_may_be_a_function(given):
    x, noise = jax.random.normal(KEY, (2, 3, 4))
    t = jnp.array([5, 50, 500])
    _, posterior_variance = diffusion.posterior(LINEAR, x, x, t)
    variance = {"scalar": 0.01, "of each t": posterior_variance[:, 0], "elementwise": posterior_variance + 0 * x}[given]
    found = diffusion.ddpm_step(KEY, LINEAR, x, noise, t, variance=lambda t, t_prev: variance)
    expected = diffusion.ddpm_step(KEY, LINEAR, x, noise, t)
    if given == "scalar":
        z = jax.random.normal(KEY, x.shape)
        expected = expected + (0.1 - jnp.sqrt(posterior_variance)) * z
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_results_have_the_dtype_of_x_and_the_digits_of_it(dtype):
    with jax.enable_x64(dtype == "float64"):
        schedule = diffusion.linear_schedule(100)
        x, noise = jax.random.normal(KEY, (2, 50)).astype(dtype)
        denoise_fn = lambda x, t: jnp.full(x.shape, 0.3, x.dtype)  # noqa: E731
        for f in (
            lambda x, e: diffusion.ddpm_step(KEY, schedule, x, e, 50),
            lambda x, e: diffusion.ddim_step(schedule, x, e, 50, 40),
            lambda x, e: diffusion.heun_step(denoise_fn, schedule, x, 50, 40),
            lambda x, e: diffusion.velocity(schedule, x, e, 50),
            lambda x, e: diffusion.clip_prediction(schedule, denoise_fn)(x, 50),
        ):
            found = f(x, noise)
            assert found.dtype == dtype
            if dtype == "bfloat16":
                wide = f(x.astype(jnp.float32), noise.astype(jnp.float32))
                np.testing.assert_allclose(np.float32(found), wide, rtol=0.02, atol=0.01)
        levels = diffusion.edm_noise_levels(5).astype(dtype)
        assert diffusion.edm_sample(KEY, lambda y, s: y / s, (3,), levels).dtype == dtype
        short = diffusion.sample(KEY, schedule, denoise_fn, (3,), method="ddim", num_steps=3)
        assert short.dtype == ("float64" if dtype == "float64" else "float32")


def test_a_prediction_in_range_is_not_touched_by_clipping():
    x = jnp.linspace(-0.9, 0.9, 7).astype(jnp.bfloat16)
    denoise_fn = lambda x, t: jnp.full(x.shape, 0.25, x.dtype)  # noqa: E731
    np.testing.assert_array_equal(diffusion.clip_prediction(LINEAR, denoise_fn)(x, 1), denoise_fn(x, 1))


def test_guidance_is_linear_between_and_beyond():
    conditional, unconditional = lambda x, t: x + t, lambda x, t: x - t
    x = jnp.ones(2)
    for scale, expected in [(0.0, -3.0), (1.0, 5.0), (3.0, 21.0)]:
        guided = diffusion.classifier_free_guidance(conditional, unconditional, scale)
        np.testing.assert_allclose(guided(x, 4), np.full(2, expected))


def test_a_clipped_prediction_stands_for_data_in_range():
    denoise_fn = diffusion.clip_prediction(LINEAR, lambda x, t: jnp.zeros_like(x), minimum=-1.0, maximum=0.5)
    x = jnp.array([-3.0, 0.1, 3.0])
    found = diffusion.predict_x0(LINEAR, x, denoise_fn(x, 300), 300)
    unclipped = diffusion.predict_x0(LINEAR, x, jnp.zeros(3), 300)
    np.testing.assert_allclose(found, np.clip(unclipped, -1.0, 0.5), atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: diffusion.sample(KEY, LINEAR, optimal(LINEAR), (2,), method="euler"), "method 'euler' is unknown"),
        (lambda x: diffusion.sample(KEY, LINEAR, optimal(LINEAR), (2,), num_steps=1001), "num_steps is 1001"),
        (lambda x: diffusion.sample(KEY, LINEAR, optimal(LINEAR), (2,), num_steps=0), "num_steps is 0"),
        (lambda x: diffusion.sample(KEY, LINEAR, optimal(LINEAR), (2,), method="ddim", variance="beta"), "no variance"),
        (lambda x: diffusion.sample(KEY, LINEAR, optimal(LINEAR), (2,), eta=0.5), "takes no eta"),
        (lambda x: diffusion.heun_step(lambda x, t: x[:1], LINEAR, x, 5, 4), r"shape|Type-check"),
        (lambda x: diffusion.edm_sample(KEY, lambda x, s: x[:1], (2,), jnp.ones(2)), r"shape|Type-check"),
        (lambda x: diffusion.edm_noise_levels(5, rho=0.0), "rho is 0.0"),
        (lambda x: diffusion.ddpm_step(KEY, LINEAR, x, x, 5, variance="large"), "variance 'large' is unknown"),
        (lambda x: diffusion.ddim_step(LINEAR, x, x, 5, 4, eta=0.5), "give it a key"),
        (lambda x: diffusion.ddim_step(LINEAR, x, x[:1], 5, 4), r"shape|Type-check"),
        (lambda x: diffusion.edm_noise_levels(1), "at least two"),
    ],
)
def test_mistakes_are_refused(call, message):
    with pytest.raises((AssertionError, TypeError, ValueError), match=message):
        call(jnp.zeros(2))
