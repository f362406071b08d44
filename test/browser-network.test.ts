/** Clients in a real browser, whose network goes away, whose server starts again, and whose page is loaded again. */
import { readFileSync } from 'node:fs'
import type { Page } from 'playwright-core'
import t, { type Test } from 'tap'
import type { SseOptions } from '../index.ts'
import { addClient, createPageApp, HISTORY, http2Options, launch, noBrowser, Numbers, untilTrue, visit } from './browser.ts'
import { idleSource, listen, until } from './helpers.ts'
import { brokerOf, noRedis, startRedis } from './redis-server.ts'
import { startProxy } from './tcp-proxy.ts'

const skip = noBrowser
const browser = skip ? undefined! : await launch(t)

/** A page with readers, which have a position, and have been told two numbers. */
async function openReaders (t: Test, numbers: Numbers, port: number): Promise<Page> {
  const context = await browser.newContext()
  t.after(() => context.close())
  const page = await context.newPage()
  await page.goto(`http://127.0.0.1:${port}/readers`)
  await numbers.untilRead(2)
  await numbers.publish(2)
  await numbers.areTold(t, page, 'before')
  return page
}

t.test('a browser that was offline is told what came meanwhile, as soon as it is online, or of a gap', { skip }, async (t) => {
  const numbers = new Numbers()
  const app = await numbers.createApp(t)
  const page = await openReaders(t, numbers, await listen(app))
  for (const absence of [() => numbers.publish(3), () => numbers.publishGap(9, HISTORY)]) {
    const failed = new Set<string>()
    page.on('requestfailed', (request) => failed.add(request.resourceType()))
    await page.context().setOffline(true)
    await numbers.breakOff()
    await until(() => failed.size === 2)
    await absence()
    t.equal(app.sse.stats().open, 0)
    await page.context().setOffline(false)
    await numbers.areTold(t, page, 'afterwards')
    await numbers.untilRead(2)
  }
})

t.test('fetchEvents comes back as soon as the browser is online again, however long it would still wait', { skip }, async (t) => {
  const app = await createPageApp(t)
  await addClient(app)
  app.get('/events', (request, reply) => reply.sse(idleSource({ data: 1 }).source))
  const { page } = await visit(t, browser, app)
  await page.clock.install()
  await page.clock.pauseAt(Date.now() + 60_000)
  await page.evaluate(`import('/client.js').then(async ({ fetchEvents }) => {
    const events = fetchEvents('/events', { onReconnect: ({ ms }) => { window.ms = ms } })
    await events.next()
    void events.next()
  })`)
  await page.context().setOffline(true)
  for (const { request } of app.sse.connections) request.raw.socket.destroy()
  await untilTrue(page, 'window.ms > 0')
  t.equal(app.sse.stats().opened, 1)
  await page.context().setOffline(false)
  await until(() => app.sse.stats().opened === 2)
})

t.test('a connection that is dead without a word is not noticed; when it breaks, all that it has swallowed is told', { skip }, async (t) => {
  const numbers = new Numbers()
  const app = await numbers.createApp(t)
  const proxy = await startProxy(t, { port: await listen(app) })
  const page = await openReaders(t, numbers, proxy.port)
  const { pass } = proxy
  let swallowed = 0
  proxy.pass = (way, to, bytes) => { swallowed += bytes.length }
  const before = await page.evaluate('told')
  await numbers.publish(3)
  await until(() => swallowed > 0 && [...app.sse.connections].every(({ events }) => events === 5))
  t.strictSame(await page.evaluate('[told, source.readyState]'), [before, 1], 'to the page it looks like silence')

  proxy.pass = pass
  proxy.cutAll()
  await numbers.areTold(t, page, 'afterwards')
})

/** Another server takes the place of the one that is gone. */
async function restart (
  t: Test, numbers: Numbers, port: number, options: SseOptions, meanwhile: () => Promise<void>
): Promise<void> {
  await numbers.crash()
  const app = await numbers.createApp(t, options)
  await meanwhile()
  await app.listen({ port, host: '127.0.0.1' })
}

t.test('a server that has started again, without its history, tells each client of the gap', { skip }, async (t) => {
  const numbers = new Numbers()
  const port = await listen(await numbers.createApp(t))
  const page = await openReaders(t, numbers, port)
  await restart(t, numbers, port, {}, () => numbers.publishGap(0, 2))
  await numbers.areTold(t, page, 'afterwards')
  await numbers.publish(2)
  await numbers.areTold(t, page, 'and it goes on')
})

t.test('a server that has started again, with its channels in Redis, tells all', { skip: skip || noRedis }, async (t) => {
  const redis = await startRedis(t)
  const numbers = new Numbers()
  const port = await listen(await numbers.createApp(t, { broker: brokerOf(t, redis) }))
  const page = await openReaders(t, numbers, port)
  await restart(t, numbers, port, { broker: brokerOf(t, redis) }, () => numbers.publish(3))
  await numbers.areTold(t, page, 'afterwards')
  await numbers.publish(2)
  await numbers.areTold(t, page, 'and it goes on')
})

/** What docs/client.md advises for a page that must not fall silent. */
const FOLLOW = /\n(function follow[^]*?)\n```/.exec(readFileSync(new URL('../docs/client.md', import.meta.url), 'utf8'))![1]!

const FOLLOWER = `<!doctype html><title>test</title><link rel="icon" href="data:,"><script type="module">
${FOLLOW}
window.told = []
const tell = ({ type, data, lastEventId }) => told.push([type, JSON.parse(data), lastEventId])
follow('/events', { message: tell, gap: tell })
</script>`

t.test('the function of docs/client.md goes on after a dead connection, an error of the server, and when its page is loaded again', { skip }, async (t) => {
  const numbers = new Numbers()
  const app = await numbers.createApp(t)
  let isDown = false
  app.addHook('onRequest', async (request, reply) => isDown && request.url.startsWith('/events') ? reply.code(502).send() : undefined)
  app.get('/follower', (request, reply) => reply.type('text/html').send(FOLLOWER))
  const proxy = await startProxy(t, { port: await listen(app) })
  const page = await browser.newPage()
  t.after(() => page.close())
  await page.clock.install()
  const silence = () => page.clock.fastForward(45_000)
  await page.goto(`http://127.0.0.1:${proxy.port}/follower`)
  const isTold = async (message: string) => {
    await untilTrue(page, `told.length >= ${numbers.told.length}`).catch(() => {})
    t.strictSame(await page.evaluate('told'), numbers.told, message)
  }
  await numbers.untilRead(1)
  await numbers.publish(2)
  await isTold('before')

  const dead = new Set(proxy.ways)
  const { pass } = proxy
  proxy.pass = (way, to, bytes) => { if (!dead.has(way)) pass(way, to, bytes) }
  await numbers.publish(2)
  await silence()
  await isTold('after a dead connection')

  const failed = page.waitForEvent('response', (response) => response.status() === 502)
  isDown = true
  await numbers.breakOff()
  await failed
  await numbers.publish(2)
  isDown = false
  await silence()
  await isTold('after an answer by which an EventSource gives up')

  await page.goto(`http://127.0.0.1:${proxy.port}/`)
  await numbers.publish(2)
  numbers.told.splice(0, 6)
  await page.goto(`http://127.0.0.1:${proxy.port}/follower`)
  await isTold('when the page is loaded again')
  await numbers.breakOff()
  await numbers.publish(2)
  await isTold('and from there, not from the ID in its URL')
})

/** Each stops after its first event. */
const STOPS = [
  `const source = new EventSource('/events')
  source.onmessage = () => source.close()`,
  "for await (const event of fetchEvents('/events')) break",
  `const controller = new AbortController()
  const events = fetchEvents('/events', { signal: controller.signal })
  await events.next()
  const next = events.next()
  controller.abort()
  await next.catch(() => {})`,
  `const controller = new AbortController()
  const { body } = await fetch('/events', { signal: controller.signal })
  await body.getReader().read()
  controller.abort()`
]

for (const version of ['1.1', '2.0']) {
  t.test(`a client that stops, and a page that is left, stop their sources at once, over HTTP/${version}`, { skip }, async (t) => {
    const app = await createPageApp(t, {}, version === '2.0' ? http2Options(t) : {})
    await addClient(app)
    const states: { finished: boolean }[] = []
    app.get('/events', (request, reply) => {
      const { state, source } = idleSource({ data: request.raw.httpVersion })
      states.push(state)
      return reply.sse(source)
    })
    const { page } = await visit(t, browser, app, version === '2.0' ? 'https' : 'http')
    await page.evaluate("import('/client.js').then(({ fetchEvents }) => { window.fetchEvents = fetchEvents })")
    for (const [index, stop] of STOPS.entries()) {
      await page.evaluate(`void (async () => { ${stop} })()`)
      await until(() => states.length === index + 1 && states[index]!.finished, () => stop)
    }
    await page.evaluate('new Promise((resolve) => { new EventSource(\'/events\').onmessage = ({ data }) => resolve(data) })')
    t.same([...app.sse.connections].map(({ request }) => request.raw.httpVersion), [version])
    await page.goto('about:blank')
    await until(() => states.at(-1)!.finished)
    t.equal(app.sse.stats().closed['client-gone'], STOPS.length + 1)
  })
}

t.end()
