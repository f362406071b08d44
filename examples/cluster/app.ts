/**
 * One of the app processes: it publishes numbers of its own into a channel that all of them share, and streams that channel.
 * Its name and the port of Redis are its arguments.
 */
import { Type } from '@sinclair/typebox'
import Fastify from 'fastify'
import sse, { redisBroker } from 'fastify-typed-sse'
import { Redis } from 'ioredis'
import { randomUUID } from 'node:crypto'
import { setTimeout } from 'node:timers/promises'

const [name, redisPort] = process.argv.slice(2) as [string, string]
const INTERVAL = 200

const events = { number: Type.Object({ app: Type.String(), n: Type.Integer() }), mark: Type.String() }
const Connected = Type.Object({ app: Type.String(), pid: Type.Integer() })

// The broker makes connections of its own: this client only tells it how.
const redis = new Redis({ port: Number(redisPort), host: '127.0.0.1', lazyConnect: true })

const app = Fastify()
await app.register(sse, { broker: redisBroker(redis), retry: { min: 200, max: 600 } })
const numbers = app.sse.channel('numbers', { events })

app.get('/events', { schema: { events: { ...events, connected: Connected } } }, async (request, reply) =>
  // This is all that there is to resuming: an EventSource says where it was, to whichever process it comes.
  reply.sse(numbers, { first: [{ event: 'connected', data: { app: name, pid: process.pid } }] }))

const address = await app.listen({ port: 0, host: '127.0.0.1' })
process.send!(Number(new URL(address).port))
process.once('disconnect', () => process.exit()) // whoever has started it is gone

/**
 * Publishes 1, 2, 3 and so on, each number once and without holes, whatever dies meanwhile: so a hole that a reader sees is
 * a loss. Where it cannot know whether a number is stored, it asks Redis before it goes on.
 */
let last = 0
let isKnown = false
for (;;) {
  try {
    // What was confirmed is never published again, whatever Redis says: should Redis lose it, the hole shows that.
    if (!isKnown) last = Math.max(last, await lastStored())
    isKnown = false
    await numbers.publish({ event: 'number', data: { app: name, n: last + 1 } })
    last++
    isKnown = true
  } catch {
    // Redis is away, of which the broker warns. It is tried again.
  }
  await setTimeout(INTERVAL)
}

/** The last number of this app that is in the channel, also where an earlier process has published it. */
async function lastStored (): Promise<number> {
  const mark = randomUUID()
  await numbers.publish({ event: 'mark', data: mark })
  let stored = 0
  for await (const { event, data } of numbers.subscribe({ after: 'earliest' })) {
    if (event === 'number' && data.app === name) stored = data.n
    if (event === 'mark' && data === mark) break
  }
  return stored
}
