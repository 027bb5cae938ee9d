// Calls a handler for each request that comes over HTTP.
//
//     node mayfly_loader.mjs FILE.FUNCTION [FOLDER]
//
// The folder (/app if not given) holds FILE.mjs, FILE.js or FILE.cjs; its
// FUNCTION is called with (event, context) and may be async. The requests come
// from the platform alone, over 127.0.0.1 at $PORT.

import { createServer } from 'node:http'
import { connect } from 'node:net'
import { existsSync, writeSync } from 'node:fs'
import { join } from 'node:path'

const TEXT = 'text/plain; charset=utf-8'

// Context is what a handler knows about its run. deadline is in milliseconds
// since the epoch, as Date.now() counts, or null when there is none. cloudevent
// has the attributes of the event that it runs for, by their names, or is null.
class Context {
  constructor (headers) {
    this.run = headers['x-mayfly-run'] ?? ''
    this.attempt = number(headers['x-mayfly-attempt']) || 1
    this.deadline = number(headers['x-mayfly-deadline'])
    this.workload = headers['x-mayfly-workload'] ?? ''
    this.space = headers['x-mayfly-space'] ?? ''
    this.cloudevent = 'ce-specversion' in headers ? attributes(headers) : null
  }

  // remaining returns the milliseconds until the deadline, never below 0; null
  // without one.
  remaining () {
    return this.deadline === null ? null : Math.max(0, this.deadline - Date.now())
  }
}

// attributes are those of an event in binary mode.
function attributes (headers) {
  const found = {}
  for (const [name, value] of Object.entries(headers)) {
    if (!name.startsWith('ce-')) continue
    try {
      found[name.slice(3)] = decodeURIComponent(value)
    } catch {
      found[name.slice(3)] = value
    }
  }
  if ('content-type' in headers) found.datacontenttype = headers['content-type']
  return found
}

class BadRequest extends Error {}

function number (text) {
  if (!text) return null
  if (!/^\d+$/.test(text)) throw new BadRequest('an X-Mayfly header is not a number')
  return Number(text)
}

// decode makes the event: the decoded JSON where the request says it is JSON,
// or says nothing and it is; a Buffer otherwise.
function decode (headers, body) {
  const kind = (headers['content-type'] ?? '').split(';')[0].trim().toLowerCase()
  if (body.length === 0) return body
  if (kind === 'application/json' || kind.endsWith('+json')) {
    try {
      return JSON.parse(utf8(body))
    } catch (e) {
      throw new BadRequest('the body is not JSON: ' + e.message)
    }
  }
  // curl -d says that it sends a form, whatever it sends; a true form never
  // begins with a bracket.
  const bracket = body[0] === 0x7b || body[0] === 0x5b
  if (kind === '' || (kind === 'application/x-www-form-urlencoded' && bracket)) {
    try {
      return JSON.parse(utf8(body))
    } catch {}
  }
  return body
}

function utf8 (body) {
  return new TextDecoder('utf-8', { fatal: true }).decode(body)
}

// encode makes status, content type and body of what a handler returned.
function encode (value) {
  if (value === undefined || value === null) return [204, '', '']
  if (typeof value === 'string') return [200, TEXT, Buffer.from(value)]
  if (ArrayBuffer.isView(value)) {
    return [200, 'application/octet-stream', Buffer.from(value.buffer, value.byteOffset, value.byteLength)]
  }
  if (value instanceof ArrayBuffer) return [200, 'application/octet-stream', Buffer.from(value)]
  const text = JSON.stringify(value)
  if (text === undefined) throw new TypeError(`a ${typeof value} cannot be returned as JSON`)
  return [200, 'application/json', Buffer.from(text)]
}

// report prints the error with its stack, without our own frames, and returns
// its first line.
function report (error) {
  let line
  try {
    line = error instanceof Error ? String(error) : 'Error: ' + String(error)
    const stack = error instanceof Error && error.stack ? error.stack : line
    const ours = import.meta.url
    complain(stack.split('\n').filter(l => !l.includes(ours) && !l.includes('(node:internal')).join('\n'))
  } catch {
    line = 'Error'
  }
  return line.split('\n')[0]
}

function complain (text) {
  try {
    writeSync(2, text + '\n')
  } catch {}
}

function fail (text) {
  complain('mayfly: ' + text)
  process.exit(1)
}

async function load (name, folder) {
  const dot = name.lastIndexOf('.')
  const file = name.slice(0, dot)
  const fn = name.slice(dot + 1)
  if (dot < 1 || fn === '') fail(`handler "${name}" is not FILE.FUNCTION, as in index.handle`)
  const path = ['.mjs', '.js', '.cjs'].map(ext => join(folder, file + ext)).find(existsSync)
  if (!path) fail(`handler ${name}: there is no ${file}.mjs or ${file}.js in ${folder}`)
  process.argv = [process.argv[0], path]
  const write = process.stdout.write
  process.stdout.write = process.stderr.write.bind(process.stderr) // what a module prints is no task's result
  const module = await import(path)
  process.stdout.write = write
  const handle = module[fn] ?? module.default?.[fn]
  if (typeof handle !== 'function') fail(`handler ${name}: ${path} exports no function ${fn}`)
  return handle
}

async function serve (handle, req, res) {
  const parts = []
  for await (const part of req) parts.push(part)
  let event, context
  try {
    event = decode(req.headers, Buffer.concat(parts))
    context = new Context(req.headers)
  } catch (e) {
    return answer(res, 400, TEXT, Buffer.from(e.message))
  }
  if (req.headers['x-mayfly-detached']) return detached(handle, event, context, res)
  let outcome
  try {
    outcome = encode(await handle(event, context))
  } catch (e) {
    res.setHeader('X-Mayfly-Error', '1')
    outcome = [500, TEXT, Buffer.from(report(e))]
  }
  answer(res, ...outcome)
}

// detached runs a task that needs no connection: what the handler returns is
// the program's output, and what it prints goes to stderr.
async function detached (handle, event, context, res) {
  answer(res, 202, '', '')
  process.stdout.write = process.stderr.write.bind(process.stderr)
  let code = 0
  try {
    let body = Buffer.from(encode(await handle(event, context))[2])
    while (body.length > 0) body = body.subarray(write(body))
  } catch (e) {
    report(e)
    code = 1
  }
  process.exit(code)
}

// write writes what the pipe takes of a result.
function write (body) {
  for (;;) {
    try {
      return writeSync(1, body)
    } catch (e) {
      if (e.code !== 'EAGAIN') throw e
    }
  }
}

function answer (res, status, kind, body) {
  res.sendDate = false
  if (kind) res.setHeader('Content-Type', kind)
  if (status !== 204) res.setHeader('Content-Length', body.length)
  res.writeHead(status)
  res.end(body)
}

async function main (name, folder = '/app') {
  const port = Number(process.env.PORT || 8080)
  let handle
  try {
    handle = await load(name, folder)
  } catch (e) {
    report(e)
    process.exit(1)
  }
  const server = createServer((req, res) => {
    serve(handle, req, res).catch(() => res.destroy()) // the platform has gone away
  })
  server.keepAliveTimeout = 0 // the platform decides how long a connection lives
  server.requestTimeout = 0
  server.headersTimeout = 0
  await warm()
  server.on('error', e => fail(`cannot listen at 127.0.0.1:${port}: ${e.message}`))
  server.listen(port, '127.0.0.1', 128)
}

// warm sends one request through everything but the handler, so that the first
// true one does not wait for what Node loads and compiles lazily (about 8 ms).
function warm () {
  return new Promise(resolve => {
    const server = createServer((req, res) => {
      serve((event, context) => ({ event, context }), req, res).catch(() => res.destroy())
    })
    server.on('error', resolve)
    const name = `\0mayfly-loader-${process.pid}`
    server.listen(name, () => {
      const client = connect(name)
      client.on('data', () => client.destroy())
      client.on('error', () => {})
      client.on('close', () => server.close(resolve))
      client.write('POST / HTTP/1.1\r\nHost: mayfly\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}')
    })
  })
}

if (process.argv.length < 3 || process.argv.length > 4) {
  fail('use: mayfly_loader.mjs FILE.FUNCTION [FOLDER]')
} else {
  main(...process.argv.slice(2))
}
