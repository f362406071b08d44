/** A stream begins: its source runs, and when this turn of the event loop is over, the response is given over to it. */
import type { FastifyReply } from 'fastify'
import { Body } from './body.ts'
import type { Connection, Failure } from './connection.ts'
import { encodeEvent, encodeLastEvent } from './encoder.ts'
import { finishedFrame } from './finite.ts'
import type { Payloads } from './payload.ts'
import { pump, type Encoder } from './pump.ts'
import { isThenable, type Source } from './source.ts'

/** Only where the handler, or a hook, has not set them. */
const DEFAULT_HEADERS = {
  'content-type': 'text/event-stream',
  // no-transform: a proxy that compresses would hold events back.
  'cache-control': 'no-cache, no-transform',
  // nginx, and those that learnt from it, then pass each event on at once.
  'x-accel-buffering': 'no'
}

/**
 * The head goes out when this turn of the event loop is over: at once for a client, yet late enough that a source which
 * fails before its first event, synchronously or by a rejection in the same turn, is answered by Fastify's error
 * handler, with a status of its own.
 */
export function startStream (
  reply: FastifyReply, connection: Connection, source: Source, payloads: Payloads | undefined
): void {
  let early: Failure | undefined
  pump(source, connection, createEncoder(connection, payloads, (failure) => { early = failure }))
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
    if (early !== undefined) reply.send(asError(early.error))
    else sendBody(reply, new Body(reply, connection))
  })
}

/** The method of the prototype shows again. */
function restoreSend (reply: FastifyReply): void {
  delete (reply as { send?: unknown }).send
}

export function sendBody (reply: FastifyReply, body: Body): void {
  setDefaultHeaders(reply)
  reply.send(body)
}

export function setDefaultHeaders (reply: FastifyReply): void {
  for (const [name, value] of Object.entries(DEFAULT_HEADERS)) {
    if (!reply.hasHeader(name)) reply.header(name, value)
  }
}

/** @param onEarly takes what failed before the first event and the head: it can still be answered as an error */
function createEncoder (
  connection: Connection, payloads: Payloads | undefined, onEarly: (failure: Failure) => void
): Encoder {
  const { request, options } = connection
  return {
    encode (value) {
      try {
        return encodeEvent(value, payloads)
      } catch (err) {
        if (options.onInvalidEvent === 'fail') throw err
        connection.countDropped()
        request.log.warn({ err }, 'invalid event dropped')
        return undefined
      }
    },
    done: () => options.finite ? finishedFrame(request.headers['user-agent']) : '',
    failed (error) {
      if (!connection.opened && connection.events === 0) {
        onEarly({ error })
        return undefined
      }
      try {
        const last: unknown = options.onError?.(error, request)
        // The stream ends now: a promise comes too late, and must not end the process if it rejects.
        if (isThenable(last)) last.then(undefined, () => {})
        return last === undefined ? '' : encodeLastEvent(last, payloads)
      } catch (err) {
        request.log.error({ err }, 'onError has given no last event')
        return ''
      }
    }
  }
}

/** Fastify would send anything else that was thrown as if it were a payload. */
function asError (error: unknown): Error {
  return error instanceof Error ? error : new Error('The source of an event stream failed', { cause: error })
}
