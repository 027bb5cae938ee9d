// Programs in fresh containers: run(), and what it returns.

import { randomBytes } from 'node:crypto';
import { Attachment, EXIT, STDERR, STDOUT } from './attach.js';
import { ContainerError, MayflyError } from './errors.js';
import { bytesOf, logEntryOf, moment, nanoseconds, refuse } from './values.js';

const MAX_STDERR = 64 << 10; // bytes kept for the error, the last ones

/** An instance. It goes on by itself; what is known of it is of when it was asked for. */
export class Container {
  #client;

  constructor(client, attrs) {
    this.#client = client;
    this.attrs = attrs;
  }

  get id() {
    return this.attrs.id;
  }

  get name() {
    return this.attrs.name ?? '';
  }

  get status() {
    return this.attrs.state;
  }

  get exitStatus() {
    return this.attrs.exit?.code;
  }

  #path(...more) {
    return ['instances', this.id, ...more];
  }

  async reload() {
    this.attrs = await this.#client.transport.json('GET', this.#path(), { query: this.#client.query() });
    return this;
  }

  async wait({ signal } = {}) {
    for await (const message of this.#client.transport.stream('POST', this.#path('wait'), { query: this.#client.query(), signal })) {
      if (message.result) this.attrs = message.result;
    }
    return this.attrs.exit.code;
  }

  async *logs({ follow = false, tail = -1, since, signal } = {}) {
    const query = this.#client.query({ follow, tail, since: moment(since) });
    for await (const message of this.#client.transport.stream('GET', this.#path('logs'), { query, signal })) {
      if (message.log) yield logEntryOf(message.log);
    }
  }

  async output({ stdout = true, stderr = false } = {}) {
    const pieces = [];
    for await (const entry of this.logs()) {
      if (entry.stream === 'stdout' ? stdout : stderr) pieces.push(entry.data);
    }
    return Buffer.concat(pieces);
  }

  async stop(timeout = 10) {
    await this.#client.transport.send('POST', this.#path('stop'), { query: this.#client.query(), value: { grace: nanoseconds(timeout) } });
  }

  async kill(signal = 9) {
    await this.#client.transport.send('POST', this.#path('kill'), { query: this.#client.query(), value: { signal } });
  }

  async remove({ force = false } = {}) {
    await this.#client.transport.send('DELETE', this.#path(), { query: this.#client.query({ force }) });
  }
}

function specOf(image, command, o) {
  const {
    name, entrypoint, env, user, workdir, hostname, memory, cpus, pids, files, mounts, ports, network, readOnly, labels, timeout,
    detach, stdin, remove, stdout, stderr, stream, pull, signal, ...other
  } = o;
  refuse('run has', other);
  return {
    image, command, name, entrypoint, env, user, hostname, cpus, pids, files, mounts, network, readOnly, labels,
    workDir: workdir,
    memory: bytesOf(memory),
    ports: ports && Object.entries(ports).map(([container, host]) => ({ container: Number(container), host: host ?? 0 })),
    timeout: nanoseconds(timeout),
    stdin: stdin !== undefined ? true : undefined,
    autoRemove: detach && remove ? true : undefined,
  };
}

/** Runs a program in a fresh container; see index.d.ts. */
export async function run(client, image, command, options = {}) {
  const { detach = false, stream = false, stdin, remove, pull = true, signal } = options;
  if (typeof command === 'string') throw new MayflyError('invalid', 'the command is a string', { hint: 'give it as an array of words' });
  if (detach && stdin !== undefined) throw new MayflyError('invalid', 'a detached container has no stdin');
  const container = await create(client, specOf(image, command, options), pull);
  if (detach) {
    try {
      signal?.throwIfAborted();
      await start(client, container);
      return remove ? container : await container.reload();
    } catch (e) {
      await discard(container);
      throw e;
    }
  }
  const pieces = output(client, container, image, command, options);
  await pieces.next(); // it runs, or this throws
  if (stream) return pieces;
  const all = [];
  for await (const piece of pieces) all.push(piece);
  return Buffer.concat(all);
}

async function create(client, spec, pull) {
  const once = async () => {
    const headers = { 'Idempotency-Key': randomBytes(16).toString('hex') };
    return new Container(client, await client.transport.json('POST', ['instances'], { query: client.query(), value: spec, headers }));
  };
  try {
    return await once();
  } catch (e) {
    if (e.kind !== 'not-found' || !pull || spec.image.startsWith('sha256:')) throw e;
    const missing = await client.transport.json('GET', ['images', spec.image], { query: client.query() }).catch((m) => m);
    if (missing?.kind !== 'not-found') throw e; // something else was not found
  }
  await client.pull(spec.image);
  return once();
}

const start = (client, container) => client.transport.send('POST', ['instances', container.id, 'start'], { query: client.query() });

/** Removes what nobody wants any more. The caller has an error, or the output, that matters more than a failure here. */
const discard = (container) => container.remove({ force: true }).catch(() => {});

/** Yields nothing once, when the program runs, and then what it writes. */
async function* output(client, container, image, command, { stdout = true, stderr = false, stdin, remove = true, signal }) {
  let ended = false;
  let attachment;
  const abort = () => attachment?.close();
  signal?.addEventListener('abort', abort);
  try {
    signal?.throwIfAborted();
    attachment = await Attachment.open(client.transport, container.id, stdin !== undefined, client.space, signal);
    await start(client, container);
    if (stdin !== undefined) attachment.feed(stdin); // it catches its errors
    yield Buffer.alloc(0);
    let kept = Buffer.alloc(0);
    for await (const [kind, data] of attachment.frames()) {
      if (kind === EXIT) {
        container.attrs = data;
        ended = true;
        check(container, image, command, kept);
        return;
      }
      if (kind === STDERR) kept = Buffer.concat([kept, data]).subarray(-MAX_STDERR);
      if (kind === STDOUT ? stdout : stderr) yield data;
    }
  } catch (e) {
    throw signal?.aborted ? signal.reason : e;
  } finally {
    signal?.removeEventListener('abort', abort);
    attachment?.close();
    if (remove) await discard(container);
    else if (!ended) await container.kill().catch(() => {});
  }
}

function check(container, image, command, stderr) {
  const { exit, argv } = container.attrs;
  if (!exit) throw new MayflyError('internal', 'the daemon does not say how the program ended');
  if (exit.reason !== 'succeeded' || exit.code !== 0) throw new ContainerError(container, exit, command ?? argv, image, stderr);
}
