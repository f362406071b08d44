/**
 * A client that is behind, and stays behind as long as it does not read.
 *
 * A socket that has asked for a pause may ask for more a moment later, though nobody has read: an acknowledgement was under way,
 * or the system has made its buffer larger. Only when the peer's window is shut and nothing is under way is it for the peer to
 * go on; the sender then does nothing but probe that window (RFC 9293, section 3.8.6.1).
 */
import { existsSync, readFileSync } from 'node:fs'
import type { Socket } from 'node:net'
import type { SseChannel, SseConnection } from '../index.ts'
import { turns, until } from './helpers.ts'

/** Linux' table of connections: local and remote address, state, queues, timer. */
const TABLE = '/proc/net/tcp'
const HAS_TABLE = existsSync(TABLE)
/** Where there is no such table, time must tell. */
const TURNS = HAS_TABLE ? 20 : 20_000

/** `app.sse`, for one. */
interface Streams {
  readonly connections: Iterable<SseConnection>
}

/**
 * Feeds clients that do not read until so many are behind for good.
 * @param feed is given a number each time, from 0; what is pulled needs none
 */
export async function untilBehind (streams: Streams, feed: (n: number) => unknown = () => {}, count = 1): Promise<void> {
  const deadline = process.hrtime.bigint() + 10_000_000_000n
  for (let n = 0; await countBehind(streams) < count; n++) {
    if (process.hrtime.bigint() > deadline) throw new Error(`waited 10 s for ${count} clients that are behind`)
    await feed(n)
    await turns(1)
  }
}

/** Publishes until the client is behind that reads this channel, of a history of two events, and has missed some. */
export async function untilLagging (streams: Streams, channel: SseChannel<any>): Promise<void> {
  const publish = async () => {
    await channel.publish({ raw: 'x'.repeat(262_144) })
    // What one turn publishes is a burst, of which nobody misses anything.
    await turns(1)
  }
  await untilBehind(streams, publish)
  for (let n = 0; n < 5; n++) await publish()
}

async function countBehind ({ connections }: Streams): Promise<number> {
  let count = 0
  for (const { behind, request } of connections) {
    if (behind && await isStuck(request.raw.socket)) count++
  }
  return count
}

/** Whether the bytes that a socket holds stay where they are until its peer reads; false once they have gone. */
export async function isStuck (socket: Socket): Promise<boolean> {
  const hasGone = () => socket.writableLength === 0 || socket.destroyed
  for (let shut = 0; shut < 2 && !hasGone(); shut++) {
    await until(() => hasGone() || isShut(socket), () => 'a window that is shut')
    // The peer is in this process, and may have a read to do yet before it pauses.
    await turns(TURNS)
  }
  return !hasGone()
}

/** Whether the window of its peer is shut: the timer that runs is that of the probe. */
function isShut ({ localPort, remotePort }: Socket): boolean {
  const port = (number?: number) => number?.toString(16).toUpperCase().padStart(4, '0')
  const row = new RegExp(`:${port(localPort)} [0-9A-F]+:${port(remotePort)} [0-9A-F]+ [0-9A-F:]+ 04:`)
  return !HAS_TABLE || row.test(readFileSync(TABLE, 'latin1'))
}
