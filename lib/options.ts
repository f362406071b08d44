/** The options of a stream: what they mean, their defaults, and which values they can have. */
import type { FastifyRequest } from 'fastify'
import type { Broker } from './broker.ts'
import type { SseEvent } from './event.ts'
import { describe } from './describe.ts'
import { InvalidOption } from './errors.ts'

/** Milliseconds, or a range from which each connection draws its own, so that not all come at once. */
export type Duration = number | { min: number, max: number }

/**
 * Options of an event stream: of the plugin, of a route (`sse: { … }`), of a call; the nearest wins.
 * A wrong option throws FST_SSE_INVALID_OPTION where it is given.
 */
export interface StreamOptions {
  /**
   * Milliseconds without a write after which a comment is sent, so that proxies do not take the connection for dead
   * (many cut after 30 or 60 s). Default 15_000; at least 1. `false`: none is sent.
   */
  keepAlive?: number | false | undefined
  /**
   * The client's reconnection time, sent first, in milliseconds >= 0. Default: none, clients take their own (browsers
   * about 3 s). With `{ min, max }` each connection draws its own.
   */
  retry?: Duration | undefined
  /**
   * With `true`, a plain EventSource stops for good when the source has completed: the last block carries an ID alone,
   * and the client that comes back with it gets 204 (HTML spec, section 9.2.3). Default `false`: it starts anew.
   */
  finite?: boolean | undefined
  /**
   * Milliseconds that a client may leave written bytes unread before it is cut off, so that a stalled client holds no
   * memory. Default 30_000; at least 1. `false`: it is never cut off.
   */
  writeTimeout?: number | false | undefined
  /**
   * Milliseconds (or a range) after which the stream is ended; an EventSource reconnects. For tokens that must be
   * checked again, or to spread clients over new processes. Default `false`: none.
   */
  maxDuration?: Duration | false | undefined
  /**
   * Called when a source fails after the head of the response was sent; returns the last event to send. Its data is
   * checked if the route declares its event type. Without it the client learns nothing but the end of the stream.
   */
  onError?: ((error: unknown, request: FastifyRequest) => SseEvent | string | undefined | void) | undefined
  /** What an invalid event does: `'fail'` (default) ends the stream as an error of its source; `'drop'` leaves it out. */
  onInvalidEvent?: 'fail' | 'drop' | undefined
}

/** Options of one call of `reply.sse`. */
export interface CallOptions<Event = SseEvent | string> extends StreamOptions {
  /**
   * Events for this client alone, sent before those of the source: a greeting, or an ID that it is to be known by. They
   * have no `id`, as the client would take it for a position in the source.
   */
  first?: readonly Event[] | undefined
}

/** Options of the plugin. */
export interface SseOptions extends StreamOptions {
  /**
   * The query parameter from which the last event ID is taken where there is no `Last-Event-ID` header, as on an
   * EventSource's first request. Default `'lastEventId'`; `false`: none.
   */
  lastEventIdQuery?: string | false | undefined
  /**
   * Milliseconds over which the open streams are ended when the server closes. Default 0: all at once. Clients are
   * told to come back after the server is gone, each at a time of its own.
   */
  drain?: number | undefined
  /** What keeps the channels: default `memoryBroker()`, in this process. Whoever has made it ends it. */
  broker?: Broker | undefined
}

/** Stream options with every default in its place; of these two there is none. */
export type ResolvedOptions = {
  [Name in keyof StreamOptions]-?: Name extends 'retry' | 'onError' ? StreamOptions[Name] | undefined : NonNullable<StreamOptions[Name]>
}

export const DEFAULTS: ResolvedOptions = {
  keepAlive: 15_000,
  retry: undefined,
  finite: false,
  writeTimeout: 30_000,
  maxDuration: false,
  onError: undefined,
  onInvalidEvent: 'fail'
}

/** When the clients of a server that is closing come back, where no `retry` says otherwise. */
export const RETURN: Duration = { min: 1_000, max: 5_000 }

/** Says what was expected instead of a value; undefined where the value is right. */
export type Check = (value: unknown) => string | undefined

const LONGEST_TIMER = 2_147_483_647
const off = (check: Check): Check => (value) => value === false ? undefined : check(value)
const timer: Check = (value) =>
  isInteger(value, 1, LONGEST_TIMER) ? undefined : `an integer of milliseconds from 1 to ${LONGEST_TIMER}, or false`
export const isFunction: Check = (value) => typeof value === 'function' ? undefined : 'a function'
export const isInvalidEventPolicy: Check = (value) => value === 'fail' || value === 'drop' ? undefined : "'fail' or 'drop'"

function duration (least: number): Check {
  return (value) => {
    const { min, max } = typeof value === 'object' && value !== null ? value as { min?: unknown, max?: unknown } : { min: value, max: value }
    return isInteger(min, least, LONGEST_TIMER) && isInteger(max, min, LONGEST_TIMER)
      ? undefined
      : `an integer of milliseconds from ${least} to ${LONGEST_TIMER}, or { min, max } of such`
  }
}

const STREAM_CHECKS: Record<keyof StreamOptions, Check> = {
  keepAlive: off(timer),
  retry: duration(0),
  finite: (value) => typeof value === 'boolean' ? undefined : 'true or false',
  writeTimeout: off(timer),
  maxDuration: off(duration(1)),
  onError: isFunction,
  onInvalidEvent: isInvalidEventPolicy
}

const CALL_CHECKS: Record<keyof CallOptions, Check> = {
  ...STREAM_CHECKS,
  first: (value) => Array.isArray(value) ? undefined : 'an array of events'
}

const PLUGIN_CHECKS: Record<keyof SseOptions, Check> = {
  ...STREAM_CHECKS,
  lastEventIdQuery: off((value) => typeof value === 'string' && value !== '' ? undefined : 'the name of a parameter, or false'),
  drain: (value) => isInteger(value, 0, LONGEST_TIMER) ? undefined : 'an integer of milliseconds >= 0',
  broker: isBroker
}

/** A broker by its shape: it may come from another package. */
export function isBroker (value: unknown): string | undefined {
  const methods: (keyof Broker)[] = ['open', 'append', 'close', 'read', 'listen']
  const fits = methods.every((name) => typeof (value as Partial<Broker> | null)?.[name] === 'function')
  return fits ? undefined : 'a broker, such as memoryBroker() or redisBroker(new Redis())'
}

/**
 * A broker in the place of options has none of their names, and would be passed over.
 * @throws {InvalidOption}
 */
export function checkNoBroker (options: unknown, where: string): void {
  if (isBroker(options) === undefined) throw new InvalidOption(`${where} takes options, such as { broker }, but got a broker`)
}

export function isInteger (value: unknown, least: number, most: number): value is number {
  return Number.isInteger(value) && (value as number) >= least && (value as number) <= most
}

/** @throws {InvalidOption} */
export function checkPluginOptions (options: SseOptions): void {
  checkNoBroker(options, 'fastify-typed-sse')
  // Fastify adds options of its own to what a plugin is registered with.
  const { prefix, logLevel, logSerializers, ...own } = options as SseOptions & Record<'prefix' | 'logLevel' | 'logSerializers', unknown>
  checkOptions(own, PLUGIN_CHECKS, 'the plugin')
}

/**
 * Options of a route over those of the plugin.
 * @throws {InvalidOption}
 */
export function resolveRouteOptions (
  plugin: ResolvedOptions, options: StreamOptions | undefined, route: string
): ResolvedOptions {
  if (options === undefined) return plugin
  checkOptions(options, STREAM_CHECKS, route)
  return override(plugin, options)
}

/**
 * Options of a call over those of its route.
 * @throws {InvalidOption}
 */
export function resolveCallOptions (route: ResolvedOptions, options: CallOptions | undefined): ResolvedOptions {
  if (options === undefined) return route
  checkOptions(options, CALL_CHECKS, 'reply.sse')
  return override(route, options)
}

/** The stream options among checked plugin options, over the defaults. */
export function streamOptions (options: SseOptions): ResolvedOptions {
  return override(DEFAULTS, options)
}

function override (outer: ResolvedOptions, inner: StreamOptions): ResolvedOptions {
  const resolved: Record<string, unknown> = { ...outer }
  for (const name of Object.keys(STREAM_CHECKS) as (keyof StreamOptions)[]) {
    if (inner[name] !== undefined) resolved[name] = inner[name]
  }
  return resolved as unknown as ResolvedOptions
}

/** @throws {InvalidOption} */
export function checkOptions (options: object, checks: Record<string, Check>, where: string): void {
  if (typeof options !== 'object' || options === null) {
    throw new InvalidOption(`the options of ${where} must be an object, got ${describe(options)}`)
  }
  for (const [name, value] of Object.entries(options)) {
    if (!Object.hasOwn(checks, name)) {
      throw new InvalidOption(`${where} has no option '${name}': it has ${Object.keys(checks).join(', ')}`)
    }
    const expected = value === undefined ? undefined : checks[name]!(value)
    if (expected !== undefined) throw new InvalidOption(`'${name}' of ${where} must be ${expected}, got ${describe(value)}`)
  }
}

/** One length of time: of a range a random one, both ends included. */
export function draw (duration: Duration): number {
  if (typeof duration === 'number') return duration
  return duration.min + Math.floor(Math.random() * (duration.max - duration.min + 1))
}
