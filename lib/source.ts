/**
 * Whatever a handler gives to `reply.sse` becomes a Source: pulled one value at a time, and stopped at once, whether
 * or not a value is awaited. Knows iteration, and nothing of events, bytes or sockets.
 */
import { EventEmitter } from 'node:events'
import { Readable } from 'node:stream'
import type { ReadableStream } from 'node:stream/web'
import { describe, describeData } from './describe.ts'
import { InvalidSource } from './errors.ts'

/** What a source function is given. */
export interface SseContext {
  /** Aborted the moment that the stream has ended, for whatever reason: pass it to fetch, timers, `events.on`. */
  signal: AbortSignal
  /** The client's last event ID, as `request.lastEventId` has it. */
  lastEventId: string | undefined
}

/** Values, pulled. */
export interface Source {
  /** The next step: at once where the source is synchronous, else in a promise. */
  next (): IteratorResult<unknown> | Promise<IteratorResult<unknown>>
  /**
   * Ends the source without waiting for anything; how it takes that is nobody's concern any more.
   * @param settled it has completed or failed by itself: only its signal is still to be told
   */
  stop (settled: boolean): void
}

/** The same, of whatever kind the source is. */
interface Steps {
  next: Source['next']
  stop (): void
}

const KINDS = 'an async iterable, an iterable, a Node or web stream'

const HOW_TO = `give it ${KINDS}, or a function such as async function* ({ signal, lastEventId }) { yield { data: … } }`

/**
 * Opens a source. A function is called here; nothing else runs before the first `next()`.
 * @throws {InvalidSource} with the right call in its message; and what a source function throws
 */
export function openSource (source: unknown, lastEventId: string | undefined): Source {
  const controller = typeof source === 'function' ? new AbortController() : undefined
  const steps = controller === undefined ? iterate(source) : call(source as SourceFunction, controller, lastEventId)
  let stopped = false
  return {
    next () {
      const step = steps.next()
      // A synchronous source that has brought about its own end could not be stopped while it ran.
      if (stopped && !isThenable(step) && !step?.done) steps.stop()
      return step
    },
    stop (settled) {
      stopped = true
      // First the signal: it wakes a generator that waits, so that its return() need not wait behind that.
      controller?.abort()
      if (!settled) steps.stop()
    }
  }
}

/**
 * A step that a source has given.
 * @throws {TypeError} where it is no iterator result, by which a for loop fails as well
 */
export function checkStep (step: IteratorResult<unknown>): IteratorResult<unknown> {
  if (!isObject(step)) throw new TypeError(`next() gave ${describe(step)}, which is no iterator result`)
  return step
}

type SourceFunction = (context: SseContext) => unknown

function call (source: SourceFunction, controller: AbortController, lastEventId: string | undefined): Steps {
  try {
    const returned = source({ signal: controller.signal, lastEventId })
    if (isThenable(returned)) throw refusedPromise(returned)
    return iterate(returned, true)
  } catch (error) {
    controller.abort()
    throw error
  }
}

/**
 * Lets go of a source that will never be read: no step of it runs, what it holds is released.
 * A function is not called.
 * @throws {InvalidSource} where it is no source
 */
export function discardSource (source: unknown): void {
  if (typeof source !== 'function') iterate(source).stop()
}

/** The same, of whatever it is. */
export function letGo (source: unknown): void {
  quietly(() => discardSource(source))
}

/** @param isReturned by a source function */
function iterate (source: unknown, isReturned = false): Steps {
  if (source instanceof Readable) return fromNodeStream(source)
  if (isWebStream(source)) return fromWebStream(source)
  // Bytes could be iterated over, one by one.
  if (isObject(source) && !ArrayBuffer.isView(source)) {
    const asyncIterable = source as Partial<AsyncIterable<unknown>>
    if (typeof asyncIterable[Symbol.asyncIterator] === 'function') {
      return fromAsyncIterator(asyncIterable[Symbol.asyncIterator]!())
    }
    const iterable = source as Partial<Iterable<unknown>>
    if (typeof iterable[Symbol.iterator] === 'function') return fromIterator(iterable[Symbol.iterator]!())
  }
  if (isThenable(source)) disown(source)
  throw new InvalidSource(isReturned
    ? `the source function returned ${describeData(source)}: make it a generator (async function *, with the star), or return ${KINDS}`
    : `${hint(source)}${HOW_TO}`)
}

function refusedPromise (promise: PromiseLike<unknown>) {
  disown(promise)
  return new InvalidSource('the source function returned a promise: make it a generator (async function *, with the star), ' +
    'or await before you call reply.sse')
}

function isObject (value: unknown): value is object {
  return typeof value === 'object' && value !== null
}

function isWebStream (source: unknown): source is ReadableStream {
  return isObject(source) && typeof (source as Partial<ReadableStream>).getReader === 'function'
}

function hint (source: unknown): string {
  if (isThenable(source)) return 'got a promise; await it first, or '
  if (typeof source === 'string') return 'got a string; for a channel give app.sse.channel(name), for one event put it into an array, or '
  if (source instanceof EventEmitter) return 'got an EventEmitter; iterate over on(emitter, name, { signal }) of node:events, or '
  if (isObject(source) && ['event', 'data', 'raw'].some((name) => name in source)) return 'got one event; put it into an array, or '
  return `got ${describeData(source)}; `
}

function fromAsyncIterator (iterator: AsyncIterator<unknown>): Steps {
  return {
    next: () => iterator.next(),
    // A return() waits behind a pending next(), and both may reject or never settle: nobody waits for either.
    stop: () => quietly(() => iterator.return?.())
  }
}

function fromIterator (iterator: Iterator<unknown>): Steps {
  const stop = () => quietly(() => iterator.return?.())
  return {
    next () {
      const step = iterator.next()
      // As `for await` does: the values of a synchronous iterable may be promises.
      return isThenable(step.value) ? settle(step, stop) : step
    },
    stop
  }
}

/** Whose promise rejects has not failed itself, and is still to be ended. */
async function settle (step: IteratorResult<unknown>, stop: () => void): Promise<IteratorResult<unknown>> {
  try {
    return { done: step.done, value: await step.value } as IteratorResult<unknown>
  } catch (error) {
    stop()
    throw error
  }
}

/** Destroyed directly: its iterator's return() would wait until an idle stream has its next chunk. */
function fromNodeStream (stream: Readable): Steps {
  // Opened at the first step, as it takes the stream's chunks from then on.
  let iterator: AsyncIterator<unknown> | undefined
  return {
    next: () => (iterator ??= stream[Symbol.asyncIterator]()).next(),
    stop: () => quietly(() => stream.on('error', ignore).destroy())
  }
}

/** Cancelled directly, for the same reason: that settles a pending read(). */
function fromWebStream (stream: ReadableStream): Steps {
  if (stream.locked) throw new InvalidSource('the web stream is locked: somebody else reads it already')
  const reader = stream.getReader()
  return {
    next: () => reader.read() as Promise<IteratorResult<unknown>>,
    stop: () => quietly(() => reader.cancel())
  }
}

function quietly (end: () => unknown): void {
  try {
    const ended = end()
    if (isThenable(ended)) disown(ended)
  } catch {}
}

export function isThenable (value: unknown): value is PromiseLike<unknown> {
  return (isObject(value) || typeof value === 'function') && typeof (value as Partial<PromiseLike<unknown>>).then === 'function'
}

/** What it rejects with is nobody's concern; unhandled, it would end the process. */
export function disown (promise: PromiseLike<unknown>): void {
  promise.then(ignore, ignore)
}

/**
 * What a function of the application has answered, where the answer is needed at once.
 * @throws {TypeError} with the message where it is a promise
 */
export function atOnce<Answer> (answer: Answer, message: string): Answer {
  if (!isThenable(answer)) return answer
  disown(answer)
  throw new TypeError(message)
}

function ignore () {}
