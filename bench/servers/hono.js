/** Hono on @hono/node-server, with its streamSSE; an event for many is serialised once. */
import { createAdaptorServer } from '@hono/node-server'
import { Hono } from 'hono'
import { streamSSE } from 'hono/streaming'
import { once } from 'node:events'
import { dataOfSize, EVENT_TYPE, ORDINARY_ANSWER, PUBLISHED_SIZE } from '../event.js'
import { LISTEN, takeOrders } from './orders.js'
import { SOURCE_PATHS, sourceOf } from './sources.js'

const open = new Set()
const form = (data) => ({ event: EVENT_TYPE, data: JSON.stringify(data) })

const app = new Hono()
app.get('/channel', (c) => streamSSE(c, async (stream) => {
  await stream.writeSSE({ data: 'connected' })
  open.add(stream)
  await new Promise((resolve) => stream.onAbort(resolve))
  open.delete(stream)
}))
for (const path of SOURCE_PATHS) {
  app.get(path, (c) => streamSSE(c, async (stream) => {
    for await (const event of sourceOf(c.req.url, form)) await stream.writeSSE(event)
  }))
}
app.get('/json', (c) => c.json(ORDINARY_ANSWER))

const server = createAdaptorServer({ fetch: app.fetch })
server.listen(LISTEN)
await once(server, 'listening')

takeOrders(server, {
  publish (count) {
    for (let n = 0; n < count; n++) {
      const event = form(dataOfSize(PUBLISHED_SIZE))
      for (const stream of open) stream.writeSSE(event)
    }
  }
})
