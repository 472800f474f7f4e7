"""Whether the other processes of a run are alive, and why one ended.

JAX notices a lost process by missing heartbeats, and then aborts all others
from C++. Here every process holds a TCP connection to process 0, which says so
at once and in words: a process that is killed closes its connection, one whose
machine is gone no longer answers the kernel's keep-alive probes, and one that
ends by itself has said why. Whoever learns of it prints one line and ends; the
main thread cannot, as it waits for an answer of the lost process.

  k closes without a word -> process 0 -> all others end with LOST_HOST
  k says why it ends      -> process 0 -> all others end with the same code;
                             if it was told to stop, as if they had been told

What only JAX notices (a process that is stopped, or swaps itself to death)
comes as its abort, which `speak_before_abort` gives a last line.
"""

import ctypes
import json
import os
import secrets
import selectors
import signal
import socket
import threading
import time

from worldsim_jax.errors import BAD_INPUT
from worldsim_jax.errors import LOST_HOST
from worldsim_jax.errors import PREEMPTED

_CONNECT_SECONDS = 60.
_HELLO_SECONDS = 5  # for whoever has connected to say who it is
_PROBES = 4  # Unanswered ones end a connection.
_SECONDS_TO_END = 10.


class Peers:
  """This process's connections, watched by a thread.

  Args:
    index: of this process.
    count: of all of them.
    host: of process 0.
    publish: (text) -> None, process 0's way to tell the others something.
    published: () -> text, their way to wait for it.
    timeout: seconds without a sign of life after which a machine is lost.
  """

  def __init__(self, index: int, count: int, host: str, publish, published,
               timeout: float):
    self._index = index
    self._lock = threading.Lock()
    self._is_leaving = False
    self.ends_with = None  # The exit code, once another process has ended.
    self.progress = lambda: 'it resumes where it was'
    if index:
      port, secret = published().split()
      self._sockets = {0: _connect(host, int(port), f'{secret} {index}\n')}
    else:
      self._sockets = _accept(count - 1, publish)
    for connection in self._sockets.values():
      _probe(connection, timeout)
    self._gone = set()  # They said that they are done.
    threading.Thread(target=self._watch, daemon=True).start()

  def done(self):
    """Says that this process has nothing left to do; others may."""
    with self._lock:
      self._is_leaving = True
    self._send({'process': self._index, 'code': 0, 'why': ''})

  def leave(self, code: int, why: str):
    """Says why this process ends before the others, for them to end, too."""
    with self._lock:
      if self._is_leaving:
        return
      self._is_leaving = True
      self.ends_with = code
    self._send({'process': self._index, 'code': code, 'why': why})
    self.let_others_end()

  def lost(self, who: str) -> str:
    """The line for a lost process."""
    return (f'error: process {self._index}: {who}; start the same command '
            f'again on all hosts; {self.progress()}.')

  def _watch(self):
    with selectors.DefaultSelector() as selector:
      for process, connection in self._sockets.items():
        selector.register(connection, selectors.EVENT_READ, process)
      while selector.get_map():
        for key, _ in selector.select():
          said = _read(key.fileobj)
          if said is None:
            selector.unregister(key.fileobj)
            if key.data in self._gone:
              continue
            said = {'process': key.data, 'code': LOST_HOST, 'why': ''}
          if said['code'] == 0:
            self._gone.add(said['process'])
          else:
            self._end(said)

  def _end(self, said):
    """Passes it on, says it and ends this process."""
    with self._lock:
      if self._is_leaving:
        return
      self._is_leaving = True
    self._send(said, but=said['process'])
    who, why = f'process {said["process"]}', said['why']
    code = said['code'] if said['code'] in (BAD_INPUT, PREEMPTED) else LOST_HOST
    if code == PREEMPTED:
      line = f'preempted: process {self._index}: {who} was {why}'
    elif code == BAD_INPUT:
      line = f'error: process {self._index}: {who} ended: {why}'
    else:
      line = self.lost(f'{who} ended: {why}' if why else f'{who} was lost')
    os.write(2, f'{line}\n'.encode())
    self.ends_with = code
    if code == PREEMPTED:  # In order, if the main thread can.
      os.kill(os.getpid(), signal.SIGTERM)
      time.sleep(_SECONDS_TO_END)
    self.let_others_end()
    os._exit(code)

  def let_others_end(self):
    """Process 0 has JAX's service, without which the others are aborted."""
    end = time.monotonic() + _SECONDS_TO_END
    for connection in self._sockets.values() if not self._index else ():
      connection.settimeout(max(end - time.monotonic(), 1e-3))
      while _read(connection) is not None:
        pass

  def _send(self, said, but=None):
    for process, connection in self._sockets.items():
      if process != but and process not in self._gone:
        try:
          connection.sendall(f'{json.dumps(said)}\n'.encode())
        except OSError:
          pass  # It is gone itself.


def speak_before_abort(last_words):
  """Makes abort(), JAX's answer to a lost host, an orderly end.

  `last_words` returns the exit code and a line, which may be ''.

  The C library calls back into Python: what cannot be caught is an abort while
  another thread holds the interpreter and never lets go. Other aborts, say of
  a broken heap, are told as lost hosts too; what they printed stands above.
  """
  @ctypes.CFUNCTYPE(None, ctypes.c_int)
  def handler(unused_number):
    code, line = last_words()
    os.write(2, f'{line}\n'.encode() if line else b'')
    os._exit(code)

  _kept.append(handler)  # For as long as C may call it.
  library = ctypes.CDLL(None)
  library.signal.argtypes = ctypes.c_int, ctypes.c_void_p
  library.signal(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))


_kept = []


def _accept(count: int, publish):
  """Waits for the other processes; {process: connection}."""
  secret, sockets = secrets.token_hex(8), {}
  both = dict(family=socket.AF_INET6, dualstack_ipv6=True)
  with socket.create_server(
      ('', 0), backlog=count,
      **both if socket.has_dualstack_ipv6() else {}) as server:
    publish(f'{server.getsockname()[1]} {secret}')
    end = time.monotonic() + _CONNECT_SECONDS
    while len(sockets) < count:
      server.settimeout(max(end - time.monotonic(), 1e-3))
      connection, _ = server.accept()
      connection.settimeout(_HELLO_SECONDS)
      try:
        told, _, process = connection.makefile().readline().partition(' ')
        is_ours = secrets.compare_digest(told.encode(), secret.encode())
      except (OSError, ValueError):  # Silent, or no text: a stranger.
        is_ours = False
      if is_ours:
        connection.settimeout(_CONNECT_SECONDS)
        sockets[int(process)] = connection
      else:
        connection.close()
  return sockets


def _connect(host: str, port: int, hello: str):
  connection = socket.create_connection((host, port), _CONNECT_SECONDS)
  connection.sendall(hello.encode())
  return connection


def _probe(connection, timeout: float):
  """Lets the kernel notice within the timeout that a machine is gone."""
  connection.settimeout(timeout)
  connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
  every = max(1, int(timeout / (_PROBES + 1)))
  for name, value in (('TCP_KEEPIDLE', every), ('TCP_KEEPALIVE', every),
                      ('TCP_KEEPINTVL', every), ('TCP_KEEPCNT', _PROBES),
                      ('TCP_USER_TIMEOUT', int(1000 * timeout))):
    if hasattr(socket, name):  # Systems differ.
      connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _read(connection):
  """What was said; None if the connection is closed."""
  text = b''
  try:
    while not text.endswith(b'\n'):
      part = connection.recv(4096)
      if not part:
        return None
      text += part
  except OSError:
    return None
  return json.loads(text.splitlines()[0])
