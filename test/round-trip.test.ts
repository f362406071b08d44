/** What is sent comes back equal, read by parsers that are not ours. */
import { EventSource } from 'eventsource'
import { createParser } from 'eventsource-parser'
import fc from 'fast-check'
import t from 'tap'
import { encodeEvent } from '../lib/encoder.ts'
import type { SseEvent } from '../index.ts'
import { createApp, deferred, listen } from './helpers.ts'

interface Fields { id?: unknown, event?: unknown, retry?: unknown, comment?: unknown, data?: unknown, raw?: unknown }

/** What a client can know of a stream. */
interface Received {
  events: { id: string | undefined, event: string | undefined, data: string }[]
  retries: number[]
  comments: string[]
}

const SPECIAL = ['\n', '\r', '\r\n', '\0', '\ufeff', '\u2028', '\ud800', '\udc00', '😀', ' ', ':', 'data: x', 'id', '"', '\\', 'é']
const text = fc.array(fc.oneof(fc.constantFrom(...SPECIAL), fc.string({ unit: 'binary', maxLength: 5 })), { maxLength: 6 })
  .map((parts) => parts.join(''))
const line = text.map((value) => value.toWellFormed().replace(/[\r\n\0]/g, ''))
/** Mostly what keeps the rules, so that whole sequences get through; now and then what does not. */
const mostly = <T, U>(right: fc.Arbitrary<T>, wrong: fc.Arbitrary<U>) =>
  fc.oneof({ weight: 20, arbitrary: right }, { weight: 1, arbitrary: wrong })

const envelope = {
  id: mostly(
    fc.oneof(line, fc.integer(), fc.bigInt(), fc.double({ noNaN: true, noDefaultInfinity: true })),
    fc.oneof(text, fc.constant(NaN))
  ),
  retry: mostly(fc.nat(), fc.oneof(fc.double(), fc.integer())),
  comment: text
}
const event = mostly(fc.oneof(line, fc.constantFrom('', 'message', 'price')), text)
const anyEvent: fc.Arbitrary<Fields> = fc.oneof(
  fc.record({ ...envelope, event, data: fc.jsonValue({ depthSize: 'small', stringUnit: 'binary' }) }, { requiredKeys: ['data'] }),
  fc.record({ ...envelope, event, data: text }, { requiredKeys: ['data'] }),
  fc.record({ ...envelope, event, raw: mostly(text.map((value) => value.toWellFormed()), text) }, { requiredKeys: ['raw'] }),
  fc.record(envelope, { requiredKeys: [] })
)

const LINE_END = /\r\n|\r|\n/

/** Whether the contract lets this event be sent: the rules again, said in another way. */
function isAllowed ({ id, event, retry, data, raw, comment }: Fields): boolean {
  return [id, event, retry, data, raw, comment].some((field) => field !== undefined) &&
    (id === undefined || typeof id === 'bigint' || Number.isFinite(id) || (typeof id === 'string' && !/[\r\n\0]|\p{Surrogate}/u.test(id))) &&
    (event === undefined || !/[\r\n]|\p{Surrogate}/u.test(event as string)) &&
    (retry === undefined || (Number.isSafeInteger(retry) && (retry as number) >= 0)) &&
    (raw === undefined || !/\p{Surrogate}/u.test(raw as string))
}

function add (received: Received, { id, event, retry, comment, data, raw }: Fields): void {
  if (retry !== undefined) received.retries.push(retry === 0 ? 0 : retry as number)
  if (comment !== undefined) received.comments.push(...(comment as string).toWellFormed().split(LINE_END))
  if (data === undefined && raw === undefined) return
  received.events.push({
    id: id === undefined ? undefined : String(id),
    event: event === 'message' || event === '' ? undefined : event as string | undefined,
    data: data === undefined ? (raw as string).split(LINE_END).join('\n') : JSON.stringify(data)
  })
}

/** Parses bytes that arrive in pieces of these sizes, wherever that cuts a character in two. */
function parse (bytes: Uint8Array, sizes: number[]): Received {
  const received: Received = { events: [], retries: [], comments: [] }
  const parser = createParser({
    onEvent: ({ id, event, data }) => { received.events.push({ id, event, data }) },
    onRetry: (ms) => { received.retries.push(ms) },
    onComment: (comment) => { received.comments.push(comment) },
    onError: (error) => { throw error }
  })
  const decoder = new TextDecoder()
  for (let at = 0, turn = 0; at < bytes.length; turn++) {
    const size = sizes[turn % sizes.length]!
    parser.feed(decoder.decode(bytes.subarray(at, at + size), { stream: true }))
    at += size
  }
  parser.feed(decoder.decode())
  return received
}

t.test('any sequence of events comes back equal, each of them or not at all', async (t) => {
  let sent = 0
  let refused = 0
  const chunkSizes = fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1 })
  fc.assert(fc.property(fc.array(anyEvent, { maxLength: 12 }), chunkSizes, (all, sizes) => {
    const expected: Received = { events: [], retries: [], comments: [] }
    let stream = ''
    for (const fields of all) {
      let block: string
      try {
        block = encodeEvent(fields, undefined)
      } catch (error) {
        if ((error as { code?: string }).code !== 'FST_SSE_INVALID_EVENT') throw error
        if (isAllowed(fields)) throw error
        refused++
        continue
      }
      if (!isAllowed(fields)) throw new Error('a rule is broken, and yet it was sent')
      if (!/^[^\r]+\n\n$/.test(block) || block.slice(0, -2).includes('\n\n')) throw new Error('not one block')
      stream += block
      sent++
      add(expected, fields)
    }
    const received = parse(Buffer.from(stream), sizes)
    if (JSON.stringify(received) !== JSON.stringify(expected)) {
      throw new Error(`sent ${JSON.stringify(expected)}\nreceived ${JSON.stringify(received)}`)
    }
  }), { numRuns: 1_000 })
  t.ok(sent > 2_000, `${sent} events were sent`)
  t.ok(refused > 50, `${refused} events were refused`)
})

t.test('an EventSource gets every event of a server, one of 1 MiB too', async (t) => {
  const events: SseEvent[] = fc.sample(anyEvent, 600).filter((fields) => {
    return isAllowed(fields) && (fields.data !== undefined || fields.raw !== undefined)
  }).map((fields) => ({ ...fields, retry: 5 }) as SseEvent)
  const large = '😀\n'.repeat(2 ** 20 / 5)
  events.splice(100, 0, { id: 'large', raw: large })
  events.push({ event: 'last', data: null })
  t.ok(events.length > 300, `${events.length} events`)

  const app = await createApp(t)
  app.get('/', async (request, reply) => reply.sse(async function * ({ signal }) {
    yield * events
    await new Promise((resolve) => signal.addEventListener('abort', resolve))
  }))
  const client = new EventSource(`http://127.0.0.1:${await listen(app)}/`)
  t.after(() => client.close())
  const received: Received['events'] = []
  const done = deferred()
  const take = ({ type, lastEventId, data }: MessageEvent) => {
    received.push({ id: lastEventId, event: type, data })
    if (type === 'last') done.resolve()
  }
  const types = new Set(events.map(({ event }) => event || 'message'))
  // 'open' and 'error' are events of the client's own.
  for (const type of types) if (type !== 'open' && type !== 'error') client.addEventListener(type, take as (event: Event) => void)
  client.addEventListener('error', (error) => done.reject(error))
  await done.promise

  const expected: Received = { events: [], retries: [], comments: [] }
  for (const fields of events) add(expected, fields)
  t.equal(received.length, expected.events.length)
  for (const [index, { id = '', event = 'message', data }] of expected.events.entries()) {
    if (received[index]?.data !== data || received[index]?.event !== event || received[index]?.id !== id) {
      t.same(received[index], { id, event, data }, `event ${index}`)
      break
    }
  }
  t.equal(received[100]?.data.length, large.length)
  t.equal(app.sse.stats().events, events.length)
})
