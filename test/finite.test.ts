/** The end of a finite stream: what the last block is, and that it stops the client that comes back with it. */
import t from 'tap'
import { connect, createApp, fetchBody, listen } from './helpers.ts'

const BROWSERS = {
  chrome: 'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Safari/537.36',
  headless: 'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/156.0.0.0 Safari/537.36',
  edge: 'Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Safari/537.36 Edg/156.0',
  firefox: 'Mozilla/5.0 (X11; Linux x86_64; rv:153.0) Gecko/20100101 Firefox/153.0',
  safari: 'Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.0 Safari/605.1.15',
  chromeOnIos: 'Mozilla/5.0 (iPhone; CPU iPhone OS 26_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) ' +
    'CriOS/156.0.0.0 Mobile/15E148 Safari/604.1'
}

const ALONE = 'data: 1\n\nid: fastify-typed-sse:finished\n\n'
const WITH_EVENT = 'data: 1\n\nid: fastify-typed-sse:finished\nevent: fastify-typed-sse:finished\ndata: \n\n'

t.test('the last block is an ID alone, but an event where the browser forgets an ID without data', async (t) => {
  const app = await createApp(t, { finite: true })
  app.get('/', async (request, reply) => reply.sse([{ data: 1 }]))
  const port = await listen(app)
  t.equal(await fetchBody(t, port, '/'), ALONE, 'a client without a name')
  for (const [name, body] of [
    ['chrome', ALONE], ['headless', ALONE], ['edge', ALONE],
    ['firefox', WITH_EVENT], ['safari', WITH_EVENT], ['chromeOnIos', WITH_EVENT]
  ] as const) {
    t.equal(await fetchBody(t, port, '/', `User-Agent: ${BROWSERS[name]}`), body, name)
  }
})

t.test('whoever comes back with that ID is answered 204, and no source starts', async (t) => {
  const app = await createApp(t, { finite: true })
  let started = 0
  app.get('/', async (request, reply) => reply.sse(function * () { started++ }))
  const client = connect(t, await listen(app)).get('/', 'Last-Event-ID: fastify-typed-sse:finished')
  await client.until('\r\n\r\n')
  t.match(client.head, /^HTTP\/1.1 204 /)
  t.match(client.head, /^cache-control: no-store$/m, 'a shared cache must not stop others')
  t.equal(started, 0)
})

t.test('a stream that fails or is ended before its source is done has no such block', async (t) => {
  const app = await createApp(t, { finite: true })
  app.get('/fails', async (request, reply) => reply.sse(function * () {
    yield { data: 1 }
    throw new Error('no more')
  }))
  t.equal(await fetchBody(t, await listen(app), '/fails'), 'data: 1\n\n')
})
