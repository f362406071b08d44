/** What sources, and functions of the application, can do wrong: their stream ends as it should, and nobody else notices. */
import type { FastifyInstance, FastifyReply } from 'fastify'
import { Readable } from 'node:stream'
import t, { type Test } from 'tap'
import type { RunOptions, SseChannel, StreamOptions } from '../index.ts'
import type { EndReason } from '../lib/stats.ts'
import { createBystanders, SECRET, unlookable, WARN, type Line } from './bystanders.ts'
import { connect, turns, until, type RawClient } from './helpers.ts'

/** A line of the log: its message, and that of the error. */
type Said = readonly [message: string | RegExp, error: string | RegExp | undefined]

type Stream = (reply: FastifyReply, app: FastifyInstance) => unknown

interface Fault {
  stream: Stream
  /** What happens once the head is there. */
  act?: (client: RawClient, app: FastifyInstance) => unknown
  /** The whole body, each entry ID as ID; undefined: the answer of the error handler. */
  body?: string | RegExp
  /** Why the stream has ended; undefined: none was opened. */
  reason?: EndReason
  /** What the log has at `warn` and above, the one line or all of them; undefined: nothing. */
  log?: Said | readonly Said[]
}

const secret = () => new Error(SECRET)
const throwing = () => { throw secret() }
const never = () => new Promise<never>(() => {})
const leave = (client: RawClient) => client.destroy()
const ONE = { done: false, value: { data: 1 } } as const
const FAILED: Said = ['event stream failed', SECRET]
const UNLOOKABLE: Said = ['event stream failed (what was thrown cannot be logged)', undefined]

/** Ends all streams but that of the bystander. */
function endAll (app: FastifyInstance): void {
  for (const connection of app.sse.connections) if (connection.request.url !== '/news') connection.end()
}

/** An async iterable of these steps, one after the other; the last one again and again. */
function steps (nexts: (() => unknown)[], rest: object = {}): AsyncIterable<any> {
  let at = 0
  const next = () => nexts[Math.min(at++, nexts.length - 1)]!()
  return { [Symbol.asyncIterator]: () => Object.defineProperties({ next } as any, Object.getOwnPropertyDescriptors(rest)) }
}

const later = <Value>(value: Value) => turns(2).then(() => value)
const failLater = () => turns(2).then(() => { throw secret() })

/** Two events, of which the second is none: the source is still there, and is to be told. */
const stopped = (rest: object): Stream => (reply) =>
  reply.sse(steps([() => later(ONE), () => later({ done: false, value: 5 })], rest))
const INVALID: Omit<Fault, 'stream'> = {
  body: 'data: 1\n\n',
  reason: 'invalid-event',
  log: ['event stream failed', 'Invalid event: expected an object such as { data: … } or a string, got the number 5']
}
const PROMISE = 'onError must return its event itself: a promise comes too late, as the stream ends now'
const LATE: Omit<Fault, 'stream'> = { body: 'data: 1\n\n', reason: 'source-threw', log: FAILED }

/** Of a response: the last chunk, no chunk at all, or the answer of the error handler. */
const END = /(\n0\r\n\r\n|Content-Length: 0\r\n\r\n|sorry)$/

async function run (t: Test, faults: Record<string, Fault>): Promise<void> {
  const bystanders = await createBystanders(t)
  const { app, lines } = bystanders
  const all = Object.entries(faults)
  app.get<{ Params: { n: number } }>('/:n', (request, reply) => all[request.params.n]![1].stream(reply, app))
  await bystanders.arrive(t)
  for (const [n, [name, fault]] of all.entries()) {
    await t.test(name, async (t) => {
      lines.length = 0
      const client = connect(t, bystanders.port).get(`/${n}`)
      await client.until('\r\n\r\n')
      await fault.act?.(client, app)
      await until(() => client.socket.destroyed || END.test(client.received), () => `the end of ${name}: ${client.received}`)
      client.destroy()
      await bystanders.haveNotNoticed(t, ...(fault.reason === undefined ? [] : [fault.reason]))
      check(t, fault, client, lines)
    })
  }
  await bystanders.nothingIsLeft(t)
}

function isOne (log: Said | readonly Said[]): log is Said {
  return !Array.isArray(log[0])
}

function check (t: Test, { body, log }: Fault, client: RawClient, lines: Line[]): void {
  if (body === undefined) t.match(client.received, /^HTTP\/1.1 500 [^]*\r\n\r\nsorry$/)
  else t.match(client.body.replace(/\d{13}-\d+/g, 'ID'), body instanceof RegExp ? body : new RegExp(`^${body}$`))
  t.notMatch(client.received, SECRET, 'the client learns nothing')
  const said = lines.filter(({ level }) => level >= WARN).map(({ msg, err }) => [msg, err?.message])
  const expected = log === undefined ? [] : isOne(log) ? [log] : log
  t.equal(said.length, expected.length, 'the log says each thing once')
  t.match(said, expected, 'the log says what has happened')
}

t.test('a source', async (t) => {
  await run(t, {
    'that never settles, not even its return(), and knows no signal': {
      stream: (reply) => reply.sse(steps([() => later(ONE), never], { return: never })),
      act: (_, app) => endAll(app),
      body: '(data: 1\n\n)?',
      reason: 'ended'
    },
    'that never settles, whose client leaves': {
      stream: (reply) => reply.sse(steps([never], { return: never })),
      act: leave,
      body: '',
      reason: 'client-gone'
    },
    'that yields after return()': {
      stream (reply, app) {
        let returned = false
        const next = async () => {
          await until(() => returned)
          return { done: false, value: { data: SECRET } }
        }
        setTimeout(() => endAll(app), 5)
        return reply.sse(steps([next], { return: async () => { returned = true } }))
      },
      body: '',
      reason: 'ended'
    },
    'whose return() throws': { stream: stopped({ return () { throw secret() } }), ...INVALID },
    'whose return() rejects': { stream: stopped({ return: failLater }), ...INVALID },
    'whose return() never settles': { stream: stopped({ return: never }), ...INVALID },
    'whose return cannot be read': { stream: stopped({ get return () { throw secret() } }), ...INVALID },
    'whose return() gives a thenable that throws': { stream: stopped({ return: () => ({ then () { throw secret() } }) }), ...INVALID },
    'whose return() gives what cannot be looked at': { stream: stopped({ return: unlookable }), ...INVALID },
    'whose next() throws': { stream: (reply) => reply.sse(steps([() => later(ONE), () => { throw secret() }])), ...LATE },
    'whose next() throws at once': { stream: (reply) => reply.sse(steps([() => { throw secret() }])), reason: 'source-threw', log: [SECRET, SECRET] },
    'whose thenable calls back twice': {
      stream: (reply) => reply.sse(steps([
        () => ({ then (resolve: any) { resolve(ONE); resolve({ done: false, value: { data: 2 } }) } }),
        () => ({ then (resolve: any, reject: any) { resolve({ done: true }); reject(secret()) } })
      ])),
      body: 'data: 1\n\n',
      reason: 'source-done'
    },
    'whose thenable throws after it has called back': {
      stream: (reply) => reply.sse(steps([
        () => ({ then (resolve: any) { resolve(ONE); throw secret() } }),
        () => ({ then (resolve: any) { resolve({ done: true }); throw secret() } })
      ])),
      body: 'data: 1\n\n',
      reason: 'source-done'
    },
    'whose then cannot be read': { stream: (reply) => reply.sse(steps([() => later(ONE), () => ({ get then () { throw secret() } })])), ...LATE },
    'whose value cannot be read': { stream: (reply) => reply.sse(steps([() => later(ONE), () => ({ get value () { throw secret() } })])), ...LATE },
    'whose done cannot be read': { stream: (reply) => reply.sse(steps([() => later(ONE), () => ({ get done () { throw secret() } })])), ...LATE },
    'that is done, though it does not say so by true': {
      stream: (reply) => reply.sse(steps([() => later(ONE), () => later({ done: 1 })])), body: 'data: 1\n\n', reason: 'source-done'
    },
    'whose iterator cannot be had': {
      stream: (reply) => reply.sse({ [Symbol.asyncIterator] () { throw secret() } }),
      log: [SECRET, SECRET]
    },
    'whose iterator cannot be read': {
      stream: (reply) => reply.sse({ get [Symbol.asyncIterator] (): any { throw secret() } }),
      log: [SECRET, SECRET]
    },
    'that is a Node stream whose destroy throws': {
      stream: (reply) => reply.sse(Object.assign(new Readable({ objectMode: true, read () {} }), { destroy: throwing })),
      act: leave,
      body: '',
      reason: 'client-gone'
    },
    'that throws what cannot be looked at': {
      stream: (reply) => reply.sse(steps([() => later(ONE), () => { throw unlookable() }])), ...LATE, log: UNLOOKABLE
    },
    'whose event cannot be looked at': {
      stream: (reply) => reply.sse(steps([() => later(ONE), () => later({ value: unlookable() })])), ...LATE, reason: 'invalid-event'
    }
  })
})

/** A stream that fails after an event, with these options. */
const failing = (options: (app: FastifyInstance, reply: FastifyReply) => StreamOptions): Stream => (reply, app) =>
  reply.sse(steps([() => later(ONE), failLater]), options(app, reply))

t.test('onError', async (t) => {
  const beside = (message: string): Said => ['onError has given no last event', message]
  await run(t, {
    'that throws': { stream: failing(() => ({ onError () { throw new Error('a mistake') } })), ...LATE, log: [beside('a mistake'), FAILED] },
    'that throws what cannot be looked at': {
      stream: failing(() => ({ onError () { throw unlookable() } })),
      ...LATE,
      log: [['onError has given no last event (what was thrown cannot be logged)', undefined], FAILED]
    },
    'that rejects': { stream: failing(() => ({ onError: failLater as any })), ...LATE, log: [beside(PROMISE), FAILED] },
    'that never settles': { stream: failing(() => ({ onError: never as any })), ...LATE, log: [beside(PROMISE), FAILED] },
    'that gives an invalid event': {
      stream: failing(() => ({ onError: () => ({ retry: -1 }) })),
      ...LATE,
      log: [beside("Invalid event: 'retry' must be an integer >= 0 (ms), got the number -1"), FAILED]
    },
    'that gives what cannot be looked at': { stream: failing(() => ({ onError: () => unlookable() })), ...LATE, log: [beside(SECRET), FAILED] },
    'that ends the stream itself': {
      stream: failing((app) => ({ onError () { endAll(app); return { data: 'sorry' } } })), ...LATE, body: 'data: 1\n\ndata: "sorry"\n\n'
    },
    'that answers another time': {
      stream: failing((_, reply) => ({ onError () { reply.send('another') } })),
      ...LATE,
      log: [[/^Reply was already sent/, /^Reply was already sent/], FAILED]
    },
    'that breaks the connection': { stream: failing((_, reply) => ({ onError () { reply.raw.destroy() } })), ...LATE, body: '(data: 1\n\n)?' }
  })
})

t.test('revalidate', async (t) => {
  const asked = (answer: () => unknown): Stream => (reply) =>
    reply.sse(steps([never]), { revalidate: answer as () => boolean, revalidateEvery: 5 })
  await run(t, {
    'that throws': { stream: asked(throwing), body: '', reason: 'revoked' },
    'that throws what cannot be looked at': { stream: asked(() => { throw unlookable() }), body: '', reason: 'revoked' },
    'that gives what has no class to be told': {
      stream: asked(() => new Proxy({}, { getPrototypeOf: throwing })),
      body: '',
      reason: 'revoked',
      log: ['event stream revoked without an answer', /revalidate must return true or false, got an object that cannot be looked at/]
    }
  })
})

t.test('what a reader of a channel has', async (t) => {
  /** A channel of its own with a snapshot. */
  const snapshot = (state: (app: FastifyInstance, channel: () => SseChannel<any>) => unknown): Stream => (reply, app) => {
    const channel: SseChannel<any> = app.sse.channel(`snapshot-${reply.request.id}`, { snapshot: () => state(app, () => channel) as any })
    return reply.sse(channel)
  }
  /** A channel of its own with a filter, to which two events are published. */
  const filter = (wants: (app: FastifyInstance, channel: SseChannel<any>) => unknown): Stream => (reply, app) => {
    const channel = app.sse.channel(`filter-${reply.request.id}`)
    setTimeout(() => [1, 2].forEach((data) => { channel.publish({ data }) }), 5)
    return reply.sse(channel.subscribe({ filter: () => wants(app, channel) }))
  }
  await run(t, {
    'a filter that throws': { stream: filter(() => { throw secret() }), body: 'id: ID\n\n', reason: 'source-threw', log: FAILED },
    'a filter that throws what cannot be looked at': {
      stream: filter(() => { throw unlookable() }), body: 'id: ID\n\n', reason: 'source-threw', log: UNLOOKABLE
    },
    'a filter that never settles': {
      stream: filter(never),
      body: 'id: ID\n\n',
      reason: 'source-threw',
      log: ['event stream failed', 'filter must answer at once: it has given a promise']
    },
    'a filter that ends the stream': { stream: filter((app) => { endAll(app); return true }), body: 'id: ID\n\n', reason: 'ended' },
    'a filter that closes the channel': {
      stream: filter((_, channel) => { channel.close(); return true }),
      body: 'id: ID\n\nid: ID\ndata: 1\n\nid: ID\ndata: 2\n\nid: fastify-typed-sse:finished\n\n',
      reason: 'source-done'
    },
    'a snapshot that throws': { stream: snapshot(() => { throw secret() }), reason: 'source-threw', log: [SECRET, SECRET] },
    'a snapshot that rejects': { stream: snapshot(failLater), body: '', reason: 'source-threw', log: FAILED },
    'a snapshot that fails in the middle': {
      stream: snapshot(async function * () { yield { data: 1 }; throw unlookable() }), body: 'data: 1\n\n', reason: 'source-threw', log: UNLOOKABLE
    },
    // As one does that itself reads a channel. It is not the stream's own reader that has fallen behind.
    ...Object.fromEntries(['FST_SSE_LAGGED', 'FST_SSE_UNKNOWN_RUN'].map((code) => [`a snapshot that throws ${code}`, {
      stream: snapshot(async function * () { yield { data: 1 }; throw Object.assign(secret(), { code }) }),
      body: 'data: 1\n\n',
      reason: 'source-threw' as const,
      log: FAILED
    }])),
    'a snapshot that never settles, whose client leaves': { stream: snapshot(never), act: leave, body: '', reason: 'client-gone' },
    'a snapshot that never ends, whose client leaves': {
      stream: snapshot(async function * () { for (;;) yield { data: 1 } }), act: leave, body: /^(data: 1\n\n)*/, reason: 'client-gone'
    },
    'a snapshot that never ends and never waits, whose client leaves': {
      stream: snapshot(function * () { for (;;) yield { data: 1 } }), act: leave, body: /^(data: 1\n\n)*/, reason: 'client-gone'
    },
    'a snapshot that ends the stream': { stream: snapshot((app) => { endAll(app); return [{ data: 1 }] }), body: '', reason: 'ended' },
    'a snapshot that publishes': {
      stream: snapshot((_, channel) => { channel().publish({ data: 2 }); channel().close(); return [{ data: 1 }] }),
      body: 'data: 1\n\nid: ID\n\nid: ID\ndata: 2\n\nid: fastify-typed-sse:finished\n\n',
      reason: 'source-done'
    },
    'a snapshot that runs while the channel is closed': {
      stream: snapshot(async function * (_, channel) {
        yield { data: 1 }
        await channel().close()
        await turns()
        yield { data: 2 }
      }),
      body: 'data: 1\n\ndata: 2\n\nid: ID\n\nid: fastify-typed-sse:finished\n\n',
      reason: 'source-done'
    }
  })
})

t.test('a run', async (t) => {
  const recorded = (source: () => any, options: RunOptions<any> = {}): Stream => (reply, app) =>
    reply.sse(app.sse.run<any>(`run-${reply.request.id}`, source, options))
  const whole = { body: 'id: 0-0\n\nid: ID\ndata: 1\n\nid: fastify-typed-sse:finished\n\n', reason: 'source-done' } as const
  await run(t, {
    'that throws what cannot be looked at': {
      stream: recorded(async function * () { yield { data: 1 }; throw unlookable() }),
      ...whole,
      log: [/^run 'run-.*' has failed \(what was thrown cannot be logged\)$/, undefined]
    },
    'whose onEnd throws what cannot be looked at': {
      stream: recorded(async function * () { yield { data: 1 } }, { onEnd () { throw unlookable() } }),
      ...whole,
      log: [/^run 'run-.*' could not record its last event \(what was thrown cannot be logged\)$/, undefined]
    },
    'whose source never settles, nor its return(), and that is stopped': {
      stream (reply, app) {
        const run = app.sse.run<any>('never', steps([() => later(ONE), never], { return: never }))
        setTimeout(() => run.stop(), 20)
        return reply.sse(run)
      },
      ...whole,
      body: /^id: 0-0\n\n(id: ID\ndata: 1\n\n)?id: fastify-typed-sse:finished\n\n$/
    }
  })
})
