/** The last event ID that a client sends back: where it is read, how it is decoded, and which is refused. */
import { Type } from '@sinclair/typebox'
import type { FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import type { SseOptions } from '../index.ts'
import { lastEventIdFault, readLastEventId } from '../lib/last-event-id.ts'
import { connect, createApp, fetchBody, listen } from './helpers.ts'

/** A route that sends what it was given, and knows whether its source was ever started. */
async function echo (t: Test, options: SseOptions = {}) {
  const app = await createApp(t, options)
  const state = { started: 0, seen: [] as (string | undefined)[] }
  app.get('/', async (request, reply) => {
    state.seen.push(request.lastEventId)
    return reply.sse(async function * ({ lastEventId }) {
      state.started++
      yield { data: lastEventId ?? null }
    })
  })
  return { app, state }
}

async function idOf (app: FastifyInstance, url: string, header?: string): Promise<unknown> {
  const response = await app.inject({ url, ...(header === undefined ? {} : { headers: { 'Last-Event-ID': header } }) })
  if (response.statusCode !== 200) return response.json().code
  return JSON.parse(/^data: (.*)\n\n$/.exec(response.payload)![1]!)
}

const encoded = (bytes: string) => bytes.replace(/[^]/g, (byte) => '%' + byte.charCodeAt(0).toString(16).padStart(2, '0'))

t.test('a browser sends UTF-8 bytes, another client latin1: both are understood', async (t) => {
  const { app } = await echo(t)
  const port = await listen(app)
  const sent: [Buffer, string][] = [
    [Buffer.from('é€😀'), 'é€😀'], [Buffer.from('plain-1'), 'plain-1'], [Buffer.from('\ufeffbom'), '\ufeffbom'],
    [Buffer.from('é', 'latin1'), 'é'], [Buffer.from('naïve ÿ', 'latin1'), 'naïve ÿ'], [Buffer.from('a%20b,c'), 'a%20b,c'],
    [Buffer.from([0xed, 0xa0, 0x80]), '\u00ed\u00a0\u0080'], [Buffer.from([0xc0, 0x80]), '\u00c0\u0080'],
    [Buffer.from('\u0080'), '\u0080']
  ]
  for (const [bytes, id] of sent) {
    const client = connect(t, port).get('/', `Last-Event-ID: ${bytes.toString('latin1')}`)
    await client.until('\r\n0\r\n\r\n')
    t.equal(client.body, `data: ${JSON.stringify(id)}\n\n`, `bytes ${bytes.toString('hex')}`)
  }
})

t.test('the header comes first, then the query parameter, and empty means none', async (t) => {
  const { app } = await echo(t)
  const cases: [url: string, header: string | undefined, id: string | null][] = [
    ['/', undefined, null], ['/', '', null], ['/', '5', '5'], ['/', '0', '0'],
    ['/?lastEventId=7', undefined, '7'], ['/?lastEventId=7', '5', '5'], ['/?lastEventId=7', '', '7'],
    ['/?lastEventId=', undefined, null], ['/?lastEventId', undefined, null], ['/?', undefined, null],
    ['/?LastEventId=7', undefined, null], ['/?lasteventid=7', undefined, null], ['/?x=lastEventId=7', undefined, null],
    ['/?lastEventId=1&lastEventId=2', undefined, '1'], ['/?a=b&lastEventId=%C3%A9%F0%9F%98%80', undefined, 'é😀'],
    ['/?lastEventId=a+b%26c', undefined, 'a b&c'], ['/?lastEventId=%zz', undefined, '%zz']
  ]
  for (const [url, header, id] of cases) t.equal(await idOf(app, url, header), id, `${url} and ${header}`)
})

t.test('the query parameter may have another name, or none', async (t) => {
  const { app } = await echo(t, { lastEventIdQuery: 'since id' })
  t.equal(await idOf(app, '/?since+id=7&lastEventId=8'), '7')
  t.equal(await idOf(app, '/?lastEventId=8'), null)
  const { app: none } = await echo(t, { lastEventIdQuery: false })
  t.equal(await idOf(none, '/?lastEventId=8&false=9'), null)
  t.equal(await idOf(none, '/?lastEventId=8', '5'), '5')
})

t.test('a schema that knows no such parameter takes nothing away', async (t) => {
  const app = await createApp(t)
  const querystring = Type.Object({ room: Type.String() }, { additionalProperties: false })
  app.get('/', { schema: { querystring } }, async (request, reply) => reply.sse([{ data: [request.lastEventId, request.query] }]))
  const { payload } = await app.inject('/?room=1&lastEventId=7')
  t.equal(payload, 'data: ["7",{"room":"1"}]\n\n')
})

t.test('in a route that sends no stream it is there too, and cannot be set', async (t) => {
  const app = await createApp(t)
  app.get('/', async (request) => {
    t.throws(() => { (request as { lastEventId?: string }).lastEventId = 'x' }, TypeError)
    return { id: request.lastEventId }
  })
  t.same((await app.inject({ url: '/', headers: { 'last-event-id': '5' } })).json(), { id: '5' })
})

t.test('an ID that no server could have sent is answered with 400, and no source is started', async (t) => {
  const { app, state } = await echo(t)
  const hostile: [string, RegExp][] = [
    ['%00', /^Invalid last event ID: it has a CR, LF or NUL$/], ['a%0Ab', /CR, LF or NUL/], ['a%0d', /CR, LF or NUL/],
    ['x'.repeat(1_025), /^Invalid last event ID: it is longer than 1024 bytes$/], ['%C3%A9'.repeat(513), /longer than 1024 bytes/]
  ]
  for (const [id, message] of hostile) {
    for (const method of ['GET', 'HEAD'] as const) {
      const response = await app.inject({ method, url: `/?lastEventId=${id}` })
      t.equal(response.statusCode, 400, `${method} ${id.slice(0, 20)}`)
      t.notMatch(response.headers['content-type'], /event-stream/)
      if (method === 'GET') t.match(response.json(), { code: 'FST_SSE_INVALID_LAST_EVENT_ID', message })
    }
  }
  t.equal(await idOf(app, '/?lastEventId=7', 'x'.repeat(1_025)), 'FST_SSE_INVALID_LAST_EVENT_ID', 'nor is another one taken')
  t.same([...new Set(state.seen)], [undefined], 'the handler sees none')
  t.equal(state.started, 0)
  t.equal(app.sse.stats().opened, 0)
  t.equal(await idOf(app, `/?lastEventId=${'x'.repeat(1_024)}`), 'x'.repeat(1_024), '1,024 bytes are fine')
  t.equal(await idOf(app, `/?lastEventId=${'%C3%A9'.repeat(512)}`), 'é'.repeat(512))
  t.equal(await idOf(app, '/', 'y'.repeat(1_024)), 'y'.repeat(1_024))
})

t.test('a source that is refused is let go of, though never run', async (t) => {
  const app = await createApp(t)
  let ran = false
  let returned = 0
  const iterator = { next: async () => { ran = true; return {} }, return: async () => ({ done: ++returned }) }
  const iterable = { [Symbol.asyncIterator]: () => iterator }
  app.get('/iterable', async (request, reply) => reply.sse(iterable as unknown as AsyncIterable<string>))
  app.get('/generator', async (request, reply) => reply.sse((async function * () { ran = true; yield 'x' })()))
  app.get('/function', async (request, reply) => reply.sse(() => { ran = true; return [] }))
  for (const [path, status] of [['/iterable', 400], ['/generator', 400], ['/function', 400]] as const) {
    t.equal((await app.inject(`${path}?lastEventId=%00`)).statusCode, status)
  }
  t.equal(returned, 1)
  t.equal(ran, false)
})

t.test('a finite stream ends with an ID; whoever comes back with it gets 204, and no source is started', async (t) => {
  const app = await createApp(t)
  let started = 0
  let seen: string | undefined = 'unseen'
  app.get('/', { sse: { finite: true } }, async (request, reply) => {
    seen = request.lastEventId
    return reply.sse(function * () { started++; yield { id: 1, data: 'x' } })
  })
  const port = await listen(app)
  t.equal(await fetchBody(t, port, '/'), 'id: 1\ndata: "x"\n\nid: fastify-typed-sse:finished\n\n')
  const client = connect(t, port).get('/', 'Last-Event-ID: fastify-typed-sse:finished', 'Connection: close')
  await client.untilClosed()
  t.match(client.head, /^HTTP\/1\.1 204 No Content\r\n/)
  t.match(client.head, /\r\ncache-control: no-store(\r\n|$)/i)
  t.notMatch(client.head, /content-type|content-length|transfer-encoding|retry/i)
  t.equal(client.body, '')
  t.equal((await app.inject('/?lastEventId=fastify-typed-sse:finished')).statusCode, 204)
  t.equal(seen, undefined, 'to the handler it is no ID')
  t.equal(started, 1)
  t.equal((await app.inject({ url: '/', headers: { 'last-event-id': '1' } })).statusCode, 200, 'before the end it starts anew')
})

t.test('a finite stream that fails has no such end', async (t) => {
  const app = await createApp(t)
  app.get('/', { sse: { finite: true, onError: () => 'sorry' } }, async (request, reply) => reply.sse(async function * () {
    yield 'x'
    throw new Error('failed')
  }))
  t.equal((await app.inject('/')).payload, 'data: x\n\ndata: sorry\n\n')
})

t.test('the parts alone: what is read, what is wrong with it', async (t) => {
  t.equal(readLastEventId({ 'last-event-id': '€' }, '/', false), '€', 'already decoded, as by inject')
  t.equal(readLastEventId({}, '*', 'lastEventId'), undefined)
  t.equal(readLastEventId({}, '/?lastEventId=1', false), undefined)
  t.equal(lastEventIdFault(''), undefined)
  t.equal(lastEventIdFault('\u2028\ufeff\u0001'), undefined)
  for (const byte of ['\0', '\r', '\n']) {
    t.match(lastEventIdFault(`a${byte}`), /CR, LF or NUL/)
    t.equal(readLastEventId({}, `/?lastEventId=${encoded('a' + byte)}`, 'lastEventId'), 'a' + byte)
  }
})
