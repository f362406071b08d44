/** A job that many people watch. Each is told a subscriber ID of his own, then what has happened so far, then the rest. */
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import { Type } from '@sinclair/typebox'
import Fastify from 'fastify'
import sse, { type EventOf, type RunEnd } from 'fastify-typed-sse'
import { randomUUID } from 'node:crypto'
import { setTimeout } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'

const Status = Type.Object({
  state: Type.Union([Type.Literal('queued'), Type.Literal('running'), Type.Literal('done'), Type.Literal('failed'),
    Type.Literal('stopped')]),
  percent: Type.Integer({ minimum: 0, maximum: 100 })
})
const Subscribed = Type.Object({ subscriber: Type.String() })

/** The events of a job. */
const job = { status: Status }

/** What the job does. It goes on whether anybody watches or not. */
async function * work ({ signal }: { signal: AbortSignal }): AsyncGenerator<EventOf<{ events: typeof job }>> {
  yield { event: 'status', data: { state: 'queued', percent: 0 } }
  for (let percent = 0; percent < 100; percent += 20) {
    yield { event: 'status', data: { state: 'running', percent } }
    await setTimeout(200, undefined, { signal })
  }
  yield { event: 'status', data: { state: 'done', percent: 100 } }
}

/** What watchers see last of a job that does not get to its end. */
function lastStatus (state: RunEnd['state']): EventOf<{ events: typeof job }> | undefined {
  if (state === 'stopped' || state === 'failed') return { event: 'status', data: { state, percent: 0 } }
}

export async function createApp () {
  const app = Fastify({ logger: true }).withTypeProvider<TypeBoxTypeProvider>()
  await app.register(sse)

  app.post('/jobs', async (request, reply) => {
    const id = randomUUID()
    app.sse.run(id, work, { events: job, onEnd: ({ state }) => lastStatus(state) })
    return reply.code(202).header('location', `/jobs/${id}/events`).send({ id, events: `/jobs/${id}/events` })
  })

  const params = Type.Object({ id: Type.String() })
  app.get('/jobs/:id/events', { schema: { params, events: { ...job, subscribed: Subscribed } } }, async (request, reply) => {
    const run = app.sse.run.attach(request.params.id, { events: job })
    return reply.sse(run, { first: [{ event: 'subscribed', data: { subscriber: randomUUID() } }] })
  })

  app.delete('/jobs/:id', { schema: { params } }, async (request, reply) => {
    await app.sse.run.attach(request.params.id).stop()
    return reply.code(204).send()
  })

  return app
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const app = await createApp()
  process.once('SIGINT', () => app.close())
  await app.listen({ port: Number(process.env.PORT || 3_000) })
}
