/** Items, one after the other: a comment, then events with a type, an ID and a reconnection time, up to an end for good. */
import { Type, type Static } from '@sinclair/typebox'
import Fastify from 'fastify'
import sse, { type EventOf } from 'fastify-typed-sse'
import { setTimeout } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'

const Item = Type.Object({ name: Type.String(), price: Type.Number({ minimum: 0 }) })
const schema = { events: { item: Item } }

const items: Static<typeof Item>[] = [
  { name: 'Plumbus', price: 32.99 },
  { name: 'Portal gun', price: 999.99 },
  { name: 'Meeseeks box', price: 49.99 }
]

/** @param first the number of the item to begin with */
async function * list (first: number, signal: AbortSignal): AsyncGenerator<EventOf<typeof schema> | { comment: string }> {
  // Clients ignore comments; whoever looks with curl does not.
  yield { comment: `${items.length} items` }
  for (let number = first; number <= items.length; number++) {
    // The ID is what the client has had with this event. When it comes back, which it does after `retry`, it says so.
    yield { event: 'item', id: number, retry: 2_000, data: items[number - 1]! }
    await setTimeout(100, undefined, { signal })
  }
}

export async function createApp () {
  const app = Fastify()
  await app.register(sse)

  // `finite`: who has had all the items is not given them again.
  app.get('/items', { schema, sse: { finite: true } }, async (request, reply) =>
    reply.sse(({ lastEventId = '0', signal }) => {
      // A client may send any ID: what none of ours looks like counts as none.
      const last = /^\d+$/.test(lastEventId) ? Number(lastEventId) : 0
      return list(last + 1, signal)
    }))

  return app
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const app = await createApp()
  process.once('SIGINT', () => app.close())
  console.log(`curl -N ${await app.listen({ port: Number(process.env.PORT || 3_000) })}/items`)
}
