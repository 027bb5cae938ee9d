// The client: one method for each thing that can be asked for.

import { setTimeout as sleep } from 'node:timers/promises';
import { Container, run } from './containers.js';
import { CallError, MayflyError, TaskError } from './errors.js';
import { Transport, problemOf } from './transport.js';
import { MAX_INLINE, bytesOf, eventOf, idOf, largePayload, logEntryOf, moment, submissionOf } from './values.js';

const INSIDE = 'unix:///run/mayfly/api.sock';
const PATIENCE = 30_000; // ms that a program in a container waits for a daemon that is away
const MAX_TASKS = 1000; // of one request
const MAX_REQUEST = 4 << 20; // bytes of one request that submits several tasks

/** What a function answered to a call. */
class Answer {
  constructor(status, headers, body) {
    this.status = status;
    this.headers = headers;
    this.body = body;
    this.run = headers['x-mayfly-run'] ?? '';
  }

  get text() {
    return this.body.toString();
  }

  json() {
    return JSON.parse(this.text);
  }
}

/** Talks to one daemon on behalf of one space. */
export class Client {
  constructor({ host, space } = {}) {
    const inside = (host || process.env.MAYFLY_HOST) === INSIDE;
    this.transport = new Transport(host, inside ? PATIENCE : 0);
    this.space = space || process.env.MAYFLY_SPACE || undefined;
  }

  get host() {
    return this.transport.host;
  }

  close() {
    this.transport.close();
  }

  /** The query of a request, with the space. */
  query(members = {}) {
    return { ...members, space: this.space };
  }

  // Containers

  run(image, command, options) {
    return run(this, image, command, options);
  }

  async container(ref) {
    return new Container(this, await this.transport.json('GET', ['instances', ref], { query: this.query() }));
  }

  async *containers({ all = false } = {}) {
    let next;
    do {
      const page = await this.transport.json('GET', ['instances'], { query: this.query({ all, next }) });
      for (const attrs of page.items) yield new Container(this, attrs);
      next = page.next;
    } while (next);
  }

  async pull(image) {
    let found;
    for await (const message of this.transport.stream('POST', ['images', 'pull'], { query: this.query(), value: { name: image } })) found = message.result ?? found;
    return found;
  }

  // Functions

  async call(name, payload, { method = 'POST', path = '/', headers = {}, memory, check = true, signal } = {}) {
    if (!path.startsWith('/')) throw new MayflyError('invalid', `${JSON.stringify(path)} is not the path of a request`, { hint: 'begin it with /' });
    const all = { ...headers };
    if (this.space) all['X-Mayfly-Space'] = this.space;
    if (memory !== undefined) all['X-Mayfly-Memory'] = bytesOf(memory);
    let body;
    if (payload instanceof Uint8Array || typeof payload === 'string') {
      body = Buffer.from(payload);
    } else if (payload !== undefined) {
      body = Buffer.from(JSON.stringify(payload));
      if (!Object.keys(all).some((h) => h.toLowerCase() === 'content-type')) all['Content-Type'] = 'application/json';
    }
    const target = `/v1/workloads/${encodeURIComponent(name)}/call${path}`;
    // A function may be silent for as long as its timeout lets it.
    const response = await this.transport.open(method, target, { body, headers: all, agent: this.transport.long, timeout: 0, signal });
    const data = await this.transport.read(response);
    const answer = new Answer(response.statusCode, response.headers, data);
    if (check && answer.status >= 400) {
      throw (answer.headers['content-type'] ?? '').startsWith('application/problem+json') ? problemOf(response, data) : new CallError(answer);
    }
    return answer;
  }

  // Tasks

  async submit(workload, payload, options = {}) {
    return (await this.submitAll([{ workload, payload, ...options }]))[0];
  }

  async submitAll(tasks) {
    const accepted = [];
    let batch = [];
    let size = 0;
    const flush = async () => {
      const body = Buffer.from(`{"tasks":[${batch.join(',')}]}`);
      const answer = await this.transport.json('POST', ['tasks'], { query: this.query(), body });
      for (const { task, created } of answer.tasks) accepted.push(Object.defineProperty(task, 'created', { value: created }));
      batch = [];
      size = 0;
    };
    for (const task of tasks) {
      const submission = submissionOf(task);
      let text = JSON.stringify(submission);
      if (text.length > MAX_INLINE / 3) { // bytes of one character, at most
        await this.#upload(submission);
        text = JSON.stringify(submission);
      }
      if (batch.length && (batch.length === MAX_TASKS || size + text.length > MAX_REQUEST)) await flush();
      batch.push(text);
      size += text.length;
    }
    if (batch.length) await flush();
    return accepted;
  }

  /** Uploads the payload of a submission that is too large for it. */
  async #upload(submission) {
    const body = largePayload(submission);
    if (body === undefined) return;
    const { ref } = await this.transport.json('POST', ['payloads'], { query: this.query(), body, headers: { 'Content-Type': 'application/octet-stream' } });
    submission.payloadRef = ref;
  }

  // Events

  async emit(type, data, attributes = {}) {
    return (await this.emitAll([{ type, data, ...attributes }]))[0];
  }

  async emitAll(events) {
    const batch = Array.from(events, eventOf);
    const body = Buffer.from(JSON.stringify(batch));
    await this.transport.send('POST', ['events'], { query: this.query(), body, headers: { 'Content-Type': 'application/cloudevents-batch+json' } });
    return batch.map((event) => event.id);
  }

  get(task) {
    return this.transport.json('GET', ['tasks', idOf(task)], { query: this.query() });
  }

  async *list({ workload, state, labels = {}, since, until, limit = Infinity } = {}) {
    const label = Object.entries(labels).map(([k, v]) => `${k}=${v}`);
    let next;
    while (limit > 0) {
      const query = this.query({ workload, state, label, since: moment(since), until: moment(until), next, limit: Math.min(limit, 1000) });
      const page = await this.transport.json('GET', ['tasks'], { query });
      yield* page.items;
      limit -= page.items.length;
      next = page.next;
      if (!next) return;
    }
  }

  async wait(task, { timeout, signal } = {}) {
    const until = timeout === undefined ? undefined : Date.now() + timeout * 1000;
    for (let lost = 0; ; ) {
      const left = until === undefined ? undefined : Math.max(until - Date.now(), 0);
      const query = this.query({ timeout: left === undefined ? undefined : `${Math.ceil(left)}ms` });
      try {
        for await (const { result } of this.transport.stream('GET', ['tasks', idOf(task), 'wait'], { query, signal })) {
          if (result && ended(result)) return result;
          if (result && left !== undefined) throw new MayflyError('timed-out', `task ${result.id} is still ${result.state} after ${timeout} seconds`);
        }
      } catch (e) {
        if (e.kind !== 'unavailable' || ++lost > 5) throw e; // a daemon that is restarted is waited for
        await sleep(Math.min(100 * 2 ** lost, 2000), undefined, { signal });
      }
    }
  }

  async *watch(task, { signal } = {}) {
    for await (const message of this.transport.stream('GET', ['tasks', idOf(task), 'watch'], { query: this.query(), signal })) {
      const found = message.result ?? message.task;
      if (found) yield found;
    }
  }

  async result(task, options) {
    const found = await this.wait(task, options);
    if (found.state !== 'succeeded') throw new TaskError(found);
    return this.transport.send('GET', ['tasks', found.id, 'result'], { query: this.query() });
  }

  async results(tasks, { timeout, signal } = {}) {
    const until = timeout === undefined ? undefined : Date.now() + timeout * 1000;
    const all = [];
    for (const task of tasks) all.push(await this.result(task, { timeout: until && Math.max(until - Date.now(), 0) / 1000, signal }));
    return all;
  }

  cancel(task) {
    return this.transport.json('POST', ['tasks', idOf(task), 'cancel'], { query: this.query() });
  }

  async *logs(task, { follow = false, tail = -1, since, attempt, signal } = {}) {
    const query = this.query({ follow, tail, since: moment(since), attempt });
    for await (const message of this.transport.stream('GET', ['tasks', idOf(task), 'logs'], { query, signal })) {
      if (message.log) yield logEntryOf(message.log);
    }
  }

  // From inside a container

  async progress(percent, message = '') {
    await this.transport.send('PUT', ['self', 'progress'], { query: this.query(), value: { percent, message } });
  }

  whoami() {
    return this.transport.json('GET', ['self'], { query: this.query() });
  }
}

const ended = (task) => !['queued', 'starting', 'running'].includes(task.state);
