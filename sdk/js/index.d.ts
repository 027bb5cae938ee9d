// Run containers, call functions and submit tasks on Mayfly.

/// <reference types="node" />
import type { Readable } from 'node:stream';

export type Kind =
  | 'invalid' | 'denied' | 'not-found' | 'conflict' | 'too-large' | 'busy' | 'failed' | 'unavailable' | 'timed-out' | 'internal';

export const KINDS: readonly Kind[];

/** A failure, with its kind and, where there is one, what to do about it. */
export class MayflyError extends Error {
  readonly kind: Kind;
  readonly hint: string;
  /** Id of the run that this was the end of, if it was one. */
  readonly run: string;
  /** Seconds, where the daemon says it. */
  readonly retryAfter?: number;
}

/** A program of run() that ended otherwise than with 0. */
export class ContainerError extends MayflyError {
  readonly container: Container;
  /** 128+n when signal n ended it, 126 when it cannot be executed, 127 when it is not there. */
  readonly exitStatus: number;
  readonly reason: string;
  readonly command: string[];
  readonly image: string;
  /** The end of what it wrote there, at most 64 KiB. */
  readonly stderr: Buffer;
}

/** A task whose result was asked for and that did not succeed. */
export class TaskError extends MayflyError {
  readonly task: Task;
  readonly exit?: Exit;
}

/** A function that answered a call with a status of 400 or more. */
export class CallError extends MayflyError {
  readonly answer: Answer;
  readonly status: number;
}

export interface Exit {
  code: number;
  signal?: number;
  reason: 'succeeded' | 'failed' | 'timed-out' | 'out-of-memory' | 'cancelled' | 'lost' | 'rejected';
  detail?: string;
  time: string;
}

export interface LogEntry {
  time: Date;
  stream: 'stdout' | 'stderr';
  data: Buffer;
}

export type TaskState =
  | 'queued' | 'starting' | 'running' | 'succeeded' | 'failed' | 'timed-out' | 'out-of-memory' | 'cancelled' | 'buried';

/** A task as it was when the daemon was asked: the JSON object of the API. */
export interface Task {
  id: string;
  space: string;
  workload?: string;
  release?: number;
  image?: string;
  argv?: string[];
  state: TaskState;
  priority?: number;
  accepted: string;
  notBefore?: string;
  key?: string;
  labels?: Record<string, string>;
  attempt: number;
  attempts?: { number: number; node: string; instance?: string; granted: string; started?: string; ended?: string; exit?: Exit }[];
  ended?: string;
  progress?: { percent: number; message?: string; time: string };
  /** The result was longer than what is kept. */
  cut?: boolean;
  /** Of what submit returned: false when the key was that of a task that was there already. */
  readonly created?: boolean;
}

export interface Retries {
  /** Attempts after the first. */
  max?: number;
  /** Seconds before the first retry, doubled for each that follows up to longest. */
  backoff?: number;
  longest?: number;
  /** Seconds before each, instead of backoff. */
  delays?: number[];
  jitter?: number;
  /** Exit codes after which no retry can help. */
  final?: number[];
  memoryUpTo?: Size;
}

/** Bytes, or a text such as 256m or 1g, in powers of 1024. */
export type Size = number | string;

/** Bytes and strings go as they are, anything else as JSON. */
export type Payload = unknown;

export interface TaskOptions {
  /** Instead of a workload, with argv and env. */
  image?: string;
  argv?: string[];
  env?: Record<string, string>;
  /** 0 to 9, 9 first. */
  priority?: number;
  /** Seconds before its turn can come. */
  delay?: number;
  at?: Date | number | string;
  /** Seconds, of one attempt. */
  timeout?: number;
  memory?: Size;
  /** Attempts after the first, or all that can be said about them. */
  retries?: number | Retries;
  /** The same key is the same task. */
  key?: string;
  labels?: Record<string, string>;
  /** URL that is told of the end. */
  callback?: string;
  /** Tasks that must have succeeded. */
  after?: TaskRef[];
}

export interface Submission extends TaskOptions {
  workload?: string;
  payload?: Payload;
}

export type TaskRef = string | { id: string };

export interface WaitOptions {
  /** Seconds; then it is an error of kind timed-out. */
  timeout?: number;
  signal?: AbortSignal;
}

export interface LogOptions {
  /** Go on until the program ends. */
  follow?: boolean;
  /** Only the last n lines. */
  tail?: number;
  since?: Date | number | string;
  signal?: AbortSignal;
}

/** What a function answered to a call. */
export interface Answer {
  readonly status: number;
  /** Names in lower case. */
  readonly headers: Record<string, string | string[] | undefined>;
  readonly body: Buffer;
  /** Id of the run. */
  readonly run: string;
  readonly text: string;
  json(): any;
}

export interface CallOptions {
  method?: string;
  /** What the function sees, with its query. */
  path?: string;
  headers?: Record<string, string>;
  memory?: Size;
  /** Unless it is false, a status of 400 or more is an error. */
  check?: boolean;
  signal?: AbortSignal;
}

export interface RunOptions {
  /** Return stdout; true unless said otherwise. */
  stdout?: boolean;
  /** Return stderr too, as it came. */
  stderr?: boolean;
  /** What the program reads; nothing if it is not given. */
  stdin?: string | Uint8Array | Readable | AsyncIterable<string | Uint8Array>;
  /** Keep the container when it is false. Of a detached one: remove it at its end when it is true. */
  remove?: boolean;
  /** An image that is not on the node is an error when it is false. */
  pull?: boolean;
  name?: string;
  entrypoint?: string[];
  env?: Record<string, string>;
  user?: string;
  workdir?: string;
  hostname?: string;
  memory?: Size;
  cpus?: number;
  pids?: number;
  files?: number;
  mounts?: { type: 'bind' | 'tmpfs'; source?: string; target: string; readOnly?: boolean; size?: number }[];
  /** Ports of the container to ports of the node, null for any. */
  ports?: Record<number, number | null>;
  network?: 'bridge' | 'none' | 'host';
  readOnly?: boolean;
  labels?: Record<string, string>;
  /** Seconds from its start. */
  timeout?: number;
  /** Ends the program, and the container with it. */
  signal?: AbortSignal;
}

/** An instance. It goes on by itself; what is known of it is of when it was asked for. */
export class Container {
  readonly id: string;
  readonly name: string;
  readonly status: 'starting' | 'created' | 'running' | 'stopping' | 'exited';
  /** Undefined while it runs. */
  readonly exitStatus?: number;
  /** The JSON object of the API. */
  attrs: Record<string, any>;
  reload(): Promise<this>;
  /** Resolves to the exit status when it has ended. */
  wait(options?: { signal?: AbortSignal }): Promise<number>;
  logs(options?: LogOptions): AsyncGenerator<LogEntry>;
  /** What it wrote so far. */
  output(options?: { stdout?: boolean; stderr?: boolean }): Promise<Buffer>;
  /** Sends SIGTERM, and SIGKILL after so many seconds. */
  stop(timeout?: number): Promise<void>;
  kill(signal?: number): Promise<void>;
  remove(options?: { force?: boolean }): Promise<void>;
}

/** Talks to one daemon on behalf of one space. */
export interface EventAttributes {
  /** Unique together with source; a new one if it is left out. Emitting both again is safe. */
  id?: string;
  source?: string;
  subject?: string;
  time?: Date | number | string;
  datacontenttype?: string;
  dataschema?: string;
  /** Further attributes, whose names are of a-z and 0-9. */
  [extension: string]: unknown;
}

export class Client {
  /**
   * host is unix:///path or http://host:port; $MAYFLY_HOST, and without that the daemon's own socket, if it is not
   * given. In a container $MAYFLY_HOST is set, and the space is the container's.
   */
  constructor(options?: { host?: string; space?: string });
  readonly host: string;
  readonly space?: string;
  /** Drops all connections. */
  close(): void;

  /**
   * Runs a program in a fresh container and resolves to what it wrote to stdout; with stream to an iterator of
   * pieces, as they come, which is to be read to its end or left (break, return()); with detach to a Container at
   * once. A program that ends otherwise than with 0 is a ContainerError. The container is removed afterwards.
   */
  run(image: string, command: string[] | undefined, options: RunOptions & { detach: true }): Promise<Container>;
  run(image: string, command: string[] | undefined, options: RunOptions & { stream: true }): Promise<AsyncGenerator<Buffer, void>>;
  run(image: string, command?: string[], options?: RunOptions): Promise<Buffer>;
  /** A container by its id, the beginning of one that fits no other, or its name. */
  container(ref: string): Promise<Container>;
  containers(options?: { all?: boolean }): AsyncGenerator<Container>;
  pull(image: string): Promise<Record<string, any>>;

  /** Calls a function. */
  call(name: string, payload?: Payload, options?: CallOptions): Promise<Answer>;

  /** Submits a task. When it resolves, the task is on disk. A full queue is an error of kind busy. */
  submit(workload: string | undefined, payload?: Payload, options?: TaskOptions): Promise<Task>;
  /** Submits many. The tasks of each request, up to 1,000, are accepted all or none. */
  submitAll(tasks: Iterable<Submission>): Promise<Task[]>;

  /**
   * Emits a CloudEvent and resolves to its id, when the event is on disk. The data goes as it is if it is a Buffer
   * or a string, else as JSON. In a container source is the workload's own where it is left out.
   */
  emit(type: string, data?: unknown, attributes?: EventAttributes): Promise<string>;
  /** Emits up to 1,000, in their order, and resolves to their ids. */
  emitAll(events: Iterable<EventAttributes & { type: string; data?: unknown }>): Promise<string[]>;

  get(task: TaskRef): Promise<Task>;
  list(filter?: {
    workload?: string;
    state?: TaskState | TaskState[];
    labels?: Record<string, string>;
    since?: Date | number | string;
    until?: Date | number | string;
    limit?: number;
  }): AsyncGenerator<Task>;
  /** Resolves to the task when it has ended or was buried, whatever its end. */
  wait(task: TaskRef, options?: WaitOptions): Promise<Task>;
  /** Yields the task as it is, and after each change of its state, attempt or progress. */
  watch(task: TaskRef, options?: { signal?: AbortSignal }): AsyncGenerator<Task>;
  /** Waits for a task and resolves to what it returned. One that did not succeed is a TaskError. */
  result(task: TaskRef, options?: WaitOptions): Promise<Buffer>;
  results(tasks: Iterable<TaskRef>, options?: WaitOptions): Promise<Buffer[]>;
  cancel(task: TaskRef): Promise<Task>;
  logs(task: TaskRef, options?: LogOptions & { attempt?: number }): AsyncGenerator<LogEntry>;

  /** Says how far the task is whose program asks. It works in a container only. */
  progress(percent: number, message?: string): Promise<void>;
  /** Who asks. It works in a container only. */
  whoami(): Promise<{
    node: string; space: string; instance: string; workload?: string; release?: number;
    run?: string; attempt?: number; deadline?: number; task?: boolean;
  }>;
}

export const run: Client['run'];
export const container: Client['container'];
export const containers: Client['containers'];
export const pull: Client['pull'];
export const call: Client['call'];
export const submit: Client['submit'];
export const submitAll: Client['submitAll'];
export const emit: Client['emit'];
export const emitAll: Client['emitAll'];
export const get: Client['get'];
export const list: Client['list'];
export const wait: Client['wait'];
export const watch: Client['watch'];
export const result: Client['result'];
export const results: Client['results'];
export const cancel: Client['cancel'];
export const logs: Client['logs'];
export const progress: Client['progress'];
export const whoami: Client['whoami'];
