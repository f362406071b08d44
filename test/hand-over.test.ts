/**
 * The moment at which a stream takes its response over: what Fastify and others have on the response goes on working, and who
 * waits for the reply goes on when it is gone.
 */
import type { FastifyInstance } from 'fastify'
import { once } from 'node:events'
import type { ServerResponse } from 'node:http'
import http2 from 'node:http2'
import { type Readable } from 'node:stream'
import t, { type Test } from 'tap'
import { connect, deferred, idleSource, listen, turns, until, type RawClient } from './helpers.ts'
import {
  eachFeed, start, gets, opened, sendSome, only, responseOf, noteResponses
} from './writes.ts'

/** Who listens to a response, event by event; of those that do nothing at all only that they are there. */
function listenersOf (response: ServerResponse): Record<string, Function[]> {
  const lists = response.eventNames().map((name) => {
    const listeners = response.listeners(name).filter((listener) => !/\{\s*\}$/.test(String(listener)))
    return [String(name), listeners] as const
  })
  return Object.fromEntries(lists.filter(([, listeners]) => listeners.length > 0))
}

eachFeed('what Fastify listens for for the stream\'s sake is gone, what others listen for is still there, and is called', async (t, makeFeed) => {
  const { app } = await start(t)
  noteResponses(app)
  const called: string[] = []
  let before: Record<string, Function[]> = {}
  app.addHook('onRequest', async (_, reply) => {
    reply.raw.on('finish', () => called.push('finish, of onRequest'))
    reply.raw.on('error', ({ message }) => called.push(`error ${message}, of onRequest`))
    reply.raw.on('drain', () => called.push('drain, of onRequest'))
  })
  let stream: Readable | undefined
  app.addHook('onSend', async (_, reply, payload) => {
    stream = payload as Readable
    reply.raw.once('close', () => called.push('close, of onSend'))
    reply.raw.prependListener('finish', () => called.push('finish, of onSend'))
    before = listenersOf(reply.raw)
  })
  const feed = await makeFeed(app, '/', {
    prepare: (reply) => {
      reply.raw.on('own', (what) => called.push(`own ${what}`))
      reply.raw.once('finish', () => called.push('finish, of the handler'))
      reply.raw.on('close', () => called.push('close, of the handler'))
    }
  })
  const client = await opened(t, await listen(app), feed)
  const response = responseOf(app)
  const after = listenersOf(response)
  t.same(Object.keys(after).sort(), Object.keys(before).sort(), 'for the same events')
  for (const [name, listeners] of Object.entries(before)) {
    t.equal(after[name]?.length, listeners.length, `as many for ${name}`)
    t.ok(listeners.every((listener, at) => after[name]?.[at] === listener), `the same, in the same order, for ${name}`)
  }
  t.not(response.listenerCount('error'), 0)
  t.same(stream!.eventNames(), [], 'nor does anybody listen to what Fastify was given')
  response.emit('own', 'event')
  t.same(called.splice(0), ['own event'])
  t.ok(response.emit('error', new Error('oops')))
  t.same(called.splice(0), ['error oops, of onRequest'])
  await sendSome(feed)
  await gets(t, client, feed.sent)
  only(app).end()
  await until(() => called.length === 5)
  t.same(called, ['finish, of onSend', 'finish, of onRequest', 'finish, of the handler', 'close, of the handler', 'close, of onSend'])
})

eachFeed('who listens from an onSend hook that has looked at the stream before is still there', async (t, makeFeed) => {
  const { app } = await start(t)
  const called: string[] = []
  app.addHook('onSend', async (_, reply, payload) => {
    (payload as Readable).once('end', () => {})
    reply.raw.once('finish', () => called.push('finish'))
    reply.raw.on('close', () => called.push('close'))
  })
  const feed = await makeFeed(app)
  const client = await opened(t, await listen(app), feed)
  only(app).end()
  await client.until('0\r\n\r\n')
  await until(() => app.sse.stats().open === 0)
  await turns()
  t.same(called, ['finish', 'close'])
})

eachFeed('an error that is emitted on a response crashes nothing, and the stream goes on', async (t, makeFeed) => {
  const { app, faults } = await start(t)
  noteResponses(app)
  const feed = await makeFeed(app)
  const client = await opened(t, await listen(app), feed)
  for (let n = 0; n < 2; n++) t.ok(responseOf(app).emit('error', new Error('oops')))
  await sendSome(feed)
  await gets(t, client, feed.sent)
  t.same(faults, [])
  t.match(app.sse.stats(), { open: 1 })
})

t.test('await reply.sse goes on when the response is gone', async (t) => {
  const ways: Record<string, (client: RawClient, app: FastifyInstance) => void> = {
    'the client has gone': (client) => client.destroy(),
    'the source is done': () => {},
    'the application has ended the stream': (_, app) => only(app).end(),
    'the application has ended the response': (_, app) => responseOf(app).end(),
    'the response was destroyed': (_, app) => responseOf(app).destroy()
  }
  for (const [way, end] of Object.entries(ways)) {
    await t.test(way, async (t) => {
      const { app, faults } = await start(t)
      noteResponses(app)
      const { source } = idleSource({ data: 1 })
      let state = 'not begun'
      let gone = false
      const gate = deferred()
      app.addHook('onResponse', async () => { gone = true })
      app.get('/', async (_, reply) => {
        state = 'waits'
        await (way === 'the source is done'
          ? reply.sse(async function * () {
            yield { data: 1 }
            await gate.promise
          })
          : reply.sse(source))
        t.equal(reply.raw.destroyed || reply.raw.writableFinished, true)
        state = 'goes on'
        return reply
      })
      const client = connect(t, await listen(app)).get('/')
      await client.until('data: 1\n\n')
      await turns()
      t.equal(state, 'waits')
      t.equal(gone, false)
      end(client, app)
      gate.resolve()
      await until(() => state === 'goes on', () => 'the handler to go on')
      await until(() => gone, () => 'onResponse')
      await turns()
      t.same(faults, [])
      t.match(app.sse.stats(), { open: 0 })
    })
  }
})

t.test('await reply.sse goes on when an error handler has answered in its stead, with an answer or with a stream', async (t) => {
  for (const answer of ['an answer', 'a stream']) {
    await t.test(answer, async (t) => {
      const { app, faults } = await start(t)
      const order: string[] = []
      app.setErrorHandler((error, _, reply) => {
        order.push(`error handler: ${(error as Error).message}`)
        return answer === 'a stream' ? reply.sse([{ data: 'instead' }]) : reply.code(418).send({ instead: true })
      })
      app.addHook('onResponse', async () => { order.push('response') })
      app.get('/', async (_, reply) => {
        await reply.sse(async function * () { throw new Error('no tea') } as () => AsyncGenerator<never>)
        order.push('goes on')
        return reply
      })
      const client = connect(t, await listen(app)).get('/')
      await client.until(/instead[^]*(\n\n\r\n0\r\n\r\n|\})$/)
      await until(() => order.includes('goes on'), () => 'the handler to go on')
      await until(() => order.includes('response'))
      t.match(client.head, answer === 'a stream' ? /^HTTP\/1\.1 200/ : /^HTTP\/1\.1 418/)
      t.equal(client.body, answer === 'a stream' ? 'data: "instead"\n\n' : '{"instead":true}')
      t.equal(order[0], 'error handler: no tea')
      t.same(order.toSorted(), ['error handler: no tea', 'goes on', 'response'])
      t.same(faults, [])
      t.match(app.sse.stats(), { open: 0 })
    })
  }
})

t.test('a reply that is awaited only when its response is gone goes on at once', async (t) => {
  const clients: Record<string, (t: Test, app: FastifyInstance) => Promise<unknown>> = {
    'HTTP/1.1': async (t, app) => connect(t, await listen(app)).get('/').until('0\r\n\r\n'),
    'HTTP/1.1, pipelined': async (t, app) => connect(t, await listen(app)).get('/').get('/').until(/0\r\n\r\n[^]*0\r\n\r\n/),
    'HTTP/2': async (t, app) => {
      const session = http2.connect(`http://127.0.0.1:${await listen(app)}`)
      t.after(() => session.destroy())
      const stream = session.request({ ':path': '/' }).resume()
      await once(stream, 'end')
    },
    inject: (_, app) => app.inject('/')
  }
  for (const [name, request] of Object.entries(clients)) {
    await t.test(name, async (t) => {
      const { app, faults } = await start(t, name === 'HTTP/2' ? { http2: true } : {})
      let responses = 0
      let over = 0
      app.addHook('onResponse', async () => { responses++ })
      app.get('/', async (_, reply) => {
        const before = responses
        reply.sse([{ data: 1 }])
        await until(() => responses > before)
        await turns()
        await reply
        over++
        return reply
      })
      const count = name === 'HTTP/1.1, pipelined' ? 2 : 1
      const requested = request(t, app)
      await until(() => over === count, () => 'the handler to go on')
      await requested
      t.equal(responses, count)
      t.same(faults, [])
      t.match(app.sse.stats(), { open: 0 })
    })
  }
})

t.test('a reply that is awaited only after an error handler has answered in the stream\'s stead goes on', async (t) => {
  const { app } = await start(t)
  const awaited = deferred()
  app.setErrorHandler((_, request, reply) => {
    reply.code(503).send('answered')
    reply.then(awaited.resolve, () => t.fail('it was answered'))
  })
  app.get('/', (request, reply) => {
    reply.sse(async function * () { throw new Error('at once') })
  })
  const client = connect(t, await listen(app)).get('/')
  await client.until('answered')
  await awaited.promise
})

t.test('whoever waits for a compressed stream goes on, and its compressor goes too', async (t) => {
  const { app } = await start(t)
  const { source } = idleSource({ data: 1 })
  const waiting = [deferred(), deferred()]
  app.get('/', { sse: { compress: true } }, (_, reply) => {
    reply.sse(source)
    for (const { resolve } of waiting) reply.then(resolve, () => t.fail('it has not failed'))
  })
  const client = connect(t, await listen(app)).get('/', 'accept-encoding: gzip')
  await client.until('content-encoding: gzip')
  await turns()
  client.destroy()
  await Promise.all(waiting.map(({ promise }) => promise))
})

t.test('another answer that comes between the handler and whoever waits for its reply is answered as any', async (t) => {
  const { app, faults } = await start(t)
  app.addHook('onSend', async (_, reply, payload) => payload)
  const { source } = idleSource({ data: 1 })
  app.get('/', (_, reply) => {
    reply.sse(source)
    Promise.resolve().then(() => reply.send({ instead: 1 }))
    return reply
  })
  const client = connect(t, await listen(app)).get('/', 'connection: close')
  await client.until('{"instead":1}')
  t.match(client.received, /^HTTP\/1\.1 200 OK\r\n/)
  t.same(faults, [])
  t.match(app.sse.stats(), { open: 0, closed: { superseded: 1 } })
})

t.test('a head that Node does not write ends the connection, and nothing else', async (t) => {
  for (const hook of [false, true]) {
    const { app, faults } = await start(t)
    if (hook) app.addHook('onSend', async (_, reply, payload) => payload)
    const { source } = idleSource({ data: 1 })
    app.get('/', async (_, reply) => {
      reply.raw.statusMessage = 'a\nb'
      return reply.sse(source)
    })
    app.get('/other', async () => 'here')
    const port = await listen(app)
    const client = connect(t, port).get('/')
    await client.untilClosed()
    await until(() => app.sse.connections.size === 0)
    t.match(app.sse.stats(), { open: 0, closed: { 'source-threw': 1 } })
    t.same(faults, [])
    await connect(t, port).get('/other').until('here')
  }
})

t.test('a header that cannot be sent is answered as any error, whichever hooks there are', async (t) => {
  for (const hook of [false, true]) {
    const { app, faults } = await start(t)
    if (hook) app.addHook('onSend', async (_, reply, payload) => payload)
    const { source, state } = idleSource({ data: 1 })
    app.get('/', async (_, reply) => {
      reply.header('x-name', 'a\nb')
      return reply.sse(source)
    })
    const client = connect(t, await listen(app)).get('/')
    await client.until('ERR_INVALID_CHAR')
    t.match(client.head, /^HTTP\/1\.1 500 /)
    await until(() => state.finished)
    t.match(app.sse.stats(), { open: 0, closed: { superseded: 1 } })
    t.same(faults, [])
  }
})
