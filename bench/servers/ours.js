/** fastify-typed-sse: what is published or yielded is checked against a schema, which none of the others does. */
import { Type } from '@sinclair/typebox'
import Fastify from 'fastify'
import sse from '../../dist/index.js'
import { dataOfSize, EVENT_TYPE, ORDINARY_ANSWER, PUBLISHED_SIZE } from '../event.js'
import { LISTEN, options, takeOrders } from './orders.js'
import { SOURCE_PATHS, sourceOf } from './sources.js'

const events = { [EVENT_TYPE]: Type.Object({ symbol: Type.String(), text: Type.String() }) }
const form = (data) => ({ event: EVENT_TYPE, data })

const app = Fastify()
await app.register(sse, options.keepAlive === undefined ? {} : { keepAlive: options.keepAlive })
if (options.hooks) {
  app.addHook('onSend', async (request, reply, payload) => payload)
  app.addHook('onSend', async (request, reply) => { reply.header('x-app', 'bench') })
}

const channel = app.sse.channel('prices', { events })
const publishOne = () => channel.publish(form(dataOfSize(PUBLISHED_SIZE)))

app.get('/channel', { schema: { events } }, async (request, reply) => reply.sse(channel))
for (const path of SOURCE_PATHS) {
  app.get(path, { schema: { events } }, async (request, reply) => reply.sse(sourceOf(request.url, form)))
}
app.get('/json', async () => ORDINARY_ANSWER)
await app.listen(LISTEN)

takeOrders(app.server, {
  publish (count) {
    for (let n = 0; n < count; n++) publishOne()
  },
  /** The IDs of events that are published to nobody yet. */
  record: ({ count }) => Promise.all(Array.from({ length: count }, publishOne))
})
