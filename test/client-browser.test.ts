/** The client in a real browser: bundled as it would be there, against Chromium's own EventSource and fetch. */
import t from 'tap'
import { addClient, launch, noBrowser } from './browser.ts'
import { createApp, listen, until } from './helpers.ts'

/** What the page runs: both clients read the channel, and write down what they see. */
const PAGE = `<!doctype html><title>test</title><link rel="icon" href="data:,"><script type="module">
import { fetchEvents, typedEventSource } from '/client.js'
window.viewed = []
window.fetched = []
window.view = typedEventSource(new EventSource('/events'))
for (const type of ['price', 'gap']) view.on(type, (event) => viewed.push(event))
window.reading = (async () => {
  for await (const event of fetchEvents(location.origin + '/events')) fetched.push(event)
  return 'ended'
})()
window.stopped = (async () => {
  for await (const event of fetchEvents('/events', { lastEventId: '\\u00e9\\u20ac' })) if (event.event === 'gap') return event.data.requested
})()
</script>`

t.test('both clients read a channel in Chromium, and come back to it', { skip: noBrowser }, async (t) => {
  const app = await createApp(t, { retry: 20 }, { forceCloseConnections: true })
  const prices = app.sse.channel('prices')
  app.get('/', (request, reply) => reply.type('text/html').send(PAGE))
  await addClient(app)
  app.get('/events', (request, reply) => reply.sse(prices))
  const port = await listen(app)
  const browser = await launch(t)
  const page = await browser.newPage()
  const errors: string[] = []
  page.on('pageerror', (error) => errors.push(String(error)))
  await page.goto(`http://127.0.0.1:${port}/`)

  // Of three streams one is left at its gap.
  await until(() => app.sse.stats().closed['client-gone'] === 1 && app.sse.stats().open === 2)
  t.equal(await page.evaluate('stopped'), 'é€')
  const expected: object[] = []
  for (let n = 1; n <= 6; n++) {
    const id = await prices.publish({ event: 'price', data: { eur: n } })
    expected.push({ event: 'price', data: { eur: n }, text: `{"eur":${n}}`, id })
    await page.waitForFunction(`viewed.length === ${n} && fetched.length === ${n}`)
    if (n % 2 === 0) for (const { request } of app.sse.connections) request.raw.socket.destroy()
  }
  t.same(await page.evaluate('[viewed, fetched]'), [expected, expected])
  await prices.close()
  t.equal(await page.evaluate('reading'), 'ended')
  await page.evaluate('view.close()')
  t.same(errors, [])
})
