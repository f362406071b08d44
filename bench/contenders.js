/** What is compared: each a server in a process of its own, and its clients in another. */
import { startNode, startProgram } from './processes/worker.js'
import { PYTHON } from './python.js'

const local = (path) => new URL(path, import.meta.url)

export const OURS = 'ours'
export const BY_HAND = 'by hand'

/** A server of the same bytes for everybody. */
export const STATIC = 'static bytes'

/** Nothing but what has to be done: no plugin that runs onSend hooks can do with less. */
export const LIMIT = 'the limit'

/** Libraries for servers in Node, by the modules that use them. */
const NODE_PEERS = {
  '@fastify/sse': 'servers/fastify-sse.js',
  'fastify-sse-v2': 'servers/fastify-sse-v2.js',
  'better-sse': 'servers/better-sse.js',
  hono: 'servers/hono.js'
}

const NODE_SERVERS = {
  [OURS]: 'servers/ours.js',
  [BY_HAND]: 'servers/hand-written.js',
  [STATIC]: 'servers/static.js',
  [LIMIT]: 'servers/limit.js',
  ...NODE_PEERS
}

export const nodePeers = Object.keys(NODE_PEERS)

/** Of another language: only where it is installed. */
export const STARLETTE = 'starlette'

function startServer (name, options) {
  if (name === STARLETTE) return startProgram(PYTHON, local('servers/starlette_server.py').pathname)
  return startNode(local(NODE_SERVERS[name]), options)
}

export class Contender {
  /** Events that its clients must have received in all. */
  #expected = 0
  #clients

  /** @param options of its server: `{ keepAlive, hooks }` */
  static create (name, { title = name, ...options } = {}) {
    return new Contender(title, startServer(name, options), startNode(local('clients/index.js')))
  }

  constructor (name, server, clients) {
    this.name = name
    this.server = server
    this.#clients = clients
  }

  /** Resolves when its server listens. */
  async start () {
    this.port = await this.server.ask('port')
  }

  async connect (count, { path = '/channel', over } = {}) {
    this.clients = count
    await this.#clients.ask('connect', { port: this.port, path, count, over })
  }

  /**
   * Publishes by the clock, and waits until all clients have received all of it.
   * @param turns in how many turns of the event loop, every so many milliseconds, a batch of so many events is published
   */
  async publish ({ turns, batch = 1, every, together }) {
    const count = turns * batch * this.clients
    this.#expected += count
    await this.server.ask('publish', { turns, batch, every, together })
    this.#check(await this.#clients.ask('received', { count: this.#expected }))
    return count
  }

  /** The microseconds of CPU that its server needs for a task of its clients. */
  async cpuOf (task) {
    const before = await this.server.ask('usage', { gc: true })
    const result = await task()
    const after = await this.server.ask('usage')
    return { result, cpu: after.cpu - before.cpu }
  }

  /**
   * So many clients at once, each of which is sent so many events.
   * @returns the seconds until all of them had all, from the requests (`seconds`) and from the first event on (`flow`)
   */
  async rush ({ path, headers, count, eventsEach }) {
    const events = count * eventsEach
    const { received, ...times } = await this.#clients.ask('rush', { port: this.port, path, headers, count, events })
    if (received !== events) throw new Error(`${this.name}: ${received} of ${events} events have come`)
    return times
  }

  async comeAndGo (how) {
    return (await this.#clients.ask('comeAndGo', { port: this.port, ...how })).seconds
  }

  async sample (how) {
    return (await this.#clients.ask('sample', { port: this.port, ...how })).body
  }

  /** Its clients leave. */
  async disconnect () {
    this.#check(await this.#clients.ask('disconnect'))
    this.#expected = 0
  }

  async end () {
    await Promise.all([this.server.end(), this.#clients.end()])
  }

  /** A server that loses events, or sends them twice, has no figures. */
  #check ({ received }) {
    if (received !== this.#expected) throw new Error(`${this.name}: ${received} of ${this.#expected} events have come`)
  }
}

/** @param use is given them all, started; they are ended when it is done */
export async function withContenders (starts, use) {
  const contenders = starts.map(([name, options]) => Contender.create(name, options))
  try {
    await Promise.all(contenders.map((contender) => contender.start()))
    return await use(contenders)
  } finally {
    await Promise.all(contenders.map((contender) => contender.end()))
  }
}
