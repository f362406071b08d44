/** An operator for sources: many values that come one by one become few arrays. Knows nothing of events. */
import { atLeastOne, checkOptions, milliseconds, type Check } from './checks.ts'
import { describe } from './describe.ts'
import { InvalidOption, InvalidSource } from './errors.ts'
import type { Failure } from './log.ts'
import { checkStep, isThenable, openSource, type Source } from './source.ts'
import { EVENTS_PER_TURN, nextTurn } from './turns.ts'

/** @inline */
interface Due {
  /** It has this many items; at least 1. Default: any number. */
  count?: number | undefined
  /** So many milliseconds have passed since its first item came; at least 1. Default: any length of time. */
  ms?: number | undefined
}

/**
 * When a batch is due: with `count` items, or `ms` milliseconds after its first one, whichever comes first. Each is an
 * integer, at least 1; one of them must be there. A wrong option throws FST_SSE_INVALID_OPTION.
 */
export type BatchOptions = Due & ({ count: number } | { ms: number })

const CHECKS: Record<keyof Due, Check> = { count: atLeastOne, ms: milliseconds(1) }

/**
 * Gathers what a source yields: `for await (const prices of batch(source, { count: 50, ms: 100 })) …`. What is left at the
 * end comes as a last, smaller batch; a failure of the source comes after what was gathered before it. No batch is empty.
 *
 * The source is read ahead until the batch is due, and no further before that is taken. When whoever reads the batches
 * stops (`break`, `return()`), the source is let go of at once, and what was gathered goes with it.
 * @param source an async iterable, an iterable, a Node or web stream
 * @throws FST_SSE_INVALID_OPTION, FST_SSE_INVALID_SOURCE
 */
export function batch<Item> (
  source: AsyncIterable<Item> | Iterable<Item | PromiseLike<Item>>, options: BatchOptions
): AsyncIterableIterator<Item[]> {
  checkOptions(options, CHECKS, 'batch')
  if (options.count === undefined && options.ms === undefined) throw new InvalidOption("batch needs 'count', 'ms' or both")
  if (!isIterable(source)) {
    throw new InvalidSource(`batch got ${describe(source)}; give it an async iterable, an iterable, a Node or web stream`)
  }
  return new Batches<Item>(openSource(source, undefined), options)
}

/** No function, as `reply.sse` takes it: there is no last event ID to give to it. */
function isIterable (source: unknown): boolean {
  if (typeof source !== 'object' || source === null) return false
  return [Symbol.asyncIterator, Symbol.iterator, 'getReader'].some((name) => typeof (source as any)[name] === 'function')
}

/** A `next()` that waits for its batch. */
interface Waiter<Item> {
  resolve (result: IteratorResult<Item[]>): void
  reject (error: unknown): void
}

class Batches<Item> implements AsyncIterableIterator<Item[]> {
  readonly #source: Source
  readonly #count: number
  readonly #ms: number | undefined
  readonly #waiters: Waiter<Item>[] = []
  /** The batch that is being gathered. */
  #items: Item[] = []
  #isDue = false
  /** Keeps the process alive, as any timer of the application, lest a batch be lost; who stops reading stops it. */
  #timer: NodeJS.Timeout | undefined
  #pulling = false
  #pulled = 0
  #done = false
  #failure: Failure | undefined

  constructor (source: Source, { count = Infinity, ms }: Due) {
    this.#source = source
    this.#count = count
    this.#ms = ms
  }

  next (): Promise<IteratorResult<Item[]>> {
    return new Promise((resolve, reject) => {
      this.#waiters.push({ resolve, reject })
      this.#serve()
      if (!this.#pulling) this.#pull()
    })
  }

  /** Never waits, not even for a `next()` that is pending: that one is told that this is the end. */
  async return (): Promise<IteratorResult<Item[]>> {
    this.#stop()
    return { done: true, value: undefined }
  }

  async throw (error: unknown): Promise<IteratorResult<Item[]>> {
    this.#stop()
    throw error
  }

  [Symbol.asyncIterator] (): this {
    return this
  }

  /** Runs until the batch is due and nobody asks for it, or the source has ended. Never rejects. */
  async #pull (): Promise<void> {
    this.#pulling = true
    while (!this.#done && !this.#isDue) {
      try {
        const next = this.#source.next()
        const step = checkStep(isThenable(next) ? await next : next)
        if (step.done) this.#end()
        else this.#add(step.value as Item)
      } catch (error) {
        this.#end({ error })
      }
      if (++this.#pulled % EVENTS_PER_TURN === 0) await nextTurn()
    }
    this.#pulling = false
  }

  #add (item: Item): void {
    if (this.#done) return
    this.#items.push(item)
    if (this.#items.length >= this.#count) this.#makeDue()
    else if (this.#items.length === 1 && this.#ms !== undefined) this.#timer = setTimeout(() => this.#makeDue(), this.#ms)
  }

  #makeDue (): void {
    clearTimeout(this.#timer)
    this.#isDue = true
    this.#serve()
  }

  /** Gives what there is to those who wait, in the order in which they came. */
  #serve (): void {
    while (this.#waiters.length > 0 && (this.#isDue || this.#done)) {
      const { resolve, reject } = this.#waiters.shift()!
      const items = this.#items
      const failure = this.#failure
      if (items.length > 0) {
        this.#items = []
        this.#isDue = false
        resolve({ done: false, value: items })
      } else if (failure !== undefined) {
        this.#failure = undefined
        reject(failure.error)
      } else {
        resolve({ done: true, value: undefined })
      }
    }
  }

  /** The source has completed, or failed. */
  #end (failure?: Failure): void {
    if (this.#done) return
    this.#done = true
    this.#failure = failure
    clearTimeout(this.#timer)
    this.#serve()
  }

  #stop (): void {
    const settled = this.#done
    this.#done = true
    this.#failure = undefined
    this.#items = []
    clearTimeout(this.#timer)
    if (!settled) this.#source.stop(false)
    this.#serve()
  }
}
