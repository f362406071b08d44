/**
 * What others may see of streams: each that is open, and what happens to it, by node:diagnostics_channel. Where nobody has
 * subscribed, telling costs a look at whether somebody has.
 */
import type { FastifyRequest } from 'fastify'
import { channel, type Channel } from 'node:diagnostics_channel'
import type { EndReason, RefusalReason } from './stats.ts'

/** An open stream, as `app.sse.connections` shows it. */
export interface SseConnection {
  /** The request that it answers. */
  readonly request: FastifyRequest
  /** When it was opened. */
  readonly openedAt: Date
  /** Events written so far. */
  readonly events: number
  /** Bytes written so far; compressed ones as they are sent. */
  readonly bytes: number
  /** Whether the client leaves so much unread that its source has been paused. */
  readonly behind: boolean
  /**
   * Ends the stream after what was yielded so far; an EventSource will reconnect, and is answered as any new request. One
   * that has ended already is left alone.
   * @param reason by which it is counted and logged. Default 'ended'
   * @throws FST_SSE_INVALID_OPTION where it is no reason that an application can have
   */
  end (reason?: 'ended' | 'revoked'): void
}

/**
 * What is published on each channel of node:diagnostics_channel: the `connection` or the `request` that it is about, and why.
 * `ms` is how long the stream was open.
 */
export interface SseDiagnostics {
  /** A stream was opened. */
  'fastify-typed-sse:open': { connection: SseConnection }
  /** Its response is gone; all of it is known. `error` is there where the source has failed, or `revalidate` has. */
  'fastify-typed-sse:close': { connection: SseConnection, reason: EndReason, ms: number, error?: unknown }
  /** A request was sent away. */
  'fastify-typed-sse:refuse': { request: FastifyRequest, reason: RefusalReason }
  /** An invalid event was left out (`onInvalidEvent: 'drop'`). */
  'fastify-typed-sse:drop': { connection: SseConnection, error?: unknown }
  /** A reader of channels goes on from its last event ID, with everything that it has missed. */
  'fastify-typed-sse:replay': { connection: SseConnection }
  /** A reader of channels was told that events are lost to it. */
  'fastify-typed-sse:gap': { connection: SseConnection }
  /** A reader of channels has fallen behind, and goes on by `onLag: 'gap'` or `'latest'`. */
  'fastify-typed-sse:lag': { connection: SseConnection }
}

type Name = keyof SseDiagnostics

const NAMES: readonly Name[] = [
  'fastify-typed-sse:open', 'fastify-typed-sse:close', 'fastify-typed-sse:refuse', 'fastify-typed-sse:drop',
  'fastify-typed-sse:replay', 'fastify-typed-sse:gap', 'fastify-typed-sse:lag'
]
const channels = Object.fromEntries(NAMES.map((name) => [name, channel(name)])) as Record<Name, Channel>

/** Tells it to those who have subscribed, if anybody has. */
export function tell<Told extends Name> (name: Told, message: () => SseDiagnostics[Told]): void {
  if (channels[name].hasSubscribers) channels[name].publish(message())
}
