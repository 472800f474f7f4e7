"""The launchers print the commands that they would run."""

import pathlib
import re
import shlex
import shutil
import subprocess
import sys

from absl.testing import absltest
from absl.testing import parameterized
import pytest

from tests.launch.launchers import AWKWARD
from tests.launch.launchers import FLAGS
from tests.launch.launchers import launch
from tests.launch.launchers import LOST_HOST
from tests.launch.launchers import PREEMPTED
from tests.launch.launchers import printed
from tests.launch.launchers import ROOT

LAUNCHERS = ('tpu_vm', 'gke', 'skypilot')


def main_flags(name, *flags, **environment):
  """What reaches main of the flags given to `run`, through all shells."""
  command = printed(name, 'run', *flags, **environment)[-1]
  if name == 'skypilot':
    variable = next(w for w in command if w.startswith('--env='))
    return shlex.split(variable.removeprefix('--env=WORLDSIM_FLAGS='))
  remote = next(w for w in command if w.startswith('--command='))
  words = shlex.split(remote.removeprefix('--command='))
  last = 'run' if name == 'tpu_vm' else 'worldsim_jax.main'
  return words[words.index(last) + 1:]


class DryRunTest(parameterized.TestCase):

  @parameterized.parameters(*LAUNCHERS, 'on_host')
  def test_shellcheck_finds_nothing(self, name):
    shellcheck = pathlib.Path(sys.executable).parent / 'shellcheck'
    if not shellcheck.exists():
      self.skipTest("pip install '.[test]' brings shellcheck")
    done = subprocess.run(
        [shellcheck, '--external-sources', f'launch/{name}.sh'],
        cwd=ROOT, capture_output=True, text=True, check=False)
    self.assertEqual(done.returncode, 0, done.stdout)

  @parameterized.parameters(
      ('tpu_vm', 'all', 'create describe archive scp ssh ssh ssh delete'),
      ('tpu_vm', 'create install run watch delete',
       'create describe archive scp ssh ssh ssh delete'),
      ('tpu_vm', 'resume', 'ssh'),
      ('gke', 'create install run watch delete', 'create archive build push '
       'create list wait wait logs list delete'),
      ('gke', 'resume', 'delete create'),
      ('skypilot', 'create install run watch delete',
       'sed launch launch exec logs down'),
      ('skypilot', 'resume', 'sed exec'),
  )
  def test_steps_become_commands_in_their_order(self, name, steps, expected):
    verbs = set(expected.split())
    found = [
        next(word for word in command if word in verbs)
        for command in printed(name, *steps.split(), *FLAGS)
    ]
    self.assertEqual(' '.join(found), expected)

  @parameterized.parameters(*LAUNCHERS)
  def test_dry_run_counts_wherever_it_stands(self, name):
    for arguments in (('--dry-run', 'delete'), ('delete', '--dry-run')):
      done = launch(name, *arguments, PATH='/nowhere:/bin:/usr/bin')
      self.assertEqual(done.returncode, 0, done.stderr)
      self.assertIn('delete' if name != 'skypilot' else 'down', done.stdout)

  @parameterized.parameters(*LAUNCHERS)
  def test_flags_of_main_arrive_as_they_were_given(self, name):
    flags = [*FLAGS, AWKWARD]
    self.assertEqual(main_flags(name, *flags), flags)

  @parameterized.parameters('tpu_vm', 'gke')
  def test_slices_are_told_to_the_cloud_and_to_the_mesh(self, name):
    settings = dict(SLICES='2', TPU_TYPE='v6e-16')
    create = printed(name, 'create', **settings)[0]
    self.assertIn(
        {'tpu_vm': '--node-count=2', 'gke': '--num-slices=2'}[name], create)
    flags = main_flags(name, *FLAGS, **settings)
    self.assertEqual(flags, [*FLAGS, '--config.mesh.slice=2'])
    own = main_flags(name, *FLAGS, '--config.mesh.slice=1', **settings)
    self.assertEqual(own, [*FLAGS, '--config.mesh.slice=1'])

  @parameterized.parameters(
      ('v4-8', 'tpu-ubuntu2204-base'),
      ('v5litepod-16', 'v2-alpha-tpuv5-lite'),
      ('v5p-128', 'v2-alpha-tpuv5'),
      ('v6e-8', 'v2-alpha-tpuv6e'),
  )
  def test_each_chip_gets_its_runtime(self, chips, runtime):
    create = printed('tpu_vm', 'create', TPU_TYPE=chips)[0]
    self.assertIn(f'--runtime-version={runtime}', create)
    folder = self.create_tempdir().full_path
    fill_in = launch('skypilot', '--dry-run', 'create', TPU_TYPE=chips,
                     TMPDIR=folder).stdout.splitlines()[0]
    subprocess.run(fill_in, shell=True, cwd=ROOT, check=True)
    task = pathlib.Path(folder, 'worldsim.yaml').read_text()
    self.assertIn(f'accelerators: tpu-{chips}\n', task)
    self.assertIn(f'runtime_version: {runtime}\n', task)

  @parameterized.parameters(*LAUNCHERS)
  def test_spot_machines_only_when_asked_for(self, name):
    flag = '--use-spot' if name == 'skypilot' else '--spot'
    for spot in ('0', '1'):
      words = sum(printed(name, 'create', SPOT=spot), [])
      self.assertEqual(flag in words, spot == '1')

  def test_every_host_of_every_slice_runs_the_same_command(self):
    run = printed('tpu_vm', 'run', *FLAGS, SLICES='4', TPU_TYPE='v5p-128')[0]
    self.assertContainsSubset(['--node=all', '--worker=all'], run)
    watch = printed('tpu_vm', 'watch')[0]
    self.assertContainsSubset(['--node=0', '--worker=0'], watch)

  def test_gke_starts_a_preempted_run_again(self):
    run = printed('gke', 'run', *FLAGS)[0]
    self.assertIn(f'--restart-on-exit-codes={PREEMPTED},{LOST_HOST}', run)
    self.assertIn('--max-restarts=100', run)

  def test_a_cluster_of_others_is_neither_created_nor_deleted(self):
    commands = printed('gke', 'create', 'delete', CLUSTER='theirs')
    self.assertLen(commands, 1)
    self.assertContainsSubset(
        ['workload', 'delete', '--cluster=theirs'], commands[0])

  def test_the_image_is_built_from_what_the_commit_holds(self):
    dockerfile = (ROOT / 'launch/Dockerfile').read_text()
    build = printed('gke', 'install', EXTRA='cuda', RUN_AS='root')[1]
    self.assertIn('--file=launch/Dockerfile', build)
    self.assertSameElements(
        re.findall(r'^ARG (\w+)=', dockerfile, re.M),
        [w.split('=')[1] for w in build if w.startswith('--build-arg=')])
    for line in re.findall(r'^COPY (.*) \S+$', dockerfile, re.M):
      for source in line.split():
        if not source.startswith('--'):
          self.assertTrue((ROOT / source).exists(), source)

  def test_a_managed_job_is_launched_watched_and_cancelled(self):
    commands = printed('skypilot', 'create', 'run', 'watch', 'delete', *FLAGS,
                       MANAGED='1')
    jobs = [c[2] for c in commands if c[:2] == ['sky', 'jobs']]
    self.assertEqual(jobs, ['launch', 'logs', 'cancel'])

  @parameterized.parameters(*LAUNCHERS)
  def test_mistakes_end_with_one_line_and_exit_code_2(self, name):
    for arguments, environment in (
        (['create'], {'ZONE': ''}),
        ([], {}),
        (['start'], {}),
        (['create', 'runn'], {}),
        (['run', '--config=a.py', 'gs://b/c'], {}),  # A flag in two words.
        (['run', '--config=a.py'], {}),  # No workdir.
        (['run', '--workdir', 'gs://b/c'], {}),
        (['run', '--workdir=runs/x'], {'TPU_TYPE': 'v5p-128'}),
        (['run', *FLAGS, '--config.prompt=a\nb'], {}),
        (['create'], {'TPU_TYPE': 'h100'}),
        (['create'], {'TPU_TYPE': 'v6e'}),
        (['create'], {'SLICES': 'two'}),
        (['create'], {'SPOT': 'yes'}),
        (['create'], {'TPU_NAME': 'My run'}),
    ):
      with self.subTest(arguments=arguments, environment=environment):
        done = launch(name, '--dry-run', *arguments, **environment)
        self.assertEqual(done.returncode, 2)
        self.assertLen(done.stderr.splitlines(), 1)
        self.assertEmpty(done.stdout)

  @parameterized.parameters(
      ('gke', 'run', {'IMAGE': ''}, 'IMAGE'),
      ('gke', 'run', {'RESTARTS': 'many'}, 'RESTARTS'),
      ('tpu_vm', 'create', {'TPU_TYPE': 'tpu7x-8'}, 'TPU_TYPE'),
      ('tpu_vm', 'create', {'WAIT_MINUTES': 'long'}, 'WAIT_MINUTES'),
      ('skypilot', 'run', {'SLICES': '2'}, 'SLICES'),
      ('skypilot', 'run', {'MANAGED': 'yes'}, 'MANAGED'),
  )
  def test_what_one_launcher_cannot_do_names_the_setting(
      self, name, step, environment, setting):
    done = launch(name, '--dry-run', step, *FLAGS, **environment)
    self.assertEqual(done.returncode, 2)
    self.assertIn(setting, done.stderr)

  @pytest.mark.slow
  def test_gcloud_knows_every_flag(self):
    if not shutil.which('gcloud'):
      self.skipTest('gcloud is not installed')
    commands = printed('tpu_vm', 'all', '--config=a.py', '--workdir=runs/x',
                       SPOT='1') + printed('tpu_vm', 'create', SLICES='2')
    flags = {}
    for command in commands:
      if command[0] == 'gcloud':
        flags.setdefault(command[4], set()).update(
            re.match('[^=]+', w)[0] for w in command[5:] if w.startswith('--'))
    for verb, used in flags.items():
      page = subprocess.run(
          ['gcloud', 'compute', 'tpus', 'queued-resources', verb, '--help'],
          capture_output=True, text=True, check=True).stdout
      page = re.sub(r'\x1b\[[0-9;]*m', '', page)
      self.assertEmpty([f for f in used if not re.search(rf'{f}\b', page)],
                       verb)


if __name__ == '__main__':
  absltest.main()
