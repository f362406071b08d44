/**
 * How often the fuzz tests draw. `FUZZ=20 npx tap --disable-coverage test/fuzz-delivery.test.ts` draws twenty times as often
 * as CI does, and each time something else; `FUZZ_SEED=…`, with the seed that a failure
 * names, draws the same again, and looks for the shortest course that fails.
 */
import type { Parameters } from 'fast-check'

export const FACTOR = Number(process.env.FUZZ ?? 1)

/**
 * The parameters of fast-check for so many runs in CI.
 * @param seedOfCi what has landed must not fail for what is drawn; undefined: something else each time
 */
export function runs (count: number, seedOfCi?: number): Parameters<any> {
  const { FUZZ, FUZZ_SEED: seed } = process.env
  const numRuns = Math.ceil(count * FACTOR)
  if (seed !== undefined) return { numRuns, seed: Number(seed) }
  const isOfCi = FUZZ === undefined && seedOfCi !== undefined
  return { numRuns, endOnFailure: true, ...isOfCi && { seed: seedOfCi } }
}
