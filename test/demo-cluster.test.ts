/** The demo of three processes and a Redis, as a person tries it out: in a real browser, all that can be killed is killed. */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, readdirSync } from 'node:fs'
import net, { type AddressInfo } from 'node:net'
import { join } from 'node:path'
import type { Page } from 'playwright-core'
import t, { type Test } from 'tap'
import { launch, noBrowser } from './browser.ts'
import { buildExamples } from './examples-build.ts'
import { until } from './helpers.ts'
import { noRedis } from './redis-server.ts'

const built = buildExamples()

interface Demo { child: ChildProcess, output: () => string, temporary: string }

/** The demo, on a free port, with a folder for temporary files that nobody else uses. It is gone after the test. */
function spawnDemo (t: Test, env: NodeJS.ProcessEnv = {}): Demo {
  const temporary = join(t.testdirName, 'temporary')
  mkdirSync(temporary, { recursive: true })
  const child = spawn(process.execPath, ['cluster/server.js'], {
    cwd: built,
    // tap counts what any child process runs, and dist/ is not what the tests are to cover.
    env: { PATH: process.env.PATH, PORT: '0', TMPDIR: temporary, _TAPJS_PROCESSINFO_COVERAGE_: '0', ...env }
  })
  t.after(() => stop(child))
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text: string) => { output += text })
  return { child, output: () => output, temporary }
}

function hasExited (child: ChildProcess): boolean {
  return child.exitCode !== null || child.signalCode !== null
}

/** As Ctrl+C does. */
async function stop (child: ChildProcess): Promise<void> {
  if (hasExited(child)) return
  child.kill('SIGINT')
  await once(child, 'exit')
}

/** Waits for the URL that it prints. */
async function urlOf ({ child, output }: Demo): Promise<string> {
  const url = /http:\/\/localhost:\d+/
  await until(() => url.test(output()) || hasExited(child), () => `the demo's URL, it printed ${output()}`)
  return url.exec(output())![0]
}

function isAlive (pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch {
    return false
  }
}

const ALL = ['app-1', 'app-2', 'app-3', 'redis-server']

/** Waits until a process is running, as another one than before. */
async function running (page: Page, name: string, before = ''): Promise<string> {
  const row = page.locator(`#${name}.running`)
  await row.locator('.pid').filter({ hasNotText: new RegExp(`^${before}$`) }).waitFor()
  return (await row.locator('.pid').textContent())!
}

/** The app from which the stream comes. */
async function connected (page: Page): Promise<string> {
  return (await page.locator('tr', { has: page.locator('.here', { hasText: '●' }) }).getAttribute('id'))!
}

/** Waits until numbers of every app have come that are newer than those that were there. */
async function goesOn (page: Page): Promise<void> {
  const numbers = '[id^=app-] .last'
  const before = (await page.locator(numbers).allTextContents()).map(Number)
  const now = `[...document.querySelectorAll('${numbers}')].map((cell) => Number(cell.textContent))`
  await page.waitForFunction(`${now}.every((last, index) => last > ${JSON.stringify(before)}[index] + 2)`)
}

async function tally (page: Page) {
  const texts = await page.locator('dd').allTextContents()
  const [received, ...faults] = texts.map(Number)
  return { received: received!, faults }
}

const skip = noRedis || noBrowser

t.test('whatever is killed, the page loses nothing', { skip, timeout: 90_000 }, async (t) => {
  const browser = await launch(t)
  const page = await browser.newPage()
  const errors: Error[] = []
  page.on('pageerror', (error) => errors.push(error))

  const demo = spawnDemo(t)
  await page.goto(await urlOf(demo))
  const pids = new Map<string, string>()
  for (const name of ALL) pids.set(name, await running(page, name))
  const started = [...pids.values()]
  await goesOn(page)
  t.notMatch(await page.textContent('#story'), 'broken off', 'a stream that has not begun has not broken off')

  const first = await connected(page)
  let { received } = await tally(page)
  for (const name of [first, ...ALL.filter((name) => name !== first)]) {
    const before = pids.get(name)!
    await page.click(`#${name} .kill`)
    // One of them does not wait to be started again by itself.
    if (name === 'app-2') await page.click(`#${name} .start`)
    pids.set(name, await running(page, name, before))
    started.push(pids.get(name)!)
    t.notOk(isAlive(Number(before)), `${name} was killed`)
    await goesOn(page)
    if (name === first) t.not(await connected(page), first, 'the stream comes from another app')
    const now = await tally(page)
    t.ok(now.received > received)
    t.same(now.faults, [0, 0, 0, 0], 'nothing is missing, doubled, out of order or told to be')
    received = now.received
  }

  t.equal(readdirSync(demo.temporary).length, 1)
  await stop(demo.child)
  t.equal(demo.child.exitCode, 0)
  t.same(started.filter((pid) => isAlive(Number(pid))), [], 'no process is left')
  t.same(readdirSync(demo.temporary), [], 'no file is left')
  t.same(errors, [])
})

t.test('a port that is in use is told in one line, and nothing is left', { skip: noRedis }, async (t) => {
  const other = net.createServer().listen(0, '127.0.0.1')
  t.after(() => other.close())
  await once(other, 'listening')
  const { port } = other.address() as AddressInfo
  const { child, output, temporary } = spawnDemo(t, { PORT: String(port) })
  await once(child, 'close')
  t.equal(child.exitCode, 1)
  t.equal(output(), `Port ${port} is in use. Choose another one: PORT=3001 npm run demo:cluster\n`)
  t.same(readdirSync(temporary), [])
})

t.test('a missing redis-server is told in one line', async (t) => {
  const { child, output } = spawnDemo(t, { PATH: '/nonexistent' })
  await once(child, 'close')
  t.equal(child.exitCode, 1)
  t.equal(output(), 'redis-server is missing: apt-get install redis-server\n')
})
