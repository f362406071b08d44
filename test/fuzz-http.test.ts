/**
 * Clients that send anything, and leave at any moment: the server goes on, others notice nothing, and nothing of them is left
 * behind.
 */
import type { Clock } from '@sinonjs/fake-timers'
import fc from 'fast-check'
import type { FastifyInstance, FastifyServerOptions } from 'fastify'
import http2, { type ClientHttp2Session, type ClientHttp2Stream, type ServerHttp2Session } from 'node:http2'
import net, { type Server, type Socket } from 'node:net'
import t, { type Test } from 'tap'
import type { SseChannel } from '../index.ts'
import { addRoutes, listenersOf, PATHS, resources, SECRET, SHORT } from './fuzz/routes.ts'
import { FACTOR, runs } from './fuzz/runs.ts'
import { connect, createApp, listen, ownClock, RawClient, reset, turns, until } from './helpers.ts'

const OPTIONS = { keepAlive: 1_000, writeTimeout: 3_000 }

/** What a client gives away of the server's inside. */
const INTERNAL = new RegExp(`${SECRET}|node_modules|\\.ts:\\d|\\.js:\\d|\\n +at `)

const bytes = (maxLength: number) => fc.uint8Array({ maxLength }).map((bytes) => Buffer.from(bytes).toString('latin1'))
const token = fc.stringMatching(/^[a-zA-Z-]{1,12}$/)
const mostly = <T, U>(usual: fc.Arbitrary<T>, other: fc.Arbitrary<U>) =>
  fc.oneof({ weight: 8, arbitrary: usual }, { weight: 1, arbitrary: other })

/** What a client may send as its last event ID. */
const lastEventId = fc.oneof(
  fc.constantFrom('', '0-0', 'earliest', '1-1', '~', '~AAAAA1-1', 'fastify-typed-sse:finished', '9'.repeat(40), 'x'.repeat(1_025), '\xff', 'é'),
  bytes(20),
  fc.tuple(fc.bigInt({ min: 0n, max: 2n ** 64n }), fc.nat()).map(([ms, seq]) => `${ms}-${seq}`)
)
const query = fc.oneof(
  fc.constant(''),
  lastEventId.map((id) => `?lastEventId=${encodeURIComponent(id)}`),
  fc.constantFrom('?', '?lastEventId', '?lastEventId=%', '?lastEventId=%ff%00', '?lastEventId=1&lastEventId=2', '?a[]=1&__proto__=2', '#x'),
  bytes(12).map((text) => `?${text}`)
)
const usualHeader = fc.oneof(
  lastEventId.map((id) => `Last-Event-ID: ${id}`),
  fc.constantFrom('Accept: text/event-stream', 'Accept-Encoding: gzip, zstd', 'Connection: close', 'User-Agent: Firefox/1')
)
const header = fc.oneof(
  usualHeader,
  fc.constantFrom(
    'Accept: */*;q=x', 'Accept-Encoding: gzip;q=0, *', 'Connection: upgrade', 'Upgrade: websocket', 'Expect: 100-continue', 'Expect: something', 'Content-Length: 5', 'Content-Length: x',
    'Transfer-Encoding: chunked', 'Content-Type: application/json', 'Range: bytes=0-1', 'If-None-Match: *', 'Host: other', 'Origin: null'
  ),
  fc.tuple(token, bytes(20)).map(([name, value]) => `${name}: ${value}`),
  bytes(30)
)
const request = fc.record({
  method: mostly(fc.constantFrom('GET', 'GET', 'GET', 'GET', 'POST', 'HEAD', 'OPTIONS', 'PUT', 'DELETE', 'CONNECT', 'get', 'PRI'), bytes(6)),
  path: mostly(fc.constantFrom(...PATHS), fc.oneof(fc.constantFrom('/', '//', '*', '/%', '/news/../idle', 'http://x/idle'), bytes(10))),
  query,
  version: mostly(fc.constant('HTTP/1.1'), fc.constantFrom('HTTP/1.0', 'HTTP/2.0', 'HTTP/1.9', '')),
  headers: mostly(fc.array(usualHeader, { maxLength: 2 }), fc.array(header, { maxLength: 3 })),
  body: mostly(fc.constant(''), bytes(20))
}).map(({ method, path, query, version, headers, body }) => {
  return [`${method} ${path}${query} ${version}`, 'Host: test', ...headers, '', body].join('\r\n')
})
/** Sent in pieces of these sizes, one in a turn. */
const sizes = fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 4 })

type Command =
  | { do: 'send', text: string, sizes: number[] | undefined }
  | { do: 'stall' | 'readOn' | 'halfClose' | 'destroy' | 'reset' | 'publish' | 'end' }
  | { do: 'tick', ms: number }

const anyone: fc.Arbitrary<Command>[] = [
  fc.record({ do: fc.constant('tick'), ms: fc.nat({ max: 1_500 }) }) as fc.Arbitrary<Command>,
  fc.record({ do: fc.constantFrom('publish', 'end') }) as fc.Arbitrary<Command>
]
const command: fc.Arbitrary<Command> = fc.oneof(
  { weight: 5, arbitrary: fc.record({ do: fc.constant('send'), text: request, sizes: fc.constant(undefined) }) as fc.Arbitrary<Command> },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('send'), text: request, sizes }) as fc.Arbitrary<Command> },
  // A part of a request, or nothing of the kind.
  fc.record({
    do: fc.constant('send'),
    text: fc.oneof(fc.tuple(request, fc.nat({ max: 40 })).map(([text, end]) => text.slice(0, end)), bytes(40)),
    sizes: fc.constant(undefined)
  }) as fc.Arbitrary<Command>,
  { weight: 3, arbitrary: fc.record({ do: fc.constantFrom('stall', 'readOn', 'halfClose', 'destroy', 'reset') }) as fc.Arbitrary<Command> },
  ...anyone
)

const CLIENTS = 4

/** Who does what, and how many turns of the event loop pass then. */
const course = <C>(command: fc.Arbitrary<C>) =>
  fc.array(fc.tuple(fc.nat({ max: CLIENTS - 1 }), command, fc.nat({ max: 5 })), { minLength: 8, maxLength: 40, size: 'max' })

/** A client of which nothing can be expected. It connects again when it was cut off. */
class Hostile {
  received = ''
  readonly #port: number
  #client: RawClient | undefined
  #sending = Promise.resolve()

  constructor (port: number) {
    this.#port = port
  }

  do (command: Command): void {
    switch (command.do) {
      case 'send':
        this.#send(command.text, command.sizes)
        break
      case 'stall':
        this.#socket?.pause()
        break
      case 'readOn':
        this.#socket?.resume()
        break
      case 'halfClose':
        this.#socket?.end()
        break
      case 'destroy':
        this.#socket?.destroy()
        break
      case 'reset':
        if (this.#socket !== undefined) reset(this.#socket)
    }
  }

  get #socket (): Socket | undefined {
    return this.#client?.socket
  }

  #send (text: string, sizes: number[] = [text.length]): void {
    if (this.#client === undefined || !this.#client.socket.writable) this.#connect()
    const client = this.#client!
    this.#sending = this.#sending.then(async () => {
      for (let at = 0, piece = 0; at < text.length && client.socket.writable; piece++) {
        const size = sizes[piece % sizes.length]!
        client.send(text.slice(at, at += size))
        if (at < text.length) await turns(1)
      }
    })
  }

  #connect (): void {
    this.#takeAll()
    this.#client?.destroy()
    this.#client = new RawClient(this.#port)
  }

  #takeAll (): void {
    // Enough of it to find what should not be there.
    this.received += this.#client?.received.slice(0, 20_000) ?? ''
  }

  async leave (how: 'halfClose' | 'destroy' | 'reset'): Promise<void> {
    await this.#sending
    this.do({ do: how })
    this.#takeAll()
  }

  gone (): void {
    this.#client?.destroy()
  }
}

/** One that takes its time for a request after the other, and gets all of each answer. */
async function polite (port: number, sizes: number[]): Promise<void> {
  const client = new RawClient(port)
  const text = ['/short?polite', '/plain', '/short?polite'].map((path) => `GET ${path} HTTP/1.1\r\nHost: test\r\n\r\n`).join('\r\n')
  for (let at = 0, piece = 0; at < text.length; piece++) {
    client.send(text.slice(at, at += sizes[piece % sizes.length]!))
    await turns(1)
  }
  const stream = SHORT.replaceAll(/data: .\n\n/g, '9\r\n$&\r\n') + '0\r\n\r\n'
  const answer = /^HTTP\/1\.1 200 [^]*?\r\n\r\n/
  try {
    await until(() => client.closed || client.received.split('\r\n0\r\n\r\n').length === 3, () => JSON.stringify(client.received))
    const bodies = client.received.split(new RegExp(answer.source.slice(1), 'm')).slice(1)
    const expected = [stream, 'ok', stream]
    if (JSON.stringify(bodies) !== JSON.stringify(expected)) throw new Error(`a polite client has got ${JSON.stringify(client.received)}`)
  } finally {
    client.destroy()
  }
}

/** What is watched while clients do what they want. */
class Watch {
  readonly complaints: string[] = []
  readonly #app: FastifyInstance
  readonly #clock: Clock
  readonly #news: SseChannel<any>
  readonly #sources: { started: number, finished: number }
  #published = 0
  #before: unknown

  constructor (t: Test, app: FastifyInstance, clock: Clock) {
    const { news, sources } = addRoutes(app)
    this.#app = app
    this.#clock = clock
    this.#news = news
    this.#sources = sources
    const complain = (what: unknown) => { this.complaints.push(what instanceof Error ? String(what.stack) : String(what)) }
    for (const event of ['warning', 'uncaughtExceptionMonitor', 'unhandledRejection']) {
      process.on(event, complain)
      t.after(() => { process.off(event, complain) })
    }
  }

  /** How many are connected, and what else there is. */
  async begin (): Promise<void> {
    await this.#state().then((state) => { this.#before = state })
  }

  publish (): void {
    this.#news.publish({ data: { n: this.#published++, text: 'x'.repeat(this.#published % 7 === 0 ? 10_000 : 10) } })
  }

  do (command: { do: string, ms?: number }): void {
    if (command.do === 'publish') this.publish()
    else if (command.do === 'end') [...this.#app.sse.connections].find(({ request }) => !request.url.includes('polite'))?.end()
    else if (command.do === 'tick') this.#clock.tick(command.ms!)
  }

  /** @param received of the bystander */
  async missesNothing (received: () => string): Promise<void> {
    this.publish()
    await until(() => received().includes(`{"n":${this.#published - 1},`), () => 'the bystander to be told')
    const numbers = [...received().matchAll(/"n":(\d+),/g)].map(([, n]) => Number(n))
    const expected = Array.from({ length: this.#published }, (_, n) => n)
    if (numbers.join() !== expected.join()) throw new Error(`the bystander was told ${numbers}`)
  }

  /** Once all hostile clients have gone. */
  async leavesNothing (): Promise<void> {
    const { sse } = this.#app
    await until(() => {
      // A session that was broken by what is no frame does not tell of it: its streams end as those of clients that stall.
      this.#clock.tick(1_000)
      return sse.stats().open === 1 && sse.connections.size === 1 && this.#sources.started === this.#sources.finished
    }, () => `streams to be over: ${JSON.stringify([sse.stats(), this.#sources])}`)
    const { opened, closed } = sse.stats()
    const ended = Object.values(closed).reduce((sum, count) => sum + count)
    if (ended !== opened - 1) throw new Error(`${opened} were opened, ${ended} have ended: ${JSON.stringify(closed)}`)
    if (closed['invalid-event'] > 0) throw new Error('a client has had an influence on the event that is sent to it')
    let now = ''
    const before = JSON.stringify(this.#before)
    await until(() => {
      // The appointments that they had pass.
      this.#clock.tick(1_000)
      this.#state().then((state) => { now = JSON.stringify(state) })
      return now === before
    }, () => `things to be as they were: ${before}, now ${now}`)
    if (this.complaints.length > 0) throw new Error(this.complaints.join('\n'))
  }

  async #state (): Promise<object> {
    const { server } = this.#app
    const listeners = [listenersOf(server), listenersOf(process)]
    return { connections: await this.#connections(), listeners, resources: resources(), timers: this.#clock.countTimers() }
  }

  /** Over HTTP/2 Node does not let go of each connection whose client has reset an ordinary answer before it went away. */
  async #connections (): Promise<unknown> {
    const { server, initialConfig } = this.#app
    if ('http2' in initialConfig && initialConfig.http2) return undefined
    return new Promise((resolve) => (server as Server).getConnections((_, count) => resolve(count)))
  }
}

function checkAnswers (received: string): void {
  if (INTERNAL.test(received)) throw new Error(`something internal was told: ${JSON.stringify(received)}`)
  const failure = /HTTP\/1\.1 5\d\d [^]{0,500}/.exec(received)
  if (failure !== null) throw new Error(`an answer was ${JSON.stringify(failure[0])}`)
}

const leaving = fc.array(fc.constantFrom('halfClose', 'destroy', 'reset'), { minLength: CLIENTS, maxLength: CLIENTS })

t.test('HTTP/1.1: whatever clients send, and however they leave', async (t) => {
  const app = await createApp(t, OPTIONS)
  const clock = ownClock(t)
  const watch = new Watch(t, app, clock)
  const port = await listen(app)
  const bystander = connect(t, port).get('/news?polite')
  const regular = connect(t, port)
  await bystander.until('id: ')

  /** By a connection that is used again and again. */
  async function ask (path: string): Promise<string> {
    regular.received = ''
    await regular.get(path).until(/\r\n\r\n[^]*(ok|\}|\n0\r\n\r\n)$/)
    return regular.received
  }
  await ask('/short?polite')
  const listeners = (await ask('/listeners')).split('\r\n').at(-1)
  clock.tick(5_000)
  await watch.begin()
  await fc.assert(fc.asyncProperty(course(command), sizes, leaving, async (course, sizes, leaving) => {
    const clients = Array.from({ length: CLIENTS }, () => new Hostile(port))
    const getsAll = polite(port, sizes)
    for (const [who, command, pause] of course) {
      watch.do(command)
      clients[who]!.do(command)
      await turns(pause)
    }
    await getsAll
    if (!(await ask('/plain')).endsWith('\r\n\r\nok')) throw new Error('an ordinary route is not answered')
    await ask('/short?polite')
    await watch.missesNothing(() => bystander.received)
    await Promise.all(clients.map((client, index) => client.leave(leaving[index]!)))
    for (const { received } of clients) checkAnswers(received)
    // Who has half closed, and does not read, is cut off in time.
    clock.tick(5_000)
    await turns()
    for (const client of clients) client.gone()
    clock.tick(5_000)
    await watch.leavesNothing()
    if ((await ask('/listeners')).split('\r\n').at(-1) !== listeners) throw new Error('listeners are left on a socket')
  }), runs(50))
  t.ok(app.sse.stats().opened > 80 * FACTOR, JSON.stringify(app.sse.stats()))
})

/** Of one client, over one session of HTTP/2. */
type Http2Command =
  | { do: 'request', headers: Record<string, string>, ends: boolean }
  | { do: 'resetStream', which: number, code: number }
  | { do: 'stallStream' | 'readOnStream' | 'endStream', which: number }
  | { do: 'ping' | 'goAway' | 'closeSession' | 'destroySession' | 'garbage' | 'stall' | 'readOn' | 'halfClose' | 'destroy' | 'reset' | 'publish' | 'end' }
  | { do: 'tick', ms: number }

const which = fc.nat({ max: 20 })
const http2Command: fc.Arbitrary<Http2Command> = fc.oneof(
  {
    weight: 12,
    arbitrary: fc.record({
      do: fc.constant('request'),
      headers: fc.record({
        ':method': mostly(fc.constantFrom('GET', 'GET', 'GET', 'POST', 'HEAD', 'DELETE'), token),
        ':path': fc.tuple(mostly(fc.constantFrom(...PATHS), fc.constantFrom('/', '*', '/%')), query).map((parts) => parts.join('')),
        'last-event-id': lastEventId,
        'accept-encoding': fc.constantFrom('gzip', 'identity'),
        'user-agent': bytes(10)
      }, { requiredKeys: [':method', ':path'] }),
      ends: mostly(fc.constant(true), fc.constant(false))
    }) as fc.Arbitrary<Http2Command>
  },
  {
    weight: 4,
    arbitrary: fc.record({ do: fc.constant('resetStream'), which, code: fc.nat({ max: 14 }) }) as fc.Arbitrary<Http2Command>
  },
  {
    weight: 4,
    arbitrary: fc.record({ do: fc.constantFrom('stallStream', 'readOnStream', 'endStream'), which }) as fc.Arbitrary<Http2Command>
  },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constantFrom(
        'ping', 'goAway', 'closeSession', 'destroySession', 'garbage', 'stall', 'readOn', 'halfClose', 'destroy', 'reset')
    }) as fc.Arbitrary<Http2Command>
  },
  ...anyone as fc.Arbitrary<Http2Command>[]
)

class Http2Hostile {
  received = ''
  readonly #port: number
  #socket: Socket | undefined
  #session: ClientHttp2Session | undefined
  #streams: ClientHttp2Stream[] = []

  constructor (port: number) {
    this.#port = port
  }

  do (command: Http2Command): void {
    switch (command.do) {
      case 'request':
        return this.#request(command.headers, command.ends)
      case 'resetStream':
        this.#stream(command.which)?.close(command.code)
        break
      case 'stallStream':
        this.#stream(command.which)?.pause()
        break
      case 'readOnStream':
        this.#stream(command.which)?.resume()
        break
      case 'endStream':
        this.#stream(command.which)?.end()
        break
      default:
        this.#doAll(command.do)
    }
  }

  #doAll (what: string): void {
    const session = this.#session
    if (session === undefined || session.destroyed) return
    if (what === 'ping') session.ping(() => {})
    else if (what === 'goAway') session.goaway()
    else if (what === 'closeSession') session.close()
    else if (what === 'destroySession') session.destroy()
    else if (what === 'garbage') this.#socket!.write('no frame of HTTP/2 at all')
    else if (what === 'stall') this.#socket!.pause()
    else if (what === 'readOn') this.#socket!.resume()
    else if (what === 'halfClose') this.#socket!.end()
    else if (what === 'destroy') this.#socket!.destroy()
    else if (what === 'reset') reset(this.#socket!)
  }

  #stream (which: number): ClientHttp2Stream | undefined {
    return this.#streams[which % this.#streams.length]
  }

  #request (headers: Record<string, string>, ends: boolean): void {
    if (this.#session === undefined || this.#session.destroyed || this.#session.closed) this.#connect()
    try {
      const stream = this.#session!.request(headers, { endStream: ends })
      stream.on('error', () => {}).setEncoding('latin1')
      stream.on('data', (text: string) => { if (this.received.length < 100_000) this.received += text })
      stream.on('response', ({ ':status': status }) => { this.received += `HTTP/1.1 ${status} \r\n` })
      this.#streams.push(stream)
    } catch {
      // Node's client does not send it.
    }
  }

  #connect (): void {
    this.gone()
    const socket = this.#socket = net.connect(this.#port, '127.0.0.1')
    socket.on('error', () => {})
    this.#streams = []
    this.#session = http2.connect('http://127.0.0.1', { createConnection: () => socket })
    this.#session.on('error', () => {})
  }

  gone (): void {
    this.#session?.destroy()
    this.#socket?.destroy()
  }
}

/** The text of an event stream over HTTP/2, or of another answer, as it comes. */
function read (session: ClientHttp2Session, path: string): { text: string, ended: boolean } {
  const answer = { text: '', ended: false }
  const stream = session.request({ ':path': path }).setEncoding('utf8')
  stream.on('data', (text: string) => { answer.text += text }).on('end', () => { answer.ended = true })
  return answer
}

t.test('HTTP/2: whatever clients ask for, and however they reset it', async (t) => {
  const app = await createApp(t, OPTIONS, { http2: true } as FastifyServerOptions)
  const clock = ownClock(t)
  const watch = new Watch(t, app, clock)
  const sessions: ServerHttp2Session[] = []
  app.server.on('session', (session) => sessions.push(session))
  const port = await listen(app)
  const [mine, others] = [1, 2].map(() => http2.connect(`http://127.0.0.1:${port}`)) as [ClientHttp2Session, ClientHttp2Session]
  t.after(() => [mine, others].forEach((session) => session.destroy()))
  const bystander = read(mine, '/news?polite')
  await until(() => bystander.text.includes('id: '))

  async function ask (path: string): Promise<string> {
    const answer = read(others, path)
    await until(() => answer.ended, () => `an answer to ${path}, of which there is ${answer.text}`)
    return answer.text
  }
  await ask('/short?polite')
  clock.tick(5_000)
  await watch.begin()
  await fc.assert(fc.asyncProperty(course(http2Command), async (course) => {
    const clients = Array.from({ length: CLIENTS }, () => new Http2Hostile(port))
    const stream = ask('/short?polite')
    for (const [who, command, pause] of course) {
      watch.do(command)
      clients[who]!.do(command)
      await turns(pause)
    }
    if (await stream !== SHORT) throw new Error(`a polite client has got ${await stream}`)
    if (await ask('/plain') !== 'ok') throw new Error('an ordinary route is not answered')
    await watch.missesNothing(() => bystander.text)
    for (const client of clients) {
      checkAnswers(client.received)
      client.gone()
    }
    await turns()
    clock.tick(5_000)
    await watch.leavesNothing()
  }), runs(40))
  t.ok(app.sse.stats().opened > 80 * FACTOR, JSON.stringify(app.sse.stats()))
  // Those that Node has kept would hold up the closing of the server.
  for (const session of sessions) session.destroy()
})
