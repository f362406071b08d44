/** `reply.sse`: a request gets a stream, or is told why not. */
import type { FastifyReply } from 'fastify'
import type { Admission, Place } from './admission.ts'
import { NoBody } from './body.ts'
import { isSubscribable, kSubscribe, Subscription } from './channels/subscription.ts'
import { acceptedCoding, type Coding } from './coding.ts'
import { Connection, type Producer, type Settings, type Shared } from './connection.ts'
import { encodeFirstEvent } from './encoder.ts'
import { AlreadySent, InvalidLastEventId, InvalidSource, ShuttingDown } from './errors.ts'
import { Feed } from './feed.ts'
import { Follower } from './follow.ts'
import type { LastEventId } from './last-event-id.ts'
import { asError } from './log.ts'
import { resolveCallOptions, type CallOptions, type ResolvedOptions } from './options.ts'
import type { Payloads } from './payload.ts'
import { Pump } from './pump.ts'
import { isAway, refuse } from './refusal.ts'
import { finishGone, isGone } from './response.ts'
import type { StreamRoute, StreamRoutes } from './route.ts'
import { discardSource, letGo, openSource } from './source.ts'
import { kStream, setDefaultHeaders, startStream, type StreamReply } from './start.ts'

/** The parts of one registered plugin that its decorators share. */
export interface Plugin extends Shared {
  readonly routes: StreamRoutes
  readonly admission: Admission
  readonly lastEventIdOf: (request: FastifyReply['request']) => LastEventId
  closing: boolean
}

export function createReplySse (plugin: Plugin) {
  return function sse (this: FastifyReply, given: unknown, callOptions?: CallOptions): FastifyReply {
    if (this === undefined) throw new TypeError('reply.sse was called without its reply: write reply.sse(…), not sse(…)')
    const reply = this as StreamReply
    if (Array.isArray(given)) checkNoChannels(given)
    const source = isSubscribable(given) ? given[kSubscribe]() : given
    const { place, ...settings } = prepare(plugin, reply, source, callOptions)
    const { options, payloads, lastEventId } = settings
    if (typeof place === 'function') {
      if (!(source instanceof Subscription)) discardSource(source)
      place()
      return reply
    }
    const produce = open(source, payloads, lastEventId, place)
    const connection = new Connection(reply.request, reply.raw, plugin, { ...settings, place })
    const feed = new Feed(connection, payloads)
    startStream(reply, connection, produce(connection, feed), feed, (error) => {
      if (isAway(error)) refuse(plugin, reply, options, 'broker-away', () => error)
      else reply.send(asError(error))
    })
    return reply
  }
}

interface Prepared extends StreamRoute, Omit<Settings, 'place' | 'options'> {
  lastEventId: string | undefined
  /** The place that the stream has, or what answers the request in its stead. */
  place: Place | (() => void)
}

/** @throws {AlreadySent | InvalidOption | InvalidSchema | InvalidEvent} and what clientKey throws, having let go of the source */
function prepare (plugin: Plugin, reply: StreamReply, source: unknown, callOptions: CallOptions | undefined): Prepared {
  try {
    if (reply[kStream]) throw new AlreadySent('it was called already for this request, which gets one stream: make one source of all')
    checkUnsent(reply)
    const route = plugin.routes.of(reply.request)
    const { payloads } = route
    const options = resolveCallOptions(route.options, callOptions)
    const first = callOptions?.first?.map((event) => encodeFirstEvent(event, payloads))
    const lastEventId = plugin.lastEventIdOf(reply.request)
    const id = lastEventId.is === 'id' ? lastEventId.id : undefined
    const coding = codingOf(reply, source, options)
    return { options, payloads, first, coding, lastEventId: id, place: admit(plugin, reply, options, lastEventId) }
  } catch (error) {
    if (!(source instanceof Subscription)) letGo(source)
    throw error
  }
}

/**
 * An async handler that ends with nothing is sent as an empty answer, as is reply.send(). What else Fastify has sent may have
 * been returned by the handler, or given to reply.send, and nobody can know which.
 * @throws {AlreadySent}
 */
function checkUnsent (reply: FastifyReply): void {
  const { sent, raw } = reply
  if (!sent && !raw.headersSent) return
  if (sent && !raw.writableEnded) throw new AlreadySent('the reply was hijacked before: call reply.sse instead of reply.hijack')
  throw new AlreadySent(reply.getHeader('content-length') === '0'
    ? 'an empty answer was sent before, as the handler had ended: return, or await, what calls reply.sse ' +
      '(or reply.send() was called: call reply.sse instead)'
    : 'another answer was sent before: call reply.sse instead of reply.send or reply.raw; or, where the handler had ended, ' +
      'return, or await, what calls reply.sse')
}

/** The content coding that is used; undefined: none is wanted, accepted, or left to us by the handler. */
function codingOf (reply: FastifyReply, source: unknown, options: ResolvedOptions): Coding | undefined {
  const isShared = source instanceof Subscription
  const compress = options.compress ?? (isShared && source.compress)
  if (!compress || reply.hasHeader('content-encoding')) return undefined
  vary(reply)
  return acceptedCoding(reply.request.headers, isShared)
}

/** A shared cache must not give one client what was coded for another. */
function vary (reply: FastifyReply): void {
  const fields = [reply.getHeader('vary') ?? []].flat().join(', ')
  if (!/\*|accept-encoding/i.test(fields)) reply.header('vary', fields === '' ? 'accept-encoding' : `${fields}, accept-encoding`)
}

function admit (
  plugin: Plugin, reply: FastifyReply, options: ResolvedOptions, lastEventId: LastEventId
): Place | (() => void) {
  if (isGone(reply.raw)) return () => finishGone(reply.raw)
  if (lastEventId.is === 'hostile') return () => { reply.send(new InvalidLastEventId(lastEventId.fault)) }
  // "Clients will reconnect if the connection is closed; a client can be told to stop reconnecting using the HTTP 204
  // No Content response code." A shared cache must not tell others.
  if (lastEventId.is === 'finished') return () => { reply.code(204).header('cache-control', 'no-store').send() }
  if (plugin.closing) return () => refuse(plugin, reply, options, 'shutdown', () => new ShuttingDown())
  if (reply.request.method === 'HEAD') return () => sendHead(reply)
  const place = plugin.admission.enter(reply.request)
  if (!('refused' in place)) return place
  return () => refuse(plugin, reply, options, place.refused, place.error)
}

function sendHead (reply: FastifyReply): void {
  setDefaultHeaders(reply)
  reply.send(new NoBody())
}

type Produce = (connection: Connection, feed: Feed) => Producer

/** @throws {InvalidSource} and what a source function throws, having given its place back */
function open (source: unknown, payloads: Payloads | undefined, lastEventId: string | undefined, place: Place): Produce {
  try {
    if (source instanceof Subscription) {
      if (payloads !== undefined) checkTypes(source.types, payloads)
      return (connection, feed) => new Follower(source, connection, feed)
    }
    const opened = openSource(source, lastEventId)
    return (connection, feed) => new Pump(opened, connection, feed)
  } catch (error) {
    place.leave()
    throw error
  }
}

/**
 * Channels in an array would be taken for events.
 * @throws {InvalidSource}
 */
function checkNoChannels (array: unknown[]): void {
  if (!array.some(isSubscribable)) return
  throw new InvalidSource('got an array with a channel in it: give it one channel, or app.sse.subscribe([a, b]) for several')
}

/** @throws {InvalidSource} where the channels may send what the route does not declare */
function checkTypes (types: ReadonlySet<string> | undefined, payloads: Payloads): void {
  if (types === undefined) {
    throw new InvalidSource("the route has schema.events, so what it is given needs 'events' of its own: " +
      'app.sse.channel(name, { events })')
  }
  for (const type of types) {
    if (!payloads.has(type)) throw new InvalidSource(`schema.events has no event type '${type || 'message'}', which the channel has`)
  }
}
