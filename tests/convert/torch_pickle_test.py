"""Pickles in files of torch.save: tensors come out, code does not run."""

from absl.testing import absltest
from absl.testing import parameterized

from tests.convert import archives
from worldsim_jax.convert import torch_file


class RefusalTest(archives.RefusalCase):

  @parameterized.parameters(
      ('reduce', 'posix.system'),
      ('eval', '__builtin__.eval'),
      ('builtins', 'builtins.exec'),
      ('getattr', 'builtins.getattr'),
      ('nested', 'os.path.os.system'),
      ('stack_global', 'posix.system'),
      ('inst', 'opcode INST'),
      ('obj', 'posix.system'),
      ('obj_of_ours', 'opcode OBJ'),
      ('newobj', 'subprocess.Popen'),
      ('newobj_of_ours', 'opcode NEWOBJ'),
      ('newobj_ex', 'subprocess.Popen'),
      ('extension', 'opcode EXT1'),
      ('persid', 'opcode PERSID'),
      ('load_from_bytes', 'torch.storage._load_from_bytes'),
      ('module', 'torch.nn.modules.linear.Linear'),
      ('numpy', 'numpy.core.multiarray._reconstruct'),
  )
  def test_code_is_refused_and_not_run(self, attack, reason):
    command = archives.literal(f'touch {self.canary}')
    source = archives.literal(f'open({str(self.canary)!r}, "w")')
    system = archives.glob('posix system')
    content, protocol = {
        'reduce': (archives.call('posix system', command), 2),
        'eval': (archives.call('__builtin__ eval', source), 2),
        'builtins': (archives.call('builtins exec', source), 2),
        'getattr': (archives.call('builtins getattr', system, command), 2),
        'nested': (archives.call('os path.os.system', command), 4),
        'stack_global': (b'\x8c\x05posix\x8c\x06system\x93' + command
                         + b'\x85R', 4),
        'inst': (b'(' + command + b'iposix\nsystem\n', 2),
        'obj': (b'(' + system + command + b'o', 2),
        'obj_of_ours': (b'(' + archives.glob('torch Size') + b'o', 2),
        'newobj_of_ours': (archives.glob('torch Size') + b')\x81', 2),
        'newobj': (archives.glob('subprocess Popen') + command
                   + b'\x85\x81', 2),
        'newobj_ex': (archives.glob('subprocess Popen') + command
                      + b'\x85}\x92', 4),
        'extension': (b'\x82\x01', 2),
        'persid': (b'P0\n', 2),
        'load_from_bytes': (archives.call('torch.storage _load_from_bytes',
                                          command), 2),
        'module': (archives.call('torch.nn.modules.linear Linear'), 2),
        'numpy': (archives.call('numpy.core.multiarray _reconstruct'), 2),
    }[attack]
    archives.write(
        self.path, archives.tree(w=archives.tensor(), x=content),
        protocol=protocol)
    self.assertRefused(reason)

  @parameterized.parameters(
      'torch FloatStorage', 'torch float32', 'torch Size', 'torch Tensor',
      'torch._utils _rebuild_tensor_v2', 'collections OrderedDict')
  def test_our_stand_ins_cannot_be_changed(self, name):
    # BUILD: of a dict it makes attributes, of a pair it sets slots.
    for state in ({'function': 1}, (None, {'function': 1, '__class__': 2})):
      state = archives.literal(state)
      archives.write(self.path, archives.glob(name) + state + b'b')
      self.assertRefused('sets the state')
    archives.write(self.path, archives.tensor() + archives.literal(
        {'shape': (10**9,)}) + b'b')
    self.assertRefused('sets the state of a View')

  def test_the_state_of_a_state_dict_is_passed_over(self):
    # Torch leaves the versions of modules there.
    content = archives.call('collections OrderedDict') + (
        b'(' + archives.literal('w') + archives.tensor() + b'u')
    state = archives.literal({'_metadata': {'': {'version': 1}}}) + b'b'
    archives.write(self.path, content + state)
    self.assertEqual(list(torch_file.open_torch(self.path)), ['w'])

  @parameterized.parameters(
      (b'\x94' * 0 + b'r\xff\xff\xff\x7f', 'numbers an object 2147483647'),
      (b'X\xff\xff\xff\x7fabc', 'pickle'),
      (b'\x8d\xff\xff\xff\xff\xff\xff\xff\x7fabc', 'pickle'),
      (b'(' * 3, ''),
      (b'h\x07', ''),
      (b'}]Ns', ''),
      (b'\xff', 'opcode'),
      (b'', ''),
  )
  def test_a_damaged_pickle_is_refused(self, content, reason):
    archives.write(self.path, content)
    self.assertRefused(reason)

  @parameterized.parameters(
      b'NQ', archives.literal('0') + b'Q', archives.literal((1, 2, 3)) + b'Q',
      archives.literal(('storage', 'FloatStorage', '0', 'cpu', 6)) + b'Q',
      archives.literal(('module', 1, '0', 'cpu', 6)) + b'Q',
      archives.storage(count=-6), archives.storage(count=6.0),
      archives.storage(key='../data.pkl'), archives.storage(key='/etc/passwd'),
      archives.storage('torch float32'), archives.storage('torch Size'))
  def test_data_that_is_named_wrongly_is_refused(self, data):
    archives.write(self.path, archives.tensor(data=data))
    self.assertRefused('names data')

  @parameterized.parameters(
      (0, (3, 3), (3, 1), 'does not fit'),
      (1, (2, 3), (3, 1), 'does not fit'),
      (0, (2, 3), (4, 1), 'does not fit'),
      (0, (10**6, 10**6), (0, 0), 'does not fit'),  # 4 TB of one number.
      (0, (2, 3, 2), (1, 1, 1), 'does not fit'),
      (2**62, (2, 3), (3, 1), 'does not fit'),
      (0, (2, 3), (2**62, 1), 'does not fit'),
      (0, (2**62, 2**62), (1, 1), 'larger than any array'),
      (0, (0, 2**62), (1, 1), 'larger than any array'),
      (0, (1,) * 65, (1,) * 65, '65 dimensions'),
      (0, (-2, -3), (3, 1), 'no shape'),
      (0, (2, 3.0), (3, 1), 'no shape'),
      (0, (2, True), (3, 1), 'no shape'),
      (0, (2, 3), (-3, 1), 'strides'),
      (0, (2, 3), (3,), 'no possible shape'),
      (-1, (2, 3), (3, 1), 'no possible shape'),
      (0, 'ab', 'ab', 'no possible shape'),
  )
  def test_a_tensor_larger_than_its_data_is_refused(
      self, offset, shape, strides, reason):
    archives.write(self.path, archives.tensor(offset, shape, strides))
    self.assertLess(archives.peak_of(lambda: self.assertRefused(reason)), 2**20)

  def test_a_storage_must_be_as_large_as_it_says(self):
    archives.write(self.path, archives.tensor(), {'0': bytes(23)})
    self.assertRefused('needs 24 bytes, of which it has 23')
    archives.write(self.path, archives.tensor(), {'1': bytes(24)})
    self.assertRefused('data of .* is not in it')

  def test_an_axis_of_one_may_have_any_stride(self):
    archives.write(self.path, archives.tensor(0, (6, 1), (1, 2**62)))
    self.assertEqual(torch_file.open_torch(self.path)[''].read().shape, (6, 1))

  def test_other_calls_of_the_right_functions_are_refused(self):
    rebuild = 'torch._utils _rebuild_tensor_v2'
    conjugate = archives.call(
        rebuild, archives.storage(),
        *map(archives.literal, (0, (6,), (1,), False, None, {'conj': True})))
    parameter = archives.call(
        'torch._utils _rebuild_parameter', archives.literal(3))
    size = archives.call('torch Size', archives.literal(3))
    typed = archives.call(
        'torch._tensor _rebuild_from_type_v2', archives.glob('torch Size'),
        archives.glob('torch float32'), archives.literal(()), b'}')
    untyped = archives.tensor(
        data=archives.storage('torch.storage UntypedStorage', '0', 24))
    for content, reason in (
        (conjugate, 'conjugate'), (parameter, 'no tensor'), (size, 'Size'),
        (typed, 'type of its own'), (untyped, 'without data'),
        (archives.call(rebuild), 'damaged')):
      archives.write(self.path, content)
      self.assertRefused(reason)

  def test_only_tensors_numbers_and_strings_are_admitted(self):
    for content, reason in (
        (archives.tree(x=archives.storage()), 'a Storage'),
        (archives.tree(x=archives.glob('torch Size')), 'a Function'),
        (archives.literal(3), 'no tensors'), (b'}', 'no tensors'),
        (b'}N' + archives.tensor() + b's', 'a key that is a NoneType')):
      archives.write(self.path, content)
      self.assertRefused(reason)

  def test_containers_that_hold_themselves_are_refused(self):
    archives.write(self.path, b']q\x00h\x00a')
    self.assertRefused('on and on')
    doubling = b']q\x00' + b''.join(
        b']q%c(h%ch%ce' % (i, i - 1, i - 1) for i in range(1, 31))
    archives.write(self.path, b'(' + doubling + b't')
    self.assertRefused('on and on')

  def test_two_tensors_of_one_name_are_refused(self):
    content = b'}(K\x00%s%s%su' % (
        archives.tensor(), archives.literal('0'), archives.tensor())
    archives.write(self.path, content)
    self.assertRefused('twice')


if __name__ == '__main__':
  absltest.main()
