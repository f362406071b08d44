/** A large table, sent whole whenever it changes: compressed once, and the same bytes go to every client that accepts them. */
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import { Type, type Static } from '@sinclair/typebox'
import Fastify from 'fastify'
import sse from 'fastify-typed-sse'
import { fileURLToPath } from 'node:url'

const Row = Type.Object({ article: Type.String(), place: Type.String(), pieces: Type.Integer({ minimum: 0 }) })
const events = { stock: Type.Array(Row) }

const ROWS = 1_000

export async function createApp () {
  const app = Fastify().withTypeProvider<TypeBoxTypeProvider>()
  await app.register(sse)

  const rows: Static<typeof Row>[] = Array.from({ length: ROWS }, (_, index) =>
    ({ article: `article-${index}`, place: `hall ${index % 7}, shelf ${index % 90}`, pieces: 100 }))

  const stock = app.sse.channel('stock', {
    events,
    // gzip, or zstd where Node has it and the client accepts it; plain text for everybody else.
    compress: true,
    // Each event has the whole table, so who comes, or comes back, needs the last one alone.
    history: { events: 2 },
    snapshot: () => [{ event: 'stock' as const, data: rows }],
    onLag: 'latest',
    key: () => 'the table'
  })

  const body = Type.Object({ row: Type.Integer({ minimum: 0, maximum: ROWS - 1 }), pieces: Type.Integer({ minimum: 0 }) })
  app.post('/stock', { schema: { body } }, async (request, reply) => {
    rows[request.body.row]!.pieces = request.body.pieces
    await stock.publish({ event: 'stock', data: rows })
    return reply.code(204).send()
  })

  app.get('/stock', { schema: { events } }, async (request, reply) => reply.sse(stock))

  return app
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const app = await createApp()
  const selling = setInterval(() => {
    const payload = { row: Math.floor(Math.random() * ROWS), pieces: Math.floor(Math.random() * 100) }
    app.inject({ method: 'POST', url: '/stock', payload })
  }, 1_000)
  process.once('SIGINT', () => {
    // An app that closes takes no requests.
    clearInterval(selling)
    app.close()
  })
  console.log(`curl -N -H 'accept-encoding: gzip' ${await app.listen({ port: Number(process.env.PORT || 3_000) })}/stock | gunzip`)
}
