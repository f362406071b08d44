/** The lower limit of a replay: node:http, which answers everybody with the same bytes. */
import { once } from 'node:events'
import http from 'node:http'
import { LISTEN, takeOrders } from './orders.js'

let answer = Buffer.alloc(0)

const server = http.createServer((request, response) => {
  response.writeHead(200, { 'content-type': 'text/event-stream', 'content-length': answer.length })
  response.end(answer)
})
server.listen(LISTEN)
await once(server, 'listening')

takeOrders(server, {
  answer ({ body }) {
    answer = Buffer.from(body, 'latin1')
    return {}
  }
})
