/** The health of this process: measured once a second for all who watch, and not at all when nobody does. */
import { Type } from '@sinclair/typebox'
import Fastify from 'fastify'
import sse from 'fastify-typed-sse'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { fileURLToPath } from 'node:url'

const events = {
  health: Type.Object({
    cpu: Type.Number({ minimum: 0, description: 'percent of one core' }),
    memory: Type.Integer({ minimum: 0, description: 'bytes' }),
    delay: Type.Number({ minimum: 0, description: 'ms by which the event loop was late: 99 of 100 times it was less' })
  })
}

/** @param every ms from one measurement to the next */
export async function createApp ({ every = 1_000 } = {}) {
  const app = Fastify()
  await app.register(sse)

  // A watcher who comes sees the last minute first, as far as it was measured.
  const health = app.sse.channel('health', { events, history: { events: 60, age: 60 * every } })
  const eventLoop = monitorEventLoopDelay()
  let watchers = 0
  let measuring: NodeJS.Timeout | undefined

  function begin () {
    let since = performance.now()
    let used = process.cpuUsage()
    eventLoop.reset()
    eventLoop.enable()
    measuring = setInterval(() => {
      const { user, system } = process.cpuUsage(used)
      const cpu = (user + system) / 10 / (performance.now() - since)
      const data = { cpu, memory: process.memoryUsage.rss(), delay: eventLoop.percentile(99) / 1e6 }
      since = performance.now()
      used = process.cpuUsage()
      eventLoop.reset()
      health.publish({ event: 'health', data }).catch((error: unknown) => app.log.error(error))
    }, every)
  }

  function end () {
    clearInterval(measuring)
    eventLoop.disable()
  }

  app.get('/health', {
    schema: { events },
    // The response is gone, however that came about.
    onResponse: async () => { if (--watchers === 0) end() }
  }, async (request, reply) => {
    if (watchers++ === 0) begin()
    return reply.sse(health.subscribe({ after: 'earliest' }))
  })

  return app
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const app = await createApp()
  process.once('SIGINT', () => app.close())
  console.log(`curl -N ${await app.listen({ port: Number(process.env.PORT || 3_000) })}/health`)
}
