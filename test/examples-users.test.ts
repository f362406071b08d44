/** Those examples that know their users: jobs that they have started, what is for them alone, how much they may have. */
import { EventSource } from 'eventsource'
import t, { type Test } from 'tap'
import { post, send, start, watch, type Watcher } from './example.ts'
import { connect, until } from './helpers.ts'

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
    const watcher = watch(t, url + events, ['subscribed', 'status'])
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

t.test('notifications', async (t) => {
  const { url, port } = await start(t, 'notifications')
  const login = async (user: string) => {
    const response = await post(`${url}/login`, { user })
    t.equal(response.status, 204)
    t.match(response.headers.get('set-cookie'), /; HttpOnly; SameSite=Strict/)
    return { cookie: response.headers.get('set-cookie')!.split(';')[0]! }
  }
  const tab = (headers: { cookie: string }) => watch(t, `${url}/notifications`, ['notification'], headers)
  const texts = ({ seen }: Watcher) => seen.map(([, { from, text }]) => `${from}: ${text}`)
  const tell = async (headers: { cookie: string }, to: string, text: string) =>
    (await (await post(`${url}/notifications/${to}`, { text }, headers)).json() as { id: string }).id
  const [ada, bob] = [await login('ada'), await login('bob')]

  await t.test('nobody gets anything before he has logged in', async (t) => {
    t.equal((await fetch(`${url}/notifications`)).status, 401)
    t.equal((await post(`${url}/notifications/ada`, { text: 'spam' })).status, 401)
    t.equal((await fetch(`${url}/notifications`, { headers: { cookie: 'session=guessed' } })).status, 401)
    t.equal((await post(`${url}/login`, { user: 'eve' })).status, 400)
  })

  const id = await tell(bob, 'ada', 'Hello')
  await tell(bob, 'ada', 'Are you there?')

  await t.test('every tab gets what is unread, then what comes, and nothing of others', async (t) => {
    const tabs = [tab(ada), tab(ada)]
    const other = tab(bob)
    await until(() => tabs.every(({ seen }) => seen.length === 2))
    await tell(ada, 'bob', 'Yes')
    await tell(bob, 'ada', 'Good')
    await until(() => [...tabs].every(({ seen }) => seen.length === 3) && other.seen.length === 1)
    for (const each of tabs) t.same(texts(each), ['bob: Hello', 'bob: Are you there?', 'bob: Good'])
    t.same(texts(other), ['ada: Yes'])
  })

  await t.test('what is read is not told again', async (t) => {
    t.equal((await send('PUT', `${url}/notifications/read`, { id }, ada)).status, 204)
    t.equal((await send('PUT', `${url}/notifications/read`, { id: 'x\n' }, ada)).status, 400)
    const { seen } = tab(ada)
    await until(() => seen.length === 2)
    t.same(texts({ seen } as Watcher), ['bob: Are you there?', 'bob: Good'])
  })

  await t.test('a tab that comes back gets what it has missed', async (t) => {
    const last = await tell(bob, 'ada', 'Bye')
    const client = connect(t, port).get('/notifications', `Cookie: ${ada.cookie}`, `Last-Event-ID: ${last}`)
    await client.until(`id: ${last}\n\n`)
    await tell(bob, 'ada', 'Really')
    t.match(await client.until('Really'), /^(?![^]*"Bye")/)
  })

  await t.test('who logs out is told nothing more, in any tab; elsewhere he is', async (t) => {
    const elsewhere = tab(await login('ada'))
    const tabs = [tab(ada), tab(ada)]
    await until(() => [elsewhere, ...tabs].every(({ seen }) => seen.length === 4))
    const response = await post(`${url}/logout`, {}, ada)
    t.match(response.headers.get('set-cookie'), /^session=; /)
    await until(() => tabs.every(({ source }) => source.readyState === EventSource.CLOSED))
    await tell(bob, 'ada', 'Still there?')
    await until(() => texts(elsewhere).at(-1) === 'bob: Still there?')
    t.ok(tabs.every(({ seen }) => seen.length === 4))
  })
})

t.test('limits', async (t) => {
  const ada = { 'x-api-key': 'key-of-ada' }
  const bob = { 'x-api-key': 'key-of-bob' }

  await t.test('an EventSource that finds no room comes back until it does', async (t) => {
    const { url, open } = await start(t, 'limits', { retry: { min: 20, max: 40 }, perMinute: 1_000_000 })
    const watchers = [ada, ada, bob, bob, bob].map((headers) => watch(t, `${url}/ticks`, ['tick'], headers))
    await open(5)
    const third = watch(t, `${url}/ticks`, ['tick'], ada)
    let errors = 0
    third.source.onerror = () => { errors++ }
    await until(() => errors > 2)
    t.equal(third.source.readyState, EventSource.CONNECTING)
    t.same(third.seen, [])
    t.equal((await fetch(`${url}/ticks`, { headers: ada })).status, 429, 'who is no EventSource is told')
    t.equal((await fetch(`${url}/ticks`)).status, 401)
    watchers[0]!.source.close()
    await until(() => third.seen.length > 0)
  })

  await t.test('who connects too often is told when to come back', async (t) => {
    const { port, open } = await start(t, 'limits', { perMinute: 2 })
    const asEventSource = (key: string) => connect(t, port).get('/ticks', 'Accept: text/event-stream', `X-API-Key: ${key}`)
    for (let count = 1; count <= 2; count++) {
      const client = asEventSource('key-of-ada')
      await open(1)
      client.destroy()
      await open(0)
    }
    const refused = asEventSource('key-of-ada')
    await refused.until(/\r\n0\r\n\r\n$/)
    t.match(refused.head, /^HTTP\/1\.1 200 OK\r\n/)
    const [, ms] = /^retry: (\d+)\n\n$/.exec(refused.body) ?? []
    t.ok(Number(ms) > 0 && Number(ms) <= 60_000, `${ms} ms`)
    await asEventSource('key-of-bob').until('event: tick')
  })
})
