"""What is claimed of the paradigms, and whether the figures bear it out.

A claim compares two players by one figure. With the interval of the difference:

  confirmed      all of it says so
  not confirmed  all of it says the opposite
  undecided      it holds 0, or reaches over the margin

A claim that two are alike has a margin, within which all of the interval must
be; one that a player is no worse has one on its bad side only.
"""

from typing import NamedTuple

import numpy as np

RESAMPLES, SEED = 2000, 0
# Below what one sees: half a decibel, and LPIPS between neighbouring frames.
MARGINS = {'psnr_beyond': 0.5, 'lpips_beyond': 0.02}
COST = 1.3


class Scores(NamedTuple):
  """A player's, of one seed.

  Attributes:
    maps: [n], of each clip; equal in all seeds.
    metrics: 'psnr' and maybe 'lpips', [n, horizon].
  """
  maps: np.ndarray
  metrics: dict[str, np.ndarray]


class Estimate(NamedTuple):
  """A number and its interval of 95 %."""
  mean: float
  low: float
  high: float


class Claim(NamedTuple):
  """That `better` is better than `worse`, or alike, or no worse."""
  text: str
  figure: str
  better: str
  worse: str
  kind: str = 'better'


class Verdict(NamedTuple):
  """A claim and what came of it; the difference is better's less worse's."""
  text: str
  figure: str
  difference: float
  low: float
  high: float
  verdict: str


def _squared(psnr):
  return 10.**(-psnr / 10)


def _within(x, n):
  return x[:, :n].mean(axis=1)


def _beyond(x, n):
  return x[:, n:].mean(axis=1)


# Name: the metric, parts of a clip's curve, what becomes of their means.
FIGURES = {
    'psnr_within': ('psnr', (_within,), lambda a: a),
    'psnr_beyond': ('psnr', (_beyond,), lambda a: a),
    'lpips_within': ('lpips', (_within,), lambda a: a),
    'lpips_beyond': ('lpips', (_beyond,), lambda a: a),
    'error_drift': ('psnr', (
        lambda x, n: _beyond(_squared(x), n),
        lambda x, n: _within(_squared(x), n)), lambda a, b: a / b),
    'lpips_drift': ('lpips', (_beyond, _within), lambda a, b: a / b),
}
HIGHER_IS_BETTER = ('psnr_within', 'psnr_beyond')


def _claims():
  """All of them, by both metrics."""
  claims = []
  for drift, beyond in ('error_drift', 'psnr_beyond'), (
      'lpips_drift', 'lpips_beyond'):
    claims += [
        Claim('Self Forcing drifts less than Teacher Forcing', drift, 'sf_dmd',
              'tf_50'),
        Claim('Self Forcing drifts less than Diffusion Forcing', drift,
              'sf_dmd', 'df_50'),
        Claim('Diffusion Forcing drifts less than Teacher Forcing', drift,
              'df_50', 'tf_50'),
        Claim('Self Forcing drifts less if its rollouts are longer', drift,
              'sf_long', 'sf_dmd')]
    claims += [
        Claim(f'Beyond the trained length Self Forcing is nearer to the truth '
              f'than {other}', beyond, 'sf_dmd', name)
        for other, name in (
            ('Teacher Forcing', 'tf_50'), ('Diffusion Forcing', 'df_50'),
            ('TF + DMD', 'tf_dmd'), ('DF + DMD', 'df_dmd'),
            ('CausVid', 'causvid'))]
    claims += [
        Claim(f'Which divergence hardly matters: {other} is like DMD', beyond,
              name, 'sf_dmd', 'alike')
        for other, name in (('SiD', 'sf_sid'), ('GAN', 'sf_gan'))]
    claims += [
        Claim('Beyond the trained length longer rollouts are nearer to the '
              'truth', beyond, 'sf_long', 'sf_dmd'),
        Claim('Four steps of Self Forcing are no worse than fifty of the '
              'bidirectional teacher', beyond, 'sf_dmd', 'teacher_50',
              'no worse'),
        Claim('Without distillation, four steps are worse than fifty', beyond,
              'tf_50', 'tf')]
    # Stated only after seeds 0 and 1 had been seen.
    claims += [
        Claim(f'On long rollouts Self Forcing is nearer to the truth than '
              f'{other}', beyond, 'sf_long', name)
        for other, name in (
            ('Teacher Forcing', 'tf_50'), ('Diffusion Forcing', 'df_50'))]
    claims.append(Claim(
        'On long rollouts its four steps are no worse than fifty of the '
        'bidirectional teacher', beyond, 'sf_long', 'teacher_50', 'no worse'))
  return claims


CLAIMS = tuple(_claims())


def verdicts(scores, trained: int) -> list[Verdict]:
  """Of all claims whose figures were measured.

  Args:
    scores: for each seed, Scores by player.
    trained: frames of a clip that are within the trained length.
  """
  found = []
  for claim in CLAIMS:
    value = estimate(
        claim.figure, scores, (claim.better, claim.worse), trained)
    if value is not None:
      found.append(Verdict(
          claim.text, claim.figure, *value, verdict(claim, value)))
  return found


def verdict(claim: Claim, value: Estimate) -> str:
  """'confirmed', 'not confirmed' or 'undecided'."""
  sign = 1 if claim.figure in HIGHER_IS_BETTER else -1
  worst, best = sorted((sign * value.low, sign * value.high))
  margin = MARGINS.get(claim.figure, 0.)
  low, high = {'better': (0., np.inf), 'alike': (-margin, margin),
               'no worse': (-margin, np.inf)}[claim.kind]
  if low < worst and best < high:
    return 'confirmed'
  return 'not confirmed' if best < low or worst > high else 'undecided'


def of_cost(other: str, ratios) -> Verdict:
  """That a step of Self Forcing costs about what one of another paradigm does.

  Args:
    other: what it is called.
    ratios: of seconds per step, of each seed; the interval is their range.
  """
  low, high = min(ratios), max(ratios)
  said = ('confirmed' if high <= COST else
          'not confirmed' if low > COST else 'undecided')
  return Verdict(
      f'A step of Self Forcing costs at most {COST} of one of {other}',
      'step_ratio', float(np.mean(ratios)), low, high, said)


def estimate(figure: str, scores, players, trained: int) -> Estimate | None:
  """A figure of one player, or the difference of it between two.

  Returns:
    None if its metric was not measured.
  """
  metric, parts, combined = FIGURES[figure]
  if any(metric not in seed[name].metrics for seed in scores
         for name in players):
    return None
  weights_RN, values = _crossed(scores), []
  for name in players:
    means = []
    for part in parts:
      all_N = np.concatenate(
          [part(seed[name].metrics[metric], trained) for seed in scores])
      means.append(np.append(all_N.mean(), weights_RN @ all_N))
    values.append(combined(*means))
  found = values[0] - (values[1] if len(values) > 1 else 0.)
  low, high = np.quantile(found[1:], [0.025, 0.975])
  return Estimate(float(found[0]), float(low), float(high))


def curve(scores, name: str, metric: str) -> dict[str, list[float]]:
  """The mean of each frame, over clips and seeds, with its interval."""
  all_NH = np.concatenate([seed[name].metrics[metric] for seed in scores])
  resampled = _crossed(scores) @ all_NH
  low, high = np.quantile(resampled, [0.025, 0.975], axis=0)
  rounded = lambda x: [round(float(v), 5) for v in x]
  return {'mean': rounded(all_NH.mean(axis=0)), 'low': rounded(low),
          'high': rounded(high)}


def _crossed(scores):
  """Weights of all clips of all seeds in each resample, [R, N], of sum 1."""
  dice = np.random.default_rng(SEED)
  maps = [next(iter(seed.values())).maps for seed in scores]
  names, of_map = np.unique(np.concatenate(maps), return_inverse=True)
  of_seed = np.repeat(np.arange(len(scores)), [len(m) for m in maps])
  drawn = lambda n: dice.multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
  weights = drawn(len(scores))[:, of_seed] * drawn(len(names))[:, of_map]
  return weights / weights.sum(axis=1, keepdims=True)
