// Run containers, call functions and submit tasks on Mayfly. The functions are
// the methods of one Client that is made when it is first needed: for the
// daemon at $MAYFLY_HOST, or else the one of this machine.

import { Client } from './lib/client.js';

export { Client } from './lib/client.js';
export { Container } from './lib/containers.js';
export { CallError, ContainerError, KINDS, MayflyError, TaskError } from './lib/errors.js';

let shared;
const client = () => (shared ??= new Client());

export const run = (...args) => client().run(...args);
export const container = (...args) => client().container(...args);
export const containers = (...args) => client().containers(...args);
export const pull = (...args) => client().pull(...args);
export const call = (...args) => client().call(...args);
export const submit = (...args) => client().submit(...args);
export const submitAll = (...args) => client().submitAll(...args);
export const emit = (...args) => client().emit(...args);
export const emitAll = (...args) => client().emitAll(...args);
export const get = (...args) => client().get(...args);
export const list = (...args) => client().list(...args);
export const wait = (...args) => client().wait(...args);
export const watch = (...args) => client().watch(...args);
export const result = (...args) => client().result(...args);
export const results = (...args) => client().results(...args);
export const cancel = (...args) => client().cancel(...args);
export const logs = (...args) => client().logs(...args);
export const progress = (...args) => client().progress(...args);
export const whoami = (...args) => client().whoami(...args);
