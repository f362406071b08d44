/** The rules that an event's fields must keep: an event that breaks one is refused whole, and the message says why. */
import t, { type Test } from 'tap'
import { describe } from '../lib/describe.ts'
import { encodeEvent } from '../lib/encoder.ts'

const encode = (event: unknown) => encodeEvent(event, undefined)

function refused (t: Test, event: unknown, message: RegExp | string, name?: string): void {
  t.throws(() => encode(event), { code: 'FST_SSE_INVALID_EVENT', statusCode: 500, message }, name ?? String(message))
}

const cycle: Record<string, unknown> = {}
cycle.self = cycle
const LONE = '\ud800'

t.test('what is yielded must be an object or a string', async (t) => {
  const values: [unknown, string][] = [
    [null, 'null'], [undefined, 'undefined'], [0, 'the number 0'], [NaN, 'the number NaN'], [7n, 'the bigint 7'],
    [true, 'the boolean true'], [Symbol('s'), 'the symbol Symbol(s)'], [function name () {}, 'a function (name)'],
    [() => {}, 'a function (anonymous)']
  ]
  for (const [value, got] of values) {
    refused(t, value, `Invalid event: expected an object such as { data: … } or a string, got ${got}`)
  }
})

t.test('an event without any field is refused, whatever object it is', async (t) => {
  const EMPTY = 'Invalid event: it is empty: give it one of event (its type), data (sent as JSON), raw (sent as it is), id, retry, comment'
  for (const event of [{}, { data: undefined }, { id: undefined, raw: undefined }, [], new Date(0), Promise.resolve()]) {
    refused(t, event, EMPTY)
  }
})

t.test('an unknown field is refused by its name, as it would get lost in silence', async (t) => {
  refused(t, { type: 'x', data: 1 }, "Invalid event: it has an unknown field 'type': its fields are event (its type), data (sent as JSON), raw (sent as it is), id, retry, comment")
  refused(t, { data: 1, Id: 1 }, /unknown field 'Id'/, 'names are exact')
  refused(t, { data: 1, extra: undefined }, /unknown field 'extra'/)
  refused(t, ['data'], 'Invalid event: got an array of 1: yield its events one by one (yield * array), or all of it as one, { data: array }')
  refused(t, Buffer.from('data: 1\n\n'), /got bytes: yield \{ raw: text \}/, 'bytes are no event')
  refused(t, { ['x'.repeat(1_000)]: 1 }, /^.{0,180}$/, 'a long name is cut')
  refused(t, Object.create({ oops: 1 }, { data: { value: 1, enumerable: true } }), /unknown field 'oops'/, 'an inherited one too')
})

t.test('fields may be inherited, or undefined', async (t) => {
  t.equal(encode(Object.create({ id: 5, data: 1 })), 'id: 5\ndata: 1\n\n')
  t.equal(encode({ event: undefined, data: 1, raw: undefined, id: undefined, retry: undefined, comment: undefined }), 'data: 1\n\n')
  t.equal(encode(Object.assign(Object.create(null), { data: 1 })), 'data: 1\n\n')
})

t.test('event: a string without line ends that UTF-8 can carry', async (t) => {
  for (const event of [null, 5, {}, Symbol('e'), () => {}, ['e']]) refused(t, { event, data: 1 }, /: 'event' must be a string, got /)
  for (const event of ['\n', 'a\rb', 'a\r\nid: 1', 'x\n\ndata: forged']) {
    refused(t, { event, data: 1 }, "Invalid event: 'event' has a line end (CR or LF)")
  }
  refused(t, { event: LONE, data: 1 }, /: 'event' has a lone surrogate/)
  t.equal(encode({ event: 'é :\0\u2028\u0085😀', data: 1 }), 'event: é :\0\u2028\u0085😀\ndata: 1\n\n', 'all else is allowed')
  t.equal(encode({ event: ' message', data: 1 }), 'event:  message\ndata: 1\n\n', 'its own space is kept')
  t.equal(encode({ event: 'Message', data: 1 }), 'event: Message\ndata: 1\n\n')
})

t.test('id: a string, a finite number or a bigint, without line ends and NUL', async (t) => {
  for (const id of [null, NaN, Infinity, -Infinity, {}, true, ['1'], () => 1, Symbol('1'), new Date(0)]) {
    refused(t, { id, data: 1 }, /: 'id' must be a string, a finite number or a bigint, got /)
  }
  for (const id of ['\n', '\r', '1\r\n2', '\0', 'a\0b']) refused(t, { id }, "Invalid event: 'id' has a line end (CR or LF) or a NUL")
  refused(t, { id: 'a\udc00' }, /: 'id' has a lone surrogate, which UTF-8 cannot carry/)
  const ids: [string | number | bigint, string][] = [
    [-1, '-1'], [-0, '0'], [1.5, '1.5'], [0n, '0'], [2n ** 64n, '18446744073709551616'], [' 1', ' 1'], ['é😀', 'é😀'], [':', ':']
  ]
  for (const [id, text] of ids) t.equal(encode({ id }), `id: ${text}\n\n`)
})

t.test('retry: an integer >= 0', async (t) => {
  for (const retry of [-1, 1.5, NaN, Infinity, 2 ** 53, '5', null, 5n, {}, true]) {
    refused(t, { retry, data: 1 }, /: 'retry' must be an integer >= 0 \(ms\), got /)
  }
  t.equal(encode({ retry: -0 }), 'retry: 0\n\n')
  t.equal(encode({ retry: Number.MAX_SAFE_INTEGER }), 'retry: 9007199254740991\n\n', 'digits alone, never an exponent')
})

t.test('comment: any string', async (t) => {
  for (const comment of [null, 5, {}, ['c'], true]) refused(t, { comment, data: 1 }, /: 'comment' must be a string, got /)
  t.equal(encode({ comment: 'a\n\ndata: forged' }), ': a\n: \n: data: forged\n\n', 'it cannot end its own block')
})

t.test('raw: a string that UTF-8 can carry, and no data beside it', async (t) => {
  for (const raw of [null, 5, {}, Buffer.from('x'), ['x'], true, 5n]) refused(t, { raw }, /: 'raw' must be a string, got /)
  refused(t, { raw: 'a' + LONE }, /: 'raw' has a lone surrogate/)
  refused(t, 'a' + LONE, /: 'raw' has a lone surrogate/, 'nor in a bare string')
  for (const data of [1, null, '', 'x']) refused(t, { data, raw: 'x' }, /: it has both 'data' and 'raw'/)
  t.equal(encode({ raw: '\0\u2028😀', data: undefined }), 'data: \0\u2028😀\n\n')
})

t.test('data: anything that has a JSON text', async (t) => {
  t.equal(encode({ data: LONE }), 'data: "\\ud800"\n\n', 'a lone surrogate is carried, escaped')
  t.equal(encode({ data: new Date(0) }), 'data: "1970-01-01T00:00:00.000Z"\n\n')
  t.equal(encode({ data: { a: undefined, b: () => {}, c: [undefined] } }), 'data: {"c":[null]}\n\n', 'as JSON.stringify does')
  t.equal(encode({ data: NaN }), 'data: null\n\n')
  const without: [unknown, string][] = [
    [() => {}, 'function'], [Symbol('s'), 'symbol'], [{ toJSON () {} }, 'object']
  ]
  for (const [data, type] of without) refused(t, { data }, new RegExp(`${type}.*has no JSON`))
  for (const [data, why] of [[1n, 'BigInt'], [{ a: [1n] }, 'BigInt'], [cycle, 'circular'], [[cycle], 'circular']] as const) {
    refused(t, { id: 1, data }, new RegExp(`: its data cannot be serialised as JSON \\(.*${why}.*\\)$`))
  }
  refused(t, { data: { get a () { throw new Error('boom') } } }, /: its data cannot be serialised as JSON \(boom\)$/)
})

t.test('a message is one line, whatever broke the rule', async (t) => {
  for (const event of [{ data: cycle }, { id: 'a\nb' }, { event: ['a\nb'] }, { retry: 'a\nb' }]) {
    t.throws(() => encode(event), { code: 'FST_SSE_INVALID_EVENT', message: /^.*$/ })
  }
})

t.test('what came is told by its kind, never by its content', async (t) => {
  class Account { owner = 'secret' }
  const told: [unknown, string][] = [
    [null, 'null'], [undefined, 'undefined'], [[1, 'secret'], 'an array of 2'], [{ password: 'secret' }, 'an object (Object)'],
    [new Account(), 'an object (Account)'], [Object.create(null), 'an object (no prototype)'],
    [new Error('secret'), 'an object (Error)'], ['a"b\n', 'the string "a\\"b\\n"'],
    ['x'.repeat(40), `the string "${'x'.repeat(40)}"`], ['x'.repeat(41), `the string "${'x'.repeat(39)}…"`]
  ]
  for (const [value, expected] of told) t.equal(describe(value), expected)
})

t.test('an object cannot say what it is called by a property of its own', async (t) => {
  for (const name of ['secret', { toString: () => 'secret' }, Symbol('secret')]) {
    const own = { constructor: { name } }
    t.equal(describe(own).includes('secret'), false)
    refused(t, { id: own }, /: 'id' must be a string, a finite number or a bigint, got an object/)
  }
  t.notMatch(describe(class { static name () { return 'secret' } }), 'secret')
})
