/**
 * The last event ID that a client sends back when it reconnects (HTML spec, section 9.2.3). It is hostile input: here
 * it becomes a string that some server could have sent, or nothing. What it means is for others to say.
 */
import type { IncomingHttpHeaders } from 'node:http'
import { FINISHED_ID } from './client/finished-id.ts'

/** An ID longer than this is refused, in bytes of UTF-8. */
export const MAX_BYTES = 1024

export type LastEventId =
  | { is: 'none' }
  | { is: 'id', id: string }
  /** The client has had all of a finite stream. */
  | { is: 'finished' }
  /** No server could have sent it. */
  | { is: 'hostile', fault: string }

/** @param parameter the query parameter that stands in for the header; `false`: none */
export function lastEventIdOf (
  request: { headers: IncomingHttpHeaders, url?: string | undefined }, parameter: string | false
): LastEventId {
  const id = readLastEventId(request.headers, request.url ?? '', parameter)
  if (id === undefined) return { is: 'none' }
  if (id === FINISHED_ID) return { is: 'finished' }
  const fault = lastEventIdFault(id)
  return fault === undefined ? { is: 'id', id } : { is: 'hostile', fault }
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/**
 * Takes the ID from the `Last-Event-ID` header, else from the query parameter: an EventSource cannot set a header on
 * its first request. The query is read from the URL, as a schema of the route may have removed or changed the
 * parameter in `request.query`. Empty means none.
 */
export function readLastEventId (
  headers: IncomingHttpHeaders, url: string, parameter: string | false
): string | undefined {
  const header = headers['last-event-id']
  if (typeof header === 'string' && header !== '') return decodeHeader(header)
  const query = parameter === false ? -1 : url.indexOf('?')
  if (query === -1 || parameter === false) return undefined
  return new URLSearchParams(url.slice(query + 1)).get(parameter) || undefined
}

/** Why no server could have sent this ID, or undefined where one could. */
export function lastEventIdFault (id: string): string | undefined {
  if (/[\r\n\0]/.test(id)) return 'it has a CR, LF or NUL'
  if (Buffer.byteLength(id) > MAX_BYTES) return `it is longer than ${MAX_BYTES} bytes`
  return undefined
}

/**
 * Browsers send the ID "encoded as UTF-8", which Node hands over as latin1, a character for each byte. Other clients
 * (Node's fetch among them) send latin1 itself: what is not UTF-8 is taken for that.
 */
function decodeHeader (header: string): string {
  // eslint-disable-next-line no-control-regex
  if (!/[\x80-\xff]/.test(header) || /[^\x00-\xff]/.test(header)) return header
  try {
    return utf8.decode(Buffer.from(header, 'latin1'))
  } catch {
    return header
  }
}
