/** What the tests in a real browser share: Chromium, pages, and what the clients in a page are told of a channel. */
import { build } from 'esbuild-wasm'
import type { FastifyInstance, FastifyServerOptions } from 'fastify'
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { chromium, type Browser, type BrowserContextOptions, type LaunchOptions, type Page } from 'playwright-core'
import type { Test } from 'tap'
import type { SseChannel, SseOptions } from '../index.ts'
import { chromiumPath } from './chromium.mjs'
import { createApp, listen, turns, until } from './helpers.ts'
import { demand, leftOut } from './needs.mjs'

/** Why tests are left out; false: they are not. */
export const noBrowser = leftOut('chromium')

const ARGS = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync']

/** A browser that is gone after the test. */
export async function launch (t: Test, { args = [], ...options }: LaunchOptions = {}): Promise<Browser> {
  demand('chromium')
  const browser = await chromium.launch({ executablePath: chromiumPath()!, args: [...ARGS, ...args], ...options })
  t.after(() => browser.close())
  return browser
}

/** An app with a page at `/`, in which there is nothing. */
export async function createPageApp (
  t: Test, options: SseOptions = {}, serverOptions: FastifyServerOptions = {}
): Promise<FastifyInstance> {
  const app = await createApp(t, options, serverOptions)
  app.get('/', (request, reply) =>
    reply.type('text/html').send('<!doctype html><title>test</title><link rel="icon" href="data:,">'))
  return app
}

/** Makes the app listen, and opens its page, which is closed before the app is. */
export async function visit (
  t: Test, browser: Browser, app: FastifyInstance, scheme = 'http', options: BrowserContextOptions = {}
): Promise<{ page: Page, port: number }> {
  const port = await listen(app)
  const context = await browser.newContext({ ignoreHTTPSErrors: true, ...options })
  t.after(() => context.close())
  const page = await context.newPage()
  await page.goto(`${scheme}://127.0.0.1:${port}/`)
  return { page, port }
}

/** The options of a server that speaks HTTP/2 with TLS. */
export function http2Options (t: Test): FastifyServerOptions {
  const folder = t.testdir()
  const [keyFile, certFile] = [join(folder, 'key.pem'), join(folder, 'cert.pem')]
  execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2',
    '-subj', '/CN=127.0.0.1', '-addext', 'subjectAltName=IP:127.0.0.1', '-keyout', keyFile, '-out', certFile], { stdio: 'pipe' })
  return { http2: true, https: { key: readFileSync(keyFile), cert: readFileSync(certFile) } } as FastifyServerOptions
}

/** Waits until an expression is true in the page, which may be hidden, with timers that are late, or not there yet. */
export async function untilTrue (page: Page, expression: string): Promise<void> {
  const deadline = performance.now() + 15_000
  while (!await page.evaluate(expression).catch(() => false)) {
    if (performance.now() > deadline) throw new Error(`waited 15 s for ${expression}`)
    await setTimeout(10)
  }
}

/** Three clients on two streams: an EventSource, a typed view of it, and fetchEvents. `told` is what they were told. */
const READERS = `<!doctype html><title>test</title><link rel="icon" href="data:,"><script type="module">
import { fetchEvents, typedEventSource } from '/client.js'
window.told = { eventSource: [], typed: [], fetched: [] }
const source = window.source = new EventSource('/events')
const view = typedEventSource(source)
for (const type of ['message', 'gap']) {
  source.addEventListener(type, ({ data, lastEventId }) => told.eventSource.push([type, JSON.parse(data), lastEventId]))
  view.on(type, ({ event, data, id }) => told.typed.push([event, data, id]))
}
for await (const { event, data, id } of fetchEvents('/events')) told.fetched.push([event, data, id])
</script>`

const bundle = build({
  entryPoints: [fileURLToPath(new URL('../lib/client/index.ts', import.meta.url))],
  bundle: true,
  minify: true,
  format: 'esm',
  write: false
})

/** At `/client.js` the client, bundled as it would be for a page. */
export async function addClient (app: FastifyInstance): Promise<void> {
  const { outputFiles: [client] } = await bundle
  app.get('/client.js', (request, reply) => reply.type('text/javascript').send(client!.text))
}

/** Events that a channel of numbers keeps. */
export const HISTORY = 8

/** Numbers that are published to a channel, at `/events`, and what those who read it from the start must be told. */
export class Numbers {
  readonly told: [type: string, data: unknown, id: string][] = []
  #app!: FastifyInstance
  #channel!: SseChannel<any>
  #n = 0

  /** An app that has the channel, a page at `/readers` that reads it, and one at `/` that does not. */
  async createApp (t: Test, options: SseOptions = {}): Promise<FastifyInstance> {
    const app = this.#app = await createPageApp(t, { retry: 20, ...options }, { forceCloseConnections: true })
    const channel = this.#channel = app.sse.channel('numbers', { history: { events: HISTORY } })
    await addClient(app)
    app.get('/readers', (request, reply) => reply.type('text/html').send(READERS))
    app.get('/events', (request, reply) => reply.sse(channel))
    return app
  }

  get lastId (): string {
    return this.told.at(-1)![2]
  }

  async publish (count = 1): Promise<void> {
    for (; count > 0; count--) {
      const n = this.#n++
      this.told.push(['message', n, await this.#channel.publish({ data: n })])
    }
  }

  /** Publishes what readers that are away find only the last of, so that they are told of a gap. */
  async publishGap (lost: number, kept: number): Promise<void> {
    const [requested, at] = [this.lastId, this.told.length]
    await this.publish(lost + kept)
    const [, , earliest] = this.told[at + lost]!
    this.told.splice(at, lost, ['gap', { requested, earliest }, requested])
  }

  /** Waits until this many streams have begun: whoever reads them has a position. */
  async untilRead (streams: number): Promise<void> {
    const open = () => [...this.#app.sse.connections].filter(({ bytes }) => bytes > 0)
    await until(() => open().length === streams, () => `${streams} streams, of which ${open().length} are open`)
  }

  /** Breaks off all streams when what was published is on its way. */
  async breakOff (): Promise<void> {
    await turns()
    for (const { request } of this.#app.sse.connections) request.raw.socket.destroy()
  }

  /** Takes the server away, and with it all of its streams, so that none is told. */
  async crash (): Promise<void> {
    this.#app.server.close()
    await this.breakOff()
    await this.#app.close()
  }

  /** Every client of the page was told this: each event once and in order, or a gap. */
  async areTold (t: Test, page: Page, message: string): Promise<void> {
    const { told, told: { length } } = this
    await untilTrue(page, `Object.values(told).every((events) => events.length >= ${length})`).catch(() => {})
    t.strictSame(await page.evaluate('told'), { eventSource: told, typed: told, fetched: told }, message)
  }
}
