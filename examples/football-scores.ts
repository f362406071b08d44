/** Live football scores: one channel for each match, and a page that follows all of them over one connection. */
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import { Type, type Static } from '@sinclair/typebox'
import Fastify from 'fastify'
import sse from 'fastify-typed-sse'
import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'

const Match = Type.Object({
  id: Type.String(),
  home: Type.String(),
  away: Type.String(),
  score: Type.Tuple([Type.Integer(), Type.Integer()]),
  state: Type.Union([Type.Literal('before'), Type.Literal('playing'), Type.Literal('over')])
})
/** `match` is how a match stands as a reader comes; the others are what happens then. Each has the whole match. */
const events = { match: Match, 'kick-off': Match, score: Match, 'full-time': Match }

const matches: Static<typeof Match>[] = [
  { id: 'ars-che', home: 'Arsenal', away: 'Chelsea', score: [0, 0], state: 'before' },
  { id: 'liv-eve', home: 'Liverpool', away: 'Everton', score: [0, 0], state: 'before' }
]

const News = Type.Object({
  event: Type.Union([Type.Literal('kick-off'), Type.Literal('score'), Type.Literal('full-time')]),
  side: Type.Optional(Type.Union([Type.Literal('home'), Type.Literal('away')]))
})

export async function createApp () {
  const app = Fastify({ forceCloseConnections: true }).withTypeProvider<TypeBoxTypeProvider>()
  await app.register(sse)

  const games = new Map(matches.map((initial) => {
    const match = structuredClone(initial)
    const channel = app.sse.channel(`match/${match.id}`, { events, snapshot: () => [{ event: 'match' as const, data: match }] })
    return [match.id, { match, channel }]
  }))

  // What the reporter at the ground sends.
  app.post('/matches/:id', { schema: { params: Type.Object({ id: Type.String() }), body: News } }, async (request, reply) => {
    const game = games.get(request.params.id)
    if (game === undefined) return reply.callNotFound()
    const { match, channel } = game
    const { event, side } = request.body
    if (match.state !== (event === 'kick-off' ? 'before' : 'playing')) return reply.code(409).send({ match })
    if (event !== 'score') match.state = event === 'kick-off' ? 'playing' : 'over'
    else match.score[side === 'away' ? 1 : 0]++
    await channel.publish({ event, data: match })
    // When the last channel has closed, the stream ends for good.
    if (event === 'full-time') await channel.close()
    return { match }
  })

  app.get('/live', { schema: { events } }, async (request, reply) =>
    reply.sse(app.sse.subscribe([...games.values()].map(({ channel }) => channel))))

  const page = await readFile(new URL('football-scores.html', import.meta.url))
  app.get('/', (request, reply) => reply.type('text/html; charset=utf-8').send(page))
  return app
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const app = await createApp()
  const news = (id: string, payload: object) => app.inject({ method: 'POST', url: `/matches/${id}`, payload })
  const playing = setInterval(() => {
    news(matches[Math.random() < 0.5 ? 0 : 1]!.id, { event: 'score', side: Math.random() < 0.5 ? 'home' : 'away' })
  }, 5_000)
  for (const { id } of matches) await news(id, { event: 'kick-off' })
  process.once('SIGINT', () => {
    // An app that closes takes no requests.
    clearInterval(playing)
    app.close()
  })
  console.log(await app.listen({ port: Number(process.env.PORT || 3_000) }))
}
