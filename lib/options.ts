/** The options of a stream: what they mean, their defaults, and which values they can have. */
import type { FastifyRequest } from 'fastify'
import type { Broker } from './broker.ts'
import {
  atLeastOne, checkNoBroker, checkOptions, duration, isBoolean, isBroker, isFunction, isInvalidEventPolicy, isRegistry,
  milliseconds, off, type Check
} from './checks.ts'
import { describe } from './describe.ts'
import type { Duration } from './durations.ts'
import { InvalidOption } from './errors.ts'
import type { SseEvent } from './event.ts'
import type { MetricsRegistry } from './metrics.ts'

/**
 * Options of an event stream: of the plugin, of a route (`sse: { … }`), of a call; the nearest wins.
 * A wrong option throws FST_SSE_INVALID_OPTION where it is given.
 */
export interface StreamOptions {
  /**
   * Milliseconds without a write after which a comment is sent at the latest (HTML spec, section 9.2.7), so that proxies do
   * not take the connection for dead (many cut after 30 or 60 s). Where other connections are due, up to 1/64 of that earlier,
   * together with theirs.
   * Default 15_000; at least 1. `false`: none is sent, and a client that vanishes from a stream without events may stay
   * unnoticed.
   */
  keepAlive?: number | false | undefined
  /**
   * The client's reconnection time (HTML spec, section 9.2.6), sent first, in milliseconds >= 0. Default: none, clients take
   * their own (browsers about 3 s). With `{ min, max }` each connection draws its own.
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
   * Whether the client may still have the stream: called every `revalidateEvery` ms. Unless it returns (or resolves to)
   * `true` before it would be called again, the stream is ended as 'revoked'; an EventSource comes back, and is answered
   * as a new request. Default `false`: nobody asks.
   */
  revalidate?: ((request: FastifyRequest) => boolean | Promise<boolean>) | false | undefined
  /** Milliseconds from one call of `revalidate` to the next; the first comes at random within them. Default 60_000. */
  revalidateEvery?: number | undefined
  /**
   * Whether events are compressed (gzip, RFC 1952, or zstd, RFC 8878, where Node has it) for clients that accept it. Default:
   * for a channel what its own option `compress` says, else `false`.
   */
  compress?: boolean | undefined
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
  /**
   * The most streams that may be open at once. Who comes when there is no room is refused: an EventSource softly (200, a
   * reconnection time, the end), as it would give up for good on anything else; others with 503 and `retry-after`.
   * Default `false`: any number. At least 1.
   */
  maxConnections?: number | false | undefined
  /** The same for each client, where others are answered with 429. Default `false`. At least 1. */
  maxConnectionsPerClient?: number | false | undefined
  /**
   * Who counts as one client for `maxConnectionsPerClient`; undefined: nobody, so there is no limit. Synchronous. Default:
   * `request.ip` (behind a proxy it needs Fastify's option `trustProxy`).
   */
  clientKey?: ((request: FastifyRequest) => string | number | undefined) | undefined
  /**
   * A Prometheus registry of the package prom-client, to which the counters are added. One registry can have those of one
   * app. Default: none.
   */
  metrics?: MetricsRegistry | undefined
  /** What keeps the channels: default `memoryBroker()`, in this process. Whoever has made it ends it. */
  broker?: Broker | undefined
}

/** Stream options with every default in its place; of these three there is none. */
export type ResolvedOptions = {
  [Name in keyof StreamOptions]-?: Name extends 'retry' | 'compress' | 'onError' ? StreamOptions[Name] | undefined : NonNullable<StreamOptions[Name]>
}

export const DEFAULTS: ResolvedOptions = {
  keepAlive: 15_000,
  retry: undefined,
  finite: false,
  writeTimeout: 30_000,
  maxDuration: false,
  revalidate: false,
  revalidateEvery: 60_000,
  compress: undefined,
  onError: undefined,
  onInvalidEvent: 'fail'
}

const STREAM_CHECKS: Record<keyof StreamOptions, Check> = {
  keepAlive: off(milliseconds(1)),
  retry: duration(0),
  finite: isBoolean,
  writeTimeout: off(milliseconds(1)),
  maxDuration: off(duration(1)),
  revalidate: off(isFunction),
  revalidateEvery: milliseconds(1),
  compress: isBoolean,
  onError: isFunction,
  onInvalidEvent: isInvalidEventPolicy
}

const CALL_CHECKS: Record<keyof CallOptions, Check> = {
  ...STREAM_CHECKS,
  first: (value) => Array.isArray(value) ? undefined : 'an array of events'
}

const PLUGIN_CHECKS: Record<keyof SseOptions, Check> = {
  ...STREAM_CHECKS,
  lastEventIdQuery: off((value) => typeof value === 'string' && value !== '' ? undefined : 'the name of a parameter'),
  drain: milliseconds(0),
  maxConnections: off(atLeastOne),
  maxConnectionsPerClient: off(atLeastOne),
  clientKey: isFunction,
  metrics: isRegistry,
  broker: isBroker
}

/** @throws {InvalidOption} */
export function checkPluginOptions (options: SseOptions): void {
  checkNoBroker(options, 'fastify-typed-sse')
  // Fastify adds options of its own to what a plugin is registered with.
  const { prefix, logLevel, logSerializers, ...own } = options as SseOptions & Record<'prefix' | 'logLevel' | 'logSerializers', unknown>
  checkOptions(own, PLUGIN_CHECKS, 'the plugin')
  if (own.clientKey !== undefined && own.maxConnectionsPerClient === undefined) {
    throw new InvalidOption("'clientKey' of the plugin needs 'maxConnectionsPerClient', or it is never called")
  }
}

/**
 * Options of a route over those of the plugin.
 * @throws {InvalidOption}
 */
export function resolveRouteOptions (
  plugin: ResolvedOptions, options: StreamOptions | undefined, route: string
): ResolvedOptions {
  if (options === undefined) return plugin
  if (typeof options === 'boolean') {
    throw new InvalidOption(`the options of ${route} must be an object, got ${describe(options)}: leave 'sse' out, as any route has reply.sse`)
  }
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
