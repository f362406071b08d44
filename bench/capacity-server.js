/** The server of capacity.js. Node's argument is the port of Redis. */
import Fastify from 'fastify'
import { Redis } from 'ioredis'
import { setTimeout } from 'node:timers/promises'
import sse, { redisBroker } from '../dist/index.js'

const broker = redisBroker(new Redis({ port: Number(process.argv[2]), lazyConnect: true }))
const app = Fastify()
await app.register(sse, { broker })

const shared = app.sse.channel('shared')
app.get('/shared', async (request, reply) => reply.sse(shared))
app.get('/user/:name', async (request, reply) => reply.sse(app.sse.channel(`user/${request.params.name}`)))
await app.listen({ port: 0, host: '127.0.0.1' })

/** 127 bytes. */
const data = { symbol: 'AAPL', text: 'x'.repeat(96) }

/** Microseconds. */
function cpu () {
  const { user, system } = process.cpuUsage()
  return user + system
}

async function untilWritten (count) {
  while (app.sse.stats().events < count) await setTimeout(5)
}

const orders = {
  port: () => ({ port: app.server.address().port }),
  usage () {
    globalThis.gc()
    const { rss, heapUsed } = process.memoryUsage()
    return { rss, heap: heapUsed, cpu: cpu(), open: app.sse.stats().open }
  },
  async publish ({ batch, times }) {
    const { events, open } = app.sse.stats()
    for (let time = 1; time <= times; time++) {
      await Promise.all(Array.from({ length: batch }, () => shared.publish({ event: 'price', data })))
      await untilWritten(events + open * batch * time)
    }
    return { cpu: cpu() }
  },
  async notify ({ count, of }) {
    const { events } = app.sse.stats()
    for (let n = 0; n < count; n++) {
      await app.sse.channel(`user/${n * 7_919 % of}`).publish({ event: 'price', data })
    }
    await untilWritten(events + count)
    return { cpu: cpu() }
  }
}

process.on('message', async (order) => process.send(await orders[order.is](order)))
process.once('disconnect', async () => {
  await app.close()
  await broker.end()
})
