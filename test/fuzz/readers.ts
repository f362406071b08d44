/** Readers that note what they are told: by HTTP, as a client that keeps to the standard, and by `for await`. */
import type { Server } from 'node:http'
import type { GapEvent, ReceivedEvent, SseSubscription } from '../../index.ts'
import { FINISHED_ID } from '../../lib/client/finished-id.ts'
import type { Item, Moment, Reader, Visit } from './law.ts'
import { Wire } from './wire.ts'

/** What a reader needs to know of what is published. */
export interface Clock {
  moment: () => Moment
  settled: () => readonly number[]
}

type Told = Item extends infer Each ? Each extends Item ? Omit<Each, 'moment'> : never : never

abstract class Noting implements Reader {
  readonly channels: readonly number[]
  readonly wants: Reader['wants']
  readonly visits: Visit[] = []
  protected lastEventId: string | undefined
  readonly #clock: Clock

  constructor (channels: readonly number[], wants: Reader['wants'], clock: Clock) {
    this.channels = channels
    this.wants = wants
    this.#clock = clock
  }

  get visit (): Visit | undefined {
    return this.visits.at(-1)
  }

  get isOpen (): boolean {
    return this.visit !== undefined && this.visit.ended === undefined
  }

  /** It has had all that its channels will ever have, and needs not come back. */
  abstract get isDone (): boolean
  abstract drop (): void
  abstract stall (): void
  abstract readOn (): void

  protected begin (after: string | undefined): Visit {
    const visit: Visit = {
      after,
      settled: this.#clock.settled(),
      opened: this.#clock.moment(),
      items: [],
      ended: undefined,
      endedAt: undefined,
      readsOn: true
    }
    this.visits.push(visit)
    if (after !== undefined) this.lastEventId = after
    return visit
  }

  protected note (told: Told): void {
    if (told.is !== 'gap') this.lastEventId = told.id
    this.visit!.items.push({ ...told, moment: this.#clock.moment() } as Item)
  }

  protected end (visit: Visit, how: NonNullable<Visit['ended']>): void {
    visit.ended ??= how
    visit.endedAt ??= this.#clock.moment()
  }
}

export type AnyReader = HttpReader | Iterating

/** A client of an event stream, by a wire. It remembers an ID that comes alone, and drops a block that was cut. */
export class HttpReader extends Noting {
  readonly #server: Server
  readonly #path: string
  #wire: Wire | undefined
  isDone = false

  constructor (server: Server, path: string, ...noting: ConstructorParameters<typeof Noting>) {
    super(...noting)
    this.#server = server
    this.#path = path
  }

  open (from: 'last' | 'earliest' | 'now'): void {
    if (this.isOpen || this.isDone) return
    const after = from === 'last' ? this.lastEventId : from === 'now' ? undefined : from
    const visit = this.begin(after)
    let head = ''
    let body = ''
    const wire = this.#wire = new Wire((bytes) => {
      if (this.visit !== visit) return
      head += bytes.toString('latin1')
      const end = head.indexOf('\r\n\r\n')
      if (end === -1) return
      // It was cut off right after it had been told: it is told once more, by an answer that is no stream.
      if (after === FINISHED_ID) return this.#onEnd(visit, head.startsWith('HTTP/1.1 204 '))
      let rest = head.slice(end + 4)
      for (let chunk = /^([0-9a-f]+)\r\n/.exec(rest); chunk !== null; chunk = /^([0-9a-f]+)\r\n/.exec(rest)) {
        const size = parseInt(chunk[1]!, 16)
        if (size === 0) this.#onEnd(visit, this.lastEventId === FINISHED_ID)
        if (size === 0 || rest.length < chunk[0].length + size + 2) break
        body = this.#takeBlocks(body + rest.slice(chunk[0].length, chunk[0].length + size))
        rest = rest.slice(chunk[0].length + size + 2)
      }
      head = head.slice(0, end + 4) + rest
    })
    wire.on('close', () => this.end(visit, 'left'))
    this.#server.emit('connection', wire)
    const headers = after === undefined || after === 'earliest' ? '' : `Last-Event-ID: ${after}\r\n`
    const query = after === 'earliest' ? '?lastEventId=earliest' : ''
    wire.send(`GET ${this.#path}${query} HTTP/1.1\r\nHost: test\r\n${headers}\r\n`)
  }

  /** Breaks the connection off after so many bytes more. */
  cut (bytes: number): void {
    if (this.isOpen) this.#wire!.left = bytes
  }

  drop (): void {
    if (this.isOpen) this.end(this.visit!, 'left')
    this.#wire?.destroy()
  }

  stall (): void {
    if (!this.isOpen) return
    this.visit!.readsOn = false
    this.#wire!.stall()
  }

  readOn (): void {
    this.#wire?.readOn()
  }

  #onEnd (visit: Visit, isDone: boolean): void {
    this.isDone = isDone
    this.end(visit, isDone ? 'end' : 'lagged')
    this.#wire!.destroy()
  }

  #takeBlocks (text: string): string {
    const blocks = text.split('\n\n')
    for (const block of blocks.slice(0, -1)) this.#takeBlock(block)
    return blocks.at(-1)!
  }

  #takeBlock (block: string): void {
    const field = (name: string) => new RegExp(`^${name}: (.*)$`, 'm').exec(block)?.[1]
    const id = field('id')
    const data = field('data')
    if (id === FINISHED_ID) {
      this.lastEventId = id
      this.end(this.visit!, 'end')
    } else if (field('event') === 'gap') {
      this.note({ is: 'gap', channel: undefined, ...JSON.parse(data!) })
    } else if (data !== undefined) {
      this.note({ is: 'event', id: id!, ...JSON.parse(data) })
    } else if (id !== undefined) {
      this.note({ is: 'position', id })
    }
  }
}

/** It reads by `for await`. */
export class Iterating extends Noting {
  readonly #subscribe: (after: string | undefined) => SseSubscription<any>
  #iterator: AsyncIterator<ReceivedEvent | GapEvent> | undefined
  #isStalled = false
  #goOn: () => void = () => {}

  constructor (subscribe: (after: string | undefined) => SseSubscription<any>, ...noting: ConstructorParameters<typeof Noting>) {
    super(...noting)
    this.#subscribe = subscribe
  }

  get isDone (): boolean {
    return this.visit?.ended === 'end'
  }

  open (from: 'last' | 'earliest' | 'now'): void {
    if (this.isOpen || this.isDone) return
    const visit = this.begin(from === 'last' ? this.lastEventId : from === 'now' ? undefined : from)
    this.#iterator = this.#subscribe(visit.after)[Symbol.asyncIterator]()
    this.#isStalled = false
    this.#read(visit, this.#iterator)
  }

  cut (): void {
    this.drop()
  }

  drop (): void {
    if (!this.isOpen) return
    this.end(this.visit!, 'left')
    this.#iterator!.return!()
  }

  stall (): void {
    if (!this.isOpen) return
    this.visit!.readsOn = false
    this.#isStalled = true
  }

  readOn (): void {
    this.#isStalled = false
    this.#goOn()
  }

  async #read (visit: Visit, iterator: AsyncIterator<ReceivedEvent | GapEvent>): Promise<void> {
    try {
      for (;;) {
        const { done, value }: IteratorResult<any> = await iterator.next()
        if (visit.ended !== undefined) return
        if (done) return this.end(visit, 'end')
        if (value.event === 'gap') this.note({ is: 'gap', channel: undefined, ...value.data })
        else this.note({ is: 'event', id: value.id, ...value.data })
        if (this.#isStalled) await new Promise<void>((resolve) => { this.#goOn = resolve })
      }
    } catch (error: any) {
      if (error.code !== 'FST_SSE_LAGGED') throw error
      this.end(visit, 'lagged')
    }
  }
}
