"""The arithmetic of docs/data.md: what 10^8 clips cost, step by step.

  python -m benchmarks.data_plan          prints the tables
  python -m benchmarks.data_plan --write  puts them into docs/data.md

What was measured is read from results/cpu-2/record.json, what can be counted is
counted, and everything else is one of `ASSUMED`, with a name. A test holds that
the page says what this says.
"""

import functools
import json
import pathlib
import sys

import jax
import jax.numpy as jnp

from benchmarks import pages
from benchmarks.configs import wan_1_3b
from worldsim_jax.models import build
from worldsim_jax.models import pixels
from worldsim_jax.parallel import flops
from worldsim_jax.streaming import files

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = ROOT / 'docs/data.md'
MEASURED = ROOT / 'benchmarks/results/cpu-2/record.json'
SCRIPT = 'data_plan'

CLIPS = 10**8
FRAMES, HEIGHT, WIDTH = 81, 480, 832
LATENTS = (21, 60, 104, 16)
TEXT = (512, 4096)  # umT5-XXL, padded
RECORDS_PER_SHARD = 256
HALF, SINGLE = 2, 4  # bytes of a number
CHIPS_PER_HOST = 4
HOST_CORES = 200  # of a TPU v5p or v6e host, in round figures

ASSUMED = {  # name: (value, unit, why)
    'film_megabits': (2., 'Mbit/s', 'H.264 at 480p, 16 frames per second'),
    'tokens': (100., 'tokens', 'of a caption, on average; at most 512'),
    'umt5_parameters': (5.7e9, '', 'of the encoder of umT5-XXL'),
    'chip_flops': (459e12, 'FLOP/s', 'one TPU v5p, bf16 (data sheet)'),
    'encode_utilisation': (0.1, '', 'convolutions of 64 channels use the '
                           'matrix units badly'),
    'train_utilisation': (0.4, '', 'a transformer in training'),
    'bucket_gigabytes': (1., 'GB/s', 'from or to a bucket, per host'),
    'encode_hosts': (16., 'hosts', 'with four chips each'),
}


def tables() -> dict[str, str]:
  """Markdown, by the name that the page has for it."""
  return {'assumed': _assumed(), 'storage': _storage(), 'work': _work(),
          'training': _training()}


def values() -> dict[str, float]:
  """Everything per clip: bytes, seconds of a core, FLOPs."""
  a = {name: value for name, (value, _, _) in ASSUMED.items()}
  per_core = {
      row['step'] + ' ' + row['size']: row['records_per_second_per_core_median']
      for row in json.loads(MEASURED.read_text())['rows']}
  latents, row = _product(LATENTS), TEXT[1]
  return a | {
      'film': FRAMES / 16 * a['film_megabits'] * 1e6 / 8,
      'frames': FRAMES * HEIGHT * WIDTH * 3,
      'latents16': latents * HALF, 'latents32': latents * SINGLE,
      'text_padded': TEXT[0] * row * HALF, 'text': a['tokens'] * row * HALF,
      'decode': 1 / per_core[f'decode {FRAMES}x{HEIGHT}x{WIDTH}'],
      'write': 1 / per_core['write latents 21x60x104'],
      'read': 1 / per_core['read latents 21x60x104'],
      'encode_flops': encode_flops(),
      'text_flops': 2 * a['umt5_parameters'] * a['tokens'],
      'train_flops': train_flops()}


@functools.cache
def encode_flops() -> float:
  """Of one clip in the encoder of TAEHV."""
  vae = build.tokenizer(wan_1_3b.get_config())
  shapes = jax.eval_shape(
      lambda: files.initial_variables(wan_1_3b.get_config()))['vae']
  video = jax.ShapeDtypeStruct((1, FRAMES, HEIGHT, WIDTH, 3), jnp.uint8)
  return flops.count(
      lambda variables, x: vae.apply(
          variables, pixels.to_float(x), method='encode')[0], shapes, video)


@functools.cache
def train_flops() -> float:
  """Of one clip in a training step of Wan 1.3B: forward, and twice backward."""
  config = wan_1_3b.get_config()
  config.model.remat = 'none'
  model = build.denoiser(config)
  inputs = jax.eval_shape(
      lambda: build.example_inputs(config, frames=LATENTS[0]))
  shapes = jax.eval_shape(
      lambda: files.initial_variables(config))['student']
  forward = flops.count(
      lambda params, *x: model.apply({'params': params}, *x), shapes, *inputs)
  return 3 * forward


def _assumed():
  return pages.markdown(
      ['assumption', 'value', 'why'],
      [[f'`{name}`', f'{value:g} {unit}'.strip(), why]
       for name, (value, unit, why) in ASSUMED.items()])


def _storage():
  v = values()
  clip = lambda text: v['latents16'] + text
  rows = [
      ('films, H.264', 'film', v['film']),
      ('frames, uint8 (never stored)', '81 x 480 x 832 x 3', v['frames']),
      ('latents, float32', '21 x 60 x 104 x 16 x 4', v['latents32']),
      ('latents, float16 or bfloat16', '21 x 60 x 104 x 16 x 2',
       v['latents16']),
      ('text, bfloat16, padded', '512 x 4096 x 2', v['text_padded']),
      ('text, bfloat16, as stored', '`tokens` x 4096 x 2', v['text']),
      ('**latents and text, as stored**', '', clip(v['text']))]
  shards = -(-CLIPS // RECORDS_PER_SHARD)
  return pages.markdown(
      ['what', 'of a clip', 'MB per clip', 'TB for 10^8'],
      [[what, how, f'{size / 1e6:.3g}', f'{size * CLIPS / 1e12:,.0f}']
       for what, how, size in rows]) + (
           f'\nA shard of {RECORDS_PER_SHARD} records is '
           f'{RECORDS_PER_SHARD * clip(v["text"]) / 1e9:.2f} GB; there are '
           f'{shards:,} of them.\n')


def _work():
  v = values()
  hosts = v['encode_hosts']
  cores, chips = hosts * HOST_CORES, hosts * CHIPS_PER_HOST
  chip = v['encode_utilisation'] * v['chip_flops']
  text_chip = v['train_utilisation'] * v['chip_flops']
  bucket = v['bucket_gigabytes'] * 1e9
  stored = v['latents16'] + v['text']
  rows = [
      ('read films', f'{v["film"] / 1e6:.2f} MB / `bucket_gigabytes`',
       v['film'] / bucket, hosts),
      ('decode', f'measured: {v["decode"]:.3f} core-s', v['decode'], cores),
      ('encode (TAEHV)', f'{v["encode_flops"] / 1e12:.2f} TFLOP / '
       '(`encode_utilisation` x `chip_flops`)', v['encode_flops'] / chip,
       chips),
      ('embed (umT5)', f'2 x `umt5_parameters` x `tokens` = '
       f'{v["text_flops"] / 1e12:.2f} TFLOP', v['text_flops'] / text_chip,
       chips),
      ('write', f'measured: {v["write"]:.3f} core-s, one core of each process',
       v['write'], chips),
      ('store', f'{stored / 1e6:.2f} MB / `bucket_gigabytes`',
       stored / bucket, hosts)]
  hours = {step: seconds * CLIPS / workers / 3600
           for step, _, seconds, workers in rows}
  device = hours['encode (TAEHV)'] + hours['embed (umT5)']
  return pages.markdown(
      ['step', 'a clip', 'seconds', 'workers', 'hours for 10^8'],
      [[step, how, f'{seconds:.4f}', f'{workers:,.0f}', f'{hours[step]:,.1f}']
       for step, how, seconds, workers in rows]) + (
           '\nThe steps overlap, except encode and embed, which share the '
           f'chips: {max(device, *hours.values()):,.0f} hours, the slowest.\n')


def _training():
  v = values()
  clip = v['latents16'] + v['text']
  seconds = v['train_flops'] / (v['train_utilisation'] * v['chip_flops'])
  rows = []
  for chips in (64, 1024):
    rate, hosts = chips / seconds, chips / CHIPS_PER_HOST
    rows.append([
        f'{chips:,}', f'{rate:,.1f}', f'{rate * clip / 1e6:,.0f}',
        f'{rate * clip / hosts / 1e6:.1f}',
        f'{rate * v["read"] / hosts:.2f} of {HOST_CORES}',
        f'{CLIPS / rate / 86400:,.0f}'])
  return (
      f'A clip is {v["train_flops"] / 1e12:,.0f} TFLOP in training, '
      f'{seconds:.2f} s of a chip; reading it takes {v["read"]:.3f} s of a '
      'core (measured).\n\n') + pages.markdown(
          ['chips', 'clips/s', 'MB/s', 'MB/s per host', 'cores per host',
           'days for a pass'], rows)


def _product(shape):
  result = 1
  for size in shape:
    result *= size
  return result


def main():
  if sys.argv[1:] == ['--write']:
    pages.write(PAGE, SCRIPT, tables())
  else:
    print('\n'.join(tables().values()))


if __name__ == '__main__':
  main()
