// HTTP over a unix socket or TCP, with node's own client.

import http from 'node:http';
import https from 'node:https';
import { setTimeout as sleep } from 'node:timers/promises';
import { MayflyError, fromProblem } from './errors.js';

const DEFAULT_HOST = 'unix:///run/mayfly/mayfly.sock';

const MAX_ANSWER = 64 << 20; // bytes of one JSON answer
const MAX_LINE = 8 << 20; // bytes of one line of a stream
const SILENCE = 120_000; // ms; the daemon shows a sign of life on every stream each 20 s

// Requests that are answered at once never wait for streams, and together they
// stay below what a container may have.
const SHORT = 16;
const LONG = 40;

/** Sends requests to one daemon. */
export class Transport {
  constructor(host, patience = 0) {
    this.host = host || process.env.MAYFLY_HOST || DEFAULT_HOST;
    this.patience = patience; // ms to wait for a daemon that is away
    const unix = /^unix:\/\/(\/.+)$/.exec(this.host);
    let module = http;
    if (unix) {
      this.where = { socketPath: unix[1], host: 'localhost' };
    } else {
      let url;
      try {
        url = new URL(this.host);
      } catch {
        throw badHost(this.host);
      }
      if (!['http:', 'https:'].includes(url.protocol) || !url.hostname || url.pathname !== '/') throw badHost(this.host);
      if (url.protocol === 'https:') module = https;
      this.where = { host: url.hostname.replace(/^\[|\]$/g, ''), port: url.port || undefined };
    }
    this.module = module;
    this.short = new module.Agent({ keepAlive: true, maxSockets: SHORT });
    this.long = new module.Agent({ keepAlive: false, maxSockets: LONG });
  }

  close() {
    this.short.destroy();
    this.long.destroy();
  }

  /** Sends a request and resolves to the answer, of any status. */
  async open(method, target, { body, headers, agent = this.short, timeout = SILENCE, signal, upgrade = false } = {}) {
    const until = Date.now() + this.patience;
    for (let pause = 20, again = method === 'GET'; ; pause = Math.min(pause * 2, 1000)) {
      const sent = {};
      try {
        return await this.once(sent, method, target, { body, headers, agent, timeout, signal, upgrade });
      } catch (e) {
        if (signal?.aborted) throw signal.reason;
        const away = e.code === 'ECONNREFUSED' || e.code === 'ENOENT';
        const stale = again && sent.request?.reusedSocket && (e.code === 'ECONNRESET' || e.code === 'EPIPE');
        if (stale) again = false;
        else if (!away || Date.now() + pause > until) throw this.lost(e);
        else await sleep(pause);
      }
    }
  }

  once(sent, method, target, { body, headers, agent, timeout, signal, upgrade }) {
    return new Promise((resolve, reject) => {
      const all = { ...headers };
      if (body !== undefined) all['Content-Length'] = body.length;
      else if (method !== 'GET') all['Content-Length'] = 0;
      const request = this.module.request({ ...this.where, method, path: target, headers: all, agent: upgrade ? false : agent, timeout, signal });
      sent.request = request;
      request.on('error', reject);
      request.on('timeout', () => request.destroy(Object.assign(new Error('the daemon says nothing'), { code: 'ETIMEDOUT' })));
      request.on('response', resolve);
      if (upgrade) request.on('upgrade', (response, socket, head) => resolve({ response, socket, head }));
      request.end(body);
    });
  }

  lost(e) {
    if (e instanceof MayflyError || e.name === 'AbortError') return e;
    if (e.code === 'EACCES') return new MayflyError('denied', `may not talk to the daemon at ${this.host}`, { hint: 'become root, or join the group mayfly', cause: e });
    if (e.code === 'ECONNREFUSED' || e.code === 'ENOENT') return new MayflyError('unavailable', `cannot reach the daemon at ${this.host}`, { hint: 'start it with: mayfly up', cause: e });
    if (e.code === 'ETIMEDOUT') return new MayflyError('timed-out', `the daemon at ${this.host} says nothing`, { cause: e });
    return new MayflyError('unavailable', `lost the daemon at ${this.host}: ${e.message}`, { cause: e });
  }

  /** Reads a whole answer. */
  async read(response, limit = Infinity) {
    const pieces = [];
    let size = 0;
    try {
      for await (const piece of response) {
        size += piece.length;
        if (size > limit) throw new MayflyError('too-large', `the daemon's answer is longer than ${limit} bytes`);
        pieces.push(piece);
      }
    } catch (e) {
      throw this.lost(e);
    }
    if (!response.complete) throw this.lost(new Error('the answer broke off'));
    return Buffer.concat(pieces);
  }

  /** Sends a request with a JSON body, or none, and resolves to the answer's bytes. */
  async send(method, path, { query, value, body, headers, signal } = {}) {
    const all = { ...headers };
    if (value !== undefined) body = Buffer.from(JSON.stringify(value));
    if (body !== undefined) all['Content-Type'] ??= 'application/json';
    const response = await this.open(method, targetOf(path, query), { body, headers: all, signal });
    const data = await this.read(response, MAX_ANSWER);
    if (response.statusCode >= 300) throw problemOf(response, data);
    return data;
  }

  /** As send, but for the answer, which is decoded. */
  async json(method, path, options) {
    const data = await this.send(method, path, options);
    return data.length ? decode(data) : undefined;
  }

  /** Yields each message of a stream, the last with its result. One that breaks off is an error. */
  async *stream(method, path, { query, value, signal } = {}) {
    const body = value === undefined ? undefined : Buffer.from(JSON.stringify(value));
    const headers = body ? { 'Content-Type': 'application/json' } : {};
    const response = await this.open(method, targetOf(path, query), { body, headers, agent: this.long, signal });
    if (response.statusCode >= 300) throw problemOf(response, await this.read(response, MAX_ANSWER));
    try {
      for await (const line of this.lines(response)) {
        const message = decode(line);
        if (message.error) throw fromProblem(message.error.status, message.error);
        if (Object.keys(message).length === 0) continue; // a sign of life
        yield message;
        if ('result' in message) return;
      }
      throw this.lost(new Error('the stream broke off'));
    } catch (e) {
      throw signal?.aborted ? signal.reason : this.lost(e);
    } finally {
      response.destroy();
    }
  }

  async *lines(response) {
    let rest = [];
    let size = 0;
    for await (let piece of response) {
      for (let end; (end = piece.indexOf(10)) >= 0; piece = piece.subarray(end + 1)) {
        yield Buffer.concat([...rest, piece.subarray(0, end)]);
        rest = [];
        size = 0;
      }
      size += piece.length;
      if (size > MAX_LINE) throw new MayflyError('too-large', `a line of the stream is longer than ${MAX_LINE} bytes`);
      if (piece.length) rest.push(piece);
    }
  }
}

function badHost(host) {
  return new MayflyError('invalid', `${JSON.stringify(host)} is not where a daemon can be`, { hint: 'use unix:///path/of/the.sock or http://host:port' });
}

function decode(data) {
  try {
    return JSON.parse(data.toString());
  } catch (e) {
    throw new MayflyError('internal', `decode the daemon's answer: ${e.message}`, { cause: e });
  }
}

/** The target of a request: each segment is escaped by itself. */
export function targetOf(path, query = {}) {
  for (const segment of path) {
    if (segment === '' || segment === '.' || segment === '..') throw new MayflyError('invalid', `${JSON.stringify(segment)} names nothing`);
  }
  const pairs = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== undefined && one !== null) pairs.append(name, String(one));
    }
  }
  const text = pairs.toString();
  return `/v1/${path.map(encodeURIComponent).join('/')}${text ? `?${text}` : ''}`;
}

/** The error in an answer. */
export function problemOf(response, data) {
  let problem;
  if ((response.headers['content-type'] ?? '').startsWith('application/problem+json')) {
    try {
      problem = JSON.parse(data.toString());
    } catch {
      // the status says enough
    }
  }
  return fromProblem(response.statusCode, problem, response.headers['retry-after']);
}
