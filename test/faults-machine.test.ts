/** What the machine can do to a server: its clock steps, its one thread is blocked, it has no more file descriptors. */
import FakeTimers from '@sinonjs/fake-timers'
import t, { type Test } from 'tap'
import { compareEntryIds } from '../lib/entry-id.ts'
import { createBystanders } from './bystanders.ts'
import { connect, createApp, given, idleSource, listen, until, type RawClient } from './helpers.ts'
import { start } from './program.ts'

const HOUR = 3_600_000

t.test('the wall clock steps by hours, both ways', async (t) => {
  const options = { keepAlive: 100, writeTimeout: 60_000, maxDuration: 60_000, revalidate: () => true, revalidateEvery: 60_000 }
  const bystanders = await createBystanders(t)
  const { app, lines } = bystanders
  const channel = app.sse.channel('steps', { history: { age: HOUR } })
  app.get('/steps', (_, reply) => reply.sse(channel, { keepAlive: false }))
  app.get('/idle', (_, reply) => reply.sse(idleSource({ data: 1 }).source, options))
  const clock = FakeTimers.install({ toFake: ['Date'], now: Date.now() })
  t.after(() => clock.uninstall())
  const port = await bystanders.arrive(t)
  const reader = connect(t, port).get('/steps')
  await reader.until('\n\n')
  const position = reader.body
  const since = performance.now()
  const idle = connect(t, port).get('/idle')
  const comments = () => idle.body.split(':\n\n').length - 1
  await idle.until('data: 1\n\n')

  const ids: string[] = []
  for (const hours of [0, 5, -10, 3, -30, 50]) {
    clock.setSystemTime(Date.now() + hours * HOUR)
    for (let n = 0; n < 3; n++) ids.push(await channel.publish({ data: ids.length }))
    const before = comments()
    await until(() => comments() > before, () => 'a comment')
  }
  t.ok(comments() <= (performance.now() - since) / 98, `comments are sent in their time, not ${comments()} of them`)
  t.same(ids.toSorted(compareEntryIds), ids, 'IDs grow')
  t.equal(new Set(ids).size, ids.length)
  const events = ids.map((id, n) => `id: ${id}\ndata: ${n}\n\n`)
  await given(t, reader, position + events.join(''), 'whoever was there gets all')
  for (const at of [0, 7, ids.length - 1]) {
    const back = connect(t, port).get('/steps', `Last-Event-ID: ${ids[at]}`)
    await given(t, back, `id: ${ids[at]}\n\n` + events.slice(at + 1).join(''), `who comes back after ${at} gets the rest`)
    back.destroy()
  }
  idle.destroy()
  reader.destroy()
  await bystanders.haveNotNoticed(t, ...Array(5).fill('client-gone'))
  const durations = lines.flatMap(({ sse }) => sse === undefined ? [] : [sse.ms])
  t.equal(durations.length, 5)
  t.same(durations.filter((ms) => !(ms >= 0 && ms < 60_000)), [], 'what they have lasted is told as it was')
})

t.test('the event loop is blocked for two seconds', async (t) => {
  const app = await createApp(t, { writeTimeout: 1_500 })
  const channel = app.sse.channel('news')
  app.get('/news', (_, reply) => reply.sse(channel, { keepAlive: 500 }))
  app.get('/large', (_, reply) => reply.sse([{ raw: 'x'.repeat(16_000_000) }]))
  app.get('/endless', (_, reply) => reply.sse(async function * () { for (;;) yield { raw: 'x'.repeat(65_536) } }))
  app.get('/ordinary', async () => 'as ever')
  const port = await listen(app)
  const news = connect(t, port).get('/news')
  await news.until('\n\n')
  const position = news.body
  const stalled = connect(t, port).get('/endless')
  await stalled.until('data: x')
  stalled.socket.pause()
  await until(() => [...app.sse.connections].some(({ behind }) => behind))
  const large = connect(t, port).get('/large')
  await large.until('data: x')

  const ids = [await channel.publish({ data: 'before' })]
  const end = performance.now() + 2_000
  const publishing = [1, 2, 3].map((data) => channel.publish({ data }))
  while (performance.now() < end);
  ids.push(...await Promise.all(publishing))
  const events = ['"before"', 1, 2, 3].map((data, n) => `id: ${ids[n]}\ndata: ${data}\n\n`).join('')
  const [comment, rest] = [() => news.body.includes(':\n\n'), () => news.body.replaceAll(':\n\n', '')]
  await until(() => comment() && rest().length >= position.length + events.length, () => 'all events, and a comment')
  t.equal(rest(), position + events, 'nothing is lost, and all in order')
  await large.until('0\r\n\r\n')
  await connect(t, port).get('/ordinary').until('as ever')
  await until(() => app.sse.stats().closed['write-timeout'] === 1, () => 'the end of who has stalled')
  await until(() => app.sse.stats().open === 1)
  t.match(app.sse.stats(), { opened: 3, closed: { 'source-done': 1, 'write-timeout': 1, 'client-gone': 0 } })
})

/** A server in a process that may open so many more files. */
async function serverWith (t: Test, room: number) {
  const { child, output } = start(t, `
    import fastify from 'fastify'
    import { closeSync, openSync } from 'node:fs'
    import sse from './index.js'
    const app = fastify({ logger: { level: 'debug' } })
    await app.register(sse)
    const channel = app.sse.channel('ticks')
    let n = 0
    setInterval(() => channel.publish({ data: n++ }), 10)
    app.get('/ticks', (_, reply) => reply.sse(channel))
    app.get('/stats', async () => app.sse.stats())
    const address = await app.listen({ port: 0, host: '127.0.0.1' })
    const files = []
    try {
      for (;;) files.push(openSync('/dev/null'))
    } catch {}
    for (const file of files.splice(0, ${room})) closeSync(file)
    console.log('full but for ${room}: ' + address)`, 'ulimit -n 512')
  const address = /full but for \d+: http:\/\/127.0.0.1:(\d+)\n/
  await until(() => address.test(output()), () => `the server to listen: ${output()}`)
  return { child, output, port: Number(address.exec(output())![1]) }
}

t.test('out of file descriptors: streams that are there go on, and when they leave others have room', async (t) => {
  const { child, output, port } = await serverWith(t, 30)
  const clients = Array.from({ length: 60 }, () => connect(t, port).get('/ticks'))
  const ticks = ({ received }: RawClient) => [...received.matchAll(/data: (\d+)\n/g)].map(([, n]) => Number(n))
  const isServed = (client: RawClient) => ticks(client).length > 0
  const count = () => clients.filter(isServed).length
  await until(() => count() >= 10, () => `some clients to be served: ${output()}`)
  const served = clients.filter(isServed)
  const before = served.map((client) => ticks(client).length)
  await until(() => served.every((client, n) => ticks(client).length >= before[n]! + 50), () => 'those who are served to go on')
  t.ok(count() < clients.length, `there is no room for all: ${count()} of ${clients.length} are served`)
  t.same(served.filter(({ closed }) => closed), [], 'nobody who was served has lost the connection')
  for (const client of served) {
    const all = ticks(client)
    t.equal(all.at(-1)! - all[0]! + 1, all.length, 'nothing is missing')
  }
  for (const client of clients) client.destroy()
  // What was accepted while there were no descriptors may have been closed: a client of that time connects again.
  let tries = 0
  let other!: RawClient
  const connectAgain = () => {
    tries++
    other = connect(t, port).get('/ticks')
  }
  connectAgain()
  await until(() => {
    if (other.closed) connectAgain()
    return ticks(other).length > 10
  }, () => `another client to be served: ${tries} tries, the last one ${other.closed ? 'closed' : other.socket.readyState}, ` +
    `given ${JSON.stringify(other.received.slice(-500))}; exit code ${child.exitCode}; ${output()}`)
  const stats = connect(t, port).get('/stats')
  await stats.until(/\}$/)
  const { open, opened, closed } = JSON.parse(stats.body)
  t.equal(open, 1)
  t.equal(opened - 1, closed['client-gone'])
  t.equal(child.exitCode, null, output())
  t.notMatch(output(), /"level":(40|50|60)/, 'nothing has failed')
})
