/** What the tests share: a server, clients over raw sockets, and a clock that a test owns. */
import FakeTimers, { type Clock } from '@sinonjs/fake-timers'
import fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import net, { type AddressInfo, type Socket } from 'node:net'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import type { Test } from 'tap'
import sse, { type Broker, type SseOptions } from '../index.ts'

/** A Fastify app with the plugin, not yet listening, closed after the test. */
export async function createApp (
  t: Test, options: SseOptions = {}, serverOptions: FastifyServerOptions = {}
): Promise<FastifyInstance> {
  const app = fastify(serverOptions)
  t.after(() => app.close())
  await app.register(sse, options)
  return app
}

/** Options of an app that writes the lines of its log down, from a level on. */
export function logInto (lines: object[], level = 'debug'): FastifyServerOptions {
  return { logger: { level, stream: { write: (line: string) => { lines.push(JSON.parse(line)) } } } }
}

/** What a process would say of a promise that nobody handles, or of too many listeners. */
export function noteProcess (t: Test): unknown[] {
  const noted: unknown[] = []
  const note = (what: unknown) => { noted.push(what) }
  for (const event of ['warning', 'unhandledRejection'] as const) {
    process.on(event as 'warning', note)
    t.after(() => process.off(event as 'warning', note))
  }
  return noted
}

/** A broker that does as another one, but for what is changed. */
export function brokerWith (inner: Broker, changed: Partial<Broker>): Broker {
  return {
    open: (...args) => inner.open(...args),
    append: (...args) => inner.append(...args),
    close: (...args) => inner.close(...args),
    read: (...args) => inner.read(...args),
    listen: (...args) => inner.listen(...args),
    ...changed
  }
}

/** Makes the app listen on a free port of 127.0.0.1. */
export async function listen (app: { listen (options: object): Promise<string>, server: unknown }): Promise<number> {
  await app.listen({ port: 0, host: '127.0.0.1' })
  return ((app.server as net.Server).address() as AddressInfo).port
}

/** A client that is nothing but a socket: what it sends and receives is exact to the byte. */
export class RawClient {
  readonly socket: Socket
  /** All that was received, a character for each byte. */
  received = ''
  closed = false

  constructor (port: number) {
    this.socket = net.connect(port, '127.0.0.1')
    this.socket.setEncoding('latin1')
    this.socket.on('data', (text: string) => { this.received += text })
    this.socket.on('error', () => {})
    this.socket.on('close', () => { this.closed = true })
  }

  /** A GET request; `headers` are whole lines. */
  get (path: string, ...headers: string[]): this {
    return this.send([`GET ${path} HTTP/1.1`, 'Host: test', ...headers, '', ''].join('\r\n'))
  }

  send (text: string): this {
    this.socket.write(text, 'latin1')
    return this
  }

  /** Waits until the received text has this in it, however often it arrives in pieces. */
  async until (text: string | RegExp): Promise<string> {
    await until(() => typeof text === 'string' ? this.received.includes(text) : text.test(this.received),
      () => `'${text}' in ${JSON.stringify(this.received.slice(-500))}`)
    return this.received
  }

  async untilClosed (): Promise<string> {
    if (!this.closed) await once(this.socket, 'close')
    return this.received
  }

  /** The head of the first response. */
  get head (): string {
    return this.received.slice(0, this.received.indexOf('\r\n\r\n'))
  }

  /** The body of the first response, as UTF-8, its chunks joined. */
  get body (): string {
    const raw = this.received.slice(this.received.indexOf('\r\n\r\n') + 4)
    return Buffer.from(/transfer-encoding: chunked/i.test(this.head) ? unchunk(raw) : raw, 'latin1').toString()
  }

  destroy (): void {
    this.socket.destroy()
  }
}

/** A client that is gone after the test. */
export function connect (t: Test, port: number): RawClient {
  const client = new RawClient(port)
  t.after(() => client.destroy())
  return client
}

/** Breaks a connection off by a RST. A socket that is ending Node would close in part, and never tell: it is destroyed. */
export function reset (socket: Socket): void {
  if (socket.writableEnded) socket.destroy()
  else socket.resetAndDestroy()
}

/** The body of a whole response to a GET request, read until it is complete. */
export async function fetchBody (t: Test, port: number, path: string, ...headers: string[]): Promise<string> {
  const client = connect(t, port).get(path, ...headers)
  await client.until(/\r\n\r\n[^]*(^|\n)0\r\n\r\n$/)
  client.destroy()
  return client.body
}

function unchunk (text: string): string {
  let body = ''
  let at = 0
  for (;;) {
    const lineEnd = text.indexOf('\r\n', at)
    const size = parseInt(text.slice(at, lineEnd), 16)
    if (lineEnd === -1 || !(size > 0)) return body
    body += text.slice(lineEnd + 2, lineEnd + 2 + size)
    at = lineEnd + 2 + size + 2
  }
}

/** Turns of the event loop until the condition holds; fails with what was waited for after 10 s. */
export async function until (condition: () => boolean, what: () => string = () => String(condition)): Promise<void> {
  const deadline = process.hrtime.bigint() + 10_000_000_000n
  while (!condition()) {
    if (process.hrtime.bigint() > deadline) throw new Error(`waited 10 s for ${what()}`)
    await new Promise((resolve) => setImmediate(resolve))
  }
}

/** Lets the event loop turn, so that what is due now is done; sockets on one machine need a few turns. */
export async function turns (count = 20): Promise<void> {
  for (let turn = 0; turn < count; turn++) await new Promise((resolve) => setImmediate(resolve))
}

/** A clock that stands still until the test moves it: timers and performance.now(), not the sockets'. */
export function ownClock (t: Test): Clock {
  const clock = FakeTimers.install({ toFake: ['setTimeout', 'clearTimeout', 'performance', 'Date'] })
  t.after(() => clock.uninstall())
  return clock
}

/** How many file descriptors this process may have. */
export function descriptors (): number {
  const limit = execFileSync('/bin/sh', ['-c', 'ulimit -n'], { encoding: 'utf8' }).trim()
  return limit === 'unlimited' ? Infinity : Number(limit)
}

/** Notes when a promise settles. */
export function watch (promise: PromiseLike<unknown>) {
  const state = { settled: false }
  promise.then(() => { state.settled = true }, () => { state.settled = true })
  return state
}

/** A promise and what settles it. */
export function deferred<T = void> () {
  let resolve!: (value: T) => void
  let reject!: (error: unknown) => void
  const promise = new Promise<T>((_resolve, _reject) => { resolve = _resolve; reject = _reject })
  return { promise, resolve, reject }
}

/** A source that yields what it is given, then waits until it is stopped; it knows how it ended. */
export function idleSource (...events: unknown[]) {
  const state = { started: false, aborted: false, finished: false }
  async function * source ({ signal }: { signal: AbortSignal }) {
    state.started = true
    try {
      for (const event of events) yield event as { data: unknown }
      await new Promise<void>((resolve) => signal.addEventListener('abort', () => { state.aborted = true; resolve() }))
    } finally {
      state.finished = true
    }
  }
  return { state, source }
}

/** Checks all that a client was given: fails at once where that is something else, after 2 s where nothing more comes. */
export async function given (t: Test, client: RawClient, expected: string, message = 'all of it'): Promise<void> {
  let received = -1
  let deadline = 0n
  for (;;) {
    // Half a character may be there.
    const isComing = client.body.length < expected.length && expected.startsWith(client.body.replace(/\uFFFD$/, ''))
    if (client.received.includes('\r\n\r\n') && !isComing) break
    const now = process.hrtime.bigint()
    if (client.received.length > received) [received, deadline] = [client.received.length, now + 2_000_000_000n]
    if (now > deadline) break
    await turns(1)
  }
  await turns()
  t.equal(client.body, expected, message)
}

/** Reads on until the end, and shows what was read so far. */
export function readOn<Event> (source: AsyncIterable<Event>) {
  const seen: Event[] = []
  const result: { done: boolean, error?: any } = { done: false }
  const ended = (async () => {
    for await (const event of source) seen.push(event)
  })()
  ended.catch((error: unknown) => { result.error = error }).finally(() => { result.done = true })
  return { seen, result, ended }
}

/** All that there is to be read. */
export async function readAll<Event> (source: AsyncIterable<Event>): Promise<Event[]> {
  const { seen, ended } = readOn(source)
  await ended
  return seen
}

export function dataOf (events: readonly { data?: unknown }[]): unknown[] {
  return events.map(({ data }) => data)
}

setFlagsFromString('--expose-gc')

/** Collects garbage, once. */
export const gc = runInNewContext('gc') as () => void

/** Collects garbage, until what finalizers let go of is gone too. */
export async function collect (): Promise<void> {
  for (let round = 0; round < 4; round++) {
    gc()
    await turns(5)
  }
}
