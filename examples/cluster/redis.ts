/** A redis-server of the demo's own: on a free port of this machine, with its files in a temporary folder. */
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import net, { type AddressInfo } from 'node:net'
import type { Spawn } from './member.ts'

export function isInstalled (): boolean {
  return spawnSync('redis-server', ['--version']).status === 0
}

export async function freePort (): Promise<number> {
  const server = net.createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}

/** It writes down what it is given before it confirms that: so it can be killed, and loses nothing. */
export function redisServer (port: number, folder: string): Spawn {
  const options = ['--port', String(port), '--bind', '127.0.0.1', '--dir', folder, '--save', '',
    '--appendonly', 'yes', '--appendfsync', 'always']
  return (ready) => {
    const child = spawn('redis-server', options, { stdio: ['ignore', 'pipe', 'inherit'] })
    child.stdout.on('data', (lines: Buffer) => {
      if (lines.includes('Ready to accept connections')) ready(port)
    })
    return child
  }
}
