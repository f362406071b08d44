/** The server of compression.js. */
import Fastify from 'fastify'
import http from 'node:http'
import { setTimeout } from 'node:timers/promises'
import zlib from 'node:zlib'
import sse from '../dist/index.js'

const app = Fastify()
await app.register(sse)
const channel = app.sse.channel('c')
app.get('/plain', async (request, reply) => reply.sse(channel))
app.get('/shared', async (request, reply) => reply.sse(channel, { compress: true }))
await app.listen({ port: 0, host: '127.0.0.1' })

/** By hand: a compressor for each client, flushed after each event. */
const each = { open: new Set(), bytes: 0, flushed: 0 }
const byHand = http.createServer((request, response) => {
  response.writeHead(200, { 'content-type': 'text/event-stream', 'content-encoding': 'gzip' })
  response.flushHeaders()
  const gzip = zlib.createGzip()
  gzip.on('data', (chunk) => { each.bytes += chunk.length })
  gzip.pipe(response)
  each.open.add(gzip)
  response.once('close', () => {
    each.open.delete(gzip)
    gzip.destroy()
  })
}).listen(0, '127.0.0.1')

/** Like rows of a list: names that repeat, values that do not. */
function rows (size) {
  return Array.from({ length: size }, (_, n) => ({
    id: Math.floor(Math.random() * 1e9),
    symbol: `S${n}`,
    price: Math.round(Math.random() * 1e5) / 100,
    volume: Math.floor(Math.random() * 1e6),
    currency: 'USD'
  }))
}

const bytesSent = () => each.bytes + app.sse.stats().bytes

async function publishByHand (data) {
  const text = `event: rows\ndata: ${JSON.stringify(data)}\n\n`
  await Promise.all([...each.open].map((gzip) => new Promise((resolve) => {
    gzip.write(text)
    gzip.flush(resolve)
  })))
}

async function publish (data) {
  const { events, open } = app.sse.stats()
  await channel.publish({ event: 'rows', data })
  while (app.sse.stats().events < events + open) await setTimeout(1)
}

const orders = {
  ports: () => ({ plain: app.server.address().port, shared: app.server.address().port, each: byHand.address().port }),
  usage () {
    globalThis.gc()
    const { user, system } = process.cpuUsage()
    return { rss: process.memoryUsage().rss, cpu: user + system }
  },
  async publish ({ mode, size, count }) {
    const before = bytesSent()
    for (let n = 0; n < count; n++) await (mode === 'each' ? publishByHand : publish)(rows(size))
    // What is written last is on its way.
    await setTimeout(20)
    return { bytes: bytesSent() - before }
  },
  async empty () {
    while (app.sse.stats().open > 0 || each.open.size > 0) await setTimeout(5)
    return {}
  }
}

process.on('message', async (order) => process.send(await orders[order.is](order)))
process.once('disconnect', async () => {
  byHand.close()
  await app.close()
})
