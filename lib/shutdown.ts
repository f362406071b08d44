/** The open streams of a server that closes: each is ended in its time, and none can hold the server up. */
import type { Connection } from './connection.ts'
import type { Http2Connection } from './http2-connection.ts'
import { retryFrame } from './frame.ts'
import { drawReturn } from './durations.ts'

/** How long an ended response may take to be read, in ms, before its connection is broken off. */
export const GRACE = 1_000

/**
 * Ends the streams spread over `ms`, each with a reconnection time that brings its client back after this server is
 * gone, whatever the others do (one that found it still closing would be answered 503, and an EventSource gives up on that
 * for good), and not all at once. Always resolves, at the latest GRACE after `ms`.
 */
export async function endAll (connections: ReadonlySet<Connection>, ms: number): Promise<void> {
  const all = [...connections]
  const shared = new Set(all.map(({ http2Connection }) => http2Connection).filter((each) => each !== undefined))
  const open = all.filter((connection) => connection.reason === undefined)
  const timers = open.map((connection, index) => {
    const delay = Math.floor(ms * index / open.length)
    const over = ms + GRACE - delay
    return setTimeout(() => connection.shutDown(retryFrame(over + drawReturn(connection.options.retry))), delay)
  })
  const deadline = new Promise<void>((resolve) => {
    timers.push(setTimeout(() => {
      for (const each of [...all, ...shared]) each.breakOff()
      resolve()
    }, ms + GRACE))
  })
  await Promise.race([allRead(all, shared), deadline])
  for (const timer of timers) clearTimeout(timer)
}

/** The streams are gone, and what is left of them on connections that have others is read. */
async function allRead (connections: readonly Connection[], shared: ReadonlySet<Http2Connection>): Promise<void> {
  await Promise.all(connections.map((connection) => new Promise<void>((resolve) => connection.onceGone(resolve))))
  await Promise.all([...shared].map((each) => each.read()))
}
