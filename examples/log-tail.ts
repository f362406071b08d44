/** A log, line by line, for any number of readers: `tail -F /var/log/syslog | node examples/log-tail.js` */
import { Type } from '@sinclair/typebox'
import Fastify from 'fastify'
import sse from 'fastify-typed-sse'
import { createInterface } from 'node:readline'
import type { Readable } from 'node:stream'
import { fileURLToPath } from 'node:url'

/** Lines are sent as they are, not as JSON: `onmessage` gets the line. */
const events = { message: Type.String() }

export async function createApp (input: Readable) {
  const app = Fastify()
  await app.register(sse)

  const log = app.sse.channel('log', {
    events,
    // This many lines a new reader sees first. They do not grow old.
    history: { events: 100, age: false },
    // Who reads too slowly is told that lines are missing, and goes on with the oldest that are left.
    onLag: 'gap'
  })

  const lines = createInterface({ input })
  app.addHook('onClose', async () => lines.close())
  follow().catch((error: unknown) => app.log.error(error))

  async function follow () {
    for await (const line of lines) await log.publish(line)
    // The log has ended: so do the streams, for good.
    await log.close()
  }

  app.get('/log', { schema: { events } }, async (request, reply) => reply.sse(log.subscribe({ after: 'earliest' })))

  return app
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const app = await createApp(process.stdin)
  process.once('SIGINT', () => app.close())
  console.error(`curl -N ${await app.listen({ port: Number(process.env.PORT || 3_000) })}/log`)
}
