/** @fastify/sse, as in the examples of its README: an event is sent to each client, and serialised for each. */
import sse from '@fastify/sse'
import Fastify from 'fastify'
import { dataOfSize, EVENT_TYPE, ORDINARY_ANSWER, PUBLISHED_SIZE } from '../event.js'
import { LISTEN, takeOrders } from './orders.js'
import { SOURCE_PATHS, sourceOf } from './sources.js'

const open = new Set()
const form = (data) => ({ event: EVENT_TYPE, data })

const app = Fastify()
await app.register(sse)

app.get('/channel', { sse: 'only' }, async (request, reply) => {
  reply.sse.keepAlive()
  await reply.sse.send({ data: 'Connected' })
  open.add(reply.sse)
  reply.sse.onClose(() => open.delete(reply.sse))
})
for (const path of SOURCE_PATHS) {
  app.get(path, { sse: 'only' }, async (request, reply) => { await reply.sse.send(sourceOf(request.url, form)) })
}
app.get('/json', async () => ORDINARY_ANSWER)
await app.listen(LISTEN)

takeOrders(app.server, {
  publish (count) {
    for (let n = 0; n < count; n++) {
      const event = form(dataOfSize(PUBLISHED_SIZE))
      for (const client of open) client.send(event)
    }
  }
})
