/**
 * The event that all servers send. Its text begins with '~', which is nowhere else in a stream, so that clients can count
 * events by that byte, however the stream is cut into chunks.
 */
export const MARK = '~'

export const EVENT_TYPE = 'price'

/** What there is around the text, in a block without ID. */
const FRAME = blockOf(dataOf('')).length

function dataOf (text) {
  return { symbol: 'AAPL', text }
}

/** An event's data, new each time, as that of a real event would be. */
export function dataOfSize (blockSize) {
  return dataOf(MARK.padEnd(blockSize - FRAME, 'x'))
}

export function blockOf (data) {
  return `event: ${EVENT_TYPE}\ndata: ${JSON.stringify(data)}\n\n`
}

/** The block sizes of what is published to many, and of what a source of its own yields. */
export const PUBLISHED_SIZE = 127
export const YIELDED_SIZE = 200

/** What the ordinary route answers, about 1 KB; it ends in the mark too, so that answers can be counted. */
export const ORDINARY_ANSWER = {
  items: Array.from({ length: 16 }, (_, n) => ({ id: n, symbol: `SYM${n}`, price: 100 + n / 4, currency: 'USD' })),
  end: MARK
}
