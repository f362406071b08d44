/** Streams of every kind, for clients that keep to no rule. */
import type { FastifyInstance, FastifyReply } from 'fastify'
import type { EventEmitter } from 'node:events'
import type { SseChannel } from '../../index.ts'
import { turns } from '../helpers.ts'

/** What no client may learn. */
export const SECRET = 'the secret of an error'

/** All that `/short` gives. */
export const SHORT = 'data: 1\n\ndata: 2\n\ndata: 3\n\n'

const METHODS = ['GET', 'POST', 'PUT', 'DELETE', 'OPTIONS']

type Context = { signal: AbortSignal, lastEventId: string | undefined }

async function * idle ({ signal }: Context) {
  yield { data: 'idle' }
  await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()))
}

async function * short () {
  for (let n = 1; n <= 3; n++) {
    yield { data: n }
    await turns(1)
  }
}

/** @returns the channel of `/news`, and how many sources have been started and finished */
export function addRoutes (app: FastifyInstance): { news: SseChannel<any>, sources: { started: number, finished: number } } {
  const news = app.sse.channel('news', { history: { events: 5, bytes: 1e6 } }) as SseChannel<any>
  const sources = { started: 0, finished: 0 }

  function counted (source: (context: Context) => AsyncIterable<object>) {
    return async function * (context: Context) {
      sources.started++
      try {
        yield * source(context)
      } finally {
        sources.finished++
      }
    }
  }

  const streams: Record<string, (reply: FastifyReply) => unknown> = {
    '/news': (reply) => reply.sse(news),
    '/compressed': (reply) => reply.sse(news, { compress: true }),
    '/filtered': (reply) => reply.sse(news.subscribe({ after: 'earliest', filter: ({ data }: any) => data.n % 2 === 0 } as object)),
    '/idle': (reply) => reply.sse(counted(idle)),
    '/short': (reply) => reply.sse(counted(short), { keepAlive: false, writeTimeout: false }),
    '/finite': (reply) => reply.sse(counted(short), { finite: true }),
    '/quick': (reply) => reply.sse(counted(idle), { maxDuration: { min: 1, max: 50 } }),
    '/flood': (reply) => reply.sse(counted(async function * () {
      for (;;) yield { raw: 'x'.repeat(65_536) }
    })),
    '/echo': (reply) => reply.sse(counted(async function * ({ lastEventId = 'none' }) {
      yield { id: lastEventId, comment: lastEventId, data: lastEventId }
    })),
    '/throws': (reply) => reply.sse(counted(async function * () {
      yield { data: 1 }
      await turns(2)
      throw new Error(SECRET)
    })),
    '/refuses': (reply) => reply.sse(counted(async function * (): AsyncGenerator<object> {
      throw Object.assign(new Error('not here'), { statusCode: 403 })
    })),
    '/slow': async (reply) => {
      await turns(3)
      return reply.sse(counted(idle))
    }
  }
  for (const [url, stream] of Object.entries(streams)) {
    app.route({ url, method: METHODS, handler: async (_, reply) => stream(reply) })
  }
  app.get('/plain', async () => 'ok')
  app.get('/listeners', async ({ raw: { socket } }) => listenersOf(socket))
  return { news, sources }
}

export const PATHS = [
  '/news', '/compressed', '/filtered', '/idle', '/short', '/finite', '/quick', '/flood', '/echo', '/throws', '/refuses', '/slow'
]

export function listenersOf (emitter: EventEmitter): Record<string, number> {
  return Object.fromEntries(emitter.eventNames().map((name) => [String(name), emitter.listenerCount(name)]))
}

/** What keeps the process alive, by kind, beside what the test itself runs with: sockets among it are those of clients, too. */
export function resources (): Record<string, number> {
  const counts: Record<string, number> = {}
  for (const kind of process.getActiveResourcesInfo()) {
    if (kind !== 'Immediate' && kind !== 'TCPSocketWrap') counts[kind] = (counts[kind] ?? 0) + 1
  }
  return counts
}
