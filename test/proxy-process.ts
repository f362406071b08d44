/** Real proxies for the tests, each in a folder and a process of its own, configured by what docs/operations.md says. */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import type { Test } from 'tap'
import { demand } from './needs.mjs'

const docs = readFileSync(new URL('../docs/operations.md', import.meta.url), 'utf8')

/** A block of the docs, as somebody would copy it. */
export function documented (language: 'nginx' | 'haproxy' | 'http'): string {
  return new RegExp(`^\`\`\`${language}\\n([^]*?)^\`\`\`$`, 'm').exec(docs)![1]!
}

export class ProxyProcess {
  /** For its files. */
  readonly folder = mkdtempSync(join(tmpdir(), 'proxy-'))
  readonly #command: 'nginx' | 'haproxy'
  readonly #port: number
  #process: ChildProcess | undefined
  #output = ''

  /** @param port one on which it will listen */
  constructor (command: 'nginx' | 'haproxy', port: number) {
    this.#command = command
    this.#port = port
  }

  /** Writes a file into its folder. */
  write (name: string, text: string): string {
    const path = join(this.folder, name)
    writeFileSync(path, text)
    return path
  }

  /** With the configuration that was written as `conf`. */
  async start (): Promise<void> {
    const conf = join(this.folder, 'conf')
    const args = this.#command === 'nginx' ? ['-p', this.folder, '-c', conf, '-e', 'stderr'] : ['-W', '-db', '-f', conf]
    const child = this.#process = spawn(this.#command, args, { stdio: ['ignore', 'pipe', 'pipe'] })
    for (const stream of [child.stdout!, child.stderr!]) stream.on('data', (text) => { this.#output += text })
    while (!await canConnect(this.#port)) {
      if (child.exitCode !== null) throw new Error(this.#output)
      await pause(10)
    }
  }

  /** New workers take over; the old ones go when their time is over. */
  reload (): void {
    this.#process!.kill(this.#command === 'nginx' ? 'SIGHUP' : 'SIGUSR2')
  }

  /** With whatever it has open. */
  async stop (): Promise<void> {
    const child = this.#process
    this.#process = undefined
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return
    child.kill('SIGTERM')
    await once(child, 'exit')
  }

  async end (): Promise<void> {
    await this.stop()
    rmSync(this.folder, { recursive: true, force: true })
  }
}

function canConnect (port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = net.connect(port, '127.0.0.1').on('error', () => resolve(false)).on('connect', () => {
      socket.destroy()
      resolve(true)
    })
  })
}

/** What a configuration of nginx needs around servers, so that it runs beside others and as anybody. */
export function nginxAround (servers: string): string {
  return `daemon off;
pid nginx.pid;
worker_processes 1;
worker_shutdown_timeout 1s;
${process.getuid?.() === 0 ? 'user root;' : ''}
events { worker_connections 512; }
http {
  access_log off;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
  ${servers}
}
`
}

/** Below those that a system gives to clients, so that nobody takes it while it is to be bound again. */
export async function quietPort (): Promise<number> {
  for (;;) {
    const port = 10_000 + Math.floor(Math.random() * 20_000)
    const server = net.createServer()
    const isFree = await new Promise<boolean>((resolve) => {
      server.on('error', () => resolve(false)).listen(port, '127.0.0.1', () => resolve(true))
    })
    if (!isFree) continue
    server.close()
    await once(server, 'close')
    return port
  }
}

/** A proxy that is gone after the test. */
export async function startProxyProcess (
  t: Test, command: 'nginx' | 'haproxy', port: number, configure: (proxy: ProxyProcess) => string
): Promise<ProxyProcess> {
  demand(command)
  const proxy = new ProxyProcess(command, port)
  t.after(() => proxy.end())
  proxy.write('conf', configure(proxy))
  await proxy.start()
  return proxy
}
