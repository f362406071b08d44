/** Processes of the test's own: they run the sources, compiled once, as a loader in each of them would take half a minute. */
import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'
import ts from 'typescript'
import { Caller } from './caller.ts'
import type { Told } from './serve.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const compilerOptions = {
  target: ts.ScriptTarget.ES2023,
  module: ts.ModuleKind.ESNext,
  verbatimModuleSyntax: true,
  rewriteRelativeImportExtensions: true,
  inlineSourceMap: true
}

let built: string | undefined

/** @returns the folder of what was compiled, gone with this process */
function build (): string {
  if (built !== undefined) return built
  const folder = mkdtempSync(join(tmpdir(), 'processes-'))
  process.once('exit', () => rmSync(folder, { recursive: true, force: true }))
  const names = ['lib', 'test/processes'].flatMap((folder) => {
    return readdirSync(join(root, folder), { recursive: true }).map((name) => join(folder, String(name)))
  })
  for (const name of ['index.ts', ...names.filter((name) => name.endsWith('.ts'))]) {
    const { outputText } = ts.transpileModule(readFileSync(join(root, name), 'utf8'), { fileName: join(root, name), compilerOptions })
    const to = join(folder, name.replace(/\.ts$/, '.js'))
    mkdirSync(dirname(to), { recursive: true })
    writeFileSync(to, outputText)
  }
  writeFileSync(join(folder, 'package.json'), '{ "type": "module" }')
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'))
  built = folder
  return folder
}

export class Child {
  /** What it has printed. */
  output = ''
  killed = false
  port = 0
  readonly #process: ChildProcess
  readonly #caller: Caller

  constructor (t: Test, what: 'app' | 'worker', env: NodeJS.ProcessEnv, onTold: (told: Told) => void) {
    this.#process = fork(join(build(), `test/processes/${what}.js`), {
      // Nothing of tap's own environment, which would make it a test.
      env: { PATH: process.env.PATH, _TAPJS_PROCESSINFO_COVERAGE_: '0', ...env },
      execArgv: ['--enable-source-maps'],
      silent: true
    })
    for (const stream of [this.#process.stdout!, this.#process.stderr!]) {
      stream.setEncoding('utf8').on('data', (text: string) => { this.output += text })
    }
    this.#caller = new Caller(this.#process, onTold, () => this.output)
    t.after(() => this.kill())
  }

  async ready (): Promise<this> {
    const exited = once(this.#process, 'exit').then(() => { throw new Error(`it has not started: ${this.output}`) })
    exited.catch(() => {})
    await Promise.race([once(this.#process, 'message'), exited])
    return this
  }

  /** Calls a method that it serves. */
  call (method: string, ...args: unknown[]): Promise<any> {
    return this.#caller.call(method, ...args)
  }

  async kill (): Promise<void> {
    this.killed = true
    if (this.#process.exitCode !== null || this.#process.signalCode !== null) return
    this.#process.kill('SIGKILL')
    await once(this.#process, 'exit')
  }

  get hasExited (): boolean {
    return this.#process.exitCode !== null || this.#process.signalCode !== null
  }
}

/** Some Fastify processes and a worker on one Redis, gone after the test. */
export class Processes {
  readonly apps: Child[] = []
  worker!: Child
  /** What they have told of what they have published. */
  readonly told: Told[] = []
  readonly #t: Test
  readonly #redis: number
  readonly #onTold = (told: Told) => { this.told.push(told) }

  constructor (t: Test, redis: number) {
    this.#t = t
    this.#redis = redis
  }

  static async start (t: Test, redis: number, count: number): Promise<Processes> {
    const processes = new Processes(t, redis)
    const worker = new Child(t, 'worker', { REDIS: String(redis) }, processes.#onTold)
    await Promise.all([worker.ready(), ...Array.from({ length: count }, () => processes.startApp())])
    processes.worker = worker
    return processes
  }

  get ports (): number[] {
    return this.apps.map(({ port }) => port)
  }

  get all (): Child[] {
    return [...this.apps, this.worker]
  }

  async startApp (env: NodeJS.ProcessEnv = {}): Promise<Child> {
    const app = await new Child(this.#t, 'app', { REDIS: String(this.#redis), ...env }, this.#onTold).ready()
    app.port = await app.call('port')
    this.apps.push(app)
    return app
  }

  /** Kills an app, and starts another one on its port. */
  async replace (app: Child): Promise<Child> {
    await app.kill()
    this.apps.splice(this.apps.indexOf(app), 1)
    return this.startApp({ PORT: String(app.port) })
  }

  toldOf (names: readonly string[]): Told[] {
    return this.told.filter(({ name }) => names.includes(name))
  }
}
