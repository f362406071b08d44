/** Prices as they change, and alerts of large trades. `/prices` gives all of them, `/prices?symbol=AAPL` those of one share. */
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import { Type } from '@sinclair/typebox'
import Fastify from 'fastify'
import sse from 'fastify-typed-sse'
import { fileURLToPath } from 'node:url'

/** Shares in one trade from which on it is news. */
const LARGE = 10_000

const events = {
  'price-update': Type.Object({ symbol: Type.String(), price: Type.Number() }),
  'trade-alert': Type.Object({ symbol: Type.String(), price: Type.Number(), size: Type.Integer() })
}

export async function createApp () {
  const app = Fastify().withTypeProvider<TypeBoxTypeProvider>()
  await app.register(sse)

  const ticker = app.sse.channel('ticker', {
    events,
    // Who falls behind wants the newest price of each share, not the backlog. No alert stands for another.
    onLag: 'latest',
    key: (event) => event.event === 'price-update' ? event.data.symbol : undefined
  })

  app.post('/trades', { schema: { body: events['trade-alert'] } }, async (request, reply) => {
    const { symbol, price, size } = request.body
    await ticker.publish({ event: 'price-update', data: { symbol, price } })
    if (size >= LARGE) await ticker.publish({ event: 'trade-alert', data: { symbol, price, size } })
    return reply.code(204).send()
  })

  const querystring = Type.Object({ symbol: Type.Optional(Type.String()) })
  app.get('/prices', { schema: { querystring, events } }, async (request, reply) => {
    const { symbol } = request.query
    if (symbol === undefined) return reply.sse(ticker)
    return reply.sse(ticker.subscribe({ filter: ({ data }) => data.symbol === symbol }))
  })

  return app
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const app = await createApp()
  const prices = new Map([['AAPL', 191.2], ['MSFT', 415.5], ['NVDA', 131.9]])
  const trading = setInterval(() => {
    for (const [symbol, last] of prices) {
      const price = Math.round(last * (0.995 + Math.random() / 100) * 100) / 100
      prices.set(symbol, price)
      app.inject({ method: 'POST', url: '/trades', payload: { symbol, price, size: Math.ceil(Math.random() * LARGE * 1.1) } })
    }
  }, 500)
  process.once('SIGINT', () => {
    // An app that closes takes no requests.
    clearInterval(trading)
    app.close()
  })
  console.log(`curl -N '${await app.listen({ port: Number(process.env.PORT || 3_000) })}/prices?symbol=AAPL'`)
}
