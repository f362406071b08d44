/** `reply.sse`: a request gets a stream, or is told why not. */
import type { FastifyReply } from 'fastify'
import { NoBody } from './body.ts'
import { isSubscribable, kSubscribe, type Subscription } from './channels/subscription.ts'
import { Connection, type Shared } from './connection.ts'
import { encodeFirstEvent } from './encoder.ts'
import { AlreadySent, InvalidLastEventId, InvalidSource, ShuttingDown, type SseErrorCode } from './errors.ts'
import { Feed } from './feed.ts'
import { follow } from './follow.ts'
import { retryLine } from './frame.ts'
import type { LastEventId } from './last-event-id.ts'
import { asError, logError } from './log.ts'
import { onAbort } from './on-abort.ts'
import { draw, resolveCallOptions, RETURN, type CallOptions, type ResolvedOptions } from './options.ts'
import type { Payloads } from './payload.ts'
import { pump } from './pump.ts'
import { emitFinish, isGone } from './response.ts'
import type { StreamRoute, StreamRoutes } from './route.ts'
import { discardSource, letGo, openSource } from './source.ts'
import { kStream, setDefaultHeaders, startStream, type Producer, type StreamReply } from './start.ts'

/** The parts of one registered plugin that its decorators share. */
export interface Plugin extends Shared {
  readonly routes: StreamRoutes
  readonly lastEventIdOf: (request: FastifyReply['request']) => LastEventId
  closing: boolean
}

export function createReplySse (plugin: Plugin) {
  return function sse (this: FastifyReply, source: unknown, callOptions?: CallOptions): FastifyReply {
    const reply = this as StreamReply
    const { options, payloads, first } = prepare(plugin, reply, source, callOptions)
    const lastEventId = plugin.lastEventIdOf(reply.request)
    const answer = answerWithoutStream(plugin, reply, options, lastEventId)
    if (answer !== undefined) {
      if (!isSubscribable(source)) discardSource(source)
      answer()
      return reply
    }
    const id = lastEventId.is === 'id' ? lastEventId.id : undefined
    const produce = isSubscribable(source) ? openSubscription(source[kSubscribe](), payloads, id) : openIterable(source, id)
    const connection = new Connection(reply.request, reply.raw, options, plugin, first)
    const feed = new Feed(connection, payloads)
    startStream(reply, connection, produce(connection, feed), feed, (error) => {
      if (isAway(error)) refuse(plugin, reply, options, error)
      else reply.send(asError(error))
    })
    return reply
  }
}

type Produce = (connection: Connection, feed: Feed) => Producer

/** @throws {InvalidSource} and what a source function throws */
function openIterable (iterable: unknown, lastEventId: string | undefined): Produce {
  const source = openSource(iterable, lastEventId)
  return (connection, feed) => ({
    start () {
      connection.writeOpening()
      pump(source, connection, feed)
    },
    stop: () => source.stop(false)
  })
}

/** @throws {InvalidSource} where the channels may send what the route does not declare */
function openSubscription (subscription: Subscription, payloads: Payloads | undefined, lastEventId: string | undefined): Produce {
  if (payloads !== undefined) checkTypes(subscription.types, payloads)
  return (connection, feed) => ({
    start () {
      const forget = onAbort(subscription.signal, () => connection.end())
      if (connection.reason === undefined) return follow(subscription.read(lastEventId), connection, feed, forget)
    },
    stop () {}
  })
}

function checkTypes (types: ReadonlySet<string> | undefined, payloads: Payloads): void {
  if (types === undefined) {
    throw new InvalidSource("the route has schema.events, so what it is given needs 'events' of its own: " +
      'app.sse.channel(name, { events })')
  }
  for (const type of types) {
    if (!payloads.has(type)) throw new InvalidSource(`schema.events has no event type '${type || 'message'}', which the channel has`)
  }
}

/** @throws {AlreadySent | InvalidOption | InvalidSchema | InvalidEvent} having let go of the source */
function prepare (
  plugin: Plugin, reply: StreamReply, source: unknown, callOptions: CallOptions | undefined
): StreamRoute & { first: string[] } {
  try {
    if (reply[kStream] !== null) throw new AlreadySent('it was called already for this request')
    if (reply.sent || reply.raw.headersSent) throw new AlreadySent('call it instead of reply.send, not after it')
    const { options, payloads } = plugin.routes.of(reply.request)
    const resolved = resolveCallOptions(options, callOptions)
    return { options: resolved, payloads, first: (callOptions?.first ?? []).map((event) => encodeFirstEvent(event, payloads)) }
  } catch (error) {
    if (!isSubscribable(source)) letGo(source)
    throw error
  }
}

/** What answers a request that gets no stream; undefined where it gets one. */
function answerWithoutStream (
  plugin: Plugin, reply: FastifyReply, options: ResolvedOptions, lastEventId: LastEventId
): (() => void) | undefined {
  if (isGone(reply.raw)) return () => emitFinish(reply.raw)
  if (lastEventId.is === 'hostile') return () => { reply.send(new InvalidLastEventId(lastEventId.fault)) }
  // "Clients will reconnect if the connection is closed; a client can be told to stop reconnecting using the HTTP 204
  // No Content response code." A shared cache must not tell others.
  if (lastEventId.is === 'finished') return () => { reply.code(204).header('cache-control', 'no-store').send() }
  if (plugin.closing) return () => refuse(plugin, reply, options, new ShuttingDown())
  if (reply.request.method === 'HEAD') return () => { sendHead(reply) }
  return undefined
}

function sendHead (reply: FastifyReply): void {
  setDefaultHeaders(reply)
  reply.send(new NoBody())
}

/**
 * An EventSource that is answered with anything but 200 gives up for ever, so it gets an empty stream and a time to come
 * back; whoever does not ask for an event stream by name gets 503.
 */
function refuse (plugin: Plugin, reply: FastifyReply, options: ResolvedOptions, error: Error): void {
  plugin.stats.refused++
  const ms = draw(options.retry ?? RETURN)
  if (/\btext\/event-stream\b/i.test(reply.request.headers.accept ?? '')) {
    // Of an error Fastify's handler tells nobody here.
    if (!(error instanceof ShuttingDown)) logError(reply.log, 'warn', error, 'event stream refused')
    setDefaultHeaders(reply)
    reply.send(retryLine(ms))
  } else {
    reply.header('retry-after', Math.ceil(ms / 1_000)).send(error)
  }
}

/** The engine of the channels is out of reach, and should be back. The error may be of another package, or anything. */
function isAway (error: unknown): error is Error {
  try {
    return error instanceof Error && AWAY.includes((error as { code?: unknown }).code)
  } catch {
    return false
  }
}

const AWAY: unknown[] = ['FST_SSE_BROKER_UNAVAILABLE', 'FST_SSE_OUTCOME_UNKNOWN'] satisfies SseErrorCode[]
