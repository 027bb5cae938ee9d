// What the daemon tells, and what it is told.

import { randomUUID } from 'node:crypto';
import { MayflyError } from './errors.js';

/** A duration on the wire, from seconds. */
export function nanoseconds(seconds) {
  if (seconds === undefined || seconds === null) return undefined;
  if (!(seconds >= 0)) throw new MayflyError('invalid', `${seconds} is no number of seconds`);
  return Math.round(seconds * 1e9);
}

/** A time on the wire: a Date, milliseconds since 1970, or RFC 3339. */
export function moment(value) {
  if (value === undefined || value === null || typeof value === 'string') return value ?? undefined;
  return new Date(value).toISOString();
}

/** A size in bytes: a number, or a text such as 256m or 1.5GB, in powers of 1024 for both. */
export function bytesOf(value) {
  if (value === undefined || value === null || typeof value === 'number') return value ?? undefined;
  const found = /^(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?$/i.exec(value.trim());
  if (!found) throw new MayflyError('invalid', `${JSON.stringify(value)} is not a size`, { hint: 'write it like 256m or 1g' });
  return Math.floor(Number(found[1]) * 1024 ** ' kmgt'.indexOf(found[2].toLowerCase() || ' '));
}

/** A CloudEvent in the JSON format. It gets an id, and the present time, where it has none. */
export function eventOf({ type, data, id, time, ...attributes }) {
  const event = { specversion: '1.0', id: id ?? randomUUID(), type, time: moment(time ?? Date.now()), ...attributes };
  if (data instanceof Uint8Array) {
    event.datacontenttype ??= 'application/octet-stream';
    event.data_base64 = Buffer.from(data).toString('base64');
  } else if (typeof data === 'string') {
    event.datacontenttype ??= 'text/plain; charset=utf-8';
    event.data = event.datacontenttype.includes('json') ? JSON.parse(data) : data;
  } else if (data !== undefined) {
    event.datacontenttype ??= 'application/json';
    event.data = data;
  }
  return event;
}

/** The members of a submission that carry its payload: bytes and strings as they are, anything else as JSON. */
function payloadOf(value) {
  if (value === undefined) return {};
  if (value instanceof Uint8Array) return { payload: Buffer.from(value).toString('base64') };
  if (typeof value === 'string') return { text: value };
  return { json: value };
}

export const MAX_INLINE = 1_000_000; // bytes of a payload that comes with its submission; a larger one is uploaded before

/** Takes a payload that is too large for a submission out of it. */
export function largePayload(submission) {
  const { payload, text, json } = submission;
  let data;
  if (payload !== undefined) data = Buffer.from(payload, 'base64');
  else if (text !== undefined) data = Buffer.from(text);
  else if (json !== undefined) data = Buffer.from(JSON.stringify(json));
  if (data === undefined || data.length <= MAX_INLINE) return undefined;
  for (const name of ['payload', 'text', 'json']) delete submission[name];
  return data;
}

export const idOf = (task) => (typeof task === 'string' ? task : task.id);

function retriesOf(value) {
  if (value === undefined || value === null) return undefined;
  if (typeof value === 'number') return { max: value };
  const { max, backoff, longest, delays, jitter, final, memoryUpTo, ...other } = value;
  refuse('retries have', other);
  return { max, backoff: nanoseconds(backoff), longest: nanoseconds(longest), delays: delays?.map(nanoseconds), jitter, final, memoryUpTo: bytesOf(memoryUpTo) };
}

/** A submission on the wire. */
export function submissionOf({ workload, payload, image, argv, env, priority, delay, at, timeout, memory, retries, key, labels, callback, after, ...other }) {
  refuse('a task has', other);
  return {
    workload, image, argv, env, priority, key, labels, callback,
    delay: delay === undefined ? undefined : `${nanoseconds(delay)}ns`,
    notBefore: moment(at),
    timeout: nanoseconds(timeout),
    memory: bytesOf(memory),
    retries: retriesOf(retries),
    after: after?.map(idOf),
    ...payloadOf(payload),
  };
}

/** Says that an option is not known, which would otherwise pass unseen. */
export function refuse(what, other) {
  const names = Object.keys(other);
  if (names.length) throw new MayflyError('invalid', `${what} no ${names.join(', ')}`);
}

export function logEntryOf({ time, stream, data }) {
  return { time: new Date(time), stream, data: Buffer.from(data ?? '', 'base64') };
}
