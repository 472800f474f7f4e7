"""What a record set says of itself, as tfds reads and writes it.

Arrays are stored as raw bytes (tfds would otherwise widen uint8 to int64).
TensorFlow is never imported: that is why there are only Tensor and Text
features here, no Image or Video.
"""

import json
import os

import numpy as np

from worldsim_jax.data import missing
from worldsim_jax.errors import UserError

NAME = 'episodes'


def tfds():
  """The package, or the line that installs it."""
  try:
    import array_record  # tfds would miss these two only when it writes.
    import importlib_resources
    import tensorflow_datasets
  except ImportError as e:
    raise missing(
        'tensorflow-datasets array_record importlib_resources',
        'reading and writing records',
    ) from e
  del array_record, importlib_resources
  tensorflow_datasets.disable_progress_bar()
  return tensorflow_datasets


def fields_of(example: dict) -> dict:
  """An example's fields for JSON: 'text', or an array's shape and dtype.

  Arrays may have any length; the rest of the shape is fixed.
  """

  def field(value):
    if isinstance(value, str):
      return 'text'
    value = np.asarray(value)
    return [[None] * bool(value.ndim) + list(value.shape[1:]), str(value.dtype)]

  return {name: field(value) for name, value in example.items()}


def features(fields: dict):
  """tfds features of what `fields_of` found."""
  import ml_dtypes  # It teaches numpy bfloat16; JAX needs it too.

  del ml_dtypes
  package = tfds()

  def feature(field):
    if field == 'text':
      return package.features.Text()
    shape, dtype = field
    return package.features.Tensor(
        shape=tuple(shape),
        dtype=np.dtype(dtype),
        encoding='bytes' if shape else 'none',
    )

  return package.features.FeaturesDict(
      {name: feature(field) for name, field in fields.items()}
  )


def serializer(fields: dict):
  """A function from examples with such fields to bytes."""
  made = features(fields)
  proto_of = tfds().core.ExampleSerializer(made.get_serialized_info())

  def serialize(example):
    proto = proto_of.get_tf_example(made.encode_example(example))
    # Else the order of the fields would be another in every process.
    return proto.SerializeToString(deterministic=True)

  return serialize


def info(directory, stamps, key, metadata):
  """The tfds.core.DatasetInfo of whole shards."""
  core = tfds().core
  known = {}
  for split, of_split in stamps.items():
    for number, stamp in enumerate(of_split):
      if stamp['fields'] is not None:
        known.setdefault(json.dumps(stamp['fields']), f'{split} {number}')
  if len(known) > 1:
    (a, one), (b, other), *_ = known.items()
    raise UserError(
        f'{directory}: shard {one} has fields {a}, but shard {other} has {b}: '
        'delete the folder and make all shards by one version'
    )
  identity = core.DatasetIdentity(
      name=NAME,
      version=core.Version(os.path.basename(directory)),
      data_dir=directory,
      module_name=__name__,
      config_name=key,
  )
  info = core.DatasetInfo(
      builder=identity,
      features=features(json.loads(next(iter(known)))),
      disable_shuffling=True,  # Record i of a derived set is the source's.
      metadata=core.MetadataDict(metadata),
  )
  info.set_file_format(core.FileFormat.ARRAY_RECORD)
  template = core.ShardedFileTemplate(
      data_dir=core.Path(directory),
      dataset_name=NAME,
      filetype_suffix='array_record',
  )
  info.set_splits(core.SplitDict([
      core.SplitInfo(
          name=split,
          shard_lengths=[stamp['records'] for stamp in stamps[split]],
          num_bytes=sum(stamp['bytes'] for stamp in stamps[split]),
          filename_template=template,
      )
      for split in stamps
  ]))
  return info
