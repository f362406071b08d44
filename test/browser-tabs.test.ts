/** Tabs of a real browser: how many streams they get, and what they are told while nobody looks at them. */
import type { Http2ServerRequest } from 'node:http2'
import { chromium, type Page } from 'playwright-core'
import t, { type Test } from 'tap'
import { createPageApp, HISTORY, http2Options, launch, noBrowser, Numbers, untilTrue, visit } from './browser.ts'
import { listen, until } from './helpers.ts'
import { freePort } from './redis-server.ts'

const skip = noBrowser
const debuggingPort = await freePort()
// Playwright takes the cache of pages that were left, which people have, away.
const browser = noBrowser
  ? undefined!
  : await launch(t, { args: [`--remote-debugging-port=${debuggingPort}`], ignoreDefaultArgs: ['--disable-back-forward-cache'] })

/** A tab that is hidden when it is behind another one; of the pages that Playwright opens all are taken for seen. */
async function openTab (t: Test, url: string): Promise<Page> {
  const sameBrowser = await chromium.connectOverCDP(`http://127.0.0.1:${debuggingPort}`, { noDefaults: true })
  t.after(() => sameBrowser.close())
  const page = await sameBrowser.contexts()[0]!.newPage()
  t.after(() => page.close())
  await page.goto(url)
  return page
}

/** Opens EventSources for `/events/<number>` of these numbers; `seen` is what each was told. */
async function openSources (page: Page, from: number, count: number): Promise<void> {
  await page.evaluate(([from, count]) => {
    const sources = Array.from({ length: count! }, (_, n) => new EventSource(`/events/${from! + n}`))
    const seen = sources.map((source) => {
      const numbers: number[] = []
      source.onmessage = ({ data }) => { numbers.push(Number(data)) }
      return numbers
    })
    Object.assign(globalThis, { sources, seen })
  }, [from, count])
}

t.test('over HTTP/1.1 six streams are open in all tabs together; the seventh waits for one to be closed, and so does any other request', { skip }, async (t) => {
  const app = await createPageApp(t)
  const channel = app.sse.channel('c')
  app.get('/events/:n', (request, reply) => reply.sse(channel))
  const { page, port } = await visit(t, browser, app)
  const other = await page.context().newPage()
  await other.goto(`http://127.0.0.1:${port}/`)
  const { sse } = app

  await openSources(page, 0, 4)
  await until(() => sse.stats().open === 4)
  await openSources(other, 4, 3)
  await until(() => sse.stats().open === 6)
  await other.evaluate("void fetch('/').then(() => { window.isAnswered = true })")
  // The way there and back, for each of the six, is time enough for a seventh.
  await channel.publish({ data: 1 })
  await untilTrue(page, 'seen.every(({ length }) => length === 1)')
  await untilTrue(other, 'seen.filter(({ length }) => length === 1).length === 2')
  t.equal(sse.stats().opened, 6)
  t.same(await other.evaluate('[sources.map(({ readyState }) => readyState).sort(), window.isAnswered]'), [[0, 1, 1], undefined])

  await page.evaluate('sources[0].close(); sources[1].close()')
  await until(() => sse.stats().opened === 7)
  await untilTrue(other, 'window.isAnswered')
  await channel.publish({ data: 2 })
  await untilTrue(other, 'seen.every((numbers) => numbers.at(-1) === 2)')
  t.same(await other.evaluate('seen'), [[1, 2], [1, 2], [2]])
})

t.test('over HTTP/2 fifty streams of two tabs are one connection; each is told all of its channel, also when the other tab is closed', { skip }, async (t) => {
  const app = await createPageApp(t, {}, http2Options(t))
  const channels = Array.from({ length: 50 }, (_, n) => app.sse.channel(String(n)))
  app.get('/events/:n', (request, reply) => reply.sse(channels[Number((request.params as { n: string }).n)]!))
  const { page, port } = await visit(t, browser, app, 'https')
  const other = await page.context().newPage()
  await other.goto(`https://127.0.0.1:${port}/`)
  await openSources(page, 0, 25)
  await openSources(other, 25, 25)
  const open = () => [...app.sse.connections]
  await until(() => open().length === 50 && open().every(({ bytes }) => bytes > 0))
  const sessions = () => [...new Set(open().map(({ request }) => (request.raw as unknown as Http2ServerRequest).stream.session!))]
  const [session, ...others] = sessions()
  t.same(others, [])

  const numbers = (count: number, channel: number) => Array.from({ length: count }, (_, n) => 1_000 * channel + n)
  const publish = async (from: number, to: number) => {
    for (let n = from; n < to; n++) await Promise.all(channels.map((channel, at) => channel.publish({ data: 1_000 * at + n })))
  }
  await publish(0, 20)
  for (const [tab, from] of [[page, 0], [other, 25]] as const) {
    await untilTrue(tab, 'seen.every(({ length }) => length >= 20)')
    t.same(await tab.evaluate('seen'), Array.from({ length: 25 }, (_, n) => numbers(20, from + n)))
  }

  await page.close()
  await until(() => open().length === 25)
  await publish(20, 40)
  await untilTrue(other, 'seen.every(({ length }) => length >= 40)')
  t.same(await other.evaluate('seen'), Array.from({ length: 25 }, (_, n) => numbers(40, 25 + n)))
  t.equal(sessions()[0], session)
  t.notOk(session!.closed)
})

t.test('a tab that is hidden is told all as it comes, and goes on when it is shown; one that is frozen, when it goes on, or it is told of a gap', { skip }, async (t) => {
  const numbers = new Numbers()
  const app = await numbers.createApp(t)
  const port = await listen(app)
  const page = await openTab(t, `http://127.0.0.1:${port}/readers`)
  await numbers.untilRead(2)
  await numbers.publish()
  await openTab(t, 'about:blank')
  await untilTrue(page, "document.visibilityState === 'hidden'")
  await numbers.publish(2)
  await numbers.areTold(t, page, 'hidden')

  const devtools = await page.context().newCDPSession(page)
  const setState = (state: 'frozen' | 'active') => devtools.send('Page.setWebLifecycleState', { state })
  const absences = [
    async () => {
      await numbers.publish(2)
      await numbers.breakOff()
      await numbers.publish(3)
    },
    async () => {
      await numbers.breakOff()
      await numbers.publishGap(9, HISTORY)
    }
  ]
  for (const absence of absences) {
    await setState('frozen')
    const before = await page.evaluate('told')
    await absence()
    t.strictSame(await page.evaluate('told'), before, 'a frozen tab is told nothing')
    await numbers.untilRead(0)
    await setState('active')
    await numbers.areTold(t, page, 'and afterwards all that is left')
    await numbers.untilRead(2)
  }
  t.equal(await page.evaluate('document.visibilityState'), 'hidden')

  const open = () => [...app.sse.connections]
  const before = open()
  await page.bringToFront()
  await untilTrue(page, "document.visibilityState === 'visible'")
  await numbers.publish(2)
  await numbers.areTold(t, page, 'shown again')
  t.strictSame(open().map((connection) => before.indexOf(connection)), [0, 1], 'by the streams that were open while it was hidden')
})

t.test('a page that was left and come back to is told what came meanwhile; another tab has been told already', { skip }, async (t) => {
  const numbers = new Numbers()
  const { page } = await visit(t, browser, await numbers.createApp(t))
  const origin = page.url()
  const other = await page.context().newPage()
  for (const tab of [page, other]) await tab.goto(`${origin}readers`)
  await page.evaluate("addEventListener('pageshow', ({ persisted }) => { window.persisted = persisted })")
  await numbers.untilRead(4)
  await numbers.publish(2)
  for (const tab of [page, other]) await numbers.areTold(t, tab, 'before')

  for (const meanwhile of [async () => {}, () => numbers.breakOff()]) {
    await page.goto(origin)
    await numbers.publish(2)
    await meanwhile()
    await numbers.publish(2)
    await numbers.areTold(t, other, 'the other tab')
    await page.evaluate('history.back()')
    await untilTrue(page, 'window.persisted')
    await numbers.areTold(t, page, 'afterwards')
    await numbers.untilRead(4)
    await page.evaluate('window.persisted = false')
  }
})

t.end()
