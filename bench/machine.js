/** What the results were measured on, and with. */
import { readFileSync } from 'node:fs'
import { availableParallelism, cpus, totalmem } from 'node:os'
import { pythonVersions } from './python.js'

const read = (path) => JSON.parse(readFileSync(new URL(path, import.meta.url), 'utf8'))

export function machine () {
  const { dependencies } = read('package.json')
  return {
    date: new Date().toISOString(),
    machine: {
      cpu: cpus()[0].model,
      cores: availableParallelism(),
      memory: `${Math.round(totalmem() / 1_024 ** 3)} GiB`,
      node: process.version
    },
    versions: { 'fastify-typed-sse': read('../package.json').version, ...dependencies, ...pythonVersions() }
  }
}
