"""Paradigms by name: what a stage's network sees of the past as it trains.

  tokenizer          no model of videos
  full_sequence      a bidirectional model; all frames at one noise level
  teacher_forcing    a causal student with a clean past
  diffusion_forcing  a causal student with a noisy past
  ode_regression     a causal student learns to end where its teacher's ODE does
  consistency        ... without integrating it (causal consistency models)
  self_forcing       a causal student is distilled on its own rollouts
  teacher_forced     ... on single passes with a clean past (TF + DMD)
  diffusion_forced   ... on single passes with a noisy past (DF + DMD; CausVid)
"""

DISTILLED = ('self_forcing', 'teacher_forced', 'diffusion_forced')
INITIALISED = ('ode_regression', 'consistency')  # and then distilled
CAUSAL = ('teacher_forcing', 'diffusion_forcing', *INITIALISED, *DISTILLED)
