/** No server: only what ours does with an event before it is sent, and JSON.stringify. */
import { Type } from '@sinclair/typebox'
import { encodeEvent } from '../../dist/lib/encoder.js'
import { compilePayloads } from '../../dist/lib/payload.js'
import { dataOfSize, EVENT_TYPE, PUBLISHED_SIZE } from '../event.js'
import { serveOrders } from '../processes/orders.js'

const payloads = compilePayloads({ [EVENT_TYPE]: Type.Object({ symbol: Type.String(), text: Type.String() }) }, {})

/** Several hundred, of about that size, none like the other: what is always the same could be worked out once. */
const all = Array.from({ length: 500 }, (_, n) => {
  const { text } = dataOfSize(PUBLISHED_SIZE)
  return { symbol: `S${n}`, text: `${text.slice(0, -3)}${n}` }
})

/** Its result is used, lest it be left out. */
function timeOf (times, task) {
  let length = 0
  const start = process.hrtime.bigint()
  for (let n = 0; n < times; n++) length += task(all[n % all.length]).length
  return { nanoseconds: Number(process.hrtime.bigint() - start) / times, length }
}

serveOrders({
  encode: ({ times }) => timeOf(times, (data) => encodeEvent({ event: EVENT_TYPE, data }, payloads)),
  stringify: ({ times }) => timeOf(times, (data) => JSON.stringify(data))
})
