/** A fair share for each customer: two streams at once, and ten new ones in a minute. An EventSource never gives up on them. */
import rateLimit from '@fastify/rate-limit'
import { Type } from '@sinclair/typebox'
import Fastify, { type FastifyReply, type FastifyRequest } from 'fastify'
import sse, { type Duration } from 'fastify-typed-sse'
import { fileURLToPath } from 'node:url'

interface Customer { name: string, isPaying: boolean }

/** Customers by API key, as a database would have them. */
const customers = new Map<unknown, Customer>([
  ['key-of-ada', { name: 'ada', isPaying: false }],
  ['key-of-bob', { name: 'bob', isPaying: true }]
])

const events = { tick: Type.Object({ now: Type.Integer() }) }

/** @param retry the time after which those come back who find no room, in ms */
export async function createApp ({ retry = { min: 1_000, max: 5_000 } as Duration, perMinute = 10 } = {}) {
  const app = Fastify()
  app.decorateRequest('customer')
  const customerOf = (request: FastifyRequest) => request.getDecorator<Customer>('customer')

  await app.register(sse, {
    retry,
    maxConnectionsPerClient: 2,
    // It is called after the hooks, which have found out who this is. Who pays has no limit.
    clientKey: (request) => customerOf(request).isPaying ? undefined : customerOf(request).name
  })

  await app.register(rateLimit, { global: false })
  const countRequest = app.createRateLimit({
    max: perMinute, timeWindow: 60_000, keyGenerator: (request) => customerOf(request).name
  })

  async function authenticate (request: FastifyRequest, reply: FastifyReply) {
    const customer = customers.get(request.headers['x-api-key'])
    if (customer === undefined) return reply.code(401).send({ message: 'This needs an API key' })
    request.setDecorator('customer', customer)
  }

  const ticks = app.sse.channel('ticks', { events })
  const ticking = setInterval(() => {
    ticks.publish({ event: 'tick', data: { now: Date.now() } }).catch((error: unknown) => app.log.error(error))
  }, 1_000)
  app.addHook('onClose', async () => clearInterval(ticking))

  app.get('/ticks', { onRequest: authenticate, schema: { events } }, async (request, reply) => {
    const limit = await countRequest(request)
    // As a hook, @fastify/rate-limit would answer with 429, by which an EventSource gives up. This ends its stream, and
    // says when to come back.
    if (!limit.isAllowed && limit.isExceeded) return reply.sse([], { retry: limit.ttl })
    return reply.sse(ticks)
  })

  return app
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const app = await createApp()
  process.once('SIGINT', () => app.close())
  console.log(`curl -N -H 'x-api-key: key-of-ada' ${await app.listen({ port: Number(process.env.PORT || 3_000) })}/ticks`)
}
