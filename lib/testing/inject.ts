/** Reads an event stream of an app without a port: through Fastify's `inject`. */
import { createParser } from 'eventsource-parser'
import type { FastifyInstance, InjectOptions } from 'fastify'
import type { OutgoingHttpHeaders, ServerResponse } from 'node:http'
import type { Readable } from 'node:stream'
import { checkOptions, isObject, isSignal, isString, type Check } from '../checks.ts'
import type { EventIterator, Received } from '../client/events.ts'
import { toHeader } from '../client/header.ts'
import { abortable } from '../client/iteration.ts'
import { isInternal, receive } from '../client/receive.ts'
import { LONGEST_TIMER } from '../timeouts.ts'

/** Options of `injectSse`. A wrong one throws FST_SSE_INVALID_OPTION. */
export interface InjectSseOptions<Events> {
  /** Sent as the header `Last-Event-ID`. Default: none. */
  lastEventId?: string | undefined
  /** Ends the stream as a client that goes away does. Default: none. */
  signal?: AbortSignal | undefined
  /** For the types of what is yielded; nothing is checked. Default: any event. */
  events?: Events | undefined
}

/**
 * The events of one stream. Its `return()`, which `break` calls, goes away as a client does, and settles when the stream is
 * no longer open.
 */
export interface InjectedEvents<Events> extends EventIterator<Events> {
  /** The head, as soon as it is there; rejects where there is none. */
  readonly response: Promise<InjectedHead>
}

/** The head of a response. */
export interface InjectedHead {
  /** 200 where it is an event stream, also where an EventSource is refused softly. */
  readonly statusCode: number
  /** By their names in lower case. */
  readonly headers: OutgoingHttpHeaders
}

interface Answer extends InjectedHead {
  readonly body: Readable
  /** Settles when the server has done with the response. */
  readonly closed: Promise<void>
}

const CHECKS: Record<keyof InjectSseOptions<unknown>, Check> = { lastEventId: isString, signal: isSignal, events: isObject }

/** Characters of an answer that is no event stream, in the message of the error. */
const SHOWN = 1_000

/**
 * Sends the request at once, and yields the events as the client does, but does not come back. A source is paused while
 * nobody reads: one that is always ready was after 17 KB (light-my-request 6.8, Node 20). What is not as with a real
 * connection: a reader that has stalled is not cut off (`writeTimeout`), as light-my-request counts as sent whatever it
 * holds for the reader; and the parser does not tell of an ID that comes without data, so `id` is that of the last event.
 * A `next` that waits keeps the process alive, as a socket would.
 * @param app waited for until it is ready
 * @param request a URL, or what `app.inject` takes
 * @throws FST_SSE_INVALID_OPTION; (its `next`) where the answer is no event stream, with its status and body; where it is
 *   compressed; the signal's reason; what `inject` rejects with, or breaks the stream off with
 */
export function injectSse<Events extends Record<string, object> | undefined = undefined> (
  app: Pick<FastifyInstance, 'inject'>, request: string | Omit<InjectOptions, 'payloadAsStream' | 'signal'>,
  options: InjectSseOptions<Events> = {}
): InjectedEvents<Events> {
  checkOptions(options, CHECKS, 'injectSse')
  const { lastEventId = '', signal } = options
  let answer!: Promise<Answer>
  const events = abortable<Events>(signal, (signal, abort) => {
    answer = send(app, typeof request === 'string' ? { url: request } : request, lastEventId, signal)
    return read(answer, lastEventId, signal, abort)
  })
  const response = answer.then(({ statusCode, headers }) => ({ statusCode, headers }))
  // Who does not ask for the head learns of a failure by the iteration.
  response.catch(noop)
  const { next, return: goAway } = events
  return Object.assign(events, {
    response,
    next: () => keepAlive(next()),
    async return () {
      const result = await goAway()
      await answer.then(({ closed }) => closed, noop)
      return result
    }
  })
}

async function send (
  app: Pick<FastifyInstance, 'inject'>, request: InjectOptions, lastEventId: string, signal: AbortSignal
): Promise<Answer> {
  signal.throwIfAborted()
  const headers = {
    accept: 'text/event-stream', ...(lastEventId !== '' && { 'last-event-id': toHeader(lastEventId) }), ...request.headers
  }
  const cut = new AbortController()
  const abort = () => cut.abort()
  signal.addEventListener('abort', abort)
  // An abort that comes after the head would be an error that Fastify logs; after a failure, one that nobody can catch.
  const response = await app.inject({ ...request, headers, signal: cut.signal, payloadAsStream: true })
    .finally(() => signal.removeEventListener('abort', abort))
  const body = response.stream().on('error', noop)
  function goAway () {
    response.raw.res.destroy()
    body.destroy()
  }
  if (signal.aborted) goAway()
  else signal.addEventListener('abort', goAway)
  return { statusCode: response.statusCode, headers: response.headers, body, closed: closeOf(response.raw.res) }
}

function keepAlive<T> (pending: Promise<T>): Promise<T> {
  const timer = setInterval(noop, LONGEST_TIMER)
  return pending.finally(() => clearInterval(timer))
}

async function closeOf (response: ServerResponse): Promise<void> {
  if (!response.destroyed) await new Promise((resolve) => response.once('close', resolve))
}

async function * read (
  answer: Promise<Answer>, id: string, signal: AbortSignal, abort: () => void
): AsyncGenerator<Received<string, unknown>, undefined> {
  try {
    const { statusCode, headers, body } = await answer
    if (statusCode === 204) return
    const type = String(headers['content-type'])
    if (!/^text\/event-stream *(;|$)/i.test(type)) {
      throw new Error(`expected an event stream, got ${statusCode} ${type}: ${await beginningOf(body)}`)
    }
    const { 'content-encoding': coding } = headers
    if (coding !== undefined) throw new Error(`the event stream is compressed (${coding}): ask without accept-encoding`)
    yield * parse(body, id, signal)
  } finally {
    abort()
  }
}

async function * parse (body: Readable, id: string, signal: AbortSignal): AsyncGenerator<Received<string, unknown>> {
  const decoder = new TextDecoder()
  let events: Received<string, unknown>[] = []
  const parser = createParser({
    onEvent ({ event = 'message', data, id: own = id }) {
      id = own
      if (!isInternal(event)) events.push(receive(event, data, id, undefined))
    }
  })
  for await (const chunk of body) {
    events = []
    parser.feed(decoder.decode(chunk, { stream: true }))
    for (const event of events) {
      yield event
      signal.throwIfAborted()
    }
  }
  signal.throwIfAborted()
}

async function beginningOf (body: Readable): Promise<string> {
  const decoder = new TextDecoder()
  let text = ''
  for await (const chunk of body) {
    text += decoder.decode(chunk, { stream: true })
    if (text.length >= SHOWN) break
  }
  return text.slice(0, SHOWN)
}

function noop () {}
