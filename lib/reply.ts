/** `reply.sse`: a request gets a stream, or is told why not. */
import type { FastifyReply } from 'fastify'
import { Body } from './body.ts'
import { Connection, type Shared } from './connection.ts'
import { AlreadySent, InvalidLastEventId, ShuttingDown } from './errors.ts'
import { FINISHED_ID } from './finite.ts'
import { retryFrame } from './frame.ts'
import { lastEventIdFault, readLastEventId } from './last-event-id.ts'
import { draw, resolveOptions, RETURN, type ResolvedOptions, type StreamOptions } from './options.ts'
import { emitFinish, isGone } from './response.ts'
import type { StreamRoutes } from './route.ts'
import { discardSource, openSource } from './source.ts'
import { sendBody, setDefaultHeaders, startStream } from './start.ts'

/** The parts of one registered plugin that its decorators share. */
export interface Plugin extends Shared {
  readonly routes: StreamRoutes
  readonly lastEventIdQuery: string | false
  closing: boolean
}

/** On every reply: the stream that answers it, if any. */
export const kStream = Symbol('fastify-typed-sse.stream')

type StreamReply = FastifyReply & { [kStream]: Connection | null }

export function createReplySse (plugin: Plugin) {
  return function sse (this: FastifyReply, source: unknown, callOptions?: StreamOptions): FastifyReply {
    const reply = this as StreamReply
    if (reply[kStream] !== null) throw new AlreadySent('called twice for one request')
    if (reply.sent || reply.raw.headersSent) throw new AlreadySent('this request was answered before')
    const { options: routeOptions, payloads } = plugin.routes.of(reply.request)
    const options = resolveOptions(routeOptions, callOptions, 'reply.sse')

    const answer = answerWithoutStream(plugin, reply, options)
    if (answer !== undefined) {
      discardSource(source)
      answer()
      return reply
    }
    const opened = openSource(source, reply.request.lastEventId)
    reply[kStream] = new Connection(reply.request, reply.raw, options, plugin)
    startStream(reply, reply[kStream], opened, payloads)
    return reply
  }
}

/** What answers a request that gets no stream; undefined where it gets one. */
function answerWithoutStream (plugin: Plugin, reply: FastifyReply, options: ResolvedOptions): (() => void) | undefined {
  const { request } = reply
  const id = readLastEventId(request.headers, request.raw.url ?? '', plugin.lastEventIdQuery)
  const fault = id === undefined ? undefined : lastEventIdFault(id)
  if (isGone(reply.raw)) return () => emitFinish(reply.raw)
  if (fault !== undefined) return () => { reply.send(new InvalidLastEventId(fault)) }
  // "Clients will reconnect if the connection is closed; a client can be told to stop reconnecting using the HTTP 204
  // No Content response code." A shared cache must not tell others.
  if (id === FINISHED_ID) return () => { reply.code(204).header('cache-control', 'no-store').send() }
  if (plugin.closing) return () => refuse(plugin, reply, options)
  if (request.method === 'HEAD') return () => { sendBody(reply, new Body(reply)) }
  return undefined
}

/**
 * An EventSource that is answered with anything but 200 gives up for ever, so it gets an empty stream and a time to come
 * back; whoever does not ask for an event stream by name gets 503.
 */
function refuse (plugin: Plugin, reply: FastifyReply, options: ResolvedOptions): void {
  plugin.stats.refused++
  const ms = draw(options.retry ?? RETURN)
  if (/\btext\/event-stream\b/i.test(reply.request.headers.accept ?? '')) {
    setDefaultHeaders(reply)
    reply.send(retryFrame(ms))
  } else {
    reply.header('retry-after', Math.ceil(ms / 1_000)).send(new ShuttingDown())
  }
}
