/** The demo, as a person starts it: built, in a process of its own, with real data, in a real browser. */
import { createParser, type EventSourceMessage } from 'eventsource-parser'
import { execFileSync, spawn, type ChildProcess } from 'node:child_process'
import { createHash, randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, readdirSync, statSync } from 'node:fs'
import os from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Page } from 'playwright-core'
import t, { type Test } from 'tap'
import { FINISHED_ID } from '../lib/client/finished-id.ts'
import { launch, noBrowser } from './browser.ts'
import { connect, until } from './helpers.ts'

const root = fileURLToPath(new URL('..', import.meta.url))
if (!isBuilt()) tsc()
tsc('-p', 'examples')

/** Whether dist/ is there, and newer than all that it is made of. */
function isBuilt (): boolean {
  const main = join(root, 'dist/index.js')
  const sources = ['lib', 'types'].flatMap((folder) => readdirSync(join(root, folder), { recursive: true }).map((name) => join(root, folder, String(name))))
  return existsSync(main) &&
    [...sources, join(root, 'index.ts')].every((path) => statSync(path).mtimeMs <= statSync(main).mtimeMs)
}

function tsc (...args: string[]): void {
  execFileSync(process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), ...args], { cwd: root, stdio: 'inherit' })
}

interface Demo {
  child: ChildProcess
  port: number
  output: () => string
}

function spawnDemo (t: Test, env: NodeJS.ProcessEnv): { child: ChildProcess, output: () => string } {
  // Nothing of tap's own environment, which would make it a test.
  // tap counts what any child process runs, and dist/ is not what the tests are to cover.
  const uncounted = { _TAPJS_PROCESSINFO_COVERAGE_: '0' }
  const child = spawn(process.execPath, ['examples/demo/server.js'], { cwd: root, env: { PATH: process.env.PATH, ...uncounted, ...env } })
  const kill = () => child.kill('SIGKILL')
  process.once('exit', kill)
  t.after(async () => {
    process.removeListener('exit', kill)
    if (!hasExited(child)) {
      kill()
      await once(child, 'exit')
    }
  })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text: string) => { output += text })
  return { child, output: () => output }
}

function hasExited (child: ChildProcess): boolean {
  return child.exitCode !== null || child.signalCode !== null
}

/** Starts the demo and waits for the URL that it prints; it is gone after the test. */
async function startDemo (t: Test, env: NodeJS.ProcessEnv = {}): Promise<Demo> {
  const { child, output } = spawnDemo(t, { PORT: '0', ...env })
  const url = /http:\/\/localhost:(\d+)/
  await until(() => url.test(output()) || hasExited(child), () => `the demo's URL, it printed ${output()}`)
  const port = Number(url.exec(output())?.[1])
  if (!(port > 0)) throw new Error(`the demo has not started: ${output()}`)
  return { child, port, output }
}

/** As Ctrl-C and process managers do: it must close by itself. */
async function stopDemo ({ child }: Demo, signal: NodeJS.Signals = 'SIGTERM'): Promise<number | null> {
  child.kill(signal)
  if (!hasExited(child)) await once(child, 'exit')
  return child.exitCode
}

/** What an EventSource dispatches of a body. */
function parse (body: string): EventSourceMessage[] {
  const events: EventSourceMessage[] = []
  createParser({ onEvent: (event) => events.push(event) }).feed(body)
  return events
}

function createFolder (t: Test) {
  const files = { a: 'first', folder: { b: 'second\n', deeper: { c: '' } }, z: 'é€😀'.repeat(100_000) }
  const all = Buffer.from(files.a + files.folder.b + files.folder.deeper.c + files.z)
  return { folder: t.testdir(files), count: 4, bytes: all.length, sha256: createHash('sha256').update(all).digest('hex') }
}

t.test('the page is one file, and needs nothing else', async (t) => {
  const { port } = await startDemo(t)
  const client = connect(t, port).get('/')
  await client.until('</html>')
  t.match(client.head, /^HTTP\/1\.1 200 /)
  t.match(client.head, /content-type: text\/html; charset=utf-8/i)
  t.notMatch(client.body, /(src|href)="(?!data:)/, 'no resource of any other place')
})

t.test('the stream of the machine begins within a second, with plausible numbers', async (t) => {
  const { port } = await startDemo(t)
  const started = performance.now()
  const client = connect(t, port).get('/events/stats')
  await client.until(/\ndata: .*\n\n/)
  t.ok(performance.now() - started < 1_000)
  await client.until(/(\ndata: .*\n\n[^]*){3}/)

  const events = parse(client.body)
  for (const event of events) {
    const { cpu, cores, load, free, total, host, uptime, streams } = JSON.parse(event.data)
    t.equal(event.event, 'stats')
    t.ok(cpu >= 0 && cpu <= 100)
    t.ok(free > 0 && free <= total)
    t.ok(uptime > 0 && uptime < 60)
    t.same([cores, total, host, load.length], [os.cpus().length, os.totalmem(), os.hostname(), 3])
    t.ok(streams === 0 || streams === 1)
  }
  const ids = events.map(({ id }) => Number(id))
  t.ok(Math.abs(ids[0]! - Date.now()) < 60_000, 'the ID is the time')
  t.same(ids, [...new Set(ids)].sort((a, b) => a - b), 'and it grows')
})

t.test('the stream of the log shows what Fastify writes, and goes on where its reader was', async (t) => {
  const { port, output } = await startDemo(t)
  const [first, second] = [randomUUID(), randomUUID()]
  const reader = connect(t, port).get('/events/log')
  connect(t, port).get(`/?${first}`)
  await reader.until(new RegExp(`"url":"/\\?${first}"[^]*"statusCode":200[^]*\n\n`))
  reader.destroy()
  const seen = parse(reader.body)
  t.same(seen.map(({ data }) => data), output().split('\n').filter((line) => line.startsWith('{')), 'line for line')
  t.notMatch(reader.body, /events\/log/, 'to read it writes no line')

  connect(t, port).get(`/?${second}`)
  const again = connect(t, port).get('/events/log', `Last-Event-ID: ${seen.at(-1)!.id}`)
  await again.until(new RegExp(`"url":"/\\?${second}"[^]*\n\n`))
  t.match(parse(again.body)[0]?.data, second, 'the first line is the first that it has not had')
  const hostile = connect(t, port).get('/events/log', 'Last-Event-ID: no such ID')
  await hostile.until(first)
})

t.test('the job ends with its result, and for good', async (t) => {
  const { folder, count, bytes, sha256 } = createFolder(t)
  const { port } = await startDemo(t, { DEMO_FOLDER: folder })
  const client = connect(t, port).get('/events/job')
  await client.until(/\r\n0\r\n\r\n$/)
  const last = parse(client.body).at(-1)
  t.equal(last?.event, 'result')
  t.match(JSON.parse(last!.data), { files: count, bytes, sha256 })
  t.ok(client.body.endsWith(`\n\nid: ${FINISHED_ID}\n\n`))

  const again = connect(t, port).get('/events/job', `Last-Event-ID: ${FINISHED_ID}`)
  t.match(await again.until('\r\n\r\n'), /^HTTP\/1\.1 204 /)
})

t.test('the job stops when nobody waits for it', async (t) => {
  const { port } = await startDemo(t)
  const client = connect(t, port).get('/events/job')
  await client.until(/event: progress\ndata: .*\n\n/)
  const { files, of, bytes, file } = JSON.parse(parse(client.body)[0]!.data)
  t.ok(files > 0 && files < of && of <= 18_000 && bytes > 0)
  t.ok(existsSync(join(root, 'node_modules', file)), 'a real file')
  client.destroy()
  await connect(t, port).get('/events/log').until('job stopped')
})

t.test('the job tells that it has failed, not why', async (t) => {
  const { port } = await startDemo(t, { DEMO_FOLDER: join(t.testdir({}), 'missing') })
  const client = connect(t, port).get('/events/job')
  await client.until(/\r\n0\r\n\r\n$/)
  t.match(parse(client.body), [{ event: 'failed' }])
  t.notMatch(client.body, /missing/)
})

t.test('it closes at once when it is told to, with all of its streams open', async (t) => {
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    const demo = await startDemo(t)
    const clients = ['stats', 'log', 'job'].map((name) => connect(t, demo.port).get(`/events/${name}`))
    for (const client of clients) await client.until(/\ndata: .*\n\n/)
    // As a browser does ahead of its next request; Node by itself would wait a minute for it.
    await once(connect(t, demo.port).socket, 'connect')
    t.equal(await stopDemo(demo, signal), 0)
    for (const client of clients) t.match(await client.untilClosed(), /retry: \d+\n\n\r\n0\r\n\r\n$/)
  }
})

t.test('a port that is in use is told in one line', async (t) => {
  const { port } = await startDemo(t)
  const { child, output } = spawnDemo(t, { PORT: String(port) })
  await once(child, 'close')
  t.equal(child.exitCode, 1)
  t.equal(output(), `Port ${port} is in use. Choose another one: PORT=3001 npm run demo\n`)
})

t.test('in a browser', { skip: noBrowser }, async (t) => {
  const browser = await launch(t)
  const page = await browser.newPage()
  const errors: Error[] = []
  page.on('pageerror', (error) => errors.push(error))
  const { folder, sha256 } = createFolder(t)
  const demo = await startDemo(t, { DEMO_FOLDER: folder })

  await page.goto(`http://localhost:${demo.port}/`)
  const opened = performance.now()
  await shows(page, '#cpu', /^\d+ %$/)
  t.ok(performance.now() - opened < 1_000, 'numbers within a second')
  await shows(page, '#total', /^[\d.,]+ of [\d.,]+ GB$/)
  await shows(page, '#stats .state', /^live$/)
  await shows(page, '#lines', /Server listening/)

  await page.click('#ping')
  await shows(page, '#lines', /HEAD \//)
  await page.click('#run')
  await shows(page, '#job .state', /^finished$/)
  t.equal((await page.textContent('#now'))!.replace(/\s/g, ''), sha256)
  t.equal(await page.textContent('#percent'), '100 %')

  t.equal(await stopDemo(demo), 0)
  for (const name of ['stats', 'log']) await shows(page, `#${name} .state`, /^reconnecting$/)
  const restarted = await startDemo(t, { DEMO_FOLDER: folder, PORT: String(demo.port) })
  for (const name of ['stats', 'log']) await shows(page, `#${name} .state`, /^live$/)
  await shows(page, '#lines', /Server listening[^]*back again, after event \d+[^]*Server listening/)
  await shows(page, '#uptime', /^\d s$/)
  t.equal(await page.textContent('#job .state'), 'finished', 'the job is not run again')
  t.notMatch(restarted.output(), /events\/job/)
  t.same(errors, [])
})

/** Waits until an element of the page has such a text. */
async function shows (page: Page, selector: string, text: RegExp): Promise<void> {
  await page.locator(selector).filter({ hasText: text }).waitFor({ state: 'attached', timeout: 20_000 })
}
