/**
 * Clients that come back to another process each time, and are cut anywhere: one that does what the HTML standard says, to
 * the letter, and what the package `eventsource` needs to do the same.
 */
import http, { type IncomingMessage } from 'node:http'
import { setTimeout as pause } from 'node:timers/promises'
import { below, type Random } from './random.ts'

/** What "dispatch the event" was done for. */
export interface Block {
  /** The last event ID string of the event source afterwards. */
  id: string
  /** Whether the block had an ID. */
  own: boolean
  /** Undefined: there was no data, so nobody is told. */
  event: { type: string, data: string } | undefined
}

/** "Parsing an event stream" and "interpreting an event stream" (HTML standard, 9.2.5 and 9.2.6), for one connection. */
export class Parser {
  readonly #onBlock: (block: Block) => void
  // "UTF-8 decode", which leaves out one byte order mark.
  readonly #decoder = new TextDecoder()
  #line = ''
  #afterCr = false
  #data = ''
  #type = ''
  #lastEventId = ''
  #own = false

  constructor (onBlock: (block: Block) => void) {
    this.#onBlock = onBlock
  }

  /** Whether a block has begun that has not ended. */
  get isInside (): boolean {
    return this.#line !== '' || this.#data !== '' || this.#type !== '' || this.#own
  }

  feed (bytes: Uint8Array): void {
    let text = this.#decoder.decode(bytes, { stream: true })
    if (text === '') return
    if (this.#afterCr && text.startsWith('\n')) text = text.slice(1)
    this.#afterCr = text.endsWith('\r')
    const lines = text.split(/\r\n|\r|\n/)
    lines[0] = this.#line + lines[0]!
    this.#line = lines.pop()!
    for (const line of lines) this.#take(line)
  }

  #take (line: string): void {
    if (line === '') return this.#dispatch()
    const [, field = line, value = ''] = /^([^:]*): ?([^]*)$/.exec(line) ?? []
    switch (field) {
      case 'event':
        this.#type = value
        break
      case 'data':
        this.#data += value + '\n'
        break
      case 'id':
        if (value.includes('\0')) break
        this.#lastEventId = value
        this.#own = true
    }
  }

  #dispatch (): void {
    const event = this.#data === '' ? undefined : { type: this.#type || 'message', data: this.#data.slice(0, -1) }
    const own = this.#own
    this.#data = this.#type = ''
    this.#own = false
    this.#onBlock({ id: this.#lastEventId, own, event })
  }
}

export interface Item extends Block {
  /** Milliseconds since 1970. */
  at: number
}

export interface Visit {
  port: number
  /** The Last-Event-ID of the request; `''`: none. */
  sent: string
  /** Undefined: nobody has answered. */
  status: number | undefined
  items: Item[]
  /** Where it was cut by the client. */
  cut?: 'connecting' | 'head' | 'between' | 'inside'
}

export interface ClientOptions {
  /** Where it may come back to. */
  ports: () => readonly number[]
  path: string
  random: Random
  /** Bytes between two cuts; false: it is not cut. */
  mean: number | false
  /** The last event ID that it begins with. */
  from?: string
}

function nextPort (ports: readonly number[], last: number | undefined, random: Random): number {
  const others = ports.length === 1 ? ports : ports.filter((port) => port !== last)
  return others[below(random, others.length)]!
}

/** Some connections live long enough for the largest event. */
function drawBytes (random: Random, mean: number): number {
  return random() < 0.1 ? below(random, 300) : Math.floor(-Math.log(1 - random()) * mean * (random() < 0.2 ? 10 : 1))
}

export class Client {
  readonly visits: Visit[] = []
  lastEventId: string
  /** It was answered 204, or with an error: an EventSource does not come back. */
  closed = false
  /** An ID that it had was taken away from it. */
  timesRobbed = 0
  readonly #options: ClientOptions
  #stopped = false
  #request: http.ClientRequest | undefined

  constructor (options: ClientOptions) {
    this.#options = options
    this.lastEventId = options.from ?? ''
  }

  /** Comes back until it is stopped, or told not to. */
  async run (): Promise<void> {
    const { random } = this.#options
    while (!this.closed && !this.#stopped) {
      await this.#visit()
      if (!this.closed && !this.#stopped) await pause(random() < 0.7 ? below(random, 10) : below(random, 200))
    }
  }

  stop (): void {
    this.#stopped = true
    this.#request?.destroy()
  }

  /** Whatever it is at. */
  cut (): void {
    this.#request?.destroy()
  }

  get status (): number | undefined {
    return this.visits.at(-1)?.status
  }

  get items (): Item[] {
    return this.visits.flatMap(({ items }) => items)
  }

  get data (): unknown[] {
    return this.items.flatMap(({ event }) => event === undefined ? [] : [JSON.parse(event.data)])
  }

  #visit (): Promise<void> {
    const { ports, path, random, mean } = this.#options
    const port = nextPort(ports(), this.visits.at(-1)?.port, random)
    const visit: Visit = { port, sent: this.lastEventId, status: undefined, items: [] }
    this.visits.push(visit)
    const how = mean === false ? 1 : random()
    const headers = { accept: 'text/event-stream', ...(visit.sent !== '' && { 'last-event-id': visit.sent }) }
    const request = this.#request = http.get({ port, host: '127.0.0.1', path, agent: false, headers })
    const cut = (where: NonNullable<Visit['cut']>) => {
      visit.cut = where
      request.destroy()
    }
    if (how < 0.05) request.once('socket', (socket) => socket.once('connect', () => cut('connecting')))
    request.on('response', (response) => {
      visit.status = response.statusCode
      if (response.statusCode !== 200) this.closed = true
      if (how < 0.1) return cut('head')
      const bytes = mean === false ? Infinity : drawBytes(random, mean)
      this.#read(response, visit, bytes, how < 0.3 ? below(random, 300) : undefined, cut)
    })
    return new Promise((resolve) => request.on('error', () => {}).on('close', resolve))
  }

  #read (
    response: IncomingMessage, visit: Visit, left: number, after: number | undefined, cut: (where: 'between' | 'inside') => void
  ): void {
    const parser = new Parser((block) => this.#take(block, visit))
    const cutHere = () => cut(parser.isInside ? 'inside' : 'between')
    const timer = after === undefined ? undefined : setTimeout(cutHere, after)
    response.on('close', () => clearTimeout(timer)).on('error', () => {}).on('data', (bytes: Buffer) => {
      if (visit.cut !== undefined || this.#stopped) return
      parser.feed(bytes.subarray(0, left))
      if (bytes.length > left) cutHere()
      left -= bytes.length
    })
  }

  #take (block: Block, visit: Visit): void {
    if (this.lastEventId !== '' && block.id === '') this.timesRobbed++
    this.lastEventId = block.id
    if (block.own || block.event !== undefined) visit.items.push({ ...block, at: Date.now() })
  }
}

/** A `fetch` for the package `eventsource`, which goes to another process each time, and is cut. */
export function switchingFetch ({ ports, random, mean }: Pick<ClientOptions, 'ports' | 'random' | 'mean'>, onCut: () => void) {
  let last: number | undefined
  // Before it is told another one its reconnection time is long.
  let left = 1_000
  return async (url: string | URL, init: object): Promise<Response> => {
    const target = new URL(url)
    last = nextPort(ports(), last, random)
    target.port = String(last)
    if (left === 0 && random() < 0.05) {
      onCut()
      throw new TypeError('cut while connecting')
    }
    const { body, status, headers } = await fetch(target, init)
    if (body === null || mean === false) return new Response(body, { status, headers })
    left += drawBytes(random, mean)
    const cutting = new TransformStream<Uint8Array, Uint8Array>({
      transform (bytes, controller) {
        controller.enqueue(bytes.subarray(0, left))
        left -= Math.min(left, bytes.length)
        if (left > 0) return
        onCut()
        if (random() < 0.5) controller.terminate()
        else controller.error(new TypeError('cut'))
      }
    })
    return new Response(body.pipeThrough(cutting), { status, headers })
  }
}
