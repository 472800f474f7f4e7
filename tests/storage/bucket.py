"""A bucket on localhost: what our clients use of Google's JSON API.

For tests of gs:// over real sockets, by TensorStore, gcsfs and
google-cloud-storage, none of which know that it is not Google's. Conditions on
generations are obeyed, as OCDBT's commits need; gcp-storage-emulator (2026.7)
ignores them and serves one connection at a time.

https://cloud.google.com/storage/docs/json_api/v1 is the contract. There are no
permissions, versions, folders or encryption here, and no errors by chance.
"""

import base64
import contextlib
import email.parser
import email.policy
import http.server
import json
import os
import re
import sys
import threading
import time
import urllib.parse

import google_crc32c

NAME = 'bucket'
_OBJECTS = f'/storage/v1/b/{NAME}/o'


class Bucket:
  """Objects by name: (content, generation)."""

  def __init__(self):
    self.lock = threading.Lock()
    self.objects, self.uploads = {}, {}

  def names(self, prefix=''):
    with self.lock:
      return sorted(name for name in self.objects if name.startswith(prefix))

  def put(self, name, content: bytes) -> int:
    generation = time.time_ns()
    self.objects[name] = bytes(content), generation
    return generation

  def download(self, prefix: str, folder):
    """Copies all objects under a prefix into a local folder."""
    for name in self.names(prefix):
      path = folder / name[len(prefix):].lstrip('/')
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(self.objects[name][0])


def resource(name, content, generation):
  crc = google_crc32c.Checksum(content).digest()
  return {'kind': 'storage#object', 'name': name, 'bucket': NAME,
          'id': f'{NAME}/{name}/{generation}', 'size': str(len(content)),
          'generation': str(generation), 'metageneration': '1',
          'contentType': 'application/octet-stream',
          'timeCreated': '2026-01-01T00:00:00.000Z',
          'updated': '2026-01-01T00:00:00.000Z',
          'crc32c': base64.b64encode(crc).decode(), 'etag': str(generation)}


class _Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = 'HTTP/1.1'
  wbufsize = 2**16  # Head and body in one packet, or each waits 40 ms.

  def log_message(self, *_):
    pass

  def handle_request(self):
    url = urllib.parse.urlsplit(self.path)
    self.query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
    path, body = url.path.removeprefix('/download'), self._body()
    with self.server.bucket.lock:
      if path == f'/upload{_OBJECTS}':
        self._upload(body)
      elif path == _OBJECTS:
        self._list()
      elif path.startswith(f'{_OBJECTS}/'):
        self._object(urllib.parse.unquote(path[len(_OBJECTS) + 1:]))
      elif path == f'/storage/v1/b/{NAME}':
        self._json({'kind': 'storage#bucket', 'name': NAME, 'id': NAME})
      else:
        self._error(404, f'{self.command} {self.path} is not known here')
    self._send()  # Not inside: a client may be slow to read.

  do_GET = do_POST = do_PUT = do_DELETE = handle_request

  def _object(self, name):
    found = self.server.bucket.objects.get(name)
    refused = self._refused(found)
    if refused:
      self._error(refused, 'conditionNotMet')
    elif found is None:
      self._error(404, f'No such object: {NAME}/{name}')
    elif self.command == 'DELETE':
      del self.server.bucket.objects[name]
      self._reply(204, b'')
    elif self.query.get('alt') == 'media':
      self._media(*found)
    else:
      self._json(resource(name, *found))

  def _refused(self, found) -> int:
    """The status of a condition that is not met, or 0."""
    generation = str(found[1]) if found else '0'
    if self.query.get('ifGenerationMatch', generation) != generation:
      return 412
    unwanted = self.query.get('ifGenerationNotMatch')
    if unwanted == generation:
      return 304 if self.command == 'GET' else 412
    return 0

  def _media(self, content, generation):
    headers = {'x-goog-generation': str(generation),
               'Content-Type': 'application/octet-stream'}
    wanted = re.fullmatch(r'bytes=(\d*)-(\d*)', self.headers.get('Range', ''))
    if not wanted:
      self._reply(200, content, headers)
      return
    size = len(content)
    first, last = wanted.groups()
    begin = int(first) if first else max(size - int(last), 0)
    end = min(int(last) + 1 if first and last else size, size)
    if begin >= size:
      self._reply(416, b'', headers | {'Content-Range': f'bytes */{size}'})
      return
    headers['Content-Range'] = f'bytes {begin}-{end - 1}/{size}'
    self._reply(206, content[begin:end], headers)

  def _list(self):
    prefix, delimiter = self.query.get('prefix', ''), self.query.get(
        'delimiter')
    begin = max(self.query.get('startOffset', ''),
                self.query.get('pageToken', ''))
    end, items, prefixes = self.query.get('endOffset'), [], {}
    limit, token = int(self.query.get('maxResults', 1000)), None
    for name, found in sorted(self.server.bucket.objects.items()):
      if not name.startswith(prefix) or name < begin or end and name >= end:
        continue
      if len(items) == limit:
        token = name
        break
      below, found_delimiter, _ = name[len(prefix):].partition(
          delimiter or '\0')
      if found_delimiter:
        prefixes[prefix + below + delimiter] = True
      else:
        items.append(resource(name, *found))
    self._json({'kind': 'storage#objects', 'items': items,
                'prefixes': list(prefixes),
                **({'nextPageToken': token} if token else {})})

  def _upload(self, body):
    bucket, name = self.server.bucket, self.query.get('name')
    kind = self.query['uploadType']
    if kind == 'multipart':
      metadata, body = self._parts(body)
      name = name or metadata['name']
    if kind == 'resumable':
      if 'upload_id' not in self.query:
        self._begin_resumable(name or json.loads(body)['name'])
        return
      name, so_far = bucket.uploads[self.query['upload_id']]
      so_far.extend(body)
      if self.headers['Content-Range'].endswith('/*'):
        self._reply(308, b'', {'Range': f'bytes=0-{len(so_far) - 1}'})
        return
      body = so_far
    if self._refused(bucket.objects.get(name)):
      self._error(412, 'conditionNotMet')
      return
    generation = bucket.put(name, body)
    self._json(resource(name, bytes(body), generation))

  def _begin_resumable(self, name):
    upload = f'{len(self.server.bucket.uploads)}'
    self.server.bucket.uploads[upload] = name, bytearray()
    self._reply(200, b'', {'Location': (
        f'http://{self.headers["Host"]}/upload{_OBJECTS}?uploadType=resumable'
        f'&upload_id={upload}')})

  def _parts(self, body):
    head = f'Content-Type: {self.headers["Content-Type"]}\r\n\r\n'.encode()
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(
        head + body)
    metadata, content = message.iter_parts()
    return json.loads(metadata.get_payload(decode=True)), content.get_payload(
        decode=True)

  def _body(self) -> bytes:
    if self.headers.get('Transfer-Encoding') != 'chunked':
      return self.rfile.read(int(self.headers.get('Content-Length') or 0))
    body = b''
    while size := int(self.rfile.readline(), 16):
      body += self.rfile.read(size)
      self.rfile.readline()
    self.rfile.readline()
    return body

  def _json(self, content):
    self._reply(200, json.dumps(content).encode(),
                {'Content-Type': 'application/json'})

  def _error(self, status, message):
    if status == 304:
      self._reply(status, b'')
      return
    content = {'error': {'code': status, 'message': message, 'errors': []}}
    self._reply(status, json.dumps(content).encode(),
                {'Content-Type': 'application/json'})

  def _reply(self, status, body, headers=()):
    self._answer = status, body, dict(headers)

  def _send(self):
    status, body, headers = self._answer
    self.send_response(status)
    for name, value in headers.items():
      self.send_header(name, value)
    if status not in (204, 304):
      self.send_header('Content-Length', str(len(body)))
    self.end_headers()
    self.wfile.write(body)


class _Server(http.server.ThreadingHTTPServer):
  request_queue_size = 256
  daemon_threads = True

  def handle_error(self, request, client_address):
    """Clients may go before they have read an answer."""
    if not isinstance(sys.exception(), ConnectionError):
      super().handle_error(request, client_address)


@contextlib.contextmanager
def serve():
  """Yields (the bucket, the environment of a process that is to use it)."""
  with _Server(('localhost', 0), _Handler) as server:
    server.bucket = Bucket()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
      yield server.bucket, environment(
          f'http://localhost:{server.server_port}')
    finally:
      server.shutdown()
      thread.join()


def environment(url: str) -> dict[str, str]:
  return os.environ | {
      'STORAGE_EMULATOR_HOST': url,  # gcsfs and google-cloud-storage
      'FSSPEC_GCS': '{"token": "anon"}',
      'GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT': 'false',  # It would ask over gRPC.
      'TENSORSTORE_GCS_HTTP_URL': url,
      'GOOGLE_AUTH_TOKEN_FOR_TESTING': 'any'}
