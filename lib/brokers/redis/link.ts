/**
 * One way to Redis, which outlives its connections. What is asked for is sent in order, waits while Redis is out of reach,
 * and is asked for again where the connection broke before the answer, if that is safe. In bounded time it is settled.
 */
import { BrokerUnavailable, OutcomeUnknown } from '../../errors.ts'
import { reasonOf } from '../../describe.ts'
import { nextTurn } from '../../turns.ts'
import {
  duplicate, openSession, readClock, type Argument, type Connection, type RedisClient, type Session
} from './client.ts'
import { STEP, type Script } from './scripts.ts'

export interface LinkOptions {
  scripts: readonly Script[]
  /** Milliseconds after which what was asked for is settled. */
  timeout: number
  /** Told of each time that Redis is out of reach, and that it is there again. */
  onAway: (link: Link, error: unknown) => void
  onBack: (link: Link) => void
}

export interface Order {
  /** @param again whether it may have been carried out before */
  args: (again: boolean) => Argument[]
  /** Whether it can be carried out twice: 'known' is where the same server process answers, which knows it again. */
  repeat: 'always' | 'known' | 'never'
  /** It changes nothing of which it would matter whether it was carried out. */
  reads?: boolean
  /** Milliseconds by which it may take longer. */
  longer?: number
}

interface Pending extends Order {
  /** Those that are asked for again keep their place. */
  number: number
  /** It may have been carried out. */
  tried: boolean
  /** `performance.now()` when it was sent last. */
  sentAt: number
  timer: NodeJS.Timeout
  resolve (reply: unknown): void
  reject (error: unknown): void
}

/** What Redis says, or ioredis, where nothing was carried out, and should be before long. */
const LATER = /\b(NOSCRIPT|READONLY|LOADING|CLUSTERDOWN|TRYAGAIN|MOVED|ASK) |enableOfflineQueue/

/** Milliseconds until then. */
const SOON = 100

/** As many are sent in one turn of the event loop. */
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
  #waiting = new Set<Pending>()
  readonly #sent = new Set<Pending>()
  #number = 0
  #session: Session | undefined
  /** Whether what was tried by the last connection is known again by this one, and no longer on its way. */
  #knows = false
  #usable = false
  /** The latest attempt to make it so. */
  #opening: object | undefined
  #patience: NodeJS.Timeout | undefined
  /** What is waiting is not in its order. */
  #unsorted = false
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
      const timer = setTimeout(() => this.#expire(pending), this.#options.timeout + (order.longer ?? 0))
      const pending: Pending = { ...order, number: this.#number++, tried: false, sentAt: 0, timer, resolve, reject }
      this.#waiting.add(pending)
      if (this.#flushing === undefined) this.#flush()
    })
  }

  evaluate (script: Script, keys: readonly string[], { args, ...order }: Order): Promise<unknown> {
    return this.ask({ ...order, args: (again) => ['EVALSHA', script.sha, keys.length, ...keys, ...args(again)] })
  }

  end (): void {
    this.#ended = true
    this.#usable = false
    clearInterval(this.#clock)
    clearTimeout(this.#patience)
    this.#connection.disconnect()
    for (const pending of [...this.#sent, ...this.#waiting]) this.#fail(pending)
    this.#waiting.clear()
  }

  /** A connection on which nobody answers is none. */
  #expectSession (): void {
    clearTimeout(this.#patience)
    this.#patience = setTimeout(() => this.#connection.disconnect(true), this.#options.timeout)
  }

  async #open (): Promise<void> {
    const opening = this.#opening = {}
    try {
      const session = await openSession(this.#connection, this.#options.scripts)
      const knows = await this.#isSuccessor(session)
      if (this.#opening === opening && !this.#ended) this.#begin(session, knows)
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

  #begin (session: Session, knows: boolean): void {
    clearTimeout(this.#patience)
    this.#session = session
    this.#lastError = undefined
    this.#knows = knows
    this.#usable = true
    if (this.#unsorted) this.#waiting = new Set([...this.#waiting].sort((a, b) => a.number - b.number))
    this.#unsorted = false
    this.tag = Math.floor(Math.random() * STEP)
    this.connections++
    this.connectedAt = performance.now()
    this.#flush()
  }

  #flush (): void {
    let count = 0
    for (const pending of this.#waiting) {
      if (!this.#usable || this.#connection.status !== 'ready') return
      if (count++ === AT_ONCE) return this.#flushLater()
      this.#waiting.delete(pending)
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
    const { tried, repeat } = pending
    if (tried && (repeat === 'never' || (repeat === 'known' && !this.#knows))) return this.#fail(pending)
    pending.tried = true
    pending.sentAt = performance.now()
    this.#sent.add(pending)
    const [command, ...args] = pending.args(tried) as [string, ...Argument[]]
    this.#connection.call(command, ...args).then(
      (reply) => {
        this.#settle(pending, () => pending.resolve(reply))
        this.#answered()
      },
      (error: Error) => this.#sort(pending, tried, error))
  }

  /** @param tried whether it was before */
  #sort (pending: Pending, tried: boolean, error: Error): void {
    if (!this.#sent.delete(pending)) return
    if (LATER.test(error.message)) {
      pending.tried = tried
      this.#rest(error)
      this.#return(pending)
    } else if (error.name === 'ReplyError') {
      this.#settle(pending, () => pending.reject(refusal(error)))
    } else {
      // The connection broke.
      this.#lastError = error
      if (this.#connection.nodes !== undefined) this.#rest(error)
      this.#return(pending)
    }
  }

  #return (pending: Pending): void {
    if (this.#ended || pending.repeat === 'never') return this.#fail(pending)
    this.#usable = false
    this.#unsorted = true
    this.#waiting.add(pending)
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
    if (this.#told || this.#ended) return
    this.#told = true
    this.#options.onAway(this, this.#lastError ?? this.#unavailable())
  }

  async #expire (pending: Pending): Promise<void> {
    // If the event loop was held up, the answer may have come, and was not read yet.
    if (this.#sent.has(pending)) await nextTurn()
    const isSent = this.#sent.has(pending)
    if (!isSent && !this.#waiting.delete(pending)) return
    this.#fail(pending)
    // What was asked for later on this connection may be answered yet.
    const isOverdue = isSent && performance.now() - pending.sentAt >= this.#options.timeout - 1
    if (isOverdue && this.#usable) this.#disconnect()
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
