"""UniPC for rectified flows: the numbers of each step, ahead of time.

(Zhao et al. 2023, arXiv 2302.04867; order 2, B₂(h), data prediction: what Wan
samples with.) With α = 1 - σ, λ = log(α / σ) and m = x - σ v, the step from σ_s
to σ_t, h = λ_t - λ_s, B = 1 - e⁻ʰ, is

  x_t = (σ_t / σ_s) x_s + α_t B (m_s + ½ (m_r - m_s) / r)                (1)

where m_r is the prediction before m_s and r = (λ_r - λ_s) / h. With m_t, made
at x_t, the step is corrected before the next one starts from it,

  x_t = (σ_t / σ_s) x_s + α_t B (m_s + ρ₁ (m_r - m_s) / r + ρ₂ (m_t - m_s)) (2)
  ρ₁ + ρ₂ = b₁,  r ρ₁ + ρ₂ = b₂,                                         (3)
  b₁ = ψ₁ / B,  b₂ = 2 ψ₂ / B,  ψ₁ = 1 - B / h,  ψ₂ = ½ - ψ₁ / h.

The first and the last step are of order 1: no m_r, ρ₂ = ½. Both are linear in
what is known, so that a step is two rows of weights, computed in float64. σ = 1
(λ = -∞) and the final σ = 0 (λ = ∞) are limits of the formulas, not cases.
"""

from typing import NamedTuple

import jax
import numpy as np


class Steps(NamedTuple):
  """Weights of K steps, float32; of one step when scanned over.

  Attributes:
    correct: [K, 5], of the prediction x_t, the x_s it started from, m_s, m_r
      and m_t: eq. (2). The first row keeps x_t.
    predict: [K, 3], of the corrected x, its m and the m before: eq. (1).
  """
  correct: np.ndarray
  predict: np.ndarray


class State(NamedTuple):
  """What a step hands to the next.

  Attributes:
    x: the prediction.
    start: the corrected sample that it started from.
    newest, older: the last two predictions of the data.
  """
  x: jax.Array
  start: jax.Array
  newest: jax.Array
  older: jax.Array


def steps(sigmas_K) -> Steps:
  """The weights for a grid of noise levels.

  Args:
    sigmas_K: concrete, strictly decreasing in (0, 1]; 0 is appended. They are
      used as float32, which is what the network sees.

  Raises:
    ValueError: for other noise levels.
  """
  sigma = np.append(np.asarray(sigmas_K, np.float32), 0).astype(np.float64)
  if sigma.ndim != 1 or sigma[0] > 1 or np.any(np.diff(sigma) >= 0):
    raise ValueError(
        f'sigmas={np.asarray(sigmas_K)} must strictly decrease within (0, 1].')
  count = len(sigma) - 1
  with np.errstate(divide='ignore'):
    lambdas = np.log(1 - sigma) - np.log(sigma)
  predict, correct = np.zeros((count, 3)), np.zeros((count, 5))
  correct[0, 0] = 1
  for i in range(count):
    h = lambdas[i + 1] - lambdas[i]
    ratio, gain = sigma[i + 1] / sigma[i], (1 - sigma[i + 1]) * -np.expm1(-h)
    if first_order := i in (0, count - 1):
      old, new, half = 0., .5, 0.
    else:
      r = (lambdas[i - 1] - lambdas[i]) / h
      old, new = _rho(h, r)
      half = .5
    scale = 0. if first_order else 1 / r
    old, half = old * scale, half * scale
    predict[i] = ratio, gain * (1 - half), gain * half
    if i + 1 < count:
      correct[i + 1] = (
          0, ratio, gain * (1 - old - new), gain * old, gain * new)
  return Steps(correct.astype(np.float32), predict.astype(np.float32))


def start(noise_BFHWC) -> State:
  """The state before the first step."""
  zeros = jax.numpy.zeros_like(noise_BFHWC)
  return State(noise_BFHWC, zeros, zeros, zeros)


def step(row: Steps, state: State, x0_BFHWC) -> State:
  """Corrects state.x, then predicts from it.

  Args:
    row: one row of `steps`.
    state: before the step.
    x0_BFHWC: m, the data that the network predicts at state.x.
  """
  known = (*state, x0_BFHWC)
  x = sum(row.correct[i] * known[i] for i in range(5))
  ahead = (x, x0_BFHWC, state.newest)
  return State(sum(row.predict[i] * ahead[i] for i in range(3)), x, x0_BFHWC,
               state.newest)


def _rho(h: float, r: float) -> tuple[float, float]:
  """ρ₁ and ρ₂, eq. (3)."""
  b = -np.expm1(-h)
  psi1 = 1 - b / h
  psi2 = .5 - psi1 / h
  b1, b2 = psi1 / b, 2 * psi2 / b
  old = (b1 - b2) / (1 - r)
  return old, b1 - old
