/** What one would write by hand with node:http: a set of responses, and one buffer of each event for all of them. */
import { once } from 'node:events'
import http from 'node:http'
import { blockOf, dataOfSize, ORDINARY_ANSWER, PUBLISHED_SIZE } from '../event.js'
import { LISTEN, options, takeOrders } from './orders.js'
import { sourceOf } from './sources.js'

const open = new Set()

function begin (response) {
  response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache' })
  response.flushHeaders()
}

function join (response) {
  begin(response)
  open.add(response)
  const timer = options.keepAlive && setInterval(() => response.write(':\n\n'), options.keepAlive)
  response.once('close', () => {
    open.delete(response)
    clearInterval(timer)
  })
}

async function send (response, source) {
  begin(response)
  for await (const block of source) {
    if (!response.write(block)) await once(response, 'drain')
  }
  response.end()
}

const server = http.createServer((request, response) => {
  const [path] = request.url.split('?')
  if (path === '/channel') {
    join(response)
  } else if (path === '/json') {
    response.setHeader('content-type', 'application/json').end(JSON.stringify(ORDINARY_ANSWER))
  } else {
    send(response, sourceOf(request.url, blockOf)).catch(() => response.destroy())
  }
})
server.listen(LISTEN)
await once(server, 'listening')

function publish (text) {
  const block = Buffer.from(text)
  for (const response of open) response.write(block)
}

takeOrders(server, {
  publish (count, together) {
    const blocks = Array.from({ length: count }, () => blockOf(dataOfSize(PUBLISHED_SIZE)))
    if (together) publish(blocks.join(''))
    else blocks.forEach(publish)
  }
})
