/** The examples, built, each in a process of its own, as its users see it: all of them, and those without a channel. */
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import t from 'tap'
import { fetchEvents } from '../lib/client/index.ts'
import { post, printed, run, start, watch } from './example.ts'
import { readAll, until } from './helpers.ts'

const examples = new URL('../examples/', import.meta.url)
const names = readdirSync(examples).filter((name) => name.endsWith('.ts')).map((name) => name.slice(0, -'.ts'.length))

/** Where an example has an event stream; those that answer by something else, with which status. */
const streams: Record<string, { path: string, init?: RequestInit, status?: number }> = {
  batches: { path: '/readings' },
  'chat-completions': { path: '/v1/chat/completions', init: { method: 'POST' }, status: 400 },
  'compressed-table': { path: '/stock' },
  'football-scores': { path: '/live' },
  items: { path: '/items' },
  'job-status': { path: '/jobs/none/events', status: 404 },
  limits: { path: '/ticks', init: { headers: { 'x-api-key': 'key-of-ada' } } },
  'live-counters': { path: '/counters' },
  'log-tail': { path: '/log' },
  notifications: { path: '/notifications', status: 401 },
  'server-health': { path: '/health' },
  'stock-ticker': { path: '/prices' }
}

t.test('each can be started by itself, and ends by Ctrl+C while it is watched', async (t) => {
  t.same(Object.keys(streams), names)
  await Promise.all(Object.entries(streams).map(async ([name, { path, init, status = 200 }]) => {
    const example = run(t, [`${name}.js`], { PORT: '0' })
    const response = await fetch(await printed(example, /http:\/\/[^"/]+:\d+/) + path, init)
    t.equal(response.status, status, name)
    // A client that does not get to read within a second, on a busy machine, is broken off.
    const read = response.text().catch(() => {})
    example.child.kill('SIGINT')
    const [code] = await once(example.child, 'exit')
    t.equal(code, 0, `${name} has ended`, { printed: example.output() })
    await read
  }))
})

t.test('each is short, and in the README with a way to try it', async (t) => {
  const [table = '', tries = ''] = readFileSync(new URL('README.md', examples), 'utf8').split('## With curl')
  for (const name of names) {
    const lines = readFileSync(new URL(`${name}.ts`, examples), 'utf8').split('\n').length - 1
    t.ok(lines < 80, `${name} has ${lines} lines`)
    t.ok(table.includes(`[${name}.ts](${name}.ts)`), `${name} is in the table`)
    t.ok(tries.includes(`# ${name}`), `${name} can be tried`)
  }
})

t.test('items', async (t) => {
  const { url } = await start(t, 'items')
  const block = (id: number, data: string) => `id: ${id}\nevent: item\nretry: 2000\ndata: ${data}\n\n`
  const comment = ': 3 items\n\n'
  const [first, second, third] = [
    block(1, '{"name":"Plumbus","price":32.99}'), block(2, '{"name":"Portal gun","price":999.99}'),
    block(3, '{"name":"Meeseeks box","price":49.99}')
  ]
  const end = 'id: fastify-typed-sse:finished\n\n'
  const read = async (lastEventId?: string) =>
    await (await fetch(`${url}/items`, { headers: lastEventId === undefined ? {} : { 'last-event-id': lastEventId } })).text()

  t.equal(await read(), comment + first + second + third + end)
  t.equal(await read('2'), comment + third + end, 'who comes back gets the rest')
  t.equal(await read('none of ours'), comment + first + second + third + end)
  const finished = await fetch(`${url}/items`, { headers: { 'last-event-id': 'fastify-typed-sse:finished' } })
  t.equal(finished.status, 204, 'who has had everything is told that there is no more')

  const { seen } = watch(t, `${url}/items`, ['item'])
  await until(() => seen.length === 3)
  t.same(seen.map(([, { name }]) => name), ['Plumbus', 'Portal gun', 'Meeseeks box'])
})

t.test('chat-completions', async (t) => {
  const { url, output } = await start(t, 'chat-completions')
  const question = (content: string) => ({ model: 'fake', messages: [{ role: 'user', content }], stream: true })
  const textOf = (chunks: any[]) => chunks.map(({ choices: [{ delta }] }) => delta.content ?? '').join('')

  await t.test('each chunk is as the clients of this API know it, and the last line is no JSON', async (t) => {
    const body = await (await post(`${url}/v1/chat/completions`, question('Hello there'))).text()
    const lines = body.split('\n\n')
    t.same(lines.splice(-2), ['data: [DONE]', ''])
    const chunks = lines.map((line) => JSON.parse(line.replace(/^data: /, '')))
    t.equal(textOf(chunks), 'You said: Hello there')
    t.equal(chunks.length, 6)
    t.match(chunks[0], { id: /^chatcmpl-/, object: 'chat.completion.chunk', model: 'fake', choices: [{ index: 0, delta: { role: 'assistant' } }] })
    t.same([...new Set(chunks.map(({ id }) => id))], [chunks[0].id])
    t.same(chunks.map(({ choices: [choice] }) => choice.finish_reason), [null, null, null, null, null, 'stop'])
  })

  await t.test('our own client reads it to its end', async (t) => {
    const events = await readAll(fetchEvents(`${url}/v1/chat/completions`, {
      method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(question('Hello you'))
    }))
    t.equal(events.pop()?.data, '[DONE]')
    t.equal(textOf(events.map(({ data }) => data)), 'You said: Hello you')
    t.match(output(), /"isWhole":true/)
  })

  await t.test('the model stops when its client leaves', async (t) => {
    const abort = new AbortController()
    const long = question('and so on '.repeat(1_000))
    const { body } = await fetch(`${url}/v1/chat/completions`, {
      method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(long), signal: abort.signal
    })
    const { value } = await body!.getReader().read()
    t.match(Buffer.from(value!).toString(), /^data: \{/)
    abort.abort()
    await until(() => /"isWhole":false/.test(output()))
  })

  t.equal((await post(`${url}/v1/chat/completions`, { ...question('Hello'), stream: false })).status, 400)
})
