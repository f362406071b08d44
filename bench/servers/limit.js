/**
 * The limit of what a plugin can do in Node: nothing but what has to be done. Streams begin by Fastify's `reply.send`, so that
 * onSend hooks run; bytes are ready chunks, and go to the socket by `socket.write`. Nobody is told apart, waited for, or
 * let go of, and no event is checked, numbered or retained.
 */
import Fastify from 'fastify'
import { EventEmitter, once } from 'node:events'
import { blockOf, dataOfSize, PUBLISHED_SIZE } from '../event.js'
import { LISTEN, takeOrders } from './orders.js'
import { SOURCE_PATHS, sourceOf } from './sources.js'

const HEADERS = { 'content-type': 'text/event-stream', 'cache-control': 'no-cache' }

const open = new Set()

/** What every stream begins with; those who come back get the events that they have missed, too. */
let beginning = chunkOf(':\n\n')

function chunkOf (text) {
  return `${Buffer.byteLength(text).toString(16)}\r\n${text}\r\n`
}

class Payload extends EventEmitter {
  #begin

  constructor (begin) {
    super()
    this.#begin = begin
  }

  pipe (response) {
    response.flushHeaders()
    this.#begin(response)
    return response
  }

  destroy () {}
}

function join ({ socket }) {
  socket.write(beginning, 'latin1')
  open.add(socket)
  socket.once('close', () => open.delete(socket))
}

async function send (response, source) {
  const { socket } = response
  for await (const block of source) {
    if (!socket.write(chunkOf(block), 'latin1')) await once(socket, 'drain')
  }
  response.end()
}

const app = Fastify()
const stream = (reply, begin) => reply.headers(HEADERS).send(new Payload(begin))

app.get('/channel', async (request, reply) => stream(reply, join))
for (const path of SOURCE_PATHS) {
  app.get(path, async (request, reply) => stream(reply, (response) => {
    send(response, sourceOf(request.url, blockOf)).catch(() => response.destroy())
  }))
}
await app.listen(LISTEN)

takeOrders(app.server, {
  publish (count) {
    const blocks = Array.from({ length: count }, () => blockOf(dataOfSize(PUBLISHED_SIZE)))
    const chunk = Buffer.from(chunkOf(blocks.join('')))
    for (const socket of open) socket.write(chunk)
  },
  beginWith ({ body }) {
    beginning = chunkOf(body)
    return {}
  }
})
