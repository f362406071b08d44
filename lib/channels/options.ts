/** The options of channels, subscriptions and runs: what they mean, their defaults, and which values they can have. */
import type { History } from '../broker.ts'
import {
  atLeastOne, checkOptions, isBoolean, isFunction, isInvalidEventPolicy, isObject, isSignal, milliseconds, off, type Check
} from '../checks.ts'
import { describe } from '../describe.ts'
import { InvalidLastEventId, InvalidOption } from '../errors.ts'
import { lastEventIdFault } from '../last-event-id.ts'
import type { Schema } from '../schema.ts'
import type { OnLag } from './cursor.ts'
import { GAP, type ReceivedEvent } from './message.ts'

export type Events = Record<string, Schema>

/** @inline */
type State<Event> = AsyncIterable<Event> | Iterable<Event>

/** Options of a channel. A wrong one throws FST_SSE_INVALID_OPTION, a bad schema FST_SSE_INVALID_SCHEMA. */
export interface ChannelOptions<Received = ReceivedEvent, Event = unknown> {
  /**
   * Event type to the schema of its data, as in a route's `schema.events`. Default: any event may be published. The type
   * 'gap' is the channel's own.
   */
  events?: Record<string, object> | undefined
  /**
   * How much is retained, for those who come back: whichever limit is reached first. Defaults: `events` 1_000, `bytes`
   * 4_194_304, `age` 3_600_000 ms. Each at least 1; `age: false`: events do not grow old.
   */
  history?: Partial<History> | undefined
  /**
   * The state that the events change. Who begins to read without a position, or after a gap, gets these events first
   * (without IDs), then what was published since the moment before the function was called. `signal` aborts when the
   * reader has gone. Default: none.
   */
  snapshot?: ((context: { signal: AbortSignal }) => State<Event> | Promise<State<Event>>) | undefined
  /**
   * What happens to a reader that has fallen so far behind that its next event is no longer retained. `'disconnect'`
   * (default): its stream ends, the client comes back, and is told of the gap; a `for await` throws FST_SSE_LAGGED. `'gap'`:
   * it is told, and goes on from the earliest event. `'latest'`: it goes on with the newest event of every `key`.
   */
  onLag?: OnLag | undefined
  /**
   * What an event is about, for `onLag: 'latest'`, which needs it, and nothing else takes it: a newer event with the same key
   * stands for the older one. Undefined: no other event stands for this one. Synchronous.
   */
  key?: ((event: Received) => unknown) | undefined
  /**
   * Whether events are compressed (gzip, or zstd where Node has it) for clients that accept it: once, however many they
   * are. It pays for events of some hundred bytes and more. Secrets and what others may choose should not be in one event,
   * as its size tells of both. Default `false`. A stream's own option `compress` goes before it.
   */
  compress?: boolean | undefined
}

export interface ResolvedChannelOptions extends Pick<ChannelOptions, 'snapshot' | 'key'> {
  events: Events | undefined
  history: History
  onLag: OnLag
  compress: boolean
}

/** How a run has ended. */
export interface RunEnd {
  /**
   * 'done': its source has completed. 'stopped': by `stop()`, or as the app has closed. 'failed': see `error`. 'elsewhere':
   * another process, or another hub, records it.
   */
  state: 'done' | 'stopped' | 'failed' | 'elsewhere'
  /** What has failed, where the state is 'failed'. FST_SSE_RUN_LOST: others have ended it. */
  error?: unknown
}

/** Options of a run. A wrong one throws FST_SSE_INVALID_OPTION, a bad schema FST_SSE_INVALID_SCHEMA. */
export interface RunOptions<Event = unknown> {
  /** As those of a channel. Default: the source may yield any event. */
  events?: Record<string, object> | undefined
  /** As that of a channel. Defaults: `events` 10_000, `bytes` 16_777_216, `age` false. */
  history?: Partial<History> | undefined
  /** Milliseconds after its end for which a run can still be read. Default 300_000; from 1 to 2_061_083_647. */
  forgetAfter?: number | undefined
  /**
   * Milliseconds without a sign of life after which the process of a run is taken for dead, and the run is ended for its
   * readers. Default 15_000; from 100 to 2_061_083_647. Longer than its event loop is ever held up.
   */
  lease?: number | undefined
  /** The last event of a run whose process has died. Default: its readers learn nothing but the end. */
  will?: Event | undefined
  /**
   * Called when the run ends, with how it has; returns the last event to record, or nothing. Without it readers learn nothing
   * but the end. Synchronous. Not called for a run that another hub records.
   */
  onEnd?: ((end: RunEnd) => Event | undefined | void) | undefined
  /** What an invalid event does: `'fail'` (default) ends the run as an error of its source; `'drop'` leaves it out. */
  onInvalidEvent?: 'fail' | 'drop' | undefined
}

export interface ResolvedRunOptions extends Pick<RunOptions, 'onEnd' | 'will'> {
  channel: ResolvedChannelOptions
  forgetAfter: number
  lease: number
  onInvalidEvent: 'fail' | 'drop'
}

/** A day less than Node can time. */
const LONGEST = 2_061_083_647

const HISTORY: History = { events: 1_000, bytes: 4_194_304, age: 3_600_000 }
const RUN_HISTORY: History = { events: 10_000, bytes: 16_777_216, age: false }

const HISTORY_CHECKS: Record<keyof History, Check> = {
  events: atLeastOne,
  bytes: atLeastOne,
  age: off((value) => atLeastOne(value) && 'an integer of milliseconds >= 1')
}

const CHANNEL_CHECKS: Record<keyof ChannelOptions, Check> = {
  events: isObject,
  history: isObject,
  snapshot: isFunction,
  onLag: (value) => ['disconnect', 'gap', 'latest'].includes(value as string) ? undefined : "'disconnect', 'gap' or 'latest'",
  key: isFunction,
  compress: isBoolean
}

const RUN_CHECKS: Record<keyof RunOptions, Check> = {
  events: isObject,
  history: isObject,
  forgetAfter: milliseconds(1, LONGEST),
  lease: milliseconds(100, LONGEST),
  // It is checked as an event.
  will: () => undefined,
  onEnd: isFunction,
  onInvalidEvent: isInvalidEventPolicy
}

const SUBSCRIBE_CHECKS: Record<string, Check> = {
  after: (value) => typeof value === 'string' ? undefined : "an event's ID or 'earliest'",
  filter: isFunction,
  signal: isSignal
}

/** @throws {InvalidOption} */
export function checkChannelOptions (options: ChannelOptions, name: string): void {
  checkOptions(options, CHANNEL_CHECKS, `channel '${name}'`)
  checkHistory(options.history, `channel '${name}'`)
}

/** @throws {InvalidOption} */
export function resolveChannelOptions (options: ChannelOptions, name: string): ResolvedChannelOptions {
  const where = `channel '${name}'`
  checkChannelOptions(options, name)
  const { events, history, snapshot, onLag = 'disconnect', key, compress = false } = options
  if ((onLag === 'latest') !== (key !== undefined)) {
    throw new InvalidOption(`${where} needs both onLag: 'latest' and 'key', or neither`)
  }
  return { events: resolveEvents(events, where), history: resolveHistory(history, HISTORY), snapshot, onLag, key, compress }
}

/** @throws {InvalidOption} */
export function resolveRunOptions (options: RunOptions, key: string): ResolvedRunOptions {
  const where = `run '${key}'`
  checkOptions(options, RUN_CHECKS, where)
  checkHistory(options.history, where)
  const { events, history, forgetAfter = 300_000, lease = 15_000, will, onEnd, onInvalidEvent = 'fail' } = options
  return {
    channel: {
      events: resolveEvents(events, where),
      history: resolveHistory(history, RUN_HISTORY),
      snapshot: undefined,
      onLag: 'disconnect',
      key: undefined,
      compress: false
    },
    forgetAfter,
    lease,
    will,
    onEnd,
    onInvalidEvent
  }
}

/**
 * `after` may come from a client, as a last event ID does, and is checked like one.
 * @throws {InvalidOption | InvalidLastEventId}
 */
export function checkSubscribeOptions (options: { after?: string | undefined }, where: string): void {
  checkOptions(options, SUBSCRIBE_CHECKS, where)
  const fault = options.after === undefined ? undefined : lastEventIdFault(options.after)
  if (fault !== undefined) throw new InvalidLastEventId(fault)
}

/** @throws {InvalidOption} */
export function checkName (name: unknown, what: string): asserts name is string {
  if (typeof name === 'string' && name !== '' && name.isWellFormed()) return
  throw new InvalidOption(`${what} must be a string that is not empty, got ${describe(name)}`)
}

function resolveEvents (events: ChannelOptions['events'], where: string): Events | undefined {
  if (events !== undefined && Object.hasOwn(events, GAP)) {
    throw new InvalidOption(`${where} cannot have an event type '${GAP}': by it a channel tells its readers of a gap`)
  }
  return events as Events | undefined
}

function checkHistory (history: Partial<History> = {}, where: string): void {
  checkOptions(history, HISTORY_CHECKS, `the history of ${where}`)
}

function resolveHistory (history: Partial<History> = {}, defaults: History): History {
  const { events = defaults.events, bytes = defaults.bytes, age = defaults.age } = history
  return { events, bytes, age }
}
