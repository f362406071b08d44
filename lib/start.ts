/**
 * A stream begins. Its producer runs; when this turn of the event loop is over, the stream is given to Fastify to send;
 * when the onSend hooks have run, it takes the response over. Until then somebody else may still answer.
 */
import type { FastifyReply } from 'fastify'
import { Body } from './body.ts'
import type { Connection, Producer } from './connection.ts'
import type { Feed } from './feed.ts'
import { asError, logFacts } from './log.ts'
import { onceServed } from './response.ts'

/** On every reply: the stream that answers it, if any. In a scope that was there before the plugin it is undefined at first. */
export const kStream = Symbol('fastify-typed-sse.stream')

export type StreamReply = FastifyReply & { [kStream]: Connection | null | undefined }

/** Those that a stream has where the handler, or a hook, has not set others. */
const DEFAULT_HEADERS: Record<string, string> = {
  'content-type': 'text/event-stream',
  // no-transform: a proxy that compresses would hold events back.
  'cache-control': 'no-cache, no-transform',
  // nginx, and those that learnt from it, then pass each event on at once.
  'x-accel-buffering': 'no'
}

/** @returns the names of those that were not there */
export function setDefaultHeaders (reply: FastifyReply): string[] {
  const missing = Object.keys(DEFAULT_HEADERS).filter((name) => !reply.hasHeader(name))
  for (const name of missing) reply.header(name, DEFAULT_HEADERS[name])
  return missing
}

/**
 * The producer is started when it is this request's turn on its socket, and the stream is sent one turn later.
 * @param fail answers in the stream's stead where it has failed before its first event
 */
export function startStream (
  reply: StreamReply, connection: Connection, producer: Producer, feed: Feed, fail: (error: unknown) => void
): void {
  connection.filledBy(producer)
  reply[kStream] = connection
  const { send } = reply
  coverSend(reply, connection, send)
  reply.then = settleOnceGone
  // A client can queue any number of requests on its socket. Each waits for its turn before anything is done for it.
  onceServed(reply.raw, () => {
    // While it waited it may have been ended: by `maxDuration`, say.
    const started = connection.reason === undefined ? producer.start() : undefined
    const sendLater = () => { setImmediate(() => sendStream(reply, connection, feed, send, fail)) }
    if (started === undefined) sendLater()
    else started.then(sendLater)
  })
}

/**
 * The head goes out when the first turn of the event loop is over: at once for a client, yet late enough that a source
 * which fails before its first event, synchronously or by a rejection in the same turn, is answered by Fastify's error
 * handler, with a status of its own.
 */
function sendStream (
  reply: StreamReply, connection: Connection, feed: Feed, send: FastifyReply['send'], fail: (error: unknown) => void
): void {
  if (reply[kStream] !== connection) return
  // The stream was begun by an onSend hook, say: Fastify was sending already.
  if (reply.sent) {
    connection.finish('superseded')
    return tellOfAnother(reply)
  }
  if (connection.reason === 'client-gone') return
  if (feed.early !== undefined) {
    giveWay(reply, send)
    fail(feed.early.error)
    return
  }
  // Of another answer, say, whose headers were copied: it would end this one early, and its rest be taken for the next
  // answer on the connection; or late, and the next be taken for its rest.
  if (reply.hasHeader('content-length')) reply.removeHeader('content-length')
  const headers = setDefaultHeaders(reply)
  if (connection.coding !== undefined) {
    headers.push('content-encoding')
    reply.header('content-encoding', connection.coding)
  }
  connection.headers = headers
  const body = new Body(reply, connection, () => {
    if (feed.early === undefined) {
      reply.send = send
      return undefined
    }
    giveWay(reply, send)
    return asError(feed.early.error)
  })
  try {
    send.call(reply, body)
  } catch (error) {
    // A header that cannot be sent, say. Nobody else is there to catch it, as the handler has returned.
    reply.send(error)
  }
}

/**
 * To Fastify the reply is unanswered until the response is handed over. If its handler has not returned it, Fastify
 * sends `undefined`, which is let pass. Anything else is an answer in the stream's stead: the handler or an onSend hook
 * has thrown, a timeout has fired, or the handler has returned something else.
 */
function coverSend (reply: StreamReply, connection: Connection, send: FastifyReply['send']): void {
  reply.send = function covered (...payload: unknown[]) {
    if (payload.length === 1 && payload[0] === undefined) return reply
    if (!(payload[0] instanceof Error)) tellOfAnother(reply)
    giveWay(reply, send)
    connection.finish('superseded')
    return reply.send(...payload)
  }
}

function tellOfAnother ({ log }: FastifyReply): void {
  logFacts(log, 'warn', {}, 'reply.sse was called, but another answer was sent: return reply.sse(…) from the handler, or the hook')
}

/**
 * An async handler that returns the reply, or awaits it, waits until the response is gone, as with any reply. Fastify's own
 * `then` has listeners for that on the response, which take more memory than all else of an idle stream.
 */
const settleOnceGone = function then (this: StreamReply, fulfilled: () => void, rejected: (error: Error) => void) {
  // A promise asks for `then` one turn of microtasks before it calls it: meanwhile another answer may have taken the place.
  if (!this[kStream]) Object.getPrototypeOf(this).then.call(this, fulfilled, rejected)
  else this[kStream].onceGone(fulfilled)
} as FastifyReply['then']

/** The reply is free for another answer, an event stream even (an error handler's, say): nothing of this one is left. */
function giveWay (reply: StreamReply, send: FastifyReply['send']): void {
  reply.send = send
  reply.then = Object.getPrototypeOf(reply).then
  const connection = reply[kStream]
  reply[kStream] = null
  connection?.leavePlace()
  for (const name of connection?.headers ?? []) {
    reply.removeHeader(name)
    // Fastify passes the headers on before it takes what is to be sent.
    reply.raw.removeHeader(name)
  }
}
