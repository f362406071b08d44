/** Those examples that publish to channels, as those see it who watch. */
import { once } from 'node:events'
import { get, type IncomingMessage } from 'node:http'
import t from 'tap'
import { createGunzip } from 'node:zlib'
import { launch, noBrowser } from './browser.ts'
import { opened, post, start, watch, type Watcher } from './example.ts'
import { until } from './helpers.ts'

t.test('stock-ticker: prices and alerts, of all shares or of one', async (t) => {
  const { url } = await start(t, 'stock-ticker')
  const everything = watch(t, `${url}/prices`, ['price-update', 'trade-alert'])
  const apple = watch(t, `${url}/prices?symbol=AAPL`, ['price-update', 'trade-alert'])
  await Promise.all([opened(everything.source), opened(apple.source)])

  const trades = [
    { symbol: 'AAPL', price: 191.2, size: 5 },
    { symbol: 'MSFT', price: 415.5, size: 10_000 },
    { symbol: 'AAPL', price: 191.3, size: 25_000 }
  ]
  for (const trade of trades) t.equal((await post(`${url}/trades`, trade)).status, 204)
  t.equal((await post(`${url}/trades`, { symbol: 'AAPL' })).status, 400, 'half a trade is none')

  await until(() => everything.seen.length === 5 && apple.seen.length === 3)
  t.same(everything.seen, [
    ['price-update', { symbol: 'AAPL', price: 191.2 }],
    ['price-update', { symbol: 'MSFT', price: 415.5 }],
    ['trade-alert', trades[1]],
    ['price-update', { symbol: 'AAPL', price: 191.3 }],
    ['trade-alert', trades[2]]
  ])
  t.same(apple.seen, everything.seen.filter(([, { symbol }]) => symbol === 'AAPL'))
})

t.test('football-scores', async (t) => {
  const { url } = await start(t, 'football-scores')
  const tell = (id: string, event: string, side?: string) => post(`${url}/matches/${id}`, { event, ...(side && { side }) })
  const types = ['match', 'kick-off', 'score', 'full-time']
  const brief = ({ seen }: Watcher) => seen.map(([type, { id, score, state }]) => [type, id, score.join(':'), state].join(' '))

  await t.test('who comes sees how the matches stand, then what happens', async (t) => {
    const first = watch(t, `${url}/live`, types)
    await until(() => first.seen.length === 2)
    await tell('ars-che', 'kick-off')
    await tell('ars-che', 'score', 'home')
    await until(() => first.seen.length === 4)
    const second = watch(t, `${url}/live`, types)
    await until(() => second.seen.length === 2)
    await tell('liv-eve', 'kick-off')
    await until(() => first.seen.length === 5 && second.seen.length === 3)

    t.same(brief(first), [
      'match ars-che 0:0 before', 'match liv-eve 0:0 before', 'kick-off ars-che 0:0 playing', 'score ars-che 1:0 playing',
      'kick-off liv-eve 0:0 playing'
    ])
    t.same(brief(second), ['match ars-che 1:0 playing', 'match liv-eve 0:0 before', 'kick-off liv-eve 0:0 playing'])
  })

  await t.test('what cannot be is refused', async (t) => {
    t.equal((await tell('ars-che', 'kick-off')).status, 409)
    t.equal((await tell('ars-che', 'penalty')).status, 400)
    t.equal((await tell('none', 'kick-off')).status, 404)
  })

  await t.test('the page shows it, up to the end of the last match', { skip: noBrowser }, async (t) => {
    const browser = await launch(t)
    const page = await browser.newPage()
    const errors: Error[] = []
    page.on('pageerror', (error) => errors.push(error))
    const shows = (selector: string, hasText: string) =>
      page.locator(selector).filter({ hasText }).waitFor({ state: 'attached', timeout: 20_000 })

    await page.goto(url)
    await shows('#status', 'live')
    await shows('#ars-che', 'Arsenal1 : 0Chelsealive')
    await tell('liv-eve', 'score', 'away')
    await shows('#liv-eve', 'Liverpool0 : 1Evertonlive')
    await tell('ars-che', 'full-time')
    await shows('#ars-che', 'Arsenal1 : 0Chelseafull time')
    await tell('liv-eve', 'full-time')
    await shows('#status', 'All matches are over.')
    t.same(errors, [])
  })
})

t.test('log-tail: the last lines first, then each new one, as they are', async (t) => {
  const { child, url } = await start(t, 'log-tail')
  const write = (from: number, to: number) => {
    for (let n = from; n <= to; n++) child.stdin!.write(`line ${n}\n`)
  }
  const lines = ({ seen }: Watcher) => seen.map(([, line]) => line)
  const numbered = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, index) => `line ${from + index}`)

  const first = watch(t, `${url}/log`, ['message'])
  await opened(first.source)
  write(1, 150)
  await until(() => first.seen.length === 150)
  const second = watch(t, `${url}/log`, ['message'])
  await until(() => second.seen.length === 100)
  write(151, 152)
  await until(() => first.seen.length === 152 && second.seen.length === 102)
  t.same(lines(first), numbered(1, 152))
  t.same(lines(second), numbered(51, 152))

  child.stdin!.end('"no JSON\n')
  const all = await (await fetch(`${url}/log?lastEventId=earliest`)).text()
  t.match(all, /\ndata: line 152\n\nid: .*\ndata: "no JSON\n\n/)
  t.match(all, /\nid: fastify-typed-sse:finished\n\n$/, 'with the log the stream ends, for good')
})

t.test('live-counters', async (t) => {
  const { url } = await start(t, 'live-counters')
  const look = () => watch(t, `${url}/counters`, ['counter'])
  /** What somebody knows of a counter. */
  const shown = ({ seen }: Watcher, name: string) => seen.findLast(([, data]) => data.name === name)?.[1].value
  const first = look()
  await until(() => shown(first, 'visitors') === 1)
  const second = look()
  await until(() => shown(first, 'visitors') === 2 && shown(second, 'visitors') === 2)

  t.same(await (await post(`${url}/likes/home`, {})).json(), { likes: 1 })
  t.same(await (await post(`${url}/likes/blog`, {})).json(), { likes: 1 })
  t.same(await (await post(`${url}/likes/home`, {})).json(), { likes: 2 })
  t.equal((await post(`${url}/likes/else`, {})).status, 400)
  await until(() => shown(first, 'likes of home') === 2 && shown(second, 'likes of home') === 2)

  const late = look()
  await until(() => shown(late, 'visitors') === 3)
  t.same([shown(late, 'likes of home'), shown(late, 'likes of blog')], [2, 1], 'who comes late sees all of them at once')
  second.source.close()
  await until(() => shown(first, 'visitors') === 2 && shown(late, 'visitors') === 2)
})

t.test('server-health: measured for all who watch, and only then', async (t) => {
  const { url, open } = await start(t, 'server-health', { every: 20 })
  const look = () => watch(t, `${url}/health`, ['health'])
  const first = look()
  await until(() => first.seen.length >= 3)
  const second = look()
  await until(() => second.seen.length >= 5)
  t.match(first.seen, second.seen.slice(0, 3), 'the same, from the first on')
  for (const [, { cpu, memory, delay }] of first.seen) t.ok(cpu >= 0 && memory > 1e6 && delay >= 0)

  for (const { source } of [first, second]) source.close()
  await open(0)
  const left = Date.now()
  await new Promise((resolve) => setTimeout(resolve, 400))
  const back = Date.now()
  const ids = (watcher: Watcher) => new Promise<number[]>((resolve) => {
    const times: number[] = []
    watcher.source.addEventListener('health', ({ lastEventId }) => {
      times.push(parseInt(lastEventId))
      if (times.at(-1)! >= back) resolve(times)
    })
  })
  const times = await ids(look())
  t.ok(times[0]! <= left, 'who comes back sees what was measured before')
  t.same(times.filter((time) => time > left && time < back), [], 'nothing was measured while nobody watched')
})

t.test('batches: all readings, in order, in few events', async (t) => {
  const { url } = await start(t, 'batches')
  const { source, seen } = watch(t, `${url}/readings`, ['readings'])
  await opened(source)
  const readings = Array.from({ length: 250 }, (_, value) => ({ sensor: 'a', value }))
  t.equal((await post(`${url}/readings`, readings)).status, 202)
  t.equal((await post(`${url}/readings`, [{ sensor: 'a' }])).status, 400)
  const received = () => seen.flatMap(([, batch]) => batch)
  await until(() => received().length >= readings.length)
  t.same(received(), readings)
  t.ok(seen.length < 25, `${seen.length} events`)
  t.ok(seen.every(([, batch]) => batch.length <= 100))
})

t.test('compressed-table', async (t) => {
  const { url } = await start(t, 'compressed-table')
  const request = async (...codings: string[]) => {
    const sent = get(`${url}/stock`, { headers: { 'accept-encoding': codings } })
    t.after(() => sent.destroy())
    const [response] = await once(sent, 'response') as [IncomingMessage]
    let bytes = 0
    response.on('data', (chunk: Buffer) => { bytes += chunk.length })
    return { response, bytes: () => bytes }
  }
  /** The tables in a text so far. */
  const tables = (stream: NodeJS.ReadableStream) => {
    let text = ''
    stream.setEncoding('utf8').on('data', (more: string) => { text += more })
    return () => [...text.matchAll(/^event: stock\ndata: (.*)\n\n/gm)].map(([, data]) => JSON.parse(data!))
  }

  const small = await request('gzip')
  t.match(small.response.headers, { 'content-encoding': 'gzip', vary: 'accept-encoding' })
  const unzipped = tables(small.response.pipe(createGunzip()))
  const plain = await request()
  t.equal(plain.response.headers['content-encoding'], undefined)
  const read = tables(plain.response)
  await until(() => unzipped().length === 1 && read().length === 1)
  t.equal((await post(`${url}/stock`, { row: 7, pieces: 3 })).status, 204)
  await until(() => unzipped().length === 2 && read().length === 2)
  t.same(unzipped(), read())
  t.same(read().map((table) => [table.length, table[7].pieces]), [[1_000, 100], [1_000, 3]])
  t.ok(small.bytes() < plain.bytes() / 5, `${small.bytes()} bytes instead of ${plain.bytes()}`)
})
