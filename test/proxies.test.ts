/** Event streams through real proxies that buffer, compress, lose patience, and are reloaded and restarted: nginx and HAProxy. */
import { EventSource } from 'eventsource'
import fastify, { type FastifyInstance } from 'fastify'
import http2 from 'node:http2'
import { setTimeout as pause } from 'node:timers/promises'
import t, { type Test } from 'tap'
import sse, { createHub, memoryBroker, type Broker } from '../index.ts'
import { fetchEvents } from '../lib/client/index.ts'
import { connect, deferred, idleSource, RawClient } from './helpers.ts'
import { documented, missing, nginxAround, quietPort, startProxyProcess, type ProxyProcess } from './proxy-process.ts'

/** How long a proxy waits for either end, in ms, where it is impatient. */
const IMPATIENT = 2_000

/** Nothing is ever let go of. */
const HISTORY = { history: { events: 1e6, bytes: 1e9 } }

/** Where both proxies listen: as documented, impatient, and over HTTP/2; the others are configured to the worst. */
interface Ports {
  app: number
  documented: number
  impatient: number
  http2: number
  /** nginx with what it does by default, HTTP/1.0 to the app. */
  default: number
  compressing: number
}

async function freePorts (): Promise<Ports> {
  return {
    app: await quietPort(),
    documented: await quietPort(),
    impatient: await quietPort(),
    http2: await quietPort(),
    default: await quietPort(),
    compressing: await quietPort()
  }
}

function nginx (ports: Ports): string {
  const server = (port: number | string, directives: string) => `server {
    listen 127.0.0.1:${port};
    location / { proxy_pass http://127.0.0.1:${ports.app}; ${directives} }
  }\n`
  return nginxAround([
    documented('nginx').replace('listen 80', `listen 127.0.0.1:${ports.documented}`)
      .replace('127.0.0.1:3000', `127.0.0.1:${ports.app}`).replace('retry: 2000', 'retry: 100'),
    server(ports.default, 'proxy_buffering on;'),
    server(ports.compressing, 'proxy_http_version 1.1; gzip on; gzip_types text/event-stream; gzip_min_length 0; gzip_proxied any;'),
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
async function until (condition: () => unknown, what: string): Promise<void> {
  for (const deadline = performance.now() + 30_000; !await condition();) {
    if (performance.now() > deadline) throw new Error(`waited 30 s for ${what}`)
    await pause(5)
  }
}

/** The body so far of an answer to a client that takes gzip, decoded. */
async function open (t: Test, port: number, path: string): Promise<{ text: string, ended: boolean, headers: Headers }> {
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

interface Setting {
  ports: Ports
  proxy: ProxyProcess
}

function testsOf (command: 'nginx' | 'haproxy', test: (name: string, check: (t: Test, setting: Setting) => Promise<void>) => void): void {
  test('each event arrives before there is another one, buffered, compressed or over HTTP/2', async (t, { ports }) => {
    const gates = new Map(['documented', 'default', 'compressing', 'http2'].map((name) => [name, gated()]))
    await startWith(t, ports.app, (app) => {
      app.get<{ Params: { name: string } }>('/:name', (request, reply) => reply.sse(gates.get(request.params.name)!.source()))
    })
    const over2 = http2.connect(`http://127.0.0.1:${ports.http2}`)
    t.after(() => over2.destroy())
    const bodies: Record<string, { text: string }> = { http2: { text: '' } }
    over2.request({ ':path': '/http2' }).setEncoding('utf8').on('data', (text) => { bodies.http2!.text += text })
    for (const name of ['documented', 'default', 'compressing'] as const) {
      const body = bodies[name] = await open(t, ports[name], `/${name}`)
      t.equal(body.headers.get('content-type'), 'text/event-stream', 'the head is there before any event')
      t.equal(body.headers.get('cache-control'), 'no-cache, no-transform')
      // HAProxy obeys no-transform; nginx does not know it, but flushes each event.
      t.equal(body.headers.get('content-encoding'), command === 'nginx' && name === 'compressing' ? 'gzip' : null)
    }
    for (let n = 0; n < 3; n++) {
      for (const [name, gate] of gates) {
        gate.next()
        await until(() => bodies[name]!.text.endsWith(`data: ${n}\n\n`), `event ${n} by ${name}`)
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

  test('nothing is lost or doubled when the proxy is reloaded and restarted, and when the app is', async (t, { ports, proxy }) => {
    const broker = memoryBroker()
    const hub = createHub({ broker })
    t.after(() => hub.close())
    const channel = hub.channel('c', HISTORY)
    const start = () => startWith(t, ports.app, (app) => {
      const channel = app.sse.channel('c', HISTORY)
      app.get('/channel', (_, reply) => reply.sse(channel))
    }, broker)
    const app = await start()
    const first = await channel.publish({ data: -1 })
    const url = `http://127.0.0.1:${ports.documented}/channel?lastEventId=${first}`
    const readers: number[][] = []
    let opened = 0

    function openSource (): EventSource {
      const seen: number[] = []
      readers.push(seen)
      const source = new EventSource(url)
      t.after(() => source.close())
      source.onmessage = ({ data }) => { seen.push(Number(data)) }
      source.addEventListener('open', () => { opened++ })
      return source
    }

    async function read (): Promise<void> {
      const seen: number[] = []
      readers.push(seen)
      const abort = new AbortController()
      t.after(() => abort.abort())
      const counting = async (url: string | URL, init: RequestInit) => {
        const response = await fetch(url, init)
        if (response.ok) opened++
        return response
      }
      for await (const { event, data } of fetchEvents(url, { signal: abort.signal, fetch: counting })) {
        seen.push(event === 'message' ? Number(data) : NaN)
      }
    }

    let published = 0
    const timer = setInterval(() => channel.publish({ data: published++ }), 5)
    t.after(() => clearInterval(timer))
    const everybody = (when: string, then = opened) => until(() => opened >= then + 6, `everybody to come back ${when}`)
    const sources = [openSource(), openSource(), openSource()]
    for (let reader = 0; reader < 3; reader++) read().catch(() => {})
    await everybody('for the first time', 0)
    await until(() => readers.every((seen) => seen.length > 0), 'everybody to read')

    proxy.reload()
    await everybody('after the reload')
    await proxy.stop()
    const mark = opened
    await proxy.start()
    await everybody('after the restart', mark)
    await app.close()
    const late = openSource()
    sources.push(late)
    let isAnswered = false
    late.addEventListener('open', () => { isAnswered = true })
    await until(() => isAnswered, 'the proxy to answer for the app')
    t.same(readers.at(-1), [], 'it has been sent away, softly')
    await start()
    await until(() => readers.at(-1)!.length > 0, 'it to come back')

    clearInterval(timer)
    await until(() => readers.every((seen) => seen.at(-1) === published - 1), 'everybody to have everything')
    const all = Array.from({ length: published }, (_, n) => n)
    for (const seen of readers) t.same(seen, all, `each of ${published} events once and in order`)
    t.ok(sources.every(({ readyState }) => readyState !== EventSource.CLOSED))
  })
}

for (const [command, configure] of [['nginx', nginx], ['haproxy', haproxy]] as const) {
  t.test(command, { skip: missing(command) }, async (t) => {
    const ports = await freePorts()
    const proxy = await startProxyProcess(t, command, ports.documented, (proxy) => configure(ports, proxy))
    testsOf(command, (name, check) => { t.test(name, (t) => check(t, { ports, proxy })) })
  })
}
