/** better-sse, on node:http, where it is leanest. A channel broadcasts, and data is serialised for each session. */
import { createChannel, createEventBuffer, createSession } from 'better-sse'
import { once } from 'node:events'
import http from 'node:http'
import { dataOfSize, EVENT_TYPE, ORDINARY_ANSWER, PUBLISHED_SIZE } from '../event.js'
import { LISTEN, takeOrders } from './orders.js'
import { sourceOf } from './sources.js'

const channel = createChannel()

async function iterate (request, response, source) {
  const session = await createSession(request, response)
  await session.iterate(source, { eventName: EVENT_TYPE })
  response.end()
}

async function answer (request, response) {
  const [path] = request.url.split('?')
  if (path === '/channel') {
    channel.register(await createSession(request, response))
  } else if (path === '/json') {
    response.setHeader('content-type', 'application/json').end(JSON.stringify(ORDINARY_ANSWER))
  } else {
    await iterate(request, response, sourceOf(request.url, (data) => data))
  }
}

const server = http.createServer((request, response) => {
  answer(request, response).catch(() => response.destroy())
})
server.listen(LISTEN)
await once(server, 'listening')

function broadcast (count) {
  for (let n = 0; n < count; n++) channel.broadcast(dataOfSize(PUBLISHED_SIZE), EVENT_TYPE)
}

/** For an application that has the events together: one buffer of them, for all sessions. */
function sendTogether (count) {
  const buffer = createEventBuffer()
  for (let n = 0; n < count; n++) buffer.push(dataOfSize(PUBLISHED_SIZE), EVENT_TYPE)
  for (const session of channel.activeSessions) session.batch(buffer)
}

takeOrders(server, { publish: (count, together) => together ? sendTogether(count) : broadcast(count) })
