/** An example in a process of its own, and those who watch it. */
import { EventSource } from 'eventsource'
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import type { Test } from 'tap'
import { buildExamples } from './examples-build.ts'
import { until } from './helpers.ts'

export const built = buildExamples()

/** Starts what an example builds, on a free port, and tells how many streams are open when it is asked. */
const START = `
const { createApp } = await import(process.env.EXAMPLE)
const app = await createApp(process.env.OPTIONS ? JSON.parse(process.env.OPTIONS) : process.stdin)
await app.listen({ port: 0, host: '127.0.0.1' })
process.on('message', () => process.send(app.sse.stats().open))
process.send(app.server.address().port)
`

export interface Process { child: ChildProcess, output: () => string }

export interface Example extends Process {
  port: number
  url: string
  /** Waits until so many streams are open. */
  open: (count: number) => Promise<void>
}

/** A process that is gone after the test. */
export function run (t: Test, args: string[], env: NodeJS.ProcessEnv): Process {
  // tap counts what any child process runs, and dist/ is not what the tests are to cover.
  const child = spawn(process.execPath, args, {
    cwd: built, env: { PATH: process.env.PATH, _TAPJS_PROCESSINFO_COVERAGE_: '0', ...env }, stdio: ['pipe', 'pipe', 'pipe', 'ipc']
  })
  t.after(async () => {
    if (child.exitCode !== null || child.signalCode !== null) return
    child.kill('SIGKILL')
    await once(child, 'exit')
  })
  let output = ''
  for (const stream of [child.stdout!, child.stderr!]) stream.setEncoding('utf8').on('data', (text: string) => { output += text })
  return { child, output: () => output }
}

/** What a process has printed, as soon as it is there. */
export async function printed ({ child, output }: Process, text: RegExp): Promise<string> {
  while (!text.test(output())) {
    if (child.exitCode !== null) throw new Error(`it has ended, and printed ${output()}`)
    await Promise.race([once(child.stdout!, 'data'), once(child.stderr!, 'data'), once(child, 'exit')])
  }
  return text.exec(output())![0]
}

/** @param options that its `createApp` takes; one that takes none is given its standard input */
export async function start (t: Test, name: string, options?: object): Promise<Example> {
  const OPTIONS = options && { OPTIONS: JSON.stringify(options) }
  const example = run(t, ['--input-type=module', '--eval', START], { EXAMPLE: `./${name}.js`, ...OPTIONS })
  const { child, output } = example
  const failed = once(child, 'exit').then(() => { throw new Error(output()) })
  const [port] = await Promise.race([once(child, 'message'), failed])
  failed.catch(() => {})

  async function open (count: number) {
    let open: unknown
    const listen = (value: unknown) => {
      open = value
      if (open !== count) child.send('open?')
    }
    child.on('message', listen).send('open?')
    await until(() => open === count, () => `${count} open streams, of which ${open} are open`)
    child.off('message', listen)
  }
  return { ...example, port, url: `http://127.0.0.1:${port}`, open }
}

/** What somebody sees: event type and data, as they arrive. */
export interface Watcher { source: EventSource, seen: [type: string, data: any][] }

/** An EventSource, gone after the test. Text that is no JSON object is told as it is. */
export function watch (t: Test, url: string, types: string[], headers: Record<string, string> = {}): Watcher {
  const source = new EventSource(url, {
    fetch: (url, init) => fetch(url, { ...init, headers: { ...init.headers, ...headers } })
  })
  t.after(() => source.close())
  const seen: Watcher['seen'] = []
  for (const type of types) {
    source.addEventListener(type, ({ data }) => seen.push([type, /^[[{]/.test(data) ? JSON.parse(data) : data]))
  }
  return { source, seen }
}

export async function opened (source: EventSource): Promise<void> {
  await until(() => source.readyState === EventSource.OPEN)
}

export async function send (method: string, url: string, body: object, headers: Record<string, string> = {}): Promise<Response> {
  return await fetch(url, { method, headers: { 'content-type': 'application/json', ...headers }, body: JSON.stringify(body) })
}

export async function post (url: string, body: object, headers: Record<string, string> = {}): Promise<Response> {
  return await send('POST', url, body, headers)
}
