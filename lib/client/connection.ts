/** One request of a client, from its head to how it ends. Whether another follows is not known here. */
import type { Check, Received } from './events.ts'
import { SseError } from './error.ts'
import { FINISHED_ID } from './finished-id.ts'
import { Parser } from './parser.ts'
import { isInternal, receive } from './receive.ts'

/** What the connections of one iteration have in common, and hand on to each other. */
export interface Session {
  readonly check: Check<undefined> | undefined
  readonly signal: AbortSignal
  /** The last event ID; '': none. */
  id: string
  /** The reconnection time that the server has set, in ms; undefined: none yet. */
  retry: number | undefined
  /** Waits since the last event. */
  waits: number
}

/** A connection has ended, and the client may come back. */
export interface Ending {
  /** What has broken it; not there where the server has ended it in good order. */
  error?: unknown
  /** When to come back, in ms, as the answer has it; undefined: as ever. */
  after?: number | undefined
}

type Events = AsyncGenerator<Received<string, unknown>, Ending | undefined>

/** "Come back later": too much at once, a server that begins or closes, a proxy that has lost it. */
const TRANSIENT = [408, 425, 429, 500, 502, 503, 504]

/**
 * Yields the events for the application.
 * @returns how the connection has ended; undefined: for good
 * @throws SSE_REFUSED, SSE_INVALID_DATA
 */
export async function * connect (session: Session, request: () => Promise<Response>): Events {
  // What it throws at once is a mistake of the caller's, and no connection that fails.
  const answer = request()
  let response: Response
  try {
    response = await answer
  } catch (error) {
    return { error }
  }
  const { status, headers, body } = response
  if (status === 204) return undefined
  const type = headers.get('content-type')
  if (status === 200 && /^text\/event-stream *(;|$)/i.test(type ?? '')) return yield * read(session, body)
  const error = new SseError('SSE_REFUSED', `${response.url} is no event stream, but ${status} ${type ?? 'without content-type'}`, { response })
  if (!TRANSIENT.includes(status)) throw error
  // It may be a date, too, or nonsense: then the client comes back as ever.
  const after = Number(headers.get('retry-after')) * 1_000
  return { error, after: after > 0 ? after : undefined }
}

async function * read (session: Session, body: Response['body']): Events {
  const parser = new Parser(session.id, (ms) => { session.retry = ms })
  const reader = body?.getReader()
  try {
    for (;;) {
      const chunk = await reader?.read().catch((error: unknown) => ({ error }))
      if (chunk === undefined) return {}
      if ('error' in chunk) return chunk
      if (chunk.done) return {}
      for (const { event, text, id } of parser.parse(chunk.value)) {
        session.id = id
        if (id === FINISHED_ID) return undefined
        if (text === undefined || isInternal(event)) continue
        session.waits = 0
        yield receive(event, text, id, session.check)
        session.signal.throwIfAborted()
      }
    }
  } finally {
    reader?.cancel().catch(noop)
  }
}

function noop () {}
