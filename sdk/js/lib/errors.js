// What can go wrong. Every error carries a kind of a closed list.

/** The kinds. Only these are to be branched on, never a text. */
export const KINDS = Object.freeze([
  'invalid', // the request is wrong and will stay wrong
  'denied', // the caller may not do this
  'not-found',
  'conflict', // it exists, is in use, or was changed meanwhile
  'too-large',
  'busy', // no room now; try again later
  'failed', // the user's program failed
  'unavailable', // the daemon, or a part of it, is away
  'timed-out',
  'internal', // a defect of Mayfly's, or of the machine
]);

const kindOfStatus = { 400: 'invalid', 403: 'denied', 404: 'not-found', 409: 'conflict', 413: 'too-large', 429: 'busy', 502: 'failed', 503: 'unavailable', 504: 'timed-out' };

/** A failure, with its kind and, where there is one, what to do about it. */
export class MayflyError extends Error {
  constructor(kind, text, { hint = '', run = '', retryAfter, cause } = {}) {
    super(hint ? `${text}; ${hint}` : text, cause ? { cause } : undefined);
    this.name = this.constructor.name;
    this.kind = kind;
    this.hint = hint;
    this.run = run;
    this.retryAfter = retryAfter;
  }
}

/** A program of run() that ended otherwise than with 0. */
export class ContainerError extends MayflyError {
  constructor(container, exit, command, image, stderr) {
    let text = `${Array.isArray(command) ? command.map(quote).join(' ') : command} in ${image} ended with exit status ${exit.code}`;
    if (exit.detail) text += ` (${exit.detail})`;
    else if (exit.reason !== 'failed') text += ` (${exit.reason})`;
    const last = stderr.toString().trim();
    if (last) text += `: ${last}`;
    super(exit.reason === 'timed-out' ? 'timed-out' : 'failed', text);
    this.container = container;
    this.exitStatus = exit.code;
    this.reason = exit.reason;
    this.command = command;
    this.image = image;
    this.stderr = stderr;
  }
}

/** A task whose result was asked for and that did not succeed. */
export class TaskError extends MayflyError {
  constructor(task) {
    const exit = exitOf(task);
    super(task.state === 'timed-out' ? 'timed-out' : 'failed', `task ${task.id} is ${task.state}${exit ? `: ${exit.detail || `exit status ${exit.code}`}` : ''}`);
    this.task = task;
    this.exit = exit;
  }
}

/** A function that answered a call with a status of 400 or more. */
export class CallError extends MayflyError {
  constructor(answer) {
    const text = answer.body.subarray(0, 200).toString().trim();
    super('failed', `the function answered ${answer.status}${text ? `: ${text}` : ''}`, { run: answer.run });
    this.answer = answer;
    this.status = answer.status;
  }
}

/** How the last attempt of a task ended. */
export function exitOf(task) {
  return [...(task.attempts ?? [])].reverse().find((a) => a.exit)?.exit;
}

/** The error that an answer stands for. */
export function fromProblem(status, problem, retryAfter) {
  const seconds = retryAfter ? Number(retryAfter) : undefined;
  const kind = kindOfStatus[status] ?? (status >= 400 && status < 500 ? 'invalid' : 'internal');
  if (typeof problem?.detail !== 'string') return new MayflyError(kind, `the daemon answered ${status}`, { retryAfter: seconds });
  return new MayflyError(problem.kind || kind, problem.detail, { hint: problem.hint, run: problem.run, retryAfter: seconds });
}

function quote(word) {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${String(word).replaceAll("'", `'\\''`)}'`;
}
