/** An event stream by `fetch`, which comes back as an EventSource does, and can send headers and bodies of its own. */
import type { Check, EventIterator, Received } from './events.ts'
import { connect, type Session } from './connection.ts'
import type { SseError } from './error.ts'
import { toHeader } from './header.ts'
import { abortable } from './iteration.ts'

/** What `fetch` takes, and: */
export interface FetchEventsOptions<Events> extends RequestInit {
  /** The last event ID, after which the first request asks to go on. Default: none, and the server decides. */
  lastEventId?: string | undefined
  /** Looks at the data of each event; a wrong one is SSE_INVALID_DATA. Default: nothing is checked. */
  check?: Check<Events> | undefined
  /** Told that the client comes back: in `ms`, after `error` (undefined: the stream has ended in good order). Default: none. */
  onReconnect?: ((event: { error: unknown, ms: number }) => void) | undefined
  /** Another implementation. Default: the global one. */
  fetch?: ((url: string | URL, init: RequestInit) => Promise<Response>) | undefined
}

/** The wait before a client comes back, in ms, where the server has set none: doubled while no event comes. */
const FIRST_WAIT = 1_000
const LONGEST_WAIT = 30_000

/** In ms: timers take no more, and would be due at once. */
const LONGEST_TIMER = 2 ** 31 - 1

/** An event stream is not for caches; an EventSource says the same. */
const DEFAULTS = { cache: 'no-store' }

/**
 * Reads an event stream, and comes back with the last event ID when it has ended or broken off; what is transient (no
 * connection; 408, 425, 429, 500, 502, 503, 504) is waited out. It ends with a finished stream, with 204, and with
 * `return()`, which aborts the request at once. A request that is neither GET nor HEAD is only repeated from a last event
 * ID on, and never if its body is a stream. Nothing is sent before the first `next()`, and no chunk is read before the
 * events of the last one are taken.
 * @throws (its `next`) SSE_REFUSED, SSE_INVALID_DATA; the signal's reason; what `check` and `onReconnect` throw, and what
 *   `fetch` throws at once; a TypeError where `url` or an option is none that the global `fetch` takes; where the request is
 *   not to be repeated, what has broken it
 */
export function fetchEvents<Events extends Record<string, object> | undefined = undefined> (
  url: string | URL, options: FetchEventsOptions<Events> = {}
): EventIterator<Events> {
  return abortable(options.signal, (signal) => reconnect(url, options as FetchEventsOptions<any>, signal))
}

async function * reconnect (
  url: string | URL, { lastEventId = '', check, onReconnect, fetch, ...init }: FetchEventsOptions<undefined>,
  signal: AbortSignal
): AsyncGenerator<Received<string, unknown>, undefined> {
  signal.throwIfAborted()
  const isStream = init.body instanceof ReadableStream
  // A mistake would fail like a server that is away, and be asked for ever: so it is looked at before.
  const { method = 'GET' } = fetch ? init : new Request(url, isStream ? { ...init, body: null } : init)
  const send = fetch ?? globalThis.fetch
  const session: Session = { check, signal, id: lastEventId, retry: undefined, waits: 0 }
  for (;;) {
    const ending = yield * connect(session, () => send(url, withHeaders(init, session)))
    signal.throwIfAborted()
    if (ending === undefined) return
    if (!/^(get|head)$/i.test(method) && (session.id === '' || isStream)) {
      if ('error' in ending) throw ending.error
      return
    }
    const { error, after } = ending
    ;(error as SseError | undefined)?.response?.body?.cancel().catch(() => {})
    const ms = after ?? waitOf(session, error)
    onReconnect?.({ error, ms })
    await sleep(ms, signal)
    signal.throwIfAborted()
  }
}

function withHeaders (init: RequestInit, { id, signal }: Session): RequestInit {
  const headers = new Headers(init.headers)
  headers.set('accept', 'text/event-stream')
  if (id !== '') headers.set('last-event-id', toHeader(id))
  return { ...DEFAULTS, ...init, headers, signal }
}

/** What the server has set; but longer and longer while no answer comes. */
function waitOf (session: Session, error: unknown): number {
  const { retry = 0 } = session
  const waits = session.waits++
  const isSettled = session.retry !== undefined && (error === undefined || waits === 0)
  return isSettled ? retry : Math.max(retry, backOff(waits))
}

/** Half of it by chance, lest all the clients of a server come back to it at once. */
function backOff (waits: number): number {
  return Math.min(FIRST_WAIT * 2 ** waits, LONGEST_WAIT) * (1 + Math.random()) / 2
}

/** Ends early when the signal aborts, and when the page is online again: by then the wait may have grown long. */
function sleep (ms: number, signal: AbortSignal): Promise<void> {
  const page = globalThis as Partial<EventTarget>
  return new Promise((resolve) => {
    function wake () {
      clearTimeout(timer)
      signal.removeEventListener('abort', wake)
      page.removeEventListener?.('online', wake)
      resolve()
    }
    const timer = setTimeout(wake, Math.min(ms, LONGEST_TIMER))
    signal.addEventListener('abort', wake)
    page.addEventListener?.('online', wake)
  })
}
