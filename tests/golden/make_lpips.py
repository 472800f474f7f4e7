"""Makes lpips.npz by the authors' own package, for evaluate/lpips_test.

Run it as `python -m tests.golden.make_lpips` where the extra [metrics],
PyTorch, tqdm, SciPy and `pip install --no-deps lpips==0.1.4` are. Code and
linear layers are of that package; the networks below, which it would have
torchvision download, are assembled here and get the packaged weights. Last made
with torch 2.13.0 (CPU).

  x, y              uint8 [3, 48, 64, 3]: noise added, moved, unrelated
  alexnet, vgg16    LPIPS 0.1 of the three pairs

Beside that, the authors' example images, which are not ours to distribute
(github.com/richzhang/PerceptualSimilarity, imgs/ex_*.png): with VGG16 their
code says 0.569 from ex_ref to ex_p0 and 0.422 to ex_p1, as quoted by
github.com/moono/lpips-tf2.x. With a folder of them as argument, this prints
what it finds: 0.5686 and 0.4217, with AlexNet 0.7219 and 0.1376.
"""

import functools
import pathlib
import sys
import types

import numpy as np

from worldsim_jax.evaluate import packaged_weights

GOLDEN = pathlib.Path(__file__).with_name('lpips.npz')
NETWORKS = {
    'alexnet': ('alex', packaged_weights.ALEXNET, 'AlexNet_0'),
    'vgg16': ('vgg', packaged_weights.VGG16, 'VGG16_0'),
}


def frames():
  """uint8 [3, 48, 64, 3] twice."""
  random = np.random.RandomState(0)
  y, x, c = np.meshgrid(*map(np.arange, (48, 64, 3)), indexing='ij')
  scene = lambda dx: 127 + 60 * (
      np.sin((x + dx) / (3 + c)) + np.cos(y / 5 - (x + dx) / 9))
  grain = random.normal(0, 20, scene(0).shape)
  pairs = ((scene(0), scene(0) + grain), (scene(0), scene(5)),
           (scene(0), random.uniform(0, 255, grain.shape)))
  return [np.clip(np.stack(side), 0, 255).astype(np.uint8)
          for side in zip(*pairs)]


def alexnet():
  """The layers of torchvision.models.alexnet that are before its classifier."""
  from torch import nn
  layers = []
  for channels, new, size, stride, padding, pools in (
      (3, 64, 11, 4, 2, True), (64, 192, 5, 1, 2, True),
      (192, 384, 3, 1, 1, False), (384, 256, 3, 1, 1, False),
      (256, 256, 3, 1, 1, True)):
    layers += [nn.Conv2d(channels, new, size, stride, padding), nn.ReLU()]
    layers += [nn.MaxPool2d(3, 2)] * pools
  return nn.Sequential(*layers)


def vgg16():
  """The same of torchvision.models.vgg16."""
  from torch import nn
  layers, channels = [], 3
  for count, new in ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)):
    for _ in range(count):
      layers += [nn.Conv2d(channels, new, 3, padding=1), nn.ReLU()]
      channels = new
    layers.append(nn.MaxPool2d(2, 2))
  return nn.Sequential(*layers)


@functools.cache
def authors_lpips(network: str):
  """lpips.LPIPS, with the packaged weights below the linear layers."""
  import torch
  # Stands in for torchvision, whose networks would download their weights.
  torchvision = types.ModuleType('torchvision')
  torchvision.models = types.SimpleNamespace(
      alexnet=lambda pretrained: types.SimpleNamespace(features=alexnet()),
      vgg16=lambda pretrained: types.SimpleNamespace(features=vgg16()))
  sys.modules.setdefault('torchvision', torchvision)
  import lpips

  theirs, weights, name = NETWORKS[network]
  model = lpips.LPIPS(net=theirs, pnet_rand=True, verbose=False)
  convolutions = [
      m for m in model.net.modules() if isinstance(m, torch.nn.Conv2d)]
  layers = packaged_weights.load(weights)[name]
  for i, convolution in enumerate(convolutions):
    layer = layers[f'Conv_{i}']
    kernel = torch.from_numpy(layer['kernel'].copy()).permute(3, 2, 0, 1)
    convolution.weight.data.copy_(kernel)
    convolution.bias.data.copy_(torch.from_numpy(layer['bias'].copy()))
  assert len(convolutions) == len(layers)
  return model


def distances(network: str, x, y) -> np.ndarray:
  """uint8 [N, H, W, 3] twice -> [N]."""
  import torch

  x, y = [torch.from_numpy(side / np.float32(127.5) - 1).permute(0, 3, 1, 2)
          for side in (x, y)]
  with torch.no_grad():
    return authors_lpips(network)(x, y).numpy().ravel()


def main():
  x, y = frames()
  found = {network: distances(network, x, y) for network in NETWORKS}
  print(found)
  np.savez_compressed(GOLDEN, x=x, y=y, **found)
  if len(sys.argv) > 1:
    from PIL import Image
    ref, near, far = [
        np.asarray(Image.open(f'{sys.argv[1]}/{name}.png').convert('RGB'))
        for name in ('ex_ref', 'ex_p1', 'ex_p0')]
    for network in NETWORKS:
      print(network, distances(
          network, np.stack([ref, ref]), np.stack([far, near])))


if __name__ == '__main__':
  main()
