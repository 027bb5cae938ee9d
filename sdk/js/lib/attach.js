// The streams of a program over an upgraded connection.

import { MayflyError, fromProblem } from './errors.js';
import { problemOf, targetOf } from './transport.js';

const PROTOCOL = 'mayfly-attach/1';
const MAX_FRAME = 1 << 16;
const HEADER = 5;

export const STDIN = 0;
export const STDOUT = 1;
export const STDERR = 2;
export const EXIT = 3;
const ERROR = 4;

/** A connection to the streams of an instance. Attach before starting it, and nothing is missed. */
export class Attachment {
  static async open(transport, ref, stdin, space, signal) {
    const target = targetOf(['instances', ref, 'attach'], { stdin, space });
    const headers = { Connection: 'Upgrade', Upgrade: PROTOCOL };
    const got = await transport.open('POST', target, { headers, upgrade: true, timeout: 0, signal });
    if (!got.socket) throw problemOf(got, await transport.read(got, 1 << 20));
    if (got.response.headers.upgrade !== PROTOCOL) {
      got.socket.destroy();
      throw new MayflyError('internal', `the daemon at ${transport.host} does not speak ${PROTOCOL}`);
    }
    return new Attachment(transport, got.socket, got.head);
  }

  constructor(transport, socket, head) {
    this.transport = transport;
    this.socket = socket;
    this.head = head;
    socket.setTimeout(0);
    socket.on('error', () => {}); // frames() sees it, or nobody reads any more
  }

  /** Sends input, and its end. */
  async feed(stdin) {
    try {
      for await (const piece of typeof stdin === 'string' || stdin instanceof Uint8Array ? [stdin] : stdin) {
        const data = Buffer.from(piece);
        for (let i = 0; i < data.length; i += MAX_FRAME) await this.write(data.subarray(i, i + MAX_FRAME));
      }
      await this.write(Buffer.alloc(0));
    } catch {
      // the program may end before its input does
    }
  }

  write(data) {
    const header = Buffer.alloc(HEADER);
    header[0] = STDIN;
    header.writeUInt32BE(data.length, 1);
    return new Promise((resolve, reject) => {
      this.socket.write(Buffer.concat([header, data]), (e) => (e ? reject(e) : resolve()));
    });
  }

  /** Yields [STDOUT or STDERR, bytes] and, last, [EXIT, the ended instance]. */
  async *frames() {
    let buffer = this.head;
    const pieces = this.socket[Symbol.asyncIterator]();
    const exactly = async (n) => {
      const parts = [buffer];
      for (let size = buffer.length; size < n; ) {
        const { value, done } = await pieces.next();
        if (done) throw new Error('the stream broke off');
        parts.push(value);
        size += value.length;
      }
      const all = parts.length === 1 ? buffer : Buffer.concat(parts);
      buffer = all.subarray(n);
      return all.subarray(0, n);
    };
    try {
      for (;;) {
        const header = await exactly(HEADER);
        const [stream, size] = [header[0], header.readUInt32BE(1)];
        if (size > MAX_FRAME || stream < STDOUT || stream > ERROR) throw new MayflyError('internal', 'the daemon sent something that is no frame');
        const data = await exactly(size);
        if (stream === ERROR) {
          const problem = JSON.parse(data.toString());
          throw fromProblem(problem.status, problem);
        }
        if (stream === EXIT) {
          yield [stream, JSON.parse(data.toString())];
          return;
        }
        yield [stream, data];
      }
    } catch (e) {
      throw this.transport.lost(e);
    } finally {
      this.close();
    }
  }

  /** Ends the connection. The program goes on. */
  close() {
    this.socket.destroy();
  }
}
