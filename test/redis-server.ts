/** Redis servers of the tests' own: each on a free port, with its files in a folder of its own, gone after the test. */
import { spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import net, { type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Test } from 'tap'

/** Why tests that need a server are left out; false: they are not. */
export const noRedis = spawnSync('redis-server', ['--version']).status === 0
  ? false
  : 'redis-server is missing: apt-get install redis-server'

export class RedisServer {
  readonly port: number
  readonly #options: string[]
  readonly #folder = mkdtempSync(join(tmpdir(), 'redis-'))
  #process: ChildProcess | undefined

  constructor (port: number, options: string[]) {
    this.port = port
    this.#options = options
  }

  async start (): Promise<void> {
    const args = ['--port', String(this.port), '--bind', '127.0.0.1', '--dir', this.#folder, '--save', '', ...this.#options]
    const child = this.#process = spawn('redis-server', args, { stdio: ['ignore', 'pipe', 'inherit'] })
    let output = ''
    for await (const chunk of child.stdout!) {
      output += chunk
      if (output.includes('Ready to accept connections')) break
      if (output.includes('Fatal') || child.exitCode !== null) throw new Error(output)
    }
    child.stdout!.resume()
  }

  /** Without giving it any time to save. */
  async kill (): Promise<void> {
    const child = this.#process
    this.#process = undefined
    if (child === undefined || child.exitCode !== null) return
    child.kill('SIGKILL')
    await once(child, 'exit')
  }

  /** It is there, but answers nobody. */
  stop (): void {
    this.#process!.kill('SIGSTOP')
  }

  goOn (): void {
    this.#process!.kill('SIGCONT')
  }

  async end (): Promise<void> {
    await this.kill()
    rmSync(this.#folder, { recursive: true, force: true })
  }
}

/** A server that is gone after the test. It keeps nothing on disk, unless options say so. */
export async function startRedis (t: Test, ...options: string[]): Promise<RedisServer> {
  const server = new RedisServer(await freePort(), options)
  t.after(() => server.end())
  await server.start()
  return server
}

export async function freePort (): Promise<number> {
  const server = net.createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}
