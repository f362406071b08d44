/** The examples, each built and in a process of its own, as its users see it: with EventSource, fetch and a browser. */
import { EventSource } from 'eventsource'
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { chromium } from 'playwright-core'
import t, { type Test } from 'tap'
import { chromiumPath } from './chromium.mjs'
import { buildExamples } from './examples-build.ts'
import { until } from './helpers.ts'

const built = buildExamples(t, 'football-scores.html')

/** Starts what an example builds, on a free port. */
const START = `
const { createApp } = await import(process.env.EXAMPLE)
const app = await createApp(process.stdin)
await app.listen({ port: 0, host: '127.0.0.1' })
process.send(app.server.address().port)
`

interface Example { child: ChildProcess, output: () => string }

/** A process that is gone after the test. */
function run (t: Test, args: string[], env: NodeJS.ProcessEnv): Example {
  // tap counts what any child process runs, and dist/ is not what the tests are to cover.
  const child = spawn(process.execPath, args, {
    cwd: built, env: { PATH: process.env.PATH, _TAPJS_PROCESSINFO_COVERAGE_: '0', ...env }, stdio: ['pipe', 'pipe', 'pipe', 'ipc']
  })
  t.after(async () => {
    if (child.exitCode !== null || child.signalCode !== null) return
    child.kill('SIGKILL')
    await once(child, 'exit')
  })
  let output = ''
  for (const stream of [child.stdout!, child.stderr!]) stream.setEncoding('utf8').on('data', (text: string) => { output += text })
  return { child, output: () => output }
}

async function start (t: Test, name: string): Promise<Example & { url: string }> {
  const example = run(t, ['--input-type=module', '--eval', START], { EXAMPLE: `./${name}.js` })
  const failed = once(example.child, 'exit').then(() => { throw new Error(example.output()) })
  const [port] = await Promise.race([once(example.child, 'message'), failed])
  failed.catch(() => {})
  return { ...example, url: `http://127.0.0.1:${port}` }
}

/** What somebody sees: event type and data, as they arrive. */
interface Watcher { source: EventSource, seen: [type: string, data: any][] }

/** An EventSource, gone after the test. Text that is no JSON object is told as it is. */
function watch (t: Test, url: string, ...types: string[]): Watcher {
  const source = new EventSource(url)
  t.after(() => source.close())
  const seen: Watcher['seen'] = []
  for (const type of types) {
    source.addEventListener(type, ({ data }) => seen.push([type, /^[[{]/.test(data) ? JSON.parse(data) : data]))
  }
  return { source, seen }
}

async function opened (source: EventSource): Promise<void> {
  await until(() => source.readyState === EventSource.OPEN)
}

async function post (url: string, body: object): Promise<Response> {
  const headers = { 'content-type': 'application/json' }
  return await fetch(url, { method: 'POST', headers, body: JSON.stringify(body) })
}

t.test('each can be started by itself', async (t) => {
  const paths = { 'job-status': '/jobs/none/events', 'stock-ticker': '/prices', 'football-scores': '/live', 'log-tail': '/log' }
  for (const [name, path] of Object.entries(paths)) {
    const { output } = run(t, [`${name}.js`], { PORT: '0' })
    await until(() => /http:\/\/[^"/]+:\d+/.test(output()), () => `a URL of ${name}, which printed ${output()}`)
    const abort = new AbortController()
    const { status } = await fetch(/http:\/\/[^"/]+:\d+/.exec(output())![0] + path, { signal: abort.signal })
    t.equal(status, name === 'job-status' ? 404 : 200, name)
    abort.abort()
  }
})

t.test('job-status', async (t) => {
  const { url } = await start(t, 'job-status')
  const started = await post(`${url}/jobs`, {})
  t.equal(started.status, 202)
  const { events } = await started.json() as { events: string }
  t.equal(started.headers.get('location'), events)
  const isDone = ({ seen }: Watcher) => seen.some(([, { state }]) => state === 'done')
  const statuses = ({ seen }: Watcher) => seen.filter(([type]) => type === 'status').map(([, { state, percent }]) => [state, percent])
  const all = [['queued', 0], ...[0, 20, 40, 60, 80].map((percent) => ['running', percent]), ['done', 100]]

  /** As a page does that knows the job's last word. */
  const watchJob = (t: Test) => {
    const watcher = watch(t, url + events, 'subscribed', 'status')
    watcher.source.addEventListener('status', ({ data }) => {
      if (JSON.parse(data).state === 'done') watcher.source.close()
    })
    return watcher
  }

  await t.test('all who watch see the job from its start, each with a subscriber ID of his own first', async (t) => {
    const early = [watchJob(t), watchJob(t)]
    await until(() => early.every(({ seen }) => seen.length > 1))
    const late = watchJob(t)
    await until(() => early.every(isDone) && isDone(late))
    const afterwards = watchJob(t)
    await until(() => isDone(afterwards))
    const watchers = [...early, late, afterwards]
    for (const watcher of watchers) t.same(statuses(watcher), all)
    t.ok(watchers.every(({ seen }) => seen[0]?.[0] === 'subscribed'))
    t.equal(new Set(watchers.map(({ seen }) => seen[0]?.[1].subscriber)).size, watchers.length)
  })

  await t.test('who comes back in between gets the rest', async (t) => {
    const body = await (await fetch(url + events)).text()
    const ids = [...body.matchAll(/^id: (\d+-\d+)\nevent: status$/gm)].map(([, id]) => id!)
    t.equal(ids.length, all.length)
    const rest = await (await fetch(url + events, { headers: { 'last-event-id': ids[5]! } })).text()
    t.same([...rest.matchAll(/^event: (\w+)\ndata: (.*)$/gm)].map(([, type, data]) => [type, JSON.parse(data!)]).slice(1),
      [['status', { state: 'done', percent: 100 }]])
    t.match(rest, new RegExp(`^id: ${ids[5]}\n\nevent: subscribed\n`), 'it keeps its place meanwhile')
  })

  await t.test('who has had everything is told that there is no more', async (t) => {
    const body = await (await fetch(url + events)).text()
    const lastEventId = /^id: (.*)\n\n$/.exec(body.slice(body.lastIndexOf('id: ')))?.[1]
    t.equal((await fetch(url + events, { headers: { 'last-event-id': lastEventId! } })).status, 204)
  })

  await t.test('a job that nobody has started is not found', async (t) => {
    t.equal((await fetch(`${url}/jobs/none/events`)).status, 404)
    t.equal((await fetch(`${url}/jobs/none`, { method: 'DELETE' })).status, 404)
  })

  await t.test('a job can be stopped, and its watchers see the end', async (t) => {
    const { id, events } = await (await post(`${url}/jobs`, {})).json() as { id: string, events: string }
    const watched = fetch(url + events).then((response) => response.text())
    t.equal((await fetch(`${url}/jobs/${id}`, { method: 'DELETE' })).status, 204)
    t.match(await watched, /data: \{"state":"stopped","percent":0\}\n\nid: fastify-typed-sse:finished\n\n$/)
  })
})

t.test('stock-ticker: prices and alerts, of all shares or of one', async (t) => {
  const { url } = await start(t, 'stock-ticker')
  const everything = watch(t, `${url}/prices`, 'price-update', 'trade-alert')
  const apple = watch(t, `${url}/prices?symbol=AAPL`, 'price-update', 'trade-alert')
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

const executablePath = chromiumPath()
const skip = executablePath === undefined && process.env.CI !== 'true' && 'Chromium is missing'

t.test('football-scores', async (t) => {
  const { url } = await start(t, 'football-scores')
  const tell = (id: string, event: string, side?: string) => post(`${url}/matches/${id}`, { event, ...(side && { side }) })
  const types = ['match', 'kick-off', 'score', 'full-time']
  const brief = ({ seen }: Watcher) => seen.map(([type, { id, score, state }]) => [type, id, score.join(':'), state].join(' '))

  await t.test('who comes sees how the matches stand, then what happens', async (t) => {
    const first = watch(t, `${url}/live`, ...types)
    await until(() => first.seen.length === 2)
    await tell('ars-che', 'kick-off')
    await tell('ars-che', 'score', 'home')
    await until(() => first.seen.length === 4)
    const second = watch(t, `${url}/live`, ...types)
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

  await t.test('the page shows it, up to the end of the last match', { skip }, async (t) => {
    if (executablePath === undefined) throw new Error('Chromium is missing: install it, or set CHROMIUM to its path')
    const browser = await chromium.launch({ executablePath, args: ['--headless', '--no-sandbox', '--disable-gpu'] })
    t.after(() => browser.close())
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

  const first = watch(t, `${url}/log`, 'message')
  await opened(first.source)
  write(1, 150)
  await until(() => first.seen.length === 150)
  const second = watch(t, `${url}/log`, 'message')
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
