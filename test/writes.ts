/**
 * For tests of the way to a socket: feeds of both kinds, and an app that says what is written to its sockets.
 */
import type { FastifyInstance, FastifyReply, FastifyRequest, FastifyServerOptions } from 'fastify'
import assert from 'node:assert/strict'
import type { ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import t, { type Test } from 'tap'
import type { SseOptions } from '../index.ts'
import type { StreamOptions } from '../lib/options.ts'
import { connect, createApp, given, turns, type RawClient } from './helpers.ts'

/** What fills a stream, and all that it has been given. */
export interface Feed {
  readonly kind: 'a channel' | 'a source'
  readonly sent: string
  send (text: string): Promise<void>
}

export interface FeedOptions {
  prepare?: (reply: FastifyReply, request: FastifyRequest) => void
  stream?: StreamOptions
}

export type MakeFeed = (app: FastifyInstance, path?: string, options?: FeedOptions) => Promise<Feed>

/** Events that many clients may share: bytes. */
export const ofChannel: MakeFeed = async (app, path = '/', { prepare, stream } = {}) => {
  const channel = app.sse.channel(path, { history: { events: 10_000, bytes: 100_000_000 } })
  let sent = `id: ${await channel.publish({ raw: 'before' })}\n\n`
  app.get(path, (request, reply) => {
    prepare?.(reply, request)
    return reply.sse(channel, stream)
  })
  return {
    kind: 'a channel',
    get sent () { return sent },
    async send (text) {
      const id = await channel.publish({ raw: text })
      sent += `id: ${id}\ndata: ${text}\n\n`
    }
  }
}

/** Events for one client alone: text. */
export const ofSource: MakeFeed = async (app, path = '/', { prepare, stream } = {}) => {
  let sent = ''
  const queue: string[] = []
  let wake = () => {}
  async function * source ({ signal }: { signal: AbortSignal }) {
    signal.addEventListener('abort', () => wake())
    while (!signal.aborted) {
      while (queue.length > 0) yield { raw: queue.shift()! }
      await new Promise<void>((resolve) => { wake = resolve })
    }
  }
  app.get(path, (request, reply) => {
    prepare?.(reply, request)
    return reply.sse(source, stream)
  })
  return {
    kind: 'a source',
    get sent () { return sent },
    async send (text) {
      queue.push(text)
      sent += `data: ${text}\n\n`
      wake()
    }
  }
}

/** One test for each kind of feed. */
export function eachFeed (name: string, run: (t: Test, makeFeed: MakeFeed) => Promise<void>): void {
  t.test(`${name}: a channel`, (t) => run(t, ofChannel))
  t.test(`${name}: a source`, (t) => run(t, ofSource))
}

/** An app that says what is written to its sockets, write by write, a character for each byte. */
export async function start (t: Test, serverOptions: object = {}, options: SseOptions = {}) {
  const app = await createApp(t, { keepAlive: false, ...options }, serverOptions as FastifyServerOptions)
  const writes: string[] = []
  const faults: unknown[] = []
  app.server.on('https' in serverOptions ? 'secureConnection' : 'connection', (socket: Socket) => {
    const { write } = socket
    socket.write = function spy (this: Socket, ...args: any[]) {
      const [data, encoding] = args
      writes.push((typeof data === 'string' ? Buffer.from(data, encoding) : Buffer.from(data)).toString('latin1'))
      return write.apply(this, args as never)
    } as Socket['write']
  })
  app.server.on('clientError', (error) => { faults.push(error) })
  const note = (error: unknown) => { faults.push(error) }
  process.on('uncaughtExceptionMonitor', note)
  t.after(() => { process.removeListener('uncaughtExceptionMonitor', note) })
  return {
    app,
    writes,
    /** Errors that Node has told the server, or nobody. */
    faults,
    /** What went to a socket as a whole chunk, since it was asked for last. */
    short (): string[] {
      return writes.splice(0).filter(isWholeChunk)
    }
  }
}

export function isWholeChunk (text: string): boolean {
  const size = parseInt(/^([0-9a-f]+)\r\n/.exec(text)?.[1] ?? '0', 16)
  return size > 0 && text === chunkOf(text.slice(text.indexOf('\r\n') + 2, -2))
}

/** A chunk of these bytes: RFC 9112, section 7.1. */
export function chunkOf (bytes: string): string {
  return `${bytes.length.toString(16)}\r\n${bytes}\r\n`
}

/** The chunks of the first response, and what comes after the last one. Throws where they are not well-formed. */
export function parse (client: RawClient): { chunks: string[], isEnded: boolean, rest: string } {
  assert.match(client.head, /^transfer-encoding: chunked$/im)
  const chunks: string[] = []
  let rest = client.received.slice(client.head.length + 4)
  while (rest !== '') {
    const [line, digits] = /^([0-9a-f]+)\r\n/.exec(rest) ?? assert.fail(`no size of a chunk: ${JSON.stringify(rest.slice(0, 100))}`)
    const size = parseInt(digits!, 16)
    if (size === 0) {
      const trailers = /^0\r\n(?:[^\r\n]+\r\n)*\r\n/.exec(rest) ?? assert.fail(`no end: ${JSON.stringify(rest.slice(0, 100))}`)
      return { chunks, isEnded: true, rest: rest.slice(trailers[0].length) }
    }
    chunks.push(rest.slice(line!.length, line!.length + size))
    assert.equal(rest.slice(line!.length + size, line!.length + size + 2), '\r\n', 'CRLF after a chunk')
    rest = rest.slice(line!.length + size + 2)
  }
  return { chunks, isEnded: false, rest }
}

export const bytesOf = (text: string) => Buffer.from(text).toString('latin1')

/** Checks all that a client was given, to the byte: its chunks are well-formed and are this. */
export async function gets (t: Test, client: RawClient, expected: string, message = 'all of it, in order'): Promise<void> {
  await given(t, client, expected, message)
  t.equal(parse(client).chunks.join(''), bytesOf(expected), 'in well-formed chunks')
}

/** A client whose stream has begun, and whatever it begins with is there. */
export async function opened (t: Test, port: number, feed: Feed, path = '/', ...headers: string[]): Promise<RawClient> {
  const client = connect(t, port).get(path, ...headers)
  await client.until('\r\n\r\n')
  await given(t, client, feed.sent)
  await turns()
  return client
}

/** Three events, each in a turn of its own. */
export async function sendSome (feed: Feed): Promise<void> {
  for (const text of ['one', 'zwei: äöü €', '3']) {
    await feed.send(text)
    await turns()
  }
}

export const only = (app: FastifyInstance) => [...app.sse.connections][0]!

export const responseOf = (app: FastifyInstance) => responses.get(only(app).request.raw) as ServerResponse
export const responses = new WeakMap<object, unknown>()

/** Writes down the response of each request. */
export function noteResponses (app: FastifyInstance): void {
  app.addHook('onRequest', async (request, reply) => { responses.set(request.raw, reply.raw) })
}
