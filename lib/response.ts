/** What Node's responses leave to be known of their end, over HTTP/1 and HTTP/2. Knows nothing of event streams. */
import type { ServerResponse } from 'node:http'
import type { Http2ServerResponse } from 'node:http2'
import type { Socket } from 'node:net'

export type RawResponse = ServerResponse | Http2ServerResponse

/** A pipelined HTTP/1 response that waits behind another: it has no socket yet, and keeps what it is given. */
export function isQueued (response: RawResponse): boolean {
  return response.socket === null && !response.writableFinished
}

/** Whether nobody is there any more to answer. */
export function isGone (response: RawResponse): boolean {
  if (isHttp2(response)) return response.stream === undefined || response.stream.destroyed
  return response.destroyed || response.req.socket.destroyed
}

/**
 * Calls back once, when the response is gone: its last byte sent, or its connection closed. It is the response that is
 * asked, as a request is 'closed' once its body was read; but a queued response is never told, so its socket is too.
 */
export function onceGone (response: RawResponse, callback: () => void): void {
  if (isHttp2(response) || !isQueued(response)) {
    response.once('close', callback)
    return
  }
  const socket = response.req.socket
  function gone () {
    socket.removeListener('close', gone)
    response.removeListener('close', gone)
    callback()
  }
  socket.once('close', gone)
  response.once('close', gone)
}

/**
 * Fastify runs onResponse hooks at 'finish', which an HTTP/1 response does not emit when its client went away first.
 * HTTP/2 responses emit it in either case, and so does this: whoever counts or logs responses sees each of them end.
 */
export function emitFinish (response: RawResponse): void {
  if (!isHttp2(response) && !response.writableFinished) response.emit('finish')
}

/** Lets the client's connection go with the response, so that its next request finds another server. */
export function closeAfter (response: RawResponse): void {
  if (isHttp2(response)) {
    response.stream?.session?.close()
    return
  }
  // An injected request has a socket that is none.
  const socket: Partial<Socket> = response.req.socket
  response.once('finish', () => socket.destroySoon?.())
}

function isHttp2 (response: RawResponse): response is Http2ServerResponse {
  return 'stream' in response
}
