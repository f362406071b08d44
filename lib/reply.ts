/**
 * `reply.sse`: a request becomes a stream, or learns why not. What happens here happens before the head is out; from
 * there on the pump feeds the connection.
 */
import type { FastifyReply } from 'fastify'
import { Body } from './body.ts'
import { Connection, type Shared } from './connection.ts'
import { encodeEvent, encodeLastEvent } from './encoder.ts'
import { AlreadySent, InvalidLastEventId, ShuttingDown } from './errors.ts'
import { FINISHED_ID, idFrame, retryFrame } from './frame.ts'
import { lastEventIdFault, readLastEventId } from './last-event-id.ts'
import { draw, resolveOptions, type ResolvedOptions, type StreamOptions } from './options.ts'
import { pump, type Encoder } from './pump.ts'
import { emitFinish, isGone } from './response.ts'
import type { Payloads } from './payload.ts'
import type { StreamRoutes } from './route.ts'
import { RETURN } from './shutdown.ts'
import { discardSource, openSource } from './source.ts'

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
    if (reply.sent) throw new AlreadySent('this request was answered before')
    const { options: routeOptions, payloads } = plugin.routes.of(reply.request)
    const options = resolveOptions(routeOptions, callOptions, 'reply.sse')

    const answer = answerWithoutStream(plugin, reply, options)
    if (answer !== undefined) {
      discardSource(source)
      answer()
      return reply
    }
    const opened = openSource(source, reply.request.lastEventId)
    const connection = reply[kStream] = new Connection(reply.request, reply.raw, options, plugin)
    pump(opened, connection, createEncoder(connection, options, payloads, plugin))
    openAfterThisTurn(reply, connection)
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
  if (request.method === 'HEAD') return () => { sendStream(reply, new Body(reply)) }
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

/**
 * The head goes out when this turn of the event loop is over: at once for a client, yet late enough that a source which
 * fails before its first event, synchronously or by a rejection in the same turn, is answered by Fastify's error
 * handler, with a status of its own.
 */
function openAfterThisTurn (reply: FastifyReply, connection: Connection): void {
  // To Fastify the reply is unanswered until then. If its handler has not returned it, Fastify sends `undefined`, which
  // is let pass; anything else is an answer in the stream's stead (the handler threw, its timeout fired).
  reply.send = function send (payload?: unknown) {
    if (payload === undefined) return reply
    restoreSend(reply)
    connection.end('ended')
    return reply.send(payload)
  }
  setImmediate(() => {
    if (!Object.hasOwn(reply, 'send')) return
    restoreSend(reply)
    if (connection.reason === 'client-gone') return
    if (connection.failure !== undefined) reply.send(asError(connection.failure.error))
    else sendStream(reply, new Body(reply, connection))
  })
}

function restoreSend (reply: FastifyReply): void {
  // The method of the prototype shows again.
  delete (reply as { send?: unknown }).send
}

function sendStream (reply: FastifyReply, body: Body): void {
  setDefaultHeaders(reply)
  reply.send(body)
}

/** Only where the handler, or a hook, has not set them. */
function setDefaultHeaders (reply: FastifyReply): void {
  for (const [name, value] of Object.entries(HEADERS)) {
    if (!reply.hasHeader(name)) reply.header(name, value)
  }
}

const HEADERS = {
  'content-type': 'text/event-stream',
  // no-transform: a proxy that compresses would hold events back.
  'cache-control': 'no-cache, no-transform',
  // nginx, and those that learnt from it, then pass each event on at once.
  'x-accel-buffering': 'no'
}

function createEncoder (
  connection: Connection, options: ResolvedOptions, payloads: Payloads | undefined, plugin: Plugin
): Encoder {
  const { log } = connection.request
  return {
    encode (value) {
      try {
        return encodeEvent(value, payloads)
      } catch (err) {
        if (options.onInvalidEvent === 'fail') throw err
        plugin.stats.dropped++
        log.warn({ err }, 'invalid event dropped')
        return undefined
      }
    },
    done: () => options.finite ? idFrame(FINISHED_ID) : '',
    failed (error) {
      try {
        const last = options.onError?.(error, connection.request)
        return last === undefined ? '' : encodeLastEvent(last, payloads)
      } catch (err) {
        log.error({ err }, 'onError has not given a last event')
        return ''
      }
    }
  }
}

/** Fastify would send anything else that was thrown as if it were a payload. */
function asError (error: unknown): Error {
  return error instanceof Error ? error : new Error('The source of an event stream failed', { cause: error })
}
