"""Every change of a folder's files is found, and named."""

import errno
import os
import pathlib
import random
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import google_crc32c

from worldsim_jax.storage import checksums

FILES = {'a': b'', 'b/c': b'seven..', 'b/d/e': random.Random(0).randbytes(9999)}


class ChecksumsTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)
    for name, content in FILES.items():
      (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
      (self.folder / name).write_bytes(content)
    checksums.write(self.folder, later=('last',))

  def assertDamaged(self, said, **kwargs):
    with self.assertRaisesRegex(checksums.Damaged, f'^{self.folder}/{said}'):
      checksums.check(self.folder, **kwargs)

  def test_an_untouched_folder_passes_with_and_without_its_last_file(self):
    checksums.check(self.folder)
    (self.folder / 'last').write_text('of any content')
    checksums.check(self.folder)

  def test_any_flipped_bit_is_found_in_any_file_and_in_the_list_itself(self):
    dice = random.Random(1)
    for name in ('b/c', 'b/d/e', checksums.MANIFEST):
      content = (self.folder / name).read_bytes()
      for bit in dice.sample(range(8 * len(content)), k=40):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        (self.folder / name).write_bytes(changed)
        self.assertDamaged(f'{name} is damaged')
      (self.folder / name).write_bytes(content)
    checksums.check(self.folder)

  @parameterized.parameters('b/c', 'b/d/e')
  def test_a_truncated_or_longer_file_is_named_with_both_sizes(self, name):
    size = len(FILES[name])
    for other in size - 1, size + 1:
      os.truncate(self.folder / name, other)
      self.assertDamaged(f'{name} has {other} bytes, not {size}')

  @parameterized.parameters('a', 'b/d/e', checksums.MANIFEST)
  def test_a_missing_file_is_named(self, name):
    (self.folder / name).unlink()
    self.assertDamaged(f'{name} is missing')

  def test_an_added_file_is_named_unless_it_is_allowed(self):
    (self.folder / 'b' / 'f').write_text('')
    self.assertDamaged('b/f does not belong there')
    checksums.check(self.folder, extra_files=True)

  def test_a_part_can_be_checked_alone(self):
    (self.folder / 'b' / 'c').write_bytes(b'7even..')
    checksums.check(self.folder, under='a')
    self.assertDamaged('b/c is damaged', under='b/c')

  def test_of_several_readers_one_finds_it(self):
    (self.folder / 'b' / 'c').write_bytes(b'7even..')
    found = 0
    for index in range(3):
      try:
        checksums.check(self.folder, share=(index, 3))
      except checksums.Damaged:
        found += 1
    self.assertEqual(found, 1)

  def test_a_file_that_the_disk_gives_back_no_more_is_damaged(self):
    broken = OSError(errno.EIO, 'Input/output error', str(self.folder / 'a'))
    with mock.patch.object(checksums, '_read_crc', side_effect=broken):
      self.assertDamaged('a cannot be read: Input/output error')

  def test_the_checksum_is_the_one_that_buckets_have(self):
    # The check value of CRC-32C in RFC 3720, B.4, for 32 bytes of zeros.
    self.assertEqual(google_crc32c.value(bytes(32)), 0x8a9136aa)
    (self.folder / 'a').write_bytes(bytes(32))
    checksums.write(self.folder)
    self.assertIn('[32, "8a9136aa"]',
                  (self.folder / checksums.MANIFEST).read_text())


if __name__ == '__main__':
  absltest.main()
