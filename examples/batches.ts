/** Many small updates as few large events: readings of sensors come one by one, and are sent at most ten times a second. */
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import { Type } from '@sinclair/typebox'
import Fastify from 'fastify'
import sse, { batch } from 'fastify-typed-sse'
import { PassThrough } from 'node:stream'
import { fileURLToPath } from 'node:url'

const Reading = Type.Object({ sensor: Type.String(), value: Type.Number() })
const events = { readings: Type.Array(Reading) }

export async function createApp () {
  const app = Fastify().withTypeProvider<TypeBoxTypeProvider>()
  await app.register(sse)

  const channel = app.sse.channel('readings', { events })

  const readings = new PassThrough({ objectMode: true })
  app.addHook('onClose', async () => readings.end())
  publish().catch((error: unknown) => app.log.error(error))

  /** Batches are made before they are published: once, however many read them. */
  async function publish () {
    // Whichever comes first: a hundred readings, or a tenth of a second after the first of them.
    for await (const data of batch(readings, { count: 100, ms: 100 })) {
      await channel.publish({ event: 'readings', data })
    }
  }

  app.post('/readings', { schema: { body: Type.Array(Reading) } }, async (request, reply) => {
    for (const reading of request.body) readings.write(reading)
    return reply.code(202).send()
  })

  app.get('/readings', { schema: { events } }, async (request, reply) => reply.sse(channel))

  return app
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const app = await createApp()
  const measuring = setInterval(() => {
    const sensor = `sensor-${Math.ceil(Math.random() * 20)}`
    app.inject({ method: 'POST', url: '/readings', payload: [{ sensor, value: Math.random() }] })
  }, 5)
  process.once('SIGINT', () => {
    // An app that closes takes no requests.
    clearInterval(measuring)
    app.close()
  })
  console.log(`curl -N ${await app.listen({ port: Number(process.env.PORT || 3_000) })}/readings`)
}
