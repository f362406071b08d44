/** What Node's responses leave to be known of their end, over HTTP/1 and HTTP/2. Knows nothing of event streams. */
import type { EventEmitter } from 'node:events'
import type { ServerResponse } from 'node:http'
import type { Http2ServerResponse } from 'node:http2'
import type { Socket } from 'node:net'

export type RawResponse = ServerResponse | Http2ServerResponse

/** Whether this is a pipelined HTTP/1 response that waits behind another: it has no socket yet. */
function isQueued (response: RawResponse): boolean {
  return response.socket === null && !response.writableFinished
}

/** Calls back when it is this response's turn on its socket, which it mostly is at once. */
export function onceServed (response: RawResponse, callback: () => void): void {
  if (isHttp2(response) || !isQueued(response)) callback()
  else response.once('socket', callback)
}

/** Whether nobody is there any more to answer. */
export function isGone (response: RawResponse): boolean {
  if (isHttp2(response)) return response.stream === undefined || response.stream.destroyed || response.stream.closed
  return response.destroyed || response.req.socket.destroyed
}

/**
 * Calls back once, when the response is gone: its last byte sent, or its connection closed. It is the response that is
 * asked, as a request is 'closed' once its body was read; but a queued response is never told, so its socket is too.
 */
export function onceGone (response: RawResponse, callback: () => void): void {
  if (isHttp2(response)) {
    onceStreamGone(response, callback)
  } else if (isQueued(response)) {
    onceSocketGone(response, callback)
  } else {
    // It is emitted once.
    response.on('close', callback)
  }
}

/**
 * An HTTP/2 stream that its client resets without an error emits 'close' only when all was read. Before that it emits
 * 'aborted'; or, where its response had ended, nothing but the 'end' of the request. One may be emitted in the middle of
 * another, of whose listeners we are.
 */
function onceStreamGone (response: Http2ServerResponse, callback: () => void): void {
  const emitters: EventEmitter[] = [response, response.stream]
  let isOver = false
  function look () {
    if (isOver || !isGone(response)) return
    isOver = true
    for (const emitter of emitters) for (const event of HTTP2_EVENTS) emitter.removeListener(event, look)
    callback()
  }
  for (const emitter of emitters) for (const event of HTTP2_EVENTS) emitter.on(event, look)
}

const HTTP2_EVENTS = ['close', 'aborted', 'end']

function onceSocketGone (response: ServerResponse, callback: () => void): void {
  const { socket } = response.req
  function gone () {
    forget(socket, gone)
    response.removeListener('close', gone)
    callback()
  }
  onClose(socket, gone)
  response.once('close', gone)
}

interface Queue {
  callbacks: Set<() => void>
  listener: () => void
}

/** Whom to call when a socket closes: a client can queue any number of requests, and each socket has one listener. */
const queues = new WeakMap<Socket, Queue>()

function onClose (socket: Socket, callback: () => void): void {
  let queue = queues.get(socket)
  if (queue === undefined) {
    const callbacks = new Set<() => void>()
    queue = { callbacks, listener: () => callbacks.forEach((each) => each()) }
    queues.set(socket, queue)
    socket.once('close', queue.listener)
  }
  queue.callbacks.add(callback)
}

function forget (socket: Socket, callback: () => void): void {
  const queue = queues.get(socket)
  queue?.callbacks.delete(callback)
  if (queue === undefined || queue.callbacks.size > 0) return
  queues.delete(socket)
  socket.removeListener('close', queue.listener)
}

/**
 * Of the body of a GET request, which "has no generally defined semantics" (RFC 9110, section 9.3.1), Fastify reads nothing.
 * Node would stop reading the socket when some of it waits, and a client that goes away is seen by reading. A request
 * without one is left alone, as it is 'closed' once it was read. Over HTTP/2 each stream has a window of its own.
 */
export function dropBody (response: RawResponse): void {
  if (isHttp2(response)) return
  const { req: request } = response
  // Null: nobody has begun to read it. An injected request is never incomplete.
  const isUnread = request.complete === false && request.readableFlowing === null
  if (isUnread && request.method === 'GET') request.resume()
}

/**
 * Does for a response that is gone what Node leaves undone. An HTTP/2 stream that its client has reset without an error would
 * stay, with its session and the server, until all that was written is read. Fastify runs onResponse hooks at 'finish', which
 * an HTTP/1 response does not emit when its client went away first. HTTP/2 responses emit it in either case, and so does this:
 * whoever counts or logs responses sees each of them end. All listeners are told but Node's own, which would pass the dead
 * socket on to the next response.
 */
export function finishGone (response: RawResponse): void {
  if (isHttp2(response)) return destroyResponse(response)
  if (response.writableFinished) return
  for (const listener of response.rawListeners('finish')) {
    if (listener.name !== 'bound resOnFinish') listener.call(response)
  }
}

/**
 * Sends the head by itself, and with it what is written meanwhile. As a string of its own it is flattened as it is sent;
 * before a first write it would be kept as some forty pieces, for as long as the response is.
 */
export function sendHead (response: RawResponse, writeMore: () => void): void {
  const socket = isHttp2(response) ? null : response.socket
  socket?.cork()
  try {
    // Node's types forget that HTTP/2 has it too.
    (response as ServerResponse).flushHeaders()
    writeMore()
  } finally {
    socket?.uncork()
  }
}

/** HTTP/1 connections that go with a response. */
const closing = new WeakSet<Socket>()

/** Lets the client's connection go with the response, so that its next request finds another server. */
export function closeAfter (response: RawResponse): void {
  if (isHttp2(response)) {
    response.stream?.session?.close()
    return
  }
  const { socket } = response.req
  closing.add(socket)
  // An injected request has a socket that is none.
  response.once('finish', () => (socket as Partial<Socket>).destroySoon?.())
}

/** Whether the client's connection goes with a response: this one, or one that this one is queued behind. */
export function isClosing (response: RawResponse): boolean {
  return !isHttp2(response) && closing.has(response.req.socket)
}

/**
 * Breaks a response off. Over HTTP/2 in the next tick: whoever does so may have been told in the middle of Node's closing of all
 * streams of a session, and Node before 24 would then pack what one of them has left for sending over and over, for ever.
 */
export function destroyResponse (response: RawResponse): void {
  if (isHttp2(response)) process.nextTick(() => response.destroy())
  else response.destroy()
}

/** Breaks off the connection of an HTTP/1 client. That of an HTTP/2 client may have other streams, and outlive this one. */
export function destroySocket (response: RawResponse): void {
  if (!isHttp2(response)) (response.req.socket as Partial<Socket>).destroy?.()
}

export function isHttp2 (response: RawResponse): response is Http2ServerResponse {
  return 'stream' in response
}
