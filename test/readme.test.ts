/**
 * The programs in README.md and docs/*.md: each compiles, runs, and answers its own routes. A block of `ts` or `js` is a
 * whole program that ends by itself or listens on port 3000. A comment on the line before it says otherwise:
 * `<!-- test: types -->` is compiled, not run; `<!-- test: runs -->` must end by itself; `<!-- test: browser -->` is `js` for
 * a page, of which no more is checked here than that it can be parsed. Programs that look for REDIS_URL are given a Redis.
 */
import { fork, spawnSync, type ChildProcess } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import ts from 'typescript'
import { noRedis, startRedis } from './redis-server.ts'

// Some forty programs, one after the other.
t.setTimeout(600_000)
const TIME_LIMIT = 20_000

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const tsc = join(root, 'node_modules/typescript/bin/tsc')

/** The environment for programs: tap, which puts itself into every child process, must not count what they run in `dist`. */
const env: NodeJS.ProcessEnv = { ...process.env, _TAPJS_PROCESSINFO_COVERAGE_: '0', PORT: '0' }

type Mode = 'auto' | 'browser' | 'types' | 'runs'

interface Block {
  /** File and line, as editors and compilers write it. */
  at: string
  language: 'ts' | 'js'
  mode: Mode
  code: string
}

function extract (file: string, markdown: string): Block[] {
  const lines = markdown.split(/\r?\n/)
  const blocks: Block[] = []
  for (let line = 0; line < lines.length; line++) {
    const [, indent, fence, language] = /^( *)(`{3,}|~{3,}) *([\w-]*)/.exec(lines[line]!) ?? []
    if (fence === undefined) continue
    const at = `${file}:${line + 1}`
    const directive = /^ *<!-- *test: *(.*?) *-->$/.exec(lines[line - 1] ?? '')?.[1]
    const end = lines.findIndex((text, index) => index > line && text.trim() === fence)
    if (end === -1) throw new Error(`${at}: this block does not end`)
    const code = lines.slice(line + 1, end).map((text) => text.slice(indent!.length)).join('\n')
    if (/^([cm]?[jt]sx?|(java|type)script|node)$/i.test(language!)) {
      if (language !== 'ts' && language !== 'js') throw new Error(`${at}: write it as \`ts\` or \`js\`, so that it is tested`)
      const mode = directive ?? 'auto'
      if (!/^(auto|browser|types|runs)$/.test(mode)) throw new Error(`${at}: a test is 'browser', 'types' or 'runs', not '${mode}'`)
      if (mode === 'types' && language === 'js') throw new Error(`${at}: only \`ts\` has types to check`)
      if (mode === 'browser' && language === 'ts') throw new Error(`${at}: browsers run no \`ts\``)
      blocks.push({ at, language, mode: mode as Mode, code })
    } else if (directive !== undefined) {
      throw new Error(`${at}: only \`ts\` and \`js\` can be tested`)
    }
    line = end
  }
  return blocks
}

/** A folder of programs, below the root, from where 'fastify-typed-sse' is this package itself: its `dist`. */
class Programs {
  readonly #folder: string
  readonly #preload: string

  constructor (folder: string) {
    this.#folder = folder
    this.#preload = join(folder, 'preload.mjs')
    writeFileSync(this.#preload, PRELOAD)
  }

  /** The compiler's complaints about all blocks, each with the block and the line that it is about. */
  typeErrors (blocks: Block[]): string[] {
    const files = new Map(blocks.filter(({ language }) => language === 'ts')
      .map((block) => [this.#write(block, sourceEnding(block), block.code), block]))
    if (files.size === 0) return []
    const compilerOptions = {
      target: 'es2023',
      module: 'nodenext',
      moduleDetection: 'force',
      strict: true,
      skipLibCheck: true,
      types: ['node'],
      noEmit: true
    }
    writeFileSync(join(this.#folder, 'tsconfig.json'), JSON.stringify({ compilerOptions, files: [...files.keys()] }))
    const { stdout, stderr } = spawnSync(process.execPath, [tsc, '-p', this.#folder, '--pretty', 'false'], {
      cwd: this.#folder, env, encoding: 'utf8'
    })
    return (stdout + stderr).split('\n').filter((line) => line !== '').map((line) => {
      const [, file, at, message] = /^(.+?)\((\d+),\d+\): (.*)$/.exec(line) ?? []
      const block = file === undefined ? undefined : files.get(join(this.#folder, file))
      if (block === undefined) return line
      const [name, start] = block.at.split(':') as [string, string]
      return `${name}:${Number(start) + Number(at)}: ${message}`
    })
  }

  /** What is wrong with the program when it runs; undefined if it does what it should. */
  async fault (block: Block): Promise<string | undefined> {
    const ending = sourceEnding(block)
    const code = block.code.replaceAll(/\bport: 3000\b/g, 'port: 0')
    const file = this.#write(block, ending.replace('t', 'j'), block.language === 'js' ? code : transpile(code, ending))
    const child = fork(file, { cwd: this.#folder, env, execArgv: ['--import', this.#preload], silent: true })
    const output = Promise.all([text(child.stdout!), text(child.stderr!)])
    const exited = new Promise<number | null>((resolve) => child.once('exit', resolve))
    const timer = setTimeout(() => child.kill('SIGKILL'), TIME_LIMIT)
    const fault = await judge(block, child, exited)
    clearTimeout(timer)
    child.kill('SIGKILL')
    await exited
    return fault === undefined ? undefined : [`${block.at}: ${fault}`, ...await output].join('\n').trim()
  }

  #write ({ at }: Block, ending: string, code: string): string {
    const file = join(this.#folder, at.replaceAll(/\W+/g, '-') + ending)
    writeFileSync(file, code)
    return file
  }
}

function sourceEnding ({ language, code }: Block): '.mts' | '.cts' {
  const commonjs = language === 'js'
    ? /\brequire\(/.test(code) && !/^import /m.test(code)
    : /^import \w+ = require\(/m.test(code)
  return commonjs ? '.cts' : '.mts'
}

/** Why this cannot be parsed. */
function syntaxErrors (code: string): string[] {
  const { diagnostics } = ts.transpileModule(code, { reportDiagnostics: true, fileName: 'block.js' })
  return diagnostics!.map(({ messageText }) => ts.flattenDiagnosticMessageText(messageText, '\n'))
}

/** Promises of `publish` that a timer leaves to themselves: rejected, as by a broker that is away, they end the process. */
function uncaught (code: string): string[] {
  const file = ts.createSourceFile('block.ts', code, ts.ScriptTarget.ES2023, true)
  const found: string[] = []
  const visit = (node: ts.Node, inTimer: boolean): void => {
    if (inTimer && isCallOf(node, /\.publish$/) && !isCallOf(node.parent.parent, /\.catch$/)) found.push(node.getText())
    const timer = inTimer || isCallOf(node, /^set(Interval|Timeout|Immediate)$/)
    ts.forEachChild(node, (child) => visit(child, timer))
  }
  visit(file, false)
  return found
}

function isCallOf (node: ts.Node, name: RegExp): boolean {
  return ts.isCallExpression(node) && name.test(node.expression.getText().trim())
}

function transpile (code: string, ending: string): string {
  const module = ending === '.cts' ? ts.ModuleKind.CommonJS : ts.ModuleKind.ESNext
  return ts.transpileModule(code, { compilerOptions: { target: ts.ScriptTarget.ES2023, module } }).outputText
}

/** Runs in each program: its parent learns where a Fastify app listens, and which GET routes it has. */
const PRELOAD = `
import { subscribe } from 'node:diagnostics_channel'
subscribe('fastify.initialization', ({ fastify }) => {
  const urls = []
  const posts = []
  fastify.addHook('onRoute', ({ method, url }) => {
    if ([method].flat().includes('GET')) urls.push(url)
    if ([method].flat().includes('POST')) posts.push(url)
  })
  fastify.addHook('onListen', async () => {
    process.send({ port: fastify.server.address().port, urls, posts })
  })
})`

interface Listening { port: number, urls: string[], posts: string[] }

async function judge ({ mode, code }: Block, child: ChildProcess, exited: Promise<number | null>): Promise<string | undefined> {
  if (mode === 'auto') {
    const message = new Promise<Listening>((resolve) => child.once('message', (message) => resolve(message as Listening)))
    const listening = await Promise.race([message, exited])
    if (listening !== null && typeof listening === 'object') {
      try {
        return await routesFault(listening, code.includes('.sse('))
      } catch {
        // It does not answer. That is right if it is just ending by itself.
      }
    }
  }
  const status = await exited
  if (status === null) return `it was still running after ${TIME_LIMIT} ms, without ${mode === 'auto' ? 'answering' : 'an end'}`
  return status === 0 ? undefined : `it has ended with ${status}`
}

async function routesFault ({ port, urls, posts }: Listening, streams: boolean): Promise<string | undefined> {
  let streamed = false
  for (const url of urls) {
    const path = url.replace(/:\w+/g, '1').replace('*', '')
    const address = `http://127.0.0.1:${port}${path}`
    const answer = fetch(address, { headers: { accept: 'text/event-stream' } })
    // With other libraries the head may wait for the first event: it is asked for after a while, and no sooner as few need it.
    const timer = setTimeout(() => { if (posts.includes(url)) post(address).catch(() => {}) }, 1_000)
    const response = await answer.finally(() => clearTimeout(timer))
    // A route that is guarded says so to those who show nothing.
    if (response.status === 401) streamed = true
    else if (!response.ok) return `GET ${path} is answered with ${response.status}: ${await response.text()}`
    if (/^text\/event-stream(;|$)/.test(response.headers.get('content-type') ?? '')) streamed = true
    await response.body?.cancel()
  }
  return streams && urls.length > 0 && !streamed ? 'no GET route is answered with an event stream' : undefined
}

function post (address: string): Promise<Response> {
  return fetch(address, { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{}' })
}

/** The newest of these files, in milliseconds. */
function newest (paths: string[]): number {
  return Math.max(...paths.map((path) => statSync(path).mtimeMs))
}

/** `npm test` builds before it tests; whoever runs this file alone may not have. */
function freshenDist (): void {
  const { config } = ts.readConfigFile(join(root, 'tsconfig.json'), (path) => ts.sys.readFile(path))
  const { fileNames } = ts.parseJsonConfigFileContent(config, ts.sys, root)
  const built = join(root, 'dist/index.js')
  if (existsSync(built) && newest(fileNames) <= statSync(built).mtimeMs) return
  const { status, stdout } = spawnSync(process.execPath, [tsc], { cwd: root, env, encoding: 'utf8' })
  if (status !== 0) throw new Error(`the build fails:\n${stdout}`)
}

freshenDist()

const SAMPLE = `# Sample

\`\`\`sh
npm test
\`\`\`
\`\`\`js
await 1
\`\`\`

1. In a list
   <!-- test: types -->
   ~~~ts
   const a: string[] = [
     '\`\`\`'
   ]
   ~~~

<!-- test: browser -->
\`\`\`\`js
\`\`\`
\`\`\`\`
`

t.test('blocks are found with their lines, languages and marks', async (t) => {
  t.strictSame(extract('a.md', SAMPLE), [
    { at: 'a.md:6', language: 'js', mode: 'auto', code: 'await 1' },
    { at: 'a.md:12', language: 'ts', mode: 'types', code: "const a: string[] = [\n  '```'\n]" },
    { at: 'a.md:19', language: 'js', mode: 'browser', code: '```' }
  ])
  t.throws(() => extract('a.md', '```ts\n1'), { message: 'a.md:1: this block does not end' })
  t.throws(() => extract('a.md', '```typescript\n```'), { message: 'a.md:1: write it as `ts` or `js`' })
  t.throws(() => extract('a.md', '\n<!-- test: type -->\n```ts\n```'), { message: "a.md:3: a test is 'browser'" })
  t.throws(() => extract('a.md', '<!-- test: runs -->\n```sh\n```'), { message: 'a.md:2: only `ts` and `js` can be tested' })
})

/** A server with the plugin, whose one route does this. */
const server = (handler: string, end = '') => `import Fastify from 'fastify'
import sse from 'fastify-typed-sse'
const app = Fastify()
await app.register(sse)
app.get('/x/:id', async (request, reply) => ${handler})
await app.listen({ port: 3000 })
${end}`

t.test('what does not work is told', async (t) => {
  const programs = new Programs(t.testdir())
  const fault = (code: string, mode: Mode = 'auto', language: 'ts' | 'js' = 'ts') =>
    programs.fault({ at: `${mode}.md:1`, language, mode, code })

  t.equal(await fault(server('reply.sse([{ data: 1 }])')), undefined)
  t.equal(await fault(server('reply.sse([{ data: 1 }])', 'await app.close()'), 'runs'), undefined)
  t.equal(await fault('export {}\nconst n: number = 1\nif (n !== 1) process.exit(2)'), undefined)
  const commonjs = "const sse = require('fastify-typed-sse')\nif (typeof sse !== 'function') throw sse"
  t.equal(await fault(commonjs, 'auto', 'js'), undefined)
  t.match(await fault('process.exit(3)'), /^auto\.md:1: it has ended with 3$/)
  t.match(await fault("throw new Error('broken')", 'runs', 'js'), /^runs\.md:1: it has ended with 1\n[^]*broken/)
  t.match(await fault(server("reply.sse([{ event: 'a\\nb' }])")), /GET \/x\/1 is answered with 500: .*FST_SSE_INVALID_EVENT/)
  t.match(await fault(server("'text'", '// reply.sse()')), /no GET route is answered with an event stream/)
  t.strictSame(programs.typeErrors([
    { at: 'a.md:10', language: 'ts', mode: 'types', code: "import sse from 'fastify-typed-sse'\nsse()" },
    { at: 'c.md:30', language: 'ts', mode: 'auto', code: 'const a: string = 1' }
  ]).map((line) => line.replace(/: error.*/, '')), ['a.md:12', 'c.md:31'])
})

const files = ['README.md', ...existsSync(join(root, 'docs'))
  ? readdirSync(join(root, 'docs')).filter((name) => name.endsWith('.md')).map((name) => `docs/${name}`)
  : []]

const programs = new Programs(t.testdir())
const blocksOf = new Map(files.map((file) => [file, extract(file, readFileSync(join(root, file), 'utf8'))]))

t.test('all programs compile', async (t) => {
  t.ok(blocksOf.get('README.md')!.some(({ mode }) => mode === 'auto'), 'the README has some')
  // All at once: the compiler takes longer to read the libraries than to check a program.
  t.strictSame(programs.typeErrors([...blocksOf.values()].flat()), [])
})

t.test('no timer leaves a promise of publish to itself', async (t) => {
  t.strictSame(uncaught('setInterval(() => a.publish(1), 1)'), ['a.publish(1)'])
  t.strictSame(uncaught('setTimeout(async () => { await a.publish(1) })'), ['a.publish(1)'], 'whom nobody awaits either')
  t.strictSame(uncaught('setTimeout(() => { a.publish(1).catch(log) })\nawait a.publish(2)'), [])
  for (const { at, code } of [...blocksOf.values()].flat()) t.strictSame(uncaught(code), [], at)
  for (const file of files) t.notMatch(readFileSync(join(root, file), 'utf8'), /`set\w+\((?:(?!catch)[^`])*\.publish\((?:(?!catch)[^`])*`/, file)
})

t.test('what is for browsers can be parsed', async (t) => {
  t.strictSame(syntaxErrors('const a ='), ['Expression expected.'])
  for (const { at, mode, code } of [...blocksOf.values()].flat()) {
    if (mode === 'browser') t.strictSame(syntaxErrors(code), [], at)
  }
})

for (const [file, blocks] of blocksOf) {
  t.test(`the programs of ${file} run`, async (t) => {
    const needsRedis = ({ code }: Block) => code.includes('REDIS_URL')
    if (noRedis === false && blocks.some(needsRedis)) env.REDIS_URL = `redis://127.0.0.1:${(await startRedis(t)).port}`
    for (const block of blocks) {
      const skip = needsRedis(block) ? noRedis : false
      if (block.mode === 'auto' || block.mode === 'runs') t.equal(await programs.fault(block), undefined, block.at, { skip })
    }
  })
}
