/** The package as npm would publish it: what is in it, and that a project of its own can use it in every way. */
import { execFile } from 'node:child_process'
import {
  copyFileSync, cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync
} from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { publint } from 'publint'
import t from 'tap'
import ts from 'typescript'

// All of it takes about 25 s, most of it in npm, on whose registry it depends.
t.setTimeout(300_000)

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
  version: string
  dependencies: Record<string, string>
  devDependencies: Record<string, string>
  peerDependencies: Record<string, string>
  peerDependenciesMeta: Record<string, { optional?: boolean }>
}

/** Outside of the repository, where its node_modules cannot stand in for what the package lacks. */
const folder = mkdtempSync(join(tmpdir(), 'fastify-typed-sse-'))
t.after(() => rmSync(folder, { recursive: true, force: true }))

/** The environment without what `npm run` has put there for this project, and without tap's coverage. */
const env = {
  ...Object.fromEntries(Object.entries(process.env)
    .filter(([name]) => !/^npm_(package|lifecycle|config_local_prefix)/.test(name))),
  _TAPJS_PROCESSINFO_COVERAGE_: '0'
}

interface Result { status: number, stdout: string, stderr: string }

function run (cwd: string, command: string, ...args: string[]): Promise<Result> {
  return new Promise((resolve) => {
    execFile(command, args, { cwd, env, timeout: 120_000 }, (error, stdout, stderr) => {
      const status = error === null ? 0 : typeof error.code === 'number' ? error.code : 1
      resolve({ status, stdout, stderr: stderr || (error === null ? '' : error.message) })
    })
  })
}

/** Runs what has to succeed. */
async function must (cwd: string, command: string, ...args: string[]): Promise<string> {
  const { status, stdout, stderr } = await run(cwd, command, ...args)
  if (status !== 0) throw new Error(`${command} ${args.join(' ')} failed with ${status}:\n${stdout}\n${stderr}`)
  return stdout
}

/** Packs a copy, as the build of `prepack` must not touch the `dist` that other tests run at the same time. */
async function pack (): Promise<string> {
  const copy = join(folder, 'source')
  const left = new Set(['node_modules', '.git', '.tap', 'dist'])
  cpSync(root, copy, { recursive: true, filter: (path) => !left.has(relative(root, path)) && !path.endsWith('.tgz') })
  symlinkSync(join(root, 'node_modules'), join(copy, 'node_modules'), 'junction')
  mkdirSync(join(copy, 'dist'))
  writeFileSync(join(copy, 'dist/left-over.js'), '')
  await must(copy, 'npm', 'pack', '--pack-destination', folder)
  return join(folder, `fastify-typed-sse-${manifest.version}.tgz`)
}

function write (files: Record<string, string>): void {
  for (const [name, text] of Object.entries(files)) writeFileSync(join(project, name), text)
}

const tarball = await pack()
const project = join(folder, 'project')
mkdirSync(project)
write({ 'package.json': '{ "private": true }' })

const install = ['install', '--no-audit', '--no-fund', '--prefer-offline', '--loglevel=error']

t.test('it holds what was compiled, the docs and the licence, and nothing else', async (t) => {
  const { config } = ts.readConfigFile(join(root, 'tsconfig.json'), (path) => ts.sys.readFile(path))
  const sources = ts.parseJsonConfigFileContent(config, ts.sys, root).fileNames.map((path) => relative(root, path))
  const compiled = sources.flatMap((path) => ['.js', '.d.ts'].map((end) => `dist/${path.replace(/\.ts$/, end)}`))
  const files = (await must(folder, 'tar', '-tzf', tarball)).trim().split('\n').map((path) => path.replace(/^package\//, ''))

  const docs = readdirSync(join(root, 'docs'), { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile())
    .map(({ parentPath, name }) => relative(root, join(parentPath, name)))
  t.strictSame(
    files.sort(),
    [...compiled, ...docs, 'ARCHITECTURE.md', 'CHANGELOG.md', 'LICENSE', 'README.md', 'SECURITY.md', 'package.json'].sort()
  )
  t.strictSame(files.filter((path) => /(^|\/)(test|examples|bench)\/|\.(test|tst)\./.test(path)), [], 'no test is in it')
})

/** As GitHub and npm make it: https://github.com/Flet/github-slugger has their rules. */
function anchorOf (heading: string): string {
  const text = heading.replace(/\[([^\]]*)\]\([^)]*\)/g, '$1').toLowerCase()
  return text.replace(/[^\p{L}\p{M}\p{N}\p{Pc} -]/gu, '').replaceAll(' ', '-')
}

function anchorsOf (markdown: string): string[] {
  const counts = new Map<string, number>()
  const prose = markdown.replaceAll(/^(`{3,}).*\n[^]*?^\1$/gm, '')
  const headings = [...prose.matchAll(/^#+ (.*)$/gm)].map(([, heading]) => {
    const anchor = anchorOf(heading!)
    const count = counts.get(anchor) ?? 0
    counts.set(anchor, count + 1)
    return count === 0 ? anchor : `${anchor}-${count}`
  })
  return [...headings, ...[...prose.matchAll(/<a id="([^"]+)">/g)].map(([, id]) => id!)]
}

t.test('each link in its documents leads to something in it', async (t) => {
  const unpacked = join(folder, 'unpacked')
  mkdirSync(unpacked)
  await must(folder, 'tar', '-xzf', tarball, '-C', unpacked, '--strip-components=1')
  const documents = readdirSync(unpacked, { recursive: true, encoding: 'utf8' }).filter((path) => path.endsWith('.md'))
  const links = documents.flatMap((path) => {
    const prose = readFileSync(join(unpacked, path), 'utf8').replaceAll(/^(`{3,}).*\n[^]*?^\1$/gm, '')
    return [...prose.matchAll(/\]\(([^)\s]+)\)/g)].map(([, link]) => ({ path, link: link! }))
  }).filter(({ link }) => !/^https?:/.test(link))
  const broken = links.filter(({ path, link }) => {
    const [name, anchor] = link.split('#') as [string, string?]
    const target = name === '' ? join(unpacked, path) : join(unpacked, dirname(path), name)
    return !existsSync(target) || (anchor !== undefined && !anchorsOf(readFileSync(target, 'utf8')).includes(anchor))
  })
  t.ok(links.length > 50, `${links.length} links`)
  t.strictSame(broken.map(({ path, link }) => `${path}: ${link}`), [])
})

t.test('publint finds nothing', async (t) => {
  const { buffer, byteOffset, byteLength } = readFileSync(tarball)
  const { messages } = await publint({
    pack: { tarball: buffer.slice(byteOffset, byteOffset + byteLength) as ArrayBuffer }, strict: true
  })
  t.strictSame(messages, [])
})

t.test('its types are right for whoever imports it', async (t) => {
  const copy = join(folder, `attw-${basename(tarball)}`)
  copyFileSync(tarball, copy)
  const attw = join(root, 'node_modules/@arethetypeswrong/cli/dist/index.js')
  const { status, stdout, stderr } = await run(folder, process.execPath, attw, copy, '--profile', 'esm-only')
  t.equal(status, 0, stdout + stderr)
})

/** What package-lock.json says of a package. */
interface Locked { hasInstallScript?: boolean, resolved?: string, integrity?: string }

t.test('nothing that is installed, by users or to work on the package, runs a script then, and each has a checksum', (t) => {
  for (const [lock, known] of [['package-lock.json', 'fastify-plugin'], ['bench/package-lock.json', 'better-sse']] as const) {
    const { packages } = JSON.parse(readFileSync(join(root, lock), 'utf8')) as { packages: Record<string, Locked> }
    const installed = Object.entries(packages).filter(([path]) => path.startsWith('node_modules/'))
    t.ok(installed.some(([path]) => path === `node_modules/${known}`), `${lock}: they are found`)
    t.strictSame(installed.filter(([, { hasInstallScript }]) => hasInstallScript).map(([path]) => path), [], lock)
    // None names a place of its own: it comes from the registry that npm is told of, and has to have this checksum anyway.
    t.strictSame(installed.filter(([, { resolved, integrity = '' }]) =>
      resolved !== undefined || !integrity.startsWith('sha512-')).map(([path]) => path), [], lock)
  }
  const scripts = Object.keys((manifest as { scripts?: object }).scripts ?? {})
  t.strictSame(scripts.filter((name) => /^(pre|post)?install$|^prepare$/.test(name)), [], 'nor does the package itself')
  t.end()
})

t.test('workflows may do no more than they need, and run actions of one commit only', (t) => {
  const folder = join(root, '.github/workflows')
  for (const name of readdirSync(folder)) {
    const text = readFileSync(join(folder, name), 'utf8')
    const actions = [...text.matchAll(/uses: (.+)/g)].map(([, action]) => action!)
    t.ok(actions.length > 0, name)
    t.strictSame(actions.filter((action) => !/^[\w-]+\/[\w-]+@[0-9a-f]{40} # v\d/.test(action)), [], `${name}: pinned`)
    t.match(text, /^permissions:( \{\}|\n {2}contents: read)$/m, `${name}: nothing by default but to read`)
    t.strictSame([...text.matchAll(/^ +([\w-]+): write/gm)].map(([, scope]) => scope), name === 'release.yml' ? ['id-token'] : [])
    t.notMatch(text, /pull_request_target|\$\{\{ *(github\.event|github\.head_ref)[^}]*\}\}(?<!TAG: \$\{\{.*)/, 'no text of others in a script')
  }
  t.end()
})

/** A program that serves one event by the plugin, and prints what a client gets. */
const SERVE = `
async function serve (plugin) {
  const app = fastify()
  await app.register(plugin)
  const schema = { events: { price: Type.Object({ eur: Type.Number() }) } }
  app.get('/', { schema }, (request, reply) => reply.sse([{ event: 'price', data: { eur: 1, undeclared: 2 } }]))
  process.stdout.write(await (await fetch(await app.listen({ port: 0, host: '127.0.0.1' }))).text())
  await app.close()
}`
const SERVED = 'event: price\ndata: {"eur":1}\n\n'
const ESM = `import fastify from 'fastify'\nimport { Type } from '@sinclair/typebox'\n${SERVE}\n`
const CJS = `const fastify = require('fastify')\nconst { Type } = require('@sinclair/typebox')\n${SERVE}\n`

t.test('it works in a project that has only what the package asks for', async (t) => {
  const isOptional = (name: string) => manifest.peerDependenciesMeta[name]?.optional === true
  const peers = Object.entries(manifest.peerDependencies).filter(([name]) => !isOptional(name)).map(([name, range]) => `${name}@${range}`)
  await must(project, 'npm', ...install, tarball, ...peers)
  const installed = (name: string) => existsSync(join(project, 'node_modules', name))
  t.ok(installed('fastify-typed-sse/dist/index.js'))
  const needed = { ...manifest.dependencies, ...manifest.peerDependencies }
  t.strictSame(['typescript', 'tap', '@types/node', ...Object.keys(manifest.devDependencies)]
    .filter((name) => (!(name in needed) || isOptional(name)) && installed(name)), [], 'nothing that only its development needs')

  const dist = join(project, 'node_modules/fastify-typed-sse/dist')
  const imported = readdirSync(dist, { recursive: true, encoding: 'utf8' }).filter((name) => /\.(js|d\.ts)$/.test(name))
    .flatMap((name) => [...readFileSync(join(dist, name), 'utf8').matchAll(/^(?:import|export)(?: .* from)? '([^.'][^']*)'/gm)])
    .map((match) => /^(@[^/]+\/)?[^/]+/.exec(match[1]!)![0]).filter((name) => !name.startsWith('node:'))
  t.strictSame([...new Set(imported)].filter((name) => !(name in needed)), [], 'it imports nothing that it does not ask for')
  t.ok(imported.includes('fastify-plugin') && imported.includes('fastify'))

  const programs: [way: string, name: string, text: string][] = [
    ['import sse', 'default.mjs', `${ESM}import sse from 'fastify-typed-sse'\nawait serve(sse)`],
    ['import { fastifySse }', 'named.mjs', `${ESM}import { fastifySse } from 'fastify-typed-sse'\nawait serve(fastifySse)`],
    ['register(import())', 'dynamic.mjs', `${ESM}await serve(import('fastify-typed-sse'))`],
    ['require()', 'default.cjs', `${CJS}serve(require('fastify-typed-sse'))`],
    ['require().default', 'property.cjs', `${CJS}serve(require('fastify-typed-sse').default)`],
    ['{ fastifySse } = require()', 'named.cjs', `${CJS}const { fastifySse } = require('fastify-typed-sse')\nserve(fastifySse)`],
    ['the client, and injectSse', 'others.mjs', `${ESM}import { fetchEvents } from 'fastify-typed-sse/client'
      import { injectSse } from 'fastify-typed-sse/testing'
      import sse from 'fastify-typed-sse'
      const app = fastify()
      await app.register(sse)
      app.get('/', { sse: { finite: true } }, async (request, reply) => reply.sse([{ event: 'price', data: { eur: 1 } }]))
      const address = await app.listen({ port: 0, host: '127.0.0.1' })
      for (const events of [injectSse(app, '/'), fetchEvents(address, { headers: { connection: 'close' } })]) {
        for await (const { data } of events) if (data.eur !== 1) throw new Error(JSON.stringify(data))
      }
      await app.close()
      await serve(sse)`],
    ['all of them are one', 'same.mjs', `${ESM}import sse, { fastifySse } from 'fastify-typed-sse'
      import { createRequire } from 'node:module'
      const required = createRequire(import.meta.url)('fastify-typed-sse')
      const all = new Set([sse, fastifySse, sse.default, sse.fastifySse, required, required.default, required.fastifySse])
      if (all.size !== 1) throw new Error(String(all.size))
      await serve(required)`]
  ]
  write(Object.fromEntries(programs.map(([, name, text]) => [name, text])))
  await Promise.all(programs.map(async ([way, name]) => {
    t.strictSame(await run(project, process.execPath, name), { status: 0, stdout: SERVED, stderr: '' }, way)
  }))
})

const RIGHT = ["{ event: 'price', data: { eur: 2 } }", "{ event: 'message', raw: 'text' }", "'text'"]
const WRONG = [
  "{ event: 'price', data: { eur: '2' } }", "{ event: 'prize', data: { eur: 2 } }", '{ data: 2 }', "{ raw: 'a', data: 'a' }"
]

/** A program with routes typed by their schema, one for each event; what is marked `// wrong` must not compile. */
function typed (imports: string, end: string, events: string[]): string {
  const routes = events.map((event, index) => `  app.get('/${index}', { schema }, async (request, reply) => ` +
    `reply.sse([${event}]))${WRONG.includes(event) ? ' // wrong' : ''}`)
  return `
${imports}
import type { EventOf, SseOptions } from 'fastify-typed-sse'
const schema = { events: { price: Type.Object({ eur: Type.Number() }), message: Type.String() } }
async function * events (): AsyncGenerator<EventOf<typeof schema>> {
  yield { event: 'price', data: { eur: 1 } }
}
async function main (): Promise<void> {
  const options: SseOptions = { keepAlive: 1_000 }
  const app = fastify()
  await app.register(sse, options)
  app.get('/', { schema, sse: { retry: 1 } }, (request, reply) => {
    const id: string | undefined = request.lastEventId
    return id === undefined ? reply.sse(events()) : reply.sse([{ data: id }])
  })
${routes.join('\n')}
  process.stdout.write(await (await fetch(await app.listen({ port: 0, host: '127.0.0.1' }))).text())
  await app.close()
}
${end}
`
}

const TYPEBOX = "import { Type } from '@sinclair/typebox'\n"
const IMPORTS = `${TYPEBOX}import fastify from 'fastify'\nimport sse from 'fastify-typed-sse'`
const NAMED = `${TYPEBOX}import { fastify } from 'fastify'\nimport { fastifySse as sse } from 'fastify-typed-sse'`
const REQUIRES = `${TYPEBOX}import fastify = require('fastify')\nimport sse = require('fastify-typed-sse')`

t.test('TypeScript projects compile against it, ES modules and CommonJS, with its declarations checked', async (t) => {
  await must(project, 'npm', ...install, 'typescript@5.9', `@types/node@${manifest.devDependencies['@types/node']}`)
  const right = {
    'default-import.mts': typed(IMPORTS, 'await main()', RIGHT),
    'named-import.mts': typed(NAMED, 'await main()', RIGHT),
    'default-import.cts': typed(IMPORTS, 'main()', RIGHT),
    'named-import.cts': typed(NAMED, 'main()', RIGHT),
    'require.cts': typed(REQUIRES, 'main()', RIGHT)
  }
  const wrong: Record<string, string> = {
    'wrong.mts': typed(IMPORTS, 'await main()', [...RIGHT, ...WRONG]),
    'wrong.cts': typed(IMPORTS, 'main()', [...RIGHT, ...WRONG]),
    'wrong-require.cts': typed(REQUIRES, 'main()', [...RIGHT, ...WRONG])
  }
  write({ ...right, ...wrong })
  write({
    'tsconfig.json': JSON.stringify({
      compilerOptions: { target: 'es2023', module: 'nodenext', strict: true, skipLibCheck: false, types: ['node'] },
      files: [...Object.keys(right), ...Object.keys(wrong)]
    })
  })
  const { stdout } = await run(project, process.execPath, 'node_modules/typescript/bin/tsc', '--pretty', 'false')

  const errors = stdout.split('\n').filter((line) => /^\S/.test(line))
  t.strictSame(errors.filter((line) => !line.startsWith('wrong')), [], 'what is right compiles')
  const refused = errors.map((line) => line.replace(/^(.+)\((\d+),\d+\): error .*$/, '$1:$2'))
  for (const [name, text] of Object.entries(wrong)) {
    const lines = text.split('\n').flatMap((line, index) => line.endsWith('// wrong') ? [`${name}:${index + 1}`] : [])
    t.strictSame(refused.filter((at) => at.startsWith(`${name}:`)), lines, `${name}: what is wrong is refused, and nothing else`)
  }
  await Promise.all(Object.keys(right).map(async (name) => {
    const result = await run(project, process.execPath, name.replace('ts', 'js'))
    t.strictSame(result, { status: 0, stdout: `retry: 1\n\n${SERVED}`, stderr: '' }, `${name} runs`)
  }))
})
