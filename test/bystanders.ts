/** A server on which something goes wrong, and others on it who must not notice. */
import type { FastifyInstance, FastifyServerOptions } from 'fastify'
import type { Test } from 'tap'
import type { SseChannel, SseEvent, SseOptions } from '../index.ts'
import { createStats, type EndReason } from '../lib/stats.ts'
import { collect, connect, createApp, given, listen, logInto, turns, until, type RawClient } from './helpers.ts'

export interface Line {
  level: number
  msg: string
  sse?: { reason: EndReason, events: number, ms: number }
  err?: { message: string, type: string }
}

export const WARN = 40

/** What must reach no client. */
export const SECRET = 'the secret of the server'

export class Bystanders {
  readonly app: FastifyInstance
  readonly lines: Line[]
  readonly news: SseChannel<SseEvent | string>
  readonly #closed = createStats().closed
  readonly #held: WeakRef<object>[] = []
  port = 0
  #reader!: RawClient
  #read = ''

  constructor (app: FastifyInstance, lines: Line[]) {
    this.app = app
    this.lines = lines
    this.news = app.sse.channel('news')
    app.get('/news', (_, reply) => reply.sse(this.news))
    app.get('/ordinary', async () => 'as ever')
    app.setErrorHandler((error, request, reply) => {
      request.log.error(error)
      return reply.code(500).send('sorry')
    })
    app.addHook('onRequest', async (request, reply) => {
      if (request.url !== '/news') this.#held.push(new WeakRef(request), new WeakRef(reply))
    })
  }

  /** Listens, and the first of them begins to read. */
  async arrive (t: Test): Promise<number> {
    this.port = await listen(this.app)
    this.#reader = connect(t, this.port).get('/news')
    await this.#reader.until('\n\n')
    this.#read = this.#reader.body
    return this.port
  }

  /** The reader of the news gets the next, and an ordinary request its answer. */
  async areServed (t: Test): Promise<void> {
    const id = await this.news.publish({ data: 'news' })
    this.#read += `id: ${id}\ndata: "news"\n\n`
    await given(t, this.#reader, this.#read, 'a bystander gets every event')
    const client = connect(t, this.port).get('/ordinary')
    await client.until('\r\n\r\nas ever')
    client.destroy()
  }

  /** The streams that went wrong are over, each is counted once, and nobody else has noticed. */
  async haveNotNoticed (t: Test, ...reasons: EndReason[]): Promise<void> {
    for (const reason of reasons) this.#closed[reason]++
    await until(() => this.app.sse.stats().open === 1, () => `the end of the stream, ${reasons.join()}`)
    await this.areServed(t)
    const { open, opened, closed } = this.app.sse.stats()
    t.same({ open, opened, closed }, { open: 1, opened: 1 + sum(this.#closed), closed: this.#closed }, 'each is counted once')
    await until(() => this.app.sse.connections.size === 1)
  }

  /** Of the requests that went wrong nothing is kept. */
  async nothingIsLeft (t: Test): Promise<void> {
    await turns()
    await collect()
    const left = this.#held.filter((reference) => reference.deref() !== undefined).length
    t.ok(left <= 6, `the last requests, at the most: ${left} of ${this.#held.length}`)
  }
}

function sum (counts: Record<string, number>): number {
  return Object.values(counts).reduce((total, count) => total + count)
}

export async function createBystanders (t: Test, options: SseOptions = {}, serverOptions: FastifyServerOptions = {}) {
  const lines: Line[] = []
  return new Bystanders(await createApp(t, options, { ...logInto(lines), ...serverOptions }), lines)
}

/** What says nothing of itself: whoever looks at it gets an exception. */
export function unlookable (): object {
  const refuse = () => { throw new Error(SECRET) }
  return new Proxy({}, { get: refuse, has: refuse, getPrototypeOf: refuse, ownKeys: refuse, getOwnPropertyDescriptor: refuse })
}
