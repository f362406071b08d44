/** Live counters: how many visitors are here, and how many like what. Of each counter only the newest value means anything. */
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import { Type } from '@sinclair/typebox'
import Fastify from 'fastify'
import sse from 'fastify-typed-sse'
import { fileURLToPath } from 'node:url'

// An event says what the counter stands at, not what to add: so one that is missed does no harm, nor one that comes twice.
const events = { counter: Type.Object({ name: Type.String(), value: Type.Integer({ minimum: 0 }) }) }

/** What can be liked. Were it any string, strangers could fill the memory with counters. */
const Page = Type.Union([Type.Literal('home'), Type.Literal('blog'), Type.Literal('about')])

export async function createApp () {
  const app = Fastify().withTypeProvider<TypeBoxTypeProvider>()
  await app.register(sse)

  const values = new Map<string, number>()
  const counters = app.sse.channel('counters', {
    events,
    // Who comes sees all counters at once.
    snapshot: () => [...values].map(([name, value]) => ({ event: 'counter' as const, data: { name, value } })),
    // Who falls behind goes on with the newest value of each counter.
    onLag: 'latest',
    key: ({ data }) => data.name
  })

  async function add (name: string, change: number): Promise<number> {
    const value = (values.get(name) ?? 0) + change
    values.set(name, value)
    await counters.publish({ event: 'counter', data: { name, value } })
    return value
  }

  app.post('/likes/:page', { schema: { params: Type.Object({ page: Page }) } }, async (request) =>
    ({ likes: await add(`likes of ${request.params.page}`, 1) }))

  app.get('/counters', {
    schema: { events },
    // A visitor is here until the response is gone, however it ends.
    onResponse: async () => { await add('visitors', -1) }
  }, async (request, reply) => {
    await add('visitors', 1)
    return reply.sse(counters)
  })

  return app
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const app = await createApp()
  process.once('SIGINT', () => app.close())
  console.log(`curl -N ${await app.listen({ port: Number(process.env.PORT || 3_000) })}/counters`)
}
