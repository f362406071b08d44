/** The side of a process that takes orders: `{ id, order, with }` comes, `{ id, answer }` or `{ id, error }` goes. */

/** @param orders name to function, which may return a promise of the answer */
export function serveOrders (orders) {
  // The error of sending to somebody who has gone is none: 'disconnect' follows.
  const send = (message) => process.send(message, () => {})
  process.on('message', async ({ id, order, with: how }) => {
    try {
      send({ id, answer: await orders[order](how) })
    } catch (error) {
      send({ id, error: error.stack })
    }
  })
  // Whoever gave the orders has gone. Open connections, of which there may be thousands, are not waited for.
  process.once('disconnect', () => process.exit())
  if (!process.connected) process.exit()
}
