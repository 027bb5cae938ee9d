// Tried against a real node, which e2e/sdk_test.go starts: $MAYFLY_HOST is
// where it is, and it has the image app (busybox) and the functions cat, fails,
// slow, web and inside.

import assert from 'node:assert/strict';
import { Readable } from 'node:stream';
import { after, test } from 'node:test';
import * as mayfly from '../index.js';

const IMAGE = process.env.MAYFLY_TEST_IMAGE ?? 'app';
const client = new mayfly.Client();
after(() => client.close());

async function collect(iterator) {
  const all = [];
  for await (const one of iterator) all.push(one);
  return all;
}

const left = async () => (await collect(client.containers({ all: true }))).map((c) => c.name);
const fails = (promise, want, klass = mayfly.MayflyError) =>
  assert.rejects(promise, (e) => {
    assert.ok(e instanceof klass, e);
    for (const [name, value] of Object.entries(want)) assert.deepEqual(e[name], value, `${name} of ${e}`);
    return true;
  });

test('run returns stdout', async () => {
  assert.equal((await client.run(IMAGE, ['sh', '-c', 'echo out; echo err >&2'])).toString(), 'out\n');
  assert.equal((await client.run(IMAGE, ['sh', '-c', 'echo err >&2'], { stdout: false, stderr: true })).toString(), 'err\n');
  assert.equal((await mayfly.run(IMAGE, ['echo', 'hello'])).toString(), 'hello\n');
  assert.deepEqual(await left(), []);
});

test('run is whole', async () => {
  const want = Array.from({ length: 200000 }, (_, i) => `${i + 1}\n`).join('');
  assert.equal((await client.run(IMAGE, ['seq', '200000'])).toString(), want);
});

test('run takes stdin', async () => {
  for (const size of [0, 4, 300000]) {
    const text = 'x'.repeat(size);
    for (const stdin of [text, Buffer.from(text), Readable.from([text.slice(0, 2), text.slice(2)])]) {
      assert.equal((await client.run(IMAGE, ['cat'], { stdin })).toString(), text);
    }
  }
  assert.equal((await client.run(IMAGE, ['true'], { stdin: Buffer.alloc(3000000) })).length, 0);
});

test('run takes options', async () => {
  const script = 'echo $COLOR; hostname; cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null; true';
  const out = await client.run(IMAGE, ['sh', '-c', script], { env: { COLOR: 'blue' }, hostname: 'box', memory: '64m', network: 'none' });
  assert.deepEqual(out.toString().trim().split('\n'), ['blue', 'box', String(64 << 20)]);
  await fails(client.run(IMAGE, ['true'], { colour: 1 }), { kind: 'invalid' });
});

test('a program that fails is a ContainerError', async () => {
  const command = ['sh', '-c', 'echo out; echo broken >&2; exit 3'];
  await fails(client.run(IMAGE, command), { exitStatus: 3, command, image: IMAGE, stderr: Buffer.from('broken\n'), kind: 'failed', reason: 'failed' }, mayfly.ContainerError);
  await fails(client.run(IMAGE, ['/nothing']), { exitStatus: 127 }, mayfly.ContainerError);
  await fails(client.run(IMAGE, ['/etc']), { exitStatus: 126 }, mayfly.ContainerError);
  await fails(client.run(IMAGE, ['sleep', '1000'], { timeout: 0.2 }), { kind: 'timed-out', reason: 'timed-out' }, mayfly.ContainerError);
  await fails(client.run(`sha256:${'0'.repeat(64)}`, ['true']), { kind: 'not-found' });
  await fails(client.run(IMAGE, ['true'], { network: 'x' }), { kind: 'invalid' });
  assert.deepEqual(await left(), []);
});

test('run streams', async () => {
  const got = await collect(await client.run(IMAGE, ['sh', '-c', 'echo 1; sleep 0.1; echo 2'], { stream: true }));
  assert.equal(Buffer.concat(got).toString(), '1\n2\n');
  await fails(client.run(IMAGE, ['sh', '-c', 'echo 1; exit 4'], { stream: true }).then(collect), { exitStatus: 4 }, mayfly.ContainerError);
  for await (const piece of await client.run(IMAGE, ['sh', '-c', 'echo 1; sleep 1000'], { stream: true })) {
    assert.equal(piece.toString(), '1\n');
    break;
  }
  assert.deepEqual(await left(), []);
});

test('run can be aborted', async () => {
  const stop = new AbortController();
  const pieces = await client.run(IMAGE, ['sh', '-c', 'echo 1; sleep 1000'], { stream: true, signal: stop.signal });
  assert.equal((await pieces.next()).value.toString(), '1\n');
  stop.abort();
  await assert.rejects(pieces.next(), { name: 'AbortError' });
  await assert.rejects(client.run(IMAGE, ['true'], { signal: stop.signal }), { name: 'AbortError' });
  assert.deepEqual(await left(), []);
});

test('run detaches', async () => {
  const container = await client.run(IMAGE, ['sh', '-c', 'echo begun; sleep 1000'], { detach: true, name: 'detached' });
  try {
    assert.equal(container.status, 'running');
    assert.equal((await client.container('detached')).id, container.id);
    for await (const entry of container.logs({ follow: true })) {
      assert.equal(entry.data.toString(), 'begun\n');
      break;
    }
    await container.kill(15);
    assert.equal(await container.wait(), 143);
    assert.equal((await container.output()).toString(), 'begun\n');
  } finally {
    await container.remove({ force: true });
  }
  await fails(container.reload(), { kind: 'not-found' });
});

test('call', async () => {
  const answer = await mayfly.call('cat', Buffer.from('bytes'));
  assert.deepEqual([answer.status, answer.text], [200, 'bytes']);
  assert.ok(answer.run);
  assert.deepEqual((await mayfly.call('cat', { a: [1, null] })).json(), { a: [1, null] });
  assert.equal((await mayfly.call('web', undefined, { method: 'GET', path: '/status?code=404', check: false })).status, 404);
  assert.match((await mayfly.call('web', undefined, { method: 'GET', path: '/headers', headers: { 'X-A': 'b' } })).text, /X-A: b/);
  await fails(mayfly.call('web', undefined, { path: '/status?code=418' }), { status: 418, kind: 'failed' }, mayfly.CallError);
  await fails(mayfly.call('fails'), { kind: 'failed' });
  await fails(mayfly.call('nothing'), { kind: 'not-found' });
  const many = await Promise.all(Array.from({ length: 60 }, (_, i) => mayfly.call('cat', String(i))));
  assert.deepEqual(many.map((a) => a.text), Array.from({ length: 60 }, (_, i) => String(i)));
});

test('results of tasks', async () => {
  const task = await mayfly.submit('cat', { n: 1 }, { labels: { test: 'result' }, priority: 7 });
  assert.deepEqual([task.workload, task.labels, task.priority], ['cat', { test: 'result' }, 7]);
  assert.equal((await mayfly.result(task, { timeout: 60 })).toString(), '{"n":1}');
  assert.equal((await mayfly.get(task)).state, 'succeeded');
  assert.deepEqual(await mayfly.result(await mayfly.submit('cat', Buffer.from([0, 255]))), Buffer.from([0, 255]));
  for (const large of [Buffer.alloc(3_000_000), 'ü'.repeat(900_000), Array(500_000).fill('y')]) {
    const task = await mayfly.submit('cat', large);
    assert.equal(task.size, Buffer.byteLength(Array.isArray(large) ? JSON.stringify(large) : large));
    assert.equal((await mayfly.wait(task)).cut, true);
  }
  const tasks = await mayfly.submitAll(Array.from({ length: 20 }, (_, i) => ({ workload: 'cat', payload: String(i) })));
  assert.deepEqual((await mayfly.results(tasks)).map(String), Array.from({ length: 20 }, (_, i) => String(i)));
  assert.deepEqual(await mayfly.submitAll([]), []);
  const image = await mayfly.submit(undefined, 'in', { image: IMAGE, argv: ['sh', '-c', 'echo $A; cat'], env: { A: 'b' }, timeout: 60 });
  assert.equal((await mayfly.result(image)).toString(), 'b\nin');
});

test('tasks that fail', async () => {
  const task = await mayfly.submit('fails');
  await assert.rejects(mayfly.result(task), (e) => e instanceof mayfly.TaskError && e.task.id === task.id && e.exit.code === 3 && e.kind === 'failed');
  const logs = await collect(mayfly.logs(task));
  assert.equal(logs.filter((e) => e.stream === 'stderr').map((e) => e.data).join(''), 'oops\n');
  await fails(mayfly.submit('nothing'), { kind: 'not-found' });
  await fails(mayfly.submit('cat', 'x', { priority: 10 }), { kind: 'invalid' });
  await fails(mayfly.submit('cat', 'x', { colour: 'blue' }), { kind: 'invalid' });
});

test('the same key is the same task', async () => {
  const one = await mayfly.submit('cat', 'x', { key: 'js-key' });
  const two = await mayfly.submit('cat', 'x', { key: 'js-key' });
  assert.deepEqual([two.id, one.created, two.created], [one.id, true, false]);
  await fails(mayfly.submit('cat', 'y', { key: 'js-key' }), { kind: 'conflict' });
});

test('wait, watch and cancel', async () => {
  const task = await mayfly.submit('slow');
  await fails(mayfly.wait(task, { timeout: 0.2 }), { kind: 'timed-out' });
  const states = [];
  for await (const seen of mayfly.watch(task)) {
    states.push(seen.state);
    if (seen.state === 'running') await mayfly.cancel(task);
  }
  assert.deepEqual(states.slice(-2), ['running', 'cancelled']);
  const at = new Date(Date.now() + 3600_000);
  for (const later of [await mayfly.submit('cat', 'x', { at }), await mayfly.submit('cat', 'x', { delay: 3600 })]) {
    assert.equal(later.state, 'queued');
    assert.ok(new Date(later.notBefore) - at >= -1 && new Date(later.notBefore) - 3600_000 <= Date.now() + 1, later.notBefore);
    assert.equal((await mayfly.cancel(later)).state, 'cancelled');
  }
});

test('list', async () => {
  const tasks = await mayfly.submitAll([1, 2, 3].map(() => ({ workload: 'cat', payload: 'x', labels: { test: 'js-list' } })));
  for (const task of tasks) await mayfly.wait(task);
  const found = await collect(client.list({ labels: { test: 'js-list' }, state: 'succeeded' }));
  assert.deepEqual(found.map((t) => t.id).sort(), tasks.map((t) => t.id).sort());
  assert.equal((await collect(client.list({ workload: 'cat', limit: 2 }))).length, 2);
});

test('inside a container', async () => {
  const { results, who } = (await mayfly.call('inside', { do: 'fan', n: 5 })).json();
  assert.deepEqual(results, ['0', '1', '2', '3', '4']);
  assert.equal(who.workload, 'inside');
  assert.equal((await mayfly.call('inside', { do: 'denied' })).text, 'denied');
  const task = await mayfly.submit('inside', { do: 'progress' });
  const seen = (await collect(mayfly.watch(task))).map((t) => t.progress).filter(Boolean);
  assert.ok(seen.some((p) => p.percent === 40 && p.message === 'sorting'), JSON.stringify(seen));
});

test('a daemon that is away', async () => {
  for (const host of ['unix:///nowhere/x.sock', 'http://127.0.0.1:1']) await fails(new mayfly.Client({ host }).get('x'), { kind: 'unavailable' });
  for (const host of ['tcp://x', 'unix://x', 'http://x/path']) assert.throws(() => new mayfly.Client({ host }), { kind: 'invalid' });
});

test('emit', async () => {
  assert.ok(await client.emit('sdk.js', { n: 1 }, { source: '/js', subject: 'für', room: 'kitchen' }));
  assert.equal(await client.emit('sdk.js', Buffer.from([0]), { source: '/js', id: 'js-1' }), 'js-1');
  assert.deepEqual(await mayfly.emitAll([{ type: 'sdk.js', data: 'text', source: '/js', id: 'js-1' }]), ['js-1']);
  await fails(client.emit('sdk.js', 1, { source: '/js', BAD: 'x' }), { kind: 'invalid' });
  await fails(client.emit('sdk.js'), { kind: 'invalid' });
});
