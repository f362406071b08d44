/** ARCHITECTURE.md names every file in its tables of rooms, and imports point down them. */
import { readdirSync, readFileSync } from 'node:fs'
import { posix } from 'node:path'
import t from 'tap'

const root = new URL('..', import.meta.url)

/** All that the tables are about. */
const FILES = ['index.ts', ...filesIn('lib'), ...filesIn('types')]

function filesIn (folder: string): string[] {
  const names = readdirSync(new URL(folder, root), { recursive: true, encoding: 'utf8' })
  return names.filter((name) => name.endsWith('.ts') && !name.endsWith('.tst.ts')).map((name) => posix.join(folder, name))
}

function textOf (file: string): string {
  return readFileSync(new URL(file, root), 'utf8')
}

/** The files and folders (`lib/channels/`) that the rows of a table name in their first cell, row by row. */
function readTable (heading: string, folder: string): string[][] {
  const section = textOf('ARCHITECTURE.md').split(/^## /m).find((text) => text.startsWith(`${heading}\n`))!
  const rows = section.split('\n').filter((line) => line.startsWith('| `'))
  return rows.map((row) => [...row.split('|')[1]!.matchAll(/`([^`]+)`/g)].map(([, name]) => folder + name!))
}

const ROOMS = readTable('Rooms', '')
const CHANNELS = readTable('Channels', 'lib/channels/')
const REDIS = readTable('Redis', 'lib/brokers/redis/')

/** The row in which a file is, by itself or with its folder; -1: in none. */
function rowOf (file: string, table: string[][]): number {
  return table.findIndex((names) => names.some((name) => name === file || (name.endsWith('/') && file.startsWith(name))))
}

/** Which table tells the order of two files: that of a folder in which both are, else that of all. */
function tableOf (...files: string[]): string[][] {
  const isIn = (folder: string) => files.every((file) => file.startsWith(folder))
  return isIn('lib/channels/') ? CHANNELS : isIn('lib/brokers/redis/') ? REDIS : ROOMS
}

/** The files that a file imports or exports from, types too. */
function importsOf (file: string): string[] {
  const specifiers = textOf(file).matchAll(/^(?:import|export|\})(?: .*)? from '(\..+)'$|\bimport\('(\..+)'\)|^import '(\..+)'$/gm)
  return [...specifiers].map((match) => posix.join(posix.dirname(file), (match[1] ?? match[2] ?? match[3])!))
}

t.test('the tables are found, and so are the imports', async (t) => {
  t.same(ROOMS[0], ['index.ts'])
  t.ok(ROOMS.length > 20, `${ROOMS.length} rows`)
  t.ok(CHANNELS.length > 8, `${CHANNELS.length} rows of lib/channels/`)
  t.ok(REDIS.length > 5, `${REDIS.length} rows of lib/brokers/redis/`)
  t.ok(importsOf('index.ts').includes('lib/channels/hub.ts'))
  t.ok(importsOf('index.ts').includes('types/channels.ts'), 'also of types, over several lines')
  t.ok(importsOf('lib/channels/hub.ts').includes('lib/brokers/memory.ts'))
  const imported = FILES.flatMap(importsOf)
  t.same(imported.filter((file) => !FILES.includes(file)), [], 'each of them leads to a file')
})

t.test('every file is in one row of a table', async (t) => {
  for (const file of FILES) {
    t.not(rowOf(file, tableOf(file)), -1, `${file} is in a table`)
    const rows = tableOf(file).filter((row) => rowOf(file, [row]) === 0)
    t.ok(rows.length <= 1, `${file} is in one row, not in ${rows.length}`)
  }
})

t.test('every name in a table is that of a file, or of a folder with files', async (t) => {
  const names = [...ROOMS, ...CHANNELS, ...REDIS].flat()
  t.same(names.filter((name) => !FILES.some((file) => rowOf(file, [[name]]) === 0)), [])
})

t.test('imports point down the tables, never up', async (t) => {
  for (const file of FILES) {
    for (const imported of importsOf(file)) {
      const table = tableOf(file, imported)
      const [from, to] = [rowOf(file, table), rowOf(imported, table)]
      if (from > to && to !== -1) t.fail(`${file} imports ${imported}, which is ${from - to} rows above it`)
    }
  }
})
