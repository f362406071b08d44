/** A way between clients and a server that a test has in its hand: what passes, when, and until when. */
import { once } from 'node:events'
import net, { type AddressInfo, type Socket } from 'node:net'
import type { Test } from 'tap'

/** One connection through a proxy. */
export interface Way {
  readonly client: Socket
  readonly server: Socket
  /** What was passed on already reaches the server, though the client is gone. */
  lingers: boolean
}

/** What stands between clients and a server. It passes everything on at once, unless `pass` is another function. */
export class Proxy {
  port = 0
  /** Connections that were made. */
  count = 0
  readonly ways = new Set<Way>()
  pass: (way: Way, to: 'client' | 'server', bytes: Buffer) => void = (way, to, bytes) => { way[to].write(bytes) }

  take (client: Socket, port: number): void {
    const way: Way = { client, server: net.connect(port, '127.0.0.1').setNoDelay(), lingers: false }
    this.count++
    this.ways.add(way)
    client.setNoDelay()
    client.on('error', () => {}).on('data', (bytes) => this.pass(way, 'server', bytes))
    way.server.on('error', () => {}).on('data', (bytes) => this.pass(way, 'client', bytes))
    client.on('close', () => {
      this.ways.delete(way)
      if (!way.lingers) way.server.destroy()
    })
    way.server.on('close', () => client.destroy())
  }

  cut ({ client, server }: Way): void {
    client.destroy()
    server.destroy()
  }

  /** From here on nothing that the server sends is read. */
  stall (): void {
    for (const { server } of this.ways) server.pause()
  }

  cutAll (): void {
    for (const way of this.ways) this.cut(way)
  }
}

/** A proxy that is gone after the test. */
export async function startProxy (t: Test, { port }: { port: number }): Promise<Proxy> {
  const proxy = new Proxy()
  const server = net.createServer((client) => proxy.take(client, port)).listen(0, '127.0.0.1')
  await once(server, 'listening')
  proxy.port = (server.address() as AddressInfo).port
  t.after(() => {
    server.close()
    for (const way of proxy.ways) {
      way.lingers = false
      proxy.cut(way)
    }
  })
  return proxy
}
