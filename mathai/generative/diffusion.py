"""Diffusion, whole: schedules, the process and its reverse, samplers and the variational bound."""

from mathai.generative.bounds import discretized_gaussian_log_likelihood, prior_kl, step_kl
from mathai.generative.edm import edm_noise_levels, edm_sample
from mathai.generative.processes import (
    add_noise,
    forward_step,
    gaussian_optimal_noise,
    gaussian_reverse_variance,
    noise_of_velocity,
    noise_prediction_loss,
    posterior,
    predict_x0,
    velocity,
)
from mathai.generative.samplers import (
    classifier_free_guidance,
    clip_prediction,
    ddim_step,
    ddpm_step,
    heun_step,
    sample,
)
from mathai.generative.schedules import Schedule, cosine_schedule, linear_schedule

__all__ = [
    "Schedule",
    "add_noise",
    "classifier_free_guidance",
    "clip_prediction",
    "cosine_schedule",
    "ddim_step",
    "ddpm_step",
    "discretized_gaussian_log_likelihood",
    "edm_noise_levels",
    "edm_sample",
    "forward_step",
    "gaussian_optimal_noise",
    "gaussian_reverse_variance",
    "heun_step",
    "linear_schedule",
    "noise_of_velocity",
    "noise_prediction_loss",
    "posterior",
    "predict_x0",
    "prior_kl",
    "sample",
    "step_kl",
    "velocity",
]
