/** fastify-sse-v2, whose data is text: an event for many is serialised once, and given to each reply. */
import Fastify from 'fastify'
import { FastifySSEPlugin } from 'fastify-sse-v2'
import { dataOfSize, EVENT_TYPE, ORDINARY_ANSWER, PUBLISHED_SIZE } from '../event.js'
import { LISTEN, takeOrders } from './orders.js'
import { SOURCE_PATHS, sourceOf } from './sources.js'

const open = new Set()
const form = (data) => ({ event: EVENT_TYPE, data: JSON.stringify(data) })

const app = Fastify()
await app.register(FastifySSEPlugin)

app.get('/channel', (request, reply) => {
  // Only with a first event is there a stream.
  reply.sse({ comment: 'connected' })
  open.add(reply)
  request.socket.on('close', () => {
    open.delete(reply)
    reply.sseContext.source.end()
  })
})
for (const path of SOURCE_PATHS) {
  app.get(path, (request, reply) => { reply.sse(sourceOf(request.url, form)) })
}
app.get('/json', async () => ORDINARY_ANSWER)
await app.listen(LISTEN)

takeOrders(app.server, {
  publish (count) {
    for (let n = 0; n < count; n++) {
      const event = form(dataOfSize(PUBLISHED_SIZE))
      for (const reply of open) reply.sse(event)
    }
  }
})
