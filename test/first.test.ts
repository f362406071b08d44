/** `first`: events for one client, before those of the source. */
import { Type } from '@sinclair/typebox'
import t from 'tap'
import { connect, createApp, fetchBody, listen } from './helpers.ts'

const first = [{ event: 'hello', data: { you: 7 } }]
const HELLO = 'event: hello\ndata: {"you":7}\n\n'

t.test('they come before the events of a source, after the reconnection time, and are counted', async (t) => {
  const app = await createApp(t)
  app.get('/', async (request, reply) => reply.sse([{ data: 1 }], { first, retry: 5 }))
  t.equal(await fetchBody(t, await listen(app), '/'), `retry: 5\n\n${HELLO}data: 1\n\n`)
  t.equal(app.sse.stats().events, 2)
})

t.test('they come after the position of a channel, so that the client keeps it', async (t) => {
  const app = await createApp(t)
  const channel = app.sse.channel('c')
  app.get('/', async (request, reply) => reply.sse(channel, { first, retry: 5 }))
  const id = await channel.publish({ data: 1 })
  const last = await channel.publish({ data: 2 })
  await channel.close()
  const port = await listen(app)
  t.equal(await fetchBody(t, port, '/', `Last-Event-ID: ${id}`),
    `id: ${id}\n\nretry: 5\n\n${HELLO}id: ${last}\ndata: 2\n\nid: fastify-typed-sse:finished\n\n`)
})

t.test('they come before a snapshot, which has no position yet', async (t) => {
  const app = await createApp(t)
  const channel = app.sse.channel('c', { snapshot: () => [{ data: 'state' }] })
  app.get('/', async (request, reply) => reply.sse(channel, { first }))
  const client = connect(t, await listen(app)).get('/')
  await client.until('id: ')
  t.ok(client.body.startsWith(`${HELLO}data: "state"\n\nid: `))
})

t.test('a wrong one is refused before anything is sent, and its source let go of', async (t) => {
  const app = await createApp(t)
  const wrong: Record<string, unknown> = {
    id: [{ id: 1, data: 1 }], type: [{ event: 'bye', data: 1 }], data: [{ event: 'hello', data: { you: 'x' } }], none: 'hello'
  }
  let released = 0
  const done = { done: true, value: undefined }
  const source = {
    [Symbol.iterator]: () => ({
      next: () => done,
      return () {
        released++
        return done
      }
    })
  }
  const schema = { events: { hello: Type.Object({ you: Type.Integer() }) } }
  app.get<{ Params: { what: string } }>('/:what', { schema }, (request, reply) => {
    return (reply as any).sse(source, { first: wrong[request.params.what] })
  })
  for (const what of Object.keys(wrong)) {
    const response = await app.inject(`/${what}`)
    t.equal(response.statusCode, 500)
    t.match(response.json().code, what === 'none' ? 'FST_SSE_INVALID_OPTION' : 'FST_SSE_INVALID_EVENT')
  }
  t.equal(released, 4)
})

t.test('a source that fails at once is still answered with an error of its own', async (t) => {
  const app = await createApp(t)
  app.get('/source', async (request, reply) => reply.sse(async function * () { throw new Error('at once') }, { first }))
  app.get('/run', async (request, reply) => reply.sse(app.sse.run.attach('none'), { first }))
  t.equal((await app.inject('/source')).statusCode, 500)
  t.equal((await app.inject('/run')).statusCode, 404)
})
