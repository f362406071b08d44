/** The bytes of an event stream, exactly. */
import t from 'tap'
import { encodeEvent } from '../lib/encoder.ts'
import { idFrame, KEEP_ALIVE, retryFrame } from '../lib/frame.ts'

const encode = (event: unknown) => encodeEvent(event, undefined)

t.test('data is JSON, on one line', async (t) => {
  t.equal(encode({ data: { a: [1, 'b\n', null] } }), 'data: {"a":[1,"b\\n",null]}\n\n')
  t.equal(encode({ data: 'text' }), 'data: "text"\n\n', 'a string gets quotes')
  t.equal(encode({ data: null }), 'data: null\n\n')
  t.equal(encode({ data: 0 }), 'data: 0\n\n')
  t.equal(encode({ data: '' }), 'data: ""\n\n')
  t.equal(encode({ data: '\u2028\ufeff\0' }), 'data: "\u2028\ufeff\\u0000"\n\n')
})

t.test('raw text is one data line for each of its lines, whichever way they end', async (t) => {
  t.equal(encode({ raw: 'a\nb\rc\r\nd' }), 'data: a\ndata: b\ndata: c\ndata: d\n\n')
  t.equal(encode({ raw: '\r\n\r' }), 'data: \ndata: \ndata: \n\n')
  t.equal(encode({ raw: '' }), 'data: \n\n')
  t.equal(encode(' a: b'), 'data:  a: b\n\n', 'a bare string is raw, and keeps its own space')
})

t.test('fields have their order: id, event, retry, comments, data', async (t) => {
  t.equal(
    encode({ data: 1, comment: 'x\ry', retry: 0, event: 'e', id: 7n }),
    'id: 7\nevent: e\nretry: 0\n: x\n: y\ndata: 1\n\n'
  )
})

t.test('an id that is falsy is sent all the same', async (t) => {
  t.equal(encode({ id: 0 }), 'id: 0\n\n')
  t.equal(encode({ id: '' }), 'id: \n\n', 'resets the last event ID of the client')
})

t.test('the event type message needs no field', async (t) => {
  t.equal(encode({ event: 'message', data: 1 }), 'data: 1\n\n')
  t.equal(encode({ event: '', data: 1 }), 'data: 1\n\n')
})

t.test('blocks that are no events', async (t) => {
  t.equal(KEEP_ALIVE, ':\n\n')
  t.equal(idFrame('1-2'), 'id: 1-2\n\n')
  t.equal(retryFrame(100), 'retry: 100\n\n')
  t.equal(encode({ comment: '' }), ': \n\n')
})
