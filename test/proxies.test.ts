/** Event streams through real proxies that buffer, compress, lose patience, and are reloaded and restarted: nginx and HAProxy. */
import { EventSource } from 'eventsource'
import fastify, { type FastifyInstance } from 'fastify'
import http2 from 'node:http2'
import net from 'node:net'
import { setTimeout as pause } from 'node:timers/promises'
import t, { type Test } from 'tap'
import sse, { createHub, memoryBroker, type Broker } from '../index.ts'
import { fetchEvents } from '../lib/client/index.ts'
import { connect, deferred, idleSource, RawClient } from './helpers.ts'
import { leftOut } from './needs.mjs'
import { documented, nginxAround, quietPort, startProxyProcess, type ProxyProcess } from './proxy-process.ts'

/** How long a proxy waits for either end, in ms, where it is impatient. */
const IMPATIENT = 2_000

/** Nothing is ever let go of. */
const HISTORY = { history: { events: 1e6, bytes: 1e9 } }

/** Where proxies listen: as documented, impatient, and over HTTP/2; the others are configured to the worst. */
interface Ports {
  app: number
  documented: number
  impatient: number
  http2: number
  /** What a proxy does by itself: nginx buffers, and speaks HTTP/1.0 to the app. */
  default: number
  compressing: number
  /** The same of nginx with the other version of HTTP to the app. */
  default11: number
  compressing10: number
}

async function freePorts (): Promise<Ports> {
  return {
    app: await quietPort(),
    documented: await quietPort(),
    impatient: await quietPort(),
    http2: await quietPort(),
    default: await quietPort(),
    compressing: await quietPort(),
    default11: await quietPort(),
    compressing10: await quietPort()
  }
}

function nginx (ports: Ports): string {
  const server = (port: number | string, directives: string) => `server {
    listen 127.0.0.1:${port};
    location / { proxy_pass http://127.0.0.1:${ports.app}; ${directives} }
  }\n`
  const gzip = 'gzip on; gzip_types text/event-stream; gzip_min_length 0; gzip_proxied any;'
  return nginxAround([
    documented('nginx').replace('listen 80', `listen 127.0.0.1:${ports.documented}`)
      .replace('127.0.0.1:3000', `127.0.0.1:${ports.app}`).replace('retry: 2000', 'retry: 100'),
    server(ports.default, 'proxy_buffering on;'),
    server(ports.default11, 'proxy_buffering on; proxy_http_version 1.1;'),
    server(ports.compressing, `proxy_http_version 1.1; ${gzip}`),
    server(ports.compressing10, gzip),
    server(ports.impatient, `proxy_read_timeout ${IMPATIENT}ms;`),
    server(`${ports.http2} http2`, '')
  ].join(''))
}

function haproxy (ports: Ports, proxy: ProxyProcess): string {
  const away = proxy.write('away.http', documented('http').replace('retry: 2000', 'retry: 100'))
  const listen = (name: keyof Ports, ...directives: string[]) => [
    `listen ${name}`, `bind 127.0.0.1:${ports[name]}${name === 'http2' ? ' proto h2' : ''}`, `server app 127.0.0.1:${ports.app}`, ...directives, ''
  ].join('\n  ')
  return [
    'global\n  hard-stop-after 1s\n',
    documented('haproxy').replace(':80', `127.0.0.1:${ports.documented}`).replaceAll('127.0.0.1:3000', `127.0.0.1:${ports.app}`)
      .replaceAll('/etc/haproxy/away.http', away),
    listen('default', 'no option http-no-delay', 'no option abortonclose'),
    listen('compressing', 'compression algo gzip', 'compression type text/event-stream', 'option http-buffer-request'),
    listen('impatient', `timeout client ${IMPATIENT}`, `timeout server ${IMPATIENT}`),
    listen('http2'),
    ''
  ].join('\n')
}

/** Waits, without taking the processor from proxies; fails with what was waited for after 30 s. */
async function until (condition: () => unknown, what: string | (() => string)): Promise<void> {
  for (const deadline = performance.now() + 30_000; !await condition();) {
    if (performance.now() > deadline) throw new Error(`waited 30 s for ${typeof what === 'string' ? what : what()}`)
    await pause(5)
  }
}

type Fetch = (url: string | URL, init: RequestInit) => Promise<Response>

/** `fetch` of a client that knows no HTTP but 1.0. */
async function fetch10 (url: string | URL, { headers, signal }: RequestInit): Promise<Response> {
  const { host, port, pathname, search } = new URL(url)
  const socket = net.connect(Number(port), '127.0.0.1').setEncoding('latin1')
  signal!.addEventListener('abort', () => socket.destroy())
  const lines = [...new Headers(headers)].map(([name, value]) => `${name}: ${value}`)
  socket.write([`GET ${pathname}${search} HTTP/1.0`, `host: ${host}`, ...lines, '', ''].join('\r\n'), 'latin1')
  const chunks: AsyncIterator<string> = socket[Symbol.asyncIterator]()
  let received = ''
  while (!received.includes('\r\n\r\n')) {
    const { done, value } = await chunks.next()
    if (done) throw new TypeError('there is no answer')
    received += value
  }
  const [head, rest] = received.split(/\r\n\r\n([^]*)/)
  const [first, ...fields] = head!.split('\r\n')
  async function * body () {
    yield Buffer.from(rest!, 'latin1')
    for await (const chunk of { [Symbol.asyncIterator]: () => chunks }) yield Buffer.from(chunk, 'latin1')
  }
  return new Response(body(), {
    status: Number(first!.split(' ')[1]),
    headers: fields.map((field) => field.split(/: *(.*)/, 2) as [string, string])
  })
}

/** `fetch` by a connection of HTTP/2, which it says from the start. */
async function fetch2 (url: string | URL, { headers, signal }: RequestInit): Promise<Response> {
  const { origin, pathname, search } = new URL(url)
  const session = http2.connect(origin).on('error', () => {})
  signal!.addEventListener('abort', () => session.destroy())
  const stream = session.request({ ':path': pathname + search, ...Object.fromEntries(new Headers(headers)) })
  stream.on('close', () => session.destroy())
  const { ':status': status, ...fields } = await new Promise<http2.IncomingHttpHeaders & { ':status'?: number }>((resolve, reject) => {
    stream.on('response', resolve).on('error', reject).on('close', () => reject(new TypeError('there is no answer')))
  })
  return new Response(stream, { status: status!, headers: Object.entries(fields) as [string, string][] })
}

/** A way through a proxy, and the version of HTTP that the app is spoken to with at its end. */
interface Way {
  name: string
  port: number
  fetch: Fetch
  version: '1.0' | '1.1'
}

/** All that differ in how events pass. */
function waysOf (command: 'nginx' | 'haproxy', ports: Ports): Way[] {
  const way = (name: keyof Ports, version: Way['version'], fetch: Fetch = globalThis.fetch): Way => ({ name, port: ports[name], fetch, version })
  const old: Way = { ...way('documented', '1.1', fetch10), name: 'documented, to a client of HTTP/1.0' }
  if (command === 'nginx') {
    return [way('documented', '1.1'), way('default', '1.0'), way('default11', '1.1'), way('compressing', '1.1'),
      way('compressing10', '1.0'), way('http2', '1.0', fetch2), old]
  }
  // HAProxy has no option for the version: it speaks HTTP/1.0 to the app for a client that does so, and else HTTP/1.1.
  return [way('documented', '1.1'), way('default', '1.1'), way('compressing', '1.1'), way('http2', '1.1', fetch2),
    { ...old, version: '1.0' }]
}

/** The body so far of an answer to a client that takes gzip, decoded. */
async function open (
  t: Test, port: number, path: string, fetch: Fetch = globalThis.fetch
): Promise<{ text: string, ended: boolean, headers: Headers }> {
  const abort = new AbortController()
  t.after(() => abort.abort())
  const headers = { 'accept-encoding': 'gzip', accept: 'text/event-stream' }
  const response = await fetch(`http://127.0.0.1:${port}${path}`, { headers, signal: abort.signal })
  const body = { text: '', ended: false, headers: response.headers }
  const read = async () => {
    for await (const chunk of response.body!.pipeThrough(new TextDecoderStream())) body.text += chunk
  }
  read().catch(() => {}).finally(() => { body.ended = true })
  return body
}

/** An app that answers where proxies look for it. */
async function startWith (
  t: Test, port: number, addRoutes: (app: FastifyInstance) => void, broker: Broker = memoryBroker()
): Promise<FastifyInstance> {
  const app = fastify({ forceCloseConnections: true, return503OnClosing: false })
  t.after(() => app.close())
  await app.register(sse, { broker, retry: 20 })
  addRoutes(app)
  await app.listen({ port, host: '127.0.0.1' })
  return app
}

/** A source whose next event comes when it is told to, and its end. */
function gated () {
  let gate = deferred<boolean>()
  let n = 0
  return {
    next () { gate.resolve(true) },
    end () { gate.resolve(false) },
    async * source () {
      while (await gate.promise) {
        gate = deferred()
        yield { data: n++ }
      }
    }
  }
}

/** What a client was told of the channel, how often it was answered with a stream, and in which codings. */
interface Reader {
  way: Way
  seen: number[]
  opened: number
  codings: Set<string | null>
  source?: EventSource
}

/** A channel that is published to all the time, at `/<whatever>` of an app, and its readers. */
async function startLoad (t: Test, port: number) {
  const broker = memoryBroker()
  const hub = createHub({ broker })
  t.after(() => hub.close())
  const channel = hub.channel('c', HISTORY)
  const first = await channel.publish({ data: -1 })
  const readers: Reader[] = []
  const versions = new Map<string, Set<string>>()
  let published = 0
  const timer = setInterval(() => channel.publish({ data: published++ }), 5)
  t.after(() => clearInterval(timer))

  function addReader (way: Way): { reader: Reader, url: string, fetch: Fetch } {
    const reader: Reader = { way, seen: [], opened: 0, codings: new Set() }
    readers.push(reader)
    const fetch: Fetch = async (url, init) => {
      const response = await way.fetch(url, init)
      reader.codings.add(response.headers.get('content-encoding'))
      if (response.ok) reader.opened++
      return response
    }
    return { reader, fetch, url: `http://127.0.0.1:${way.port}/${encodeURIComponent(way.name)}?lastEventId=${first}` }
  }

  return {
    readers,
    start: () => startWith(t, port, (app) => {
      const channel = app.sse.channel('c', HISTORY)
      app.get<{ Params: { way: string } }>('/:way', (request, reply) => {
        const { way } = request.params
        versions.set(way, (versions.get(way) ?? new Set()).add(request.raw.httpVersion))
        return reply.sse(channel)
      })
    }, broker),

    openSource (way: Way): Reader {
      const { reader, url, fetch } = addReader(way)
      const source = reader.source = new EventSource(url, { fetch: fetch as typeof globalThis.fetch })
      t.after(() => source.close())
      source.onmessage = ({ data }) => { reader.seen.push(Number(data)) }
      return reader
    },

    read (way: Way): void {
      const { reader, url, fetch } = addReader(way)
      const abort = new AbortController()
      t.after(() => abort.abort())
      const read = async () => {
        for await (const { event, data } of fetchEvents(url, { signal: abort.signal, fetch })) {
          reader.seen.push(event === 'message' ? Number(data) : NaN)
        }
      }
      read().catch(() => {})
    },

    everybodyReads: () => until(() => readers.every(({ seen }) => seen.length > 0), 'everybody to read'),

    /** Everybody is answered anew when this happens, and reads on. */
    async reconnects (what: string, happens: () => unknown): Promise<void> {
      const before = readers.map(({ opened, seen: { length } }) => ({ opened, length }))
      await happens()
      const isBack = ({ opened, seen }: Reader, at: number) => opened > before[at]!.opened && seen.length > before[at]!.length
      const names = () => readers.filter((reader, at) => !isBack(reader, at)).map(({ way }) => way.name)
      await until(() => readers.every(isBack), () => `${names()} to come back after ${what}`)
    },

    async keepsTheLaw (t: Test): Promise<void> {
      clearInterval(timer)
      await until(() => readers.every(({ seen }) => seen.at(-1) === published - 1), 'everybody to have everything')
      const all = Array.from({ length: published }, (_, n) => n)
      for (const { way, seen, source } of readers) {
        t.same(seen, all, `${way.name}: each of ${published} events once and in order`)
        t.not(source?.readyState, EventSource.CLOSED)
        t.same([...versions.get(way.name)!], [way.version], `HTTP/${way.version} to the app`)
      }
    }
  }
}

interface Setting {
  ports: Ports
  proxy: ProxyProcess
}

function testsOf (command: 'nginx' | 'haproxy', test: (name: string, check: (t: Test, setting: Setting) => Promise<void>) => void): void {
  // HAProxy obeys no-transform; nginx does not know it, but flushes each event.
  const codingOf = ({ name }: Way) => command === 'nginx' && name.startsWith('compressing') ? 'gzip' : null

  test('each event arrives before there is another one, buffered, compressed, over HTTP/1.0 or over HTTP/2', async (t, { ports }) => {
    const ways = waysOf(command, ports).map((way) => ({ ...way, ...gated() }))
    await startWith(t, ports.app, (app) => {
      app.get<{ Params: { at: number } }>('/:at', (request, reply) => reply.sse(ways[request.params.at]!.source()))
    })
    const bodies: { text: string }[] = []
    for (const [at, way] of ways.entries()) {
      const body = bodies[at] = await open(t, way.port, `/${at}`, way.fetch)
      t.equal(body.headers.get('content-type'), 'text/event-stream', 'the head is there before any event')
      t.equal(body.headers.get('cache-control'), 'no-cache, no-transform')
      t.equal(body.headers.get('content-encoding'), codingOf(way), way.name)
    }
    for (let n = 0; n < 3; n++) {
      for (const [at, { name, next }] of ways.entries()) {
        next()
        await until(() => bodies[at]!.text.endsWith(`data: ${n}\n\n`), `event ${n} by ${name}`)
      }
    }
  })

  test('the last event ID passes both ways, whatever characters it has', async (t, { ports }) => {
    const id = 'é€😀'
    const asked: (string | undefined)[] = []
    await startWith(t, ports.app, (app) => {
      app.get('/', (request, reply) => {
        asked.push(request.lastEventId)
        return reply.sse([{ id, data: asked.length }])
      })
    })
    for (const port of [ports.documented, ports.default, ports.compressing]) {
      asked.length = 0
      const events = fetchEvents(`http://127.0.0.1:${port}/`)
      for (const n of [1, 2]) t.match(await events.next(), { value: { id, data: n } })
      await events.return()
      const raw = connect(t, port).get('/', `Last-Event-ID: ${Buffer.from(id).toString('latin1')}`, 'Connection: close')
      t.match(await raw.untilClosed(), Buffer.from(`id: ${id}`).toString('latin1'))
      await connect(t, port).get(`/?lastEventId=${encodeURIComponent(id)}`, 'Connection: close').untilClosed()
      t.same(asked, [undefined, id, id, id])
    }
  })

  test('a source is stopped when its client is gone', async (t, { ports }) => {
    const states = new Map<string, { aborted: boolean }>()
    await startWith(t, ports.app, (app) => {
      app.get<{ Params: { name: string } }>('/:name', (request, reply) => {
        const { state, source } = idleSource({ data: 'here' })
        const { name } = request.params
        states.set(name, state)
        // HAProxy sees it only when it has something to pass on, unless it has the option abortonclose.
        return reply.sse(source, { keepAlive: command === 'haproxy' && name === 'default' ? 250 : false })
      })
    })
    const clients: RawClient[] = []
    for (const name of ['documented', 'default', 'compressing'] as const) {
      const client = connect(t, ports[name]).get(`/${name}`, 'Accept: text/event-stream')
      await client.until('here')
      clients.push(client)
    }
    for (const client of clients) client.destroy()
    for (const [name, state] of states) await until(() => state.aborted, `the source to be stopped by ${name}`)
    t.equal(states.size, 3)
  })

  test('keep-alive comments keep an idle stream through the patience of a proxy', async (t, { ports }) => {
    const gate = gated()
    await startWith(t, ports.app, (app) => {
      app.get('/kept', { sse: { keepAlive: 250 } }, (_, reply) => reply.sse(gate.source()))
      app.get('/silent', { sse: { keepAlive: false } }, (_, reply) => reply.sse(idleSource({ data: 'here' }).source))
    })
    const kept = await open(t, ports.impatient, '/kept')
    const silent = await open(t, ports.impatient, '/silent')
    await until(() => silent.ended, 'the silent stream to be cut')
    gate.next()
    await until(() => kept.text.includes('data: 0'), 'an event on the stream that was kept')
    t.match(kept.text, /^retry: 20\n\n(:\n\n)+data: 0\n\n$/)
  })

  test('nothing is lost or doubled when the proxy is reloaded and restarted, however events pass it', async (t, { ports, proxy }) => {
    const load = await startLoad(t, ports.app)
    await load.start()
    for (const way of waysOf(command, ports)) {
      load.openSource(way)
      load.read(way)
    }
    await load.everybodyReads()
    await load.reconnects('the reload', () => proxy.reload())
    await proxy.stop()
    await load.reconnects('the restart', () => proxy.start())
    await load.keepsTheLaw(t)
    for (const { way, codings } of load.readers) t.same([...codings], [codingOf(way)], `the coding of ${way.name}`)
  })

  test('nothing is lost or doubled when the app is restarted: the proxy sends its clients away, softly', async (t, { ports }) => {
    const load = await startLoad(t, ports.app)
    const app = await load.start()
    const [way] = waysOf(command, ports)
    for (let pair = 0; pair < 3; pair++) {
      load.openSource(way!)
      load.read(way!)
    }
    await load.everybodyReads()
    await app.close()
    const late = load.openSource(way!)
    await until(() => late.opened > 0, 'the proxy to answer for the app')
    t.same(late.seen, [], 'it has been sent away')
    await load.reconnects('the restart of the app', load.start)
    await load.keepsTheLaw(t)
  })
}

for (const [command, configure] of [['nginx', nginx], ['haproxy', haproxy]] as const) {
  t.test(command, { skip: leftOut(command) }, async (t) => {
    const ports = await freePorts()
    const proxy = await startProxyProcess(t, command, ports.documented, (proxy) => configure(ports, proxy))
    testsOf(command, (name, check) => { t.test(name, (t) => check(t, { ports, proxy })) })
  })
}
