/**
 * One way to Redis, which outlives its connections. What is asked for is sent in order, waits while Redis is out of reach,
 * and is asked for again where the connection broke before the answer, if that is safe. In bounded time it is settled.
 */
import { BrokerUnavailable, OutcomeUnknown } from '../../errors.ts'
import { reasonOf } from '../../describe.ts'
import { nextTurn } from '../../turns.ts'
import { duplicate, openSession, readClock, readError, type Connection, type RedisClient, type Session } from './client.ts'
import { commandOf, pendingOf, type Order, type Pending } from './order.ts'
import { Queue } from './queue.ts'
import { recall } from './recall.ts'
import { STEP, type Script } from './scripts.ts'

export interface LinkOptions {
  scripts: readonly Script[]
  /** Milliseconds after which what was asked for is settled. */
  timeout: number
  /** Told of each time that Redis is out of reach, and that it is there again. */
  onAway: (link: Link, error: unknown) => void
  onBack: (link: Link) => void
}

/** Milliseconds until what was refused for the moment is asked for again. */
const SOON = 100

/** Of those that have waited as many are sent in one turn of the event loop. */
const AT_ONCE = 1_000

/** Milliseconds between two looks at the clock of Redis, and by how much it may be off meanwhile, or be set back. */
const CLOCK = 60_000
const INEXACT = 1_000

export class Link {
  /** How often it was connected; 0: not yet. */
  connections = 0
  /** `performance.now()` of the last time. */
  connectedAt = 0
  /** Drawn anew for each connection. */
  tag = 0
  readonly #connection: Connection
  readonly #options: LinkOptions
  readonly #clock: NodeJS.Timeout
  readonly #queue = new Queue()
  readonly #sent = new Set<Pending>()
  #number = 0
  #session: Session | undefined
  #usable = false
  /** The latest attempt to make it so. */
  #opening: object | undefined
  #patience: NodeJS.Timeout | undefined
  #flushing: NodeJS.Immediate | undefined
  #told = false
  #ended = false
  #lastError: Error | undefined

  constructor (client: RedisClient, options: LinkOptions) {
    this.#options = options
    this.#connection = duplicate(client)
    this.#connection.on('connect', () => this.#expectSession())
    this.#connection.on('ready', () => this.#open())
    this.#connection.on('close', () => this.#disconnected())
    this.#connection.on('error', (error) => { this.#lastError = error })
    // It tries again by itself, and tells by 'error'.
    this.#connection.connect().catch(() => {})
    this.#clock = setInterval(() => this.#setClock(), CLOCK).unref()
  }

  /** Milliseconds since 1970 by the clock of Redis, or a little less. */
  get time (): number {
    return Math.floor(performance.now() + (this.#session?.ahead ?? 0) - INEXACT)
  }

  /** @throws (rejects) {BrokerUnavailable | OutcomeUnknown} */
  ask (order: Order): Promise<unknown> {
    return new Promise((resolve, reject) => {
      if (this.#ended) return reject(this.#unavailable())
      const pending = pendingOf(order, this.#number++, { resolve, reject })
      pending.timer = setTimeout(() => this.#expire(pending), this.#options.timeout + (order.longer ?? 0))
      this.#queue.add(pending)
      if (this.#flushing === undefined) this.#flush()
    })
  }

  evaluate (script: Script, keys: readonly string[], order: Order): Promise<unknown> {
    return this.ask({ ...order, script: { script, keys } })
  }

  end (): void {
    this.#ended = true
    this.#usable = false
    clearInterval(this.#clock)
    clearTimeout(this.#patience)
    this.#connection.disconnect()
    for (const pending of [...this.#sent, ...this.#queue]) this.#fail(pending)
    this.#queue.clear()
  }

  /** A connection on which nobody answers is none. */
  #expectSession (): void {
    clearTimeout(this.#patience)
    this.#patience = setTimeout(() => this.#connection.disconnect(true), this.#options.timeout)
  }

  async #open (): Promise<void> {
    const opening = this.#opening = {}
    this.#expectSession()
    try {
      const session = await openSession(this.#connection, this.#options.scripts)
      if (await this.#isSuccessor(session)) await this.#recall()
      if (this.#opening === opening && !this.#ended) this.#begin(session)
    } catch (error) {
      this.#lastError = error as Error
      if (this.#opening === opening) this.#disconnect()
    }
  }

  /** The server that has known the last connection does away with it: what is still on its way comes too late. */
  async #isSuccessor ({ server, id }: Session): Promise<boolean> {
    const last = this.#session
    if (last === undefined || last.server !== server || server === '') return false
    if (last.id === id) return true
    return this.#connection.call('CLIENT', 'KILL', 'ID', last.id).then(() => true, () => false)
  }

  /** What has no answer, and is not asked for again by just doing so. */
  async #recall (): Promise<void> {
    for (const [pending, outcome] of await recall(this.#connection, this.#queue.lost)) {
      pending.tried = outcome !== undefined
      if (outcome === undefined || !this.#queue.delete(pending)) continue
      if (typeof outcome === 'string') this.#queue.noteStored(pending)
      this.#settle(pending, () => typeof outcome === 'string' ? pending.resolve(outcome) : pending.reject(outcome))
    }
  }

  #begin (session: Session): void {
    clearTimeout(this.#patience)
    this.#session = session
    this.#lastError = undefined
    this.#usable = true
    for (const pending of this.#queue.sort()) {
      this.#settle(pending, () => pending.reject(new BrokerUnavailable('Redis has refused it, and stored what came after it')))
    }
    this.tag = Math.floor(Math.random() * STEP)
    this.connections++
    this.connectedAt = performance.now()
    this.#flush()
  }

  #flush (): void {
    let count = 0
    for (const pending of this.#queue) {
      if (!this.#usable || this.#connection.status !== 'ready') return
      if (count++ === AT_ONCE) return this.#flushLater()
      this.#queue.delete(pending)
      this.#send(pending)
    }
  }

  #flushLater (): void {
    this.#flushing ??= setImmediate(() => {
      this.#flushing = undefined
      this.#flush()
    })
  }

  #send (pending: Pending): void {
    const { tried } = pending
    if (tried && pending.trace !== undefined) return this.#fail(pending)
    if (!tried) pending.since = this.time
    pending.tried = true
    pending.isAnswered = false
    pending.sentAt = performance.now()
    this.#sent.add(pending)
    this.#connection.call(...commandOf(pending)).then(
      (reply) => {
        pending.isAnswered = true
        if (reply !== null) this.#queue.noteStored(pending)
        this.#settle(pending, () => pending.resolve(reply))
        this.#answered()
      },
      (error: Error) => this.#sort(pending, tried, error))
  }

  /** @param tried whether it was before */
  #sort (pending: Pending, tried: boolean, given: Error): void {
    pending.isAnswered = true
    if (!this.#sent.delete(pending)) return
    const { isCluster } = this.#connection
    const { is, error } = readError(given)
    if (is === 'refused') return this.#settle(pending, () => pending.reject(refusal(error)))
    if (is === 'later') pending.tried = tried
    else this.#lastError = error
    if (isCluster && error.message.startsWith('NOSCRIPT') && !pending.lacksScript) {
      pending.lacksScript = true
      return this.#send(pending)
    }
    if (is === 'later' || isCluster) this.#rest(error)
    // Only the last of its connections tells that a cluster is away.
    if (isCluster && (is === 'broken' || error.message.startsWith('CLUSTERDOWN'))) this.#tellAway(error)
    this.#return(pending)
  }

  #return (pending: Pending): void {
    if (this.#ended || pending.once) return this.#fail(pending)
    this.#usable = false
    this.#queue.putBack(pending)
  }

  /** What is asked for later must not overtake what has to wait. */
  #rest ({ message }: Error): void {
    if (!this.#usable) return
    this.#usable = false
    if (/MOVED|ASK/.test(message)) this.#connection.refreshSlotsCache?.()
    const opening = this.#opening
    setTimeout(() => {
      if (this.#opening !== opening || this.#ended) return
      // After a failover it is the former master that is asked.
      if (message.startsWith('READONLY')) this.#disconnect()
      else this.#open()
    }, SOON)
  }

  #answered (): void {
    if (!this.#told) return
    this.#told = false
    this.#options.onBack(this)
  }

  #disconnected (): void {
    this.#usable = false
    this.#opening = undefined
    clearTimeout(this.#patience)
    this.#tellAway(this.#lastError ?? this.#unavailable())
  }

  #tellAway (error: Error): void {
    if (this.#told || this.#ended) return
    this.#told = true
    this.#options.onAway(this, error)
  }

  async #expire (pending: Pending): Promise<void> {
    // If the event loop was held up, the answer may have come, and was not read yet.
    if (this.#sent.has(pending)) await nextTurn()
    const isSent = this.#sent.has(pending)
    if (!isSent && !this.#queue.delete(pending)) return
    this.#fail(pending)
    if (isSent) this.#suspect(pending)
  }

  /** A connection by which something is not answered within the timeout is none. Who has asked may have waited before. */
  #suspect (pending: Pending): void {
    const rest = pending.sentAt + this.#options.timeout - performance.now()
    setTimeout(() => { if (this.#usable && !pending.isAnswered) this.#disconnect() }, rest).unref()
  }

  #disconnect (): void {
    this.#usable = false
    this.#connection.disconnect(true)
  }

  #fail (pending: Pending): void {
    const isUnknown = pending.tried && pending.reads !== true
    this.#settle(pending, () => pending.reject(isUnknown ? new OutcomeUnknown(this.#reason) : this.#unavailable()))
  }

  #settle (pending: Pending, settle: () => void): void {
    clearTimeout(pending.timer)
    this.#sent.delete(pending)
    settle()
  }

  #unavailable (): Error {
    return new BrokerUnavailable(this.#reason)
  }

  get #reason (): string {
    if (this.#ended) return 'it was ended'
    return `Redis is out of reach${this.#lastError === undefined ? '' : ` (${reasonOf(this.#lastError)})`}`
  }

  async #setClock (): Promise<void> {
    const session = this.#session
    if (!this.#usable || session === undefined || session.server === '') return
    session.ahead = await readClock(this.#connection).catch(() => session.ahead)
  }
}

/** Whether Redis is there, and says no. */
export function isRefusal (error: unknown): boolean {
  return error instanceof BrokerUnavailable && error.cause !== undefined
}

function refusal (error: Error): Error {
  return Object.assign(new BrokerUnavailable(`Redis says: ${reasonOf(error)}`), { cause: error })
}
